"""Which commits' files a repository has."""

from __future__ import annotations

from gitrel.errors import FormatError
from gitrel.format.commit import parse_commit
from gitrel.ids import ObjectId
from gitrel.store.repository import Repository


def has_files(repo: Repository, oid: ObjectId) -> bool:
    """Whether a commit's files are here. A fetch without files leaves out even the top tree, and one with files is
    adopted whole or not at all, so the top tree stands for all of them."""
    try:
        return oid in repo and parse_commit(repo.read(oid, "commit"), repo.format).tree in repo
    except FormatError:
        return False
