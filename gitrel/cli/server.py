"""`gitrel join`, `pull`, `run`, `exec` and `status`: what a server does."""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from gitrel.cli.console import Console
from gitrel.errors import BadInput, GitrelError, LocalStateError, Locked, NotFound, Refused, UsageError
from gitrel.ids import TRUST, Deploy, Entry, Ledger, ObjectFormat, Sha256
from gitrel.run.formation import MARK, mark
from gitrel.run.home import Home, Refusal, State
from gitrel.run.pull import Pulled, fetch_trust, keep_approvals
from gitrel.run.pull import pull as pull_into
from gitrel.run.resolve import Choice, Layout, candidates, carried_config, check_startable, verify_here
from gitrel.store.durable import make_folders
from gitrel.store.limits import Limits
from gitrel.store.quarantine import Quarantine
from gitrel.store.remote import Remote
from gitrel.store.repository import Repository

# A start does not wait long for a remote that does not answer, if there is something to run.
_IMPATIENT = Limits(connect_seconds=5, idle_seconds=15)


def _home(path: Path | None) -> Home:
    return Home(path or Path.cwd())


def _remote(url: str, limits: Limits | None = None) -> Remote:
    return Remote.resolve(None, url, env=dict(os.environ), limits=limits, interactive=sys.stdin.isatty())


def _poll_mark(home: Home) -> str:
    return mark(str(home.path), "-", "pull")


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
    with Home.site(home) as folder, _remote(url) as remote:
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


def pull(console: Console, path: Path | None, switch: bool) -> None:
    home = _home(path)
    if os.environ.get(MARK) == _poll_mark(home):
        _poll(console, home)
        return
    pulled = pull_once(home, console)
    pending = {entry: refusal for entry, refusal in pulled.refused.items() if refusal.pending}
    bad = {entry: refusal for entry, refusal in pulled.refused.items() if not refusal.pending}
    if pulled.release is None and not bad:
        raise _nothing(home, pulled)
    if pulled.release is not None:
        console.out(f"{pulled.release}{'' if pulled.new else ' (nothing new)'}")
        if switch:
            _switch(console, home, pulled.release)
    for entry, refusal in pending.items():
        console.note(f"{entry} is pending: {refusal}")
    for entry, refusal in list(bad.items())[1:]:
        console.note(f"{entry} is refused: {refusal}")
    if bad:
        raise _refused(*next(iter(bad.items())), pulled.release)
    console.result(
        release=str(pulled.release) if pulled.release else None,
        new=pulled.new,
        pending=[str(entry) for entry in pending],
    )


def _nothing(home: Home, pulled: Pulled) -> NotFound:
    deploy = home.read_state().deploy
    if not pulled.refused:
        return NotFound(f"the remote has no release of {deploy}", hint="`gitrel release` makes one")
    why = "; ".join(str(refusal) for refusal in pulled.refused.values())
    return NotFound(f"no release of {deploy} may run yet", why=why, hint="then run the command again")


def _refused(entry: Entry, refusal: Refusal, instead: Entry | None) -> Refused:
    """What a pull ends with that had to leave a newer release alone."""
    stays = f"{instead} is the newest that may run here" if instead else "nothing of this remote may run here"
    return Refused(
        f"{entry} is refused: {refusal.what}",
        check=refusal.check,
        where=refusal.where,
        why=refusal.why,
        hint=f"{stays}; find out who made {entry}, and release anew",
    )


def _poll(console: Console, home: Home) -> None:
    """A pull for the supervisor, which asks again and again: only what changed is said, and is an error."""
    before = home.read_state()
    try:
        pulled = pull_once(home, console, polling=True)
    except GitrelError as error:
        if str(error) == before.trouble:
            return
        raise
    if before.trouble is not None:
        console.note("the remote answers as it should again")
    if pulled.new:
        console.out(str(pulled.release))
    for entry, refusal in pulled.refused.items():
        if before.refused.get(entry) != refusal:
            console.note(f"{entry} is {'pending' if refusal.pending else 'refused'}: {refusal}")


