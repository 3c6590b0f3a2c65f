"""A pack from a remote, taken in: received, checked and indexed under limits (gitformat-pack(5)).

Rules: a count, a size or a depth is compared with its limit before the cost arises; every id is computed from
the bytes; a thin pack is completed from what the home has; one object in a pack twice, bytes behind the last
object and bases that nobody has are refused. The pack is durable when `finish` returns; it gets its name last.
Everything happens in the transfer child, so that whatever goes wrong ends there.

A stream that was cut gives a pack, too: `salvage` takes the objects up to the first one that is not whole, is damaged,
or stands on what did not come before it. What git sends has bases in front of what stands on them (write_one() in its
builtin/pack-objects.c), so of an honest stream that is every object that came whole.
"""

from __future__ import annotations

import errno
import hashlib
import os
import secrets
import struct
import zlib
from contextlib import suppress
from pathlib import Path

from gitrel.dataclass import dataclass
from gitrel.errors import FormatError, GitrelError, NotFound, RemoteError
from gitrel.ids import Kind, ObjectId
from gitrel.store.delta import apply_delta, read_sizes
from gitrel.store.durable import disk_error, sync_folder
from gitrel.store.limits import Limits, over_limit
from gitrel.store.packfile import KINDS, NUMBERS, Entry, PackFile, entry_header, write_index
from gitrel.store.repository import Repository

STREAM = "incoming-"  # how the name of a stream begins that is no pack yet; it ends in .tmp
_HEADER = 12
_FULL = {errno.ENOSPC, errno.EDQUOT}


@dataclass(frozen=True, slots=True, kw_only=True)
class Ingested:
    """`pack` is the new pack's name without suffix, None for an empty one; `parents` are those of its commits."""

    pack: str | None
    objects: int
    parents: dict[ObjectId, list[ObjectId]]


