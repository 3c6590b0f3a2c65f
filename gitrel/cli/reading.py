"""`gitrel log`, `show`, `diff` and `verify`: the ledger, read and judged. No secret's value is ever shown."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

from gitrel.audit.explain import Outcome, explain
from gitrel.audit.verify import Finding, examine
from gitrel.cli.console import Console, error_fields
from gitrel.cli.deploys import check_deploy, pending_config, released_files
from gitrel.cli.developer import Developer, open_developer, parse_entry
from gitrel.errors import ExitCode, NotFound, Refused
from gitrel.format.commit import Stamp
from gitrel.format.envdir import Differences, compare, plain_values, secret_names
from gitrel.format.procfile import PROCFILE, parse_procfile
from gitrel.format.record import ReleaseRecord
from gitrel.format.tree import parse_tree
from gitrel.release.cut import Standing
from gitrel.trust.content import bind_trees
from gitrel.trust.ledger import Verdict


def log(console: Console, repo: Path | None, remote: str | None, deploy: str, pin: str | None) -> None:
    with open_developer(console, repo=repo, remote=remote, deploy=deploy, trust=pin) as dev:
        now = dev.standing()
        rows = [_row(verdict) for verdict in reversed(now.verdicts)]
        if rows:
            console.table(rows)
        else:
            check_deploy(dev, now.trust)
            console.out(f"no release of {deploy} yet")
        waiting = pending_config(dev, now)
        if waiting is not None:
            console.out(f"config {waiting[0]} is not released yet: {waiting[1]}")
        console.result(
            deploy=deploy,
            releases=[_fields(verdict) for verdict in reversed(now.verdicts)],
            pending_config={"config": str(waiting[0]), **difference_fields(waiting[1])} if waiting else None,
        )


def difference_fields(different: Differences) -> dict[str, list[str]]:
    return {"added": list(different.added), "changed": list(different.changed), "removed": list(different.removed)}


def _row(verdict: Verdict) -> list[str]:
    signed = verdict.signed
    if signed is None:
        return [str(verdict.entry), "", "REFUSED", "", "", str(verdict.refusal)]
    record = signed.record
    return [
        str(verdict.entry),
        local_time(signed.committer),
        ", ".join(verdict.release.signers) if verdict.release else ("pending" if verdict.pending else "REFUSED"),
        verdict.release.build.record.source[:12] if verdict.release else "",
        f"config {record.config.entry}" if record.config else "",
        record.subject if verdict.refusal is None else f"{record.subject} [{verdict.refusal.what}]",
    ]


def _fields(verdict: Verdict) -> dict[str, Any]:
    signed = verdict.signed
    fields: dict[str, Any] = {
        "release": str(verdict.entry),
        "id": verdict.id.oid,
        "verdict": "good" if verdict.release else ("pending" if verdict.pending else "refused"),
    }
    if signed is not None:
        record = signed.record
        fields |= {
            "sha256": verdict.id.sha256,
            "subject": record.subject,
            "claimed_time": utc_time(signed.committer),
            "claimed_by": f"{signed.committer.name} <{signed.committer.email}>",
            "build": record.build.oid,
            "config": str(record.config.entry) if record.config else None,
            "trust": str(record.trust.entry),
            "rollback_to": str(record.rollback_to) if record.rollback_to else None,
            "promoted_from": _origin(record) if record.promoted_from else None,
        }
    if verdict.release is not None:
        fields |= {"signers": list(verdict.release.signers), "source": verdict.release.build.record.source}
    if verdict.refusal is not None:
        fields["refusal"] = error_fields(verdict.refusal)
    return fields


def _origin(record: ReleaseRecord) -> str:
    origin = record.promoted_from
    return f"{origin.deploy} {origin.entry}" if origin else ""


def local_time(stamp: Stamp) -> str:
    """A record's claimed time, in the zone it claims."""
    minutes = int(stamp.zone[1:3]) * 60 + int(stamp.zone[3:])
    zone = timezone(timedelta(minutes=-minutes if stamp.zone[0] == "-" else minutes))
    try:
        return datetime.fromtimestamp(stamp.time, zone).strftime("%Y-%m-%d %H:%M")
    except (OverflowError, ValueError):  # the last hours of the year 9999, in a zone ahead of UTC
        return f"{stamp.time} s"


