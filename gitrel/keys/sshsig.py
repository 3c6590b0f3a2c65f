"""SSH signatures in the one spelling that records use (docs/spec/signature.md; OpenSSH's PROTOCOL.sshsig).

- The armor is ssh-keygen's: BEGIN, base64 in lines of 70, END; no final newline, as in a commit.
- Version 1, namespace `git`, an empty reserved field, sha512; nothing after the signature.
- The signature's algorithm fits its key; RSA signs with SHA-2 and over the full length of its modulus.
- Ed25519 has S below the group's order (RFC 8032, 5.1.7); ECDSA has the lower of its two values of s.
- A hardware key says that somebody touched it (PROTOCOL.u2f: user presence, bit 0 of the flags).

So one signature has one text, and nobody without the key can turn a good one into another good one. A
signature that another program made is brought into this form by `normalise`.
"""

from __future__ import annotations

import binascii
import hashlib
from typing import TYPE_CHECKING, TypedDict

from gitrel.dataclass import dataclass
from gitrel.errors import FormatError
from gitrel.keys import wire
from gitrel.keys.blob import (
    ED25519_ORDER,
    MAX_BLOB,
    RSA,
    Curve,
    EcdsaMaterial,
    Ed25519Material,
    RsaMaterial,
)
from gitrel.keys.native import call_native
from gitrel.keys.public import PublicKey

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurve
    from cryptography.hazmat.primitives.hashes import HashAlgorithm

NAMESPACE = "git"
HASH = "sha512"
USER_PRESENT = 0x01  # PROTOCOL.u2f

_MAGIC = b"SSHSIG"
_VERSION = 1
_BEGIN = "-----BEGIN SSH SIGNATURE-----\n"
_END = "\n-----END SSH SIGNATURE-----"
_COLUMNS = 70
_MAX_ARMOR = 4 * MAX_BLOB  # characters
_RSA_ALGORITHMS = ("rsa-sha2-256", "rsa-sha2-512")


@dataclass(frozen=True, slots=True, kw_only=True)
class Touch:
    """What a hardware key adds to what it signs: a byte of flags and a 32-bit counter."""

    flags: int
    counter: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SshSignature:
    """A well-formed signature, not yet held against anything; other values raise `FormatError` when made.

    `signature` is 64 bytes for Ed25519, the modulus's length for RSA, two mpints (r, s) for ECDSA.
    `touch` is there for hardware keys, and only for them.
    """

    public_key: PublicKey
    algorithm: str
    signature: bytes
    touch: Touch | None = None

    def __post_init__(self) -> None:
        key = self.public_key
        if self.algorithm not in (_RSA_ALGORITHMS if key.kind == RSA else (key.kind,)):
            raise FormatError(f"a signature of another algorithm than its key's, {key.kind}")
        if (self.touch is not None) != key.is_hardware:
            raise FormatError(f"not a signature of a {key.kind} key")
        if self.touch is not None and not self.touch.flags & USER_PRESENT:
            raise FormatError("signed without user presence", why="nobody touched the hardware key")
        match key.material:
            case Ed25519Material():
                _check_ed25519(self.signature)
            case EcdsaMaterial(curve=curve):
                _check_ecdsa(self.signature, curve)
            case RsaMaterial() as rsa:
                _check_rsa(self.signature, rsa)

    def armor(self) -> str:
        """The text that `parse_sshsig` reads; no final newline."""
        inner = wire.string(self.algorithm.encode()) + wire.string(self.signature)
        if self.touch is not None:
            inner += bytes([self.touch.flags]) + wire.uint32(self.touch.counter)
        return _enarmor(
            _MAGIC
            + wire.uint32(_VERSION)
            + wire.string(self.public_key.blob)
            + wire.string(NAMESPACE.encode())
            + wire.string(b"")
            + wire.string(HASH.encode())
            + wire.string(inner)
        )

    def verify(self, payload: bytes) -> None:
        """Raises `FormatError` unless the key signed exactly `payload` (for git: the object, unsigned)."""
        self.verify_plain(signed_data(payload))

    def verify_plain(self, signed: bytes) -> None:
        """Raises `FormatError` unless the key signed exactly these bytes, with no SSHSIG around them."""
        application = self.public_key.application
        if self.touch is not None and application is not None:  # a touch goes with an application, see above
            signed = _sk_signed_data(application, self.touch, signed)
        match material := self.public_key.material:
            case Ed25519Material():
                call_native(_MISMATCH, lambda: _verify_ed25519(material, self.signature, signed))
            case EcdsaMaterial():
                call_native(_MISMATCH, lambda: _verify_ecdsa(material, self.signature, signed))
            case RsaMaterial():
                call_native(_MISMATCH, lambda: _verify_rsa(material, self.algorithm, self.signature, signed))


