"""A folder is stored whole, byte for byte, under the ids that git gives it, or refused by the path that is wrong."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
from conftest import run_git
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from workers_support import shared_out

import gitrel
from gitrel.errors import BuildFailed, FormatError, LocalStateError
from gitrel.format.tree import Mode, Node, blob_node, parse_tree
from gitrel.ids import ObjectFormat, Sha256
from gitrel.store.objects import WHOLE
from gitrel.store.reading import TreeLimits
from gitrel.store.repository import Repository
from gitrel.store.snapshot import snapshot, store_tree

FORMATS = list(ObjectFormat)
EMPTY_TREE = "4b825dc642cb6eb9a060e54bf8d69288fbee4904"

# A folder to be: names to folders, links (as str) or files (bytes and whether executable)
Plan = Mapping[str, "Plan | str | tuple[bytes, bool]"]

NAMES = st.sampled_from(
    ["a", "a.b", "a-b", "a0", "A", "Ä", "ä", "é", "é", ".gitignore", ".gitattributes", "x y", "日本", "-n", "~", "a\\b"]
) | st.text(st.characters(blacklist_categories=["Cs", "Cc"], blacklist_characters="/"), min_size=1, max_size=12).filter(
    lambda name: name.isprintable() and "git" not in name.lower() and name.strip(" .") == name
)
LEAVES = st.tuples(
    st.binary(max_size=40) | st.just(b"\r\n$Id$\n") | st.just(b"*\n") | st.just(b"* text eol=crlf\n"), st.booleans()
) | st.sampled_from(["a", "../a", "/etc/passwd", "nowhere", "./é", "a/b/.."])
PLANS = st.recursive(
    st.dictionaries(NAMES, LEAVES, max_size=5),
    lambda below: (
        st.dictionaries(NAMES, LEAVES, max_size=5)
        | st.dictionaries(NAMES.filter(lambda name: name != ".gitattributes"), LEAVES | below, max_size=5)
    ),
    max_leaves=25,
)


def make(folder: Path, plan: Plan) -> Path:
    folder.mkdir()
    for name, what in plan.items():
        path = folder / name
        if isinstance(what, str):
            path.symlink_to(what)
        elif isinstance(what, tuple):
            path.write_bytes(what[0])
            path.chmod(0o755 if what[1] else 0o640)
        else:
            make(path, what)
    return folder


def fresh(folder: Path) -> Path:
    """The same empty folder for each of hypothesis's examples."""
    if folder.exists():
        subprocess.run(["rm", "-rf", str(folder)], check=True)
    folder.mkdir()
    return folder


def git_tree(folder: Path, room: Path, fmt: ObjectFormat) -> str:
    """What stock git makes of a folder, ignored files included, and no attribute applied."""
    git_dir = room / f"stock-{fmt}.git"
    run_git(room, "init", "-q", "--bare", f"--object-format={fmt}", str(git_dir))
    options = [f"--git-dir={git_dir}", f"--work-tree={folder}", "-c", "core.autocrlf=false"]
    (git_dir / "info").mkdir(exist_ok=True)
    (git_dir / "info" / "attributes").write_text("* -text -eol -ident -filter -working-tree-encoding\n")
    run_git(folder, *options, "add", "-A", "-f", ".")
    return run_git(folder, *options, "write-tree").decode().strip()


def without_empty(plan: Plan) -> Plan:
    pruned = {name: without_empty(what) if isinstance(what, Mapping) else what for name, what in plan.items()}
    return {name: what for name, what in pruned.items() if what != {}}


def take(folder: Path, room: Path, fmt: ObjectFormat = ObjectFormat.SHA1, *exclude: str) -> Node:
    path = room / f"own-{fmt}.git"
    with Repository.open(path) if path.exists() else Repository.init_bare(path, fmt) as repo:
        return snapshot(folder, repo, exclude=exclude).node


