"""The folder that gitrel.build.stage works in: private, locked, and removed whatever is in it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import gitrel
from gitrel.build.stage import remove_tree, room
from gitrel.ids import ObjectId

COMMIT = ObjectId("a" * 40)


def test_a_room_is_private_and_locked(tmp_path: Path) -> None:
    with room(tmp_path, COMMIT) as folder:
        assert folder == tmp_path / f"gitrel-build-{COMMIT}"  # the same for every user: paths get into builds
        assert folder.stat().st_mode & 0o777 == 0o700
        assert list(folder.iterdir()) == []
        fd = os.open(folder, os.O_RDONLY)
        with pytest.raises(BlockingIOError):
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.close(fd)


def test_somebody_elses_folder_or_link_of_the_rooms_name_is_left_alone(tmp_path: Path) -> None:
    """Anybody can make a name in /tmp."""
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious/file").touch()
    with room(tmp_path, COMMIT) as folder:
        taken = folder
    taken.symlink_to(tmp_path / "precious")
    foreign = tmp_path / f"{taken.name}-foreign"
    foreign.mkdir()
    held = os.open(foreign, os.O_RDONLY)
    if os.geteuid() == 0:
        os.chown(foreign, 65534, 65534)
    else:  # who cannot give a folder away has it in use
        fcntl.flock(held, fcntl.LOCK_EX)
    with room(tmp_path, COMMIT) as folder:
        assert folder not in (taken, foreign)
    os.close(held)
    assert foreign.exists()
    assert (tmp_path / "precious/file").exists()


def test_folders_without_write_permission_are_removed(tmp_path: Path) -> None:
    """As somebody who is not root, whom permissions do not stop."""
    tree = tmp_path / "tree"
    (tree / "a/b").mkdir(parents=True)
    (tree / "a/b/file").touch()
    (tree / "a/link").symlink_to(tmp_path)
    (tree / "a/b").chmod(0o500)
    (tree / "a").chmod(0o000)
    if os.geteuid():
        remove_tree(tree)
    else:
        tmp_path.chmod(0o777)
        for path in (tree, tree / "a", tree / "a/b"):
            os.chown(path, 65534, 65534)
        for parent in (tmp_path.parent, tmp_path.parent.parent, tmp_path.parent.parent.parent):
            parent.chmod(parent.stat().st_mode | 0o011)
        child = os.fork()
        if child == 0:
            os.setresgid(65534, 65534, 65534)
            os.setresuid(65534, 65534, 65534)
            try:
                remove_tree(tree)
            except OSError:
                os._exit(1)
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert not tree.exists()
    assert tmp_path.exists()


def test_a_room_in_which_somebody_is_still_at_work_is_left_for_later(tmp_path: Path) -> None:
    """A program that outlived a killed build makes files while they are deleted."""
    busy = tmp_path / f"gitrel-build-{COMMIT}"
    child = os.fork()
    if child == 0:
        while True:
            with contextlib.suppress(OSError):
                busy.mkdir()
            with contextlib.suppress(OSError):
                (busy / "file").touch()
    try:
        while not busy.exists():
            os.sched_yield()
        for _ in range(20):
            with room(tmp_path, COMMIT) as folder:
                assert folder.is_dir()
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


HASHES = """
import os, sys
from pathlib import Path
from gitrel.build.checkout import Git
Git(Path(sys.argv[1]), os.environ).attempt("hash-object", "--no-filters", "fifo")
"""


def test_git_ends_with_the_build_that_started_it(tmp_path: Path) -> None:
    """Or it would go on writing into a room that the next build clears."""
    os.mkfifo(tmp_path / "fifo")
    command = [sys.executable, "-c", HASHES, str(tmp_path)]
    with (
        subprocess.Popen(command, cwd=Path(gitrel.__file__).parents[1]) as build,
        (tmp_path / "fifo").open("wb"),  # git has opened it, too, and waits for what is in it
    ):
        watch = os.pidfd_open(int(Path(f"/proc/{build.pid}/task/{build.pid}/children").read_text()))
        build.kill()
        poll = select.poll()
        poll.register(watch, select.POLLIN)
        assert poll.poll(10_000), "git is still there"
    os.close(watch)
