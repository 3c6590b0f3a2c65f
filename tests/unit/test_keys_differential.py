"""gitrel's verdict on a signature against `ssh-keygen -Y verify`'s, on thousands of good and mutated ones.

They are equal, except where docs/spec/signature.md says that gitrel is stricter: then gitrel refuses, and for one of
the reasons in `STRICTER`. gitrel never accepts what ssh-keygen refuses. Mutations come from a fixed seed; every
case is one start of ssh-keygen, so CI takes a few hundred. For a longer run:

    GITREL_DIFFERENTIAL=20000 python -m pytest tests/unit/test_keys_differential.py -n 8
"""

from __future__ import annotations

import base64
import os
import random
import re
import struct
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from keys_support import (
    CURVES,
    ED25519_L,
    PAYLOAD,
    Key,
    armor,
    dearmor,
    ecdsa_key,
    ed25519_key,
    inner,
    mpint,
    rsa_key,
    sk_inner,
    ssh_verify,
    sshsig,
    string,
    to_sign,
)

from gitrel.errors import FormatError
from gitrel.keys.sshsig import parse_sshsig

SPEC = Path(__file__).parents[2] / "docs/spec/signature.md"

# What gitrel says, and the words of docs/spec/signature.md, "Stricter than ssh-keygen", that allow it to.
STRICTER = {
    "SSH signature of version": "a version other than 1",
    "the SSH signature's reserved field is not empty": "a reserved field that is not empty in the blob",
    "signature over the hash": "the hash `sha256`",
    "the armor is not in its one spelling": "base64 in lines of other lengths",
    "not one SSH signature from its BEGIN to its END line": "text after END",
    "the signature is not base64": "base64 in lines of other lengths, or with white space",
    "is not in its shortest form": "numbers with zeros in front",
    "an ECDSA signature with the higher": "ECDSA with the higher s",
    "an Ed25519 signature whose S is not below": "Ed25519 with S + L",
    "signed without user presence": "without user presence",
    "an RSA key of": "RSA keys under 3072 bits",
}


@dataclass(frozen=True)
class Signer:
    """A key, and how it signs. `make` gives the signature inside."""

    name: str
    key: Key
    make: Callable[[bytes], bytes]


def signers() -> list[Signer]:
    """One for each kind of key; ECDSA with the lower s and the higher; the tokens in software."""
    rsa = rsa_key(3072)
    tokens = (ed25519_key("token", b"ssh:"), ecdsa_key("nistp256", b"ssh:"))
    return [
        Signer("ed25519", ed25519_key(), lambda data: inner(ed25519_key(), data)),
        *(_ecdsa(curve, high=False) for curve in CURVES),
        _ecdsa("nistp256", high=True),
        *(_rsa(algorithm, rsa, algorithm.encode()) for algorithm in ("rsa-sha2-512", "rsa-sha2-256", "ssh-rsa")),
        _rsa("rsa-2048", rsa_key(2048), b"rsa-sha2-512"),
        *(_token(key, flags) for key in tokens for flags in (1, 0)),
    ]


def _ecdsa(curve: str, *, high: bool) -> Signer:
    key = ecdsa_key(curve)
    return Signer(f"{curve}{'-high' if high else ''}", key, lambda data: inner(key, data, high=high))


def _rsa(name: str, key: Key, algorithm: bytes) -> Signer:
    return Signer(name, key, lambda data: inner(key, data, algorithm=algorithm))


def _token(key: Key, flags: int) -> Signer:
    name = f"sk-{'ed25519' if b'ed25519' in key.blob[:30] else 'ecdsa'}-{flags}"
    return Signer(name, key, lambda data: sk_inner(key, b"ssh:", data, flags=flags, counter=7))


