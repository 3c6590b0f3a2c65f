"""Objects read in pieces: found in loose files and packs, and sized before anything of them is inflated.

`ObjectReader` does not hash what it reads: its callers do, while they use it. Big objects are never in memory whole,
but for those that a pack holds as a delta: up to `MAX_DELTA`, with its base beside it.

What is read here was hashed when it came in, inflated by zlib, so ISA-L's faster inflate reads no stranger's bytes
first (`gitrel.store.packfile` does).
"""

from __future__ import annotations

import contextlib
import os
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, cast

from dulwich.object_store import DiskObjectStore
from dulwich.pack import Pack
from isal import isal_zlib

from gitrel.errors import FormatError, LocalStateError, NotFound
from gitrel.ids import Kind, ObjectId
from gitrel.store.delta import read_sizes
from gitrel.store.packfile import OFS_DELTA, REF_DELTA, read_distance, read_type_and_size
from gitrel.store.repository import Repository

PIECE = 256 * 1024  # bytes; how much of a big object is in memory at a time
WHOLE = 4 * 1024 * 1024  # bytes; what is bigger is read and written in pieces
MAX_DELTA = 512 * 1024 * 1024  # bytes; git deltifies nothing above it (core.bigFileThreshold, git-config(1))
NUMBERS = {"commit": 1, "tree": 2, "blob": 3, "tag": 4}

_ISAL_ERROR = cast("type[Exception]", isal_zlib.error)  # its stubs take the class for an instance
_KINDS = {number: kind for kind, number in NUMBERS.items()}
_HEAD = 32  # bytes; holds an object's type, its size, and the distance of a delta's base
_DELTA_HEAD = 512  # and its base's id, and the first 32 bytes of the delta


def packs_of(store: DiskObjectStore) -> list[Pack]:
    """dulwich's packs in a stable order. Raises `LocalStateError`."""
    try:
        return sorted(store.packs, key=lambda pack: os.fspath(pack.data.path))
    except Exception as error:  # dulwich raises whatever its parser trips over in a damaged pack or index
        raise LocalStateError("cannot open a pack", where=os.fsdecode(store.path), why=str(error)) from error


def offset_of(pack: Pack, oid: ObjectId) -> int | None:
    """Where the object is in the pack; None if it is not."""
    try:
        return pack.index.object_offset(oid.raw)  # type: ignore[arg-type]
    except KeyError:
        return None


class _OpenPack(NamedTuple):
    pack: Pack
    fd: int


class Stored(NamedTuple):
    """An object found but not read. `kind` is None for a delta: it is known when the object is read.

    `pack` and `offset` say where it is in a pack, `path` where it is loose; `body` is where deflated data begins, or
    how long the header in it is.
    """

    oid: ObjectId
    kind: Kind | None
    size: int
    pack: _OpenPack | None
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
            return _read_delta(self.oid, self.size, self.pack.pack)
        return self.kind, _inflate(self, _slices(self.pack.fd, self.body, self.size))

    def whole(self, room: int | None = None) -> tuple[Kind, bytes]:
        """The kind and all the data. It is in the next `room` bytes of its pack, if the caller knows that much."""
        if self.pack is None or self.kind is None:
            kind, pieces = self.read()
            return kind, b"".join(pieces)
        stream, bound = isal_zlib.decompressobj(), _bound(self.size)
        try:
            raw = os.pread(self.pack.fd, bound if room is None else min(room, bound), self.body)
            data = stream.decompress(raw, self.size + 1)
        except (_ISAL_ERROR, OSError) as error:
            raise LocalStateError("damaged object", where=self.oid, why=str(error)) from error
        if len(data) == self.size and stream.eof:
            return self.kind, data
        return self.kind, b"".join(_inflate(self, _slices(self.pack.fd, self.body, self.size)))

    def _kind(self) -> Kind:
        if self.kind is None:
            raise LocalStateError("a loose object without a kind", where=self.oid)
        return self.kind


