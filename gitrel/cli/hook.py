"""`gitrel hook pre-receive`: run by git on a self-hosted remote, before a push lands."""

from __future__ import annotations

import os
import sys
from contextlib import ExitStack
from pathlib import Path

from gitrel.audit.gate import NAMESPACES, Layered, admit, parse_updates
from gitrel.cli.console import Console
from gitrel.ids import ObjectId, Sha256
from gitrel.store.location import GitConfig
from gitrel.store.repository import Repository


def pre_receive(console: Console, pin: str | None) -> None:
    """Exit 10 keeps everything out that the push would create. Git's quarantine is read first (githooks(5))."""
    updates = parse_updates(sys.stdin)
    with ExitStack() as stack:
        home = stack.enter_context(Repository.open(Path(os.environ.get("GIT_DIR", ".")).absolute()))
        layers = [home]
        incoming = os.environ.get("GIT_OBJECT_DIRECTORY")
        if incoming is not None:
            layers.insert(0, stack.enter_context(Repository(home.path, None, home.format, Path(incoming).absolute())))
        refs: dict[str, ObjectId] = {}
        for prefix in NAMESPACES:
            refs |= home.refs.list(prefix)
        stated = pin or GitConfig(home.path, os.environ).get(("gitrel",), "trust")
        trusted = Sha256(stated) if stated else None
        for note in admit(refs, Layered(*layers), home.format, updates, trusted):
            console.note(f"note: {note}")
