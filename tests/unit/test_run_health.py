"""Health checks against real sockets, driven by the loop that they must not block."""

from __future__ import annotations

import signal
import socket
from collections.abc import Iterator

import pytest

from gitrel.format.health import Health
from gitrel.run.health import Check, request, verdict
from gitrel.run.loop import Loop


@pytest.fixture
def loop() -> Iterator[Loop]:
    with Loop((signal.SIGUSR1,), lambda _: None) as made:
        yield made


@pytest.fixture
def server() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as made:
        made.setblocking(False)
        yield made


class Asked:
    """A check in the loop, and an app that is played by the test, in the same thread."""

    def __init__(self, loop: Loop, server: socket.socket, health: Health) -> None:
        self.loop = loop
        self.server = server
        self.healthy = 0
        self.connections: list[socket.socket] = []
        loop.reading(server.fileno(), lambda: self.connections.append(server.accept()[0]))
        self.check = Check(loop, health, server.getsockname()[1], self.yes)
        self.check.start()

    def yes(self) -> None:
        self.healthy += 1

    def next(self) -> socket.socket:
        """The next connection, with the request read."""
        while not self.connections:
            self.loop.turn()
        connection = self.connections.pop(0)
        connection.setblocking(False)
        got = b""
        while not got.endswith(b"\r\n\r\n"):
            try:
                got += connection.recv(4096)
            except BlockingIOError:
                self.loop.turn()
        assert got == request("/healthz", "127.0.0.1", self.server.getsockname()[1])
        return connection

    def close(self) -> None:
        self.check.stop()
        self.loop.forget(self.server.fileno())
        for connection in self.connections:
            connection.close()


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (b"HTTP/1.1 200 OK\r\n", True),
        (b"HTTP/1.0 302 Found\r\n", True),
        (b"HTTP/1.1 204\r\n", True),
        (b"HTTP/1.1 404 Not Found\r\n", False),
        (b"HTTP/1.1 503 \r\n", False),
        (b"HTTP/1.1 100 Continue\r\n", False),
        (b"HTTP/1.1 999 \r\n", False),
        (b"SSH-2.0-OpenSSH_9.2\r\n", False),
        (b"HTTP/1.1 2000 \r\n", False),
        (b"", None),
        (b"HTTP/1.1 20", None),
        (b"x" * 4096, False),
    ],
)
def test_verdict(answer: bytes, expected: bool | None) -> None:
    assert verdict(answer) is expected


def test_a_path_is_asked_until_it_answers_well(loop: Loop, server: socket.socket) -> None:
    asked = Asked(loop, server, Health(path="/healthz"))
    for answer in (b"HTTP/1.1 503 Starting\r\n\r\n", b"", b"garbage\n", b"HTTP/1.1 2"):
        with asked.next() as connection:
            connection.sendall(answer)
        assert asked.healthy == 0
    with asked.next() as connection:
        connection.sendall(b"HTTP/1.1 ")
        loop.turn()
        connection.sendall(b"200 OK\r\n\r\n")
        while not asked.healthy:
            loop.turn()
    assert asked.healthy == 1
    asked.close()


def test_a_port_has_to_accept(loop: Loop) -> None:
    """Nobody listens at first: refused, and asked again."""
    with socket.socket() as later:
        later.bind(("127.0.0.1", 0))
        later.setblocking(False)
        done: list[bool] = []
        check = Check(loop, Health(port=True), later.getsockname()[1], lambda: done.append(True))
        check.start()
        loop.turn()
        assert not done
        later.listen()
        while not done:
            loop.turn()
        assert done == [True]


def test_a_stopped_check_says_nothing_and_holds_nothing(loop: Loop, server: socket.socket) -> None:
    asked = Asked(loop, server, Health(path="/healthz"))
    connection = asked.next()
    asked.check.stop()
    connection.settimeout(30)
    assert connection.recv(1) == b""
    connection.close()
    assert asked.healthy == 0
    asked.check.stop()
    asked.close()
