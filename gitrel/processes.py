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

BATCH = 64  # pidfds held at a time
EXEC_LIMIT = 0.2  # seconds for a process to become the next program
_VSIZE, _END_CODE, _ENV_START, _ENV_END = 20, 24, 47, 48  # of /proc/PID/stat, after the name: fields 23, 27, 50, 51


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
    fields = _after_name(raw)
    dead = fields[0] in (b"Z", b"X", b"x") and int(fields[17]) <= 1
    return Seen(pid, int(fields[1]), int(fields[3]), int(fields[19]), dead)


def _after_name(raw: bytes) -> list[bytes]:
    return raw[raw.rindex(b")") + 2 :].split()


def look(pid: int) -> Seen | None:
    raw = _read(f"/proc/{pid}/stat")
    return parse_stat(raw) if raw else None


def snapshot() -> Snapshot:
    """All processes that can be seen, by pid."""
    found = (look(int(name)) for name in os.listdir("/proc") if name.isdigit())
    return {seen.pid: seen for seen in found if seen is not None}


def environment(pid: int) -> list[bytes]:
    """What a process was started with, entry by entry; empty if it is gone or not ours to read.

    In execve(2) there is a moment between two programs in which nothing can be read (fs/proc/base.c, environ_read).
    Whoever looks for a mark would overlook the process, so that moment is waited for.
    """
    deadline = time.monotonic() + EXEC_LIMIT
    while (raw := _readable(f"/proc/{pid}/environ")) == b"" and _will_have_one(pid) and time.monotonic() < deadline:
        time.sleep(0.0005)
    return raw.split(b"\0") if raw else []


def _will_have_one(pid: int) -> bool:
    """It has memory, as kernel threads and the dead have not, and an environment: not yet, or by now.

    Where its code ends is what execve(2) writes down after the environment (fs/binfmt_elf.c, load_elf_binary).
    """
    raw = _read(f"/proc/{pid}/stat")
    fields = _after_name(raw) if raw else []
    if len(fields) <= _ENV_END or fields[_VSIZE] == b"0":
        return False
    return fields[_END_CODE] == b"0" or fields[_ENV_END] != fields[_ENV_START]


def _readable(path: str) -> bytes | None:
    try:
        with open(path, "rb", 0) as file:
            return file.read()
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return None


def _read(path: str) -> bytes:
    """Empty if the process is gone (ENOENT, ESRCH) or not ours (EACCES, EPERM)."""
    return _readable(path) or b""


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
