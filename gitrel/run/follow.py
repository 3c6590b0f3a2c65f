"""Asking for the next release: now and then, or when told to, a short-lived child that pulls.

One child at a time. Its output lines are logged as `pull | …`. After it has exited, whatever its exit code,
and after what it left behind is gone, `polled` is called. It has `limit` seconds; then it gets TERM, and KILL
`GRACE` seconds later.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from gitrel.run.formation import MARK
from gitrel.run.lifecycle import CLEAR_LIMIT, Exit
from gitrel.run.loop import Timer
from gitrel.run.output import Stream
from gitrel.run.spawn import signal_group, spawn
from gitrel.run.sweep import Sweep
from gitrel.run.tend import Room

NAME = "pull"
JITTER = 0.2  # of the interval, to either side: servers that started together do not ask together
GRACE = 5.0  # seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Poller:
    """`argv` begins with an absolute path; `env` is all of the child's environment; times are seconds."""

    argv: Sequence[str]
    env: Mapping[str, str]
    cwd: Path
    interval: float
    limit: float


class Follower:
    """Runs the poller. One timer: the next poll, the limit of the one that runs, or of what comes after its
    end.
    """

    def __init__(self, poller: Poller | None, room: Room, polled: Callable[[], None]) -> None:
        self._poller = poller
        self._room = room
        self._polled = polled
        self._timer: Timer | None = None
        self._pid = 0
        self._session = 0
        self._streams: list[Stream] = []
        self._sweep: Sweep | None = None
        self._again = False
        self._closing = False

    @property
    def idle(self) -> bool:
        return self._session == 0

    @property
    def session(self) -> int:
        """The session of the child, while it runs."""
        return self._pid

    def schedule(self) -> None:
        """The next poll, an interval from now."""
        if self._poller is not None and not self._closing:
            factor = 1.0 + JITTER * (2.0 * self._room.jitter() - 1.0)
            self._set(self._poller.interval * factor, self.poll)

    def _set(self, seconds: float, action: Callable[[], None]) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._room.loop.after(seconds, action)

    def poll(self) -> None:
        """Now; once more if a poll is under way, which may have asked too early. Without a poller: just
        look again.
        """
        if self._closing:
            return
        if not self.idle:
            self._again = True
        elif self._poller is None:
            self._polled()
        else:
            self._start(self._poller)

    def _start(self, poller: Poller) -> None:
        room = self._room
        try:
            child = spawn(poller.argv, env=poller.env, cwd=poller.cwd)
        except OSError as error:
            room.journal.say(f"{NAME}: cannot be started: {error}")
            self.schedule()
            return
        self._pid = self._session = child.pid
        self._streams = [Stream(room.loop, room.journal, NAME, fd) for fd in (child.stdout, child.stderr)]
        room.guardian.add(child.pid)
        room.loop.on_exit(child.pid, partial(self._exited, poller.env[MARK]))
        self._set(poller.limit, partial(self._late, poller.limit))

    def _late(self, limit: float) -> None:
        self._room.journal.say(f"{NAME}: not done within {limit:g} s; stopping it")
        self._terminate()

    def _terminate(self) -> None:
        self._signal(signal.SIGTERM)
        self._set(GRACE, self.kill)

    def kill(self) -> None:
        self._signal(signal.SIGKILL)

    def _signal(self, number: signal.Signals) -> None:
        if self._pid:
            try:
                signal_group(self._pid, number)
            except OSError as error:
                self._room.journal.say(f"{NAME}: {number.name}: {error.strerror}")

    def _exited(self, mark: str, ended: Exit) -> None:
        if ended != Exit(code=0) and not self._closing:
            self._room.journal.say(f"{NAME}: {ended}")
        self._pid = 0
        session = self._session
        sweep = Sweep(self._room.loop, partial(self._room.leftovers, session, mark), self._done)
        self._sweep = sweep
        self._set(CLEAR_LIMIT, self._done)
        sweep.start()

    def _done(self) -> None:
        """Nothing is left of it, or it was waited for long enough."""
        if self._timer is not None:
            self._timer.cancel()
        if self._sweep is not None:
            self._sweep.cancel()
        for stream in self._streams:
            stream.finish()
        self._streams = []
        self._room.guardian.remove(self._session)
        self._session = 0
        if self._closing:
            return
        again, self._again = self._again, False
        self.schedule()
        self._polled()
        if again:
            self.poll()

    def close(self) -> None:
        """No more polls; the one that runs is stopped."""
        self._closing = True
        if self._pid:
            self._terminate()
        elif self.idle and self._timer is not None:
            self._timer.cancel()