def utc_time(stamp: Stamp) -> str:
    return datetime.fromtimestamp(stamp.time, UTC).isoformat().replace("+00:00", "Z")


def show(
    console: Console, repo: Path | None, remote: str | None, deploy: str, pin: str | None, entry: str | None
) -> None:
    with open_developer(console, repo=repo, remote=remote, deploy=deploy, trust=pin) as dev:
        now = dev.standing()
        if not now.verdicts:
            check_deploy(dev, now.trust)
        verdict = _chosen(now, entry)
        fields = _fields(verdict)
        for label, text in _details(dev, now, verdict, fields):
            console.out(f"{label:<10} {text}")
        console.result(**fields)


def _chosen(now: Standing, entry: str | None) -> Verdict:
    """A verdict, good or bad, that there is a record for. Raises `NotFound`, or its `Refused`."""
    if entry is not None:
        number = parse_entry(entry)
        for verdict in now.verdicts:
            if verdict.entry == number and verdict.signed is not None:
                return verdict
        return now.good(number)
    return now.good()


def _details(dev: Developer, now: Standing, verdict: Verdict, fields: dict[str, Any]) -> list[tuple[str, str]]:
    signed = verdict.signed
    if signed is None:
        return [("release", str(verdict.entry)), ("verdict", str(verdict.refusal))]
    record = signed.record
    rows = [
        ("release", f"{record.entry} of {record.app}, {record.deploy}"),
        ("subject", record.subject),
        ("verdict", fields["verdict"] if verdict.refusal is None else str(verdict.refusal)),
        ("claimed", f"{signed.committer.name} <{signed.committer.email}>, {local_time(signed.committer)}"),
        ("id", f"{verdict.id.oid}"),
        ("sha256", f"{verdict.id.sha256}"),
        ("build", record.build.oid),
        ("trust", str(record.trust.entry)),
    ]
    if record.rollback_to:
        rows.append(("rollback", f"to {record.rollback_to}"))
    if record.promoted_from:
        rows.append(("promoted", f"from {_origin(record)}"))
    if verdict.release is not None:
        rows.append(("signers", ", ".join(verdict.release.signers)))
        rows.append(("source", verdict.release.build.record.source))
        rows += _contents(dev, now, verdict, record, fields)
    rows += [("", line) for line in record.text.split("\n") if line]
    return rows


def _contents(
    dev: Developer, now: Standing, verdict: Verdict, record: ReleaseRecord, fields: dict[str, Any]
) -> list[tuple[str, str]]:
    """Variables and processes of a release that may run."""
    files = released_files(dev, verdict)
    names = [*plain_values(files), *(f"{name} (secret)" for name in secret_names(files))]
    rows = [("config", f"{record.config.entry}: {', '.join(names) or 'empty'}" if record.config else "none")]
    before = next((each for each in reversed(now.verdicts) if each.entry < verdict.entry and each.release), None)
    different = compare(released_files(dev, before), files)
    if different:
        rows.append(("variables", f"{different} since {before.entry if before else 'nothing'}"))
    processes = _processes(dev, verdict)
    rows += [("process", f"{name}: {command}") for name, command in processes.items()]
    fields |= {"variables": names, "processes": processes, "variables_since": difference_fields(different)}
    return rows


def _processes(dev: Developer, verdict: Verdict) -> dict[str, str]:
    if verdict.release is None:
        return {}
    tree = bind_trees(verdict.release, dev.repo).build_tree
    top = {entry.name: entry for entry in parse_tree(dev.repo.read(tree, "tree"), dev.repo.format)}
    return dict(parse_procfile(dev.repo.read(top[PROCFILE].oid, "blob"))) if PROCFILE in top else {}


