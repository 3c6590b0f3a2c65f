"""Killing what a process left behind, without blocking the loop: each victim's pidfd says when it is gone."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial

from gitrel.processes import BATCH, Seen, strike
from gitrel.run.loop import Loop, Timer

RETRY = 0.1  # seconds


class Sweep:
    """Kills what `find` finds until it finds nothing, then calls `done`, which may happen before `start`
    returns.
    """

    def __init__(self, loop: Loop, find: Callable[[], list[Seen]], done: Callable[[], None]) -> None:
        self._loop = loop
        self._find = find
        self._done = done
        self._held: set[int] = set()
        self._retry: Timer | None = None

    def start(self) -> None:
        while victims := self._find():
            try:
                self._strike(victims[:BATCH])
            except OSError:  # no descriptor left: go on with those that are held, or as soon as there may be one
                if not self._held:
                    self._retry = self._loop.after(RETRY, self.start)
                    return
            if self._held:
                return
        self._done()

    def _strike(self, victims: list[Seen]) -> None:
        for seen in victims:
            fd = strike(seen)
            if fd is not None:
                self._held.add(fd)
                self._loop.reading(fd, partial(self._ended, fd))

    def _ended(self, fd: int) -> None:
        self._let_go(fd)
        if not self._held:
            self.start()

    def _let_go(self, fd: int) -> None:
        self._held.discard(fd)
        self._loop.forget(fd)
        os.close(fd)

    def cancel(self) -> None:
        if self._retry is not None:
            self._retry.cancel()
        for fd in tuple(self._held):
            self._let_go(fd)
