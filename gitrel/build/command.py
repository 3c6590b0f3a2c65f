"""`[build] command`: run in the checkout, in an environment that says nothing of the builder's machine.

The environment is exactly this (`sh` itself adds `PWD`, and some shells `OLDPWD`, `SHLVL` and `_`):

    PATH                the caller's, so that the builder's tools are found; without one, the system's default
    HOME                an empty folder, removed afterwards
    TMPDIR              another one
    LANG, LC_ALL        C.UTF-8
    TZ                  UTC
    SOURCE_DATE_EPOCH   the source commit's committer time
    (https://reproducible-builds.org/specs/source-date-epoch/) and each name of `pass_env` that the caller has
    set, with the caller's value; it wins over the lines above

The umask is 022, the input empty (`/dev/null`), the working folder the top of the checkout. Error output and
output are one stream. The command leads a session of its own; when it ends, however it ends, what it left
running is killed: its process group, its session, and whatever still carries its `TMPDIR`, which finds
daemons that left both.
"""

from __future__ import annotations

import contextlib
import os
import re
import select
import signal
import subprocess
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Set
from pathlib import Path
from typing import IO, cast

from gitrel.errors import BuildFailed
from gitrel.format.provenance import redact_urls
from gitrel.processes import environment, snapshot

TAIL = 20  # lines of output that an error shows
GRACE = 5.0  # seconds between TERM and KILL
MAX_LINE = 64 * 1024  # bytes; what is longer is handed on in pieces

_TICK = 0.05  # seconds between two looks at a process whose output something else keeps open
_SECRET_NAME = re.compile(r"TOKEN|SECRET|PASS|KEY|CREDENTIAL|AUTH", re.IGNORECASE)
_LEAST_SECRET = 4  # characters; hiding shorter values would only garble the output

OnOutput = Callable[[str], None]


def command_environment(
    caller: Mapping[str, str], pass_env: Iterable[str], *, home: Path, temp: Path, source_time: int
) -> dict[str, str]:
    """The command's environment, as the module's docstring lists it."""
    fixed = {
        "PATH": caller.get("PATH", os.defpath),
        "HOME": str(home),
        "TMPDIR": str(temp),
        "LANG": "C.UTF-8",
        "LC_ALL": "C.UTF-8",
        "TZ": "UTC",
        "SOURCE_DATE_EPOCH": str(source_time),
    }
    return fixed | {name: caller[name] for name in pass_env if name in caller}


def _started(command: str, folder: Path, env: Mapping[str, str], home: Path, temp: Path) -> subprocess.Popen[bytes]:
    try:
        return subprocess.Popen(
            ["sh", "-c", command],
            cwd=folder,
            env=dict(env),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            umask=0o022,
        )
    except BaseException:  # Ctrl-C after the fork and before anybody here knows the process
        kill_leftovers(home=home, temp=temp)
        raise


def run_command(
    command: str,
    *,
    folder: Path,
    caller: Mapping[str, str],
    pass_env: Iterable[str],
    home: Path,
    temp: Path,
    source_time: int,
    timeout: float,
    on_output: OnOutput,
) -> None:
    """Run `sh -c command` in `folder`, for at most `timeout` seconds; `home` and `temp` are folders for it alone.

    `on_output` gets each line while the command runs; URLs' passwords are hidden, and so are the values of those in
    `pass_env` that are named for a secret (`…TOKEN`, `…PASSWORD`, `…KEY`). Escape it like any text of somebody
    else's. Raises `BuildFailed` with the last lines: an exit status other than 0, a signal, or the time limit (TERM to
    the group, then KILL). Any other exception, Ctrl-C for one, kills the group as well.
    """
    tail: deque[str] = deque(maxlen=TAIL)
    pass_env = tuple(pass_env)
    secrets = _secrets(caller, pass_env)

    def hand_on(line: str) -> None:
        line = _hide(line, secrets)
        tail.append(line)
        on_output(line)

    lines = _Lines(hand_on)
    env = command_environment(caller, pass_env, home=home, temp=temp, source_time=source_time)
    with _started(command, folder, env, home, temp) as process:  # closes the pipe and waits
        pipe = cast(IO[bytes], process.stdout).fileno()
        try:
            in_time = _follow(process, pipe, lines, time.monotonic() + timeout)
            if not in_time:
                _kill(process.pid, signal.SIGTERM, group=True)
                _follow(process, pipe, lines, time.monotonic() + GRACE)
        finally:
            kill_leftovers(home=home, temp=temp, session=process.pid)
    lines.end()
    shown = _shown(command, secrets)
    if not in_time:
        what = f"the build command ran longer than {duration_text(timeout)}"
        hint = "make it quicker, or raise `timeout` under [build] in gitrel.toml"
        raise BuildFailed(what, where=shown, why=_last(tail), hint=hint)
    if status := process.returncode:
        what = f"the build command failed: {_ending(status)}"
        raise BuildFailed(what, where=shown, why=_last(tail), hint=_hint(status))


