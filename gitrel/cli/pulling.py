"""`gitrel pull`, by a person and by the supervisor."""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path

from gitrel.cli.console import Console
from gitrel.cli.server import absolute, open_home, open_remote, open_sources, tell_supervisor
from gitrel.cli.staleness import say_staleness
from gitrel.dataclass import replace
from gitrel.errors import ExitCode, GitrelError, LocalStateError, Locked, NotFound, Refused
from gitrel.format.text import size
from gitrel.ids import Entry
from gitrel.run.files import is_due, prune
from gitrel.run.home import Home
from gitrel.run.pull import Pulled
from gitrel.run.resolve import candidates, check_startable
from gitrel.run.sources import pull as pull_into
from gitrel.run.state import Refusal
from gitrel.store.limits import Limits


def pull(console: Console, path: Path | None, switch: bool, keep: int, file: str | None = None) -> None:
    """`file`: a bundle, instead of the home's remote and mirrors."""
    home = open_home(path)
    pulled = pull_once(home, console) if file is None else _pull_file(home, console, absolute(file))
    pending = {entry: refusal for entry, refusal in pulled.refused.items() if refusal.pending}
    bad = {entry: refusal for entry, refusal in pulled.refused.items() if not refusal.pending}
    if pulled.release is None and not bad:
        raise nothing_to_run(home, pulled)
    if pulled.release is not None:
        console.out(f"{pulled.release}{'' if pulled.new else ' (nothing new)'}")
        if switch:
            switch_to(console, home, pulled.release)
    problem = _make_room(console, home, keep)
    if problem is not None:
        console.note(f"not pruned: {problem}")
    if pulled.heard is not None:
        console.note(f"heartbeat {pulled.heard}")
    if pulled.mute is not None:
        console.note(f"note: a heartbeat does not count: {pulled.mute}")
    say_staleness(console, home)
    for entry, refusal in pending.items():
        console.note(f"{entry} is pending: {refusal}")
    for entry, refusal in list(bad.items())[1:]:
        console.note(f"{entry} is refused: {refusal}")
    for fork in pulled.forks[1:]:
        console.note(f"FORK: {fork}")
    if pulled.forks:
        raise pulled.forks[0].refusal()
    if bad:
        raise _refused(*next(iter(bad.items())), pulled.release)
    console.result(
        release=str(pulled.release) if pulled.release else None,
        new=pulled.new,
        pending=[str(entry) for entry in pending],
        heartbeat=str(pulled.heard) if pulled.heard else None,
        heartbeat_trouble=pulled.mute,
    )


def nothing_to_run(home: Home, pulled: Pulled) -> NotFound:
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


def poll(console: Console, home: Home, keep: int) -> int:
    """A pull for the supervisor, which asks again and again: only what changed is said.

    Returns the exit status. Trouble that stays the same is one without a word, by which the supervisor knows to ask
    less often. Raises `GitrelError` of new trouble.
    """
    before = home.read_state()
    try:
        pulled = pull_once(home, console, polling=True, keep=keep)
    except Locked as error:
        return error.exit_code
    except GitrelError as error:
        if str(error) == before.trouble:
            return error.exit_code
        raise
    if before.trouble is not None:
        console.note("the remote answers as it should again")
    if pulled.new:
        console.out(str(pulled.release))
    for entry, refusal in pulled.refused.items():
        if before.refused.get(entry) != refusal:
            console.note(f"{entry} is {'pending' if refusal.pending else 'refused'}: {refusal}")
    for fork in pulled.forks:
        if str(fork) not in before.forks:
            console.note(f"FORK: {fork}")
    return ExitCode.DONE


def _make_room(console: Console, home: Home, keep: int) -> GitrelError | None:
    """Prune if there is something to prune; what went wrong, which is no reason not to pull."""
    try:
        if is_due(home, keep):
            done = prune(home, keep, thrifty=True)
            if done.dropped:
                console.note(f"pruned {', '.join(map(str, done.dropped))}: {size(done.bytes)} free")
    except Locked:
        return None  # another one prunes or pulls, and the next look comes
    except GitrelError as error:
        return error
    return None


def pull_once(
    home: Home, console: Console, *, polling: bool = False, limits: Limits | None = None, keep: int = 0
) -> Pulled:
    """A pull whose failure is remembered for `status`. Before it, what is more than `keep` releases is pruned."""
    state = home.read_state()
    problem = _make_room(console, home, keep)
    try:
        with open_sources(state.sources, limits) as remotes:
            if not polling:
                console.note(f"asking {', '.join(remote.safe_url for remote in remotes.values())}")
            pulled = pull_into(home, remotes, now=time.time(), anew=not polling, progress=console.note)
        if not polling:
            for url, sight in home.read_state().sights.items():
                if problem_there := sight.away or sight.odd:
                    console.note(f"note: {remotes[url].safe_url}: {problem_there}")
        if problem is not None:
            raise problem
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


def _pull_file(home: Home, console: Console, file: str) -> Pulled:
    """What a bundle brings, by the same checks and limits. Nothing is remembered of what is wrong with it."""
    with open_remote(file) as remote:
        if not remote.partial:
            what = "not a file" if Path(file).is_dir() else "no such file"
            raise NotFound(
                what, where=file, hint="`gitrel bundle vA..vB -o FILE` makes one; `gitrel mirror` adds a URL"
            )
        console.note(f"reading {remote.safe_url}")
        pulled = pull_into(home, {file: remote}, now=time.time(), aside=True, progress=console.note)
    if pulled.new:
        tell_supervisor(console, home)  # it polls elsewhere, if at all
    return pulled


def switch_to(console: Console, home: Home, entry: Entry) -> None:
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
