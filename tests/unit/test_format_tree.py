"""Trees: the catalogue's names and modes, stock git as the judge of both, and the SHA-256 twin of a tree."""

from __future__ import annotations

import os
import random
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gitrel.errors import FormatError
from gitrel.format.tree import (
    MAX_NAME,
    Mode,
    Node,
    TreeEntry,
    blob_node,
    check_name,
    directory_node,
    encode_tree,
    parse_tree,
)
from gitrel.ids import ObjectFormat, ObjectId

if TYPE_CHECKING:
    from conftest import Git

SHA1 = ObjectFormat.SHA1
A, B = b"\x11" * 20, b"\x22" * 20

FILE, DIRECTORY, LINK = b"100644", b"40000", b"120000"


def entry(name: bytes, mode: bytes = FILE, oid: bytes = A) -> bytes:
    return b"%s %s\0%s" % (mode, name, oid)


REFUSED: dict[str, bytes] = {
    "T01": entry(b".git"),
    "T02": entry(b".git", DIRECTORY),
    "T03": entry(b".GIT", DIRECTORY),
    "T04": entry(b".gIt", DIRECTORY),
    "T05": entry(b".."),
    "T06": entry(b"..", DIRECTORY),
    "T07": entry(b".", DIRECTORY),
    "T08": entry(b"a/b"),
    "T09": entry(b"/abs/escape"),
    "T10": entry(b"../escape"),
    "T11": entry(b"a/../../escape"),
    "T12": entry(b""),
    "T13": entry(b"new\nline"),
    "T14": entry(b"esc\x1b[2J"),
    "T14 C1": entry("csi\u009b2J".encode()),
    "T14 DEL": entry(b"del\x7f"),
    "T15": entry(b"caf\xe9"),
    "T16": entry(b"n" * 300),
    "T16 one over": entry(b"n" * (MAX_NAME + 1)),
    "T16 in bytes": entry("é".encode() * 128),
    "T17": entry(b"git~1", DIRECTORY),
    "T18": entry(b"GIT~1", DIRECTORY),
    "T19": entry(b".git.", DIRECTORY),
    "T20": entry(b".git ", DIRECTORY),
    "T21": entry(b".git::$INDEX_ALLOCATION", DIRECTORY),
    "T22": entry(b".git...:alternate-stream"),
    "T23": entry(".gi\u200ct".encode(), DIRECTORY),
    "T24": entry(".git\ufeff".encode(), DIRECTORY),
    "T25": entry(b".git\\foobar"),
    "T26": entry(b".\\.GIT\\foobar"),
    "T30": entry(b".. "),
    "T31": entry(".\u200c.".encode()),
    "T32": entry(b".gi\xe2\x80t"),
    "T40": entry(b"x", oid=A) + entry(b"x", oid=B),
    "T41": entry(b"x") + entry(b"x.1") + entry(b"x", DIRECTORY),
    "T42": entry(b"d", LINK) + entry(b"d", DIRECTORY),
    "T43": entry(b"d", LINK) + entry(b"d/pwned"),
    "T44": entry(b"d", DIRECTORY) + entry(b"d", LINK) + entry(b"d/pwned"),
    "T48": entry(b"b") + entry(b"a"),
    "T48 as if a directory were a file": entry(b"a", DIRECTORY) + entry(b"a.b"),
    "T57": entry(b".gitmodules", LINK),
    "T57 HFS": entry(".gitmod\u200cules".encode(), LINK),
    "T57 NTFS": entry(b"GITMOD~1", LINK),
    "T57 NTFS stream": entry(b".gitmodules:x", LINK),
    "T57 NTFS fallback": entry(b"gi7eba~1", LINK),
    "T61": entry(b".gitmodules") + entry(b"sub", b"160000"),
    "T62": entry(b"sub", b"160000"),
    "T98": entry(b"a") + entry(b"b")[:-1],
    "T98 in the mode": entry(b"a") + b"1006",
    "T98 in the name": entry(b"a") + b"100644 na",
    "T98 before the id": entry(b"a") + b"100644 b\0",
    "T99": entry(b"a") + b"\0",
    "T99 text": entry(b"a") + b"garbage",
}

MODES = {
    "T70": b"100664",
    "T71": b"100777",
    "T72": b"104755",
    "T73": b"102755",
    "T74": b"100000",
    "T75": b"0100644",
    "T76": b"100600",
    "T77": b"10644",
    "T78": b"60644",
    "T79": b"20666",
    "T80": b"140755",
    "T81": b"120777",
    "T82": b"170000",
    "T83": b"0",
    "T84": b"160644",
    "T85": b"+100644",
    "T86": b"0o100644",
    "T87": b"1_00644",
    "T88": b"37777777777100644",
    "T89": b"10064x",
    "T90": b"-100644",
    "T91": b"644",
    "T92": b"040000",
    "mode empty": b"",
    "mode in other digits": "１00644".encode(),
}
REFUSED |= {row: entry(b"f", mode) for row, mode in MODES.items()}

