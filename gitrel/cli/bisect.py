"""`gitrel bisect`: the first bad release between a good one and a bad one, found by a command of the user's.

The command is run in a checkout of each release that is tried: verified as a server would, and then made writable, in a
folder of its own that goes away. What counts is its exit status, as for `git bisect run`: 0 good, 125 cannot be tested,
1 to 127 bad, anything else ends the search. Releases that may not run are passed over, and a build that several
releases share is tried once.
"""

from __future__ import annotations

import contextlib
import os
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Any

from gitrel.build.command import kill_leftovers
from gitrel.build.stage import remove_tree, room
from gitrel.cli.console import Console
from gitrel.cli.developer import Developer, open_developer
from gitrel.cli.difference import compare_releases, fields, lines
from gitrel.cli.missing import with_objects
from gitrel.cli.naming import named_release, read_ledger
from gitrel.dataclass import dataclass, field
from gitrel.errors import ExitCode, LocalStateError, NotFound, UsageError
from gitrel.ids import ObjectId
from gitrel.store.checkout import stage_checkout
from gitrel.trust.content import bind_trees, check_shape, verify_content
from gitrel.trust.ledger import ChainedRelease, Verdict

_SKIP = 125  # git-bisect(1)
_SIGNALS = 128


class Result(StrEnum):
    GOOD = "good"
    BAD = "bad"
    SKIPPED = "skipped"


class Search:
    """Which of the releases 0 to `last` to try next, 0 being good and `last` bad."""

    def __init__(self, last: int) -> None:
        self.good, self.bad = 0, last
        self._skipped: set[int] = set()

    @property
    def left(self) -> list[int]:
        """Those that can still be tried."""
        return [each for each in range(self.good + 1, self.bad) if each not in self._skipped]

    @property
    def suspects(self) -> range:
        """Where the first bad one is: one of these, more than one if those before it could not be tested."""
        return range(self.good + 1, self.bad + 1)

    def next(self) -> int | None:
        """The one nearest to the middle; None when there is nothing left to try."""
        middle = (self.good + self.bad) // 2
        return min(self.left, key=lambda each: abs(each - middle), default=None)

    def tell(self, number: int, result: Result) -> None:
        if result is Result.SKIPPED:
            self._skipped.add(number)
        elif result is Result.GOOD:
            self.good = number
        else:
            self.bad = number


@dataclass(frozen=True, slots=True, kw_only=True)
class _Command:
    """What is run, and in which environment. `steps`: what became of each release that was tried."""

    dev: Developer
    argv: Sequence[str]
    folder: Path
    results: dict[ObjectId, Result] = field(default_factory=dict)
    steps: list[dict[str, Any]] = field(default_factory=list)

    def test(self, release: ChainedRelease, left: int) -> Result:
        """What the command says of a release. Raises what the checkout does, `UsageError`."""
        say = self.dev.console.note
        entry, tree = release.entry, _build_tree(self.dev, release)
        if tree in self.results:
            result = self.results[tree]
            say(f"{entry}: {result}, its files were tried already")
            self.steps.append({"release": str(entry), "result": result, "exit_status": None})
            return result
        more = f"{left - 1} more in question" if left > 1 else "the last in question"
        say(f"{entry}: trying it, {more}")
        started = time.monotonic()
        status = self._run(entry, with_objects(self.dev, [release], lambda: self._check_out(release)))
        result = judge(status, str(entry), self.argv)
        say(f"{entry}: {result} (exit status {status}, {time.monotonic() - started:.1f} s)")
        self.results[tree] = result
        self.steps.append({"release": str(entry), "result": result, "exit_status": status})
        return result

    def _check_out(self, release: ChainedRelease) -> Path:
        repo, ref = self.dev.repo, str(release.record.ref)
        bound = bind_trees(release, repo)
        check_shape(repo, bound.build_tree, ref)
        target = self.folder / str(release.entry)
        with stage_checkout(repo, bound.build_tree, self.folder) as staged:
            verify_content(bound, staged.node)
            if not staged.publish(target):
                raise LocalStateError("something is in the way", where=str(target), why="the command has put it there")
        _make_writable(target)
        return target

    def _run(self, entry: object, checkout: Path) -> int:
        temp = self.folder / "tmp"
        temp.mkdir(exist_ok=True)
        env = {**self.dev.env, "TMPDIR": str(temp), "GITREL_RELEASE": str(entry)}
        session = None
        try:
            # A session of its own: Ctrl-C comes to gitrel alone, which then ends all of it.
            with subprocess.Popen(
                self.argv, cwd=checkout, env=env, stdin=subprocess.DEVNULL, stdout=sys.stderr, start_new_session=True
            ) as process:
                session = process.pid
                try:
                    _wait(process)
                finally:
                    kill_leftovers(home=temp, temp=temp, session=session)
            return process.returncode
        except OSError as error:
            raise UsageError(
                f"the command cannot be started: {self.argv[0][:200]}",
                where=f"the checkout of {entry}",
                why=error.strerror or str(error),
                hint="its path is taken from the checkout, or from PATH; a script of your own needs its full path",
            ) from None
        finally:
            if session is None:  # Ctrl-C after the fork and before anybody here knows the process
                kill_leftovers(home=temp, temp=temp)
            with contextlib.suppress(OSError):  # the command may have; what is left goes with the room
                remove_tree(checkout)


