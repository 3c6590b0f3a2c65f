"""From one release to the next: sockets that are handed over, readiness, release phases, users, service managers."""

from __future__ import annotations

import http.client
import os
import pwd
import re
import signal
import socket
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from supervised import PATIENCE, SLEEP, Server, await_end, server, web

__all__ = ["server"]  # a fixture

# Answers with its version; if `sick`, not to the health check. It serves to the end what it has accepted.
APP = """
import http.server, os, signal, socket, sys, threading
assert os.environ["LISTEN_PID"] == str(os.getpid()) and os.environ["LISTEN_FDS"] == "1"
version, *traits = sys.argv[1:]

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(503 if "sick" in traits and self.path == "/healthz" else 200)
        self.end_headers()
        self.wfile.write(version.encode())

    def log_message(self, *args):
        pass

class App(http.server.ThreadingHTTPServer):
    daemon_threads = False

app = App(("", 0), Handler, bind_and_activate=False)
app.socket = socket.socket(fileno=3)
app.socket.setblocking(False)  # who else has it may be quicker to accept, and then nobody hears a signal
signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=app.shutdown).start())
if "dies" in traits:
    sys.exit(5)
app.serve_forever(0.05)
app.server_close()
"""


@pytest.fixture
def port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


def app(server: Server, port: int, *words: str, **more: object) -> dict[str, object]:
    (server.folder / "app.py").write_text(APP)
    health = {"path": "/healthz", "timeout": more.pop("timeout", 20)}
    return web(f"exec {sys.executable} app.py {' '.join(words)}", listen=port, health=health, **more)


def get(port: int, path: str = "/") -> str:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return f"{answer.status} {answer.read().decode()}"
    finally:
        connection.close()


@contextmanager
def load(port: int, clients: int = 4) -> Iterator[Counter[str]]:
    """Requests, each on a connection of its own, for as long as the block takes; what came back, or the error."""
    seen: Counter[str] = Counter()
    done = threading.Event()

    def ask() -> None:
        while not done.is_set():
            try:
                seen[get(port)] += 1
            except OSError as error:
                seen[repr(error)] += 1

    threads = [threading.Thread(target=ask) for _ in range(clients)]
    for thread in threads:
        thread.start()
    try:
        yield seen
    finally:
        done.set()
        for thread in threads:
            thread.join()


def test_no_connection_is_refused_while_releases_change(server: Server, port: int) -> None:
    server.want("v1", app(server, port, "v1"), web(SLEEP, type="worker"))
    server.start()
    server.expect("v1 is good")
    with load(port) as seen:
        for number in range(2, 7):
            server.want(f"v{number}", app(server, port, f"v{number}"), web(SLEEP, type="worker"))
            server.signal(signal.SIGHUP)
            server.expect(f"v{number} is good")
            assert get(port) == f"200 v{number}"
    assert set(seen) == {f"200 v{number}" for number in range(1, 7)}
    said = server.stop()
    assert re.search(r"web\.1@v2 healthy.*worker\.1 exited.*starting v2: worker\.1", said, re.S)


def test_an_answer_of_the_old_release_says_nothing_about_the_new(server: Server, port: int) -> None:
    """They share the socket, and the old one is healthy."""
    server.want("v1", app(server, port, "v1"))
    server.start()
    server.expect("v1 is good")
    with load(port) as seen:
        server.want("v2", app(server, port, "v2", "sick", timeout=1))
        server.signal(signal.SIGHUP)
        server.expect("v2 failed: web.1: not healthy within 1 s")
        server.expect("web.1@v2 exited")
        server.want("v3", app(server, port, "v3", "dies"))
        server.signal(signal.SIGHUP)
        server.expect("v3 failed: web.1: exit code 5")
    assert {answer.split()[0] for answer in seen} == {"200"}  # v2 did serve, as what accepts is asked by all
    server.settle("v1")
    (process,) = server.status()["processes"]
    assert (process["name"], process["restarts"]) == ("web.1", 0)
    server.stop()


