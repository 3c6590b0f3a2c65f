"""The survey of builds and approvals, which are in no ledger: whoever can write to the host can add some.

So one that does not count is a warning; it is an error where a release carries it, and then it is the release's.
"""

from __future__ import annotations

from typing import Any

from gitrel.audit.codes import Code
from gitrel.audit.ground import Ground, Key, outcomes
from gitrel.audit.ledgers import is_signed, parse_link, standing_of, statement
from gitrel.audit.result import ApprovalReport, BuildReport, Signer, Standing
from gitrel.errors import FormatError, LocalStateError, NotFound, Refused
from gitrel.format.record import BuildRecord, Signed, SignedApproval, parse_approval
from gitrel.ids import ApprovalRef, BuildRef, KeyId, ObjectId, PersonName, RecordId
from gitrel.trust.checks import Check
from gitrel.trust.parts import verify_signatures
from gitrel.trust.signers import judge_signers, verify_signature


def survey_approvals(ground: Ground) -> tuple[ApprovalReport, ...]:
    """Every approval by itself; fills `ground.approvers`."""
    people: dict[KeyId, PersonName] = {}
    for trust in ground.chain:
        people |= trust.owners
    if ground.chain.pending is not None:
        people |= {key.id: who for who, keys in ground.chain.pending.policy.people.items() for key in keys}
    return tuple(
        _approval(ground, ref, oid, people) for ref, oid in ground.refs.items() if isinstance(ref, ApprovalRef)
    )


def _approval(ground: Ground, ref: ApprovalRef, oid: ObjectId, people: dict[KeyId, PersonName]) -> ApprovalReport:
    name = str(ref)
    approval = None
    try:
        approval = parse_approval(ground.objects.read(oid, "tag"), ground.format)
        why = _why_void(ground, ref, approval, people)
    except (NotFound, LocalStateError) as error:
        code = Code.MISSING_OBJECT if isinstance(error, NotFound) else Code.DAMAGED_OBJECT
        ground.findings.add(code, name, f"{error.what}: {oid}", about=oid, check=2)
        why = ""
    except (FormatError, Refused) as error:
        why = error.summary
    if why:
        ground.findings.add(Code.VOID_APPROVAL, name, why, about=name, who=people.get(ref.key, ""), evidence=(oid,))
    counts = approval is not None and not why
    if counts:
        ground.approvers.setdefault(ref.record, []).append(ref.key)
    return ApprovalReport(
        ref=name,
        oid=oid,
        record=ref.record,
        signer=Signer(ref.key, people.get(ref.key)),
        claimed=approval.tagger if approval is not None else None,
        counts=counts,
    )


def _why_void(ground: Ground, ref: ApprovalRef, approval: SignedApproval, people: dict[KeyId, PersonName]) -> str:
    """Empty if it counts. Raises `Refused` for a signature that is none."""
    body = approval.record
    if (body.approved.oid, approval.key) != (ref.record, ref.key):
        return f"it is the approval of {body.approved.oid} by {approval.key}"
    if len(ground.chain) and body.app != ground.chain.app:
        return f"made for another app: {body.app}"
    there = ground.names.get(str(body.subject_of))
    if there != ref.record:
        return f"approves {body.subject_of}, which is {there or 'not there'}"
    if verify_signature(approval, str(ref)) != approval.key:
        return "signed with another key than it says"
    try:
        approved = RecordId.of("commit", ground.objects.read(ref.record, "commit"), ground.format)
    except (NotFound, LocalStateError):
        return ""  # the record's own finding
    if approved != body.approved:
        return f"approves another record of this id: {body.approved.sha256}"
    return "" if approval.key in people or not len(ground.chain) else "signed with a key that nobody ever had"


def survey_builds(ground: Ground) -> tuple[BuildReport, ...]:
    """Every build record that has a ref. To be called when the releases have been looked at."""
    found = {ref: oid for ref, oid in ground.refs.items() if isinstance(ref, BuildRef)}
    return tuple(_build(ground, ref, oid) for ref, oid in ground.reader.ahead(found))


def _build(ground: Ground, ref: BuildRef, oid: ObjectId) -> BuildReport:
    name = str(ref)
    said: dict[str, Any] = {"ref": name, "oid": oid, "sha256": None, "carried_by": ground.carried[oid]}
    if oid != ref.build:
        ground.findings.add(Code.MISNAMED, name, f"names {oid}", check=1, evidence=(oid,))
        return BuildReport(**said, standing=Standing.REFUSED, checks=outcomes(Check.NAME))
    raw = ground.read_record(name, oid)
    if not isinstance(raw, bytes):
        return BuildReport(**said, standing=Standing.REFUSED, checks=outcomes(Check.CANONICAL))
    try:
        signed = parse_link(ground, BuildRecord, name, raw)
    except Refused as refusal:
        _foreign(ground, name, oid, refusal, "")
        return BuildReport(**said, standing=Standing.REFUSED, checks=outcomes(refusal.check))
    ground.objects.failed = None
    refused = _judge(ground, name, signed)
    said |= statement(ground, name, signed, verified=is_signed(refused))
    said |= {"source": signed.record.source, "trust": signed.record.trust}
    fault: Key | None = ground.check_build(signed, name)
    if fault is not None:
        refused = refused or Check.CONTENT
    unchecked = frozenset() if ground.scope.contents and name not in ground.absent else frozenset({Check.CONTENT})
    return BuildReport(**said, standing=standing_of(refused), checks=outcomes(refused, unchecked))


def _judge(ground: Ground, name: str, signed: Signed[BuildRecord]) -> int | None:
    """Its signature, and the role in the trust that it cites; the check that refuses it."""
    oid = signed.id.oid
    try:
        cited = ground.chain.cited(signed.record.trust, name)
        subject = BuildRef(oid)
        signatures = verify_signatures(signed, subject, ground.reader, ground.chain, name)
        lack = judge_signers(signatures, cited.policy.build, cited.owners, subject, name)
    except Refused as refusal:
        lack = refusal
    if lack is None:
        return None
    if lack.check in (Check.THRESHOLD, Check.TRUST_CHAIN):
        ground.refuse(lack, name, oid, signed.raw, signed)
    else:
        _foreign(ground, name, oid, lack, ground.who(signed))
    return lack.check


def _foreign(ground: Ground, name: str, oid: ObjectId, refusal: Refused, who: str) -> None:
    cause = ground.findings.error_of(oid)
    if cause is not None:
        ground.findings.rest_on(cause, name)
    else:
        what, check = refusal.summary, refusal.check
        ground.findings.add(Code.FOREIGN_BUILD, name, what, about=oid, check=check, who=who, evidence=(oid,))
