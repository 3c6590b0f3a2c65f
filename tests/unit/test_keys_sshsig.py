"""The SSH signature's one spelling: hostile rows by their ids, mutations, round trips."""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import NamedTuple, TypedDict, Unpack

import pytest
from hypothesis import given
from hypothesis import strategies as st
from keys_support import (
    ED25519_L,
    PAYLOAD,
    SK_ECDSA,
    Key,
    armor,
    dearmor,
    ecdsa_key,
    ecdsa_rs,
    ed25519_key,
    inner,
    mpint,
    rsa_key,
    signed,
    sk_inner,
    sshsig,
    string,
    to_sign,
)

from gitrel.errors import FormatError
from gitrel.keys.blob import ECDSA_CURVES, MAX_BLOB
from gitrel.keys.native import call_native
from gitrel.keys.public import PublicKey
from gitrel.keys.sshsig import SshSignature, Touch, normalise, parse_sshsig

ALICE, MALLORY = ed25519_key("alice"), ed25519_key("mallory")
GOOD = signed(ALICE)
BLOB = dearmor(GOOD)


def check(text: str, payload: bytes = PAYLOAD) -> None:
    parse_sshsig(text).verify(payload)


Build = Callable[[], str]


class Row(NamedTuple):
    id: str
    build: Build
    reason: str


class Fields(TypedDict, total=False):
    namespace: bytes
    reserved: bytes
    hash_name: str


class Outer(TypedDict, total=False):
    magic: bytes
    version: int


def forged(
    *,
    key: Key = ALICE,
    by: Key | None = None,
    public: bytes | None = None,
    signs: Fields | None = None,
    says: Fields | None = None,
    algorithm: bytes | None = None,
    tail: bytes = b"",
) -> Build:
    """A signature over the fields `signs`, in a blob that `says` others, perhaps `by` another key."""

    def build() -> str:
        signature = inner(by or key, to_sign(**(signs or {})), algorithm=algorithm)
        return armor(sshsig(public or key.blob, signature + tail, **(says or {})))

    return build


def honest(**fields: Unpack[Fields]) -> Build:
    """A signature that says what it signs."""
    return forged(signs=fields, says=fields)


def outer(**fields: Unpack[Outer]) -> Build:
    return lambda: armor(sshsig(ALICE.blob, inner(ALICE, to_sign()), **fields))


def _s_plus_l() -> str:
    raw = bytearray(BLOB)
    raw[-32:] = (int.from_bytes(raw[-32:], "little") + ED25519_L).to_bytes(32, "little")
    return armor(bytes(raw))


def _rows(text: str) -> str:
    lines = text.split("\n")
    return "\n".join([*lines[:2], "", f" {lines[2]}", *lines[3:]])


def _high(curve: str) -> str:
    key = ecdsa_key(curve)
    return armor(sshsig(key.blob, inner(key, to_sign(), high=True)))


def _sk_ecdsa(flags: int = 1, *, high: bool = False, application: bytes = b"ssh:") -> str:
    key = ecdsa_key("nistp256", application)
    return armor(sshsig(key.blob, sk_inner(key, application, to_sign(), flags=flags, high=high)))


def _sk_ed25519(flags: int = 1, application: bytes = b"ssh:", counter: int = 7) -> str:
    key = ed25519_key("alice", application)
    return armor(sshsig(key.blob, sk_inner(key, application, to_sign(), flags=flags, counter=counter)))


def _webauthn() -> str:
    key = ecdsa_key("nistp256", b"ssh:")
    made = sk_inner(key, b"ssh:", to_sign())
    name = string(b"webauthn-sk-ecdsa-sha2-nistp256@openssh.com")
    return armor(sshsig(key.blob, name + made[len(string(SK_ECDSA)) :]))


def _ecdsa_of(r: int, s: int) -> str:
    key = ecdsa_key()
    return armor(sshsig(key.blob, string(b"ecdsa-sha2-nistp256") + string(mpint(r) + mpint(s))))


def _rsa_of(signature: bytes) -> str:
    return armor(sshsig(rsa_key().blob, string(b"rsa-sha2-512") + string(signature)))


def _rsa_raw() -> bytes:
    return inner(rsa_key(), to_sign())[-384:]


P256_N = ECDSA_CURVES["ecdsa-sha2-nistp256"].n
CERTIFICATE = string(b"ssh-ed25519-cert-v01@openssh.com") + string(b"nonce") + ALICE.blob[15:]
DSA = string(b"ssh-dss") + mpint(23) * 4


