"""Runs a formation, follows releases, and stops; whatever happens is an event for one of the two tables.

`lifecycle` decides about one process, `rollout` about which formation runs; this module carries messages
between them, the signals, the poller and the caller, and decides nothing itself. It works as PID 1 too.

  SIGTERM, SIGINT   stop everything and return; a second one: at once, with SIGKILL
  SIGHUP, SIGUSR1   ask for the next release now

Order at the start: whatever an earlier run left behind is killed; the guardian stands by; only then is the
first process started. At the end: all processes are gone, then the guardian, then `run` returns and the
caller may give up its lock.
"""

from __future__ import annotations

import os
import random
import signal
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from gitrel.errors import GitrelError, LocalStateError
from gitrel.run import lifecycle, report, rollout
from gitrel.run.follow import Follower, Poller
from gitrel.run.formation import Formation, check_marked, check_poller_marked
from gitrel.run.guardian import Guardian
from gitrel.run.lifecycle import Exit, Notice
from gitrel.run.loop import Loop
from gitrel.run.output import Journal, Sink
from gitrel.run.proctree import Seen, descendants, kill_all, mark_of, of_home, snapshot
from gitrel.run.rollout import Phase, Rollout
from gitrel.run.spawn import set_subreaper
from gitrel.run.tend import Keeper, Room

LEFTOVER_LIMIT = 10.0  # seconds for what an earlier run left behind to die
FLUSH_LIMIT = 5.0  # seconds for the reader of our output to take the last of it
GUARDIAN_PAUSE = 1.0  # seconds between two guardians


