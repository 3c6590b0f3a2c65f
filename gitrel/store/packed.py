"""The file packed-refs, searched as git searches it (git-pack-refs(1); refs/packed-backend.c in git).

    # pack-refs with: peeled fully-peeled sorted
    <id> SP <name> LF
    ^<id> LF                    what the tag above peels to

Where the first line says `sorted`, names are in the order of their bytes, and one is found by halving: 17 looks among
a hundred thousand. What was written by a git before 2.16, or by another program, is sorted here first.
"""

from __future__ import annotations

import mmap
import re
from pathlib import Path

from gitrel.errors import LocalStateError
from gitrel.ids import ObjectId

Line = tuple[bytes, bytes]
"""An id and a name."""

_LINE = re.compile(rb"^([0-9a-f]{40}|[0-9a-f]{64}) ([^\n]+)$", re.MULTILINE)
_HEADER = b"# pack-refs with:"
_AFTER = b"\xff"  # comes after whatever a name may go on with: it is no byte of UTF-8


class PackedRefs:
    """What the file at `path` had in it when it was read; `state` tells whether it still is."""

    def __init__(self, path: Path, state: tuple[int, ...] | None, raw: bytes | mmap.mmap) -> None:
        self.state = state
        self._path = path
        head = raw[: raw.find(b"\n") + 1]
        if not head.startswith(_HEADER) or b"sorted" not in head[len(_HEADER) :].split():
            lines = sorted(_LINE.findall(raw), key=lambda line: line[1])
            head, raw = b"", b"".join(b"%s %s\n" % line for line in lines)
        elif raw[len(raw) - 1 :] != b"\n":
            raw = raw[:] + b"\n"
        self._raw, self._start = raw, len(head)

    def get(self, name: str) -> ObjectId | None:
        key = name.encode("utf-8", "surrogateescape")
        at = self._first(key)
        oid, _, found = self._raw[at : self._raw.find(b"\n", at)].partition(b" ")
        return ObjectId(oid.decode()) if found == key and _LINE.match(b"%s %s" % (oid, found)) else None

    def count(self, prefix: str) -> int:
        """How many there are whose names begin with `prefix`."""
        lines = self._raw[slice(*self._span(prefix))]
        return lines.count(b"\n") - lines.count(b"\n^")

    def lines(self, prefix: str) -> list[Line]:
        """Those whose names begin with `prefix`, sorted by name."""
        return _LINE.findall(self._raw, *self._span(prefix))

    def list(self, prefix: str) -> dict[str, ObjectId]:
        """The same, as what they are. Raises `LocalStateError`."""
        try:
            return {name.decode(): ObjectId.from_hex(oid) for oid, name in self.lines(prefix)}
        except UnicodeDecodeError as error:
            raise LocalStateError("packed-refs is not UTF-8", where=str(self._path)) from error

    def _span(self, prefix: str) -> tuple[int, int]:
        key = prefix.encode("utf-8", "surrogateescape")
        return self._first(key), self._first(key + _AFTER)

    def _first(self, key: bytes) -> int:
        """Where the first line is whose name is `key` or comes after it; the end if there is none."""
        raw, low, high = self._raw, self._start, len(self._raw)
        while low < high:
            at = max(low, raw.rfind(b"\n", low, (low + high) // 2) + 1)
            while at > low and raw[at : at + 1] == b"^":
                at = max(low, raw.rfind(b"\n", low, at - 1) + 1)
            end = raw.find(b"\n", at)
            if raw[at:end].partition(b" ")[2] < key:
                low = end + 1
                while raw[low : low + 1] == b"^":
                    low = raw.find(b"\n", low) + 1
            else:
                high = at
        return low
