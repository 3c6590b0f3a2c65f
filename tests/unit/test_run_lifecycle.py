"""The life of one process: every pair of state and event, and what must hold in any order of events."""

from __future__ import annotations

import signal
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from gitrel.run.lifecycle import (
    BACKOFF_FIRST,
    BACKOFF_MOST,
    EVENTS,
    RUNNING,
    STABLE_AFTER,
    TABLE,
    Action,
    BeginCheck,
    CancelTimer,
    Cleared,
    Event,
    Exit,
    Exited,
    Healthy,
    Instance,
    Kill,
    Notice,
    Report,
    SetTimer,
    SignalGroup,
    Spawn,
    Spawned,
    SpawnFailed,
    Start,
    State,
    Stop,
    Sweep,
    Terms,
    Tidy,
    TimerFired,
    backoff,
    step,
)

CHECKED = Terms(checked=True, ready_within=30.0, stop_timeout=10.0)
SETTLING = Terms(checked=False, ready_within=2.0, stop_timeout=10.0)
EXAMPLES: dict[type[Event], Event] = {
    Start: Start(),
    Stop: Stop(),
    Kill: Kill(),
    Spawned: Spawned(77),
    SpawnFailed: SpawnFailed("no such file"),
    Healthy: Healthy(),
    Exited: Exited(Exit(code=3)),
    Cleared: Cleared(),
    TimerFired: TimerFired(),
}

# One line a state, one word an event in the order of `EVENTS`: the state after it; `.` same state, no action;
# `-` same state, no longer wanted, no action; `?` same state, reported as odd; `!` same state, with actions.
EXPECTED = """
            Start    Stop     Kill    Spawned  SpawnFailed Healthy Exited   Cleared TimerFired
down        spawning gone     gone    ?        ?           ?       ?        ?       ?
spawning    .        -        -       starting backoff     ?       ?        ?       ?
starting    .        stopping killing ?        ?           up      clearing ?       up
up          .        stopping killing ?        ?           .       clearing ?       !
stopping    .        -        killing ?        ?           .       clearing ?       killing
killing     .        -        -       ?        ?           .       clearing ?       !
clearing    .        -        -       ?        ?           .       ?        backoff backoff
backoff     .        gone     gone    ?        ?           .       ?        .       spawning
gone        .        .        .       ?        ?           .       ?        .       ?
"""
HEADER, *ROWS = [line.split() for line in EXPECTED.strip().splitlines()]
PAIRS = [(State(row[0]), kind, row[1 + at]) for row in ROWS for at, kind in enumerate(EVENTS)]


def instance(state: State, terms: Terms = SETTLING, *, wanted: bool = True) -> Instance:
    pid = 77 if state in RUNNING else 0
    return Instance(terms=terms, state=state, pid=pid, failures=2, wanted=wanted and state is not State.GONE)


def test_the_expectations_cover_every_state_and_every_event() -> None:
    names = [kind.__name__ for kind in EVENTS]
    assert names == HEADER
    assert [row[0] for row in ROWS] == [state.value for state in State]
    assert {len(row) for row in ROWS} == {1 + len(EVENTS)}
    assert set(TABLE) == set(State)
    assert {len(row) for row in TABLE.values()} == {len(EVENTS)}
    assert set(EXAMPLES) == set(EVENTS)


@pytest.mark.parametrize(("state", "kind", "expected"), PAIRS)
def test_pair(state: State, kind: type[Event], expected: str) -> None:
    before = instance(state)
    after, actions = step(before, EXAMPLES[kind], 0.0)
    odd = [action for action in actions if isinstance(action, Report) and action.notice is Notice.ODD]
    match expected:
        case ".":
            assert (after, actions) == (before, ())
        case "-":
            assert (after, actions) == (replace(before, wanted=False), ())
        case "?":
            assert after == before
            assert list(actions) == odd
            assert odd
        case "!":
            assert after.state is state
            assert not odd
            assert after != before or actions
        case name:
            assert after.state is State(name)
            assert not odd


