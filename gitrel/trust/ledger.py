"""A deploy's releases, fed in order: which may run, which may not, and why (docs/spec/verification.md).

Pure: bytes in, verdicts out. An entry that is refused keeps its place in the chain as long as it is canonical
and linked, so a later release can be built on it: its signers vouch for themselves, not for what stands
before. An entry that breaks the chain ends the ledger; what came before it stays good.

Order without clocks: a release cites a trust record, and every later trust record that names a lower head for
the deploy must still give its signers their roles. So a key removed from the trust signs nothing new.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from gitrel.errors import LocalStateError, NotFound, Refused
from gitrel.format.record import BuildRecord, ConfigRecord, R, ReleaseRecord, Signed, TrustRecord
from gitrel.format.trust import Role
from gitrel.ids import Deploy, Entry, Ledger, ObjectId, PersonName, RecordId
from gitrel.trust.chain import TrustChain, VerifiedTrust
from gitrel.trust.checks import Check
from gitrel.trust.signers import Signatures, parse_canonical, verify_approvals, verify_signature

_PROOF = object()


@dataclass(frozen=True, slots=True)
class Anchor:
    """Where a verifier stands already: the highest release that it has seen, and the trust which that one cites."""

    entry: Entry
    id: RecordId
    trust: Entry


@dataclass(frozen=True, slots=True, kw_only=True)
class ChainedRelease:
    """A release whose records passed checks 1 to 10, 13 and 14; its files were not looked at.

    Made by `ReleaseLedger.add` alone.
    """

    signed: Signed[ReleaseRecord]
    build: Signed[BuildRecord]
    config: Signed[ConfigRecord] | None
    trust: VerifiedTrust
    signers: tuple[PersonName, ...]
    proof: object = field(repr=False)

    def __post_init__(self) -> None:
        if self.proof is not _PROOF:
            raise TypeError("a ChainedRelease comes out of ReleaseLedger.add")

    @property
    def record(self) -> ReleaseRecord:
        return self.signed.record

    @property
    def entry(self) -> Entry:
        return self.record.entry

    @property
    def id(self) -> RecordId:
        return self.signed.id

    @property
    def anchor(self) -> Anchor:
        return Anchor(self.entry, self.id, self.record.trust.entry)


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What became of one entry: `release` if it may run, else `refusal`. `signed` is there once it was canonical."""

    ref: str
    entry: Entry
    id: RecordId
    signed: Signed[ReleaseRecord] | None = None
    release: ChainedRelease | None = None
    refusal: Refused | None = None

    @property
    def pending(self) -> bool:
        """Refused only because too few people signed so far."""
        return self.refusal is not None and self.refusal.check == Check.THRESHOLD


def _never(_: RecordId) -> bool:
    return False


class Records(Protocol):
    """Where the verifier gets the records that a release cites; every byte of them is verified."""

    def commit(self, oid: ObjectId) -> bytes:
        """A commit's bytes. Raises `NotFound`, `LocalStateError`."""

    def approvals(self, record: ObjectId) -> Sequence[bytes]:
        """The tags under `refs/approvals/<record>/`, good or bad."""


