"""One pack of what is needed, however the objects lay before; judged by stock git."""

from __future__ import annotations

import os
import random
import subprocess
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gitrel.errors import LocalStateError
from gitrel.ids import ObjectFormat, ObjectId
from gitrel.store.pack import PackWriter
from gitrel.store.repack import GONE, Repack, finish, reachable
from gitrel.store.repository import Repository

NAMES = ("a", "b", "folder/c")


def git(folder: Path, *args: str) -> str:
    done = subprocess.run(["git", *args], cwd=folder, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.decode().strip()


def commits(folder: Path, count: int, fmt: str) -> list[ObjectId]:
    """A bare repository's line of commits, each with a text that changes a little and a file of its own."""
    work = folder / "work"
    work.mkdir(parents=True)
    git(work, "init", "-q", f"--object-format={fmt}")
    found = []
    lines = [f"line {number}" for number in range(2000)]
    for number in range(count):
        lines[number * 7] = f"changed {number}"
        for name in NAMES:
            (work / name).parent.mkdir(exist_ok=True)
            (work / name).write_text("\n".join(lines) + name)
        (work / f"only{number}").write_text(f"{number}\n")
        (work / f"only{number - 1}").unlink(missing_ok=True)
        git(work, "add", "-A")
        git(work, "commit", "-q", "-m", f"{number}")
        found.append(ObjectId(git(work, "rev-parse", "HEAD")))
    git(work, "update-ref", "refs/releases/v1", "HEAD")
    return found


@pytest.mark.parametrize("fmt", ["sha1", "sha256"])
@pytest.mark.parametrize("layout", ["loose", "packs", "one"])
def test_needed_files_stay_and_no_others(layout: str, fmt: str, tmp_path: Path) -> None:
    made = commits(tmp_path, 6, fmt)
    folder = tmp_path / "work"
    if layout == "packs":
        for oid in made:
            git(folder, "update-ref", "refs/heads/part", oid)
            git(folder, "repack", "-q", "-d", "-l")
    elif layout == "one":
        git(folder, "repack", "-a", "-d", "-q", "-f", "--depth=50")
        git(folder, "prune-packed")
    kept = made[4:]
    only = [ObjectId(git(folder, "rev-parse", f"{oid}:only{number}")) for number, oid in enumerate(made)]
    with Repository.open(folder) as repo:
        keep = reachable(repo, [made[-1]], kept)
        before = sum(path.stat().st_size for path in repo.objects.rglob("*") if path.is_file())
        freed = Repack(repo, keep).run()
        after = sum(path.stat().st_size for path in repo.objects.rglob("*") if path.is_file())
        assert before - after == freed > 0
        assert [path.suffix for path in sorted((repo.objects / "pack").iterdir())] == [".idx", ".pack", ".promisor"]
    with Repository.open(folder) as repo:
        for oid in made:
            repo.read(oid, "commit")
        for oid in kept:
            for line in git(folder, "ls-tree", "-r", "-t", oid).splitlines():
                assert ObjectId(line.split()[2]) in repo
        assert [oid for oid in only[:4] if oid in repo] == []
        assert git(folder, "fsck", "--connectivity-only", "--no-dangling") == ""
        again = Repack(repo, keep)
        assert (again.pieces, again.unneeded, again.run()) == (1, 0, 0)
    listed = git(folder, "cat-file", "--batch-all-objects", "--batch-check").splitlines()
    assert len(listed) == len(keep)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.binary(max_size=3000), min_size=1, max_size=30, unique=True), st.integers(0, 2**32))
def test_any_selection_of_blobs(tmp_path_factory: pytest.TempPathFactory, blobs: list[bytes], seed: int) -> None:
    """What is kept is there with its bytes, the rest is not; from loose objects and overlapping packs alike."""
    chance = random.Random(seed)
    with Repository.init_bare(tmp_path_factory.mktemp("repo"), ObjectFormat.SHA1) as repo:
        ids = {repo.format.object_id("blob", data): data for data in blobs}
        for _ in range(3):
            with PackWriter(repo) as writer:
                for oid, data in ids.items():
                    if chance.random() < 0.5:
                        writer.put_pieces(oid, "blob", len(data), [data])
                writer.finish()
        for data in blobs:
            repo.write("blob", data)
        keep = {oid for oid in ids if chance.random() < 0.6}
        Repack(repo, keep).run()
    with Repository.open(repo.path) as repo:
        assert {oid for oid in ids if oid in repo} == keep
        assert all(repo.read(oid, "blob") == ids[oid] for oid in keep)


def test_what_a_killed_one_left_goes(tmp_path: Path) -> None:
    with Repository.init_bare(tmp_path / "repo", ObjectFormat.SHA1) as repo:
        kept = repo.write("blob", b"kept")
        old = repo.write("blob", b"old")
        folder = repo.objects / "pack"
        folder.mkdir(exist_ok=True)
        for name in ("tmp_gitrel_0123.pack", ".gitrel-gone.1.tmp", "pack-0123.pack", "pack-0123.promisor"):
            (folder / name).write_bytes(b"half")
        Repack(repo, {kept}).run()
        assert kept in repo
        assert old not in repo
        assert len(os.listdir(folder)) == 3


def test_a_list_of_what_goes_is_carried_out(tmp_path: Path) -> None:
    objects = tmp_path / "objects"
    (objects / "pack").mkdir(parents=True)
    (objects / "ab").mkdir()
    (objects / "ab" / ("c" * 38)).touch()
    (objects / "pack" / "pack-1.idx").touch()
    (objects / "pack" / GONE).write_text(f"pack/pack-1.idx\npack/pack-1.pack\nab/{'c' * 38}\n")
    finish(objects)
    finish(objects)
    assert [path.name for path in objects.rglob("*")] == ["pack"]


@pytest.mark.parametrize("line", ["../state.json", "/etc/passwd", "pack/../x", "pack/..", "", "info/alternates"])
def test_a_damaged_list_deletes_nothing(line: str, tmp_path: Path) -> None:
    (tmp_path / "pack").mkdir()
    (tmp_path / "pack" / GONE).write_text(f"{line}\n")
    with pytest.raises(LocalStateError, match="damaged"):
        finish(tmp_path)
    assert (tmp_path / "pack" / GONE).exists()
