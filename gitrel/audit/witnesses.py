"""Heartbeats and receipts, as auditors and the door of a remote look at them.

They grant nothing, and tell what others do not: a release that somebody signed to have seen, and that is not here, was
withheld or taken away; another one under its number means that two were shown two histories. A door does not let in a
heartbeat that says so, since it would be useless. It does let in such a receipt, which is evidence.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from gitrel.audit.codes import Code
from gitrel.audit.ground import Ground
from gitrel.audit.ledgers import Chain, parse_link
from gitrel.errors import Refused
from gitrel.format.record import HeartbeatRecord, ReceiptRecord, Signed
from gitrel.ids import HEARTBEAT, Entry, Ledger, ObjectId
from gitrel.trust.chain import TrustChain
from gitrel.trust.checks import Check
from gitrel.trust.content import Objects
from gitrel.trust.witness import (
    VerifiedWitness,
    Witness,
    WitnessLedger,
    contradictions,
    may_witness,
    witness_ledgers,
)


def admit_witnesses(
    before: Mapping[str, ObjectId],
    after: Mapping[str, ObjectId],
    objects: Objects,
    trust: TrustChain,
    ledger: Ledger,
    new: Sequence[Entry],
) -> list[str]:
    """Judge the entries that a push adds to one ledger, by today's role too; notes. Raises `Refused`."""
    verifier, notes = WitnessLedger(trust, ledger, shallow=new[0] > 1), []
    if new[0] > 1:
        _stand_on(verifier, before, objects, ledger, Entry(new[0] - 1))
    for entry in new:
        ref = str(ledger[entry])
        found = verifier.add(ref, objects.read(after[ref], "commit"))
        may_witness(trust.newest, ledger, found.key, ref)
        for what in lies(found.record, after):
            if ledger == HEARTBEAT:
                raise Refused(what, check=Check.HIGHEST_SEEN, where=ref)
            notes.append(f"{ref}: {what}")
    return notes


def _stand_on(
    verifier: WitnessLedger, before: Mapping[str, ObjectId], objects: Objects, ledger: Ledger, entry: Entry
) -> None:
    """The entry that is here already, good or refused for its signer alone."""
    ref = str(ledger[entry])
    oid = before.get(ref)
    try:
        if oid is None:
            raise Refused(f"{entry} is missing", check=Check.PREVIOUS, where=ref)
        verifier.add(ref, objects.read(oid, "commit"))
    except Refused as refusal:
        if verifier.next != entry.next:
            raise Refused(
                "nothing can follow what is here", check=Check.PREVIOUS, where=ref, why=str(refusal)
            ) from None


def lies(record: Witness, refs: Mapping[str, ObjectId]) -> list[str]:
    """What it names that is not so here, in words."""
    return [
        f"it names {cited.entry} of {cited.deploy}, which is not here"
        if found is None
        else f"it names another {cited.entry} of {cited.deploy}: {cited.id.oid}, and here is {found}"
        for cited, found in contradictions(record, refs)
    ]


def survey_witnesses(ground: Ground) -> None:
    """Every heartbeat and receipt, and what they say against this repository, as findings."""
    for ledger, names in witness_ledgers(ground.names).items():
        chain, verifier = Chain(ground, ledger, names), WitnessLedger(ground.chain, ledger)
        for entry, oid in chain.found.items():
            ref = str(ledger[entry])
            raw = ground.read_record(ref, oid)
            if isinstance(raw, bytes):
                _survey_entry(ground, chain, verifier, ledger, ref, raw)
            else:
                chain.broken = raw
                verifier.step_over()


def _survey_entry(ground: Ground, chain: Chain, verifier: WitnessLedger, ledger: Ledger, ref: str, raw: bytes) -> None:
    signed: Signed[HeartbeatRecord] | Signed[ReceiptRecord] | None = None
    oid = ground.names[ref]
    try:
        if ledger == HEARTBEAT:
            signed = parse_link(ground, HeartbeatRecord, ref, raw)
        else:
            signed = parse_link(ground, ReceiptRecord, ref, raw)
        if chain.arrive(signed.record.entry, signed.record.previous):
            verifier.step_over()
        found = verifier.add(ref, raw)
    except Refused as refusal:
        key = ground.refuse(refusal, ref, oid, raw, signed)
        if signed is None or verifier.next != signed.record.entry.next:
            chain.broken = key
            verifier.step_over()
    else:
        _survey_good(ground, ledger, ref, found)
    if signed is not None:
        chain.rest(ref)


def _survey_good(ground: Ground, ledger: Ledger, ref: str, found: VerifiedWitness) -> None:
    who = str(found.signer)
    for (cited, here), what in zip(
        contradictions(found.record, ground.names), lies(found.record, ground.names), strict=True
    ):
        code, evidence = (Code.WITHHELD, ()) if here is None else (Code.SPLIT_VIEW, (str(here),))
        name = str(Ledger.releases(cited.deploy)[cited.entry])
        about = f"{name} {cited.id.oid}"
        ground.findings.add(code, ref, what, about=about, check=13, who=who, evidence=(cited.id.oid, *evidence))
    try:
        may_witness(ground.chain.newest, ledger, found.key, ref)
    except Refused:
        what = f"{who} held the role in trust {found.record.trust.entry}, and does not in {ground.chain.newest.entry}"
        ground.findings.add(Code.SUPERSEDED_SIGNER, ref, what, about=f"{ledger.prefix} {found.key}", who=who)