@pytest.fixture(scope="session")
def room(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("room")


@given(plan=PLANS, spread=st.booleans())
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_ids_are_gits_in_both_formats(home: Path, room: Path, plan: Plan, spread: bool) -> None:
    """`git add -Af && git write-tree`; the SHA-256 id is the one that a SHA-256 repository gives."""
    room = fresh(room / "x")
    folder = make(room / "folder", without_empty(plan))
    with shared_out(spread):
        first, second = (take(folder, room, fmt) for fmt in FORMATS)
    assert first.oid == git_tree(folder, room, ObjectFormat.SHA1)
    assert {first.sha256, str(second.oid), second.sha256} == {git_tree(folder, room, ObjectFormat.SHA256)}


@given(plan=PLANS, seed=st.randoms(use_true_random=False))
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_order_on_disk_plays_no_part(room: Path, plan: Plan, seed: random.Random) -> None:
    def shuffled(plan: Plan) -> Plan:
        items = [(name, shuffled(what) if isinstance(what, Mapping) else what) for name, what in plan.items()]
        seed.shuffle(items)
        return dict(items)

    room = fresh(room / "x")
    one, other = make(room / "one", plan), make(room / "other", shuffled(plan))
    assert take(one, room) == take(other, room)
    packs = list((room / "own-sha1.git" / "objects" / "pack").glob("*.pack"))
    assert len(packs) == 1, "the second time, every object was known"


@pytest.mark.parametrize("fmt", FORMATS)
def test_everything_is_stored_as_it_is(tmp_path: Path, fmt: ObjectFormat) -> None:
    plan: Plan = {
        ".gitignore": (b"*\n", False),
        ".gitattributes": (b"* text eol=crlf ident filter=lfs export-ignore\n", False),
        "crlf.txt": (b"a\r\nb\n$Id$", False),
        "run": (b"#!/bin/sh\n", True),
        "empty": {"inside": {}},
        "link": "/etc/passwd",
        "big": (random.Random(1).randbytes(WHOLE + 1), False),
        "big too": (random.Random(1).randbytes(WHOLE + 1), True),
        "exactly": (bytes(WHOLE), False),
        "nothing": (b"", False),
    }
    folder = make(tmp_path / "folder", plan)
    (folder / "group").write_bytes(b"x")
    (folder / "group").chmod(0o4654)  # the owner may not execute it
    with Repository.init_bare(tmp_path / "r.git", fmt) as repo:
        taken = snapshot(folder, repo)
        entries = {entry.name: entry for entry in parse_tree(repo.read(taken.node.oid, "tree"), fmt)}
        assert taken.node.mode is Mode.DIRECTORY
        assert (taken.files, taken.notes) == (10, ())
        assert taken.size == sum(
            path.lstat().st_size for path in folder.rglob("*") if path.is_symlink() or path.is_file()
        )
        assert {name for name, entry in entries.items() if entry.mode is Mode.EXECUTABLE} == {"run", "big too"}
        assert entries["big"].oid == entries["big too"].oid
        assert repo.read(entries["link"].oid, "blob") == b"/etc/passwd"
        inside = parse_tree(repo.read(entries["empty"].oid, "tree"), fmt)
        assert [(entry.name, repo.read(entry.oid, "tree")) for entry in inside] == [("inside", b"")]
        for name, what in plan.items():
            if isinstance(what, tuple):
                assert repo.read(entries[name].oid, "blob") == what[0]
        run_git(repo.path, "fsck", "--strict", "--full", "--no-dangling")
        assert [path.suffix for path in sorted((repo.objects / "pack").iterdir())] == [".idx", ".pack"]


def test_an_empty_folder_is_the_empty_tree(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    assert take(tmp_path / "folder", tmp_path).oid == EMPTY_TREE


def test_git_folders_are_left_out_and_named(tmp_path: Path) -> None:
    folder = make(tmp_path / "folder", {"a": (b"", False), "sub": {"b": (b"", False)}})
    clean = take(folder, tmp_path)
    run_git(folder, "init", "-q")
    (folder / "sub" / ".git").write_text("gitdir: ../elsewhere\n")
    with Repository.open(tmp_path / "own-sha1.git") as repo:
        taken = snapshot(folder, repo)
    assert taken.node == clean
    assert [note.partition(" ")[0] for note in taken.notes] == [".git", "sub/.git"]


@pytest.mark.parametrize(
    ("exclude", "left"),
    [
        (["tests"], {"a.pyc", "sub/a.pyc", "sub/tests/x", "sub/__pycache__/y"}),
        (["sub/tests"], {"a.pyc", "tests/x", "sub/a.pyc", "sub/__pycache__/y"}),
        (["*.pyc"], {"tests/x", "sub/tests/x", "sub/__pycache__/y"}),
        (["*/__pycache__", "tests"], {"a.pyc", "sub/a.pyc", "sub/tests/x"}),
        (["sub/?.pyc", "[st]*/x"], {"a.pyc", "sub/__pycache__/y"}),
        (["test", "sub/", "a.PYC", "."], {"a.pyc", "tests/x", "sub/a.pyc", "sub/tests/x", "sub/__pycache__/y"}),
    ],
    ids=lambda value: str(sorted(value)),
)
def test_exclude(tmp_path: Path, exclude: list[str], left: set[str]) -> None:
    file = (b"", False)
    plan: Plan = {
        "a.pyc": file,
        "tests": {"x": file},
        "sub": {"a.pyc": file, "tests": {"x": file}, "__pycache__": {"y": file}},
    }
    folder = make(tmp_path / "folder", plan)
    node = take(folder, tmp_path, ObjectFormat.SHA1, *exclude)
    listed = run_git(tmp_path / "own-sha1.git", "ls-tree", "-r", "--name-only", node.oid).decode().split()
    assert set(listed) == left


@pytest.mark.parametrize(
    ("limits", "why"),
    [
        (TreeLimits(entries=3), "3 files"),
        (TreeLimits(total=5), "5 bytes in all"),
        (TreeLimits(blob=3), "3 bytes"),
        (TreeLimits(depth=1), "1 folders deep"),
        (TreeLimits(path=4), "path over 4"),
    ],
    ids=["entries", "total", "blob", "depth", "path"],
)
def test_limits(tmp_path: Path, limits: TreeLimits, why: str) -> None:
    folder = make(tmp_path / "folder", {"a": {"b": {"c": (b"1234", False)}}, "d": (b"12", False)})
    fits = TreeLimits(entries=4, total=6, blob=4, depth=2, path=5)
    with Repository.init_bare(tmp_path / "r.git", ObjectFormat.SHA1) as repo:
        with pytest.raises(BuildFailed, match=why):
            snapshot(folder, repo, limits=limits)
        assert list((repo.objects / "pack").iterdir()) == []
        assert snapshot(folder, repo, limits=fits).files == 2


def test_descriptors_are_closed_whatever_happens(tmp_path: Path) -> None:
    plan: Plan = {f"f{n}": {"g": {"x": (b"%d" % n, False)}} for n in range(200)}
    folder = make(tmp_path / "folder", plan)
    take(folder, tmp_path)
    before = len(os.listdir("/proc/self/fd"))
    take(folder, tmp_path)
    os.mkfifo(folder / "f199" / "g" / "y")
    with pytest.raises(BuildFailed):
        take(folder, tmp_path)
    assert len(os.listdir("/proc/self/fd")) == before


PEAK = """
import sys
from pathlib import Path
from gitrel.store.repository import Repository
from gitrel.store.snapshot import snapshot
with Repository.open(Path(sys.argv[1])) as repo:
    print(snapshot(Path(sys.argv[2]), repo).node.oid)
# VmHWM, not ru_maxrss: that one remembers the process which this one was forked from (proc(5), getrusage(2))
print(int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0]) // 1024)
"""


def test_a_big_file_does_not_need_its_size_in_memory(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    with (folder / "big").open("wb") as file:
        for number in range(100):
            file.seek(3_000_000 * number)
            file.write(random.Random(number).randbytes(100_000))
        file.truncate(300_000_000)
    Repository.init_bare(tmp_path / "r.git", ObjectFormat.SHA1).close()
    command = [sys.executable, "-c", PEAK, str(tmp_path / "r.git"), str(folder)]
    done = subprocess.run(command, cwd=Path(gitrel.__file__).parents[1], capture_output=True, check=True)
    oid, peak = done.stdout.decode().split()
    assert int(peak) < 150, "MiB"
    run_git(tmp_path / "r.git", "fsck", "--strict", "--no-dangling")
    blob = run_git(tmp_path / "r.git", "rev-parse", f"{oid}:big").decode().strip()
    assert blob == run_git(folder, "hash-object", "big").decode().strip()


def test_a_full_disk_leaves_the_store_as_it_was(tmp_path: Path) -> None:
    folder = make(tmp_path / "folder", {"noise": (random.Random(1).randbytes(3_000_000), False)})
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)], check=True)
    try:
        with Repository.init_bare(disk / "r.git", ObjectFormat.SHA1) as repo:
            with pytest.raises(LocalStateError, match="No space left"):
                snapshot(folder, repo)
            assert list((repo.objects / "pack").iterdir()) == []
            shutil.copy(__file__, folder / "noise")
            assert snapshot(folder, repo).files == 1
    finally:
        subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.parametrize("fmt", FORMATS)
def test_small_trees(tmp_path: Path, fmt: ObjectFormat) -> None:
    """The same ids as the same files in a folder; a node is only named."""
    with Repository.init_bare(tmp_path / "r.git", fmt) as repo:
        made = store_tree(repo, {"trust.toml": b"x", "config": {"LOG": b"debug"}, "empty": {}})
        plan: Plan = {"trust.toml": (b"x", False), "config": {"LOG": (b"debug", False)}, "empty": {}}
        assert made == snapshot(make(tmp_path / "folder", plan), repo).node
        absent = Node(Mode.DIRECTORY, fmt.object_id("tree", b"absent"), Sha256.of("tree", b"absent"))
        outer = store_tree(repo, {"build": absent, "provenance.json": b"{}"})
        (build, provenance) = parse_tree(repo.read(outer.oid, "tree"), fmt)
        assert (build.oid, provenance.oid) == (absent.oid, blob_node(b"{}", fmt).oid)
        for name in (".git", "a/b", "", "\udcff"):
            with pytest.raises(FormatError):
                store_tree(repo, {name: b""})
