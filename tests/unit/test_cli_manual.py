"""Every command's help, and what is made of it: docs/cli.md and the man page."""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest
import typer
from conftest import program

from gitrel.cli.app import make_command
from gitrel.cli.manual import spelled
from gitrel.cli.reference import DOCS, Command, as_man_page, as_markdown, read_commands
from gitrel.errors import ExitCode

COMMANDS = read_commands()
TOP = make_command()
MAKE_AGAIN = "out of date: run `python -m gitrel.cli.reference`"


def leaf(name: str) -> tuple[Any, typer.Context]:
    """The command of that name, and the context in which its help is shown."""
    command: Any = TOP
    context = typer.Context(command, info_name="gitrel")
    for word in name.split()[1:]:
        command = command.commands[word]
        context = typer.Context(command, info_name=word, parent=context)
    return command, context


def leaves(command: Any) -> Iterator[Any]:
    for each in getattr(command, "commands", {}).values():
        yield from leaves(each) if hasattr(each, "commands") else [each]


def test_no_command_is_forgotten() -> None:
    assert len(COMMANDS) > 40
    assert len(COMMANDS) == sum(not each.hidden for each in leaves(TOP))


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_a_sentence_an_example_and_the_exit_codes(command: Command) -> None:
    said = command.sentence
    assert said[0].isupper()
    assert said.endswith(".")
    assert not re.search(r"\. [A-Z]", said), "one sentence"
    assert command.example.startswith(f"{command.name}")
    assert {ExitCode.DONE, ExitCode.UNEXPECTED, ExitCode.USAGE, ExitCode.INTERRUPTED} < {*command.codes}
    found, context = leaf(command.name)
    shown = " ".join(found.get_help(context).split())
    assert said in shown
    assert f"Example: {' '.join(command.example.split())}" in shown
    assert all(f"{int(code)} {spelled(code)}" in shown for code in command.codes)


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_an_example_is_a_command_line(command: Command) -> None:
    found, context = leaf(command.name)
    words = shlex.split(command.example.partition(" > ")[0])
    found.make_context(words[0], words[len(command.name.split()) :], parent=context.parent)
    written = [word for each in found.params for word in (*each.opts, *each.secondary_opts)]
    assert sorted(written) == sorted({*written}), "two options of one name"


def test_the_reference_is_up_to_date() -> None:
    assert (DOCS / "cli.md").read_text("utf-8") == as_markdown(COMMANDS), MAKE_AGAIN
    assert (DOCS / "gitrel.1").read_text("utf-8") == as_man_page(COMMANDS), MAKE_AGAIN


def test_the_man_page_is_one() -> None:
    done = subprocess.run(
        [program("groff"), "-man", "-ww", "-Tutf8", str(DOCS / "gitrel.1")], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "gitrel trust set-role" in re.sub(r"\x1b\[\d*m|.\x08", "", done.stdout)
