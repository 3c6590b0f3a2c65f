"""Refs by the hundred go into packed-refs at once, under git's own lock; and what a killed writer leaves."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import gitrel
from gitrel.errors import Conflict
from gitrel.ids import ObjectFormat, ObjectId
from gitrel.store.repository import Repository

MANY = 100
ROOT = Path(gitrel.__file__).parents[1]


@pytest.fixture
def repo(tmp_path: Path) -> Repository:
    return Repository.init_bare(tmp_path / "r.git", ObjectFormat.SHA1)


@pytest.fixture
def tag(repo: Repository) -> ObjectId:
    blob = repo.write("blob", b"x")
    raw = f"object {blob}\ntype blob\ntag t\ntagger A <a@b.c> 1 +0000\n\nx\n".encode()
    return repo.write("tag", raw)


def git(repo: Repository, *words: str) -> str:
    done = subprocess.run(["git", "-C", str(repo.path), *words], capture_output=True, text=True, check=True)
    return done.stdout


def names(count: int = MANY, first: int = 1) -> list[str]:
    return [f"refs/releases/v{number}" for number in range(first, first + count)]


def test_many_are_packed_and_git_agrees(repo: Repository, tag: ObjectId) -> None:
    repo.refs.create("refs/trust/v1", tag)
    git(repo, "pack-refs", "--all")
    repo.refs.create("refs/trust/v2", tag)
    repo.refs.create_all(dict.fromkeys([*names(), "refs/trust/v2"], tag))
    assert not list((repo.path / "refs").rglob("v1"))
    assert set(repo.refs.list("refs/").values()) == {tag}
    assert len(repo.refs.list("refs/releases/")) == MANY
    assert repo.refs.get("refs/releases/v7") == tag
    assert repo.refs.get("refs/releases/v") is None
    listed = git(repo, "for-each-ref", "--format=%(refname) %(*objectname)").splitlines()
    assert len(listed) == MANY + 2
    assert {line.partition(" ")[2] for line in listed} == {repo.read(tag, "tag")[7:47].decode()}
    git(repo, "update-ref", "-d", "refs/releases/v7")  # git rewrites the file, and we see it
    assert repo.refs.get("refs/releases/v7") is None
    repo.refs.create_all(dict.fromkeys(names(), tag))
    assert len(repo.refs.list("refs/releases/")) == MANY
    assert {path.name for path in repo.path.iterdir()} == {"HEAD", "config", "info", "objects", "packed-refs", "refs"}


@pytest.mark.parametrize("packed", [False, True])
def test_a_name_that_is_taken_is_a_conflict(repo: Repository, tag: ObjectId, packed: bool) -> None:
    other = repo.write("blob", b"other")
    repo.refs.create("refs/releases/v50", other)
    if packed:
        git(repo, "pack-refs", "--all")
    with pytest.raises(Conflict, match="v50"):
        repo.refs.create_all(dict.fromkeys(names(), tag))
    assert repo.refs.get("refs/releases/v50") == other
    assert not (repo.path / "packed-refs.lock").exists()


def test_gits_own_lock_is_left_alone(repo: Repository, tag: ObjectId) -> None:
    lock = repo.path / "packed-refs.lock"
    lock.write_bytes(b"")
    repo.refs.create_all(dict.fromkeys(names(33), tag))
    assert len(repo.refs.list("refs/releases/")) == 33
    assert lock.read_bytes() == b""


KILLED = """
import os, signal, sys
from pathlib import Path
from gitrel.ids import ObjectId
from gitrel.store.repository import Repository
with Repository.open(Path(sys.argv[1])) as repo:
    real, left = os.fsync, [int(sys.argv[2])]
    def fsync(fd):
        left[0] -= 1
        if left[0] < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        real(fd)
    os.fsync = fsync
    if len(sys.argv) > 3:
        repo.refs.create_all({f"refs/releases/v{n}": ObjectId(sys.argv[3]) for n in range(1, 101)})
    else:
        repo.write("blob", b"a blob that never came")
"""


def killed(repo: Repository, *words: str) -> None:
    done = subprocess.run([sys.executable, "-c", KILLED, str(repo.path), *words], cwd=ROOT, check=False)
    assert done.returncode == -signal.SIGKILL


def test_a_killed_writer_of_refs_leaves_none_and_its_lock_is_taken_over(repo: Repository, tag: ObjectId) -> None:
    killed(repo, "0", tag)
    assert (repo.path / "packed-refs.lock").exists()
    assert repo.refs.list("refs/releases/") == {}
    repo.refs.create_all(dict.fromkeys(names(), tag))
    assert (repo.path / "packed-refs").exists()
    assert not (repo.path / "packed-refs.lock").exists()
    assert len(git(repo, "for-each-ref").splitlines()) == MANY


def test_a_lock_of_ours_that_is_held_is_not_taken(repo: Repository, tag: ObjectId) -> None:
    fd = repo.refs._lock()
    assert fd is not None
    repo.refs.create_all(dict.fromkeys(names(33), tag))
    assert not (repo.path / "packed-refs").exists()
    os.close(fd)
    repo.refs.create_all(dict.fromkeys(names(33, first=100), tag))
    assert (repo.path / "packed-refs").exists()
    assert len(repo.refs.list("refs/releases/")) == 66


def test_git_passes_over_what_a_killed_writer_of_an_object_leaves(repo: Repository) -> None:
    killed(repo, "1")  # the first fsync is of the folder's own name
    (left,) = [path for path in repo.objects.rglob("*") if path.is_file()]
    assert left.name.startswith("tmp_obj_")
    done = subprocess.run(["git", "-C", str(repo.path), "fsck", "--strict"], capture_output=True, text=True, check=True)
    assert "bad sha1 file" not in done.stdout + done.stderr
    git(repo, "prune", "--expire=now")
    assert not left.exists()
