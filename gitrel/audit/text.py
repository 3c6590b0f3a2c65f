"""An audit as text for people: what was looked at, what was found, what was not checked, and the verdict last."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from gitrel.audit.findings import Finding
from gitrel.audit.result import Audit, DeployReport, Statement


def as_text(audit: Audit) -> Iterator[str]:
    """Line by line: no name in the repository makes one of its own. Control characters are not escaped yet."""
    return (line.replace("\n", "\\n") for line in _all_lines(audit))


def _all_lines(audit: Audit) -> Iterator[str]:
    yield f"{audit.app or 'no app'}, pin {audit.pin}"
    yield f"trust: {counted(len(audit.trust), 'record')}{_standings(audit.trust)}"
    for deploy in audit.deploys:
        yield _deploy_line(deploy)
    builds = f"{counted(len(audit.builds), 'build')}{_standings(audit.builds)}"
    approvals = counted(len(audit.approvals), "approval")
    yield f"{builds}; {approvals}, {sum(each.counts for each in audit.approvals)} of them count"
    for finding in audit.findings:
        yield ""
        yield from _lines(finding)
    yield ""
    for each in audit.unchecked:
        yield f"NOT CHECKED: {each.what} ({each.why}; {each.count:,})"
    yield _verdict(audit)


def counted(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def _deploy_line(deploy: DeployReport) -> str:
    releases = f"{counted(len(deploy.releases), 'release')}{_standings(deploy.releases)}"
    return f"{deploy.name}: {releases}; {counted(len(deploy.configs), 'config')}{_standings(deploy.configs)}"


def _standings(reports: Sequence[Statement]) -> str:
    counts = Counter(each.standing.value for each in reports)
    return f" ({', '.join(f'{count:,} {name}' for name, count in sorted(counts.items()))})" if counts else ""


def _lines(finding: Finding) -> Iterator[str]:
    number = f" (check {finding.check})" if finding.check is not None else ""
    yield f"{finding.severity.upper():<7} {finding.code}  {finding.ref}{number}"
    yield f"  what: {finding.what}"
    yield f"  that: {finding.code.meaning}"
    if finding.who:
        yield f"  who:  {finding.who}"
    if finding.evidence:
        yield f"  keep: {' '.join(finding.evidence)}"
    if finding.rests:
        first, last = finding.rests[0], finding.rests[-1]
        yield f"  also: {counted(len(finding.rests), 'record')} by it: {first}" + (
            f" … {last}" if last != first else ""
        )
    yield f"  next: {finding.advice}"


def _verdict(audit: Audit) -> str:
    counts = ", ".join(counted(count, severity) for severity, count in audit.counts.items() if count)
    if not audit.clean:
        return f"NOT CLEAN: {counts}"
    whole = "every record and every file was verified" if audit.complete else "INCOMPLETE: see above"
    return f"clean{f', with {counts}' if counts else ''}; {whole}"
