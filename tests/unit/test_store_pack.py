"""Packs are what git would have written, are there whole or not at all, and are read in pieces."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import tracemalloc
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import pytest
from conftest import run_git
from hypothesis import given
from hypothesis import strategies as st

import gitrel
from gitrel.errors import LocalStateError, NotFound
from gitrel.format.tree import Mode, blob_node
from gitrel.ids import ObjectFormat, ObjectId
from gitrel.store.objects import PIECE, ObjectReader
from gitrel.store.pack import PackWriter, deflate
from gitrel.store.repository import Repository
from gitrel.store.twin import ObjectHash, ids_of

FORMATS = list(ObjectFormat)
COMMIT = b"tree %s\nauthor A <a@b> 1 +0000\ncommitter A <a@b> 1 +0000\n\nm\n"


@contextmanager
def bare(path: Path, fmt: ObjectFormat = ObjectFormat.SHA1) -> Iterator[Repository]:
    with Repository.init_bare(path, fmt) as repo:
        yield repo


def left_over(repo: Repository) -> list[str]:
    """What is in objects/pack and is no finished pack."""
    folder = repo.objects / "pack"
    names = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    return sorted(name for name in names if not {f"{name[:-5]}.idx", f"{name[:-4]}.pack"} & names)


def noise(size: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(size)


@pytest.mark.parametrize("fmt", FORMATS)
def test_git_reads_and_verifies_the_pack(tmp_path: Path, fmt: ObjectFormat) -> None:
    """gitformat-pack(5): header sizes of one to four bytes, all kinds but tags, in both object formats."""
    blobs = [b"", b"x", b"a" * 15, b"b" * 16, b"c" * 2047, b"d" * 2048, noise(300_000), b"\0" * 3_000_000]
    with bare(tmp_path / "r.git", fmt) as repo:
        with PackWriter(repo) as pack:
            ids = [pack.add("blob", data) for data in blobs]
            tree = pack.add("tree", b"100644 x\0" + ids[1].raw)
            commit = pack.add("commit", COMMIT % tree.encode())
            path = pack.finish()
        assert path is not None
        assert path.stat().st_mode & 0o777 == 0o444
        listing = run_git(repo.path, "verify-pack", "-v", str(path.with_suffix(".idx"))).decode()
        run_git(repo.path, "update-ref", "refs/heads/main", commit)
        run_git(repo.path, "fsck", "--strict", "--full", "--no-dangling")
        for oid, data in zip(ids, blobs, strict=True):
            assert oid in listing
            assert run_git(repo.path, "cat-file", "blob", oid) == data
            assert repo.read(oid, "blob") == data
        assert [pack.path for pack in repo.packs.own()] == [path]
        assert left_over(repo) == []


def test_the_same_objects_in_the_same_order_are_the_same_file(tmp_path: Path) -> None:
    packs = []
    for name in ("one", "two"):
        with bare(tmp_path / name) as repo, PackWriter(repo) as pack:
            for number in range(50):
                pack.add("blob", b"%d" % (number % 40) * 100)
            path = pack.finish()
            assert path is not None
            packs.append((path.name, path.read_bytes(), path.with_suffix(".idx").read_bytes()))
    assert packs[0] == packs[1]


def test_known_objects_are_not_written_again_and_an_empty_pack_never(tmp_path: Path) -> None:
    with bare(tmp_path / "r.git") as repo:
        loose = repo.write("blob", b"loose")
        with PackWriter(repo) as pack:
            packed = pack.add("blob", b"packed")
            assert not pack.lacks(packed)
            assert pack.finish() is not None
        with PackWriter(repo) as pack:
            assert not pack.lacks(loose)
            assert not pack.lacks(packed)
            pack.add("blob", b"loose")
            pack.add("blob", b"packed")
            assert pack.finish() is None
        assert len(list((repo.objects / "pack").iterdir())) == 2


def test_objects_that_are_used_again_become_young_for_git_prune(tmp_path: Path) -> None:
    with bare(tmp_path / "r.git") as repo:
        loose = repo.write("blob", b"loose")
        with PackWriter(repo) as pack:
            packed = pack.add("blob", b"packed")
            path = pack.finish()
        assert path is not None
        files = [path, repo.objects / loose[:2] / loose[2:]]
        for file in files:
            os.utime(file, (1, 1))
        with PackWriter(repo) as pack:
            assert not pack.lacks(loose)
            assert not pack.lacks(packed)
        assert all(file.stat().st_mtime > 10**9 for file in files)


@pytest.mark.parametrize("fmt", FORMATS)
def test_a_big_object_goes_in_by_pieces(tmp_path: Path, fmt: ObjectFormat) -> None:
    data = noise(3 * PIECE + 17)
    oid = fmt.object_id("blob", data)
    with bare(tmp_path / "r.git", fmt) as repo:
        with PackWriter(repo) as pack:
            pieces = iter([data[:10], data[10:PIECE], data[PIECE:]])
            pack.put_pieces(oid, "blob", len(data), pieces)
            pack.put_pieces(oid, "blob", len(data), iter([data]))
            path = pack.finish()
        assert path is not None
        run_git(repo.path, "verify-pack", str(path))
        assert run_git(repo.path, "cat-file", "blob", oid) == data


def test_what_is_not_finished_leaves_nothing(tmp_path: Path) -> None:
    with bare(tmp_path / "r.git") as repo:
        with pytest.raises(ZeroDivisionError):
            fill_and_fail(repo)
        assert list((repo.objects / "pack").iterdir()) == []
        with PackWriter(repo) as pack:
            oid = pack.add("blob", b"never finished")
        assert list((repo.objects / "pack").iterdir()) == []
        assert oid not in repo


def fill_and_fail(repo: Repository) -> None:
    with PackWriter(repo) as pack:
        pack.add("blob", noise(2_000_000))
        pack.put_pieces(ObjectId("1" * 40), "blob", 10, (b"%d" % (1 // left) for left in (1, 0)))


@contextmanager
def tiny_disk(folder: Path, size: str = "1m") -> Iterator[Path]:
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def fill(repo: Repository) -> None:
    with PackWriter(repo) as pack:
        for seed in range(4):
            pack.put_pieces(ObjectId(f"{seed:040}"), "blob", 10**6, iter([noise(10**6, seed)]))
        pack.finish()


def test_a_full_disk_is_an_error_and_leaves_nothing(tmp_path: Path) -> None:
    with tiny_disk(tmp_path / "disk") as disk, bare(disk / "r.git") as repo:
        with pytest.raises(LocalStateError, match="No space left") as caught:
            fill(repo)
        assert "disk space" in caught.value.hint
        assert list((repo.objects / "pack").iterdir()) == []
        with PackWriter(repo) as pack:
            assert pack.add("blob", b"fits") is not None
            assert pack.finish() is not None


def test_only_old_files_of_killed_runs_are_removed(tmp_path: Path) -> None:
    with bare(tmp_path / "r.git") as repo:
        folder = repo.objects / "pack"
        old, young, gits = (folder / name for name in ("tmp_gitrel_1.pack", "tmp_gitrel_2.idx", "tmp_pack_3"))
        for path in (old, young, gits):
            path.write_bytes(b"x")
        for path in (old, gits):
            os.utime(path, (1, 1))
        with PackWriter(repo) as pack:
            pack.add("blob", b"x")
            pack.finish()
        assert [path.exists() for path in (old, young, gits)] == [False, True, True]


KILLED = """
import os, signal, sys
from pathlib import Path
from gitrel.store.pack import PackWriter
from gitrel.store.repository import Repository
from gitrel.store.twin import ObjectHash, ids_of, tree_of, child
call, at = sys.argv[2], int(sys.argv[3])
real, seen = getattr(os, call), 0
def fatal(*args, **kwargs):
    global seen
    seen += 1
    if seen == at:
        os.kill(os.getpid(), signal.SIGKILL)
    return real(*args, **kwargs)
