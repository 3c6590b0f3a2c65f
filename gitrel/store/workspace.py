"""A developer's repository and its remote: the ledgers' refs are mirrored, never moved.

Numbers are handed out by the remote: a ref is created there first, where it must not exist, and here after.
If this machine dies in between, the next `sync` brings the ref home.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from gitrel.errors import FormatError, Refused
from gitrel.ids import ObjectId, parse_ref
from gitrel.store.quarantine import Quarantine
from gitrel.store.remote import Remote
from gitrel.store.repository import Repository

NAMESPACES = ("refs/trust/", "refs/config/", "refs/builds/", "refs/releases/", "refs/approvals/")


class Workspace:
    """`remote` None: numbers are handed out by this repository alone."""

    def __init__(self, repo: Repository, remote: Remote | None) -> None:
        self.repo = repo
        self.remote = remote
        self._theirs: dict[str, ObjectId] = {}

    def refs(self) -> dict[str, ObjectId]:
        """The refs of all ledgers, as this repository has them; unverified."""
        found: dict[str, ObjectId] = {}
        for prefix in NAMESPACES:
            found |= self.repo.refs.list(prefix)
        return found

    def sync(self) -> list[str]:
        """Bring what the remote has and this repository lacks; the names of the new refs.

        Raises `Refused` (13) if a ref that both have differs: a ledger was rewritten. `RemoteError`.
        """
        if self.remote is None:
            return []
        ours = self.refs()
        theirs = {name: oid for name, oid in self.remote.list(NAMESPACES).items() if _is_ours(name)}
        for name, oid in theirs.items():
            if ours.get(name, oid) != oid:
                raise Refused(
                    "the remote has another record under this name",
                    check=13,
                    where=name,
                    why=f"here it is {ours[name]}, there {oid}",
                    hint="the ledger was forked or rewritten: compare both with `git show`",
                )
        new = {name: oid for name, oid in theirs.items() if name not in ours}
        missing = sorted({oid for oid in new.values() if oid not in self.repo})
        if missing:
            haves = sorted({*ours.values(), *self.repo.refs.list("refs/heads/").values()})
            with Quarantine(self.repo, self._scratch()) as quarantine:
                self.remote.fetch(quarantine, missing, haves=[oid for oid in haves if oid in self.repo])
                quarantine.adopt()
        for name, oid in new.items():
            self.repo.refs.create(name, oid)
        self._theirs = theirs
        return sorted(new)

    def publish(self, refs: Mapping[str, ObjectId]) -> None:
        """Create refs, on the remote first, together with any of ours that it lacks.

        Raises `Conflict` if somebody else was first; then nothing was created here.
        """
        if self.remote is not None:
            behind = {name: oid for name, oid in self.refs().items() if name not in self._theirs}
            self.remote.push(self.repo, {**behind, **refs})
            self._theirs |= {**behind, **refs}
        for name, oid in refs.items():
            self.repo.refs.create(name, oid)

    def _scratch(self) -> Path:
        return self.repo.path / "gitrel"


def _is_ours(name: str) -> bool:
    try:
        parse_ref(name)
    except FormatError:
        return False
    return True
