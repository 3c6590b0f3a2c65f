"""A release's verdict, check by check: what each looked at, and what came of it.

The order is the one in which the verifier goes; what comes after a refusal was not looked at.
"""

from __future__ import annotations

from enum import StrEnum

from gitrel.audit.verify import verify_files
from gitrel.dataclass import dataclass
from gitrel.errors import Refused
from gitrel.format.record import ReleaseRecord
from gitrel.format.trust import TrustPolicy
from gitrel.store.repository import Repository
from gitrel.trust.chain import TrustChain
from gitrel.trust.checks import Check
from gitrel.trust.ledger import ChainedRelease, Verdict

ORDER = (
    Check.CANONICAL,
    Check.NAME,
    Check.APP,
    Check.PREVIOUS,
    Check.HIGHEST_SEEN,
    Check.TRUST_CHAIN,
    Check.SIGNATURE,
    Check.POSITION,
    Check.BUILD,
    Check.CONFIG,
    Check.REPUDIATED,
    Check.THRESHOLD,
    Check.TREE,
    Check.CONTENT,
)


class Outcome(StrEnum):
    PASSED = "passed"
    REFUSED = "refused"
    NOT_REACHED = "not reached"
    NOT_CHECKED = "not checked"


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One check: its outcome, and in words what it looked at (or why it refused)."""

    check: Check
    outcome: Outcome
    looked_at: str


def explain(repo: Repository, trust: TrustChain, verdict: Verdict) -> list[Step]:
    """All fourteen checks of one release; the files are read and hashed if its records are good."""
    refusal = verdict.refusal
    if verdict.release is not None:
        try:
            verify_files(repo, verdict.release)
        except Refused as error:
            refusal = error
    steps: list[Step] = []
    for check in ORDER:
        if refusal is not None and steps and steps[-1].outcome is not Outcome.PASSED:
            steps.append(Step(check=check, outcome=Outcome.NOT_REACHED, looked_at=""))
        elif refusal is not None and refusal.check == check:
            steps.append(Step(check=check, outcome=Outcome.REFUSED, looked_at=str(refusal)))
        else:
            steps.append(Step(check=check, outcome=Outcome.PASSED, looked_at=_looked_at(check, trust, verdict)))
    return steps


def _looked_at(check: Check, trust: TrustChain, verdict: Verdict) -> str:  # noqa: C901 - a line for each check
    """In words, for a check that passed."""
    signed = verdict.signed
    if signed is None:
        return verdict.ref
    record, release = signed.record, verdict.release
    match check:
        case Check.CANONICAL:
            return f"{len(signed.raw)} bytes of commit {signed.id.oid}, and its signature's one spelling"
        case Check.NAME:
            return f"{verdict.ref} is release {record.entry} of {record.deploy}"
        case Check.APP:
            return f"{record.app}, pin {trust.pin}"
        case Check.PREVIOUS:
            return str(record.previous or "the first entry, which has none")
        case Check.HIGHEST_SEEN:
            named = [each.entry for each in trust if (head := each.head(record.deploy)) and head.id == signed.id]
            return f"trust {named[0]} names it as head" if named else "no other record is known under this number"
        case Check.TRUST_CHAIN:
            return (
                f"it cites trust {record.trust}; {len(trust)} records lead from the pin to trust {trust.newest.entry}"
            )
        case Check.SIGNATURE:
            people = trust.cited(record.trust, verdict.ref).policy.deploy(record.deploy).release.people
            return f"the role `release` of {record.deploy}: one of {', '.join(people)}"
        case Check.THRESHOLD:
            return _thresholds(trust.cited(record.trust, verdict.ref).policy, record, release)
        case Check.POSITION:
            later = ", ".join(str(each.entry) for each in trust.after(record.trust.entry))
            return f"later trust: {later}" if later else f"trust {record.trust.entry} is the newest"
        case Check.BUILD:
            source = f" of source {release.build.record.source}" if release else ""
            return f"build record {record.build.oid}{source}: its signer's role, the same tree"
        case Check.CONFIG:
            return f"config {record.config}: its signer's role, the same tree" if record.config else "it has no config"
        case Check.REPUDIATED:
            entries = trust.newest.policy.repudiated.get(record.deploy, ())
            return f"trust {trust.newest.entry} repudiates {', '.join(map(str, entries)) or 'nothing'}"
        case Check.TREE:
            return f"every folder, name, mode and link under tree {signed.tree}"
        case Check.CONTENT:
            return f"every byte, against Tree-SHA256 {record.tree_sha256}"


def _thresholds(policy: TrustPolicy, record: ReleaseRecord, release: ChainedRelease | None) -> str:
    own = policy.deploy(record.deploy)
    roles = {"release": own.release, "build": policy.build, **({"config": own.config} if record.config else {})}
    found = "; ".join(f"{name}: {role.threshold} of {', '.join(role.people)}" for name, role in roles.items())
    return f"{found}; the release is signed by {', '.join(release.signers)}" if release else found
