"""What a verifier remembers of a ledger."""

from __future__ import annotations

from gitrel.dataclass import dataclass
from gitrel.ids import Entry, RecordId


@dataclass(frozen=True, slots=True)
class Anchor:
    """Where a verifier stands already: the highest release that it has seen, and the trust which that one cites."""

    entry: Entry
    id: RecordId
    trust: Entry
