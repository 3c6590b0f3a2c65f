"""Public keys as people write them: `ssh-ed25519 AAAA… comment` (sshd(8), "AUTHORIZED_KEYS FILE FORMAT").

A key *is* its blob: two lines with the same blob and other comments are equal. The options that
authorized_keys and allowed_signers put in front of a key are refused: what a key may do is trust's to say.
"""

from __future__ import annotations

import binascii
import unicodedata
from functools import lru_cache
from typing import Self

from gitrel.dataclass import dataclass, field
from gitrel.errors import FormatError
from gitrel.ids import KeyId
from gitrel.keys.blob import KINDS, MAX_BLOB, Material, RsaMaterial, check_kind, read_blob

_MAX_LINE = 2 * MAX_BLOB  # characters


@dataclass(frozen=True, slots=True, kw_only=True)
class PublicKey:
    """A well-formed key of an accepted kind; anything else raises `FormatError` at construction.

    `blob` is the wire form, `material` the numbers in it.
    """

    kind: str = field(compare=False)
    blob: bytes = field(repr=False)
    comment: str = field(default="", compare=False)
    material: Material = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        kind, material = read_blob(self.blob)
        if kind != self.kind:
            raise FormatError(f"the line says {check_kind(self.kind)}, the key says {kind}")
        if self.comment != self.comment.strip() or any(
            unicodedata.category(char) in ("Cc", "Cs") for char in self.comment
        ):
            raise FormatError("a key's comment is one line of text without space around it")
        object.__setattr__(self, "material", material)

    @classmethod
    @lru_cache(maxsize=64)  # few people sign many records
    def from_blob(cls, blob: bytes, comment: str = "") -> Self:
        """Raises `FormatError` naming the reason."""
        return cls(kind=read_blob(blob)[0], blob=blob, comment=comment)

    @classmethod
    def parse_line(cls, text: str) -> Self:
        """Read `kind base64 [comment]`; white space around it (`ssh-keygen -C ''` leaves some) is dropped.

        Otherwise `line` gives the text back. Raises `FormatError` naming the reason; it repeats nothing that
        could be a secret pasted by mistake.
        """
        text = text.strip(" \t\r\n")
        if "PRIVATE KEY-----" in text:
            raise FormatError("that is a private key", hint="give the line in the .pub file")
        if len(text) > _MAX_LINE or "\n" in text:
            raise FormatError("a public key is one line", why=f"of at most {_MAX_LINE} characters")
        kind, *rest = text.split(" ", 2)
        if kind not in KINDS and any(word in KINDS for word in text.replace("\t", " ").split(" ")):
            raise FormatError("options in front of the key", why="a line is `type base64 comment`")
        check_kind(kind)
        encoded, comment = (*rest, "", "")[:2]
        return cls(kind=kind, blob=_decode(encoded), comment=comment)

    @property
    def id(self) -> KeyId:
        return KeyId.of(self.blob)

    @property
    def application(self) -> bytes | None:
        """What a FIDO token made the key for (`ssh:`), or `None`: the key lies in no token."""
        return None if isinstance(self.material, RsaMaterial) else self.material.application

    @property
    def is_hardware(self) -> bool:
        """Whether a FIDO token holds the private key."""
        return self.application is not None

    @property
    def bare_line(self) -> str:
        """`ssh-ed25519 AAAA…`"""
        return f"{self.kind} {binascii.b2a_base64(self.blob, newline=False).decode()}"

    @property
    def line(self) -> str:
        """`ssh-ed25519 AAAA… comment`"""
        return f"{self.bare_line} {self.comment}" if self.comment else self.bare_line


def _decode(encoded: str) -> bytes:
    """The one base64 spelling of a blob (RFC 4648, with padding, unused bits zero)."""
    if not encoded:
        raise FormatError("a key type without a key")
    try:
        blob = binascii.a2b_base64(encoded, strict_mode=True)
    except ValueError:  # binascii.Error, and plain ValueError for text outside ASCII
        raise FormatError("the key is not base64") from None
    if binascii.b2a_base64(blob, newline=False) != encoded.encode():
        raise FormatError("the key's base64 is not in its one spelling")
    return blob
