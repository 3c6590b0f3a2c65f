"""`gitrel bundle`: some releases, and all that a server needs to verify them, in one file for where no network goes.

What it has: the whole trust ledger, the releases after the left end up to the right one, the builds and configs that
they carry, and the approvals of all these. Files that the left end has are left out: whoever reads it has that.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from gitrel.cli.console import Console
from gitrel.cli.developer import open_developer
from gitrel.cli.naming import named_entry, named_release, read_ledger
from gitrel.errors import UsageError
from gitrel.format.text import size
from gitrel.ids import TRUST, Entry, ObjectId
from gitrel.release.cut import Standing
from gitrel.run.watch import approvals_in
from gitrel.store.bundle import write_bundle
from gitrel.store.outgoing import objects_to_send
from gitrel.store.repository import Repository
from gitrel.trust.history import links


def bundle(
    console: Console,
    repo: Path | None,
    remote: str | None,
    deploy: str,
    pin: str | None,
    names: str | None,
    output: Path,
) -> None:
    with open_developer(console, repo=repo, remote=remote, deploy=deploy, trust=pin) as dev:
        dev.sync()
        now = read_ledger(dev)
        after, last = _ends(console, now, names)
        _check_heads(now, after, last)
        known = dev.workspace.refs()
        base = _base(dev.repo, now, after)
        refs = _refs(dev.repo, now, known, after, last, base)
        objects = objects_to_send(dev.repo, sorted(refs.values()), {each: oid for oid, each in base.items()})
        first = Entry(after + 1)
        needs = {oid: name for oid, name in base.items() if after and name == str(now.verdicts[after - 1].ref)}
        written = write_bundle(dev.repo, output, refs, needs, objects)
    for verdict in now.verdicts[after:last]:
        if verdict.refusal is not None:
            state = "pending" if verdict.pending else "refused"
            console.note(f"note: {verdict.entry} is {state}: {verdict.refusal.what}")
    what = f"{first}..{last}" if first < last else str(last)
    console.out(f"{output}: {what} of {now.trust.app}, {now.deploy}; {len(objects)} objects, {size(written)}")
    console.note(f"it builds on {after}" if after else "it builds on nothing: a server can be joined to it")
    console.note(f"next, on the server: gitrel pull {output.name}")
    console.result(
        file=str(output.absolute()),
        releases=[str(verdict.entry) for verdict in now.verdicts[after:last]],
        needs=f"v{after}" if after else None,
        refs=len(refs),
        objects=len(objects),
        bytes=written,
    )


def _ends(console: Console, now: Standing, names: str | None) -> tuple[int, Entry]:
    """The release that it builds on, 0 for none, and the last one that it has. Raises `UsageError`, `NotFound`."""
    left, dots, right = (names or "").partition("..")
    if not dots:
        left, right = "", left
    # a pending one may travel: its approvals come later, or by another way
    last = named_entry(console, now, right) if right else named_release(console, now, None).entry
    if last > len(now.verdicts) or (now.verdicts[last - 1].release is None and not now.verdicts[last - 1].pending):
        now.good(last)
    after = now.good(named_entry(console, now, left)).entry if left else 0
    if after >= last:
        raise UsageError("there is nothing between them", where=names or "", hint="`gitrel bundle v90..v100 -o FILE`")
    return after, last


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
