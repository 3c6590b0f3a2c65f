"""Golden records: a small ledger, in both object formats, whose every byte is fixed.

The files in `golden/` are the records as they are stored. The signatures are made here, from PROTOCOL.sshsig
and fixed seeds, without gitrel's own keys code: the two can only agree by both following the format.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from gitrel.errors import FormatError
from gitrel.format.commit import Stamp
from gitrel.format.record import (
    AnyRecord,
    ApprovalRecord,
    BuildRecord,
    Cited,
    CitedRelease,
    ConfigRecord,
    Health,
    HeartbeatRecord,
    ReceiptRecord,
    ReleaseRecord,
    Signed,
    SignedApproval,
    TrustRecord,
    approval_payload,
    parse_approval,
    parse_record,
    sign_approval,
    sign_record,
    unsigned_payload,
)
from gitrel.format.tree import Mode, Node, blob_node, directory_node
from gitrel.ids import (
    PRODUCTION,
    App,
    Deploy,
    Entry,
    Host,
    KeyId,
    Ledger,
    ObjectFormat,
    RecordId,
)

GOLDEN = Path(__file__).with_name("golden")
APP = App("shop")
DATE = "1700000000 +0130"
NAMES = (
    *("trust-v1", "build", "config-v1", "release-v1", "trust-v2", "config-v2", "release-v2", "approval"),
    *("heartbeat", "receipt"),
)

# Written down a second time: a change of format that also rewrites the files still fails here.
IDS: dict[tuple[ObjectFormat, str], str] = {
    (ObjectFormat.SHA1, "trust-v1"): "0481911b9a77162118b92bab0958486bdde553ac",
    (ObjectFormat.SHA1, "build"): "62672afb13efa13af7cb57856811c04d12b00635",
    (ObjectFormat.SHA1, "config-v1"): "f1f82168cd9aa52601bb43211485d34e35da7414",
    (ObjectFormat.SHA1, "release-v1"): "f969d7a4d60c83aba078930b4506d43efbfc9e4b",
    (ObjectFormat.SHA1, "trust-v2"): "1203f1f27f77cba1ab420e95c63214320263a482",
    (ObjectFormat.SHA1, "config-v2"): "6ed9351650e889b2e86471d9e5cd6bdb1f662970",
    (ObjectFormat.SHA1, "release-v2"): "0a184b17362b0ce642a95e7160030d108a73267b",
    (ObjectFormat.SHA1, "approval"): "e1e326048eb90f1b2a4b1a52b1e6eb2dd85ac145",
    (ObjectFormat.SHA256, "trust-v1"): "7e90b106efcae975f849000d8597a6568600b5b886a5644275d8a352fc9f3f5d",
    (ObjectFormat.SHA256, "build"): "343a141749bd72630b41754518ae9bdcc0713b56054f2b8e598d3c4f9e06b3c1",
    (ObjectFormat.SHA256, "config-v1"): "9b4046913a1c00bb47d54a1b1ff41113d2705f5ce1a52b123d10349af6d5365c",
    (ObjectFormat.SHA256, "release-v1"): "39b1073f1ed58c5cafb3ffe3e01aab3fda66187d48318eb979f28ef47156ae9f",
    (ObjectFormat.SHA256, "trust-v2"): "8be3618649c1db316f781abd0eebbf1b96e2a1bf133c032a08f661c758586a99",
    (ObjectFormat.SHA256, "config-v2"): "31d203c5c68a8b88dc532776a3a4297f35de8898e515fc7184f921903d9ae95a",
    (ObjectFormat.SHA256, "release-v2"): "b96d0436186f8747727ed47ce5bb17ae486bd2db31eeee11a6cdc3f9dc3bcd31",
    (ObjectFormat.SHA256, "approval"): "b2ae91ac7dbdeefcabf8384870c87669ce9e997b68ed99273971491ad522882f",
    (ObjectFormat.SHA1, "heartbeat"): "630f8fbb690c8fe7247ba876a5285bc857154c38",
    (ObjectFormat.SHA1, "receipt"): "cf416c40c7ed3f2d27f9dcf7e5257640c7140ac6",
    (ObjectFormat.SHA256, "heartbeat"): "d89ab6e53c7c1f7f2ba226acc66f9abb25e2e276ca7a6769a0b77b63f4ed748b",
    (ObjectFormat.SHA256, "receipt"): "48ec923c3487042e379654601830154a93013d667395898997c2c3141ca76494",
}


def string(data: bytes) -> bytes:
    """RFC 4251, section 5."""
    return len(data).to_bytes(4, "big") + data


class Signer:
    """An Ed25519 key from a seed, and PROTOCOL.sshsig in eleven lines."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._private = Ed25519PrivateKey.from_private_bytes(name.encode().ljust(32, b"."))
        public = self._private.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
        self.blob = string(b"ssh-ed25519") + string(public)
        self.line = f'{name} namespaces="git" ssh-ed25519 {base64.b64encode(self.blob).decode()}\n'
        self.stamp = Stamp(name=name.title(), email=f"{name}@example.org", time=1_700_000_000, zone="+0130")

    def armor(self, payload: bytes) -> str:
        signed = b"SSHSIG" + string(b"git") + string(b"") + string(b"sha512")
        signature = self._private.sign(signed + string(hashlib.sha512(payload).digest()))
        blob = b"SSHSIG" + (1).to_bytes(4, "big") + string(self.blob) + string(b"git") + string(b"")
        blob += string(b"sha512") + string(string(b"ssh-ed25519") + string(signature))
        text = base64.b64encode(blob).decode()
        lines = [text[at : at + 70] for at in range(0, len(text), 70)]
        return "\n".join(["-----BEGIN SSH SIGNATURE-----", *lines, "-----END SSH SIGNATURE-----", ""])


