"""A thousand releases with over forty planted faults of all kinds: each is found by its code, nothing else is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from audit_support import audit, write_repository
from keys_support import ed25519_key, signed
from simulator import FILES, Simulator, commit_with, policy, role, shop

from gitrel.audit.codes import Code
from gitrel.audit.reading import AuditedObjects
from gitrel.format.record import Cited, CitedRelease, ReleaseRecord, Signed
from gitrel.format.trust import DeployPolicy, TrustPolicy
from gitrel.ids import PRODUCTION, App, BuildRef, Deploy, Entry, KeyId, Kind, ObjectId, RecordId, Sha256

RELEASES = 1000
BOB, CAROL = ed25519_key("bob"), ed25519_key("carol")
STAGING, PREVIEW = Deploy("staging"), Deploy("preview")
NOWHERE = RecordId(ObjectId("1" * 40), Sha256("2" * 64))


def rules(*, carol: bool = True, **over: Any) -> TrustPolicy:
    people = {"alice": (ed25519_key("alice"),), "bob": (BOB,), **({"carol": (CAROL,)} if carol else {})}
    both = role("alice", "bob", threshold=2)
    deploys = {STAGING: DeployPolicy(release=both, config=role("alice"))}
    return policy(people, release=role("alice", *(["carol"] if carol else [])), deploys=deploys, **over)


Change = Callable[["Planter", Simulator, Signed[ReleaseRecord]], None]
Fault = Callable[["Planter", Simulator], None]


class Planter:
    """Makes faults, and knows what they are to be called."""

    def __init__(self) -> None:
        self.expected: dict[str, Code] = {}
        self.without: list[ObjectId] = []
        self.loose: dict[str, bytes] = {}

    def expect(self, ref: object, code: Code) -> None:
        self.expected[str(ref)] = code

    def lose(self, oid: ObjectId) -> None:
        self.without.append(oid)


def made_so(code: Code, **over: Any) -> Fault:
    """A release with fields overridden."""

    def make(plant: Planter, sim: Simulator) -> None:
        plant.expect(sim.release(**over).record.ref, code)

    return make


def done_to(code: Code, change: Change) -> Fault:
    """A good release, to which something is done then."""

    def make(plant: Planter, sim: Simulator) -> None:
        made = sim.release()
        plant.expect(made.record.ref, code)
        change(plant, sim, made)

    return make


def lose(plant: Planter, sim: Simulator, made: Signed[ReleaseRecord]) -> None:
    plant.lose(made.id.oid)


def add_header(plant: Planter, sim: Simulator, made: Signed[ReleaseRecord]) -> None:
    sim.publish(made.record.ref, made.raw.replace(b"\n\n", b"\nencoding UTF-8\n\n", 1))


def forge(plant: Planter, sim: Simulator, made: Signed[ReleaseRecord]) -> None:
    sim.publish(made.record.ref, commit_with(made.payload, signed(ed25519_key("alice"), b"something else")))
    _relink(sim, made)


def unsign(plant: Planter, sim: Simulator, made: Signed[ReleaseRecord]) -> None:
    sim.publish(made.record.ref, made.payload)


def make_a_file(plant: Planter, sim: Simulator, made: Signed[ReleaseRecord]) -> None:
    sim.publish(made.record.ref, b"no record", "blob")


def make_symbolic(plant: Planter, sim: Simulator, made: Signed[ReleaseRecord]) -> None:
    del sim.refs[str(made.record.ref)]
    plant.loose[str(made.record.ref)] = b"ref: refs/releases/v1\n"


def remove_ref(plant: Planter, sim: Simulator, made: Signed[ReleaseRecord]) -> None:
    del sim.refs[str(made.record.ref)]


def replay(plant: Planter, sim: Simulator, made: Signed[ReleaseRecord]) -> None:
    sim.refs[str(made.record.ref)] = sim.releases[PRODUCTION][-2].id.oid


def fork(plant: Planter, sim: Simulator, made: Signed[ReleaseRecord]) -> None:
    """Another release of that number is there than the one that trust names."""
    sim.trust(rules())
    twin = sim.fork()
    twin.releases[PRODUCTION].pop()
    other = twin.release(subject="Twin")
    sim.objects.update(twin.objects)
    sim.refs[str(made.record.ref)] = other.id.oid
    sim.refs.update({name: oid for name, oid in twin.refs.items() if name.startswith("refs/builds/")})


def leave(plant: Planter, sim: Simulator, made: Signed[ReleaseRecord]) -> None:
    """Nothing yet: trust repudiates it in the end."""


def bad_build(plant: Planter, sim: Simulator) -> None:
    made = sim.release(sim.build({**FILES, "by": b"bob"}, by=BOB))
    plant.expect(made.record.ref, Code.BAD_BUILD)


def bad_config(plant: Planter, sim: Simulator) -> None:
    config = sim.configs[PRODUCTION][-1]
    made = sim.release(config=config, cites_config=Cited(Entry(7), config.id))
    plant.expect(made.record.ref, Code.BAD_CONFIG)


def going_back(plant: Planter, sim: Simulator) -> None:
    first = sim.trusts[0]
    made = sim.release(trust=Cited(first.record.entry, first.id))
    plant.expect(made.record.ref, Code.POSITION)


def lost_file(plant: Planter, sim: Simulator) -> None:
    build = sim.build({**FILES, "lost": b"a file that is lost"})
    plant.lose(sim.fmt.object_id("blob", b"a file that is lost"))
    sim.release(build)
    plant.expect(BuildRef(build.id.oid), Code.MISSING_OBJECT)


def unnamed(plant: Planter, sim: Simulator) -> None:
    build = sim.build({**FILES, "no": b"ref"})
    sim.release(build)
    del sim.refs[str(BuildRef(build.id.oid))]
    plant.expect(BuildRef(build.id.oid), Code.UNNAMED_PART)


def backdated(plant: Planter, sim: Simulator) -> None:
    made = sim.release(stamp=replace(sim.stamp, time=1_000_000_000))
    plant.expect(made.record.ref, Code.CLAIMED_TIME)


FAULTS: tuple[Fault, ...] = (
    done_to(Code.MISSING_OBJECT, lose),
    done_to(Code.WRONG_KIND, make_a_file),
    done_to(Code.DAMAGED_REF, make_symbolic),
    done_to(Code.NOT_CANONICAL, add_header),
    done_to(Code.UNSIGNED, unsign),
    done_to(Code.MISNAMED, replay),
    made_so(Code.OTHER_APP, app=App("blog")),
    made_so(Code.UNKNOWN_TRUST, trust=Cited(Entry(99), NOWHERE)),
    done_to(Code.BAD_SIGNATURE, forge),
    made_so(Code.NO_ROLE, by=BOB),
    going_back,
    done_to(Code.FORK, fork),
    done_to(Code.GAP, remove_ref),
    made_so(Code.BROKEN_LINK, previous=NOWHERE),
    bad_build,
    bad_config,
    made_so(Code.BAD_TREE, files={"more": b"than there may be"}),
    made_so(Code.BAD_CONTENT, tree_sha256=Sha256("3" * 64)),
    lost_file,
    unnamed,
    backdated,
    made_so(Code.ORIGIN_DIFFERS, rollback_to=Entry(3)),
    made_so(Code.SUPERSEDED_SIGNER, by=CAROL),
    done_to(Code.REPUDIATED, leave),
)


def history(plant: Planter | None) -> Simulator:
    """A team's thousand releases; with a planter every twenty-fifth from v300 on is a fault."""
    faults = {300 + 25 * index: fault for index, fault in enumerate(FAULTS)}
    sim = Simulator()
    sim.trust(rules())
    config = sim.config()
    builds = []
    for number in range(1, RELEASES + 1):
        if number % 250 == 0:
            sim.trust(rules())
        if number % 10 == 0:
            config = sim.config({"LOG_LEVEL": b"%d" % number})
        if plant is not None and number in faults:
            faults[number](plant, sim)
            continue
        builds.append(sim.build({**FILES, "version": b"%d" % number}))
        sim.release(builds[-1], config)
    return sim


