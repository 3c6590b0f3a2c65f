"""The state comes back as it was written, what is watched covers all that can be new, and where a home is laid."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gitrel.errors import LocalStateError, RemoteError, UsageError
from gitrel.ids import PRODUCTION, TRUST, App, Deploy, Entry, Ledger, ObjectId, Sha256
from gitrel.run.files import linked
from gitrel.run.home import Home
from gitrel.run.state import Sight, State
from gitrel.run.watch import APPROVALS, Watch, awaiting, digest

STATE = State(app=App("shop"), deploy=Deploy("production"), url="u", pin=Sha256("0" * 64))
RELEASES = Ledger.releases(PRODUCTION)
RECORD = ObjectId("a" * 40)
ENTRIES = st.sets(st.integers(1, 999), min_size=1).map(sorted)


def shown(numbers: list[int]) -> dict[str, ObjectId]:
    return {f"{RELEASES.prefix}{number}": ObjectId(f"{number:040x}") for number in numbers}


@given(st.dictionaries(st.sampled_from(["web", "worker"]), st.integers(0, 1000)), ENTRIES)
def test_a_state_comes_back(scales: dict[str, int], numbers: list[int]) -> None:
    entries = frozenset(map(Entry, numbers))
    watch = Watch.of(shown(numbers), {RELEASES: numbers[-1]}, [])
    state = replace(STATE, scales=scales, released=entries, pinned=Entry(numbers[0]), watch=watch)
    assert State.parse(state.encode(), "state.json") == state
    sights = {"m": Sight(shown="d" * 64, away="cannot reach it"), "u": Sight(odd="forked", refused=True, contact=1.5)}
    several = replace(state, mirrors=("m",), sights=sights, forks=("v7: two",), turn=numbers[0])
    assert State.parse(several.encode(), "state.json") == several
    assert several.sources == ("u", "m")


def test_a_state_from_before_there_was_a_watch() -> None:
    raw = STATE.encode().replace(b',\n  "watch": null', b"")
    assert State.parse(raw, "state.json") == STATE
    with pytest.raises(LocalStateError, match="damaged"):
        State.parse(STATE.encode().replace(b'"watch": null', b'"watch": {"prefixes": 3}'), "state.json")


@given(ENTRIES)
def test_the_next_release_is_seen_and_the_old_ones_are_not_asked_for(numbers: list[int]) -> None:
    refs = shown(numbers)
    watch = Watch.of(refs, {TRUST: 1, RELEASES: numbers[-1]}, [])
    assert watch.prefixes == ("refs/trust/v2", f"refs/releases/v{numbers[-1] + 1}")
    assert digest({name: oid for name, oid in refs.items() if name.startswith(watch.prefixes)}) == watch.shown
    refs |= shown([numbers[-1] + 1])
    assert digest({name: oid for name, oid in refs.items() if name.startswith(watch.prefixes)}) != watch.shown


def test_an_approval_of_what_waits_is_seen() -> None:
    first = {f"{APPROVALS}{RECORD}/{'b' * 64}": ObjectId("1" * 40)}
    watch = Watch.of({**shown([7]), **first}, {RELEASES: 7}, awaiting([RECORD]))
    assert watch.approvals == {f"{APPROVALS}{RECORD}/"}
    assert digest(first) == watch.shown
    assert digest({**first, f"{APPROVALS}{RECORD}/{'c' * 64}": ObjectId("2" * 40)}) != watch.shown
    assert awaiting(ObjectId(f"{number:040x}") for number in range(65)) == {APPROVALS}, "too many to name"


# A folder that was Capistrano's


@pytest.fixture
def capistrano(tmp_path: Path) -> Path:
    old = tmp_path / "releases/20261101120000"
    old.mkdir(parents=True)
    (tmp_path / "releases/20261001120000").mkdir()
    (tmp_path / "shared/log").mkdir(parents=True)
    (tmp_path / "repo").mkdir()
    (tmp_path / "current").symlink_to(old)
    (old / "index.html").write_text("old")
    return tmp_path


def lay(folder: Path, *, adopt: bool) -> None:
    """What a join does, as far as it matters here."""
    with Home.site(folder, adopt=adopt) as site:
        (site / "repo.git/objects").mkdir(parents=True)
        (site / "quarantine").mkdir()
        (site / "quarantine").rmdir()
        Home.create(site, STATE)


def break_off(folder: Path, *, adopt: bool) -> None:
    def join() -> None:
        with Home.site(folder, adopt=adopt) as site:
            (site / "repo.git/objects").mkdir(parents=True)
            raise RemoteError("away")

    with pytest.raises(RemoteError):
        join()


def kill(folder: Path) -> None:
    """What is there after `kill -9` between two steps of a join."""
    (folder / ".joining").touch()
    (folder / "repo.git/objects").mkdir(parents=True)
    (folder / ".state.json.0.tmp").touch()


def test_a_home_is_laid_beside_what_is_there(capistrano: Path) -> None:
    before = set(capistrano.rglob("*"))
    lay(capistrano, adopt=True)
    assert before < set(capistrano.rglob("*"))
    assert (capistrano / "current/index.html").read_text() == "old"
    assert linked(Home(capistrano)) == [], "Capistrano's releases are none that a prune could take"
    Home(capistrano).tidy()
    Home(capistrano).switch(Entry(1))
    assert os.readlink(capistrano / "current") == "releases/v1"
    assert before - set(capistrano.rglob("*")) == set()


def test_without_being_asked_nothing_is_laid_there(capistrano: Path) -> None:
    before = set(capistrano.rglob("*"))
    with pytest.raises(UsageError) as caught:
        lay(capistrano, adopt=False)
    assert "--adopt" in caught.value.hint
    (capistrano / ".notes.tmp").touch()
    kill(capistrano)
    with pytest.raises(UsageError):
        lay(capistrano, adopt=False)
    assert (capistrano / ".notes.tmp").exists()
    assert before < set(capistrano.rglob("*"))


@pytest.mark.parametrize("killed", [False, True])
def test_what_breaks_off_leaves_it_as_it_was(capistrano: Path, killed: bool) -> None:
    before = set(capistrano.rglob("*"))
    if killed:
        kill(capistrano)
    break_off(capistrano, adopt=True)
    assert set(capistrano.rglob("*")) == before
    if killed:
        kill(capistrano)
    lay(capistrano, adopt=True)
    assert (capistrano / "current/index.html").read_text() == "old"


@pytest.mark.parametrize("name", ["builds", "run", "repo.git", "identity.age", "releases/v12", "quarantine"])
def test_nothing_is_laid_over_a_name_that_a_home_needs(capistrano: Path, name: str) -> None:
    (capistrano / name).mkdir()
    with pytest.raises(UsageError) as caught:
        lay(capistrano, adopt=True)
    assert caught.value.why == name


def test_nothing_is_laid_over_links_that_lead_elsewhere(capistrano: Path) -> None:
    (capistrano / "current").unlink()
    (capistrano / "current").mkdir()
    (capistrano / "releases").rename(capistrano / "elsewhere")
    (capistrano / "releases").symlink_to("elsewhere")
    for why in ("current", "releases"):
        with pytest.raises(UsageError) as caught:
            lay(capistrano, adopt=True)
        assert caught.value.why == why
        if why == "current":
            (capistrano / "current").rmdir()


def test_a_join_that_breaks_off_leaves_no_folder(tmp_path: Path) -> None:
    break_off(tmp_path / "srv/shop", adopt=False)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "new").mkdir()
    (tmp_path / "new/.notes.tmp").touch()
    with pytest.raises(UsageError):
        lay(tmp_path / "new", adopt=False)
    (tmp_path / "new/.notes.tmp").unlink()
    (tmp_path / "new/releases").mkdir()
    kill(tmp_path / "new")
    lay(tmp_path / "new", adopt=False)
    made = {path.name for path in (tmp_path / "new").iterdir()}
    assert made == {"builds", "releases", "repo.git", "run", "state.json"}
