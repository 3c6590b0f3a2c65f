"""Which formation runs, as a table: (phase, event) -> (phase, actions). No I/O, no clock.

  EMPTY      nothing runs, and nothing is on its way
  PREPARING  the release phase of `next` runs; `running` goes on
  JOINING    the processes of `next` that share a socket with `running` were started beside it
  SWITCHING  `running` is being stopped; when it is gone, the rest of `next` starts
  TRYING     `running` was started, not all of it is healthy yet
  STEADY     all of `running` has been healthy
  CLOSING    all is being stopped, nothing follows
  CLOSED     nothing runs

The way of a new release: PREPARING (if it has a release phase that was not done here), JOINING (if it shares a
socket with what runs, so that no connection is refused), SWITCHING (if anything runs), TRYING, STEADY. What
shares no socket is stopped before its successor is started.

A formation is *tried* until every process has become healthy; then it is good. A failure before it took over
leaves what runs alone; a failure while it is tried brings the last good one back, on the same way. Either marks
it failed, and the same supervisor does not try it again. Once good, a formation is never given up: its
processes are restarted, however often. Without a good formation to go back to, or if that one is what fails, it
stays in TRYING: the processes are restarted with backoff, `trouble` says why, and a later release can still
take over. A failed release phase with nothing that runs and nothing to go back to ends in EMPTY.

A release phase is never cut short for a newer release: it may be changing a database. What is wanted meanwhile
waits in `later`. What ran once is gone before it is said to be ready or failed. The same release with other
numbers of processes only starts and stops the difference.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

from gitrel.dataclass import replace
from gitrel.run.formation import Formation
from gitrel.run.rollout_state import (
    EVENTS,
    Action,
    Attempt,
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
    Say,
    Start,
    Stop,
    Wanted,
)

Step: TypeAlias = tuple[Rollout, tuple[Action, ...]]


def step(rollout: Rollout, event: Event) -> Step:
    """The next phase and what to do, in order."""
    return TABLE[rollout.phase][EVENTS.index(type(event))](rollout, event)


def _keep(r: Rollout, _event: Event) -> Step:
    return r, ()


# The way of a new formation


def _follow(r: Rollout, formation: Formation) -> Step:
    """Begin an attempt at it. What runs is not touched yet. The release phase of the good one is behind it."""
    if r.good is not None and r.good.release == formation.release:
        formation = replace(formation, before=None)
    attempt = Attempt(number=r.count + 1, formation=formation)
    r = replace(r, count=attempt.number, next=attempt, later=None)
    before = formation.before
    if before is None:
        return _join(r)
    names = frozenset({before.name})
    r = replace(r, phase=Phase.PREPARING, next=attempt.start(names))
    return r, (Start(formation, attempt.members(names)),)


def _join(r: Rollout) -> Step:
    """What shares a socket with what runs is started beside it."""
    formation = r.next.formation
    shared = formation.sockets & frozenset(r.running.formation.find(name).listen for name in r.running.alive)
    early = frozenset(each.name for each in formation.processes if each.listen in shared)
    if not early:
        return _replace(r)
    r = replace(r, phase=Phase.JOINING, next=r.next.start(early))
    return r, (Start(formation, r.next.members(early)),)


def _replace(r: Rollout) -> Step:
    if not r.running.alive and not r.leaving:
        return _begin(r)
    return replace(r, phase=Phase.SWITCHING), _stop(r.running.members())


def _stop(members: frozenset[Member]) -> tuple[Action, ...]:
    return (Stop(members),) if members else ()


def _begin(r: Rollout) -> Step:
    """`next` takes the place of what ran: what of it is not started yet follows."""
    formation = r.next.formation
    missing = formation.names - r.next.alive
    running = r.next.start(missing)
    r = replace(r, phase=Phase.TRYING, running=running, next=Attempt(), trouble="")
    started = (Start(formation, running.members(missing)),) if missing else ()
    return _then(_settled(r), *started)


def _then(after: Step, *before: Action) -> Step:
    return after[0], (*before, *after[1])


def _settled(r: Rollout) -> Step:
    """Is all of what runs healthy? Is something else wanted by now?"""
    actions: tuple[Action, ...] = ()
    if r.phase is Phase.TRYING and not r.running.waiting:
        r = replace(r, phase=Phase.STEADY, good=r.running.formation, trouble="")
        actions = (MarkGood(r.running.formation),)
    if r.later is None or r.phase not in (Phase.EMPTY, Phase.TRYING, Phase.STEADY):
        return r, actions
    return _then(_wanted(replace(r, later=None), Wanted(r.later)), *actions)


def _go_on(r: Rollout) -> Step:
    """As before there was a `next`, which has come to nothing."""
    r = replace(r, next=Attempt(), leaving=r.leaving | r.next.members())
    if not r.running.number:
        return _settled(replace(r, phase=Phase.EMPTY))
    known = r.good is not None and r.good.release == r.running.release and not r.running.waiting
    return _settled(replace(r, phase=Phase.STEADY if known else Phase.TRYING))


def _abandon(r: Rollout) -> tuple[Rollout, tuple[Action, ...]]:
    """`next` is stopped before it took over."""
    return replace(r, next=Attempt(), leaving=r.leaving | r.next.members()), _stop(r.next.members())


# Wanted


def _wanted(r: Rollout, event: Wanted) -> Step:
    formation = event.formation
    if formation.release in r.failed:
        return r, ()
    if formation.release == r.running.release and r.phase is not Phase.EMPTY:
        return _resize(r, formation)
    after, actions = _follow(r, formation)
    said = (Say(f"{formation.release} follows {r.running.release}"),) if r.running.release else ()
    return after, (*said, *actions)


def _resize(r: Rollout, formation: Formation) -> Step:
    """The same release with other numbers of processes; its release phase is behind it."""
    formation = replace(formation, before=None)
    old = r.running.formation
    more, fewer = formation.names - old.names, old.names - formation.names
    if not more and not fewer:
        return r, ()
    if r.running.members(more) & r.leaving:  # it is still being stopped, and there is one of a name at a time
        return replace(r, later=formation), ()
    stopped = r.running.members(fewer)
    running = replace(r.running, formation=formation).drop(fewer).start(more)
    r = replace(r, running=running, leaving=r.leaving | stopped)
    if r.phase is Phase.STEADY:
        r = replace(r, running=replace(running, waiting=frozenset()), good=formation)
    actions: tuple[Action, ...] = (Say(f"{formation.release}: {len(formation.names)} processes"),)
    actions += _stop(stopped)
    actions += (Start(formation, running.members(more)),) if more else ()
    return _then(_settled(r), *actions)


def _wanted_later(r: Rollout, event: Wanted) -> Step:
    """Not now: what is under way ends first."""
    formation = event.formation
    if formation.release in r.failed:
        return r, ()
    if formation.names == r.next.formation.names and formation.release == r.next.release:
        return replace(r, later=None), ()
    return replace(r, later=formation), (Say(f"{formation.release} waits: {r.next.release} is under way"),)


def _wanted_instead(r: Rollout, event: Wanted) -> Step:
    """While `next` is joining, another can take its place, and what runs can stay."""
    formation = event.formation
    if formation.release in r.failed or formation.release == r.next.release:
        return _wanted_later(r, event)
    gave_up = Say(f"{formation.release} instead of {r.next.release}")
    r, stopped = _abandon(r)
    return _then(_go_on(replace(r, later=formation)), gave_up, *stopped)


# Ready and failed


def _ready(r: Rollout, event: Ready) -> Step:
    """Of what runs, in any phase in which something may still be not healthy."""
    if event.member.attempt != r.running.number:
        return r, ()
    r = replace(r, running=replace(r.running, waiting=r.running.waiting - {event.member.name}))
    return _settled(r)


def _prepared(r: Rollout, event: Ready) -> Step:
    if event.member.attempt != r.next.number:
        return _ready(r, event)
    formation = replace(r.next.formation, before=None)
    marked = MarkPrepared(formation)
    r = replace(r, next=Attempt(number=r.next.number, formation=formation))
    if r.later is not None and r.later.release != formation.release:
        return _then(_go_on(r), marked)
    return _then(_join(r), marked)


def _joined(r: Rollout, event: Ready) -> Step:
    if event.member.attempt != r.next.number:
        return _ready(r, event)
    r = replace(r, next=replace(r.next, waiting=r.next.waiting - {event.member.name}))
    return (r, ()) if r.next.waiting else _replace(r)


def _wait_again(attempt: Attempt, name: str) -> Attempt:
    """What was healthy and failed is restarted, and has to become healthy again."""
    return replace(attempt, waiting=attempt.waiting | (attempt.alive & {name}))


def _failed(r: Rollout, event: Failed) -> Step:
    if event.member.attempt != r.running.number:
        return r, ()
    why = f"{event.member.name}: {event.why}"
    good = r.good
    if good is not None and good.release != r.running.release:
        marked = MarkFailed(r.running.formation, why)
        r = replace(r, failed=r.failed | {r.running.release})
        return _then(_follow(r, good), marked, Say(f"back to {good.release}"))
    said = () if r.trouble else (Say(_NOTHING_TO_GO_BACK_TO.format(release=r.running.release)),)
    return replace(r, running=_wait_again(r.running, event.member.name), trouble=why), said


_NOTHING_TO_GO_BACK_TO = "{release} is not healthy, and there is no other good release: it is restarted until it is"


def _failed_before(r: Rollout, event: Failed) -> Step:
    """Before `next` took over: what runs goes on."""
    if event.member.attempt != r.next.number:
        if event.member.attempt == r.running.number and r.running.waiting:
            r = replace(r, running=_wait_again(r.running, event.member.name))
        return r, ()
    if r.good is not None and r.next.release == r.good.release:  # the way back does not work beside what failed
        return _replace(replace(r, next=_wait_again(r.next, event.member.name)))
    why = f"{event.member.name}: {event.why}"
    marked = MarkFailed(r.next.formation, why)
    release = r.next.release
    r, stopped = _abandon(replace(r, failed=r.failed | {release}))
    after, actions = _go_on(r)
    if after.phase is Phase.EMPTY:
        after = replace(after, trouble=f"{release}: {why}")
    good = after.good
    stranded = after.phase is Phase.EMPTY or (after.phase is Phase.TRYING and after.running.release in after.failed)
    if stranded and good is not None:
        after, more = _follow(after, good)
        actions = (*actions, Say(f"back to {good.release}"), *more)
    return after, (marked, *stopped, *actions)


def _failed_between(r: Rollout, event: Failed) -> Step:
    """While what ran is being stopped: `next` is judged once it has taken over."""
    if event.member.attempt == r.next.number:
        r = replace(r, next=_wait_again(r.next, event.member.name))
    return r, ()


def _ready_between(r: Rollout, event: Ready) -> Step:
    if event.member.attempt == r.next.number:
        r = replace(r, next=replace(r.next, waiting=r.next.waiting - {event.member.name}))
    return r, ()


# Gone and closing


def _drop(r: Rollout, member: Member) -> Rollout:
    r = replace(r, leaving=r.leaving - {member})
    if member.attempt == r.running.number:
        r = replace(r, running=r.running.drop(frozenset({member.name})))
    if member.attempt == r.next.number:
        r = replace(r, next=r.next.drop(frozenset({member.name})))
    return r


def _left(r: Rollout, event: Gone) -> Step:
    return _settled(_drop(r, event.member))


def _gone(r: Rollout, event: Gone) -> Step:
    r = _drop(r, event.member)
    if r.running.alive or r.leaving:
        return r, ()
    if r.later is not None and not r.next.alive and r.later.release != r.next.release:
        return _go_on(replace(r, running=Attempt()))
    return _begin(r)


def _close(r: Rollout, _event: Event) -> Step:
    phase = Phase.CLOSING if r.alive else Phase.CLOSED
    return replace(r, phase=phase, later=None), _stop(r.running.members() | r.next.members())


def _gone_for_good(r: Rollout, event: Gone) -> Step:
    r = _drop(r, event.member)
    return replace(r, phase=Phase.CLOSING if r.alive else Phase.CLOSED), ()


def _at_once(r: Rollout, _event: Event) -> Step:
    return r, (KillAll(),)


Handler: TypeAlias = Callable[[Rollout, Any], Step]  # each takes the events of its columns

# fmt: off
TABLE: dict[Phase, tuple[Handler, ...]] = {
    #                 Wanted           Ready           Failed           Gone            Close
    Phase.EMPTY:     (_wanted,         _keep,          _keep,           _left,          _close),
    Phase.PREPARING: (_wanted_later,   _prepared,      _failed_before,  _left,          _close),
    Phase.JOINING:   (_wanted_instead, _joined,        _failed_before,  _left,          _close),
    Phase.SWITCHING: (_wanted_later,   _ready_between, _failed_between, _gone,          _close),
    Phase.TRYING:    (_wanted,         _ready,         _failed,         _left,          _close),
    Phase.STEADY:    (_wanted,         _keep,          _keep,           _left,          _close),
    Phase.CLOSING:   (_keep,           _keep,          _keep,           _gone_for_good, _at_once),
    Phase.CLOSED:    (_keep,           _keep,          _keep,           _keep,          _keep),
}
# fmt: on
