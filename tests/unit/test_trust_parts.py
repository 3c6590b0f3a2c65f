"""Build and config records inside releases: by role in the trust that the release cites, or released before."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from simulator import FILES, Simulator, find_builds, role, shop
from test_trust_position import ALICE, BOB, CI, MALLORY, STAGING, old, start, team

from gitrel.errors import Refused
from gitrel.format.record import Cited
from gitrel.ids import PRODUCTION, TRUST, App, BuildRef, Entry, Ledger, LedgerRef, ObjectId, RecordId, Sha256
from gitrel.trust.history import released_before
from gitrel.trust.signers import approval_command
from gitrel.trust.walk import walk_config

# build and config records


def test_a_retired_builders_build_is_released_again() -> None:
    sim = start(2)
    before = sim.releases[PRODUCTION][0].record
    build = next(each for each in find_builds(sim.refs, sim, sim.chain()) if each.id == before.build)
    sim.trust(team(without="ci"))
    sim.release(build, rollback_to=Entry(1))
    assert sim.outcome() == [0, 0, 0]
    assert sim.outcome(anchor=sim.anchor(1), released_before=lambda part: part == build.id) == [0, 0]
    assert sim.outcome(anchor=sim.anchor(1)) == [0, 9], "only who knows the past can tell"


def test_a_retired_key_slips_in_no_new_build() -> None:
    sim = start(2)
    never_released = sim.build({**FILES, "new": b""}, by=CI)
    sim.trust(team(without="ci"))
    sim.release(never_released)
    sim.release(sim.build({**FILES, "newer": b""}, by=CI, trust=old(sim)))
    assert sim.outcome() == [0, 0, 9, 9]
    assert list(find_builds(sim.refs, sim, sim.chain())) == []


def test_by_the_letter_a_build_is_judged_by_the_trust_that_the_release_cites() -> None:
    """The release was made while ci was retired, by somebody who keeps the role: it is not lost."""
    sim = start(2)
    build = sim.build({**FILES, "new": b""}, by=CI)
    sim.trust(team(without="ci"))
    sim.release(build, trust=old(sim))
    assert sim.outcome() == [0, 0, 0]


def test_a_retired_config_key() -> None:
    sim = start(1)
    first = sim.config({"A": b"1"}, by=BOB)
    build = sim.build(by=CI)
    sim.release(build, first)
    second = sim.config({"A": b"2"}, by=BOB)
    sim.trust(team(without="bob"))
    sim.release(build, first)
    sim.release(build, second)
    sim.release(build, sim.config({"A": b"3"}, by=BOB, trust=old(sim)))
    assert sim.outcome() == [0, 0, 0, 10, 10]


def test_nothing_is_laundered_through_a_release_that_was_refused() -> None:
    sim = start(2)
    bad = sim.build({**FILES, "bad": b""}, by=MALLORY)
    sim.release(bad, by=BOB)
    sim.release(sim.build(by=CI), by=BOB)
    sim.release(bad, by=BOB)
    assert sim.outcome() == [0, 0, 9, 0, 9]
    sim = start(2)
    bad = sim.build({**FILES, "bad": b""}, by=CI)
    sim.trust(team(without="ci"))
    for by in (MALLORY, CI, BOB, ALICE):
        sim.release(bad, by=by)
    assert sim.outcome() == [0, 0, 5, 5, 9, 9]


def test_nothing_is_laundered_through_a_release_that_was_repudiated() -> None:
    sim = start(2)
    bad = sim.build({**FILES, "bad": b""}, by=CI)
    sim.release(bad, by=BOB)
    sim.trust(team(without="ci", repudiated={PRODUCTION: (Entry(3),)}))
    sim.release(bad)
    assert sim.outcome() == [0, 0, 14, 9]


def test_nor_through_one_that_only_pends() -> None:
    sim = start(1, release=role("alice", "bob", threshold=2))
    sim.approve(sim.releases[PRODUCTION][0], ALICE)
    build = sim.build({**FILES, "new": b""}, by=CI)
    pending = sim.release(build)
    sim.trust(team(without="ci", release=role("alice", "bob", threshold=2)))
    sim.release(build, approved_by=[BOB])
    assert sim.outcome() == [0, 6, 9]
    sim.approve(pending, BOB)
    assert sim.outcome() == [0, 0, 0]


PARTS: dict[str, tuple[dict[str, Any], int]] = {
    "another-build": ({"cites_build": RecordId(shop(1).trusts[0].id.oid, Sha256("5" * 64))}, 9),
    "a-build-of-another-app": ({"app": App("other")}, 9),
    "a-build-by-somebody-else": ({"by": BOB}, 9),
    "a-build-that-cites-another-trust": ({"trust": replace(shop(1).cited, entry=Entry(9))}, 9),
}


@pytest.mark.parametrize("name", PARTS)
def test_build_record(name: str) -> None:
    over, expected = PARTS[name]
    sim = start(1)
    if "cites_build" in over:
        sim.release(sim.build(by=CI), **over)
    else:
        sim.release(sim.build(**{"by": CI, **over}))
    assert sim.outcome() == [0, expected]


@pytest.mark.parametrize("what", ["build", "config"])
def test_a_part_that_is_missing_or_something_else(what: str) -> None:
    for attack in ("missing", "trust", "blob"):
        sim = start(1)
        build, config = sim.build(by=CI), sim.config()
        if attack == "trust":
            cited: dict[str, Any] = (
                {"cites_build": sim.trusts[0].id} if what == "build" else {"cites_config": sim.cited}
            )
            sim.release(build, config, **cited)
        else:
            sim.release(build, config)
            part = build.id.oid if what == "build" else config.id.oid
            del sim.objects[part]
            if attack == "blob":
                sim.objects[part] = ("blob", b"")
        assert sim.outcome() == [0, 9 if what == "build" else 10]


def test_config_record() -> None:
    for by, deploy, entry, expected in (
        (BOB, PRODUCTION, 1, 0),
        (CI, PRODUCTION, 1, 10),
        (MALLORY, PRODUCTION, 1, 10),
        (BOB, STAGING, 1, 10),
        (BOB, PRODUCTION, 2, 10),
    ):
        sim = start(1)
        config = sim.config({"A": b"1"}, by=by, deploy=deploy)
        sim.release(sim.build(by=CI), config, cites_config=Cited(Entry(entry), config.id))
        assert sim.outcome() == [0, expected]


def test_thresholds_of_builds_and_configs() -> None:
    sim = start(0, build=role("ci", "alice", threshold=2), config=role("alice", "bob", threshold=2))
    build, config = sim.build(by=CI), sim.config()
    sim.release(build, config)
    assert said(sim) == f"its build {build.id.oid} is pending: 1 of 2 signatures"
    assert len(list(find_builds(sim.refs, sim, sim.chain()))) == 0
    assert len(list(find_builds(sim.refs, sim, sim.chain(), enough=False))) == 1
    sim.approve(build, ALICE)
    assert said(sim) == "its config v1 is pending: 1 of 2 signatures"
    assert [each.id for each in find_builds(sim.refs, sim, sim.chain())] == [build.id]
    sim.approve(config, BOB)
    assert sim.outcome() == [0]


def said(sim: Simulator) -> str:
    """Why the newest release is pending."""
    verdict = sim.verdicts()[-1]
    assert verdict.pending
    assert verdict.refusal is not None
    assert verdict.refusal.where == verdict.ref
    return verdict.refusal.what


def test_a_part_that_waits_is_no_excuse_for_another_fault() -> None:
    """Pending is what lacks nothing but signatures: any other refusal comes first."""
    two = role("alice", "bob", threshold=2)
    for over, check in (
        ({"by": MALLORY}, 5),
        ({"by": CI}, 5),
        ({"trust": replace(shop(1).cited, entry=Entry(9))}, 4),
    ):
        sim = start(0, config=two)
        sim.release(sim.build(by=CI), sim.config(), **over)
        assert sim.outcome() == [check]
    sim = start(0, config=two, build=role("ci", "alice", threshold=2))
    sim.release(sim.build(by=MALLORY), sim.config())
    sim.release(sim.build(by=CI), sim.config(by=CI))
    assert sim.outcome() == [9, 10]
    sim.trust(team(config=two, repudiated={PRODUCTION: (Entry(1),)}))
    assert sim.outcome() == [9, 10]


def test_a_pending_part_vouches_for_nothing() -> None:
    """What only a pending release carries was not released before; what a good one carries counts for ever."""
    two = role("alice", "bob", threshold=2)
    sim = start(1, config=two)
    config, build = sim.config({"A": b"1"}), sim.build(by=CI)
    sim.release(build, config)
    sim.release(build, config)
    assert sim.outcome() == [0, 6, 6]
    assert sim.outcome(anchor=sim.anchor(1), released_before=lambda part: part == config.id) == [0, 0]
    sim.approve(config, BOB)
    assert sim.outcome() == [0, 0, 0]
    sim.trust(team(without="bob", config=role("alice", "ci", threshold=2)))
    sim.release(build, config)
    assert sim.outcome() == [0, 0, 0, 0]


def test_who_approves_a_part_holds_its_role() -> None:
    sim = start(0, config=role("alice", "bob", threshold=2))
    config = sim.config()
    sim.release(sim.build(by=CI), config)
    for key in (CI, MALLORY, ALICE):
        sim.approve(config, key)
        assert sim.outcome() == [6]
    sim.approve(config, BOB, subject_of=Ledger.config(STAGING)[1])
    assert sim.outcome() == [6], "of another deploy, in bob's place"
    sim.approve(config, BOB)
    assert sim.outcome() == [0]


def test_a_build_by_a_stranger_does_not_count_by_its_approvals() -> None:
    sim = start(0)
    build = sim.build(by=MALLORY)
    sim.approve(build, CI)
    sim.release(build)
    assert sim.outcome() == [9]
    assert list(find_builds(sim.refs, sim, sim.chain(), enough=False)) == []


def test_config_ledger_is_a_chain_too() -> None:
    sim = shop()
    assert [each.entry for each in walk_config(sim.refs, sim, sim.chain(), PRODUCTION)] == [1]
    attacks: list[tuple[dict[str, Any], int]] = [
        ({"entry": Entry(3)}, 8),
        ({"previous": sim.anchor().id}, 8),
        ({"app": App("other")}, 3),
        ({"by": BOB}, 5),
        ({"by": MALLORY}, 5),
    ]
    for over, check in attacks:
        attacked = sim.fork()
        attacked.config({"A": b"1"}, **over)
        with pytest.raises(Refused) as caught:
            walk_config(attacked.refs, attacked, attacked.chain(), PRODUCTION)
        assert caught.value.check == check


def test_history_tells_releases_that_were_good_from_those_that_only_stand_there() -> None:
    """A server knows the past by its own refs: what it refused is in the chain, and vouches for nothing."""
    sim = start(1)
    bad = sim.build({**FILES, "bad": b""}, by=MALLORY)
    sim.release(bad, by=BOB)
    old_build = sim.releases[PRODUCTION][0].record.build
    sim.release(sim.build(by=CI), by=BOB)
    anchor = sim.anchor()
    good = {made.id.oid for made, check in zip(sim.releases[PRODUCTION], sim.outcome(), strict=True) if check == 0}
    assert len(good) == 2
    assert released_before(sim, anchor, old_build, good=good)
    assert not released_before(sim, anchor, bad.id, good=good)
    assert not released_before(sim, anchor, sim.build({"new": b""}).id, good=good)
    assert not released_before(sim, None, old_build, good=good)
    sim.release(bad, by=BOB)
    assert sim.outcome(anchor=anchor, released_before=lambda part: released_before(sim, anchor, part, good=good)) == [9]


def test_config_that_a_removed_key_added_is_not_usable() -> None:
    """It stays in the ledger, and nothing of it goes into the next entry."""
    sim = start(1)
    first = sim.config({"A": b"1"}, by=BOB)
    sim.release(sim.build(by=CI), first, by=BOB)
    sim.config({"A": b"2"}, by=BOB)
    sim.trust(team(without="bob"))
    sim.config({"LD_PRELOAD": b"evil"}, by=BOB, trust=old(sim))
    sim.config({"A": b"3"})
    found = walk_config(sim.refs, sim, sim.chain(), PRODUCTION)
    assert [each.usable for each in found] == [True, False, False, True]


def test_config_that_waits_for_approvals_is_not_usable() -> None:
    sim = start(1, config=role("alice", "bob", threshold=2))
    made = sim.config({"A": b"1"})
    (waiting,) = walk_config(sim.refs, sim, sim.chain(), PRODUCTION)
    assert (waiting.usable, waiting.pending, waiting.maker, waiting.people) == (False, True, "alice", ("alice",))
    assert waiting.lack is not None
    assert waiting.lack.hint == "`gitrel approve config/v1`"
    sim.approve(made, BOB)
    (approved,) = walk_config(sim.refs, sim, sim.chain(), PRODUCTION)
    assert (approved.usable, approved.pending, approved.people) == (True, False, ("alice", "bob"))


def test_what_to_type() -> None:
    record = BuildRef(ObjectId("0123456789abcdef" + "0" * 24))
    found: list[LedgerRef | BuildRef] = [
        TRUST[3],
        Ledger.releases(PRODUCTION)[7],
        Ledger.config(STAGING)[2],
        Ledger.releases(STAGING)[1],
        record,
    ]
    assert [approval_command(each) for each in found] == [
        "gitrel approve trust/v3",
        "gitrel approve v7",
        "gitrel approve config/v2 --deploy staging",
        "gitrel approve v1 --deploy staging",
        "gitrel approve build/0123456789ab",
    ]
