"""The packs of a repository: an object found by its pack's index, and read with the deltas it stands on.

A pack is used if its index is there and fits it: version 2, of the length that its counts say, and with the pack's own
checksum at the end (gitformat-pack(5)). Indexes are mapped, a megabyte for 30,000 objects; packs are read with
pread(2), because a mapping's pages count as this process's memory. Nothing is hashed here: the callers do that.

A base that was read is kept for a while, as git does (core.deltaBaseCacheLimit): what stands on it comes next, mostly.
"""

from __future__ import annotations

import mmap
import os
import struct
import threading
import time
import zlib
from collections.abc import Iterator
from pathlib import Path

from gitrel.errors import FormatError, LocalStateError
from gitrel.ids import Kind, ObjectFormat, ObjectId
from gitrel.store.delta import apply_delta, read_sizes
from gitrel.store.durable import TICK
from gitrel.store.packfile import HEAD, KINDS, parse_head, read_type_and_size

MAX_DELTA = 512 * 1024 * 1024  # bytes; git deltifies nothing above it (core.bigFileThreshold, git-config(1))
_MAX_DEPTH = 4096  # deltas on top of each other; git makes at most 4095 (pack.depth)
_BASES = 16 * 1024 * 1024  # bytes of bases kept for each pack
_MAGIC = b"\377tOc\0\0\0\2"
_FANOUT = struct.Struct(">256I")
_IDS = len(_MAGIC) + _FANOUT.size


def bound(size: int) -> int:
    """What `size` bytes deflate to at most, by any sane deflater (deflateBound() in zlib)."""
    return size + (size >> 8) + 64


