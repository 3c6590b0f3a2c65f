"""Connections that end at any byte of a push, and many releases at once: all or nothing, and once more is safe.

`GITREL_CUTS=100` cuts at so many places of each direction, `GITREL_RACERS=40` releases so many times at once; the
suite does fewer.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from cutter import DOWN, UP, cutter
from room import Done, Room, room
from servers import Servers, Work, servers, work

from gitrel.errors import RemoteError
from gitrel.ids import ObjectId
from gitrel.store.limits import Limits

__all__ = ["room", "servers", "work"]  # fixtures

Make = Callable[..., Work]

CUTS = int(os.environ.get("GITREL_CUTS", "5"))
RACERS = int(os.environ.get("GITREL_RACERS", "20"))


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
        url = servers.url(transport, name).replace(str(servers.ports[transport]), str(relay.near))
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
