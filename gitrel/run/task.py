"""A child that runs once and is waited for: the release phase, and the pull of a server that follows.

Its output lines are logged under its name. It has `limit` seconds, then gets TERM, and KILL `grace` seconds
later. What it leaves behind is killed; only then has it ended. A job with an answer gets a pipe as descriptor 3, and
what it writes there is kept, not logged; `give` are the descriptors after it.
"""

from __future__ import annotations

import os
import signal
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

from gitrel.dataclass import dataclass
from gitrel.run.formation import MARK, User
from gitrel.run.lifecycle import CLEAR_LIMIT, Exit
from gitrel.run.loop import Timer
from gitrel.run.output import TAIL, Stream
from gitrel.run.room import Room
from gitrel.run.spawn import signal_group, spawn
from gitrel.run.sweep import Sweep

MOST_ANSWER = 64 * 1024 * 1024  # bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """`argv` begins with an absolute path; `env` is the whole environment and holds `MARK`; times are seconds."""

    name: str
    argv: Sequence[str]
    env: Mapping[str, str]
    cwd: Path
    limit: float
    grace: float
    user: User | None = None
    answers: bool = False
    give: Sequence[int] = ()


class Task:
    """One run of a job. `ended` is called once, with how it ended."""

    def __init__(self, job: Job, room: Room, ended: Callable[[Exit], None]) -> None:
        self._job = job
        self._room = room
        self._ended = ended
        self._timer: Timer | None = None
        self._sweep: Sweep | None = None
        self._streams: list[Stream] = []
        self._session = 0
        self._pipe = -1
        self._answer = bytearray()
        self._tail: deque[bytes] = deque(maxlen=TAIL)
        self._pid = 0
        self.late = False

    @property
    def session(self) -> int:
        """The session of the child, while it runs."""
        return self._pid

    def start(self) -> None:
        """Raises `OSError`; then nothing was started, and `ended` is not called."""
        job, room = self._job, self._room
        ends: list[int] = []
        if job.answers:
            self._pipe, write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
            os.set_blocking(write, True)
            ends = [write]
        try:
            child = spawn(job.argv, env=job.env, cwd=job.cwd, give=[*ends, *job.give], user=job.user)
        except OSError:
            self._close_pipe()
            raise
        finally:
            for fd in ends:
                os.close(fd)
        if job.answers:
            room.loop.reading(self._pipe, self._readable)
        self._pid = self._session = child.pid
        pipes = (child.stdout, child.stderr)
        self._streams = [Stream(room.loop, room.journal, job.name, fd, self._tail) for fd in pipes]
        room.guardian.add(child.pid)
        room.loop.on_exit(child.pid, self._exited)
        self._set(job.limit, self._overdue)

    def _readable(self) -> None:
        with suppress(BlockingIOError):
            while data := os.read(self._pipe, 1 << 16):
                self._answer += data
                if len(self._answer) > MOST_ANSWER:
                    break
            self._close_pipe()  # at its end, or too long, which its reader will find

    def _close_pipe(self) -> None:
        if self._pipe >= 0:
            self._room.loop.forget(self._pipe)
            os.close(self._pipe)
            self._pipe = -1

    @property
    def answer(self) -> bytes:
        """What the job wrote to descriptor 3; whole once it has ended."""
        return bytes(self._answer)

    def last_words(self) -> list[bytes]:
        """The last lines that it printed."""
        for stream in self._streams:
            stream.drain()
        return list(self._tail)

    def _set(self, seconds: float, action: Callable[[], None]) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._room.loop.after(seconds, action)

    def _overdue(self) -> None:
        self.late = True
        self._room.journal.say(f"{self._job.name}: not done within {self._job.limit:g} s; stopping it")
        self.stop()

    def stop(self) -> None:
        if self._pid:
            self._signal(signal.SIGTERM)
            self._set(self._job.grace, self.kill)

    def kill(self) -> None:
        if self._pid:
            self._signal(signal.SIGKILL)

    def _signal(self, number: signal.Signals) -> None:
        try:
            signal_group(self._pid, number)
        except OSError as error:
            self._room.journal.say(f"{self._job.name}: {number.name}: {error.strerror}")

    def _exited(self, how: Exit) -> None:
        self._pid = 0
        done = partial(self._done, how)
        self._set(CLEAR_LIMIT, done)
        self._sweep = Sweep(self._room.loop, partial(self._room.leftovers, self._session, self._job.env[MARK]), done)
        self._sweep.start()

    def _done(self, how: Exit) -> None:
        """Nothing is left of it, or that was waited for long enough."""
        if self._timer is not None:
            self._timer.cancel()
        if self._sweep is not None:
            self._sweep.cancel()
        for stream in self._streams:
            stream.finish()
        if self._pipe >= 0:
            self._readable()
            self._close_pipe()
        self._room.guardian.remove(self._session)
        self._ended(how)
