"""Which formation runs: every pair of phase and event, the stories, and what holds in any order of events."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from gitrel.run.formation import Formation, Process
from gitrel.run.rollout import (
    EVENTS,
    TABLE,
    Action,
    Close,
    Event,
    Failed,
    Gone,
    KillAll,
    MarkFailed,
    MarkGood,
    Phase,
    Ready,
    Rollout,
    StartAll,
    StopAll,
    Wanted,
    step,
)


def formation(release: str, *types: str) -> Formation:
    processes = tuple(
        Process(
            type=name, index=1, command="true", env={}, cwd=Path("/"), port=0,
            health=None, settle=1.0, stop_timeout=1.0,
        )
        for name in types
    )  # fmt: skip
    return Formation(release=release, processes=processes)


V1, V2, V3 = (formation(release, "web", "worker") for release in ("v1", "v2", "v3"))
NAMES = V1.names
EXAMPLES: dict[type[Event], Event] = {
    Wanted: Wanted(V3),
    Ready: Ready("web.1"),
    Failed: Failed("web.1", "exit code 1"),
    Gone: Gone("web.1"),
    Close: Close(),
}
STATES: dict[Phase, Rollout] = {
    Phase.EMPTY: Rollout(),
    Phase.TRYING: Rollout(phase=Phase.TRYING, running=V2, good=V1, alive=NAMES, waiting=NAMES),
    Phase.STEADY: Rollout(phase=Phase.STEADY, running=V1, good=V1, alive=NAMES),
    Phase.SWITCHING: Rollout(phase=Phase.SWITCHING, running=V1, next=V2, good=V1, alive=NAMES),
    Phase.CLOSING: Rollout(phase=Phase.CLOSING, running=V1, good=V1, alive=NAMES),
    Phase.CLOSED: Rollout(phase=Phase.CLOSED, running=V1, good=V1),
}
# The phase after it, and the actions other than Say; `.` nothing at all changes.
EXPECTED: dict[Phase, tuple[str, ...]] = {
    #                Wanted               Ready    Failed                          Gone       Close
    Phase.EMPTY: ("trying StartAll", ".", ".", ".", "closed"),
    Phase.TRYING: ("switching StopAll", "trying", "switching MarkFailed StopAll", ".", "closing StopAll"),
    Phase.STEADY: ("switching StopAll", ".", ".", ".", "closing StopAll"),
    Phase.SWITCHING: ("switching", ".", ".", "switching", "closing StopAll"),
    Phase.CLOSING: (".", ".", ".", "closing", "closing KillAll"),
    Phase.CLOSED: (".", ".", ".", ".", "."),
}


def kinds(actions: tuple[Action, ...]) -> list[str]:
    return [type(action).__name__ for action in actions if type(action).__name__ != "Say"]


def run(rollout: Rollout, *events: Event) -> tuple[Rollout, list[Action]]:
    done: list[Action] = []
    for event in events:
        rollout, actions = step(rollout, event)
        done += actions
    return rollout, done


def all_of(kind: type[Ready] | type[Gone], of: Formation) -> list[Event]:
    return [kind(name) for name in sorted(of.names)]


def test_the_expectations_cover_every_phase_and_every_event() -> None:
    assert set(EXPECTED) == set(TABLE) == set(STATES) == set(Phase)
    assert {len(row) for row in TABLE.values()} == {len(row) for row in EXPECTED.values()} == {len(EVENTS)}
    assert set(EXAMPLES) == set(EVENTS)


@pytest.mark.parametrize("phase", Phase)
@pytest.mark.parametrize("kind", EVENTS)
def test_pair(phase: Phase, kind: type[Event]) -> None:
    expected = EXPECTED[phase][EVENTS.index(kind)]
    after, actions = step(STATES[phase], EXAMPLES[kind])
    if expected == ".":
        assert (after, actions) == (STATES[phase], ())
    else:
        assert [after.phase.value, *kinds(actions)] == expected.split()


def test_first_start_becomes_good_when_all_are_healthy() -> None:
    after, actions = run(Rollout(), Wanted(V1), *all_of(Ready, V1))
    assert (after.phase, after.good) == (Phase.STEADY, V1)
    assert actions == [StartAll(V1), MarkGood(V1)]


def test_the_old_is_gone_before_the_new_begins() -> None:
    after, actions = run(STATES[Phase.STEADY], Wanted(V2), Gone("web.1"))
    assert kinds(tuple(actions)) == ["StopAll"]
    after, actions = run(after, Gone("worker.1"))
    assert actions == [StartAll(V2)]
    assert after.good == V1


def test_a_candidate_that_fails_is_stopped_marked_and_the_good_one_started_again() -> None:
    after, actions = run(STATES[Phase.TRYING], Ready("worker.1"), EXAMPLES[Failed], *all_of(Gone, V2))
    assert MarkFailed(V2, "web.1: exit code 1") in actions
    assert actions[-1] == StartAll(V1)
    after, actions = run(after, *all_of(Ready, V1), Wanted(V2))
    assert (after.phase, after.running, after.failed) == (Phase.STEADY, V1, frozenset({"v2"}))
    assert actions == [MarkGood(V1)]


def test_a_crash_after_health_fails_a_candidate_that_is_not_healthy_as_a_whole() -> None:
    _, actions = run(STATES[Phase.TRYING], Ready("web.1"), EXAMPLES[Failed])
    assert kinds(tuple(actions)) == ["MarkFailed", "StopAll"]


def test_without_a_good_one_the_first_keeps_being_restarted_and_says_so() -> None:
    trying, actions = run(Rollout(), Wanted(V1), EXAMPLES[Failed])
    assert (trying.phase, trying.trouble) == (Phase.TRYING, "web.1: exit code 1")
    assert "restarted until it is" in str(actions[-1])
    again, actions = run(trying, EXAMPLES[Failed])
    assert (again, actions) == (trying, [])
    after, actions = run(again, *all_of(Ready, V1))
    assert (after.phase, after.trouble, actions) == (Phase.STEADY, "", [MarkGood(V1)])


def test_a_healthy_process_that_crashes_has_to_become_healthy_again() -> None:
    after, _ = run(Rollout(), Wanted(V1), Ready("web.1"), EXAMPLES[Failed], Ready("worker.1"))
    assert (after.phase, after.waiting) == (Phase.TRYING, frozenset({"web.1"}))


def test_first_start_falls_back_to_a_good_one_that_was_given() -> None:
    after, actions = run(Rollout(good=V1), Wanted(V2), EXAMPLES[Failed], *all_of(Gone, V2))
    assert after.running == V1
    assert kinds(tuple(actions)) == ["StartAll", "MarkFailed", "StopAll", "StartAll"]


def test_the_good_one_itself_is_not_given_up() -> None:
    after, actions = run(Rollout(good=V1), Wanted(V1), EXAMPLES[Failed])
    assert (after.phase, after.failed) == (Phase.TRYING, frozenset())
    assert kinds(tuple(actions)) == ["StartAll"]


def test_an_unchanged_release_changes_nothing() -> None:
    for phase in (Phase.TRYING, Phase.STEADY, Phase.SWITCHING):
        same = STATES[phase].next if phase is Phase.SWITCHING else STATES[phase].running
        assert step(STATES[phase], Wanted(same)) == (STATES[phase], ())


def test_a_later_release_follows_instead_of_the_one_that_waits() -> None:
    after, actions = run(STATES[Phase.SWITCHING], Wanted(V3), *all_of(Gone, V1))
    assert after.running == V3
    assert actions[-1] == StartAll(V3)


def test_a_formation_without_processes_is_good_at_once_and_gone_at_once() -> None:
    nothing = formation("v9")
    after, actions = run(Rollout(), Wanted(nothing), Wanted(V1))
    assert kinds(tuple(actions)) == ["MarkGood", "StartAll"]
    assert run(replace(after, phase=Phase.STEADY, alive=frozenset()), Close())[0].phase is Phase.CLOSED


class Rolling(RuleBasedStateMachine):
    """Processes that become healthy, crash and end whenever they please, and releases at any time."""

    @initialize(good=st.sampled_from([None, V1]))
    def begin(self, good: Formation | None) -> None:
        self.rollout = Rollout(good=good)
        self.release = ""
        self.alive: set[str] = set()
        self.stopping = False
        self.failed: set[str] = set()
        self.closed = False

    def tell(self, event: Event) -> None:
        self.rollout, actions = step(self.rollout, event)
        for action in actions:
            self.do(action)

    def do(self, action: Action) -> None:
        match action:
            case StartAll(started):
                assert not self.alive, "two formations at once"
                assert not self.closed
                assert started.release not in self.failed
                self.release, self.alive, self.stopping = started.release, set(started.names), False
            case StopAll() | KillAll():
                self.stopping = True
            case MarkGood(good):
                assert good.release == self.release
                assert not self.stopping
            case MarkFailed(failed, _):
                assert failed.release == self.release
                self.failed.add(failed.release)

    @rule(number=st.integers(1, 6))
    def want(self, number: int) -> None:
        self.tell(Wanted(formation(f"v{number}", *["web", "worker"][: 1 + number % 2])))

    @precondition(lambda self: self.alive)
    @rule(data=st.data(), healthy=st.booleans())
    def process_says(self, data: st.DataObject, healthy: bool) -> None:
        name = data.draw(st.sampled_from(sorted(self.alive)))
        self.tell(Ready(name) if healthy else Failed(name, "exit code 1"))

    @precondition(lambda self: self.alive and self.stopping)
    @rule(data=st.data())
    def process_ends(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.alive)))
        self.alive.remove(name)
        self.tell(Gone(name))

    @rule()
    def close(self) -> None:
        self.closed = True
        self.tell(Close())

    @invariant()
    def it_knows_what_is_alive(self) -> None:
        assert self.rollout.alive == self.alive
        assert self.rollout.waiting <= self.rollout.alive or self.stopping

    def teardown(self) -> None:
        """Told to close, and with processes that end, it is closed."""
        if not hasattr(self, "rollout"):
            return
        self.close()
        for name in sorted(self.alive):
            self.alive.remove(name)
            self.tell(Gone(name))
        assert self.rollout.phase is Phase.CLOSED


TestRolling = Rolling.TestCase
TestRolling.settings = settings(max_examples=100, stateful_step_count=30, deadline=None)
