"""Which releases' files a home has, which of them somebody uses, and how the others go (docs/server.md, "Space").

Records stay: commits, tags and their refs are about a kilobyte a release, and the chain, rollbacks and thresholds
are proven with them. What goes is files: checkouts, and objects that only old releases have. The order, so that what
`state.json` names is whole at every moment, and what is left after `kill -9` goes the next time:

    links of releases, checkouts, logs          frees space, needs none
    objects, in one pack (gitrel.store.repack), and what came of fetches that broke
    what the state says about older releases

Which objects are needed is found by reading all records. So between two looks of that kind it is only estimated, in
`run/spare.json`, from above: what was not needed then, and what came and what was dropped since.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
from collections import Counter
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Self

from gitrel.dataclass import dataclass, replace
from gitrel.errors import FormatError, LocalStateError
from gitrel.format.commit import parse_commit
from gitrel.format.tree import parse_tree
from gitrel.ids import TRUST, Entry, Ledger, ObjectId
from gitrel.run.home import Home
from gitrel.run.leases import Leases
from gitrel.run.state import State
from gitrel.store.durable import disk_error, replace_file, sync_folder
from gitrel.store.removal import remove_folder
from gitrel.store.repository import Repository
from gitrel.trust.content import BUILD_FOLDER
from gitrel.trust.history import links

KEEP = 5  # releases
WORTH = 4  # a repack by itself is due when one byte in so many is not needed
PIECES = 50  # or when there are more packs and loose objects than this
_SEAL = ".json"
_LOG = re.compile(r"(v[0-9]+)\.log")


def has_files(repo: Repository, oid: ObjectId) -> bool:
    """Whether a commit's files are here. A fetch without files leaves out even the top tree, one with files is
    adopted whole or not at all, and a prune takes all of them or none, so the top tree stands for all."""
    try:
        return oid in repo and parse_commit(repo.read(oid, "commit"), repo.format).tree in repo
    except FormatError:
        return False


# Prune


@dataclass(frozen=True, slots=True, kw_only=True)
class Pruned:
    """What a prune did, or would do: `bytes` of disk that are free now, by kind."""

    kept: tuple[Entry, ...]
    dropped: tuple[Entry, ...]
    checkouts: int
    checkout_bytes: int
    object_bytes: int

    @property
    def bytes(self) -> int:
        return self.checkout_bytes + self.object_bytes


def linked(home: Home) -> list[Entry]:
    """The releases that are checked out, oldest first. Raises `LocalStateError`."""
    found = []
    try:
        for name in os.listdir(home.releases):
            with contextlib.suppress(FormatError):
                found.append(Entry.parse(name))
    except OSError as error:
        raise disk_error(error, home.releases) from error
    return sorted(found)


def protected(state: State) -> set[Entry]:
    """What no prune may touch, whatever runs: what would be started next, and what the next pull builds on."""
    seen = state.seen.entry if state.seen else None
    return {each for each in (state.current, state.good, state.ready, state.pinned, seen) if each is not None}


def is_due(home: Home, keep: int) -> bool:
    """A cheap look at whether there are checkouts to spare."""
    found = linked(home)
    return keep > 0 and bool(set(found[:-keep]) - protected(home.read_state()))


def prune(home: Home, keep: int, *, dry_run: bool = False, thrifty: bool = False, patience: float = 0.0) -> Pruned:
    """Keep the files of the newest `keep` releases that are checked out, and of those that are protected, leased or
    run; delete those of all others.

    `thrifty`: objects are packed anew only if that is worth the work. Raises `LocalStateError`, and `Locked` if
    another pull or prune takes longer than `patience` seconds.
    """
    from gitrel.run.report import in_use
    from gitrel.store.repack import measure  # not at every start of a process
    from gitrel.store.salvage import clear, weigh

    with home.lock("pull", patience=patience), home.repository() as repo, contextlib.closing(Leases(home)) as leases:
        if leases.fd < 0:
            raise LocalStateError("cannot write", where=str(home.run / "leases.lock"), hint="check owner and space")
        if not dry_run:
            home.tidy()
        state = home.read_state()
        checked_out = linked(home)
        leased = leases.close_all_others()  # first: exec ends a lease, and then there is a mark
        kept = protected(state) | leased | in_use(home) | set(checked_out[-keep:])
        for entry in kept:
            leases.drop(entry)
        ledger = Ledger.releases(state.deploy)
        ours = [oid for entry in kept if (oid := repo.refs.get(str(ledger[entry]))) is not None]
        oldest = min(kept, default=Entry(1))
        plan = _Plan(home, repo, kept, ours)
        total, pieces = measure(repo.objects)
        spare = _Spare.read(home).and_dropped(plan.size, total)
        if not dry_run:
            spare.write(home)
            plan.carry_out(oldest)
        freed = 0
        if not thrifty or spare.unneeded * WORTH > total or pieces > PIECES:
            freed = _repack(home, repo, ours, thrifty=thrifty, dry_run=dry_run)
        if not dry_run:
            _forget(home, oldest)
        if not thrifty:  # else a pull may be about to go on with it
            freed += weigh(home.salvage)
            if not dry_run:
                clear(home.salvage)
        return Pruned(
            kept=tuple(sorted(kept)),
            dropped=tuple(entry for entry in checked_out if entry not in kept),
            checkouts=len(plan.folders),
            checkout_bytes=plan.size,
            object_bytes=freed,
        )


def _repack(home: Home, repo: Repository, releases: list[ObjectId], *, thrifty: bool, dry_run: bool) -> int:
    """Pack what is needed anew, if that is worth the work; the bytes that it frees."""
    from gitrel.store.repack import Repack, measure, reachable

    repack = Repack(repo, reachable(repo, repo.refs.list("refs/").values(), _whole(repo, releases)))
    due = not thrifty or repack.unneeded * WORTH > repack.total or repack.pieces > PIECES
    if dry_run or not due:
        spare, freed = repack.unneeded, repack.unneeded if due else 0
    else:
        spare, freed = 0, repack.run(lambda: home.lock("builds", wait=True))
    if not dry_run:
        _Spare(unneeded=spare, total=measure(repo.objects)[0]).write(home)
    return freed


@dataclass(frozen=True, slots=True)
class _Spare:
    """About how many bytes of a home's objects nobody needs, when they had so many in `total`."""

    unneeded: float
    total: float

    @classmethod
    def read(cls, home: Home) -> Self:
        try:
            found = json.loads((home.run / "spare.json").read_bytes())
            return cls(float(found["unneeded"]), float(found["total"]))
        except (OSError, ValueError, KeyError, TypeError):
            return cls(math.inf, 0.0)  # nobody looked so far

    def and_dropped(self, size: int, total: int) -> Self:
        """With checkouts of that size dropped, and all that came since taken for unneeded."""
        return replace(self, unneeded=self.unneeded + max(0.0, total - self.total) + size, total=total)

    def write(self, home: Home) -> None:
        if math.isfinite(self.unneeded):
            replace_file(home.run / "spare.json", json.dumps({"unneeded": self.unneeded, "total": self.total}).encode())


