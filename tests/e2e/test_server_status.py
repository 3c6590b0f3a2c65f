"""`gitrel status`: everything that somebody who is woken up wants to know, and an exit code for whoever watches."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

from apps import Host, Shop, farm, host, shop
from room import Done, run
from schemas import faults

__all__ = ["farm", "host", "shop"]  # fixtures

Hosts = Callable[..., Host]
Shops = Callable[[int], Shop]

NOBODY = 65534
UNHEALTHY = 18


def shown(server: Host, code: int = 0) -> dict[str, str]:
    """The rows, by label."""
    lines = server.gitrel("status", code=code).out.splitlines()
    return {line[:10].strip(): line[11:] for line in lines if line[:10].strip()}


def test_what_runs_and_who_signed_it(shop: Shops, host: Hosts) -> None:
    dev = shop(1)
    server = host(dev.url, dev.pin)
    rows = shown(server)
    assert (rows["current"], rows["contact"], rows["supervisor"]) == ("none", "never", "not running")
    server.gitrel("pull")
    with server.running() as app:
        app.expect("v1 is good")
        server.await_current("v1")
        rows = shown(server)
        key = run(["ssh-keygen", "-lf", str(dev.desk.home / ".ssh/id_ed25519.pub")], server.path, dev.desk.env).out
        assert key.split()[1] in rows["signed by"]
        assert f"pid {app.process.pid}: v1 for " in rows["supervisor"]
        assert " KB" in rows["web.1"] or " MB" in rows["web.1"]
        status = server.status()
        assert (status["healthy"], status["problem"]) == (True, None)
        assert status["signers"][0]["key"] in rows["signed by"]
        assert status["supervisor"]["processes"][0]["resident_bytes"] > 100_000
    assert shown(server)["supervisor"] == "not running"


def test_a_release_that_fails_here(shop: Shops, host: Hosts) -> None:
    """Its number, why, the last that it said, and 18 until something good comes."""
    dev = shop(1)
    server = host(dev.url, dev.pin)
    server.gitrel("pull")
    with server.running("--follow") as app:
        app.expect("v1 is good")
        dev.release("echo no such table; exit 3")
        app.expect("v2 failed")
        app.expect("back to v1|v1 is good")
        server.await_current("v1")
        while "v2" not in server.state()["failed"]:
            pass
        rows = shown(server, UNHEALTHY)
        assert "v2: web.1" in rows["FAILED"]
        failed = server.gitrel("status", "--json", code=UNHEALTHY)
        assert "not healthy: v2 failed here" in failed.err
        document = json.loads(failed.out)
        assert faults("status.json", [document]) == []
        assert (document["healthy"], list(document["failed"])) == (False, ["v2"])
        assert any("no such table" in line for line in document["logs"]["v2"])
        assert "| web.1 | no such table" in server.gitrel("status", code=UNHEALTHY).out
        dev.release("echo up; exec sleep 1000")
        app.expect("v3 is good")
        server.await_current("v3")
        assert "FAILED" not in shown(server)


def test_what_should_run_is_not_up(shop: Shops, host: Hosts) -> None:
    dev = shop(1)
    dev.release("exit 7")
    server = host(dev.url, dev.pin)
    with server.running() as app:
        app.expect("v2 is not healthy")
        found = server.gitrel("status", "--json", code=UNHEALTHY)
        assert "web.1" in found.json["problem"]
        assert found.json["supervisor"]["trouble"]
        assert faults("status.json", [found.json]) == []


def test_a_clock_that_was_set_back(shop: Shops, host: Hosts) -> None:
    """The last contact is in the future: said, and the next look is a full one."""
    dev = shop(1)
    server = host(dev.url, dev.pin)
    server.gitrel("pull")
    ahead = {**json.loads((server.path / "state.json").read_text()), "contact": 4e9}
    (server.path / "state.json").write_text(json.dumps(ahead))
    os.utime(server.path / "run/pull.lock", (4e9, 4e9))
    assert "ahead of this server's clock" in shown(server)["contact"]
    dev.release()
    assert server.gitrel("pull").out == "v2\n"
    assert re.fullmatch(r"\d+ s ago", shown(server)["contact"])


def as_nobody(server: Host, *args: str) -> Done:
    env = {**server.env, "GITREL_HOME": str(server.path), "HOME": "/"}
    argv = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", *server.argv(*args)]
    return run(argv, Path("/"), env)


def opened(path: Path) -> None:
    """Let others through to a path below pytest's own folders."""
    for folder in path.parents:
        if folder.stat().st_uid == os.geteuid() and folder.is_relative_to("/tmp") and folder != Path("/tmp"):
            folder.chmod(folder.stat().st_mode | 0o711)


def test_another_user(shop: Shops, host: Hosts) -> None:
    """Who may not read the home is told so; who may read all of it sees all of it, and changes nothing."""
    dev = shop(2)
    server = host(dev.url, dev.pin)
    server.gitrel("pull")
    opened(server.path)
    for args in (("status",), ("scale",), ("pin", "v1"), ("prune",), ("pull",)):
        done = as_nobody(server, *args)
        assert done.code == 14, (args, done.err)
        assert "as the user whose home this is" in done.err or "check the owner" in done.err, done.err
    server.path.chmod(0o700)
    done = as_nobody(server, "status")
    assert done.code in (2, 14), "who may not even enter the folder"
    assert "not readable" in done.err or "as the user whose home this is" in done.err
    server.path.chmod(0o755)
    for folder, _, files in os.walk(server.path):
        Path(folder).chmod(Path(folder).stat().st_mode | 0o555)
        for name in files:
            path = Path(folder) / name
            path.chmod(path.stat().st_mode | 0o444)
    before = server.snapshot()
    done = as_nobody(server, "status")
    assert (done.code, "signed by" in done.out) == (0, True), done.err
    for args in (("scale", "web=2"), ("pin", "v2"), ("unpin",), ("prune",), ("pull",)):
        done = as_nobody(server, *args)
        assert done.code == 14, (args, done.err)
        assert "a bug" not in done.err
    assert server.snapshot() == before


def test_a_read_only_home(shop: Shops, host: Hosts, tmp_path: Path) -> None:
    """As a container may have it: what only reads works, what writes says why it cannot."""
    dev = shop(1)
    dev.release("cat text")
    server = host(dev.url, dev.pin)
    server.gitrel("pull")
    server.gitrel("exec", "web")  # makes the processes' HOME
    script = """
mount --bind "$GITREL_HOME" "$GITREL_HOME" && mount -o remount,ro,bind "$GITREL_HOME" || exit 99
for words in "status" "status --json" "exec web" "scale" "pull" "prune" "pin v2" "scale web=2"; do
  "$@" $words >/dev/null 2>>said; echo "$words: $?"
done
"""
    done = subprocess.run(
        ["unshare", "--mount", "--map-root-user", "sh", "-c", script, "sh", *server.argv()],
        env={**server.env, "GITREL_HOME": str(server.path)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    expected = "status: 0|status --json: 0|exec web: 0|scale: 0|pull: 14|prune: 14|pin v2: 14|scale web=2: 14|"
    assert done.stdout.replace("\n", "|") == expected, (tmp_path / "said").read_text()
    assert "the filesystem is read-only" in (tmp_path / "said").read_text()
    assert "Traceback" not in (tmp_path / "said").read_text()
    shutil.rmtree(server.path / "run")  # as after a copy without it
    (server.path / "run").mkdir()
    assert server.gitrel("status").out
