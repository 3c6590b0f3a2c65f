"""What to ask a remote again and again, at a cost that does not grow with its releases.

News can only be the next number of a ledger, or an approval of a record that waits for some. So a look lists the refs
below these few prefixes alone, and compares. When something is new, more of the next numbers are listed, the newest
ones that are known, and all trust and approvals (`gitrel.store.ahead`). All refs are listed after trouble, where one of
those is gone or another one, where there are several sources, and once every `FULL_LOOK` seconds: that finds what was
deleted or rewritten further back. A remote that speaks version 0 of git's protocol lists
everything whatever it is asked (gitprotocol-v2(5), ls-refs).
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Self

from gitrel import __version__
from gitrel.dataclass import dataclass
from gitrel.errors import FormatError
from gitrel.format.refs import view
from gitrel.ids import ApprovalRef, Entry, Ledger, ObjectId, parse_ref

APPROVALS = "refs/approvals/"
FULL_LOOK = 3600.0
_MANY = 64  # records that wait for approvals; for more, all approvals are watched


@dataclass(frozen=True, slots=True, kw_only=True)
class Watch:
    """`prefixes` of full ref names, and a digest of what the remote showed below them."""

    prefixes: tuple[str, ...]
    shown: str

    @classmethod
    def of(cls, shown: Mapping[str, ObjectId], newest: Mapping[Ledger, int], approvals: Iterable[str]) -> Self:
        """`newest`: the highest number of each ledger; `approvals`: the prefixes that `awaiting` gave."""
        prefixes = (*(f"{ledger.prefix}{number + 1}" for ledger, number in newest.items()), *sorted(approvals))
        return cls(prefixes=prefixes, shown=_view(shown, prefixes))

    def view(self, shown: Mapping[str, ObjectId]) -> str:
        """The digest of what somebody else shows below these prefixes."""
        return _view(shown, self.prefixes)

    @classmethod
    def parse(cls, document: Any) -> Self | None:
        return document and cls(prefixes=tuple(map(str, document["prefixes"])), shown=str(document["shown"]))

    @property
    def approvals(self) -> set[str]:
        return {prefix for prefix in self.prefixes if prefix.startswith(APPROVALS)}


def _view(shown: Mapping[str, ObjectId], prefixes: tuple[str, ...]) -> str:
    return digest({name: oid for name, oid in shown.items() if name.startswith(prefixes)})


def awaiting(records: Iterable[ObjectId]) -> set[str]:
    """Below which prefixes the approvals of some records are."""
    found = {f"{APPROVALS}{oid}/" for oid in records}
    return found if len(found) <= _MANY else {APPROVALS}


def approvals_in(refs: Mapping[str, ObjectId]) -> Iterator[tuple[ApprovalRef, ObjectId]]:
    """The well-formed refs of approvals, and the objects that they point at."""
    for name, oid in view(refs).below(APPROVALS).items():
        with contextlib.suppress(FormatError):  # a stray ref approves nothing
            ref = parse_ref(name)
            if isinstance(ref, ApprovalRef):
                yield ref, oid


def digest(refs: Mapping[str, ObjectId], heard: Entry | None = None) -> str:
    """Of what verdicts depend on: the remote's refs, the program that judges, and a heartbeat that was heard."""
    lines = [f"gitrel {__version__}", *(f"{oid} {name}" for name, oid in sorted(refs.items()))]
    lines += [] if heard is None else [str(heard)]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
