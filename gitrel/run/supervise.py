"""Runs a formation, follows releases, and stops; whatever happens is an event for one of the two tables.

`lifecycle` decides about one process, `rollout` about which formation runs; this module carries messages
between them, the signals, the poller and the caller, and decides nothing itself. It works as PID 1 too.

  SIGTERM, SIGINT   stop everything and return; a second one: at once, with SIGKILL
  SIGUSR1           ask the remote for the next release now
  SIGHUP            look at the home again: something was pinned, scaled or pulled by hand

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
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from gitrel.errors import GitrelError, LocalStateError, Unhealthy
from gitrel.processes import Seen, descendants, kill_all, snapshot
from gitrel.run import report, rollout, rollout_state
from gitrel.run.cast import Cast
from gitrel.run.courier import Courier
from gitrel.run.follow import Follower, Looker
from gitrel.run.formation import Formation, Process, Wish, check_looker_marked, check_marked
from gitrel.run.guardian import Guardian
from gitrel.run.lifecycle import Exit
from gitrel.run.loop import Loop, Timer
from gitrel.run.notify import Manager
from gitrel.run.output import Journal, Sink
from gitrel.run.proctree import mark_of, of_home
from gitrel.run.rollout_state import Close, Phase, Rollout, Wanted
from gitrel.run.room import Room
from gitrel.run.sockets import Sockets
from gitrel.run.spawn import set_subreaper
from gitrel.run.status_file import StatusFile
from gitrel.run.task import Job

LEFTOVER_LIMIT = 10.0  # seconds for what an earlier run left behind to die
FLUSH_LIMIT = 5.0  # seconds for the reader of our output to take the last of it
RECORD_PAUSE = 5.0  # seconds until what could not be recorded is tried again
GUARDIAN_PAUSE = 1.0  # seconds between two guardians


class Recorder(Protocol):
    """Who is told what becomes of a formation, and remembers it. What raises a `GitrelError` is tried again."""

    def wanted(self, formation: Formation) -> None:
        """It was found to be what is to run."""

    def prepared(self, formation: Formation) -> None:
        """Its release phase is done, and is not to be run again."""

    def good(self, formation: Formation) -> None:
        """All its processes have been healthy."""

    def failed(self, formation: Formation, why: str, last_words: Sequence[bytes]) -> None:
        """`last_words`: what its processes printed last, lines."""


class Supervisor:
    """Made and run in the main thread of a process without other threads; `run` once.

    `home` is what the processes' `MARK` begins with (`formation.mark`). `first` is what is wanted at the start, and
    `looker` the child that is asked later. Times are seconds. `output` is the descriptor that all lines go to.
    `intact` tells whether a folder is what it was when it was verified. `observe` gets the status document whenever
    it was written, and now and then. `hold`: see `gitrel.run.guardian`. `manager_env` is this program's own
    environment, as far as a service manager speaks through it; `given`: descriptors of sockets that it handed over.
    `jitter` draws from [0, 1). `sender`: the child that is started whenever something was recorded.
    """

    _busy = False  # within `_tell`

    def __init__(
        self,
        recorder: Recorder,
        looker: Looker,
        first: Wish,
        *,
        home: str,
        status: Path,
        output: int,
        intact: Callable[[Path], bool] = lambda _folder: True,
        observe: Callable[[Mapping[str, Any]], None] | None = None,
        hold: Sequence[int] = (),
        manager_env: Mapping[str, str] | None = None,
        given: Iterable[int] = (),
        colour: bool = False,
        jitter: Callable[[], float] = random.random,
        sender: Job | None = None,
    ) -> None:
        self._recorder = recorder
        self._first = first
        self._home = home
        self._signals = {
            signal.SIGTERM: self._close,
            signal.SIGINT: self._close,
            signal.SIGUSR1: self._poll,
            signal.SIGHUP: self._reload,
        }
        self._loop = Loop(tuple(self._signals), lambda number: self._signals[number]())
        self._manager = Manager(self._loop, manager_env or {})
        self._sink = Sink(self._loop, output)
        self._journal = Journal(self._sink, colour=colour)
        self._guardian = Guardian(home, hold)
        self._status = StatusFile(self._loop, self._journal, status, self._document, observe)
        self._room = Room(
            loop=self._loop, journal=self._journal, guardian=self._guardian, sockets=Sockets(given),
            leftovers=self._leftovers, members=_members, intact=self._intact, jitter=jitter,
            changed=self._status.changed,
        )  # fmt: skip
        self._cast = Cast(self._room, self._tell)
        check_looker_marked(looker.env, home)
        self._follower = Follower(looker, self._room, first.token, self._wish)
        self._courier = Courier(sender, self._room)
        self._rollout, self._since = Rollout(), time.time()
        self._events: deque[rollout_state.Event] = deque()
        self._is_intact = intact
        self._vouched, self._doubted = set[str](), set[str]()
        self._unrecorded: dict[str, Callable[[], None]] = {}
        self._rerecord: Timer | None = None
        self._foreign: list[Seen] = []
        self._guardian_since = 0.0

    def run(self) -> None:
        """Until told to stop by a signal. Everything that it started is gone when it returns, also by an
        exception.

        Raises `LocalStateError` if processes of an earlier run cannot be killed, `Unhealthy` if nothing can run and
        nothing is followed, `OSError` if no guardian can be forked at the start.
        """
        set_subreaper(True)
        try:
            with self._loop:
                self._foreign = descendants(snapshot(), [os.getpid()])
                self._clear_earlier()
                self._start_guardian()
                self._manager.start()
                self._status.start()
                self._begin()
                self._courier.wake()
                while not self._ended():
                    self._turn()
                self._flush()
        finally:
            self._guardian.finish()
            self._room.sockets.close()
            set_subreaper(False)
        if self._rollout.phase is Phase.EMPTY:
            raise Unhealthy("no release runs", why=self._rollout.trouble, hint="mend it, and release anew")

    def _ended(self) -> bool:
        """Told to, or there is nothing to run and nobody who would bring something else."""
        phase = self._rollout.phase
        if phase is Phase.EMPTY and self._rollout.trouble and not self._rollout.leaving and not self._follower.follows:
            return True
        return phase is Phase.CLOSED and self._follower.idle and self._courier.idle

    def _turn(self) -> None:
        self._status.write()
        self._loop.turn()

    def _flush(self) -> None:
        self._write_down()
        self._journal.say("stopped")
        self._status.write()
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

    def _begin(self) -> None:
        good = self._first.good
        if good is not None:
            check_marked(good, self._home)
        self._rollout = Rollout(good=good)
        self._wish(self._first)
        if self._first.wanted is None:
            self._manager.ready()  # to follow, that is
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
        self._manager.stopping()
        for child in (self._follower, self._courier):
            child.close()
            if at_once:
                child.kill()
        self._tell(Close())

    def _poll(self) -> None:
        self._follower.poll()

    def _reload(self) -> None:
        self._manager.reloading()
        self._follower.look()
        self._manager.ready()

    def _wish(self, wish: Wish) -> None:
        if wish.wanted is not None:
            check_marked(wish.wanted, self._home)
            self._vouch(wish.wanted)
            self._recorder.wanted(wish.wanted)
            self._tell(Wanted(wish.wanted))

    def _vouch(self, formation: Formation) -> None:
        """Its checkout was verified just now, which counts for one start even where it could not be written down."""
        known = formation.release == self._rollout.running.release
        self._vouched |= self._doubted if known else formation.names
        self._doubted.clear()

    def _intact(self, process: Process) -> bool:
        """Before each start of a process."""
        if process.name in self._vouched or self._is_intact(process.cwd):
            self._vouched.discard(process.name)
            return True
        self._doubted.add(process.name)
        self._follower.look_anew()
        return False

    # The rollout's hands

    def _tell(self, event: rollout_state.Event) -> None:
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
                self._status.changed()
                for action in actions:
                    self._do(action)
        finally:
            self._busy = False

    def _do(self, action: rollout_state.Action) -> None:
        match action:
            case rollout_state.Start(formation, members):
                self._start(formation, members)
            case rollout_state.Stop(members):
                self._cast.stop(members)
            case rollout_state.KillAll():
                self._cast.kill()
            case rollout_state.MarkPrepared(formation):
                what = f"release phase of {formation.release}"
                self._record(what, partial(self._recorder.prepared, formation), f"the {what} is done")
            case rollout_state.MarkGood(formation):
                self._is_good(formation)
            case rollout_state.MarkFailed(formation, why):
                words = self._cast.last_words(formation.release)
                call = partial(self._recorder.failed, formation, why, words)
                self._record(f"failure of {formation.release}", call, f"{formation.release} failed: {why}")
            case rollout_state.Say(text):
                self._journal.say(text)

    def _start(self, formation: Formation, members: Iterable[rollout_state.Member]) -> None:
        names = sorted(member.name for member in members)
        self._journal.say(f"starting {formation.release}: {', '.join(names)}")
        self._cast.start(formation, members)

    def _is_good(self, formation: Formation) -> None:
        self._since = time.time()
        self._room.sockets.keep(formation.sockets)
        self._vouched.clear()
        self._record("good release", partial(self._recorder.good, formation), f"{formation.release} is good")
        self._manager.ready()

    def _record(self, what: str, call: Callable[[], None], said: str) -> None:
        """Have it remembered, if need be later: the disk may be full just now. A newer one of a kind replaces it.

        It is `said` after that: who reads it in the log, and then asks for the status, finds it there.
        """
        self._unrecorded.pop(what, None)
        self._unrecorded[what] = call
        problem = self._write_down()
        self._status.write()
        self._journal.say(said)
        if problem is not None:
            self._journal.say(f"{what} could not be recorded yet: {problem}")

    def _write_down(self) -> GitrelError | None:
        for what, call in list(self._unrecorded.items()):
            try:
                call()
            except GitrelError as error:
                if self._rerecord is None or not self._rerecord.set:
                    self._rerecord = self._loop.after(RECORD_PAUSE, self._write_down)
                return error
            del self._unrecorded[what]
            self._courier.wake()
        return None

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
        others = (self._cast.sessions() | {self._follower.session, self._courier.session}) - {0, session}
        if not others:
            return ours
        first = [
            seen.pid
            for seen in ours
            if seen.session == session or (seen.session not in others and mark_of(seen.pid) == mark)
        ]
        wanted = {*first, *(seen.pid for seen in descendants(tree, first))}
        return [seen for seen in ours if seen.pid in wanted]

    def _document(self) -> dict[str, Any]:
        self._manager.status(_summary(self._rollout))
        return report.document(self._rollout, list(self._cast.keepers()), self._since)


def _members(session: int) -> list[int]:
    """The pids of a leader, its session and its descendants."""
    tree = snapshot()
    first = [seen.pid for seen in tree.values() if session and seen.session == session]
    return [*first, *(seen.pid for seen in descendants(tree, first))]


def _summary(r: Rollout) -> str:
    """The one line that a service manager shows."""
    text = f"{r.running.release or 'nothing'} is {r.phase.value}"
    if r.next.release:
        text += f", {r.next.release} follows"
    return f"{text}: {r.trouble}" if r.trouble else text
