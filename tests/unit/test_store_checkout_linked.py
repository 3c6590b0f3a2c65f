"""A checkout beside an older one shares its files, is exactly its own tree all the same, and believes nothing."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_store_checkout import SHA1, look, room
from test_store_snapshot import PLANS, Plan, fresh, make
from workers_support import shared_out

from gitrel.format.tree import Mode, Node, blob_node, directory_node
from gitrel.ids import ObjectFormat
from gitrel.store import builds
from gitrel.store.checkout import FILE_TIME, Base, StagedCheckout, stage_checkout
from gitrel.store.objects import WHOLE
from gitrel.store.removal import remove_folder
from gitrel.store.repository import Repository
from gitrel.store.seal import Seal, seal_folder
from gitrel.store.snapshot import snapshot

__all__ = ["room"]  # a fixture
FORMATS = list(ObjectFormat)
BIG = (b"x" * (WHOLE + 1), True)  # read and written in pieces


def slow_node(folder: Path, fmt: ObjectFormat) -> Node:
    """Both ids of a folder, the obvious way: one file after the other, by the types of the format."""
    children = {}
    for path in folder.iterdir():
        if path.is_symlink():
            children[path.name] = blob_node(os.readlink(path).encode(), fmt, Mode.SYMLINK)
        elif path.is_dir():
            children[path.name] = slow_node(path, fmt)
        else:
            mode = Mode.EXECUTABLE if path.stat().st_mode & 0o100 else Mode.FILE
            children[path.name] = blob_node(path.read_bytes(), fmt, mode)
    return directory_node(children, fmt)[1]


@pytest.mark.parametrize("fmt", FORMATS)
@given(first=PLANS, second=PLANS, spread=st.booleans())
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_fast_ways_and_the_slow_one_agree(
    room: Path, fmt: ObjectFormat, first: Plan, second: Plan, spread: bool
) -> None:
    """Snapshot, checkout, checkout beside another tree: modes, links, empty folders, odd names and all."""
    room = fresh(room / f"linked-{fmt}")
    both = {**first, **second, "big": BIG, "same": first, "mode": (b"m", True)}
    before = make(room / "before", {**first, "big": BIG, "same": first, "mode": (b"m", False)})
    after = make(room / "after", both)
    with shared_out(spread), Repository.init_bare(room / "r.git", fmt) as repo:
        old, new = snapshot(before, repo).node, snapshot(after, repo).node
        assert (old, new) == (slow_node(before, fmt), slow_node(after, fmt))
        with stage_checkout(repo, old.oid, room) as staged:
            staged.publish(room / old.oid)
        with stage_checkout(repo, new.oid, room, base=Base(room / old.oid, old.oid)) as staged:
            assert staged.node == new
            staged.publish(room / "linked")
        with stage_checkout(repo, new.oid, room) as staged:
            staged.publish(room / "cold")
    assert slow_node(room / "linked", fmt) == new
    assert look(room / "linked") == look(room / "cold")
    for path in (room / "linked").rglob("*"):
        assert path.lstat().st_mtime_ns == FILE_TIME * 10**9
    big = {(room / name / "big").stat().st_ino for name in (old.oid, "linked")}
    assert len(big) == 1, "one file, two names"
    assert (room / "linked" / "mode").stat().st_ino != (room / old.oid / "mode").stat().st_ino
    for name in ("linked", "cold", old.oid):
        remove_folder(room / name)


PLAN: Plan = {
    "a": (b"content", False),
    "run": (b"#!", True),
    "link": "a",
    "folder": {"b": (b"b", False), "deep": {"c": (b"c", False)}},
}
NEXT: Plan = {**PLAN, "run": (b"#!/bin/sh", True), "added": (b"x", False)}


class Shelf:
    """A folder of checkouts, and the repository that they come from."""

    def __init__(self, folder: Path, repo: Repository) -> None:
        self.path = folder
        self._repo = repo

    def take(self, plan: Plan) -> Node:
        made = make(fresh(self.path.parent / "plan") / "folder", plan)
        return snapshot(made, self._repo).node

    def stage(self, plan: Plan, base: Node | None = None) -> StagedCheckout:
        older = Base(self.path / base.oid, base.oid) if base is not None else None
        return stage_checkout(self._repo, self.take(plan).oid, self.path, base=older)

    def put(self, plan: Plan, base: Node | None = None, meanwhile: Callable[[Path], object] = lambda _: None) -> Node:
        """As `gitrel.run.prepare` does it."""
        older = Base(self.path / base.oid, base.oid) if base is not None else None
        with self.stage(plan, base) as staged:
            folder = self.path / staged.node.oid
            staged.publish(folder)
        meanwhile(folder)
        builds.seal_linked(folder, staged.node, older, staged.linked)
        return staged.node


@pytest.fixture
def shelf(tmp_path: Path) -> Iterator[Shelf]:
    (tmp_path / "builds").mkdir()
    with Repository.init_bare(tmp_path / "r.git", SHA1) as repo:
        yield Shelf(tmp_path / "builds", repo)
    for path in (tmp_path / "builds").iterdir():
        if path.is_dir():
            remove_folder(path)


def inodes(folder: Path) -> dict[str, int]:
    return {str(path.relative_to(folder)): path.lstat().st_ino for path in folder.rglob("*")}


def test_unchanged_files_are_shared_and_every_seal_holds(shelf: Shelf) -> None:
    """Three releases; each link moves the ctime of a file that older ones have sealed."""
    first = shelf.put(PLAN)
    second = shelf.put(NEXT, first)
    third = shelf.put({**NEXT, "added": (b"y", False)}, second)
    one, two, three = (inodes(shelf.path / node.oid) for node in (first, second, third))
    assert {path for path in one if one[path] == two[path] == three[path]} == {"a", "folder/b", "folder/deep/c"}
    assert two["run"] == three["run"] != one["run"]
    for node in (first, second, third):
        assert builds.sealed(shelf.path / node.oid) == node
        assert builds.present(shelf.path / node.oid) == node


def test_a_checkout_that_is_removed_leaves_the_others_to_be_hashed(shelf: Shelf) -> None:
    first = shelf.put(PLAN)
    second = shelf.put(NEXT, first)
    folder = shelf.path / second.oid
    remove_folder(shelf.path / first.oid)
    assert builds.sealed(folder) is None
    assert builds.present(folder) == second
    found = builds.hashed(folder)
    assert found is not None
    assert found[1] is not None
    builds.write_seal(folder, found[0], found[1])
    assert builds.sealed(folder) == found[0] == second


def rewrite(path: Path, data: bytes) -> None:
    """As somebody who hides it: same size, same times, same mode, and no ctime that would be remembered."""
    info = path.stat()
    path.chmod(0o644)
    path.write_bytes(data)
    path.chmod(info.st_mode & 0o777)
    os.utime(path, ns=(info.st_atime_ns, info.st_mtime_ns))


def replace(path: Path, make_other: Callable[[], object]) -> None:
    path.parent.chmod(0o755)
    path.unlink()
    make_other()
    path.parent.chmod(0o555)


def swap(folder: Path) -> None:
    folder.parent.chmod(0o755)
    folder.rename(folder.parent.parent / "away")
    folder.symlink_to("../away")


TAMPERED: Mapping[str, Callable[[Path], object]] = {
    "other bytes, and all else as before": lambda top: rewrite(top / "a", b"CONTENT"),
    "longer": lambda top: rewrite(top / "a", b"content and more"),
    "emptied": lambda top: rewrite(top / "a", b""),
    "writable": lambda top: (top / "a").chmod(0o644),
    "set-user-id": lambda top: (top / "a").chmod(0o4444),
    "another date": lambda top: os.utime(top / "a", (1, 1)),
    "another owner": lambda top: os.chown(top / "a", 65534, 65534),
    "a link": lambda top: replace(top / "a", lambda: (top / "a").symlink_to("/etc/passwd")),
    "a FIFO": lambda top: replace(top / "a", lambda: os.mkfifo(top / "a")),
    "a folder": lambda top: replace(top / "a", (top / "a").mkdir),
    "gone": lambda top: replace(top / "a", lambda: None),
    "its folder a link": lambda top: swap(top / "folder"),
}


@pytest.mark.parametrize("spread", [False, True], ids=["alone", "workers"])
@pytest.mark.parametrize("how", TAMPERED)
def test_a_tampered_file_never_comes_through_a_link(shelf: Shelf, how: str, spread: bool) -> None:
    first = shelf.put(PLAN)
    TAMPERED[how](shelf.path / first.oid)
    with shared_out(spread):
        second = shelf.put(NEXT, first)
    folder = shelf.path / second.oid
    assert slow_node(folder, SHA1) == second
    assert (folder / "a").stat().st_mode & 0o7777 == 0o444
    assert (folder / "a").stat().st_uid == os.geteuid()
    assert builds.sealed(folder) == second
    if "folder" not in how:
        assert (folder / "folder" / "b").stat().st_nlink == 2, "what was not tampered with is shared"
    assert builds.sealed(shelf.path / first.oid) is None, "and the older one is still found out"
    if (shelf.path / "away").exists():
        remove_folder(shelf.path / "away")


def test_what_changes_after_it_was_hashed_is_not_sealed(shelf: Shelf) -> None:
    """Between the hash and the seal somebody writes through the older name."""
    first = shelf.put(PLAN)
    old = shelf.path / first.oid
    second = shelf.put(NEXT, first, meanwhile=lambda _: rewrite(old / "a", b"CONTENT"))
    assert builds.sealed(shelf.path / second.oid) is None
    assert builds.hashed(shelf.path / second.oid) is None
    assert builds.sealed(old) is None
    assert builds.hashed(old) is None


def test_a_change_in_the_tick_of_the_hash_shows(shelf: Shelf) -> None:
    """A file is hashed a tick after it was linked, so what comes after the hash has a later ctime."""
    first = shelf.put(PLAN)
    for _ in range(5):
        with shelf.stage(NEXT, first) as staged:
            rewrite(shelf.path / first.oid / "a", b"CONTENT")
            info = (staged.path / "a").stat()
            assert staged.linked[info.st_ino] < info.st_ctime_ns
        rewrite(shelf.path / first.oid / "a", b"content")


def test_a_seal_moves_only_for_what_was_as_it_says() -> None:
    before = Seal(digest="d", top=(1, 1), inodes=(10, 11, 12), ctimes=(100, 101, 102))
    theirs = Seal(digest="e", top=(2, 2), inodes=(12, 10, 13), ctimes=(102, 99, 103))
    assert theirs.moved(before, {10: 200, 12: 202, 13: 203}).ctimes == (202, 99, 103)
    assert before.moved(before, {10: 200}).ctimes == (200, 101, 102)
    assert before.agrees({10: 100, 99: 5})
    assert not before.agrees({10: 200})
    assert Seal.parse(before.encode()) == before


@pytest.mark.parametrize("base", ["nowhere", "a file", "another filesystem"])
def test_without_a_base_that_can_be_linked_all_is_written(shelf: Shelf, base: str, tmp_path: Path) -> None:
    first = shelf.put(PLAN)
    folder = tmp_path / "base"
    if base == "a file":
        folder.write_text("")
    elif base == "another filesystem":
        folder.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "tmpfs", str(folder)], check=True)
        (folder / "a").write_bytes(b"content")
    try:
        with Repository.open(tmp_path / "r.git") as repo:
            node = shelf.take(NEXT)
            with stage_checkout(repo, node.oid, shelf.path, base=Base(folder, first.oid)) as staged:
                assert (staged.node, staged.linked) == (node, {})
    finally:
        if base == "another filesystem":
            subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.parametrize("spread", [False, True], ids=["alone", "workers"])
def test_no_descriptor_and_no_process_is_left(shelf: Shelf, spread: bool) -> None:
    first = shelf.put(PLAN)
    with shared_out(spread):
        shelf.stage(NEXT, first).discard()  # a pack stays open once it was read
        before = os.listdir("/proc/self/fd")
        shelf.stage(NEXT, first).discard()
    assert len(os.listdir("/proc/self/fd")) == len(before)
    assert Path(f"/proc/self/task/{os.getpid()}/children").read_text() == ""


def test_a_switch_looks_at_nothing_in_the_folder_and_a_start_at_everything(shelf: Shelf) -> None:
    first = shelf.put(PLAN)
    folder = shelf.path / first.oid
    rewrite(folder / "a", b"CONTENT")
    assert builds.present(folder) == first
    assert builds.sealed(folder) is None
    other = shelf.path / "other"
    folder.rename(other)
    make(folder, PLAN)
    assert builds.present(folder) is None, "another folder of the same name"
    remove_folder(folder)
    folder.symlink_to(other)
    assert builds.present(folder) is None
    folder.unlink()
    assert builds.present(folder) is None
    assert seal_folder(other).digest