def _ecdsa_tail() -> str:
    rs = ecdsa_rs(ecdsa_key(), to_sign(), "nistp256")
    return armor(sshsig(ecdsa_key().blob, string(b"ecdsa-sha2-nistp256") + string(rs + b"x")))


def _sk_in_plain_key() -> str:
    return armor(sshsig(ALICE.blob, sk_inner(ed25519_key("alice", b"ssh:"), b"ssh:", to_sign())))


REFUSED = [
    Row("C04-no-signature", lambda: "", "not one SSH signature"),
    Row("C23-text-after-end", lambda: GOOD + "\nhello", "not one SSH signature"),
    Row("C23-final-newline", lambda: GOOD + "\n", "not one SSH signature"),
    Row("C23-text-before-begin", lambda: "hello\n" + GOOD, "not one SSH signature"),
    Row("C24-40-columns", lambda: armor(BLOB, 40), "one spelling"),
    Row("C24-71-columns", lambda: armor(BLOB, 71), "one spelling"),
    Row("C25-one-line", lambda: armor(BLOB, 9999), "one spelling"),
    Row("far-too-long", lambda: armor(BLOB + bytes(4 * MAX_BLOB)), "signature too large"),
    Row("C26-crlf", lambda: GOOD.replace("\n", "\r\n"), "not one SSH signature"),
    Row("C26-crlf-inside", lambda: GOOD.replace("=\n", "=\r\n"), "not base64"),
    Row("C27-blank-line-and-space", lambda: _rows(GOOD), "not base64"),
    Row("C27-blank-line", lambda: GOOD.replace("U1NIU0lH", "\nU1NIU0lH"), "one spelling"),
    Row("C27-two-signatures", lambda: GOOD + "\n" + GOOD, "not base64"),
    Row("C29-reserved-in-blob-only", forged(says={"reserved": b"x"}), "reserved"),
    Row("C30-version-0", outer(version=0), "version 0"),
    Row("C31-ecdsa-high-s-256", lambda: _high("nistp256"), "higher of its two"),
    Row("C31-ecdsa-high-s-384", lambda: _high("nistp384"), "higher of its two"),
    Row("C31-ecdsa-high-s-521", lambda: _high("nistp521"), "higher of its two"),
    Row("C31-sk-ecdsa-high-s", lambda: _sk_ecdsa(high=True), "higher of its two"),
    Row("C31-s-is-zero", lambda: _ecdsa_of(1, 0), "out of its range"),
    Row("C31-r-is-zero", lambda: _ecdsa_of(0, 1), "out of its range"),
    Row("C31-r-is-n", lambda: _ecdsa_of(P256_N, 1), "out of its range"),
    Row("C31-s-is-n", lambda: _ecdsa_of(1, P256_N), "out of its range"),
    Row("C31-s-just-above-half", lambda: _ecdsa_of(1, P256_N // 2 + 1), "higher of its two"),
    Row("C31-trailing-bytes-after-s", _ecdsa_tail, "trailing bytes"),
    Row("C32-ed25519-s-plus-l", _s_plus_l, "not below the group"),
    Row("C37-reserved-in-signed-data", forged(signs={"reserved": b"x"}), "does not match"),
    Row("C37-reserved-in-both", honest(reserved=b"x"), "reserved"),
    Row("C40-namespace-file", honest(namespace=b"file"), "another purpose"),
    Row("C41-says-git-signs-file", forged(signs={"namespace": b"file"}), "does not match"),
    Row("C42-empty-namespace", honest(namespace=b""), "another purpose"),
    Row("C43-namespace-with-nul", honest(namespace=b"git\0x"), "another purpose"),
    Row("C44-sha256", honest(hash_name="sha256"), "only sha512"),
    Row("C45-sha1", honest(hash_name="sha1"), "only sha512"),
    Row("C46-md5", honest(hash_name="md5"), "only sha512"),
    Row("C47-upper-case-sha512", honest(hash_name="SHA512"), "only sha512"),
    Row("C48-version-2", outer(version=2), "version 2"),
    Row("C49-trailing-bytes", lambda: armor(BLOB + b"x"), "trailing bytes"),
    Row("C49-trailing-bytes-inside", forged(tail=b"x"), "trailing bytes"),
    Row("C49-trailing-bytes-in-key", forged(public=ALICE.blob + b"x"), "trailing bytes"),
    Row("C50-wrong-magic", outer(magic=b"SSHSIH"), "SSHSIG"),
    Row("C51-mallory-as-alice", forged(by=MALLORY), "does not match"),
    Row("C52-rsa-with-sha1", forged(key=rsa_key(), algorithm=b"ssh-rsa"), "another algorithm"),
    Row("C54-rsa-1024", forged(key=rsa_key(1024)), "1024 bits"),
    Row("C54-rsa-2048", forged(key=rsa_key(2048)), "2048 bits"),
    Row("C54-rsa-signature-short", lambda: _rsa_of(_rsa_raw()[1:]), "fit its modulus"),
    Row("C54-rsa-signature-padded", lambda: _rsa_of(b"\0" + _rsa_raw()), "fit its modulus"),
    Row("C54-rsa-signature-above-modulus", lambda: _rsa_of(b"\xff" * 384), "fit its modulus"),
    Row("C54-rsa-signature-zero", lambda: _rsa_of(bytes(384)), "does not match"),
    Row("C55-rsa-name-ed25519-key", forged(algorithm=b"rsa-sha2-512"), "another algorithm"),
    Row("C55-sk-name-ed25519-key", _sk_in_plain_key, "trailing bytes"),
    Row("C55-webauthn-name", _webauthn, "another algorithm"),
    Row("C56-raw-agent-signature", lambda: armor(inner(ALICE, PAYLOAD)), "SSHSIG"),
    Row("C56-raw-signature-wrapped", lambda: armor(sshsig(ALICE.blob, inner(ALICE, PAYLOAD))), "not match"),
    Row("C69-certificate", forged(public=CERTIFICATE), "certificate"),
    Row("C69-dsa", forged(public=DSA), "DSA"),
    Row("C77-sk-ed25519-without-touch", lambda: _sk_ed25519(flags=0), "user presence"),
    Row("C77-sk-ed25519-verified-only", lambda: _sk_ed25519(flags=4), "user presence"),
    Row("C77-sk-ecdsa-without-touch", lambda: _sk_ecdsa(flags=0), "user presence"),
]

ACCEPTED: list[tuple[str, Build]] = [
    ("C01-ed25519", lambda: GOOD),
    ("C02-ecdsa-256-low-s", lambda: signed(ecdsa_key("nistp256"))),
    ("C02-ecdsa-384-low-s", lambda: signed(ecdsa_key("nistp384"))),
    ("C02-ecdsa-521-low-s", lambda: signed(ecdsa_key("nistp521"))),
    ("C03-rsa-3072-sha512", lambda: signed(rsa_key())),
    ("C53-rsa-sha2-256", forged(key=rsa_key(), algorithm=b"rsa-sha2-256")),
    ("C76-sk-ed25519", _sk_ed25519),
    ("C76-sk-ed25519-verified", lambda: _sk_ed25519(flags=5, counter=2**32 - 1)),
    ("C76-sk-ecdsa", _sk_ecdsa),
    ("C78-sk-ed25519-application", lambda: _sk_ed25519(application=b"ssh:evil")),
    ("C78-sk-ecdsa-application", lambda: _sk_ecdsa(application=b"ssh:evil")),
]
accepted = pytest.mark.parametrize("build", [pytest.param(build, id=name) for name, build in ACCEPTED])


@pytest.mark.parametrize("row", [pytest.param(row, id=row.id) for row in REFUSED])
def test_refuses(row: Row) -> None:
    with pytest.raises(FormatError, match=row.reason):
        check(row.build())


def test_the_catalogue_has_every_row_that_concerns_signatures() -> None:
    ids = {row.id[:3] for row in REFUSED} | {name[:3] for name, _ in ACCEPTED}
    blob_rows = {23, 24, 25, 26, 27, 29, 30, 31, 32, 37, *range(40, 57), 76, 77, 78}
    assert ids >= {f"C{number}" for number in blob_rows}


@accepted
def test_accepts_and_gives_the_text_back(build: Build) -> None:
    text = build()
    signature = parse_sshsig(text)
    signature.verify(PAYLOAD)
    assert signature.armor() == text
    assert normalise(text + "\n") == text == normalise(text)


@accepted
def test_c05_refuses_another_payload(build: Build) -> None:
    signature = parse_sshsig(build())
    for payload in (b"", PAYLOAD[:-1], PAYLOAD + b"\0", PAYLOAD.replace(b"v1", b"v2")):
        with pytest.raises(FormatError, match="does not match"):
            signature.verify(payload)


@accepted
def test_refuses_every_flipped_bit_of_the_blob(build: Build) -> None:
    blob = dearmor(build())
    step = 1 if len(blob) < 400 else 13  # an RSA check costs more
    for at in range(0, len(blob) * 8, step):
        raw = bytearray(blob)
        raw[at // 8] ^= 1 << at % 8
        with pytest.raises(FormatError):
            check(armor(bytes(raw)))


def test_refuses_every_change_of_one_character() -> None:
    for at in range(len(GOOD)):
        for char in "\0\n\r =-/+AQgw9~é":
            for text in (GOOD[:at] + char + GOOD[at + 1 :], GOOD[:at] + char + GOOD[at:]):
                if text != GOOD:
                    with pytest.raises(FormatError):
                        check(text)
        with pytest.raises(FormatError):
            check(GOOD[:at] + GOOD[at + 1 :])


def test_refuses_every_other_spelling_of_the_last_base64_digit() -> None:
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    at = GOOD.index("=") - 1
    texts = {GOOD[:at] + char + GOOD[at + 1 :] for char in alphabet} - {GOOD}
    assert any(base64.b64decode("".join(text.split("\n")[1:-1])) == BLOB for text in texts)
    for text in texts:
        with pytest.raises(FormatError):
            check(text)


@given(st.text() | st.binary().map(armor) | st.binary().map(lambda raw: armor(b"SSHSIG\0\0\0\1" + raw)))
def test_random_input_raises_format_error_and_nothing_else(text: str) -> None:
    for read in (parse_sshsig, normalise):
        with pytest.raises(FormatError):
            read(text)


BLOBS = [dearmor(build()) for _, build in ACCEPTED]  # made once: ECDSA signs differently each time


@given(st.data())
def test_a_damaged_blob_is_refused(data: st.DataObject) -> None:
    blob = data.draw(st.sampled_from(BLOBS))
    at = data.draw(st.integers(0, len(blob)))
    end = data.draw(st.integers(at, min(len(blob), at + 8)))
    changed = blob[:at] + data.draw(st.binary(max_size=8)) + blob[end:]
    if changed != blob:
        with pytest.raises(FormatError):
            check(armor(changed))


@given(st.integers(0, 80))
def test_armor_is_one_text_for_every_length(length: int) -> None:
    """Around a last line that is exactly full, or almost empty."""
    application = b"ssh:" + b"x" * length
    text = _sk_ed25519(application=application)
    assert parse_sshsig(text).armor() == text
    assert all(len(line) == 70 for line in text.split("\n")[1:-2])


@given(st.integers(1, P256_N - 1), st.integers(1, P256_N - 1))
def test_normalise_is_idempotent_and_makes_s_low(r: int, s: int) -> None:
    text = normalise(_ecdsa_of(r, s) + "\n")
    assert normalise(text) == text
    assert text == normalise(_ecdsa_of(r, P256_N - s))
    assert parse_sshsig(text).armor() == text


@pytest.mark.parametrize("curve", ["nistp256", "nistp384", "nistp521"])
def test_normalise_keeps_a_signature_good(curve: str) -> None:
    high = _high(curve)
    text = normalise(high)
    assert text != high
    check(text)


def test_normalise_keeps_a_hardware_keys_signature_good() -> None:
    check(normalise(_sk_ecdsa(high=True)))


def test_a_value_cannot_be_made_past_the_checks() -> None:
    alice_key = PublicKey.from_blob(ALICE.blob)
    with pytest.raises(FormatError, match="not a signature of"):
        SshSignature(
            public_key=alice_key,
            algorithm="ssh-ed25519",
            signature=bytes(64),
            touch=Touch(flags=1, counter=1),
        )
    with pytest.raises(FormatError, match="not a signature of"):
        SshSignature(
            public_key=PublicKey.from_blob(ed25519_key("a", b"ssh:").blob),
            algorithm="sk-ssh-ed25519@openssh.com",
            signature=bytes(64),
        )
    with pytest.raises(FormatError, match="64 bytes"):
        SshSignature(public_key=alice_key, algorithm="ssh-ed25519", signature=bytes(63))


def test_native_panics_and_errors_become_format_errors_and_ctrl_c_does_not() -> None:
    class PanicException(BaseException):
        pass

    def failing(error: BaseException) -> Callable[[], None]:
        def call() -> None:
            raise error

        return call

    for error in (PanicException("secret"), ValueError("secret"), MemoryError("secret"), OverflowError()):
        with pytest.raises(FormatError, match=type(error).__name__) as caught:
            call_native("what", failing(error))
        assert "secret" not in str(caught.value)
    with pytest.raises(KeyboardInterrupt):
        call_native("what", failing(KeyboardInterrupt()))