_MISMATCH = "signature does not match"


def parse_sshsig(armor: str) -> SshSignature:
    """Read a signature's one text, without a final newline. Raises `FormatError`, and nothing else."""
    return SshSignature(**_fields(_dearmor(armor)))


def normalise(armor: str) -> str:
    """What `ssh-keygen -Y sign -n git` printed, in the form that records use: s made low, no final newline.

    Both values of s verify under the same key, so this needs no secret. Raises `FormatError`.
    """
    fields = _fields(_dearmor(armor.removesuffix("\n")))
    material = fields["public_key"].material
    if isinstance(material, EcdsaMaterial):
        r, s = read_rs(fields["signature"])
        fields["signature"] = encode_rs(r, s, material.curve)
    return SshSignature(**fields).armor()


def signed_data(payload: bytes) -> bytes:
    """What the key's own algorithm is applied to (PROTOCOL.sshsig, section 4)."""
    digest = hashlib.sha512(payload).digest()
    fields = (NAMESPACE.encode(), b"", HASH.encode(), digest)
    return _MAGIC + b"".join(wire.string(field) for field in fields)


def encode_rs(r: int, s: int, curve: Curve) -> bytes:
    """An ECDSA signature's two mpints (RFC 5656, 3.1.2), with the lower of s and n - s."""
    return wire.mpint(r) + wire.mpint(min(s, curve.n - s) if 0 < s < curve.n else s)


class _Fields(TypedDict):
    public_key: PublicKey
    algorithm: str
    signature: bytes
    touch: Touch | None


def _enarmor(blob: bytes) -> str:
    text = binascii.b2a_base64(blob, newline=False).decode()
    return _BEGIN + "\n".join(text[at : at + _COLUMNS] for at in range(0, len(text), _COLUMNS)) + _END


def _dearmor(armor: str) -> bytes:
    if len(armor) > _MAX_ARMOR:
        raise FormatError("signature too large", why=f"{len(armor)} characters, at most {_MAX_ARMOR}")
    if not (armor.startswith(_BEGIN) and armor.endswith(_END) and len(armor) > len(_BEGIN) + len(_END)):
        raise FormatError("not one SSH signature from its BEGIN to its END line")
    try:
        blob = binascii.a2b_base64(armor[len(_BEGIN) : -len(_END)].replace("\n", ""), strict_mode=True)
    except ValueError:  # binascii.Error, and plain ValueError for text outside ASCII
        raise FormatError("the signature is not base64") from None
    if _enarmor(blob) != armor:
        raise FormatError("the armor is not in its one spelling", why=f"base64 in lines of {_COLUMNS}")
    return blob


