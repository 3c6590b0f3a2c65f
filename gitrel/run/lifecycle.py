"""One process instance as a table: (state, event) -> (state, actions). No I/O, no clock, no randomness.

Rules
- An instance has at most one live leader: `Spawn` is asked for only while there is no pid and nothing left of
  the previous session (`CLEARING` lies between an exit and the next start).
- Being told to stop is final. After it there is no further `Spawn`; to run the process again, make a new
  instance.
- There is one timer. `SetTimer` replaces it; what its firing means is given by the state.
- Ready is not the same as up: `STARTING` lasts until the health check, or `settle`, says otherwise.
- Nothing ends in silence: every start, exit and refusal to die is a `Report`.

              what the timer means            leaves by
  DOWN        -                               Start, Stop
  SPAWNING    -                               Spawned, SpawnFailed
  STARTING    healthy (settle) or too late    Healthy, Exited, Stop
  UP          stable: the backoff is reset    Exited, Stop
  STOPPING    stop_timeout is over: KILL      Exited
  KILLING     KILL again                      Exited
  CLEARING    give up on what does not die    Cleared
  BACKOFF     start again                     Stop
  GONE        -                               (never)

An event that cannot happen in a state changes nothing and is reported as `Notice.ODD`: at 3 a.m. a supervisor
that carries on and says so is worth more than one that stops.
"""

from __future__ import annotations

import signal
from collections.abc import Callable
from enum import StrEnum
from typing import Any, TypeAlias

from gitrel.dataclass import dataclass, replace

BACKOFF_FIRST = 0.1  # seconds before the first restart, doubled with every further failure
BACKOFF_MOST = 30.0
STABLE_AFTER = 60.0  # seconds up, after which earlier failures are forgotten
KILL_AGAIN = 10.0  # SIGKILL is answered late by a process in uninterruptible sleep only
CLEAR_LIMIT = 10.0  # seconds that a restart waits for left-over processes to die


class State(StrEnum):
    DOWN = "down"
    SPAWNING = "spawning"
    STARTING = "starting"
    UP = "up"
    STOPPING = "stopping"
    KILLING = "killing"
    CLEARING = "clearing"
    BACKOFF = "backoff"
    GONE = "gone"


RUNNING = frozenset({State.STARTING, State.UP, State.STOPPING, State.KILLING})  # the states with a pid


@dataclass(frozen=True, slots=True)
class Exit:
    """How a process ended: an exit code, or the signal that ended it (wait(2))."""

    code: int | None = None
    signal: int | None = None

    @classmethod
    def from_status(cls, status: int) -> Exit:
        """From the status word of waitpid(2)."""
        if status & 0x7F:
            return cls(signal=status & 0x7F)
        return cls(code=status >> 8)

    def __str__(self) -> str:
        if self.signal is None:
            return f"exit code {self.code}"
        known = self.signal in {member.value for member in signal.Signals}
        return f"signal {self.signal}" + (f" ({signal.Signals(self.signal).name})" if known else "")


# Events


@dataclass(frozen=True, slots=True)
class Start:
    """Run it. Ignored but for a new instance."""


@dataclass(frozen=True, slots=True)
class Stop:
    """Stop it for good: TERM, `stop_timeout`, KILL."""


@dataclass(frozen=True, slots=True)
class Kill:
    """Stop it for good, without waiting."""


@dataclass(frozen=True, slots=True)
class Spawned:
    pid: int


@dataclass(frozen=True, slots=True)
class SpawnFailed:
    why: str


@dataclass(frozen=True, slots=True)
class Healthy:
    """The health check was passed."""


@dataclass(frozen=True, slots=True)
class Exited:
    exit: Exit


@dataclass(frozen=True, slots=True)
class Cleared:
    """Nothing is left of the leader's session."""


@dataclass(frozen=True, slots=True)
class TimerFired:
    pass


Event: TypeAlias = Start | Stop | Kill | Spawned | SpawnFailed | Healthy | Exited | Cleared | TimerFired
EVENTS: tuple[type[Event], ...] = (
    Start, Stop, Kill, Spawned, SpawnFailed, Healthy, Exited, Cleared, TimerFired,
)  # fmt: skip


# Actions


@dataclass(frozen=True, slots=True)
class Spawn:
    """Start the leader; answer with `Spawned` or `SpawnFailed`."""


@dataclass(frozen=True, slots=True)
class SignalGroup:
    """Send TERM or KILL to the process group of `pid`."""

    pid: int
    signal: signal.Signals


@dataclass(frozen=True, slots=True)
class SetTimer:
    seconds: float


