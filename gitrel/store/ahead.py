"""What to ask a remote for that may have more of a ledger than is known, at a cost that does not grow with the ledger.

Numbers are handed out one after the other, so news of a ledger is its next entry, and those that follow it. A server
lists refs by what their names begin with (gitprotocol-v2(5), ls-refs): the numbers up to the next ten take at most ten
prefixes. Is the last of them there, those up to the next thousand are asked for, by 28 prefixes at most; some shorter
numbers begin so, too, a hundred or so. Who is further behind than that has the ledger listed whole. The newest entry
that is known is asked for as well: a remote that lost or changed it is found out at once, and it names, by hash, all
before it.

A remote of version 0 of the protocol lists everything, whatever it is asked.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from gitrel.ids import TRUST, Ledger, ObjectId
from gitrel.store.remote import Remote

ALWAYS = (TRUST.prefix, "refs/approvals/")
"""What is always to be listed whole: any of it may matter to the newest release."""
_SHORT = 10  # entries: fewer are listed whole
_DIGITS = (1, 3, 3)  # that are counted through, turn by turn; after that all are listed


def list_ahead(
    remote: Remote, known: Mapping[Ledger, int], below: Sequence[str] = (), *, within: int | None = None
) -> dict[str, ObjectId]:
    """The remote's refs that are entries of some ledgers from the newest `known` one on, and all `below` some prefixes.

    A few older entries may be among them, and of a remote that is far ahead all are. `within`, and what it raises: see
    `Remote.list`.
    """
    found: dict[str, ObjectId] = {}
    behind, asked = dict(known), list(below)
    for digits in _DIGITS:
        asked += [prefix for ledger, number in behind.items() for prefix in prefixes(ledger, number, digits)]
        found |= remote.list(asked, within=within)
        ends = {ledger: last(number, digits) for ledger, number in behind.items() if number >= _SHORT}
        behind = {ledger: end for ledger, end in ends.items() if str(ledger[end]) in found}
        asked = []
        if not behind:
            break
    else:
        found |= remote.list([ledger.prefix for ledger in behind], within=within)
    return dict(sorted(found.items()))


def prefixes(ledger: Ledger, known: int, digits: int) -> tuple[str, ...]:
    """What the names begin with of the newest `known` entry (0: none), and of those after it, up to `last`."""
    if known < _SHORT:
        return (ledger.prefix,)
    number = str(known + 1)
    places = range(len(number) - 1, max(len(number) - digits, 0) - 1, -1)
    later = [f"{number[:at]}{digit}" for at in places for digit in range(int(number[at]) + 1, 10)]
    return tuple(f"{ledger.prefix}{each}" for each in (int(known), number, *later))


def last(known: int, digits: int) -> int:
    """The last number that `prefixes` are sure to cover: the next of that length that ends in so many nines."""
    number = str(known + 1)
    return int(number[:-digits] + "9" * min(len(number), digits))
