"""Knowing processes again, and never hitting a stranger."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from gitrel.processes import EXEC_LIMIT, Seen, descendants, environment, hold, kill_all, look, parse_stat, strike
from gitrel.run.formation import MARK, home_of, mark
from gitrel.run.proctree import mark_of, of_home

HOME = f"/srv/a:b-{os.getpid()}"  # other workers run this file too
STAT = b"%d (%s) %s 1 2 3 0 -1 4194304 0 0 0 0 0 0 0 0 20 0 %d 0 9876 0 0"


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    env = {MARK: mark(HOME, "v1", "web.1")}
    with subprocess.Popen(["/bin/sleep", "1000"], env=env, start_new_session=True) as process:
        yield process
        process.kill()


def seen(pid: int) -> Seen:
    found = look(pid)
    assert found is not None
    return found


@pytest.mark.parametrize("name", [b"sh", b"a b", b") Z 9 (", b"((", b"\xff\n"])
def test_a_name_cannot_forge_a_stat(name: bytes) -> None:
    assert parse_stat(STAT % (7, name, b"S", 1)) == Seen(7, 1, 3, 9876, False)


@pytest.mark.parametrize(("state", "threads", "dead"), [(b"Z", 1, True), (b"Z", 3, False), (b"D", 1, False)])
def test_dead_is_a_zombie_without_threads(state: bytes, threads: int, dead: bool) -> None:
    assert parse_stat(STAT % (7, b"x", state, threads)).dead is dead


def test_this_process() -> None:
    me = seen(os.getpid())
    assert (me.pid, me.parent, me.session, me.dead) == (os.getpid(), os.getppid(), os.getsid(0), False)


def test_descendants_of_a_tree() -> None:
    tree = {pid: Seen(pid, parent, 1, 1, False) for pid, parent in [(1, 0), (2, 1), (3, 2), (4, 3), (5, 1), (6, 6)]}
    assert {found.pid for found in descendants(tree, [2])} == {3, 4}
    assert {found.pid for found in descendants(tree, [1])} == {2, 3, 4, 5}
    assert descendants(tree, [4]) == []
    assert {found.pid for found in descendants(tree, [2, 3])} == {4}


@pytest.mark.parametrize("home", ["/srv/a", "/srv/a:b", "/srv/a:b:c", ""])
def test_a_mark_names_its_home(home: str) -> None:
    assert home_of(mark(home, "v12", "web-x.3")) == home


def test_a_process_is_found_by_its_mark_and_by_no_other(sleeper: subprocess.Popen[bytes]) -> None:
    assert mark_of(sleeper.pid) == mark(HOME, "v1", "web.1")
    assert [found.pid for found in of_home(HOME)] == [sleeper.pid]
    assert of_home("/srv/a") == []


AGAIN = """i=$((${1:-0} + 1)); [ $i -gt 500 ] || exec sh -c "$0" "$0" $i; echo done; read _"""


def test_a_process_is_found_while_it_becomes_another_program() -> None:
    """Without waiting, every sixteenth look finds no environment."""
    env, pipe = {"PATH": os.defpath, "TMPDIR": "here"}, subprocess.PIPE
    with subprocess.Popen(["sh", "-c", AGAIN, AGAIN], env=env, stdin=pipe, stdout=pipe) as process:
        looks = 0
        assert process.stdout is not None
        while not select.select([process.stdout], [], [], 0)[0]:
            assert b"TMPDIR=here" in environment(process.pid)
            looks += 1
        process.communicate()
    assert looks > 500


def test_a_process_without_an_environment_is_not_waited_for() -> None:
    with subprocess.Popen(["/bin/sleep", "1000"], env={}) as process:
        while look(process.pid) is None or b"sleep" not in Path(f"/proc/{process.pid}/stat").read_bytes():
            os.sched_yield()
        before = time.monotonic()
        for _ in range(100):
            assert environment(process.pid) == []
        assert time.monotonic() - before < EXEC_LIMIT
        process.kill()


def test_a_process_is_found_by_its_session(sleeper: subprocess.Popen[bytes]) -> None:
    assert [found.pid for found in of_home("elsewhere", {sleeper.pid})] == [sleeper.pid]


def test_a_reused_pid_is_left_alone(sleeper: subprocess.Popen[bytes]) -> None:
    stranger = replace(seen(sleeper.pid), start=seen(sleeper.pid).start - 1)
    assert hold(stranger) is None
    assert strike(stranger) is None
    assert sleeper.poll() is None


def test_what_is_struck_is_known_to_end(sleeper: subprocess.Popen[bytes]) -> None:
    fd = strike(seen(sleeper.pid))
    assert fd is not None
    assert select.select([fd], [], [], 30)[0] == [fd]
    os.close(fd)
    assert sleeper.wait() == -signal.SIGKILL


def test_kill_all_goes_on_until_nothing_is_found(sleeper: subprocess.Popen[bytes]) -> None:
    assert kill_all(lambda: of_home(HOME), 30.0) == []
    assert sleeper.wait() == -signal.SIGKILL
    assert of_home(HOME) == []


def test_kill_all_says_what_is_left(sleeper: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    """What does not die cannot be had without a broken disk: its KILL is held back instead."""
    monkeypatch.setattr(signal, "pidfd_send_signal", lambda _fd, _number: None)
    left = kill_all(lambda: of_home(HOME), 0.05)
    assert [found.pid for found in left] == [sleeper.pid]
