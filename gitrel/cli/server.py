"""What the server's commands share: the home, its remote and the mirrors of that, its supervisor."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from gitrel.cli.console import Console
from gitrel.dataclass import replace
from gitrel.errors import LocalStateError, NotFound
from gitrel.run import report
from gitrel.run.home import Home
from gitrel.store.limits import Limits
from gitrel.store.remote import Remote


def open_home(path: Path | None) -> Home:
    return Home(path or Path.cwd())


def open_remote(url: str, limits: Limits | None = None) -> Remote:
    return Remote.resolve(None, url, env=dict(os.environ), limits=limits, interactive=sys.stdin.isatty())


@contextmanager
def open_sources(urls: Sequence[str], limits: Limits | None = None) -> Iterator[dict[str, Remote]]:
    """All of them, by URL. They share the time that one would have for an operation."""
    shared = limits or Limits.of(os.environ)
    shared = replace(shared, wall_seconds=max(1, shared.wall_seconds // max(1, len(urls))))
    with ExitStack() as stack:
        yield {url: stack.enter_context(open_remote(url, shared)) for url in urls}


def absolute(url: str) -> str:
    """A path has to mean the same wherever `pull` runs."""
    return os.path.abspath(url) if url and ":" not in url else url


def tell_supervisor(console: Console, home: Home) -> bool:
    """Have the supervisor look at the state; whether one runs."""
    try:
        pid = report.tell(home, signal.SIGHUP)
    except NotFound as error:
        if home.locked("run"):
            console.note(f"note: {error}; it looks by itself after its next pull")
            return True
        return False
    except LocalStateError as error:
        console.note(f"note: {error}; it looks by itself after its next pull")
        return True
    console.note(f"the supervisor (pid {pid}) was told")
    return True
