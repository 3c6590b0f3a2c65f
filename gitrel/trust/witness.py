"""The ledgers of witnesses: heartbeats, and each host's receipts (docs/spec/verification.md, "Witnesses").

A heartbeat says which releases are the newest; a receipt, what a host ran and what it had seen. Neither lets anything
run. One signature is enough, so there is no pending one: a record is good, or refused with the number of the check. One
that is refused for its signer keeps its place in the chain; one that is no link ends it.
"""

from __future__ import annotations

from collections.abc import Iterator

from gitrel.dataclass import dataclass, field
from gitrel.errors import FormatError, LocalStateError, NotFound, Refused
from gitrel.format.record import CitedRelease, HeartbeatRecord, ReceiptRecord, Signed
from gitrel.format.refs import RefMap
from gitrel.format.tree import directory_node
from gitrel.format.trust import Role, TrustPolicy
from gitrel.ids import HEARTBEAT, Entry, KeyId, Ledger, LedgerRef, ObjectId, PersonName, RecordId, parse_ref
from gitrel.trust.chain import TrustChain, VerifiedTrust
from gitrel.trust.checks import Check
from gitrel.trust.content import Objects
from gitrel.trust.signers import parse_canonical, verify_signature
from gitrel.trust.walk import entries

RECEIPTS = "refs/receipts/"
Witness = HeartbeatRecord | ReceiptRecord

_PROOF = object()


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifiedWitness:
    """A heartbeat or receipt that passed its checks. `key` signed it. Made by `WitnessLedger.add` alone."""

    signed: Signed[HeartbeatRecord] | Signed[ReceiptRecord]
    key: KeyId
    signer: PersonName
    proof: object = field(repr=False)

    def __post_init__(self) -> None:
        if self.proof is not _PROOF:
            raise TypeError("a VerifiedWitness comes out of WitnessLedger.add")

    @property
    def record(self) -> Witness:
        return self.signed.record

    @property
    def id(self) -> RecordId:
        return self.signed.id


def role_of(policy: TrustPolicy, ledger: Ledger) -> Role | None:
    """Who may sign in a witness's ledger: of receipts the host itself alone, if it holds the role at all."""
    if ledger.host is None:
        return policy.heartbeat
    name = PersonName(ledger.host)
    return Role(people=(name,)) if policy.receipt is not None and name in policy.receipt.people else None


def may_witness(trust: VerifiedTrust, ledger: Ledger, key: KeyId, where: str) -> PersonName:
    """Whose the key is. Raises `Refused` (5) if that trust does not let its owner sign here."""
    role, owner = role_of(trust.policy, ledger), trust.owners.get(key)
    if role is None or owner is None or owner not in role.people:
        who = owner or f"an unknown key {key[:16]}…"
        what = f"signed by {who}, who does not hold the {ledger.kind.value.removesuffix('s')} role"
        why = f"in trust {trust.entry}" + (f"; receipts of {ledger.host} are its own to sign" if ledger.host else "")
        raise Refused(what, check=Check.SIGNATURE, where=where, why=why)
    return owner


def named_releases(record: Witness) -> tuple[CitedRelease, ...]:
    """The releases that its signer had seen."""
    return record.heads if isinstance(record, HeartbeatRecord) else (record.head, record.release)


def contradictions(record: Witness, refs: RefMap) -> Iterator[tuple[CitedRelease, ObjectId | None]]:
    """What it names that `refs` have not got (None), or have another one of: somebody was shown another history."""
    for cited in dict.fromkeys(named_releases(record)):
        found = refs.get(str(Ledger.releases(cited.deploy)[cited.entry]))
        if found != cited.id.oid:
            yield cited, found


