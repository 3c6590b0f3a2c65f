"""A tree becomes a fresh folder that is exactly it, or nothing at all; nothing outside that folder is written."""

from __future__ import annotations

import errno
import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from conftest import run_git
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_store_snapshot import PLANS, Plan, fresh, make

import gitrel
from gitrel.errors import LocalStateError, Refused
from gitrel.ids import ObjectFormat, ObjectId
from gitrel.store.checkout import FILE_TIME, StagedCheckout, stage_checkout
from gitrel.store.reading import TreeLimits
from gitrel.store.removal import remove_folder, remove_stale
from gitrel.store.repository import Repository
from gitrel.store.seal import hash_folder
from gitrel.store.snapshot import snapshot

FORMATS = list(ObjectFormat)
SHA1 = ObjectFormat.SHA1


def look(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Everything in a folder: path to mode and content."""
    seen = {}
    for path in sorted(folder.rglob("*")):
        mode = path.lstat().st_mode
        content = os.readlink(path).encode() if path.is_symlink() else b"" if path.is_dir() else path.read_bytes()
        seen[str(path.relative_to(folder))] = (mode, content)
    return seen


@pytest.fixture
def repo(tmp_path: Path) -> Iterator[Repository]:
    with Repository.init_bare(tmp_path / "r.git", SHA1) as repo:
        yield repo


@pytest.fixture
def builds(tmp_path: Path) -> Path:
    """The folder that checkouts go to, beside things that no checkout may touch."""
    (tmp_path / "escape").write_text("untouched")
    folder = tmp_path / "builds"
    folder.mkdir()
    return folder


@pytest.fixture(scope="session")
def room(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("room")


@pytest.mark.parametrize("fmt", FORMATS)
@given(plan=PLANS)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_out_comes_what_went_in(home: Path, room: Path, fmt: ObjectFormat, plan: Plan) -> None:
    room = fresh(room / fmt)
    folder = make(room / "folder", plan)
    with Repository.init_bare(room / "r.git", fmt) as repo:
        taken = snapshot(folder, repo)
        run_git(repo.path, "fsck", "--strict", "--full", "--no-dangling")
        with stage_checkout(repo, taken.node.oid, room) as staged:
            assert staged.node == taken.node
            assert staged.publish(room / "out")
    assert hash_folder(room / "out", fmt) == taken.node
    before, after = look(folder), look(room / "out")
    assert {path: content for path, (_, content) in before.items()} == {p: content for p, (_, content) in after.items()}
    for path, (mode, _) in after.items():
        executable = before[path][0] & 0o100
        assert mode & 0o777 == (0o777 if (room / "out" / path).is_symlink() else 0o555 if executable else 0o444)
        assert (room / "out" / path).lstat().st_mtime_ns == FILE_TIME * 10**9
    remove_folder(room / "out")
    assert sorted(path.name for path in room.iterdir()) == ["folder", "r.git"]


def stored(repo: Repository, folder: Path, plan: Plan) -> ObjectId:
    return snapshot(make(folder, plan), repo).node.oid


def some(repo: Repository, folder: Path) -> ObjectId:
    return stored(repo, folder, {"a": (b"new", False), "sub": {"b": (b"new", True)}})


@pytest.mark.parametrize("kind", ["hard link", "FIFO", "link", "link to a folder", "dangling link", "setuid file"])
def test_v12_nothing_planted_at_the_target_is_written_through(repo: Repository, builds: Path, kind: str) -> None:
    victim = builds.parent / "victim"
    victim.write_text("untouched")
    target = builds / "out"
    match kind:
        case "hard link":
            target.hardlink_to(victim)
        case "FIFO":
            os.mkfifo(target)
        case "link":
            target.symlink_to(victim)
        case "link to a folder":
            (builds.parent / "elsewhere").mkdir()
            target.symlink_to(builds.parent / "elsewhere")
        case "dangling link":
            target.symlink_to(builds.parent / "nowhere")
        case "setuid file":
            target.write_text("")
            target.chmod(0o4755)
    planted = target.lstat()
    with stage_checkout(repo, some(repo, builds.parent / "x"), builds) as staged, pytest.raises(LocalStateError):
        staged.publish(target)
    assert target.lstat().st_ino == planted.st_ino
    assert victim.read_text() == "untouched"
    assert sorted(path.name for path in builds.iterdir()) == ["out"]
    assert not (builds.parent / "nowhere").exists()


def test_v12_a_parent_that_is_a_link_is_not_followed(repo: Repository, builds: Path) -> None:
    (builds.parent / "link").symlink_to(builds)
    with pytest.raises(LocalStateError):
        stage_checkout(repo, some(repo, builds.parent / "x"), builds.parent / "link")
    assert list(builds.iterdir()) == []


def test_v12_a_folder_swapped_for_a_link_while_writing_is_not_followed(
    repo: Repository, builds: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Just after a folder was made, somebody puts a link in its place."""
    (builds.parent / "elsewhere").mkdir()
    real = os.mkdir

    def mkdir(path: str | Path, mode: int = 0o777, *, dir_fd: int | None = None) -> None:
        real(path, mode, dir_fd=dir_fd)
        if path == "sub":
            os.rmdir(path, dir_fd=dir_fd)
            os.symlink(builds.parent / "elsewhere", path, dir_fd=dir_fd)

    tree = some(repo, builds.parent / "x")
    monkeypatch.setattr(os, "mkdir", mkdir)
    with pytest.raises(LocalStateError):
        stage_checkout(repo, tree, builds)
    assert list((builds.parent / "elsewhere").iterdir()) == []
    assert list(builds.iterdir()) == []


def test_a_folder_that_is_there_already_is_kept(repo: Repository, builds: Path) -> None:
    tree = some(repo, builds.parent / "x")
    first, second = stage_checkout(repo, tree, builds), stage_checkout(repo, tree, builds)
    assert first.publish(builds / "out") is True
    inode = (builds / "out").stat().st_ino
    assert second.publish(builds / "out") is False
    assert [(path.name, path.stat().st_ino) for path in builds.iterdir()] == [("out", inode)]


def test_publish_only_beside(repo: Repository, builds: Path) -> None:
    with stage_checkout(repo, some(repo, builds.parent / "x"), builds) as staged:
        with pytest.raises(LocalStateError, match="cannot publish"):
            staged.publish(builds.parent / "out")
        staged.publish(builds / "out")
        with pytest.raises(LocalStateError, match="cannot publish"):
            staged.publish(builds / "again")
    assert [path.name for path in builds.iterdir()] == ["out"]


def test_modes_do_not_depend_on_the_umask(repo: Repository, builds: Path) -> None:
    tree = some(repo, builds.parent / "x")
    os.umask(0o077)
    with stage_checkout(repo, tree, builds) as staged:
        staged.publish(builds / "out")
    assert {path: oct(mode & 0o7777) for path, (mode, _) in look(builds / "out").items()} == {
        "a": "0o444",
        "sub": "0o555",
        "sub/b": "0o555",
    }
    assert (builds / "out").stat().st_mode & 0o7777 == 0o555


def test_what_is_not_published_is_gone_and_its_descriptors_too(repo: Repository, builds: Path) -> None:
    tree = some(repo, builds.parent / "x")
    with stage_checkout(repo, tree, builds):
        pass
    before = len(os.listdir("/proc/self/fd"))
    with stage_checkout(repo, tree, builds) as staged:
        assert staged.path.is_dir()
    with stage_checkout(repo, tree, builds) as staged:
        staged.publish(builds / "out")
    with pytest.raises(Refused):
        stage_checkout(repo, ObjectId("1" * 40), builds)
    assert len(os.listdir("/proc/self/fd")) == before
    assert [path.name for path in builds.iterdir()] == ["out"]


def test_a_full_disk_leaves_nothing(repo: Repository, builds: Path) -> None:
    noise = (random.Random(1).randbytes(400_000), False)
    plan: Plan = {f"d{n}": {"f": noise, "g": (b"%d" % n, False)} for n in range(5)}
    tree, small = stored(repo, builds.parent / "x", plan), some(repo, builds.parent / "y")
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(builds)], check=True)
    try:
        with pytest.raises(LocalStateError, match="No space left"):
            stage_checkout(repo, tree, builds)
        assert list(builds.iterdir()) == []
        with stage_checkout(repo, small, builds) as staged:
            assert staged.publish(builds / "out")
    finally:
        subprocess.run(["umount", str(builds)], check=True)


