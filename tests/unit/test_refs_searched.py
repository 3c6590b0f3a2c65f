"""Refs by the ten thousand are looked up, not listed: here, at a remote, and each answer is git's own."""

from __future__ import annotations

import os
import random
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from gitrel.format.refs import Ahead, ListedRefs
from gitrel.ids import PRODUCTION, TRUST, Deploy, Entry, Ledger, ObjectFormat, ObjectId
from gitrel.store.ahead import last, list_ahead, prefixes
from gitrel.store.packed import PackedRefs
from gitrel.store.refs import Refs
from gitrel.store.remote import Remote
from gitrel.store.repository import Repository

RELEASES, CONFIG, STAGING = Ledger.releases(PRODUCTION), Ledger.config(PRODUCTION), Ledger.releases(Deploy("staging"))
MANY = 2345


@pytest.fixture
def repo(tmp_path: Path) -> Iterator[Repository]:
    with Repository.init_bare(tmp_path / "r.git", ObjectFormat.SHA1) as repo:
        yield repo


@pytest.fixture
def tag(repo: Repository) -> ObjectId:
    blob = repo.write("blob", b"x")
    return repo.write("tag", f"object {blob}\ntype blob\ntag t\ntagger A <a@b.c> 1 +0000\n\nx\n".encode())


def git(repo: Repository, *words: str) -> str:
    done = subprocess.run(["git", "-C", str(repo.path), *words], capture_output=True, text=True, check=True)
    return done.stdout


def fill(repo: Repository, oid: ObjectId, *ledgers: tuple[Ledger, int]) -> None:
    repo.refs.create_all({str(ledger[number]): oid for ledger, last in ledgers for number in range(1, last + 1)})


def no_list(monkeypatch: pytest.MonkeyPatch) -> None:
    """From here on nobody lists."""

    def listed(*_: object) -> None:
        raise AssertionError("refs were listed")

    for kind, name in ((Refs, "list"), (PackedRefs, "list"), (PackedRefs, "lines")):
        monkeypatch.setattr(kind, name, listed)


@pytest.mark.parametrize("form", ["sorted", "peeled", "unsorted", "no header", "no last line feed"])
def test_a_packed_ref_is_found_as_git_finds_it(repo: Repository, tag: ObjectId, form: str) -> None:
    fill(repo, tag, (RELEASES, 120), (STAGING, 30), (TRUST, 3))
    names = git(repo, "for-each-ref", "--format=%(refname)", "refs/releases/", "refs/trust/").split()
    path = repo.path / "packed-refs"
    if form == "peeled":
        repo.refs.create("refs/tags/v1", tag)
        git(repo, "pack-refs", "--all")
        assert b"\n^" in path.read_bytes()
    lines = path.read_bytes().splitlines(keepends=True)
    if form in ("unsorted", "no header"):
        body = lines[1:]
        random.Random(1).shuffle(body)
        path.write_bytes(b"".join([*([b"# pack-refs with: peeled \n"] if form == "unsorted" else []), *body]))
    if form == "no last line feed":
        path.write_bytes(b"".join(lines).removesuffix(b"\n"))
    assert len(names) == 153
    assert {repo.refs.get(name) for name in names} == {tag}
    assert [repo.refs.get(name) for name in ("refs/releases/v121", "refs/releases/v", "refs/a", "refs/zz", "")] == [
        None
    ] * 5
    for prefix in (
        "refs/releases/v",
        "refs/releases/v1",
        "refs/releases/staging/",
        "refs/tr",
        "refs/trust/v3",
        "refs/u",
    ):
        found = [name for name in names if name.startswith(prefix)]
        assert list(repo.refs.list(prefix)) == found
        assert repo.refs.count(prefix) == len(found)
        assert sorted(name.decode() for name in repo.refs.lines(prefix)) == found


