"""SSH's wire encoding (RFC 4251, section 5), read strictly: each value has one encoding."""

from __future__ import annotations

from gitrel.errors import FormatError

_MAX_MPINT = 16384 // 8 + 1  # bytes; OpenSSH's own limit for RSA (SSHBUF_MAX_BIGNUM), and a sign byte


class Reader:
    """Takes values off the front of `data`. Its methods raise `FormatError`, naming `what`."""

    __slots__ = ("_at", "_data", "_what")

    def __init__(self, data: bytes, what: str) -> None:
        self._data = data
        self._what = what
        self._at = 0

    def take(self, length: int) -> bytes:
        end = self._at + length
        if end > len(self._data):
            raise FormatError(f"{self._what} is cut short", why=f"at byte {self._at}")
        taken = self._data[self._at : end]
        self._at = end
        return taken

    def byte(self) -> int:
        return self.take(1)[0]

    def uint32(self) -> int:
        return int.from_bytes(self.take(4), "big")

    def string(self) -> bytes:
        return self.take(self.uint32())

    def mpint(self) -> int:
        """A number that is not negative, in its shortest form."""
        raw = self.string()
        if len(raw) > _MAX_MPINT:
            raise FormatError(f"a number in {self._what} is too long", why=f"{len(raw)} bytes")
        if raw and raw[0] & 0x80:
            raise FormatError(f"a negative number in {self._what}")
        if raw and raw[0] == 0 and (len(raw) == 1 or not raw[1] & 0x80):
            raise FormatError(f"a number in {self._what} is not in its shortest form")
        return int.from_bytes(raw, "big")

    def end(self) -> None:
        left = len(self._data) - self._at
        if left:
            raise FormatError(f"trailing bytes after {self._what}", why=f"{left} of them")


def uint32(value: int) -> bytes:
    return value.to_bytes(4, "big")


def string(value: bytes) -> bytes:
    return len(value).to_bytes(4, "big") + value


def mpint(value: int) -> bytes:
    """`value` is not negative."""
    return string(value.to_bytes(value.bit_length() // 8 + 1, "big") if value else b"")