def _relink(sim: Simulator, made: Signed[ReleaseRecord]) -> None:
    """The next release is built on what lies under the ref now."""
    raw = sim.read(sim.refs[str(made.record.ref)], "commit")
    sim.releases[PRODUCTION][-1] = replace(made, raw=raw, id=RecordId.of("commit", raw, sim.fmt))


def other_faults(sim: Simulator, plant: Planter) -> None:
    """Outside of production's releases; then the last change of trust, and one that is broken."""
    pending = sim.release(deploy=STAGING)
    plant.expect(pending.record.ref, Code.PENDING)
    sim.release(deploy=PREVIEW)
    plant.expect("refs/releases/preview", Code.UNLISTED_DEPLOY)

    lost = sim.configs[Deploy("staging")] = []
    first = sim.config(deploy=STAGING)
    second = sim.config(deploy=STAGING, by=BOB)
    plant.expect(second.record.ref, Code.NO_ROLE)
    third = sim.config({"BROKEN": b"\xff"}, deploy=STAGING)
    plant.expect(third.record.ref, Code.BAD_CONFIG)
    sim.config(deploy=STAGING, previous=first.id)
    plant.expect(lost[-1].record.ref, Code.BROKEN_LINK)

    stranger = sim.build({**FILES, "by": b"a stranger"}, by=ed25519_key("mallory"))
    plant.expect(BuildRef(stranger.id.oid), Code.FOREIGN_BUILD)
    damaged = sim.build({**FILES, "damaged": b"these bytes change"})
    oid = sim.fmt.object_id("blob", b"these bytes change")
    plant.lose(oid)
    plant.loose[f"objects/{oid[:2]}/{oid[2:]}"] = b"not deflated"
    plant.expect(BuildRef(damaged.id.oid), Code.DAMAGED_OBJECT)

    approved = sim.releases[PRODUCTION][10]
    for ref, over in ((None, {"key": KeyId("4" * 64)}), (None, {"app": App("blog")})):
        before = set(sim.refs)
        sim.approve(approved, BOB, ref=ref, **over)
        (name,) = set(sim.refs) - before
        plant.expect(name, Code.VOID_APPROVAL)
    sim.refs[f"refs/approvals/{'5' * 40}/{KeyId.of(BOB.blob)}"] = ObjectId("6" * 40)
    plant.expect(f"refs/approvals/{'5' * 40}/{KeyId.of(BOB.blob)}", Code.MISSING_OBJECT)

    for name in ("refs/releases/latest", "refs/releases/v06", "refs/releases/Staging/v1", "refs/trust/v1/x"):
        sim.refs[name] = approved.id.oid
        plant.expect(name, Code.STRAY_REF)
    plant.loose["refs/releases/v6.lock"] = b""
    plant.expect("refs/releases/v6.lock", Code.STRAY_REF)
    sim.refs[f"refs/replace/{approved.id.oid}"] = pending.id.oid
    plant.expect(f"refs/replace/{approved.id.oid}", Code.REPLACED)
    plant.loose["shallow"] = f"{approved.id.oid}\n".encode()
    plant.expect("shallow", Code.SHALLOW)
    plant.loose["info/grafts"] = f"{approved.id.oid}\n".encode()
    plant.expect("info/grafts", Code.GRAFTED)
    plant.loose["objects/info/alternates"] = b"/nowhere\n"
    plant.expect("objects/info/alternates", Code.BORROWED)

    repudiated = next(
        Entry(int(ref[len("refs/releases/v") :])) for ref, code in plant.expected.items() if code is Code.REPUDIATED
    )
    head = CitedRelease(Deploy("vanished"), Entry(4), NOWHERE)
    heads = [CitedRelease(deploy, all_[-1].record.entry, all_[-1].id) for deploy, all_ in sorted(sim.releases.items())]
    plant.expect("refs/releases/vanished/v4", Code.HEAD_MISSING)
    sim.trust(rules(carol=False, repudiated={PRODUCTION: (repudiated,)}), heads=(*heads, head))
    plant.expect("refs/releases/vanished", Code.UNLISTED_DEPLOY)
    sim.trust(rules(carol=False), previous=NOWHERE, heads=(*heads, head))
    plant.expect(sim.trusts[-1].record.ref, Code.TRUST_BROKEN)


