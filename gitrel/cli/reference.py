"""The reference, made of what the commands say of themselves: `python -m gitrel.cli.reference` in the sources.

It writes `docs/cli.md` and `docs/gitrel.1`, the man page. A test fails while they are not what it would write.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer

from gitrel.cli.app import make_command
from gitrel.cli.manual import parts, spelled
from gitrel.dataclass import dataclass
from gitrel.errors import ExitCode

DOCS = Path(__file__).parents[2] / "docs"
_EVERYWHERE = (
    ("-q, --quiet", "Results and errors only."),
    ("-v, --verbose", "Also say what takes how long."),
    ("--debug", "Show a traceback with an error."),
    ("-h, --help", "Show a command's help."),
)

_ENVIRONMENT = (
    ("GITREL_HOME", "A server's home, for --home."),
    ("NO_COLOR", "If it is not empty: no colours on a terminal."),
    ("COLUMNS", "How wide the terminal is."),
    ("TERM", "If it is dumb: plain lines."),
)
_HABITS = (
    "A terminal gets headings, colours and lines cut to its width, and is told what goes on when something takes over",
    "a second; a file, a pipe and a dumb terminal (`TERM=dumb`) get plain lines. `NO_COLOR=1` switches the colours",
    "off, `COLUMNS=100` sets the width. Results go to stdout, everything else to stderr; `--json` prints one document",
    "with a schema, and an [error](errors.md) is one too.",
    "",
    "`gitrel --install-completion` has bash, zsh or fish complete commands, options, and the names of releases,",
    "deploys, people and variables, from the repository or home in the current folder. It asks no remote and",
    "verifies nothing.",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """`arguments` and `options`: how they are written, and what they mean."""

    name: str
    sentence: str
    synopsis: str
    arguments: list[tuple[str, str]]
    options: list[tuple[str, str]]
    example: str
    codes: list[ExitCode]

    @property
    def schema(self) -> str | None:
        """Of what it prints with `--json`."""
        named = any(written == "--json" for written, _ in self.options)
        return f"{self.name.removeprefix('gitrel ').replace(' ', '-')}.json" if named else None


def read_commands() -> list[Command]:
    """Every command that is for people, in the order of the help."""
    return list(_walk(make_command(), None, "gitrel"))


def _walk(command: Any, parent: Any, name: str) -> Iterator[Command]:
    context = typer.Context(command, info_name=name.rpartition(" ")[2], parent=parent)
    inside = getattr(command, "commands", None)
    if inside is not None:
        for word, each in inside.items():
            if not each.hidden:
                yield from _walk(each, context, f"{name} {word}")
        return
    params = [each for each in command.get_params(context) if each.name != "help"]
    written = [(each.param_type_name, each.get_help_record(context)) for each in params]
    if not command.epilog:
        raise ValueError(f"{name}: `epilog=manual(EXAMPLE, CODES…)` is missing where the command is declared")
    example, codes = parts(command.epilog)
    yield Command(
        name=name,
        sentence=" ".join((command.help or "").split()),
        synopsis=" ".join([name, *command.collect_usage_pieces(context)]),
        arguments=[record for kind, record in written if record and kind == "argument"],
        options=[record for kind, record in written if record and kind == "option"],
        example=example,
        codes=codes,
    )


def as_markdown(commands: list[Command]) -> str:
    lines = [
        "# Commands",
        "",
        "For everybody who types `gitrel`: each command, what it takes, an example, and the",
        "[exit codes](exit-codes.md) that it may end with. This page is made from the commands' own help",
        "(`gitrel COMMAND --help`), and so is the man page `gitrel(1)`. Behind any command may stand:",
        "",
        *_table("option", _EVERYWHERE),
    ]
    lines += ["", *_HABITS]
    for each in commands:
        lines += ["", f"## {each.name}", "", each.sentence, "", f"    {each.synopsis}", "", "For example:"]
        lines += ["", f"    {each.example}"]
        for head, rows in (("argument", each.arguments), ("option", each.options)):
            lines += ["", *_table(head, rows)] if rows else []
        codes = ", ".join(f"{int(code)} {spelled(code)}" for code in each.codes)
        json = f" With `--json`: [{each.schema}](schemas/{each.schema})." if each.schema else ""
        lines += ["", f"Exit codes: {codes}.{json}"]
    return "\n".join(lines) + "\n"


def _table(head: str, rows: Any) -> list[str]:
    cells = [(written.replace("|", "\\|"), meaning.replace("|", "\\|")) for written, meaning in rows]
    return [f"| {head} | meaning |", "|---|---|", *(f"| `{written}` | {meaning} |" for written, meaning in cells)]


def as_man_page(commands: list[Command]) -> str:
    """man(7), as groff and mandoc read it."""
    lines = [
        '.TH GITREL 1 "" gitrel',
        ".SH NAME",
        "gitrel \\- build, release and run with git itself",
        ".SH SYNOPSIS",
        ".B gitrel",
        "\\fICOMMAND\\fR [\\fIOPTIONS\\fR]",
        ".SH DESCRIPTION",
        "Signed, append-only releases in an ordinary git repository. Behind any command may stand:",
        *_paragraphs(_EVERYWHERE),
        ".SH COMMANDS",
    ]
    for each in commands:
        lines += [f".SS {_troff(each.name)}", _troff(each.sentence), ".PP", f".B {_troff(each.synopsis)}"]
        lines += _paragraphs([*each.arguments, *each.options])
        codes = ", ".join(str(int(code)) for code in each.codes)
        lines += [".PP", "Example:", f".B {_troff(each.example)}", ".PP", f"Exit codes: {codes}."]
    lines += [".SH EXIT STATUS"]
    lines += _paragraphs([(str(int(code)), spelled(code)) for code in ExitCode])
    lines += [".SH ENVIRONMENT"]
    lines += _paragraphs(_ENVIRONMENT)
    lines += [".SH SEE ALSO", ".BR git (1),", ".BR ssh\\-keygen (1),", ".BR gitrepository\\-layout (5)"]
    return "\n".join(lines) + "\n"


def _paragraphs(rows: Any) -> list[str]:
    return [line for written, meaning in rows for line in (".TP", f".B {_troff(written)}", _troff(meaning))]


def _troff(text: str) -> str:
    """Escaped: backslashes, hyphens, quotes, and what would be a request at the start of a line."""
    text = text.replace("\\", "\\e").replace("-", "\\-").replace('"', "\\(dq").replace("`", "\\(ga")
    text = text.replace("'", "\\(aq").replace("…", "...")
    return re.sub(r"^([.'])", r"\\&\1", text) or "\\&"


def main() -> None:
    commands = read_commands()
    (DOCS / "cli.md").write_text(as_markdown(commands), "utf-8")
    (DOCS / "gitrel.1").write_text(as_man_page(commands), "utf-8")


if __name__ == "__main__":
    main()