def _fields(blob: bytes) -> _Fields:
    """The outer layout and its constants; what the fields hold is checked by `SshSignature`."""
    reader = wire.Reader(blob, "the SSH signature")
    if reader.take(len(_MAGIC)) != _MAGIC:
        raise FormatError("not an SSH signature", why="it does not begin with SSHSIG")
    if (version := reader.uint32()) != _VERSION:
        raise FormatError(f"SSH signature of version {version}", why=f"only version {_VERSION} is accepted")
    key = reader.string()
    namespace, reserved, hash_name = reader.string(), reader.string(), reader.string()
    if namespace != NAMESPACE.encode():
        why = f"namespace {namespace[:40]!r}, not {NAMESPACE!r}"
        raise FormatError("signature made for another purpose", why=why)
    if reserved:
        raise FormatError("the SSH signature's reserved field is not empty")
    if hash_name != HASH.encode():
        raise FormatError(f"signature over the hash {hash_name[:40]!r}", why=f"only {HASH} is accepted")
    inner = wire.Reader(reader.string(), "the signature inside")
    reader.end()
    public_key = PublicKey.from_blob(key)
    algorithm, signature = inner.string(), inner.string()
    touch = Touch(flags=inner.byte(), counter=inner.uint32()) if public_key.is_hardware else None
    inner.end()
    return _Fields(public_key=public_key, algorithm=algorithm.decode("latin-1"), signature=signature, touch=touch)


def _check_ed25519(signature: bytes) -> None:
    if len(signature) != 64:
        raise FormatError("an Ed25519 signature is 64 bytes", why=f"this one has {len(signature)}")
    if int.from_bytes(signature[32:], "little") >= ED25519_ORDER:
        raise FormatError("an Ed25519 signature whose S is not below the group's order")


def _check_ecdsa(signature: bytes, curve: Curve) -> None:
    r, s = read_rs(signature)
    if not (1 <= r < curve.n and 1 <= s < curve.n):
        raise FormatError("an ECDSA signature out of its range")
    if s > curve.n // 2:
        raise FormatError("an ECDSA signature with the higher of its two values of s")


def _check_rsa(signature: bytes, key: RsaMaterial) -> None:
    if len(signature) != key.length or int.from_bytes(signature, "big") >= key.n:
        raise FormatError("an RSA signature that does not fit its modulus", why=f"{len(signature)} bytes")


def read_rs(signature: bytes) -> tuple[int, int]:
    """An ECDSA signature's two numbers (RFC 5656, 3.1.2). Raises `FormatError`."""
    reader = wire.Reader(signature, "the ECDSA signature")
    r, s = reader.mpint(), reader.mpint()
    reader.end()
    return r, s


def _sk_signed_data(application: bytes, touch: Touch, message: bytes) -> bytes:
    """PROTOCOL.u2f, "SSH U2F Signatures": what the token signs in place of the message."""
    state = bytes([touch.flags]) + wire.uint32(touch.counter)
    return hashlib.sha256(application).digest() + state + hashlib.sha256(message).digest()


# Each kind loads only its own part of `cryptography`, the first time that it is needed: Ed25519 18 ms, the
# others more.


def _verify_ed25519(key: Ed25519Material, signature: bytes, signed: bytes) -> None:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    Ed25519PublicKey.from_public_bytes(key.point).verify(signature, signed)


def ecdsa_parameters(curve: Curve) -> tuple[EllipticCurve, HashAlgorithm]:
    """The curve as `cryptography` has it, and the hash that goes with it (RFC 5656, section 6.2.1)."""
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec

    parameters: dict[str, tuple[EllipticCurve, HashAlgorithm]] = {
        "nistp256": (ec.SECP256R1(), hashes.SHA256()),
        "nistp384": (ec.SECP384R1(), hashes.SHA384()),
        "nistp521": (ec.SECP521R1(), hashes.SHA512()),
    }
    return parameters[curve.name]


def _verify_ecdsa(key: EcdsaMaterial, signature: bytes, signed: bytes) -> None:
    from cryptography.hazmat.primitives.asymmetric import ec, utils

    curve, digest = ecdsa_parameters(key.curve)
    der = utils.encode_dss_signature(*read_rs(signature))
    ec.EllipticCurvePublicNumbers(key.x, key.y, curve).public_key().verify(der, signed, ec.ECDSA(digest))


def _verify_rsa(key: RsaMaterial, algorithm: str, signature: bytes, signed: bytes) -> None:
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import padding, rsa

    digest = hashes.SHA512() if algorithm == "rsa-sha2-512" else hashes.SHA256()
    public = rsa.RSAPublicNumbers(key.e, key.n).public_key()
    public.verify(signature, signed, padding.PKCS1v15(), digest)