def _mutations(signer: Signer, rng: random.Random) -> Iterator[tuple[str, str, bytes]]:
    """A name, the armor, and the payload that it is held against; endlessly."""
    plain = sshsig(signer.key.blob, signer.make(to_sign()))
    good = armor(plain)
    other = ed25519_key("mallory")
    fixed: list[tuple[str, str, bytes]] = [
        ("good", good, PAYLOAD),
        ("another payload", good, PAYLOAD + b"x"),
        ("empty payload", good, b""),
        ("version 0", armor(sshsig(signer.key.blob, signer.make(to_sign()), version=0)), PAYLOAD),
        ("version 2", armor(sshsig(signer.key.blob, signer.make(to_sign()), version=2)), PAYLOAD),
        ("reserved", armor(sshsig(signer.key.blob, signer.make(to_sign()), reserved=b"x")), PAYLOAD),
        (
            "reserved signed",
            armor(sshsig(signer.key.blob, signer.make(to_sign(reserved=b"x")), reserved=b"x")),
            PAYLOAD,
        ),
        (
            "sha256",
            armor(sshsig(signer.key.blob, signer.make(to_sign(hash_name="sha256")), hash_name="sha256")),
            PAYLOAD,
        ),
        ("sha1", armor(sshsig(signer.key.blob, signer.make(to_sign(hash_name="sha1")), hash_name="sha1")), PAYLOAD),
        (
            "SHA512",
            armor(sshsig(signer.key.blob, signer.make(to_sign(hash_name="SHA512")), hash_name="SHA512")),
            PAYLOAD,
        ),
        ("file", armor(sshsig(signer.key.blob, signer.make(to_sign(namespace=b"file")), namespace=b"file")), PAYLOAD),
        ("claims git", armor(sshsig(signer.key.blob, signer.make(to_sign(namespace=b"file")))), PAYLOAD),
        ("no namespace", armor(sshsig(signer.key.blob, signer.make(to_sign(namespace=b"")), namespace=b"")), PAYLOAD),
        (
            "git NUL",
            armor(sshsig(signer.key.blob, signer.make(to_sign(namespace=b"git\0")), namespace=b"git\0")),
            PAYLOAD,
        ),
        ("trailing", armor(plain + b"\0"), PAYLOAD),
        ("magic", armor(b"SSHSIH" + plain[6:]), PAYLOAD),
        ("cut", armor(plain[:-1]), PAYLOAD),
        ("another key's", armor(sshsig(other.blob, signer.make(to_sign()))), PAYLOAD),
        ("40 columns", armor(plain, 40), PAYLOAD),
        ("one line", armor(plain, 10**6), PAYLOAD),
        ("CRLF", good.replace("\n", "\r\n"), PAYLOAD),
        ("text after", good + "\ntext", PAYLOAD),
        ("text before", "text\n" + good, PAYLOAD),
        ("blanks", good[:60] + " \n\n" + good[60:], PAYLOAD),
        ("not wrapped", armor(signer.make(to_sign())), PAYLOAD),
        ("no padding", good.replace("=", ""), PAYLOAD),
        *_by_kind(signer),
    ]
    yield from fixed
    while True:
        yield _random(plain, good, rng)


def _by_kind(signer: Signer) -> Iterator[tuple[str, str, bytes]]:
    made = signer.make(to_sign())
    (length,) = struct.unpack(">I", made[:4])
    kind, rest = made[: 4 + length], made[4 + length :]
    (size,) = struct.unpack(">I", rest[:4])
    value, end = rest[4 : 4 + size], rest[4 + size :]

    def again(value: bytes) -> str:
        return armor(sshsig(signer.key.blob, kind + string(value) + end))

    if signer.name == "ed25519":
        s = int.from_bytes(value[32:], "little")
        yield "S + L", again(value[:32] + (s + ED25519_L).to_bytes(32, "little")), PAYLOAD
        yield "zero", again(bytes(64)), PAYLOAD
        yield "long", again(value + b"\0"), PAYLOAD
    elif signer.name in CURVES:
        (first,) = struct.unpack(">I", value[:4])
        r = int.from_bytes(value[4 : 4 + first], "big")
        s = int.from_bytes(value[8 + first :], "big")
        n = CURVES[signer.name][2]
        padded = string(b"\0" + value[4 : 4 + first]) + mpint(s)
        for name, changed in (
            ("n - s", mpint(r) + mpint(n - s)),
            ("s + n", mpint(r) + mpint(s + n)),
            ("r + n", mpint(r + n) + mpint(s)),
            ("zeros", mpint(0) + mpint(0)),
            ("swapped", mpint(s) + mpint(r)),
            ("zero in front", padded),
            ("behind", value + b"\0"),
        ):
            yield name, again(changed), PAYLOAD
    elif signer.name.startswith("rsa"):
        yield "zero in front", again(b"\0" + value), PAYLOAD
        yield "short", again(value[1:]), PAYLOAD
        yield "algorithm", armor(sshsig(signer.key.blob, string(b"ssh-ed25519") + string(value))), PAYLOAD
    elif signer.name.startswith("sk-"):
        yield "flags", armor(sshsig(signer.key.blob, kind + string(value) + b"\x05" + end[1:])), PAYLOAD
        yield "counter", armor(sshsig(signer.key.blob, kind + string(value) + end[:1] + b"\0\0\0\x08")), PAYLOAD