def test_the_newest_of_a_ledger_are_found_without_a_list(
    repo: Repository, tag: ObjectId, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(repo, tag, (RELEASES, MANY), (STAGING, 40))
    fill(repo, tag, (RELEASES, MANY + 7))  # those are loose
    assert len(list((repo.path / "refs/releases").iterdir())) == 7
    view = repo.refs.view("refs/releases/")
    whole = view.entries(RELEASES)
    assert list(whole) == list(range(1, MANY + 8))
    no_list(monkeypatch)
    assert view.newest(RELEASES) == MANY + 7
    assert view.newest(STAGING) == 40
    assert view.entries(RELEASES, MANY - 2) == {entry: oid for entry, oid in whole.items() if entry >= MANY - 2}
    assert view.entries(RELEASES, MANY + 8) == {}


@pytest.mark.parametrize("odd", ["a gap", "no number", "as many as before", "below"])
def test_where_numbers_are_not_all_there_all_are_looked_at(repo: Repository, tag: ObjectId, odd: str) -> None:
    fill(repo, tag, (RELEASES, 50))
    new, gone = {
        "a gap": ("v53", None),
        "no number": ("v051", None),
        "as many as before": ("v52", "v50"),
        "below": (None, "v3"),
    }[odd]
    if new is not None:
        repo.refs.create(f"refs/releases/{new}", tag)
    if gone is not None:
        git(repo, "update-ref", "-d", f"refs/releases/{gone}")
    view = repo.refs.view("refs/releases/")
    listed = ListedRefs(repo.refs.list("refs/"))
    assert view.entries(RELEASES, 40) == listed.entries(RELEASES, 40)
    assert view.newest(RELEASES) == listed.newest(RELEASES) == max(listed.entries(RELEASES))


@pytest.mark.parametrize("digits", [1, 3])
@pytest.mark.parametrize("known", [0, 7, 9, 10, 99, 100, 109, 999, 1000, 1009, 1998, 1999, 9989, 20_449, 99_999])
def test_prefixes_name_what_comes_next(known: int, digits: int) -> None:
    found, until = prefixes(RELEASES, Entry(known) if known else 0, digits), last(known, digits)
    assert len(found) <= 2 + 9 * digits
    assert known < until <= known + 10**digits
    assert str(until).endswith("9" * min(digits, len(str(until))))
    assert all(str(RELEASES[number]).startswith(found) for number in range(max(known, 1), until + 1))
    older = [number for number in range(1, known) if str(RELEASES[number]).startswith(found)]
    assert len(older) <= (9 if digits == 1 else 108)


class Counted:
    """A remote, and how many refs it listed."""

    def __init__(self, remote: Remote) -> None:
        self.remote, self.listed, self.asked = remote, 0, 0

    def list(self, prefixes: list[str], *, within: int | None = None) -> dict[str, ObjectId]:
        found = self.remote.list(prefixes, within=within)
        self.listed, self.asked = self.listed + len(found), self.asked + 1
        return found


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A remote for readers."""
    with Repository.init_bare(tmp_path_factory.mktemp("many") / "r.git", ObjectFormat.SHA1) as repo:
        fill(repo, repo.write("blob", b"x"), (RELEASES, MANY), (STAGING, 40), (TRUST, 3))
        return repo.path


@pytest.mark.parametrize(
    ("known", "refs", "asked"),
    [
        (MANY, 2, 1),
        (MANY - 1, 3, 1),
        (MANY - 6, 8, 1),
        (MANY - 10, 130, 2),
        (MANY - 300, 500, 2),
        (1998, 570, 2),
        (1980, 500, 3),
        (150, 3 * MANY, 4),
        (9, MANY, 1),
        (0, MANY, 1),
    ],
)
def test_a_remote_is_asked_for_news_alone(many: Path, known: int, refs: int, asked: int) -> None:
    with Remote.resolve(None, str(many), env={"PATH": os.environ["PATH"]}) as remote:
        counted = Counted(remote)
        found = list_ahead(counted, {RELEASES: known}, ("refs/trust/",))  # type: ignore[arg-type]
        everything = remote.list(["refs/"])
    assert found.items() <= everything.items()
    assert set(ListedRefs(found).entries(RELEASES, max(known, 1))) == set(range(max(known, 1), MANY + 1))
    assert set(ListedRefs(found).entries(TRUST)) == {1, 2, 3}
    assert ListedRefs(found).entries(STAGING) == {}
    assert counted.listed <= refs + 3
    assert counted.asked == asked


def test_what_was_not_asked_for_is_as_it_was_verified() -> None:
    old, new = (ObjectId(digit * 40) for digit in "12")
    ours = ListedRefs(
        {str(RELEASES[number]): old for number in range(1, 11)} | {"refs/trust/v1": old, "refs/trust/v2": old}
    )
    theirs = {str(RELEASES[number]): new for number in (2, 9, 11)} | {"refs/trust/v1": new}
    shown = Ahead(theirs, ours, {RELEASES: 9}, ("refs/trust/",))
    assert [shown.get(str(RELEASES[number])) for number in (1, 2, 8, 9, 10, 11, 12)] == [
        old,
        new,
        old,
        new,
        None,
        new,
        None,
    ]
    assert dict(shown.below("refs/trust/")) == {"refs/trust/v1": new}
    assert "refs/trust/v2" not in shown
    assert list(shown.entries(RELEASES)) == [1, 2, 3, 4, 5, 6, 7, 8, 9, 11]
    assert shown.entries(RELEASES, 9) == {9: new, 11: new}
    assert sorted(shown) == sorted(
        [*(str(RELEASES[number]) for number in (1, 2, 3, 4, 5, 6, 7, 8, 9, 11)), "refs/trust/v1"]
    )
    less = shown.without({str(RELEASES[11])})
    assert list(less.entries(RELEASES, 9)) == [9]
    assert less.get(str(RELEASES[10])) is None