class ReleaseLedger:
    """The releases of one deploy, in order.

    `anchor` is where an earlier verification ended; with `shallow`, the first entry given is taken without its
    predecessors (a server that meets a ledger whose history the remote cannot send). `released_before` tells
    whether a release before the first one given carries a build or config record.
    """

    def __init__(
        self,
        trust: TrustChain,
        deploy: Deploy,
        records: Records,
        *,
        anchor: Anchor | None = None,
        shallow: bool = False,
        released_before: Callable[[RecordId], bool] = _never,
    ) -> None:
        self.trust = trust
        self.ledger = Ledger.releases(deploy)
        self._deploy = deploy
        self._records = records
        self._shallow = shallow and anchor is None
        self._released_before = released_before
        self._released: set[RecordId] = set()
        self._previous: tuple[Entry, RecordId] | None = (anchor.entry, anchor.id) if anchor else None
        self._trust_floor = anchor.trust if anchor else Entry(1)

    @property
    def next(self) -> Entry:
        """The number that comes next."""
        return self._previous[0].next if self._previous else Entry(1)

    @property
    def previous(self) -> RecordId | None:
        """The id of the last entry in the chain."""
        return self._previous[1] if self._previous else None

    def add(self, ref: str, raw: bytes) -> Verdict:
        """Judge the next entry, given its ref's full name and the commit's bytes.

        Raises `Refused` if the entry is no link of this chain (checks 1, 2, 3, 8): nothing can follow it.
        """
        signed = self._link(ref, raw)
        try:
            release = self._judge(ref, signed)
        except Refused as refusal:
            return Verdict(ref=ref, entry=signed.record.entry, id=signed.id, signed=signed, refusal=refusal)
        self._trust_floor = max(self._trust_floor, release.record.trust.entry)
        self._released.add(release.build.id)
        if release.config is not None:
            self._released.add(release.config.id)
        return Verdict(ref=ref, entry=release.entry, id=release.id, signed=signed, release=release)

    def _link(self, ref: str, raw: bytes) -> Signed[ReleaseRecord]:
        signed = parse_canonical(ReleaseRecord, raw, self.trust.format, ref)
        record = signed.record
        if str(record.ref) != ref:
            raise Refused("the ref does not name this record", check=Check.NAME, where=ref, why=f"it is {record.ref}")
        if record.app != self.trust.app:
            raise Refused("a release of another app", check=Check.APP, where=ref, why=record.app)
        if self._shallow:
            self._shallow = False
        elif record.entry != self.next or record.previous != self.previous:
            expected = f"expected {self.next} after {self.previous.oid if self.previous else 'nothing'}"
            raise Refused("does not follow the release before it", check=Check.PREVIOUS, where=ref, why=expected)
        self._previous = (record.entry, signed.id)
        return signed

    def _judge(self, ref: str, signed: Signed[ReleaseRecord]) -> ChainedRelease:
        record = signed.record
        trust = self.trust.cited(record.trust, ref)
        signatures = self._signatures(signed, ref)
        signers = self._signers(ref, record, signatures, trust)
        self._check_position(ref, signed, signatures)
        built = self._part(BuildRecord, ref, record.build, trust, trust.policy.build, Check.BUILD)
        configured = self._config(ref, record, trust)
        newest = self.trust.newest.policy
        if newest.is_repudiated(self._deploy, record.entry):
            raise Refused("repudiated", check=Check.REPUDIATED, where=ref, why="trust says that it must never run")
        return ChainedRelease(signed=signed, build=built, config=configured, trust=trust, signers=signers, proof=_PROOF)

    def _signers(
        self, ref: str, record: ReleaseRecord, signatures: Signatures, trust: VerifiedTrust
    ) -> tuple[PersonName, ...]:
        role = trust.policy.deploy(record.deploy).release
        if trust.owners.get(signatures.own) not in role.people:
            signer = trust.owners.get(signatures.own, f"an unknown key {signatures.own[:16]}…")
            raise Refused(f"signed by {signer}, who may not release {record.deploy}", check=Check.SIGNATURE, where=ref)
        return _enough(signatures, role, trust, ref)

    def _check_position(self, ref: str, signed: Signed[ReleaseRecord], signatures: Signatures) -> None:
        record = signed.record
        if record.trust.entry < self._trust_floor:
            raise Refused(
                f"cites trust {record.trust.entry} after {self._trust_floor}", check=Check.POSITION, where=ref
            )
        for later in self.trust.after(record.trust.entry):
            head = later.head(self._deploy)
            if head is not None and head.entry >= record.entry:
                continue
            role = later.policy.deploy(record.deploy).release
            if later.owners.get(signatures.own) not in role.people:
                raise Refused(f"its signer lost the role in trust {later.entry}", check=Check.POSITION, where=ref)
            _enough(signatures, role, later, ref)
        for any_trust in self.trust:
            head = any_trust.head(self._deploy)
            if head is not None and head.entry == record.entry and head.id != signed.id:
                raise Refused(
                    f"trust {any_trust.entry} names another {record.entry}: the ledger was forked",
                    check=Check.POSITION,
                    where=ref,
                    why=f"{head.id.oid} and {signed.id.oid}",
                )

    def _signatures(self, signed: Signed[R], where: str) -> Signatures:
        approvals = self._records.approvals(signed.id.oid)
        return Signatures(
            verify_signature(signed, where),
            verify_approvals(approvals, signed.id, self.trust.app, self.trust.format),
        )

    def _config(self, ref: str, record: ReleaseRecord, trust: VerifiedTrust) -> Signed[ConfigRecord] | None:
        if record.config is None:
            return None
        role = trust.policy.deploy(record.deploy).config
        config = self._part(ConfigRecord, ref, record.config.id, trust, role, Check.CONFIG)
        if config.record.deploy != record.deploy or config.record.entry != record.config.entry:
            raise Refused("the config record is another one", check=Check.CONFIG, where=ref, why=str(config.record.ref))
        return config

    def _part(
        self, kind: type[R], ref: str, cited: RecordId, trust: VerifiedTrust, role: Role, check: Check
    ) -> Signed[R]:
        """It counts by its signers' role in the trust that the release cites, or because it was released before."""
        where = f"{kind.kind} {cited.oid} of {ref}"
        try:
            part = parse_canonical(kind, self._records.commit(cited.oid), self.trust.format, where)
            if part.id != cited:
                raise Refused("not the record that is cited", check=check)
            if part.record.app != self.trust.app:
                raise Refused("made for another app", check=check, why=part.record.app)
            if not isinstance(part.record, TrustRecord):
                self.trust.cited(part.record.trust, where)
            signatures = self._signatures(part, where)
            if part.id in self._released or self._released_before(part.id):
                return part
            if trust.owners.get(signatures.own) not in role.people:
                signer = trust.owners.get(signatures.own, f"an unknown key {signatures.own[:16]}…")
                raise Refused(f"signed by {signer}, who does not hold the {kind.kind} role", check=check)
            _enough(signatures, role, trust, where)
        except (Refused, NotFound, LocalStateError) as error:
            raise Refused(f"its {kind.kind} record: {error.what}", check=check, where=ref, why=error.why) from None
        return part


def _enough(signatures: Signatures, role: Role, trust: VerifiedTrust, ref: str) -> tuple[PersonName, ...]:
    people = signatures.people(role, trust.owners)
    if len(people) < role.threshold:
        missing = ", ".join(sorted(set(role.people) - set(people)))
        raise Refused(
            f"pending: {len(people)} of {role.threshold} signatures",
            check=Check.THRESHOLD,
            where=ref,
            why=f"signed by {', '.join(people)}; any of {missing} can approve it",
        )
    return people
