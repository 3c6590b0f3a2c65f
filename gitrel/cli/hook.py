"""`gitrel hook pre-receive`: run by git on a self-hosted remote, before a push lands.

What is pushed is read by this process, so the kernel bounds its memory and time; when it dies of that, git
lets nothing in.
"""

from __future__ import annotations

import os
import resource
import signal
import sys
from contextlib import ExitStack
from pathlib import Path

from gitrel.audit.gate import Layered, Update, admit, parse_updates
from gitrel.audit.places import RECORDS
from gitrel.cli.console import Console
from gitrel.cli.developer import parse_argument
from gitrel.errors import Refused
from gitrel.ids import ObjectId, Sha256
from gitrel.store.limits import Limits
from gitrel.store.location import GitConfig
from gitrel.store.repository import Repository
from gitrel.trust.checks import Check


def pre_receive(console: Console, pin: str | None) -> None:
    """Exit 10 keeps everything out that the push would create. Git's quarantine is read first (githooks(5))."""
    _bound(Limits())
    # a branch may have any name: only bytes are sure to come through
    updates = parse_updates(line.decode("utf-8", "surrogateescape") for line in sys.stdin.buffer)
    try:
        _admit(console, updates, pin)
    except MemoryError:
        raise Refused("too large to be verified", check=Check.TREE, why="the hook ran out of its memory") from None


def _admit(console: Console, updates: list[Update], pin: str | None) -> None:
    with ExitStack() as stack:
        home = stack.enter_context(Repository.open(Path(os.environ.get("GIT_DIR", ".")).absolute()))
        layers = [home]
        incoming = os.environ.get("GIT_OBJECT_DIRECTORY")
        if incoming is not None:
            layers.insert(0, stack.enter_context(Repository(home.path, None, home.format, Path(incoming).absolute())))
        refs: dict[str, ObjectId] = {}
        for prefix in RECORDS:
            refs |= home.refs.list(prefix)
        configured = GitConfig(home.path, os.environ).get(("gitrel",), "trust")
        stated = pin or configured
        trusted = parse_argument("--trust" if pin else "gitrel.trust", Sha256, stated) if stated else None
        for note in admit(refs, Layered(*layers), home.format, updates, trusted):
            console.note(f"note: {note}")


def _bound(limits: Limits) -> None:
    for kind, most in ((resource.RLIMIT_AS, limits.memory_bytes), (resource.RLIMIT_CPU, limits.cpu_seconds)):
        _, hard = resource.getrlimit(kind)
        ceiling = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(kind, (ceiling, ceiling))
    signal.alarm(limits.wall_seconds)