with Repository.open(Path(sys.argv[1])) as repo, PackWriter(repo) as pack:
    for number in range(30):
        pack.add("blob", b"%d" % number * 1000)
    setattr(os, call, fatal)
    pack.finish()
"""


@pytest.mark.parametrize(
    ("call", "at"), [("fsync", 1), ("fsync", 2), ("rename", 1), ("rename", 2), ("fsync", 3)], ids=str
)
def test_kill_at_any_step_and_the_same_command_works(tmp_path: Path, call: str, at: int) -> None:
    with bare(tmp_path / "r.git") as repo:
        command = [sys.executable, "-c", KILLED, str(repo.path), call, str(at)]
        done = subprocess.run(command, cwd=Path(gitrel.__file__).parents[1], check=False)
        assert done.returncode == -signal.SIGKILL
        run_git(repo.path, "fsck", "--strict", "--full", "--no-dangling")
        for path in (repo.objects / "pack").glob("tmp_*"):
            os.utime(path, (1, 1))
        with PackWriter(repo) as pack:
            ids = [pack.add("blob", b"%d" % number * 1000) for number in range(30)]
            pack.finish()
        assert [repo.read(oid, "blob") for oid in ids] == [b"%d" % number * 1000 for number in range(30)]
        if (call, at) != ("fsync", 3):  # then it was all there already, and nothing was written
            assert left_over(repo) == []
        run_git(repo.path, "fsck", "--strict", "--full", "--no-dangling")


@given(data=st.binary(max_size=5000), cuts=st.lists(st.integers(0, 5000)))
def test_a_blob_hashed_in_pieces_has_the_ids_of_the_whole(data: bytes, cuts: list[int]) -> None:
    for fmt in FORMATS:
        digest = ObjectHash("blob", len(data), fmt)
        edges = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
        for start, end in pairwise(edges):
            digest.update(data[start:end])
        assert digest.ids() == ids_of("blob", data, fmt)
        assert digest.ids().node(Mode.FILE) == blob_node(data, fmt)


@given(kind=st.sampled_from(["blob", "tree", "commit", "tag"]), size=st.integers(0, 200_000))
def test_an_entry_is_a_header_and_a_stream(kind: str, size: int) -> None:
    entry, crc = deflate(kind, b"\0" * size)
    at, shift, found = 1, 4, entry[0] & 15
    while entry[at - 1] & 0x80:
        found |= (entry[at] & 0x7F) << shift
        at, shift = at + 1, shift + 7
    assert found == size
    assert ["commit", "tree", "blob", "tag"][(entry[0] >> 4 & 7) - 1] == kind
    assert zlib.decompress(entry[at:]) == b"\0" * size
    assert zlib.crc32(entry) == crc


def read_all(repo: Repository, oid: ObjectId) -> tuple[str, bytes]:
    objects = ObjectReader(repo)
    stored = objects.find(oid)
    kind, pieces = stored.read()
    data = b"".join(pieces)
    assert stored.kind in (None, kind)
    assert stored.size == len(data)
    return kind, data


@pytest.mark.parametrize("fmt", FORMATS)
def test_every_way_to_store_an_object_is_read(tmp_path: Path, fmt: ObjectFormat) -> None:
    """Loose, whole in a pack, as an offset delta, as a delta by id, and borrowed from an alternate."""
    sizes = (0, 1, 100, 40_000, PIECE - 1, PIECE, PIECE + 1, 5 * PIECE)
    with bare(tmp_path / "r.git", fmt) as repo:
        wanted = {repo.write("blob", data): data for size in sizes for data in (noise(size), b"z" * size)}
        base = noise(50_000)
        for number in range(8):
            data = base + b"%d" % number
            wanted[repo.write("blob", data)] = data
        for oid, data in wanted.items():
            assert read_all(repo, oid) == ("blob", data)
        for option in ("--delta-base-offset", "--no-delta-base-offset"):
            for path in (repo.objects / "pack").iterdir():
                path.unlink()
            names = "\n".join(wanted).encode()
            pack = repo.objects / "pack" / "pack"
            arguments = [option] if option == "--delta-base-offset" else []
            run_git(repo.path, "pack-objects", "-q", "--no-reuse-delta", *arguments, str(pack), stdin=names)
            deltas = [line for line in _verified(repo) if len(line.split()) > 5]
            assert len(deltas) > 5
            with Repository.open(repo.path) as again:
                loose = [again.objects / oid[:2] / oid[2:] for oid in wanted]
                hidden = [path.rename(path.with_name(f"{path.name}.away")) for path in loose]
                for oid, data in wanted.items():
                    assert read_all(again, oid) == ("blob", data)
                for path in hidden:
                    path.rename(path.with_suffix(""))
        with bare(tmp_path / "other.git", fmt) as other:
            (other.objects / "info").mkdir(exist_ok=True)
            (other.objects / "info" / "alternates").write_text(f"{repo.objects}\n")
            with Repository.open(other.path) as borrower:
                for oid, data in wanted.items():
                    assert read_all(borrower, oid) == ("blob", data)
                    with PackWriter(borrower) as writer:
                        assert writer.lacks(oid), "an alternate may vanish; a snapshot stands on its own"


def _verified(repo: Repository) -> list[str]:
    (index,) = (repo.objects / "pack").glob("*.idx")
    return run_git(repo.path, "verify-pack", "-v", str(index)).decode().splitlines()


def test_a_missing_object_is_not_found(tmp_path: Path) -> None:
    with bare(tmp_path / "r.git") as repo, pytest.raises(NotFound):
        ObjectReader(repo).find(ObjectId("1" * 40))


LOOSE_DEFECTS = {
    "empty file": b"",
    "not zlib": b"hello",
    "no header": zlib.compress(b"x" * 100),
    "unknown kind": zlib.compress(b"blub 3\0abc"),
    "size with a zero before": zlib.compress(b"blob 03\0abc"),
    "size with a sign": zlib.compress(b"blob +3\0abc"),
    "size too small": zlib.compress(b"blob 2\0abc"),
    "size too big": zlib.compress(b"blob 4\0abc"),
    "L70 says 3, inflates to 64 MiB": zlib.compress(b"blob 3\0" + bytes(64 << 20)),
    "L71 bytes after the stream": zlib.compress(b"blob 3\0abc") + b"more",
    "bytes after the stream, in the next slice": zlib.compress(b"blob 3\0abc") + b"more" * PIECE,
    "cut short": zlib.compress(b"blob 3000\0" + b"abc" * 1000)[:-3],
    "wrong checksum": zlib.compress(b"blob 3\0abc")[:-1] + b"\xff",
}


@pytest.mark.parametrize("defect", LOOSE_DEFECTS)
def test_a_damaged_loose_object_is_refused_without_inflating_it(tmp_path: Path, defect: str) -> None:
    with bare(tmp_path / "r.git") as repo:
        oid = ObjectId("ab" + "1" * 38)
        path = repo.objects / oid[:2] / oid[2:]
        path.parent.mkdir()
        path.write_bytes(LOOSE_DEFECTS[defect])
        tracemalloc.start()
        try:
            with pytest.raises(LocalStateError):
                read_all(repo, oid)
            assert tracemalloc.get_traced_memory()[1] < 8 << 20
        finally:
            tracemalloc.stop()


def test_a_pack_that_lies_about_a_size_or_is_damaged_is_an_error(tmp_path: Path) -> None:
    with bare(tmp_path / "r.git") as repo:
        oid = ObjectId("1" * 40)
        with PackWriter(repo) as pack:
            pack.put_pieces(oid, "blob", 10, iter([bytes(64 << 20)]))
            path = pack.finish()
        with pytest.raises(LocalStateError, match="not 10 bytes"):
            read_all(repo, oid)
        assert path is not None
        good = path.read_bytes()
    for torn in (good[:12] + b"\x50" + good[13:], good[:12] + b"\xff" * 30 + good[42:]):
        path.chmod(0o644)
        path.write_bytes(torn)
        with Repository.open(tmp_path / "r.git") as repo, pytest.raises(LocalStateError):
            read_all(repo, oid)