ALICE, BOB = Signer("alice"), Signer("bob")


@dataclass
class GoldenLedger:
    """Every object of the small ledger. `records` are by name, `objects` all that git needs beside them."""

    fmt: ObjectFormat
    objects: list[tuple[str, bytes]] = field(default_factory=list)
    records: dict[str, bytes] = field(default_factory=dict)

    def blob(self, data: bytes, mode: Mode = Mode.FILE) -> Node:
        self.objects.append(("blob", data))
        return blob_node(data, self.fmt, mode)

    def tree(self, **children: Node) -> Node:
        raw, node = directory_node({name.replace("__", "."): node for name, node in children.items()}, self.fmt)
        self.objects.append(("tree", raw))
        return node

    def record(self, name: str, record: AnyRecord, tree: Node, by: Signer = ALICE) -> RecordId:
        payload = unsigned_payload(record, tree=tree.oid, author=by.stamp, committer=by.stamp)
        armor = by.armor(payload)
        raw = sign_record(record, tree=tree.oid, author=by.stamp, committer=by.stamp, signature=armor)
        self.records[name] = raw
        return RecordId.of("commit", raw, self.fmt)

    def approval(self, name: str, record: ApprovalRecord, by: Signer) -> None:
        key = KeyId.of(by.blob)
        armor = by.armor(approval_payload(record, key=key, tagger=by.stamp))
        self.records[name] = sign_approval(record, key=key, tagger=by.stamp, signature=armor)


