"""Objects of a repository that nobody vouches for: sized before they are inflated, hashed, and a few remembered.

What could not be read is remembered, too, so that a finding names the object and not only the record that needs it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, MutableMapping
from typing import Self

from gitrel.dataclass import dataclass
from gitrel.errors import GitrelError, LocalStateError, NotFound
from gitrel.format.tree import Node
from gitrel.ids import Kind, ObjectId
from gitrel.store.limits import Limits
from gitrel.store.objects import ObjectReader
from gitrel.store.repository import Repository

_RECENT = 512  # small objects that are kept: neighbouring releases share their config and most of their trees
_SMALL = 16 * 1024  # bytes
_NODES = 200_000  # hashed files and folders that are remembered, about 100 MB
_CONTENT = ("blob", "tree")


@dataclass(frozen=True, slots=True)
class Failure:
    """An object that could not be read, and why."""

    oid: ObjectId
    kind: Kind
    error: GitrelError

    @property
    def missing(self) -> bool:
        return isinstance(self.error, NotFound)


class AuditedObjects:
    """Objects by id (`gitrel.trust.content.Objects`). Use it as a context manager."""

    def __init__(self, repo: Repository) -> None:
        self._repo = repo
        self.format = repo.format
        self._limits = Limits()
        self._recent: OrderedDict[ObjectId, tuple[Kind, bytes]] = OrderedDict()
        self._reader: ObjectReader | None = None
        self.damage: LocalStateError | None = None
        """A pack that cannot be opened; objects are then read one by one, from what else there is."""
        self.failed: Failure | None = None
        """The last object that could not be read; whoever asks sets it back to None."""

    def __enter__(self) -> Self:
        try:
            self._reader = ObjectReader(self._repo)
        except LocalStateError as error:
            self.damage = error
        return self

    def __exit__(self, *exc: object) -> None:
        self._reader = None

    def __contains__(self, oid: ObjectId) -> bool:
        try:
            self._find(oid)
        except NotFound:
            return False
        except LocalStateError:
            return True
        return True

    def read(self, oid: ObjectId, kind: Kind) -> bytes:
        """Raises `NotFound`, `LocalStateError`."""
        try:
            found, data = self.read_any(oid)
            if found != kind:
                raise LocalStateError(f"expected a {kind}, found a {found}", where=oid)
        except (NotFound, LocalStateError) as error:
            if kind != "tag":  # an approval that cannot be read approves nothing, and hinders nothing
                self.failed = Failure(oid, kind, error)
            raise
        return data

    def read_any(self, oid: ObjectId) -> tuple[Kind, bytes]:
        """Raises `NotFound`, `LocalStateError`."""
        if oid in self._recent:
            self._recent.move_to_end(oid)
            return self._recent[oid]
        kind, data = self._read(oid)
        if self.format.object_id(kind, data) != oid:
            raise LocalStateError("object does not have the bytes that its id names", where=oid)
        if len(data) <= _SMALL and kind in _CONTENT:
            self._recent[oid] = kind, data
            if len(self._recent) > _RECENT:
                self._recent.popitem(last=False)
        return kind, data

    def size(self, oid: ObjectId) -> int | None:
        """Bytes of an object's data, as its header has them; None where that cannot be read without reading it all."""
        try:
            return self._reader.find(oid).size if self._reader is not None else None
        except (NotFound, LocalStateError):
            return None

    def _find(self, oid: ObjectId) -> None:
        if self._reader is not None:
            self._reader.find(oid)
        elif oid not in self._repo:
            raise NotFound("no such object", where=oid)

    def _read(self, oid: ObjectId) -> tuple[Kind, bytes]:
        if self._reader is None:
            return self._repo.read_any(oid)
        stored = self._reader.find(oid)
        most = self._limits.object_bytes if stored.kind in (None, "blob") else self._limits.metadata_bytes
        if stored.size > most:
            raise LocalStateError("object too big", where=oid, why=f"{stored.size} bytes, at most {most}")
        return stored.whole()


class Nodes(MutableMapping[ObjectId, Node]):
    """What was hashed, for `hash_tree`: bounded, the oldest half is forgotten."""

    def __init__(self) -> None:
        self._known: dict[ObjectId, Node] = {}

    def __getitem__(self, oid: ObjectId) -> Node:
        return self._known[oid]

    def __setitem__(self, oid: ObjectId, node: Node) -> None:
        if len(self._known) >= _NODES:
            self._known = dict(list(self._known.items())[_NODES // 2 :])
        self._known[oid] = node

    def __delitem__(self, oid: ObjectId) -> None:
        del self._known[oid]

    def __iter__(self) -> Iterator[ObjectId]:
        return iter(self._known)

    def __len__(self) -> int:
        return len(self._known)
