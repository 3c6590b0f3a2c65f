"""The rows C and D of the catalogue, through the whole verifier: each is served as v6 after five good releases.

`payload` is what a good v6 signs. A row makes bytes from it; what is refused is refused by check 2 (not the one
spelling) or 5 (not signed by whoever may), and never by an exception of another kind.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable

import pytest
from keys_support import (
    ED25519_L,
    Key,
    armor,
    dearmor,
    ecdsa_key,
    ed25519_key,
    inner,
    rsa_key,
    signed,
    sk_inner,
    sshsig,
    string,
    to_sign,
)
from simulator import Simulator, commit_with, ledger_ref, policy, role, shop

from gitrel.errors import Refused
from gitrel.format.trust import encode_trust

ALICE, BOB, MALLORY = ed25519_key("alice"), ed25519_key("bob"), ed25519_key("mallory")
P256, RSA, SHORT_RSA = ecdsa_key(), rsa_key(), rsa_key(1024)
TOKEN = ed25519_key("token", b"ssh:")
EVIL_TOKEN = ed25519_key("token", b"ssh:evil")
PEOPLE = {
    "alice": (ALICE, P256, RSA),
    "bob": (BOB,),
    "token": (TOKEN, EVIL_TOKEN),
}
GOOD = [0, 0, 0, 0, 0]

Make = Callable[[bytes], bytes]


@pytest.fixture(scope="module")
def ready() -> tuple[Simulator, bytes]:
    """Five releases under a trust in which alice (three kinds of keys), bob and a token may release; v6's payload."""
    sim = shop(5)
    sim.trust(policy(PEOPLE, release=role(*PEOPLE)))
    build = sim.build()
    before = sim.fork()
    return before, sim.release(build).payload


# signatures over an untouched payload


def wrong(blob: Callable[[bytes], bytes]) -> Make:
    """An SSHSIG blob that is not quite right, in ssh-keygen's armor."""
    return lambda payload: commit_with(payload, armor(blob(payload)))


def text(change: Callable[[str], str]) -> Make:
    """Alice's good armor, changed."""
    return lambda payload: commit_with(payload, change(signed(ALICE, payload)))


def by(key: Key) -> Make:
    return lambda payload: commit_with(payload, signed(key, payload))


def fields(**over: str | bytes | int) -> Make:
    """Alice's good signature in a blob whose fields say something else."""
    return wrong(lambda payload: sshsig(ALICE.blob, inner(ALICE, to_sign(payload)), **over))  # type: ignore[arg-type]


def signed_as(namespace: bytes = b"git", reserved: bytes = b"", hash_name: str = "sha512") -> Make:
    """Alice's signature over the same payload, for another purpose, and saying so."""
    return wrong(
        lambda payload: sshsig(
            ALICE.blob,
            inner(ALICE, to_sign(payload, namespace=namespace, reserved=reserved, hash_name=hash_name)),
            namespace=namespace,
            reserved=reserved,
            hash_name=hash_name,
        )
    )


def touched(key: Key, application: bytes, flags: int) -> Make:
    return wrong(lambda payload: sshsig(key.blob, sk_inner(key, application, to_sign(payload), flags=flags)))


def s_plus_l(payload: bytes) -> bytes:
    good = ALICE.private.sign(to_sign(payload))  # type: ignore[call-arg]
    number = int.from_bytes(good[32:], "little") + ED25519_L
    return sshsig(ALICE.blob, string(b"ssh-ed25519") + string(good[:32] + number.to_bytes(32, "little")))


def rewrapped(columns: int) -> Make:
    return lambda payload: commit_with(payload, armor(dearmor(signed(ALICE, payload)), columns))


def certificate(critical: bytes = b"", kind: int = 1, principals: bytes = b"alice", before: int = 2**64 - 1) -> bytes:
    """A certificate of alice's key, signed by a CA (OpenSSH's PROTOCOL.certkeys)."""
    (length,) = struct.unpack(">I", ALICE.blob[:4])
    body = string(b"ssh-ed25519-cert-v01@openssh.com") + string(b"nonce") + ALICE.blob[4 + length :]
    body += struct.pack(">QI", 1, kind) + string(b"id") + string(string(principals)) + struct.pack(">QQ", 0, before)
    body += string(critical) + string(b"") + string(b"") + string(BOB.blob)
    return body + string(inner(BOB, body))


def certified(**over: bytes | int) -> Make:
    blob = certificate(**over)  # type: ignore[arg-type]
    return wrong(lambda payload: sshsig(blob, inner(ALICE, to_sign(payload))))


