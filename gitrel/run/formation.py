"""What is to run: the value that the supervisor is handed, and the mark by which its processes are known
again.

A formation is made by code that has verified a release; nothing here looks at files. The environment of a
process is exactly `Process.env`: the supervisor adds nothing and takes nothing away. For that reason the mark
(`MARK`, see `mark`) is part of the environment that the caller builds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from gitrel.format.manifest import Health

MARK = "GITREL_MARK"


@dataclass(frozen=True, slots=True, kw_only=True)
class Process:
    """One instance of a process type. `index` counts from 1, `settle` and `stop_timeout` are seconds.

    `command` is a Procfile line; `/bin/sh -c` runs it in `cwd`. `env` is the whole environment and holds
    `MARK`. `port` is where `health` asks, on 127.0.0.1; without `health` the process is healthy after
    `settle`.
    """

    type: str
    index: int
    command: str
    env: Mapping[str, str]
    cwd: Path
    port: int
    health: Health | None
    settle: float
    stop_timeout: float

    @property
    def name(self) -> str:
        return f"{self.type}.{self.index}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Formation:
    """All processes of one release. `release` is a label such as `v3`; equal labels mean the same thing to
    run.
    """

    release: str
    processes: tuple[Process, ...]

    @property
    def names(self) -> frozenset[str]:
        return frozenset(process.name for process in self.processes)


def mark(home: str, release: str, name: str) -> str:
    """The value of `MARK` for a process (`name` such as `web.1`, `pull` for the poller) of a release of a
    home.

    `home` is any text that is the same at every start and different for every home, such as its resolved
    path. Children inherit the variable, so a process that outlived its supervisor can be told from all
    others.
    """
    return f"{home}:{release}:{name}"


def home_of(value: str) -> str:
    """The home that a value of `MARK` names; neither a release nor a process's name has a colon."""
    return value.rsplit(":", 2)[0]


def check_marked(formation: Formation, home: str) -> None:
    """Raises `ValueError`, a caller's bug, for a process that could not be found again or whose name stands
    twice.
    """
    if len(formation.names) != len(formation.processes):
        raise ValueError(f"{formation.release}: two processes of one name")
    for process in formation.processes:
        if process.env.get(MARK) != mark(home, formation.release, process.name):
            raise ValueError(f"{formation.release} {process.name}: {MARK} is not in its environment")


def check_poller_marked(env: Mapping[str, str], home: str) -> None:
    """The same for the child that pulls, of which there is one whatever the release."""
    if home_of(env.get(MARK, "")) != home:
        raise ValueError(f"the poller: {MARK} is not in its environment")
