"""The processes of a home, which are marked in their environment (`gitrel.run.formation`)."""

from __future__ import annotations

import os
from collections.abc import Collection
from contextlib import suppress

from gitrel.processes import Seen, descendants, environment, snapshot
from gitrel.run.formation import MARK, home_of


def mark_of(pid: int) -> str | None:
    """The value of `MARK` that a process was started with; None if it has none, or its environment is not
    ours to read.
    """
    prefix = MARK.encode() + b"="
    for entry in environment(pid):
        if entry.startswith(prefix):
            return entry[len(prefix) :].decode("utf-8", "surrogateescape")
    return None


def of_home(home: str, sessions: Collection[int] = ()) -> list[Seen]:
    """What runs for a home: marked so, or in one of the sessions, under this user; and all of their
    descendants.

    Never this process or its parent.
    """
    tree = snapshot()
    spared = {os.getpid(), os.getppid()}
    own = [seen for seen in tree.values() if seen.pid not in spared and not seen.dead]
    first = [seen for seen in own if seen.session in sessions or _is_marked(seen.pid, home)]
    below = descendants(tree, [seen.pid for seen in first])
    return first + [seen for seen in below if seen.pid not in spared and not seen.dead]


def _is_marked(pid: int, home: str) -> bool:
    value = mark_of(pid)
    if value is None or home_of(value) != home:
        return False
    with suppress(FileNotFoundError):
        return os.stat(f"/proc/{pid}").st_uid == os.geteuid()
    return False