def two_signatures(first: Make, second: Make, header: str = "gpgsig") -> Make:
    """The first commit, with the second one's signature after its own."""

    def make(payload: bytes) -> bytes:
        one, other = first(payload), second(payload)
        found = re.search(rb"\ngpgsig .*?\n\n", other, re.DOTALL)
        assert found is not None
        return one.replace(b"\n\n", found[0].replace(b"gpgsig", header.encode(), 1), 1)

    return make


GARBAGE = text(lambda _: "garbage")

SIGNATURES: dict[str, tuple[Make, int]] = {
    "C01": (by(ALICE), 0),
    "C02": (by(P256), 0),
    "C03": (by(RSA), 0),
    "C04": (lambda payload: payload, 2),
    "C20": (lambda payload: by(ALICE)(payload).replace(b"\ngpgsig ", b"\ngpgsig-note anything\ngpgsig ", 1), 2),
    "C21": (
        lambda payload: by(ALICE)(payload).replace(b"\ngpgsig ", b"\ngpgsigtree " + payload[5:45] + b"\ngpgsig "),
        2,
    ),
    "C22": (lambda payload: by(ALICE)(payload).replace(b"\n\n", b"\ngpgsig-sha256 garbage\n\n", 1), 2),
    "C23": (text(lambda good: good + "\nmore"), 2),
    "C24": (rewrapped(40), 2),
    "C25": (rewrapped(10_000), 2),
    "C26": (text(lambda good: good.replace("\n", "\r\n")), 2),
    "C27": (text(lambda good: good.replace("\n", "\n\n", 3)), 2),
    "C27-spaces": (text(lambda good: good.replace("\n", " \n", 3)), 2),
    "C28": (
        lambda payload: re.sub(rb"(author .*?)(gpgsig .*?-----\n(?=\n))", rb"\2\1", by(ALICE)(payload), flags=re.S),
        2,
    ),
    "C29": (fields(reserved=b"x"), 2),
    "C30": (fields(version=0), 2),
    "C31": (wrong(lambda payload: sshsig(P256.blob, inner(P256, to_sign(payload), high=True))), 2),
    "C32": (wrong(s_plus_l), 2),
    "C33": (two_signatures(by(ALICE), GARBAGE), 2),
    "C34": (two_signatures(GARBAGE, by(ALICE)), 2),
    "C35": (two_signatures(by(ALICE), by(BOB)), 2),
    "C36": (lambda payload: by(ALICE)(payload).replace(b"\n ", b"\n", 3), 2),
    "C37": (signed_as(reserved=b"x"), 2),
    "C40": (signed_as(namespace=b"file"), 2),
    "C41": (wrong(lambda payload: sshsig(ALICE.blob, inner(ALICE, to_sign(payload, namespace=b"file")))), 5),
    "C42": (signed_as(namespace=b""), 2),
    "C43": (signed_as(namespace=b"git\0x"), 2),
    "C44": (signed_as(hash_name="sha256"), 2),
    "C45": (signed_as(hash_name="sha1"), 2),
    "C46": (signed_as(hash_name="md5"), 2),
    "C47": (signed_as(hash_name="SHA512"), 2),
    "C48": (fields(version=2), 2),
    "C49": (wrong(lambda payload: dearmor(signed(ALICE, payload)) + b"\0"), 2),
    "C49-inside": (wrong(lambda payload: sshsig(ALICE.blob, inner(ALICE, to_sign(payload)) + b"\0")), 2),
    "C50": (fields(magic=b"SSHSIQ"), 2),
    "C51": (wrong(lambda payload: sshsig(ALICE.blob, inner(MALLORY, to_sign(payload)))), 5),
    "C52": (wrong(lambda payload: sshsig(RSA.blob, inner(RSA, to_sign(payload), algorithm=b"ssh-rsa"))), 2),
    "C53": (wrong(lambda payload: sshsig(RSA.blob, inner(RSA, to_sign(payload), algorithm=b"rsa-sha2-256"))), 0),
    "C54": (by(SHORT_RSA), 2),
    "C55": (wrong(lambda payload: sshsig(ALICE.blob, inner(ALICE, to_sign(payload), algorithm=b"rsa-sha2-512"))), 2),
    "C56": (wrong(lambda payload: inner(ALICE, payload)), 2),
    "C60": (by(MALLORY), 5),
    "C66": (by(BOB), 0),
    "C69": (certified(), 2),
    "C70": (certified(before=1), 2),
    "C71": (certified(before=1_700_000_001), 2),
    "C72": (certified(principals=b"anybody"), 2),
    "C73": (certified(principals=b"bob"), 2),
    "C74": (certified(kind=2), 2),
    "C75": (certified(critical=string(b"force-command") + string(string(b"true"))), 2),
    "C76": (touched(TOKEN, b"ssh:", 1), 0),
    "C77": (touched(TOKEN, b"ssh:", 0), 2),
    "C77-verified-only": (touched(TOKEN, b"ssh:", 4), 2),
    "C78": (touched(EVIL_TOKEN, b"ssh:evil", 1), 0),
    "C78-not-listed": (touched(ed25519_key("token", b"ssh:other"), b"ssh:other", 1), 5),
    "D11": (text(lambda _: "-----BEGIN PGP SIGNATURE-----\n\niQ==\n-----END PGP SIGNATURE-----"), 2),
    "D12": (text(lambda _: ""), 2),
    "D12-armor": (text(lambda _: "-----BEGIN SSH SIGNATURE-----\n-----END SSH SIGNATURE-----"), 2),
}


