"""`gitrel doctor`: what is not as it should be, in a developer's repository or in a server's home, and what to do.

Nothing is changed: no ref, no file, no key is used to sign.
"""

from __future__ import annotations

from pathlib import Path

from gitrel.cli.console import Console
from gitrel.errors import ExitCode


def doctor(console: Console, repo: Path | None, remote: str | None, home: Path | None, deploy: str) -> ExitCode:
    """A server's home if that is named, or where this is; else a developer's repository."""
    if home is not None or (repo is None and (Path.cwd() / "state.json").is_file()):
        from gitrel.cli.doctor_home import of_home

        return of_home(console, home or Path.cwd())
    from gitrel.cli.doctor_desk import of_desk

    return of_desk(console, repo, remote, deploy)