def test_the_way_back_refuses_nothing_either(server: Server, port: int) -> None:
    server.want("v1", app(server, port, "v1"), web(SLEEP, type="worker"))
    server.start()
    server.expect("v1 is good")
    with load(port) as seen:
        server.want("v2", app(server, port, "v2"), web("exit 4", type="worker"))
        server.signal(signal.SIGHUP)
        server.expect(r"v2 failed: worker.1: exit code 4")
        server.expect("v1 is good")
    assert set(seen) == {"200 v1", "200 v2"}
    server.stop()


def test_each_instance_at_one_socket_is_asked_itself(server: Server, port: int) -> None:
    server.want("v1", app(server, port, "a"), app(server, port, "b", "sick", index=2, timeout=1))
    server.start()
    server.expect(r"web\.1 healthy")
    server.expect(r"web\.2 failed: not healthy within 1 s")
    server.stop()


def test_a_port_that_somebody_else_has(server: Server) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        server.want("v1", app(server, port, "v1"))
        server.start()
        server.expect(rf"web.1 failed: cannot be started: 127.0.0.1:{port}: Address already in use")
    server.expect("v1 is good")
    assert get(port) == "200 v1"
    server.stop()


def test_a_socket_of_the_service_manager_is_used_and_outlives_the_supervisor(server: Server) -> None:
    with socket.create_server(("127.0.0.1", 0)) as given:
        port = given.getsockname()[1]
        shim = f"import os,sys; os.dup2({given.fileno()}, 3); os.environ['LISTEN_PID'] = str(os.getpid());"
        shim += "os.environ['LISTEN_FDS'] = '1'; os.execvp(sys.argv[1], sys.argv[1:])"
        server.want("v1", app(server, port, "v1"))
        os.set_inheritable(given.fileno(), True)
        server.start(sys.executable, "-c", shim, pass_fds=[given.fileno()])
        server.expect("v1 is good")
        assert get(port) == "200 v1"
        server.stop()
        late = socket.create_connection(("127.0.0.1", port))  # queued: the next start will serve it
        late.close()


NOTIFYING = """
import os, signal, socket, sys
to = os.environ["NOTIFY_SOCKET"]
with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
    notify.sendto(b"STATUS=warming up", "\\0" + to[1:])
    print("waiting", flush=True)
    signal.sigwait({signal.SIGUSR2})
    notify.sendto(b"STATUS=serving\\nREADY=1", "\\0" + to[1:])
signal.pause()
"""


def test_a_process_says_itself_when_it_is_ready(server: Server) -> None:
    (server.folder / "app.py").write_text("import signal; signal.pthread_sigmask(0, [12])\n" + NOTIFYING)
    command = f"echo pid $$; exec {sys.executable} app.py"
    server.want("v1", web(command, health={"notify": True}, settle=0.01))
    server.start()
    pid = server.pid(r"web.1 \| pid")
    server.expect("waiting")
    assert server.status()["phase"] == "trying"
    os.kill(pid, signal.SIGUSR2)
    server.expect("v1 is good")
    server.settle("v1")
    server.stop()


def test_another_user_is_not_believed(server: Server) -> None:
    nobody = pwd.getpwnam("nobody")
    (server.folder / "app.py").write_text(
        NOTIFYING.replace("signal.sigwait({signal.SIGUSR2})", f"os.setuid({nobody.pw_uid})")
    )
    server.want("v1", web(f"exec {sys.executable} app.py", health={"notify": True, "timeout": 1}))
    server.start()
    server.expect("not healthy within 1 s")
    server.stop()


