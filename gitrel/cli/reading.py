"""`gitrel show` and `verify`: a release, and the ledger judged. No secret's value is ever shown."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

from gitrel.audit.explain import Outcome, explain
from gitrel.audit.verify import Examined, examine
from gitrel.cli.attestation import show_sboms
from gitrel.cli.console import Console, error_fields
from gitrel.cli.deploys import released_files
from gitrel.cli.developer import Developer, open_developer
from gitrel.cli.missing import with_objects
from gitrel.cli.naming import named_entry, read_ledger
from gitrel.errors import ExitCode, NotFound, Refused
from gitrel.format.body import utc_text
from gitrel.format.commit import Stamp
from gitrel.format.envdir import Differences, compare, plain_values, secret_names
from gitrel.format.procfile import PROCFILE, parse_procfile
from gitrel.format.record import ReleaseRecord
from gitrel.format.tree import Mode
from gitrel.ids import ObjectId
from gitrel.release.cut import Standing
from gitrel.store.differ import read_folder
from gitrel.trust.content import bind_trees
from gitrel.trust.ledger import Verdict


def difference_fields(different: Differences) -> dict[str, list[str]]:
    return {"added": list(different.added), "changed": list(different.changed), "removed": list(different.removed)}


def verdict_fields(verdict: Verdict) -> dict[str, Any]:
    """A release for `--json`, whatever the verdict."""
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
    return utc_text(stamp.time)


def show(
    console: Console, repo: Path | None, remote: str | None, deploy: str, pin: str | None, entry: str | None
) -> None:
    with open_developer(console, repo=repo, remote=remote, deploy=deploy, trust=pin) as dev:
        now = read_ledger(dev)
        verdict = _chosen(dev, now, entry)
        fields = verdict_fields(verdict)
        console.facts(_details(dev, now, verdict, fields))
        console.result(**fields)


def _chosen(dev: Developer, now: Standing, text: str | None) -> Verdict:
    """A verdict, good or bad, that there is a record for. Raises `NotFound`, `UsageError`, or its `Refused`."""
    if text is None:
        return now.good()
    entry = named_entry(dev.console, now, text)
    for verdict in reversed(now.verdicts):
        if verdict.entry == entry and verdict.signed is not None:
            return verdict
    return now.good(entry)


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
        before = next((each for each in reversed(now.verdicts) if each.entry < verdict.entry and each.release), None)
        needed = [each.release for each in (verdict, before) if each is not None and each.release is not None]
        rows += with_objects(dev, needed, lambda: _contents(dev, before, verdict, record, fields))
    elif record.config:
        rows.append(("config", str(record.config.entry)))
    rows += [("", line) for line in record.text.split("\n") if line]
    return rows


def _contents(
    dev: Developer, before: Verdict | None, verdict: Verdict, record: ReleaseRecord, fields: dict[str, Any]
) -> list[tuple[str, str]]:
    """Variables and processes of a release that may run; `before` is the one that ran before it."""
    files = released_files(dev, verdict)
    names = [*plain_values(files), *(f"{name} (secret)" for name in secret_names(files))]
    rows = [("config", f"{record.config.entry}: {', '.join(names) or 'empty'}" if record.config else "none")]
    different = compare(released_files(dev, before), files)
    if different:
        rows.append(("variables", f"{different} since {before.entry if before else 'nothing'}"))
    processes = release_processes(dev, verdict)
    rows += [("process", f"{name}: {command}") for name, command in processes.items()]
    sboms, listed = show_sboms(dev, bind_trees(verdict.release, dev.repo).build_tree) if verdict.release else ([], [])
    rows += [("sbom", line) for line in sboms]
    fields |= {"variables": names, "processes": processes, "variables_since": difference_fields(different)}
    fields |= {"sboms": listed}
    return rows


def release_processes(dev: Developer, verdict: Verdict) -> dict[str, str]:
    """The process types of a release that may run, and their commands."""
    if verdict.release is None:
        return {}
    raw = build_file(dev, bind_trees(verdict.release, dev.repo).build_tree, PROCFILE)
    return parse_procfile(raw, f"{verdict.entry}:{PROCFILE}") if raw is not None else {}


def build_file(dev: Developer, tree: ObjectId, name: str) -> bytes | None:
    """A file at the top of a build's tree; None if there is none."""
    entry = read_folder(dev.repo, tree).get(name)
    return dev.repo.read(entry.oid, "blob") if entry is not None and entry.mode is not Mode.DIRECTORY else None


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
        now = read_ledger(dev, whole=True)
        runnable = (verdict for verdict in reversed(now.verdicts) if verdict.release is not None)
        chosen = _chosen(dev, now, entry) if entry else next(runnable, None)
        if explained:
            return _explain(dev, now, chosen)
        findings = [examine(dev.repo, verdict, files=everything or verdict is chosen) for verdict in now.verdicts]
        for finding in findings:
            if everything or finding.verdict.refusal is not None or finding.files:
                console.out(_line(finding))
        bad = [each for each in findings if each.verdict.refusal is not None and not each.verdict.pending]
        relevant = [each for each in bad if entry is None or (chosen and each.verdict.entry == chosen.entry)]
        good = sum(each.verdict.release is not None for each in findings)
        console.out(
            f"{deploy}: {good} of {len(findings)} releases good, trust {now.trust.newest.entry}, pin {now.trust.pin}"
        )
        document = {
            "deploy": deploy,
            "pin": now.trust.pin,
            "trust": str(now.trust.newest.entry),
            "releases": [{**verdict_fields(each.verdict), "files_verified": each.files} for each in findings],
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
        **verdict_fields(chosen),
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


def _line(finding: Examined) -> str:
    verdict = finding.verdict
    if verdict.refusal is not None:
        return f"{verdict.entry}  {'pending' if verdict.pending else 'REFUSED'}  {verdict.refusal}"
    signers = ", ".join(verdict.release.signers) if verdict.release else ""
    return f"{verdict.entry}  good  signed by {signers}; records{' and every file' if finding.files else ''} verified"
