"""Records: the signed entries, to and from bytes (docs/spec/record.md).

A record is a commit (an approval: a tag) whose message is one of the values of `gitrel.format.body`. What
parses re-encodes to the same bytes; anything else is a `FormatError`.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Generic, NamedTuple, TypeVar, cast

from gitrel.dataclass import dataclass, replace
from gitrel.errors import FormatError
from gitrel.format.body import (
    AnyRecord,
    ApprovalRecord,
    BuildRecord,
    Cited,
    CitedRelease,
    ConfigRecord,
    Health,
    HeartbeatRecord,
    ReceiptRecord,
    ReleaseRecord,
    TrustRecord,
)
from gitrel.format.commit import Commit, Stamp, encode_commit, parse_commit, signature_header
from gitrel.format.tag import Tag, encode_tag, parse_tag
from gitrel.format.trailers import parse_message
from gitrel.ids import ApprovalRef, KeyId, ObjectFormat, ObjectId, RecordId

__all__ = [
    "AnyRecord",
    "ApprovalRecord",
    "BuildRecord",
    "Cited",
    "CitedRelease",
    "ConfigRecord",
    "Detached",
    "Health",
    "HeartbeatRecord",
    "R",
    "ReceiptRecord",
    "ReleaseRecord",
    "Signed",
    "SignedApproval",
    "Stamp",
    "TrustRecord",
    "approval_payload",
    "parse_approval",
    "parse_record",
    "parse_record_as",
    "read_signature",
    "sign_approval",
    "sign_record",
    "unsigned_payload",
]

_Record_co = TypeVar("_Record_co", bound=AnyRecord, covariant=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Signed(Generic[_Record_co]):
    """A record with its envelope. `payload` is what `signature` (SSHSIG armor) is made over; nothing is verified."""

    record: _Record_co
    tree: ObjectId
    author: Stamp
    committer: Stamp
    signature: str
    payload: bytes
    raw: bytes
    id: RecordId


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedApproval:
    """An approval with its envelope; `key` is the key id that the tag's name claims."""

    record: ApprovalRecord
    key: KeyId
    tagger: Stamp
    signature: str
    payload: bytes
    raw: bytes
    id: RecordId


def unsigned_payload(record: AnyRecord, *, tree: ObjectId, author: Stamp, committer: Stamp) -> bytes:
    """The bytes to sign (namespace `git`, sha512)."""
    return encode_commit(_commit(record, tree, author, committer, None))


def sign_record(record: AnyRecord, *, tree: ObjectId, author: Stamp, committer: Stamp, signature: str) -> bytes:
    """The record's bytes, given the armored signature over `unsigned_payload` (a final newline is dropped)."""
    return encode_commit(_commit(record, tree, author, committer, signature.rstrip("\n")))


def _commit(record: AnyRecord, tree: ObjectId, author: Stamp, committer: Stamp, signature: str | None) -> Commit:
    return Commit(
        tree=tree,
        parents=record.parents,
        author=author,
        committer=committer,
        signature=signature,
        message=record.message,
    )


@lru_cache(maxsize=16)  # who reports on a record asks again
def parse_record(raw: bytes, fmt: ObjectFormat) -> Signed[AnyRecord]:
    """Read any record but an approval. Raises `FormatError`, and nothing else, for any other bytes."""
    commit = parse_commit(raw, fmt)
    body = parse_message(commit.message, fmt)
    if isinstance(body, ApprovalRecord):
        raise FormatError("an approval is a tag, not a commit")
    if len(set(body.parents)) != len(body.parents):
        raise FormatError("the same parent twice", why=" ".join(body.parents))
    if body.parents != commit.parents:
        raise FormatError(
            "the parents are not what the trailers name", why=f"expected {' '.join(body.parents) or 'none'}"
        )
    if commit.signature is None:
        raise FormatError("record is not signed")
    return Signed(
        record=body,
        tree=commit.tree,
        author=commit.author,
        committer=commit.committer,
        signature=commit.signature,
        payload=_take_signature(raw, fmt)[1],
        raw=raw,
        id=RecordId.of("commit", raw, fmt),
    )


class Detached(NamedTuple):
    """A signature, and what it should be made over: `Signed.signature` and `Signed.payload`."""

    signature: str
    payload: bytes


def read_signature(raw: bytes, fmt: ObjectFormat) -> Detached | None:
    """The signature of a record, without a look at the rest; None if this cannot be one."""
    armor, payload = _take_signature(raw, fmt)
    if not armor.isascii() or len(payload) == len(raw):
        return None
    return Detached(armor.decode().replace("\n ", "\n"), payload)


def _take_signature(raw: bytes, fmt: ObjectFormat) -> tuple[bytes, bytes]:
    """What a commit has as the last of its headers, folded, and its bytes without that header; all if it has none."""
    head, _, rest = raw.partition(b"\n%s " % signature_header(fmt).encode())
    armor, blank, message = rest.partition(b"\n\n")
    return (armor, head + blank + message) if blank else (b"", raw)


R = TypeVar("R", TrustRecord, ConfigRecord, BuildRecord, ReleaseRecord, HeartbeatRecord, ReceiptRecord)


def parse_record_as(kind: type[R], raw: bytes, fmt: ObjectFormat) -> Signed[R]:
    """Read a record that must be of one kind. Raises `FormatError`."""
    signed = parse_record(raw, fmt)
    if not isinstance(signed.record, kind):
        raise FormatError(f"a {signed.record.kind} record where a {kind.kind} record belongs")
    return cast("Signed[R]", signed)


def approval_payload(record: ApprovalRecord, *, key: KeyId, tagger: Stamp) -> bytes:
    """The bytes to sign (namespace `git`, sha512)."""
    return encode_tag(_tag(record, key, tagger, None))


def sign_approval(record: ApprovalRecord, *, key: KeyId, tagger: Stamp, signature: str) -> bytes:
    """The tag's bytes, given the armored signature over `approval_payload` (a final newline is dropped)."""
    return encode_tag(_tag(record, key, tagger, signature.rstrip("\n")))


def _tag(record: ApprovalRecord, key: KeyId, tagger: Stamp, signature: str | None) -> Tag:
    name = str(ApprovalRef(record.approved.oid, key)).removeprefix("refs/")
    return Tag(object=record.approved.oid, name=name, tagger=tagger, message=record.message, signature=signature)


def parse_approval(raw: bytes, fmt: ObjectFormat) -> SignedApproval:
    """Read an approval. Raises `FormatError`, and nothing else, for any other bytes."""
    tag = parse_tag(raw, fmt)
    body = parse_message(tag.message, fmt)
    if not isinstance(body, ApprovalRecord):
        raise FormatError(f"a {body.kind} record is a commit, not a tag")
    key = KeyId(tag.name.rpartition("/")[2])
    if tag.signature is None:
        raise FormatError("approval is not signed")
    if encode_tag(_tag(body, key, tag.tagger, tag.signature)) != raw:
        raise FormatError("the tag is not on the record, or not of the name, that its trailers say")
    return SignedApproval(
        record=body,
        key=key,
        tagger=tag.tagger,
        signature=tag.signature,
        payload=encode_tag(replace(tag, signature=None)),
        raw=raw,
        id=RecordId.of("tag", raw, fmt),
    )
