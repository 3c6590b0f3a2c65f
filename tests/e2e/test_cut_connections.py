"""Connections that end at any byte of a push, and many releases at once: all or nothing, and once more is safe.

`GITREL_CUTS=100` cuts at so many places of each direction, `GITREL_RACERS=40` releases so many times at once; the
suite does fewer.
"""

from __future__ import annotations

import os
import random
import select
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from room import Done, Room, room
from servers import Servers, Work, servers, work

from gitrel.errors import RemoteError
from gitrel.ids import ObjectId
from gitrel.store.limits import Limits

__all__ = ["room", "servers", "work"]  # fixtures

Make = Callable[..., Work]

CUTS = int(os.environ.get("GITREL_CUTS", "5"))
RACERS = int(os.environ.get("GITREL_RACERS", "20"))
UP, DOWN = 0, 1


@dataclass
class Cutter:
    """A TCP relay. `counts` are the bytes relayed since the last `arm`, to the server and back; where one of them
    reaches its limit, that connection ends, and the next ones are left alone.
    """

    port: int
    server: socket.socket
    counts: list[int] = field(default_factory=lambda: [0, 0])
    limits: list[int | None] = field(default_factory=lambda: [None, None])
    cut: int = 0
    threads: list[threading.Thread] = field(default_factory=list)

    def arm(self, way: int, limit: int | None) -> None:
        self.counts = [0, 0]
        self.limits = [None, None]
        self.limits[way] = limit

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
                        writer.sendall(data[: limit - self.counts[way]])
                        self.limits = [None, None]
                        self.cut += 1
                        return
                    self.counts[way] += len(data)
                    writer.sendall(data)
                    if not data:
                        del ways[reader]
                        writer.shutdown(socket.SHUT_WR)


@contextmanager
def cutter(port: int) -> Iterator[Cutter]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        made = Cutter(port, server)
        made.threads.append(threading.Thread(target=made.serve))
        made.threads[0].start()
        yield made
        server.shutdown(socket.SHUT_RDWR)
        for thread in made.threads:
            thread.join(60)


def places(total: int) -> list[int]:
    """The first byte, the last two, and some in between."""
    between = [total * number // CUTS for number in range(1, CUTS)]
    return [1, *between, total - 1, total]


@pytest.mark.parametrize("transport", ["git", "http"])
def test_a_push_that_is_cut_anywhere(servers: Servers, work: Make, transport: str) -> None:
    """The release and its build are both there, or none is, and the same push again makes it so."""
    at = work()
    name = f"cut-{transport}"
    bare = servers.create(name)
    noise = random.Random(1)
    with cutter(servers.ports[transport]) as relay:
        url = servers.url(transport, name).replace(str(servers.ports[transport]), str(relay.server.getsockname()[1]))
        with at.remote(url, Limits(connect_seconds=20, idle_seconds=20)) as remote:

            def refs(number: int) -> dict[str, ObjectId]:
                oid = at.commit(f"release {number}", noise.randbytes(3000).hex())
                return {f"refs/builds/{oid}": oid, f"refs/releases/v{number}": oid}

            at.git("config", "gc.auto", "0", folder=bare)
            remote.push(at.repo, refs(1))
            relay.arm(UP, None)
            remote.push(at.repo, refs(2))
            tries = [(way, place) for way in (UP, DOWN) for place in places(relay.counts[way])]
            for number, (way, place) in enumerate(tries, 3):
                wanted = refs(number)
                relay.arm(way, place)
                with suppress(RemoteError):  # or it landed all the same
                    remote.push(at.repo, wanted)
                assert _there(at, bare, wanted) in (0, 2)
                relay.arm(UP, None)
                remote.push(at.repo, wanted)
                assert _there(at, bare, wanted) == 2
            assert relay.cut > len(tries) * 0.8, "an answer varies by a few bytes"
    assert len(at.git("for-each-ref", "refs/releases/", folder=bare).splitlines()) == len(tries) + 2
    assert at.git("fsck", "--strict", "--no-dangling", folder=bare) == ""


def _there(at: Work, bare: Path, wanted: dict[str, ObjectId]) -> int:
    """How many of the refs; a server that is just making them has a moment for the others."""
    deadline = time.monotonic() + 60
    while True:
        lines = at.git("for-each-ref", "--format=%(refname) %(objectname)", *wanted, folder=bare).splitlines()
        if len(lines) != 1 or time.monotonic() > deadline:
            assert set(lines) <= {f"{ref} {oid}" for ref, oid in wanted.items()}
            return len(lines)


def test_many_releases_at_once_over_ssh_and_http(servers: Servers, room: Room) -> None:
    """Consecutive numbers, nobody lost, nobody stuck; half of them come by one way, half by the other."""
    bare = servers.create("race")
    made = room.desk(remote=False)
    desk = replace(made, remote=bare, env=servers.env(made.env))
    urls = {transport: servers.url(transport, "race") for transport in ("ssh", "http")}
    desk.git("remote", "add", "origin", urls["ssh"])
    desk.gitrel("init")
    desk.gitrel("build")
    ways = (*urls,) * (RACERS // 2)
    racing = [desk.start("release", "-m", str(at), "--remote", urls[way], "--json") for at, way in enumerate(ways)]
    done = []
    for process in racing:
        out, err = process.communicate(timeout=240)
        done.append(Done(code=process.returncode, out=out.decode(), err=err.decode()))
    assert [each.code for each in done] == [0] * len(racing), [each.err for each in done]
    released = {each.json["release"]: each.json["id"] for each in done}
    assert set(released) == {f"v{number}" for number in range(1, len(racing) + 1)}
    assert desk.remote_refs("refs/releases/") == {f"refs/releases/{name}": oid for name, oid in released.items()}
    desk.gitrel("init")
    assert f"{len(racing)} of {len(racing)}" in desk.gitrel("verify", "--all").out
    desk.fsck()
