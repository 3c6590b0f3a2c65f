"""Public keys: each kind's one line, and everything that is refused by name."""

from __future__ import annotations

import base64
import hashlib

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st
from keys_support import CURVES, ecdsa_key, ed25519_key, mpint, rsa_key, string

from gitrel.errors import FormatError
from gitrel.keys import wire
from gitrel.keys.blob import ECDSA_CURVES, KINDS
from gitrel.keys.public import PublicKey

ED = ed25519_key()
GOOD = {
    "ssh-ed25519": ED.blob,
    "ecdsa-sha2-nistp256": ecdsa_key("nistp256").blob,
    "ecdsa-sha2-nistp384": ecdsa_key("nistp384").blob,
    "ecdsa-sha2-nistp521": ecdsa_key("nistp521").blob,
    "ssh-rsa": rsa_key().blob,
    "sk-ssh-ed25519@openssh.com": ed25519_key("alice", b"ssh:").blob,
    "sk-ecdsa-sha2-nistp256@openssh.com": ecdsa_key("nistp256", b"ssh:").blob,
}
N3072 = 2**3072 - 3**5
P25519 = 2**255 - 19


def b64(blob: bytes) -> str:
    return base64.b64encode(blob).decode()


def line_of(kind: str, *parts: bytes) -> str:
    return f"{kind} {b64(string(kind.encode()) + b''.join(parts))}"


def ed_line(y: int, sign: int = 0) -> str:
    return line_of("ssh-ed25519", string((y | sign << 255).to_bytes(32, "little")))


def ec_line(point: bytes, *, curve: bytes = b"nistp256", kind: str = "ecdsa-sha2-nistp256") -> str:
    return line_of(kind, string(curve), string(point))


def rsa_line(e: int, n: int) -> str:
    return line_of("ssh-rsa", mpint(e), mpint(n))


