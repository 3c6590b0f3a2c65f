"""The trust ledger: from a pin to the trust in force, one version at a time (The Update Framework, section 5.3).

Pure: it is fed bytes in order, does no I/O and knows no clock. Version N+1 counts if the root role's threshold
of N *and* of N+1 signed it, its maker and the approvers together; its maker holds root in one of the two, so the
last of the old can hand over to the first of the new. `trust.toml` is parsed only once the pin, or a signature by
root, stands for its bytes. A verifier without a pin takes version 1 as it comes and says which it was.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from gitrel.dataclass import dataclass
from gitrel.errors import FormatError, Refused
from gitrel.format.record import Cited, CitedRelease, Signed, TrustRecord
from gitrel.format.tree import blob_node, directory_node
from gitrel.format.trust import (
    SIGNERS_FILE,
    TRUST_FILE,
    KeyLine,
    TrustPolicy,
    encode_allowed_signers,
    parse_trust,
)
from gitrel.ids import TRUST, App, Deploy, Entry, KeyId, LedgerRef, ObjectFormat, PersonName, RecordId, Sha256
from gitrel.keys.public import PublicKey
from gitrel.trust.checks import Check
from gitrel.trust.signers import (
    Signatures,
    missing_signatures,
    owners,
    parse_canonical,
    verify_approvals,
    verify_signature,
)

_PROOF = object()


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifiedTrust:
    """A trust record that passed every check. Made by `TrustChain.add` alone."""

    signed: Signed[TrustRecord]
    policy: TrustPolicy
    owners: Mapping[KeyId, PersonName]
    signers: tuple[PersonName, ...]
    proof: object

    def __post_init__(self) -> None:
        if self.proof is not _PROOF:
            raise TypeError("a VerifiedTrust comes out of TrustChain.add")

    @property
    def entry(self) -> Entry:
        return self.signed.record.entry

    @property
    def id(self) -> RecordId:
        return self.signed.id

    @property
    def cited(self) -> Cited:
        """How other records name it."""
        return Cited(self.entry, self.id)

    def head(self, deploy: Deploy) -> CitedRelease | None:
        return next((head for head in self.signed.record.heads if head.deploy == deploy), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class PendingTrust:
    """A trust record that lacks nothing but signatures of the root role; it is not in force."""

    signed: Signed[TrustRecord]
    policy: TrustPolicy
    refusal: Refused


class TrustChain:
    """All verified trust records, v1 … vN, and the one after them if it waits for approvals."""

    def __init__(self, fmt: ObjectFormat, pin: Sha256 | None) -> None:
        self.format = fmt
        self._pin = pin
        self._entries: list[VerifiedTrust] = []
        self.pending: PendingTrust | None = None

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def newest(self) -> VerifiedTrust:
        """The trust in force. Raises `Refused` if there is none."""
        if not self._entries:
            raise Refused("there is no trust ledger", check=Check.TRUST_CHAIN, where=str(TRUST[1]))
        return self._entries[-1]

    @property
    def app(self) -> App:
        return self.newest.policy.app

    @property
    def pin(self) -> Sha256:
        """The app's identity: SHA-256 of trust v1. Raises `Refused` if there is none."""
        return self._entries[0].id.sha256 if self._entries else self.newest.id.sha256

    def cited(self, citation: Cited, where: str) -> VerifiedTrust:
        """The entry that a record cites. Raises `Refused` (4) if it is not in the chain."""
        if citation.entry > len(self._entries):
            raise Refused(
                "cites a trust record that is not there",
                check=Check.TRUST_CHAIN,
                where=where,
                why=str(citation.entry),
            )
        found = self._entries[citation.entry - 1]
        if found.id != citation.id:
            raise Refused(
                f"cites another trust {citation.entry}",
                check=Check.TRUST_CHAIN,
                where=where,
                why=f"ours is {found.id.oid}",
            )
        return found

    def __iter__(self) -> Iterator[VerifiedTrust]:
        return iter(self._entries)

    def after(self, entry: Entry, last: int | None = None) -> Sequence[VerifiedTrust]:
        """The entries after `entry`, oldest first, and up to number `last`."""
        return self._entries[entry:last]

    def add(
        self,
        name: str,
        raw: bytes,
        *,
        trust_file: bytes,
        signers_file: bytes,
        approvals: Sequence[bytes] = (),
    ) -> VerifiedTrust:
        """Verify the next version and make it the newest.

        Raises `Refused`; the chain is then as before, but for `pending` if only signatures are missing (6).
        """
        signed = self._parse(name, raw, Entry(len(self._entries) + 1))
        record = signed.record
        self._check_origin(signed, name)
        before = self._entries[-1] if self._entries else None
        if before is not None:
            _check_successor(before, record, name)
        signatures = Signatures(
            verify_signature(signed, name),
            verify_approvals(approvals, signed.id, record.app, self.format, record.ref),
        )
        if before is not None:
            _check_maker(before, signatures, name)
        policy = self._policy(signed, trust_file, signers_file, name)
        known = owners(policy)
        try:
            signers = _root_signers(before, policy, known, signatures, record.ref)
        except Refused as refusal:
            if refusal.check == Check.THRESHOLD:
                self.pending = PendingTrust(signed=signed, policy=policy, refusal=refusal)
            raise
        verified = VerifiedTrust(signed=signed, policy=policy, owners=known, signers=signers, proof=_PROOF)
        self._entries.append(verified)
        self.pending = None
        return verified

    def _parse(self, name: str, raw: bytes, entry: Entry) -> Signed[TrustRecord]:
        signed = parse_canonical(TrustRecord, raw, self.format, name)
        if str(signed.record.ref) != name:
            raise Refused("the ref does not name this record", check=Check.NAME, where=name)
        if signed.record.entry != entry:
            raise Refused(f"{entry} comes next", check=Check.TRUST_CHAIN, where=name)
        return signed

    def _policy(self, signed: Signed[TrustRecord], trust_file: bytes, signers_file: bytes, where: str) -> TrustPolicy:
        children = {
            TRUST_FILE: blob_node(trust_file, self.format),
            SIGNERS_FILE: blob_node(signers_file, self.format),
        }
        node = directory_node(children, self.format)[1]
        if node.oid != signed.tree or node.sha256 != signed.record.tree_sha256:
            raise Refused("its files are not the signed ones", check=Check.CONTENT, where=where)
        try:
            policy = parse_trust(trust_file, f"{where}:{TRUST_FILE}")
            for person, keys in policy.people.items():
                for key in keys:
                    _check_key(person, key)
        except FormatError as error:
            raise Refused(
                "trust.toml is malformed", check=Check.TRUST_CHAIN, where=where, why=str(error), hint=error.hint
            ) from None
        if policy.app != signed.record.app:
            raise Refused("another app", check=Check.APP, where=where, why=f"{signed.record.app}, not {policy.app}")
        if encode_allowed_signers(policy) != signers_file:
            raise Refused("allowed_signers does not follow from trust.toml", check=Check.TRUST_CHAIN, where=where)
        return policy

    def _check_origin(self, signed: Signed[TrustRecord], where: str) -> None:
        if self._entries and signed.record.app != self.app:
            raise Refused("another app", check=Check.APP, where=where, why=f"{signed.record.app}, not {self.app}")
        if not self._entries and self._pin is not None and signed.id.sha256 != self._pin:
            raise Refused(
                "not the trust that is pinned",
                check=Check.APP,
                where=where,
                why=f"its SHA-256 is {signed.id.sha256}, pinned is {self._pin}",
                hint="compare the pin with the one that `gitrel init` printed, over a channel that you trust",
            )


