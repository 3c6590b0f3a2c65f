"""Signatures verified ahead of the walk that asks for them, by other processes (`gitrel.workers`).

Ed25519 takes a tenth of a millisecond, which is half of what a record takes. So a long walk reads the next records
before it judges these, and has their signatures verified meanwhile. What comes back is which key signed which bytes,
and nothing else is decided here: what could not be read, is no record, or was not signed well is looked at again where
it is asked for, and refused there.
"""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from gitrel.errors import FormatError, LocalStateError, NotFound, Refused
from gitrel.format.commit import MAX_RECORD
from gitrel.format.record import Detached, read_signature
from gitrel.ids import KeyId, ObjectFormat, ObjectId
from gitrel.trust.content import Objects
from gitrel.trust.signers import verify_signature
from gitrel.workers import Share, in_order

_SHARE = 128  # records that are read, and verified, at a time
_AHEAD = 4096 * 1024  # bytes of records and signatures that wait
_PARENTS = 3  # of a release: the one before it, its build, its config


class Window(NamedTuple):
    """Some records, by `oids`. Of these and of what they cite: `commits` that were read, and the keys that signed."""

    oids: Sequence[ObjectId]
    commits: Mapping[ObjectId, bytes]
    signers: Mapping[Detached, KeyId]


def windows(objects: Objects, oids: Sequence[ObjectId]) -> Generator[Window, None, None]:
    """All records, in order. Close it if it may not be exhausted."""

    def shares() -> Iterator[Share[tuple[Window, list[Detached]], list[Detached]]]:
        seen = set(oids)
        for at in range(0, len(oids), _SHARE):
            some = oids[at : at + _SHARE]
            commits = dict(_read(objects, some, seen))
            signed = [read_signature(raw, ObjectFormat.of(oid)) for oid, raw in commits.items()]
            signatures = [each for each in signed if each is not None]
            yield Share((Window(some, commits, {}), signatures), signatures, 2 * sum(map(len, commits.values())))

    with contextlib.closing(in_order(shares(), _verify, ahead=_AHEAD, busy=True)) as verified:
        for (window, signatures), keys in verified:
            good = {each: key for each, key in zip(signatures, keys, strict=True) if key is not None}
            yield window._replace(signers=good)


def _verify(signatures: Iterable[Detached]) -> list[KeyId | None]:
    return [_signer(each) for each in signatures]


def _signer(signature: Detached) -> KeyId | None:
    with contextlib.suppress(Refused):
        return verify_signature(signature, "")
    return None


def _read(objects: Objects, oids: Iterable[ObjectId], seen: set[ObjectId]) -> Iterator[tuple[ObjectId, bytes]]:
    """Records, and what they cite and nobody cited before."""
    for oid in oids:
        raw = _record(objects, oid)
        for cited in _parents(raw):
            if cited not in seen:
                seen.add(cited)
                yield cited, _record(objects, cited)
        yield oid, raw


def _record(objects: Objects, oid: ObjectId) -> bytes:
    """Empty if it cannot be one."""
    with contextlib.suppress(NotFound, LocalStateError):
        raw = objects.read(oid, "commit")
        if len(raw) <= MAX_RECORD:
            return raw
    return b""


def _parents(raw: bytes) -> Iterator[ObjectId]:
    """As far as the commit has them where a record has."""
    for line in raw.split(b"\n", _PARENTS + 1)[1:-1]:
        with contextlib.suppress(FormatError, UnicodeDecodeError):
            if line.startswith(b"parent "):
                yield ObjectId(line.removeprefix(b"parent ").decode())
