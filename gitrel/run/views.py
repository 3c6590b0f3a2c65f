"""What several sources show of one ledger, compared. A view is a source's refs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from gitrel.dataclass import dataclass
from gitrel.errors import Refused
from gitrel.format.refs import RefMap
from gitrel.ids import Entry, Ledger, LedgerRef, ObjectId
from gitrel.run.state import Refusal
from gitrel.store.repository import Repository
from gitrel.trust.checks import Check
from gitrel.trust.walk import entries

_HERE = "this server"
_HONEST = (Check.THRESHOLD, Check.REPUDIATED, Check.HIGHEST_SEEN)  # pending, repudiated, held back: nobody's lie


@dataclass(frozen=True, slots=True, kw_only=True)
class Fork:
    """One name with two records: who shows which."""

    ref: str
    sides: tuple[tuple[str, ObjectId], ...]

    def __str__(self) -> str:
        return f"{self.ref}: {self._said}"

    @property
    def _said(self) -> str:
        return ", ".join(f"{where} shows {oid}" for where, oid in self.sides)

    def refusal(self) -> Refused:
        return Refused(
            "there are two records under one name: the ledger was forked",
            check=Check.HIGHEST_SEEN,
            where=self.ref,
            why=self._said,
            hint="keep both as evidence, and ask who can write there; `gitrel mirror --remove URL` leaves one out",
        )


def find_forks(here: Repository, views: Mapping[str, RefMap], ledgers: Iterable[Ledger]) -> tuple[Fork, ...]:
    """The first name of each ledger that has two records, here or in two of the views, which have their URLs."""
    found = []
    for ledger in ledgers:
        all_views: dict[str, RefMap] = {_HERE: here.refs.list(ledger.prefix), **views}
        name = disputed(all_views, ledger)
        if name is not None:
            sides = sides_of(all_views, str(name))
            found.append(Fork(ref=str(name), sides=tuple((where[0], oid) for oid, where in sides.items())))
    return tuple(found)


def disputed(views: Mapping[str, RefMap], ledger: Ledger) -> LedgerRef | None:
    """The first entry that two of them show differently."""
    seen: dict[Entry, set[ObjectId]] = {}
    for refs in views.values():
        for entry, oid in entries(refs, ledger).items():
            seen.setdefault(entry, set()).add(oid)
    disputed = min((entry for entry, oids in seen.items() if len(oids) > 1), default=None)
    return None if disputed is None else ledger[disputed]


def sides_of(views: Mapping[str, RefMap], name: str) -> dict[ObjectId, list[str]]:
    """Who shows which record under a name."""
    sides: dict[ObjectId, list[str]] = {}
    for where, refs in views.items():
        if name in refs:
            sides.setdefault(refs[name], []).append(where)
    return sides


def up_to(refs: RefMap, ledger: Ledger, last: int) -> RefMap:
    gone = {str(ledger[entry]) for entry in entries(refs, ledger) if entry > last}
    return {name: oid for name, oid in refs.items() if name not in gone}


def refused_of_few(
    refused: Mapping[Entry, Refusal], ledger: Ledger, theirs: RefMap, shown: Mapping[str, RefMap]
) -> dict[str, str]:
    """Who shows a release that was refused and that somebody else does not show, by URL, in words."""
    found: dict[str, str] = {}
    for entry, refusal in refused.items():
        name = str(ledger[entry])
        sides = [url for url, refs in shown.items() if name in theirs and refs.get(name) == theirs[name]]
        if refusal.check not in _HONEST and len(sides) < len(shown):
            found |= dict.fromkeys(sides, f"it shows {name}, which is refused, and others do not")
    return found