def _not_reduced() -> bytes:
    """A point of P-256 whose x is written as x + p; p is 3 modulo 4, so a power gives the square root."""
    p, b = (curve := ECDSA_CURVES["ecdsa-sha2-nistp256"]).p, curve.b
    for x in range(50):
        y = pow(x**3 - 3 * x + b, (p + 1) // 4, p)
        if curve.has(x, y):
            return b"\x04" + (x + p).to_bytes(32, "big") + y.to_bytes(32, "big")
    raise AssertionError("half of all x have a point")


POINT = GOOD["ecdsa-sha2-nistp256"][-65:]
COMPRESSED = bytes([2 + (POINT[-1] & 1)]) + POINT[1:33]
OFF_CURVE = POINT[:-1] + bytes([POINT[-1] ^ 1])
TOO_WIDE = _not_reduced()
KEY = ED.line.split(" ")[1]
EC_LINE = ecdsa_key().line  # 104 bytes: one = at the end, and two bits that mean nothing before it
RSA_N = int.from_bytes(GOOD["ssh-rsa"][-384:], "big")

REFUSED = [
    ("unknown-type", line_of("ssh-ed448", string(bytes(57))), "unknown key type 'ssh-ed448'"),
    ("C69-certificate", line_of("ssh-ed25519-cert-v01@openssh.com", string(bytes(32))), "certificate"),
    ("C69-rsa-certificate", line_of("ssh-rsa-cert-v01@openssh.com", string(bytes(32))), "certificate"),
    ("dss", line_of("ssh-dss", mpint(23) * 4), "DSA"),
    ("dss-certificate", line_of("ssh-dss-cert-v01@openssh.com", mpint(23) * 4), "DSA"),
    ("C54-rsa-1024", rsa_key(1024).line, "1024 bits"),
    ("C54-rsa-3071", rsa_line(65537, 2**3071 - 1), "3071 bits"),
    ("rsa-16385", rsa_line(65537, 2**16384 + 1), "16385 bits"),
    ("rsa-even-modulus", rsa_line(65537, RSA_N - 1), "not an RSA key"),
    ("rsa-even-exponent", rsa_line(65536, RSA_N), "not an RSA key"),
    ("rsa-exponent-1", rsa_line(1, RSA_N), "not an RSA key"),
    ("rsa-exponent-huge", rsa_line(2**64 + 1, RSA_N), "not an RSA key"),
    (
        "rsa-padded-modulus",
        line_of("ssh-rsa", mpint(65537), string(b"\0\0" + RSA_N.to_bytes(384, "big"))),
        "shortest",
    ),
    ("rsa-padded-exponent", line_of("ssh-rsa", string(b"\0\1\0\1"), mpint(RSA_N)), "shortest"),
    ("rsa-negative", line_of("ssh-rsa", mpint(65537), string(RSA_N.to_bytes(384, "big"))), "negative"),
    ("no-key", "ssh-ed25519", "without a key"),
    ("two-spaces", f"ssh-ed25519  {KEY}", "without a key"),
    ("not-base64", f"ssh-ed25519 {KEY[:-4]}!!!!", "not base64"),
    ("not-ascii", f"ssh-ed25519 {KEY[:-1]}é", "not base64"),
    ("no-padding", EC_LINE[:-1], "not base64"),
    ("base64-unused-bits", f"{EC_LINE[:-2]}{chr(ord(EC_LINE[-2]) + 1)}=", "one spelling"),
    ("base64-more-after-padding", f"{EC_LINE}AAAA", "not base64"),
    ("rsa-number-too-long", rsa_line(65537, 2**20000 + 1), "too long"),
    ("trailing-bytes", f"ssh-ed25519 {b64(ED.blob + b'x')}", "trailing bytes"),
    ("cut-short", f"ssh-ed25519 {b64(ED.blob[:-1])}", "cut short"),
    ("empty-blob", "ssh-ed25519 AAAA", "cut short"),
    ("ed25519-31-bytes", line_of("ssh-ed25519", string(bytes(31))), "32 bytes"),
    ("ed25519-33-bytes", line_of("ssh-ed25519", string(bytes(33))), "32 bytes"),
    ("ed25519-not-on-curve", ed_line(2), "not on"),
    ("ed25519-y-is-p-plus-3", ed_line(P25519 + 3), "one encoding"),
    ("ed25519-neutral", ed_line(1), "small order"),
    ("ed25519-neutral-signed", ed_line(1, 1), "small order"),
    ("ed25519-order-2", ed_line(P25519 - 1), "small order"),
    ("ed25519-order-4", ed_line(0), "small order"),
    ("ec-compressed", ec_line(COMPRESSED), "uncompressed"),
    ("ec-hybrid", ec_line(bytes([6 + (POINT[-1] & 1)]) + POINT[1:]), "uncompressed"),
    ("ec-infinity", ec_line(b"\0"), "uncompressed"),
    ("ec-empty", ec_line(b""), "uncompressed"),
    ("ec-off-curve", ec_line(OFF_CURVE), "not on nistp256"),
    ("ec-zero", ec_line(b"\x04" + bytes(64)), "not on nistp256"),
    ("ec-coordinate-not-reduced", ec_line(TOO_WIDE), "not on nistp256"),
    ("ec-other-curve-name", ec_line(POINT, curve=b"nistp384"), "another curve"),
    ("sk-application-nul", f"{KINDS[-1]} {b64(ed25519_key('a', b'ssh:' + bytes(1)).blob)}", "NUL"),
    ("sk-without-application", line_of(KINDS[-1], ED.blob[15:]), "cut short"),
    ("type-in-line-differs", f"ssh-rsa {KEY}", "line says ssh-rsa, the key says ssh-ed25519"),
    ("option-in-front", f'namespaces="git" {ED.line}', "options in front"),
    ("C68-cert-authority", f"cert-authority {ED.line}", "options in front"),
    ("principal-in-front", f"alice@example.com {ED.line}", "options in front"),
    ("command-with-tab", f'command="x"\t{ED.line}', "options in front"),
    ("two-lines", f"{ED.line}\n{ED.line}", "one line"),
    ("comment-control", f"{ED.line} a\x1bb", "comment"),
    ("comment-space", f"{ED.line}  a", "comment"),
    ("empty", "", "not an SSH public key"),
    ("private-key", "-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n", "private key"),
    ("far-too-long", ED.line + " " + "x" * 20000, "one line"),
    ("blob-too-long", f"ssh-ed25519 {b64(ED.blob + bytes(9000))}", "too large"),
]


@pytest.mark.parametrize(("text", "reason"), [pytest.param(*row[1:], id=row[0]) for row in REFUSED])
def test_refuses(text: str, reason: str) -> None:
    with pytest.raises(FormatError, match=reason):
        PublicKey.parse_line(text)


def test_every_accepted_kind_has_a_good_example() -> None:
    assert set(GOOD) == set(KINDS)


@pytest.mark.parametrize("kind", KINDS)
def test_a_good_key_comes_back(kind: str) -> None:
    blob = GOOD[kind]
    bare = f"{kind} {b64(blob)}"
    key = PublicKey.parse_line(f"{bare} alice at her laptop")
    assert (key.kind, key.blob, key.comment) == (kind, blob, "alice at her laptop")
    assert key.line == f"{bare} alice at her laptop"
    assert key.bare_line == bare == PublicKey.from_blob(blob).line
    assert key.id == hashlib.sha256(blob).hexdigest()
    assert key.is_hardware == kind.startswith("sk-")
    assert key.application == (b"ssh:" if kind.startswith("sk-") else None)


def test_keys_are_equal_by_blob_alone() -> None:
    one, two = PublicKey.parse_line(f"{ED.line} one"), PublicKey.parse_line(f"{ED.line} two")
    assert one == two
    assert len({one, two, PublicKey.from_blob(ED.blob)}) == 1
    assert one != PublicKey.from_blob(ed25519_key("mallory").blob)


def test_white_space_around_a_line_is_dropped() -> None:
    assert PublicKey.parse_line(f" {ED.line} \r\n").line == ED.line  # ssh-keygen -C '' leaves a space


def test_a_value_cannot_be_made_past_the_checks() -> None:
    with pytest.raises(FormatError, match="line says"):
        PublicKey(kind="ssh-rsa", blob=ED.blob)
    with pytest.raises(FormatError, match="comment"):
        PublicKey(kind="ssh-ed25519", blob=ED.blob, comment="two\nlines")


@pytest.mark.parametrize("secret", ["AGE-SECRET-KEY-1QQQ", "hunter2", "b3BlbnNzaC1rZXktdjEA", "p\x1b[31m"])
def test_what_may_be_a_secret_is_not_repeated(secret: str) -> None:
    for text in (secret, f"ssh-ed25519 {secret}", f"{secret} {ED.line}"):
        with pytest.raises(FormatError) as caught:
            PublicKey.parse_line(text)
        assert secret not in f"{caught.value} {caught.value.hint}"


@given(st.sampled_from(sorted(GOOD)), st.text(), st.data())
def test_what_parses_gives_its_text_back(kind: str, comment: str, data: st.DataObject) -> None:
    other = st.binary().map(lambda raw: string(kind.encode()) + raw)
    blob = data.draw(st.just(GOOD[kind]) | st.binary() | other)
    text = f"{kind} {b64(blob)} {comment}".strip(" \t\r\n")
    try:
        key = PublicKey.parse_line(text)
    except FormatError:
        return
    assert key.line == text
    assert PublicKey.parse_line(key.line).comment == key.comment


@given(st.text() | st.binary().map(lambda raw: raw.decode("latin-1")))
def test_random_text_raises_format_error_and_nothing_else(text: str) -> None:
    with pytest.raises(FormatError):
        PublicKey.parse_line(text)
    with pytest.raises(FormatError):
        PublicKey.from_blob(text.encode("utf-8", "surrogatepass"))


@given(st.sampled_from(sorted(GOOD)), st.data())
def test_a_blob_cut_or_extended_is_refused(kind: str, data: st.DataObject) -> None:
    blob = GOOD[kind]
    at = data.draw(st.integers(0, len(blob) - 1))
    for changed in (blob[:at], blob + blob[at:]):
        with pytest.raises(FormatError):
            PublicKey.from_blob(changed)


@pytest.mark.parametrize("name", sorted(CURVES))
def test_the_curves_are_those_of_openssl(name: str) -> None:
    """1 and n - 1 times the generator have one x and opposite y: only with the right p, b and n."""
    curve = ECDSA_CURVES[f"ecdsa-sha2-{name}"]
    points = [
        ec.derive_private_key(scalar, CURVES[name][0]).public_key().public_numbers() for scalar in (1, 2, curve.n - 1)
    ]
    assert all(curve.has(point.x, point.y) for point in points)
    assert points[0].x == points[2].x
    assert points[0].y + points[2].y == curve.p


@given(st.binary(min_size=32, max_size=32))
def test_every_real_ed25519_key_is_accepted(seed: bytes) -> None:
    public = ed25519.Ed25519PrivateKey.from_private_bytes(seed).public_key()
    line = public.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()
    assert PublicKey.parse_line(line).line == line


def test_the_points_of_order_8_are_refused() -> None:
    """The two values of y, from the list in libsodium's ge25519_has_small_order."""
    for text in (
        "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
        "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
    ):
        y = int.from_bytes(bytes.fromhex(text), "little")
        for sign in (0, 1):
            with pytest.raises(FormatError, match="small order"):
                PublicKey.parse_line(ed_line(y, sign))


@given(st.integers(0, 2**600))
def test_mpint_round_trip(value: int) -> None:
    raw = wire.mpint(value)
    reader = wire.Reader(raw, "a test")
    assert reader.mpint() == value
    reader.end()
    assert raw == mpint(value)


@given(st.binary(max_size=20))
def test_an_mpint_has_one_encoding(raw: bytes) -> None:
    try:
        value = wire.Reader(string(raw), "a test").mpint()
    except FormatError:
        return
    assert wire.mpint(value) == string(raw)


def test_wire_refuses_a_length_past_the_end() -> None:
    for raw in (b"", b"\0\0\0", b"\0\0\0\1", b"\xff\xff\xff\xffx"):
        with pytest.raises(FormatError, match="cut short"):
            wire.Reader(raw, "a test").string()