@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize("kind", EVENTS)
@pytest.mark.parametrize("terms", [CHECKED, SETTLING])
@pytest.mark.parametrize("wanted", [True, False])
def test_a_pid_is_held_exactly_while_a_leader_runs(state: State, kind: type[Event], terms: Terms, wanted: bool) -> None:
    after, _ = step(instance(state, terms, wanted=wanted), EXAMPLES[kind], 0.5)
    assert (after.pid != 0) == (after.state in RUNNING)


@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize("kind", EVENTS)
def test_what_is_not_wanted_is_never_spawned_and_never_wanted_again(state: State, kind: type[Event]) -> None:
    unreachable = {State.DOWN, State.STARTING, State.UP, State.BACKOFF}  # Stop leaves these at once
    if state in unreachable:
        state = State.STOPPING
    after, actions = step(instance(state, wanted=False), EXAMPLES[kind], 0.5)
    assert not after.wanted
    assert Spawn() not in actions


def test_stop_while_a_spawn_is_under_way_terminates_what_comes_of_it() -> None:
    unwanted = instance(State.SPAWNING, wanted=False)
    after, actions = step(unwanted, Spawned(5), 0.0)
    assert (after.state, after.pid) == (State.STOPPING, 5)
    assert SignalGroup(5, signal.SIGTERM) in actions
    assert step(unwanted, SpawnFailed("x"), 0.0)[0].state is State.GONE


def test_without_a_check_staying_up_is_healthy() -> None:
    started, actions = step(instance(State.SPAWNING), Spawned(5), 0.0)
    assert SetTimer(SETTLING.ready_within) in actions
    assert BeginCheck() not in actions
    after, actions = step(started, TimerFired(), 0.0)
    assert after.state is State.UP
    assert Report(Notice.HEALTHY) in actions


def test_with_a_check_staying_up_is_not_enough() -> None:
    started, actions = step(instance(State.SPAWNING, CHECKED), Spawned(5), 0.0)
    assert BeginCheck() in actions
    after, actions = step(started, TimerFired(), 0.0)
    assert (after.state, after.wanted, after.failures) == (State.STOPPING, True, started.failures + 1)
    assert Report(Notice.FAILED, "not healthy within 30 s") in actions
    assert SignalGroup(5, signal.SIGTERM) in actions


def test_term_ignored_is_killed_after_stop_timeout() -> None:
    stopping, actions = step(instance(State.UP), Stop(), 0.0)
    assert actions[-2:] == (SignalGroup(77, signal.SIGTERM), SetTimer(10.0))
    killing, actions = step(stopping, TimerFired(), 0.0)
    assert killing.state is State.KILLING
    assert SignalGroup(77, signal.SIGKILL) in actions


def test_a_stable_time_resets_the_backoff() -> None:
    up, actions = step(instance(State.STARTING), TimerFired(), 0.0)
    assert up.failures == 2
    assert SetTimer(STABLE_AFTER) in actions
    stable, _ = step(up, TimerFired(), 0.0)
    assert stable.failures == 0


def test_an_exit_is_recorded_and_swept_before_the_restart() -> None:
    cleared, actions = step(instance(State.UP), Exited(Exit(signal=9)), 0.0)
    assert cleared.last_exit == Exit(signal=9)
    assert Sweep(77) in actions
    waiting, actions = step(cleared, Cleared(), 0.0)
    assert SetTimer(backoff(3, 0.0)) in actions
    again, actions = step(waiting, TimerFired(), 0.0)
    assert (again.restarts, actions) == (1, (Spawn(),))


@given(failures=st.integers(1, 10**6), jitter=st.floats(0, 1, exclude_max=True))
def test_backoff_is_bounded_and_jitter_takes_at_most_half(failures: int, jitter: float) -> None:
    delay = backoff(failures, jitter)
    assert BACKOFF_FIRST / 2 <= delay <= BACKOFF_MOST
    assert backoff(failures, 0.0) / 2 <= delay <= backoff(failures, 0.0)
    assert backoff(failures, jitter) <= backoff(failures + 1, jitter)