ACCEPTED: dict[str, bytes] = {
    "T27": entry(b"..\\escape"),
    "T28": entry(b"C:evil"),
    "T29": entry(b"aux.txt"),
    "T45": entry(b"A", LINK) + entry(b"a", DIRECTORY),
    "T46": entry(b"README") + entry(b"readme"),
    "T47": entry("e\u0301".encode()) + entry("é".encode()),
    "T58": entry(b".gitattributes", LINK),
    "no entries": b"",
    "longest name": entry(b"n" * MAX_NAME),
    "a directory sorts with its slash": entry(b"a.b") + entry(b"a", DIRECTORY) + entry(b"a0"),
    ".gitmodules as a file": entry(b".gitmodules"),
    "dots of its own": entry(b"...") + entry(b".github", DIRECTORY) + entry(b".gitignore"),
    "right-to-left and emoji": entry("שלום".encode()) + entry("🚀".encode()),
}


@pytest.mark.parametrize("row", REFUSED)
def test_refused(row: str) -> None:
    with pytest.raises(FormatError):
        parse_tree(REFUSED[row], SHA1)


@pytest.mark.parametrize("row", ACCEPTED)
def test_accepted(row: str) -> None:
    assert encode_tree(parse_tree(ACCEPTED[row], SHA1)) == ACCEPTED[row]


# Pieces that names of the .git family are made of.
PIECES = (
    ".git",
    "git~1",
    "git~2",
    "GIT~1",
    ".",
    "..",
    " ",
    ":",
    "\\",
    "x",
    "~1",
    ".Git",
    "\u200c",
    "\ufeff",
    "gitmod",
    "ules",
    "gi7eba",
    "gi7eb~10",
    "~1000000",
)
dangerous = st.lists(st.sampled_from(PIECES), min_size=1, max_size=4).map("".join)


OBJECTING = {"hasDot", "hasDotdot", "hasDotgit", "gitmodulesSymlink", "fullPathname", "emptyName"}


def objections_of_git(folder: Path, trees: list[bytes], git: Git) -> list[set[str]]:
    """What `git fsck --strict` says of each tree: `hasDotgit`, `gitmodulesSymlink`, …"""
    git(folder, "init", "-q")
    (folder / "trees").mkdir()
    for number, raw in enumerate(trees):
        (folder / "trees" / str(number)).write_bytes(raw)
    paths = "".join(f"trees/{number}\n" for number in range(len(trees))).encode()
    ids = git(folder, "hash-object", "-w", "--literally", "-t", "tree", "--stdin-paths", stdin=paths).decode().split()
    fsck = subprocess.run(["git", "fsck", "--strict"], cwd=folder, capture_output=True, text=True, check=False)
    said: dict[str, set[str]] = {}
    for line in fsck.stderr.splitlines():
        if line.startswith("error in tree "):
            oid, code, _ = line.removeprefix("error in tree ").split(": ", 2)
            said.setdefault(oid, set()).add(code)
    return [said.get(oid, set()) for oid in ids]


def refuses(raw: bytes) -> bool:
    try:
        parse_tree(raw, SHA1)
    except FormatError:
        return True
    return False


def family() -> list[str]:
    """Every name of up to three of the pieces."""
    names = {first + second + third for first in PIECES for second in ("", *PIECES) for third in ("", *PIECES)}
    return sorted(names)


def test_names_are_refused_where_git_objects_and_nowhere_else(tmp_path: Path, git: Git) -> None:
    """We are stricter on purpose in two things: ignorables in NTFS spellings, `.` and `..` with spaces."""
    named = [(name, entry(name.encode(), mode)) for name in family() for mode in (FILE, LINK)]
    said = objections_of_git(tmp_path, [raw for _, raw in named], git)
    assert {code for codes in said for code in codes} >= {"hasDotgit", "gitmodulesSymlink"}
    missed, stricter = [], []
    for (name, raw), codes in zip(named, said, strict=True):
        if codes & OBJECTING and not refuses(raw):
            missed.append(raw)
        if refuses(raw) and not codes & OBJECTING and name.isascii() and name.rstrip(" ") not in (".", ".."):
            stricter.append(raw)
    assert (missed, stricter) == ([], [])


@given(raw=st.binary(max_size=120), fmt=st.sampled_from(ObjectFormat))
def test_arbitrary_bytes(raw: bytes, fmt: ObjectFormat) -> None:
    """What parses re-encodes to the same bytes; nothing but a FormatError comes out."""
    try:
        entries = parse_tree(raw, fmt)
    except FormatError:
        return
    assert encode_tree(entries) == raw


