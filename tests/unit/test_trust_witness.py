"""Heartbeats and receipts: one honest ledger of each, and every way in which it can be none."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from keys_support import ed25519_key
from simulator import SHOP, Simulator, policy, role, shop

from gitrel.audit.gate import Update, admit
from gitrel.errors import FormatError, Refused
from gitrel.format.record import Cited, CitedRelease, Health, HeartbeatRecord, ReceiptRecord, Signed
from gitrel.format.trust import TrustPolicy, encode_trust, parse_trust
from gitrel.ids import HEARTBEAT, PRODUCTION, App, Deploy, Entry, Host, Ledger, ObjectFormat, ObjectId, RecordId, Sha256
from gitrel.release.witness import heartbeats_between
from gitrel.trust.witness import VerifiedWitness, contradictions, walk_witnesses, witness_ledgers

WEB1, WEB2 = Host("web1"), Host("web2")


def witnessed(hosts: tuple[str, ...] = ("web1", "web2"), clock: str = "clock") -> TrustPolicy:
    """Alice as always; a clock that beats, two hosts, and bob, who may do none of it."""
    names = ("alice", "bob", "clock", "web1", "web2")
    people = {name: (ed25519_key(name),) for name in names}
    return policy(people, heartbeat=role(clock), receipt=role(*hosts))


def team(releases: int = 2, fmt: ObjectFormat = ObjectFormat.SHA1) -> Simulator:
    sim = shop(releases, fmt)
    sim.trust(witnessed())
    return sim


def head(sim: Simulator, entry: int = -1) -> CitedRelease:
    found = sim.releases[PRODUCTION][entry - 1 if entry > 0 else entry]
    return CitedRelease(PRODUCTION, found.record.entry, found.id)


def last(sim: Simulator, ledger: Ledger) -> tuple[int, RecordId | None]:
    """The number of a ledger's newest entry, 0 without one, and its id."""
    found = [entry for entry, _ in walk_witnesses(sim.refs, sim, sim.chain(), ledger)]
    if not found:
        return 0, None
    oid = sim.refs[str(ledger[max(found)])]
    return max(found), RecordId.of("commit", sim.read(oid, "commit"), sim.fmt)


def beat(sim: Simulator, by: str = "clock", **over: Any) -> Signed[HeartbeatRecord]:
    number, previous = last(sim, HEARTBEAT)
    node = sim.node(over.pop("files", {}))
    ref, tree = over.pop("ref", None), over.pop("tree", node.oid)
    fields: dict[str, Any] = {
        "app": SHOP,
        "subject": "Heartbeat",
        "entry": Entry(number + 1),
        "previous": previous,
        "trust": sim.cited,
        "heads": (head(sim),),
        "tree_sha256": node.sha256,
    }
    made = sim.sign(HeartbeatRecord(**{**fields, **over}), tree, ed25519_key(by))
    sim.refs[str(ref or made.record.ref)] = made.id.oid
    return made


def receipt(sim: Simulator, host: Host = WEB1, by: str = "", **over: Any) -> Signed[ReceiptRecord]:
    number, previous = last(sim, Ledger.receipts(host))
    node = sim.node(over.pop("files", {}))
    ref, tree = over.pop("ref", None), over.pop("tree", node.oid)
    fields: dict[str, Any] = {
        "app": SHOP,
        "subject": "Receipt",
        "host": host,
        "entry": Entry(number + 1),
        "previous": previous,
        "trust": sim.cited,
        "head": head(sim),
        "release": head(sim),
        "ran": sim.releases[PRODUCTION][-1].record.tree_sha256,
        "verdict": None,
        "health": Health.HEALTHY,
        "start": 1_700_000_000,
        "tree_sha256": node.sha256,
    }
    made = sim.sign(ReceiptRecord(**{**fields, **over}), tree, ed25519_key(by or str(host)))
    sim.refs[str(ref or made.record.ref)] = made.id.oid
    return made


