"""Asking a process whether it is healthy, without ever blocking the loop.

`path`: a GET on 127.0.0.1 at the process's port is answered 2xx or 3xx. `port`: the port accepts a
connection. It is asked at short, slowly growing intervals until it says yes; when to lose patience is
`lifecycle`'s to say.

Several processes, also of two releases, may accept from one socket (`listen`), and the answer of another says
nothing. So a request for such a process is not sent before it is known who has accepted the connection; if it was
somebody else, the next connection is tried at once. Where nobody accepts, all but the end of the request is sent
after a moment: a server may have asked the kernel to wait for data (TCP_DEFER_ACCEPT, tcp(7)).
"""

from __future__ import annotations

import errno
import re
import socket
from collections.abc import Callable
from functools import partial

from gitrel.format.health import Health
from gitrel.run.loop import Loop, Timer
from gitrel.run.sockets import accepted_inode, holds, reach

HOST = "127.0.0.1"
FIRST_PAUSE = 0.05  # seconds between two attempts, times 1.5 each time
LONGEST_PAUSE = 1.0
ACCEPT_PAUSE = 0.01  # between two looks at whether the connection was accepted, and after another accepted it
NUDGE_AFTER = 50  # looks without an answer, until the request is sent all the same, but for its end
ATTEMPT_LIMIT = 5.0  # seconds for one attempt: an app that hangs on the first request may answer the next
_MOST_BYTES = 4096
_STATUS = re.compile(rb"HTTP/1\.[0-9] ([0-9]{3})[ \r\n]")


def request(path: str, host: str, port: int) -> bytes:
    """HTTP/1.1 (RFC 9112), the least that every server accepts."""
    headers = (
        f"GET {path} HTTP/1.1",
        f"Host: {f'[{host}]' if ':' in host else host}:{port}",
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
    """Asks again and again; calls `healthy` once. `stop` may be called at any time.

    `listening`: the socket that the process shares with others; `members` are the pids that are the process itself.
    """

    def __init__(
        self,
        loop: Loop,
        health: Health,
        port: int,
        healthy: Callable[[], None],
        *,
        listening: socket.socket | None = None,
        members: Callable[[], list[int]] = list,
    ) -> None:
        self._loop = loop
        self._health = health
        self._family, self._where = (socket.AF_INET, (HOST, port)) if listening is None else reach(listening)
        self._shared = listening is not None
        self._known = False  # that it is the process itself which has accepted the connection
        self._members = members
        self._healthy = healthy
        self._socket: socket.socket | None = None
        self._timer: Timer | None = None
        self._look: Timer | None = None
        self._pause = FIRST_PAUSE
        self._unsent = self._answer = b""

    def start(self) -> None:
        self._answer = b""
        self._known = not self._shared
        self._unsent = b"" if self._health.path is None else request(self._health.path, *self._where)
        self._timer = self._loop.after(ATTEMPT_LIMIT, self._again)
        try:
            self._socket = connection = socket.socket(self._family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
            failure = connection.connect_ex(self._where)
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
            if self._known and self._unsent:
                self._unsent = self._unsent[connection.send(self._unsent) :]
        except BlockingIOError:
            return
        except OSError:  # refused, reset
            self._again()
            return
        if not self._known:
            self._loop.forget(connection.fileno())
            self._ask_who(connection, 0)
        elif self._health.path is None:
            self._yes()
        elif not self._unsent:
            self._loop.reading(connection.fileno(), partial(self._readable, connection))

    def _ask_who(self, connection: socket.socket, looks: int) -> None:
        """Who has accepted it? Only that process itself gets the request."""
        try:
            inode = accepted_inode(connection)
            if inode == 0 and looks == NUDGE_AFTER and self._unsent:
                self._unsent = self._unsent[connection.send(self._unsent[:-2]) :]
        except OSError:  # closed already, or a kernel without sock_diag
            self._again()
            return
        if inode == 0:
            self._look = self._loop.after(ACCEPT_PAUSE, partial(self._ask_who, connection, looks + 1))
        elif not holds(self._members(), inode):
            self._again(ACCEPT_PAUSE)
        else:
            self._known = True
            self._loop.writing(connection.fileno(), partial(self._writable, connection))

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

    def _again(self, pause: float | None = None) -> None:
        """After a pause."""
        self.stop()
        if pause is None:
            pause, self._pause = self._pause, min(self._pause * 1.5, LONGEST_PAUSE)
        self._timer = self._loop.after(pause, self.start)

    def stop(self) -> None:
        for timer in (self._timer, self._look):
            if timer is not None:
                timer.cancel()
        self._timer = self._look = None
        if self._socket is not None:
            self._loop.forget(self._socket.fileno())
            self._socket.close()
            self._socket = None
