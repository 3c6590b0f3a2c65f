"""`gitrel run` and `gitrel exec`: the release's processes, supervised or alone."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from gitrel.cli.console import Console
from gitrel.cli.pulling import nothing_to_run, pull_once
from gitrel.cli.server import open_home, poll_mark
from gitrel.errors import GitrelError, LocalStateError, UsageError
from gitrel.ids import Entry
from gitrel.run.formation import MARK
from gitrel.run.resolve import Choice, Layout, candidates, verify_here
from gitrel.store.durable import make_folders
from gitrel.store.limits import Limits

# A start does not wait long for a remote that does not answer, if there is something to run.
_IMPATIENT = Limits(connect_seconds=5, idle_seconds=15)


def parse_scale(text: str) -> dict[str, int]:
    """`web=2,worker=1`. Raises `UsageError`."""
    scales: dict[str, int] = {}
    for word in filter(None, text.split(",")):
        kind, _, number = word.partition("=")
        if not number.isdigit() or int(number) > 1000:
            raise UsageError(f"not a scale: {word!r}", hint="write it as web=2,worker=1")
        scales[kind] = int(number)
    return scales


def run(
    console: Console,
    path: Path | None,
    entry: str | None,
    scale: str,
    follow: bool,
    interval: float,
    port: int,
    stop_if_repudiated: bool,
) -> None:
    from gitrel.run.supervise import Supervisor

    home = open_home(path)
    choice = Choice(
        home,
        Entry.parse(entry) if entry else None,
        scales=parse_scale(scale),
        port=port,
        stop_if_repudiated=stop_if_repudiated,
        say=console.note,
    )
    make_folders(home.run / "home")
    with home.lock("run") as lock:
        state = home.read_state()
        try:
            pulled = pull_once(home, console, limits=_IMPATIENT if state.ready else None)
        except GitrelError as error:  # whatever it is, what was verified before can run
            console.note(f"not pulled: {error}")
        else:
            if pulled.release is None and not follow:
                raise nothing_to_run(home, pulled)
        Supervisor(
            choice.resolve,
            [sys.executable, "-m", "gitrel", "pull", "--no-switch", "--home", str(home.path)] if follow else None,
            interval,
            home=str(home.path),
            status=home.status_file,
            output=sys.stdout.fileno(),
            poll_env={**os.environ, MARK: poll_mark(home)},
            last_good=choice.last_good(),
            on_good=choice.good,
            on_failed=choice.failed,
            hold=[lock],
            colour=sys.stdout.isatty(),
        ).run()


def exec_process(path: Path | None, kind: str, args: list[str], port: int) -> None:
    home = open_home(path)
    state = home.read_state()
    make_folders(home.run / "home")
    verified = verify_here(home, state, state.current or candidates(state)[0])
    process = Layout(home, verified, port=port).process(kind, 1)
    command = f"exec {process.command}" if _simple(process.command) else process.command
    if args:
        command += ' "$@"'
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)  # Python ignores it, and what is ignored stays so through exec
    try:
        os.chdir(process.cwd)
        os.execve(  # noqa: S606 - the shell is named here, and the Procfile line was verified
            "/bin/sh", ["sh", "-c", command, kind, *args], dict(process.env)
        )
    except OSError as error:
        raise LocalStateError(f"{kind} cannot be started", where=str(process.cwd), why=str(error)) from error


def _simple(command: str) -> bool:
    """Whether `exec` may stand before a Procfile line: a plain command, no shell grammar that it would change."""
    first = command.split(maxsplit=1)[0]
    return not any(char in command for char in ";&|<>()`\n") and first != "exec" and "=" not in first
