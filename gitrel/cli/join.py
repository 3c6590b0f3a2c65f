"""`gitrel join`: a folder becomes a server's home."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from gitrel.cli.console import Console
from gitrel.cli.server import open_remote
from gitrel.errors import BadInput, NotFound, UsageError
from gitrel.ids import TRUST, Deploy, Ledger, ObjectFormat, Sha256
from gitrel.run.home import Home
from gitrel.run.pull import fetch_trust, keep_approvals
from gitrel.run.state import State
from gitrel.store.quarantine import Quarantine
from gitrel.store.repository import Repository


def join(
    console: Console, url: str, home: Path, pin: str | None, first_use: bool, deploy: str, identity: Path | None = None
) -> None:
    from gitrel.cli.identity import settle_identity
    from gitrel.keys.secrets import load_identity

    if pin is None and not first_use:
        raise UsageError(
            "no pin",
            why="a server has to know whom to believe",
            hint="`--trust PIN`, with the pin that `gitrel init` printed; or `--first-use`, to take what is there",
        )
    wanted = Deploy(deploy)
    pinned = _pin(pin) if pin else None
    if url and ":" not in url:
        url = os.path.abspath(url)  # a path, which has to mean the same wherever `pull` runs
    if identity is not None:
        load_identity(identity)  # before anything is made
    if not _joined(home, url, wanted, pinned):
        _found(console, url, home, pinned, wanted)
    reader = settle_identity(Home(home), identity, os.environ).reader
    state = Home(home).read_state()
    if pinned is None:
        console.note(f"WARNING: trusting {state.app} as the remote shows it now, unseen")
    console.out(f"{home}: {state.app}, {deploy}")
    console.out(f"pin: {state.pin}")
    console.out(f"reader: {reader}")
    console.note(f"next, where secrets are set: gitrel trust add-reader --deploy {deploy} '{reader}'")
    console.note(f"next: gitrel run --home {home} --follow")
    console.result(home=str(home.resolve()), app=state.app, deploy=deploy, pin=state.pin, reader=reader)


def _pin(text: str) -> Sha256:
    try:
        return Sha256(text)
    except BadInput:
        hint = "copy the 64 hex digits that `gitrel init` printed"
        raise UsageError("not a pin", why=f"{text[:80]!r} is no SHA-256", hint=hint) from None


def _joined(home: Path, url: str, deploy: Deploy, pin: Sha256 | None) -> bool:
    """Whether this very join was done before, so that repeating it is fine. Anything else there is an error later."""
    try:
        state = Home(home).read_state()
    except NotFound:
        return False
    return (state.url, state.deploy) == (url, deploy) and pin in (None, state.pin)


def _found(console: Console, url: str, home: Path, pin: Sha256 | None, deploy: Deploy) -> None:
    """Make the home, with the remote's trust in it."""
    ledger = Ledger.releases(deploy)
    with Home.site(home) as folder, open_remote(url) as remote:
        theirs = remote.list([TRUST.prefix, ledger.prefix, "refs/approvals/"])
        fmt = ObjectFormat.of(next(iter(theirs.values()))) if theirs else ObjectFormat.SHA1
        with Repository.init_bare(folder / "repo.git", fmt) as repo:
            with Quarantine(repo, folder / "quarantine") as quarantine:
                chain = fetch_trust(remote, repo, quarantine, theirs, pin)
                quarantine.adopt()
            for each in chain:
                repo.refs.create(str(each.signed.record.ref), each.id.oid)
            keep_approvals(repo, theirs)
        shutil.rmtree(folder / "quarantine")
        Home.create(folder, State(app=chain.app, deploy=deploy, url=url, pin=chain.pin))
    if not any(name.startswith(ledger.prefix) for name in theirs):
        console.note(f"note: the remote has no release of {deploy} yet")
