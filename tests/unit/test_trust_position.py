"""Trust by position: who may have signed what, decided by the ledgers' order and never by a date."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from keys_support import ed25519_key
from simulator import FILES, Simulator, policy, role, shop

from gitrel.format.trust import DeployPolicy, TrustPolicy
from gitrel.ids import PRODUCTION, Deploy, Entry, Sha256
from gitrel.trust.anchor import Anchor
from gitrel.trust.ledger import ChainedRelease, ReleaseLedger
from gitrel.trust.walk import RecordReader

ALICE, BOB, CAROL, CI, MALLORY = (ed25519_key(name) for name in ("alice", "bob", "carol", "ci", "mallory"))
EVERYBODY = {"alice": (ALICE,), "bob": (BOB,), "carol": (CAROL,), "ci": (CI,)}
STAGING = Deploy("staging")


def team(without: str = "", **roles: Any) -> TrustPolicy:
    """Alice holds root; alice, bob and carol release and set the config; ci and alice build."""
    people = {name: keys for name, keys in EVERYBODY.items() if name != without}
    releasers = role(*(name for name in ("alice", "bob", "carol") if name != without))
    fields: dict[str, Any] = {
        "release": releasers,
        "config": releasers,
        "build": role(*(name for name in ("ci", "alice") if name != without)),
    }
    return policy(people, **{**fields, **roles})


def start(count: int = 3, **roles: Any) -> Simulator:
    sim = Simulator()
    sim.trust(team(**roles))
    for number in range(count):
        sim.release(sim.build({**FILES, "n": b"%d" % number}, by=CI), by=BOB)
    return sim


def old(sim: Simulator, number: int = 1) -> Any:
    """How a record cites an earlier trust."""
    signed = sim.trusts[number - 1]
    return replace(sim.cited, entry=signed.record.entry, id=signed.id)


# a key that was removed


@pytest.mark.parametrize("time", [0, 1_000_000_000, 4_070_908_800], ids=["1970", "back-dated", "2099"])
@pytest.mark.parametrize("row", ["C61", "C62", "C63", "C64", "C80", "C81"])
def test_dates_play_no_part(row: str, time: int) -> None:
    """A key is good or not by where the release stands, whatever the date says."""
    sim = start()
    stamp = replace(sim.stamp, time=time)
    sim.release(by=BOB, stamp=stamp)
    sim.trust(team(without="bob"))
    sim.release(by=BOB, stamp=stamp, trust=old(sim))
    assert sim.outcome() == [0, 0, 0, 0, 7]


def test_c65_a_removed_key_signs_nothing_new() -> None:
    sim = start()
    sim.trust(team(without="bob"))
    citing_new = sim.fork()
    citing_new.release(by=BOB)
    assert citing_new.outcome() == [0, 0, 0, 5]
    citing_old = sim.fork()
    citing_old.release(by=BOB, trust=old(sim))
    assert citing_old.outcome() == [0, 0, 0, 7]
    citing_old.release()
    assert citing_old.outcome() == [0, 0, 0, 7, 0], "and the next good one runs"


def test_everything_below_the_head_stays_good() -> None:
    sim = start(3)
    for without in ("bob", "ci"):
        sim.trust(team(without=without))
        assert sim.outcome() == [0, 0, 0]
    sim.trust(policy({"carol": (CAROL,)}), approved_by=[CAROL])
    assert sim.outcome() == [0, 0, 0]


def test_a_release_above_the_head_that_was_named() -> None:
    """The head is what counts, not when trust changed: v3 is above the head v2, so bob's role there is gone."""
    sim = start(3)
    second = sim.releases[PRODUCTION][1]
    head = sim.fork().trust().record.heads[0]
    sim.trust(team(without="bob"), heads=(replace(head, entry=Entry(2), id=second.id),))
    assert sim.outcome() == [0, 0, 7]


def test_a_deploy_without_a_head_has_nothing_below_it() -> None:
    sim = start(1)
    sim.trust(team(without="bob"), heads=())
    assert sim.outcome() == [7]


def test_a_release_made_while_somebody_changed_trust_is_not_lost() -> None:
    sim = start(3)
    sim.trust(team(without="carol"))
    sim.trust(team(without="carol"))
    sim.release(sim.build(by=CI), by=BOB, trust=old(sim))
    assert sim.outcome() == [0, 0, 0, 0]
    sim.release(by=CAROL, trust=old(sim))
    assert sim.outcome() == [0, 0, 0, 0, 7]


