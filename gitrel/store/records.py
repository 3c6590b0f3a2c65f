"""Records into a repository, and under their names.

Signing is the caller's: `sign` takes the payload and returns SSHSIG armor.
"""

from __future__ import annotations

from collections.abc import Callable

from gitrel.errors import FormatError, LocalStateError, NotFound
from gitrel.format.record import (
    BuildRecord,
    R,
    Signed,
    Stamp,
    parse_record,
    parse_record_as,
    sign_record,
    unsigned_payload,
)
from gitrel.format.tree import Node
from gitrel.ids import ApprovalRef, BuildRef, ObjectId, parse_ref
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


def misnamed(name: str, oid: ObjectId, objects: Repository) -> str:
    """Why an object is not the record that its ref's name says; empty if it is. Signatures are not looked at."""
    if isinstance(parse_ref(name), ApprovalRef):
        return ""  # a tag, which counts for nothing until it is verified
    try:
        signed = parse_record(objects.read(oid, "commit"), objects.format)
    except (FormatError, NotFound, LocalStateError) as error:
        return str(error)
    record = signed.record
    own = BuildRef(signed.id.oid) if isinstance(record, BuildRecord) else record.ref
    return "" if str(own) == name else f"it is {own}"
