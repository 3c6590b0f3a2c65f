"""Reading a ledger whole, and a release down to its last byte; nothing is written."""

from __future__ import annotations

from gitrel.dataclass import dataclass, replace
from gitrel.errors import Refused
from gitrel.store.repository import Repository
from gitrel.trust.content import VerifiedRelease, bind_trees, check_shape, hash_tree, verify_content
from gitrel.trust.ledger import ChainedRelease, Verdict


@dataclass(frozen=True, slots=True, kw_only=True)
class Examined:
    """A verdict, and whether the files were verified too (`files` False: the records only)."""

    verdict: Verdict
    files: bool


def verify_files(repo: Repository, chained: ChainedRelease) -> VerifiedRelease:
    """Checks 9 to 12 from the repository's objects alone, every byte hashed. Raises `Refused`."""
    bound = bind_trees(chained, repo)
    ref = str(chained.record.ref)
    check_shape(repo, bound.build_tree, ref)
    return verify_content(bound, hash_tree(repo, bound.build_tree, ref))


def examine(repo: Repository, verdict: Verdict, *, files: bool) -> Examined:
    """A verdict, taken further by its files if they are asked for."""
    if not files or verdict.release is None:
        return Examined(verdict=verdict, files=False)
    try:
        verify_files(repo, verdict.release)
    except Refused as refusal:
        return Examined(verdict=replace(verdict, release=None, refusal=refusal), files=True)
    return Examined(verdict=verdict, files=True)
