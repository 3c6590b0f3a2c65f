"""Records of every kind: whatever is made comes back; and the grammar of the trailers."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from test_format_golden import ALICE, LEDGERS

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
    TrustRecord,
    approval_payload,
    parse_approval,
    parse_record,
    read_signature,
    sign_approval,
    sign_record,
    unsigned_payload,
)
from gitrel.ids import (
    TRUST,
    App,
    BuildRef,
    Deploy,
    Entry,
    Host,
    KeyId,
    Ledger,
    ObjectFormat,
    ObjectId,
    RecordId,
    Sha256,
)

ARMOR = ALICE.armor(b"any")

formats = st.sampled_from(ObjectFormat)
hex256 = st.binary(min_size=32, max_size=32).map(bytes.hex)
sha256s = hex256.map(Sha256)
key_ids = hex256.map(KeyId)
apps = st.from_regex(r"[a-z0-9][a-z0-9-]{0,62}", fullmatch=True).map(App)
deploys = st.one_of(
    st.sampled_from(["production", "staging", "v", "v1a", "vv1"]),
    st.from_regex(r"[a-uw-z][a-z0-9-]{0,62}", fullmatch=True),
).map(Deploy)
entries = st.one_of(st.integers(1, 3), st.integers(1, 10**9 - 1)).map(Entry)
letters = st.characters(exclude_categories=("Cc", "Cs"))
subjects = st.text(letters, min_size=1, max_size=40).filter(lambda text: text == text.strip())
# Lines that look like the trailers below them are only text.
lines = st.text(letters, max_size=40) | st.sampled_from(
    ["Gitrel-Record: build", "Gitrel-Format: 2", "App: x", "", "tree "]
)
texts = st.lists(lines, max_size=4).map("\n".join).filter(lambda text: text == text.strip("\n"))
stamps = st.builds(
    Stamp,
    name=st.sampled_from(["A", "Zoë Ångström", "a b c", "gpgsig", "1 +0000"]),
    email=st.sampled_from(["a", "a@b", "zoë@example.org"]),
    time=st.integers(0, 253402300799),
    zone=st.sampled_from(["+0000", "-0000", "-1130", "+1400"]),
)


def oids(fmt: ObjectFormat) -> st.SearchStrategy[ObjectId]:
    return st.binary(min_size=fmt.raw_length, max_size=fmt.raw_length).map(ObjectId.from_raw)


def record_ids(fmt: ObjectFormat) -> st.SearchStrategy[RecordId]:
    return st.builds(RecordId, oids(fmt), sha256s)


def cited(fmt: ObjectFormat) -> st.SearchStrategy[Cited]:
    return st.builds(Cited, entries, record_ids(fmt))


def cited_releases(fmt: ObjectFormat) -> st.SearchStrategy[CitedRelease]:
    return st.builds(CitedRelease, deploys, entries, record_ids(fmt))


@st.composite
def records(draw: st.DrawFn, fmt: ObjectFormat) -> AnyRecord:
    """Any record but an approval, with every optional part there or not."""
    app, subject, text = draw(apps), draw(subjects), draw(texts)
    entry, tree_sha256, trust = draw(entries), draw(sha256s), draw(cited(fmt))
    previous = draw(record_ids(fmt)) if entry > 1 else None
    deploy = draw(deploys)
    match draw(st.sampled_from(["trust", "config", "build", "release", "heartbeat", "receipt"])):
        case "heartbeat":
            heads = draw(st.lists(cited_releases(fmt), max_size=4, unique_by=lambda head: head.deploy))
            return HeartbeatRecord(
                app=app,
                subject=subject,
                text=text,
                entry=entry,
                previous=previous,
                trust=trust,
                heads=tuple(sorted(heads, key=lambda head: head.deploy)),
                tree_sha256=tree_sha256,
            )
        case "receipt":
            newest, ran = sorted([draw(entries), draw(entries)], reverse=True)
            head = CitedRelease(deploy, newest, draw(record_ids(fmt)))
            health = draw(st.sampled_from(Health))
            return ReceiptRecord(
                app=app,
                subject=subject,
                text=text,
                host=Host(deploy),
                entry=entry,
                previous=previous,
                trust=trust,
                head=head,
                release=head if ran == newest else CitedRelease(deploy, ran, draw(record_ids(fmt))),
                ran=draw(sha256s),
                verdict=draw(st.none() | st.integers(1, 99)),
                health=health,
                start=draw(st.integers(0, 253402300799)),
                end=None if health is Health.HEALTHY else draw(st.integers(0, 253402300799)),
                tree_sha256=tree_sha256,
            )
        case "trust":
            heads = draw(st.lists(cited_releases(fmt), max_size=4, unique_by=lambda head: head.deploy))
            return TrustRecord(
                app=app,
                subject=subject,
                text=text,
                entry=entry,
                previous=previous,
                heads=tuple(sorted(heads, key=lambda head: head.deploy)),
                tree_sha256=tree_sha256,
            )
        case "config":
            return ConfigRecord(
                app=app,
                subject=subject,
                text=text,
                deploy=deploy,
                entry=entry,
                previous=previous,
                trust=trust,
                tree_sha256=tree_sha256,
            )
        case "build":
            source = draw(oids(fmt))
            return BuildRecord(app=app, subject=subject, text=text, source=source, trust=trust, tree_sha256=tree_sha256)
        case _:
            return ReleaseRecord(
                app=app,
                subject=subject,
                text=text,
                deploy=deploy,
                entry=entry,
                previous=previous,
                build=draw(record_ids(fmt)),
                config=draw(st.none() | cited(fmt)),
                trust=trust,
                rollback_to=draw(st.none() | entries),
                promoted_from=draw(st.none() | cited_releases(fmt)),
                tree_sha256=tree_sha256,
            )


@st.composite
def approvals(draw: st.DrawFn, fmt: ObjectFormat) -> ApprovalRecord:
    approved, entry = draw(record_ids(fmt)), draw(entries)
    ledger = draw(
        st.just(TRUST) | st.builds(Ledger.releases, deploys) | st.builds(Ledger.config, deploys) | st.none(),
    )
    return ApprovalRecord(
        app=draw(apps),
        subject=draw(subjects),
        text=draw(texts),
        trust=draw(cited(fmt)),
        subject_of=ledger[entry] if ledger else BuildRef(approved.oid),
        approved=approved,
    )


@given(data=st.data(), fmt=formats, author=stamps, committer=stamps)
def test_a_record_comes_back(data: st.DataObject, fmt: ObjectFormat, author: Stamp, committer: Stamp) -> None:
    record, tree = data.draw(records(fmt)), data.draw(oids(fmt))
    assume(len(set(record.parents)) == len(record.parents))  # one id cannot be two records
    raw = sign_record(record, tree=tree, author=author, committer=committer, signature=ARMOR)
    signed = parse_record(raw, fmt)
    assert signed.record == record
    assert (signed.tree, signed.author, signed.committer) == (tree, author, committer)
    assert signed.signature == ARMOR.removesuffix("\n")
    assert signed.payload == unsigned_payload(record, tree=tree, author=author, committer=committer)
    assert (signed.raw, signed.id) == (raw, RecordId.of("commit", raw, fmt))
    assert read_signature(raw, fmt) == (signed.signature, signed.payload)


@given(data=st.data(), fmt=formats, tagger=stamps, key=key_ids)
def test_an_approval_comes_back(data: st.DataObject, fmt: ObjectFormat, tagger: Stamp, key: KeyId) -> None:
    record = data.draw(approvals(fmt))
    raw = sign_approval(record, key=key, tagger=tagger, signature=ARMOR)
    signed = parse_approval(raw, fmt)
    assert (signed.record, signed.key, signed.tagger) == (record, key, tagger)
    assert signed.signature == ARMOR.removesuffix("\n")
    assert signed.payload == approval_payload(record, key=key, tagger=tagger)
    assert (signed.raw, signed.id) == (raw, RecordId.of("tag", raw, fmt))


@given(data=st.data(), fmt=formats)
def test_two_records_are_never_the_same_bytes(data: st.DataObject, fmt: ObjectFormat) -> None:
    one, other = data.draw(records(fmt)), data.draw(records(fmt))
    assert (one == other) == (one.message == other.message and one.parents == other.parents)


@given(raw=st.binary(max_size=300), fmt=formats)
def test_arbitrary_bytes_are_no_approval(raw: bytes, fmt: ObjectFormat) -> None:
    with pytest.raises(FormatError):
        parse_approval(raw, fmt)


RELEASE = LEDGERS[ObjectFormat.SHA1].records["release-v2"]
TRUST_RECORD = LEDGERS[ObjectFormat.SHA1].records["trust-v2"]
APPROVAL = LEDGERS[ObjectFormat.SHA1].records["approval"]
Edit = Callable[[list[bytes]], object]


def index(lines: list[bytes], key: bytes, nth: int = -1) -> int:
    """Where the trailer stands; the last, because the text of this record has one that only looks so."""
    return [at for at, line in enumerate(lines) if line.startswith(key + b": ")][nth]


def becomes(key: bytes, value: bytes) -> Edit:
    def edit(lines: list[bytes]) -> None:
        lines[index(lines, key)] = key + b": " + value

    return edit


def follows(key: bytes, line: bytes) -> Edit:
    def edit(lines: list[bytes]) -> None:
        lines.insert(index(lines, key) + 1, line)

    return edit


def gone(key: bytes) -> Edit:
    def edit(lines: list[bytes]) -> None:
        del lines[index(lines, key)]

    return edit


def swapped(one: bytes, other: bytes) -> Edit:
    def edit(lines: list[bytes]) -> None:
        a, b = index(lines, one), index(lines, other)
        lines[a], lines[b] = lines[b], lines[a]

    return edit


def respelled(key: bytes, old: bytes, new: bytes) -> Edit:
    def edit(lines: list[bytes]) -> None:
        at = index(lines, key)
        assert old in lines[at]
        lines[at] = lines[at].replace(old, new, 1)

    return edit


RELEASE_ROWS: dict[str, Edit] = {
    "another kind's trailers": becomes(b"Gitrel-Record", b"config"),
    "a kind that is a tag": becomes(b"Gitrel-Record", b"approval"),
    "no such kind": becomes(b"Gitrel-Record", b"Release"),
    "format 0": becomes(b"Gitrel-Format", b"0"),
    "format 01": becomes(b"Gitrel-Format", b"01"),
    "trailer twice": follows(b"App", b"App: shop"),
    "unknown trailer": follows(b"App", b"Note: x"),
    "unknown trailer at the end": follows(b"Tree-SHA256", b"Note: x"),
    "git's own trailer at the end": follows(b"Tree-SHA256", b"Signed-off-by: A <a@b>"),
    "blank line in the block": follows(b"App", b""),
    "blank line at the end": follows(b"Tree-SHA256", b""),
    "continuation line": follows(b"App", b" shop"),
    "order": swapped(b"Build", b"Config"),
    "order of the last two": swapped(b"Rollback-To", b"Promoted-From"),
    "key in another case": respelled(b"App", b"App", b"APP"),
    "no space after the colon": respelled(b"App", b": ", b":"),
    "two spaces after the colon": respelled(b"App", b": ", b":  "),
    "space at the end": respelled(b"App", b"shop", b"shop "),
    "empty value": respelled(b"App", b"shop", b""),
    "app in another case": becomes(b"App", b"Shop"),
    "L40 V6": becomes(b"Entry", b"V2"),
    "L41 v06": becomes(b"Entry", b"v02"),
    "L42 v+6": becomes(b"Entry", b"v+2"),
    "L47 other digits": becomes(b"Entry", "v２".encode()),
    "L49 2^64": becomes(b"Entry", b"v18446744073709551616"),
    "L51 no v": becomes(b"Entry", b"2"),
    "L69 2^64+6": becomes(b"Entry", b"v18446744073709551622"),
    "first entry with a predecessor": becomes(b"Entry", b"v1"),
    "later entry without": gone(b"Previous"),
    "no build": gone(b"Build"),
    "no trust": gone(b"Trust"),
    "no tree": gone(b"Tree-SHA256"),
    "config's parent without its trailer": gone(b"Config"),
    "build is another commit": becomes(b"Build", b"1" * 40 + b" " + b"2" * 64),
    "previous is another commit": becomes(b"Previous", b"1" * 40 + b" " + b"2" * 64),
    "id of the other object format": becomes(b"Build", b"1" * 64 + b" " + b"2" * 64),
    "id in upper case": respelled(b"Build", b"a", b"A"),
    "id without its sha256": becomes(b"Build", b"1" * 40),
    "sha256 too short": becomes(b"Tree-SHA256", b"1" * 63),
    "tab between the ids": respelled(b"Build", b" 8", b"\t8"),
    "deploy named like an entry": becomes(b"Deploy", b"v7"),
    "no blank line before the block": lambda lines: lines.pop(index(lines, b"Gitrel-Record") - 1),
    "space on the line before the block": lambda lines: lines.__setitem__(index(lines, b"Gitrel-Record") - 1, b" "),
}

TRUST_ROWS: dict[str, Edit] = {
    "heads not sorted": lambda lines: lines.insert(index(lines, b"Head", 0), lines.pop(index(lines, b"Head", 1))),
    "the same head twice": lambda lines: lines.insert(index(lines, b"Head"), lines[index(lines, b"Head")]),
    "head without a deploy": respelled(b"Head", b"staging ", b""),
    "head after the tree": swapped(b"Head", b"Tree-SHA256"),
    "trust that cites trust": follows(b"Head", b"Trust: v1 " + b"1" * 40 + b" " + b"2" * 64),
    "trust with a deploy": follows(b"App", b"Deploy: production"),
}


def edited(raw: bytes, edit: Edit) -> bytes:
    lines = raw.removesuffix(b"\n").split(b"\n")
    edit(lines)
    assert b"\n".join(lines) + b"\n" != raw
    return b"\n".join(lines) + b"\n"


@pytest.mark.parametrize("row", RELEASE_ROWS)
def test_malformed_release(row: str) -> None:
    with pytest.raises(FormatError):
        parse_record(edited(RELEASE, RELEASE_ROWS[row]), ObjectFormat.SHA1)


@pytest.mark.parametrize("row", TRUST_ROWS)
def test_malformed_trust(row: str) -> None:
    with pytest.raises(FormatError):
        parse_record(edited(TRUST_RECORD, TRUST_ROWS[row]), ObjectFormat.SHA1)


@pytest.mark.parametrize("twice", ["previous and build", "build and config", "previous and config"])
def test_c99_the_same_parent_twice(twice: str) -> None:
    """One commit cannot be two of the previous release, the build and the config."""
    same, other = (RecordId(ObjectId(digit * 40), Sha256(digit * 64)) for digit in "12")

    def made() -> None:
        record = ReleaseRecord(
            app=App("shop"),
            subject="Release",
            deploy=Deploy("production"),
            entry=Entry(2),
            previous=same if "previous" in twice else other,
            build=same if "build" in twice else other,
            config=Cited(Entry(1), same) if "config" in twice else None,
            trust=Cited(Entry(1), other),
            tree_sha256=Sha256("3" * 64),
        )
        stamp = ALICE.stamp
        raw = sign_record(record, tree=same.oid, author=stamp, committer=stamp, signature=ARMOR)
        parse_record(raw, ObjectFormat.SHA1)

    with pytest.raises(FormatError):
        made()


def test_a_newer_format_says_so() -> None:
    with pytest.raises(FormatError, match="record format '2'") as caught:
        parse_record(edited(RELEASE, becomes(b"Gitrel-Format", b"2")), ObjectFormat.SHA1)
    assert caught.value.why == "needs a newer gitrel"
    assert caught.value.hint


APPROVAL_ROWS: dict[str, tuple[bytes, bytes]] = {
    "tag on another object": (b"object ", b"object 0"),
    "tag of another name": (b"\ntag approvals/", b"\ntag approval/"),
    "type tree": (b"type commit", b"type tree"),
    "no tagger": (b"tagger ", b"tagged "),
    "header after the tagger": (b"\n\n", b"\nnote x\n\n"),
    "text before the signature": (b"-----BEGIN", b"\n-----BEGIN"),
    "text after the signature": (b"-----END SSH SIGNATURE-----\n", b"-----END SSH SIGNATURE-----\n\n"),
    "no final newline": (b"-----END SSH SIGNATURE-----\n", b"-----END SSH SIGNATURE-----"),
    "CRLF": (b"-----\n", b"-----\r\n"),
    "no signature": (b"BEGIN SSH", b"BEGIN PGP"),
    "record without its kind": (b"Record: release production", b"Record: production"),
    "record of no kind": (b"Record: release", b"Record: approval"),
    "record with an empty word": (b"Record: release ", b"Record: release  "),
    "a kind that is a commit": (b"Gitrel-Record: approval", b"Gitrel-Record: build"),
}


@pytest.mark.parametrize("row", APPROVAL_ROWS)
def test_malformed_approval(row: str) -> None:
    old, new = APPROVAL_ROWS[row]
    assert old in APPROVAL
    with pytest.raises(FormatError):
        parse_approval(APPROVAL.replace(old, new, 1), ObjectFormat.SHA1)


def test_an_approval_of_a_build_names_that_build() -> None:
    """`Record: build <oid>` has no entry: the tag must be on, and named for, that very commit."""
    raw = APPROVAL.replace(b"Record: release production v2 ", b"Record: build ")
    signed = parse_approval(raw, ObjectFormat.SHA1)
    assert signed.record.subject_of == BuildRef(signed.record.approved.oid)


@pytest.mark.parametrize("subject", ["", " x", "x ", "a\nb", "a\x1bb", "a\u0085b", "\ud800"])
def test_a_subject_is_one_clean_line(subject: str) -> None:
    with pytest.raises(FormatError):
        TrustRecord(app=App("shop"), subject=subject, entry=Entry(1), previous=None, tree_sha256=Sha256("0" * 64))
