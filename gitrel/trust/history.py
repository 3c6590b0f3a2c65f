"""What earlier releases say, read back along the chain from one that was verified.

Each release names its predecessor by both hashes, so a verified release vouches for the bytes of all before it.
"""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass

from gitrel.errors import FormatError, NotFound
from gitrel.format.record import ReleaseRecord, parse_record_as
from gitrel.ids import ObjectFormat, ObjectId, RecordId
from gitrel.trust.anchor import Anchor
from gitrel.trust.content import Objects


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