def test_a_release_phase_comes_first_and_its_failure_means_no_switch(server: Server, port: int) -> None:
    def release(command: str, **more: object) -> dict[str, object]:
        return {"type": "release", "command": command, "limit": 20, **more}

    server.want("v1", app(server, port, "v1"), release("echo migrating; echo done > migrated"))
    server.start()
    server.expect(r"release.1 \| migrating")
    server.expect("the release phase of v1 is done")
    server.expect("starting v1: web.1")
    server.expect("v1 is good")
    server.want("v2", app(server, port, "v2"), release("echo no such table; exit 7"))
    server.signal(signal.SIGHUP)
    server.expect("v2 failed: release.1: exit code 7")
    assert get(port) == "200 v1"
    server.want("v3", app(server, port, "v3"), release("sleep 1000 & echo $$; sleep 1000", limit=0.2))
    server.signal(signal.SIGHUP)
    server.expect("v3 failed: release.1: not done in time")
    server.want("v4", app(server, port, "v4"), release("echo working; read line < gate"))
    os.mkfifo(server.folder / "gate")
    server.signal(signal.SIGHUP)
    server.expect(r"release.1 \| working")
    server.want("v5", app(server, port, "v5"))
    server.signal(signal.SIGHUP)  # while v4's is under way: it is not cut short
    server.expect("v5 waits: v4 is under way")
    with open(server.folder / "gate", "w") as gate:
        gate.write("go\n")
    server.expect("the release phase of v4 is done")
    server.expect("v5 is good")
    assert "starting v4: web" not in server.stop()
    assert server.notes()[:3] == [
        "prepared v1",
        "good v1",
        "failed v2: release.1: exit code 7 / release.1 | no such table",
    ]


def test_a_release_phase_that_fails_at_the_first_start(server: Server) -> None:
    server.want("v1", web(SLEEP), {"type": "release", "command": "exit 7", "limit": 20})
    server.start()
    server.expect("v1 failed: release.1: exit code 7")
    assert server.rest() == 1  # `Unhealthy`, which the driver does not catch
    assert b"gitrel | stopped" in server.said


def test_another_user_has_its_groups_and_nothing_of_ours(server: Server) -> None:
    nobody = pwd.getpwnam("nobody")
    server.folder.chmod(0o755)
    for parent in list(server.folder.parents)[:3]:
        parent.chmod(0o755)
    user = {"uid": nobody.pw_uid, "gid": nobody.pw_gid, "groups": [nobody.pw_gid]}
    ids = "grep -E '^(Uid|Gid|Groups)' /proc/self/status | tr '\\n' ' '; echo"
    server.want("v1", web(f"{ids}; {SLEEP}", user=user))
    server.start()
    match = server.expect(r"Uid:\t([\d\t]+) Gid:\t([\d\t]+) Groups:\t([\d ]+)")
    assert [set(match[at].split()) for at in (1, 2, 3)] == [
        {str(nobody.pw_uid).encode()}, {str(nobody.pw_gid).encode()}, {str(nobody.pw_gid).encode()},
    ]  # fmt: skip
    pid = server.pid("pid")
    server.expect("v1 is good")
    server.running.kill()
    await_end(pid)
    server.rest()
    server.await_unlocked()


def test_what_the_service_manager_is_told(server: Server) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind("")
        manager.settimeout(PATIENCE)
        address = "@" + manager.getsockname()[1:].decode()
        server.want("v1", web(SLEEP))
        server.start(manager_env={"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "200000"})
        told = collect(manager, "READY=1")
        assert "WATCHDOG=1" in told
        assert told.index("STATUS=v1 is trying") < told.index("STATUS=v1 is steady")
        server.signal(signal.SIGHUP)
        told = collect(manager, "READY=1")
        assert any(re.fullmatch(r"RELOADING=1\nMONOTONIC_USEC=\d+", message) for message in told)
        collect(manager, "WATCHDOG=1")
        server.stop()
        assert "STOPPING=1" in collect(manager, "STOPPING=1")


def collect(manager: socket.socket, until: str) -> list[str]:
    told: list[str] = []
    while until not in told:
        told.append(manager.recv(4096).decode())
    return told
