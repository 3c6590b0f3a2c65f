"""The notification protocol of sd_notify(3), both ways: what a process says of itself, and what gitrel tells the
service manager that started it.

A process gets a socket of its own in NOTIFY_SOCKET, in the abstract namespace (unix(7)), where no file can be left
behind. Who may be believed is told by the kernel (SO_PASSCRED): the process's own user, and root.
"""

from __future__ import annotations

import os
import socket
import struct
import time
from collections.abc import Callable, Mapping
from contextlib import suppress

from gitrel.run.loop import Loop, Timer

_MOST = 4096  # bytes of a message
_CREDENTIALS = struct.Struct("3i")  # struct ucred: pid, uid, gid


def parse(message: bytes) -> dict[str, str]:
    """`NAME=value` lines; what is none is passed over."""
    lines = message.decode("utf-8", "replace").split("\n")
    return dict(line.split("=", 1) for line in lines if "=" in line)


class Listener:
    """One process's socket, for all of its lives; `address` is what NOTIFY_SOCKET holds."""

    def __init__(self, loop: Loop, uid: int, said: Callable[[Mapping[str, str]], None]) -> None:
        self._loop = loop
        self._uids = {0, uid}
        self._said = said
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        self._socket.bind("")  # a name of the kernel's choice: "\\0" and five hex digits
        loop.reading(self._socket.fileno(), self._readable)

    @property
    def address(self) -> str:
        name: bytes = self._socket.getsockname()
        return "@" + name[1:].decode("ascii")

    def _readable(self) -> None:
        with suppress(BlockingIOError):
            while True:
                data, extra, _, _ = self._socket.recvmsg(_MOST, socket.CMSG_SPACE(_CREDENTIALS.size))
                if any(self._trusts(kind, value) for _, kind, value in extra):
                    self._said(parse(data))

    def _trusts(self, kind: int, value: bytes) -> bool:
        return kind == socket.SCM_CREDENTIALS and _CREDENTIALS.unpack_from(value)[1] in self._uids

    def close(self) -> None:
        if self._socket.fileno() >= 0:
            self._loop.forget(self._socket.fileno())
            self._socket.close()


class Manager:
    """The service manager above us; silent if there is none. `env` is this program's own environment.

    With WatchdogSec it is told that we live, at half that interval.
    """

    def __init__(self, loop: Loop, env: Mapping[str, str]) -> None:
        self._loop = loop
        address = env.get("NOTIFY_SOCKET", "")
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._last = ""
        interval = env.get("WATCHDOG_USEC", "")
        ours = env.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        self._pause = int(interval) / 2e6 if interval.isdigit() and int(interval) and ours and address else 0.0
        self._timer: Timer | None = None

    def start(self) -> None:
        if self._pause:
            self._alive()

    def _alive(self) -> None:
        self._send("WATCHDOG=1")
        self._timer = self._loop.after(self._pause, self._alive)

    def ready(self) -> None:
        self._send("READY=1")

    def reloading(self) -> None:
        self._send(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self) -> None:
        self._send("STOPPING=1")

    def status(self, text: str) -> None:
        """One line; said again only if it is another."""
        if text != self._last:
            self._last = text
            self._send("STATUS=" + " ".join(text.split()))

    def _send(self, message: str) -> None:
        if not self._address:
            return
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as to:
            to.sendto(message.encode(), self._address)  # its loss is the manager's: nothing here depends on it
