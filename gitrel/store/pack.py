"""Objects in bulk, written straight into one pack (gitformat-pack(5)). The rules:

- An object that the repository has already is never deflated; its pack or file is touched instead, as git
  does, so that a `git gc` at the same time does not prune it as old.
- The order is pack, fsync; index, fsync; rename pack, rename index, fsync folder. Killed in between, it
  leaves `tmp_gitrel_*` files, removed by the next writer once they are an hour old (`git prune` takes them
  too), or a pack without index, which git ignores, and which the next run over the same input completes.
- The same objects in the same order give the same file under the same version of ISA-L.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import stat
import struct
import time
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

from isal import isal_zlib

from gitrel.errors import LocalStateError
from gitrel.ids import Kind, ObjectId
from gitrel.store.durable import disk_error, make_folders, sync_folder
from gitrel.store.objects import PIECE
from gitrel.store.packfile import NUMBERS, entry_header, write_index
from gitrel.store.repository import Repository

_LEVEL = 2  # of 0 to 3: a fifth of the time of zlib's level 1, and no bigger (docs/dependencies.md)
_STALE = 3600  # seconds
_TEMPORARY = "tmp_gitrel_"


class Deflated(NamedTuple):
    """One object as it stands in a pack: header and zlib stream, and their CRC-32."""

    entry: bytes
    crc: int


class Spooled(NamedTuple):
    """The same of a big object, in a file, which `PackWriter.put` deletes."""

    entry: Path
    crc: int


def deflate(kind: Kind, data: bytes) -> Deflated:
    entry = entry_header(NUMBERS[kind], len(data)) + isal_zlib.compress(data, _LEVEL)
    return Deflated(entry, zlib.crc32(entry))


class PackWriter:
    """A new pack. Use it as a context manager: what `finish` has not published is gone afterwards.

    A forked process may use `lacks`, which then knows what was there when it was forked, and `spool`. Every method
    raises `LocalStateError`.
    """

    def __init__(self, repo: Repository) -> None:
        self._repo = repo
        self._folder = repo.objects / "pack"
        self._known = _Known(repo)
        self._entries: dict[bytes, tuple[int, int]] = {}  # raw id -> offset, CRC-32
        self._stem = f"{_TEMPORARY}{secrets.token_hex(8)}"
        self._file: BinaryIO | None = None
        self._at = 0

    def __enter__(self) -> PackWriter:
        return self

    def __exit__(self, *exc: object) -> None:
        if self._file is not None:
            with contextlib.suppress(OSError):  # flushing into a full disk; the file goes anyway
                self._file.close()
        for path in self._folder.glob(f"{self._stem}*"):
            path.unlink(missing_ok=True)

    def lacks(self, oid: ObjectId) -> bool:
        """Whether the object is neither in the repository nor in this pack yet."""
        return oid.raw not in self._entries and oid not in self._known

    def add(self, kind: Kind, data: bytes) -> ObjectId:
        """Put an object in, unless it is known; its id."""
        oid = self._repo.format.object_id(kind, data)
        if self.lacks(oid):
            self.put(oid, deflate(kind, data))
        return oid

    def spool(self, kind: Kind, size: int, pieces: Iterable[bytes]) -> Spooled:
        """Deflate an object that is too big for memory, for `put`."""
        make_folders(self._folder)
        path, crc = self._aside(f".{secrets.token_hex(8)}"), 0
        try:
            with open(_create(path), "wb") as file:
                for part in _deflated_parts(kind, size, pieces):
                    file.write(part)
                    crc = zlib.crc32(part, crc)
        except OSError as error:
            raise disk_error(error, self._folder) from error
        return Spooled(path, crc)

    def put(self, oid: ObjectId, made: Deflated | Spooled) -> None:
        """Append an object whose id the caller computed. A second copy is dropped."""
        if isinstance(made, Deflated):
            self._put(oid, (made.entry,), made.crc)
            return
        try:
            with open(made.entry, "rb") as file:
                self._put(oid, iter(lambda: file.read(PIECE), b""), made.crc)
            made.entry.unlink()
        except OSError as error:
            raise disk_error(error, made.entry) from error

    def put_pieces(self, oid: ObjectId, kind: Kind, size: int, pieces: Iterable[bytes]) -> None:
        """Append an object in pieces that add up to `size` bytes and hash to `oid`; both are the caller's
        promise.

        A caller that finds its promise broken leaves the context: then nothing is published.
        """
        self.put(oid, self.spool(kind, size, pieces))

    def _put(self, oid: ObjectId, parts: Iterable[bytes], crc: int) -> None:
        raw = oid.raw
        if raw in self._entries:
            return
        start = self._begin()
        for part in parts:
            self._append(part)
        self._entries[raw] = (start, crc)

    def finish(self) -> Path | None:
        """Publish the pack, durably, and return its path; None if there was nothing to write."""
        if self._file is None:
            return None
        try:
            checksum = self._seal(self._file)
            write_index(self._aside(".idx"), self._entries, checksum, self._repo.format)
            final = self._folder / f"pack-{checksum.hex()}"
            self._publish(final.with_suffix(".pack"), final.with_suffix(".idx"))
        except OSError as error:
            raise disk_error(error, self._folder) from error
        self._file = None
        self._known.reload()
        return final.with_suffix(".pack")

    def _seal(self, file: BinaryIO) -> bytes:
        """Write the number of objects, which nobody knew before, and the checksum over all; fsync."""
        file.flush()
        os.pwrite(file.fileno(), struct.pack(">L", len(self._entries)), 8)
        digest = hashlib.new(self._repo.format.value, usedforsecurity=False)
        at = 0
        while piece := os.pread(file.fileno(), PIECE, at):
            digest.update(piece)
            at += len(piece)
        file.write(digest.digest())
        file.flush()
        os.fsync(file.fileno())
        file.close()
        return digest.digest()

    def _publish(self, pack: Path, index: Path) -> None:
        os.rename(self._aside(".pack"), pack)
        try:
            os.rename(self._aside(".idx"), index)
        except OSError:
            if not index.exists():  # otherwise another writer of the same objects is ahead, and the pack is its own
                pack.unlink()
            raise
        sync_folder(self._folder)

    def _begin(self) -> int:
        """Where the next object will be; makes the file before the first."""
        if self._file is None:
            make_folders(self._folder)
            try:
                _remove_stale(self._folder)
                self._file = os.fdopen(_create(self._aside(".pack")), "w+b", buffering=1 << 20)
            except OSError as error:
                raise disk_error(error, self._folder) from error
            self._append(b"PACK" + struct.pack(">LL", 2, 0))
        return self._at

    def _append(self, data: bytes) -> None:
        if self._file is None:
            raise LocalStateError("the pack is finished", where=str(self._folder))
        try:
            self._file.write(data)
        except OSError as error:
            raise disk_error(error, self._folder) from error
        self._at += len(data)

    def _aside(self, suffix: str) -> Path:
        return self._folder / f"{self._stem}{suffix}"


def _create(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o444)


def _remove_stale(folder: Path) -> None:
    with os.scandir(folder) as found:
        for entry in found:
            if not entry.name.startswith(_TEMPORARY):
                continue
            with contextlib.suppress(FileNotFoundError):  # its owner finished, or another writer was quicker
                info = entry.stat(follow_symlinks=False)
                if stat.S_ISREG(info.st_mode) and info.st_mtime < time.time() - _STALE:
                    os.unlink(entry.path)


def _deflated_parts(kind: Kind, size: int, pieces: Iterable[bytes]) -> Iterator[bytes]:
    stream = isal_zlib.compressobj(_LEVEL)
    yield entry_header(NUMBERS[kind], size)
    for piece in pieces:
        yield stream.compress(piece)
    yield stream.flush()


class _Known:
    """What the repository had when it was opened. Alternates may vanish, so they do not count."""

    def __init__(self, repo: Repository) -> None:
        self._repo = repo
        self._loose: dict[str, frozenset[str]] = {}
        self.reload()

    def reload(self) -> None:
        self._packs = self._repo.packs.own()
        self._touched: set[int] = set()

    def __contains__(self, oid: ObjectId) -> bool:
        return self._is_packed(oid) or self._is_loose(oid)

    def _is_packed(self, oid: ObjectId) -> bool:
        for number, pack in enumerate(self._packs):
            if pack.find(oid.raw) is None:
                continue
            if number in self._touched or _touch(os.fspath(pack.path)):
                self._touched.add(number)
                return True
        return False

    def _is_loose(self, oid: ObjectId) -> bool:
        prefix = oid[:2]
        if prefix not in self._loose:
            try:
                self._loose[prefix] = frozenset(os.listdir(self._repo.objects / prefix))
            except FileNotFoundError:
                self._loose[prefix] = frozenset()
        return oid[2:] in self._loose[prefix] and _touch(os.fspath(self._repo.objects / prefix / oid[2:]))


def _touch(path: str) -> bool:
    """Make the file young for `git prune`; where that cannot be, the object is stored again."""
    try:
        os.utime(path)
    except OSError:
        return False
    return True
