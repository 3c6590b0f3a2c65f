"""Starting a process in a clean, always equal state, and the few prctl(2) calls that Python does not offer.

A child has its own session and process group, PR_SET_PDEATHSIG = SIGKILL, every signal at its default and
unblocked, umask 022, /dev/null as stdin, a pipe each for stdout and stderr, the descriptors that it is given from 3
on and no other, the user and groups asked for, and exactly the environment given; with sockets also LISTEN_PID
(sd_listen_fds(3)), which nobody can know before. What cannot be set up, and an exec that fails, is an
`OSError` in the parent, not an exit code of the child.

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
from pathlib import Path
from typing import NoReturn

from gitrel.dataclass import dataclass
from gitrel.run.formation import User

UMASK = 0o022
_MOST_FDS = 1 << 20  # close_range(2) takes any upper end; this one is above every limit in use

# <linux/prctl.h>
_PR_SET_PDEATHSIG = 1
_PR_SET_DUMPABLE = 4
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


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plan:
    """What a child needs to know, as bytes and numbers: nothing is worked out after the fork."""

    program: bytes
    argv: list[bytes]
    env: dict[bytes, bytes]
    cwd: bytes
    give: Sequence[int]
    listens: bool
    user: User | None
    parent: int


def spawn(
    argv: Sequence[str], *, env: Mapping[str, str], cwd: Path, give: Sequence[int] = (), user: User | None = None
) -> Child:
    """Start `argv` (its first word an absolute path). Returns once exec has succeeded.

    `give`: descriptors that the child gets, from 3 on. If `env` says LISTEN_FDS, LISTEN_PID is added.

    Raises `OSError` with the errno of the step that failed; its `filename` says which: the program, the
    folder, `fork`.
    """
    plan = _Plan(
        program=os.fsencode(argv[0]),
        argv=[os.fsencode(word) for word in argv],
        # UTF-8 whatever the locale: under LC_ALL=C the file system encoding may be ASCII
        env={_utf8(name): _utf8(value) for name, value in env.items()},
        cwd=os.fsencode(cwd),
        give=give,
        listens="LISTEN_FDS" in env,
        user=user,
        parent=os.getpid(),
    )
    out = err = report = None
    try:
        out, err, report = _Pipe(), _Pipe(), _Pipe()
        pid = _fork(plan, out.write, err.write, report.write)
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


def _fork(plan: _Plan, out: int, err: int, report: int) -> int:
    with signals_blocked():
        try:
            pid = os.fork()
        except OSError as error:
            raise OSError(error.errno, error.strerror, "fork") from None
        if pid == 0:
            _become(plan, out, err, report)
    return pid


def _become(plan: _Plan, out: int, err: int, report: int) -> NoReturn:
    """In the child, up to exec. Never returns, never runs a line of the parent's code."""
    step = b"signals"
    try:
        default_signals()
        step = b"descriptors"
        report = arrange_fds(out=out, err=err, give=plan.give, keep=(report,))[0]
        step = b"setsid"
        os.setsid()
        os.umask(UMASK)
        if plan.user is not None:
            step = b"setuid"
            become(plan.user)
        step = b"prctl"
        set_parent_death_signal(plan.parent)  # a change of user takes it away
        step = plan.cwd
        os.chdir(plan.cwd)
        step = plan.program
        if plan.listens:
            plan.env[b"LISTEN_PID"] = b"%d" % os.getpid()
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        os.execve(plan.program, plan.argv, plan.env)  # noqa: S606 - the shell, where wanted, is argv[0]
    except OSError as error:
        os.write(report, struct.pack("i", error.errno or 0) + step)
    finally:
        os._exit(127)


def become(user: User) -> None:
    """For good: real, effective and saved ids. Raises `OSError`."""
    os.setgroups(user.groups)
    os.setresgid(user.gid, user.gid, user.gid)
    os.setresuid(user.uid, user.uid, user.uid)


def set_parent_death_signal(parent: int) -> None:
    """SIGKILL for this process once the thread that forked it is gone, also if that has happened already
    (prctl(2)).
    """
    _set(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(127)


def set_undumpable() -> None:
    """No core dump of this process, and no ptrace(2) by others of its user: it holds secrets. exec undoes it."""
    _set(_PR_SET_DUMPABLE, 0)


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


def arrange_fds(*, out: int | None, err: int | None, give: Sequence[int] = (), keep: Sequence[int]) -> list[int]:
    """Make 0 /dev/null, 1 and 2 what is given (/dev/null if None), 3… those to give away, then the kept ones, and
    close all others.

    Returns the new numbers of the kept ones, which are closed on exec.
    """
    null = os.open(os.devnull, os.O_RDWR)
    wanted = [null, null if out is None else out, null if err is None else err, *give, *keep]
    # First out of the way: a source may itself be one of the numbers that are about to be overwritten.
    high = [_dup_above(fd, len(wanted)) for fd in wanted]
    for number, fd in enumerate(high):
        os.dup2(fd, number, inheritable=number < 3 + len(give))
    os.closerange(len(wanted), _MOST_FDS)
    return list(range(3 + len(give), len(wanted)))


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
