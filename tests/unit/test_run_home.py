"""The state comes back as it was written, and what is watched at the remote covers all that can be new."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gitrel.errors import LocalStateError
from gitrel.ids import PRODUCTION, TRUST, App, Deploy, Entry, Ledger, ObjectId, Sha256
from gitrel.run.state import State
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
