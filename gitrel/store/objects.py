"""Objects read in pieces: found in loose files and packs, and sized before anything of them is inflated.

`ObjectReader` does not hash what it reads: its callers do, while they use it, with `BlobHash`. Big objects
are never in memory whole, but for those that a pack holds as a delta: up to `MAX_DELTA`, with its base beside
it.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import zlib
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from dulwich.object_store import DiskObjectStore
from dulwich.pack import Pack

from gitrel.errors import LocalStateError, NotFound
from gitrel.format.tree import Mode, Node
from gitrel.ids import Kind, ObjectFormat, ObjectId, Sha256
from gitrel.store.repository import Repository

PIECE = 256 * 1024  # bytes; how much of a big object is in memory at a time
MAX_DELTA = 512 * 1024 * 1024  # bytes; git deltifies nothing above it (core.bigFileThreshold, git-config(1))
THREADS = min(4, len(os.sched_getaffinity(0)))  # hashing, deflating and the disk run outside Python's lock
NUMBERS = {"commit": 1, "tree": 2, "blob": 3, "tag": 4}

_KINDS = {number: kind for kind, number in NUMBERS.items()}
_HEAD = 512  # bytes; holds an object's header, its base's id, and the zlib stream's first 32 bytes of data
_OFS_DELTA, _REF_DELTA = 6, 7

T = TypeVar("T")
R = TypeVar("R")


def in_order(batches: Iterable[T], work: Callable[[T], R]) -> Generator[R, None, None]:
    """`map(work, batches)` in threads: results in order, a few batches ahead of the consumer and no more.

    Close it (`contextlib.closing`) if it may not be exhausted; closing waits for the threads.
    """
    pending: deque[Future[R]] = deque()
    with ThreadPoolExecutor(THREADS) as pool:
        try:
            for batch in batches:
                pending.append(pool.submit(work, batch))
                if len(pending) > THREADS + 1:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()


class BlobHash:
    """Both ids of a blob of known size, fed in pieces."""

    __slots__ = ("_git", "_sha256")

    def __init__(self, size: int, fmt: ObjectFormat) -> None:
        header = b"blob %d\0" % size
        self._sha256 = hashlib.sha256(header)
        self._git = None if fmt is ObjectFormat.SHA256 else hashlib.sha1(header, usedforsecurity=False)

    def update(self, data: bytes) -> None:
        self._sha256.update(data)
        if self._git is not None:
            self._git.update(data)

    def node(self, mode: Mode) -> Node:
        sha256 = self._sha256.hexdigest()
        return Node(mode, ObjectId(self._git.hexdigest() if self._git is not None else sha256), Sha256(sha256))


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


@dataclass(frozen=True, slots=True)
class Stored:
    """An object found but not read. `kind` is None for a delta: it is known when the object is read."""

    oid: ObjectId
    kind: Kind | None
    size: int
    _read: Callable[[], tuple[Kind, Iterator[bytes]]]

    def read(self) -> tuple[Kind, Iterator[bytes]]:
        """The kind, and the data in pieces of at most `PIECE` bytes; a delta's result comes in one.

        Raises `LocalStateError`, also while iterating, for bytes that cannot be read or do not have the size.
        """
        return self._read()


class ObjectReader:
    """Finds objects in loose files and packs, alternates included, and their size before inflating.

    `find` and what it returns may be used from any thread until `close`.
    """

    def __init__(self, repo: Repository) -> None:
        self._raw_length = repo.format.raw_length
        self._folders: list[Path] = []
        self._packs: list[tuple[Pack, int]] = []
        with contextlib.ExitStack() as opened:
            for store in _stores(repo.packs, opened):
                self._folders.append(Path(os.fsdecode(store.path)))
                for pack in packs_of(store):
                    fd = _open_pack(pack)
                    opened.callback(os.close, fd)
                    self._packs.append((pack, fd))
            self._opened = opened.pop_all()

    def __enter__(self) -> ObjectReader:
        return self

    def __exit__(self, *exc: object) -> None:
        self._opened.close()

    def find(self, oid: ObjectId) -> Stored:
        """Raises `NotFound`, `LocalStateError` for one that is damaged at first sight."""
        for pack, fd in self._packs:
            at = offset_of(pack, oid)
            if at is not None:
                try:
                    return self._packed(oid, pack, fd, at)
                except (IndexError, zlib.error, OSError) as error:
                    where = os.fspath(pack.data.path)
                    raise LocalStateError("damaged pack", where=where, why=str(error)) from error
        for folder in self._folders:
            stored = _find_loose(oid, folder / oid[:2] / oid[2:])
            if stored is not None:
                return stored
        raise NotFound("no such object", where=oid)

    def _packed(self, oid: ObjectId, pack: Pack, fd: int, start: int) -> Stored:
        head = os.pread(fd, _HEAD, start)
        number, size, at = _read_object_header(head)
        if number in _KINDS:
            kind, start = _KINDS[number], start + at
            return Stored(oid, kind, size, lambda: (kind, _inflate(oid, size, _slices(fd, start, size))))
        if number == _OFS_DELTA:
            while head[at] & 0x80:
                at += 1
            at += 1
        elif number == _REF_DELTA:
            at += self._raw_length
        else:
            raise IndexError(f"object of type {number}")
        size = _delta_result(zlib.decompressobj().decompress(head[at:], 32))
        return Stored(oid, None, size, lambda: _read_delta(oid, size, pack))


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


def _read_object_header(head: bytes) -> tuple[int, int, int]:
    """The type's number, the size, and where the header ends. Raises `IndexError`."""
    byte = head[0]
    number, size, shift, at = byte >> 4 & 7, byte & 15, 4, 1
    while byte & 0x80:
        byte = head[at]
        size |= (byte & 0x7F) << shift
        shift += 7
        at += 1
    if size >= 2**63:
        raise IndexError("a size of over 63 bits")
    return number, size, at


def _delta_result(delta: bytes) -> int:
    """A delta begins with the size of its base and the size of its result, in groups of 7 bits."""
    at = size = 0
    for _ in range(2):
        size = shift = 0
        while True:
            size |= (delta[at] & 0x7F) << shift
            shift += 7
            at += 1
            if not delta[at - 1] & 0x80:
                break
    return size


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


def _slices(fd: int, at: int, size: int) -> Iterator[bytes]:
    """The deflated bytes from `at` on. Slices reach little past a small object: zlib copies the rest."""
    step = min(PIECE // 4, size + (size >> 8) + 64)
    while piece := os.pread(fd, step, at):
        yield piece
        at += len(piece)


def _inflate(oid: ObjectId, size: int, deflated: Iterator[bytes], *, header: int = 0) -> Iterator[bytes]:
    """The `size` bytes of one zlib stream, in pieces. A loose object's begins with its header and is all."""
    stream = zlib.decompressobj()
    left, skip = size + header, header
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
    except (zlib.error, OSError) as error:
        raise LocalStateError("damaged object", where=oid, why=str(error)) from error
    if not whole:
        raise LocalStateError("damaged object", where=oid, why=f"it is not {size} bytes, as its header says")


def _stream_on(stream: zlib._Decompress, source: bytes) -> Iterator[bytes]:
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
    length, header = int(size), len(head) + 1
    return Stored(oid, kind, length, lambda: (kind, _inflate(oid, length, _file_slices(path), header=header)))


def _file_slices(path: Path) -> Iterator[bytes]:
    with open(path, "rb") as file:
        while piece := file.read(PIECE // 4):
            yield piece
