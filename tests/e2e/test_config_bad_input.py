"""What is wrong with a change of config: the exit code, the words, and that nothing changed or leaked."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from handmade import config_by_hand
from room import Desk, Room, room, run

__all__ = ["room"]  # the fixture


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    command: tuple[str, ...]
    code: int
    what: str = ""
    where: str = ""
    why: str = ""
    next: str = ""
    stdin: bytes = b""
    arrange: Callable[[Desk], object] = lambda _: None


def reader(desk: Desk, kind: str = "ed25519") -> Path:
    """A reader whose key is not on this machine's usual places."""
    path = desk.path.parent / f"reader-{kind}"
    subprocess.run(["ssh-keygen", "-q", "-t", kind, "-N", "", "-C", "root@web1", "-f", str(path)], check=True)
    desk.gitrel("trust", "add-reader", "--yes", path.with_suffix(".pub").read_text().strip())
    return path


def secret(desk: Desk) -> None:
    reader(desk)
    desk.gitrel("config", "set", "--secret", "DB=hunter2")


def tampered(desk: Desk) -> None:
    """A signed entry whose age file is damaged, made with stock git by somebody with the role."""
    secret(desk)
    raw = bytearray(desk.raw("refs/config/v1:DB.age", "blob"))
    raw[-1] ^= 1
    oid = desk.store(bytes(raw), "blob")
    tree = desk.git("mktree", stdin=f"100644 blob {oid}\tDB.age\n".encode())
    made = config_by_hand(desk, tree, entry=2, trust=2, previous="refs/config/v1")
    desk.git("push", "-q", "origin", f"{made}:refs/config/v2")
    desk.gitrel("build")  # which brings the ref here


