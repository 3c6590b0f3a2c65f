"""The child of a supervisor: pulls if it is told to, verifies, and answers what is to run (a `Wish`).

It works out in a short life, with all of gitrel's libraries, what the supervisor then only does.
"""

from __future__ import annotations

import contextlib
import os
import stat
from pathlib import Path

from gitrel.cli.console import Console
from gitrel.cli.pulling import poll
from gitrel.cli.staleness import say_staleness
from gitrel.dataclass import dataclass
from gitrel.errors import ExitCode, GitrelError
from gitrel.ids import Entry
from gitrel.run.home import Home
from gitrel.run.leases import Leases
from gitrel.run.resolve import Choice
from gitrel.run.spawn import set_undumpable

ANSWER, LEASES = 3, 4  # descriptors


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What `gitrel run` was told, for every look."""

    entry: str | None
    scales: dict[str, int]
    port: int
    stop_if_repudiated: bool
    release_phase: bool
    keep: int

    def choice(self, home: Home, leases: Leases, console: Console) -> Choice:
        return Choice(
            home,
            leases,
            Entry.parse(self.entry) if self.entry else None,
            scales=self.scales,
            port=self.port,
            release_phase=self.release_phase,
            stop_if_repudiated=self.stop_if_repudiated,
            say=console.note,
        )


def look(console: Console, path: Path, order: Order, last: str, pull: bool) -> int:
    """Answer on descriptor 3. Returns the exit status, which is about the pull."""
    set_undumpable()
    home = Home(path)
    code: int = ExitCode.DONE
    if pull:
        try:
            code = poll(console, home, order.keep)
        except GitrelError as error:
            console.error(error)
            code = error.exit_code
        say_staleness(console, home)
    leases = Leases(home, fd=LEASES if _is_open(LEASES) else -1)
    wish = order.choice(home, leases, console).again(last)
    with contextlib.suppress(BrokenPipeError), open(ANSWER, "wb") as answer:  # nobody is there to hear it any more
        answer.write(wish.encode())
    return code


def is_asked() -> bool:
    """Whether somebody waits for the answer; it is no command for people, since that holds secrets."""
    return _is_open(ANSWER) and stat.S_ISFIFO(os.fstat(ANSWER).st_mode)


def _is_open(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True