class WitnessLedger:
    """One ledger, fed in order. `shallow`: the first entry given is taken without its predecessor."""

    def __init__(self, trust: TrustChain, ledger: Ledger, *, shallow: bool = False) -> None:
        self._trust = trust
        self._ledger = ledger
        self._previous: tuple[Entry, RecordId] | None = None
        self._shallow = shallow
        self._floor = 1
        self._empty = directory_node({}, trust.format)[1]

    @property
    def next(self) -> Entry:
        return self._previous[0].next if self._previous else Entry(1)

    def step_over(self) -> None:
        """Take the next entry without its predecessor: for an auditor, behind a broken link."""
        self._shallow = True

    def add(self, ref: str, raw: bytes) -> VerifiedWitness:
        """Raises `Refused`; by 1, 2, 3 or 8 it is no link, and nothing can follow it."""
        signed = self._parse(ref, raw)
        record = signed.record
        if str(record.ref) != ref:
            raise Refused("the ref does not name this record", check=Check.NAME, where=ref, why=f"it is {record.ref}")
        if record.app != self._trust.app:
            raise Refused("made for another app", check=Check.APP, where=ref, why=record.app)
        if not self._shallow and (record.entry, record.previous) != (
            self.next,
            self._previous[1] if self._previous else None,
        ):
            raise Refused("does not follow the entry before it", check=Check.PREVIOUS, where=ref)
        self._shallow = False
        self._previous = record.entry, signed.id
        return self._judge(ref, signed)

    def _parse(self, ref: str, raw: bytes) -> Signed[HeartbeatRecord] | Signed[ReceiptRecord]:
        if self._ledger == HEARTBEAT:
            return parse_canonical(HeartbeatRecord, raw, self._trust.format, ref)
        return parse_canonical(ReceiptRecord, raw, self._trust.format, ref)

    def _judge(self, ref: str, signed: Signed[HeartbeatRecord] | Signed[ReceiptRecord]) -> VerifiedWitness:
        record = signed.record
        if (signed.tree, record.tree_sha256) != (self._empty.oid, self._empty.sha256):
            raise Refused("its tree is not empty", check=Check.TREE, where=ref)
        trust = self._trust.cited(record.trust, ref)
        key = verify_signature(signed, ref)
        signer = may_witness(trust, self._ledger, key, ref)
        if trust.entry < self._floor:
            raise Refused(f"cites trust {trust.entry} after v{self._floor}", check=Check.POSITION, where=ref)
        self._floor = trust.entry
        return VerifiedWitness(signed=signed, key=key, signer=signer, proof=_PROOF)


def walk_witnesses(
    refs: RefMap, objects: Objects, trust: TrustChain, ledger: Ledger
) -> Iterator[tuple[Entry, VerifiedWitness | Refused]]:
    """Each entry with what became of it, oldest first; a missing or broken link is the last."""
    verifier = WitnessLedger(trust, ledger)
    for entry, oid in entries(refs, ledger).items():
        ref = str(ledger[entry])
        try:
            if entry != verifier.next:
                raise Refused(f"{verifier.next} is missing", check=Check.PREVIOUS, where=ref)
            yield entry, verifier.add(ref, objects.read(oid, "commit"))
        except (NotFound, LocalStateError) as error:
            yield entry, Refused(f"cannot be read: {error.what}", check=Check.CANONICAL, where=ref, why=error.why)
            return
        except Refused as refusal:
            yield entry, refusal
            if verifier.next != entry.next:
                return


def witness_ledgers(refs: RefMap) -> dict[Ledger, dict[str, ObjectId]]:
    """The witnesses' ledgers that have an entry, sorted, each with its own refs: there may be thousands of hosts."""
    found: dict[Ledger, dict[str, ObjectId]] = {}
    for name, oid in refs.items():
        if name.startswith((HEARTBEAT.prefix, RECEIPTS)):
            try:
                ref = parse_ref(name)
            except FormatError:
                continue  # a stray ref, which belongs to no ledger
            if isinstance(ref, LedgerRef):
                found.setdefault(ref.ledger, {})[name] = oid
    return dict(sorted(found.items()))


def judge_heartbeat(trust: TrustChain, entry: Entry, raw: bytes) -> VerifiedWitness:
    """A heartbeat without those before it, by the trust that it cites and by today's. Raises `Refused`."""
    ref = str(HEARTBEAT[entry])
    found = WitnessLedger(trust, HEARTBEAT, shallow=True).add(ref, raw)
    may_witness(trust.newest, HEARTBEAT, found.key, ref)
    return found
