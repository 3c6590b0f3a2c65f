"""Heartbeats and receipts, made: the next entry of a witness's ledger, signed, over an empty tree."""

from __future__ import annotations

from gitrel.dataclass import dataclass
from gitrel.errors import FormatError, LocalStateError, NotFound, Refused
from gitrel.format.record import (
    Cited,
    CitedRelease,
    Health,
    HeartbeatRecord,
    ReceiptRecord,
    Signed,
    Stamp,
    parse_record_as,
)
from gitrel.format.refs import RefMap
from gitrel.ids import HEARTBEAT, App, Deploy, Entry, Host, Ledger, ObjectId, RecordId, Sha256
from gitrel.store.records import Sign, write_record
from gitrel.store.repository import Repository
from gitrel.store.snapshot import store_tree
from gitrel.trust.chain import TrustChain
from gitrel.trust.checks import Check
from gitrel.trust.content import Objects
from gitrel.trust.walk import entries
from gitrel.trust.witness import Witness, WitnessLedger, contradictions, judge_heartbeat, named_releases

Place = tuple[Entry, RecordId]
"""The newest entry of a ledger."""


def newest_entry(refs: RefMap, objects: Objects, trust: TrustChain, ledger: Ledger) -> Place | None:
    """What the next entry follows: good, or refused for its signer alone. Raises `Refused` if nothing can follow it."""
    found = entries(refs, ledger)
    if not found:
        return None
    entry, oid = max(found.items())
    ref = str(ledger[entry])
    raw = objects.read(oid, "commit")
    verifier = WitnessLedger(trust, ledger, shallow=True)
    try:
        verifier.add(ref, raw)
    except Refused as refusal:
        if verifier.next != entry.next:
            hint = "whoever runs the remote must remove that ref"
            what = "nothing can follow what is there"
            raise Refused(what, check=Check.PREVIOUS, where=ref, why=str(refusal), hint=hint) from None
    return entry, RecordId.of("commit", raw, trust.format)


@dataclass(frozen=True, slots=True, kw_only=True)
class Heard:
    """Heartbeats by number, the newest first, and what the oldest of them follows: None if that is v1."""

    chain: dict[Entry, ObjectId]
    after: tuple[Entry, ObjectId] | None

    @property
    def newest(self) -> Entry | None:
        return next(iter(self.chain), None)


def heartbeats_between(
    refs: RefMap, objects: Objects, trust: TrustChain, deploy: Deploy, after: int, last: int
) -> Heard:
    """What somebody lacks who has a deploy's releases up to `after`, and gets those up to `last`.

    The newest that a server counts which sees no later release, and the chain below it, down to the first that names
    an earlier release than `after`: whoever has that release may have that heartbeat.
    """
    chain: dict[Entry, ObjectId] = {}
    at = _newest_that_counts(refs, objects, trust, deploy, last)
    while at is not None:
        entry, oid = at
        try:
            record = parse_record_as(HeartbeatRecord, objects.read(oid, "commit"), trust.format).record
        except (FormatError, NotFound, LocalStateError):
            break  # a broken chain: auditors report it, and nobody else asks for more than the newest
        if _named(record, deploy) < after:
            break
        chain[entry] = oid
        at = (Entry(entry - 1), record.previous.oid) if record.previous else None
    return Heard(chain=chain, after=at if chain else None)


def _newest_that_counts(
    refs: RefMap, objects: Objects, trust: TrustChain, deploy: Deploy, last: int
) -> tuple[Entry, ObjectId] | None:
    for entry, oid in reversed(entries(refs, HEARTBEAT).items()):
        try:
            found = judge_heartbeat(trust, entry, objects.read(oid, "commit"))
        except (Refused, NotFound, LocalStateError):
            continue
        kept = any(cited.deploy == deploy for cited, _ in contradictions(found.record, refs))
        if not kept and _named(found.record, deploy) <= last:
            return entry, oid
    return None


def _named(record: Witness, deploy: Deploy) -> int:
    """The newest release of a deploy when it was signed, 0 if there was none."""
    return max((each.entry for each in named_releases(record) if each.deploy == deploy), default=0)


def write_heartbeat(
    repo: Repository,
    trust: TrustChain,
    heads: tuple[CitedRelease, ...],
    previous: Place | None,
    *,
    who: Stamp,
    sign: Sign,
) -> Signed[HeartbeatRecord]:
    """`heads`: the newest release of every deploy, sorted. No ref is made."""
    entry = previous[0].next if previous else Entry(1)
    tree = store_tree(repo, {})
    record = HeartbeatRecord(
        app=trust.app,
        subject=f"Heartbeat {entry}",
        entry=entry,
        previous=previous[1] if previous else None,
        trust=trust.newest.cited,
        heads=heads,
        tree_sha256=tree.sha256,
    )
    return write_record(repo, record, tree, who=who, sign=sign)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ran:
    """What a receipt says: fields as in `ReceiptRecord`."""

    app: App
    host: Host
    trust: Cited
    head: CitedRelease
    release: CitedRelease
    ran: Sha256
    verdict: int | None
    health: Health
    start: int
    end: int | None


def write_receipt(
    repo: Repository, said: Ran, previous: Place | None, *, who: Stamp, sign: Sign
) -> Signed[ReceiptRecord]:
    """No ref is made."""
    tree = store_tree(repo, {})
    record = ReceiptRecord(
        app=said.app,
        subject=f"{said.host}: {said.release.deploy} {said.release.entry} {said.health.value}",
        host=said.host,
        entry=previous[0].next if previous else Entry(1),
        previous=previous[1] if previous else None,
        trust=said.trust,
        head=said.head,
        release=said.release,
        ran=said.ran,
        verdict=said.verdict,
        health=said.health,
        start=said.start,
        end=said.end,
        tree_sha256=tree.sha256,
    )
    return write_record(repo, record, tree, who=who, sign=sign)
