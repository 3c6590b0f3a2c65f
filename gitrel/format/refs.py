"""What a repository or a remote says that its refs are; nothing about it is believed.

A ledger may have a hundred thousand refs, of which a command needs the last few. So refs are looked up, by name, by
what the name begins with, or by number, and who has them in a searchable form answers without listing them all.
"""

from __future__ import annotations

import contextlib
import math
from abc import abstractmethod
from bisect import bisect_left
from collections.abc import Container, Iterator, Mapping
from functools import cached_property

from gitrel.errors import FormatError
from gitrel.ids import Entry, Ledger, ObjectId

RefMap = Mapping[str, ObjectId]
_LAST = "\U0010ffff"


class RefView(RefMap):
    """Refs by their full names."""

    @abstractmethod
    def below(self, prefix: str) -> RefMap:
        """Those whose names begin with `prefix`, sorted by name."""

    def entries(self, ledger: Ledger, first: int = 1) -> dict[Entry, ObjectId]:
        """The refs that are entries of one ledger from `first` on, in order.

        What only looks like an entry (`v06`, `latest`) belongs to no ledger and is passed over.
        """
        return numbered(self.below(ledger.prefix), ledger, first)

    def without(self, names: Container[str]) -> RefView:
        """The others."""
        return ListedRefs({name: oid for name, oid in self.items() if name not in names})

    def newest(self, ledger: Ledger) -> int:
        """The highest number of a ledger, 0 if it has no entry."""
        return max(self.entries(ledger), default=0)


class ListedRefs(RefView):
    """Those of a mapping, which must not change meanwhile."""

    def __init__(self, refs: RefMap) -> None:
        self._refs = refs

    @cached_property
    def _names(self) -> list[str]:
        return sorted(self._refs)

    def __getitem__(self, name: str) -> ObjectId:
        return self._refs[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._refs)

    def __len__(self) -> int:
        return len(self._refs)

    def below(self, prefix: str) -> RefMap:
        names = self._names
        found = names[bisect_left(names, prefix) : bisect_left(names, prefix + _LAST)]
        return {name: self._refs[name] for name in found}

    def entries(self, ledger: Ledger, first: int = 1) -> dict[Entry, ObjectId]:
        return numbered(self._refs, ledger, first)  # asked once, mostly: sorting them all would take longer


def numbered(refs: RefMap, ledger: Ledger, first: int = 1) -> dict[Entry, ObjectId]:
    """See `RefView.entries`."""
    found: dict[Entry, ObjectId] = {}
    prefix = ledger.prefix
    for name, oid in refs.items():
        if name.startswith(prefix):
            with contextlib.suppress(FormatError):
                entry = Entry.parse(f"v{name[len(prefix) :]}")
                if entry >= first:
                    found[entry] = oid
    return dict(sorted(found.items()))


def view(refs: RefMap) -> RefView:
    """`refs` as they are, if they can be searched; else as they are now."""
    return refs if isinstance(refs, RefView) else ListedRefs(refs)


class Overlaid(RefView):
    """`new` refs together with `ours`; where both have a name, the new one counts."""

    def __init__(self, new: RefMap, ours: RefView) -> None:
        self._new, self._ours = view(new), ours

    def __getitem__(self, name: str) -> ObjectId:
        return self._new[name] if name in self._new else self._ours[name]

    def __iter__(self) -> Iterator[str]:
        yield from self._new
        yield from (name for name in self._ours if name not in self._new)

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def below(self, prefix: str) -> RefMap:
        return dict(sorted({**self._ours.below(prefix), **self._new.below(prefix)}.items()))

    def entries(self, ledger: Ledger, first: int = 1) -> dict[Entry, ObjectId]:
        return dict(sorted({**self._ours.entries(ledger, first), **self._new.entries(ledger, first)}.items()))


class Ahead(Overlaid):
    """What a remote shows that was asked for news alone: of `known` ledgers the entries from a number on, and all that
    is below the prefixes `whole`. What was not asked for is as in `ours`.
    """

    def __init__(self, new: RefMap, ours: RefView, known: Mapping[Ledger, int], whole: tuple[str, ...]) -> None:
        super().__init__(new, ours)
        self._known, self._whole = known, whole

    def _asked(self, name: str) -> bool:
        if name.startswith(self._whole):
            return True
        digits = ((name.removeprefix(ledger.prefix), first) for ledger, first in self._known.items())
        return any(number.isdecimal() and int(number) >= first for number, first in digits)

    def __getitem__(self, name: str) -> ObjectId:
        return self._new[name] if self._asked(name) else super().__getitem__(name)

    def __iter__(self) -> Iterator[str]:
        yield from self._new
        yield from (name for name in self._ours if name not in self._new and not self._asked(name))

    def below(self, prefix: str) -> RefMap:
        if prefix.startswith(self._whole):
            return self._new.below(prefix)
        return {name: oid for name, oid in super().below(prefix).items() if name in self._new or not self._asked(name)}

    def entries(self, ledger: Ledger, first: int = 1) -> dict[Entry, ObjectId]:
        if first >= self._known.get(ledger, math.inf):
            return self._new.entries(ledger, first)
        return numbered(self.below(ledger.prefix), ledger, first)

    def without(self, names: Container[str]) -> RefView:
        return Ahead(self._new.without(names), self._ours, self._known, self._whole)