def _whole(repo: Repository, releases: list[ObjectId]) -> set[ObjectId]:
    """The commits whose files are needed: the trust ledger's, the kept releases', their build and config records'."""
    parts = {part for oid in releases for part in links(repo, oid).parts}
    return {*repo.refs.list(TRUST.prefix).values(), *releases, *parts}


class _Plan:
    """The checkouts that go. A folder is known by the release's records, or by its link where they are damaged."""

    def __init__(self, home: Home, repo: Repository, kept: Collection[Entry], releases: list[ObjectId]) -> None:
        self._home = home
        trees = {_build_of(repo, oid) for oid in releases}
        trees |= {os.path.basename(os.readlink(home.releases / str(entry))) for entry in linked(home) if entry in kept}
        self.links = [home.releases / str(entry) for entry in linked(home) if entry not in kept]
        try:
            names = sorted(os.listdir(home.builds))
        except OSError as error:
            raise disk_error(error, home.builds) from error
        spare = [name for name in names if not name.startswith(".") and name.partition(".")[0] not in trees]
        gone = [home.builds / name for name in spare]
        self.folders = [path for path in gone if path.suffix != _SEAL]
        self._seals = [path for path in gone if path.suffix == _SEAL]
        self.size = disk_usage(gone)

    def carry_out(self, oldest: Entry) -> None:
        """Raises `LocalStateError`."""
        home = self._home
        try:
            with home.lock("state", wait=True):
                for link in self.links:
                    link.unlink(missing_ok=True)
                sync_folder(home.releases)
            with home.lock("builds", wait=True):
                for path in self._seals:
                    path.unlink(missing_ok=True)
                for path in self.folders:
                    remove_folder(path)
                sync_folder(home.builds)
            for path in (home.run / "failed").glob("v*.log"):
                match = _LOG.fullmatch(path.name)
                if match and Entry.parse(match[1]) < oldest:
                    path.unlink(missing_ok=True)
        except OSError as error:
            raise disk_error(error, home.path) from error


def _build_of(repo: Repository, oid: ObjectId) -> str | None:
    """The id of a release's build tree, None if its files are not here."""
    if not has_files(repo, oid):
        return None
    tree = parse_commit(repo.read(oid, "commit"), repo.format).tree
    entries_ = parse_tree(repo.read(tree, "tree"), repo.format)
    return next((entry.oid for entry in entries_ if entry.name == BUILD_FOLDER), None)


def _forget(home: Home, oldest: Entry) -> None:
    def change(state: State) -> State:
        return replace(
            state,
            failed={entry: why for entry, why in state.failed.items() if entry >= oldest},
            released=frozenset(entry for entry in state.released if entry >= oldest),
        )

    home.change_state(change)


def disk_usage(paths: Collection[Path]) -> int:
    """Bytes that deleting all of these frees: a file that has links elsewhere frees nothing."""
    names: Counter[tuple[int, int]] = Counter()
    sizes: dict[tuple[int, int], tuple[int, int]] = {}
    for info in _stats(paths):
        key = info.st_dev, info.st_ino
        names[key] += 1
        sizes[key] = (info.st_nlink, info.st_blocks * 512)
    return sum(size for key, (links_, size) in sizes.items() if names[key] >= links_)


def _stats(paths: Collection[Path]) -> Iterator[os.stat_result]:
    for path in paths:
        with contextlib.suppress(FileNotFoundError):
            yield path.lstat()
        for folder, _, files in os.walk(path):
            for name in files:
                with contextlib.suppress(FileNotFoundError):
                    yield os.lstat(os.path.join(folder, name))
