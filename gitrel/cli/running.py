"""`gitrel run` and `gitrel exec`: the release's processes, supervised or alone."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from gitrel.cli.console import Console
from gitrel.cli.looking import Order
from gitrel.cli.pulling import nothing_to_run, pull_once
from gitrel.cli.server import open_home
from gitrel.cli.supervisor import Task
from gitrel.errors import GitrelError, LocalStateError, UsageError
from gitrel.run.formation import Address
from gitrel.run.layout import Layout
from gitrel.run.leases import Leases
from gitrel.run.resolve import candidates, verify_here
from gitrel.run.spawn import become, set_undumpable
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


def run(console: Console, path: Path | None, order: Order, follow: bool, interval: float, metrics: Path | None) -> None:
    """Pull, verify, and become the supervisor."""
    for number in (signal.SIGHUP, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)  # until the supervisor listens: what they ask for is being done
    set_undumpable()
    home = open_home(path)
    with home.lock("run") as lock:
        state = home.read_state()
        if state.pinned is not None:
            console.note(f"PINNED to {state.pinned} on this server, until `gitrel unpin`")
        try:
            pulled = pull_once(home, console, limits=_IMPATIENT if state.ready else None, keep=order.keep)
        except GitrelError as error:  # whatever it is, what was verified before can run
            console.note(f"not pulled: {error}")
        else:
            if pulled.release is None and not follow:
                raise nothing_to_run(home, pulled)
        leases = Leases(home, inherited=True)
        first = order.choice(home, leases, console).first(follow=follow)
        Task(
            home=str(home.path),
            lock=lock,
            leases=leases.fd,
            metrics=str(metrics.absolute()) if metrics else None,
            order=order.document(),
            interval=interval if follow else None,
            first=first.encode().decode(),
        ).become(os.environ)


def exec_process(path: Path | None, kinds: list[str], args: list[str], port: int, environment: str | None) -> None:
    """Become a process of the current release; without a process type, the command `args` in the environment of one."""
    set_undumpable()
    home = open_home(path)
    state = home.read_state()
    entry = state.current or candidates(state)[0]
    leases = Leases(home)  # until this process is marked as one of the release's
    leases.take(entry)
    verified = verify_here(home, state, entry)
    layout = Layout(home, verified, port=port)
    layout.provide()
    if len(kinds) > 1 or not (kinds or args):
        raise UsageError(
            "one process type, or a command", hint="`gitrel exec web -- ARGS`, or `gitrel exec -- COMMAND`"
        )
    kind = kinds[0] if kinds else None
    process = layout.process(kind or environment or layout.first, 1)
    env = dict(process.env)
    argv = args if kind is None else ["/bin/sh", "-c", _command(process.command, args), kind, *args]
    try:
        if kind is not None and process.listen is not None:
            env |= _hand_over(process.listen, kind)
        if process.user is not None:
            become(process.user)
        os.chdir(process.cwd)
        # Python ignores it, and what is ignored stays so through exec.
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        os.execvpe(argv[0], argv, env)  # noqa: S606 - the Procfile line was verified; other commands are the user's own
    except OSError as error:
        what = f"{kind or argv[0]} cannot be started"
        raise LocalStateError(what, where=error.filename or str(process.cwd), why=error.strerror or "") from error


def _command(line: str, args: list[str]) -> str:
    command = f"exec {line}" if _simple(line) else line
    return f'{command} "$@"' if args else command


def _hand_over(address: Address, name: str) -> dict[str, str]:
    """The listening socket as descriptor 3, and the variables that say so (sd_listen_fds(3)). Raises `OSError`."""
    from gitrel.run.sockets import FIRST_FD, Sockets, inherited

    os.dup2(Sockets(inherited(os.environ)).get(address).detach(), FIRST_FD)
    os.set_inheritable(FIRST_FD, True)
    return {"LISTEN_FDS": "1", "LISTEN_FDNAMES": name, "LISTEN_PID": str(os.getpid())}


def _simple(command: str) -> bool:
    """Whether `exec` may stand before a Procfile line: a plain command, no shell grammar that it would change."""
    first = command.split(maxsplit=1)[0]
    return not any(char in command for char in ";&|<>()`\n") and first != "exec" and "=" not in first
