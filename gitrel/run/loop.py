"""A loop that only waits and dispatches: descriptors, signals, exits of children, and one heap of timers.

It sleeps in one system call, with no time-out unless a timer is set: idle means no wakeups. SIGCHLD, and not
a pidfd per child, announces exits: as a subreaper the supervisor becomes the parent of processes that it has
never heard of, and those have to be waited for as well. One waitpid(2) loop therefore serves all.
"""

from __future__ import annotations

import heapq
import itertools
import os
import selectors
import signal
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from types import FrameType
from typing import Self

from gitrel.run.lifecycle import Exit

Action = Callable[[], object]


class Timer:
    """Something to be done once, later; `cancel` may be called at any time, also after it was done."""

    __slots__ = ("_action",)

    def __init__(self, action: Action) -> None:
        self._action: Action | None = action

    def cancel(self) -> None:
        self._action = None

    @property
    def set(self) -> bool:
        return self._action is not None

    def fire(self) -> None:
        action, self._action = self._action, None
        if action is not None:
            action()


class Loop:
    """Belongs to the main thread. Inside `with` the signals are its own; `on_signal` gets each that
    arrives.
    """

    def __init__(self, signals: Sequence[signal.Signals], on_signal: Callable[[signal.Signals], None]) -> None:
        self._selector = selectors.DefaultSelector()
        self._timers: list[tuple[float, int, Timer]] = []
        self._count = itertools.count()
        self._exits: dict[int, Callable[[Exit], None]] = {}
        self._signals = (*signals, signal.SIGCHLD)
        self._on_signal = on_signal
        self._arrived: list[int] = []
        self._restore = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self._wakeup, waker = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
            stack.callback(os.close, self._wakeup)
            stack.callback(os.close, waker)
            stack.callback(self._selector.close)
            # Handlers record, the descriptor wakes: should it ever be full, no signal is lost with it.
            stack.callback(signal.set_wakeup_fd, signal.set_wakeup_fd(waker, warn_on_full_buffer=False))
            for number in self._signals:
                before = signal.signal(number, self._record)
                stack.callback(signal.signal, number, signal.SIG_DFL if before is None else before)
            self._restore = stack.pop_all()
        self.reading(self._wakeup, self._woken)
        return self

    def __exit__(self, *exc: object) -> None:
        self._restore.close()

    def _record(self, number: int, _frame: FrameType | None) -> None:
        self._arrived.append(number)

    def after(self, seconds: float, action: Action) -> Timer:
        timer = Timer(action)
        heapq.heappush(self._timers, (time.monotonic() + seconds, next(self._count), timer))
        return timer

    def reading(self, fd: int, action: Action) -> None:
        """Call `action` whenever `fd` can be read, until `forget`; replaces an earlier request for it."""
        self._watch(fd, selectors.EVENT_READ, action)

    def writing(self, fd: int, action: Action) -> None:
        self._watch(fd, selectors.EVENT_WRITE, action)

    def _watch(self, fd: int, events: int, action: Action) -> None:
        self.forget(fd)
        self._selector.register(fd, events, action)

    def forget(self, fd: int) -> None:
        """Before `fd` is closed."""
        with suppress(KeyError):
            self._selector.unregister(fd)

    def on_exit(self, pid: int, action: Callable[[Exit], None]) -> None:
        """Call `action` once with the end of a child."""
        self._exits[pid] = action

    def children(self) -> frozenset[int]:
        """The children whose exit somebody asked for; any other was adopted."""
        return frozenset(self._exits)

    def turn(self) -> None:
        """Wait for something to happen, and do what was asked for in that case."""
        for key, _ in self._selector.select(self._until_next()):
            # an earlier action of this turn may have closed the descriptor, or opened another of that number
            if self._selector.get_map().get(key.fd) is key:
                key.data()
        now = time.monotonic()
        due = []
        while self._timers and (self._timers[0][0] <= now or not self._timers[0][2].set):
            due.append(heapq.heappop(self._timers)[2])
        for timer in due:
            timer.fire()

    def _until_next(self) -> float | None:
        while self._timers and not self._timers[0][2].set:
            heapq.heappop(self._timers)
        return max(0.0, self._timers[0][0] - time.monotonic()) if self._timers else None

    def _woken(self) -> None:
        with suppress(BlockingIOError):
            while os.read(self._wakeup, 4096):
                pass
        arrived, self._arrived = self._arrived, []
        for number in arrived:
            if number != signal.SIGCHLD:
                self._on_signal(signal.Signals(number))
        self._reap()

    def _reap(self) -> None:
        with suppress(ChildProcessError):  # no children at all
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if pid == 0:
                    return
                if (action := self._exits.pop(pid, None)) is not None:
                    action(Exit.from_status(status))
