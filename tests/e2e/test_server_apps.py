"""Real apps from a commit to an answer over HTTP, over real servers of git."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from apps import Host, Running, Shop, farm, flask_app, host, node_app, plain_app, shop, without_git
from room import Desk, Room, room
from servers import PASSWORD, Servers, servers

__all__ = ["farm", "host", "room", "servers", "shop", "without_git"]  # fixtures


def developer(room: Room, servers: Servers, transport: str, name: str) -> tuple[Desk, str]:
    """A desk whose remote is a real server's; the URL."""
    url = servers.url(transport, name)
    desk = room.desk(remote=False)
    desk = replace(desk, remote=servers.create(name), env=servers.env(desk.env))
    desk.git("remote", "add", "origin", url)
    return desk, url


def story(desk: Desk, app: Callable[[Desk, str], str], running: Running) -> int:
    """v1 answers; v2 takes over; v3 is v1's build again, and its pid is returned."""
    running.expect("v1 is good")
    assert running.get() == "v1: one"
    app(desk, "two")
    assert desk.gitrel("release", "--json").json["release"] == "v2"
    running.pid()
    running.expect("v2 is good")
    assert running.get() == "v2: two"
    assert desk.gitrel("rollback", "--json").json["release"] == "v3"
    pid = running.pid()
    running.expect("v3 is good")
    assert running.get() == "v3: one"
    return pid


def program_of(pid: int) -> int:
    """The program of a Procfile line: some shells become the last command, some stay above it."""
    while Path(f"/proc/{pid}/comm").read_text() == "sh\n":
        pid = int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])
    return pid


def test_flask_and_gunicorn_over_ssh(room: Room, servers: Servers, host: Callable[..., Host], tmp_path: Path) -> None:
    desk, url = developer(room, servers, "ssh", "flask")
    desk = replace(desk, env={**desk.env, "PIP_CACHE_DIR": str(tmp_path / "pip")})
    flask_app(desk, "one")
    pin = desk.gitrel("init", "--json").json["pin"]
    desk.gitrel("release")
    assert "vendor/flask/app.py" in desk.git("ls-tree", "-r", "--name-only", "refs/releases/v1:build").split()
    server = host(url, pin, env=servers.env({}))
    with server.running("--follow") as running:
        master = program_of(story(desk, flask_app, running))
        # a worker, then the master: gunicorn replaces the one, the supervisor the other
        worker = int(Path(f"/proc/{master}/task/{master}/children").read_text().split()[0])
        os.kill(worker, signal.SIGKILL)
        running.expect(rf"Worker \(pid:{worker}\) was sent SIGKILL")
        os.kill(master, signal.SIGKILL)
        running.expect("web.1 healthy")
        assert running.get() == "v3: one"
    assert server.current == "v3"
    server.fsck()


def test_node_over_http_with_a_password(room: Room, servers: Servers, host: Callable[..., Host]) -> None:
    desk, url = developer(room, servers, "http", "node")
    node_app(desk, "one")
    pin = desk.gitrel("init", "--json").json["pin"]
    desk.gitrel("release")
    server = host(url, pin, env=servers.env({}))
    with server.running("--follow") as running:
        story(desk, node_app, running)
        shown = server.gitrel("status").out + server.gitrel("status", "--json").out
    assert "/node.git" in shown
    # nobody is told the password: not in what is printed, not in the log, not in what a failure leaves behind
    wrong = host()
    secret = PASSWORD.split("/", maxsplit=1)[0]
    failed = wrong.gitrel("join", url.replace("node.git", "none.git"), str(wrong.path), "--trust", pin, code=13)
    (servers.root / "node.git").rename(servers.root / "gone.git")
    gone = server.gitrel("pull", code=13)
    told = shown + failed.out + failed.err + gone.out + gone.err + server.gitrel("status").out
    told += running.said.decode()
    assert secret not in told
    assert "none.git" in failed.err
    trouble = json.loads((server.path / "state.json").read_text())["trouble"]
    assert "node.git" in trouble
    assert secret not in trouble
    assert (server.path / "state.json").stat().st_mode & 0o777 == 0o600  # the one place that has to know it


def test_a_server_without_git(
    room: Room, servers: Servers, host: Callable[..., Host], without_git: str, shop: Callable[[int], Shop]
) -> None:
    """The release is taken from a real web server and from a folder, with no git on the PATH."""
    desk, url = developer(room, servers, "http", "plain")
    plain_app(desk, "echo up; exec sleep 1000")
    pin = desk.gitrel("init", "--json").json["pin"]
    desk.gitrel("release")
    web = host(url, pin, env={**servers.env({}), "PATH": without_git})
    assert web.gitrel("pull").out == "v1\n"
    with web.running() as running:
        running.expect(r"web.1 \| up")
        running.expect("v1 is good")
    local = shop(2)
    folder = host(local.url, local.pin, env={"PATH": without_git})
    assert folder.gitrel("pull").out == "v2\n"
    with folder.running() as running:
        running.expect("v2 is good")
