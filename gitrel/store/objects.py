"""Objects read in pieces: found in loose files and packs, and sized before anything of them is inflated.

`ObjectReader` does not hash what it reads: its callers do, while they use it. Big objects are never in memory whole,
but for those that a pack holds as a delta: up to `packs.MAX_DELTA`, with its base beside it.

What is read here was hashed when it came in, inflated by zlib, so ISA-L's faster inflate reads no stranger's bytes
first (`gitrel.store.packfile` does).
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, cast

from isal import isal_zlib

from gitrel.errors import LocalStateError, NotFound
from gitrel.ids import Kind, ObjectId
from gitrel.store.packfile import NUMBERS
from gitrel.store.packs import Pack, bound
from gitrel.store.repository import Repository

PIECE = 256 * 1024  # bytes; how much of a big object is in memory at a time
WHOLE = 4 * 1024 * 1024  # bytes; what is bigger is read and written in pieces

_ISAL_ERROR = cast("type[Exception]", isal_zlib.error)  # its stubs take the class for an instance


class Stored(NamedTuple):
    """An object found but not read. `kind` is None for a delta: it is known when the object is read.

    `pack` and `offset` say where it is in a pack, `path` where it is loose; `body` is where deflated data begins, or
    how long the header in it is.
    """

    oid: ObjectId
    kind: Kind | None
    size: int
    pack: Pack | None
    offset: int
    body: int
    path: Path | None = None

    @property
    def fd(self) -> int:
        """Its pack's, -1 for a loose object."""
        return self.pack.fd if self.pack is not None else -1

    def read(self) -> tuple[Kind, Iterator[bytes]]:
        """The kind, and the data in pieces of at most `PIECE` bytes; a delta's result comes in one.

        Raises `LocalStateError`, also while iterating, for bytes that cannot be read or do not have the size.
        """
        if self.pack is None:
            return self._kind(), _inflate(self, _file_slices(self))
        if self.kind is None:
            return self._undelta(self.pack)
        return self.kind, _inflate(self, _slices(self.pack.fd, self.body, self.size))

    def whole(self, room: int | None = None) -> tuple[Kind, bytes]:
        """The kind and all the data. It is in the next `room` bytes of its pack, if the caller knows that much."""
        if self.pack is None or self.kind is None:
            kind, pieces = self.read()
            return kind, b"".join(pieces)
        stream, most = isal_zlib.decompressobj(), bound(self.size)
        try:
            raw = os.pread(self.pack.fd, most if room is None else min(room, most), self.body)
            data = stream.decompress(raw, self.size + 1)
        except (_ISAL_ERROR, OSError) as error:
            raise LocalStateError("damaged object", where=self.oid, why=str(error)) from error
        if len(data) == self.size and stream.eof:
            return self.kind, data
        return self.kind, b"".join(_inflate(self, _slices(self.pack.fd, self.body, self.size)))

    def _undelta(self, pack: Pack) -> tuple[Kind, Iterator[bytes]]:
        kind, data = pack.read(self.offset)
        if len(data) != self.size:
            raise LocalStateError("object does not have the size that its pack says", where=self.oid)
        return kind, iter((data,))

    def _kind(self) -> Kind:
        if self.kind is None:
            raise LocalStateError("a loose object without a kind", where=self.oid)
        return self.kind


class ObjectReader:
    """Finds objects in loose files and packs, alternates included, and their size before inflating.

    It sees the packs that are there when it is made. `find` and what it returns may be used from any thread until the
    repository is closed.
    """

    def __init__(self, repo: Repository) -> None:
        self._folders = repo.packs.folders
        self._packs = repo.packs.all()

    def find(self, oid: ObjectId) -> Stored:
        """Raises `NotFound`, `LocalStateError` for one that is damaged at first sight."""
        for pack in self._packs:
            offset = pack.find(oid.raw)
            if offset is not None:
                kind, size, body = pack.size_of(offset)
                return Stored(oid, kind, size, pack, offset, body)
        for folder in self._folders:
            stored = _find_loose(oid, folder / oid[:2] / oid[2:])
            if stored is not None:
                return stored
        raise NotFound("no such object", where=oid)


def _slices(fd: int, at: int, size: int) -> Iterator[bytes]:
    """The deflated bytes from `at` on. Slices reach little past a small object: what is behind a stream is copied."""
    step = min(PIECE // 4, bound(size))
    while piece := os.pread(fd, step, at):
        yield piece
        at += len(piece)


def _inflate(stored: Stored, deflated: Iterator[bytes]) -> Iterator[bytes]:
    """The object's bytes from one zlib stream, in pieces. A loose object's begins with its header and is all."""
    header = stored.body if stored.pack is None else 0
    stream = isal_zlib.decompressobj()
    left, skip = stored.size + header, header
    try:
        for source in deflated:
            for data in _stream_on(stream, source):
                left -= len(data)
                if left < 0:
                    break
                skip, data = max(0, skip - len(data)), data[skip:]
                if data:
                    yield data
            if stream.eof or left < 0:
                break
        whole = stream.eof and left == 0 and not (header and (stream.unused_data or any(deflated)))
    except (_ISAL_ERROR, OSError) as error:
        raise LocalStateError("damaged object", where=stored.oid, why=str(error)) from error
    if not whole:
        raise LocalStateError("damaged object", where=stored.oid, why=f"it is not {stored.size} bytes, as it says")


def _stream_on(stream: isal_zlib.Decompress, source: bytes) -> Iterator[bytes]:
    """What `source` inflates to; a full piece may leave more inside zlib, also when all input is used up."""
    while True:
        data = stream.decompress(source, PIECE)
        yield data
        source = stream.unconsumed_tail
        if stream.eof or (not source and len(data) < PIECE):
            return


def _find_loose(oid: ObjectId, path: Path) -> Stored | None:
    try:
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            head, nul, _ = zlib.decompressobj().decompress(file.read(256), 64).partition(b"\0")
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, zlib.error) as error:
        raise LocalStateError("damaged loose object", where=str(path), why=str(error)) from error
    kind, _, size = head.decode("latin-1").partition(" ")
    if not nul or kind not in NUMBERS or not size.isdecimal() or not size.isascii() or str(int(size)) != size:
        raise LocalStateError("damaged loose object", where=str(path), why="not an object's header")
    return Stored(oid, kind, int(size), None, 0, len(head) + 1, path)


def _file_slices(stored: Stored) -> Iterator[bytes]:
    with open(stored.path or "", "rb") as file:
        while piece := file.read(PIECE // 4):
            yield piece
