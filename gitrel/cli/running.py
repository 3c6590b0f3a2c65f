"""`gitrel run`: the release's processes, supervised."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from gitrel.cli.console import Console
from gitrel.cli.looking import Order
from gitrel.cli.pulling import nothing_to_run, pull_once
from gitrel.cli.server import open_home
from gitrel.cli.supervisor import Task
from gitrel.dataclass import asdict, replace
from gitrel.errors import GitrelError, UsageError
from gitrel.run.leases import Leases
from gitrel.run.spawn import set_undumpable
from gitrel.store.limits import Limits

# A start does not wait long for a remote that does not answer, if there is something to run.
_CONNECT, _IDLE = 5, 15  # seconds


def parse_scale(text: str) -> dict[str, int]:
    """`web=2,worker=1`. Raises `UsageError`."""
    scales: dict[str, int] = {}
    for word in filter(None, text.split(",")):
        kind, _, number = word.partition("=")
        if not number.isdigit() or int(number) > 1000:
            raise UsageError(f"not a scale: {word!r}", hint="write it as web=2,worker=1")
        scales[kind] = int(number)
    return scales


def _limits(*, impatient: bool) -> Limits:
    limits = Limits.of(os.environ)
    if not impatient:
        return limits
    connect, idle = min(_CONNECT, limits.connect_seconds), min(_IDLE, limits.idle_seconds)
    return replace(limits, connect_seconds=connect, idle_seconds=idle)


def run(
    console: Console,
    path: Path | None,
    order: Order,
    follow: bool,
    interval: float,
    metrics: Path | None,
    receipts: bool = False,
) -> None:
    """Pull, verify, and become the supervisor."""
    for number in (signal.SIGHUP, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)  # until the supervisor listens: what they ask for is being done
    set_undumpable()
    home = open_home(path)
    if receipts and home.read_state().host is None:
        hint = "`gitrel receipts NAME`, such as web1, first"
        raise UsageError("this server has no name to sign receipts with", where=str(home.path), hint=hint)
    with home.lock("run") as lock:
        state = home.read_state()
        if state.pinned is not None:
            console.note(f"PINNED to {state.pinned} on this server, until `gitrel unpin`")
        try:
            pulled = pull_once(home, console, limits=_limits(impatient=bool(state.ready)), keep=order.keep)
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
            order=asdict(order),
            interval=interval if follow else None,
            first=first.encode().decode(),
            receipts=receipts,
        ).become(os.environ)