def diff(
    console: Console,
    repo: Path | None,
    remote: str | None,
    deploy: str,
    pin: str | None,
    first: str,
    second: str | None,
) -> None:
    """Two releases that may run. Their files are for stock git to compare; the command for it is shown."""
    with open_developer(console, repo=repo, remote=remote, deploy=deploy, trust=pin) as dev:
        now = dev.standing()
        if not now.verdicts:
            check_deploy(dev, now.trust)
        old = now.good(parse_entry(first))
        new = now.good(parse_entry(second) if second else None)
        sources = [each.release.build.record.source for each in (old, new) if each.release]
        variables = compare(released_files(dev, old), released_files(dev, new))
        before, after = _processes(dev, old), _processes(dev, new)
        processes = Differences(
            added=tuple(sorted(after.keys() - before.keys())),
            changed=tuple(sorted(name for name in before.keys() & after.keys() if before[name] != after[name])),
            removed=tuple(sorted(before.keys() - after.keys())),
        )
        rows = [
            ("releases", f"{old.entry} and {new.entry} of {deploy}"),
            ("source", f"{sources[0]} -> {sources[1]}" if sources[0] != sources[1] else f"{sources[0]} in both"),
            ("variables", str(variables) or "the same"),
            ("processes", str(processes) or "the same"),
            ("files", f"git diff {old.ref}:build {new.ref}:build"),
        ]
        for label, text in rows:
            console.out(f"{label:<10} {text}")
        console.result(
            releases=[str(old.entry), str(new.entry)],
            sources=sources,
            variables=difference_fields(variables),
            processes=difference_fields(processes),
        )


def verify(
    console: Console,
    repo: Path | None,
    remote: str | None,
    deploy: str,
    pin: str | None,
    entry: str | None,
    everything: bool,
    explained: bool,
) -> ExitCode:
    """Exit 10 if anything is refused; a release that only waits for approvals is no fault of the ledger."""
    with open_developer(console, repo=repo, remote=remote, deploy=deploy, trust=pin) as dev:
        now = dev.standing()
        if not now.verdicts:
            check_deploy(dev, now.trust)
        runnable = (verdict for verdict in reversed(now.verdicts) if verdict.release is not None)
        chosen = _chosen(now, entry) if entry else next(runnable, None)
        if explained:
            return _explain(dev, now, chosen)
        findings = [examine(dev.repo, verdict, files=everything or verdict is chosen) for verdict in now.verdicts]
        for finding in findings:
            if everything or finding.verdict.refusal is not None or finding.files:
                console.out(_line(finding))
        bad = [each for each in findings if each.verdict.refusal is not None and not each.verdict.pending]
        relevant = [each for each in bad if entry is None or each.verdict.entry == parse_entry(entry)]
        good = sum(each.verdict.release is not None for each in findings)
        console.out(
            f"{deploy}: {good} of {len(findings)} releases good, trust {now.trust.newest.entry}, pin {now.trust.pin}"
        )
        document = {
            "deploy": deploy,
            "pin": now.trust.pin,
            "trust": str(now.trust.newest.entry),
            "releases": [{**_fields(each.verdict), "files_verified": each.files} for each in findings],
        }
        refusal = relevant[0].verdict.refusal if relevant else None
        if refusal is not None:
            console.error(refusal, **document)
            return ExitCode.REFUSED
        console.result(**document)
        return ExitCode.DONE


def _explain(dev: Developer, now: Standing, chosen: Verdict | None) -> ExitCode:
    """One release, check by check."""
    if chosen is None:
        raise NotFound("no release to explain", where=now.deploy, hint="`gitrel verify --explain vN` names one")
    steps = explain(dev.repo, now.trust, chosen)
    for step in steps:
        dev.console.out(f"{step.check:>2}  {step.outcome:<11}  {step.check.title}: {step.looked_at}".rstrip(": "))
    refused = next((step for step in steps if step.outcome is Outcome.REFUSED), None)
    document = {
        **_fields(chosen),
        "checks": [
            {"check": step.check, "title": step.check.title, "outcome": step.outcome, "looked_at": step.looked_at}
            for step in steps
        ],
    }
    if refused is not None and not chosen.pending:
        refusal = chosen.refusal or Refused(refused.looked_at, check=refused.check, where=chosen.ref)
        dev.console.error(refusal, **document)
        return ExitCode.REFUSED
    dev.console.result(**document)
    return ExitCode.DONE


def _line(finding: Finding) -> str:
    verdict = finding.verdict
    if verdict.refusal is not None:
        return f"{verdict.entry}  {'pending' if verdict.pending else 'REFUSED'}  {verdict.refusal}"
    signers = ", ".join(verdict.release.signers) if verdict.release else ""
    return f"{verdict.entry}  good  signed by {signers}; records{' and every file' if finding.files else ''} verified"
