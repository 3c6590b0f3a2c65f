"""A TCP relay that ends connections at a byte: once, or again and again as a bad link does."""

from __future__ import annotations

import select
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

UP, DOWN = 0, 1


@dataclass
class Cutter:
    """`counts` are the bytes relayed since the last `arm`, to the server and back. Where one of them reaches its limit,
    that connection ends, and the next ones are left alone; on a link that is `bad` the count begins anew, and on one
    that `hangs` it does not end, but nothing comes any more until `free` is set. `total` is all that ever came back.
    `pause` are the seconds after each kilobyte of that.
    """

    port: int
    server: socket.socket
    counts: list[int] = field(default_factory=lambda: [0, 0])
    limits: list[int | None] = field(default_factory=lambda: [None, None])
    bad: bool = False
    hangs: bool = False
    free: threading.Event = field(default_factory=threading.Event)
    pause: float = 0.0
    cut: int = 0
    total: int = 0
    threads: list[threading.Thread] = field(default_factory=list)

    @property
    def near(self) -> int:
        """The port to connect to."""
        return int(self.server.getsockname()[1])

    def arm(self, way: int, limit: int | None, *, bad: bool = False, hangs: bool = False) -> None:
        self.counts = [0, 0]
        self.limits = [None, None]
        self.limits[way] = limit
        self.bad, self.hangs = bad, hangs

    def serve(self) -> None:
        with suppress(OSError):  # closed: the end
            while True:
                near, _ = self.server.accept()
                self.threads.append(threading.Thread(target=self._relay, args=(near,)))
                self.threads[-1].start()

    def _relay(self, near: socket.socket) -> None:
        with suppress(OSError), near, socket.create_connection(("127.0.0.1", self.port)) as far:
            ways = {near: (UP, far), far: (DOWN, near)}
            while ways:
                for reader in select.select([*ways], [], [])[0]:
                    way, writer = ways[reader]
                    data, limit = reader.recv(1000), self.limits[way]
                    if limit is not None and self.counts[way] + len(data) >= limit:
                        self._pass(way, writer, data[: limit - self.counts[way]])
                        self.arm(way, limit if self.bad else None, bad=self.bad, hangs=self.hangs)
                        self.cut += 1
                        if self.hangs:
                            self.free.wait()
                        far.close()
                        near.shutdown(socket.SHUT_WR)  # what is on its way arrives: no RST takes it back
                        while near.recv(65536):
                            pass
                        return
                    self._pass(way, writer, data)
                    if not data:
                        del ways[reader]
                        writer.shutdown(socket.SHUT_WR)

    def _pass(self, way: int, writer: socket.socket, data: bytes) -> None:
        self.counts[way] += len(data)
        if way == DOWN:
            self.total += len(data)
            time.sleep(self.pause)
        writer.sendall(data)


@contextmanager
def cutter(port: int) -> Iterator[Cutter]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        made = Cutter(port, server)
        made.threads.append(threading.Thread(target=made.serve))
        made.threads[0].start()
        yield made
        made.free.set()
        server.shutdown(socket.SHUT_RDWR)
        for thread in made.threads:
            thread.join(60)
