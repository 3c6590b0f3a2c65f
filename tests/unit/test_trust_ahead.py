"""Signatures verified ahead, by other processes: the verdicts are those of a walk that verifies each for itself."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from simulator import Simulator, shop
from test_trust_promises import EXPECTED, mixed

from gitrel import workers
from gitrel.format.commit import MAX_RECORD
from gitrel.format.record import AnyRecord, Detached, Signed
from gitrel.ids import KeyId, ObjectFormat, ObjectId
from gitrel.trust import ahead, walk

Outcome = list[tuple[str, str | None, str | None]]


@contextmanager
def verified_ahead(forked: bool = True) -> Iterator[None]:
    """Also what is short, two records at a time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(walk, "_FEW", 0)
        patch.setattr(ahead, "_SHARE", 2)
        patch.setattr(workers, "_ALONE", 0)
        patch.setattr(workers, "WORKERS", 2 if forked else 1)
        yield


def outcome(sim: Simulator) -> Outcome:
    """Of each release its ref, who signed it, and why it is refused."""
    return [
        (
            verdict.ref,
            " ".join(verdict.release.signers) if verdict.release else None,
            str(verdict.refusal) if verdict.refusal else None,
        )
        for verdict in sim.verdicts()
    ]


def test_a_verdict_of_each_kind() -> None:
    with verified_ahead():
        assert mixed().outcome() == EXPECTED


@pytest.mark.parametrize("fmt", ObjectFormat)
def test_nothing_is_verified_twice(fmt: ObjectFormat, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was verified ahead is what the walk asks for: releases, builds, configs, to the byte."""

    def asked(signed: Signed[AnyRecord], where: str) -> KeyId:
        raise AssertionError(f"{where} was not verified ahead")

    sim = shop(7, fmt)
    sim.chain()
    monkeypatch.setattr(walk, "verify_signature", asked)
    with verified_ahead():
        assert [verdict.release is not None for verdict in sim.verdicts()] == [True] * 7


def test_others_verify(monkeypatch: pytest.MonkeyPatch) -> None:
    sim, own, here = shop(6), os.getpid(), []

    def verified(_signature: Detached) -> None:
        here.append(os.getpid() == own)

    monkeypatch.setattr(ahead, "_signer", verified)
    with verified_ahead():
        assert sim.outcome() == [0] * 6  # nobody vouched for any, so each was verified by the walk itself
    assert here == []


def test_who_knows_a_good_signature_vouches_for_those_bytes_alone() -> None:
    """A signature that was moved to another record, or a record under another one's signature, is refused."""
    sim = shop(4)
    first, second = (sim.objects[sim.refs[f"refs/releases/v{number}"]][1] for number in (3, 4))
    armor = second[second.index(b"\ngpgsig ") : second.index(b"\n\n")]
    sim.publish("refs/releases/v3", first[: first.index(b"\ngpgsig ")] + armor + first[first.index(b"\n\n") :])
    with verified_ahead():
        assert sim.outcome() == [0, 0, 5, 8]


@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_whatever_is_changed(data: st.DataObject) -> None:
    """The same verdicts, word by word, with any byte of any record changed, and any record gone or far too large."""
    sim = mixed() if data.draw(st.booleans()) else shop(5)
    commits = sorted(oid for oid, (kind, _) in sim.objects.items() if kind == "commit")
    trust = {record.id.oid for record in sim.trusts}
    for _ in range(data.draw(st.integers(1, 3))):
        oid = data.draw(st.sampled_from([oid for oid in commits if oid not in trust]))
        _change(data, sim, oid)
    there = outcome(sim)
    with verified_ahead(forked=data.draw(st.booleans())):
        assert outcome(sim) == there


def _change(data: st.DataObject, sim: Simulator, oid: ObjectId) -> None:
    """In place or as a new object of the same name."""
    raw = sim.objects.get(oid, ("", b""))[1]
    if not raw:
        return
    at = data.draw(st.integers(0, len(raw) - 1))
    how: str = data.draw(st.sampled_from(["flip", "cut", "insert", "gone", "large", "parents"]))
    match how:
        case "flip":
            new = raw[:at] + bytes([raw[at] ^ data.draw(st.sampled_from([1, 32, 128]))]) + raw[at + 1 :]
        case "cut":
            new = raw[:at]
        case "insert":
            new = raw[:at] + data.draw(st.sampled_from([b"\n", b" ", b"\0", b"\n\n", b"\ngpgsig "])) + raw[at:]
        case "large":
            new = raw + b" " * MAX_RECORD
        case "parents":
            new = raw.replace(
                b"\nauthor ", b"".join(b"\nparent %s" % each.encode() for each in sim.objects) + b"\nauthor "
            )
        case _:
            del sim.objects[oid]
            return
    name = next((name for name, named in sim.refs.items() if named == oid), None)
    in_place: bool = data.draw(st.booleans())
    if name is not None and not in_place:
        sim.publish(name, new)
    else:
        sim.objects[oid] = ("commit", new)