def pull_once(home: Home, console: Console, *, polling: bool = False, limits: Limits | None = None) -> Pulled:
    """A pull whose failure is remembered for `status`."""
    state = home.read_state()
    try:
        with _remote(state.url, limits) as remote:
            if not polling:
                console.note(f"asking {remote.safe_url}")
            pulled = pull_into(home, remote, now=time.time(), anew=not polling, progress=console.note)
    except Locked:
        raise
    except GitrelError as error:
        trouble = str(error)
        with contextlib.suppress(LocalStateError):  # the disk may be the trouble; the first error says what to do
            home.change_state(lambda state: replace(state, trouble=trouble))
        raise
    if pulled.shallow:
        console.note("note: the remote cannot send records without files: the chain is verified from here on only")
    return pulled


def _switch(console: Console, home: Home, entry: Entry) -> None:
    """Point `current` at what was pulled, unless something else has the say."""
    state = home.read_state()
    if entry in state.failed:
        console.note(f"note: {entry} failed here before, so `current` stays {state.current or 'where it is'}")
    elif candidates(state)[0] != entry:
        console.note(f"note: pinned to {state.pinned}, so `current` stays")
    elif home.locked("run"):
        if state.current != entry:
            console.note("note: a supervisor runs here; it moves `current` when the release is healthy")
    elif state.current != entry or not _points(home, entry):
        check_startable(home, entry)
        home.switch(entry)


def _points(home: Home, entry: Entry) -> bool:
    return os.path.realpath(home.path / "current") == os.path.realpath(home.releases / str(entry))


def parse_scale(text: str) -> dict[str, int]:
    """`web=2,worker=1`. Raises `UsageError`."""
    scales: dict[str, int] = {}
    for word in filter(None, text.split(",")):
        kind, _, number = word.partition("=")
        if not number.isdigit() or int(number) > 1000:
            raise UsageError(f"not a scale: {word!r}", hint="write it as web=2,worker=1")
        scales[kind] = int(number)
    return scales


def run(
    console: Console,
    path: Path | None,
    entry: str | None,
    scale: str,
    follow: bool,
    interval: float,
    port: int,
    stop_if_repudiated: bool,
) -> None:
    from gitrel.run.supervise import Supervisor

    home = _home(path)
    choice = Choice(
        home,
        Entry.parse(entry) if entry else None,
        scales=parse_scale(scale),
        port=port,
        stop_if_repudiated=stop_if_repudiated,
        say=console.note,
    )
    make_folders(home.run / "home")
    with home.lock("run") as lock:
        state = home.read_state()
        try:
            pulled = pull_once(home, console, limits=_IMPATIENT if state.ready else None)
        except GitrelError as error:  # whatever it is, what was verified before can run
            console.note(f"not pulled: {error}")
        else:
            if pulled.release is None and not follow:
                raise _nothing(home, pulled)
        Supervisor(
            choice.resolve,
            [sys.executable, "-m", "gitrel", "pull", "--no-switch", "--home", str(home.path)] if follow else None,
            interval,
            home=str(home.path),
            status=home.status_file,
            output=sys.stdout.fileno(),
            poll_env={**os.environ, MARK: _poll_mark(home)},
            last_good=choice.last_good(),
            on_good=choice.good,
            on_failed=choice.failed,
            hold=[lock],
            colour=sys.stdout.isatty(),
        ).run()


def exec_process(path: Path | None, kind: str, args: list[str], port: int) -> None:
    home = _home(path)
    state = home.read_state()
    make_folders(home.run / "home")
    verified = verify_here(home, state, state.current or candidates(state)[0])
    process = Layout(home, verified, port=port).process(kind, 1)
    command = f"exec {process.command}" if _simple(process.command) else process.command
    if args:
        command += ' "$@"'
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)  # Python ignores it, and what is ignored stays so through exec
    try:
        os.chdir(process.cwd)
        os.execve(  # noqa: S606 - the shell is named here, and the Procfile line was verified
            "/bin/sh", ["sh", "-c", command, kind, *args], dict(process.env)
        )
    except OSError as error:
        raise LocalStateError(f"{kind} cannot be started", where=str(process.cwd), why=str(error)) from error