def _check_key(person: PersonName, key: KeyLine) -> None:
    try:
        PublicKey.parse_line(str(key))
    except FormatError as error:
        raise FormatError(f"people.{person}: {error.what}", why=error.why, hint=error.hint) from None


def _holds_root(policy: TrustPolicy, known: Mapping[KeyId, PersonName], key: KeyId) -> bool:
    return known.get(key) in policy.root.people


def _check_maker(before: VerifiedTrust, signatures: Signatures, where: str) -> None:
    """Its maker holds root already, or those who do have approved it."""
    people = signatures.people(before.policy.root, before.owners)
    if len(people) < before.policy.root.threshold and not _holds_root(before.policy, before.owners, signatures.own):
        raise Refused(
            f"not signed by anybody with the root role of trust {before.entry}", check=Check.SIGNATURE, where=where
        )


def _root_signers(
    before: VerifiedTrust | None,
    policy: TrustPolicy,
    known: Mapping[KeyId, PersonName],
    signatures: Signatures,
    subject: LedgerRef,
) -> tuple[PersonName, ...]:
    """Those who signed and hold root in `policy`, which is to follow `before`."""
    where = str(subject)
    judges = [(before.policy, before.owners)] if before else []
    judges.append((policy, known))
    if not any(_holds_root(each, whose, signatures.own) for each, whose in judges):
        raise Refused("not signed by anybody with the root role", check=Check.SIGNATURE, where=where)
    people: tuple[PersonName, ...] = ()
    for each, whose in judges:
        role = each.root
        people = signatures.people(role, whose)
        lack = missing_signatures(signatures, role, whose, subject, where)
        if lack is not None:
            raise lack
    return people


def _check_successor(before: VerifiedTrust, record: TrustRecord, where: str) -> None:
    if record.previous != before.id:
        raise Refused("does not follow the trust before it", check=Check.PREVIOUS, where=where)
    for head in before.signed.record.heads:
        mine = next((own for own in record.heads if own.deploy == head.deploy), None)
        if mine is None or mine.entry < head.entry or (mine.entry == head.entry and mine != head):
            raise Refused(
                f"its head of {head.deploy} goes back",
                check=Check.PREVIOUS,
                where=where,
                why=f"{head.entry} was named before",
            )
