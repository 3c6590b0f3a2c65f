"""`gitrel log`: who released what when.

That a release is good depends on all before it, so the ledger is verified whole, once on each machine; from then on
what came since, and what somebody wants to see (`gitrel.release.remembered`).
"""

from __future__ import annotations

import difflib
import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from gitrel.cli.console import Console, error_fields
from gitrel.cli.deploys import newest_good, pending_config
from gitrel.cli.developer import Developer, open_developer
from gitrel.cli.missing import with_objects
from gitrel.cli.naming import claimed_time, is_time, named_entry, parse_time, read_ledger
from gitrel.cli.reading import difference_fields, local_time, verdict_fields
from gitrel.dataclass import dataclass
from gitrel.errors import NotFound
from gitrel.format.envdir import Differences
from gitrel.ids import Entry, ObjectId, PersonName
from gitrel.release.cut import Standing
from gitrel.trust.ledger import Verdict
from gitrel.trust.parts import verify_signatures
from gitrel.trust.walk import RecordReader, VerifiedConfig

HEADS = ("release", "claimed", "signers", "source", "config", "subject")


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """Which releases `gitrel log` shows: after `since`, a release or a time; signed by a person; the newest few."""

    since: str | None = None
    person: str | None = None
    most: int | None = None
    graph: bool = False


def log(console: Console, repo: Path | None, remote: str | None, deploy: str, pin: str | None, wanted: Wanted) -> None:
    with open_developer(console, repo=repo, remote=remote, deploy=deploy, trust=pin) as dev:
        now = read_ledger(dev)
        shown = _shown(dev, now, wanted)
        if wanted.graph:
            for line in _graph(now, shown):
                console.out(line)
        elif shown:
            console.table([_row(verdict) for verdict in shown], HEADS)
        if not shown:
            console.out(f"no release of {deploy} yet" if not now.verdicts else "no such release")
        newest = newest_good(now)
        carried = [newest.release] if newest is not None and newest.release is not None else []
        waiting = with_objects(dev, carried, lambda: pending_config(dev, now))
        if waiting is not None:
            lack = waiting[0].lack
            state = f"{lack.what}; {lack.why}" if lack else "not released yet"
            console.out(f"config {waiting[0].entry} is {state}: {waiting[1]}")
        if now.skipped:
            console.note(f"v1 to v{now.skipped} were verified on this machine before; `gitrel verify` does it again")
        console.result(
            deploy=deploy,
            releases=[verdict_fields(verdict) for verdict in shown],
            pending_config=_waiting_fields(*waiting) if waiting else None,
        )


def _waiting_fields(entry: VerifiedConfig, different: Differences) -> dict[str, Any]:
    refusal = error_fields(entry.lack) if entry.lack else None
    return {"config": str(entry.entry), **difference_fields(different), "refusal": refusal}


def _shown(dev: Developer, now: Standing, wanted: Wanted) -> list[Verdict]:
    """Newest first. Raises `NotFound`, `UsageError`."""
    shown: Iterator[Verdict] = reversed(now.verdicts)
    if wanted.since is not None and is_time(wanted.since):
        start = parse_time(wanted.since.removeprefix("@"), "--since")
        shown = (each for each in shown if (claimed_time(each) or 0) >= start)
    elif wanted.since is not None:
        after = named_entry(dev.console, now, wanted.since)
        if all(each.entry != after for each in reversed(now.verdicts)):
            now.good(after)  # raises: there is none
        shown = itertools.takewhile(lambda each: each.entry > after, shown)
    if wanted.person is not None:
        person = _person(now, wanted.person)
        shown = (each for each in shown if person in _signers(dev, now, each))
    return list(itertools.islice(shown, wanted.most))


