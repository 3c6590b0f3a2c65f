"""An audit as JSON (docs/schemas/audit.json) and as SARIF 2.1.0, for other programs.

Both are made of `gitrel.audit.result.Audit` alone, so either can be made again later.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gitrel.audit.codes import Code
from gitrel.audit.findings import Finding
from gitrel.audit.result import (
    ApprovalReport,
    Audit,
    BuildReport,
    ConfigReport,
    DeployReport,
    ReleaseReport,
    Signer,
    Statement,
    TrustReport,
)
from gitrel.format.body import utc_text
from gitrel.format.commit import Stamp
from gitrel.format.envdir import Differences
from gitrel.format.record import Cited, CitedRelease

FORMAT = 1
SARIF_SCHEMA = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"


def as_json(audit: Audit) -> dict[str, Any]:
    """Plain values for `json.dumps`."""
    return {
        "format": FORMAT,
        "repository": audit.repository,
        "app": audit.app,
        "pin": audit.pin,
        "clean": audit.clean,
        "complete": audit.complete,
        "counts": {f"{severity}s": count for severity, count in audit.counts.items()},
        "findings": [_finding(each) for each in audit.findings],
        "unchecked": [{"what": each.what, "why": each.why, "count": each.count} for each in audit.unchecked],
        "trust": [_trust(each) for each in audit.trust],
        "deploys": [_deploy(each) for each in audit.deploys],
        "builds": [_build(each) for each in audit.builds],
        "approvals": [_approval(each) for each in audit.approvals],
    }


def _finding(finding: Finding) -> dict[str, Any]:
    return {
        "code": finding.code,
        "severity": finding.severity,
        "check": finding.check,
        "ref": finding.ref,
        "object": finding.object or None,
        "who": finding.who or None,
        "what": finding.what,
        "meaning": finding.code.meaning,
        "advice": finding.advice,
        "evidence": list(finding.evidence),
        "rests": list(finding.rests),
    }


def _statement(each: Statement) -> dict[str, Any]:
    return {
        "ref": each.ref,
        "id": each.oid,
        "sha256": each.sha256,
        "standing": each.standing,
        "subject": each.subject,
        "text": each.text,
        "signers": [_signer(signer) for signer in each.signers],
        "claimed": _claimed(each.claimed),
        "checks": [{"check": check, "outcome": outcome} for check, outcome in each.checks.items()],
    }


def _signer(signer: Signer) -> dict[str, Any]:
    return {"person": signer.person, "key": signer.key}


def _claimed(stamp: Stamp | None) -> dict[str, Any] | None:
    if stamp is None:
        return None
    return {"time": utc_text(stamp.time), "name": stamp.name, "email": stamp.email}


def _cited(cited: Cited | None) -> dict[str, Any] | None:
    return {"entry": str(cited.entry), "id": cited.id.oid, "sha256": cited.id.sha256} if cited is not None else None


def _release_cited(cited: CitedRelease | None) -> dict[str, Any] | None:
    if cited is None:
        return None
    return {"deploy": cited.deploy, "entry": str(cited.entry), "id": cited.id.oid, "sha256": cited.id.sha256}


def _changed(changed: Differences | None) -> dict[str, list[str]] | None:
    if changed is None:
        return None
    return {"added": list(changed.added), "changed": list(changed.changed), "removed": list(changed.removed)}


def _variables(each: ConfigReport | ReleaseReport) -> dict[str, Any]:
    return {
        "variables": None if each.variables is None else list(each.variables),
        "secrets": None if each.secrets is None else list(each.secrets),
        "changed": _changed(each.changed),
    }


def _trust(each: TrustReport) -> dict[str, Any]:
    policy = each.policy
    people = None
    if policy is not None:
        people = {name: [key.id for key in keys] for name, keys in sorted(policy.people.items())}
    heads = [_release_cited(head) for head in each.heads]
    return {**_statement(each), "entry": str(each.entry), "people": people, "heads": heads}


def _deploy(each: DeployReport) -> dict[str, Any]:
    return {
        "deploy": each.name,
        "configs": [_config(config) for config in each.configs],
        "releases": [_release(release) for release in each.releases],
    }


def _config(each: ConfigReport) -> dict[str, Any]:
    return {**_statement(each), "entry": str(each.entry), "trust": _cited(each.trust), **_variables(each)}


def _release(each: ReleaseReport) -> dict[str, Any]:
    return {
        **_statement(each),
        "entry": str(each.entry),
        "trust": _cited(each.trust),
        "build": {"id": each.build.oid, "sha256": each.build.sha256} if each.build is not None else None,
        "source": each.source,
        "config": _cited(each.config),
        **_variables(each),
        "rollback_to": str(each.rollback_to) if each.rollback_to is not None else None,
        "promoted_from": _release_cited(each.promoted_from),
    }


def _build(each: BuildReport) -> dict[str, Any]:
    return {**_statement(each), "source": each.source, "trust": _cited(each.trust), "carried_by": each.carried_by}


def _approval(each: ApprovalReport) -> dict[str, Any]:
    return {
        "ref": each.ref,
        "id": each.oid,
        "record": each.record,
        "signer": _signer(each.signer),
        "claimed": _claimed(each.claimed),
        "counts": each.counts,
    }


def as_sarif(audit: Audit, version: str) -> dict[str, Any]:
    """SARIF 2.1.0 (OASIS): one run, a rule for each code, a result for each finding."""
    rules = [_rule(code) for code in Code]
    driver = {"name": "gitrel", "version": version, "rules": rules}
    notes = [
        {"level": "warning", "message": {"text": f"not checked: {each.what} ({each.why})"}} for each in audit.unchecked
    ]
    return {
        "$schema": SARIF_SCHEMA,
        "version": "2.1.0",
        "runs": [
            {
                "tool": {"driver": driver},
                "automationDetails": {"id": f"gitrel-audit/{audit.app or 'unknown'}/{audit.pin}"},
                "invocations": [{"executionSuccessful": True, "toolExecutionNotifications": notes}],
                "results": [_result(each) for each in audit.findings],
                "properties": {"pin": audit.pin, "complete": audit.complete},
            }
        ],
    }


def _rule(code: Code) -> dict[str, Any]:
    return {
        "id": code.value,
        "name": "".join(part.capitalize() for part in code.value.split("-")),
        "shortDescription": {"text": code.meaning},
        "help": {"text": code.advice},
        "defaultConfiguration": {"level": code.severity.value},
    }


def _result(finding: Finding) -> dict[str, Any]:
    said = f"{finding.ref}: {finding.what}"
    text = f"{said} (rests on it: {len(finding.rests)})" if finding.rests else said
    properties: Mapping[str, Any] = {
        "check": finding.check,
        "object": finding.object or None,
        "who": finding.who or None,
        "evidence": list(finding.evidence),
        "rests": list(finding.rests),
        "advice": finding.advice,
    }
    return {
        "ruleId": finding.code.value,
        "ruleIndex": list(Code).index(finding.code),
        "level": finding.severity.value,
        "message": {"text": text},
        "locations": [{"logicalLocations": [{"fullyQualifiedName": finding.ref, "kind": "resource"}]}],
        "partialFingerprints": {"gitrelFinding/v1": f"{finding.code.value}:{finding.object or finding.ref}"},
        "properties": {name: value for name, value in properties.items() if value is not None},
    }