def test_every_later_trust_counts_not_only_the_newest() -> None:
    """Bob was out in trust 2 and is back in trust 3; what he signed between them is not."""
    sim = start(2)
    sim.trust(team(without="bob"))
    sim.trust(team())
    sim.release(by=BOB, trust=old(sim, 1))
    assert sim.outcome() == [0, 0, 7]
    sim.release(by=BOB)
    assert sim.outcome() == [0, 0, 7, 0]


def test_somebody_elses_key_under_the_same_name() -> None:
    sim = start(2)
    sim.trust(policy({**EVERYBODY, "bob": (MALLORY,)}, release=role("alice", "bob"), build=role("ci", "alice")))
    sim.release(by=BOB, trust=old(sim))
    sim.release(by=MALLORY)
    assert sim.outcome() == [0, 0, 7, 0]


# the trust number along a ledger


def test_the_trust_number_never_falls() -> None:
    sim = start(2)
    sim.trust(team())
    sim.release()
    sim.release(trust=old(sim))
    assert sim.outcome() == [0, 0, 0, 7]
    sim.release()
    assert sim.outcome() == [0, 0, 0, 7, 0]
    for seen in (1, 2, 3):
        assert sim.outcome(anchor=sim.anchor(seen)) == [0, 0, 0, 7, 0][seen:]


def test_a_pending_release_sets_the_mark_too() -> None:
    """Else an approval of v3 could make a good v4 bad."""
    sim = start(2, release=role("alice", "bob", threshold=2))
    for made in sim.releases[PRODUCTION]:
        sim.approve(made, ALICE)
    sim.trust(team(release=role("alice", "bob", threshold=2)))
    pending = sim.release()
    sim.release(trust=old(sim), approved_by=[BOB])
    assert sim.outcome() == [0, 0, 6, 7]
    sim.approve(pending, BOB)
    assert sim.outcome() == [0, 0, 0, 7]


def test_what_a_stranger_pushed_sets_no_mark() -> None:
    sim = start(2)
    sim.trust(team())
    sim.release(by=MALLORY)
    sim.release(trust=old(sim))
    assert sim.outcome() == [0, 0, 5, 0]


# thresholds of releases


def test_two_of_three() -> None:
    sim = start(0, release=role("alice", "bob", "carol", threshold=2))
    made = sim.release(sim.build(by=CI), by=CAROL)
    (verdict,) = sim.verdicts()
    assert (verdict.pending, verdict.release) == (True, None)
    assert verdict.refusal is not None
    assert "carol" in verdict.refusal.why
    assert "alice, bob" in verdict.refusal.why
    sim.approve(made, BOB)
    (verdict,) = sim.verdicts()
    assert verdict.release is not None
    assert verdict.release.signers == ("carol", "bob")


def test_a_pending_release_holds_its_number() -> None:
    sim = start(1, release=role("alice", "bob", threshold=2))
    sim.approve(sim.releases[PRODUCTION][0], ALICE)
    sim.release()
    sim.release(approved_by=[BOB])
    assert sim.outcome() == [0, 6, 0]


def test_trust_raised_the_threshold_while_the_release_was_made() -> None:
    sim = start(2)
    sim.trust(team(release=role("alice", "bob", threshold=2)))
    made = sim.release(sim.build(by=CI), by=BOB, trust=old(sim))
    assert sim.outcome() == [0, 0, 6], "v1 and v2 stand below the head"
    sim.approve(made, ALICE)
    assert sim.outcome() == [0, 0, 0]


def test_an_approval_by_a_key_that_was_removed() -> None:
    sim = start(1, release=role("alice", "bob", "carol", threshold=2))
    sim.approve(sim.releases[PRODUCTION][0], ALICE)
    sim.trust(team(without="carol", release=role("alice", "bob", threshold=2)))
    made = sim.release(trust=old(sim), approved_by=[CAROL])
    assert sim.outcome() == [0, 6]
    sim.approve(made, BOB)
    assert sim.outcome() == [0, 0]


HOPELESS: dict[str, tuple[dict[str, Any], int]] = {
    "a-key-that-was-removed": ({"by": BOB}, 7),
    "a-build-by-nobody": ({"by": ALICE, "build": MALLORY}, 9),
    "a-config-by-nobody": ({"by": ALICE, "config": MALLORY}, 10),
    "nothing-else": ({"by": ALICE}, 6),
}