def make_ledger(fmt: ObjectFormat) -> GoldenLedger:
    made = GoldenLedger(fmt)
    signers = made.blob((ALICE.line + BOB.line).encode())
    policy = made.tree(allowed_signers=signers, trust__toml=made.blob(b'format = 1\napp = "shop"\n'))
    code = made.tree(
        Procfile=made.blob(b"web: bin/serve\n"),
        bin=made.tree(serve=made.blob(b"#!/bin/sh\nexec true\n", Mode.EXECUTABLE)),
        empty=made.tree(),
        current=made.blob(b"bin/serve", Mode.SYMLINK),
    )
    built = made.tree(build=code, provenance__json=made.blob(b"{}\n"))
    env1 = made.tree(LOG_LEVEL=made.blob(b"info"))
    env2 = made.tree(LOG_LEVEL=made.blob(b"debug"), DATABASE_URL__age=made.blob(b"age-encryption.org/v1\n"))

    root = made.record(
        "trust-v1",
        TrustRecord(app=APP, subject="Trust v1", entry=Entry(1), previous=None, tree_sha256=policy.sha256),
        policy,
    )
    trust1 = Cited(Entry(1), root)
    source = fmt.object_id("commit", b"the source is in another repository")
    build = made.record(
        "build",
        BuildRecord(app=APP, subject="Build", source=source, trust=trust1, tree_sha256=built.sha256),
        built,
        BOB,
    )
    config1 = made.record(
        "config-v1",
        ConfigRecord(
            app=APP,
            subject="Config v1",
            text="LOG_LEVEL set.\n\nWith a second paragraph – and UTF-8.",
            deploy=PRODUCTION,
            entry=Entry(1),
            previous=None,
            trust=trust1,
            tree_sha256=env1.sha256,
        ),
        env1,
    )
    whole1 = made.tree(build=code, config=env1)
    release1 = made.record(
        "release-v1",
        ReleaseRecord(
            app=APP,
            subject="Release v1",
            deploy=PRODUCTION,
            entry=Entry(1),
            previous=None,
            build=build,
            config=Cited(Entry(1), config1),
            trust=trust1,
            tree_sha256=whole1.sha256,
        ),
        whole1,
    )
    trust2 = made.record(
        "trust-v2",
        TrustRecord(
            app=APP,
            subject="Trust v2",
            entry=Entry(2),
            previous=root,
            heads=(
                CitedRelease(PRODUCTION, Entry(1), release1),
                CitedRelease(Deploy("staging"), Entry(41), build),
            ),
            tree_sha256=policy.sha256,
        ),
        policy,
    )
    config2 = made.record(
        "config-v2",
        ConfigRecord(
            app=APP,
            subject="Config v2",
            deploy=PRODUCTION,
            entry=Entry(2),
            previous=config1,
            trust=Cited(Entry(2), trust2),
            tree_sha256=env2.sha256,
        ),
        env2,
    )
    whole2 = made.tree(build=code, config=env2)
    release2 = made.record(
        "release-v2",
        ReleaseRecord(
            app=APP,
            subject="Release v2",
            text="Gitrel-Record: release\nis only text up here",
            deploy=PRODUCTION,
            entry=Entry(2),
            previous=release1,
            build=build,
            config=Cited(Entry(2), config2),
            trust=Cited(Entry(2), trust2),
            rollback_to=Entry(1),
            promoted_from=CitedRelease(Deploy("staging"), Entry(41), build),
            tree_sha256=whole2.sha256,
        ),
        whole2,
        BOB,
    )
    made.approval(
        "approval",
        ApprovalRecord(
            app=APP,
            subject="Approve release v2",
            trust=Cited(Entry(2), trust2),
            subject_of=Ledger.releases(PRODUCTION)[2],
            approved=release2,
        ),
        ALICE,
    )
    _witness(made, Cited(Entry(2), trust2), CitedRelease(PRODUCTION, Entry(2), release2), release1, whole1)
    return made


def _witness(made: GoldenLedger, trust: Cited, head: CitedRelease, release1: RecordId, whole1: Node) -> None:
    """What came into the format later; `release1` stands for the entry before, too: nothing is verified here."""
    nothing = made.tree()
    made.record(
        "heartbeat",
        HeartbeatRecord(
            app=APP,
            subject="Heartbeat v2",
            entry=Entry(2),
            previous=release1,
            trust=trust,
            heads=(head, CitedRelease(Deploy("staging"), Entry(41), release1)),
            tree_sha256=nothing.sha256,
        ),
        nothing,
    )
    made.record(
        "receipt",
        ReceiptRecord(
            app=APP,
            subject="web1: production v1 failed",
            host=Host("web1"),
            entry=Entry(2),
            previous=release1,
            trust=trust,
            head=head,
            release=CitedRelease(PRODUCTION, Entry(1), release1),
            ran=whole1.sha256,
            verdict=14,
            health=Health.FAILED,
            start=1_700_000_000,
            end=1_700_000_061,
            tree_sha256=nothing.sha256,
        ),
        nothing,
    )