def outcome(sim: Simulator, ledger: Ledger) -> list[int]:
    """For each entry: 0, it is good, or the check that refuses it."""
    walked = [found for _, found in walk_witnesses(sim.refs, sim, sim.chain(), ledger)]
    return [found.check if isinstance(found, Refused) else 0 for found in walked]


@pytest.mark.parametrize("fmt", list(ObjectFormat), ids=str)
def test_honest_ledgers(fmt: ObjectFormat) -> None:
    sim = team(2, fmt)
    for _ in range(3):
        beat(sim)
        receipt(sim)
    receipt(sim, WEB2, health=Health.FAILED, end=1_700_000_001, release=head(sim, 1), verdict=14)
    assert outcome(sim, HEARTBEAT) == outcome(sim, Ledger.receipts(WEB1)) == [0, 0, 0]
    assert outcome(sim, Ledger.receipts(WEB2)) == [0]
    assert list(witness_ledgers({**sim.refs, "refs/receipts/web1/v01": sim.refs["refs/trust/v1"]})) == [
        HEARTBEAT,
        Ledger.receipts(WEB1),
        Ledger.receipts(WEB2),
    ]
    assert sim.outcome() == [0, 0], "releases are what they were"


def other(sim: Simulator) -> RecordId:
    return sim.trusts[0].id


