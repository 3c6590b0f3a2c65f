"""Names and numbers as types: one spelling each."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gitrel.errors import FormatError
from gitrel.ids import (
    PRODUCTION,
    TRUST,
    App,
    ApprovalRef,
    BuildRef,
    Deploy,
    Entry,
    KeyId,
    Ledger,
    LedgerRef,
    ObjectFormat,
    ObjectId,
    PersonName,
    RecordId,
    Sha256,
    parse_ref,
)

if TYPE_CHECKING:
    from pathlib import Path

    from conftest import Git

oids = (st.binary(min_size=20, max_size=20) | st.binary(min_size=32, max_size=32)).map(ObjectId.from_raw)
keys = st.binary(min_size=32, max_size=32).map(lambda raw: KeyId(raw.hex()))
deploys = st.from_regex(r"[a-uw-z][a-z0-9-]{0,62}|v[a-z-][a-z0-9-]{0,61}", fullmatch=True).map(Deploy)
entries = st.integers(1, 10**9 - 1).map(Entry)
ledgers = st.just(TRUST) | st.builds(Ledger.config, deploys) | st.builds(Ledger.releases, deploys | st.just(PRODUCTION))
refs = st.builds(LedgerRef, ledgers, entries) | st.builds(BuildRef, oids) | st.builds(ApprovalRef, oids, keys)


@given(ref=refs)
def test_a_ref_comes_back(ref: LedgerRef | BuildRef | ApprovalRef) -> None:
    assert parse_ref(str(ref)) == ref
    if isinstance(ref, LedgerRef):
        assert str(ref).startswith(ref.ledger.prefix)


@given(
    name=st.from_regex(r"refs/(releases|config|trust|builds|approvals)(/[a-z0-9v.-]{0,10}){1,3}", fullmatch=True)
    | st.text()
)
def test_a_ref_that_parses_prints_as_it_was(name: str) -> None:
    try:
        ref = parse_ref(name)
    except FormatError as error:
        assert error.where == name[:200]
        return
    assert str(ref) == name


@pytest.mark.parametrize(
    ("name", "ref"),
    [
        ("refs/releases/v6", Ledger.releases(PRODUCTION)[6]),
        ("refs/releases/staging/v6", Ledger.releases(Deploy("staging"))[6]),
        ("refs/config/v1", Ledger.config(PRODUCTION)[1]),
        ("refs/config/staging/v999999999", Ledger.config(Deploy("staging"))[999999999]),
        ("refs/trust/v3", TRUST[3]),
        (f"refs/builds/{'a' * 64}", BuildRef(ObjectId("a" * 64))),
        (f"refs/approvals/{'a' * 40}/{'b' * 64}", ApprovalRef(ObjectId("a" * 40), KeyId("b" * 64))),
    ],
)
def test_refs(name: str, ref: LedgerRef | BuildRef | ApprovalRef) -> None:
    assert parse_ref(name) == ref


NOT_V6 = {
    "L40": "V6",
    "L41": "v06",
    "L42": "v+6",
    "L43": "v6.0",
    "L44": "v-1",
    "L45": "v0",
    "L46": "v6 ",
    "L47": "v６",
    "L48": "v6e0",
    "L49": "v18446744073709551616",
    "L50": "v6/x",
    "L51": "6",
    "L52": "v",
    "L53": "latest",
    "L54": "v6^{}",
    "L55": "v6.lock",
    "L56": "v6\n",
    "L69": "v18446744073709551622",
    "too large": "v1000000000",
    "empty": "",
    "production has no folder": "production/v6",
    "two deploys": "staging/eu/v6",
    "no deploy": "/v6",
    "deploy like an entry": "v5/v6",
    "deploy in upper case": "Staging/v6",
    "up": "../v6",
}


@pytest.mark.parametrize("row", NOT_V6)
@pytest.mark.parametrize("kind", ["releases", "config", "trust"])
def test_extra_refs_are_never_an_entry(kind: str, row: str) -> None:
    with pytest.raises(FormatError):
        parse_ref(f"refs/{kind}/{NOT_V6[row]}")


@pytest.mark.parametrize(
    "name",
    [
        "refs/heads/main",
        "refs/tags/v6",
        "HEAD",
        "releases/v6",
        "/refs/releases/v6",
        "refs//releases/v6",
        "refs/release/v6",
        "refs/trust/staging/v1",
        f"refs/builds/{'A' * 40}",
        f"refs/builds/{'a' * 41}",
        f"refs/approvals/{'a' * 40}",
        f"refs/approvals/{'a' * 40}/{'b' * 40}",
        f"refs/approvals/{'a' * 40}/{'b' * 64}/x",
    ],
)
def test_other_refs(name: str) -> None:
    with pytest.raises(FormatError, match="not a ref of gitrel's"):
        parse_ref(name)


@pytest.mark.parametrize(
    ("kind", "good", "bad"),
    [
        (App, ["a", "0", "a-", "a" * 63], ["", "-a", "A", "a_b", "a.b", "a/b", "a" * 64, "a\n", "é", "a\0"]),
        (
            Deploy,
            ["v", "vv1", "v1a", "v-1", "a" * 63],
            ["", "v1", "v01", "1a", "-a", "A", "a/b", "a" * 64, "v1\n", "v\n"],
        ),
        (
            PersonName,
            ["a", "Bob", "bob@example.org", "a+b_c.d-e"],
            ["", "-a", "a b", "*", "a?", "!a", "a,b", "a" * 129, "a\n"],
        ),
        (
            ObjectId,
            ["0" * 40, "f" * 64],
            ["", "0" * 39, "0" * 41, "F" * 40, "g" * 40, "0" * 40 + "\n", "٠" * 40],
        ),
        (Sha256, ["0" * 64], ["0" * 40, "0" * 63, "F" * 64, "0" * 64 + "\n"]),
        (KeyId, ["0" * 64], ["0" * 40, "0" * 63, "F" * 64]),
    ],
)
def test_words(kind: type[App], good: list[str], bad: list[str]) -> None:
    for word in good:
        assert (str(kind(word)), type(kind(word))) == (word, kind)
    for word in bad:
        with pytest.raises(FormatError):
            kind(word)


@given(entry=st.integers(1, 10**9 - 1))
def test_an_entry_comes_back(entry: int) -> None:
    assert Entry.parse(f"v{entry}") == entry
    assert f"{Entry(entry)}" == str(Entry(entry)) == repr(Entry(entry)) == f"v{entry}"


@pytest.mark.parametrize("number", [0, -1, 10**9])
def test_no_entry(number: int) -> None:
    with pytest.raises(FormatError):
        Entry(number)


def test_the_last_entry_has_no_next() -> None:
    assert Entry(1).next == 2
    with pytest.raises(FormatError):
        _ = Entry(10**9 - 1).next


@pytest.mark.parametrize("fmt", list(ObjectFormat), ids=str)
@pytest.mark.parametrize("data", [b"", b"hello\n", bytes(range(256)) * 100])
def test_object_ids_are_gits(fmt: ObjectFormat, data: bytes, tmp_path: Path, git: Git) -> None:
    git(tmp_path, "init", "-q", f"--object-format={fmt}")
    oid = git(tmp_path, "hash-object", "--stdin", stdin=data).decode().strip()
    assert fmt.object_id("blob", data) == oid
    assert ObjectFormat.of(ObjectId(oid)) is fmt
    assert fmt.holds(ObjectId(oid))
    assert ObjectId.from_raw(bytes.fromhex(oid)) == oid
    assert len(ObjectId(oid).raw) == fmt.raw_length


@given(kind=st.sampled_from(["commit", "tag"]), raw=st.binary(), fmt=st.sampled_from(ObjectFormat))
def test_a_record_id_is_both_hashes_over_one_string(kind: str, raw: bytes, fmt: ObjectFormat) -> None:
    framed = f"{kind} {len(raw)}\0".encode() + raw
    record = RecordId.of(kind, raw, fmt)
    assert record.oid == hashlib.new(fmt.value, framed).hexdigest()
    assert record.sha256 == hashlib.sha256(framed).hexdigest()
    assert str(record) == f"{record.oid} {record.sha256}"


def test_a_key_id_is_over_the_blob() -> None:
    assert KeyId.of(b"blob") == hashlib.sha256(b"blob").hexdigest()


@pytest.mark.parametrize("length", [0, 19, 21, 31, 33])
def test_raw_ids_of_another_length(length: int) -> None:
    with pytest.raises(FormatError):
        ObjectId.from_raw(b"x" * length)
