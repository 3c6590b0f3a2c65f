"""What several sources show of one ledger, compared. A view is a source's refs."""

from __future__ import annotations

from collections.abc import Mapping

from gitrel.format.refs import RefMap
from gitrel.ids import Entry, Ledger, LedgerRef, ObjectId
from gitrel.run.state import Refusal
from gitrel.trust.checks import Check
from gitrel.trust.walk import entries

_HONEST = (Check.THRESHOLD, Check.REPUDIATED, Check.HIGHEST_SEEN)  # pending, repudiated, held back: nobody's lie


def disputed(views: Mapping[str, RefMap], ledger: Ledger) -> LedgerRef | None:
    """The first entry that two of them show differently."""
    seen: dict[Entry, set[ObjectId]] = {}
    for refs in views.values():
        for entry, oid in entries(refs, ledger).items():
            seen.setdefault(entry, set()).add(oid)
    disputed = min((entry for entry, oids in seen.items() if len(oids) > 1), default=None)
    return None if disputed is None else ledger[disputed]


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
