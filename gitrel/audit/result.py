"""What an audit found out, as values: text, JSON, SARIF and a report in HTML are made of these and nothing else.

    Audit
    ├── findings                     what is wrong, odd or worth knowing (gitrel.audit.findings)
    ├── unchecked                    what could not be looked at, and why
    ├── trust: TrustReport …         v1, v2, …
    ├── deploys: DeployReport …      by name, production first
    │   ├── configs: ConfigReport …
    │   └── releases: ReleaseReport …
    ├── builds: BuildReport …
    └── approvals: ApprovalReport …

Every record that has a ref is in it, good or bad, in the order of its ledger; what could not be parsed has its ref, its
id and its standing, and None for what it would have said. Names of variables are here, values never.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from enum import StrEnum

from gitrel.audit.codes import Severity
from gitrel.audit.explain import Outcome
from gitrel.audit.findings import Finding
from gitrel.dataclass import dataclass
from gitrel.format.commit import Stamp
from gitrel.format.envdir import Differences
from gitrel.format.record import Cited, CitedRelease
from gitrel.format.trust import TrustPolicy
from gitrel.ids import App, Deploy, Entry, KeyId, ObjectId, PersonName, RecordId, Sha256
from gitrel.trust.checks import Check


class Standing(StrEnum):
    """What became of a record. `UNPROVEN`: good by itself, but behind a break in its ledger."""

    GOOD = "good"
    PENDING = "pending"
    REPUDIATED = "repudiated"
    REFUSED = "refused"
    UNPROVEN = "unproven"


@dataclass(frozen=True, slots=True)
class Signer:
    """A key whose signature was verified, and whose it was in the trust that the record cites; None: nobody's."""

    key: KeyId
    person: PersonName | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Statement:
    """What all records have. `signers`: the record's own first, then who approved it. `claimed` is never believed."""

    ref: str
    oid: ObjectId
    sha256: Sha256 | None
    standing: Standing
    subject: str = ""
    text: str = ""
    signers: tuple[Signer, ...] = ()
    claimed: Stamp | None = None
    checks: Mapping[Check, Outcome]


@dataclass(frozen=True, slots=True, kw_only=True)
class TrustReport(Statement):
    """`policy`: what it says, if it came into force or only lacks signatures."""

    entry: Entry
    policy: TrustPolicy | None = None
    heads: tuple[CitedRelease, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigReport(Statement):
    """`variables` and `changed` (since the entry before) are None where the files could not be read."""

    deploy: Deploy
    entry: Entry
    trust: Cited | None = None
    variables: tuple[str, ...] | None = None
    secrets: tuple[str, ...] | None = None
    changed: Differences | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildReport(Statement):
    source: ObjectId | None = None
    trust: Cited | None = None
    carried_by: int = 0
    """How many releases carry it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReleaseReport(Statement):
    """`changed`: the variables that differ from the last release before it whose config could be read."""

    deploy: Deploy
    entry: Entry
    trust: Cited | None = None
    build: RecordId | None = None
    source: ObjectId | None = None
    config: Cited | None = None
    variables: tuple[str, ...] | None = None
    secrets: tuple[str, ...] | None = None
    changed: Differences | None = None
    rollback_to: Entry | None = None
    promoted_from: CitedRelease | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ApprovalReport:
    """`counts`: it is one more signature under `record`."""

    ref: str
    oid: ObjectId
    record: ObjectId
    signer: Signer
    claimed: Stamp | None
    counts: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class DeployReport:
    name: Deploy
    configs: tuple[ConfigReport, ...]
    releases: tuple[ReleaseReport, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Unchecked:
    """Something that this audit did not look at."""

    what: str
    why: str
    count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Audit:
    """`pin` is what the auditor gave; `app` is None if no trust record stood up to it."""

    repository: str
    pin: Sha256
    app: App | None
    trust: tuple[TrustReport, ...]
    deploys: tuple[DeployReport, ...]
    builds: tuple[BuildReport, ...]
    approvals: tuple[ApprovalReport, ...]
    findings: tuple[Finding, ...]
    unchecked: tuple[Unchecked, ...]

    @property
    def counts(self) -> dict[Severity, int]:
        found = Counter(finding.severity for finding in self.findings)
        return {severity: found[severity] for severity in Severity}

    @property
    def clean(self) -> bool:
        """No error; warnings and notes there may be."""
        return not self.counts[Severity.ERROR]

    @property
    def complete(self) -> bool:
        """Nothing was left unlooked at."""
        return not self.unchecked

    def release(self, deploy: Deploy, entry: Entry) -> ReleaseReport | None:
        releases = next((each.releases for each in self.deploys if each.name == deploy), ())
        return next((each for each in releases if each.entry == entry), None)