ROWS = {
    "no such file": Row(command=("config", "import", "none.env"), code=11, what="cannot read it", where="none.env"),
    "no file for a value": Row(command=("config", "set", "--from-file", "A=none"), code=11, where="none"),
    "a folder": Row(command=("config", "import", "."), code=11, where="."),
    "a bad line": Row(
        command=("config", "import", "-"), code=16, stdin=b"A=1\n\nhunter2 x\n", what="not NAME=value",
        where="standard input:3",
    ),
    "a bad name in a file": Row(
        command=("config", "import", "-"), code=16, stdin=b"A=1\nB-C=hunter2\n", what="not a variable's name",
        where="standard input:2",
    ),
    "a bad name from stdin": Row(command=("config", "set", "1A=-"), code=16, stdin=b"hunter2", what="not a variable's"),
    "a bad name from a file": Row(command=("config", "set", "--from-file", "1A=app.py"), code=16, what="not a var"),
    "no path": Row(command=("config", "set", "--from-file", "app.py"), code=2, what="not NAME=PATH"),
    "NUL": Row(command=("config", "set", "A=-"), code=16, stdin=b"hunter2\0", what="the value of A has a NUL byte"),
    "NUL in a secret": Row(
        command=("config", "set", "--secret", "A=-"), code=16, stdin=b"hunter2\0", what="has a NUL", arrange=reader
    ),
    "not UTF-8": Row(command=("config", "set", "A=-"), code=16, stdin=b"hunter2\xff", what="is not UTF-8"),
    "too long": Row(command=("config", "set", "A=-"), code=16, stdin=b"hunter2" * 20000, why="at most 130816"),
    "a secret too long": Row(
        command=("config", "set", "--secret", "A=-"), code=16, stdin=b"hunter2" * 20000, why="at most 130816",
        arrange=reader,
    ),
    "too much": Row(
        command=("config", "import", "-"), code=16, why="at most 1048576",
        stdin=b"".join(b"A%d=%s\n" % (number, b"x" * 120000) for number in range(9)),
        what="the config is too large",
    ),
    "two from stdin": Row(command=("config", "set", "A=-", "B=-"), code=2, what="two values from one standard input"),
    "two values": Row(command=("config", "set", "A=1", "A=-"), code=16, stdin=b"hunter2", what="A is given twice"),
    "no readers": Row(
        command=("config", "set", "--secret", "A=hunter2"), code=16, what="nobody could read that secret",
        where="the readers of production", next="trust add-reader",
    ),
    "a variable to unset that is none": Row(
        command=("config", "unset", "LOG_LEVE"), code=11, where="LOG_LEVE", why="did you mean LOG_LEVEL?",
        arrange=lambda desk: desk.gitrel("config", "set", "LOG_LEVEL=1"),
    ),
    "a variable to get that is none": Row(command=("config", "get", "A"), code=11, what="no such variable"),
    "a variable without a history": Row(command=("config", "log", "A"), code=11, what="no such variable"),
    "no such entry": Row(command=("config", "diff", "v3"), code=11, what="no config v3", why="there is none yet"),
    "not an entry": Row(command=("config", "diff", "x"), code=2, what="not a config entry such as v12: 'x'"),
    "no key for reading": Row(
        command=("config", "get", "--reveal", "DB"), code=17, what="no key here reads that secret", where="DB",
        why="it is encrypted to root@web1", arrange=secret,
    ),
    "no such key": Row(
        command=("config", "get", "--reveal", "DB", "--identity", "none"), code=17, where="none", arrange=secret
    ),
    "no key for encrypting anew": Row(
        command=("config", "reencrypt", "--all"), code=17, what="no key here reads", where="DB", arrange=secret
    ),
    "a damaged file": Row(
        command=("config", "get", "--reveal", "DB", "--identity", "../reader-ed25519"), code=16,
        what="not an age file, or a damaged one", where="DB", arrange=tampered,
    ),
    "a damaged file, encrypted anew": Row(
        command=("config", "reencrypt", "--all", "--identity", "../reader-ed25519"), code=16, what="damaged",
        arrange=tampered,
    ),
    "no such deploy": Row(command=("config", "list", "--deploy", "x"), code=11, what="no deploy x", why="production"),
    "nearly a deploy": Row(
        command=("config", "set", "A=1", "--deploy", "productoin"), code=11, what="no deploy productoin",
        why="did you mean production?", next="trust set-role",
    ),
    "a release of nearly a deploy": Row(command=("release", "--deploy", "prodution"), code=11, why="did you mean"),
    "a log of no deploy": Row(command=("log", "--deploy", "staging"), code=11, what="no deploy staging"),
    "a verdict on no deploy": Row(command=("verify", "--deploy", "staging"), code=11, what="no deploy staging"),
    "a promotion from no deploy": Row(command=("promote", "--from", "stagin"), code=11, what="no deploy stagin"),
    "a promotion to itself": Row(
        command=("promote", "--from", "production"), code=2, what="production cannot be promoted to itself"
    ),
    "a promotion of nothing": Row(
        command=("promote", "--from", "staging", "v1"), code=11, what="no release v1",
        arrange=lambda desk: desk.gitrel("config", "set", "A=1", "--deploy", "staging"),
    ),
    "a promotion from no name": Row(command=("promote", "--from", "V!"), code=2, where="--from"),
    "what the build requires": Row(
        command=("release",), code=16, what="the config of production lacks DATABASE_URL", where="gitrel.toml",
        arrange=lambda desk: desk.manifest('[run]\nrequired_env = ["HOME_PAGE", "DATABASE_URL"]\n') and desk.gitrel(
            "config", "set", "HOME_PAGE=x"
        ),
    ),
    "requirements that are none": Row(
        command=("build",), code=16, what="run.required_env: not a variable's name: 'A-B'",
        arrange=lambda desk: desk.manifest('[run]\nrequired_env = ["A-B"]\n'),
    ),
    "requirements that are a process": Row(
        command=("build",), code=16, what="run.required_env: expected a list",
        arrange=lambda desk: desk.manifest('[run.required_env]\nscale = 2\n'),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", ROWS)
def test_what_is_refused(room: Room, name: str) -> None:
    row = ROWS[name]
    desk = room.started()
    row.arrange(desk)
    before = desk.snapshot()
    done = run(desk.argv(*row.command), desk.path, desk.env, row.stdin)
    assert done.code == row.code, done.out + done.err
    said = done.message
    for part in ("what", "where", "why", "next"):
        assert getattr(row, part) in said.get(part, ""), done.err
    assert said["next"]
    assert "hunter2" not in done.out + done.err
    assert "Traceback" not in done.err
    assert desk.snapshot() == before
