"""Which formation runs, as a table: (phase, event) -> (phase, actions). No I/O, no clock.

Stop, then start: the processes of one formation are gone before those of the next begin. A formation is
*tried* until every process has become healthy; then it is good. A failure while it is tried stops it, marks
it failed and brings the last good one back. Once good, a formation is never given up: its processes are
restarted, however often.

  EMPTY      nothing was ever wanted
  TRYING     `running` was started, not all of it is healthy yet
  STEADY     all of `running` has been healthy
  SWITCHING  `running` is being stopped, `next` follows
  CLOSING    all is being stopped, nothing follows
  CLOSED     nothing runs

Without a good formation to go back to, or if that one is what fails, it stays in TRYING: the processes are
restarted with backoff, `trouble` says why, and a later release can still take over. A release that failed is
not tried again by the same supervisor. While TRYING, a newer wanted release takes over at once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, TypeAlias

from gitrel.run.formation import Formation


class Phase(StrEnum):
    EMPTY = "empty"
    TRYING = "trying"
    STEADY = "steady"
    SWITCHING = "switching"
    CLOSING = "closing"
    CLOSED = "closed"


# Events


@dataclass(frozen=True, slots=True)
class Wanted:
    formation: Formation


@dataclass(frozen=True, slots=True)
class Ready:
    name: str


@dataclass(frozen=True, slots=True)
class Failed:
    """A process of the running formation exited unasked, could not be started, or was not healthy in time."""

    name: str
    why: str


@dataclass(frozen=True, slots=True)
class Gone:
    """A process that was told to stop is gone, with all it left behind."""

    name: str


@dataclass(frozen=True, slots=True)
class Close:
    """Stop everything; said twice: at once."""


Event: TypeAlias = Wanted | Ready | Failed | Gone | Close
EVENTS: tuple[type[Event], ...] = (Wanted, Ready, Failed, Gone, Close)


# Actions


@dataclass(frozen=True, slots=True)
class StartAll:
    formation: Formation


@dataclass(frozen=True, slots=True)
class StopAll:
    pass


@dataclass(frozen=True, slots=True)
class KillAll:
    pass


@dataclass(frozen=True, slots=True)
class MarkGood:
    formation: Formation


@dataclass(frozen=True, slots=True)
class MarkFailed:
    formation: Formation
    why: str


@dataclass(frozen=True, slots=True)
class Say:
    text: str


Action: TypeAlias = StartAll | StopAll | KillAll | MarkGood | MarkFailed | Say

NOTHING = Formation(release="", processes=())


@dataclass(frozen=True, slots=True, kw_only=True)
class Rollout:
    """`alive`: names not yet gone; `waiting`: names not yet healthy; `failed`: releases; `trouble`: why
    TRYING lasts.
    """

    phase: Phase = Phase.EMPTY
    running: Formation = NOTHING
    next: Formation = NOTHING
    good: Formation | None = None
    failed: frozenset[str] = frozenset()
    alive: frozenset[str] = frozenset()
    waiting: frozenset[str] = frozenset()
    trouble: str = ""


Step: TypeAlias = tuple[Rollout, tuple[Action, ...]]


def step(rollout: Rollout, event: Event) -> Step:
    """The next phase and what to do, in order."""
    return TABLE[rollout.phase][EVENTS.index(type(event))](rollout, event)


def _keep(r: Rollout, _event: Event) -> Step:
    return r, ()


def _begin(r: Rollout, formation: Formation) -> Step:
    names = formation.names
    r = replace(r, phase=Phase.TRYING, running=formation, next=NOTHING, alive=names, waiting=names, trouble="")
    if names:
        return r, (StartAll(formation),)
    return _good(r)


def _good(r: Rollout) -> Step:
    return replace(r, phase=Phase.STEADY, good=r.running, trouble=""), (MarkGood(r.running),)


def _switch(r: Rollout, formation: Formation) -> Step:
    if not r.alive:
        return _begin(r, formation)
    return replace(r, phase=Phase.SWITCHING, next=formation), (StopAll(),)


def _first(r: Rollout, event: Wanted) -> Step:
    return _begin(r, event.formation)


def _wanted(r: Rollout, event: Wanted) -> Step:
    wanted = event.formation.release
    if wanted == r.running.release or wanted in r.failed:
        return r, ()
    after, actions = _switch(r, event.formation)
    return after, (Say(f"{r.running.release} gives way to {wanted}"), *actions)


def _redirect(r: Rollout, event: Wanted) -> Step:
    """While the old one is still being stopped, what follows it can change."""
    wanted = event.formation.release
    if wanted == r.next.release or wanted in r.failed:
        return r, ()
    return replace(r, next=event.formation), (Say(f"{wanted} follows instead of {r.next.release}"),)


def _ready(r: Rollout, event: Ready) -> Step:
    r = replace(r, waiting=r.waiting - {event.name})
    return (r, ()) if r.waiting else _good(r)


def _failed(r: Rollout, event: Failed) -> Step:
    why = f"{event.name}: {event.why}"
    good = r.good
    if good is not None and good.release != r.running.release:
        after, actions = _switch(replace(r, failed=r.failed | {r.running.release}), good)
        return after, (MarkFailed(r.running, why), Say(f"back to {good.release}"), *actions)
    said = () if r.trouble else (Say(_NOTHING_TO_GO_BACK_TO.format(release=r.running.release)),)
    return replace(r, waiting=r.waiting | (r.alive & {event.name}), trouble=why), said


_NOTHING_TO_GO_BACK_TO = "{release} is not healthy, and there is no other good release: it is restarted until it is"


def _gone(r: Rollout, event: Gone) -> Step:
    r = replace(r, alive=r.alive - {event.name})
    return (r, ()) if r.alive else _begin(r, r.next)


def _close(r: Rollout, _event: Event) -> Step:
    phase = Phase.CLOSING if r.alive else Phase.CLOSED
    return replace(r, phase=phase, next=NOTHING), (StopAll(),) if r.alive else ()


def _gone_for_good(r: Rollout, event: Gone) -> Step:
    alive = r.alive - {event.name}
    return replace(r, alive=alive, phase=Phase.CLOSING if alive else Phase.CLOSED), ()


def _at_once(r: Rollout, _event: Event) -> Step:
    return r, (KillAll(),)


Handler: TypeAlias = Callable[[Rollout, Any], Step]  # each takes the events of its columns

# fmt: off
TABLE: dict[Phase, tuple[Handler, ...]] = {
    #                 Wanted     Ready   Failed   Gone            Close
    Phase.EMPTY:     (_first,    _keep,  _keep,   _keep,          _close),
    Phase.TRYING:    (_wanted,   _ready, _failed, _keep,          _close),
    Phase.STEADY:    (_wanted,   _keep,  _keep,   _keep,          _close),
    Phase.SWITCHING: (_redirect, _keep,  _keep,   _gone,          _close),
    Phase.CLOSING:   (_keep,     _keep,  _keep,   _gone_for_good, _at_once),
    Phase.CLOSED:    (_keep,     _keep,  _keep,   _keep,          _keep),
}
# fmt: on