class PackReceiver:
    """`write` takes the stream as it comes; `finish` makes a pack and its index of it in `folder`, `salvage` of what is
    good of `stream`, a file in there that another receiver left.
    """

    def __init__(self, folder: Path, home: Repository, limits: Limits, *, stream: Path | None = None) -> None:
        self._folder = folder
        self._home = home
        self._format = home.format
        self._limits = limits
        self._path = stream or folder / f"{STREAM}{secrets.token_hex(6)}.tmp"
        made = 0 if stream else os.O_CREAT | os.O_EXCL
        self._fd = os.open(self._path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | made, 0o600)
        self._file = PackFile(self._fd, self._format)
        self._hash = hashlib.new(self._format.value, usedforsecurity=False)
        self._tail = b""  # not hashed yet: it may be the trailer
        self._size = 0
        self._count: int | None = None
        self._total = 0
        self._came: set[int] = set()  # for `salvage`: where objects begin, whether they can be made or not
        self._outside: list[bytes] = []  # and the bases that only the home has
        self._entries: dict[bytes, tuple[int, int]] = {}
        self._parents: dict[ObjectId, list[ObjectId]] = {}
        self._by_offset: dict[int, list[Entry]] = {}  # deltas, by where their base begins
        self._by_id: dict[bytes, list[Entry]] = {}  # deltas, by their base's id

    def write(self, data: bytes) -> None:
        """Raises `LocalStateError` if the disk is full, `OSError` for anything else."""
        view = memoryview(data)
        try:
            while view:
                view = view[os.write(self._fd, view) :]
        except OSError as error:
            if error.errno in _FULL:
                raise disk_error(error, self._path) from error
            raise
        self._size += len(data)
        if self._count is None and self._size >= _HEADER:
            self._count = self._read_header()
        tail, keep = self._tail + data, self._format.raw_length
        self._hash.update(tail[:-keep])
        self._tail = tail[-keep:]

    def finish(self) -> Ingested:
        """Raises `FormatError` for a damaged pack, `RemoteError` for a limit."""
        if self._count is None or self._tail != self._hash.digest():
            raise FormatError("the pack is cut off or damaged")
        if self._count == 0:
            return self.discard()
        end = self._size - self._format.raw_length
        borrowed = self._resolve(self._scan(end))
        if self._by_offset or self._by_id:
            raise FormatError("the pack has a delta whose base is nowhere")
        return self._publish(self._complete(end, borrowed) if borrowed else self._tail)

    def salvage(self) -> Ingested:
        """A pack of what is good of the stream; what is not ends with it, limits included, and is no error."""
        self._size = os.fstat(self._fd).st_size
        whole: list[tuple[Kind, bytes, Entry]] = []
        end = _HEADER
        with suppress(FormatError, RemoteError):
            self._count = self._read_header() if self._size >= _HEADER else 0
            for _ in range(self._count):
                at, end = end, self._look(end, whole, in_order=True)
                self._came.add(at)
        self._resolve(whole, FormatError, RemoteError)
        made = {offset for offset, _ in self._entries.values()}
        end = min(self._came - made, default=end)
        self._entries = {raw_id: entry for raw_id, entry in self._entries.items() if entry[0] < end}
        self._count = len(self._entries)
        return self._publish(self._complete(end, self._outside)) if self._entries else self.discard()

    def discard(self) -> Ingested:
        """Delete the stream."""
        os.close(self._fd)
        self._path.unlink()
        return Ingested(pack=None, objects=0, parents={})

    @property
    def size(self) -> int:
        """Bytes of the stream so far."""
        return self._size

    def _publish(self, checksum: bytes) -> Ingested:
        os.fsync(self._fd)
        os.fchmod(self._fd, 0o444)
        os.close(self._fd)
        name = f"pack-{checksum.hex()}"
        index = self._folder / f"{name}.idx"
        index.unlink(missing_ok=True)  # of a receiver that was killed right here
        write_index(index, self._entries, checksum, self._format)
        self._path.rename(self._folder / f"{name}.pack")
        sync_folder(self._folder)
        return Ingested(pack=name, objects=self._count or 0, parents=self._parents)

    def _read_header(self) -> int:
        magic, version, count = struct.unpack(">4sII", os.pread(self._fd, _HEADER, 0))
        if magic != b"PACK" or version != 2:
            raise FormatError("not a pack of version 2")
        if count > self._limits.objects:
            raise over_limit("objects", self._limits.objects, "objects in a pack")
        return int(count)

    def _scan(self, end: int) -> list[tuple[Kind, bytes, Entry]]:
        """Look at every object once, in order; returns those that are no deltas."""
        at = _HEADER
        whole: list[tuple[Kind, bytes, Entry]] = []
        for _ in range(self._count or 0):
            at = self._look(at, whole)
            if at > end:
                raise FormatError("an object goes on behind the pack's end")
        if at != end:
            raise FormatError("the pack has more than it says")
        return whole

    def _look(self, at: int, whole: list[tuple[Kind, bytes, Entry]], *, in_order: bool = False) -> int:
        """Look at the object that begins here, and say where it ends. `in_order`: after its base, if it has one."""
        number, entry, base = self._file.read_entry(at)
        if base is None:
            raw_id, end = self._look_at_whole(entry, KINDS[number])
            whole.append((KINDS[number], raw_id, entry))
        else:
            if in_order:
                self._check_came(base)
            end = self._look_at_delta(entry)
            if isinstance(base, int):
                self._by_offset.setdefault(base, []).append(entry)
            else:
                self._by_id.setdefault(base, []).append(entry)
        return end

    def _check_came(self, base: int | bytes) -> None:
        came = base in self._came if isinstance(base, int) else base in self._entries
        if not came and isinstance(base, bytes) and ObjectId.from_raw(base) in self._home:
            self._outside.append(base)
        elif not came:
            raise FormatError("a delta whose base did not come")

    def _resolve(self, whole: list[tuple[Kind, bytes, Entry]], *forgiven: type[GitrelError]) -> list[bytes]:
        """Make all deltas; those that stand on an object with a `forgiven` fault are left. Returns what was borrowed of
        the home."""
        for kind, raw_id, entry in whole:
            if children := self._children(raw_id, entry.offset):
                with suppress(*forgiven):
                    self._grow(kind, self._file.inflated(entry), children)
        borrowed = []
        for raw_id in list(self._by_id):
            if raw_id not in self._by_id:
                continue  # another base grew it meanwhile
            try:
                kind, data = self._home.read_any(ObjectId.from_raw(raw_id))
            except NotFound:
                continue
            borrowed.append(raw_id)
            with suppress(*forgiven):
                self._grow(kind, data, self._children(raw_id, 0))
        return borrowed

    def _look_at_whole(self, entry: Entry, kind: Kind) -> tuple[bytes, int]:
        self._check_size(kind, entry.size)
        self._count_bytes(entry.size)
        header = b"%s %d\0" % (kind.encode(), entry.size)
        digest = hashlib.new(self._format.value, header, usedforsecurity=False)
        kept: list[bytes] = []

        def take(data: bytes) -> None:
            digest.update(data)
            if kind == "commit":
                kept.append(data)

        end = self._file.inflate(entry, take)
        self._note(digest.digest(), entry, kind, b"".join(kept))
        return digest.digest(), end

    def _look_at_delta(self, entry: Entry) -> int:
        """A delta's own size and its result's are checked before the first is inflated and the second made."""
        self._check_size("blob", entry.size)
        parts: list[bytes] = []
        end = self._file.inflate(entry, parts.append)
        _, size, _ = read_sizes(b"".join(parts))
        self._check_size("blob", size)
        self._count_bytes(size)
        return end

    def _check_size(self, kind: Kind, size: int) -> None:
        if kind == "blob" and size > self._limits.object_bytes:
            raise over_limit("object_bytes", self._limits.object_bytes, "bytes in one object")
        if kind != "blob" and size > self._limits.metadata_bytes:
            raise over_limit("metadata_bytes", self._limits.metadata_bytes, f"bytes in one {kind}")

    def _count_bytes(self, size: int) -> None:
        self._total += size
        if self._total > self._limits.total_bytes:
            raise over_limit("total_bytes", self._limits.total_bytes, "bytes of all objects")

    def _note(self, raw_id: bytes, entry: Entry, kind: Kind, data: bytes) -> None:
        if raw_id in self._entries:
            raise FormatError("the pack has an object twice", where=raw_id.hex())
        self._entries[raw_id] = (entry.offset, entry.crc)
        if kind == "commit":
            self._parents[ObjectId.from_raw(raw_id)] = read_parents(data)

    def _children(self, raw_id: bytes, offset: int) -> list[Entry]:
        return self._by_offset.pop(offset, []) + self._by_id.pop(raw_id, [])

    def _grow(self, kind: Kind, data: bytes, children: list[Entry]) -> None:
        """Make the deltas of an object, the deltas of those, and so on; a base is dropped with its last child."""
        stack, held = [(data, children)], len(data)
        depths = [1]
        while stack:
            base, children = stack[-1]
            depth = depths[-1]
            child = children.pop()
            if not children:
                stack.pop()
                depths.pop()
                held -= len(base)
            delta = self._file.inflated(child)
            self._check_size(kind, read_sizes(delta)[1])
            data = apply_delta(base, delta)
            raw_id = self._format.object_id(kind, data).raw
            self._note(raw_id, child, kind, data)
            if below := self._children(raw_id, child.offset):
                if depth >= self._limits.delta_depth:
                    raise over_limit("delta_depth", self._limits.delta_depth, "deltas on top of each other")
                stack.append((data, below))
                depths.append(depth + 1)
                held += len(data)
                if held > self._limits.memory_bytes // 2:
                    raise over_limit("memory_bytes", self._limits.memory_bytes, "bytes of memory for deltas")

    def _complete(self, end: int, borrowed: list[bytes]) -> bytes:
        """Cut the pack here and append the bases that only the home has, as git does; its new checksum."""
        os.ftruncate(self._fd, end)
        added = 0
        for raw_id in borrowed:
            if raw_id in self._entries:
                continue  # the pack had it all the same
            kind, data = self._home.read_any(ObjectId.from_raw(raw_id))
            stored = entry_header(NUMBERS[kind], len(data)) + zlib.compress(data)
            self._entries[raw_id] = (end, zlib.crc32(stored))
            os.pwrite(self._fd, stored, end)
            end += len(stored)
            added += 1
        os.pwrite(self._fd, struct.pack(">I", (self._count or 0) + added), 8)
        digest = hashlib.new(self._format.value, usedforsecurity=False)
        for at in range(0, end, 1 << 20):
            digest.update(os.pread(self._fd, min(1 << 20, end - at), at))
        os.pwrite(self._fd, digest.digest(), end)
        return digest.digest()


def read_parents(commit: bytes) -> list[ObjectId]:
    """The parents that a commit's header names, in order, whatever else is wrong with it."""
    header = commit.partition(b"\n\n")[0].split(b"\n")
    return [ObjectId(line[7:].decode("ascii", "replace")) for line in header if line.startswith(b"parent ")]
