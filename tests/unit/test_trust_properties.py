"""Properties: whatever honest people do in whatever order verifies; whatever is changed in it is refused.

`Team` is a model of people who follow the rules: it knows who holds a role, and does only what they may.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from keys_support import Key, ed25519_key
from simulator import FILES, Simulator, commit_with, find_builds, ledger_ref, policy, role

from gitrel.errors import Refused
from gitrel.format.record import BuildRecord, ConfigRecord, ReleaseRecord, Signed
from gitrel.format.trust import TrustPolicy
from gitrel.ids import PRODUCTION, App, ApprovalRef, Deploy, Entry, KeyId, RecordId, Sha256

NAMES = ("alice", "bob", "carol")
STAGING = Deploy("staging")


@dataclass
class Team:
    """Honest people, whose keys and roles change. `keys` are the ones in force, by number of rotations."""

    sim: Simulator = field(default_factory=Simulator)
    turns: dict[str, int] = field(default_factory=lambda: dict.fromkeys(NAMES, 0))
    threshold: int = 1
    members: tuple[str, ...] = NAMES
    builder: str = "ci"
    builds: list[Signed[BuildRecord]] = field(default_factory=list)
    configs: list[Signed[ConfigRecord]] = field(default_factory=list)

    def key(self, name: str) -> Key:
        return ed25519_key(f"{name}-{self.turns.get(name, 0)}")

    def policy(self) -> TrustPolicy:
        people = {name: (self.key(name),) for name in self.members}
        people[self.builder] = (ed25519_key(self.builder),)
        some = role(*self.members, threshold=self.threshold)
        return policy(
            people,
            root=some,
            release=some,
            config=role(*self.members),
            build=role(self.builder),
        )

    def start(self) -> Team:
        self.sim.trust(self.policy(), by=self.key("alice"))
        return self

    def change_trust(self, change: Callable[[], None]) -> None:
        """Everybody of the old and of the new team signs."""
        before = [self.key(name) for name in self.members]
        change()
        after = [self.key(name) for name in self.members]
        self.sim.trust(self.policy(), by=before[0], approved_by=dict.fromkeys([*before[1:], *after]))

    def rotate(self, name: str) -> None:
        def change() -> None:
            self.turns[name] += 1

        if name in self.members:
            self.change_trust(change)

    def leave_or_join(self, name: str) -> None:
        def change() -> None:
            left = tuple(each for each in NAMES if (each in self.members) != (each == name))
            self.members = left or self.members
            self.threshold = min(self.threshold, len(self.members))

        self.change_trust(change)

    def set_threshold(self, number: int) -> None:
        def change() -> None:
            self.threshold = min(number, len(self.members))

        self.change_trust(change)

    def new_builder(self) -> None:
        def change() -> None:
            self.builder += "i"

        self.change_trust(change)

    def configure(self, number: int) -> None:
        self.configs.append(self.sim.config({"N": b"%d" % number}, by=self.key(self.members[0])))

    def release(self, by: int, deploy: Deploy = PRODUCTION) -> None:
        build = self.sim.build({**FILES, "n": b"%d" % len(self.builds)}, by=ed25519_key(self.builder))
        self.builds.append(build)
        self._release(build, by, deploy)

    def rollback(self, to: int, by: int) -> None:
        """With the build of an earlier good release, whoever made it."""
        good = [each.release for each in self.sim.verdicts() if each.release is not None]
        if good:
            before = good[to % len(good)]
            self._release(before.build, by, PRODUCTION, rollback_to=before.entry)

    def _release(self, build: Signed[BuildRecord], by: int, deploy: Deploy, **over: Any) -> None:
        people = [self.key(name) for name in self.members]
        people = people[by % len(people) :] + people[: by % len(people)]
        self.sim.release(build, by=people[0], approved_by=people[1 : self.threshold], deploy=deploy, **over)


numbers = st.integers(0, 20)
people = st.sampled_from(NAMES)
Step = Callable[[Team], None]
steps: st.SearchStrategy[Step] = st.one_of(
    st.builds(lambda by: lambda team: team.release(by), numbers),
    st.builds(lambda by: lambda team: team.release(by), numbers),
    st.builds(lambda by: lambda team: team.release(by, STAGING), numbers),
    st.builds(lambda to, by: lambda team: team.rollback(to, by), numbers, numbers),
    st.builds(lambda name: lambda team: team.rotate(name), people),
    st.builds(lambda name: lambda team: team.leave_or_join(name), people),
    st.builds(lambda number: lambda team: team.set_threshold(number), st.integers(1, 3)),
    st.just(lambda team: team.new_builder()),
    st.builds(lambda number: lambda team: team.configure(number), numbers),
)


def histories(size: int) -> st.SearchStrategy[Team]:
    def play(todo: list[Step]) -> Team:
        team = Team().start()
        for step in todo:
            step(team)
        return team

    return st.lists(steps, min_size=1, max_size=size).map(play)


@settings(max_examples=120, deadline=None)
@given(histories(14), numbers)
def test_what_honest_people_do_verifies(team: Team, seen: int) -> None:
    sim = team.sim
    for deploy, made in sim.releases.items():
        assert sim.outcome(deploy) == [0] * len(made)
        if made:
            at = seen % len(made) + 1
            shared = {record.record.build for record in made[:at]}
            assert sim.outcome(
                deploy, anchor=sim.anchor(at, deploy), released_before=lambda part, known=shared: part in known
            ) == [0] * (len(made) - at)
    assert {build.id for build in find_builds(sim.refs, sim, sim.chain())} <= {build.id for build in team.builds}


@settings(max_examples=60, deadline=None)
@given(histories(10), numbers, numbers)
def test_a_key_that_is_gone_signs_nothing_new(team: Team, which: int, date: int) -> None:
    """Citing any trust, with any date, by any key that was ever trusted and is not now."""
    sim = team.sim
    now = {key.id for keys in team.policy().people.values() for key in keys}
    gone = [ed25519_key(f"{name}-{turn}") for name in NAMES for turn in range(team.turns[name] + 1)]
    gone = [key for key in gone if policy({"x": (key,)}).people["x"][0].id not in now]  # type: ignore[index]
    build = sim.build(by=ed25519_key(team.builder))
    sim.trust(team.policy(), by=team.key(team.members[0]), approved_by=[team.key(name) for name in team.members])
    for key in gone:
        for cited in sim.trusts:
            attack = sim.fork()
            citation = replace(attack.cited, entry=cited.record.entry, id=cited.id)
            everybody = [ed25519_key(f"{name}-{turn}") for name in NAMES for turn in range(team.turns[name] + 1)]
            attack.release(
                build,
                by=key,
                approved_by=everybody,
                trust=citation,
                stamp=replace(attack.stamp, time=date * 100_000_000),
            )
            assert attack.outcome()[-1] in (5, 7)


# one thing is changed


def tampered(record: ReleaseRecord, data: st.DataObject, team: Team) -> ReleaseRecord:
    """One field says something else."""
    other = RecordId(team.sim.trusts[0].id.oid, Sha256("9" * 64))
    digest = Sha256("a" * 64)
    fields: dict[str, Any] = {
        "app": App("other"),
        "deploy": STAGING if record.deploy == PRODUCTION else PRODUCTION,
        "entry": Entry(record.entry + data.draw(st.integers(1, 3))),
        "previous": other if record.entry > 1 else None,
        "build": data.draw(st.sampled_from([other, replace(record.build, sha256=digest)])),
        "trust": data.draw(st.sampled_from([replace(record.trust, id=other), replace(record.trust, entry=Entry(99))])),
        "tree_sha256": digest,
        "subject": "Another",
        "text": "more",
        "rollback_to": Entry(1) if record.rollback_to != 1 else None,
    }
    if record.entry == 1:
        del fields["previous"], fields["entry"]
    name = data.draw(st.sampled_from(sorted(fields)))
    return replace(record, **{name: fields[name]})


@settings(max_examples=150, deadline=None)
@given(histories(8), st.data())
def test_one_field_changed_without_the_key(team: Team, data: st.DataObject) -> None:
    """The signature is the old one."""
    sim = team.sim
    team.release(0)
    at = data.draw(st.integers(0, len(sim.releases[PRODUCTION]) - 1))
    good = sim.releases[PRODUCTION][at]
    changed = tampered(good.record, data, team)
    unsigned = sim.sign(changed, good.tree, ed25519_key("nobody"))
    sim.publish(ledger_ref(at + 1), commit_with(unsigned.payload, good.signature))
    assert [*sim.outcome(), 1][at] != 0


@settings(max_examples=150, deadline=None)
@given(histories(8), st.data())
def test_one_field_changed_by_somebody_else(team: Team, data: st.DataObject) -> None:
    """Signed anew, by a key that is nobody's."""
    sim = team.sim
    team.release(0)
    at = data.draw(st.integers(0, len(sim.releases[PRODUCTION]) - 1))
    good = sim.releases[PRODUCTION][at]
    record = tampered(good.record, data, team)
    made = sim.sign(record, good.tree, ed25519_key("mallory"))
    sim.publish(ledger_ref(at + 1), made.raw)
    assert [*sim.outcome(), 1][at] != 0


