"""`gitrel run` as an operator meets it: releases that fail, kills of anything, a remote that is away, two at once."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

from apps import Host, Shop, farm, host, shop
from handmade import build_by_hand, release_by_hand

from gitrel.run.home import Home
from gitrel.run.proctree import of_home

__all__ = ["farm", "host", "shop"]  # fixtures

Hosts = Callable[..., Host]
Shops = Callable[[int], Shop]

CRASHES = "echo broken; exit 3"


def away(dev: Shop) -> Path:
    remote = Path(dev.url)
    return remote.rename(remote.with_name("away.git"))


def test_kill_minus_nine_of_anything_with_the_remote_away(shop: Shops, host: Hosts) -> None:
    dev = shop(1)
    server = host(dev.url, dev.pin)
    running = server.start()
    first = running.pid()
    running.expect("v1 is good")
    os.kill(first, signal.SIGKILL)
    second = running.pid()
    running.expect("web.1 healthy")
    assert first != second
    dev.release()
    away(dev)
    running.end(signal.SIGKILL)  # nothing of the app survives it
    for options in ((), ("--follow",)):
        with server.running(*options) as again:
            again.expect(r"not pulled: .*no such folder")
            again.expect("v1 is good")
    assert (server.current, server.status()["good"]) == ("v1", "v1")
    assert server.status()["trouble"]


def test_two_runs_and_a_pull_at_once(shop: Shops, host: Hosts) -> None:
    dev = shop(1)
    server = host(dev.url, dev.pin)
    with server.running() as running:
        pid = running.pid()
        running.expect("v1 is good")
        second = server.gitrel("run", code=12)
        assert "a supervisor runs on this home already" in second.message["what"]
        dev.release()
        pulled = server.gitrel("pull")
        assert pulled.out == "v2\n"
        assert "moves `current` when the release is healthy" in pulled.err
        assert (server.current, server.status()["newest"]) == ("v1", "v2")
        assert len(of_home(str(server.path))) == 1
        running.process.send_signal(signal.SIGHUP)  # look now
        running.expect("v2 follows v1")
        assert running.pid() != pid
        running.expect("v2 is good")
        server.await_current("v2")
        assert "supervisor running, pid" in server.gitrel("status").out
    assert "not running" in server.gitrel("status").out


def test_looking_at_the_status_never_keeps_a_run_from_starting(shop: Shops, host: Hosts) -> None:
    server = host((dev := shop(1)).url, dev.pin)
    home = Home(server.path)
    with home.lock("run"):
        assert home.locked("run")
    assert not home.locked("run")
    with home.lock("run"):
        pass


def test_a_failing_release_gives_way_to_the_last_good_one(shop: Shops, host: Hosts) -> None:
    dev = shop(1)
    server = host(dev.url, dev.pin)
    with server.running("--follow") as running:
        running.expect("v1 is good")
        dev.release(CRASHES)
        running.expect("v2 failed: web.1: exit code 3")
        running.expect("back to v1")
        running.expect("v1 is good")
        assert server.current == "v1"
        dev.desk.manifest('[run.web]\nhealth = { port = true, timeout = "1s" }\nstop_timeout = "1s"\n')
        dev.release("exec sleep 1000")  # up, but nobody listens
        running.expect("v3 failed: web.1: ")
        running.expect("v1 is good")
        status = server.gitrel("status", "--json", code=18).json
        assert (status["current"], status["newest"], list(status["failed"])) == ("v1", "v3", ["v2", "v3"])
        assert status["logs"]["v2"] == ["web.1 | broken"]
        shown = server.gitrel("status", code=18).out
        assert "FAILED     v3: web.1: " in shown
    with server.running("--follow") as running:  # what failed is not tried again by itself
        running.expect("starting v1")
        running.expect("v1 is good")
        dev.desk.manifest('[run.web]\nsettle = "100ms"\n')
        dev.release("exec sleep 1000")
        running.expect("v4 follows v1")
        running.expect("v4 is good")
        server.await_current("v4")
        assert "FAILED" not in server.gitrel("status").out
    log = running.said.decode()
    assert "starting v2" not in log
    assert "starting v3" not in log
    assert "nothing new" not in log


def test_the_very_first_release_fails(shop: Shops, host: Hosts) -> None:
    """There is nothing to go back to: it is restarted, said loudly, and a good one takes over."""
    dev = shop(0)
    dev.release(CRASHES)
    server = host(dev.url, dev.pin)
    with server.running("--follow") as running:
        running.expect("v1 is not healthy, and there is no other good release")
        running.pid()
        status = server.gitrel("status", code=18).out
        assert "UNHEALTHY  v1: web.1: exit code 3" in status
        assert "current    none" in status
        dev.release("exec sleep 1000")
        running.expect("v2 is good")
    assert server.current == "v2"
    server.fsck()


def test_a_release_that_verifies_and_cannot_run_does_not_keep_the_last_good_one_down(shop: Shops, host: Hosts) -> None:
    """Made by hand, with the right key and a Procfile that is none."""
    dev = shop(1)
    server = host(dev.url, dev.pin)
    with server.running() as running:
        running.expect("v1 is good")
    files = {"Procfile": "no colon here\n", "gitrel.toml": 'app = "shop"\n'}
    build = build_by_hand(dev.desk, files, trust=1)
    before = "refs/releases/v1"
    dev.push(release_by_hand(dev.desk, like=before, entry=2, previous=before, trust=1, build=build), "refs/releases/v2")
    with server.running("--follow") as running:
        running.expect("v2")
        running.expect("v1 is good")
    assert server.current == "v1"


def test_a_process_type_that_a_later_release_has_no_more(shop: Shops, host: Hosts) -> None:
    dev = shop(1)
    dev.desk.write("Procfile", "web: exec sleep 1000\nold: exec sleep 1000\n")
    dev.desk.manifest('[run.web]\nsettle = "200ms"\n[run.old]\nsettle = "200ms"\n')
    dev.publish("release")
    server = host(dev.url, dev.pin)
    with server.running("--follow", "-c", "web=2,old=1") as running:
        running.expect("v2 is good")
        dev.release("exec sleep 1000")
        running.expect("v3 is good")
        names = [process["name"] for process in server.status()["supervisor"]["processes"]]
        assert names == ["web.1", "web.2"]
    assert "has no old to scale" in running.said.decode()
    new = host(dev.url, dev.pin)
    assert new.gitrel("run", "-c", "nothing=1", code=2).message["what"] == "no process type 'nothing' to scale"


def test_a_changed_checkout_is_mended_before_a_process_starts_again(shop: Shops, host: Hosts) -> None:
    dev = shop(0)
    dev.desk.write("text", "as released\n")
    dev.release("cat text; exec sleep 1000")
    server = host(dev.url, dev.pin)
    with server.running() as running:
        pid = running.pid()
        running.expect(r"web\.1 \| 1")
        running.expect("v1 is good")
        text = server.checkout("v1") / "text"
        text.chmod(0o644)
        text.write_text("as somebody else would have it\n")
        os.kill(pid, signal.SIGKILL)
        running.expect("web.1 failed: cannot be started: its checkout was changed")
        running.expect(r"web\.1 \| 1")
        running.expect("web.1 healthy")
    assert "somebody else" not in running.said.decode()


def test_what_the_app_writes_into_its_checkout_stays_until_the_next_start(shop: Shops, host: Hosts) -> None:
    dev = shop(0)
    dev.release("echo up; exec sleep 1000")
    server = host(dev.url, dev.pin)
    with server.running("--follow") as running:
        running.expect("v1 is good")
        folder = server.checkout("v1")
        (folder / "written").write_text("by the app\n")
        polled(server)
        polled(server)
        assert (folder / "written").exists()
    with server.running() as running:
        running.expect("v1 is good")
        assert not (folder / "written").exists()


def test_the_log_of_an_outage_is_two_lines(shop: Shops, host: Hosts) -> None:
    """Not one more for every look at a remote that is still away."""
    dev = shop(1)
    server = host(dev.url, dev.pin)
    with server.running("--follow") as running:
        running.expect("v1 is good")
        gone = away(dev)
        running.expect(r"pull \| gitrel: no such folder")
        polled(server)  # a further look
        gone.rename(dev.url)
        server.gitrel("poke")  # or the next look would be long after
        running.expect("the remote answers as it should again")
    assert running.said.decode().count("no such folder") == 1


def polled(server: Host) -> None:
    """Until one more poll has come and gone: it holds the lock while it asks."""
    home = Home(server.path)
    for held in (True, False):
        while home.locked("pull") is not held:
            time.sleep(0.005)
