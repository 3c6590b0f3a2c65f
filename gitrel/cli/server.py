"""`gitrel join`, `pull`, `run`, `exec` and `status`: what a server does."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from gitrel.cli.console import Console
from gitrel.errors import GitrelError, Locked, NotFound, Refused, RemoteError, UsageError
from gitrel.ids import TRUST, Deploy, Entry, ObjectFormat, Sha256
from gitrel.run.formation import MARK, Formation, mark
from gitrel.run.home import Home, State
from gitrel.run.pull import Pulled, fetch_trust, keep_approvals
from gitrel.run.pull import pull as pull_into
from gitrel.run.resolve import Layout, candidates, verify_here
from gitrel.store.durable import make_folders
from gitrel.store.quarantine import Quarantine
from gitrel.store.remote import Remote
from gitrel.store.repository import Repository
from gitrel.trust.checks import Check


def _home(path: Path | None) -> Home:
    return Home(path or Path.cwd())


def _remote(url: str) -> Remote:
    return Remote.resolve(None, url, env=dict(os.environ), interactive=sys.stdin.isatty())


def join(console: Console, url: str, home: Path, pin: str | None, first_use: bool, deploy: str) -> None:
    if pin is None and not first_use:
        raise UsageError(
            "no pin",
            why="a server has to know whom to believe",
            hint="`--trust PIN`, with the pin that `gitrel init` printed; or `--first-use`, to take what is there",
        )
    name, pinned = Deploy(deploy), Sha256(pin) if pin else None
    if home.exists() and (not home.is_dir() or any(home.iterdir())):
        raise UsageError("the home is there already, and not empty", where=str(home))
    with _fresh(home) as folder, _remote(str(Path(url).resolve()) if Path(url).exists() else url) as remote:
        theirs = remote.list([TRUST.prefix, "refs/approvals/"])
        fmt = ObjectFormat.of(next(iter(theirs.values()))) if theirs else ObjectFormat.SHA1
        with Repository.init_bare(folder / "repo.git", fmt) as repo:
            with Quarantine(repo, folder / "quarantine") as quarantine:
                chain = fetch_trust(remote, repo, quarantine, theirs, pinned)
                quarantine.adopt()
            for each in chain:
                repo.refs.create(str(each.signed.record.ref), each.id.oid)
            keep_approvals(repo, theirs)
        shutil.rmtree(folder / "quarantine")
        state = State(
            app=chain.app,
            deploy=name,
            url=str(Path(url).resolve()) if Path(url).exists() else url,
            pin=chain.pin,
        )
        Home.create(folder, state)
    if pinned is None:
        console.note(f"WARNING: trusting {chain.app} as the remote shows it now, unseen")
    console.out(f"{home}: {chain.app}, {deploy}, trust {chain.newest.entry}")
    console.out(f"pin: {chain.pin}")
    console.note(f"next: gitrel run --home {home} --follow")
    console.result(home=str(home.resolve()), app=chain.app, deploy=deploy, pin=chain.pin)


@contextlib.contextmanager
def _fresh(home: Path) -> Iterator[Path]:
    """A folder that becomes `home` in one rename if all goes well, and is gone if not."""
    make_folders(home.absolute().parent)
    aside = home.absolute().with_name(f".{home.name}.{os.getpid()}.joining")
    make_folders(aside)
    try:
        yield aside
        aside.rename(home)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def pull(console: Console, path: Path | None, switch: bool) -> None:
    home = _home(path)
    pulled = pull_once(home, console)
    if pulled.release is None and all(verdict.pending for verdict in pulled.refused):
        why = "; ".join(str(verdict.refusal) for verdict in pulled.refused)
        raise NotFound(
            "the remote has no release that may run", why=why, hint="" if why else "`gitrel release` makes one"
        )
    if pulled.release is not None:
        if switch:
            _switch(home, pulled.release)
        console.out(f"{pulled.release}{'' if pulled.new else ' (nothing new)'}")
    if pulled.shallow:
        console.note("note: the remote cannot send records without files, so the chain was verified from here on only")
    for verdict in pulled.refused:
        console.note(f"{verdict.entry} is {'pending' if verdict.pending else 'refused'}: {verdict.refusal}")
    bad = [verdict for verdict in pulled.refused if not verdict.pending]
    if bad:
        raise bad[0].refusal or Refused("refused", check=0)
    console.result(
        release=str(pulled.release) if pulled.release else None,
        new=pulled.new,
        pending=[str(verdict.entry) for verdict in pulled.refused if verdict.pending],
    )


def pull_once(home: Home, console: Console) -> Pulled:
    """A pull whose failure is remembered for `status`."""
    state = home.read_state()
    try:
        with _remote(state.url) as remote:
            pulled = pull_into(home, remote, now=time.time(), progress=console.note)
    except Locked:
        raise
    except GitrelError as error:
        trouble = str(error)
        home.change_state(lambda state: replace(state, trouble=trouble))
        raise
    home.change_state(lambda state: replace(state, trouble=None))
    return pulled


def _switch(home: Home, entry: Entry) -> None:
    state = home.read_state()
    if candidates(state)[0] != entry:
        return  # pinned to another, or this one failed here
    if state.current != entry or os.path.realpath(home.path / "current") != os.path.realpath(
        home.releases / str(entry)
    ):
        home.switch(entry)


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
    scales = parse_scale(scale)
    wanted = Entry.parse(entry) if entry else None
    make_folders(home.run / "home")
    with home.lock("run") as lock:
        try:
            pull_once(home, console)
        except (RemoteError, Refused, Locked) as error:
            console.note(f"not pulled: {error}")

        def formation(release: Entry) -> Formation:
            verified = verify_here(home, home.read_state(), release)
            return Layout(home, verified, port=port).formation(scales)

        def resolve() -> Formation:
            """The best release that verifies now; nothing at all if the one that should run was repudiated alone."""
            refusals: list[Refused] = []
            for release in candidates(home.read_state(), wanted):
                try:
                    return formation(release)
                except Refused as refusal:
                    refusals.append(refusal)
                    if refusal.check == Check.REPUDIATED and stop_if_repudiated:
                        break
            if all(refusal.check == Check.REPUDIATED for refusal in refusals):
                return Formation(release="none", processes=())
            raise refusals[0]

        def good(formation: Formation) -> None:
            if not formation.processes:
                return
            release = Entry.parse(formation.release)
            home.change_state(lambda state: replace(state, good=release, failed=_without(state.failed, release)))
            home.switch(release)

        def failed(formation: Formation, why: str) -> None:
            release = Entry.parse(formation.release)
            home.change_state(lambda state: replace(state, failed={**state.failed, release: why}))

        state = home.read_state()
        last_good = None
        if state.good is not None and state.good != candidates(state, wanted)[0]:
            with contextlib.suppress(Refused):  # then there is nothing to go back to
                last_good = formation(state.good)
        poller = [sys.executable, "-m", "gitrel", "pull", "--no-switch", "--home", str(home.path)]
        Supervisor(
            resolve,
            poller if follow else None,
            interval,
            home=str(home.path),
            status=home.status_file,
            output=sys.stdout.fileno(),
            poll_env={**os.environ, MARK: mark(str(home.path), "-", "pull")},
            last_good=last_good,
            on_good=good,
            on_failed=failed,
            hold=[lock],
            colour=sys.stdout.isatty(),
        ).run()


def _without(failed: Mapping[Entry, str], release: Entry) -> dict[Entry, str]:
    return {entry: why for entry, why in failed.items() if entry != release}


def exec_process(path: Path | None, kind: str, args: list[str], port: int) -> None:
    home = _home(path)
    state = home.read_state()
    make_folders(home.run / "home")
    verified = verify_here(home, state, state.current or candidates(state)[0])
    process = Layout(home, verified, port=port).process(kind, 1)
    os.chdir(process.cwd)
    command = f"exec {process.command}" if _simple(process.command) else process.command
    if args:
        command += ' "$@"'
    os.execve(  # noqa: S606 - the shell is named here, and the Procfile line was verified
        "/bin/sh", ["sh", "-c", command, kind, *args], dict(process.env)
    )


def _simple(command: str) -> bool:
    """Whether `exec` may stand before a Procfile line: a plain command, no shell grammar that it would change."""
    return not any(char in command for char in ";&|<>()`\n") and "=" not in command.split(" ", 1)[0]


def status(console: Console, path: Path | None) -> None:
    home = _home(path)
    state = home.read_state()
    running = home.locked("run")
    try:
        report = json.loads(home.status_file.read_bytes()) if running else None
    except (OSError, ValueError):
        report = None  # written anew at the supervisor's next change
    rows = [
        ("app", f"{state.app}, {state.deploy}"),
        ("remote", _safe(state.url)),
        ("current", str(state.current or "none")),
        ("newest", str(state.ready or "none")),
        ("supervisor", "running" if running else "not running"),
    ]
    if state.contact is not None:
        rows.append(("contact", f"{max(0, int(time.time() - state.contact))} s ago"))
    if state.pinned is not None:
        rows.append(("PINNED", f"to {state.pinned} on this server"))
    if state.trouble is not None:
        rows.append(("trouble", state.trouble))
    rows += [("refused", f"{entry}: {why}") for entry, why in state.refused.items()]
    rows += [("FAILED", f"{entry}: {why}") for entry, why in state.failed.items()]
    for process in (report or {}).get("processes", []):
        rows.append((process["name"], f"{process['state']}, pid {process['pid']}, {process['restarts']} restarts"))
    for label, text in rows:
        console.out(f"{label:<10} {text}")
    console.result(
        app=state.app,
        deploy=state.deploy,
        remote=_safe(state.url),
        pin=state.pin,
        current=str(state.current) if state.current else None,
        newest=str(state.ready) if state.ready else None,
        good=str(state.good) if state.good else None,
        pinned=str(state.pinned) if state.pinned else None,
        failed={str(entry): why for entry, why in state.failed.items()},
        refused={str(entry): why for entry, why in state.refused.items()},
        contact=state.contact,
        trouble=state.trouble,
        supervisor=report,
    )


def _safe(url: str) -> str:
    with _remote(url) as remote:
        return remote.safe_url
