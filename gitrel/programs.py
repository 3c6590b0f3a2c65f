"""What a process that gitrel starts for itself gets: git, ssh, a credential helper. For `preexec_fn`s."""

from __future__ import annotations

import ctypes
import os
import resource
import signal

_PR_SET_PDEATHSIG = 1  # prctl(2)
_LIBC = ctypes.CDLL(None, use_errno=True)


def die_with_parent() -> None:
    """Nothing is left behind by a child that was killed."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def end_with(parent: int) -> None:
    """The same, said by the child itself, also if its parent is gone already."""
    die_with_parent()
    if os.getppid() != parent:
        os._exit(1)


def be_free_of_limits() -> None:
    """git and ssh bring their own; ours are measured for what the child does with hostile bytes."""
    die_with_parent()
    for kind in (resource.RLIMIT_AS, resource.RLIMIT_FSIZE, resource.RLIMIT_CPU):
        resource.setrlimit(kind, (resource.getrlimit(kind)[1],) * 2)