class Pack:
    """One pack, open. It may be read from several threads. Raises `LocalStateError` for one that is damaged."""

    def __init__(self, path: Path, fmt: ObjectFormat) -> None:
        self.path = path
        self._width = fmt.raw_length
        self._bases: dict[int, tuple[Kind, bytes]] = {}
        self._held = 0
        self._lock = threading.Lock()
        self.fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            self.size = os.fstat(self.fd).st_size
            with open(path.with_suffix(".idx"), "rb") as file:
                self._index = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            self._check()
        except (ValueError, struct.error, FormatError) as error:
            os.close(self.fd)
            raise LocalStateError("damaged pack or index", where=str(path), why=str(error)) from error
        except BaseException:
            os.close(self.fd)
            raise

    def close(self) -> None:
        os.close(self.fd)
        self._index.close()

    def _check(self) -> None:
        width, length = self._width, len(self._index)
        if self._index[: len(_MAGIC)] != _MAGIC:
            raise FormatError("not an index of version 2", hint="git index-pack makes one")
        self._fanout = _FANOUT.unpack_from(self._index, len(_MAGIC))
        self.count = count = self._fanout[-1]
        self._offsets = _IDS + count * (width + 4)
        self._large = self._offsets + count * 4
        if sorted(self._fanout) != list(self._fanout) or not 0 <= length - 2 * width - self._large <= 8 * count:
            raise FormatError("the index has another length than it says")
        if os.pread(self.fd, 12, 0) != struct.pack(">4sII", b"PACK", 2, count):
            raise FormatError("the pack has another header than its index says")
        if os.pread(self.fd, width, self.size - width) != self._index[length - 2 * width : length - width]:
            raise FormatError("the index is another pack's")

    def find(self, raw: bytes) -> int | None:
        """Where the object of a raw id begins; None if it is not in the pack."""
        index, width = self._index, self._width
        low, high = self._fanout[raw[0] - 1] if raw[0] else 0, self._fanout[raw[0]]
        while low < high:
            middle = (low + high) >> 1
            at = _IDS + middle * width
            here = index[at : at + width]
            if here < raw:
                low = middle + 1
            elif here > raw:
                high = middle
            else:
                return self._offset(middle)
        return None

    def entries(self) -> Iterator[tuple[bytes, int]]:
        """Every object's raw id and where it begins, in the order of the ids."""
        for number in range(self.count):
            at = _IDS + number * self._width
            yield self._index[at : at + self._width], self._offset(number)

    def _offset(self, number: int) -> int:
        (offset,) = struct.unpack_from(">I", self._index, self._offsets + 4 * number)
        if offset & 1 << 31:
            at = self._large + 8 * (offset & ~(1 << 31))
            if at + 8 > len(self._index) - 2 * self._width:
                raise self._damaged("its index names a place that it does not have")
            (offset,) = struct.unpack_from(">Q", self._index, at)
        if not 12 <= offset < self.size:
            raise self._damaged("its index names a place outside of it")
        return int(offset)

    def head(self, offset: int) -> tuple[int, int, int, int | bytes | None]:
        """Of the object at `offset`: its type, its size inflated, where its deflated data begins, and a delta's base.

        A base is an offset or a raw id.
        """
        try:
            number, size, length, base = parse_head(os.pread(self.fd, HEAD, offset), offset, self._width)
        except (FormatError, OSError) as error:
            raise self._damaged(error) from error
        return number, size, offset + length, base

    def read(self, offset: int) -> tuple[Kind, bytes]:
        """The object at `offset`, whole. One that is a delta, or stands under one, has at most `MAX_DELTA` bytes."""
        chain: list[tuple[int, int, int]] = []
        at = offset
        while (found := self._bases.get(at)) is None:
            number, size, body, base = self.head(at)
            if base is None:
                self._bound(size if chain else 0)
                found = KINDS[number], self._inflate(body, size)
                break
            chain.append((at, body, size))
            if len(chain) > _MAX_DEPTH:
                raise self._damaged(f"over {_MAX_DEPTH} deltas on top of each other")
            at = self._base(base)
        kind, data = found
        while chain:
            self._keep(at, kind, data)
            at, body, size = chain.pop()
            self._bound(size)
            delta = self._inflate(body, size)
            try:
                self._bound(read_sizes(delta)[1])
                data = apply_delta(data, delta)
            except FormatError as error:
                raise self._damaged(error) from error
        return kind, data

    def size_of(self, offset: int) -> tuple[Kind | None, int, int]:
        """An object's kind, None for a delta, its size, and where its deflated data begins."""
        try:
            head = os.pread(self.fd, HEAD, offset)
            if (kind := KINDS.get(head[0] >> 4 & 7)) is not None:
                _, size, length = read_type_and_size(head)
                if size < 1 << 63:
                    return kind, size, offset + length
            _, size, body, _ = self.head(offset)
            start = zlib.decompressobj().decompress(os.pread(self.fd, 512, body), 32)
            return None, read_sizes(start)[1], body
        except (IndexError, FormatError, zlib.error, OSError) as error:
            raise self._damaged(error) from error

    def _base(self, base: int | bytes) -> int:
        found = base if isinstance(base, int) else self.find(base)
        if found is None:
            raise self._damaged("a delta's base is not in the pack")
        return found

    def _bound(self, size: int) -> None:
        if size > MAX_DELTA:
            raise self._damaged(f"a delta of {size} bytes; git makes none above {MAX_DELTA}")

    def _inflate(self, body: int, size: int) -> bytes:
        stream, at, parts, left = zlib.decompressobj(), body, [], size
        try:
            while not stream.eof:
                raw = stream.unconsumed_tail or os.pread(self.fd, bound(left), at)
                if not raw:
                    raise FormatError("an object goes on behind the pack's end")
                at += 0 if stream.unconsumed_tail else len(raw)
                parts.append(stream.decompress(raw, left + 1))
                left -= len(parts[-1])
                if left < 0:
                    raise FormatError("an object is larger than it says")
        except (zlib.error, OSError, FormatError) as error:
            raise self._damaged(error) from error
        if left:
            raise self._damaged("an object is smaller than it says")
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _keep(self, offset: int, kind: Kind, data: bytes) -> None:
        if len(data) > _BASES // 4:
            return
        with self._lock:
            if offset not in self._bases:
                self._bases[offset] = (kind, data)
                self._held += len(data)
                while self._held > _BASES:
                    self._held -= len(self._bases.pop(next(iter(self._bases)))[1])

    def _damaged(self, why: object) -> LocalStateError:
        return LocalStateError("damaged pack", where=str(self.path), why=str(why))


