"""What `gitrel doctor` looks at in both places, and how it says it.

A line is `ok`, `warn` (it works, and could work better or safer) or `fail`; the exit code is that of the first
failure, as the command that meets it would end.
"""

from __future__ import annotations

import os
import shutil
import stat
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from gitrel.cli.console import Console
from gitrel.dataclass import dataclass
from gitrel.errors import ExitCode, GitrelError, LocalStateError, NotFound, RemoteError
from gitrel.format.text import size
from gitrel.ids import ObjectFormat
from gitrel.store.location import GitConfig, is_true
from gitrel.store.remote import Remote

OK, WARN, FAIL = "ok", "warn", "fail"
_SPARE = 1 << 30  # bytes free, below which it is worth a word
_NOTHING = 64 << 20  # below which the next release does not fit
_AHEAD = 300  # seconds that a record may be ahead of this clock


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    check: str
    state: str
    said: str
    hint: str = ""
    code: ExitCode = ExitCode.DONE


Lines = Iterator[Line]


def report(console: Console, checks: Iterable[tuple[str, Callable[[], Lines]]], **about: str) -> ExitCode:
    """Make and show the checks; what one of them raises is its failure."""
    lines: list[Line] = []
    for name, check in checks:
        try:
            for line in check():
                lines.append(line)
                _show(console, line)
        except GitrelError as error:
            lines.append(Line(check=name, state=FAIL, said=str(error), hint=error.hint, code=error.exit_code))
            _show(console, lines[-1])
    worst = next((line.code for line in lines if line.state == FAIL), ExitCode.DONE)
    console.result(
        **about,
        checks=[
            {"check": each.check, "state": each.state, "said": each.said, "hint": each.hint or None} for each in lines
        ],
        exit_code=int(worst),
    )
    return worst


def _show(console: Console, line: Line) -> None:
    console.out(f"{line.state:<4}  {line.check:<10}  {line.said}")
    if line.hint and line.state != OK:
        console.out(f"{'':<18}{line.hint}")


def of_remote(name: str, remote: Remote, fmt: ObjectFormat, *, push: bool) -> Lines:
    """Whether it answers, and what it can do. Raises `RemoteError`."""
    if remote.partial:
        yield Line(check=name, state=OK, said=f"{remote.safe_url}: a bundle")
        return
    offer = remote.offers(push=False)
    if offer.format is not fmt and offer.version == 2:
        raise RemoteError("its object format is another", where=remote.safe_url, why=offer.format.value)
    yield Line(check=name, state=OK, said=f"{remote.safe_url}: protocol version {offer.version}")
    if offer.version == 0:
        said = "it lists all refs at every look: protocol version 0"
        hint = "git 2.18 or later on the server; for ssh, `AcceptEnv GIT_PROTOCOL` in sshd_config"
        yield Line(check=name, state=WARN, said=said, hint=hint)
    if "filter" not in offer.able:
        said = "it cannot leave files out: a server verifies the chain from its first release on only"
        yield Line(
            check=name, state=WARN, said=said, hint="`git config uploadpack.allowFilter true` in that repository"
        )
    if "shallow" not in offer.able:
        raise RemoteError("it offers no shallow fetch", where=remote.safe_url, hint="use a git server of this decade")
    if push:
        able = remote.offers(push=True).able
        if "report-status" not in able:
            raise RemoteError("it does not report what became of a push", where=remote.safe_url)
        yield Line(check="push", state=OK, said="we may push, as far as the server says before it has seen one")
        if "atomic" not in able:
            said = "it creates refs one by one: a release that loses a race leaves its build behind"
            yield Line(check="push", state=WARN, said=said, hint="receive.advertiseAtomic turns it on where it is off")


def of_hosting(folder: Path, env: dict[str, str]) -> Lines:
    """A repository of this machine that others push to."""
    config = GitConfig(folder if (folder / "config").is_file() else folder / ".git", env)
    for key in ("denyDeletes", "denyNonFastForwards"):
        if not is_true(config.get(("receive",), key)):
            hint = f"`git -C {folder} config receive.{key} true`"
            yield Line(
                check="hosting", state=WARN, said=f"receive.{key} is off: whoever pushes may move refs", hint=hint
            )
    hook = folder / "hooks/pre-receive"
    if not os.access(hook, os.X_OK):
        said, hint = (
            "no pre-receive hook: anything may land in the ledgers",
            "`gitrel hook pre-receive --trust PIN` in it",
        )
        yield Line(check="hosting", state=WARN, said=said, hint=hint)
    else:
        yield Line(check="hosting", state=OK, said=f"{hook} is there")


def of_disk(folder: Path, needed: int = 0) -> Lines:
    """`needed`: what the next release may take."""
    free = shutil.disk_usage(folder).free
    left = os.statvfs(folder)
    said = f"{size(free)} free"
    if free < max(_NOTHING, needed) or (left.f_files and left.f_favail < 1000):
        raise LocalStateError(f"the disk is full: {said}, {left.f_favail} files", where=str(folder), hint="make room")
    if free < _SPARE + needed:
        yield Line(check="disk", state=WARN, said=said, hint="make room, or `gitrel prune --keep 2` on a server")
    else:
        yield Line(check="disk", state=OK, said=said)


def of_clock(newest: int | None) -> Lines:
    """A hint and no more: dates in records are claims, and decide nothing."""
    ahead = 0 if newest is None else newest - time.time()
    if ahead > _AHEAD:
        said = f"the newest record is dated {ahead / 60:.0f} minutes ahead of this clock"
        yield Line(check="clock", state=WARN, said=said, hint="`timedatectl` shows whether this machine's clock is set")
    else:
        yield Line(check="clock", state=OK, said="no record is from the future")


def only_ours(check: str, path: Path) -> Lines:
    """A file that nobody else may read. Raises `NotFound`, `LocalStateError`."""
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        raise NotFound("it is gone", where=str(path)) from None
    except OSError as error:
        raise LocalStateError("cannot look at it", where=str(path), why=error.strerror or "") from error
    if stat.S_IMODE(mode) & 0o077:
        yield Line(check=check, state=WARN, said=f"{path}: others may read it", hint=f"`chmod go= {path}`")
    else:
        yield Line(check=check, state=OK, said=f"{path}: only its owner reads it")