@settings(max_examples=150, deadline=None)
@given(histories(8), st.data())
def test_refs_moved_about(team: Team, data: st.DataObject) -> None:
    """Exchanged, replayed under another number, in another deploy, taken from another app: never a verdict of good
    for a record that is not the honest one of that name."""
    sim = team.sim
    team.release(0)
    team.release(0, STAGING)
    other = Team(sim=Simulator(stamp=replace(sim.stamp, time=9))).start()
    for _ in range(3):
        other.release(0)
    sim.objects.update({oid: found for oid, found in other.sim.objects.items() if oid not in sim.objects})
    honest = {(deploy, made.record.entry): made.id for deploy, all_ in sim.releases.items() for made in all_}
    names = [str(ledger_ref(at, deploy)) for deploy, at in honest] + [str(ledger_ref(50)), str(ledger_ref(9, STAGING))]
    oids = [made.oid for made in honest.values()] + [made.id.oid for made in other.sim.releases[PRODUCTION]]
    moved = data.draw(st.sampled_from(names)), data.draw(st.sampled_from(oids))
    before = sim.refs.get(moved[0])
    sim.refs[moved[0]] = moved[1]
    for deploy in (PRODUCTION, STAGING):
        try:
            verdicts = sim.verdicts(deploy)
        except Refused as refusal:
            assert before != moved[1], refusal
            continue
        for verdict in verdicts:
            if verdict.release is not None:
                assert honest[deploy, verdict.entry] == verdict.id
        if before == moved[1]:
            assert all(verdict.release is not None for verdict in verdicts)