def served(ready: tuple[Simulator, bytes], raw: bytes) -> list[int]:
    sim = ready[0].fork()
    sim.publish(ledger_ref(6), raw)
    return sim.outcome()


@pytest.mark.parametrize("row", SIGNATURES)
def test_signature(row: str, ready: tuple[Simulator, bytes]) -> None:
    make, expected = SIGNATURES[row]
    raw = make(ready[1])
    assert expected == 0 or raw != by(ALICE)(ready[1]), "the attack does something"
    assert served(ready, raw) == [*GOOD, expected]


def test_c66_the_person_is_the_keys_owner(ready: tuple[Simulator, bytes]) -> None:
    sim = ready[0].fork()
    sim.publish(ledger_ref(6), by(BOB)(ready[1]))
    release = sim.verdicts()[-1].release
    assert release is not None
    assert b"author Alice" in release.signed.raw
    assert release.signers == ("bob",)


# a good signature, and something changed after it


def after(old: bytes, new: bytes) -> Make:
    def make(payload: bytes) -> bytes:
        raw = by(ALICE)(payload)
        assert old in raw
        return raw.replace(old, new, 1)

    return make


def without_parent(payload: bytes) -> bytes:
    return re.sub(rb"parent [0-9a-f]+\n", b"", by(ALICE)(payload), count=1)


CHANGED: dict[str, tuple[Make, int]] = {
    "C05": (after(b"Release", b"release"), 5),
    "C05-trailer": (after(b"Tree-SHA256: ", b"Tree-SHA256:  "), 2),
    "C06": (lambda payload: by(ALICE)(payload).replace(payload[5:45], b"1" * 40, 1), 5),
    "C07": (lambda payload: re.sub(rb"parent [0-9a-f]+", b"parent " + b"2" * 40, by(ALICE)(payload), count=1), 2),
    "C08": (without_parent, 2),
    "C09": (after(b"\nauthor ", b"\nparent " + b"3" * 40 + b"\nauthor "), 2),
    "C10": (after(b" 1700000000 +0130\ngpgsig", b" 1700000001 +0130\ngpgsig"), 5),
    "C11": (after(b"\ngpgsig ", b"\nx-note hello\ngpgsig "), 2),
    "C12": (lambda payload: by(ALICE)(payload) + b"\0more", 2),
    "C13": (lambda payload: by(ALICE)(payload)[:-1], 2),
}


@pytest.mark.parametrize("row", CHANGED)
def test_changed_after_signing(row: str, ready: tuple[Simulator, bytes]) -> None:
    make, expected = CHANGED[row]
    assert served(ready, make(ready[1])) == [*GOOD, expected]


# another payload, signed by alice


def sub(pattern: bytes, new: bytes) -> Make:
    return lambda payload: re.sub(pattern, new, payload, count=1, flags=re.S)


