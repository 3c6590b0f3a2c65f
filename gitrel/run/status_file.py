"""Keeps the status file (`gitrel.run.report`) true, and whoever else wants to know informed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from gitrel.errors import GitrelError
from gitrel.run import report
from gitrel.run.loop import Loop, Timer
from gitrel.run.output import Journal

RETRY = 5.0  # seconds after a write that failed
OBSERVE = 15.0  # seconds between two looks of an observer while nothing happens

Document = Mapping[str, Any]


class StatusFile:
    """`changed` says that it is stale; `write` is called before the loop waits. `observe` gets each document, and one
    now and then; a `GitrelError` of its is logged, once as long as it stays the same.
    """

    def __init__(
        self,
        loop: Loop,
        journal: Journal,
        path: Path,
        document: Callable[[], dict[str, Any]],
        observe: Callable[[Document], None] | None,
    ) -> None:
        self._loop = loop
        self._journal = journal
        self._path = path
        self._document = document
        self._observe = observe
        self._stale = True
        self._retry: Timer | None = None
        self._problems = {"status": "", "metrics": ""}

    def start(self) -> None:
        if self._observe is not None:
            self._loop.after(OBSERVE, self.start)
            self._stale = True

    def changed(self) -> None:
        self._stale = True

    def write(self) -> None:
        if not self._stale:
            return
        self._stale = False
        document = self._document()
        try:
            report.write(self._path, document)
        except OSError as error:
            self._problem("status", f"no status file for now: {error}")
            if self._retry is None or not self._retry.set:
                self._retry = self._loop.after(RETRY, self.changed)
        else:
            self._problem("status", "")
        if self._observe is not None:
            self._inform(self._observe, document)

    def _inform(self, observe: Callable[[Document], None], document: Document) -> None:
        try:
            observe(document)
        except GitrelError as error:
            self._problem("metrics", str(error))
        else:
            self._problem("metrics", "")

    def _problem(self, of: str, text: str) -> None:
        if text and text != self._problems[of]:
            self._journal.say(text)
        self._problems[of] = text
