"""Rows of the catalogue that need a repository on disk: L25 to L29, L60 to L72, V19, V22.

The honest five releases lie in a real bare repository, loose, made by `Repository` and looked at by stock git; a row
spoils it, and the walk reads it again. Refused is refused; what is wrong with the disk itself is one
`LocalStateError` that names the file.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from conftest import run_git
from simulator import Simulator, shop

from gitrel.errors import LocalStateError, NotFound, Refused
from gitrel.ids import PRODUCTION, ObjectFormat, ObjectId
from gitrel.store.repository import Repository
from gitrel.trust.content import bind_trees, check_shape, hash_tree, verify_content
from gitrel.trust.walk import load_trust, walk_releases

GOOD = [0, 0, 0, 0, 0]


@dataclass
class Disk:
    """The honest ledger in a bare repository at `path`."""

    path: Path
    sim: Simulator

    def outcome(self, *, files: bool = False) -> list[int]:
        with Repository.open(self.path) as repo:
            refs = repo.refs.list("refs/")
            chain = load_trust(refs, repo, repo.format, self.sim.pin)
            found = []
            for verdict in walk_releases(refs, repo, chain, PRODUCTION):
                check = verdict.refusal.check if verdict.refusal else 0
                if files and verdict.release is not None:
                    try:
                        bound = bind_trees(verdict.release, repo)
                        check_shape(repo, bound.build_tree, verdict.ref)
                        verify_content(bound, hash_tree(repo, bound.build_tree, verdict.ref))
                    except Refused as refusal:
                        check = refusal.check
                found.append(check)
            return found

    def git(self, *args: str, stdin: bytes = b"") -> str:
        return run_git(self.path, *args, stdin=stdin).decode().strip()

    def oid(self, entry: int) -> ObjectId:
        return self.sim.releases[PRODUCTION][entry - 1].id.oid

    def ref(self, entry: int) -> Path:
        return self.path / f"refs/releases/v{entry}"

    def loose(self, oid: ObjectId) -> Path:
        return self.path / "objects" / oid[:2] / oid[2:]

    def blob(self, entry: int) -> ObjectId:
        """A blob that only this release has."""
        return self.sim.fmt.object_id("blob", b"%d\n" % entry)

    def spoil(self, oid: ObjectId, deflated: bytes) -> None:
        path = self.loose(oid)
        path.chmod(0o600)
        path.write_bytes(deflated)


def store(sim: Simulator, path: Path) -> Disk:
    with Repository.init_bare(path, sim.fmt) as repo:
        for kind, data in sim.objects.values():
            repo.write(kind, data)
        for name, oid in sim.refs.items():
            repo.refs.create(name, oid)
    return Disk(path, sim)


@pytest.fixture(params=ObjectFormat)
def disk(tmp_path: Path, request: pytest.FixtureRequest) -> Disk:
    return store(shop(5, request.param), tmp_path / "repo.git")


def test_the_honest_one(disk: Disk) -> None:
    assert disk.outcome(files=True) == GOOD
    disk.git("fsck", "--strict", "--no-dangling")


# refs at something else


def tag_at_v5(disk: Disk) -> str:
    text = f"object {disk.oid(5)}\ntype commit\ntag v6\ntagger A <a@b.c> 1 +0000\n\nv6\n"
    return disk.git("mktag", stdin=text.encode())


REFS: dict[str, tuple[Callable[[Disk], str], list[int]]] = {
    "L25": (tag_at_v5, [*GOOD, 2]),
    "L26": (lambda disk: disk.blob(5), [*GOOD, 2]),
    "L27": (lambda disk: disk.git("rev-parse", f"{disk.oid(5)}^{{tree}}"), [*GOOD, 2]),
    "L28": (lambda disk: disk.sim.fmt.object_id("commit", b"nowhere"), [*GOOD, 2]),
}


@pytest.mark.parametrize("row", REFS)
def test_ref(row: str, disk: Disk) -> None:
    make, expected = REFS[row]
    disk.ref(6).write_text(f"{make(disk)}\n")
    assert disk.outcome() == expected


DAMAGED: dict[str, Callable[[Path], object]] = {
    "L29": lambda path: path.write_text("ref: refs/releases/v2\n"),
    "V19-empty": lambda path: path.write_bytes(b""),
    "V19-nul": lambda path: path.write_bytes(b"\0" * 41),
    "V19-truncated": lambda path: path.write_text("1234\n"),
    "V19-upper": lambda path: path.write_text("A" * 40 + "\n"),
    "V19-crlf": lambda path: path.write_text("a" * 40 + "\r\n", newline=""),
    "V19-two-lines": lambda path: path.write_text("a" * 40 + "\n" + "b" * 40 + "\n"),
    "V19-fifo": os.mkfifo,
    "V19-link": lambda path: path.symlink_to("v1"),
    "V19-symref-loop": lambda path: path.write_text("ref: refs/releases/v6\n"),
}


@pytest.mark.parametrize("row", DAMAGED)
def test_a_damaged_ref_is_one_error_that_names_it(row: str, disk: Disk) -> None:
    DAMAGED[row](disk.ref(6))
    with pytest.raises(LocalStateError) as caught:
        disk.outcome()
    assert caught.value.where == str(disk.ref(6))


def test_v19_empty_packed_refs(disk: Disk) -> None:
    (disk.path / "packed-refs").write_bytes(b"")
    assert disk.outcome() == GOOD


def test_v19_an_index_without_its_pack(disk: Disk) -> None:
    disk.git("repack", "-a", "-d", "-q")
    (pack,) = (disk.path / "objects/pack").glob("*.pack")
    pack.unlink()
    with pytest.raises(Refused) as caught:
        disk.outcome()
    assert caught.value.check == 2


def test_packed_by_stock_git(disk: Disk) -> None:
    disk.git("pack-refs", "--all")
    disk.git("repack", "-a", "-d", "-q")
    assert not disk.ref(5).exists()
    assert disk.outcome(files=True) == GOOD


# what rewrites history


def test_l60_replace_refs(disk: Disk) -> None:
    disk.git("replace", disk.oid(5), disk.oid(1))
    assert "v1" not in disk.git("for-each-ref", "--format=%(refname)", "refs/replace")
    assert disk.outcome(files=True) == GOOD


def test_l61_a_shallow_file(disk: Disk) -> None:
    """It cuts off nothing that is there, and excuses nothing that is not."""
    (disk.path / "shallow").write_text(f"{disk.oid(4)}\n")
    assert disk.outcome(files=True) == GOOD
    for entry in (1, 2, 3):
        disk.loose(disk.oid(entry)).unlink()
    assert disk.outcome() == [2]


def test_l62_grafts(disk: Disk) -> None:
    (disk.path / "info").mkdir(exist_ok=True)
    (disk.path / "info/grafts").write_text(f"{disk.oid(5)} {disk.oid(1)}\n")
    assert disk.outcome(files=True) == GOOD


def test_l63_a_hole_in_the_chain(disk: Disk) -> None:
    disk.loose(disk.oid(3)).unlink()
    assert disk.outcome() == [0, 0, 2]


def test_l64_a_blob_that_is_missing(disk: Disk) -> None:
    disk.loose(disk.blob(2)).unlink()
    assert disk.outcome() == GOOD
    assert disk.outcome(files=True) == [0, 11, 0, 0, 0]


LOOSE: dict[str, bytes] = {
    "L65": zlib.compress(b"blob 2\0x\n"),
    "L65-tree": zlib.compress(b"tree 0\0"),
    "L70-short": zlib.compress(b"blob 3\0" + b"5\n"),
    "L70-long": zlib.compress(b"blob 1\0" + b"5\n"),
    "L70-zero-padded": zlib.compress(b"blob 02\0" + b"5\n"),
    "L70-signed": zlib.compress(b"blob +2\0" + b"5\n"),
    "L70-huge": zlib.compress(b"blob 999999999999999\0" + b"5\n"),
    "L70-beyond-64-bits": zlib.compress(b"blob 99999999999999999999\0" + b"5\n"),
    "L70-bomb": zlib.compress(b"blob 2\0" + b"5\n" + bytes(64 * 1024 * 1024)),
    "L71": zlib.compress(b"blob 2\0" + b"5\n") + b"garbage",
    "L71-second-stream": zlib.compress(b"blob 2\0" + b"5\n") + zlib.compress(b""),
    "V19-empty-object": b"",
    "V19-nul-object": b"\0" * 20,
    "V19-cut-object": zlib.compress(b"blob 2\0" + b"5\n")[:-6],
}


@pytest.mark.parametrize("row", LOOSE)
def test_a_damaged_loose_object(row: str, disk: Disk) -> None:
    disk.spoil(disk.blob(5), LOOSE[row])
    assert disk.outcome(files=True) == [0, 0, 0, 0, 11]


@pytest.mark.parametrize("row", LOOSE)
def test_a_damaged_commit(row: str, disk: Disk) -> None:
    disk.spoil(disk.oid(4), LOOSE[row])
    assert disk.outcome() == [0, 0, 0, 2]


def test_l66_a_loose_ref_wins_over_a_packed_one(disk: Disk) -> None:
    (disk.path / "packed-refs").write_text(f"# pack-refs with: peeled \n{disk.oid(4)} refs/releases/v5\n")
    assert disk.git("rev-parse", "refs/releases/v5") == disk.oid(5)
    assert disk.outcome() == GOOD
    disk.ref(5).unlink()
    assert disk.outcome() == [0, 0, 0, 0, 1]


@pytest.mark.parametrize("target", ["/", "/nonexistent", "../../..", "\0", "/proc/self/root"])
def test_l67_alternates_lend_nothing(disk: Disk, target: str) -> None:
    (disk.path / "objects/info").mkdir(exist_ok=True)
    (disk.path / "objects/info/alternates").write_text(f"{target}\n")
    assert disk.outcome(files=True) == GOOD


@pytest.mark.parametrize("folder", ["refs", "refs/trust", "refs/releases"])
def test_l72_refs_of_another_repository(disk: Disk, tmp_path: Path, folder: str) -> None:
    """Through a link the refs of another repository come in: passed over, or they lead to nothing that is here."""
    other = Simulator(fmt=disk.sim.fmt, stamp=replace(disk.sim.stamp, time=3))
    other.trust()
    other.release()
    elsewhere = store(other, tmp_path / "other.git")
    (disk.path / folder).rename(tmp_path / "aside")
    (disk.path / folder).symlink_to(elsewhere.path / folder)
    if folder == "refs/releases":
        assert 0 not in disk.outcome()
    else:
        with pytest.raises((Refused, NotFound)):
            disk.outcome()


# V22: a repository that somebody else made


def test_v22_nothing_of_a_hostile_repository_is_executed(disk: Disk, tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    script = tmp_path / "script"
    script.write_text(f"#!/bin/sh\ntouch {ran}\nexit 0\n")
    script.chmod(0o755)
    for key in (
        "gpg.ssh.program",
        "gpg.program",
        "core.fsmonitor",
        "core.sshCommand",
        "core.pager",
        "filter.lfs.smudge",
        "diff.external",
        "uploadpack.packObjectsHook",
        "core.alternateRefsCommand",
    ):
        disk.git("config", key, str(script))
    disk.git("config", "gpg.ssh.allowedSignersFile", "/dev/null")
    for hook in ("post-checkout", "reference-transaction", "post-index-change"):
        (disk.path / "hooks").mkdir(exist_ok=True)
        (disk.path / "hooks" / hook).symlink_to(script)
    ran.unlink(missing_ok=True)  # stock git runs some of it
    assert disk.outcome(files=True) == GOOD
    assert not ran.exists()
