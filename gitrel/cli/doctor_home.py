"""`gitrel doctor` on a server."""

from __future__ import annotations

import os
import time
from pathlib import Path

from gitrel.cli.checkup import OK, WARN, Line, Lines, of_clock, of_disk, of_remote, only_ours, report
from gitrel.cli.console import Console
from gitrel.cli.server import open_home, open_sources
from gitrel.cli.status import duration
from gitrel.errors import ExitCode, GitrelError, LocalStateError, NotFound
from gitrel.format.record import parse_record
from gitrel.ids import TRUST, Ledger
from gitrel.keys.secrets import load_identity
from gitrel.run.files import disk_usage
from gitrel.run.home import Home
from gitrel.run.judge import judge_here
from gitrel.run.watch import APPROVALS
from gitrel.store.limits import Limits
from gitrel.trust.chain import TrustChain
from gitrel.trust.walk import entries, load_trust

_QUICK = Limits(connect_seconds=10, idle_seconds=20, wall_seconds=60)  # for each source


def of_home(console: Console, path: Path) -> ExitCode:
    home = open_home(path)
    checks = (
        ("home", lambda: _home(home)),
        ("sources", lambda: _sources(home)),
        ("trust", lambda: _trust(home)),
        ("release", lambda: _release(home)),
        ("identity", lambda: _identity(home)),
        ("supervisor", lambda: _supervisor(home)),
        ("clock", lambda: _clock(home)),
        ("disk", lambda: _disk(home)),
    )
    return report(console, checks, home=str(home.path))


def _home(home: Home) -> Lines:
    state = home.read_state()
    yield Line(check="home", state=OK, said=f"{home.path}: {state.app}, {state.deploy}")
    yield from only_ours("home", home.state_file)
    for folder in (home.path, home.run, home.builds, home.releases):
        if not os.access(folder, os.W_OK):
            hint = "run gitrel as the user whose home this is"
            raise LocalStateError("this user may not write here", where=str(folder), hint=hint)


def _sources(home: Home) -> Lines:
    """The remote, and each mirror; one that is away is a failure if no other answers."""
    state = home.read_state()
    with home.repository() as repo, open_sources(state.sources, _QUICK) as remotes:
        errors: list[GitrelError] = []
        for at, (url, remote) in enumerate(remotes.items()):
            name = "mirror" if at else "remote"
            try:
                yield from of_remote(name, remote, repo.format, push=False)
                sight = state.sights.get(url)
                if sight is not None and sight.odd is not None:
                    yield Line(check=name, state=WARN, said=sight.odd, hint="`gitrel pull` says more")
            except GitrelError as error:
                errors.append(error)
                if len(remotes) > 1:
                    yield Line(
                        check=name, state=WARN, said=str(error), hint=f"`gitrel mirror --remove {remote.safe_url}`"
                    )
        if len(errors) == len(remotes):
            raise errors[0]
    if state.trouble is not None:
        yield Line(check="remote", state=WARN, said=f"the last pull: {state.trouble}", hint="`gitrel pull` tries again")
    for fork in state.forks:
        hint = "keep both as evidence; `gitrel mirror --remove URL` leaves one out"
        yield Line(check="remote", state=WARN, said=f"FORK: {fork}", hint=hint)


def _chain(home: Home) -> TrustChain:
    with home.repository() as repo:
        refs = repo.refs.list(TRUST.prefix) | repo.refs.list(APPROVALS)
        return load_trust(refs, repo, repo.format, home.read_state().pin)


def _trust(home: Home) -> Lines:
    chain = _chain(home)
    yield Line(check="trust", state=OK, said=f"{chain.newest.entry} verifies from the pin {chain.pin}")


def _clock(home: Home) -> Lines:
    times = [_chain(home).newest.signed.committer.time]
    state = home.read_state()
    if state.seen is not None:
        with home.repository() as repo:
            times.append(parse_record(repo.read(state.seen.id.oid, "commit"), repo.format).committer.time)
    yield from of_clock(max(times))
    contact = state.contact
    if contact is not None and contact > time.time() + 1:
        said = f"the remote answered {duration(contact - time.time())} ahead of this clock, which was set back"
        yield Line(check="clock", state=WARN, said=said, hint="`timedatectl` shows whether this machine's clock is set")


def _release(home: Home) -> Lines:
    state = home.read_state()
    with home.repository() as repo:
        count = len(entries(repo.refs.list(Ledger.releases(state.deploy).prefix), Ledger.releases(state.deploy)))
        if state.current is None:
            yield Line(check="release", state=WARN, said="none is current yet", hint="`gitrel pull`, then `gitrel run`")
            return
        judge_here(home, repo, state, state.current)
    yield Line(check="release", state=OK, said=f"{state.current} is current and may run; {count} records are here")
    for entry, why in state.lacking.items():
        yield Line(
            check="release", state=WARN, said=f"{entry} cannot run here: {why}", hint="`gitrel status` says more"
        )


def _identity(home: Home) -> Lines:
    state, path = home.read_state(), home.identity
    if path is None:
        hint = f"`gitrel join {state.url} {home.path} --trust {state.pin}` once more finds one"
        yield Line(check="identity", state=WARN, said="no key to read secrets with", hint=hint)
        return
    yield from only_ours("identity", path)
    reader = load_identity(path).reader
    own = _chain(home).newest.policy.deploys.get(state.deploy)
    if own is None or not own.readers:
        yield Line(check="identity", state=OK, said=f"{state.deploy} has no readers, so no secrets")
    elif any(each.split()[:2] == reader.split()[:2] for each in own.readers):
        yield Line(check="identity", state=OK, said=f"a reader of {state.deploy}")
    else:
        hint = f"where trust is changed: gitrel trust add-reader --deploy {state.deploy} '{reader}'"
        yield Line(check="identity", state=WARN, said=f"not among the readers of {state.deploy}", hint=hint)


def _supervisor(home: Home) -> Lines:
    running = home.locked("run")
    said = "one runs; `gitrel status` says what" if running else "none runs here now"
    yield Line(check="supervisor", state=OK, said=said)


def _disk(home: Home) -> Lines:
    """The next release takes at most what the current one does, and its objects again."""
    current = home.path / "current"
    if not current.exists() and home.read_state().current is not None:
        raise NotFound("`current` leads nowhere", where=str(current), hint="`gitrel pull` mends it")
    needed = disk_usage([current.resolve()]) if current.exists() else 0
    yield from of_disk(home.path, 2 * needed)
