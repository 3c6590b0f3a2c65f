"""`gitrel doctor` in a developer's repository."""

from __future__ import annotations

import shutil
from pathlib import Path

from gitrel.cli.checkup import FAIL, OK, WARN, Line, Lines, of_clock, of_disk, of_hosting, of_remote, report
from gitrel.cli.console import Console
from gitrel.cli.developer import Developer, open_developer
from gitrel.errors import ExitCode, NotFound
from gitrel.ids import NAMESPACES, TRUST, Ledger, names_record
from gitrel.store import refspecs
from gitrel.trust.walk import entries


def of_desk(console: Console, repo: Path | None, remote: str | None, deploy: str) -> ExitCode:
    with open_developer(console, repo=repo, remote=remote, deploy=deploy) as dev:
        name = remote or "origin"
        checks = (
            ("repository", lambda: _repository(dev)),
            ("identity", lambda: _identity(dev)),
            ("remote", lambda: _remote(dev)),
            ("refspecs", lambda: _refspecs(dev, name)),
            ("trust", lambda: _trust(dev)),
            ("key", lambda: _key(dev)),
            ("releases", lambda: _releases(dev)),
            ("clock", lambda: _clock(dev)),
            ("disk", lambda: of_disk(dev.repo.path)),
        )
        return report(console, checks, repository=str(dev.repo.path))


def _repository(dev: Developer) -> Lines:
    yield Line(check="repository", state=OK, said=f"{dev.repo.path}, {dev.repo.format.value} ids")
    if (dev.repo.path / "shallow").exists():
        said, hint = "a shallow clone: records may be missing", "`git fetch --unshallow`"
        yield Line(check="repository", state=WARN, said=said, hint=hint)
    if shutil.which("git", path=dev.env.get("PATH", "")) is None:
        raise NotFound("git is not on the PATH", hint="install it: builds are made in a checkout of git's")


def _identity(dev: Developer) -> Lines:
    who = dev.who()
    yield Line(check="identity", state=OK, said=f"{who.name} <{who.email}>")


def _remote(dev: Developer) -> Lines:
    remote = dev.workspace.remote
    if remote is None:
        hint = "`git remote add origin URL`"
        yield Line(check="remote", state=WARN, said="there is none: numbers are handed out here alone", hint=hint)
        return
    yield from of_remote("remote", remote, dev.repo.format, push=True)
    if remote.folder is not None:
        yield from of_hosting(remote.folder, dict(dev.env))
    theirs = {name: oid for name, oid in remote.list(NAMESPACES).items() if names_record(name)}
    ours = dev.workspace.refs()
    forked = [name for name, oid in theirs.items() if ours.get(name, oid) != oid]
    if forked:
        said = f"{forked[0]} is another record there: {theirs[forked[0]]}; here {ours[forked[0]]}"
        hint = "the ledger was forked or rewritten: keep both, and ask who can write there"
        yield Line(check="remote", state=FAIL, said=said, hint=hint, code=ExitCode.REFUSED)
    ahead, behind = len(ours.keys() - theirs.keys()), len(theirs.keys() - ours.keys())
    if ahead or behind:
        said = f"{behind} records there that are not here yet, {ahead} here that are not there"
        yield Line(check="remote", state=OK, said=f"{said}; the next command brings both to one state")


def _refspecs(dev: Developer, name: str) -> Lines:
    if dev.git.first(("remote", name), "url") is None:
        return
    missing, forced = refspecs.missing(dev.git, name), refspecs.forced(dev.git, name)
    if missing:
        said = f"`git fetch` does not bring the ledgers: {len(missing)} lines are missing (gitrel brings them itself)"
        yield Line(check="refspecs", state=WARN, said=said, hint="`gitrel init --fetch` adds them")
    if forced:
        said = f"`git fetch` may move what must never move: {forced[0]}"
        hint = f"`git config --edit`, and take the + away from remote.{name}.fetch"
        yield Line(check="refspecs", state=WARN, said=said, hint=hint)
    if not missing and refspecs.prunes(dev.git, name):
        said = "`git fetch` prunes: builds that were not pushed go, and records that the remote has lost"
        yield Line(check="refspecs", state=WARN, said=said, hint=f"`git config remote.{name}.prune false`")
    if not missing and not forced:
        yield Line(check="refspecs", state=OK, said="`git fetch` brings the ledgers, and moves none of their refs")


def _trust(dev: Developer) -> Lines:
    chain = dev.trust()
    yield Line(check="trust", state=OK, said=f"{chain.app}: {chain.newest.entry} verifies from the pin {chain.pin}")
    if chain.pending is not None:
        said = f"{chain.pending.signed.record.entry} waits: {chain.pending.refusal}"
        yield Line(
            check="trust", state=WARN, said=said, hint=f"`gitrel approve trust/{chain.pending.signed.record.entry}`"
        )


def _key(dev: Developer) -> Lines:
    """Whose the key is. It is not used."""
    key = dev.signer.public_key
    if not dev.workspace.repo.refs.list(TRUST.prefix):
        yield Line(check="key", state=OK, said=f"{key.kind} {key.id[:16]}…")
        return
    newest = dev.trust().newest
    person = newest.owners.get(key.id)
    if person is None:
        said = f"{key.kind} {key.id[:16]}… is nobody's in trust {newest.entry}"
        hint = "somebody with the root role: `gitrel trust add NAME KEY`; or set user.signingkey to another"
        yield Line(check="key", state=FAIL, said=said, hint=hint, code=ExitCode.NO_KEY)
        return
    own = newest.policy.deploy(dev.deploy)
    roles = {**newest.policy.roles, f"release {dev.deploy}": own.release, f"config of {dev.deploy}": own.config}
    held = [name for name, role in roles.items() if person in role.people]
    said = f"{key.kind} {key.id[:16]}… is {person}'s: {', '.join(held) or 'no role'}"
    hint = "" if held else "somebody with the root role gives one: `gitrel trust set-role`"
    yield Line(check="key", state=OK if held else WARN, said=said, hint=hint)


def _clock(dev: Developer) -> Lines:
    signed = [verdict.signed for verdict in dev.standing().verdicts if verdict.signed is not None]
    times = [dev.trust().newest.signed.committer.time, *(each.committer.time for each in signed)]
    yield from of_clock(max(times))


def _releases(dev: Developer) -> Lines:
    now = dev.standing()
    if now.newest is None:
        yield Line(check="releases", state=OK, said=f"none of {dev.deploy} yet")
        return
    bad = [verdict for verdict in now.verdicts if verdict.refusal is not None and not verdict.pending]
    good = len(now.verdicts) - len(bad)
    yield Line(
        check="releases", state=OK, said=f"{good} of {len(now.verdicts)} of {dev.deploy} verify, or wait for approvals"
    )
    for verdict in bad[-3:]:
        yield Line(
            check="releases", state=WARN, said=str(verdict.refusal), hint=f"`gitrel verify {verdict.entry} --explain`"
        )
    there = max(entries(dev.workspace.refs(), Ledger.releases(dev.deploy)), default=0)
    if there > now.newest.entry:
        said = f"v{there} and what is before it cannot be reached: the chain ends at {now.newest.entry}"
        yield Line(check="releases", state=FAIL, said=said, hint="`gitrel audit` says more", code=ExitCode.REFUSED)
