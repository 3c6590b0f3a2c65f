"""What cannot be stored is refused by its path, and what is odd is noted; nothing is left behind."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from test_store_snapshot import make, take

import gitrel
from gitrel.errors import BuildFailed
from gitrel.format.tree import Mode
from gitrel.ids import Kind, ObjectFormat, ObjectId
from gitrel.store.objects import WHOLE
from gitrel.store.pack import Deflated, Spooled
from gitrel.store.reading import FolderReading, TreeLimits
from gitrel.store.repository import Repository
from gitrel.store.snapshot import snapshot

REFUSED_NAMES = {
    "T03": ".GIT",
    "T04": ".gIt",
    "T13": "a\nb",
    "T14": "a\x1b[31m",
    "T17": "git~1",
    "T18": "GIT~1",
    "T19": ".git.",
    "T20": ".git ",
    "T21": ".git::$INDEX_ALLOCATION",
    "T22": ".git...:alternate-stream",
    "T23": ".gi\u200ct",
    "T24": ".git\ufeff",
    "T25": ".git\\foobar",
    "T26": ".\\.GIT\\foobar",
    "T30": ".. ",
    "T31": ".\u200c.",
}


@pytest.mark.parametrize("row", REFUSED_NAMES)
@pytest.mark.parametrize("kind", ["file", "folder"])
def test_a_name_that_git_would_not_check_out_is_refused(tmp_path: Path, row: str, kind: str) -> None:
    folder = make(tmp_path / "folder", {"sub": {}})
    path = folder / "sub" / REFUSED_NAMES[row]
    if kind == "file":
        path.write_bytes(b"")
    else:
        path.mkdir()
    with pytest.raises(BuildFailed) as caught:
        take(folder, tmp_path)
    assert caught.value.where == str(path)
    assert not list((tmp_path / "own-sha1.git" / "objects" / "pack").iterdir())


@pytest.mark.parametrize("raw", [b"caf\xe9", b".gi\xe2\x80t"], ids=["T15", "T32"])
def test_a_name_that_is_no_utf8_is_refused_and_shown_escaped(tmp_path: Path, raw: bytes) -> None:
    folder = make(tmp_path / "folder", {})
    (Path(os.fsdecode(os.fsencode(folder) + b"/" + raw))).write_bytes(b"")
    with pytest.raises(BuildFailed, match="UTF-8") as caught:
        take(folder, tmp_path)
    assert caught.value.where.endswith("/caf\\xe9" if raw.startswith(b"caf") else "/.gi\\xe2\\x80t")


def test_a_gitmodules_link_is_refused(tmp_path: Path) -> None:
    """T57; T58, a link .gitattributes, is a link like another."""
    folder = make(tmp_path / "folder", {".gitattributes": "elsewhere"})
    take(folder, tmp_path)
    (folder / ".gitmodules").symlink_to("elsewhere")
    with pytest.raises(BuildFailed, match="symbolic link"):
        take(folder, tmp_path)


@pytest.mark.parametrize("name", [".gitattributes", ".gitmodules"])
def test_a_folder_that_git_takes_for_an_error_is_refused(tmp_path: Path, name: str) -> None:
    folder = make(tmp_path / "folder", {name: {}})
    with pytest.raises(BuildFailed, match="is a folder"):
        take(folder, tmp_path)


@pytest.mark.parametrize("kind", ["FIFO", "socket", "character device", "block device"])
def test_what_is_no_file_is_refused_by_its_kind(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make(tmp_path / "folder", {"sub": {}})
    path = folder / "sub" / "it"
    if kind == "FIFO":
        os.mkfifo(path)
    elif kind == "socket":
        monkeypatch.chdir(path.parent)  # a socket's path has at most 108 bytes
        with socket.socket(socket.AF_UNIX) as made:
            made.bind("it")
    else:
        os.mknod(path, (stat.S_IFCHR if kind.startswith("ch") else stat.S_IFBLK) | 0o600, os.makedev(1, 3))
    with pytest.raises(BuildFailed, match=kind) as caught:
        take(folder, tmp_path)
    assert caught.value.where == str(path)
    assert take(folder, tmp_path, ObjectFormat.SHA1, "sub/it").mode is Mode.DIRECTORY


AS_NOBODY = """
import os, sys
from pathlib import Path
from gitrel.errors import BuildFailed
from gitrel.ids import ObjectFormat
from gitrel.store.reading import FolderReading, TreeLimits, open_top
os.setresuid(65534, 65534, 65534)
try:
    with open_top(Path(sys.argv[1])) as top:
        FolderReading(top, sys.argv[1], ObjectFormat.SHA1, None, limits=TreeLimits()).run()