def _person(now: Standing, name: str) -> PersonName:
    """Somebody whom any trust record names. Raises `NotFound`."""
    known = sorted({person for trust in now.trust for person in trust.policy.people})
    found = next((person for person in known if person == name), None)
    if found is None:
        close = difflib.get_close_matches(name, known, 1, 0.5)
        why = f"did you mean {close[0]}?" if close else f"there were {', '.join(known)}"
        raise NotFound(f"the trust never named {name}", where="--by", why=why, hint="`gitrel trust show`")
    return found


def _signers(dev: Developer, now: Standing, verdict: Verdict) -> Sequence[PersonName]:
    """The people who signed; of a release that waits for more of them those who did, of a refused one none."""
    if verdict.release is not None or verdict.signed is None or not verdict.pending:
        return verdict.release.signers if verdict.release is not None else ()
    record = verdict.signed.record
    trust = now.trust.cited(record.trust, verdict.ref)
    reader = RecordReader(dev.repo.refs.list(f"refs/approvals/{verdict.id.oid}/"), dev.repo)
    signatures = verify_signatures(verdict.signed, record.ref, reader, now.trust, verdict.ref)
    return signatures.people(trust.policy.deploy(record.deploy).release, trust.owners)


def _row(verdict: Verdict) -> list[str]:
    signed = verdict.signed
    if signed is None:
        return [str(verdict.entry), "", "REFUSED", "", "", str(verdict.refusal)]
    record = signed.record
    return [
        str(verdict.entry),
        local_time(signed.committer),
        _by(verdict),
        verdict.release.build.record.source[:12] if verdict.release else "",
        f"config {record.config.entry}" if record.config else "",
        record.subject if verdict.refusal is None else f"{record.subject} [{verdict.refusal.what}]",
    ]


def _by(verdict: Verdict) -> str:
    if verdict.release is not None:
        return ", ".join(verdict.release.signers)
    return "pending" if verdict.pending else "REFUSED"


def _graph(now: Standing, shown: Sequence[Verdict]) -> Iterator[str]:
    """The line of releases. A build or config hangs below the first release that carried it, where git draws it; a
    release that takes an older one up again (a rollback) names that first one.
    """
    merged = _merged(now.verdicts)
    rows = [[*_row(verdict)[:3], _row(verdict)[5]] for verdict in shown]
    widths = [max(len(row[column]) for row in rows) for column in range(3)] if rows else []
    for verdict, row in zip(shown, rows, strict=True):
        dot = "*" if verdict.release is not None else ("?" if verdict.pending else "x")
        cells = [cell.ljust(width) for cell, width in zip(row, [*widths, 0], strict=True)]
        yield f"{dot}    {'  '.join(cells)}".rstrip()
        if verdict.entry in merged:
            yield "|\\"
            yield from merged[verdict.entry]


def _merged(verdicts: Sequence[Verdict]) -> Mapping[Entry, list[str]]:
    """The parts of each release that the one before did not have."""
    firsts: dict[ObjectId, Entry] = {}
    merged: dict[Entry, list[str]] = {}
    above: Mapping[ObjectId, str] = {}
    for verdict in verdicts:
        parts = _parts(verdict)
        for oid, said in parts.items():
            first = firsts.setdefault(oid, verdict.entry)
            if oid not in above:
                line = f"| * {said}" if first == verdict.entry else f"| o {said}, as in {first}"
                merged.setdefault(verdict.entry, []).append(line)
        above = parts if verdict.signed is not None else above
    return merged


def _parts(verdict: Verdict) -> dict[ObjectId, str]:
    """A release's build and config records, in words; of a release that may not run only what it names them."""
    if verdict.signed is None:
        return {}
    record, release = verdict.signed.record, verdict.release
    source = f" of {release.build.record.source[:12]}" if release else ""
    parts = {record.build.oid: f"build {record.build.oid[:12]}{source}"}
    if record.config is not None:
        subject = f": {release.config.record.subject}" if release and release.config else ""
        parts[record.config.id.oid] = f"config {record.config.entry}{subject}"
    return parts
