"""Starting a process in a clean, always equal state, and the few prctl(2) calls that Python does not offer.

A child has its own session and process group, PR_SET_PDEATHSIG = SIGKILL, every signal at its default and
unblocked, umask 022, /dev/null as stdin, a pipe each for stdout and stderr, no other descriptor, exactly the
environment given. What cannot be set up, and an exec that fails, is an `OSError` in the parent, not an exit
code of the child.

fork(2) by hand, not `subprocess`: its `preexec_fn` runs after the signals were set, cannot keep a signal of
the parent's from being handled in the child before exec, and reports any failure as "Exception occurred in
preexec_fn". Only a process with a single thread may call this: the child runs Python between fork and exec.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import signal
import struct
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

UMASK = 0o022
_MOST_FDS = 1 << 20  # close_range(2) takes any upper end; this one is above every limit in use

# <linux/prctl.h>
_PR_SET_PDEATHSIG = 1
_PR_SET_NAME = 15
_PR_SET_CHILD_SUBREAPER = 36

_prctl = ctypes.CDLL(None, use_errno=True).prctl  # looked up before any fork: no loader runs in a child
_prctl.argtypes = [ctypes.c_int, ctypes.c_ulong, ctypes.c_ulong, ctypes.c_ulong, ctypes.c_ulong]


@dataclass(frozen=True, slots=True, kw_only=True)
class Child:
    """A started process: its pid is also its process group and its session. The read ends do not block."""

    pid: int
    stdout: int
    stderr: int


def spawn(argv: Sequence[str], *, env: Mapping[str, str], cwd: Path) -> Child:
    """Start `argv` (its first word an absolute path). Returns once exec has succeeded.

    Raises `OSError` with the errno of the step that failed; its `filename` says which: the program, the
    folder, `fork`.
    """
    program = os.fsencode(argv[0])
    words = [os.fsencode(word) for word in argv]
    # UTF-8 whatever the locale: under LC_ALL=C the file system encoding may be ASCII
    pairs = {_utf8(name): _utf8(value) for name, value in env.items()}
    out = err = report = None
    try:
        out, err, report = _Pipe(), _Pipe(), _Pipe()
        pid = _fork(program, words, pairs, os.fsencode(cwd), (out.write, err.write, report.write))
        for pipe in (out, err, report):
            pipe.close_write()
        failure = report.read_all()
        if failure:
            os.waitpid(pid, 0)
            number = struct.unpack_from("i", failure)[0]
            raise OSError(number, os.strerror(number), os.fsdecode(failure[struct.calcsize("i") :]))
        return Child(pid=pid, stdout=out.keep_read(), stderr=err.keep_read())
    finally:
        for made in (out, err, report):
            if made is not None:
                made.close()


class _Pipe:
    """Both ends of a pipe, each closed once; -1 is closed or given away."""

    def __init__(self) -> None:
        self.read, self.write = os.pipe2(os.O_CLOEXEC)

    def close_write(self) -> None:
        os.close(self.write)
        self.write = -1

    def keep_read(self) -> int:
        os.set_blocking(self.read, False)
        kept, self.read = self.read, -1
        return kept

    def read_all(self) -> bytes:
        return b"".join(iter(lambda: os.read(self.read, 4096), b""))

    def close(self) -> None:
        for fd in (self.read, self.write):
            if fd >= 0:
                os.close(fd)
        self.read = self.write = -1


def _fork(program: bytes, argv: list[bytes], env: dict[bytes, bytes], cwd: bytes, fds: tuple[int, int, int]) -> int:
    parent = os.getpid()
    with signals_blocked():
        try:
            pid = os.fork()
        except OSError as error:
            raise OSError(error.errno, error.strerror, "fork") from None
        if pid == 0:
            _become(program, argv, env, cwd, parent, fds)
    return pid


def _become(
    program: bytes,
    argv: list[bytes],
    env: dict[bytes, bytes],
    cwd: bytes,
    parent: int,
    fds: tuple[int, int, int],
) -> NoReturn:
    """In the child, up to exec. Never returns, never runs a line of the parent's code."""
    step, report = b"prctl", fds[2]
    try:
        set_parent_death_signal(parent)
        step = b"signals"
        default_signals()
        step = b"descriptors"
        report = arrange_fds(out=fds[0], err=fds[1], keep=(report,))[0]
        step = b"setsid"
        os.setsid()
        os.umask(UMASK)
        step = cwd
        os.chdir(cwd)
        step = program
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        os.execve(program, argv, env)  # noqa: S606 - the shell, where wanted, is argv[0]
    except OSError as error:
        os.write(report, struct.pack("i", error.errno or 0) + step)
    finally:
        os._exit(127)


def set_parent_death_signal(parent: int) -> None:
    """SIGKILL for this process once the thread that forked it is gone, also if that has happened already
    (prctl(2)).
    """
    _set(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(127)


def set_subreaper(on: bool) -> None:
    """Whether orphaned descendants become children of this process instead of init's."""
    _set(_PR_SET_CHILD_SUBREAPER, int(on))


def set_name(name: str) -> None:
    """The name in /proc/PID/comm, 15 bytes of it."""
    buffer = ctypes.create_string_buffer(os.fsencode(name)[:15])
    _set(_PR_SET_NAME, ctypes.addressof(buffer))


def _set(option: int, value: int) -> None:
    if _prctl(option, value, 0, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), "prctl")


def default_signals() -> None:
    """Every signal at its default; ignored ones would otherwise stay ignored through exec (Python ignores
    SIGPIPE).
    """
    signal.set_wakeup_fd(-1)
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        if signal.getsignal(number) is not signal.SIG_DFL:
            signal.signal(number, signal.SIG_DFL)


def arrange_fds(*, out: int | None, err: int | None, keep: Sequence[int]) -> list[int]:
    """Make 0 /dev/null, 1 and 2 what is given (/dev/null if None), 3… the kept ones, and close all others.

    Returns the new numbers of the kept ones, which are closed on exec.
    """
    null = os.open(os.devnull, os.O_RDWR)
    wanted = [null, null if out is None else out, null if err is None else err, *keep]
    # First out of the way: a source may itself be one of the numbers that are about to be overwritten.
    high = [_dup_above(fd, len(wanted)) for fd in wanted]
    for number, fd in enumerate(high):
        os.dup2(fd, number, inheritable=number < 3)
    os.closerange(len(wanted), _MOST_FDS)
    return list(range(3, len(wanted)))


def _dup_above(fd: int, least: int) -> int:
    return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, least)


@contextmanager
def signals_blocked() -> Iterator[None]:
    """All signals wait while a child is being made: a handler of the parent's must not run in the child."""
    before = signal.pthread_sigmask(signal.SIG_SETMASK, signal.valid_signals())
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def signal_group(pid: int, number: signal.Signals) -> None:
    """To the whole process group of a leader that has not been waited for yet. Raises `OSError`.

    A stopped process acts on TERM only when it goes on, so CONT follows, as systemd.kill(5) does it.
    """
    if pid <= 1:
        raise ValueError(f"not a group of ours: {pid}")  # kill(2) takes 0 and 1 for something far wider
    with suppress(ProcessLookupError):  # every member has ended, which is what was asked for
        os.killpg(pid, number)
        if number == signal.SIGTERM:
            os.killpg(pid, signal.SIGCONT)


def _utf8(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")
