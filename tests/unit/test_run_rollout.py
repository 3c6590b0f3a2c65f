"""Which formation runs: every pair of phase and event, the stories, and what holds in any order of events."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from gitrel.run.formation import Formation, Process
from gitrel.run.rollout import TABLE, step
from gitrel.run.rollout_state import (
    EVENTS,
    Action,
    Attempt,
    Close,
    Event,
    Failed,
    Gone,
    KillAll,
    MarkFailed,
    MarkGood,
    MarkPrepared,
    Member,
    Phase,
    Ready,
    Rollout,
    Start,
    Stop,
    Wanted,
)

HTTP = ("127.0.0.1", 8000)


def process(kind: str, index: int = 1, *, listen: bool = False) -> Process:
    return Process(
        type=kind, index=index, command="true", env={}, cwd=Path("/"), port=0, health=None, settle=1.0,
        stop_timeout=1.0, listen=HTTP if listen else None, limit=60.0 if kind == "release" else None,
    )  # fmt: skip


def formation(release: str, *names: str, before: bool = False) -> Formation:
    """`web*` is a process type with a socket, `worker=2` two of a type."""
    processes = []
    for name in names:
        kind, _, number = name.partition("=")
        processes += [process(kind.strip("*"), at + 1, listen="*" in kind) for at in range(int(number or 1))]
    return Formation(release=release, processes=tuple(processes), before=process("release") if before else None)


V1, V2, V3 = (formation(release, "web", "worker") for release in ("v1", "v2", "v3"))
S1, S2, S3 = (formation(release, "web*", "worker") for release in ("v1", "v2", "v3"))
P2 = formation("v2", "web*", "worker", before=True)


def run(rollout: Rollout, *events: Event) -> tuple[Rollout, list[Action]]:
    done: list[Action] = []
    for event in events:
        rollout, actions = step(rollout, event)
        done += actions
    return rollout, done


def told(kind: type[Ready] | type[Gone], members: Iterable[Member]) -> list[Event]:
    return [kind(member) for member in sorted(members)]


def ready(rollout: Rollout) -> tuple[Rollout, list[Action]]:
    """All that is started becomes healthy."""
    waiting = rollout.running.members(rollout.running.waiting) | rollout.next.members(rollout.next.waiting)
    return run(rollout, *told(Ready, waiting))


def gone(rollout: Rollout) -> tuple[Rollout, list[Action]]:
    """All that was told to stop is gone."""
    members = rollout.leaving | (rollout.running.members() if rollout.phase is Phase.SWITCHING else frozenset())
    return run(rollout, *told(Gone, members))


def steady(wanted: Formation) -> Rollout:
    return ready(step(Rollout(), Wanted(wanted))[0])[0]


def kinds(actions: Iterable[Action]) -> list[str]:
    return [type(action).__name__ for action in actions if type(action).__name__ != "Say"]


def started(actions: Iterable[Action]) -> list[str]:
    return sorted(
        f"{action.formation.release} {member.name}"
        for action in actions
        if isinstance(action, Start)
        for member in action.members
    )


STATES: dict[Phase, Rollout] = {
    Phase.EMPTY: Rollout(),
    Phase.PREPARING: step(steady(S1), Wanted(P2))[0],
    Phase.JOINING: step(steady(S1), Wanted(S2))[0],
    Phase.SWITCHING: step(steady(V1), Wanted(V2))[0],
    Phase.TRYING: gone(step(steady(V1), Wanted(V2))[0])[0],
    Phase.STEADY: steady(V1),
    Phase.CLOSING: step(steady(V1), Close())[0],
    Phase.CLOSED: step(Rollout(), Close())[0],
}
# What is told: a newer release, and of what is under way or runs one member that matters.
ABOUT: dict[Phase, Member] = {
    Phase.PREPARING: Member(2, "release.1"),
    Phase.JOINING: Member(2, "web.1"),
    Phase.TRYING: Member(2, "web.1"),
}
# The phase after it, and the actions other than Say; `.` nothing at all changes.
EXPECTED: dict[Phase, tuple[str, ...]] = {
    # Wanted, Ready, Failed, Gone, Close
    Phase.EMPTY: ("trying Start", ".", ".", ".", "closed"),
    Phase.PREPARING: (
        "preparing", "joining MarkPrepared Start", "steady MarkFailed Stop", "preparing", "closing Stop",
    ),
    Phase.JOINING: ("joining Stop Start", "switching Stop", "steady MarkFailed Stop", "joining", "closing Stop"),
    Phase.SWITCHING: ("switching", ".", ".", "switching", "closing Stop"),
    Phase.TRYING: ("switching Stop", "trying", "switching MarkFailed Stop", "trying", "closing Stop"),
    Phase.STEADY: ("switching Stop", ".", ".", "steady", "closing Stop"),
    Phase.CLOSING: (".", ".", ".", "closing", "closing KillAll"),
    Phase.CLOSED: (".", ".", ".", ".", "."),
}  # fmt: skip


def test_the_expectations_cover_every_phase_and_every_event() -> None:
    assert set(EXPECTED) == set(TABLE) == set(STATES) == set(Phase)
    assert {len(row) for row in TABLE.values()} == {len(row) for row in EXPECTED.values()} == {len(EVENTS)}
    assert all(state.phase is phase for phase, state in STATES.items())


@pytest.mark.parametrize("phase", Phase)
@pytest.mark.parametrize("kind", EVENTS)
def test_pair(phase: Phase, kind: type[Event]) -> None:
    expected = EXPECTED[phase][EVENTS.index(kind)]
    member = ABOUT.get(phase, Member(1, "web.1"))
    newest = S3 if phase in (Phase.PREPARING, Phase.JOINING) else V3
    events: dict[type[Event], Event] = {
        Wanted: Wanted(newest),
        Ready: Ready(member),
        Failed: Failed(member, "exit code 1"),
        Gone: Gone(member),
        Close: Close(),
    }
    after, actions = step(STATES[phase], events[kind])
    if expected == ".":
        assert (after, actions) == (STATES[phase], ())
    else:
        assert [after.phase.value, *kinds(actions)] == expected.split()


def test_first_start_becomes_good_when_all_are_healthy() -> None:
    first, actions = run(Rollout(), Wanted(V1))
    assert started(actions) == ["v1 web.1", "v1 worker.1"]
    after, more = ready(first)
    assert (after.phase, after.good, more) == (Phase.STEADY, V1, [MarkGood(V1)])


def test_without_a_socket_the_old_is_gone_before_the_new_begins() -> None:
    after, actions = run(steady(V1), Wanted(V2), Gone(Member(1, "web.1")))
    assert kinds(actions) == ["Stop"]
    after, actions = run(after, Gone(Member(1, "worker.1")))
    assert started(actions) == ["v2 web.1", "v2 worker.1"]
    assert after.good == V1


def test_with_a_socket_the_new_is_healthy_before_the_old_is_stopped() -> None:
    joining, actions = run(steady(S1), Wanted(S2))
    assert started(actions) == ["v2 web.1"]
    switching, actions = run(joining, Ready(Member(2, "web.1")))
    assert actions == [Stop(frozenset({Member(1, "web.1"), Member(1, "worker.1")}))]
    trying, actions = gone(switching)
    assert started(actions) == ["v2 worker.1"]
    after, actions = ready(trying)
    assert (after.phase, actions) == (Phase.STEADY, [MarkGood(S2)])


def test_a_socket_that_nobody_has_yet_is_no_reason_to_start_early() -> None:
    assert kinds(step(steady(V1), Wanted(S2))[1]) == ["Stop"]


def test_what_fails_while_it_joins_never_disturbs_what_runs() -> None:
    joining, _ = step(steady(S1), Wanted(S2))
    after, actions = run(joining, Failed(Member(2, "web.1"), "exit code 1"))
    assert (after.phase, after.running.formation) == (Phase.STEADY, S1)
    assert actions[:2] == [MarkFailed(S2, "web.1: exit code 1"), Stop(frozenset({Member(2, "web.1")}))]
    assert step(after, Wanted(S2))[1] == ()


def test_the_way_back_joins_too() -> None:
    trying, _ = gone(ready(step(steady(S1), Wanted(S2))[0])[0])
    back, actions = run(trying, Failed(Member(2, "worker.1"), "exit code 1"))
    assert (back.phase, started(actions)) == (Phase.JOINING, ["v1 web.1"])
    after, actions = gone(ready(back)[0])
    assert (after.phase, started(actions)) == (Phase.TRYING, ["v1 worker.1"])
    assert ready(after)[0].phase is Phase.STEADY


def test_a_way_back_that_cannot_join_is_gone_without_joining() -> None:
    trying, _ = gone(ready(step(steady(S1), Wanted(S2))[0])[0])
    back, _ = run(trying, Failed(Member(2, "worker.1"), "exit code 1"))
    after, actions = run(back, Failed(Member(3, "web.1"), "exit code 1"))
    assert (after.phase, kinds(actions)) == (Phase.SWITCHING, ["Stop"])
    after, _ = gone(after)
    assert (after.phase, after.running.waiting) == (Phase.TRYING, frozenset({"web.1", "worker.1"}))


def test_a_release_phase_runs_once_and_first() -> None:
    first, actions = run(Rollout(), Wanted(P2))
    assert started(actions) == ["v2 release.1"]
    after, actions = run(first, Gone(Member(1, "release.1")), Ready(Member(1, "release.1")))
    assert (kinds(actions), started(actions)) == (["MarkPrepared", "Start"], ["v2 web.1", "v2 worker.1"])
    assert after.running.formation.before is None


def test_a_failed_release_phase_means_no_switch() -> None:
    after, actions = run(
        STATES[Phase.PREPARING], Gone(Member(2, "release.1")), Failed(Member(2, "release.1"), "exit code 3")
    )
    assert (after.phase, after.running.formation, kinds(actions)) == (Phase.STEADY, S1, ["MarkFailed"])


def test_a_failed_release_phase_with_nothing_to_go_back_to_leaves_nothing_running() -> None:
    failed = Gone(Member(1, "release.1")), Failed(Member(1, "release.1"), "exit code 3")
    after, _ = run(Rollout(), Wanted(P2), *failed)
    assert (after.phase, after.trouble) == (Phase.EMPTY, "v2: release.1: exit code 3")
    assert after.alive == frozenset()
    assert started(step(after, Wanted(V3))[1]) == ["v3 web.1", "v3 worker.1"]


def test_a_failed_release_phase_at_the_start_goes_back_to_the_good_one() -> None:
    failed = Gone(Member(1, "release.1")), Failed(Member(1, "release.1"), "exit code 3")
    after, actions = run(Rollout(good=V1), Wanted(P2), *failed)
    assert (after.phase, after.running.formation) == (Phase.TRYING, V1)
    assert started(actions) == ["v1 web.1", "v1 worker.1", "v2 release.1"]


def test_a_release_phase_is_not_cut_short_for_a_newer_release() -> None:
    waiting, actions = run(STATES[Phase.PREPARING], Wanted(S3))
    assert kinds(actions) == []
    after, actions = run(waiting, Gone(Member(2, "release.1")), Ready(Member(2, "release.1")))
    assert (started(actions), after.next.release) == (["v3 web.1"], "v3")


def test_a_candidate_that_fails_is_stopped_marked_and_the_good_one_started_again() -> None:
    failing, actions = run(
        STATES[Phase.TRYING], Ready(Member(2, "worker.1")), Failed(Member(2, "web.1"), "exit code 1")
    )
    assert MarkFailed(V2, "web.1: exit code 1") in actions
    after, actions = gone(failing)
    assert started(actions) == ["v1 web.1", "v1 worker.1"]
    after, actions = ready(after)
    assert (after.phase, after.running.formation, after.failed) == (Phase.STEADY, V1, frozenset({"v2"}))
    assert step(after, Wanted(V2)) == (after, ())


def test_a_crash_after_health_fails_a_candidate_that_is_not_healthy_as_a_whole() -> None:
    _, actions = run(STATES[Phase.TRYING], Ready(Member(2, "web.1")), Failed(Member(2, "web.1"), "exit code 1"))
    assert kinds(actions) == ["MarkFailed", "Stop"]


def test_without_a_good_one_the_first_keeps_being_restarted_and_says_so() -> None:
    failed = Failed(Member(1, "web.1"), "exit code 1")
    trying, actions = run(Rollout(), Wanted(V1), failed)
    assert (trying.phase, trying.trouble) == (Phase.TRYING, "web.1: exit code 1")
    assert "restarted until it is" in str(actions[-1])
    again, actions = run(trying, failed)
    assert (again, actions) == (trying, [])
    after, actions = ready(again)
    assert (after.phase, after.trouble, actions) == (Phase.STEADY, "", [MarkGood(V1)])


def test_a_healthy_process_that_crashes_has_to_become_healthy_again() -> None:
    web, worker = Member(1, "web.1"), Member(1, "worker.1")
    after, _ = run(Rollout(), Wanted(V1), Ready(web), Failed(web, "exit code 1"), Ready(worker))
    assert (after.phase, after.running.waiting) == (Phase.TRYING, frozenset({"web.1"}))


def test_the_good_one_itself_is_not_given_up() -> None:
    after, actions = run(Rollout(good=V1), Wanted(V1), Failed(Member(1, "web.1"), "exit code 1"))
    assert (after.phase, after.failed, kinds(actions)) == (Phase.TRYING, frozenset(), ["Start"])


def test_a_later_release_follows_instead_of_the_one_that_waits() -> None:
    after, actions = gone(step(STATES[Phase.SWITCHING], Wanted(V3))[0])
    assert (after.running.formation, started(actions)) == (V3, ["v3 web.1", "v3 worker.1"])


def test_a_formation_without_processes_is_good_at_once_and_gone_at_once() -> None:
    nothing = formation("v9")
    after, actions = run(Rollout(), Wanted(nothing))
    assert (after.phase, kinds(actions)) == (Phase.STEADY, ["MarkGood"])
    assert step(after, Wanted(V1))[0].phase is Phase.TRYING
    assert step(after, Close())[0].phase is Phase.CLOSED


def test_another_scale_starts_and_stops_the_difference() -> None:
    more = formation("v1", "web", "worker=3")
    after, actions = run(steady(V1), Wanted(more))
    assert (after.phase, started(actions)) == (Phase.STEADY, ["v1 worker.2", "v1 worker.3"])
    fewer, actions = run(after, Wanted(V1))
    assert [action for action in actions if isinstance(action, Stop)] == [
        Stop(frozenset({Member(1, "worker.2"), Member(1, "worker.3")}))
    ]
    again, actions = run(fewer, Wanted(more))
    assert started(actions) == []  # there is one of a name at a time
    after, actions = run(again, Gone(Member(1, "worker.2")), Gone(Member(1, "worker.3")))
    assert started(actions) == ["v1 worker.2", "v1 worker.3"]


KINDS = ("web*", "worker", "clock=2")


class Rolling(RuleBasedStateMachine):
    """Processes that become healthy, crash and end whenever they please, and releases at any time."""

    @initialize(good=st.sampled_from([None, V1, S1]))
    def begin(self, good: Formation | None) -> None:
        self.rollout = Rollout(good=good)
        self.alive: dict[Member, Process] = {}
        self.stopping: set[Member] = set()
        self.failed: set[str] = set()
        self.prepared: set[str] = set()
        self.closed = False

    def tell(self, event: Event) -> None:
        self.rollout, actions = step(self.rollout, event)
        for action in actions:
            self.do(action)

    def do(self, action: Action) -> None:
        match action:
            case Start(of, members):
                assert members
                for member in sorted(members):
                    self.start(of, member)
            case Stop(members):
                assert members <= set(self.alive)
                self.stopping |= members
            case KillAll():
                assert self.closed
            case MarkPrepared(done):
                assert done.release not in self.prepared
                self.prepared.add(done.release)
            case MarkGood(good):
                mine = {member.name for member in self.alive if member.attempt == self.rollout.running.number}
                assert good.names <= mine
                assert good.release == self.rollout.running.release
            case MarkFailed(failed, _):
                assert failed.release not in self.failed
                self.failed.add(failed.release)

    def start(self, of: Formation, member: Member) -> None:
        assert not self.closed
        assert of.release not in self.failed
        assert member not in self.alive
        process = of.find(member.name)
        if process.limit is None:
            assert of.before is None or of.release in self.prepared
            others = [each for each in self.alive if each.name == member.name]
            assert process.listen is not None or not others, "two of one name, and no socket that they share"
        else:
            assert not any(each.limit for each in self.alive.values()), "two release phases at once"
        self.alive[member] = process

    @rule(
        number=st.integers(1, 6),
        kinds=st.sets(st.sampled_from(KINDS)),
        before=st.booleans(),
    )
    def want(self, number: int, kinds: set[str], before: bool) -> None:
        release = f"v{number}"
        prepared = release in self.prepared
        self.tell(Wanted(formation(release, *sorted(kinds), before=before and not prepared)))

    @precondition(lambda self: self.alive)
    @rule(data=st.data(), healthy=st.booleans())
    def process_says(self, data: st.DataObject, healthy: bool) -> None:
        member = data.draw(st.sampled_from(sorted(self.alive)))
        if self.alive[member].limit is not None:
            self.end(member)
        self.tell(Ready(member) if healthy else Failed(member, "exit code 1"))

    @precondition(lambda self: self.stopping)
    @rule(data=st.data())
    def process_ends(self, data: st.DataObject) -> None:
        self.end(data.draw(st.sampled_from(sorted(self.stopping))))

    def end(self, member: Member) -> None:
        del self.alive[member]
        self.stopping.discard(member)
        self.tell(Gone(member))

    @precondition(lambda self: self.rollout.phase not in (Phase.CLOSING, Phase.CLOSED))
    @rule()
    def everything_works(self) -> None:
        """From wherever it is: what is healthy and what ends when told to leads to a settled state."""
        for _ in range(100):
            if self.stopping:
                self.end(min(self.stopping))
            elif self.rollout.phase in (Phase.STEADY, Phase.EMPTY):
                break
            else:
                attempts = (self.rollout.next, self.rollout.running)
                member = min(member for each in attempts for member in each.members(each.waiting))
                if self.alive[member].limit is not None:
                    self.end(member)
                self.tell(Ready(member))
        assert self.rollout.phase in (Phase.STEADY, Phase.EMPTY)
        assert self.rollout.later is None
        assert set(self.alive) == self.rollout.running.members()

    @rule()
    def close(self) -> None:
        self.closed = True
        self.tell(Close())

    @invariant()
    def it_knows_what_is_alive(self) -> None:
        assert self.rollout.alive == set(self.alive)
        assert self.rollout.next == Attempt() or self.rollout.phase not in (Phase.STEADY, Phase.TRYING, Phase.EMPTY)

    def teardown(self) -> None:
        """Told to close, and with processes that end, it is closed."""
        if not hasattr(self, "rollout"):
            return
        self.close()
        for member in sorted(self.alive):
            self.end(member)
        assert self.rollout.phase is Phase.CLOSED


TestRolling = Rolling.TestCase
TestRolling.settings = settings(max_examples=200, stateful_step_count=40, deadline=None)
