"""Objects of a release that are not in this repository: pruned, or left out by a partial clone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from gitrel.cli.developer import Developer
from gitrel.errors import LocalStateError, NotFound, Refused
from gitrel.format.tree import Mode, TreeEntry
from gitrel.ids import ObjectId
from gitrel.store.differ import read_folder
from gitrel.store.objects import ObjectReader
from gitrel.store.quarantine import Quarantine
from gitrel.trust.ledger import ChainedRelease

T = TypeVar("T")


def with_objects(dev: Developer, releases: Sequence[ChainedRelease], work: Callable[[], T]) -> T:
    """What `work` gives; if it cannot go on without an object that is not here, that is fetched, and it starts again.

    Raises what `work` raises for any other reason, `NotFound` if there is no remote to ask, `RemoteError`.
    """
    try:
        return work()
    except (NotFound, Refused) as error:
        absent = {each.entry: oid for each in releases if (oid := _first_absent(dev, each))}
        if not absent:
            raise
        names = ", ".join(map(str, absent))
        remote = dev.workspace.remote
        if remote is None:
            raise NotFound(
                f"not all objects of {names} are here",
                where=next(iter(absent.values())),
                why="a partial clone, or they were pruned, and there is no remote to ask",
                hint="`--remote NAME` names one",
            ) from error
    dev.console.note(f"fetching what is not here of {names}")
    with Quarantine(dev.repo, dev.repo.path / "gitrel") as quarantine:
        remote.fetch(quarantine, [each.id.oid for each in releases if each.entry in absent])
        quarantine.adopt()
    return work()


def _first_absent(dev: Developer, release: ChainedRelease) -> ObjectId | None:
    """An object of the release, or of its records, that is not here."""
    parts = (release.signed, release.build, release.config)
    todo = [TreeEntry(Mode.DIRECTORY, "", part.tree) for part in parts if part is not None]
    seen: set[ObjectId] = set()
    reader = ObjectReader(dev.repo)
    while todo:
        entry = todo.pop()
        if entry.oid in seen:
            continue
        seen.add(entry.oid)
        if not _is_here(reader, entry.oid):
            return entry.oid
        if entry.mode is Mode.DIRECTORY:
            todo += read_folder(dev.repo, entry.oid).values()
    return None


def _is_here(reader: ObjectReader, oid: ObjectId) -> bool:
    """A damaged object is here; what reads it says what is wrong with it."""
    try:
        reader.find(oid)
    except NotFound:
        return False
    except LocalStateError:
        pass
    return True
