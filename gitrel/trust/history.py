"""What earlier releases say, and a ledger judged from where an earlier verification ended.

Each release names its predecessor by both hashes, so a verified release vouches for the bytes of all before it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Container, Iterator, Sequence
from typing import TypeVar, overload

from gitrel.dataclass import dataclass
from gitrel.errors import FormatError, NotFound, Refused
from gitrel.format.record import ReleaseRecord, parse_record_as
from gitrel.format.refs import RefMap
from gitrel.ids import Deploy, ObjectFormat, ObjectId, RecordId
from gitrel.trust.anchor import Anchor
from gitrel.trust.chain import TrustChain
from gitrel.trust.content import Objects
from gitrel.trust.ledger import Verdict
from gitrel.trust.walk import VerifiedConfig, walk_config, walk_releases


@dataclass(frozen=True, slots=True)
class Links:
    """What a release commit names: its predecessor, and its build and config records."""

    previous: ObjectId | None
    parts: tuple[ObjectId, ...]


def links(objects: Objects, oid: ObjectId) -> Links:
    """Read a commit that need not be verified yet; one that is no release names nothing. Raises `NotFound`."""
    try:
        record = parse_record_as(ReleaseRecord, objects.read(oid, "commit"), ObjectFormat.of(oid)).record
    except FormatError:
        return Links(None, ())
    config = (record.config.id.oid,) if record.config else ()
    return Links(record.previous.oid if record.previous else None, (record.build.oid, *config))


def released_before(
    objects: Objects, seen: Anchor | None, part: RecordId, *, good: Container[ObjectId] | None = None
) -> bool:
    """Whether a release up to `seen`, which was verified, carries a build or config record.

    `good` are the releases that were: one that was refused stands in the chain too, and vouches for nothing.
    Without it all are taken for good. The walk ends where the history at hand does: what is not there was not
    released as far as anybody here knows.
    """
    oid = seen.id.oid if seen else None
    while oid is not None:
        try:
            found = links(objects, oid)
        except NotFound:
            return False
        if part.oid in found.parts and (good is None or oid in good):
            return True
        oid = found.previous
    return False


T = TypeVar("T")


class Judged(Sequence[T]):
    """What each entry of a ledger is, oldest first. Those before `judged` are judged when somebody asks for one.

    So who wants the newest goes backwards, by `reversed` or from the end, and stops. `skipped`: how many wait.
    """

    def __init__(self, judged: Sequence[T], skipped: int = 0, judge_all: Callable[[], Sequence[T]] = tuple) -> None:
        self.judged, self.skipped = judged, skipped
        self._judge_all = judge_all

    def _whole(self) -> Sequence[T]:
        if self.skipped:
            self.judged, self.skipped = self._judge_all(), 0
        return self.judged

    def __len__(self) -> int:
        return self.skipped + len(self.judged)

    def __iter__(self) -> Iterator[T]:
        return iter(self._whole())

    def __reversed__(self) -> Iterator[T]:
        judged = self.judged
        yield from reversed(judged)
        yield from reversed(self._whole()[: len(self) - len(judged)])

    @overload
    def __getitem__(self, index: int) -> T: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[T]: ...
    def __getitem__(self, index: int | slice) -> T | Sequence[T]:
        first = index.start if isinstance(index, slice) else index
        if not isinstance(index, slice) and self.skipped <= index < len(self):
            return self.judged[index - self.skipped]
        if first is not None and -len(self.judged) <= first < 0 and not (isinstance(index, slice) and index.stop):
            return self.judged[index]
        return self._whole()[index]


Verdicts = Judged[Verdict]
Configs = Judged[VerifiedConfig]


class _AskedForMore(Exception):
    """A verdict depends on what stands before the anchor."""


def judge_releases(
    refs: RefMap, objects: Objects, trust: TrustChain, deploy: Deploy, anchor: Anchor | None = None
) -> Verdicts:
    """The verdicts on a deploy's releases, as `walk_releases` makes them of all.

    With an anchor, which an earlier verification gave, those up to it wait until somebody asks for them. One that does
    not fit these refs, or does not suffice, is left aside. Raises `Refused` as `walk_releases`.
    """

    def judge_all() -> Sequence[Verdict]:
        return tuple(walk_releases(refs, objects, trust, deploy))

    def ask(_: RecordId) -> bool:
        raise _AskedForMore

    if anchor is not None:
        try:
            newer = tuple(walk_releases(refs, objects, trust, deploy, anchor=anchor, released_before=ask))
            if all(each.signed is not None for each in newer):  # else the chain is broken, if it is not the anchor
                return Verdicts(newer, int(anchor.entry), judge_all)
        except (Refused, _AskedForMore):
            pass  # what is wrong with it, or with the ledger, the walk over all of it says
    return Verdicts(judge_all())


def judge_config(
    refs: RefMap, objects: Objects, trust: TrustChain, deploy: Deploy, anchor: Anchor | None = None
) -> Configs:
    """A deploy's config entries, as `walk_config` verifies them, and raises; the anchor as in `judge_releases`."""

    def judge_all() -> Sequence[VerifiedConfig]:
        return walk_config(refs, objects, trust, deploy)

    if anchor is not None:
        with contextlib.suppress(Refused):  # as above
            return Configs(walk_config(refs, objects, trust, deploy, anchor=anchor), int(anchor.entry), judge_all)
    return Configs(judge_all())