def write(sim: Simulator, plant: Planter, path: Path) -> Path:
    write_repository(sim, path, without=tuple(plant.without))
    for name, data in plant.loose.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(data)
    (path / "refs/builds").mkdir(exist_ok=True)
    (path / "refs/builds/elsewhere").symlink_to("/")
    plant.expect("refs/builds/elsewhere", Code.LINKED_REFS)
    return path


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Simulator, Planter, Path]:
    plant = Planter()
    sim = history(plant)
    other_faults(sim, plant)
    return sim, plant, write(sim, plant, tmp_path_factory.mktemp("planted") / "shop.git")


def test_exactly_the_planted_faults_are_found(planted: tuple[Simulator, Planter, Path]) -> None:
    sim, plant, path = planted
    result = audit(path, sim)
    said = sorted((finding.ref, finding.code.value) for finding in result.findings)
    assert said == sorted((ref, code.value) for ref, code in plant.expected.items())
    assert len(said) > 40
    assert len(result.deploys[0].releases) == RELEASES - 2, "a report for each that has a readable ref"


def test_nearly_every_code_is_planted(planted: tuple[Simulator, Planter, Path]) -> None:
    """The others are about the whole repository, and have tests of their own."""
    whole = {Code.NO_TRUST, Code.WRONG_PIN, Code.HISTORY_CUT, Code.HISTORY_REWRITTEN, Code.HOSTS_DIFFER}
    whole |= {Code.HOST_BEHIND, Code.CONTENTS_ABSENT, Code.LEDGER_ONLY, Code.SPLIT_VIEW, Code.WITHHELD}
    assert set(Code) - set(planted[1].expected.values()) == whole


def test_a_thousand_honest_releases_give_nothing(tmp_path: Path) -> None:
    sim = history(None)
    result = audit(write_repository(sim, tmp_path / "shop.git"), sim)
    assert (result.findings, result.unchecked) == ((), ())


def test_every_object_is_read_a_few_times_however_long_the_ledger(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One pass: the reads grow as the ledger does. Reads from the bounded memory of small objects are not counted."""
    reads: list[ObjectId] = []
    read = AuditedObjects._read

    def counted(self: AuditedObjects, oid: ObjectId) -> tuple[Kind, bytes]:
        reads.append(oid)
        return read(self, oid)

    monkeypatch.setattr(AuditedObjects, "_read", counted)
    per_release = []
    for count in (100, 400):
        sim = shop(count)
        reads.clear()
        assert audit(write_repository(sim, tmp_path / f"{count}"), sim).findings == ()
        per_release.append(len(reads) / count)
    assert per_release[1] < per_release[0] * 1.1
    assert per_release[1] < 20