def _random(plain: bytes, good: str, rng: random.Random) -> tuple[str, str, bytes]:
    """A byte of the blob or a character of the armor changed, dropped, doubled; a length changed."""
    at = rng.randrange(len(plain))
    match rng.randrange(6):
        case 0:
            return "bit", armor(plain[:at] + bytes([plain[at] ^ 1 << rng.randrange(8)]) + plain[at + 1 :]), PAYLOAD
        case 1:
            return "dropped", armor(plain[:at] + plain[at + 1 :]), PAYLOAD
        case 2:
            return "doubled", armor(plain[:at] + plain[at : at + 1] + plain[at:]), PAYLOAD
        case 3:
            return (
                "length",
                armor(plain[:at] + struct.pack(">I", rng.choice((0, 1, 2**32 - 1))) + plain[at + 4 :]),
                PAYLOAD,
            )
        case 4:
            at = rng.randrange(len(good))
            return "character", good[:at] + chr(rng.randrange(10, 127)) + good[at + 1 :], PAYLOAD
    at = rng.randrange(len(good))
    return "gone", good[:at] + good[at + 1 :], PAYLOAD


def verdict(text: str, payload: bytes, key: Key) -> str:
    """Empty if gitrel accepts it from this key, else its words."""
    try:
        signature = parse_sshsig(text)
        signature.verify(payload)
    except FormatError as error:
        return str(error)
    return "" if signature.public_key.blob == key.blob else "another key"


def budget() -> int:
    return int(os.environ.get("GITREL_DIFFERENTIAL", "560"))


@pytest.mark.parametrize("signer", signers(), ids=lambda signer: signer.name)
@pytest.mark.timeout(max(120, budget()))
def test_verdicts_are_equal(signer: Signer, tmp_path: Path) -> None:
    rng = random.Random(signer.name)
    seen: Counter[str] = Counter()
    cases = _mutations(signer, rng)
    for _ in range(max(40, budget() // len(signers()))):
        name, text, payload = next(cases)
        ours = verdict(text, payload, signer.key)
        theirs = ssh_verify(tmp_path, signer.key.line, text, payload)
        if theirs and ours:
            reason = next((each for each in STRICTER if each in ours), None)
            assert reason is not None, f"{name}: ssh-keygen accepts it; gitrel: {ours}\n{text}"
            seen[reason] += 1
        else:
            assert theirs == (not ours), f"{name}: gitrel accepts what ssh-keygen refuses\n{text}"
            seen["accepted" if theirs else "refused"] += 1
    assert seen["refused"] > 10
    assert len(seen) > 1 or signer.name == "ssh-rsa", "neither accepts anything: the test says nothing"


def test_thousands_by_gitrel_alone() -> None:
    """What needs no ssh-keygen: of any mutation of a good blob, gitrel accepts none."""
    for signer in signers():
        rng = random.Random(f"alone {signer.name}")
        good = armor(sshsig(signer.key.blob, signer.make(to_sign())))
        plain = dearmor(good)
        for _ in range(400):
            name, text, payload = _random(plain, good, rng)
            assert text == good or verdict(text, payload, signer.key), f"{signer.name}, {name}\n{text}"


def test_every_difference_is_in_the_spec() -> None:
    spec = SPEC.read_text()
    section = re.sub(r"\s+", " ", spec[spec.index("## Stricter than ssh-keygen") :])
    for words in STRICTER.values():
        assert words in section, words


def test_base64_is_what_python_reads() -> None:
    """The encoders of this test are apart from the package's; one known answer ties them together."""
    key = ed25519_key()
    assert base64.b64encode(key.blob).decode() == key.line.split(" ")[1]
    assert verdict(armor(sshsig(key.blob, inner(key, to_sign()))), PAYLOAD, key) == ""
