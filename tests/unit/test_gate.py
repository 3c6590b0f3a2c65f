"""What a push may do to the ledgers' refs, judged by names and ids alone; the records are tests/e2e/test_hook.py's."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gitrel.audit.gate import Layered, Update, admit, parse_updates
from gitrel.audit.places import RECORDS
from gitrel.errors import FormatError, NotFound, Refused
from gitrel.ids import Kind, ObjectFormat, ObjectId
from gitrel.store.repository import Repository
from gitrel.trust.checks import Check

SHA1 = ObjectFormat.SHA1
ONE, TWO = ObjectId("1" * 40), ObjectId("2" * 40)
ZERO = "0" * 40

# Stray names of every kind; git lets most of them through.
STRAY = [
    *(f"refs/releases/{name}" for name in (
        "V6", "v06", "v+6", "v6.0", "v-1", "v0", "v6 ", "v６", "v6e0", "v18446744073709551616", "v6/x", "6", "v",
        "latest", "v6^{}", "v6.lock", "v6\n", "production/v6", "staging", "staging/v06", "Staging/v1", "a/b/v1",
        "v1/v1", "",
    )),
    *(f"refs/trust/{name}" for name in ("v01", "latest", "staging/v1", "")),
    *(f"refs/config/{name}" for name in ("v0", "production/v1", "x")),
    *(f"refs/builds/{name}" for name in ("1" * 39, "1" * 41, "G" * 40, "v1", ONE.upper() + "A", f"{ONE}/x")),
    *(f"refs/approvals/{name}" for name in (ONE, f"{ONE}/{TWO}", f"x/{'a' * 64}", f"{ONE}/{'a' * 64}/x")),
    "refs/trust", "refs/config", "refs/builds", "refs/releases", "refs/approvals",
]  # fmt: skip


class Unread:
    """Objects that nobody may need."""

    def read(self, oid: ObjectId, kind: Kind) -> bytes:
        raise AssertionError(f"read {kind} {oid}")


class Empty:
    def read(self, oid: ObjectId, kind: Kind) -> bytes:
        raise NotFound("no such object", where=oid)


def push(*updates: Update) -> list[str]:
    return admit({}, Unread(), SHA1, updates, None)


def test_lines_of_git() -> None:
    """githooks(5): `<old> <new> <ref>`; a branch may have blanks and any bytes in its name."""
    lines = [
        f"{ZERO} {ONE} refs/heads/main\n",
        f"{ONE} {ZERO} refs/heads/a b\n",
        f"{ONE} {TWO} refs/heads/\udcff\n",
        f"{'0' * 64} {'a' * 64} refs/trust/v1",
    ]
    assert parse_updates(lines) == [
        Update("refs/heads/main", None, ONE),
        Update("refs/heads/a b", ONE, None),
        Update("refs/heads/\udcff", ONE, TWO),
        Update("refs/trust/v1", None, ObjectId("a" * 64)),
    ]


@pytest.mark.parametrize("line", ["", "\n", "x y z", f"{ONE}\n", f"{ONE} refs/heads/x", "refs/heads/x"])
def test_lines_of_nobody(line: str) -> None:
    with pytest.raises(FormatError):
        parse_updates([line])


@pytest.mark.parametrize("name", STRAY)
def test_stray_names(name: str) -> None:
    with pytest.raises(Refused) as caught:
        push(Update(name, None, ONE))
    assert caught.value.check == Check.NAME
    assert caught.value.where == name


@pytest.mark.parametrize("prefix", RECORDS)
def test_never_moved_or_deleted(prefix: str) -> None:
    for name in (f"{prefix}v1", f"{prefix}latest"):
        for old, new, what in ((ONE, TWO, "replaced"), (ONE, ONE, "replaced"), (ONE, None, "deleted")):
            with pytest.raises(Refused, match=f"never {what}") as caught:
                push(Update(name, old, new))
            assert caught.value.check == Check.HIGHEST_SEEN


@given(st.text(st.characters(codec="utf-8", exclude_categories=["Cc"]), max_size=40), st.booleans())
def test_other_refs_are_nobodys_business(name: str, deleted: bool) -> None:
    for ref in (f"refs/heads/{name}", f"refs/tags/v1{name}", f"refs/release/{name}", f"refs/trusted/{name}", name):
        if not f"{ref}/".startswith(RECORDS):
            assert push(Update(ref, ONE, None if deleted else TWO)) == []


def test_one_bad_update_is_enough() -> None:
    with pytest.raises(Refused):
        push(Update("refs/heads/main", None, ONE), Update("refs/releases/latest", None, ONE))


def test_without_a_trust_ledger() -> None:
    """Nothing but a trust ledger can be first."""
    for name in ("refs/releases/v1", "refs/config/v1", f"refs/builds/{ONE}", f"refs/approvals/{ONE}/{'a' * 64}"):
        with pytest.raises(Refused, match="no trust ledger"):
            push(Update(name, None, ONE))
    with pytest.raises(Refused):
        admit({}, Empty(), SHA1, [Update("refs/trust/v1", None, ONE)], None)


def test_what_is_pushed_lies_in_front(tmp_path: Path) -> None:
    """Git keeps what a push brings apart until the hook has agreed."""
    with (
        Repository.init_bare(tmp_path / "home.git", SHA1) as home,
        Repository.init_bare(tmp_path / "incoming.git", SHA1) as incoming,
    ):
        both = home.write("blob", b"in both")
        assert incoming.write("blob", b"in both") == both
        here, there = home.write("blob", b"here"), incoming.write("blob", b"there")
        objects = Layered(incoming, home)
        assert [objects.read(oid, "blob") for oid in (both, here, there)] == [b"in both", b"here", b"there"]
        with pytest.raises(NotFound):
            objects.read(ONE, "blob")