@dataclass(frozen=True, slots=True)
class CancelTimer:
    pass


@dataclass(frozen=True, slots=True)
class BeginCheck:
    """Begin to ask whether the process is healthy; answer with `Healthy`."""


@dataclass(frozen=True, slots=True)
class EndCheck:
    pass


@dataclass(frozen=True, slots=True)
class Sweep:
    """Kill what the leader left behind; answer with `Cleared`."""

    session: int


@dataclass(frozen=True, slots=True)
class Tidy:
    """The end of one life: drain its output, close its pipes, end the sweep."""


class Notice(StrEnum):
    STARTED = "started"
    HEALTHY = "healthy"
    FAILED = "failed"  # exited, could not be started, or was not healthy in time
    EXITED = "exited"  # as it was told to
    STUBBORN = "stubborn"  # ignores TERM, or does not even die of KILL
    LEFTOVERS = "leftovers"
    RESTARTING = "restarting"
    GONE = "gone"
    ODD = "odd"


@dataclass(frozen=True, slots=True)
class Report:
    notice: Notice
    detail: str = ""


Action: TypeAlias = Spawn | SignalGroup | SetTimer | CancelTimer | BeginCheck | EndCheck | Sweep | Tidy | Report


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What an instance is held to, in seconds. `checked`: a health check has to pass within `ready_within`;
    otherwise staying up that long is enough."""

    checked: bool
    ready_within: float
    stop_timeout: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Instance:
    """`pid` is 0 without a leader; `failures` counts since the last stable time, `restarts` since the
    beginning; `wanted` falls once.
    """

    terms: Terms
    state: State = State.DOWN
    wanted: bool = True
    pid: int = 0
    failures: int = 0
    restarts: int = 0
    last_exit: Exit | None = None


Step: TypeAlias = tuple[Instance, tuple[Action, ...]]


def step(instance: Instance, event: Event, jitter: float) -> Step:
    """The next state and what to do, in order. `jitter` is in [0, 1) and shortens the backoff by up to
    half.
    """
    row = TABLE[instance.state]
    return row[EVENTS.index(type(event))](instance, event, jitter)


def backoff(failures: int, jitter: float) -> float:
    """Seconds before the next start, after so many (at least one) failures in a row."""
    full = min(BACKOFF_MOST, BACKOFF_FIRST * 2.0 ** min(failures - 1, 16))
    return full * (1.0 - jitter / 2.0)


def _keep(i: Instance, _event: Event, _jitter: float) -> Step:
    return i, ()


def _odd(i: Instance, event: Event, _jitter: float) -> Step:
    return i, (Report(Notice.ODD, f"{type(event).__name__} while {i.state.value}"),)


def _spawn(i: Instance, _event: Event, _jitter: float) -> Step:
    return replace(i, state=State.SPAWNING), (Spawn(),)


def _again(i: Instance, _event: Event, _jitter: float) -> Step:
    return replace(i, state=State.SPAWNING, restarts=i.restarts + 1), (Spawn(),)


def _unwant(i: Instance, _event: Event, _jitter: float) -> Step:
    return replace(i, wanted=False), ()


def _finish(i: Instance, _event: Event, _jitter: float) -> Step:
    return replace(i, state=State.GONE, wanted=False), (CancelTimer(), Report(Notice.GONE))


def _born(i: Instance, event: Spawned, _jitter: float) -> Step:
    if not i.wanted:
        return _terminate(replace(i, state=State.STARTING, pid=event.pid))
    actions: tuple[Action, ...] = (
        Report(Notice.STARTED, f"pid {event.pid}"),
        SetTimer(i.terms.ready_within),
    )
    if i.terms.checked:
        actions += (BeginCheck(),)
    return replace(i, state=State.STARTING, pid=event.pid), actions


def _misfire(i: Instance, event: SpawnFailed, jitter: float) -> Step:
    failed = Report(Notice.FAILED, f"cannot be started: {event.why}")
    if not i.wanted:
        return replace(i, state=State.GONE), (failed, Report(Notice.GONE))
    return _wait(replace(i, failures=i.failures + 1), jitter, (failed,))


def _healthy(i: Instance, _event: Event, _jitter: float) -> Step:
    return replace(i, state=State.UP), (EndCheck(), SetTimer(STABLE_AFTER), Report(Notice.HEALTHY))


def _due(i: Instance, event: Event, jitter: float) -> Step:
    if not i.terms.checked:
        return _healthy(i, event, jitter)
    late = Report(Notice.FAILED, f"not healthy within {i.terms.ready_within:g} s")
    after, actions = _terminate(i)
    return replace(after, failures=i.failures + 1), (late, *actions)


def _stable(i: Instance, _event: Event, _jitter: float) -> Step:
    return replace(i, failures=0), ()


def _stop(i: Instance, _event: Event, _jitter: float) -> Step:
    return _terminate(replace(i, wanted=False))


def _terminate(i: Instance) -> Step:
    term = SignalGroup(i.pid, signal.SIGTERM)
    return replace(i, state=State.STOPPING), (EndCheck(), term, SetTimer(i.terms.stop_timeout))


def _kill(i: Instance, _event: Event, _jitter: float) -> Step:
    kill = SignalGroup(i.pid, signal.SIGKILL)
    return replace(i, state=State.KILLING, wanted=False), (EndCheck(), kill, SetTimer(KILL_AGAIN))


def _overdue(i: Instance, event: Event, jitter: float) -> Step:
    stubborn = Report(Notice.STUBBORN, f"still there {i.terms.stop_timeout:g} s after TERM; sending KILL")
    after, actions = _kill(i, event, jitter)
    return replace(after, wanted=i.wanted), (stubborn, *actions)


def _kill_again(i: Instance, _event: Event, _jitter: float) -> Step:
    stubborn = Report(Notice.STUBBORN, f"still there {KILL_AGAIN:g} s after KILL")
    return i, (stubborn, SignalGroup(i.pid, signal.SIGKILL), SetTimer(KILL_AGAIN))


def _died(i: Instance, event: Exited, _jitter: float) -> Step:
    """Nobody asked it to: a failure, whatever the exit code."""
    return _clear(replace(i, failures=i.failures + 1), event.exit, Notice.FAILED)


def _exited(i: Instance, event: Exited, _jitter: float) -> Step:
    return _clear(i, event.exit, Notice.EXITED)


def _clear(i: Instance, ended: Exit, notice: Notice) -> Step:
    after = replace(i, state=State.CLEARING, pid=0, last_exit=ended)
    return after, (EndCheck(), Report(notice, str(ended)), SetTimer(CLEAR_LIMIT), Sweep(i.pid))


def _cleared(i: Instance, _event: Event, jitter: float) -> Step:
    if i.wanted:
        return _wait(i, jitter, (Tidy(),))
    return replace(i, state=State.GONE), (CancelTimer(), Tidy(), Report(Notice.GONE))


def _give_up(i: Instance, event: Event, jitter: float) -> Step:
    left = Report(Notice.LEFTOVERS, f"left processes behind that do not die within {CLEAR_LIMIT:g} s")
    after, actions = _cleared(i, event, jitter)
    return after, (left, *actions)


def _wait(i: Instance, jitter: float, before: tuple[Action, ...]) -> Step:
    delay = backoff(i.failures, jitter)
    restarting = Report(Notice.RESTARTING, f"in {delay:.2f} s; failures in a row: {i.failures}")
    return replace(i, state=State.BACKOFF), (*before, restarting, SetTimer(delay))


Handler: TypeAlias = Callable[[Instance, Any, float], Step]  # each takes the events of its columns

# fmt: off
TABLE: dict[State, tuple[Handler, ...]] = {
    #                Start   Stop     Kill     Spawned SpawnFailed Healthy   Exited   Cleared   TimerFired
    State.DOWN:     (_spawn, _finish, _finish, _odd,   _odd,       _odd,     _odd,    _odd,     _odd),
    State.SPAWNING: (_keep,  _unwant, _unwant, _born,  _misfire,   _odd,     _odd,    _odd,     _odd),
    State.STARTING: (_keep,  _stop,   _kill,   _odd,   _odd,       _healthy, _died,   _odd,     _due),
    State.UP:       (_keep,  _stop,   _kill,   _odd,   _odd,       _keep,    _died,   _odd,     _stable),
    State.STOPPING: (_keep,  _unwant, _kill,   _odd,   _odd,       _keep,    _exited, _odd,     _overdue),
    State.KILLING:  (_keep,  _unwant, _unwant, _odd,   _odd,       _keep,    _exited, _odd,     _kill_again),
    State.CLEARING: (_keep,  _unwant, _unwant, _odd,   _odd,       _keep,    _odd,    _cleared, _give_up),
    State.BACKOFF:  (_keep,  _finish, _finish, _odd,   _odd,       _keep,    _odd,    _keep,    _again),
    State.GONE:     (_keep,  _keep,   _keep,   _odd,   _odd,       _keep,    _odd,    _keep,    _odd),
}
# fmt: on
