"""The build and config records that releases cite: each is verified once, however many releases carry it.

What is remembered of a record is whose keys signed it, under its two ids; whether that is enough depends on the
release, and is decided anew for each (`gitrel.trust.ledger`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from gitrel.errors import Refused
from gitrel.format.record import AnyRecord, BuildRecord, ConfigRecord, Signed
from gitrel.ids import BuildRef, KeyId, LedgerRef, ObjectId, RecordId
from gitrel.trust.chain import TrustChain
from gitrel.trust.checks import Check
from gitrel.trust.signers import Signatures, parse_canonical, verify_approvals

_RECENT = 64  # parsed records that are kept: neighbours share them; an older one is parsed again in 60 us


class Records(Protocol):
    """Where the verifier gets the records that a release cites; every byte of them is verified."""

    def commit(self, oid: ObjectId) -> bytes:
        """A commit's bytes. Raises `NotFound`, `LocalStateError`."""

    def signer(self, signed: Signed[AnyRecord], where: str) -> KeyId:
        """The key that signed (`gitrel.trust.signers.verify_signature`). Raises `Refused` (2, 5)."""

    def approvals(self, record: ObjectId) -> Sequence[bytes]:
        """The tags under `refs/approvals/<record>/`, good or bad."""


def verify_signatures(
    signed: Signed[AnyRecord], subject: LedgerRef | BuildRef, records: Records, trust: TrustChain, where: str
) -> Signatures:
    """The record's own signature and its approvals. Raises `Refused` (2, 5) for the first."""
    return Signatures(
        records.signer(signed, where),
        verify_approvals(records.approvals(signed.id.oid), signed.id, trust.app, trust.format, subject),
    )


class Parts:
    """Build and config records, by both of their ids."""

    def __init__(self, trust: TrustChain, records: Records) -> None:
        self._trust = trust
        self._records = records
        self._signatures: dict[RecordId, Signatures] = {}
        self._recent: dict[RecordId, Signed[BuildRecord] | Signed[ConfigRecord]] = {}

    def build(self, cited: RecordId, where: str) -> tuple[Signed[BuildRecord], Signatures]:
        """Raises `Refused`, `NotFound`, `LocalStateError`."""
        found = self._recent.get(cited)
        if found is None or not isinstance(found.record, BuildRecord):
            found = parse_canonical(BuildRecord, self._records.commit(cited.oid), self._trust.format, where)
            self._verify(found, cited, BuildRef(found.id.oid), Check.BUILD, where)
        return found, self._signatures[cited]

    def config(self, cited: RecordId, where: str) -> tuple[Signed[ConfigRecord], Signatures]:
        """Raises `Refused`, `NotFound`, `LocalStateError`."""
        found = self._recent.get(cited)
        if found is None or not isinstance(found.record, ConfigRecord):
            found = parse_canonical(ConfigRecord, self._records.commit(cited.oid), self._trust.format, where)
            self._verify(found, cited, found.record.ref, Check.CONFIG, where)
        return found, self._signatures[cited]

    def _verify(
        self,
        part: Signed[BuildRecord] | Signed[ConfigRecord],
        cited: RecordId,
        subject: LedgerRef | BuildRef,
        check: Check,
        where: str,
    ) -> None:
        if part.id != cited:
            raise Refused("not the record that is cited", check=check)
        if part.record.app != self._trust.app:
            raise Refused("made for another app", check=check, why=part.record.app)
        self._trust.cited(part.record.trust, where)
        if cited not in self._signatures:
            self._signatures[cited] = verify_signatures(part, subject, self._records, self._trust, where)
        if len(self._recent) >= _RECENT:
            del self._recent[next(iter(self._recent))]
        self._recent[cited] = part
