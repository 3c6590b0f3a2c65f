"""A developer's repository and its remote: the ledgers' refs are mirrored, never moved.

Numbers are handed out by the remote: a ref is created there first, where it must not exist, and here after.
If this machine dies in between, the next `sync` brings the ref home. What is no record of the name it goes by
is not mirrored, in either direction, and cannot be built upon.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from gitrel.dataclass import dataclass
from gitrel.errors import Refused
from gitrel.format.record import ReleaseRecord, parse_record
from gitrel.format.refs import Overlaid, RefView
from gitrel.ids import NAMESPACES, TRUST, BuildRef, Ledger, LedgerRef, ObjectId, names_record, parse_ref
from gitrel.store.ahead import ALWAYS, list_ahead
from gitrel.store.quarantine import Quarantine
from gitrel.store.records import misnamed
from gitrel.store.remote import Remote, rewritten
from gitrel.store.repository import Repository

Judge = Callable[[RefView, Repository], None]
"""Looks at all refs as they would be, and at the repository that has their objects; raises if they will not do."""

_HAVES = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Interest:
    """What a command has to know of the remote: what is new in some ledgers, and all `below` some prefixes."""

    ledgers: tuple[Ledger, ...]
    below: tuple[str, ...] = ()


class Workspace:
    """`remote` None: numbers are handed out by this repository alone. `also`: of `ids.WITNESSES`.

    `changes` counts the times that refs may have been made here.
    """

    def __init__(self, repo: Repository, remote: Remote | None, also: tuple[str, ...] = ()) -> None:
        self.repo = repo
        self._namespaces = (*NAMESPACES, *also)
        self.remote = remote
        self.changes = 0
        self._interest: Interest | None = None
        self._foreign: dict[str, str] = {}

    def refs(self) -> RefView:
        """The refs of all ledgers, as this repository has them; unverified."""
        return self.repo.refs.view(*self._namespaces)

    def sync(self, judge: Judge | None = None, interest: Interest | None = None) -> list[str]:
        """Bring what the remote has and this repository lacks; the names of the new refs.

        With an interest that alone is asked for, trust and approvals whole, and of a ledger the newest entry that is
        known and what comes after it. Raises `Refused` (13) if a ref of those that both have differs: a ledger was
        rewritten. `RemoteError`. What `judge` raises, with nothing taken yet.
        """
        self.changes += 1
        self._interest = interest
        if self.remote is None:
            return []
        ours = self.refs()
        if interest is None:
            known, theirs = dict(ours.items()), self.remote.list(self._namespaces)
        else:
            below = (*ALWAYS, *interest.below)
            theirs = list_ahead(self.remote, {ledger: ours.newest(ledger) for ledger in interest.ledgers}, below)
            known = {name: oid for prefix in below for name, oid in ours.below(prefix).items()}
            known |= {
                name: oid for name in theirs if not name.startswith(below) and (oid := ours.get(name)) is not None
            }
        differing = {name: oid for name, oid in theirs.items() if known.get(name) != oid and names_record(name)}
        for name, oid in differing.items():
            if name in known:
                raise rewritten(name, known[name], oid)
        self._foreign = {}
        if differing:
            self._take(self.remote, differing, ours, judge)
        return sorted(differing.keys() - self._foreign.keys())

    def _take(self, remote: Remote, new: Mapping[str, ObjectId], ours: RefView, judge: Judge | None) -> None:
        missing = sorted({oid for oid in new.values() if oid not in self.repo})
        if missing:
            with Quarantine(self.repo, self._scratch()) as quarantine:
                remote.fetch(quarantine, missing, haves=self._haves(ours))
                records = self._records(remote, new, ours, quarantine.repository, judge)
                quarantine.adopt()
        else:
            records = self._records(remote, new, ours, self.repo, judge)
        self.repo.refs.create_all(records)

    def _records(
        self, remote: Remote, new: Mapping[str, ObjectId], ours: RefView, objects: Repository, judge: Judge | None
    ) -> dict[str, ObjectId]:
        """Those of the refs that are what their names say; the others are remembered."""
        self._foreign = {name: why for name, oid in new.items() if (why := misnamed(name, oid, objects))}
        records = {name: oid for name, oid in new.items() if name not in self._foreign}
        if self._interest is not None:
            records |= self._cited(remote, records, objects, ours)
        if judge is not None and records:
            judge(Overlaid(records, ours), objects)
        return records

    def _haves(self, ours: RefView) -> list[ObjectId]:
        """What is here for sure, the newest of each ledger first."""
        ledgers = self._interest.ledgers if self._interest is not None else _ledgers(ours)
        newest = [ours.get(str(ledger[number])) for ledger in (TRUST, *ledgers) if (number := ours.newest(ledger))]
        rest = () if self._interest is not None else sorted(ours.values())
        found = dict.fromkeys([*newest, *self.repo.refs.list("refs/heads/").values(), *rest])
        return list(itertools.islice((oid for oid in found if oid is not None and oid in self.repo), _HAVES))

    @staticmethod
    def _cited(remote: Remote, new: Mapping[str, ObjectId], objects: Repository, ours: RefView) -> dict[str, ObjectId]:
        """The refs of the builds that new releases carry: their objects came with them."""
        releases = [oid for name, oid in new.items() if name.startswith("refs/releases/")]
        records = [parse_record(objects.read(oid, "commit"), objects.format).record for oid in releases]
        builds = {str(BuildRef(each.build.oid)): each.build.oid for each in records if isinstance(each, ReleaseRecord)}
        unknown = sorted(name for name in builds if name not in ours and name not in new)
        theirs = remote.list(unknown) if unknown else {}
        return {
            name: oid for name, oid in theirs.items() if builds.get(name) == oid and not misnamed(name, oid, objects)
        }

    def publish(self, refs: Mapping[str, ObjectId]) -> None:
        """Create refs, on the remote first, together with any of ours that it lacks.

        Raises `Conflict` if somebody else was first, `Refused` if what has the name there is no record, or if any of
        our refs is another one there (13); then nothing was created here.
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
            self.remote.push(self.repo, refs, also=self._namespaces)
        self.changes += 1
        self.repo.refs.create_all(refs)

    def _scratch(self) -> Path:
        return self.repo.path / "gitrel"


def _ledgers(refs: RefView) -> Iterator[Ledger]:
    """Those of releases and configs."""
    names = (name for name in refs if name.startswith(("refs/releases/", "refs/config/")) and names_record(name))
    found = {ref.ledger for name in names if isinstance(ref := parse_ref(name), LedgerRef)}
    yield from sorted(found)
