"""Records into a repository. Signing is the caller's: `sign` takes the payload and returns SSHSIG armor."""

from __future__ import annotations

from collections.abc import Callable

from gitrel.errors import LocalStateError
from gitrel.format.record import R, Signed, Stamp, parse_record_as, sign_record, unsigned_payload
from gitrel.format.tree import Node
from gitrel.store.repository import Repository

Sign = Callable[[bytes], str]


def write_record(repo: Repository, record: R, tree: Node, *, who: Stamp, sign: Sign) -> Signed[R]:
    """Sign a record over a tree that is stored already, and store it; no ref is made.

    What comes out is read back as a verifier would, so nothing that gitrel would refuse is ever published.
    """
    if record.tree_sha256 != tree.sha256:
        raise LocalStateError("a record that does not name its own tree", where=record.subject)
    signature = sign(unsigned_payload(record, tree=tree.oid, author=who, committer=who))
    raw = sign_record(record, tree=tree.oid, author=who, committer=who, signature=signature)
    signed = parse_record_as(type(record), raw, repo.format)
    repo.write("commit", raw)
    return signed
