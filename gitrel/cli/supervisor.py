"""What `gitrel run` becomes once it knows what to run: `python -P -m gitrel.cli.supervisor FD HOME`.

It stays for as long as the server is up. So it imports nothing that parses records, verifies, decrypts, speaks to a
remote or reads a command line: that is done by `gitrel.cli.looking`, in a child each time. What it needs is in a
`memfd_create(2)` at descriptor FD, as the first wish may hold secrets.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

from gitrel.cli.outcome import outcome
from gitrel.dataclass import asdict, dataclass
from gitrel.errors import GitrelError
from gitrel.run import courier
from gitrel.run.follow import Looker
from gitrel.run.formation import MARK, Wish, mark
from gitrel.run.home import Home
from gitrel.run.leases import Leases
from gitrel.run.receipts import ReceiptRecorder
from gitrel.run.record import HomeRecorder
from gitrel.run.sockets import inherited
from gitrel.run.spawn import set_undumpable
from gitrel.run.supervise import Supervisor
from gitrel.run.task import Job
from gitrel.store import builds

LIMIT = 3600.0  # seconds that a look may take
# What a service manager says to this process alone (sd_notify(3), sd_listen_fds(3)).
_FROM_MANAGER = ("NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC", "LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES")


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """`lock`: the descriptor of the home's lock `run`, which is held; `leases`: that of `gitrel.run.leases`; `order`:
    for `gitrel look`; `interval`: seconds between two pulls, None for no following; `metrics`: a file; `receipts`:
    whether what runs is signed.
    """

    home: str
    lock: int
    leases: int
    metrics: str | None
    order: dict[str, Any]
    interval: float | None
    first: str
    receipts: bool

    def become(self, env: Mapping[str, str]) -> NoReturn:
        """Replace this process with the supervisor. Raises `OSError`."""
        fd = os.memfd_create("gitrel-run", 0)
        with open(fd, "wb", closefd=False) as file:
            file.write(json.dumps(asdict(self)).encode())
        for kept in (self.lock, *inherited(env)):
            os.set_inheritable(kept, True)
        argv = [sys.executable, "-P", "-m", "gitrel.cli.supervisor", str(fd), self.home]  # the home is for ps(1) alone
        os.execve(sys.executable, argv, dict(env))  # noqa: S606


def _read(fd: int) -> Task:
    with open(fd, "rb") as file:
        file.seek(0)
        return Task(**json.load(file))


def supervise(task: Task, env: Mapping[str, str]) -> None:
    """Raises `GitrelError`."""
    home = Home(Path(task.home))
    os.set_inheritable(task.lock, False)
    gitrel = [sys.executable, "-P", "-m", "gitrel"]
    passed = {name: value for name, value in env.items() if name not in _FROM_MANAGER}
    looker = Looker(
        argv=[*gitrel, "look", "--home", task.home, "--order", json.dumps(task.order)],
        env={**passed, MARK: mark(str(home.path), "-", "pull")},
        cwd=Path("/"),
        interval=task.interval,
        limit=LIMIT,
        give=[task.leases] if task.leases >= 0 else [],
    )
    recorder: HomeRecorder | ReceiptRecorder = HomeRecorder(home, Leases(home, fd=task.leases))
    sender = None
    if task.receipts:
        recorder = ReceiptRecorder(recorder, home)
        argv = [*gitrel, "send-receipts", "--home", task.home]
        marked = {**passed, MARK: mark(str(home.path), "-", courier.NAME)}
        sender = Job(name=courier.NAME, argv=argv, env=marked, cwd=Path("/"), limit=courier.LIMIT, grace=courier.GRACE)
    supervisor = Supervisor(
        recorder,
        looker,
        Wish.parse(task.first.encode()),
        home=str(home.path),
        status=home.status_file,
        output=sys.stdout.fileno(),
        intact=lambda folder: folder.parent != home.builds or builds.sealed(folder) is not None,
        observe=None if task.metrics is None else partial(_write_metrics, home, Path(task.metrics)),
        hold=[task.lock],
        manager_env=env,
        given=inherited(env),
        colour=sys.stdout.isatty(),
        sender=sender,
    )
    try:
        supervisor.run()
    finally:
        if isinstance(recorder, ReceiptRecorder) and sender is not None:
            _say_farewell(recorder, sender)


def _say_farewell(recorder: ReceiptRecorder, sender: Job) -> None:
    """The last receipt, which has as long as one attempt takes (`gitrel.cli.receipts`): nothing runs any more."""
    try:
        recorder.closed()
        os.waitpid(os.posix_spawn(sender.argv[0], list(sender.argv), dict(sender.env)), 0)
    except (GitrelError, OSError) as error:
        print(f"gitrel: {courier.NAME}: {error}", file=sys.stderr)


def _write_metrics(home: Home, path: Path, document: Mapping[str, Any]) -> None:
    from gitrel.run import metrics, report

    sessions = [each["pid"] for each in document["processes"] if each["pid"]]
    metrics.write(path, metrics.encode(document, home.read_state(), memory=report.resident(sessions)))


def main() -> int:
    set_undumpable()
    return outcome(lambda: supervise(_read(int(sys.argv[1])), dict(os.environ)))


if __name__ == "__main__":
    sys.exit(main())
