"""Two builds of one source, compared file by file; and a source commit taken out of a repository that nobody trusts.

Why builds differ is guessed from names and bytes, for people to look at; that they do is not.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from gitrel.audit.reading import AuditedObjects
from gitrel.dataclass import dataclass
from gitrel.errors import LocalStateError, NotFound, Refused
from gitrel.ids import Kind, ObjectId
from gitrel.store.differ import Objects, compare_trees
from gitrel.store.pack import PackWriter, deflate
from gitrel.store.repository import Repository
from gitrel.trust.checks import Check

_ROOM = re.compile(rb"gitrel-build-(?:\d+-)?[0-9a-f]{40}")  # with the user's id in older builds
_TIME = re.compile(rb"\b(?:19|20)\d\d-[01]\d-[0-3]\d|\b[0-2]\d:[0-5]\d:[0-5]\d\b")
_ARCHIVE = re.compile(r"\.(?:zip|whl|jar|war|egg|tar|tgz|gz|bz2|xz|zst|a)$")
_NUMBERS = re.compile(rb"[0-9]+")
_HEAD = 1024 * 1024  # bytes of a file that are looked at for a cause


@dataclass(frozen=True, slots=True)
class Difference:
    """`how`: only in the signed build, only in the rebuilt one, or other content or mode; `cause`: a guess."""

    path: str
    how: str
    cause: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Rebuilt:
    """A release's source, built a second time; `signed` and `rebuilt` are the two builds' trees."""

    release: str
    source: ObjectId
    signed: ObjectId
    rebuilt: ObjectId
    differences: tuple[Difference, ...]

    @property
    def fields(self) -> dict[str, Any]:
        return {
            "release": self.release,
            "source": self.source,
            "signed_tree": self.signed,
            "rebuilt_tree": self.rebuilt,
            "equal": not self.differences,
            "differences": [{"path": each.path, "how": each.how, "cause": each.cause} for each in self.differences],
        }

    @property
    def refusal(self) -> Refused | None:
        if self.signed == self.rebuilt:
            return None
        return Refused(
            f"the build of {self.source[:12]} is not the one that was signed",
            check=Check.CONTENT,
            where=self.release,
            why=f"{len(self.differences)} files differ, the first is {self.differences[0].path}",
            hint="make the build reproducible, or ask the builder what else went into it",
        )


class Either:
    """Objects of two places; what the first lacks is read from the second."""

    def __init__(self, first: Objects, second: Objects) -> None:
        self._first = first
        self._second = second

    def read(self, oid: ObjectId, kind: Kind) -> bytes:
        try:
            return self._first.read(oid, kind)
        except NotFound:
            return self._second.read(oid, kind)


def differences(objects: Objects, signed: ObjectId, rebuilt: ObjectId) -> Iterator[Difference]:
    """Every file that differs between two builds' trees. Raises `NotFound`, `LocalStateError`, `FormatError`."""
    for change in compare_trees(objects, signed, rebuilt):
        one, two, path = change.before, change.after, change.path
        if one is None or two is None:
            how = "only in the rebuilt one" if one is None else "only in the signed build"
            yield Difference(path, how, _cause(path, b"", b""))
        elif one.mode is not two.mode:
            how = f"mode {one.mode.value.decode()}, rebuilt {two.mode.value.decode()}"
            yield Difference(path, how, "another umask, or chmod")
        else:
            old, new = objects.read(one.oid, "blob"), objects.read(two.oid, "blob")
            how = f"{len(old)} bytes, rebuilt {len(new)}"
            yield Difference(path, how, _cause(path, old[:_HEAD], new[:_HEAD]))


def _cause(path: str, old: bytes, new: bytes) -> str:
    if path.endswith(".pyc") or "__pycache__/" in path:
        return "byte-compiled Python has its source's time or path in it: pip's --no-compile, PYTHONDONTWRITEBYTECODE"
    if _ARCHIVE.search(path):
        return "an archive holds times, owners and an order: use SOURCE_DATE_EPOCH and sorted names"
    if _ROOM.search(old) or _ROOM.search(new):
        return "the path of the build is in it"
    if old.startswith(b"#!") and new.startswith(b"#!") and old.partition(b"\n")[2] == new.partition(b"\n")[2]:
        return "the interpreter's path in the first line: build with the same one, or remove the script"
    if path.endswith(".dist-info/RECORD"):
        return "it lists the digests of a package's files: see which of those differ"
    if old and sorted(old.split(b"\n")) == sorted(new.split(b"\n")):
        return "the same lines in another order"
    if _TIME.search(old) and _TIME.sub(b"", old) == _TIME.sub(b"", new):
        return "only dates or times differ: use SOURCE_DATE_EPOCH"
    if old and _NUMBERS.sub(b"", old) == _NUMBERS.sub(b"", new):
        return "only numbers differ: a time, a version, a random number"
    return "another version of a tool or of something that was downloaded; or the build is not of this source"


def copy_commit(objects: AuditedObjects, commit: ObjectId, target: Repository) -> None:
    """One commit and its files, without its history, into a new repository of our own, whose settings are ours.

    Raises `NotFound`, `LocalStateError`.
    """
    raw = objects.read(commit, "commit")
    with PackWriter(target) as pack:
        pack.put(commit, deflate("commit", raw))
        todo, seen = [ObjectId(raw[5 : raw.index(b"\n")].decode("ascii", "replace"))], {commit}
        while todo:
            oid = todo.pop()
            if oid in seen:
                continue
            seen.add(oid)
            kind, data = objects.read_any(oid)
            pack.put(oid, deflate(kind, data))
            if kind == "tree":
                todo += _below(data, target.format.raw_length)
        pack.finish()
    (target.path / "shallow").write_text(f"{commit}\n")


def _below(tree: bytes, raw_length: int) -> Iterator[ObjectId]:
    """What a source's tree names, but for submodules (gitformat-tree: `mode SP name NUL id`)."""
    at = 0
    while at < len(tree):
        nul = tree.find(b"\0", at)
        if nul < 0 or nul + 1 + raw_length > len(tree):
            raise LocalStateError("a tree of the source is cut short")
        if not tree.startswith(b"160000 ", at):
            yield ObjectId.from_raw(tree[nul + 1 : nul + 1 + raw_length])
        at = nul + 1 + raw_length
