"""From a signature to a person: who signed a record, in the eyes of one trust policy.

Thresholds count people; a person with two keys, or who signs twice, counts once.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from gitrel.dataclass import dataclass
from gitrel.errors import FormatError, NoUsableKey, Refused
from gitrel.format.record import AnyRecord, Detached, R, Signed, SignedApproval, parse_approval, parse_record_as
from gitrel.format.trust import Role, TrustPolicy
from gitrel.ids import PRODUCTION, App, BuildRef, KeyId, LedgerKind, LedgerRef, ObjectFormat, PersonName, RecordId
from gitrel.keys.sshsig import parse_sshsig
from gitrel.trust.checks import Check


@dataclass(frozen=True, slots=True)
class Signatures:
    """The keys whose signatures under one record were verified: the record's own, and its approvals'."""

    own: KeyId
    approvals: frozenset[KeyId] = frozenset()

    def people(self, role: Role, owners: Mapping[KeyId, PersonName]) -> tuple[PersonName, ...]:
        """Those who signed and hold the role, the record's own signer first."""
        found = [owners.get(key) for key in (self.own, *sorted(self.approvals))]
        return tuple(dict.fromkeys(person for person in found if person is not None and person in role.people))


def owners(policy: TrustPolicy) -> dict[KeyId, PersonName]:
    """Whose each key is."""
    return {key.id: person for person, keys in policy.people.items() for key in keys}


def parse_canonical(kind: type[R], raw: bytes, fmt: ObjectFormat, where: str) -> Signed[R]:
    """A record of one kind from bytes that nobody vouches for. Raises `Refused` (2)."""
    try:
        return parse_record_as(kind, raw, fmt)
    except FormatError as error:
        raise Refused(
            "not a canonical record", check=Check.CANONICAL, where=where, why=str(error), hint=error.hint
        ) from None


def verify_signature(signed: Signed[AnyRecord] | SignedApproval | Detached, where: str) -> KeyId:
    """The key that signed. Raises `Refused` (2: not the one spelling; 5: the signature does not match)."""
    try:
        signature = parse_sshsig(signed.signature)
    except FormatError as error:
        raise Refused("signature refused", check=Check.CANONICAL, where=where, why=str(error)) from None
    try:
        signature.verify(signed.payload)
    except FormatError as error:
        raise Refused("bad signature", check=Check.SIGNATURE, where=where, why=str(error)) from None
    return signature.public_key.id


def verify_approvals(
    raws: Iterable[bytes], approved: RecordId, app: App, fmt: ObjectFormat, subject: LedgerRef | BuildRef
) -> frozenset[KeyId]:
    """The keys of those approvals that are canonical, of this very record, app and name, and correctly signed.

    A bad approval only fails to count: whoever can write to the remote could add one to any record.
    """
    keys: set[KeyId] = set()
    for raw in raws:
        try:
            approval = parse_approval(raw, fmt)
            body = approval.record
            if body.approved == approved and body.app == app and body.subject_of == subject:
                key = verify_signature(approval, str(approved.oid))
                if key == approval.key:
                    keys.add(key)
        except (FormatError, Refused):
            continue
    return frozenset(keys)


def judge_signers(
    signatures: Signatures, role: Role, owners: Mapping[KeyId, PersonName], subject: LedgerRef | BuildRef, where: str
) -> Refused | None:
    """Why a record does not count by who signed it: its own signer lacks the role (5), or too few people did (6)."""
    if owners.get(signatures.own) not in role.people:
        signer = owners.get(signatures.own, f"an unknown key {signatures.own[:16]}…")
        kind = "build" if isinstance(subject, BuildRef) else subject.ledger.kind.value
        return Refused(f"signed by {signer}, who does not hold the {kind} role", check=Check.SIGNATURE, where=where)
    return missing_signatures(signatures, role, owners, subject, where)


def missing_signatures(
    signatures: Signatures, role: Role, owners: Mapping[KeyId, PersonName], subject: LedgerRef | BuildRef, where: str
) -> Refused | None:
    """What check 6 says, if too few people of the role signed: the record is pending, and who can approve it."""
    people = signatures.people(role, owners)
    if len(people) >= role.threshold:
        return None
    others = sorted(set(role.people) - set(people))
    return Refused(
        f"pending: {len(people)} of {role.threshold} signatures",
        check=Check.THRESHOLD,
        where=where,
        why=f"signed by {', '.join(people) or 'nobody who counts'};"
        f" {'any of ' if len(others) > 1 else ''}{', '.join(others)} can approve it",
        hint=f"`{approval_command(subject)}`",
    )


def approval_command(subject: LedgerRef | BuildRef) -> str:
    """What somebody types to approve a record."""
    if isinstance(subject, BuildRef):
        return f"gitrel approve build/{subject.build[:12]}"
    ledger = subject.ledger
    kind = "" if ledger.kind is LedgerKind.RELEASE else f"{ledger.kind.value}/"
    deploy = "" if ledger.deploy in (None, PRODUCTION) else f" --deploy {ledger.deploy}"
    return f"gitrel approve {kind}{subject.entry}{deploy}"


def require_role(policy: TrustPolicy, role: Role, key: KeyId, task: str) -> PersonName:
    """Whose the key is that is about to sign. Raises `NoUsableKey` if its owner may not do `task`."""
    person = owners(policy).get(key)
    if person is None:
        raise NoUsableKey(
            f"your key may not {task}",
            why=f"the key {key[:16]}… is in nobody's list in trust.toml",
            hint="ask somebody with the root role to add it, or choose another with `git config user.signingkey`",
        )
    if person not in role.people:
        raise NoUsableKey(f"{person} may not {task}", why=f"that role is held by {', '.join(role.people)}")
    return person