def bisect(
    console: Console,
    repo: Path | None,
    remote: str | None,
    deploy: str,
    pin: str | None,
    good: str,
    bad: str,
    argv: Sequence[str],
) -> ExitCode:
    with open_developer(console, repo=repo, remote=remote, deploy=deploy, trust=pin) as dev:
        now = read_ledger(dev)
        ends = named_release(console, now, good), named_release(console, now, bad)
        tried = _between(now.verdicts, *ends)
        search = Search(len(tried) - 1)
        with room(Path(tempfile.gettempdir()), ends[1].id.oid) as folder:
            command = _Command(dev=dev, argv=argv, folder=folder)
            for end, result in ((0, Result.GOOD), (-1, Result.BAD)):
                command.results[_build_tree(dev, tried[end].runnable)] = result
            if len(command.results) == 1:
                raise UsageError(
                    f"{ends[0].entry} and {ends[1].entry} have the same files",
                    where="--good, --bad",
                    why="a command that sees nothing else cannot tell them apart",
                    hint=f"`gitrel diff {ends[0].entry} {ends[1].entry}` shows whether their config differs",
                )
            while (number := search.next()) is not None:
                search.tell(number, command.test(tried[number].runnable, len(search.left)))
        return _report(dev, [tried[number] for number in (search.good, *search.suspects)], command.steps)


def _build_tree(dev: Developer, release: ChainedRelease) -> ObjectId:
    return with_objects(dev, [release], lambda: bind_trees(release, dev.repo).build_tree)


def _between(verdicts: Sequence[Verdict], good: Verdict, bad: Verdict) -> list[Verdict]:
    """Both, and what may run in between. Raises `UsageError`."""
    if good.entry >= bad.entry:
        same = good.entry == bad.entry
        raise UsageError(
            f"{good.entry} cannot be both" if same else f"the good release, {good.entry}, is newer than the bad one",
            where="--good, --bad",
            why="" if same else f"the bad one is {bad.entry}; what is sought is the release that broke something",
            hint="name an older good one, or swap them: `gitrel bisect --good vOLD --bad vNEW -- CMD`",
        )
    return [each for each in verdicts if each.release is not None and good.entry <= each.entry <= bad.entry]


def judge(status: int, entry: str, argv: Sequence[str]) -> Result:
    """What an exit status says (negative for a signal). Raises `UsageError` if that is nothing."""
    if 0 <= status < _SIGNALS:
        return {0: Result.GOOD, _SKIP: Result.SKIPPED}.get(status, Result.BAD)
    ended = f"signal {-status}" if status < 0 else f"exit status {status}"
    raise UsageError(
        f"the command says nothing of {entry}",
        where=" ".join(argv)[:200],
        why=f"it ended by {ended}",
        hint="exit with 0 for good, 125 for what cannot be tested, 1 to 127 for bad",
    )


def _wait(process: subprocess.Popen[bytes]) -> None:
    """Until it has ended, without reaping it: the session's id stays taken until all of it is killed."""
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)


def _make_writable(folder: Path) -> None:
    """For its owner: a test suite leaves caches and reports behind."""
    for parent, _, names in os.walk(folder):
        for name in [".", *names]:
            path = os.path.join(parent, name)
            mode = os.lstat(path).st_mode
            if not stat.S_ISLNK(mode):
                os.chmod(path, stat.S_IMODE(mode) | stat.S_IWUSR)


def _report(dev: Developer, found: Sequence[Verdict], steps: list[dict[str, Any]]) -> ExitCode:
    """`found`: the last good release, and those one of which is the first bad one."""
    last_good, *suspects = found
    document = {
        "last_good": str(last_good.entry),
        "first_bad": str(suspects[0].entry) if len(suspects) == 1 else None,
        "suspects": [str(each.entry) for each in suspects],
        "steps": steps,
    }
    if len(suspects) > 1:
        names = ", ".join(str(each.entry) for each in suspects)
        error = NotFound(
            f"the first bad release is one of {names}",
            where="gitrel bisect",
            why="the command could not test the others (exit status 125)",
            hint=f"`gitrel diff {last_good.entry} {suspects[-1].entry}` shows all that they change",
        )
        dev.console.error(error, **document)
        return error.exit_code
    first_bad = suspects[0]
    difference = compare_releases(dev, last_good, first_bad)
    subject = first_bad.signed.record.subject if first_bad.signed else ""
    dev.console.out(f"{first_bad.entry} is the first bad release: {subject}")
    dev.console.facts(lines(difference), indent="  ")
    dev.console.result(**document, diff=fields(difference))
    return ExitCode.DONE