Make = Callable[[Simulator], Any]
BAD: dict[str, tuple[int, Make]] = {
    "a heartbeat under another number": (1, lambda s: beat(s, ref="refs/heartbeat/v2", entry=Entry(3))),
    "a heartbeat of another app": (3, lambda s: beat(s, app=App("other"))),
    "a heartbeat that cites an unknown trust": (4, lambda s: beat(s, trust=Cited(Entry(9), other(s)))),
    "a heartbeat that cites another trust": (4, lambda s: beat(s, trust=Cited(Entry(2), other(s)))),
    "a heartbeat by somebody without the role": (5, lambda s: beat(s, by="alice")),
    "a heartbeat by a stranger": (5, lambda s: beat(s, by="mallory")),
    "a heartbeat by a host": (5, lambda s: beat(s, by="web1")),
    "a heartbeat from before there was a role": (5, lambda s: beat(s, trust=Cited(Entry(1), other(s)))),
    "a heartbeat on top of something else": (8, lambda s: beat(s, previous=other(s))),
    "a heartbeat that leaves a number out": (8, lambda s: beat(s, entry=Entry(3), previous=other(s))),
    "a heartbeat with files": (11, lambda s: beat(s, files={"a": b"a"})),
    "a heartbeat whose tree is another": (11, lambda s: beat(s, tree=s.releases[PRODUCTION][0].tree)),
    "a receipt of another host's": (5, lambda s: receipt(s, WEB1, by="web2")),
    "a receipt by somebody with every other role": (5, lambda s: receipt(s, WEB1, by="alice")),
    "a receipt by the clock": (5, lambda s: receipt(s, WEB1, by="clock")),
    "a receipt under another host's name": (1, lambda s: receipt(s, WEB2, by="web2", ref="refs/receipts/web1/v2")),
    "a receipt of a host that is nobody": (5, lambda s: receipt(s, Host("web9"), by="web1")),
    "a receipt of a person that is no host": (5, lambda s: receipt(s, Host("bob"))),
    "a receipt on top of something else": (8, lambda s: receipt(s, previous=other(s))),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_one_is_refused(name: str) -> None:
    """By the walk, and by a remote that is guarded."""
    check, make = BAD[name]
    sim = team()
    beat(sim)
    receipt(sim)
    before = dict(sim.refs)
    make(sim)
    (ref,) = sim.refs.keys() - before.keys()
    ledger = next(each for each in witness_ledgers(sim.refs) if ref.startswith(each.prefix))
    assert outcome(sim, ledger)[-1] == check
    with pytest.raises(Refused) as refused:
        admit(before, sim, sim.fmt, [Update(ref, None, sim.refs[ref])], sim.pin)
    assert refused.value.check == check


def test_a_guarded_remote_takes_good_ones_and_keeps_them() -> None:
    sim = team()
    before = dict(sim.refs)
    beat(sim)
    receipt(sim)
    receipt(sim)
    new = [Update(ref, None, sim.refs[ref]) for ref in sim.refs.keys() - before.keys()]
    assert len(new) == 3
    assert admit(before, sim, sim.fmt, new, sim.pin) == []
    second = "refs/receipts/web1/v2"
    only = {ref: oid for ref, oid in sim.refs.items() if ref != second}
    assert admit(only, sim, sim.fmt, [Update(second, None, sim.refs[second])], sim.pin) == []
    for update in (Update(second, sim.refs[second], None), Update(second, sim.refs[second], sim.refs["refs/trust/v1"])):
        with pytest.raises(Refused, match="never"):
            admit(sim.refs, sim, sim.fmt, [update], sim.pin)
    with pytest.raises(Refused) as refused:
        admit(before, sim, sim.fmt, [Update(second, None, sim.refs[second])], sim.pin)
    assert refused.value.check == 8


def test_a_heartbeat_that_names_what_is_not_here_does_not_land_and_such_a_receipt_is_evidence() -> None:
    sim = team()
    lost = CitedRelease(PRODUCTION, Entry(3), other(sim))
    forked = CitedRelease(PRODUCTION, Entry(2), other(sim))
    before = dict(sim.refs)
    for cited in (lost, forked):
        made = beat(sim, heads=(cited,))
        ref = str(made.record.ref)
        with pytest.raises(Refused) as refused:
            admit(before, sim, sim.fmt, [Update(ref, None, sim.refs.pop(ref))], sim.pin)
        assert refused.value.check == 13
    found = receipt(sim, head=lost)
    (note,) = admit(before, sim, sim.fmt, [Update("refs/receipts/web1/v1", None, found.id.oid)], sim.pin)
    assert "v3 of production" in note
    assert list(contradictions(found.record, sim.refs)) == [(lost, None)]
    again = receipt(sim, WEB2, head=forked, release=forked).record
    assert list(contradictions(again, sim.refs)) == [(forked, sim.refs["refs/releases/v2"])]


def test_who_lost_the_role_signs_nothing_new() -> None:
    sim = team()
    beat(sim)
    old = sim.cited
    sim.trust(witnessed(clock="bob"))
    beat(sim, by="bob")
    beat(sim, trust=old)
    assert outcome(sim, HEARTBEAT) == [0, 0, 7]
    beat(sim, by="bob")
    assert outcome(sim, HEARTBEAT) == [0, 0, 7, 0], "who was refused keeps the place"


def test_a_refused_link_ends_the_ledger() -> None:
    sim = team()
    for _ in range(4):
        beat(sim)
    del sim.refs["refs/heartbeat/v2"]
    assert outcome(sim, HEARTBEAT) == [0, 8]
    sim.refs["refs/heartbeat/v2"] = ObjectId("1" * 40)
    assert outcome(sim, HEARTBEAT) == [0, 2]


def test_only_a_verifier_makes_a_verified_one() -> None:
    sim = team()
    signed = beat(sim)
    ((_, good),) = walk_witnesses(sim.refs, sim, sim.chain(), HEARTBEAT)
    assert isinstance(good, VerifiedWitness)
    assert (good.signer, good.id, good.record) == ("clock", signed.id, signed.record)
    with pytest.raises(TypeError, match="comes out of"):
        VerifiedWitness(signed=signed, key=good.key, signer=good.signer, proof=object())


@given(st.binary(max_size=200))
def test_no_bytes_end_in_anything_but_a_refusal(raw: bytes) -> None:
    sim = team()
    sim.publish("refs/heartbeat/v1", raw)
    assert outcome(sim, HEARTBEAT) == [2]


def test_the_roles_in_trust_toml() -> None:
    """They come back; without them the file is the bytes that it was before there were any."""
    assert parse_trust(encode_trust(witnessed())) == witnessed()
    assert b"heartbeat" not in encode_trust(policy())
    assert b"receipt" not in encode_trust(policy())
    text = encode_trust(witnessed()).decode()
    with pytest.raises(FormatError, match="threshold"):
        parse_trust(text.replace('"web2",\n]\nthreshold = 1', '"web2",\n]\nthreshold = 2').encode())
    with pytest.raises(FormatError, match="not in"):
        parse_trust(text.replace('"clock",\n', '"nobody",\n').encode())


@pytest.mark.parametrize(
    "change",
    [
        {"end": 1},
        {"health": Health.FAILED},
        {"head": "older"},
        {"head": "other"},
        {"head": "deploy"},
    ],
    ids=str,
)
def test_a_receipt_that_contradicts_itself_is_none(change: dict[str, Any]) -> None:
    sim = team()
    good = receipt(sim).record
    heads = {
        "older": head(sim, 1),
        "other": CitedRelease(PRODUCTION, Entry(2), RecordId(ObjectId("1" * 40), Sha256("1" * 64))),
        "deploy": replace(head(sim), deploy=Deploy("staging")),
    }
    with pytest.raises(FormatError):
        replace(good, **{name: heads.get(str(value), value) for name, value in change.items()})


def between(sim: Simulator, after: int, last: int) -> tuple[list[int], int | None]:
    """The numbers of what is sent, the newest first, and of what they build on."""
    found = heartbeats_between(sim.refs, sim, sim.chain(), PRODUCTION, after, last)
    for entry, oid in found.chain.items():
        assert sim.refs.get(str(HEARTBEAT[entry]), oid) == oid
    return list(map(int, found.chain)), int(found.after[0]) if found.after else None


def test_what_somebody_lacks_who_has_a_release() -> None:
    """Those that name it or a later one up to the last that is sent along, and what stock git needs below them."""
    sim = team(3)
    assert between(sim, 0, 3) == ([], None)
    for named in (1, 1, 2, 3, 3):
        beat(sim, heads=(head(sim, named),))
    assert between(sim, 0, 3) == ([5, 4, 3, 2, 1], None)
    assert between(sim, 0, 2) == ([3, 2, 1], None)
    assert between(sim, 1, 2) == ([3, 2, 1], None)
    assert between(sim, 2, 3) == ([5, 4, 3], 2)
    assert between(sim, 3, 3) == ([5, 4], 3)
    assert between(sim, 2, 2) == ([3], 2)


def test_no_heartbeat_is_sent_that_no_server_counts() -> None:
    """Junk above, another history, a signer who lost the role: the newest one that counts is found below them."""
    sim = team(2)
    for _ in range(2):
        beat(sim)
    beat(sim, by="bob")
    assert between(sim, 2, 2) == ([2, 1], None)
    beat(sim)
    assert between(sim, 2, 2) == ([4, 3, 2, 1], None), "it keeps its place in the chain"
    beat(sim, heads=(CitedRelease(PRODUCTION, Entry(2), head(sim, 1).id),))
    sim.refs[str(HEARTBEAT[9])] = sim.refs["refs/trust/v1"]
    assert between(sim, 2, 2) == ([4, 3, 2, 1], None)
    assert between(sim, 1, 1) == ([], None), "all of them name a release that is not sent"
    sim.trust(witnessed(clock="bob"))
    assert between(sim, 2, 2) == ([], None)
    del sim.refs[str(HEARTBEAT[9])]
    made = beat(sim, by="bob")
    assert between(sim, 2, 2)[0][0] == made.record.entry
    assert not heartbeats_between(sim.refs, sim, sim.chain(), Deploy("staging"), 1, 1).chain, "of that it says nothing"
    sim.trust(policy({"alice": (ed25519_key("alice"),)}))
    assert between(sim, 2, 2) == ([], None)


def test_a_broken_chain_is_sent_from_where_it_is_whole() -> None:
    sim = team(2)
    for _ in range(3):
        beat(sim)
    trust = sim.refs["refs/trust/v1"]
    made = beat(sim, previous=RecordId.of("commit", sim.read(trust, "commit"), sim.fmt))
    assert between(sim, 0, 2) == ([int(made.record.entry)], int(made.record.entry) - 1)
