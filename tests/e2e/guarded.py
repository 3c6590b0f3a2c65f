"""A remote guarded by the hook, and pushes by stock git: what the tests of the hook have in common.

`desk` and `template` are fixtures; what takes many commands is made once for a module.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from handmade import (
    called,
    install_hook,
    keep,
    restored,
)
from room import Desk, Done, Room

KINDS = ("trust", "builds", "config", "releases", "approvals")


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("template")


@pytest.fixture
def desk(room: Room, template: Path) -> Desk:
    """An app with two releases on a remote that is guarded from its first push on; bob may release too."""
    kept = restored(room, template)
    if kept is not None:
        return kept
    desk = called(room.desk(), "alice")
    install_hook(room.remote)
    desk.gitrel("init")
    desk.gitrel("trust", "add", "bob", str(room.people["bob"].path) + ".pub", "--yes")
    desk.gitrel("trust", "set-role", "release", "alice", "bob", "--yes")
    desk.gitrel("release")
    desk.gitrel("release")
    desk.git("push", "-q", "origin", "main")
    keep(room, template)
    return desk


def clone(room: Room, name: str, person: str) -> Desk:
    """A machine with all of the ledgers, without gitrel's knowledge of the trust."""
    other = room.clone(name, person)
    other.git("fetch", "-q", "origin", *(f"refs/{kind}/*:refs/{kind}/*" for kind in KINDS))
    return other


def push(desk: Desk, *refspecs: str) -> Done:
    return desk.attempt("push", "origin", *refspecs)


def refused(desk: Desk, check: int, *refspecs: str) -> str:
    """The push is refused by that check, whole; what the hook said."""
    before = desk.remote_refs()
    done = push(desk, *refspecs)
    assert done.code == 1, done.out + done.err
    assert "pre-receive hook declined" in done.err
    assert f"(check {check})" in done.err, done.err
    assert "Traceback" not in done.err
    assert desk.remote_refs() == before
    return done.err


def landed(desk: Desk, *refspecs: str) -> Done:
    done = push(desk, *refspecs)
    assert done.code == 0, done.out + done.err
    return done
