"""Who is running, from /proc, and killing without ever hitting a stranger.

A pid may be given to a new process as soon as the old one has been waited for. So a process is known here by
pid *and* start time (proc(5), `/proc/PID/stat`, field 22, clock ticks after boot), and a signal goes through
a pidfd that was opened before the start time was compared: what the pidfd refers to is then the process that
was looked at.
"""

from __future__ import annotations

import os
import select
import signal
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import suppress
from typing import TypeAlias

from gitrel.dataclass import dataclass
from gitrel.run.formation import MARK, home_of

BATCH = 64  # pidfds held at a time


@dataclass(frozen=True, slots=True)
class Seen:
    """A process as it was when looked at. `start` is in clock ticks after boot."""

    pid: int
    parent: int
    session: int
    start: int
    dead: bool  # a zombie, with no thread left that runs: its parent has yet to wait for it


Snapshot: TypeAlias = Mapping[int, Seen]


def parse_stat(raw: bytes) -> Seen:
    """One `/proc/PID/stat` (proc(5)). The second field may hold anything, parentheses and spaces included."""
    pid = int(raw[: raw.index(b" ")])
    fields = raw[raw.rindex(b")") + 2 :].split()
    dead = fields[0] in (b"Z", b"X", b"x") and int(fields[17]) <= 1
    return Seen(pid, int(fields[1]), int(fields[3]), int(fields[19]), dead)


def look(pid: int) -> Seen | None:
    raw = _read(f"/proc/{pid}/stat")
    return parse_stat(raw) if raw else None


def snapshot() -> Snapshot:
    """All processes that can be seen, by pid."""
    found = (look(int(name)) for name in os.listdir("/proc") if name.isdigit())
    return {seen.pid: seen for seen in found if seen is not None}


def mark_of(pid: int) -> str | None:
    """The value of `MARK` that a process was started with; None if it has none, or its environment is not
    ours to read.
    """
    prefix = MARK.encode() + b"="
    for entry in _read(f"/proc/{pid}/environ").split(b"\0"):
        if entry.startswith(prefix):
            return entry[len(prefix) :].decode("utf-8", "surrogateescape")
    return None


def _read(path: str) -> bytes:
    """Empty if the process is gone (ENOENT, ESRCH) or not ours (EACCES, EPERM)."""
    with suppress(FileNotFoundError, ProcessLookupError, PermissionError), open(path, "rb", 0) as file:
        return file.read()
    return b""


def descendants(tree: Snapshot, roots: Collection[int]) -> list[Seen]:
    """All below the roots, which are not among them themselves."""
    children: dict[int, list[Seen]] = {}
    for seen in tree.values():
        children.setdefault(seen.parent, []).append(seen)
    found: list[Seen] = []
    known = set(roots)
    ahead = list(roots)
    while ahead:
        for child in children.get(ahead.pop(), ()):
            if child.pid not in known:
                known.add(child.pid)
                found.append(child)
                ahead.append(child.pid)
    return found


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


def hold(seen: Seen) -> int | None:
    """A pidfd for exactly the process that was seen; None if it has ended. Raises `OSError` (EMFILE)."""
    try:
        fd = os.pidfd_open(seen.pid)
    except ProcessLookupError:
        return None
    now = look(seen.pid)
    if now is None or now.start != seen.start:
        os.close(fd)
        return None
    return fd


def strike(seen: Seen) -> int | None:
    """SIGKILL; returns a pidfd that becomes readable when the process has ended, None if it has already."""
    fd = hold(seen)
    if fd is not None:
        # ESRCH: it ended just now. EPERM: it changed its user; whoever waits for it notices that it stays.
        with suppress(ProcessLookupError, PermissionError):
            signal.pidfd_send_signal(fd, signal.SIGKILL)
    return fd


def kill_all(find: Callable[[], Iterable[Seen]], within: float) -> list[Seen]:
    """Kill what `find` finds, and wait, until it finds nothing. Blocks. Returns what is left after `within`
    seconds.
    """
    deadline = time.monotonic() + within
    while left := list(find()):
        fds = [fd for seen in left[:BATCH] if (fd := strike(seen)) is not None]
        try:
            gone = _await_all(fds, deadline)
        finally:
            for fd in fds:
                os.close(fd)
        if not gone or time.monotonic() > deadline:
            return [seen for seen in left if (now := look(seen.pid)) and now.start == seen.start and not now.dead]
    return []


def _await_all(fds: list[int], deadline: float) -> bool:
    poll = select.poll()
    for fd in fds:
        poll.register(fd, select.POLLIN)
    waiting = len(fds)
    while waiting:
        ready = poll.poll(max(0.0, deadline - time.monotonic()) * 1000)
        if not ready:
            return False
        for fd, _ in ready:
            poll.unregister(fd)
        waiting -= len(ready)
    return True
