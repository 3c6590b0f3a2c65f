"""A pack file on disk, read object by object, and its index written (gitformat-pack(5)).

Reads go through one window of a megabyte and inflating takes bounded slices: a mapped pack would count against
the memory limit, and zlib copies whatever it is given beyond the end of a stream.
"""

from __future__ import annotations

import hashlib
import os
import struct
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path

from gitrel.dataclass import dataclass
from gitrel.errors import FormatError
from gitrel.ids import Kind, ObjectFormat

KINDS: Mapping[int, Kind] = {1: "commit", 2: "tree", 3: "blob", 4: "tag"}
NUMBERS: Mapping[Kind, int] = {kind: number for number, kind in KINDS.items()}
OFS_DELTA, REF_DELTA = 6, 7
_WINDOW = 1024 * 1024
_SLICE = 65536
_MAX_SIZE_BYTES = 10
HEAD = 2 * (_MAX_SIZE_BYTES + 1) + 32  # bytes; holds an object's type and size, and its base's distance or id


@dataclass(slots=True)
class Entry:
    """One object of a pack: where it begins, where its deflated data does, the size of that inflated."""

    offset: int
    body: int
    size: int
    crc: int = 0


class PackFile:
    """Random reads of a pack; what was read once is not written again."""

    def __init__(self, fd: int, fmt: ObjectFormat) -> None:
        self._fd = fd
        self._format = fmt
        self._start, self._window = 0, b""

    def read(self, at: int, size: int) -> bytes:
        """Up to `size` bytes, fewer at the end of the file."""
        begin = at - self._start
        if begin < 0 or begin + size > len(self._window):
            self._start, begin = at, 0
            self._window = os.pread(self._fd, max(size, _WINDOW), at)
        return self._window[begin : begin + size]

    def read_entry(self, offset: int) -> tuple[int, Entry, int | bytes | None]:
        """An object's type, where it is, and a delta's base: an offset or a raw id. Raises `FormatError`."""
        number, size, length, base = parse_head(self.read(offset, HEAD), offset, self._format.raw_length)
        return number, Entry(offset, offset + length, size), base

    def inflate(self, entry: Entry, take: Callable[[bytes], object]) -> int:
        """Feed `take` the object's bytes, exactly `entry.size`; sets its CRC-32, returns where the object ends."""
        at, left = entry.body, entry.size
        crc = zlib.crc32(self.read(entry.offset, entry.body - entry.offset))
        stream = zlib.decompressobj()
        while not stream.eof:
            piece = self.read(at, min(left + left // 64 + 64, _SLICE))
            if not piece:
                raise FormatError("the pack ends inside an object")
            pending = piece
            while pending and not stream.eof:
                data = _decompress(stream, pending, left + 1)
                if len(data) > left:
                    raise FormatError("an object is larger than it says")
                left -= len(data)
                if data:
                    take(data)
                pending = stream.unconsumed_tail
            used = len(piece) - len(stream.unused_data)
            crc = zlib.crc32(piece[:used], crc)
            at += used
        if left:
            raise FormatError("an object is smaller than it says")
        entry.crc = crc
        return at

    def inflated(self, entry: Entry) -> bytes:
        parts: list[bytes] = []
        self.inflate(entry, parts.append)
        return b"".join(parts)


def _decompress(stream: zlib._Decompress, data: bytes, ceiling: int) -> bytes:
    try:
        return stream.decompress(data, min(ceiling, _WINDOW))
    except zlib.error as error:
        raise FormatError("an object's data is damaged", why=str(error)) from None


def parse_head(head: bytes, offset: int, raw_length: int) -> tuple[int, int, int, int | bytes | None]:
    """What stands at `offset` before an object's deflated data: its type, its size, how long that is, a delta's base.

    A base is an offset or a raw id. Raises `FormatError`, also for a type that there is not.
    """
    base: int | bytes | None = None
    number = size = 0
    try:
        number, size, at = read_type_and_size(head)
        if number == OFS_DELTA:
            back, at = read_distance(head, at)
            base = offset - back
            if not 12 <= base < offset:
                raise FormatError("a delta's base is outside the pack")
        elif number == REF_DELTA:
            base = head[at : at + raw_length]
            at += raw_length
        elif number not in KINDS:
            raise FormatError("an object of an unknown type", why=str(number))
    except IndexError:
        at = len(head) + 1
    if at > len(head) or size >= 1 << 63:
        raise FormatError("the pack ends inside an object's header" if at > len(head) else "a size of over 63 bits")
    return number, size, at, base


def read_type_and_size(head: bytes) -> tuple[int, int, int]:
    """An object's type, its size, and where that ends. Raises `FormatError`, or `IndexError` if `head` is cut short."""
    number, size, shift, at = head[0] >> 4 & 7, head[0] & 15, 4, 1
    while head[at - 1] & 0x80:
        if at > _MAX_SIZE_BYTES:
            raise FormatError("an object's size has no end")
        size |= (head[at] & 0x7F) << shift
        shift += 7
        at += 1
    return number, size, at


def read_distance(head: bytes, at: int) -> tuple[int, int]:
    """How far before a delta its base begins, and where that ends. Raises as `read_type_and_size`."""
    value, end = head[at] & 0x7F, at + 1
    while head[end - 1] & 0x80:
        if end - at > _MAX_SIZE_BYTES:
            raise FormatError("a delta's distance has no end")
        value = (value + 1) << 7 | head[end] & 0x7F
        end += 1
    return value, end


def entry_header(number: int, size: int) -> bytes:
    """The type and size in front of an object's deflated data."""
    out, rest = [number << 4 | size & 15], size >> 4
    while rest:
        out[-1] |= 0x80
        out.append(rest & 0x7F)
        rest >>= 7
    return bytes(out)


def write_index(path: Path, entries: Mapping[bytes, tuple[int, int]], checksum: bytes, fmt: ObjectFormat) -> None:
    """Write a pack's index, version 2, durably. `entries`: raw id -> offset, CRC-32."""
    ids = sorted(entries)
    counts = [0] * 256
    for oid in ids:
        counts[oid[0]] += 1
    fanout = [sum(counts[: at + 1]) for at in range(256)]
    offsets = [entries[oid][0] for oid in ids]
    large = [offset for offset in offsets if offset >= 1 << 31]
    places = {offset: at for at, offset in enumerate(large)}
    small = [offset if offset < 1 << 31 else 1 << 31 | places[offset] for offset in offsets]
    body = b"".join(
        [
            b"\377tOc" + struct.pack(">I", 2),
            struct.pack(">256I", *fanout),
            *ids,
            struct.pack(f">{len(ids)}I", *(entries[oid][1] for oid in ids)),
            struct.pack(f">{len(ids)}I", *small),
            struct.pack(f">{len(large)}Q", *large),
            checksum,
        ]
    )
    with open(path, "xb") as file:
        file.write(body)
        file.write(hashlib.new(fmt.value, body, usedforsecurity=False).digest())
        file.flush()
        os.fsync(file.fileno())
        os.fchmod(file.fileno(), 0o444)
