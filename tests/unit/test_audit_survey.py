"""`survey`, one fault at a time: what it is called, what rests on it, and what is still judged."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from audit_support import audit, codes, found, write_repository
from keys_support import ed25519_key, signed
from simulator import FILES, STAMP, Simulator, commit_with, policy, role, shop

from gitrel.audit.codes import Code, Severity
from gitrel.audit.explain import Outcome
from gitrel.audit.memory import Head, Memory, read_memory, remember, write_memory
from gitrel.audit.result import Signer, Standing
from gitrel.errors import LocalStateError
from gitrel.format.envdir import Differences
from gitrel.format.record import CitedRelease, ReleaseRecord, Signed
from gitrel.format.trust import DeployPolicy
from gitrel.ids import (
    PRODUCTION,
    TRUST,
    BuildRef,
    Deploy,
    Entry,
    KeyId,
    Ledger,
    ObjectFormat,
    ObjectId,
    RecordId,
    Sha256,
)
from gitrel.trust.checks import Check

ALICE, BOB = ed25519_key("alice"), ed25519_key("bob")
STAGING = Deploy("staging")


@pytest.mark.parametrize("fmt", ObjectFormat)
def test_an_honest_ledger_gives_nothing(tmp_path: Path, fmt: ObjectFormat) -> None:
    sim = shop(5, fmt)
    result = audit(write_repository(sim, tmp_path / "r"), sim)
    assert (result.findings, result.unchecked, result.clean, result.complete) == ((), (), True, True)
    (deploy,) = result.deploys
    assert [each.standing for each in deploy.releases] == [Standing.GOOD] * 5
    assert all(set(each.checks.values()) == {Outcome.PASSED} for each in deploy.releases)
    assert [each.carried_by for each in result.builds] == [1] * 5


def test_a_report_has_what_a_reader_wants_to_know(tmp_path: Path) -> None:
    sim = Simulator()
    sim.trust(policy(release=role("alice", "bob", threshold=2)))
    config = sim.config({"A": b"1", "KEY.age": b"secret"})
    first = sim.release(sim.build(FILES), config)
    sim.approve(first, BOB)
    config = sim.config({"A": b"2", "KEY.age": b"secret"})
    build = sim.build({**FILES, "more": b"files"})
    sim.approve(sim.release(build, config, subject="Second", text="Why"), BOB)
    result = audit(write_repository(sim, tmp_path / "r"), sim)
    report = result.release(PRODUCTION, Entry(2))
    assert report is not None
    assert (report.subject, report.text, report.claimed) == ("Second", "Why", STAMP)
    assert [signer.person for signer in report.signers] == ["alice", "bob"]
    assert report.signers[1] == Signer(KeyId.of(BOB.blob), report.signers[1].person)
    assert (report.source, report.build) == (build.record.source, build.id)
    assert (report.variables, report.secrets, report.changed) == (("A", "KEY"), ("KEY",), Differences(changed=("A",)))
    assert [each.counts for each in result.approvals] == [True, True]
    assert result.findings == ()


def test_no_trust_and_everything_rests_on_it(tmp_path: Path) -> None:
    sim = shop(2)
    del sim.refs["refs/trust/v1"]
    result = audit(write_repository(sim, tmp_path / "r"), sim)
    (finding,) = result.findings
    assert finding.code is Code.NO_TRUST
    assert set(finding.rests) >= {"refs/releases/v1", "refs/releases/v2", "refs/config/v1"}
    assert result.app is None


def test_a_record_behind_a_break_is_judged_by_itself(tmp_path: Path) -> None:
    sim = shop(3)
    sim.release(by=BOB)
    sim.release()
    del sim.refs["refs/releases/v2"]
    result = audit(write_repository(sim, tmp_path / "r"), sim)
    assert codes(result) == {"refs/releases/v2": "gap", "refs/releases/v4": "no-role"}
    assert found(result, Code.GAP)[0].rests == ("refs/releases/v3", "refs/releases/v4", "refs/releases/v5")
    assert found(result, Code.GAP)[0].evidence == (sim.releases[PRODUCTION][1].id.oid,)
    standings = [each.standing for each in result.deploys[0].releases]
    assert standings == [Standing.GOOD, Standing.UNPROVEN, Standing.REFUSED, Standing.UNPROVEN]
    assert result.deploys[0].releases[1].checks[Check.PREVIOUS] is Outcome.NOT_CHECKED


def test_a_trust_record_that_is_broken_is_one_finding_for_all_that_cite_it(tmp_path: Path) -> None:
    sim = shop(2)
    sim.trust(by=BOB)
    for _ in range(3):
        sim.release(sim.build({**FILES, "n": b"%d" % len(sim.objects)}))
    sim.trust()
    result = audit(write_repository(sim, tmp_path / "r"), sim)
    (finding,) = result.findings
    assert (finding.ref, finding.code, finding.check) == ("refs/trust/v2", Code.NO_ROLE, 5)
    assert {"refs/trust/v3", "refs/releases/v3", "refs/releases/v5"} <= set(finding.rests)
    assert result.unchecked[0].why == "trust is broken after 1 records"


def test_a_change_of_trust_that_waits_is_a_note_and_its_successor_an_error(tmp_path: Path) -> None:
    sim = Simulator()
    sim.trust(policy(root=role("alice", "bob", threshold=2)), approved_by=[BOB])
    sim.release()
    sim.trust(policy(root=role("alice", "bob", threshold=2)))
    result = audit(write_repository(sim, tmp_path / "one"), sim)
    assert [(each.ref, each.code, each.severity) for each in result.findings] == [
        ("refs/trust/v2", Code.PENDING, Severity.NOTE)
    ]
    assert "gitrel approve trust/v2" in result.findings[0].advice
    sim.trust(policy(root=role("alice", "bob", threshold=2)))
    assert codes(audit(write_repository(sim, tmp_path / "two"), sim))["refs/trust/v3"] == "trust-broken"


def test_one_lost_file_is_one_finding_however_many_releases_have_it(tmp_path: Path) -> None:
    sim = shop(4)
    lost = sim.fmt.object_id("blob", FILES["serve"])
    result = audit(write_repository(sim, tmp_path / "r", without=(lost,)), sim)
    (finding,) = result.findings
    assert (finding.code, finding.object, finding.check) == (Code.MISSING_OBJECT, lost, Check.TREE)
    assert len(finding.rests) == 7, "three other builds, and four releases"
    assert {each.standing for each in result.deploys[0].releases} == {Standing.REFUSED}


def test_a_bad_config_in_the_ledger_is_one_finding_with_the_releases_that_carry_it(tmp_path: Path) -> None:
    sim = shop(1)
    config = sim.config(by=BOB)
    sim.release(config=config)
    (finding,) = audit(write_repository(sim, tmp_path / "r"), sim).findings
    assert (finding.code, finding.ref, finding.rests) == (Code.NO_ROLE, "refs/config/v2", ("refs/releases/v2",))


def test_a_break_in_the_config_ledger_is_none_of_the_releases(tmp_path: Path) -> None:
    """Servers look at the record that a release carries, not at the ledger that it lies in."""
    sim = shop(1)
    config = sim.config(previous=RecordId(ObjectId("1" * 40), Sha256("2" * 64)))
    sim.release(config=config)
    result = audit(write_repository(sim, tmp_path / "r"), sim)
    assert codes(result) == {"refs/config/v2": "broken-link"}
    assert result.deploys[0].releases[1].standing is Standing.GOOD
    assert [each.standing for each in result.deploys[0].configs] == [Standing.GOOD, Standing.REFUSED]


def test_whatever_is_lost_or_damaged_is_named(tmp_path: Path) -> None:
    """Each object of a ledger in turn."""
    sim = shop(2)
    sim.trust()
    sim.approve(sim.release(config=sim.config({"B": b"2"})), BOB)
    assert len(sim.objects) > 30
    for number, (oid, (kind, data)) in enumerate(sim.objects.items()):
        if oid == sim.fmt.object_id("commit", b"the source"):
            continue
        path = write_repository(sim, tmp_path / f"{number}", without=(oid,))
        lost = audit(path, sim)
        assert oid in {finding.object for finding in lost.findings}, (kind, data)
        assert {finding.code for finding in lost.findings} <= {Code.MISSING_OBJECT, Code.GAP}, lost.findings
        loose = path / "objects" / oid[:2] / oid[2:]
        loose.parent.mkdir(exist_ok=True)
        loose.write_bytes(zlib.compress(b"%s %d\0" % (kind.encode(), len(data) + 1) + data + b"!"))
        damaged = audit(path, sim)
        assert oid in {finding.object for finding in damaged.findings}, (kind, data)
        assert {finding.code for finding in damaged.findings} == {Code.DAMAGED_OBJECT}, damaged.findings


def test_a_number_far_away_costs_nothing(tmp_path: Path) -> None:
    sim = shop(2)
    sim.release(entry=Entry(999_999_999), by=BOB)
    result = audit(write_repository(sim, tmp_path / "r"), sim)
    assert {each.code for each in result.findings} == {Code.GAP, Code.NO_ROLE}
    assert "and 999999991 more" in found(result, Code.GAP)[0].what


def test_rubbish_under_a_number_far_away_is_no_gap(tmp_path: Path) -> None:
    sim = shop(2)
    sim.publish("refs/releases/v999999999", b"rubbish")
    assert codes(audit(write_repository(sim, tmp_path / "r"), sim)) == {"refs/releases/v999999999": "unsigned"}


def test_a_damaged_pack_hides_nothing_that_lies_elsewhere(tmp_path: Path) -> None:
    sim = shop(2)
    path = write_repository(sim, tmp_path / "r")
    for oid, (kind, data) in sim.objects.items():
        loose = path / "objects" / oid[:2] / oid[2:]
        loose.parent.mkdir(exist_ok=True)
        loose.write_bytes(zlib.compress(b"%s %d\0" % (kind.encode(), len(data)) + data))
    for index in (path / "objects/pack").glob("*.idx"):
        index.chmod(0o644)
        index.write_bytes(b"rubbish")
    result = audit(path, sim)
    assert [each.code for each in result.findings] == [Code.DAMAGED_OBJECT]
    assert {each.standing for each in result.deploys[0].releases} == {Standing.GOOD}


def test_an_object_that_claims_to_be_enormous_is_not_inflated(tmp_path: Path) -> None:
    sim = shop(1)
    oid = sim.refs["refs/releases/v1"]
    path = write_repository(sim, tmp_path / "r", without=(oid,))
    loose = path / "objects" / oid[:2] / oid[2:]
    loose.parent.mkdir(exist_ok=True)
    loose.write_bytes(zlib.compress(b"commit 99999999999\0" + bytes(1000)))
    (finding,) = audit(path, sim).findings
    assert finding.code is Code.DAMAGED_OBJECT
    assert "too big" in finding.what


def test_what_a_partial_clone_lacks_is_said_and_is_no_error(tmp_path: Path) -> None:
    sim = shop(2)
    path = write_repository(sim, tmp_path / "r", without=(sim.fmt.object_id("blob", FILES["serve"]),))
    (pack,) = (path / "objects/pack").glob("*.pack")
    pack.with_suffix(".promisor").touch()
    result = audit(path, sim)
    assert [each.code for each in result.findings] == [Code.CONTENTS_ABSENT]
    assert (result.clean, result.complete) == (True, False)
    assert result.deploys[0].releases[0].checks[Check.CONTENT] is Outcome.NOT_CHECKED


def test_the_ledger_only_reads_no_file(tmp_path: Path) -> None:
    sim = shop(2)
    trust = {line.id.oid for line in sim.trusts}
    blobs = {oid for oid, (kind, _) in sim.objects.items() if kind == "blob"}
    kept = {oid for oid in blobs if b"[people" in sim.objects[oid][1] or b"namespaces" in sim.objects[oid][1]}
    path = write_repository(sim, tmp_path / "r", without=tuple(blobs - kept))
    result = audit(path, sim, contents=False)
    assert trust
    assert [each.code for each in result.findings] == [Code.LEDGER_ONLY]
    assert result.unchecked[0].count == 5
    assert result.deploys[0].releases[0].variables == ("LOG_LEVEL",)


def test_a_promotion_names_the_release_that_it_is(tmp_path: Path) -> None:
    sim = Simulator()
    sim.trust(policy(deploys={STAGING: DeployPolicy(release=role("alice"), config=role("alice"))}))
    build = sim.build()
    origin = sim.release(build, deploy=STAGING)
    sim.release(build, promoted_from=_named(origin))
    assert audit(write_repository(sim, tmp_path / "one"), sim).findings == ()
    sim.release(sim.build({**FILES, "another": b""}), promoted_from=_named(origin))
    assert codes(audit(write_repository(sim, tmp_path / "two"), sim)) == {"refs/releases/v2": "origin-differs"}


def _named(release: Signed[ReleaseRecord]) -> CitedRelease:
    return CitedRelease(release.record.deploy, release.record.entry, release.id)


def test_nobody_is_named_as_the_signer_of_a_forgery(tmp_path: Path) -> None:
    sim = shop(1)
    made = sim.release()
    sim.publish(made.record.ref, commit_with(made.payload, signed(ALICE, b"something else")))
    forged = sim.build({**FILES, "more": b""})
    raw = commit_with(forged.payload, signed(ALICE, b"something else"))
    sim.publish(BuildRef(sim.fmt.object_id("commit", raw)), raw)
    result = audit(write_repository(sim, tmp_path / "r"), sim)
    assert {each.code for each in result.findings} == {Code.BAD_SIGNATURE, Code.FOREIGN_BUILD}
    assert {each.who for each in result.findings} == {""}
    assert result.deploys[0].releases[1].signers == ()
    assert [each.signers for each in result.builds if each.standing is Standing.REFUSED] == [()]


# Memory


def head(sim: Simulator, entry: int) -> Head:
    made = sim.releases[PRODUCTION][entry - 1]
    return Head(made.record.entry, made.id)


RELEASES = Ledger.releases(PRODUCTION).prefix


def test_the_memory_goes_forward_only(tmp_path: Path) -> None:
    sim = shop(3)
    first = remember(None, audit(write_repository(sim, tmp_path / "one"), sim))
    assert first is not None
    assert first.heads[RELEASES] == head(sim, 3)
    sim.release()
    longer = audit(write_repository(sim, tmp_path / "two"), sim, memory=first)
    assert longer.findings == ()
    second = remember(first, longer)
    assert second is not None
    assert second.heads[RELEASES] == head(sim, 4)
    cut = audit(tmp_path / "one", sim, memory=second)
    assert [(each.code, each.evidence[0]) for each in cut.findings] == [(Code.HISTORY_CUT, head(sim, 4).id.oid)]
    assert remember(second, cut) == second


def test_rubbish_and_what_may_be_taken_back_is_not_remembered(tmp_path: Path) -> None:
    sim = Simulator()
    sim.trust(policy(root=role("alice", "bob", threshold=2)), approved_by=[BOB])
    sim.release()
    sim.trust(policy(root=role("alice", "bob", threshold=2)))
    sim.publish("refs/releases/v2", b"rubbish")
    memory = remember(None, audit(write_repository(sim, tmp_path / "r"), sim))
    assert memory is not None
    assert {prefix: int(each.entry) for prefix, each in memory.heads.items()} == {TRUST.prefix: 1, RELEASES: 1}


def test_the_memory_comes_back_from_its_file(tmp_path: Path) -> None:
    sim = shop(2)
    memory = remember(None, audit(write_repository(sim, tmp_path / "r"), sim))
    assert memory is not None
    write_memory(tmp_path / "seen.json", memory)
    assert read_memory(tmp_path / "seen.json") == memory
    assert read_memory(tmp_path / "nothing.json") is None
    (tmp_path / "newer.json").write_text('{"format": 2}')
    with pytest.raises(LocalStateError, match="newer gitrel"):
        read_memory(tmp_path / "newer.json")


def test_what_was_remembered_of_the_same_object_under_another_hash_is_no_match(tmp_path: Path) -> None:
    """A second commit with the same SHA-1."""
    sim = shop(2)
    oid = sim.releases[PRODUCTION][-1].id.oid
    heads = {RELEASES: Head(Entry(2), RecordId(oid, Sha256("0" * 64)))}
    result = audit(write_repository(sim, tmp_path / "r"), sim, memory=Memory(app=sim.app, pin=sim.pin, heads=heads))
    assert [each.code for each in result.findings] == [Code.HISTORY_REWRITTEN]


# Hosts


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (dict.copy, {}),
        (lambda refs: refs.pop("refs/releases/v3"), {"refs/releases/v3": "host-behind"}),
        (lambda refs: refs.pop("refs/releases/v2"), {"refs/releases/v2": "hosts-differ"}),
        (lambda refs: refs.update({"refs/releases/v3": ObjectId("1" * 40)}), {"refs/releases/v3": "hosts-differ"}),
        (lambda refs: refs.update({"refs/releases/v4": ObjectId("1" * 40)}), {"refs/releases/v4": "host-behind"}),
        (lambda refs: refs.update({"refs/releases/V4": ObjectId("1" * 40)}), {"refs/releases/V4": "stray-ref"}),
    ],
)
def test_two_hosts(tmp_path: Path, change: Callable[[dict[str, ObjectId]], object], expected: dict[str, str]) -> None:
    sim = shop(3)
    theirs = dict(sim.refs)
    change(theirs)
    result = audit(write_repository(sim, tmp_path / "r"), sim, other=("there", theirs))
    assert codes(result) == expected
