"""Quarantine: nothing reaches the home before `adopt`, everything is gone afterwards, and stock git agrees."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from test_store_remote_pack import blob_id, copy, number, pack, ref_delta, whole

from gitrel.errors import LocalStateError
from gitrel.ids import ObjectFormat, ObjectId
from gitrel.store.ingest import PackReceiver
from gitrel.store.limits import Limits
from gitrel.store.quarantine import Quarantine, remove_stale
from gitrel.store.repository import Repository

SHA1 = ObjectFormat.SHA1
EMPTY_TREE = SHA1.object_id("tree", b"")


@pytest.fixture(params=ObjectFormat)
def store(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Repository]:
    with Repository.init_bare(tmp_path / "home.git", request.param) as repo:
        yield repo


@pytest.fixture
def sha1_store(tmp_path: Path) -> Iterator[Repository]:
    with Repository.init_bare(tmp_path / "home.git", SHA1) as repo:
        yield repo


def commit(parent: str, subject: str = "x") -> bytes:
    who = "a <a@example.org> 0 +0000"
    parents = f"parent {parent}\n" if parent else ""
    return f"tree {EMPTY_TREE}\n{parents}author {who}\ncommitter {who}\n\n{subject}\n".encode()


def receive(quarantine: Quarantine, data: bytes) -> str:
    repo = quarantine.repository
    receiver = PackReceiver(repo.objects / "pack", repo, Limits())
    receiver.write(data)
    name = receiver.finish().pack
    assert name is not None
    return name


def fsck(store: Repository) -> list[str]:
    done = subprocess.run(
        ["git", "fsck", "--full", "--strict", "--no-dangling"],
        cwd=store.path,
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": os.environ["PATH"], "GIT_CONFIG_NOSYSTEM": "1", "HOME": str(store.path)},
    )
    return [line for line in (done.stdout + done.stderr).splitlines() if not line.startswith("notice: ")]


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


class TestLife:
    def test_reads_through_to_the_home(self, store: Repository, tmp_path: Path) -> None:
        """Loose and packed objects, in both formats."""
        loose = store.write("blob", b"loose")
        packed = store.write("blob", b"packed")
        subprocess.run(
            ["git", "pack-objects", "-q", "objects/pack/pack"],
            cwd=store.path,
            check=True,
            input=f"{packed}\n".encode(),
            capture_output=True,
        )
        (store.objects / packed[:2] / packed[2:]).unlink()
        with Quarantine(store, tmp_path / "q") as quarantine:
            assert quarantine.repository.read(loose, "blob") == b"loose"
            assert quarantine.repository.read(packed, "blob") == b"packed"

    @pytest.mark.parametrize("error", [None, ValueError, KeyboardInterrupt])
    def test_leaves_nothing(self, store: Repository, tmp_path: Path, error: type[BaseException] | None) -> None:
        before = contents(store.path)
        oid = store.format.object_id("blob", b"new")
        try:
            with Quarantine(store, tmp_path / "q") as quarantine:
                assert quarantine.repository.write("blob", b"new") == oid
                if error is not None:
                    raise error
        except (ValueError, KeyboardInterrupt):
            assert error is not None
        assert list((tmp_path / "q").iterdir()) == []
        assert contents(store.path) == before
        assert oid not in store

    def test_a_living_quarantine_is_not_stale(self, store: Repository, tmp_path: Path) -> None:
        with Quarantine(store, tmp_path / "q") as quarantine:
            remove_stale(tmp_path / "q")
            assert quarantine.repository.path.is_dir()
        (tmp_path / "q" / "quarantine-left-behind").mkdir()
        (tmp_path / "q" / "unrelated").mkdir()
        remove_stale(tmp_path / "q")
        assert [path.name for path in (tmp_path / "q").iterdir()] == ["unrelated"]

    def test_remove_stale_where_nothing_ever_was(self, tmp_path: Path) -> None:
        remove_stale(tmp_path / "q")
        assert not (tmp_path / "q").exists()

    def test_a_folder_that_cannot_be_written(self, store: Repository) -> None:
        with pytest.raises(LocalStateError), Quarantine(store, Path("/proc/self")):
            raise AssertionError("not reached")

    def test_the_repository_of_a_closed_quarantine(self, store: Repository, tmp_path: Path) -> None:
        with pytest.raises(RuntimeError):
            _ = Quarantine(store, tmp_path / "q").repository


class TestAdopt:
    def test_loose_objects(self, store: Repository, tmp_path: Path) -> None:
        with Quarantine(store, tmp_path / "q") as quarantine:
            oid = quarantine.repository.write("blob", b"new")
            quarantine.adopt()
        assert store.read(oid, "blob") == b"new"
        assert fsck(store) == []

    def test_packs(self, sha1_store: Repository, tmp_path: Path) -> None:
        with Quarantine(sha1_store, tmp_path / "q") as quarantine:
            name = receive(quarantine, pack(whole(3, b"new")))
            quarantine.adopt()
        assert sha1_store.read(SHA1.object_id("blob", b"new"), "blob") == b"new"
        folder = sha1_store.objects / "pack"
        assert {path.name for path in folder.iterdir()} == {f"{name}.pack", f"{name}.idx"}
        assert fsck(sha1_store) == []

    def test_a_thin_pack_stands_alone(self, sha1_store: Repository, tmp_path: Path) -> None:
        base = b"b" * 500
        loose = sha1_store.write("blob", base)
        delta = number(500) + number(250) + copy(0, 250)
        with Quarantine(sha1_store, tmp_path / "q") as quarantine:
            receive(quarantine, pack(ref_delta(blob_id(base), delta)))
            quarantine.adopt()
        (sha1_store.objects / loose[:2] / loose[2:]).unlink()
        assert fsck(sha1_store) == []

    def test_the_same_pack_twice(self, sha1_store: Repository, tmp_path: Path) -> None:
        for _ in range(2):
            with Quarantine(sha1_store, tmp_path / "q") as quarantine:
                receive(quarantine, pack(whole(3, b"new")))
                quarantine.adopt()
        assert fsck(sha1_store) == []

    def test_the_index_comes_last(
        self, sha1_store: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Stopped before any one of the renames, the home is as git wants it; the repetition completes it."""
        data = pack(whole(1, commit("1" * 40)))
        real = os.rename
        for stop in range(4):
            done = 0

            def rename(source: Path, target: Path, stop: int = stop) -> None:
                nonlocal done
                if done == stop:
                    raise OSError(28, "No space left on device", str(target))
                done += 1
                real(source, target)

            with Quarantine(sha1_store, tmp_path / "q") as quarantine:
                receive(quarantine, data)
                quarantine.shallow.add(SHA1.object_id("commit", commit("1" * 40)))
                monkeypatch.setattr(os, "rename", rename)
                try:
                    quarantine.adopt()
                except LocalStateError as error:
                    assert "disk space" in error.hint
                monkeypatch.setattr(os, "rename", real)
            assert fsck(sha1_store) == []
        assert SHA1.object_id("commit", commit("1" * 40)) in sha1_store


