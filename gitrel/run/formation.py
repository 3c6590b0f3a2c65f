"""What is to run: the value that the supervisor is handed, and the mark by which its processes are known
again.

A formation is made by code that has verified a release; nothing here looks at files. The environment of a
process is exactly `Process.env`: the supervisor adds nothing and takes nothing away. For that reason the mark
(`MARK`, see `mark`) is part of the environment that the caller builds.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self, TypeAlias

from gitrel.dataclass import asdict, dataclass
from gitrel.format.health import Health

MARK = "GITREL_MARK"

Address: TypeAlias = tuple[str, int]  # an IP address in its shortest form, and a port


@dataclass(frozen=True, slots=True, kw_only=True)
class User:
    """Whom a process runs as: credentials(7)."""

    uid: int
    gid: int
    groups: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Process:
    """One instance of a process type. `index` counts from 1, `settle` and `stop_timeout` are seconds.

    `command` is a Procfile line; `/bin/sh -c` runs it in `cwd`. `env` is the whole environment and holds
    `MARK`. `port` is where `health` asks, on 127.0.0.1; without `health` the process is healthy after
    `settle`. `listen`: the address of the socket that it is handed, where `health` asks then. `user`: whom it
    runs as, None for gitrel's own. `limit`: of a process that runs once, the seconds that it may take.
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
    listen: Address | None = None
    user: User | None = None
    limit: float | None = None

    @property
    def name(self) -> str:
        return f"{self.type}.{self.index}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Formation:
    """All processes of one release. `release` is a label such as `v3`; equal labels mean the same thing to
    run, but for its scale. `before` runs once, to its end, before any of the others is started.
    """

    release: str
    processes: tuple[Process, ...]
    before: Process | None = None

    @property
    def names(self) -> frozenset[str]:
        return frozenset(process.name for process in self.processes)

    @property
    def sockets(self) -> frozenset[Address]:
        return frozenset(process.listen for process in self.processes if process.listen is not None)

    def find(self, name: str) -> Process:
        """The process of that name, `before` included. Raises `KeyError`."""
        return {each.name: each for each in (*self.processes, *([self.before] if self.before else []))}[name]


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What a look at the home found: the formation that is wanted, and the one to go back to.

    `same`: what the look before found is still wanted, and `wanted` is not worked out again. `token` is what the next
    look is told about this one. It travels from the child that looks to the supervisor as JSON, through a pipe or in
    memory: it holds secrets.
    """

    token: str
    same: bool = False
    wanted: Formation | None = None
    good: Formation | None = None

    def encode(self) -> bytes:
        return json.dumps(asdict(self), default=str).encode()

    @classmethod
    def parse(cls, raw: bytes) -> Self:
        """What `encode` made. Raises `ValueError`, `KeyError`, `TypeError`."""
        document = json.loads(raw)
        return cls(
            token=document["token"],
            same=document["same"],
            wanted=_formation(document["wanted"]),
            good=_formation(document["good"]),
        )


def _formation(document: Any) -> Formation | None:
    if document is None:
        return None
    before = document["before"]
    return Formation(
        release=document["release"],
        processes=tuple(map(_process, document["processes"])),
        before=None if before is None else _process(before),
    )


def _process(document: Any) -> Process:
    health, listen, user = document["health"], document["listen"], document["user"]
    document |= {
        "cwd": Path(document["cwd"]),
        "health": None if health is None else Health(**health),
        "listen": None if listen is None else (listen[0], listen[1]),
        "user": None if user is None else User(uid=user["uid"], gid=user["gid"], groups=tuple(user["groups"])),
    }
    return Process(**document)


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
    for process in (*formation.processes, *([formation.before] if formation.before else [])):
        if process.env.get(MARK) != mark(home, formation.release, process.name):
            raise ValueError(f"{formation.release} {process.name}: {MARK} is not in its environment")


def check_looker_marked(env: Mapping[str, str], home: str) -> None:
    """The same for the child that looks, of which there is one whatever the release."""
    if home_of(env.get(MARK, "")) != home:
        raise ValueError(f"the looker: {MARK} is not in its environment")
