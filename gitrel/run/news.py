"""Asking a single source for what may be new, and for the newest that is known (`gitrel.run.watch` says when).

What was not asked for is taken as it is here: it was verified when it came.
"""

from __future__ import annotations

from collections.abc import Mapping

from gitrel.format.refs import Ahead, ListedRefs, RefMap, RefView
from gitrel.ids import HEARTBEAT, Deploy, Ledger, ObjectId
from gitrel.run.life import Life
from gitrel.run.state import State
from gitrel.run.watch import digest
from gitrel.store.ahead import ALWAYS, list_ahead
from gitrel.store.remote import Remote
from gitrel.store.repository import Repository
from gitrel.trust.walk import entries


def everything(deploy: Deploy) -> list[str]:
    """What all refs begin with that a server has to do with."""
    return [*ALWAYS, Ledger.releases(deploy).prefix, Ledger.config(deploy).prefix, HEARTBEAT.prefix]


def ask_for_news(remote: Remote, state: State) -> RefMap | None:
    """What comes after what is known; None if that is not as it was, or nothing is known yet. Raises `RemoteError`."""
    if state.seen is None:
        return None
    releases = Ledger.releases(state.deploy)
    newest = {
        releases: state.seen.entry,
        Ledger.config(state.deploy): state.configured,
        HEARTBEAT: state.life.heartbeat,
    }
    found = list_ahead(remote, {ledger: number or 0 for ledger, number in newest.items()}, ALWAYS)
    there = all(str(ledger[number]) in found for ledger, number in newest.items() if number)
    return found if there and found[str(releases[state.seen.entry])] == state.seen.id.oid else None


def judged_refs(repo: Repository, state: State, refs: RefMap, *, full: bool) -> RefView:
    """Of what a source shows that on which verdicts depend. `full`: it was asked for everything."""
    releases = Ledger.releases(state.deploy)
    found = {name: oid for name, oid in refs.items() if name.startswith((*ALWAYS, releases.prefix))}
    if full or state.seen is None:
        return ListedRefs(found)
    return Ahead(found, repo.refs.view(releases.prefix), {releases: state.seen.entry}, ALWAYS)


def judged_digest(listed: Mapping[str, RefMap], state: State, life: Life, *, several: bool) -> str:
    """Of what verdicts depend on. Unless a home has several sources, that is no release before the highest seen."""
    ledger = Ledger.releases(state.deploy)
    first = state.seen.entry if state.seen is not None and not several else 1
    refs: dict[str, ObjectId] = {}
    for url, found in listed.items():
        refs |= {f"{url} {name}": oid for name, oid in found.items() if name.startswith(ALWAYS)}
        refs |= {f"{url} {ledger[at]}": oid for at, oid in entries(found, ledger, first).items()}
    return digest(refs, heard=life.heartbeat if life.hold else None)
