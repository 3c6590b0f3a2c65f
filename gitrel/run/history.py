"""What a home knows about earlier releases without asking anybody: commits in its own repository."""

from __future__ import annotations

from dataclasses import dataclass

from gitrel.errors import FormatError
from gitrel.format.commit import parse_commit
from gitrel.format.record import ReleaseRecord, parse_record_as
from gitrel.ids import ObjectId, RecordId
from gitrel.store.repository import Repository
from gitrel.trust.ledger import Anchor


@dataclass(frozen=True, slots=True)
class Cited:
    """What a release commit names: its predecessor, and its build and config records."""

    previous: ObjectId | None
    parts: tuple[ObjectId, ...]


def cited(repo: Repository, oid: ObjectId) -> Cited:
    """Read a commit that need not be verified yet; one that is no release cites nothing."""
    try:
        record = parse_record_as(ReleaseRecord, repo.read(oid, "commit"), repo.format).record
    except FormatError:
        return Cited(None, ())
    config = (record.config.id.oid,) if record.config else ()
    return Cited(record.previous.oid if record.previous else None, (record.build.oid, *config))


def released_before(repo: Repository, seen: Anchor | None, part: RecordId) -> bool:
    """Whether a release up to `seen` carries a build or config record: the chain is walked back from there."""
    oid = seen.id.oid if seen else None
    while oid is not None and oid in repo:
        links = cited(repo, oid)
        if part.oid in links.parts:
            return True
        oid = links.previous
    return False


def has_files(repo: Repository, oid: ObjectId) -> bool:
    """Whether a commit's files are here. A fetch without files leaves out even the top tree, and one with files
    is adopted whole or not at all, so the top tree stands for all of them."""
    try:
        return oid in repo and parse_commit(repo.read(oid, "commit"), repo.format).tree in repo
    except FormatError:
        return False
