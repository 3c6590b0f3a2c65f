"""What an operator sets on one server: scale, pin, poke, prune.

The home's state is changed first, durably; then the supervisor is told, if one runs.
"""

from __future__ import annotations

import signal
from collections.abc import Mapping
from pathlib import Path

from gitrel.cli.console import Console
from gitrel.cli.pulling import pull_once, switch_to
from gitrel.cli.running import parse_scale
from gitrel.cli.server import open_home, open_sources, tell_supervisor
from gitrel.dataclass import replace
from gitrel.errors import FormatError, NotFound, UsageError
from gitrel.format.manifest import RELEASE_PHASE, RunSpec
from gitrel.format.procfile import PROCFILE
from gitrel.format.text import size
from gitrel.ids import Entry, Ledger
from gitrel.run import files, report
from gitrel.run.home import Home
from gitrel.run.layout import Layout, app_files
from gitrel.run.resolve import candidates, verify_here
from gitrel.run.sources import bring_from

PATIENCE = 30.0  # seconds for a pull or prune that is under way


def scale(console: Console, path: Path | None, words: list[str], reset: bool) -> None:
    home = open_home(path)
    wanted = parse_scale(",".join(words))
    if reset and words:
        raise UsageError("`--reset` goes without sizes")
    state = home.read_state()
    built = _built_scales(home, state.current or candidates(state)[0])
    unknown = sorted(set(wanted) - set(built))
    if unknown:
        why = f"there are {', '.join(built)}"
        raise UsageError(f"no process type {unknown[0]!r} to scale", where=PROCFILE, why=why)
    if wanted or reset:
        state = home.change_state(
            lambda state: replace(state, scales={} if reset else dict(sorted({**state.scales, **wanted}.items())))
        )
        if not tell_supervisor(console, home):
            console.note("the next `gitrel run` starts as many")
    rows = {kind: state.scales.get(kind, number) for kind, number in built.items()}
    for kind, number in rows.items():
        said = f"  (the build says {built[kind]})" if kind in state.scales else ""
        console.out(f"{kind}={number}{said}")
    console.result(scales=rows, build=built, here=dict(state.scales))


def _built_scales(home: Home, entry: Entry) -> Mapping[str, int]:
    """How many of each process type a release asks for."""
    kinds, manifest = app_files(home, verify_here(home, home.read_state(), entry))
    return {kind: manifest.run.get(kind, RunSpec()).scale for kind in kinds if kind != RELEASE_PHASE}


def pin(console: Console, path: Path | None, name: str) -> None:
    home = open_home(path)
    try:
        entry = Entry.parse(name)
    except FormatError as error:
        raise UsageError(error.what, hint="write it as v98") from None
    _find(console, home, entry)
    with home.lock("pull", patience=PATIENCE), open_sources(home.read_state().sources) as remotes:
        bring_from(home, remotes, entry, progress=console.note)
        state = home.read_state()
        Layout(home, verify_here(home, state, entry))  # that its secrets can be read, and nothing is missing
        home.change_state(lambda state: replace(state, pinned=entry))
    if entry in state.failed:
        console.note(f"note: {entry} failed here before: {state.failed[entry]}")
    if not tell_supervisor(console, home):
        home.switch(entry)
    console.out(f"PINNED to {entry}: newer releases are pulled, and not run, until `gitrel unpin`")
    console.result(pinned=str(entry), newest=str(state.ready) if state.ready else None)


def _find(console: Console, home: Home, entry: Entry) -> None:
    """That its verified record is here, after a pull if need be. Raises `NotFound`, what the pull raises."""
    state = home.read_state()
    ref = str(Ledger.releases(state.deploy)[entry])
    with home.repository() as repo:
        if repo.refs.get(ref) is not None:
            return
    pulled = pull_once(home, console)
    with home.repository() as repo:
        if repo.refs.get(ref) is not None:
            return
    if entry in pulled.refused:
        raise NotFound(f"{entry} may not run here", why=str(pulled.refused[entry]))
    if pulled.release is not None and entry < pulled.release:
        why = "this server verified the ledger from a later release on, or refused this one"
        hint = f"`gitrel rollback {entry}`, where releases are made, brings its build to every server"
        raise NotFound(f"{entry} was never verified here", why=why, hint=hint)
    raise NotFound(f"there is no {entry}", why=f"the newest that may run is {pulled.release or 'none'}")


def unpin(console: Console, path: Path | None) -> None:
    home = open_home(path)
    before = home.read_state()
    state = home.change_state(lambda state: replace(state, pinned=None))
    if before.pinned is None:
        console.note("it was not pinned")
    elif not tell_supervisor(console, home) and state.ready is not None:
        switch_to(console, home, state.ready)
    console.out("not pinned")
    console.result(pinned=None, newest=str(state.ready) if state.ready else None)


def poke(console: Console, path: Path | None) -> None:
    pid = report.tell(open_home(path), signal.SIGUSR1)
    console.out(f"the supervisor (pid {pid}) looks for a new release now")
    console.result(supervisor=pid)


def prune(console: Console, path: Path | None, keep: int, dry_run: bool) -> None:
    home = open_home(path)
    done = files.prune(home, keep, dry_run=dry_run, patience=PATIENCE)
    would = "would be " if dry_run else ""
    console.out(f"kept: {', '.join(map(str, done.kept)) or 'nothing'}")
    console.out(f"{would}deleted: {', '.join(map(str, done.dropped)) or 'nothing'}")
    console.out(f"{would}freed: {size(done.bytes)}")
    console.result(
        kept=[str(entry) for entry in done.kept],
        deleted=[str(entry) for entry in done.dropped],
        checkouts=done.checkouts,
        checkout_bytes=done.checkout_bytes,
        object_bytes=done.object_bytes,
        bytes=done.bytes,
        dry_run=dry_run,
    )
