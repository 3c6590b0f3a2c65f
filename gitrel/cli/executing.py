"""`gitrel exec`: one process of the release, and nothing of gitrel left.

It is on the way of each start of a process, so it has a way past the library of the command line (`quickly`), and
imports what verifies and nothing else. `tests/unit/test_house.py` holds what that is.
"""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Mapping
from pathlib import Path

from gitrel.dataclass import dataclass, field
from gitrel.errors import LocalStateError, UsageError
from gitrel.format.procfile import shell_command
from gitrel.run.formation import Address
from gitrel.run.home import Home
from gitrel.run.layout import DEFAULT_PORT, Layout
from gitrel.run.leases import Leases
from gitrel.run.resolve import candidates, verify_here
from gitrel.run.spawn import become, set_undumpable


@dataclass(slots=True)
class Words:
    """The command line: process types or processes of one (one word at most), and what follows `--`."""

    home: Path
    port: int = DEFAULT_PORT
    environment: str | None = None
    kinds: list[str] = field(default_factory=list)
    args: list[str] = field(default_factory=list)


def quickly(argv: list[str], env: Mapping[str, str]) -> bool:
    """Become what a plain command line names; False for one that has to be read with more care, or is a mistake."""
    words = Words(Path(env.get("GITREL_HOME") or "."))
    rest = iter(argv)
    for word in rest:
        name, equals, value = word.partition("=")
        if word == "--":
            words.args += rest
        elif name in ("--home", "--port", "--as"):
            if not equals and not (value := next(rest, "")):
                return False
            match name:
                case "--home":
                    words.home = Path(value)
                case "--as":
                    words.environment = value
                case _ if value.isascii() and value.isdigit():
                    words.port = int(value)
                case _:
                    return False
        elif word.startswith("-"):
            return False
        elif words.kinds:
            words.args.append(word)
        else:
            words.kinds.append(word)
    if "PORT" in env and not any(word.startswith("--port") for word in argv):
        return False
    exec_process(words)
    return True


def exec_process(words: Words) -> None:
    """Become a process of the current release; without a process type, a command in the environment of one."""
    set_undumpable()
    if len(words.kinds) > 1 or not (words.kinds or words.args):
        hint = "`gitrel exec web -- ARGS`, or `gitrel exec -- COMMAND`"
        raise UsageError("one process type, or a command", hint=hint)
    kind, index = _instance(words.kinds[0]) if words.kinds else (None, 1)
    args = words.args
    home = Home(words.home)
    state = home.read_state()
    entry = state.current or candidates(state)[0]
    leases = Leases(home)  # until this process is marked as one of the release's
    leases.take(entry)
    layout = Layout(home, verify_here(home, state, entry), port=words.port)
    layout.provide()
    process = layout.process(kind or words.environment or layout.first, index)
    env = dict(process.env)
    argv = args if kind is None else ["/bin/sh", "-c", shell_command(process.command, bool(args)), kind, *args]
    try:
        if kind is not None and process.listen is not None:
            env |= _hand_over(process.listen, kind)
        if kind is not None and process.health is not None and process.health.notify:
            env |= {name: os.environ[name] for name in ("NOTIFY_SOCKET",) if name in os.environ}  # systemd's own
        if process.user is not None:
            become(process.user)
        os.chdir(process.cwd)
        # Python ignores these, and what is ignored stays so through exec.
        for number in (signal.SIGXFSZ, signal.SIGPIPE):
            signal.signal(number, signal.SIG_DFL)
        os.execvpe(argv[0], argv, env)  # noqa: S606 - the Procfile line was verified; other commands are the user's own
    except OSError as error:
        what, where = f"{kind or argv[0]} cannot be started", os.fsdecode(error.filename or process.cwd)
        raise LocalStateError(what, where=where, why=error.strerror or "") from error


def _instance(word: str) -> tuple[str, int]:
    """`web.2`, as logs call it; `web` is the first. Raises `UsageError`."""
    kind, dot, number = word.partition(".")
    if not dot:
        return kind, 1
    if not re.fullmatch("[1-9][0-9]{0,3}", number):
        raise UsageError(f"not a process such as {kind}.2", where=repr(word[:100]))
    return kind, int(number)


def _hand_over(address: Address, name: str) -> dict[str, str]:
    """The listening socket as descriptor 3, and the variables that say so (sd_listen_fds(3)). Raises `OSError`."""
    from gitrel.run.sockets import FIRST_FD, Sockets, inherited

    os.dup2(Sockets(inherited(os.environ)).get(address).detach(), FIRST_FD)
    os.set_inheritable(FIRST_FD, True)
    return {"LISTEN_FDS": "1", "LISTEN_FDNAMES": name, "LISTEN_PID": str(os.getpid())}
