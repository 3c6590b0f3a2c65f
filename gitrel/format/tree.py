"""Git trees: strict parsing, encoding, and the names and modes that a build may hold (docs/spec/tree.md)."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping
from enum import Enum
from functools import lru_cache

from gitrel.dataclass import dataclass
from gitrel.errors import FormatError
from gitrel.ids import ObjectFormat, ObjectId, Sha256

MAX_NAME = 255  # bytes; NAME_MAX of every filesystem that Linux runs on

# Code points that HFS+ ignores in names (git's utf8.c, next_hfs_char)
_HFS_IGNORED = dict.fromkeys([*range(0x200C, 0x2010), *range(0x202A, 0x202F), *range(0x206A, 0x2070), 0xFEFF], None)


class Mode(Enum):
    """The four modes that gitrel stores; the value is git's spelling."""

    DIRECTORY = b"40000"
    FILE = b"100644"
    EXECUTABLE = b"100755"
    SYMLINK = b"120000"


_MODES = {mode.value: mode for mode in Mode}


@dataclass(frozen=True, slots=True)
class TreeEntry:
    """One entry; `name` is a single checked path component."""

    mode: Mode
    name: str
    oid: ObjectId

    @property
    def sort_key(self) -> bytes:
        """Git sorts by bytes, a directory as if its name ended in `/` (git's read-cache.c, base_name_compare)."""
        raw = self.name.encode()
        return raw + b"/" if self.mode is Mode.DIRECTORY else raw


def encode_tree(entries: Iterable[TreeEntry]) -> bytes:
    """A tree object's bytes, sorted as git sorts."""
    return b"".join(
        b"%s %s\0%s" % (entry.mode.value, entry.name.encode(), entry.oid.raw)
        for entry in sorted(entries, key=lambda entry: entry.sort_key)
    )


def parse_tree(raw: bytes, fmt: ObjectFormat) -> tuple[TreeEntry, ...]:
    """Read a tree object. Raises `FormatError` for other modes, unsafe names, disorder, duplicates, torn bytes."""
    entries: list[TreeEntry] = []
    names: set[bytes] = set()
    at, length, width = 0, len(raw), fmt.raw_length
    previous = b""
    while at < length:
        space = raw.find(b" ", at, at + 7)
        nul = raw.find(b"\0", space + 1) if space > 0 else -1
        end = nul + 1 + width
        if nul < 0 or end > length:
            raise FormatError("tree is cut short or has bytes that are no entry", why=f"at byte {at}")
        mode = _MODES.get(raw[at:space])
        if mode is None:
            raise FormatError(
                f"mode {raw[at:space].decode('latin-1')!r} in a tree",
                why="only 40000, 100644, 100755 and 120000",
            )
        key = raw[space + 1 : nul]
        name = check_name(key)
        if key in names:
            raise FormatError(f"{name!r} stands twice in a tree")
        names.add(key)
        if mode is Mode.DIRECTORY:
            key += b"/"
        if key <= previous and entries:
            raise FormatError("tree is not sorted", why=f"at {name!r}")
        if mode is Mode.SYMLINK and is_dot_name(name, "gitmodules", _NTFS_GITMODULES):
            raise FormatError(f"{name!r} is a symbolic link")
        previous = key
        entries.append(TreeEntry(mode, name, ObjectId.from_raw(raw[nul + 1 : end])))
        at = end
    return tuple(entries)


# Most names, and none of these means anything to a filesystem: they begin with no dot and end with none.
_PLAIN = re.compile(rb"[A-Za-z0-9_@+-](?:[A-Za-z0-9_.@+-]{0,253}[A-Za-z0-9_@+-])?")


@lru_cache(8192)  # a build has `index.js` and `__init__.py` in every other folder
def check_name(raw: bytes) -> str:
    """One path component that git would check out with core.protectHFS and core.protectNTFS on, in UTF-8.

    Raises `FormatError` with the reason.
    """
    if _PLAIN.fullmatch(raw):
        return raw.decode("ascii")
    try:
        name = raw.decode("utf-8")
    except UnicodeDecodeError:
        raise FormatError(f"name is not UTF-8: {raw[:100]!r}") from None
    reason = _objection(name, len(raw))
    if reason:
        raise FormatError(f"unsafe name {name[:100]!r}", why=reason)
    return name


def _objection(name: str, length: int) -> str | None:
    if not name or name in (".", ".."):
        return "not a name"
    if length > MAX_NAME:
        return f"{length} bytes, at most {MAX_NAME}"
    if "/" in name or "\0" in name:
        return "has a slash or NUL"
    if not name.isprintable() and any(unicodedata.category(char) == "Cc" for char in name):
        return "has a control character"
    if name.rstrip(" ") in (".", "..") or (not name.isascii() and name.translate(_HFS_IGNORED) in (".", "..")):
        return "another spelling of . or .."
    if is_dot_name(name, "git", _NTFS_GIT):
        return "a spelling of .git"
    return None


# What NTFS may take for the name: at the start or after a backslash; spaces and dots at the end, streams after a colon.
_NTFS_GIT = re.compile(r"(?:^|\\)(?:\.git|git~1)[ .]*(?:$|[\\:])")
_NTFS_GITMODULES = re.compile(
    r"(?:^|\\)(?:\.gitmodules|gitmod~[1-4]|gi7eba~[1-9]|gi7eb~[1-9][0-9]|gi7e~[1-9][0-9]{2}|gi7~[1-9][0-9]{3}"
    r"|gi~[1-9][0-9]{4}|g~[1-9][0-9]{5}|~[1-9][0-9]{6})[ .]*(?:$|:)"
)


def is_dot_name(name: str, word: str, ntfs: re.Pattern[str]) -> bool:
    """Whether a filesystem may take `name` for `.word`: case, HFS+ ignorables, NTFS streams and short names.

    After git's fsck.c (fsck_tree), path.c (is_ntfs_dotgit, is_ntfs_dot_generic) and utf8.c (is_hfs_dot_generic).
    """
    folded = (name if name.isascii() else name.translate(_HFS_IGNORED)).lower()
    return folded == f".{word}" or ntfs.search(folded) is not None


@dataclass(frozen=True, slots=True)
class Node:
    """A tree entry's target under both hash functions: git's id, and the id that a SHA-256 repository would give.

    `sha256` of a directory is over the tree object that names its children by *their* `sha256`.
    """

    mode: Mode
    oid: ObjectId
    sha256: Sha256


def blob_node(data: bytes, fmt: ObjectFormat, mode: Mode = Mode.FILE) -> Node:
    return Node(mode, fmt.object_id("blob", data), Sha256.of("blob", data))


def directory_node(children: Mapping[str, Node], fmt: ObjectFormat) -> tuple[bytes, Node]:
    """The tree object's bytes in the repository's own format, and the directory's two ids."""
    raw = encode_tree(TreeEntry(node.mode, name, node.oid) for name, node in children.items())
    twin = encode_tree(TreeEntry(node.mode, name, ObjectId(node.sha256)) for name, node in children.items())
    return raw, Node(Mode.DIRECTORY, fmt.object_id("tree", raw), Sha256.of("tree", twin))
