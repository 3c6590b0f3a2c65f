"""What a push sends: the objects below the new refs that the remote cannot be known to have.

Records have no source parents, so no source history is walked: commits are followed from the refs up to those
that the remote advertises, and a tree is left out if it is in a commit that both sides have — the heads, the
newest records, the parents of what is sent. Sending too much is harmless; a have is never guessed.
"""

from __future__ import annotations

import hashlib
import heapq
import re
import struct
import zlib
from collections.abc import Callable, Iterator, Mapping

from gitrel.errors import NotFound
from gitrel.ids import NAMESPACES, WITNESSES, ObjectId
from gitrel.store.ingest import read_parents
from gitrel.store.packfile import NUMBERS, entry_header
from gitrel.store.repository import Repository

HAVE_PREFIXES = ("refs/heads/", *NAMESPACES, *WITNESSES)
_NEWEST = 2  # records of each ledger whose trees are compared
_HEADS = 16
_LEDGER_REF = re.compile(r"(refs/(?:trust|config|releases)/(?:[^/]+/)?)v([0-9]{1,9})")
_GITLINK = b"160000"


def objects_to_send(repo: Repository, wants: list[ObjectId], advertised: Mapping[str, ObjectId]) -> list[ObjectId]:
    """Ids in the order in which they are sent: the records first, then what is below them. Raises `NotFound`."""
    remote = set(advertised.values())
    commits, boundary, others = _new_commits(repo, wants, remote)
    known: set[ObjectId] = set()
    for oid in [*boundary, *_samples(advertised)]:
        if oid in repo:
            _walk_known(repo, oid, known)
    seen = set(known)
    chosen = list(commits)
    seen.update(commits)
    for oid in others:
        chosen += walk(repo, oid, seen)
    for oid in commits:
        chosen += walk(repo, tree_of(repo.read(oid, "commit")), seen)
    return chosen


def write_pack(repo: Repository, objects: list[ObjectId], out: Callable[[bytes], object]) -> None:
    """A pack of whole objects; `repo` hashes each again as it reads it, so nothing damaged is ever sent."""
    digest = hashlib.new(repo.format.value, usedforsecurity=False)

    def put(data: bytes) -> None:
        digest.update(data)
        out(data)

    put(struct.pack(">4sII", b"PACK", 2, len(objects)))
    for oid in objects:
        kind, data = repo.read_any(oid)
        put(entry_header(NUMBERS[kind], len(data)))
        put(zlib.compress(data, 1))
    out(digest.digest())


def _new_commits(
    repo: Repository, wants: list[ObjectId], remote: set[ObjectId]
) -> tuple[list[ObjectId], list[ObjectId], list[ObjectId]]:
    """The commits that the remote lacks, those it has that are their parents, and wants of other kinds with theirs."""
    commits: dict[ObjectId, None] = {}
    boundary: dict[ObjectId, None] = {}
    others: dict[ObjectId, None] = {}
    queue = list(wants)
    while queue:
        oid = queue.pop()
        if oid in remote:
            boundary[oid] = None
            continue
        if oid in commits or oid in others:
            continue
        kind, data = repo.read_any(oid)
        if kind == "commit":
            commits[oid] = None
            queue += read_parents(data)
        else:
            others[oid] = None
            if kind == "tag":
                queue.append(tagged(data))
    return list(commits), list(boundary), list(others)


def _samples(advertised: Mapping[str, ObjectId]) -> Iterator[ObjectId]:
    """Refs of the remote's whose trees are likely to be much like the new ones."""
    newest: dict[str, list[tuple[int, ObjectId]]] = {}
    for name, oid in advertised.items():
        if match := _LEDGER_REF.fullmatch(name):
            newest.setdefault(match[1], []).append((int(match[2]), oid))
    for series in newest.values():
        yield from (oid for _, oid in heapq.nlargest(_NEWEST, series))
    yield from [oid for name, oid in advertised.items() if name.startswith("refs/heads/")][:_HEADS]


def _walk_known(repo: Repository, oid: ObjectId, known: set[ObjectId]) -> None:
    """Add everything in a commit that the remote has, as far as it is here: a partial clone may lack some."""
    kind, data = repo.read_any(oid)
    if kind == "commit":
        known.update(walk(repo, tree_of(data), known, lenient=True))


def walk(repo: Repository, top: ObjectId, seen: set[ObjectId], *, lenient: bool = False) -> list[ObjectId]:
    """A tree and everything below it that was not seen before; or another object, alone."""
    found, queue = [], [(top, True)]
    while queue:
        oid, maybe_tree = queue.pop()
        if oid in seen:
            continue
        if maybe_tree:
            try:
                kind, data = repo.read_any(oid)
            except NotFound:
                if lenient:
                    continue
                raise
            if kind == "tree":
                queue += _children(data, repo.format.raw_length)
        seen.add(oid)
        found.append(oid)
    return found


def _children(tree: bytes, raw_length: int) -> list[tuple[ObjectId, bool]]:
    """The entries of a tree (gitformat-tree: `mode SP name NUL id`) and whether they are trees; no submodules."""
    found, at = [], 0
    while at < len(tree):
        nul = tree.index(b"\0", at)
        mode = tree[at : tree.index(b" ", at)]
        at = nul + 1 + raw_length
        if mode != _GITLINK:
            found.append((ObjectId.from_raw(tree[nul + 1 : at]), mode in (b"40000", b"040000")))
    return found


def tree_of(commit: bytes) -> ObjectId:
    return ObjectId(commit[5 : commit.index(b"\n")].decode("ascii", "replace"))


def tagged(tag: bytes) -> ObjectId:
    return ObjectId(tag[7 : tag.index(b"\n")].decode("ascii", "replace"))
