"""Bad words: numbers, names, pins, values and options on the command line, and records that are not to be believed."""

from __future__ import annotations

import os
import re

import pytest
from room import Desk, Room, room
from test_cli_bad_input import ROWS as FILES
from test_cli_bad_input import Row, check_row, removes

__all__ = ["room"]  # the fixture


def released(desk: Desk) -> None:
    desk.gitrel("release")


ZERO = "0" * 64

ROWS: dict[str, Row] = {
    # verification
    "a wrong pin": Row(
        command=("release", "--trust", ZERO), code=10, what="not the trust that is pinned", where="refs/trust/v1",
        why=f"pinned is {ZERO}", next="compare",
    ),
    "a pin that is none": Row(command=("release", "--trust", "abc"), code=2, what="not a SHA-256", where="--trust"),
    "an empty pin is not no pin": Row(command=("verify", "--trust", ""), code=2, what="not a SHA-256", where="--trust"),
    "no trust to accept": Row(
        command=("init", "--trust", ZERO), started=False, code=11, what="no trust ledger to accept",
        where="refs/trust/v1",
    ),
    # entries, deploys, builds
    "no such release": Row(
        arrange=released, command=("show", "v99"), code=11, what="no release v99", where="refs/releases/v99",
        why="the newest is v1", next="gitrel log",
    ),
    "no such release to verify": Row(arrange=released, command=("verify", "v99"), code=11, what="no release v99"),
    "no such release to go back to": Row(arrange=released, command=("rollback", "v99"), code=11, what="no release v99"),
    "nothing to go back to": Row(
        arrange=released, command=("rollback",), code=11, what="no earlier release",
        where="refs/releases/v", why="1 of 1",
    ),
    "nothing to show": Row(command=("show",), code=11, what="no release that may run", why="none yet"),
    "a number that is none": Row(
        command=("show", "vN"), code=2, what="not a release such as v12: 'vN'", next="gitrel log"
    ),
    "a number with a zero": Row(command=("verify", "v01"), code=2, what="not a release such as v12: 'v01'"),
    "a number too large": Row(command=("rollback", "v9999999999"), code=2, what="not a release such as v12"),
    "a deploy's name that is none": Row(
        command=("log", "--deploy", "Staging!"), code=2, what="not a deploy's name", where="--deploy"
    ),
    "no such build": Row(command=("release", "--build", "abcdef"), code=11, what="no such build", where="abcdef"),
    "a build's name that is too short": Row(
        command=("release", "--build", ""), code=2, what="not a build's id", where="--build", next="4 digits"
    ),
    "a message with a control character": Row(
        command=("release", "-m", "one\x1b[2J"), code=2, what="the message has a control character", where="--message"
    ),
    "an app's name that is none": Row(
        arrange=removes("gitrel.toml"), command=("init", "--app", "My Shop"), started=False, code=2,
        what="not an app's name", where="--app",
    ),
    "another app than gitrel.toml's": Row(
        command=("init", "--app", "other"), started=False, code=16, what="app = 'shop'", where="gitrel.toml",
        why="--app says other",
    ),
    "a person's name that is none": Row(
        command=("init", "--person", "a b"), started=False, code=2, what="not a person's name", where="--person"
    ),
    # config
    "a variable's name that is none": Row(
        command=("config", "set", "A=1", "2B=hunter2"), code=16, what="not a variable's name: '2B'", where="argument 2"
    ),
    "no name": Row(command=("config", "set", "=hunter2"), code=16, what="not a variable's name", where="argument 1"),
    "no equals sign": Row(command=("config", "set", "hunter2"), code=16, what="not NAME=value", where="argument 1"),
    "a value that is not UTF-8": Row(
        command=("config", "set", os.fsdecode(b"A=hunter2\xff")), code=16, what="the value of A is not UTF-8"
    ),
    "a value too long": Row(
        command=("config", "set", "A=" + "hunter2" * 18695), code=16, what="the value of A is too long", why="at most"
    ),
    "two values": Row(command=("config", "set", "A=hunter2", "A=x"), code=16, what="A is given twice"),
    "a name to unset that is none": Row(command=("config", "unset", "A B"), code=16, what="not a variable's name"),
    "a name to unset that is not set": Row(
        command=("config", "unset", "A"), code=11, what="no such variable", where="^A$", next="gitrel config list"
    ),
    # the user's own state
    "known apps that cannot be read": Row(
        arrange=lambda desk: (desk.home / ".config/gitrel/known_apps").write_text("# pins\nnonsense\n"), code=16,
        what="not a SHA-256", where="known_apps:2$", next="<pin> <app>",
    ),
}  # fmt: skip

USAGE = {
    "unknown option": (("release", "--wat"), "--wat", "gitrel release"),
    "missing value": (("release", "--message"), "--message", "gitrel release"),
    "missing argument": (("config", "set"), "NAME=VALUE", "gitrel config set"),
    "one argument too many": (("rollback", "v1", "v2"), "v2", "gitrel rollback"),
    "unknown command": (("releas",), "releas", "gitrel"),
    "unknown command of config": (("config", "sett"), "sett", "gitrel config"),
}


@pytest.mark.parametrize("name", ROWS)
def test_bad_words(room: Room, name: str) -> None:
    check_row(room, ROWS[name])


@pytest.mark.parametrize("name", USAGE)
def test_usage(room: Room, name: str) -> None:
    desk = room.desk()
    before = desk.snapshot()
    words, named, helped = USAGE[name]
    done = desk.gitrel(*words, code=2)
    assert re.fullmatch(rf"gitrel: .*{re.escape(named)}.*\n  next: `{re.escape(helped)} --help` .*\n", done.err)
    assert desk.gitrel(*words[:-1], "--json", words[-1], code=2).json["error"]["exit_code"] == 2
    assert desk.snapshot() == before


def test_the_catalogue_has_every_class_of_error() -> None:
    rows = [*FILES.values(), *ROWS.values()]
    assert {row.code for row in rows} == {2, 10, 11, 13, 15, 16, 17}
    assert not FILES.keys() & ROWS.keys()
