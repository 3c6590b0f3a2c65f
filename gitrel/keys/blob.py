"""Public key blobs: what a signature can be checked with, read strictly (docs/spec/keys.md, "Public keys").

The layouts are those of RFC 4253 section 6.6 (RSA), RFC 5656 section 3.1 (ECDSA), RFC 8709 section 4
(Ed25519) and OpenSSH's PROTOCOL.u2f (the two `sk-` kinds). Each key has one blob: no compressed points, no
padded numbers, no point off its curve. Certificates, DSA and short RSA keys are refused by name. This needs
arithmetic only; the parts of `cryptography` are loaded when a signature is checked.
"""

from __future__ import annotations

import re
from functools import lru_cache

from gitrel.dataclass import dataclass
from gitrel.errors import FormatError
from gitrel.keys.wire import Reader

MIN_RSA_BITS = 3072
MAX_RSA_BITS = 16384  # as OpenSSH
MAX_BLOB = 8192  # bytes; the largest RSA key has about 2,100
_MAX_EXPONENT_BITS = 64  # OpenSSL's limit for moduli over 3072 bits (OPENSSL_RSA_MAX_PUBEXP_BITS)

ED25519 = "ssh-ed25519"
RSA = "ssh-rsa"
SK_ED25519 = "sk-ssh-ed25519@openssh.com"
SK_ECDSA = "sk-ecdsa-sha2-nistp256@openssh.com"

_KIND_SHAPE = re.compile(r"(?=.{1,80}\Z)[a-z][a-z0-9]*(-[a-z0-9]+)+(@[a-z0-9.-]+)?")
_CERTIFICATE = re.compile(r"-cert-v[0-9]+@openssh\.com\Z")

# Ed25519's field prime, group order and curve constant (RFC 8032, section 5.1)
_P25519 = 2**255 - 19
ED25519_ORDER = 2**252 + 27742317777372353535851937790883648493
_D25519 = -121665 * pow(121666, -1, _P25519) % _P25519


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """A prime curve y² = x³ - 3x + b over p, of order n (FIPS 186-4, D.1.2)."""

    name: str
    p: int
    b: int
    n: int

    @property
    def width(self) -> int:
        """Bytes of one coordinate."""
        return (self.p.bit_length() + 7) // 8

    def has(self, x: int, y: int) -> bool:
        return x < self.p and y < self.p and (y * y - (x * x * x - 3 * x + self.b)) % self.p == 0


_P256 = Curve(
    name="nistp256",
    p=2**256 - 2**224 + 2**192 + 2**96 - 1,
    b=0x5AC635D8AA3A93E7B3EBBD55769886BC651D06B0CC53B0F63BCE3C3E27D2604B,
    n=0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551,
)
_P384 = Curve(
    name="nistp384",
    p=2**384 - 2**128 - 2**96 + 2**32 - 1,
    b=0xB3312FA7E23EE7E4988E056BE3F82D19181D9C6EFE8141120314088F5013875AC656398D8A2ED19D2A85C8EDD3EC2AEF,
    n=2**384 - 0x389CB27E0BC8D220A7E5F24DB74F58851313E695333AD68D,
)
_P521 = Curve(
    name="nistp521",
    p=2**521 - 1,
    b=int(
        "0051953eb9618e1c9a1f929a21a0b68540eea2da725b99b315f3b8b489918ef109e1"
        "56193951ec7e937b1652c0bd3bb1bf073573df883d2c34f1ef451fd46b503f00",
        16,
    ),
    n=2**521 - 0x5AE79787C40D069948033FEB708F65A2FC44A36477663B851449048E16EC79BF7,
)
ECDSA_CURVES = {
    "ecdsa-sha2-nistp256": _P256,
    "ecdsa-sha2-nistp384": _P384,
    "ecdsa-sha2-nistp521": _P521,
    SK_ECDSA: _P256,
}
KINDS = (ED25519, *ECDSA_CURVES, RSA, SK_ED25519)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ed25519Material:
    """A point, 32 bytes. `application` is an sk key's, `None` for a key that lies in a file."""

    point: bytes
    application: bytes | None


@dataclass(frozen=True, slots=True, kw_only=True)
class EcdsaMaterial:
    """A point on `curve`. `application` is an sk key's, `None` for a key that lies in a file."""

    curve: Curve
    x: int
    y: int
    application: bytes | None


@dataclass(frozen=True, slots=True, kw_only=True)
class RsaMaterial:
    e: int
    n: int

    @property
    def length(self) -> int:
        """Bytes of the modulus, and so of every signature."""
        return (self.n.bit_length() + 7) // 8


