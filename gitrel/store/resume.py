"""A fetch that goes on where others broke, object by object. Runs in the transfer child only.

    1 streams become packs                     what came whole is hashed, the rest of a stream goes
    2 the trees are walked from what is wanted  what is here, what is nowhere
    3 trees that are nowhere                    a fetch without files, if the server can (gitprotocol-v2(5), `filter`)
    4 all else that is nowhere, by its id       in batches: each is kept when a later one breaks
    5 into the quarantine                       what is wanted and nothing else

Servers of protocol version 2 send any object that is asked for by its id, as lazy fetches of partial clones need it;
those of version 0 if uploadpack.allowAnySHA1InWant is set. Without the filter a tree comes with all that is below it;
git sends a tree right before what it has (traverse_trees_and_blobs() in its list-objects.c), so there is little of
that here already. A server that sends not a byte of a pack in step 4 cannot do it, and is asked for everything, as it
is if no file is here.

What nobody verified yet may be a lie that leaves no room for the rest. So what a release does not need is thrown away
only if the release is known to be good (`sure`).
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Protocol

from gitrel.dataclass import dataclass, field
from gitrel.errors import FormatError, RemoteError
from gitrel.format.tree import Mode, parse_tree
from gitrel.ids import Kind, ObjectFormat, ObjectId
from gitrel.store.durable import sync_folder
from gitrel.store.ingest import Ingested, PackReceiver, read_parents
from gitrel.store.limits import Limits, over_limit
from gitrel.store.outgoing import tagged, tree_of
from gitrel.store.repack import Repack
from gitrel.store.repository import Repository
from gitrel.store.salvage import repository, streams

_BATCH = 8192  # ids: half a megabyte of request, below what any server or proxy takes for a body
_PARTS = (".pack", ".idx")


class Bring(Protocol):
    """One fetch into the salvage: what is wanted, one commit deep, with or without files."""

    def __call__(self, wants: Sequence[ObjectId], *, depth: int | None, filter_spec: str | None = None) -> Ingested: ...


@dataclass(slots=True)
class Survey:
    """What is there of the wanted. `here`: what only the salvage has, `files` of it are files. `missing`: files and
    trees that are nowhere; with a tree among them it is `cut`: what is below that is not known. `lost`: so is what is
    wanted itself, or it is damaged.
    """

    here: set[ObjectId] = field(default_factory=set)
    files: int = 0
    missing: list[ObjectId] = field(default_factory=list)
    cut: bool = False
    lost: bool = False
    shallow: list[ObjectId] = field(default_factory=list)  # commits that only the salvage has, with parents nowhere


class Resumption:
    """`folder` is the salvage, which reads through to the quarantine. Raises `RemoteError`, `LocalStateError`."""

    def __init__(self, folder: Path, quarantine: Repository, limits: Limits, wants: list[ObjectId], *, sure: bool):
        self._folder = folder
        self._quarantine = quarantine
        self._limits = limits
        self._wants = wants
        self._sure = sure
        self.repo = repository(folder, quarantine.format)
        self.brought = 0  # objects, by the fetches of this one

    def begin(self) -> int:
        """Step 1, and a look at what it gave: bytes of packs that the wanted can use; 0 if no file is here.

        What was here before is hashed once more: a disk's fault is not to be taken for the release's.
        """
        for pack in self.repo.packs.own():
            for raw, _ in pack.entries():
                self.repo.read_any(ObjectId.from_raw(raw))
        for path in streams(self._folder):
            PackReceiver(self._folder / "pack", self.repo, self._limits, stream=path).salvage()
        if not self.repo.packs.own():
            return 0
        found = self.survey()
        incomplete = found.cut or found.lost
        useful = found.files > 0 or (incomplete and self._has_more(found.here))
        if self._sure and not incomplete:
            self._keep(found.here if useful else set())
        return sum(pack.size for pack in self.repo.packs.own()) if useful else 0

    def go_on(self, bring: Bring) -> list[ObjectId] | None:
        """Steps 3 to 5; the commits that are shallow now. None if all has to be fetched anew."""
        found = self.survey()
        if (found.cut or found.lost) and self._did(partial(bring, self._wants, depth=1, filter_spec="blob:none")):
            found = self.survey()
        if found.lost or not found.files:
            return None
        if self._sure and not found.cut:
            self._keep(found.here)
        for batch in _batches(found.missing):
            if not self._did(partial(bring, batch, depth=None)):
                return None
        found = self.survey()
        if found.lost or found.missing:
            return None
        self._hand_over(found.here)
        return found.shallow

    def anew(self, bring: Bring) -> Ingested:
        """Everything in one fetch, and into the quarantine."""
        alone = not self.repo.packs.own()
        done = bring(self._wants, depth=1)
        self.brought += done.objects
        self._hand_over(None if alone else self.survey().here)
        return done

    def survey(self) -> Survey:
        """Walk down from the wanted, each commit, tag and tree hashed as it is read."""
        found, parents = Survey(), dict[ObjectId, list[ObjectId]]()
        queue, seen, wanted = list(self._wants), set(self._wants), set(self._wants)
        while queue:
            oid = queue.pop()
            if oid not in self.repo:
                found.missing.append(oid)
                found.cut = True
                found.lost = found.lost or oid in wanted
                continue
            try:
                kind, raw = self.repo.read_any(oid)
                below = _below(kind, raw, self.repo.format)
            except (FormatError, ValueError):  # who checks the release says what is wrong with it
                found.lost = True
                continue
            if kind == "tag":  # what it approves may be here, and its files gone long ago
                below = [(target, mode) for target, mode in below if target not in self._quarantine]
                wanted.update(target for target, _ in below)
            if oid not in self._quarantine:
                found.here.add(oid)
                if kind == "commit":
                    parents[oid] = read_parents(raw)
            for child, mode in below:
                if child in seen:
                    continue
                seen.add(child)
                if len(seen) > self._limits.objects:
                    raise over_limit("objects", self._limits.objects, "objects of a release")
                if mode is Mode.DIRECTORY:
                    queue.append(child)
                elif child not in self._quarantine:
                    self._place(child, found)
        for oid, before in parents.items():
            if any(parent not in found.here and parent not in self._quarantine for parent in before):
                found.shallow.append(oid)
        return found

    def _has_more(self, here: set[ObjectId]) -> bool:
        """Whether there is anything of which nobody knows yet where it belongs: files, most likely."""
        for pack in self.repo.packs.own():
            for oid in (ObjectId.from_raw(raw) for raw, _ in pack.entries()):
                if oid not in here and oid not in self._quarantine:
                    return True
        return False

    def _place(self, file: ObjectId, found: Survey) -> None:
        if file in self.repo:
            found.here.add(file)
            found.files += 1
        else:
            found.missing.append(file)

    def _did(self, fetch: Callable[[], Ingested]) -> bool:
        """Whether the server did that. False if it sent nothing at all: then it cannot, or is away, and who asks it for
        everything will learn which."""
        try:
            self.brought += fetch().objects
        except RemoteError:
            if streams(self._folder):
                raise
            return False
        return True

    def _keep(self, here: set[ObjectId]) -> None:
        """Throw away what is not in `here`."""
        repack = Repack(self.repo, here)
        if not repack.unneeded:
            return
        old = [pack.path for pack in self.repo.packs.own()]
        repack.write(self.repo)
        for path in old:
            path.unlink()
            path.with_suffix(".idx").unlink()
        self.repo.packs.reload()

    def _hand_over(self, here: set[ObjectId] | None) -> None:
        """What the quarantine lacks of the wanted, or all; it stays here until the release is in the home."""
        if here is not None and (repack := Repack(self.repo, here)).unneeded:
            repack.write(self._quarantine)
            return
        target = self._quarantine.objects / "pack"
        for pack in self.repo.packs.own():
            for suffix in _PARTS:
                _link(pack.path.with_suffix(suffix), target / pack.path.with_suffix(suffix).name)
        sync_folder(target)


def _below(kind: Kind, raw: bytes, fmt: ObjectFormat) -> list[tuple[ObjectId, Mode]]:
    """What has to be there for this object; what has something below it itself is a directory. Raises `FormatError`,
    `ValueError`."""
    match kind:
        case "commit":
            return [(tree_of(raw), Mode.DIRECTORY)]
        case "tag":
            return [(tagged(raw), Mode.DIRECTORY)]
        case "tree":
            return [(entry.oid, entry.mode) for entry in parse_tree(raw, fmt)]
        case _:
            return []


def _batches(ids: list[ObjectId]) -> Iterator[list[ObjectId]]:
    left = iter(ids)
    while batch := list(itertools.islice(left, _BATCH)):
        yield batch


def _link(source: Path, target: Path) -> None:
    """A second name, or another one where there cannot be two (link(2), EPERM)."""
    try:
        os.link(source, target)
    except OSError:
        os.rename(source, target)