@settings(max_examples=100, deadline=None)
@given(histories(8), st.data())
def test_approvals_never_take_anything_away(team: Team, data: st.DataObject) -> None:
    """Any tag, by anybody, on anything: what was good stays good, and what turns good was pending."""
    sim = team.sim
    team.release(0)
    before = sim.outcome()
    records: list[Signed[Any]] = [*sim.trusts, *sim.releases[PRODUCTION], *team.builds, *team.configs]
    keys = [team.key(name) for name in NAMES] + [ed25519_key("mallory"), ed25519_key(team.builder)]
    for _ in range(3):
        record, key = data.draw(st.sampled_from(records)), data.draw(st.sampled_from(keys))
        cut = data.draw(st.integers(0, 50))
        if str(ApprovalRef(record.id.oid, KeyId.of(key.blob))) not in sim.refs:  # refs are made once
            sim.approve(record, key, change=lambda raw, cut=cut: raw[: len(raw) - cut])
    assert all(now in (0, was) for was, now in zip(before, sim.outcome(), strict=True))


@settings(max_examples=100, deadline=None)
@given(histories(8), st.data())
def test_the_trust_ledger_tampered_with(team: Team, data: st.DataObject) -> None:
    """A trust record replaced by one that a stranger, or one person of several, signed."""
    sim = team.sim
    team.set_threshold(2)
    team.release(0)
    at = data.draw(st.integers(0, len(sim.trusts) - 1))
    good = sim.trusts[at]
    key = data.draw(st.sampled_from([ed25519_key("mallory"), team.key("alice")]))
    subject = replace(good.record, subject="Mine")
    forged = sim.sign(subject, good.tree, key)
    sim.refs[f"refs/trust/v{at + 1}"] = forged.id.oid
    try:
        found = [verdict for verdict in sim.verdicts() if verdict.release is not None]
    except Refused:
        return
    # it pends, or alice alone was enough then; nothing that cites the honest one runs
    assert all(each.release is None or each.release.record.trust.entry <= at for each in found)
