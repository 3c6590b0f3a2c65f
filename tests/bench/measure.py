"""Rows of a table: what gitrel does beside what another program does, in turns, in one run.

Each side of a comparison runs once in every round, so that what else the machine does meets both, and a ratio is the
median of the rounds' ratios. Output goes to a new name each time and is deleted at the end only: ext4 looks through
what was deleted a moment ago when it makes new files, and the next side would pay for it.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_PR_SET_CHILD_SUBREAPER = 36
HERE = Path(__file__).resolve().parent
QUIET = {
    "PYTHONPATH": str(HERE.parents[1]),
    "PYTHONDONTWRITEBYTECODE": "",  # an installed program is compiled
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_CONFIG_SYSTEM": os.devnull,
    "LC_ALL": "C.UTF-8",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Took:
    """`seconds` by the clock on the wall, `cpu` seconds of processors, and the peak of memory in MiB, where known."""

    seconds: float
    cpu: float
    peak: float = 0.0


@dataclass(slots=True, kw_only=True)
class Series:
    """What one side took, round by round."""

    name: str
    took: list[Took] = field(default_factory=list)

    @property
    def seconds(self) -> float:
        return statistics.median(each.seconds for each in self.took)

    @property
    def peak(self) -> float:
        return max((each.peak for each in self.took), default=0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One line: `ours` beside `theirs`, and the ratio that was aimed at."""

    what: str
    ours: Series
    theirs: Series
    aim: float
    unit: str = "s"

    @property
    def pairs(self) -> list[tuple[Took, Took]]:
        return list(zip(self.ours.took, self.theirs.took, strict=True))

    @property
    def ratio(self) -> float:
        return statistics.median(ours.seconds / theirs.seconds for ours, theirs in self.pairs)

    @property
    def cpu_ratio(self) -> float:
        return statistics.median(ours.cpu / max(theirs.cpu, 1e-3) for ours, theirs in self.pairs)

    def _said(self, value: float) -> str:
        return f"{value:.2f} s" if self.unit == "s" else f"{value:,.0f} {self.unit}"

    def cells(self) -> tuple[str, ...]:
        mark = "" if self.ratio <= self.aim else " (not met)"
        return (
            self.what,
            self._said(self.ours.seconds),
            f"{self.theirs.name}: {self._said(self.theirs.seconds)}",
            f"**{self.ratio:.2f}**",
            f"{self.aim:g}{mark}",
            f"{self.cpu_ratio:.2f}" if self.unit == "s" else "",
            f"{self.ours.peak:.0f} MiB" if self.ours.peak else "",
        )


HEAD = ("", "gitrel", "beside", "ratio", "aim", "ratio of processor time", "peak memory")


def table(rows: Sequence[Row]) -> str:
    """In Markdown."""
    lines = [HEAD, tuple("---" for _ in HEAD), *(row.cells() for row in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def together(*parts: Took) -> Took:
    """One after the other."""
    return Took(seconds=sum(part.seconds for part in parts), cpu=sum(part.cpu for part in parts))


def take_turns(
    rounds: int, sides: Mapping[str, Callable[[int], Took]], say: Callable[[str], None]
) -> dict[str, Series]:
    """Run every side once a round, in their order; the disk is quiet before each."""
    series = {name: Series(name=name) for name in sides}
    for number in range(rounds):
        for name, run in sides.items():
            os.sync()
            series[name].took.append(run(number))
            say(f"{name}: {series[name].took[-1].seconds:.2f} s")
    return series


def run(*command: str | Path, cwd: Path | None = None) -> Took:
    """A program and all that it starts, by the clock on the wall."""
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)  # prctl(2)
    others = _children()
    env = {**os.environ, **QUIET}
    started = time.perf_counter()
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([str(part) for part in command], cwd=cwd, env=env, capture_output=True, check=False)
    seconds = time.perf_counter() - started
    while left := _children() - others:  # a server that was hung up on, say: that is part of the cost
        os.waitpid(left.pop(), 0)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise RuntimeError(f"{command}: status {done.returncode}\n{done.stderr.decode()}")
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Took(seconds=seconds, cpu=cpu)


def _children() -> set[int]:
    """The processes that this one has to wait for (proc(5))."""
    return {int(pid) for path in Path("/proc/self/task").glob("*/children") for pid in path.read_text().split()}


def own(function: str, **arguments: Any) -> dict[str, Any]:
    """A function of `engine.py` in a new process: what it returns, and its `seconds` and `peak`."""
    command = [sys.executable, str(HERE / "engine.py"), function, json.dumps(arguments, default=str)]
    done = subprocess.run(command, env={**os.environ, **QUIET}, capture_output=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{function}: {done.stderr.decode()}")
    found: dict[str, Any] = json.loads(done.stdout)
    return found
