"""What people are told about a server that has not seen anything signed for too long."""

from __future__ import annotations

import time

from gitrel.cli.console import Console
from gitrel.run.freshness import note_staleness
from gitrel.run.home import Home
from gitrel.run.life import Life
from gitrel.run.report import utc


def staleness(life: Life, since: float) -> str:
    return f"since {utc(since)}: nothing was signed after {utc(life.alive or 0)} (max_silence {life.max_silence:g} s)"


def say_staleness(console: Console, home: Home) -> None:
    """Once when it begins, and once when it is over."""
    before, now = note_staleness(home, time.time())
    if before is None and now is not None:
        console.note(f"STALE {staleness(home.read_state().life, now)}")
    elif before is not None and now is None:
        console.note("not stale any more")
