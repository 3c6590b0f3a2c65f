"""A companion that outlives the supervisor just long enough to leave no orphan.

A forked child holds the read end of a pipe whose only write end is the supervisor's. However the supervisor
ends, also by `kill -9`, the pipe reports its end; the guardian then kills whatever runs for the home and
exits. It finds it by the mark in the environment (`gitrel.run.formation.MARK`), by the sessions that it was
told over the pipe, and by descent from either. The leaders themselves have died already, of their
parent-death signal.

The guardian keeps the descriptors in `hold` open. Let them be flock(2) locks: the lock of the home is then
free only when nothing of the last run is left, and a new supervisor can neither start something twice nor be
shot at by the guardian of its predecessor.

What can still escape: a process that cleared or overwrote its environment (setproctitle does) *and* left its
session *and* whose parent was dead before the supervisor died; a process that took on another user, unless
gitrel is root; everything but the leaders, if supervisor and guardian are killed at the same moment - until
the next start on this home, which kills what carries the mark before it starts anything. Running gitrel in a
container or a systemd unit closes these gaps: the kernel ends a pid namespace with its first process, systemd
the control group.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from contextlib import suppress
from typing import NoReturn

from gitrel.processes import kill_all
from gitrel.run.proctree import of_home
from gitrel.run.spawn import arrange_fds, default_signals, set_name, signals_blocked

NAME = "gitrel-guardian"
LIMIT = 30.0  # seconds; what does not die in that time is in uninterruptible sleep and does not run either
_IGNORED = (
    signal.SIGTERM,
    signal.SIGINT,
    signal.SIGHUP,
    signal.SIGQUIT,
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGPIPE,
)


class Guardian:
    """The supervisor's end of it."""

    def __init__(self, home: str, hold: Sequence[int]) -> None:
        self._home = home
        self._hold = tuple(hold)
        self._sessions: set[int] = set()
        self._pipe = -1
        self.pid = 0

    def start(self) -> int:
        """Fork it, also in place of one that died, and tell it the sessions. Returns the pid. Raises
        `OSError`.
        """
        self.close()
        read, write = os.pipe2(os.O_CLOEXEC)
        try:
            with signals_blocked():
                self.pid = os.fork()
                if self.pid == 0:
                    _watch(read, self._home, self._hold)
        except OSError:
            os.close(write)
            raise
        finally:
            os.close(read)
        os.set_blocking(write, False)
        self._pipe = write
        for session in self._sessions:
            self._tell(f"+{session}\n")
        return self.pid

    def add(self, session: int) -> None:
        self._sessions.add(session)
        self._tell(f"+{session}\n")

    def remove(self, session: int) -> None:
        self._sessions.discard(session)
        self._tell(f"-{session}\n")

    def _tell(self, line: str) -> None:
        if self._pipe < 0:
            return
        try:
            os.write(self._pipe, line.encode())
        except BrokenPipeError:
            self.close()  # it is dead; its exit is about to be reported, and a new one will be told all
        except BlockingIOError:
            # stopped by somebody for so long that the pipe is full: no guardian at all, so another
            self.close()
            os.kill(self.pid, signal.SIGKILL)

    def close(self) -> None:
        """Let go of it: it looks for left-overs and exits."""
        if self._pipe >= 0:
            os.close(self._pipe)
            self._pipe = -1

    def finish(self) -> None:
        """Let go of it and wait until it has found nothing more."""
        self.close()
        if self.pid:
            with suppress(ChildProcessError):  # waited for already
                os.waitpid(self.pid, 0)
            self.pid = 0


def _watch(pipe: int, home: str, hold: Sequence[int]) -> NoReturn:
    """The guardian's whole life, in the forked child."""
    try:
        default_signals()
        for number in _IGNORED:
            signal.signal(number, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        pipe = arrange_fds(out=None, err=None, keep=(pipe, *hold))[0]
        os.setsid()
        os.chdir("/")
        set_name(NAME)
        sessions = _listen(pipe)
        kill_all(lambda: of_home(home, sessions), LIMIT)
    finally:
        os._exit(0)


def _listen(pipe: int) -> set[int]:
    """The sessions alive when the supervisor ended."""
    sessions: set[int] = set()
    with suppress(ValueError), open(pipe, "rb", closefd=False) as lines:  # ValueError: cut off within a line
        for line in lines:
            (sessions.add if line.startswith(b"+") else sessions.discard)(int(line[1:]))
    return sessions
