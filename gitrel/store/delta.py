"""git's deltas (gitformat-pack(5), Deltified representation), applied with every bound checked."""

from __future__ import annotations

from gitrel.errors import FormatError

_MAX_SIZE_BYTES = 10  # of a size's encoding: 70 bits


def read_size(raw: bytes | memoryview, at: int) -> tuple[int, int]:
    """A little-endian base-128 number at `at`, and where it ends. Raises `FormatError`."""
    value = shift = 0
    for end in range(at, min(at + _MAX_SIZE_BYTES, len(raw))):
        value |= (raw[end] & 0x7F) << shift
        shift += 7
        if raw[end] < 0x80:
            return value, end + 1
    raise FormatError("a delta's size has no end")


def read_sizes(delta: bytes | memoryview) -> tuple[int, int, int]:
    """The sizes of the base and of the result, and where the instructions begin."""
    base, at = read_size(delta, 0)
    result, at = read_size(delta, at)
    return base, result, at


def apply_delta(base: bytes, delta: bytes) -> bytes:
    """The object that `delta` makes of `base`, of exactly the size that it promises. Raises `FormatError`."""
    base_size, size, at = read_sizes(delta)
    if base_size != len(base):
        raise FormatError("a delta is for a base of another size")
    parts: list[bytes] = []
    made, end = 0, len(delta)
    while at < end:
        code = delta[at]
        at += 1
        if code & 0x80:
            offset, length, at = _read_copy(delta, code, at)
            part = base[offset : offset + length]
        elif code:
            length = code
            part = delta[at : at + length]
            at += length
        else:
            raise FormatError("a delta has the reserved instruction 0")
        made += length
        if len(part) != length or made > size:
            raise FormatError("a delta copies what is not there, or more than it says")
        parts.append(part)
    if made != size:
        raise FormatError("a delta makes less than it says")
    return b"".join(parts)


def _read_copy(delta: bytes, code: int, at: int) -> tuple[int, int, int]:
    offset = length = 0
    try:
        for bit in range(4):
            if code & 1 << bit:
                offset |= delta[at] << 8 * bit
                at += 1
        for bit in range(3):
            if code & 0x10 << bit:
                length |= delta[at] << 8 * bit
                at += 1
    except IndexError:
        raise FormatError("a delta ends inside an instruction") from None
    return offset, length or 0x10000, at
