"""What a command imports until its work is done: modules are counted, in real runs, as no clock says the same twice.

To have one more on the way is a decision: it takes a higher number here, and a reason in the commit.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from room import Desk, Room, room

__all__ = ["room"]  # the fixture

ORDER: dict[str, Any] = {
    "entry": None,
    "scales": {},
    "port": 5000,
    "stop_if_repudiated": False,
    "release_phase": True,
    "keep": 5,
}
ANSWERED = ["sh", "-c", 'exec "$@" 3>&1 >&2', "sh"]  # `gitrel look` says on descriptor 3 what is to run


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """How many modules of gitrel's `own`, how many in `all` with Python 3.11 to 3.13, and some that are `unwanted`."""

    own: int
    all: int
    unwanted: set[str]


SUPERVISING = {"gitrel.run.supervise", "gitrel.run.tend", "gitrel.run.health"}
UNUSED = {"gitrel.keys.private", "gitrel.store.checkout", "isal", "pyrage", "rich", "urllib3"}
BUDGETS = {
    "exec": Budget(
        own=63,
        all=174,
        unwanted=UNUSED
        | {"gitrel.cli.app", "gitrel.run.pull", "gitrel.run.supervise", "gitrel.store.pack", "gitrel.store.remote"}
        | {"dataclasses", "dulwich", "inspect", "shutil", "subprocess", "traceback", "typer"},
    ),
    "status": Budget(own=91, all=282, unwanted=UNUSED | SUPERVISING),
    "poll": Budget(own=99, all=290, unwanted=UNUSED | SUPERVISING),
    "log": Budget(own=100, all=316, unwanted=(UNUSED - {"isal"}) | {"gitrel.run"}),
}


def imported(argv: list[str], cwd: Path, env: Mapping[str, str]) -> tuple[set[str], str]:
    """The modules that a command imports, and what it answers."""
    command = [sys.executable, "-P", "-X", "importtime", "-m", "gitrel", *argv]
    done = subprocess.run([*ANSWERED, *command], cwd=cwd, env=env, capture_output=True, text=True, check=True)
    lines = [line for line in done.stderr.splitlines() if line.startswith("import time:")]
    return {line.rpartition("|")[2].strip() for line in lines[1:]}, done.stdout


def test_a_start_is_lean(room: Room) -> None:
    desk: Desk = room.started()
    desk.gitrel("release")
    home = str(room.folder / "home")
    desk.gitrel("join", str(room.remote), home, "--first-use")
    desk.gitrel("pull", "--home", home)
    look = ["look", "--home", home, "--order", json.dumps(ORDER), "--last"]
    first: dict[str, Any] = json.loads(imported([*look, ""], desk.path, desk.env)[1])
    commands = {
        "exec": ["exec", "--home", home, "--", "true"],
        "status": ["status", "--home", home],
        "poll": [*look, first["token"]],  # which a server does every half a minute
        "log": ["log"],
    }
    assert commands.keys() == BUDGETS.keys()
    for name, words in commands.items():
        found, answer = imported(words, desk.path, desk.env)
        budget = BUDGETS[name]
        assert {"gitrel.trust.chain", "cryptography.hazmat.primitives.asymmetric.ed25519"} <= found, "it verified"
        assert name != "poll" or json.loads(answer)["same"], "nothing was new"
        assert (name, found & budget.unwanted) == (name, set())
        own = sorted(each for each in found if each.partition(".")[0] == "gitrel")
        assert (name, len(own) <= budget.own) == (name, True), own
        assert (name, len(found) <= budget.all) == (name, True), sorted(found)
