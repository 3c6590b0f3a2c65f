"""Trees that somebody built to do harm: each row of the catalogue is refused, or written as what it is."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import run_git
from test_store_checkout import SHA1, look, stored
from test_store_snapshot import Plan

from gitrel.errors import Refused
from gitrel.format.tree import Mode, TreeEntry, encode_tree
from gitrel.ids import Kind, ObjectFormat, ObjectId
from gitrel.store.checkout import stage_checkout
from gitrel.store.pack import PackWriter
from gitrel.store.reading import TreeLimits
from gitrel.store.repository import Repository
from gitrel.store.snapshot import snapshot
from gitrel.store.twin import Ids, ids_of


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


def refused(repo: Repository, tree: ObjectId, builds: Path, limits: TreeLimits | None = None) -> Refused:
    """Refuse, quickly, with nothing written, nothing left, nothing beside it touched."""
    outside = look(builds.parent)
    started = time.monotonic()
    with pytest.raises(Refused) as caught:
        stage_checkout(repo, tree, builds, limits=limits)
    assert time.monotonic() - started < 20
    assert look(builds.parent) == outside
    return caught.value


GIT_ID, LINK_ID, TREE_ID = (char * 20 for char in (b"\1", b"\2", b"\3"))  # stand for ids that the test makes


def entry(name: bytes, mode: bytes = b"100644", oid: bytes = GIT_ID) -> bytes:
    return mode + b" " + name + b"\0" + oid


def folder(name: bytes) -> bytes:
    return entry(name, b"40000", TREE_ID)


def link(name: bytes) -> bytes:
    return entry(name, b"120000", LINK_ID)


NULL_ID, ABSENT_ID = bytes(20), b"\xab" * 20
MODES = [
    "100664",
    "100777",
    "104755",
    "102755",
    "100000",
    "0100644",
    "100600",
    "10644",
    "60644",
    "20666",
    "140755",
    "120777",
    "170000",
    "0",
    "160644",
    "+100644",
    "0o100644",
    "1_00644",
    "37777777777100644",
    "10064x",
    "-100644",
    "644",
]

REFUSED = {
    "T01": entry(b".git"),
    "T02": folder(b".git"),
    "T03": folder(b".GIT"),
    "T04": folder(b".gIt"),
    "T05": entry(b".."),
    "T06": folder(b".."),
    "T07": folder(b"."),
    "T08": entry(b"a/b"),
    "T09": entry(b"/abs/escape"),
    "T10": entry(b"../escape"),
    "T11": entry(b"a/../../escape"),
    "T12": entry(b""),
    "T13": entry(b"a\nb"),
    "T14": entry(b"a\x1b[31m"),
    "T15": entry(b"caf\xe9"),
    "T16": entry(b"n" * 300),
    "T17": folder(b"git~1"),
    "T18": folder(b"GIT~1"),
    "T19": folder(b".git."),
    "T20": folder(b".git "),
    "T21": folder(b".git::$INDEX_ALLOCATION"),
    "T22": folder(b".git...:alternate-stream"),
    "T23": folder(b".gi\xe2\x80\x8ct"),
    "T24": folder(b".git\xef\xbb\xbf"),
    "T25": entry(b".git\\foobar"),
    "T26": entry(b".\\.GIT\\foobar"),
    "T30": folder(b".. "),
    "T31": folder(b".\xe2\x80\x8c."),
    "T32": entry(b".gi\xe2\x80t"),
    "T40": entry(b"x") + entry(b"x", oid=LINK_ID),
    "T41": entry(b"x") + entry(b"x.1") + folder(b"x"),
    "T42": link(b"d") + folder(b"d"),
    "T43": link(b"d") + entry(b"d/pwned"),
    "T44": folder(b"d") + link(b"d") + entry(b"d/pwned"),
    "T48": entry(b"b") + entry(b"a"),
    "T57": link(b".gitmodules"),
    "T61": entry(b".gitmodules") + entry(b"sub", b"160000", ABSENT_ID),
    "T62": entry(b"sub", b"160000", ABSENT_ID),
    **{f"T{70 + number}": entry(b"x", mode.encode()) for number, mode in enumerate(MODES)},
    "T92": entry(b"x", b"040000", TREE_ID),
    "T93": entry(b"x", b"40000", GIT_ID),
    "T94": entry(b"x", oid=TREE_ID),
    "T95": entry(b"x", oid=b"\4" * 20),
    "T96": entry(b"x", oid=ABSENT_ID),
    "T97": entry(b"x", oid=NULL_ID),
    "T98": entry(b"x")[:-1],
    "T99": entry(b"x") + b"garbage",
}
LINK_TARGETS = {"T54": b"a\0b", "T55": b"", "T56": b"a/" * 2048 + b"a"}
CHECK_12 = {"T96", "T97"}
COMMIT = b"tree 4b825dc642cb6eb9a060e54bf8d69288fbee4904\nauthor A <a@b> 1 +0000\ncommitter A <a@b> 1 +0000\n\nm\n"


def put(repo: Repository, raw: bytes, target: bytes = b"../escape") -> ObjectId:
    inner = repo.write("tree", entry(b"pwned", oid=repo.write("blob", b"hello").raw))
    real = {
        GIT_ID: repo.write("blob", b"hello").raw,
        LINK_ID: repo.write("blob", target).raw,
        TREE_ID: inner.raw,
        b"\4" * 20: repo.write("commit", COMMIT).raw,
    }
    for placeholder, oid in real.items():
        raw = raw.replace(placeholder, oid)
    return repo.write("tree", raw)


@pytest.mark.parametrize("deep", [False, True], ids=["at the top", "in a folder"])
@pytest.mark.parametrize("row", REFUSED)
def test_a_hostile_tree_is_refused(repo: Repository, builds: Path, row: str, deep: bool) -> None:
    tree = put(repo, REFUSED[row])
    if deep:
        tree = put(repo, entry(b"a-file") + entry(b"z", b"40000", tree.raw))
    assert refused(repo, tree, builds).check == (12 if row in CHECK_12 else 11)


@pytest.mark.parametrize("row", LINK_TARGETS)
def test_a_link_without_a_usable_target_is_refused(repo: Repository, builds: Path, row: str) -> None:
    tree = put(repo, entry(b"a") + link(b"b"), LINK_TARGETS[row])
    assert refused(repo, tree, builds).check == 11


ACCEPTED = {
    "T27": entry(b"..\\escape"),
    "T28": entry(b"C:evil"),
    "T29": entry(b"aux.txt"),
    "T45": link(b"A") + folder(b"a"),
    "T46": entry(b"README") + entry(b"readme"),
    "T47": entry(b"e\xcc\x81") + entry(b"\xc3\xa9"),
    "T50": link(b"l"),
    "T52": entry(b"a") + link(b"l"),
    "T58": link(b".gitattributes"),
}


@pytest.mark.parametrize("row", ACCEPTED)
def test_what_only_looks_odd_is_written_as_it_is_named(repo: Repository, builds: Path, row: str) -> None:
    """T50: whether a link may leave the tree is judged before; here it is made, and never followed."""
    tree = put(repo, ACCEPTED[row])
    with stage_checkout(repo, tree, builds) as staged:
        staged.publish(builds / "out")
    names = [name.decode() for name in run_git(repo.path, "ls-tree", "-z", "--name-only", tree).split(b"\0")[:-1]]
    assert sorted(os.listdir(builds / "out")) == sorted(names)
    assert (builds.parent / "escape").read_text() == "untouched"


def test_links_that_go_round_are_only_links(repo: Repository, builds: Path) -> None:
    """T53, T60."""
    tree = stored(repo, builds.parent / "x", {"a": "b", "b": "a", "self": "self", "up": "..", "chain": "up/up"})
    with stage_checkout(repo, tree, builds) as staged:
        staged.publish(builds / "out")
    assert {path.name: os.readlink(path) for path in (builds / "out").iterdir()}["chain"] == "up/up"


def test_attributes_are_not_applied(repo: Repository, builds: Path) -> None:
    """A01: bytes on disk equal the blobs."""
    plan: Plan = {
        ".gitattributes": (b"* text eol=crlf ident export-ignore export-subst filter=lfs\n", False),
        "a": (b"a\nb\r\n$Id$ $Format:%H$", False),
    }
    with stage_checkout(repo, stored(repo, builds.parent / "x", plan), builds) as staged:
        staged.publish(builds / "out")
    assert (builds / "out" / "a").read_bytes() == b"a\nb\r\n$Id$ $Format:%H$"


def nested(repo: Repository, levels: int, name: bytes) -> ObjectId:
    with PackWriter(repo) as pack:
        tree = pack.add("tree", b"")
        for _ in range(levels):
            tree = pack.add("tree", entry(name, b"40000", tree.raw))
        pack.finish()
    return tree


def bomb(repo: Repository, bottom: ObjectId, mode: Mode, levels: int) -> ObjectId:
    with PackWriter(repo) as pack:
        for _ in range(levels):
            bottom = pack.add("tree", encode_tree(TreeEntry(mode, f"d{n}", bottom) for n in range(8)))
            mode = Mode.DIRECTORY
        pack.finish()
    return bottom


def test_r01_deep_nesting(repo: Repository, builds: Path) -> None:
    assert "deep" in refused(repo, nested(repo, 1500, b"d"), builds).why


def test_r02_a_path_longer_than_the_kernel_takes(repo: Repository, builds: Path) -> None:
    refused(repo, nested(repo, 1000, b"d" * 200), builds)
    assert "path" in refused(repo, nested(repo, 100, b"d" * 200), builds).why


def test_r03_bomb_of_files(repo: Repository, builds: Path) -> None:
    tree = bomb(repo, repo.write("blob", b"boom"), Mode.FILE, 8)
    assert "19173960 files and folders" in refused(repo, tree, builds).why


def test_r04_bomb_of_empty_folders(repo: Repository, builds: Path) -> None:
    tree = bomb(repo, repo.write("tree", b""), Mode.DIRECTORY, 8)
    assert "19173960 files and folders" in refused(repo, tree, builds).why


def test_r05_many_copies_of_one_blob(repo: Repository, builds: Path) -> None:
    blob = repo.write("blob", bytes(1 << 20))
    tree = repo.write("tree", encode_tree(TreeEntry(Mode.FILE, f"f{n}", blob) for n in range(20_000)))
    assert "bytes in all" in refused(repo, tree, builds).why


def test_r06_empty_folders_are_folders(repo: Repository, builds: Path) -> None:
    with stage_checkout(repo, stored(repo, builds.parent / "x", {"a": {"b": {}}, "c": {}}), builds) as staged:
        staged.publish(builds / "out")
    assert list(look(builds / "out")) == ["a", "a/b", "c"]


def test_a_subtree_that_stands_twice_is_written_twice(repo: Repository, builds: Path) -> None:
    tree = bomb(repo, repo.write("blob", b"x"), Mode.EXECUTABLE, 3)
    with stage_checkout(repo, tree, builds) as staged:
        staged.publish(builds / "out")
    assert len(look(builds / "out")) == 8 + 64 + 512


@pytest.mark.parametrize(
    ("limits", "why"),
    [
        (TreeLimits(entries=3), "files and folders"),
        (TreeLimits(total=5), "6 bytes in all"),
        (TreeLimits(blob=3), "has 4 bytes"),
        (TreeLimits(depth=1), "1 folders deep"),
        (TreeLimits(path=4), "path of 5"),
    ],
    ids=["entries", "total", "blob", "depth", "path"],
)
def test_limits(repo: Repository, builds: Path, limits: TreeLimits, why: str) -> None:
    """The very limits that `snapshot` holds: what it stores can be written out."""
    tree = stored(repo, builds.parent / "x", {"a": {"b": {"c": (b"1234", False)}}, "d": (b"12", False)})
    assert why in refused(repo, tree, builds, limits).why
    stage_checkout(repo, tree, builds, limits=TreeLimits(entries=4, total=6, blob=4, depth=2, path=5)).discard()


def test_every_catalogued_tree_has_its_test() -> None:
    rows = {*REFUSED, *LINK_TARGETS, *ACCEPTED, "T53", "T60"}
    elsewhere = {"T51", "T59"}  # link targets, and the Procfile: checked before a checkout
    gaps = {f"T{n}" for n in [*range(33, 40), 49, *range(63, 70)]}
    assert rows | elsewhere | gaps == {f"T{n:02}" for n in range(1, 100)}


@pytest.mark.parametrize("packed", [False, True], ids=["loose", "packed"])
@pytest.mark.parametrize("kind", ["blob", "tree"])
def test_substituted_content_is_refused(repo: Repository, builds: Path, kind: str, packed: bool) -> None:
    """L65: other bytes under the id that the tree names, as many as before."""
    good, evil = (b"good", b"evil") if kind == "blob" else (entry(b"good"), entry(b"evil"))
    fake = SHA1.object_id(kind, good)
    if packed:
        with PackWriter(repo) as pack:
            pack.put_pieces(fake, kind, len(evil), iter([evil]))
            pack.finish()
    else:
        real = repo.write(kind, evil)
        path = repo.objects / fake[:2] / fake[2:]
        path.parent.mkdir(exist_ok=True)
        (repo.objects / real[:2] / real[2:]).rename(path)
    mode = b"100644" if kind == "blob" else b"40000"
    first = repo.write("blob", b"written before")
    tree = repo.write("tree", entry(b"a", oid=first.raw) + entry(b"z", mode, fake.raw))
    assert refused(repo, tree, builds).check == 12


def test_sha256_holds_where_sha1_is_broken(repo: Repository, builds: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Promise 25: with git's id no longer telling two blobs apart, the other id still does."""
    tree = stored(repo, builds.parent / "x", {"a": (b"good", False)})
    good = snapshot(builds.parent / "x", repo).node
    blob = SHA1.object_id("blob", b"good")
    (path,) = (repo.objects / "pack").glob("*.pack")
    path.unlink()
    path.with_suffix(".idx").unlink()
    with Repository.open(repo.path) as robbed:
        with PackWriter(robbed) as pack:
            pack.put_pieces(blob, "blob", 4, iter([b"evil"]))
            pack.add("tree", entry(b"a", oid=blob.raw))
            pack.finish()
        monkeypatch.setattr("gitrel.store.writing.ids_of", broken_sha1)
        with stage_checkout(robbed, tree, builds) as staged:
            assert staged.node.oid == good.oid
            assert staged.node.sha256 != good.sha256


def broken_sha1(kind: Kind, data: bytes, fmt: ObjectFormat) -> Ids:
    """Any blob has the id of `good`; SHA-256 is as ever."""
    return Ids(ids_of(kind, b"good", fmt).oid, ids_of(kind, data, fmt).sha256)
