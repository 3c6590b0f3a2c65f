"""The whole command line, and the one place where an error becomes text and an exit status."""

from __future__ import annotations

import signal
import sys
import traceback
from typing import Annotated, Any

import typer
from typer.main import get_command_name
from typer.models import CommandInfo

from gitrel import __version__
from gitrel.cli.commands import audit, config, develop, export, reading, serve, trust
from gitrel.cli.console import Console
from gitrel.cli.outcome import unexpected
from gitrel.errors import ExitCode, GitrelError, Interrupted, UsageError

PARTS = (develop.app, reading.app, audit.app, serve.app)
GROUPS = {"config": config.app, "trust": trust.app, "export": export.app, "hook": serve.hook_app}


def make_app(word: str = "") -> typer.Typer:
    """All commands, or the one that `word` names: typer looks at every parameter of all that it is given (60 ms)."""
    app = typer.Typer(
        name="gitrel",
        help="Build, release and run with git itself: signed, append-only releases in an ordinary repository.",
        no_args_is_help=True,
        add_completion=True,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback(invoke_without_command=True)(_top)
    commands = [info for part in PARTS for info in part.registered_commands]
    chosen = [info for info in commands if name_of(info) == word]
    app.registered_commands += chosen or (commands if word not in GROUPS else [])
    for name, group in GROUPS.items():
        if name == word or (word not in GROUPS and not chosen):
            app.add_typer(group, name=name)
    return app


def name_of(info: CommandInfo) -> str:
    """The word on the command line."""
    return info.name or get_command_name(getattr(info.callback, "__name__", ""))


def _top(
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
    _debug: Annotated[bool, typer.Option("--debug", help="Show a traceback with an error.")] = False,
) -> None:
    if version:
        print(f"gitrel {__version__}")
        raise typer.Exit(0)


def run_command(argv: list[str]) -> int:
    """Run one command. Every `GitrelError` becomes a message and its exit status, everything else is a bug."""
    debug = "--debug" in argv
    console = Console(as_json="--json" in argv)
    try:
        app = make_app(next((word for word in argv if not word.startswith("-")), ""))
        outcome: Any = app(args=argv, prog_name="gitrel", standalone_mode=False)
    except GitrelError as error:
        if debug:
            traceback.print_exc()
        console.error(error)
        return error.exit_code
    except typer.TyperException as error:
        said = error.format_message()
        if said.startswith("Usage:"):  # a group without a command shows its help
            console.note(said)
        else:
            console.error(UsageError(said, hint="`gitrel COMMAND --help` shows what it takes"))
        return ExitCode.USAGE
    except (KeyboardInterrupt, typer.Abort):
        outcome = ExitCode.INTERRUPTED
    if outcome == ExitCode.INTERRUPTED:  # typer makes that of Ctrl-C by itself
        console.error(Interrupted("interrupted"))
    return outcome if isinstance(outcome, int) else ExitCode.DONE


def run() -> int:
    """The whole program: `run_command`, and what it cannot know about."""
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    signal.signal(signal.SIGTERM, _terminated)
    argv = sys.argv[1:]
    try:
        return run_command(argv)
    except SystemExit as leaving:
        return leaving.code if isinstance(leaving.code, int) else ExitCode.UNEXPECTED
    except BaseException as error:  # noqa: BLE001 - native code can raise what is no Exception
        return unexpected(error, "--debug" in argv)


def _terminated(_number: int, _frame: object) -> None:
    raise KeyboardInterrupt
