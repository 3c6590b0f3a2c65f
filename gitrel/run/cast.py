"""The processes that are alive now, by attempt and name: the hands of `rollout`, and its ears."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial

from gitrel.run import lifecycle
from gitrel.run.formation import Formation, Process
from gitrel.run.lifecycle import Exit, Notice, Report
from gitrel.run.rollout_state import Event, Failed, Gone, Member, Ready
from gitrel.run.room import Room
from gitrel.run.task import Job, Task
from gitrel.run.tend import SHELL, Keeper


class Cast:
    """Starts and stops members; what becomes of each is told to `tell`."""

    def __init__(self, room: Room, tell: Callable[[Event], None]) -> None:
        self._room = room
        self._tell = tell
        self._keepers: dict[Member, Keeper] = {}
        self._tasks: dict[Member, Task] = {}

    def start(self, formation: Formation, members: Iterable[Member]) -> None:
        ordered = sorted(members)
        for member in ordered:
            process = formation.find(member.name)
            if process.limit is not None:
                self._run_once(member, process, process.limit)
            else:
                label = f"{process.name}@{formation.release}" if self._is_taken(process.name) else process.name
                report = partial(self._reported, member)
                self._keepers[member] = Keeper(process, formation.release, self._room, report, label=label)
        for member in ordered:
            if member in self._keepers:
                self._keepers[member].tell(lifecycle.Start())

    def _is_taken(self, name: str) -> bool:
        return any(member.name == name and not keeper.gone for member, keeper in self._keepers.items())

    def _run_once(self, member: Member, process: Process, limit: float) -> None:
        job = Job(
            name=process.name,
            argv=[SHELL, "-c", process.command],
            env=process.env,
            cwd=process.cwd,
            limit=limit,
            grace=process.stop_timeout,
            user=process.user,
        )
        task = self._tasks[member] = Task(job, self._room, partial(self._ended, member))
        try:
            task.start()
        except OSError as error:
            self._tell(Gone(member))
            self._tell(Failed(member, f"cannot be started: {error.strerror}"))

    def _ended(self, member: Member, how: Exit) -> None:
        late = self._tasks[member].late
        self._tell(Gone(member))
        self._tell(Ready(member) if how == Exit(code=0) else Failed(member, "not done in time" if late else str(how)))
        del self._tasks[member]

    def _reported(self, member: Member, said: Report) -> None:
        match said.notice:
            case Notice.HEALTHY:
                self._tell(Ready(member))
            case Notice.FAILED:
                self._tell(Failed(member, said.detail))
            case Notice.GONE:
                del self._keepers[member]
                self._tell(Gone(member))
            case _:
                pass  # of interest to the log only

    def stop(self, members: Iterable[Member]) -> None:
        for member in sorted(members):
            if member in self._keepers:
                self._keepers[member].tell(lifecycle.Stop())
            if member in self._tasks:
                self._tasks[member].stop()

    def kill(self) -> None:
        for keeper in list(self._keepers.values()):
            keeper.tell(lifecycle.Kill())
        for task in list(self._tasks.values()):
            task.kill()

    def last_words(self, release: str) -> list[bytes]:
        """What the processes of a release printed last, each line with the process's name."""
        said = [(keeper.process.name, keeper.last_words()) for keeper in self.keepers(release)]
        said += [(member.name, task.last_words()) for member, task in self._tasks.items()]
        return [b"%s | %s" % (name.encode(), line) for name, lines in said for line in lines]

    def keepers(self, release: str | None = None) -> Iterator[Keeper]:
        """In the order of attempts and names, all or those of a release."""
        for _, keeper in sorted(self._keepers.items()):
            if release in (None, keeper.release):
                yield keeper

    def sessions(self) -> set[int]:
        """Of all leaders that live."""
        found = {keeper.session for keeper in self._keepers.values()} | {t.session for t in self._tasks.values()}
        return found - {0}
