"""The error tree. A leaf says what, where, why, what to do next, and the exit code.

    GitrelError            1    a bug, or something nobody foresaw
    ├── UsageError         2    the command line asks for something that makes no sense
    ├── Refused           10    verification failed; `check` is the number of the check that refused
    ├── NotFound          11    no such release, deploy, repository, variable
    ├── Conflict          12    somebody else was first
    │   └── Locked        12    another gitrel holds the lock
    ├── RemoteError       13    the remote is unreachable, broken, or does not let us
    ├── LocalStateError   14    the local disk or the home's state
    ├── BuildFailed       15    the build command failed, or its output cannot be stored
    ├── BadInput          16    a file of the user's own is malformed
    │   └── FormatError   16    bytes that do not follow a format of `docs/spec/`
    ├── NoUsableKey       17    nothing to sign with
    ├── Unhealthy         18    the app did not become healthy
    └── Interrupted      130    Ctrl-C or TERM

Only `gitrel.cli` turns an error into text and an exit status. A `FormatError` in bytes that came from a
remote becomes a `Refused` in `gitrel.trust`; in a file of the user's own it stays what it is.
"""

from __future__ import annotations

from enum import IntEnum
from typing import ClassVar


class ExitCode(IntEnum):
    """Every exit status of every command; `docs/exit-codes.md` is compared with this in a test."""

    DONE = 0
    UNEXPECTED = 1
    USAGE = 2
    REFUSED = 10
    NOT_FOUND = 11
    CONFLICT = 12
    REMOTE = 13
    LOCAL_STATE = 14
    BUILD_FAILED = 15
    BAD_INPUT = 16
    NO_KEY = 17
    UNHEALTHY = 18
    INTERRUPTED = 130


class GitrelError(Exception):
    """Base of all errors that gitrel raises on purpose.

    `what` is one clause without a full stop; `where` a file, ref, object or URL (never with a password);
    `why` the cause; `hint` the next thing to do, preferably a command.
    """

    exit_code: ClassVar[ExitCode] = ExitCode.UNEXPECTED

    def __init__(self, what: str, *, where: str = "", why: str = "", hint: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.where = where
        self.why = why
        self.hint = hint

    def __reduce__(self) -> tuple[object, ...]:
        """Pickled without `__init__`, whose keywords pickle would not know."""
        return _bare, (type(self), *self.args), vars(self)

    @property
    def summary(self) -> str:
        """What and why, for a reader who knows where."""
        return f"{self.what}: {self.why}" if self.why else self.what

    def __str__(self) -> str:
        return f"{self.where}: {self.summary}" if self.where else self.summary


def _bare(kind: type[GitrelError], *args: object) -> GitrelError:
    return kind.__new__(kind, *args)


class UsageError(GitrelError):
    exit_code = ExitCode.USAGE


class Refused(GitrelError):
    """Verification failed. `check` is the number from `docs/spec/verification.md`."""

    exit_code = ExitCode.REFUSED

    def __init__(self, what: str, *, check: int, where: str = "", why: str = "", hint: str = "") -> None:
        super().__init__(what, where=where, why=why, hint=hint)
        self.check = int(check)


class NotFound(GitrelError):
    exit_code = ExitCode.NOT_FOUND


class Conflict(GitrelError):
    exit_code = ExitCode.CONFLICT


class Locked(Conflict):
    """Another process of gitrel holds the lock of this home or repository."""


class RemoteError(GitrelError):
    exit_code = ExitCode.REMOTE


class LocalStateError(GitrelError):
    exit_code = ExitCode.LOCAL_STATE


class BuildFailed(GitrelError):
    exit_code = ExitCode.BUILD_FAILED


class BadInput(GitrelError):
    exit_code = ExitCode.BAD_INPUT


class FormatError(BadInput):
    """Bytes that do not follow their format; the only error that leaves a parser of `gitrel.format`."""


class NoUsableKey(GitrelError):
    exit_code = ExitCode.NO_KEY


class Unhealthy(GitrelError):
    exit_code = ExitCode.UNHEALTHY


class Interrupted(GitrelError):
    exit_code = ExitCode.INTERRUPTED
