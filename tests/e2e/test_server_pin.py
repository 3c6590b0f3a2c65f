"""`gitrel scale`, `pin`, `unpin`, `poke`: durable on this server, told to the supervisor, and to nobody else."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from apps import Host, Shop, farm, host, shop

__all__ = ["farm", "host", "shop"]  # fixtures

Hosts = Callable[..., Host]
Shops = Callable[[int], Shop]

PROCFILE = "web: cat text; exec sleep 1000\nworker: exec sleep 1000\n"


@pytest.fixture
def two(shop: Shops, host: Hosts) -> tuple[Shop, Host]:
    """A server with v1 and v2, both of them here."""
    dev = shop(1)
    server = host(dev.url, dev.pin)
    dev.desk.write("Procfile", PROCFILE)
    dev.release()
    server.gitrel("pull")
    dev.release()
    server.gitrel("pull")
    return dev, server


def test_scale_is_remembered_and_shown(two: tuple[Shop, Host]) -> None:
    _, server = two
    assert server.gitrel("scale").out == "web=1\nworker=1\n"
    assert server.gitrel("scale", "web=3", "worker=0").out == (
        "web=3  (the build says 1)\nworker=0  (the build says 1)\n"
    )
    shown = server.gitrel("scale", "worker=2", "--json").json
    assert shown == {"scales": {"web": 3, "worker": 2}, "build": {"web": 1, "worker": 1}, "here": shown["scales"]}
    assert "scaled     web=3 worker=2 on this server" in server.gitrel("status").out
    assert server.status()["scales"] == {"web": 3, "worker": 2}
    before = server.snapshot()
    for words, code in (
        (("frontend=1",), 2),
        (("web",), 2),
        (("web=-1",), 2),
        (("web=1001",), 2),
        (("web=1", "--reset"), 2),
        (("release=1",), 2),
    ):
        server.gitrel("scale", *words, code=code)
    assert server.snapshot() == before
    assert server.gitrel("scale", "--reset").out == "web=1\nworker=1\n"
    assert server.status()["scales"] == {}


def test_a_supervisor_is_told_of_scale_and_pin(two: tuple[Shop, Host]) -> None:
    _, server = two
    with server.running() as app:
        app.expect("v3 is good")
        assert "was told" in server.gitrel("scale", "web=2").err
        app.expect(r"web\.2 started")
        assert "was told" in server.gitrel("pin", "v2").err
        app.expect("v2 is good")
        server.await_current("v2")
        status = server.status()
        assert (status["pinned"], status["healthy"]) == ("v2", True)
        assert "was told" in server.gitrel("unpin").err
        app.expect("v3 is good")
        server.await_current("v3")


def test_a_pin_outlives_pulls_and_restarts(two: tuple[Shop, Host]) -> None:
    dev, server = two
    assert "PINNED to v2" in server.gitrel("pin", "v2").out
    assert server.current == "v2"
    dev.release()
    pulled = server.gitrel("pull")
    assert (pulled.out, "pinned to v2" in pulled.err) == ("v4\n", True)
    assert server.current == "v2"
    with server.running() as app:
        app.expect("v2 is good")
    shown = server.gitrel("status").out
    assert "PINNED     to v2 on this server" in shown
    assert "newest     v4" in shown
    server.gitrel("unpin")
    assert server.current == "v4"
    assert "it was not pinned" in server.gitrel("unpin").err


def test_a_pin_fetches_what_is_not_here(two: tuple[Shop, Host]) -> None:
    """Pruned before; without the remote that is an error, and nothing changes."""
    dev, server = two
    server.gitrel("prune", "--keep", "1")
    before = server.snapshot()
    remote = Path(dev.url)
    remote.rename(remote.with_name("away"))
    server.gitrel("pin", "v2", code=13)
    assert server.snapshot() == before
    remote.with_name("away").rename(remote)
    server.gitrel("pin", "v2")
    assert (server.current, (server.path / "current/text").read_text()) == ("v2", "2\n")
    dev.release()
    server.gitrel("pin", "v4")  # newer than what is here: pulled
    assert server.current == "v4"
    server.fsck()


def test_pins_that_are_refused(two: tuple[Shop, Host]) -> None:
    dev, server = two
    server.gitrel("pin", "three", code=2)
    nothing = server.gitrel("pin", "v9", code=11)
    assert nothing.message["what"] == "there is no v9"
    early = server.gitrel("pin", "v1", code=11)
    assert "gitrel rollback v1" in early.message["next"]
    dev.desk.gitrel("trust", "repudiate", "v2", "--yes")
    server.gitrel("pull")
    refused = server.gitrel("pin", "v2", code=10)
    assert "repudiated" in refused.message["what"]
    assert server.status()["pinned"] is None
    assert server.current == "v3"


def test_poke_asks_for_the_next_release_now(two: tuple[Shop, Host]) -> None:
    dev, server = two
    assert server.gitrel("poke", code=11).message["what"] == "no supervisor runs on this home"
    with server.running("--follow", "--interval", "3600") as app:
        app.expect("v3 is good")
        dev.release()
        server.gitrel("poke")
        app.expect("v4 is good")


@pytest.fixture
def stranger() -> Iterator[subprocess.Popen[bytes]]:
    """A process that any of the signals would end."""
    process = subprocess.Popen(["sleep", "1000"])
    yield process
    process.kill()
    process.wait()


def test_a_stranger_is_never_signalled(two: tuple[Shop, Host], stranger: subprocess.Popen[bytes]) -> None:
    """The status file of an earlier run names a pid that is somebody else's now; or a forged one does."""
    _, server = two
    file = server.path / "run/status.json"
    ticks = int(Path(f"/proc/{stranger.pid}/stat").read_text().split()[21])
    app = server.start()
    try:
        app.expect("v3 is good")
        server.await_current("v3")
        app.process.send_signal(signal.SIGSTOP)  # it holds its lock, and does not write the file anew
        real = json.loads(file.read_text())
        assert (app.process.pid, type(real["ticks"])) == (real["supervisor"], int)
        for lie in (
            {"supervisor": stranger.pid},
            {"supervisor": stranger.pid, "ticks": ticks},
            {"supervisor": 1},
            {"supervisor": -1},
            {"supervisor": "1"},
            {"supervisor": app.process.pid, "ticks": real["ticks"] + 1},
        ):
            file.write_text(json.dumps({**real, **lie}))
            server.gitrel("poke", code=11)
    finally:
        app.process.kill()
        app.process.communicate()
        server.await_unlocked()
    file.write_text(json.dumps({**real, "supervisor": stranger.pid, "ticks": ticks}))
    server.gitrel("poke", code=11)
    assert stranger.poll() is None
