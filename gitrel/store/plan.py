"""What a checkout would write, read and measured before the first file is made.

The whole tree is parsed strictly and held against the limits; a subtree that stands in many places is measured once,
so a bomb costs no more than its own objects. No blob is inflated for it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import NamedTuple

from gitrel.dataclass import dataclass
from gitrel.errors import FormatError, LocalStateError, NotFound, Refused
from gitrel.format.tree import Mode, TreeEntry, parse_tree
from gitrel.ids import Kind, ObjectFormat, ObjectId, Sha256
from gitrel.store.descent import Folder
from gitrel.store.objects import ObjectReader, Stored
from gitrel.store.reading import TreeLimits

_MAX_LINK = 4095  # bytes; PATH_MAX without its NUL
_MAX_TREE = 64 * 1024 * 1024  # bytes of one tree object, which is read whole


@dataclass(frozen=True, slots=True)
class _Sum:
    """What stands below a tree, as often as it stands there."""

    entries: int = 0
    size: int = 0
    depth: int = 0
    path: int = 0  # bytes of the longest


class Place(NamedTuple):
    """Where a file or link goes."""

    folder: Folder
    name: str
    mode: Mode
    oid: ObjectId


class Layout(NamedTuple):
    """A tree as it stands: folders, each after the one it is in, and files apart from what may be linked instead.

    `same` are the files that the other tree has at the same place.
    """

    folders: list[Folder]
    new: list[Place]
    same: list[Place]


class Plan:
    """Every distinct tree, parsed, and where every distinct blob is. Raises `Refused`: check 11, 12."""

    def __init__(self, objects: ObjectReader, fmt: ObjectFormat, limits: TreeLimits) -> None:
        self._objects, self._format, self._limits = objects, fmt, limits
        self.trees: dict[ObjectId, tuple[TreeEntry, ...]] = {}
        self.blobs: dict[ObjectId, Stored] = {}
        self._sums: dict[ObjectId, _Sum] = {}
        self._distinct = 0

    def measure(self, tree: ObjectId, depth: int) -> _Sum:
        known = self._sums.get(tree)
        if known is not None:
            return known
        if depth > self._limits.depth:
            raise self._too_big(f"over {self._limits.depth} folders deep")
        entries = self._parse(tree)
        self._distinct += len(entries)
        if self._distinct > self._limits.entries:
            raise self._too_big(f"over {self._limits.entries} files and folders")
        count = size = below = path = 0
        for entry in entries:
            under = _Sum()
            if entry.mode is Mode.DIRECTORY:
                under = self.measure(entry.oid, depth + 1)
                below = max(below, under.depth + 1)
            else:
                size += self._locate(entry)
            count += 1 + under.entries
            size += under.size
            path = max(path, len(entry.name.encode()) + (1 + under.path if under.path else 0))
        self.trees[tree] = entries
        total = self._sums[tree] = _Sum(count, size, below, path)
        return total

    def check(self, total: _Sum) -> None:
        limits = self._limits
        if total.entries > limits.entries:
            raise self._too_big(f"{total.entries} files and folders, at most {limits.entries}")
        if total.size > limits.total:
            raise self._too_big(f"{total.size} bytes in all, at most {limits.total}")
        if total.depth > limits.depth:
            raise self._too_big(f"{total.depth} folders deep, at most {limits.depth}")
        if total.path > limits.path:
            raise self._too_big(f"a path of {total.path} bytes, at most {limits.path}")

    def lay_out(self, tree: ObjectId, other: ObjectId | None = None) -> Layout:
        """Where everything of a measured tree goes, in its order, beside what another tree has at each place."""
        found = Layout([Folder("")], [], [])
        self._lay_out(found, found.folders[0], tree, other)
        return found

    def _lay_out(self, found: Layout, folder: Folder, tree: ObjectId, other: ObjectId | None) -> None:
        alike = tree == other
        theirs = {} if alike else self._entries_of(other)
        for entry in self.trees[tree]:
            was = entry if alike else theirs.get(entry.name)
            if entry.mode is Mode.DIRECTORY:
                below = Folder(entry.name, folder)
                found.folders.append(below)
                self._lay_out(found, below, entry.oid, was.oid if was and was.mode is Mode.DIRECTORY else None)
            else:
                linked = entry.mode is not Mode.SYMLINK and was == entry
                place = Place(folder, entry.name, entry.mode, entry.oid)
                (found.same if linked else found.new).append(place)

    def _entries_of(self, other: ObjectId | None) -> Mapping[str, TreeEntry]:
        """What `other` has; nothing if it cannot be read: it only saves work."""
        if other is None:
            return {}
        try:
            entries = self.trees[other] if other in self.trees else self._parse(other)
        except Refused:
            return {}
        return {entry.name: entry for entry in entries}

    def twin(self, tree: ObjectId, blobs: Mapping[ObjectId, bytes]) -> Sha256:
        """The SHA-256 id of a measured tree, given those of its blobs."""
        known: dict[ObjectId, bytes] = {}
        for oid, entries in self.trees.items():  # a tree comes after those that are in it
            parts = [
                b"%s %s\0%s"
                % (
                    entry.mode.value,
                    entry.name.encode(),
                    (known if entry.mode is Mode.DIRECTORY else blobs)[entry.oid],
                )
                for entry in entries
            ]
            raw = b"".join(parts)
            known[oid] = hashlib.sha256(b"tree %d\0%s" % (len(raw), raw)).digest()
        return Sha256(known[tree].hex())

    def _parse(self, tree: ObjectId) -> tuple[TreeEntry, ...]:
        stored = self._find(tree)
        if stored.size > _MAX_TREE:
            raise self._too_big(f"a tree object of {stored.size} bytes, at most {_MAX_TREE}")
        raw = content(stored, "tree")
        if self._format.object_id("tree", raw) != tree:
            raise mismatch(tree)
        try:
            return parse_tree(raw, self._format)
        except FormatError as error:
            raise Refused(error.what, check=11, where=f"tree {tree}", why=error.why) from None

    def _locate(self, entry: TreeEntry) -> int:
        """The size of an entry's blob, which is not inflated for it."""
        stored = self.blobs.get(entry.oid)
        if stored is None:
            stored = self.blobs[entry.oid] = self._find(entry.oid)
            if stored.kind not in (None, "blob"):
                raise Refused(f"entry {entry.name!r} is a {stored.kind}, not a file", check=11, where=entry.oid)
            if stored.size > self._limits.blob:
                raise self._too_big(f"{entry.name!r} has {stored.size} bytes, at most {self._limits.blob}")
        if entry.mode is Mode.SYMLINK and not 0 < stored.size <= _MAX_LINK:
            why = f"{stored.size} bytes; 1 to {_MAX_LINK} are a path"
            raise Refused(f"link {entry.name!r} has no usable target", check=11, where=entry.oid, why=why)
        return stored.size

    def _find(self, oid: ObjectId) -> Stored:
        try:
            return self._objects.find(oid)
        except NotFound:
            raise Refused("an object of the tree is missing", check=12, where=oid) from None
        except LocalStateError as error:
            raise Refused(error.what, check=12, where=oid, why=error.why) from error

    def _too_big(self, why: str) -> Refused:
        return Refused("tree is too big", check=11, why=why, hint="the limits can be raised")


def content(stored: Stored, kind: Kind, room: int | None = None) -> bytes:
    """An object's data. Raises `Refused`: check 11 for another kind, 12 for damaged bytes."""
    try:
        found, data = stored.whole(room)
    except LocalStateError as error:
        raise damaged(stored, error) from error
    check_kind(stored, found, kind)
    return data


def check_kind(stored: Stored, found: Kind, kind: Kind) -> None:
    if found != kind:
        raise Refused(f"expected a {kind}, found a {found}", check=11, where=stored.oid)


def damaged(stored: Stored, error: LocalStateError) -> Refused:
    return Refused(error.what, check=12, where=stored.oid, why=error.why)


def mismatch(oid: ObjectId) -> Refused:
    return Refused("an object does not have the content that its id names", check=12, where=oid)
