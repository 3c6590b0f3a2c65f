"""What to ask a remote for that may have more of a ledger than is known, at a cost that does not grow with the ledger.

Numbers are handed out one after the other, so news of a ledger is its next entry, and those that follow it. A server
lists refs by what their names begin with (gitprotocol-v2(5), ls-refs): the numbers up to the next thousand take at most
29 prefixes. Shorter numbers begin so, too; there are a hundred or so of those. Is the last one of a thousand there, it
is asked again, and a ledger that is far behind is listed whole. The newest entry that is known is asked for as well: a
remote that lost or changed it is found out at once, and it names, by hash, all before it.

A remote of version 0 of the protocol lists everything, whatever it is asked.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from gitrel.ids import Ledger, ObjectId
from gitrel.store.remote import Remote

_SHORT = 100  # entries: fewer are listed whole
_DIGITS = 3  # that are counted through: up to a thousand entries at once
_TURNS = 3


def list_ahead(
    remote: Remote, known: Mapping[Ledger, int], below: Sequence[str] = (), *, within: int | None = None
) -> dict[str, ObjectId]:
    """The remote's refs that are entries of some ledgers from the newest `known` one on, and all `below` some prefixes.

    A few older entries may be among them, and of a remote that is far ahead all are. `within`, and what it raises: see
    `Remote.list`.
    """
    found = remote.list([*below, *(prefix for at in known.items() for prefix in prefixes(*at))], within=within)
    ahead = {ledger: _end(number) for ledger, number in known.items() if number >= _SHORT}
    for turn in range(_TURNS):
        ahead = {ledger: end for ledger, end in ahead.items() if str(ledger[end]) in found}
        if not ahead:
            break
        asked = [prefix for at in ahead.items() for prefix in (prefixes(*at) if turn < _TURNS - 1 else (at[0].prefix,))]
        found |= remote.list(asked, within=within)
        ahead = {ledger: _end(end) for ledger, end in ahead.items()}
    return dict(sorted(found.items()))


def prefixes(ledger: Ledger, known: int) -> tuple[str, ...]:
    """What the names of the entries begin with that come after the newest `known` one (0: none), and its own name."""
    if known < _SHORT:
        return (ledger.prefix,)
    digits = str(known + 1)
    places = range(len(digits) - 1, max(len(digits) - _DIGITS, 0) - 1, -1)
    later = [f"{digits[:at]}{digit}" for at in places for digit in range(int(digits[at]) + 1, 10)]
    return tuple(f"{ledger.prefix}{number}" for number in (int(known), digits, *later))


def _end(known: int) -> int:
    """The last number that `prefixes` are sure to cover."""
    digits = str(known + 1)
    return int(digits[:-_DIGITS] + "9" * min(len(digits), _DIGITS))