safe_names = st.text(st.characters(exclude_characters="/", exclude_categories=("Cc", "Cs")), min_size=1, max_size=20)
names = (safe_names | dangerous).filter(
    lambda name: not name.startswith((".", "git", "gi7", "GIT")) and "\\" not in name
)


@given(data=st.data(), fmt=st.sampled_from(ObjectFormat))
def test_a_tree_comes_back(data: st.DataObject, fmt: ObjectFormat) -> None:
    safe = names.filter(lambda name: not any(char in name for char in "~\u200c\ufeff") and name.isprintable())
    raws = st.binary(min_size=fmt.raw_length, max_size=fmt.raw_length)
    some = st.builds(TreeEntry, st.sampled_from(Mode), safe, raws.map(ObjectId.from_raw))
    entries = data.draw(st.lists(some, max_size=8, unique_by=lambda each: each.name))
    raw = encode_tree(entries)
    parsed = parse_tree(raw, fmt)
    assert set(parsed) == set(entries)
    assert encode_tree(parsed) == raw
    at = data.draw(st.integers(0, max(0, len(raw) - 1)))
    assert refuses_or_differs(raw[:at] + raw[at + 1 :], parsed, fmt)


def refuses_or_differs(raw: bytes, entries: tuple[TreeEntry, ...], fmt: ObjectFormat) -> bool:
    try:
        return parse_tree(raw, fmt) != entries or not entries
    except FormatError:
        return True


@given(raw=st.binary(max_size=30) | dangerous.map(str.encode))
def test_a_checked_name_is_its_bytes(raw: bytes) -> None:
    try:
        name = check_name(raw)
    except FormatError:
        return
    assert name.encode() == raw
    assert "/" not in name
    assert name not in ("", ".", "..")


def grow(folder: Path, rng: random.Random, fmt: ObjectFormat, depth: int = 0) -> dict[str, Node]:
    """A random folder on disk, and what its nodes should be."""
    children: dict[str, Node] = {}
    for number in range(rng.randint(1, 5)):
        # Names whose order changes with a slash at the end are what trees get wrong.
        name = rng.choice(["a", "a.", "a-b", "a0", "é", "Z", "z", ".hidden"]) + rng.choice(["", "b", f"{number}"])
        path = folder / name
        if name in children:
            continue
        data = rng.randbytes(rng.choice([0, 1, 100, 5000]))
        match rng.choice(["file", "file", "executable", "link", "folder"]):
            case "folder" if depth < 3:
                path.mkdir()
                _, children[name] = directory_node(grow(path, rng, fmt, depth + 1), fmt)
            case "link":
                path.symlink_to("a/target")
                children[name] = blob_node(b"a/target", fmt, Mode.SYMLINK)
            case "executable":
                path.write_bytes(data)
                path.chmod(0o755)
                children[name] = blob_node(data, fmt, Mode.EXECUTABLE)
            case _:
                path.write_bytes(data)
                children[name] = blob_node(data, fmt)
    return children


@pytest.mark.parametrize("seed", range(6))
def test_stock_git_gives_both_ids(seed: int, tmp_path: Path, git: Git) -> None:
    """Tree-SHA256 is what a SHA-256 repository says, whatever format the app's own repository has."""
    work = tmp_path / "work"
    work.mkdir()
    grow(work, random.Random(seed), SHA1)
    ids: dict[ObjectFormat, str] = {}
    for fmt in ObjectFormat:
        store = tmp_path / f"{fmt}.git"
        git(tmp_path, "init", "-q", "--bare", f"--object-format={fmt}", str(store))
        at = (f"--git-dir={store}", f"--work-tree={work}", "-c", "core.autocrlf=false")
        git(work, *at, "add", "-A", "-f", ".")
        ids[fmt] = git(work, *at, "write-tree").decode().strip()
    for fmt in ObjectFormat:
        again = tmp_path / f"again-{fmt}"
        again.mkdir()
        raw, node = directory_node(grow(again, random.Random(seed), fmt), fmt)
        assert (node.mode, node.oid, node.sha256) == (Mode.DIRECTORY, ids[fmt], ids[ObjectFormat.SHA256])
        assert sorted(os.fsdecode(each.name) for each in parse_tree(raw, fmt)) == sorted(os.listdir(again))


@pytest.mark.parametrize(
    ("fmt", "oid"),
    [
        (ObjectFormat.SHA1, "4b825dc642cb6eb9a060e54bf8d69288fbee4904"),
        (ObjectFormat.SHA256, "6ef19b41225c5369f1c104d45d8d85efa9b057b53b14b4b9b939dd74decc5321"),
    ],
)
def test_the_empty_tree(fmt: ObjectFormat, oid: str) -> None:
    """Two ids that every git knows by heart."""
    raw, node = directory_node({}, fmt)
    assert (raw, node.oid) == (b"", oid)
    assert node.sha256 == "6ef19b41225c5369f1c104d45d8d85efa9b057b53b14b4b9b939dd74decc5321"