class ObjectReader:
    """Finds objects in loose files and packs, alternates included, and their size before inflating.

    `find` and what it returns may be used from any thread until `close`.
    """

    def __init__(self, repo: Repository) -> None:
        self._raw_length = repo.format.raw_length
        self._folders: list[Path] = []
        self._packs: list[_OpenPack] = []
        with contextlib.ExitStack() as opened:
            for store in _stores(repo.packs, opened):
                self._folders.append(Path(os.fsdecode(store.path)))
                for pack in packs_of(store):
                    fd = _open_pack(pack)
                    opened.callback(os.close, fd)
                    self._packs.append(_OpenPack(pack, fd))
            self._opened = opened.pop_all()

    def __enter__(self) -> ObjectReader:
        return self

    def __exit__(self, *exc: object) -> None:
        self._opened.close()

    def find(self, oid: ObjectId) -> Stored:
        """Raises `NotFound`, `LocalStateError` for one that is damaged at first sight."""
        for pack in self._packs:
            at = offset_of(pack.pack, oid)
            if at is not None:
                try:
                    return self._packed(oid, pack, at)
                except (IndexError, FormatError, zlib.error, OSError) as error:
                    where = os.fspath(pack.pack.data.path)
                    raise LocalStateError("damaged pack", where=where, why=str(error)) from error
        for folder in self._folders:
            stored = _find_loose(oid, folder / oid[:2] / oid[2:])
            if stored is not None:
                return stored
        raise NotFound("no such object", where=oid)

    def _packed(self, oid: ObjectId, pack: _OpenPack, start: int) -> Stored:
        head = os.pread(pack.fd, _HEAD, start)
        number, size, at = read_type_and_size(head)
        if size >= 2**63:
            raise IndexError("a size of over 63 bits")
        if number in _KINDS:
            return Stored(oid, _KINDS[number], size, pack, start, start + at)
        if number == OFS_DELTA:
            _, at = read_distance(head, at)
        elif number == REF_DELTA:
            at += self._raw_length
        else:
            raise IndexError(f"object of type {number}")
        delta = zlib.decompressobj().decompress(os.pread(pack.fd, _DELTA_HEAD, start + at), 32)
        return Stored(oid, None, read_sizes(delta)[1], pack, start, start + at)


def _stores(own: DiskObjectStore, opened: contextlib.ExitStack, depth: int = 0) -> Iterator[DiskObjectStore]:
    """The store and its alternates, five deep, as git goes (alt_odb_usable() in git's object-file.c)."""
    yield own
    for other in own.alternates if depth < 5 else []:
        if isinstance(other, DiskObjectStore):
            # dulwich 1.2.21 takes every alternate for a SHA-1 store
            again = DiskObjectStore(other.path, object_format=own.object_format)
            opened.callback(again.close)
            yield from _stores(again, opened, depth + 1)


def _open_pack(pack: Pack) -> int:
    """Read with pread(2) rather than mapped: a mapping's pages count as this process's memory."""
    try:
        return os.open(pack.data.path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise LocalStateError("cannot open a pack", where=os.fspath(pack.data.path), why=str(error)) from error


def _read_delta(oid: ObjectId, size: int, pack: Pack) -> tuple[Kind, Iterator[bytes]]:
    if size > MAX_DELTA:
        raise LocalStateError("delta too big", where=oid, why=f"{size} bytes; git makes none above {MAX_DELTA}")
    try:
        number, data = pack.get_raw(oid.raw)  # type: ignore[arg-type]
    except BaseException as error:
        # A panic of dulwich's native code is no Exception; everything else that is none is not ours to keep
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise LocalStateError("cannot read an object from its pack", where=oid, why=str(error)) from error
    if len(data) != size or number not in _KINDS:
        raise LocalStateError("object does not have the size or type that its pack says", where=oid)
    return _KINDS[number], iter((data,))


def _bound(size: int) -> int:
    """What `size` bytes deflate to at most, by any deflater (deflateBound() in zlib)."""
    return size + (size >> 8) + 64


def _slices(fd: int, at: int, size: int) -> Iterator[bytes]:
    """The deflated bytes from `at` on. Slices reach little past a small object: what is behind a stream is copied."""
    step = min(PIECE // 4, _bound(size))
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