@pytest.mark.parametrize("name", HOPELESS)
def test_pending_means_that_nothing_is_missing_but_signatures(name: str) -> None:
    """Nobody is asked to approve what no approval can make good."""
    over, expected = HOPELESS[name]
    two = role("alice", "bob", threshold=2)
    sim = start(1, release=two)
    sim.approve(sim.releases[PRODUCTION][0], ALICE)
    build, config = sim.build(by=over.get("build", CI)), sim.config(by=over.get("config", ALICE))
    sim.trust(team(without="bob", release=role("alice", "carol", threshold=2)))
    sim.release(build, config, by=over["by"], trust=old(sim))
    assert sim.outcome() == [0, expected]


# repudiation


def test_repudiated() -> None:
    sim = start(3)
    sim.trust(team(repudiated={PRODUCTION: (Entry(2),), STAGING: (Entry(1),)}))
    assert sim.outcome() == [0, 14, 0]
    sim.release()
    assert sim.outcome() == [0, 14, 0, 0]
    assert sim.outcome(anchor=sim.anchor(2)) == [0, 0]


def test_repudiated_before_it_is_made() -> None:
    sim = start(1)
    sim.trust(team(repudiated={PRODUCTION: (Entry(2),)}))
    sim.release()
    assert sim.outcome() == [0, 14]


# deploys


def test_a_deploy_without_its_own_table_has_productions_roles() -> None:
    sim = start(1)
    sim.release(sim.build(by=CI), by=BOB, deploy=STAGING)
    sim.release(sim.build(by=CI), by=MALLORY, deploy=STAGING)
    assert sim.outcome(STAGING) == [0, 5]


def test_roles_are_a_deploys_own() -> None:
    own = DeployPolicy(release=role("carol"), config=role("carol"))
    sim = start(1, deploys={STAGING: own})
    sim.release(sim.build(by=CI), by=CAROL, deploy=STAGING)
    sim.release(sim.build(by=CI), by=BOB, deploy=STAGING)
    assert sim.outcome(STAGING) == [0, 5]
    sim.trust(team(without="carol", deploys={STAGING: replace(own, release=role("bob"), config=role("bob"))}))
    assert (sim.outcome(STAGING), sim.outcome()) == ([0, 5], [0]), "each deploy has its own head"


# where a verifier stands


def test_a_shallow_start() -> None:
    sim = shop(5)
    for number in (1, 2, 3):
        del sim.refs[f"refs/releases/v{number}"]
    assert sim.outcome() == [8]
    assert sim.outcome(shallow=True) == [0, 0]
    del sim.objects[sim.releases[PRODUCTION][0].id.oid]
    assert sim.outcome(shallow=True) == [0, 0]
    sim.release(previous=sim.anchor(4).id)
    assert sim.outcome(shallow=True) == [0, 0, 8]


def test_a_shallow_start_is_judged_like_any_other() -> None:
    sim = shop(2)
    sim.release(by=MALLORY)
    for number in (1, 2):
        del sim.refs[f"refs/releases/v{number}"]
    assert sim.outcome(shallow=True) == [5]


def test_an_anchor_by_its_sha256() -> None:
    """The same git id with other bytes: a collision of SHA-1."""
    sim = shop(3)
    seen = sim.anchor(2)
    assert sim.outcome(anchor=Anchor(seen.entry, replace(seen.id, sha256=Sha256("6" * 64)), seen.trust)) == [8]


def test_a_verified_release_is_made_in_one_place() -> None:
    sim = shop(1)
    release = sim.verdicts()[0].release
    assert release is not None
    with pytest.raises(TypeError):
        replace(release, proof=object())
    with pytest.raises(TypeError):
        ChainedRelease(
            signed=release.signed, build=release.build, config=None, trust=release.trust, signers=(), proof=None
        )


def test_fed_by_hand() -> None:
    """The verifier itself, without a walk: what it refuses with an exception changes nothing."""
    sim = shop(3)
    ledger = ReleaseLedger(sim.chain(), PRODUCTION, RecordReader(sim.refs, sim))
    raws = [made.raw for made in sim.releases[PRODUCTION]]
    assert (ledger.next, ledger.previous) == (1, None)
    assert ledger.add("refs/releases/v1", raws[0]).release is not None
    for name, raw in (("refs/releases/v3", raws[2]), ("refs/releases/v2", raws[0]), ("refs/releases/v2", b"")):
        with pytest.raises(Exception, match="refs/releases/v") as caught:
            ledger.add(name, raw)
        assert type(caught.value).__name__ == "Refused"
        assert ledger.next == 2
    assert ledger.add("refs/releases/v2", raws[1]).release is not None
