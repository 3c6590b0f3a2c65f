"""Approvals: more people's signatures under a record. A bad one only fails to count, and harms nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from keys_support import ed25519_key, rsa_key, signed
from simulator import Simulator, policy, role, shop

from gitrel.ids import PRODUCTION, TRUST, App, ApprovalRef, BuildRef, Deploy, KeyId, Ledger, RecordId, Sha256

ALICE, BOB, CAROL, MALLORY = (ed25519_key(name) for name in ("alice", "bob", "carol", "mallory"))


# approvals that do not count: of a release that needs two

OTHER_RECORD = RecordId(Simulator().fmt.object_id("commit", b"x"), Sha256("3" * 64))
APPROVALS: dict[str, Callable[[Simulator, Any], object]] = {
    "own": lambda sim, it: sim.approve(it, ALICE),
    "own-second-key": lambda sim, it: sim.approve(it, rsa_key()),
    "stranger": lambda sim, it: sim.approve(it, MALLORY),
    "no-role": lambda sim, it: sim.approve(it, CAROL),
    "another-app": lambda sim, it: sim.approve(it, BOB, app=App("other")),
    "another-record": lambda sim, _: sim.approve(sim.releases[PRODUCTION][0], BOB),
    "another-record-at-its-ref": lambda sim, it: sim.approve(
        sim.releases[PRODUCTION][0], BOB, ref=ApprovalRef(it.id.oid, KeyId.of(BOB.blob))
    ),
    "another-sha256": lambda sim, it: sim.approve(it, BOB, approved=RecordId(it.id.oid, Sha256("3" * 64))),
    "another-oid": lambda sim, it: sim.approve(
        it, BOB, approved=RecordId(OTHER_RECORD.oid, it.id.sha256), ref=ApprovalRef(it.id.oid, KeyId.of(BOB.blob))
    ),
    "another-number": lambda sim, it: sim.approve(it, BOB, subject_of=Ledger.releases(PRODUCTION)[1]),
    "another-deploy": lambda sim, it: sim.approve(it, BOB, subject_of=Ledger.releases(Deploy("staging"))[2]),
    "called-a-build": lambda sim, it: sim.approve(it, BOB, subject_of=BuildRef(it.id.oid)),
    "called-trust": lambda sim, it: sim.approve(it, BOB, subject_of=TRUST[2]),
    "key-of-another": lambda sim, it: sim.approve(it, MALLORY, key=KeyId.of(BOB.blob)),
    "ref-of-another-key": lambda sim, it: sim.approve(it, BOB, ref=ApprovalRef(it.id.oid, KeyId.of(MALLORY.blob))),
    "ref-in-capitals": lambda sim, it: sim.approve(it, BOB, ref=f"refs/approvals/{it.id.oid.upper()}/{'0' * 64}"),
    "stray-ref": lambda sim, it: sim.approve(it, BOB, ref="refs/approvals/bob"),
    "no-tag": lambda sim, it: sim.publish(ApprovalRef(it.id.oid, KeyId.of(BOB.blob)), b"x", "blob"),
    "missing": lambda sim, it: sim.refs.update(
        {str(ApprovalRef(it.id.oid, KeyId.of(BOB.blob))): sim.fmt.object_id("tag", b"")}
    ),
    "empty": lambda sim, it: sim.approve(it, BOB, change=lambda _: b""),
    "garbage": lambda sim, it: sim.approve(it, BOB, change=lambda raw: raw + b"\n"),
    "cut": lambda sim, it: sim.approve(it, BOB, change=lambda raw: raw[:-40]),
    "other-signature": lambda sim, it: sim.approve(
        it, BOB, change=lambda raw: raw[: raw.index(b"-----BEGIN")] + signed(BOB, b"x").encode() + b"\n"
    ),
    "unsigned": lambda sim, it: sim.approve(it, BOB, change=lambda raw: raw[: raw.index(b"-----BEGIN")]),
    "crlf": lambda sim, it: sim.approve(it, BOB, change=lambda raw: raw.replace(b"\n", b"\r\n")),
    "the-release-itself": lambda sim, it: sim.refs.update({str(ApprovalRef(it.id.oid, KeyId.of(BOB.blob))): it.id.oid}),
}


def two_to_release() -> Simulator:
    people = {"alice": (ALICE, rsa_key()), "bob": (BOB,), "carol": (CAROL,)}
    sim = Simulator()
    sim.trust(policy(people, release=role("alice", "bob", threshold=2)))
    sim.release(approved_by=[BOB])
    return sim


@pytest.mark.parametrize("name", APPROVALS)
def test_a_bad_approval_only_fails_to_count(name: str) -> None:
    sim = two_to_release()
    pending = sim.release()
    assert sim.outcome() == [0, 6]
    APPROVALS[name](sim, pending)
    verdicts = sim.verdicts()
    assert [verdict.pending for verdict in verdicts] == [False, True]
    assert verdicts[1].refusal is not None
    assert "bob" in verdicts[1].refusal.why, "who is missing"
    sim.approve(pending, BOB)
    assert sim.outcome() == [0, 0], "and it does not stand in the way of a good one"


@pytest.mark.parametrize("name", APPROVALS)
def test_a_bad_approval_does_not_harm_what_needs_none(name: str) -> None:
    sim = shop(2)
    good = sim.verdicts()
    APPROVALS[name](sim, sim.releases[PRODUCTION][1])
    assert sim.outcome() == [0, 0]
    assert [each.id for each in sim.verdicts()] == [each.id for each in good]


@pytest.mark.parametrize("ref", ["refs/approvals/{record}/{key}", "refs/approvals/{record}/{key}/x"])
@pytest.mark.parametrize("kind", ["build", "config", "trust"])
def test_junk_beside_any_record_harms_nothing(kind: str, ref: str) -> None:
    """Whoever can write to the remote can put an approval beside anything."""
    sim = shop(2)
    last = sim.releases[PRODUCTION][1].record
    assert last.config is not None
    record = {"build": last.build, "config": last.config.id, "trust": sim.trusts[0].id}[kind]
    sim.publish(ref.format(record=record.oid, key="0" * 64), b"junk", "blob")
    sim.refs[ref.format(record=record.oid, key="1" * 64)] = OTHER_RECORD.oid
    assert sim.outcome() == [0, 0]
