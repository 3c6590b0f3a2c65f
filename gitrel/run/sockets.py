"""The sockets that processes are handed (`listen`), bound once and kept for as long as some release wants them.

Connections that arrive while processes come and go wait in the socket's queue: none is refused. A socket that
the service manager handed to gitrel (sd_listen_fds(3)) is used where its address is the one wanted, and outlives
gitrel itself.

Processes of two releases accept from one socket during a switch. `accepted_by` tells which process has taken a
connection: the kernel gives the inode of the accepted end (sock_diag(7)), /proc/PID/fd tells who holds it.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress

from gitrel.run.formation import Address

FIRST_FD = 3  # SD_LISTEN_FDS_START
BACKLOG = 4096  # the kernel holds it to net.core.somaxconn
_ANY = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - where to reach what listens everywhere

# <linux/sock_diag.h>, <linux/inet_diag.h>, <linux/netlink.h>
_NETLINK_SOCK_DIAG = 4
_SOCK_DIAG_BY_FAMILY = 20
_NLM_F_REQUEST = 1
_NO_COOKIE = 0xFFFFFFFF
_ALL_STATES = 0xFFFFFFFF
_HEADER = struct.Struct("=IHHII")
_REQUEST = struct.Struct("=BBBBI")
_PORTS = struct.Struct("!HH16s16s")
_REST = struct.Struct("=III")
_INODE_AT = _HEADER.size + 4 + _PORTS.size + _REST.size + 16


def inherited(env: Mapping[str, str]) -> list[int]:
    """The descriptors that a service manager handed to this process (sd_listen_fds(3)); none, if to another."""
    if env.get("LISTEN_PID") != str(os.getpid()) or not env.get("LISTEN_FDS", "").isdigit():
        return []
    return list(range(FIRST_FD, FIRST_FD + int(env["LISTEN_FDS"])))


class Sockets:
    """By address. `given`: descriptors of listening sockets; others than these are passed over."""

    def __init__(self, given: Iterable[int] = ()) -> None:
        self._open: dict[Address, socket.socket] = {}
        self._given: list[socket.socket] = []
        for fd in given:
            with suppress(OSError):
                found = socket.socket(fileno=fd)
                found.set_inheritable(False)
                self._given.append(found)

    def get(self, address: Address) -> socket.socket:
        """Raises `OSError` with the address as its `filename`."""
        if address not in self._open:
            try:
                self._open[address] = self._bind(address)
            except OSError as error:
                raise OSError(error.errno, error.strerror, f"{address[0]}:{address[1]}") from None
        return self._open[address]

    def _bind(self, address: Address) -> socket.socket:
        family, kind, proto, _, where = socket.getaddrinfo(*address, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[
            0
        ]
        for each in self._given:
            if each.family == family and each.getsockname()[:2] == where[:2]:
                return each
        made = socket.socket(family, kind, proto)
        try:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            made.bind(address)
            made.listen(BACKLOG)
        except OSError:
            made.close()
            raise
        return made

    def keep(self, wanted: Collection[Address]) -> None:
        """Close all others but those of the service manager."""
        for address in [each for each in self._open if each not in wanted]:
            closing = self._open.pop(address)
            if closing not in self._given:
                closing.close()

    def close(self) -> None:
        self.keep(())


def reach(listening: socket.socket) -> tuple[socket.AddressFamily, tuple[str, int]]:
    """Where to connect to."""
    host, port = listening.getsockname()[:2]
    return listening.family, (_ANY.get(host, host), port)


def accepted_inode(connection: socket.socket) -> int:
    """The inode of the other end, on this machine, of a TCP connection; 0 while nobody has accepted it.

    Raises `OSError`: ENOENT if there is no other end (any more).
    """
    near, far = connection.getsockname()[:2], connection.getpeername()[:2]
    pack = [socket.inet_pton(connection.family, host).ljust(16, b"\0") for host in (far[0], near[0])]
    wanted = _PORTS.pack(far[1], near[1], *pack) + _REST.pack(0, _NO_COOKIE, _NO_COOKIE)
    request = _REQUEST.pack(connection.family, socket.IPPROTO_TCP, 0, 0, _ALL_STATES) + wanted
    header = _HEADER.pack(_HEADER.size + len(request), _SOCK_DIAG_BY_FAMILY, _NLM_F_REQUEST, 1, 0)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_SOCK_DIAG) as kernel:
        kernel.send(header + request)  # answered before send returns
        answer = kernel.recv(4096)
    if _HEADER.unpack_from(answer)[1] != _SOCK_DIAG_BY_FAMILY:
        number = -struct.unpack_from("=i", answer, _HEADER.size)[0]
        raise OSError(number, os.strerror(number))
    return int(struct.unpack_from("=I", answer, _INODE_AT)[0])


def holds(pids: Sequence[int], inode: int) -> bool:
    """Whether one of the processes has the socket open. What is gone, or not ours to look into, has not."""
    wanted = f"socket:[{inode}]"
    for pid in pids:
        with suppress(OSError), os.scandir(f"/proc/{pid}/fd") as fds:
            for fd in fds:
                with suppress(OSError):
                    if os.readlink(fd.path) == wanted:
                        return True
    return False