@pytest.mark.parametrize("call", ["rename", "fsync"])
def test_an_error_while_publishing_is_told(
    repo: Repository, builds: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    """V14: EIO. After the rename the folder is complete and stays; before it, it goes."""
    staged = stage_checkout(repo, some(repo, builds.parent / "x"), builds)

    def fails(*args: object, **kwargs: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, call, fails)
    with pytest.raises(LocalStateError, match="Input/output error"):
        staged.publish(builds / "out")
    assert [path.name for path in builds.iterdir()] == (["out"] if call == "fsync" else [])
    staged.discard()


KILLED = """
import os, signal, sys
from pathlib import Path
from gitrel.ids import ObjectId
from gitrel.store.checkout import stage_checkout
from gitrel.store.repository import Repository
repo, tree, builds, call, at = sys.argv[1:]
real, seen = getattr(os, call), 0
def fatal(*args, **kwargs):
    global seen
    seen += 1
    if seen == int(at):
        os.kill(os.getpid(), signal.SIGKILL)
    return real(*args, **kwargs)
with Repository.open(Path(repo)) as repo:
    setattr(os, call, fatal)
    stage_checkout(repo, ObjectId(tree), Path(builds)).publish(Path(builds) / "out")
"""


@pytest.mark.parametrize(
    ("call", "at"),
    [("mkdir", 1), ("mkdir", 2), ("open", 9), ("write", 1), ("write", 5), ("fchmod", 4), ("rename", 1), ("fsync", 1)],
    ids=str,
)
def test_kill_at_any_step_and_the_same_command_works(repo: Repository, builds: Path, call: str, at: int) -> None:
    tree = stored(repo, builds.parent / "x", {f"d{n}": {"f": (b"%d" % n, False), "e": {}} for n in range(9)})
    command = [sys.executable, "-c", KILLED, str(repo.path), tree, str(builds), call, str(at)]
    done = subprocess.run(command, cwd=Path(gitrel.__file__).parents[1], check=False)
    assert done.returncode == -signal.SIGKILL
    assert (builds / "out").exists() == (call == "fsync")
    if call != "fsync":
        assert len(list(builds.iterdir())) == (0 if (call, at) == ("mkdir", 1) else 1)
    remove_stale(builds)
    with stage_checkout(repo, tree, builds) as staged:
        assert staged.publish(builds / "out") == (call != "fsync")
        node = staged.node
    assert hash_folder(builds / "out", SHA1) == node
    assert [path.name for path in builds.iterdir()] == ["out"]


def test_remove_folder_takes_anything_and_follows_nothing(builds: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(builds)
    doomed = builds / "doomed"
    outside = make(builds.parent / "outside", {"a": (b"", False)})
    here = doomed
    for _ in range(1200):  # deeper than descriptors, and than a path
        here.mkdir()
        os.chdir(here)
        here = Path("d")
    os.chdir(builds)
    doomed.joinpath("link").symlink_to(outside)
    os.mkfifo(doomed / "fifo")
    doomed.joinpath("full").mkdir()
    doomed.joinpath("full", "b").mkdir(mode=0)
    doomed.joinpath("full").chmod(0)
    remove_folder(doomed)
    assert list(builds.iterdir()) == []
    assert (outside / "a").exists()
    remove_folder(doomed)
    remove_folder(builds / "never" / "was")
    (builds / "link").symlink_to(outside)
    with pytest.raises(LocalStateError):
        remove_folder(builds / "link")
    assert (outside / "a").exists()


REMOVE = """
import os, sys
from pathlib import Path
from gitrel.store.removal import remove_folder, remove_stale
os.setresuid(65534, 65534, 65534)
remove_folder(Path(sys.argv[1]) / "out")
remove_stale(Path(sys.argv[1]))
"""


def test_no_root_is_needed_to_remove_a_read_only_folder(repo: Repository, builds: Path) -> None:
    tree = stored(repo, builds.parent / "x", {"a": {"b": {"c": (b"", False)}, "d": {"e": {"f": {}}}}})
    with stage_checkout(repo, tree, builds) as staged:
        staged.publish(builds / "out")
    stage_checkout(repo, tree, builds).path.rename(builds / ".tmp-stale")
    (builds / ".tmp-roots").mkdir()
    (builds / ".tmp-link").symlink_to("/etc")
    for path in [builds, *builds.rglob("*")]:
        if path.name != ".tmp-roots":
            os.chown(path, 65534, 65534, follow_symlinks=False)
    for above in [builds, *builds.parents][1:-2]:
        above.chmod(0o755)
    subprocess.run([sys.executable, "-c", REMOVE, str(builds)], cwd=Path(gitrel.__file__).parents[1], check=True)
    assert [path.name for path in builds.iterdir()] == [".tmp-roots"], "another user's, and not ours to delete"


def test_git_would_write_the_same(home: Path, repo: Repository, builds: Path) -> None:
    plan: Plan = {f"d{n}": {"f": (b"%d" % n * 999, n % 2 == 0), "l": "../d1/f"} for n in range(20)}
    tree = stored(repo, builds.parent / "x", plan)
    (builds / "git").mkdir()
    options = [f"--git-dir={repo.path}", f"--work-tree={builds / 'git'}"]
    run_git(builds / "git", *options, "read-tree", tree)
    run_git(builds / "git", *options, "checkout-index", "-a")
    with stage_checkout(repo, tree, builds) as staged:
        staged.publish(builds / "out")
    ours, gits = look(builds / "out"), look(builds / "git")
    assert {path: (mode & 0o170100, data) for path, (mode, data) in ours.items()} == {
        path: (mode & 0o170100, data) for path, (mode, data) in gits.items()
    }


@given(depths=st.lists(st.integers(1, 40), min_size=1, max_size=6))
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_is_measured_is_what_is_there(room: Path, depths: list[int]) -> None:
    """A limit that is just met lets the tree pass; one less does not."""
    room = fresh(room / "measure")
    (room / "folder").mkdir()
    for number, depth in enumerate(depths):
        path = room / "folder" / str(number) / "/".join("d" * (1 + level % 3) for level in range(depth))
        path.mkdir(parents=True)
        (path / "f").write_bytes(b"x" * depth)
    below = [path.relative_to(room / "folder") for path in (room / "folder").rglob("*")]
    folders = [path for path in below if path.name != "f"]
    exact: Mapping[str, int] = {
        "entries": len(below),
        "total": sum(depths),
        "blob": max(depths),
        "depth": max(len(path.parts) for path in folders),
        "path": max(len(str(path)) for path in below),
    }
    with Repository.init_bare(room / "r.git", SHA1) as repo:
        tree = snapshot(room / "folder", repo, limits=TreeLimits(**exact)).node.oid
        stage_checkout(repo, tree, room, limits=TreeLimits(**exact)).discard()
        for name in exact:
            with pytest.raises(Refused):
                stage_checkout(repo, tree, room, limits=TreeLimits(**{**exact, name: exact[name] - 1}))


PEAK = """
import sys
from pathlib import Path
from gitrel.ids import ObjectId
from gitrel.store.checkout import Base, stage_checkout
from gitrel.store.repository import Repository
tree, builds = ObjectId(sys.argv[2]), Path(sys.argv[3])
with Repository.open(Path(sys.argv[1])) as repo:
    with stage_checkout(repo, tree, builds) as staged:
        staged.publish(builds / tree)
    with stage_checkout(repo, tree, builds, base=Base(builds / tree, tree)) as staged:
        assert len(staged.linked) == 1
# VmHWM, not ru_maxrss: that one remembers the process which this one was forked from (proc(5), getrusage(2))
print(int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0]) // 1024)
"""


def test_a_big_file_does_not_need_its_size_in_memory(repo: Repository, builds: Path) -> None:
    """Neither to write it nor to hash it where it was linked."""
    folder = builds.parent / "folder"
    folder.mkdir()
    with (folder / "big").open("wb") as file:
        file.write(random.Random(1).randbytes(1_000_000))
        file.truncate(300_000_000)
    tree = snapshot(folder, repo).node.oid
    command = [sys.executable, "-c", PEAK, str(repo.path), tree, str(builds)]
    done = subprocess.run(command, cwd=Path(gitrel.__file__).parents[1], capture_output=True, check=True)
    assert int(done.stdout) < 100, "MiB"


def test_a_staged_folder_is_nobodys_business_yet(repo: Repository, builds: Path) -> None:
    with StagedCheckout(builds) as staged:
        assert staged.path.stat().st_mode & 0o777 == 0o700
        assert staged.path.name.startswith(".tmp-")