@pytest.mark.parametrize(
    ("status", "expected", "shown"),
    [
        (3 << 8, Exit(code=3), "exit code 3"),
        (9, Exit(signal=9), "signal 9 (SIGKILL)"),
        (11 | 0x80, Exit(signal=11), "signal 11 (SIGSEGV)"),
        (50, Exit(signal=50), "signal 50"),
    ],
)
def test_wait_status(status: int, expected: Exit, shown: str) -> None:
    assert Exit.from_status(status) == expected
    assert str(expected) == shown


class Life(RuleBasedStateMachine):
    """A machine with processes, a sweeper and a timer, which answers whenever it pleases."""

    @initialize(checked=st.booleans())
    def begin(self, checked: bool) -> None:
        self.instance = Instance(terms=CHECKED if checked else SETTLING)
        self.next_pid = 100
        self.spawning = False
        self.live: set[int] = set()
        self.sweeping = False
        self.timer: float | None = None
        self.told_to_stop = False

    def tell(self, event: Event, jitter: float = 0.5) -> None:
        before = self.instance
        self.instance, actions = step(before, event, jitter)
        assert not [a for a in actions if isinstance(a, Report) and a.notice is Notice.ODD]
        for action in actions:
            self.do(action)

    def do(self, action: Action) -> None:
        match action:
            case Spawn():
                assert not self.told_to_stop
                assert not self.live
                assert not self.spawning
                assert not self.sweeping
                self.spawning = True
            case SignalGroup(pid, _):
                assert pid in self.live
            case SetTimer(seconds):
                assert 0 <= seconds <= STABLE_AFTER
                self.timer = seconds
            case CancelTimer():
                self.timer = None
            case Sweep():
                assert not self.live
                self.sweeping = True
            case Tidy():
                self.sweeping = False

    @rule()
    def start(self) -> None:
        self.tell(Start())

    @rule(event=st.sampled_from([Stop(), Kill()]))
    def stop(self, event: Event) -> None:
        self.told_to_stop = True
        self.tell(event)

    @precondition(lambda self: self.spawning)
    @rule(works=st.booleans())
    def answer_spawn(self, works: bool) -> None:
        self.spawning = False
        if works:
            self.next_pid += 1
            self.live.add(self.next_pid)
            self.tell(Spawned(self.next_pid))
        else:
            self.tell(SpawnFailed("EAGAIN"))

    @precondition(lambda self: self.instance.state is not State.DOWN and not self.spawning)
    @rule()
    def late_health(self) -> None:
        self.tell(Healthy())

    @precondition(lambda self: self.live)
    @rule(code=st.integers(0, 255))
    def leader_exits(self, code: int) -> None:
        self.live.pop()
        self.tell(Exited(Exit(code=code)))

    @precondition(lambda self: self.sweeping)
    @rule()
    def swept(self) -> None:
        self.tell(Cleared())

    @precondition(lambda self: self.timer is not None)
    @rule(jitter=st.floats(0, 1, exclude_max=True))
    def timer_fires(self, jitter: float) -> None:
        self.timer = None
        self.tell(TimerFired(), jitter)

    @invariant()
    def at_most_one_leader_and_it_is_known(self) -> None:
        assert len(self.live) <= 1
        assert self.live == ({self.instance.pid} - {0})

    @invariant()
    def whatever_waits_has_a_timer(self) -> None:
        waiting = {State.STARTING, State.STOPPING, State.KILLING, State.CLEARING, State.BACKOFF}
        if self.instance.state in waiting:
            assert self.timer is not None
        if self.instance.state is State.GONE:
            assert (self.timer, self.live, self.sweeping, self.spawning) == (None, set(), False, False)

    def teardown(self) -> None:
        """Told to stop, and with a kernel that does what it is told, it is soon gone and quiet."""
        if not hasattr(self, "instance"):
            return
        self.stop(Kill())
        if self.spawning:
            self.answer_spawn(works=True)
        if self.live:
            self.leader_exits(0)
        if self.sweeping:
            self.swept()
        assert self.instance.state is State.GONE
        self.whatever_waits_has_a_timer()


TestLife = Life.TestCase
TestLife.settings = settings(max_examples=100, stateful_step_count=30, deadline=None)