Material = Ed25519Material | EcdsaMaterial | RsaMaterial


@lru_cache(maxsize=256)  # a ledger's records name few keys; checking that a point is on its curve takes 50 us
def read_blob(blob: bytes) -> tuple[str, Material]:
    """A key's kind and numbers. Raises `FormatError` naming the reason."""
    if len(blob) > MAX_BLOB:
        raise FormatError("public key too large", why=f"{len(blob)} bytes, at most {MAX_BLOB}")
    reader = Reader(blob, "the public key")
    kind = check_kind(reader.string().decode("latin-1"))
    material: Material
    if kind == RSA:
        material = _rsa(reader)
    elif kind in ECDSA_CURVES:
        material = _ecdsa(reader, kind)
    else:
        material = _ed25519(reader, kind)
    reader.end()
    return kind, material


def check_kind(kind: str) -> str:
    """`kind`, if records use it. Raises `FormatError`, which repeats only what is shaped like a type."""
    if kind in KINDS:
        return kind
    if kind == "ssh-dss" or kind.startswith("ssh-dss-cert-"):
        raise FormatError("a DSA key", why="DSA keys are not accepted", hint="ssh-keygen -t ed25519")
    if _KIND_SHAPE.fullmatch(kind) is None:
        raise FormatError("not an SSH public key", why="no key type such as ssh-ed25519 in front")
    if _CERTIFICATE.search(kind):
        raise FormatError(f"a certificate ({kind})", why="only plain keys are accepted")
    raise FormatError(f"unknown key type {kind!r}", why=f"accepted are {', '.join(KINDS)}")


def _rsa(reader: Reader) -> RsaMaterial:
    e = reader.mpint()
    n = reader.mpint()
    bits = n.bit_length()
    if not MIN_RSA_BITS <= bits <= MAX_RSA_BITS:
        raise FormatError(f"an RSA key of {bits} bits", why=f"accepted are {MIN_RSA_BITS} to {MAX_RSA_BITS}")
    if n % 2 == 0 or e % 2 == 0 or e < 3 or e.bit_length() > _MAX_EXPONENT_BITS:
        raise FormatError("not an RSA key", why="even, or an exponent out of range")
    return RsaMaterial(e=e, n=n)


def _ecdsa(reader: Reader, kind: str) -> EcdsaMaterial:
    curve = ECDSA_CURVES[kind]
    if reader.string() != curve.name.encode():
        raise FormatError(f"an {kind} key on another curve")
    point = reader.string()
    if point[:1] != b"\x04" or len(point) != 1 + 2 * curve.width:
        raise FormatError("not an uncompressed point", why=f"{len(point)} bytes on {curve.name}")
    x = int.from_bytes(point[1 : 1 + curve.width], "big")
    y = int.from_bytes(point[1 + curve.width :], "big")
    if not curve.has(x, y):
        raise FormatError(f"point not on {curve.name}")
    application = _application(reader) if kind == SK_ECDSA else None
    return EcdsaMaterial(curve=curve, x=x, y=y, application=application)


def _ed25519(reader: Reader, kind: str) -> Ed25519Material:
    point = reader.string()
    if len(point) != 32:
        raise FormatError("an Ed25519 key is 32 bytes", why=f"this one has {len(point)}")
    _check_ed25519(point)
    return Ed25519Material(point=point, application=_application(reader) if kind == SK_ED25519 else None)


def _check_ed25519(point: bytes) -> None:
    """RFC 8032 decoding, and not one of the eight points of small order: under those anybody can sign."""
    y = int.from_bytes(point, "little") & (2**255 - 1)
    if y >= _P25519:
        raise FormatError("an Ed25519 key that is not in its one encoding")
    y2 = y * y % _P25519
    x2 = (y2 - 1) * pow(_D25519 * y2 + 1, -1, _P25519) % _P25519
    # Orders 1 and 2 have x = 0, order 4 has y = 0; doubling a point of order 8 gives y = 0, that is x² = -y²
    if 0 in (x2, y2, (x2 + y2) % _P25519):
        raise FormatError("an Ed25519 key of small order")
    if pow(x2, (_P25519 - 1) // 2, _P25519) != 1:
        raise FormatError("point not on Ed25519's curve")


def _application(reader: Reader) -> bytes:
    application = reader.string()
    if b"\0" in application:
        raise FormatError("an sk key's application with NUL")
    return application
