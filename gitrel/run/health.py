"""Asking a process whether it is healthy, without ever blocking the loop.

`path`: a GET on 127.0.0.1 at the process's port is answered 2xx or 3xx. `port`: the port accepts a
connection. It is asked at short, slowly growing intervals until it says yes; when to lose patience is
`lifecycle`'s to say.
"""

from __future__ import annotations

import errno
import re
import socket
from collections.abc import Callable
from functools import partial

from gitrel.format.manifest import Health
from gitrel.run.loop import Loop, Timer

HOST = "127.0.0.1"
FIRST_PAUSE = 0.05  # seconds between two attempts, times 1.5 each time
LONGEST_PAUSE = 1.0
ATTEMPT_LIMIT = 5.0  # seconds for one attempt: an app that hangs on the first request may answer the next
_MOST_BYTES = 4096
_STATUS = re.compile(rb"HTTP/1\.[0-9] ([0-9]{3})[ \r\n]")


def request(path: str, port: int) -> bytes:
    """HTTP/1.1 (RFC 9112), the least that every server accepts."""
    headers = (
        f"GET {path} HTTP/1.1",
        f"Host: {HOST}:{port}",
        "User-Agent: gitrel",
        "Accept: */*",
        "Connection: close",
    )
    return "\r\n".join((*headers, "", "")).encode("ascii")


def verdict(answer: bytes) -> bool | None:
    """Whether an answer, as far as it has come, is 2xx or 3xx; None if that cannot be said yet."""
    if (match := _STATUS.match(answer)) is not None:
        return 200 <= int(match[1]) <= 399
    return None if b"\n" not in answer and len(answer) < _MOST_BYTES else False


class Check:
    """Asks again and again; calls `healthy` once. `stop` may be called at any time."""

    def __init__(self, loop: Loop, health: Health, port: int, healthy: Callable[[], None]) -> None:
        self._loop = loop
        self._health = health
        self._port = port
        self._healthy = healthy
        self._socket: socket.socket | None = None
        self._timer: Timer | None = None
        self._pause = FIRST_PAUSE
        self._unsent = self._answer = b""

    def start(self) -> None:
        self._answer = b""
        self._unsent = b"" if self._health.path is None else request(self._health.path, self._port)
        self._timer = self._loop.after(ATTEMPT_LIMIT, self._again)
        try:
            self._socket = connection = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
            failure = connection.connect_ex((HOST, self._port))
        except OSError:  # no descriptor left
            self._again()
            return
        if failure not in (0, errno.EINPROGRESS):
            self._again()
            return
        self._loop.writing(connection.fileno(), partial(self._writable, connection))

    def _writable(self, connection: socket.socket) -> None:
        try:
            # A port of the ephemeral range that nobody listens on can be given to the very socket that
            # connects to it.
            if connection.getpeername() == connection.getsockname():
                self._again()
                return
            self._unsent = self._unsent[connection.send(self._unsent) :] if self._unsent else b""
        except BlockingIOError:
            return
        except OSError:  # refused, reset
            self._again()
            return
        if self._health.path is None:
            self._yes()
        elif not self._unsent:
            self._loop.reading(connection.fileno(), partial(self._readable, connection))

    def _readable(self, connection: socket.socket) -> None:
        try:
            data = connection.recv(_MOST_BYTES)
        except BlockingIOError:
            return
        except OSError:
            self._again()
            return
        self._answer += data
        decided = verdict(self._answer) if data else False
        if decided:
            self._yes()
        elif decided is False:
            self._again()

    def _yes(self) -> None:
        self.stop()
        self._healthy()

    def _again(self) -> None:
        """After a pause."""
        self.stop()
        self._timer = self._loop.after(self._pause, self.start)
        self._pause = min(self._pause * 1.5, LONGEST_PAUSE)

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._socket is not None:
            self._loop.forget(self._socket.fileno())
            self._socket.close()
            self._socket = None
