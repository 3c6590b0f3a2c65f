"""Asking what is to run: now and then, or when told to, a short-lived child that pulls, verifies and looks.

One child at a time. Its output lines are logged as `pull | …`; what it answers is a `Wish`. Nothing of a release is
parsed, decrypted or checked in the supervisor itself, and its loop never waits for a disk or a network.

What the child tells with its exit code (docs/exit-codes.md): 0, and 12 (somebody else pulls just now), mean that the
next poll is an interval away. After anything else the pause doubles, up to `LONGEST` or the interval if that is more,
and the first good poll, or being told to poll, makes it an interval again. A code is logged when it changes: the
child says once what is wrong, and not again as long as it stays the same.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from gitrel.dataclass import dataclass
from gitrel.errors import ExitCode
from gitrel.run.formation import Wish
from gitrel.run.lifecycle import Exit
from gitrel.run.loop import Timer
from gitrel.run.room import Room
from gitrel.run.task import Job, Task

NAME = "pull"
JITTER = 0.2  # of the interval, to either side: servers that started together do not ask together
LONGEST = 600.0  # seconds between two polls while they fail
SPREAD = 0.5  # the jitter of a pause after a failure: servers that lost one remote together do not come back together
_DOUBLINGS = 30  # more change nothing
FINE = (Exit(code=ExitCode.DONE), Exit(code=ExitCode.CONFLICT))
GRACE = 5.0  # seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Looker:
    """The child. `argv` begins with an absolute path; `env` is all of its environment; times are seconds.

    To `argv` are added `--last TOKEN`, of the last wish, and `--no-pull` if it is to look at the home alone. Without
    an `interval` it never pulls. `give`: descriptors that it gets, from 4 on.
    """

    argv: Sequence[str]
    env: Mapping[str, str]
    cwd: Path
    interval: float | None
    limit: float
    give: Sequence[int] = ()


def pause(interval: float, failures: int, jitter: float) -> float:
    """Seconds until the next poll, after so many failures in a row; `jitter` is of [0, 1)."""
    longest = max(interval, LONGEST)
    wait = longest if failures > _DOUBLINGS else min(interval * 2.0**failures, longest)
    spread = SPREAD if failures else JITTER
    return wait * (1.0 + spread * (2.0 * jitter - 1.0))


class Follower:
    """Runs the child, on its own accord if there is an interval; `wish` gets each answer that differs."""

    def __init__(self, looker: Looker, room: Room, last: str, wish: Callable[[Wish], None]) -> None:
        self._looker = looker
        self._room = room
        self._last = last
        self._anew = False
        self._wish = wish
        self._timer: Timer | None = None
        self._task: Task | None = None
        self._pulls = False
        self._again: Callable[[], None] | None = None
        self._closing = False
        self._failures = 0
        self._ended = FINE[0]

    @property
    def follows(self) -> bool:
        return self._looker.interval is not None

    @property
    def idle(self) -> bool:
        return self._task is None

    @property
    def session(self) -> int:
        """The session of the child, while it runs."""
        return self._task.session if self._task is not None else 0

    def schedule(self) -> None:
        """The next poll, an interval from now, or later while they fail."""
        if self._timer is not None:
            self._timer.cancel()
        if self._looker.interval is not None and not self._closing:
            seconds = pause(self._looker.interval, self._failures, self._room.jitter())
            self._timer = self._room.loop.after(seconds, self._due)

    def _due(self) -> None:
        self._now(self._due, pull=True)

    def poll(self) -> None:
        """Pull now; once more if that is under way, which may have asked too early."""
        self._failures = 0
        self._now(self.poll, pull=self.follows)

    def look(self) -> None:
        """Look at the home now, without the remote."""
        self._now(self.look, pull=False)

    def look_anew(self) -> None:
        """Look at the home as if for the first time: the checkout is verified, and mended if need be."""
        self._anew = True
        self.look()

    def _now(self, again: Callable[[], None], *, pull: bool) -> None:
        if self._closing:
            return
        if self.idle:
            self._start(pull=pull)
        elif pull or self._again is None:
            self._again = again

    def _start(self, *, pull: bool) -> None:
        looker = self._looker
        last = "" if self._anew else self._last
        job = Job(
            name=NAME,
            argv=[*looker.argv, "--last", last, *([] if pull else ["--no-pull"])],
            env=looker.env,
            cwd=looker.cwd,
            limit=looker.limit,
            grace=GRACE,
            answers=True,
            give=looker.give,
        )
        task = Task(job, self._room, self._done)
        self._pulls = pull
        try:
            task.start()
        except OSError as error:
            self._room.journal.say(f"{NAME}: cannot be started: {error}")
            self._failures += 1
            self.schedule()
        else:
            self._task = task
            self._anew = False

    def kill(self) -> None:
        if self._task is not None:
            self._task.kill()

    def _done(self, ended: Exit) -> None:
        answer = b"" if self._task is None else self._task.answer
        self._task = None
        if self._closing:
            return
        if ended not in (*FINE, self._ended):
            self._room.journal.say(f"{NAME}: {ended}")
        self._ended = ended
        if self._pulls:
            self._failures = 0 if ended in FINE else self._failures + 1
            self.schedule()
        again, self._again = self._again, None
        if answer:
            self._hear(answer)
        if again is not None:
            again()

    def _hear(self, answer: bytes) -> None:
        try:
            wish = Wish.parse(answer)
        except (ValueError, KeyError, TypeError) as error:
            self._room.journal.say(f"{NAME}: its answer is not understood: {error}")
            return
        self._last = wish.token
        if not wish.same:
            self._wish(wish)

    def close(self) -> None:
        """No more polls; the one that runs is stopped."""
        self._closing = True
        if self._task is not None:
            self._task.stop()
        elif self._timer is not None:
            self._timer.cancel()
