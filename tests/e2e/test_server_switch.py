"""Releases that follow one another on a server: without a refused connection, with a release phase, as another user."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from apps import HEALTH, PATIENCE, PIP, PYTHON, Host, Running, Shop, farm, flask_app, host, shop
from conftest import program
from room import Desk, Room, room

__all__ = ["farm", "host", "room", "shop"]  # fixtures

Hosts = Callable[..., Host]
Shops = Callable[[int], Shop]
RELEASES = 10

_NODE = """\
const server = require("http").createServer((request, response) => {
  response.setHeader("Connection", "close")
  response.end(`${process.env.GITREL_RELEASE}: node`)
})
server.listen({ fd: 3 })
process.on("SIGTERM", () => server.close())
"""


_ASGI = """\
import os

async def app(scope, receive, send):
    if scope["type"] == "http":
        body = f"{os.environ['GITREL_RELEASE']}: uvicorn".encode()
        headers = [(b"content-length", b"%d" % len(body)), (b"connection", b"close")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})
"""


def gunicorn_app(desk: Desk, port: int) -> None:
    flask_app(desk, "hello")
    desk.write("Procfile", f"web: exec {PYTHON} -m gunicorn --workers 2 app:app\n")
    command = f"{PYTHON} -m pip install -q -r requirements.txt --target vendor"
    desk.manifest(
        f'[build]\ncommand = "{command}"\npass_env = {json.dumps(sorted(set(PIP)))}\n'
        f'[run.web]\n{HEALTH}listen = "127.0.0.1:{port}"\n[run.web.env]\nPYTHONPATH = "vendor"\n'
    )


def uvicorn_app(desk: Desk, port: int) -> None:
    desk.write("app.py", _ASGI)
    desk.write("Procfile", f"web: exec {PYTHON} -m uvicorn --fd 3 --log-level warning app:app\n")
    command = f"{PYTHON} -m pip install -q uvicorn --target vendor"
    desk.manifest(
        f'[build]\ncommand = "{command}"\npass_env = {json.dumps(sorted(set(PIP)))}\n'
        f'[run.web]\n{HEALTH}listen = "127.0.0.1:{port}"\n[run.web.env]\nPYTHONPATH = "vendor"\n'
    )


def node_app(desk: Desk, port: int) -> None:
    desk.write("app.js", _NODE)
    desk.write("Procfile", "web: exec node app.js\n")
    desk.manifest(f'[run.web]\n{HEALTH}listen = "127.0.0.1:{port}"\n')


def under_load(desk: Desk, server: Host, running: Running, releases: int) -> str:
    """ApacheBench asks all the time that nobody else needs while so many releases follow one another; its report."""
    argv = [
        "nice",
        program("ab"),
        "-q",
        "-r",
        "-l",
        "-c",
        "4",
        "-t",
        "600",
        "-n",
        "10000000",
        f"http://127.0.0.1:{server.port}/",
    ]
    load = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        for number in range(2, releases + 2):
            desk.gitrel("config", "set", f"NUMBER={number}", "--release")
            running.expect(f"v{number} is good")
            assert running.get().startswith(f"v{number}: ")
        assert load.poll() is None
    finally:
        load.send_signal(signal.SIGINT)
        report, _ = load.communicate(timeout=PATIENCE)
    return report


def number_in(report: str, name: str) -> int:
    found = re.search(rf"^{name}:\s+(\d+)", report, re.M)
    return int(found[1]) if found else 0


def check_load(report: str) -> None:
    """A connection that was refused or cut, or an answer that is none, counts as failed with ab; so may one that
    was under way when it was stopped."""
    assert number_in(report, "Complete requests") > 200, report
    assert number_in(report, "Failed requests") == 0, report
    assert number_in(report, "Non-2xx responses") == 0, report


def test_ten_releases_of_gunicorn_under_load(room: Room, host: Hosts, tmp_path: Path) -> None:
    desk = room.desk()
    desk = replace(desk, env={**desk.env, "PIP_CACHE_DIR": str(tmp_path / "pip")})
    server = host()
    gunicorn_app(desk, server.port)
    pin = desk.gitrel("init", "--json").json["pin"]
    desk.gitrel("release")
    server.join(str(desk.remote), pin)
    with server.running("--follow") as running:
        running.expect("v1 is good")
        check_load(under_load(desk, server, running, RELEASES))


@pytest.mark.parametrize("app", [node_app, uvicorn_app])
def test_others_take_the_socket_too(app: Callable[[Desk, int], None], room: Room, host: Hosts, tmp_path: Path) -> None:
    if app is node_app:
        program("node")
    desk, server = room.desk(), host()
    desk = replace(desk, env={**desk.env, "PIP_CACHE_DIR": str(tmp_path / "pip")})
    app(desk, server.port)
    pin = desk.gitrel("init", "--json").json["pin"]
    desk.gitrel("release")
    server.join(str(desk.remote), pin)
    with server.running("--follow") as running:
        running.expect("v1 is good")
        report = under_load(desk, server, running, 2)
        if app is node_app:
            check_load(report)
        else:  # on TERM uvicorn cuts what it has accepted and not read yet; but none is refused
            assert number_in(report, "Complete requests") > 200, report
            assert "(Connect: 0," in report or number_in(report, "Failed requests") == 0, report


def test_a_release_phase_runs_once_a_release_and_home(shop: Shops, host: Hosts) -> None:
    dev = shop(1)
    dev.desk.write("Procfile", "web: exec sleep 1000\nrelease: echo migrate $GITREL_RELEASE $LEVEL; exit $FAILS\n")
    dev.desk.commit("a release phase")
    dev.desk.gitrel("config", "set", "LEVEL=first", "FAILS=0")
    dev.publish("release")
    server, replica = host(dev.url, dev.pin), host(dev.url, dev.pin)
    running = server.start("--follow")
    running.expect(r"release\.1 \| migrate v2 first")
    running.expect("v2 is good")
    server.await_current("v2")
    assert running.end(signal.SIGKILL) == -signal.SIGKILL
    with server.running("--follow") as running:
        running.expect("starting v2: web.1")
        running.expect("v2 is good")
        dev.desk.gitrel("config", "set", "LEVEL=second", "FAILS=3", "--release")
        running.expect(r"release\.1 \| migrate v3 second")
        running.expect(r"v3 failed: release\.1: exit code 3")
        assert server.current == "v2"
        assert "release.1 | migrate v3 second" in server.gitrel("status", code=18).out
        dev.publish("rollback", "v2")
        running.expect(r"release\.1 \| migrate v4 first")
        running.expect("v4 is good")
    assert running.said.count(b"migrate v2") == 0
    with replica.running("--no-release-phase") as running:
        running.expect("v4 is good")
    assert b"migrate" not in running.said


def test_a_release_phase_that_fails_and_nothing_else_to_run(shop: Shops, host: Hosts) -> None:
    dev = shop(0)
    dev.desk.write("Procfile", "web: exec sleep 1000\nrelease: exit 3\n")
    dev.desk.commit("a release phase")
    dev.publish("release")
    server = host(dev.url, dev.pin)
    said = server.gitrel("run", code=18).err
    assert "no release runs" in said
    assert "v1: release.1: exit code 3" in said


def test_another_user(shop: Shops, host: Hosts, tmp_path: Path) -> None:
    """`user` in the signed manifest; root may, and nobody else is asked to."""
    assert os.geteuid() == 0, "as on a server: changing users needs root"
    dev = shop(0)
    dev.desk.manifest('[run.web]\nsettle = "100ms"\nuser = "nobody"\n')
    dev.release('id -un; echo "$HOME $USER"; touch "$HOME/mine" && ls -ln "$HOME"; exec sleep 1000')
    for folder in [tmp_path, *tmp_path.parents]:
        if folder.stat().st_mode & 0o7777 == 0o700:  # pytest's own
            folder.chmod(0o755)
    server = host(dev.url, dev.pin)
    with server.running() as running:
        running.expect(r"web\.1 \| nobody")
        running.expect(rf"web\.1 \| {server.path}/run/homes/nobody nobody")
        running.expect(r"mine")
        running.expect("v1 is good")
    assert (server.path / "run/homes/nobody/mine").is_file()
    said = server.gitrel("exec", "--", "id", "-un").out
    assert said == "nobody\n"
    dev.desk.manifest('[run.web]\nuser = "no-such-user"\n')
    dev.release("exec sleep 1000")
    done = server.gitrel("pull", code=16)
    assert "web runs as no-such-user, and this server has no such user" in done.err
    assert server.current == "v1"


def test_exec_of_a_command_and_with_a_socket(shop: Shops, host: Hosts) -> None:
    dev, server = shop(0), host()
    dev.desk.manifest(f'[run.web]\nlisten = "127.0.0.1:{server.port}"\n[run.web.env]\nWHO = "web"\n')
    dev.desk.write("app.py", _ONCE)
    dev.release(f"{PYTHON} app.py")
    server.join(dev.url, dev.pin)
    server.gitrel("pull")
    done = server.gitrel("exec", "--", "sh", "-c", 'echo "$WHO $GITREL_RELEASE $0 $1"; pwd', "a", "-b")
    assert done.out == f"web v1 a -b\n{server.checkout('v1')}\n"
    assert "no such file" in server.gitrel("exec", "--", "no-such-program", code=14).err.lower()
    server.gitrel("exec", code=2)
    env = {**server.env, "GITREL_HOME": str(server.path)}
    with subprocess.Popen(server.argv("exec", "web"), env=env, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "listening\n"
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=PATIENCE)
        connection.request("GET", "/")
        assert connection.getresponse().read() == b"once"
        connection.close()
        assert process.wait(PATIENCE) == 0


_ONCE = """\
import os, socket
assert os.environ["LISTEN_PID"] == str(os.getpid()) and os.environ["LISTEN_FDS"] == "1"
print("listening", flush=True)
connection, _ = socket.socket(fileno=3).accept()
connection.recv(4096)
connection.sendall(b"HTTP/1.0 200 OK\\r\\n\\r\\nonce")
connection.shutdown(socket.SHUT_RDWR)
"""


def test_writable_folders(shop: Shops, host: Hosts) -> None:
    """What the app writes stays with the home: from one release to the next, and out of the checkout."""
    dev = shop(0)
    dev.desk.write("tmp/keep", "")
    dev.desk.manifest('[run]\nwritable = ["tmp", "var/log"]\n[run.web]\nsettle = "100ms"\n')
    note = dev.desk.gitrel("build").err
    assert "tmp/ is writable on the server: what the build has in it is left out" in note
    line = "echo $GITREL_RELEASE >> tmp/seen; ls tmp/ var/log/; touch var/log/x; cat tmp/seen; echo end; exec sleep 100"
    dev.release(line)
    server = host(dev.url, dev.pin)
    with server.running("--follow") as running:
        running.expect("end")
        running.expect("v1 is good")
        dev.publish("rollback", "v1")
        running.expect(r"seen\n.*\| \n.*var/log/:\n.*\| x\n.*\| v1\n.*\| v2\n.*end")
    assert (server.path / "shared/tmp/seen").read_text() == "v1\nv2\n"
    server.gitrel("pull")
    assert server.checkout("v1") == server.checkout("v2")
    server.fsck()


def test_a_link_to_a_writable_folder_is_exactly_that(shop: Shops, host: Hosts) -> None:
    dev = shop(0)
    dev.desk.manifest('[run]\nwritable = ["tmp"]\n')
    (dev.desk.path / "out").symlink_to("tmp/../../../state.json")
    dev.desk.commit("a link through it")
    said = dev.desk.gitrel("release", code=15).err
    assert "the link out leads out of the build" in said
