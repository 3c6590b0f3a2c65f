"""What files and folders are called by both hash functions, in bulk.

A folder's two ids are those of two tree objects with the same entries: the repository's own, and its twin, which names
every child by SHA-256 (docs/spec/tree.md). `gitrel.format.tree.directory_node` says the same with a type for each
part; here an entry is a tuple of bytes, which takes a tenth of the time.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import NamedTuple

from gitrel.format.tree import Mode, Node
from gitrel.ids import Kind, ObjectFormat, ObjectId, Sha256

_SMALL = 65536  # bytes; below it, to copy them once more costs less than to call once more


class Ids(NamedTuple):
    """Raw ids of one object: git's in the repository's format, and SHA-256. In a SHA-256 repository they are one."""

    oid: bytes
    sha256: bytes

    def node(self, mode: Mode = Mode.DIRECTORY) -> Node:
        return Node(mode, ObjectId.from_raw(self.oid), Sha256(self.sha256.hex()))


class Child(NamedTuple):
    """One entry of a folder. `key` is git's sort key: the name, for a folder with a slash behind it."""

    key: bytes
    head: bytes  # mode, space, name, NUL
    ids: Ids


def child(mode: Mode, name: bytes, ids: Ids) -> Child:
    return Child(name + b"/" if mode is Mode.DIRECTORY else name, b"%s %s\0" % (mode.value, name), ids)


class ObjectHash:
    """Both ids of an object of known size, fed in pieces."""

    __slots__ = ("_git", "_sha256")

    def __init__(self, kind: Kind, size: int, fmt: ObjectFormat) -> None:
        header = b"%s %d\0" % (kind.encode(), size)
        self._sha256 = hashlib.sha256(header)
        self._git = None if fmt is ObjectFormat.SHA256 else hashlib.sha1(header, usedforsecurity=False)

    def update(self, data: bytes) -> None:
        self._sha256.update(data)
        if self._git is not None:
            self._git.update(data)

    def ids(self) -> Ids:
        sha256 = self._sha256.digest()
        return Ids(self._git.digest() if self._git is not None else sha256, sha256)


def ids_of(kind: Kind, data: bytes, fmt: ObjectFormat) -> Ids:
    """Both ids of an object that is in memory."""
    if len(data) > _SMALL:
        digest = ObjectHash(kind, len(data), fmt)
        digest.update(data)
        return digest.ids()
    whole = b"%s %d\0%s" % (kind.encode(), len(data), data)
    sha256 = hashlib.sha256(whole).digest()
    if fmt is ObjectFormat.SHA256:
        return Ids(sha256, sha256)
    return Ids(hashlib.sha1(whole, usedforsecurity=False).digest(), sha256)


def tree_of(children: Iterable[Child], fmt: ObjectFormat) -> tuple[bytes, Ids]:
    """A folder's tree object in the repository's format, and the folder's two ids."""
    ordered = sorted(children)
    raw = b"".join([each.head + each.ids.oid for each in ordered])
    if fmt is ObjectFormat.SHA256:
        return raw, ids_of("tree", raw, fmt)
    twin = b"".join([each.head + each.ids.sha256 for each in ordered])
    oid = hashlib.sha1(b"tree %d\0%s" % (len(raw), raw), usedforsecurity=False).digest()
    return raw, Ids(oid, hashlib.sha256(b"tree %d\0%s" % (len(twin), twin)).digest())
