"""`gitrel bundle`: some releases, and all that a server needs to verify them, in one file for where no network goes.

What it has: the whole trust ledger, the releases after the left end up to the right one, the builds and configs that
they carry, the approvals of all these, and the heartbeats since the left end. Files that the left end has are left out:
whoever reads it has that. With the newest release for a left end it brings what else is new: heartbeats and trust.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from gitrel.cli.console import Console
from gitrel.cli.developer import open_developer
from gitrel.cli.naming import named_entry, read_ledger
from gitrel.errors import UsageError
from gitrel.format.text import size
from gitrel.ids import HEARTBEAT, TRUST, Entry, ObjectId
from gitrel.release.cut import Standing
from gitrel.release.witness import heartbeats_between
from gitrel.run.watch import approvals_in
from gitrel.store.bundle import write_bundle
from gitrel.store.outgoing import objects_to_send
from gitrel.store.repository import Repository
from gitrel.trust.checks import Check
from gitrel.trust.history import links
from gitrel.trust.ledger import Verdict


def bundle(
    console: Console,
    repo: Path | None,
    remote: str | None,
    deploy: str,
    pin: str | None,
    names: str | None,
    output: Path,
) -> None:
    also = (f"refs/{HEARTBEAT.kind.value}/",)
    with open_developer(console, repo=repo, remote=remote, deploy=deploy, trust=pin, also=also) as dev:
        dev.sync()
        now = read_ledger(dev)
        after, last = _ends(console, now, names)
        _check_heads(now, after, last)
        known = dev.workspace.refs()
        heard = heartbeats_between(known, dev.repo, now.trust, now.deploy, _runnable(now, after), last)
        if after == last and not heard.chain and now.trust.newest.entry == _cited_trust(now, last):
            hint = "`gitrel bundle v90..v100 -o FILE`; `gitrel heartbeat` signs that this is the newest"
            raise UsageError("there is nothing between them", where=names or "", hint=hint)
        base = _base(dev.repo, now, after)
        refs = _refs(dev.repo, now, known, after, last, base)
        refs |= {str(HEARTBEAT[entry]): oid for entry, oid in heard.chain.items()}
        needs = {oid: name for oid, name in base.items() if after and name == str(now.verdicts[after - 1].ref)}
        needs |= {heard.after[1]: str(HEARTBEAT[heard.after[0]])} if heard.after else {}
        there = {name: oid for oid, name in (base | needs).items()}
        objects = objects_to_send(dev.repo, sorted(refs.values()), there)
        written = write_bundle(dev.repo, output, refs, needs, objects)
    for verdict in now.verdicts[after:last]:
        if verdict.refusal is not None:
            state = "pending" if verdict.pending else "refused"
            console.note(f"note: {verdict.entry} is {state}: {verdict.refusal.what}")
    releases = [str(verdict.entry) for verdict in now.verdicts[after:last]]
    said = f"{_contents(releases, heard.newest, now)} of {now.trust.app}, {now.deploy}"
    console.out(f"{output}: {said}; {len(objects)} objects, {size(written)}")
    console.note(f"it builds on v{after}" if after else "it builds on nothing: a server can be joined to it")
    console.note(f"next, on the server: gitrel pull {output.name}")
    console.result(
        file=str(output.absolute()),
        releases=releases,
        heartbeat=str(heard.newest) if heard.newest else None,
        needs=f"v{after}" if after else None,
        refs=len(refs),
        objects=len(objects),
        bytes=written,
    )


def _contents(releases: Sequence[str], heartbeat: Entry | None, now: Standing) -> str:
    parts = [releases[0] if len(releases) == 1 else f"{releases[0]}..{releases[-1]}"] if releases else []
    parts += [f"heartbeat {heartbeat}"] if heartbeat else []
    return " and ".join(parts) or f"trust {now.trust.newest.entry}"


def _ends(console: Console, now: Standing, names: str | None) -> tuple[int, Entry]:
    """The release that it builds on, 0 for none, and the last one that it has. Raises `UsageError`, `NotFound`."""
    left, dots, right = (names or "").partition("..")
    if not dots:
        left, right = "", left
    # a pending one may travel: its approvals come later, or by another way
    last = _travels(now, named_entry(console, now, right) if right else _newest(now), pending=True)
    after = int(_travels(now, named_entry(console, now, left), pending=False)) if left else 0
    if after > last:
        raise UsageError("there is nothing between them", where=names or "", hint="`gitrel bundle v90..v100 -o FILE`")
    return after, last


def _newest(now: Standing) -> Entry:
    """The newest release that may run, or a later one that was repudiated: servers that have it must be told so."""
    return next((each.entry for each in reversed(now.verdicts) if each.release or _repudiated(each)), None) or (
        now.good().entry
    )


def _travels(now: Standing, entry: Entry, *, pending: bool) -> Entry:
    """Raises what is wrong with a release that no server has, or takes."""
    found = now.verdicts[entry - 1] if entry <= len(now.verdicts) else None
    if found is None or not (found.release or _repudiated(found) or (pending and found.pending)):
        now.good(entry)
    return entry


def _runnable(now: Standing, after: int) -> int:
    """What a server runs that has the releases up to `after`: heartbeats name no release that was repudiated."""
    return next((each.entry for each in reversed(now.verdicts[:after]) if each.release), 0)


def _repudiated(verdict: Verdict) -> bool:
    return verdict.refusal is not None and verdict.refusal.check == Check.REPUDIATED


def _cited_trust(now: Standing, entry: Entry) -> Entry | None:
    signed = now.verdicts[entry - 1].signed
    return signed.record.trust.entry if signed is not None else None


def _check_heads(now: Standing, after: int, last: Entry) -> None:
    """A trust record names the newest release at its time: who sees the one and not the other was shown too little."""
    newest = max((head.entry for each in now.trust if (head := each.head(now.deploy))), default=0)
    if newest > last:
        raise UsageError(
            f"a server would take a bundle up to {last} for a ledger that was rolled back",
            why=f"the trust ledger names {newest}",
            hint=f"`gitrel bundle {f'v{after}' if after else ''}..{newest} -o FILE`",
        )


def _base(repo: Repository, now: Standing, after: int) -> dict[ObjectId, str]:
    """What the reader has: the release before, its build and its config; their names."""
    if not after:
        return {}
    verdict = now.verdicts[after - 1]
    return {verdict.id.oid: verdict.ref} | {oid: f"{verdict.ref}: {oid}" for oid in links(repo, verdict.id.oid).parts}


def _refs(
    repo: Repository,
    now: Standing,
    known: Mapping[str, ObjectId],
    after: int,
    last: Entry,
    base: Mapping[ObjectId, str],
) -> dict[str, ObjectId]:
    releases = {verdict.ref: verdict.id.oid for verdict in now.verdicts[after:last]}
    parts = {part for oid in releases.values() for part in links(repo, oid).parts}
    found = {
        name: oid
        for name, oid in known.items()
        if name.startswith(TRUST.prefix) or (oid in parts and oid not in base and not name.startswith("refs/releases/"))
    }
    approved = {*found.values(), *releases.values(), *parts, *base}
    approvals = {str(ref): oid for ref, oid in approvals_in(known) if ref.record in approved}
    return {**found, **releases, **approvals}