LEDGERS = {fmt: make_ledger(fmt) for fmt in ObjectFormat}
each_format = pytest.mark.parametrize("fmt", list(ObjectFormat), ids=str)
each_record = pytest.mark.parametrize("name", NAMES)


def parse(name: str, raw: bytes, fmt: ObjectFormat) -> Signed[AnyRecord] | SignedApproval:
    return parse_approval(raw, fmt) if name == "approval" else parse_record(raw, fmt)


def encode(signed: Signed[AnyRecord] | SignedApproval) -> bytes:
    """From the parsed values alone, not from the bytes that they remember."""
    if isinstance(signed, SignedApproval):
        return sign_approval(signed.record, key=signed.key, tagger=signed.tagger, signature=signed.signature)
    return sign_record(
        signed.record,
        tree=signed.tree,
        author=signed.author,
        committer=signed.committer,
        signature=signed.signature,
    )


def test_the_catalogue_is_complete() -> None:
    files = {path.name for path in GOLDEN.iterdir()}
    assert files == {f"{name}.{fmt}" for name in NAMES for fmt in ObjectFormat}
    assert set(IDS) == {(fmt, name) for name in NAMES for fmt in ObjectFormat}
    assert all(tuple(ledger.records) == NAMES for ledger in LEDGERS.values())


@each_format
@each_record
def test_a_record_is_these_very_bytes(name: str, fmt: ObjectFormat) -> None:
    raw = (GOLDEN / f"{name}.{fmt}").read_bytes()
    assert LEDGERS[fmt].records[name] == raw
    signed = parse(name, raw, fmt)
    assert str(signed.id.oid) == IDS[fmt, name]
    kind = "tag" if name == "approval" else "commit"
    assert signed.id.sha256 == hashlib.sha256(f"{kind} {len(raw)}\0".encode() + raw).hexdigest()
    assert signed.raw == raw
    assert encode(signed) == raw


@each_format
@each_record
def test_the_signature_is_over_the_payload(name: str, fmt: ObjectFormat) -> None:
    signed = parse(name, LEDGERS[fmt].records[name], fmt)
    by = BOB if name in ("build", "release-v2") else ALICE
    assert by.armor(signed.payload) == f"{signed.signature}\n"


def edits(raw: bytes, turn: int) -> Iterator[bytes]:
    """Every byte with one bit flipped, deleted, or preceded by one that matters to some grammar; every other of these,
    and the rest with the other `turn`."""
    for at, byte in enumerate(raw):
        for bit in range(turn, 8, 2):
            yield raw[:at] + bytes([byte ^ 1 << bit]) + raw[at + 1 :]
        for extra in (b"\n", b" ", b"\0", b"\r", b"0", b"a", b"=", b":", b"\xc3")[turn::2]:
            yield raw[:at] + extra + raw[at:]
    yield from (raw[:at] + raw[at + 1 :] for at in range(len(raw)))
    yield from (raw + extra for extra in (b"\n", b" ", b"\0", b"a"))


@each_format
@each_record
def test_one_record_is_one_byte_string(name: str, fmt: ObjectFormat) -> None:
    """An edit of one byte is refused, or says something else, or is signed otherwise. The two formats share the edits:
    one grammar reads both."""
    golden = LEDGERS[fmt].records[name]
    meaning = parse(name, golden, fmt)
    refused = 0
    for edited in edits(golden, turn=list(ObjectFormat).index(fmt)):
        if edited == golden:
            continue
        try:
            signed = parse(name, edited, fmt)
        except FormatError:
            refused += 1
            continue
        assert (signed.payload, signed.signature) != (meaning.payload, meaning.signature), edited
        assert encode(signed) == edited
        assert signed.id != meaning.id
    assert refused > len(golden)
