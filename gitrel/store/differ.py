"""Two trees compared: what was added, changed, removed. Subtrees with the same id are not looked at.

Pure over whatever objects are read through; trees are read, files never. Paths are in the order of their names, a
folder where git sorts it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from gitrel.dataclass import dataclass
from gitrel.errors import FormatError
from gitrel.format.tree import Mode, TreeEntry, parse_tree
from gitrel.ids import Kind, ObjectFormat, ObjectId

_EMPTY = frozenset(fmt.object_id("tree", b"") for fmt in ObjectFormat)
MAX_DEPTH = 128  # folders inside one another; no build that may run has more


class Objects(Protocol):
    """Where trees are read from."""

    def read(self, oid: ObjectId, kind: Kind) -> bytes:
        """An object's data. Raises `NotFound`, `LocalStateError`."""


@dataclass(frozen=True, slots=True)
class Change:
    """A file, link or empty folder, by its path below the top. `before` is None if it was added, `after` if removed."""

    path: str
    before: TreeEntry | None
    after: TreeEntry | None

    @property
    def mark(self) -> str:
        """`A`, `D` or `M`, as git-diff(1) has them."""
        if self.before is None:
            return "A"
        return "M" if self.after is not None else "D"


def compare_trees(
    objects: Objects, before: ObjectId | None, after: ObjectId | None, prefix: str = "", depth: int = 0
) -> Iterator[Change]:
    """What differs between two trees; None is an empty one.

    A file whose mode alone differs is changed; one that became a folder is removed, and what is in the folder added.
    Raises `NotFound`, `LocalStateError` for trees that cannot be read, `FormatError` for malformed ones.
    """
    if before == after:
        return
    if depth > MAX_DEPTH:
        raise FormatError("folders nested too deeply", where=prefix[:200], why=f"more than {MAX_DEPTH}")
    old, new = read_folder(objects, before), read_folder(objects, after)
    both = {**old, **new}
    for name in sorted(both, key=lambda name: both[name].sort_key):
        was, now = old.get(name), new.get(name)
        if was == now:
            continue
        change = Change(f"{prefix}{name}", _leaf(was, now), _leaf(now, was))
        if change.before != change.after:
            yield change
        yield from compare_trees(objects, _folder(was), _folder(now), f"{prefix}{name}/", depth + 1)


def read_folder(objects: Objects, tree: ObjectId | None) -> dict[str, TreeEntry]:
    """A tree's entries by name, in its order; none for None."""
    if tree is None:
        return {}
    return {entry.name: entry for entry in parse_tree(objects.read(tree, "tree"), ObjectFormat.of(tree))}


def find_entry(objects: Objects, tree: ObjectId, path: tuple[str, ...]) -> TreeEntry | None:
    """What is at a path; the top itself for an empty one, None where nothing is."""
    entry: TreeEntry | None = TreeEntry(Mode.DIRECTORY, "", tree)
    for name in path:
        entry = read_folder(objects, _folder(entry)).get(name)
    return entry


def _leaf(entry: TreeEntry | None, other: TreeEntry | None) -> TreeEntry | None:
    """What is no folder; an empty one too, where there is no folder on the other side."""
    if entry is None or entry.mode is not Mode.DIRECTORY:
        return entry
    return entry if entry.oid in _EMPTY and _folder(other) is None else None


def _folder(entry: TreeEntry | None) -> ObjectId | None:
    return entry.oid if entry is not None and entry.mode is Mode.DIRECTORY else None
