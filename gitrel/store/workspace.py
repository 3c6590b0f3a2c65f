"""A developer's repository and its remote: the ledgers' refs are mirrored, never moved.

Numbers are handed out by the remote: a ref is created there first, where it must not exist, and here after.
If this machine dies in between, the next `sync` brings the ref home. What is no record of the name it goes by
is not mirrored, in either direction, and cannot be built upon.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from gitrel.errors import FormatError, LocalStateError, NotFound, Refused
from gitrel.format.record import BuildRecord, parse_record
from gitrel.ids import NAMESPACES, ApprovalRef, BuildRef, ObjectId, names_record, parse_ref
from gitrel.store.quarantine import Quarantine
from gitrel.store.remote import Remote
from gitrel.store.repository import Repository

Judge = Callable[[Mapping[str, ObjectId], Repository], None]
"""Looks at all refs as they would be, and at the repository that has their objects; raises if they will not do."""


class Workspace:
    """`remote` None: numbers are handed out by this repository alone. `also`: of `ids.WITNESSES`."""

    def __init__(self, repo: Repository, remote: Remote | None, also: tuple[str, ...] = ()) -> None:
        self.repo = repo
        self._namespaces = (*NAMESPACES, *also)
        self.remote = remote
        self._theirs: dict[str, ObjectId] = {}
        self._foreign: dict[str, str] = {}

    def refs(self) -> dict[str, ObjectId]:
        """The refs of all ledgers, as this repository has them; unverified."""
        found: dict[str, ObjectId] = {}
        for prefix in self._namespaces:
            found |= self.repo.refs.list(prefix)
        return found

    def sync(self, judge: Judge | None = None) -> list[str]:
        """Bring what the remote has and this repository lacks; the names of the new refs.

        Raises `Refused` (13) if a ref that both have differs: a ledger was rewritten. `RemoteError`. What `judge`
        raises, with nothing taken yet.
        """
        if self.remote is None:
            return []
        ours = self.refs()
        theirs = {name: oid for name, oid in self.remote.list(self._namespaces).items() if names_record(name)}
        for name, oid in theirs.items():
            if ours.get(name, oid) != oid:
                raise Refused(
                    "the remote has another record under this name",
                    check=13,
                    where=name,
                    why=f"here it is {ours[name]}, there {oid}",
                    hint="the ledger was forked or rewritten: compare both with `git show`",
                )
        new = {name: oid for name, oid in theirs.items() if name not in ours}
        missing = sorted({oid for oid in new.values() if oid not in self.repo})
        if missing:
            haves = sorted({*ours.values(), *self.repo.refs.list("refs/heads/").values()})
            with Quarantine(self.repo, self._scratch()) as quarantine:
                self.remote.fetch(quarantine, missing, haves=[oid for oid in haves if oid in self.repo])
                new = self._records(new, quarantine.repository)
                if judge is not None:
                    judge({**ours, **new}, quarantine.repository)
                quarantine.adopt()
        else:
            new = self._records(new, self.repo)
            if judge is not None:
                judge({**ours, **new}, self.repo)
        self.repo.refs.create_all(new)
        self._theirs = theirs
        return sorted(new)

    def _records(self, refs: Mapping[str, ObjectId], objects: Repository) -> dict[str, ObjectId]:
        """Those of the refs that are what their names say; the others are remembered."""
        self._foreign = {name: why for name, oid in refs.items() if (why := _misnamed(name, oid, objects))}
        return {name: oid for name, oid in refs.items() if name not in self._foreign}

    def publish(self, refs: Mapping[str, ObjectId]) -> None:
        """Create refs, on the remote first, together with any of ours that it lacks.

        Raises `Conflict` if somebody else was first, `Refused` if what has the name there is no record; then
        nothing was created here.
        """
        for name in self._foreign.keys() & refs.keys():
            raise Refused(
                "the remote has something else under this name",
                check=2,
                where=name,
                why=self._foreign[name],
                hint="whoever runs the remote must remove that ref; nothing can follow it",
            )
        if self.remote is not None:
            ours = {name: oid for name, oid in self.refs().items() if name not in self._theirs and names_record(name)}
            behind = {name: oid for name, oid in ours.items() if not _misnamed(name, oid, self.repo)}
            self.remote.push(self.repo, {**behind, **refs})
            self._theirs |= {**behind, **refs}
        self.repo.refs.create_all(refs)

    def _scratch(self) -> Path:
        return self.repo.path / "gitrel"


def _misnamed(name: str, oid: ObjectId, objects: Repository) -> str:
    """Why an object is not the record that its ref's name says; empty if it is. Signatures are not looked at."""
    if isinstance(parse_ref(name), ApprovalRef):
        return ""  # a tag, which counts for nothing until it is verified
    try:
        signed = parse_record(objects.read(oid, "commit"), objects.format)
    except (FormatError, NotFound, LocalStateError) as error:
        return str(error)
    record = signed.record
    own = BuildRef(signed.id.oid) if isinstance(record, BuildRecord) else record.ref
    return "" if str(own) == name else f"it is {own}"
