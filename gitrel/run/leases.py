"""Releases whose files somebody uses."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import itertools
import os
import struct

from gitrel.ids import Entry
from gitrel.run.home import Home

_FLOCK = "hhqqi4x"  # struct flock of fcntl(2): type, whence, start, length, pid
_LAST = 10**9  # no entry has that number


class Leases:
    """Releases whose files `prune` must leave alone because somebody runs them, or is about to.

    A lease is a byte of `run/leases.lock` at the release's number, locked for reading by the open file description
    (fcntl(2), F_OFD_SETLK): it lasts as long as any copy of the descriptor does, also through exec and fork, and ends
    with `drop` or the last holder's death. Take one *before* the release is looked at. Processes that run need none:
    they are marked (`gitrel.run.formation.MARK`).
    """

    def __init__(self, home: Home, *, fd: int = -1, inherited: bool = False) -> None:
        """`fd`: of somebody else's, to share; `inherited`: children and what follows an exec share it.

        In a home that cannot be written to nothing is pruned, and nothing need be locked.
        """
        self.fd = fd
        if fd >= 0:
            os.set_inheritable(fd, inherited)
            return
        path = home.run / "leases.lock"
        for flags in (os.O_RDWR | os.O_CREAT, os.O_RDONLY):
            with contextlib.suppress(OSError):
                self.fd = os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
                os.set_inheritable(self.fd, inherited)
                return

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
        self.fd = -1

    def take(self, entry: Entry) -> None:
        """Waits while a prune is at this very release, which is then gone; else it is there until `drop`."""
        if self.fd >= 0:
            self._set(fcntl.F_OFD_SETLKW, fcntl.F_RDLCK, entry, 1)

    def drop(self, entry: Entry) -> None:
        if self.fd >= 0:
            self._set(fcntl.F_OFD_SETLK, fcntl.F_UNLCK, entry, 1)

    def close_all_others(self) -> set[Entry]:
        """Lock every release that nobody holds; returns those that somebody does."""
        while True:
            held: set[Entry] = set()
            ranges = [(1, _LAST)]
            while ranges:  # of several locks in a range the kernel names any
                start, end = ranges.pop()
                found = self._holder(start, end) if start < end else None
                if found is not None:
                    held |= {Entry(number) for number in range(*found)}
                    ranges += [(start, found[0]), (found[1], end)]
            if self._block_gaps(held):
                return held

    def _holder(self, start: int, end: int) -> tuple[int, int] | None:
        """A range within [start, end) that somebody else has locked."""
        asked = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, start, end - start, 0)
        kind, _, at, length, _ = struct.unpack(_FLOCK, fcntl.fcntl(self.fd, fcntl.F_OFD_GETLK, asked))
        if kind == fcntl.F_UNLCK:
            return None
        return max(at, start), min(at + length if length else end, end)

    def _block_gaps(self, held: set[Entry]) -> bool:
        """Whether nobody took one of the others meanwhile."""
        self._set(fcntl.F_OFD_SETLK, fcntl.F_UNLCK, 1, _LAST)
        edges = [0, *sorted(held), _LAST]
        try:
            for before, after in itertools.pairwise(edges):
                if after - before > 1:
                    self._set(fcntl.F_OFD_SETLK, fcntl.F_WRLCK, before + 1, after - before - 1)
        except OSError as error:
            if error.errno not in (errno.EAGAIN, errno.EACCES):
                raise
            return False
        return True

    def _set(self, how: int, kind: int, start: int, length: int) -> None:
        fcntl.fcntl(self.fd, how, struct.pack(_FLOCK, kind, os.SEEK_SET, start, length, 0))
