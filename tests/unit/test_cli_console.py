"""What a terminal gets, and what everybody else gets; -q, -v, --debug."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest

from gitrel.cli.app import run_command
from gitrel.cli.console import Console
from gitrel.errors import ExitCode

ROOT = Path(__file__).parents[2]
TABLE = """
from gitrel.cli.console import Console
from gitrel.errors import NotFound
console = Console()
rows = [["v2", "alice", "a subject of some length"], ["v1", "REFUSED", "another\\x1b[2J"]]
console.table(rows, ("release", "by", "why"))
console.facts([("REFUSED", "v1"), ("verdict", "good")])
console.error(NotFound("no release v9", where="refs/releases/v9"))
"""
PLAIN = r"""
v2  alice    a subject of some length
v1  REFUSED  another\x1b[2J
REFUSED    v1
verdict    good
gitrel: no release v9
  where: refs/releases/v9
  next: `gitrel log` lists what there is
"""[1:]
COLOURED = r"""
{1}release{0}  {1}by{0}       {1}why{0}
v2       alice    a subject of …
v1       {31}REFUSED{0}  another\x1b[2J
{31}REFUSED{0}    v1
{1}verdict{0}    {32}good{0}
{31}gitrel:{0} no release v9
  {1}where{0}: refs/releases/v9
  {1}next{0}: `gitrel log` lists what there is
"""[1:]
BARE = r"""
release  by       why
v2       alice    a subject of …
v1       REFUSED  another\x1b[2J
"""[1:]


def on_a_terminal(argv: list[str], **env: str) -> str:
    """What a program writes to a terminal of its own."""
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        argv, env={**os.environ, "PYTHONPATH": str(ROOT), **env}, stdin=theirs, stdout=theirs, stderr=theirs
    ) as running:
        os.close(theirs)
        shown = b""
        while True:
            try:
                piece = os.read(ours, 65536)
            except OSError:  # the last one closed it (pty(7))
                break
            if not piece:
                break
            shown += piece
        assert running.wait(60) == 0
    os.close(ours)
    return shown.decode().replace("\r\n", "\n")


def test_a_terminal() -> None:
    argv = [sys.executable, "-c", TABLE]
    coloured = re.sub(r"\{(\d+)\}", "\x1b[\\1m", COLOURED)
    assert on_a_terminal(argv, TERM="xterm", COLUMNS="32") == coloured
    assert on_a_terminal(argv, TERM="xterm", COLUMNS="32", NO_COLOR="1").startswith(BARE)
    assert on_a_terminal(argv, TERM="xterm", COLUMNS="32", NO_COLOR="").startswith("\x1b[1mrelease")
    assert on_a_terminal(argv, TERM="dumb", COLUMNS="32") == PLAIN


def test_a_pipe() -> None:
    env = {**os.environ, "PYTHONPATH": str(ROOT), "TERM": "xterm"}
    done = subprocess.run(
        [sys.executable, "-c", TABLE], env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=True
    )
    assert done.stdout == PLAIN


WORK = """
import sys, threading
from gitrel.cli import console
console._SLOW, console.Console.verbosity = 0.01, int(sys.argv[1])
told = threading.Event()
note = console.Console.note
console.Console.note = lambda self, text: (note(self, text), told.set())
with console.Console().working("asking"):
    if sys.argv[2:]:
        told.wait(60)
console.Console().note("a note")
console.Console().note("WARNING: a warning")
"""


@pytest.mark.parametrize(
    ("verbosity", "said"),
    [
        (-1, ["WARNING: a warning"]),
        (0, ["a note", "WARNING: a warning"]),
        (1, ["asking: ", "a note", "WARNING: a war"]),
    ],
)
def test_quiet_and_verbose(verbosity: int, said: list[str]) -> None:
    argv = [sys.executable, "-c", WORK, str(verbosity)]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(argv, env=env, capture_output=True, text=True, check=True)
    assert done.stdout == ""
    lines = done.stderr.splitlines()
    assert len(lines) == len(said)
    assert all(line.startswith(start) for line, start in zip(lines, said, strict=True))


def test_a_terminal_is_told_what_takes_long() -> None:
    shown = on_a_terminal([sys.executable, "-c", WORK, "0", "wait"], TERM="xterm")
    assert shown == "asking …\na note\nWARNING: a warning\n"


@pytest.mark.parametrize(
    ("words", "verbosity"),
    [("log", 0), ("-q log", -1), ("log --quiet", -1), ("config list -v", 1), ("bisect --good v1 -- grep -q -v x", 0)],
)
def test_every_command_takes_them(
    words: str, verbosity: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Console, "verbosity", 9)
    monkeypatch.chdir(tmp_path)
    assert run_command(words.split(" ")) == ExitCode.NOT_FOUND
    assert Console.verbosity == verbosity
    assert "not a git repository" in capsys.readouterr().err


@pytest.mark.parametrize("where", ["before", "behind", "not at all"])
def test_a_traceback_is_for_debug_alone(where: str, tmp_path: Path) -> None:
    words = {"before": ["--debug", "log"], "behind": ["log", "--debug"], "not at all": ["log"]}[where]
    argv = [sys.executable, "-P", "-m", "gitrel", *words]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(argv, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 11
    assert done.stderr.endswith("next: run it in a repository, or `git init`\n")
    assert ("Traceback" in done.stderr) == (where != "not at all")