class TestShallow:
    def test_a_commit_without_its_parent(self, sha1_store: Repository, tmp_path: Path) -> None:
        """Listed while the parent is absent, no longer when it has come; stock git is content with both."""
        parent = commit("")
        parent_id = SHA1.object_id("commit", parent)
        child = commit(parent_id)
        child_id = SHA1.object_id("commit", child)
        with Quarantine(sha1_store, tmp_path / "q") as quarantine:
            receive(quarantine, pack(whole(1, child), whole(2, b"")))
            quarantine.shallow.add(child_id)
            quarantine.adopt()
        sha1_store.refs.create("refs/releases/v2", child_id)
        assert (sha1_store.path / "shallow").read_text() == f"{child_id}\n"
        assert fsck(sha1_store) == []
        with Quarantine(sha1_store, tmp_path / "q") as quarantine:
            receive(quarantine, pack(whole(1, parent)))
            quarantine.adopt()
        assert not (sha1_store.path / "shallow").exists()
        assert fsck(sha1_store) == []

    def test_a_damaged_file_is_named(self, sha1_store: Repository, tmp_path: Path) -> None:
        (sha1_store.path / "shallow").write_text("nonsense\n")
        with Quarantine(sha1_store, tmp_path / "q") as quarantine, pytest.raises(LocalStateError, match="shallow"):
            quarantine.adopt()


class TestPromisor:
    def test_stock_git_knows_what_is_absent_on_purpose(self, sha1_store: Repository, tmp_path: Path) -> None:
        lonely = commit("").replace(EMPTY_TREE.encode(), b"7" * 40)
        oid = SHA1.object_id("commit", lonely)
        for _ in range(2):
            with Quarantine(sha1_store, tmp_path / "q") as quarantine:
                name = receive(quarantine, pack(whole(1, lonely)))
                (quarantine.repository.objects / "pack" / f"{name}.promisor").touch()
                quarantine.adopt()
        sha1_store.refs.create("refs/releases/v1", oid)
        assert fsck(sha1_store) == []
        config = (sha1_store.path / "config").read_text()
        assert config.count("promisor") == 1
        assert ObjectId("7" * 40) not in sha1_store