class Packs:
    """The packs of an objects folder and of its alternates, opened when they are first asked for."""

    def __init__(self, objects: Path, fmt: ObjectFormat) -> None:
        self._objects, self._format = objects, fmt
        self._open: dict[Path, Pack] = {}
        self._gone: list[Pack] = []
        self._damaged: dict[Path, LocalStateError] = {}
        self._folders: list[Path] = []
        self._listed: dict[Path, int] = {}  # by folder of packs, when that changed last, before it was listed
        self._lock = threading.Lock()

    def close(self) -> None:
        with self._lock:
            for pack in (*self._open.values(), *self._gone):
                pack.close()
            self._open, self._gone, self._listed = {}, [], {}

    @property
    def folders(self) -> list[Path]:
        """The objects folder, then its alternates, five deep, as git goes (alt_odb_usable() in git's object-file.c)."""
        if not self._folders:
            self._folders = list(dict.fromkeys(_with_alternates(self._objects, 5)))
        return self._folders

    def own(self) -> list[Pack]:
        """Those that are no alternate's, as they are now, by name. Raises `LocalStateError`."""
        self.reload()
        self._check()
        return [pack for path, pack in self._open.items() if path.parent.parent == self._objects]

    def all(self) -> list[Pack]:
        """As they are now. Raises `LocalStateError`."""
        self.reload()
        self._check()
        return list(self._open.values())

    def find(self, oid: ObjectId) -> tuple[Pack, int] | None:
        """Where an object is, looking again for packs if it is in none.

        Raises `LocalStateError`: for a damaged pack, if it may be in there and is nowhere else.
        """
        looked = self._open
        if found := self._find(oid.raw):
            return found
        self.reload()
        if self._open is not looked and (found := self._find(oid.raw)):  # it, or another thread, looked again
            return found
        self._check()
        return None

    def _find(self, raw: bytes) -> tuple[Pack, int] | None:
        if len(raw) == self._format.raw_length:
            for pack in list(self._open.values()):
                if (offset := pack.find(raw)) is not None:
                    return pack, offset
        return None

    def reload(self) -> None:
        """Look for packs that came or went. Who found something in one that went may read on."""
        folders = [folder / "pack" for folder in self.folders]
        with self._lock:
            changed = {folder: _changed(folder) for folder in folders}
            if changed == self._listed:
                return
            settled = time.time_ns() - TICK  # what changed since may change again in the same tick of the clock
            self._listed = {folder: at for folder, at in changed.items() if at < settled}
            there: dict[Path, Pack] = {}
            self._damaged = {}
            for folder in folders:
                for path in _packs_in(folder):
                    try:
                        if pack := self._open.get(path) or self._try(path):
                            there[path] = pack
                    except LocalStateError as error:
                        self._damaged[path] = error
            self._gone += [pack for path, pack in self._open.items() if path not in there]
            self._open = there

    def _check(self) -> None:
        for error in self._damaged.values():
            raise error

    def _try(self, path: Path) -> Pack | None:
        try:
            return Pack(path, self._format)
        except FileNotFoundError:
            return None  # its removal is under way
        except OSError as error:
            raise LocalStateError("cannot open a pack", where=str(path), why=str(error)) from error


def _changed(folder: Path) -> int:
    """When a name came or went in a folder, in nanoseconds; 0 without the folder."""
    try:
        return os.stat(folder).st_mtime_ns
    except OSError:
        return 0  # `_packs_in` says what is wrong with it


def _packs_in(folder: Path) -> list[Path]:
    try:
        names = set(os.listdir(folder))
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise LocalStateError("cannot list the packs", where=str(folder), why=str(error)) from error
    return [
        folder / name
        for name in sorted(names)
        if name.startswith("pack-") and name.endswith(".pack") and f"{name[:-5]}.idx" in names
    ]


def _with_alternates(objects: Path, depth: int) -> Iterator[Path]:
    """Lines of `info/alternates`, relative to the folder; one may be quoted in C's way (gitrepository-layout(5))."""
    yield objects
    try:
        lines = (objects / "info" / "alternates").read_bytes().splitlines() if depth else []
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:
        raise LocalStateError("cannot read the alternates", where=str(objects), why=str(error)) from error
    for line in lines:
        if line.startswith(b'"') and line.endswith(b'"'):
            line = line[1:-1].decode("unicode_escape", "replace").encode("latin-1", "replace")
        if line and not line.startswith(b"#") and b"\0" not in line:
            yield from _with_alternates(objects / os.fsdecode(line), depth - 1)