def kill_leftovers(*, home: Path, temp: Path, session: int | None = None) -> None:
    """KILL every process of the session, and every one whose HOME or TMPDIR is one of these private folders.

    `session` is the id of the group as well. A process can fork between being found and being killed, so one
    round is not enough. What became another user's by set-user-ID stays. Without proc(5) only the group is
    killed.
    """
    if session is not None:
        _kill(session, signal.SIGKILL, group=True)
    marks = {b"HOME=" + os.fsencode(home), b"TMPDIR=" + os.fsencode(temp)}
    deadline = time.monotonic() + GRACE
    while (left := _relatives(session, marks)) and time.monotonic() < deadline:
        for pid in left:
            _kill(pid, signal.SIGKILL)
        time.sleep(0.002)  # for the kernel to take them away


def _kill(pid: int, number: signal.Signals, *, group: bool = False) -> None:
    # ProcessLookupError: ended by itself. PermissionError: another user's by now.
    with contextlib.suppress(ProcessLookupError, PermissionError):
        if group:
            os.killpg(pid, number)
        else:
            os.kill(pid, number)


def _relatives(session: int | None, marks: Set[bytes]) -> list[int]:
    """Other living processes of the session, or with a mark in their environment (proc(5))."""
    if not os.path.isdir("/proc/self"):
        return []
    others = (seen for seen in snapshot().values() if not seen.dead and seen.pid != os.getpid())
    return [seen.pid for seen in others if seen.session == session or not marks.isdisjoint(environment(seen.pid))]


def _secrets(caller: Mapping[str, str], pass_env: Iterable[str]) -> tuple[str, ...]:
    named = (caller[name] for name in pass_env if name in caller and _SECRET_NAME.search(name))
    return tuple(value for value in named if len(value) >= _LEAST_SECRET)


class _Lines:
    """Bytes in, whole lines out. A carriage return ends a line too, or a progress bar would be one."""

    def __init__(self, hand_on: OnOutput) -> None:
        self._hand_on = hand_on
        self._rest = b""

    def feed(self, data: bytes) -> None:
        *whole, self._rest = re.split(rb"\r\n|\n|\r(?!\Z)", self._rest + data)
        for line in whole:
            self._hand_on(line.decode("utf-8", "replace"))
        while len(self._rest) > MAX_LINE:
            self._hand_on(self._rest[:MAX_LINE].decode("utf-8", "replace"))
            self._rest = self._rest[MAX_LINE:]

    def end(self) -> None:
        if self._rest:
            self._hand_on(self._rest.removesuffix(b"\r").decode("utf-8", "replace"))
            self._rest = b""


def _follow(process: subprocess.Popen[bytes], pipe: int, lines: _Lines, deadline: float) -> bool:
    """Hand output on until the command itself has ended; False at the deadline.

    The end of the output is not the end of the command (it may close it), nor the other way round (what it
    left in the background may keep it open).
    """
    poll = select.poll()
    poll.register(pipe, select.POLLIN)
    while True:
        ended = _has_ended(process)
        wait = 0.0 if ended else min(_TICK, max(0.0, deadline - time.monotonic()))
        if poll.poll(wait * 1000):
            data = os.read(pipe, 64 * 1024)
            lines.feed(data)
            if not data:
                poll.unregister(pipe)
        elif ended:
            return True
        if not ended and time.monotonic() >= deadline:
            return False


def _has_ended(process: subprocess.Popen[bytes]) -> bool:
    """Without reaping it: its id, the group's and session's too, stays taken until all are killed."""
    return os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def _hide(line: str, secrets: Iterable[str]) -> str:
    for secret in secrets:
        line = line.replace(secret, "***")
    return redact_urls(line)


def _last(tail: Iterable[str]) -> str:
    text = "\n".join(tail).strip("\n")
    return f"its last lines:\n{text}" if text else "it printed nothing"


def _shown(command: str, secrets: Iterable[str]) -> str:
    """The command's first line, shortened."""
    first, more, _ = _hide(command.strip(), secrets).partition("\n")
    return first if len(first) <= 80 and not more else f"{first[:79]}…"


def _ending(status: int) -> str:
    """`status` as subprocess gives it: negative for a signal. A shell makes 128 + n of its child's."""
    if status < 0:
        return f"killed by {_signal_name(-status)}"
    name = _signal_name(status - 128) if 128 < status <= 128 + signal.SIGRTMAX else None
    return f"exit status {status} ({name} in a shell)" if name else f"exit status {status}"


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _hint(status: int) -> str:
    if status == 127:
        return "a program was not found; the command sees the PATH of whoever builds, and an empty HOME"
    return "it runs in a clean checkout, with nothing of your environment but PATH and [build] pass_env"


def duration_text(seconds: float) -> str:
    """`1h30m`, `90s`… as gitrel.toml writes it: `1h30m`, `1m30s`, `0.5s`."""
    if seconds != int(seconds):
        return f"{seconds:g}s"
    hours, rest = divmod(int(seconds), 3600)
    minutes, whole = divmod(rest, 60)
    parts = ((hours, "h"), (minutes, "m"), (whole, "s"))
    return "".join(f"{number}{unit}" for number, unit in parts if number) or "0s"