class Supervisor:
    """Made and run in the main thread of a process without other threads; `run` once.

    `resolve` says which formation is wanted; it is asked at the start, after every poll and after SIGHUP or
    SIGUSR1. `home` is what the processes' `MARK` begins with (`formation.mark`). `last_good` is what to go
    back to if the first formation fails. `on_good` and `on_failed` make the outcome durable; a `GitrelError`
    of theirs is logged. `poller` is the argv of a child that pulls, None for no following; its environment
    holds `MARK` as well. Times are seconds. `output` is the descriptor that all lines go to. `hold`: see
    `gitrel.run.guardian`. `jitter` draws from [0, 1).
    """

    _busy = False  # within `_tell`
    _unwritten = False  # the status file could not be written, which was said

    def __init__(
        self,
        resolve: Callable[[], Formation],
        poller: Sequence[str] | None = None,
        poll_interval: float = 60.0,
        *,
        home: str,
        status: Path,
        output: int,
        poll_env: Mapping[str, str] | None = None,
        poll_cwd: Path = Path("/"),
        poll_limit: float = 3600.0,
        last_good: Formation | None = None,
        on_good: Callable[[Formation], None] = lambda _formation: None,
        on_failed: Callable[[Formation, str], None] = lambda _formation, _why: None,
        hold: Sequence[int] = (),
        colour: bool = False,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._resolve = resolve
        self._home = home
        self._status = status
        self._on_good = on_good
        self._on_failed = on_failed
        stop, poll = (signal.SIGTERM, signal.SIGINT), (signal.SIGHUP, signal.SIGUSR1)
        actions = dict.fromkeys(stop, self._close) | dict.fromkeys(poll, self._poke)
        self._loop = Loop(stop + poll, lambda number: actions[number]())
        self._sink = Sink(self._loop, output)
        self._journal = Journal(self._sink, colour=colour)
        self._guardian = Guardian(home, hold)
        self._room = Room(
            loop=self._loop, journal=self._journal, guardian=self._guardian, leftovers=self._leftovers,
            jitter=jitter, changed=self._changed, report=self._reported,
        )  # fmt: skip
        self._poller = None
        if poller is not None:
            self._poller = Poller(
                argv=poller, env=poll_env or {}, cwd=poll_cwd, interval=poll_interval, limit=poll_limit
            )
            check_poller_marked(self._poller.env, home)
        self._follower = Follower(self._poller, self._room, self._look)
        if last_good is not None:
            check_marked(last_good, home)
        self._rollout = Rollout(good=last_good)
        self._events: deque[rollout.Event] = deque()
        self._keepers: dict[str, Keeper] = {}
        self._since = time.time()
        self._stale = True
        self._foreign: list[Seen] = []
        self._guardian_since = 0.0

    def run(self) -> None:
        """Until told to stop by a signal. Everything that it started is gone when it returns, also by an
        exception.

        Raises `GitrelError` of the first `resolve` when not following, `LocalStateError` if processes of an
        earlier run cannot be killed, `OSError` if no guardian can be forked at the start.
        """
        set_subreaper(True)
        try:
            with self._loop:
                self._foreign = descendants(snapshot(), [os.getpid()])
                self._clear_earlier()
                self._start_guardian()
                self._first()
                while not (self._rollout.phase is Phase.CLOSED and self._follower.idle):
                    self._turn()
                self._flush()
        finally:
            self._guardian.finish()
            set_subreaper(False)

    def _turn(self) -> None:
        if self._stale:
            self._write_status()
        self._loop.turn()

    def _flush(self) -> None:
        self._journal.say("stopped")
        self._write_status()
        limit = self._loop.after(FLUSH_LIMIT, lambda: None)
        while not self._sink.empty and limit.set:
            self._loop.turn()

    # The start

    def _clear_earlier(self) -> None:
        left = kill_all(lambda: of_home(self._home), LEFTOVER_LIMIT)
        if left:
            pids = ", ".join(str(seen.pid) for seen in left)
            raise LocalStateError(
                "processes of an earlier run do not die",
                where=f"pid {pids}",
                why="they are in uninterruptible sleep, or belong to another user",
                hint="end them by hand (often a disk or network mount hangs), then start again",
            )

    def _first(self) -> None:
        try:
            formation = self._resolve()
        except GitrelError as error:
            if self._poller is None:
                raise
            self._journal.say(f"nothing to run yet: {error}")
        else:
            self._want(formation)
        self._follower.schedule()

    def _start_guardian(self) -> None:
        self._guardian_since = time.monotonic()
        self._loop.on_exit(self._guardian.start(), self._guardian_died)

    def _guardian_died(self, ended: Exit) -> None:
        """Not at once again if the last one lived shortly: whatever kills it must not keep us busy."""
        self._guardian.pid = 0
        self._journal.say(f"the guardian died ({ended}); starting another")
        pause = GUARDIAN_PAUSE if time.monotonic() - self._guardian_since < GUARDIAN_PAUSE else 0.0
        self._loop.after(pause, self._replace_guardian)

    def _replace_guardian(self) -> None:
        try:
            self._start_guardian()
        except OSError as error:
            self._journal.say(f"no guardian for now: {error.strerror}")
            self._loop.after(GUARDIAN_PAUSE, self._replace_guardian)

    # Signals and polls

    def _close(self) -> None:
        at_once = self._rollout.phase is Phase.CLOSING
        self._journal.say("stopping at once" if at_once else "stopping")
        self._follower.close()
        if at_once:
            self._follower.kill()
        self._tell(rollout.Close())

    def _poke(self) -> None:
        self._follower.poll()

    def _look(self) -> None:
        """After a poll: is something else wanted?"""
        try:
            formation = self._resolve()
        except GitrelError as error:
            self._journal.say(f"going on with what runs: {error}")
        else:
            self._want(formation)

    def _want(self, formation: Formation) -> None:
        check_marked(formation, self._home)
        self._tell(rollout.Wanted(formation))

    # The rollout's hands

    def _tell(self, event: rollout.Event) -> None:
        """As in `Keeper.tell`: an event that an action causes waits until the actions of the first are
        done.
        """
        self._events.append(event)
        if self._busy:
            return
        self._busy = True
        try:
            while self._events:
                self._rollout, actions = rollout.step(self._rollout, self._events.popleft())
                self._changed()
                for action in actions:
                    self._do(action)
        finally:
            self._busy = False

    def _do(self, action: rollout.Action) -> None:
        match action:
            case rollout.StartAll(formation):
                self._start_all(formation)
            case rollout.StopAll():
                self._tell_all(lifecycle.Stop())
            case rollout.KillAll():
                self._tell_all(lifecycle.Kill())
            case rollout.MarkGood(formation):
                self._journal.say(f"{formation.release} is good")
                self._call_back(lambda: self._on_good(formation))
            case rollout.MarkFailed(formation, why):
                self._journal.say(f"{formation.release} failed: {why}")
                self._call_back(lambda: self._on_failed(formation, why))
            case rollout.Say(text):
                self._journal.say(text)

    def _start_all(self, formation: Formation) -> None:
        self._journal.say(f"starting {formation.release}")
        self._since = time.time()
        self._keepers = {process.name: Keeper(process, self._room) for process in formation.processes}
        self._tell_all(lifecycle.Start())

    def _tell_all(self, event: lifecycle.Event) -> None:
        for keeper in self._keepers.values():
            keeper.tell(event)

    def _call_back(self, call: Callable[[], None]) -> None:
        try:
            call()
        except GitrelError as error:
            self._journal.say(f"could not be recorded: {error}")

    # What the keepers say

    def _reported(self, name: str, said: lifecycle.Report) -> None:
        match said.notice:
            case Notice.HEALTHY:
                self._tell(rollout.Ready(name))
            case Notice.FAILED:
                self._tell(rollout.Failed(name, said.detail))
            case Notice.GONE:
                self._tell(rollout.Gone(name))
            case _:
                pass  # of interest to the log only

    def _leftovers(self, session: int, mark: str) -> list[Seen]:
        """What a leader left behind: its session, what carries its mark, and all below these.

        As subreaper we are the ancestor of everything that our processes ever started. An orphan that has
        left its session and lost its environment cannot be told to be whose; so it dies when the last process
        has exited.
        """
        tree = snapshot()
        foreign = [seen.pid for seen in self._foreign if (now := tree.get(seen.pid)) and now.start == seen.start]
        spared = {*foreign, *(seen.pid for seen in descendants(tree, foreign)), *self._loop.children()}
        ours = [seen for seen in descendants(tree, [os.getpid()]) if seen.pid not in spared and not seen.dead]
        others = {keeper.session for keeper in self._keepers.values()} | {self._follower.session}
        others -= {0, session}
        if not others:
            return ours
        first = [
            seen.pid
            for seen in ours
            if seen.session == session or (seen.session not in others and mark_of(seen.pid) == mark)
        ]
        wanted = {*first, *(seen.pid for seen in descendants(tree, first))}
        return [seen for seen in ours if seen.pid in wanted]

    # The status file

    def _changed(self) -> None:
        self._stale = True

    def _write_status(self) -> None:
        self._stale = False
        try:
            report.write(self._status, report.document(self._rollout, list(self._keepers.values()), self._since))
        except OSError as error:
            if not self._unwritten:
                self._journal.say(f"no status file for now: {error}")
            self._unwritten = True
        else:
            self._unwritten = False
