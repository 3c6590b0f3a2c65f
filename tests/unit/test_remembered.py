"""What was verified before is not verified again, and decides nothing else: same verdicts, with and without."""

from __future__ import annotations

from pathlib import Path

import pytest
from keys_support import ed25519_key
from simulator import Simulator, policy, role

from gitrel.errors import Refused
from gitrel.ids import PRODUCTION, Entry, LedgerKind, RecordId, Sha256
from gitrel.release.remembered import KEEP, Remembered
from gitrel.trust.anchor import Anchor
from gitrel.trust.history import Verdicts, judge_config, judge_releases

COUNT = 2 * KEEP + 30


@pytest.fixture(scope="module")
def long() -> Simulator:
    sim = Simulator()
    sim.trust()
    build, config = sim.build(), sim.config()
    for number in range(COUNT):
        by = ed25519_key("bob") if number in (3, COUNT - 3) else None  # refused: he may not release
        sim.release(build, config, by=by)
    return sim


def whole(sim: Simulator) -> list[tuple[Entry, bool]]:
    return [(each.entry, each.release is not None) for each in judge_releases(sim.refs, sim, sim.chain(), PRODUCTION)]


def resumed(sim: Simulator, folder: Path) -> Verdicts:
    """As the second command finds it."""
    chain, remembered = sim.chain(), Remembered(folder)
    first = judge_releases(sim.refs, sim, chain, PRODUCTION)
    remembered.put(chain.pin, PRODUCTION, first)
    return judge_releases(sim.refs, sim, chain, PRODUCTION, remembered.get(chain.pin, PRODUCTION))


def test_the_newest_are_judged_and_the_others_when_asked(long: Simulator, tmp_path: Path) -> None:
    verdicts = resumed(long, tmp_path)
    assert len(verdicts.judged) == KEEP
    assert len(verdicts) == COUNT
    assert verdicts[-1].entry == COUNT
    assert [each.entry for each in verdicts[-3:]] == [COUNT - 2, COUNT - 1, COUNT]
    assert next(each.entry for each in reversed(verdicts) if each.release) == COUNT
    assert verdicts.skipped == COUNT - KEEP  # nobody asked so far
    assert [(each.entry, each.release is not None) for each in reversed(verdicts)] == whole(long)[::-1]
    assert verdicts.skipped == 0
    again = resumed(long, tmp_path)
    assert [(each.entry, each.release is not None) for each in again] == whole(long)
    assert [each.entry for each in resumed(long, tmp_path)[2:5]] == [3, 4, 5]


def test_a_short_ledger_is_not_remembered(tmp_path: Path) -> None:
    sim = Simulator()
    sim.trust()
    for _ in range(3):
        sim.release()
    assert resumed(sim, tmp_path).skipped == 0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("what", ["another id", "another hash", "a later number", "others may write", "torn", "a link"])
def test_what_does_not_fit_is_left_aside(long: Simulator, tmp_path: Path, what: str) -> None:
    chain, remembered = long.chain(), Remembered(tmp_path)
    remembered.put(chain.pin, PRODUCTION, judge_releases(long.refs, long, chain, PRODUCTION))
    anchor = remembered.get(chain.pin, PRODUCTION)
    (path,) = tmp_path.iterdir()
    assert anchor is not None
    assert path.stat().st_mode & 0o777 == 0o600
    oid, sha256 = anchor.id.oid, anchor.id.sha256
    match what:
        case "another id":
            anchor = Anchor(anchor.entry, RecordId(long.releases[PRODUCTION][5].id.oid, sha256), anchor.trust)
        case "another hash":
            anchor = Anchor(anchor.entry, RecordId(oid, Sha256("1" * 64)), anchor.trust)
        case "a later number":
            anchor = Anchor(Entry(COUNT + 7), RecordId(oid, sha256), anchor.trust)
        case "others may write":
            path.chmod(0o622)
        case "torn":
            path.write_bytes(path.read_bytes()[:-9])
        case _:
            path.rename(tmp_path / "there")
            path.symlink_to("there")
    if what not in ("another id", "another hash", "a later number"):
        anchor = remembered.get(chain.pin, PRODUCTION)
        assert anchor is None
    verdicts = judge_releases(long.refs, long, chain, PRODUCTION, anchor)
    assert verdicts.skipped == 0
    assert [(each.entry, each.release is not None) for each in verdicts] == whole(long)


def test_todays_trust_judges_the_rest(long: Simulator, tmp_path: Path) -> None:
    """A build whose signer lost the role counts because it was released before: that needs all that stands before."""
    sim = long.fork()
    new = policy({"alice": (ed25519_key("alice"),), "carol": (ed25519_key("carol"),)}, build=role("carol"))
    sim.trust(new)
    old = sim.releases[PRODUCTION][0]
    build = next(each for each in judge_releases(sim.refs, sim, sim.chain(), PRODUCTION) if each.entry == 1).release
    assert build is not None
    sim.release(build.build, build.config)
    verdicts = resumed(sim, tmp_path)
    assert verdicts[-1].release is not None
    assert verdicts[-1].entry == old.record.entry + COUNT


def test_a_rewritten_ledger_is_found_all_the_same(long: Simulator, tmp_path: Path) -> None:
    verdicts = resumed(long, tmp_path)
    sim = long.fork()
    anchor = Remembered(tmp_path).get(sim.chain().pin, PRODUCTION)
    assert anchor is not None
    assert verdicts.skipped == anchor.entry
    name = f"refs/releases/{anchor.entry}"
    sim.refs[name] = sim.releases[PRODUCTION][7].id.oid
    judged = judge_releases(sim.refs, sim, sim.chain(), PRODUCTION, anchor)
    assert judged.skipped == 0
    assert judged[-1].entry == anchor.entry
    assert judged[-1].refusal is not None


def test_a_config_ledger_is_remembered_like_releases(tmp_path: Path) -> None:
    sim = Simulator()
    sim.trust()
    for number in range(COUNT):
        sim.config({"A": b"%d" % number})
    chain, remembered, kind = sim.chain(), Remembered(tmp_path), LedgerKind.CONFIG
    whole = judge_config(sim.refs, sim, chain, PRODUCTION)
    assert remembered.get(chain.pin, PRODUCTION, kind) is None
    remembered.put(chain.pin, PRODUCTION, whole, kind)
    anchor = remembered.get(chain.pin, PRODUCTION, kind)
    assert anchor is not None
    assert remembered.get(chain.pin, PRODUCTION) is None
    resumed = judge_config(sim.refs, sim, chain, PRODUCTION, anchor)
    assert len(resumed.judged) == KEEP
    assert resumed[-1] == whole[-1]
    assert resumed[COUNT - KEEP] == whole[COUNT - KEEP]
    assert resumed.skipped == COUNT - KEEP  # nobody asked so far
    assert list(resumed) == list(whole)
    name = f"refs/config/{anchor.entry}"
    sim.refs[name] = sim.refs["refs/config/v3"]
    with pytest.raises(Refused, match="does not name this record") as found:
        judge_config(sim.refs, sim, chain, PRODUCTION, anchor)
    assert found.value.where == name