PAYLOADS: dict[str, Make] = {
    "C90": sub(rb"\ncommitter", b"\ntree " + b"4" * 40 + b"\ncommitter"),
    "C91": sub(rb"\nparent", b"\ntree " + b"4" * 40 + b"\nparent"),
    "C92": sub(rb"(parent [0-9a-f]+\n)(.*?committer [^\n]+\n)", rb"\2\1"),
    "C93": sub(rb"(committer [^\n]+\n)", rb"\1committer Bob <bob@example.org> 1 +0000\n"),
    "C94": sub(rb"(author [^\n]+\n)", rb"\1author Bob <bob@example.org> 1 +0000\n"),
    "C95": sub(rb"\n\n", b"\nmergetag object " + b"5" * 40 + b"\n type commit\n tag t\n\n"),
    "C96": sub(rb"\n\n", b"\nencoding UTF-7\n\n"),
    "C97": sub(rb"Release\n", b"Rel\xe4se\n"),
    "C98": sub(rb"\nauthor", b"\nparent " + b"6" * 40 + b"\nauthor"),
    "C99": sub(rb"(parent [0-9a-f]+\n)", rb"\1\1"),
    "D01": sub(rb" 1700000000 ", b" 9223372036854775808 "),
    "D02": sub(rb" 1700000000 ", b" -1 "),
    "D03": sub(rb"\+0130", b"+9999"),
    "D04": sub(rb" <alice@example.org>", b""),
    "D05": sub(rb"author Alice", b"author Ali\nce"),
    "D06": sub(rb"author Alice", b"author Ali\0ce"),
    "D07": sub(rb"\n\n.*", b"\n"),
    "D07-no-message": sub(rb"\n\n.*", b"\n\n"),
    "D08": sub(rb"\n\n", b"\nnospace\n\n"),
    "D09": lambda payload: payload.replace(payload[5:45], payload[5:45].upper(), 1),
    "D13": lambda payload: b"gpgsig -----BEGIN\n " + payload,
    "D14": sub(rb"Release\n", b"Rel\x1b[2Jease\r\n"),
    "D14-c1": sub(rb"Release\n", "Rel\x9bease\n".encode()),
    "trailing-space": sub(rb"App: shop", b"App: shop "),
    "unknown-trailer": sub(rb"(Tree-SHA256: [0-9a-f]+)\n", rb"\1\nSigned-off-by: A <a@b>\n"),
    "trailer-twice": sub(rb"(App: shop\n)", rb"\1\1"),
    "trailers-swapped": sub(rb"(App: shop\n)(Deploy: production\n)", rb"\2\1"),
    "two-final-newlines": lambda payload: payload + b"\n",
    "newer-format": sub(rb"Gitrel-Format: 1", b"Gitrel-Format: 2"),
    "format-01": sub(rb"Gitrel-Format: 1", b"Gitrel-Format: 01"),
    "another-kind": sub(rb"Gitrel-Record: release", b"Gitrel-Record: build"),
    "upper-deploy": sub(rb"Deploy: production", b"Deploy: Production"),
    "parents-swapped": sub(rb"(parent [0-9a-f]+\n)(parent [0-9a-f]+\n)", rb"\2\1"),
}


@pytest.mark.parametrize("row", PAYLOADS)
def test_signed_but_no_record(row: str, ready: tuple[Simulator, bytes]) -> None:
    payload = PAYLOADS[row](ready[1])
    assert payload != ready[1]
    assert served(ready, commit_with(payload, signed(ALICE, payload))) == [*GOOD, 2]


def test_d10_a_signature_in_the_message_alone(ready: tuple[Simulator, bytes]) -> None:
    payload = ready[1].replace(b"Release\n", b"Release\n\n" + signed(ALICE, ready[1]).encode() + b"\n", 1)
    assert served(ready, payload) == [*GOOD, 2]
    as_text = commit_with(payload, signed(ALICE, payload))
    assert served(ready, as_text) == [*GOOD, 0], "as free text it is only text"


def test_a_newer_format_says_what_to_do(ready: tuple[Simulator, bytes]) -> None:
    payload = PAYLOADS["newer-format"](ready[1])
    sim = ready[0].fork()
    sim.publish(ledger_ref(6), commit_with(payload, signed(ALICE, payload)))
    refusal = sim.verdicts()[-1].refusal
    assert refusal is not None
    assert "needs a newer gitrel" in str(refusal)


# what allowed_signers(5) knows and trust.toml does not


@pytest.mark.parametrize(
    ("row", "old", "new"),
    [
        ("C67", b'keys = [\n    "ssh-', b'keys = [\n    "namespaces=\\"file\\" ssh-'),
        ("C68", b'keys = [\n    "ssh-', b'keys = [\n    "cert-authority ssh-'),
        ("C69", b'keys = [\n    "ssh-ed25519 ', b'keys = [\n    "ssh-ed25519-cert-v01@openssh.com '),
        ("C79", b"[people.alice]", b'[people."*"]'),
        ("C79-pattern", b"[people.alice]", b'[people."ali?e,bob"]'),
        ("C80", b'keys = [\n    "ssh-', b'keys = [\n    "valid-before=\\"20300101\\" ssh-'),
    ],
)
def test_trust_toml_has_no_options(row: str, old: bytes, new: bytes) -> None:
    sim = Simulator()
    good = encode_trust(policy())
    assert old in good
    sim.trust(files={"trust.toml": good.replace(old, new)})
    with pytest.raises(Refused) as caught:
        sim.chain()
    assert caught.value.check == 4
