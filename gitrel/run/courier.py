"""Sends the receipts: a short-lived child when there are some, again with longer and longer pauses if that fails.

It is no part of any switch: nothing waits for it, and what it could not send stays in the outbox.
"""

from __future__ import annotations

from gitrel.run.follow import pause
from gitrel.run.lifecycle import Exit
from gitrel.run.loop import Timer
from gitrel.run.room import Room
from gitrel.run.task import Job, Task

NAME = "receipts"
PAUSE = 30.0  # seconds until the second attempt; doubles up to ten minutes
LIMIT = 300.0  # seconds for one child
GRACE = 5.0


class Courier:
    """One child at a time. `job` None: nobody asked for receipts."""

    def __init__(self, job: Job | None, room: Room) -> None:
        self._job = job
        self._room = room
        self._task: Task | None = None
        self._timer: Timer | None = None
        self._again = False
        self._closing = False
        self._failures = 0

    @property
    def idle(self) -> bool:
        return self._task is None

    @property
    def session(self) -> int:
        """The session of the child, while it runs."""
        return self._task.session if self._task is not None else 0

    def wake(self) -> None:
        """Something was written down."""
        if self._job is None or self._closing:
            return
        if self._task is not None:
            self._again = True
            return
        if self._timer is not None:
            self._timer.cancel()
        task = Task(self._job, self._room, self._done)
        try:
            task.start()
        except OSError as error:
            self._room.journal.say(f"{NAME}: cannot be started: {error}")
            self._later()
        else:
            self._task = task

    def _done(self, ended: Exit) -> None:
        self._task = None
        again, self._again = self._again, False
        if ended.code == 0:
            self._failures = 0
            if again:
                self.wake()
        else:
            self._later()

    def _later(self) -> None:
        self._failures += 1
        if not self._closing:
            wait = pause(PAUSE, self._failures - 1, self._room.jitter())
            self._timer = self._room.loop.after(wait, self.wake)

    def close(self) -> None:
        """No more of them; the one that runs is stopped."""
        self._closing = True
        if self._timer is not None:
            self._timer.cancel()
        if self._task is not None:
            self._task.stop()

    def kill(self) -> None:
        if self._task is not None:
            self._task.kill()