except BuildFailed as error:
    print(error)
"""


@pytest.mark.parametrize("name", ["file", "folder"])
def test_what_cannot_be_read_is_refused(tmp_path: Path, name: str) -> None:
    folder = make(tmp_path / "folder", {"file": (b"secret", False), "folder": {"x": (b"", False)}})
    (folder / "file").chmod(0o644)
    (folder / name).chmod(0)
    for above in [folder, *folder.parents][:-2]:
        above.chmod(0o755)
    command = [sys.executable, "-c", AS_NOBODY, str(folder)]
    done = subprocess.run(command, cwd=Path(gitrel.__file__).parents[1], capture_output=True, check=True)
    assert done.stdout.decode() == f"{folder / name}: cannot read: Permission denied\n"


def test_the_top_is_no_link_and_no_file(tmp_path: Path) -> None:
    folder = make(tmp_path / "folder", {"a": (b"", False)})
    (tmp_path / "link").symlink_to(folder)
    for path in (tmp_path / "link", folder / "a", tmp_path / "nowhere"):
        with pytest.raises(BuildFailed, match="cannot read"):
            take(path, tmp_path)


def test_names_that_mean_something_else_elsewhere_are_noted(tmp_path: Path) -> None:
    """T27, T28, T29, T46, T47: stored, with a warning."""
    names = ["..\\escape", "C:evil", "aux.txt", "README", "readme", "é", "e\u0301", "com1", "console.txt"]
    folder = make(tmp_path / "folder", {"sub": dict.fromkeys(names, (b"", False))})
    with Repository.init_bare(tmp_path / "r.git", ObjectFormat.SHA1) as repo:
        notes = snapshot(folder, repo).notes
    assert sorted(note.rpartition(": ")[0].removeprefix("sub/") for note in notes) == sorted(
        ["..\\escape", "C:evil", "aux.txt", "readme", "é", "com1"]
    )


def test_notes_are_not_endless(tmp_path: Path) -> None:
    folder = make(tmp_path / "folder", {f"a\\{number}": (b"", False) for number in range(150)})
    with Repository.init_bare(tmp_path / "r.git", ObjectFormat.SHA1) as repo:
        notes = snapshot(folder, repo).notes
    assert len(notes) == 101
    assert "50 more" in notes[-1]


class Meddling:
    """A sink that changes a file between one read and the next."""

    def __init__(self, change: Path, to: bytes) -> None:
        self._change, self._to = change, to

    def lacks(self, oid: ObjectId) -> bool:
        self._change.write_bytes(self._to)
        return True

    def put(self, oid: ObjectId, made: Deflated | Spooled) -> None:
        assert made.entry

    def spool(self, kind: Kind, size: int, pieces: Iterator[bytes]) -> Spooled:
        assert sum(map(len, pieces)) == size
        return Spooled(self._change, 0)


@pytest.mark.parametrize(
    ("before", "after"),
    [(b"one", b"two"), (b"one", b"longer"), (b"longer", b"one"), (b"one", b"")],
    ids=["same size", "longer", "shorter", "emptied"],
)
def test_a_file_that_changes_between_stat_and_read_is_refused(tmp_path: Path, before: bytes, after: bytes) -> None:
    folder = make(tmp_path / "folder", {"a": (b"", False), "b": (before, False)})
    _refuses_the_change(folder, folder / "b", after)


def test_a_big_file_that_changes_between_hashing_and_deflating_is_refused(tmp_path: Path) -> None:
    folder = make(tmp_path / "folder", {"big": (bytes(WHOLE + 1), False)})
    _refuses_the_change(folder, folder / "big", bytes(WHOLE) + b"x")


def _refuses_the_change(folder: Path, path: Path, after: bytes) -> None:
    fd = os.open(folder, os.O_RDONLY)
    try:
        reading = FolderReading(fd, str(folder), ObjectFormat.SHA1, Meddling(path, after), limits=TreeLimits())
        with pytest.raises(BuildFailed, match="changed while it was read") as caught:
            reading.run()
    finally:
        os.close(fd)
    assert caught.value.where == str(path)
