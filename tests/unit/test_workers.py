"""Work shared out to processes: in order, bounded, and with nobody left behind."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from conftest import run_git
from workers_support import shared_out

import gitrel
from gitrel import workers
from gitrel.errors import BuildFailed, LocalStateError, Refused
from gitrel.ids import ObjectFormat
from gitrel.store.repository import Repository
from gitrel.store.snapshot import snapshot
from gitrel.workers import Share, in_order

ROOT = Path(gitrel.__file__).parents[1]
MANY = 40


def tasks(count: int = MANY, cost: int = 1) -> Iterator[Share[str, int]]:
    for number in range(count):
        yield Share(f"{number}", number, cost)


def children() -> list[str]:
    return Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()


def descriptors() -> int:
    gc.collect()  # what earlier tests left open is closed now, and not in the middle of this one
    return len(os.listdir("/proc/self/fd"))


def done_by(number: int) -> tuple[int, int]:
    return number * number, os.getpid()


@pytest.fixture(autouse=True)
def nobody_stays() -> Iterator[None]:
    before = children(), descriptors()
    yield
    assert (children(), descriptors()) == before


@pytest.mark.parametrize("count", [0, 1, 2, 3, MANY])
def test_results_come_in_order_and_a_small_job_needs_nobody(count: int) -> None:
    found = list(in_order(tasks(count), done_by, ahead=10))
    assert [(kept, square) for kept, (square, _) in found] == [(f"{n}", n * n) for n in range(count)]
    others = {pid for _, (_, pid) in found} - {os.getpid()}
    assert len(others) <= workers.WORKERS
    assert bool(others) == (count > 2)


def test_no_more_is_held_than_was_said() -> None:
    made = 0

    def counted() -> Iterator[Share[str, int]]:
        nonlocal made
        for share in tasks(100, cost=10):
            made += 1
            yield share

    for taken, _ in enumerate(in_order(counted(), done_by, ahead=30), 1):
        assert made <= taken + 3
    assert made == 100


def test_messages_of_any_size_pass_both_ways_at_once() -> None:
    """More than a pipe holds, so that a caller that only wrote and workers that only answered would wait forever."""
    big = [os.urandom(3_000_000) for _ in range(3)]
    shares = [Share(number, big[number % 3], 1) for number in range(12)]
    assert list(in_order(iter(shares), bytes.upper, ahead=100)) == [(n, big[n % 3].upper()) for n in range(12)]


@pytest.mark.parametrize("at", [0, 1, 2, 17, MANY - 1])
@pytest.mark.parametrize(
    "error",
    [
        Refused("wrong", check=12, where="blob 1", why="because", hint="do this"),
        BuildFailed("changed", where="a/b"),
        FileNotFoundError(2, "No such file", "a"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_error_is_raised_in_its_place_and_is_the_same(at: int, error: Exception) -> None:
    def fails(number: int) -> int:
        if number == at:
            raise error
        return number

    came: list[str] = []
    with pytest.raises(type(error)) as raised:
        came.extend(kept for kept, _ in in_order(tasks(), fails, ahead=1))
    assert came == [f"{number}" for number in range(at)]
    assert (str(raised.value), vars(raised.value)) == (str(error), vars(error))


def test_who_stops_early_leaves_nobody_at_work() -> None:
    with closing(in_order(tasks(), done_by, ahead=5)) as results:
        next(results)


def die(number: int) -> int:
    if number == 5:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def exit_with(number: int) -> int:
    if number == 5:
        os._exit(3)
    return number


@pytest.mark.parametrize(("work", "why"), [(die, "killed by signal 9"), (exit_with, "status 3")])
def test_a_worker_that_dies_is_an_error(work: Callable[[int], int], why: str) -> None:
    with pytest.raises(LocalStateError, match=why):
        list(in_order(tasks(), work, ahead=100))


def test_without_a_second_process_the_caller_does_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused() -> int:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(os, "fork", refused)
    found = list(in_order(tasks(), done_by, ahead=10))
    assert {pid for _, (_, pid) in found} == {os.getpid()}


def test_on_one_processor_the_caller_does_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "WORKERS", 1)
    found = list(in_order(tasks(), done_by, ahead=10))
    assert {pid for _, (_, pid) in found} == {os.getpid()}


LONG = """
import os, sys, time
from gitrel.workers import Share, in_order
def work(number):
    if number < 2:
        return number
    os.write(1, b"%d\\n" % os.getpid())
    while True:
        time.sleep(60)
list(in_order((Share(n, n, 1) for n in range(9)), work, ahead=9))
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_workers_end_with_their_caller_however_that_ends(number: signal.Signals) -> None:
    """Ctrl-C goes to all of a terminal's processes, and only one of them has to say something."""
    command = [sys.executable, "-c", LONG]
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, process_group=0
    ) as process:
        assert process.stdout is not None
        pids = {int(process.stdout.readline()) for _ in range(workers.WORKERS)}
        if number is signal.SIGINT:
            os.killpg(process.pid, number)
        else:
            process.send_signal(number)
        out, err = process.communicate(timeout=30)  # the workers have these pipes, too: the last one closes them
    assert process.returncode == -number
    assert (out, err.count(b"Traceback")) == (b"", int(number is signal.SIGINT))
    assert process.pid not in pids


def test_a_pack_does_not_depend_on_who_was_first(tmp_path: Path) -> None:
    """Files with equal content, in many shares: the pack is the same byte for byte, and each blob is in it once."""
    folder = tmp_path / "folder"
    folder.mkdir()
    for number in range(60):
        (folder / f"{number:02}").write_bytes(b"%d" % (number % 7) * (5_000_000 if number % 30 == 4 else 50))
    packs = set()
    for number in range(4):
        with shared_out(number > 0), Repository.init_bare(tmp_path / f"{number}.git", ObjectFormat.SHA1) as repo:
            snapshot(folder, repo)
            run_git(repo.path, "fsck", "--strict", "--full", "--no-dangling")
            assert {path.suffix for path in (repo.objects / "pack").iterdir()} == {".pack", ".idx"}
            packs.add(next((repo.objects / "pack").glob("*.pack")).name)
    assert len(packs) == 1
