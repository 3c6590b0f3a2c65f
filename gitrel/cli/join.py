"""`gitrel join`: a folder becomes a server's home. `gitrel mirror`: where else it may ask."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from gitrel.cli.console import Console
from gitrel.cli.server import absolute, open_home, open_remote, open_sources
from gitrel.dataclass import replace
from gitrel.errors import BadInput, NotFound, Refused, RemoteError, UsageError
from gitrel.ids import TRUST, Deploy, Ledger, ObjectFormat, Sha256
from gitrel.run.home import Home
from gitrel.run.pull import fetch_trust, keep_approvals
from gitrel.run.state import MOST_SOURCES, State
from gitrel.store.quarantine import Quarantine
from gitrel.store.repository import Repository


def join(
    console: Console,
    url: str,
    home: Path,
    pin: str | None,
    first_use: bool,
    deploy: str,
    identity: Path | None = None,
    mirrors: Sequence[str] = (),
    adopt: bool = False,
) -> None:
    """With mirrors, the first place that has the pinned trust will do. `adopt`: what is in the folder stays there."""
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
    sources = tuple(dict.fromkeys(map(absolute, (url, *mirrors))))
    _check_count(sources)
    if identity is not None:
        load_identity(identity)  # before anything is made
    if not _joined(home, sources, wanted, pinned):
        _found_somewhere(console, sources, home, pinned, wanted, adopt)
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


def _joined(home: Path, sources: tuple[str, ...], deploy: Deploy, pin: Sha256 | None) -> bool:
    """Whether this very join was done before, so that repeating it is fine. Anything else there is an error later."""
    try:
        state = Home(home).read_state()
    except NotFound:
        return False
    return (state.sources, state.deploy) == (sources, deploy) and pin in (None, state.pin)


def _found_somewhere(
    console: Console, sources: tuple[str, ...], home: Path, pin: Sha256 | None, deploy: Deploy, adopt: bool
) -> None:
    for url in sources[:-1]:
        try:
            return _found(console, url, sources, home, pin, deploy, adopt)
        except (RemoteError, Refused, NotFound) as error:
            console.note(f"note: not from there: {error}")
    return _found(console, sources[-1], sources, home, pin, deploy, adopt)


def _found(
    console: Console,
    url: str,
    sources: tuple[str, ...],
    home: Path,
    pin: Sha256 | None,
    deploy: Deploy,
    adopt: bool,
) -> None:
    """Make the home, with the trust in it that one of the sources has."""
    ledger = Ledger.releases(deploy)
    with Home.site(home, adopt=adopt) as folder, open_remote(url) as remote:
        theirs = remote.list([TRUST.prefix, ledger.prefix, "refs/approvals/"])
        fmt = ObjectFormat.of(next(iter(theirs.values()))) if theirs else ObjectFormat.SHA1
        with Repository.init_bare(folder / "repo.git", fmt) as repo:
            with Quarantine(repo, folder / "quarantine") as quarantine:
                chain = fetch_trust(remote, repo, quarantine, theirs, pin)
                quarantine.adopt()
            repo.refs.create_all({str(each.signed.record.ref): each.id.oid for each in chain})
            keep_approvals(repo, theirs)
        shutil.rmtree(folder / "quarantine")
        Home.create(folder, State(app=chain.app, deploy=deploy, url=sources[0], mirrors=sources[1:], pin=chain.pin))
    if not any(name.startswith(ledger.prefix) for name in theirs):
        console.note(f"note: the remote has no release of {deploy} yet")


def _check_count(sources: tuple[str, ...]) -> None:
    if len(sources) > MOST_SOURCES:
        raise UsageError(
            f"a home asks in {MOST_SOURCES} places at most",
            why=f"these are {len(sources)}",
            hint="`gitrel mirror --remove URL`",
        )


def mirror(console: Console, path: Path | None, add: Sequence[str], remove: Sequence[str]) -> None:
    """Change where a home asks, or show it. The first URL is the remote, the others are its mirrors."""
    home = open_home(path)
    more, less = [absolute(url) for url in add], {absolute(url) for url in remove}
    with open_sources(more):
        pass  # what is no URL is refused here

    def change(state: State) -> State:
        unknown = sorted(less - {*state.sources})
        if unknown:
            raise NotFound("it is not asked there", where=_shown(unknown)[0], hint="`gitrel mirror` shows where it is")
        sources = tuple(url for url in dict.fromkeys((*state.sources, *more)) if url not in less)
        if not sources:
            raise UsageError("a home needs one place to ask at", hint="add another one in the same command")
        _check_count(sources)
        sights = {url: sight for url, sight in state.sights.items() if url in sources}
        return replace(state, url=sources[0], mirrors=sources[1:], sights=sights, forks=(), judged=None, watch=None)

    state = home.change_state(change) if more or less else home.read_state()
    shown = _shown(state.sources)
    for at, where in enumerate(shown):
        console.out(f"{'mirror' if at else 'remote'}  {where}")
    console.result(remote=shown[0], mirrors=shown[1:])


def _shown(urls: Sequence[str]) -> list[str]:
    with open_sources(urls) as remotes:
        return [remote.safe_url for remote in remotes.values()]
