"""A deploy's releases, fed in order: which may run, which may not, and why (docs/spec/verification.md).

Pure: bytes in, verdicts out. An entry that is refused keeps its place in the chain as long as it is canonical
and linked, so a later release can be built on it: its signers vouch for themselves, not for what stands
before. An entry that breaks the chain ends the ledger; what came before it stays good. An entry other than the
one that a trust record names at its place is a fork, and breaks the chain.

Order without clocks: a release cites a trust record, and every later trust record that names a lower head for
the deploy must still give its signers their roles. So a key removed from the trust signs nothing new. The trust
that is cited never goes down from one entry to the next; an entry that the release role did not sign sets no mark.

Check 6 comes last, whatever its number: a release that is *pending* lacks nothing but signatures, under itself or
under its build or config record.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from itertools import accumulate

from gitrel.dataclass import dataclass, field
from gitrel.errors import GitrelError, LocalStateError, NotFound, Refused
from gitrel.format.record import BuildRecord, ConfigRecord, ReleaseRecord, Signed
from gitrel.format.trust import Role
from gitrel.ids import BuildRef, Deploy, Entry, Ledger, LedgerRef, PersonName, RecordId
from gitrel.trust.anchor import Anchor
from gitrel.trust.chain import TrustChain, VerifiedTrust
from gitrel.trust.checks import Check
from gitrel.trust.parts import Parts, Records, verify_signatures
from gitrel.trust.signers import Signatures, judge_signers, missing_signatures, parse_canonical

__all__ = ["Anchor", "ChainedRelease", "Records", "ReleaseLedger", "Verdict"]

_PROOF = object()


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
        """Refused only because too few people signed so far: it, or its build or config record."""
        return self.refusal is not None and self.refusal.check == Check.THRESHOLD

    @property
    def anchor(self) -> Anchor | None:
        """Where a later verification may begin: at a good release."""
        return self.release.anchor if self.release is not None else None

    @property
    def runnable(self) -> ChainedRelease:
        """The release, of a verdict that is known to be good. Raises `ValueError` for any other."""
        if self.release is None:
            raise ValueError(f"{self.entry} may not run")
        return self.release


def _never(_: RecordId) -> bool:
    return False


class _Heads:
    """The releases of one deploy that trust records name."""

    def __init__(self, trust: TrustChain, deploy: Deploy) -> None:
        self._trust = trust
        self._deploy = deploy
        self._reach: list[int] = []  # by trust record, from v1: the number of its head, 0 without one
        self._least: list[int] = []  # the same, of it and of all that come after it
        self._named: dict[int, list[tuple[Entry, RecordId]]] = {}

    def _follow(self) -> None:
        for trust in list(self._trust)[len(self._reach) :]:
            head = trust.head(self._deploy)
            self._reach.append(head.entry if head else 0)
            if head is not None:
                self._named.setdefault(head.entry, []).append((trust.entry, head.id))
        self._least = list(accumulate(reversed(self._reach), min))[::-1]

    def later(self, cited: Entry, release: Entry) -> list[VerifiedTrust]:
        """The trust records after `cited` that were made before `release` was, as far as their heads say."""
        if len(self._reach) < len(self._trust):
            self._follow()
        reach, end = self._reach, bisect_left(self._least, release, cited)  # few: a ledger's heads go up
        return [trust for at, trust in enumerate(self._trust.after(cited, end), cited) if reach[at] < release]

    def fork(self, release: Entry, identity: RecordId) -> tuple[Entry, RecordId] | None:
        """The trust record that names another release at this number, and which."""
        if len(self._reach) < len(self._trust):
            self._follow()
        return next((named for named in self._named.get(release, ()) if named[1] != identity), None)


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
        self._parts = Parts(trust, records)
        self._heads = _Heads(trust, deploy)
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

    def step_over(self) -> None:
        """Take the next entry given without its predecessor: for an auditor, who goes on behind a broken link."""
        self._shallow = True

    def add(self, ref: str, raw: bytes) -> Verdict:
        """Judge the next entry, given its ref's full name and the commit's bytes.

        Raises `Refused` if the entry is no link of this chain (checks 1, 2, 3, 8; 7 for a fork): nothing can
        follow it.
        """
        signed = self._link(ref, raw)
        try:
            release = self._judge(ref, signed)
        except Refused as refusal:
            return Verdict(ref=ref, entry=signed.record.entry, id=signed.id, signed=signed, refusal=refusal)
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
        fork = self._heads.fork(record.entry, signed.id)
        if fork is not None:
            raise Refused(
                f"trust {fork[0]} names another {record.entry}: the ledger was forked",
                check=Check.POSITION,
                where=ref,
                why=f"{fork[1].oid} and {signed.id.oid}",
                hint="keep both as evidence, and ask who can write to the remote",
            )
        self._previous = (record.entry, signed.id)
        return signed

    def _judge(self, ref: str, signed: Signed[ReleaseRecord]) -> ChainedRelease:
        record = signed.record
        trust = self.trust.cited(record.trust, ref)
        signatures = verify_signatures(signed, record.ref, self._records, self.trust, ref)
        role = trust.policy.deploy(record.deploy).release
        if trust.owners.get(signatures.own) not in role.people:
            signer = trust.owners.get(signatures.own, f"an unknown key {signatures.own[:16]}…")
            raise Refused(f"signed by {signer}, who may not release {record.deploy}", check=Check.SIGNATURE, where=ref)
        floor, self._trust_floor = self._trust_floor, max(self._trust_floor, trust.entry)
        later = self._check_position(ref, record, signatures, floor)
        built, build_lack = self._build(ref, record, trust)
        configured, config_lack = self._config(ref, record, trust)
        newest = self.trust.newest.policy
        if newest.is_repudiated(self._deploy, record.entry):
            raise Refused("repudiated", check=Check.REPUDIATED, where=ref, why="trust says that it must never run")
        lack = missing_signatures(signatures, role, trust.owners, record.ref, ref) or later or build_lack or config_lack
        if lack is not None:
            raise lack
        signers = signatures.people(role, trust.owners)
        return ChainedRelease(signed=signed, build=built, config=configured, trust=trust, signers=signers, proof=_PROOF)

    def _check_position(self, ref: str, record: ReleaseRecord, signatures: Signatures, floor: Entry) -> Refused | None:
        """Raises `Refused` (7); returns what a later trust finds lacking (6)."""
        if record.trust.entry < floor:
            raise Refused(f"cites trust {record.trust.entry} after {floor}", check=Check.POSITION, where=ref)
        lack = None
        for later in self._heads.later(record.trust.entry, record.entry):
            role = later.policy.deploy(record.deploy).release
            if later.owners.get(signatures.own) not in role.people:
                raise Refused(f"its signer lost the role in trust {later.entry}", check=Check.POSITION, where=ref)
            lack = lack or missing_signatures(signatures, role, later.owners, record.ref, ref)
        return lack

    def _build(
        self, ref: str, record: ReleaseRecord, trust: VerifiedTrust
    ) -> tuple[Signed[BuildRecord], Refused | None]:
        """The build record, and what it still lacks (6). Raises `Refused` (9)."""
        name = f"build {record.build.oid}"
        try:
            build, signatures = self._parts.build(record.build, f"{name} of {ref}")
            lack = self._check_part(build.id, BuildRef(build.id.oid), signatures, trust, trust.policy.build)
        except (Refused, NotFound, LocalStateError) as error:
            raise _bad_part("build", Check.BUILD, ref, error) from None
        return build, _pending_part(name, ref, lack)

    def _config(
        self, ref: str, record: ReleaseRecord, trust: VerifiedTrust
    ) -> tuple[Signed[ConfigRecord] | None, Refused | None]:
        """The config record, and what it still lacks (6). Raises `Refused` (10)."""
        if record.config is None:
            return None, None
        role = trust.policy.deploy(record.deploy).config
        try:
            config, signatures = self._parts.config(record.config.id, f"config {record.config.id.oid} of {ref}")
            if config.record.deploy != record.deploy or config.record.entry != record.config.entry:
                raise Refused("another one than its number says", check=Check.CONFIG, why=str(config.record.ref))
            lack = self._check_part(config.id, config.record.ref, signatures, trust, role)
        except (Refused, NotFound, LocalStateError) as error:
            raise _bad_part("config", Check.CONFIG, ref, error) from None
        return config, _pending_part(f"config {config.record.entry}", ref, lack)

    def _check_part(
        self, part: RecordId, subject: LedgerRef | BuildRef, signatures: Signatures, trust: VerifiedTrust, role: Role
    ) -> Refused | None:
        """It counts by its signers' role in the trust that the release cites, or because it was released before.

        Returns what is lacking if that is only signatures; raises `Refused` for the rest.
        """
        refusal = judge_signers(signatures, role, trust.owners, subject, str(subject))
        # asked last: before the first release given, the answer is a walk through the history
        if refusal is None or part in self._released or self._released_before(part):
            return None
        if refusal.check == Check.THRESHOLD:
            return refusal
        raise refusal


def _bad_part(kind: str, check: Check, ref: str, error: GitrelError) -> Refused:
    return Refused(f"its {kind} record: {error.what}", check=check, where=ref, why=error.why)


def _pending_part(name: str, ref: str, lack: Refused | None) -> Refused | None:
    """What a release says of a part that waits for approvals."""
    if lack is None:
        return None
    return Refused(f"its {name} is {lack.what}", check=lack.check, where=ref, why=lack.why, hint=lack.hint)