def _simple(command: str) -> bool:
    """Whether `exec` may stand before a Procfile line: a plain command, no shell grammar that it would change."""
    first = command.split(maxsplit=1)[0]
    return not any(char in command for char in ";&|<>()`\n") and first != "exec" and "=" not in first


def status(console: Console, path: Path | None) -> None:
    home = _home(path)
    state = home.read_state()
    running = home.locked("run")
    try:
        report: dict[str, Any] | None = json.loads(home.status_file.read_bytes()) if running else None
    except (OSError, ValueError):
        report = None  # written anew at the supervisor's next change
    with _remote(state.url) as remote:
        where = remote.safe_url
    carried = carried_config(home, state)
    waiting = state.configured if state.configured is not None and state.configured > (carried or 0) else None
    for label, text in _rows(state, where, running, report or {}, time.time(), waiting):
        console.out(f"{label:<10} {text}")
    console.result(
        app=state.app,
        deploy=state.deploy,
        remote=where,
        pin=state.pin,
        current=str(state.current) if state.current else None,
        newest=str(state.ready) if state.ready else None,
        good=str(state.good) if state.good else None,
        pinned=str(state.pinned) if state.pinned else None,
        failed={str(entry): why for entry, why in state.failed.items()},
        refused={str(entry): str(refusal) for entry, refusal in state.refused.items()},
        lacking={str(entry): why for entry, why in state.lacking.items()},
        config=str(carried) if carried else None,
        pending_config=str(waiting) if waiting else None,
        contact=state.contact,
        trouble=state.trouble,
        supervisor=report,
    )


def _rows(
    state: State, remote: str, running: bool, report: Mapping[str, Any], now: float, waiting: Entry | None
) -> Iterator[tuple[str, str]]:
    """What `status` shows to people."""
    yield "app", f"{state.app}, {state.deploy}"
    yield "remote", remote
    yield "current", str(state.current or "none")
    yield "newest", str(state.ready or "none")
    supervisor = "running" if running else "not running"
    if report.get("release"):
        supervisor += f", pid {report['supervisor']}: {report['release']} for {_since(report['since'], now)}"
    yield "supervisor", supervisor
    yield "contact", f"{duration(now - state.contact)} ago" if state.contact is not None else "never"
    if state.pinned is not None:
        yield "PINNED", f"to {state.pinned} on this server"
    if state.trouble is not None:
        yield "TROUBLE", state.trouble
    for entry, refusal in state.refused.items():
        yield "pending" if refusal.pending else "REFUSED", f"{entry}: {refusal}"
    if waiting is not None:
        yield "config", f"the remote shows {waiting}, which {state.current or 'no release here'} does not carry"
    for entry, why in state.lacking.items():
        yield "CANNOT RUN", f"{entry}: {why}"
    for entry, why in state.failed.items():
        if state.good is None or entry > state.good:
            yield "FAILED", f"{entry}: {why}"
    if report.get("trouble"):
        yield "UNHEALTHY", f"{report['release']}: {report['trouble']}"
    for process in report.get("processes", []):
        yield process["name"], _process(process, now)


def _process(process: Mapping[str, Any], now: float) -> str:
    text = f"{process['state']} for {_since(process['since'], now)}"
    if process["pid"]:
        text += f", pid {process['pid']}"
    text += f", {process['restarts']} restart{'' if process['restarts'] == 1 else 's'}"
    ended = process["last_exit"]
    if ended:
        text += f", last: {'signal' if ended['signal'] else 'exit code'} {ended['signal'] or ended['code']}"
    return text


def _since(utc: str, now: float) -> str:
    return duration(now - datetime.datetime.fromisoformat(utc).timestamp())


def duration(seconds: float) -> str:
    """`12 s`, `3 min`, `5 h`, `3 days`: one unit is enough for a look at it. A clock set back counts as 0."""
    for unit, size in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{int(seconds // size)} {unit}"
    return f"{max(0, int(seconds))} s"
