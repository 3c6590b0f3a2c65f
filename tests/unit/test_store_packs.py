"""The reader of packs beside git's: deltas of both kinds, and what it makes of a damaged one."""

from __future__ import annotations

import random
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import run_git

from gitrel.errors import LocalStateError
from gitrel.ids import ObjectFormat, ObjectId
from gitrel.store.objects import ObjectReader
from gitrel.store.pack import PackWriter
from gitrel.store.repository import Repository

TEXT = b"".join(b"line %d of a text that is long enough for a delta\n" % number for number in range(400))


@pytest.fixture(scope="module", params=["sha1", "sha256"])
def deltas(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pack of git's, of versions of one text, deep in deltas; a branch names them all."""
    path = tmp_path_factory.mktemp("packs") / "r.git"
    chance = random.Random(1)
    with Repository.init_bare(path, ObjectFormat(request.param)) as repo, PackWriter(repo) as pack:
        text, tree = TEXT, b""
        for number in range(100, 140):
            at = chance.randrange(len(text))
            text = text[:at] + b"changed %d" % number + text[at + 5 :]
            tree += b"100644 f%d\0" % number + pack.add("blob", text).raw
        author = b"A <a@b.c> 1 +0000"
        oid = pack.add("tree", tree)
        commit = pack.add("commit", b"tree %s\nauthor %s\ncommitter %s\n\nx\n" % (oid.encode(), author, author))
        pack.finish()
    run_git(path, "update-ref", "refs/heads/main", commit)
    run_git(path, "repack", "-adfq", "--depth=40", "--window=60")
    return path


def objects(path: Path) -> dict[ObjectId, int]:
    lines = run_git(path, "cat-file", "--batch-check=%(objectname) %(objectsize)", "--batch-all-objects").decode()
    return {ObjectId(line.split()[0]): int(line.split()[1]) for line in lines.splitlines()}


def index_of(path: Path) -> Path:
    (index,) = (path / "objects/pack").glob("*.idx")
    return index


@pytest.mark.parametrize("kind", ["offset", "id"])
def test_every_object_is_what_git_reads(deltas: Path, tmp_path: Path, kind: str) -> None:
    path = shutil.copytree(deltas, tmp_path / "r.git")
    if kind == "id":
        run_git(path, "-c", "repack.useDeltaBaseOffset=false", "repack", "-adq")
    listed = run_git(path, "verify-pack", "-v", str(index_of(path))).decode()
    assert "chain length = 8" in listed
    with Repository.open(path) as repo:
        reader = ObjectReader(repo)
        for oid, size in objects(path).items():
            found, data = repo.read_any(oid)  # hashed
            assert data == run_git(path, "cat-file", found, oid)
            assert reader.find(oid).size == size == len(data)
        (pack,) = repo.packs.own()
        assert [raw.hex() for raw, _ in pack.entries()] == sorted(objects(path))
        assert repo.packs.find(ObjectId("0" * len(oid))) is None


def _at(offset: int, value: bytes) -> Callable[[bytes], bytes]:
    return lambda raw: raw[:offset] + value + raw[offset + len(value) :]


INDEX_DEFECTS: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda _: b"",
    "cut short": lambda raw: raw[:-1],
    "longer": lambda raw: raw + bytes(1000),
    "another version": _at(4, struct.pack(">I", 3)),
    "version 1": lambda raw: raw[8:],
    "counts that go down": _at(8, b"\xff\xff\xff\xff"),
    "another pack's": lambda raw: raw[:-40] + bytes(8) + raw[-32:],
}


@pytest.mark.parametrize("defect", INDEX_DEFECTS)
def test_an_index_that_does_not_fit_is_refused_by_its_name(deltas: Path, tmp_path: Path, defect: str) -> None:
    path = shutil.copytree(deltas, tmp_path / "r.git")
    oid = next(iter(objects(path)))
    with Repository.open(path) as repo, PackWriter(repo) as pack:
        other = pack.add("blob", b"in a pack of its own")
        sound = pack.finish()
    (index,) = [each for each in (path / "objects/pack").glob("*.idx") if sound and each.stem != sound.stem]
    raw = index.read_bytes()
    index.unlink()
    index.write_bytes(INDEX_DEFECTS[defect](raw))
    with Repository.open(path) as repo:
        assert repo.read(other, "blob") == b"in a pack of its own"
        with pytest.raises(LocalStateError, match=r"pack") as caught:
            repo.read_any(oid)
        assert index.stem in str(caught.value.where)
        with pytest.raises(LocalStateError):
            ObjectReader(repo)


def test_damage_in_a_pack_is_said_or_hashed_away(deltas: Path, tmp_path: Path) -> None:
    """Whatever byte is wrong, nothing else than an object's own bytes is returned, and nothing else raised."""
    known = {oid: run_git(deltas, "cat-file", "--batch", stdin=f"{oid}\n".encode()) for oid in objects(deltas)}
    raw = index_of(deltas).with_suffix(".pack").read_bytes()
    chance = random.Random(2)
    for number in range(40):
        path = tmp_path / f"{number}.git"
        shutil.copytree(deltas, path)
        pack = index_of(path).with_suffix(".pack")
        pack.unlink()
        at = chance.randrange(12, len(raw) - 32)
        pack.write_bytes(raw[:at] + bytes([raw[at] ^ 1 << chance.randrange(8)]) + raw[at + 1 :])
        with Repository.open(path) as repo:
            for oid, said in known.items():
                try:
                    found, data = repo.read_any(oid)
                except LocalStateError:
                    continue
                assert said == f"{oid} {found} {len(data)}\n".encode() + data + b"\n"


def test_packs_that_come_and_go_are_seen(deltas: Path, tmp_path: Path) -> None:
    path = shutil.copytree(deltas, tmp_path / "r.git")
    with Repository.open(path) as repo, Repository.open(path) as writer:
        oid = repo.format.object_id("blob", b"new")
        assert oid not in repo
        with PackWriter(writer) as pack:
            pack.add("blob", b"new")
            pack.finish()
        assert oid in repo
        assert len(repo.packs.own()) == 2
        held = {each: repo.packs.find(each) for each in objects(path)}
        run_git(path, "repack", "-adq")
        assert len(repo.packs.own()) == 1
        for each, place in held.items():
            assert place is not None
            assert repo.format.object_id(*place[0].read(place[1])) == each  # who has it may read on
        assert oid not in repo  # no ref reached it


def test_alternates_lend_what_they_have(deltas: Path, tmp_path: Path) -> None:
    with Repository.open(deltas) as lender:
        borrower = Repository.init_bare(tmp_path / "b.git", lender.format)
        middle = Repository.init_bare(tmp_path / 'a "quoted" name\t.git', lender.format)
        (middle.objects / "info/alternates").write_text(f"# a comment\n{lender.objects}\n")
        quoted = str(middle.objects).replace('"', '\\"').replace("\t", "\\t")
        (borrower.objects / "info/alternates").write_text(f'"{quoted}"\n')
        loose = middle.write("blob", b"loose")
        for oid in [loose, *objects(deltas)]:
            assert oid in borrower
            assert borrower.read_any(oid) == (lender if oid != loose else middle).read_any(oid)
        assert borrower.packs.own() == []
        borrower.close()
