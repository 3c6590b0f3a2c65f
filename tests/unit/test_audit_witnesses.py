"""What an audit says of heartbeats and receipts: the same codes as of other records, and two of their own."""

from __future__ import annotations

from pathlib import Path

from audit_support import audit, codes, found, write_repository
from simulator import Simulator
from test_trust_witness import WEB1, WEB2, beat, head, other, receipt, team, witnessed

from gitrel.format.record import CitedRelease
from gitrel.ids import PRODUCTION, Entry


def audited(sim: Simulator, tmp_path: Path) -> dict[str, str]:
    return codes(audit(write_repository(sim, tmp_path / "r"), sim))


def test_honest_ones_give_nothing(tmp_path: Path) -> None:
    sim = team()
    for _ in range(3):
        beat(sim)
        receipt(sim)
        receipt(sim, WEB2)
    assert audited(sim, tmp_path) == {}


def test_each_fault_is_one_finding_and_hides_no_other(tmp_path: Path) -> None:
    sim = team()
    beat(sim)
    beat(sim, by="alice")
    beat(sim, previous=other(sim))
    sim.refs["refs/heartbeat/v05"] = sim.refs["refs/heartbeat/v1"]
    for _ in range(4):
        receipt(sim)
    del sim.refs["refs/receipts/web1/v2"]
    sim.publish("refs/receipts/web2/v1", b"junk")
    assert audited(sim, tmp_path) == {
        "refs/heartbeat/v2": "no-role",
        "refs/heartbeat/v3": "broken-link",
        "refs/heartbeat/v05": "stray-ref",
        "refs/receipts/web1/v2": "gap",
        "refs/receipts/web2/v1": "unsigned",
    }


def test_what_others_were_shown(tmp_path: Path) -> None:
    sim = team()
    forked = CitedRelease(PRODUCTION, Entry(2), other(sim))
    beat(sim, heads=(CitedRelease(PRODUCTION, Entry(3), other(sim)),))
    receipt(sim, WEB1, head=forked, release=head(sim, 1))
    receipt(sim, WEB2, head=forked, release=forked)
    result = audit(write_repository(sim, tmp_path / "r"), sim)
    (lost,), (split,) = found(result, "withheld"), found(result, "split-view")
    assert len(result.findings) == 2
    assert (lost.ref, lost.who) == ("refs/heartbeat/v1", "clock")
    assert (split.ref, split.rests, split.who) == ("refs/receipts/web1/v1", ("refs/receipts/web2/v1",), "web1")
    assert split.evidence == (forked.id.oid, sim.refs["refs/releases/v2"])


def test_who_held_the_role_is_a_note(tmp_path: Path) -> None:
    sim = team()
    beat(sim)
    beat(sim)
    sim.trust(witnessed(hosts=("web2",), clock="bob"))
    beat(sim, by="bob")
    assert audited(sim, tmp_path) == {"refs/heartbeat/v1": "superseded-signer"}
