"""The whole command line, and the one place where an error becomes text and an exit status."""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, cast

import typer
from typer.core import TyperGroup, TyperOption
from typer.main import get_command, get_command_name
from typer.models import CommandInfo

from gitrel import __version__
from gitrel.cli.commands import audit, config, develop, export, reading, serve, trust, witness
from gitrel.cli.console import Console
from gitrel.cli.outcome import unexpected
from gitrel.errors import ExitCode, GitrelError, Interrupted, UsageError

PARTS = (develop.app, reading.app, audit.app, serve.app, witness.app)
EPILOG = """`gitrel COMMAND --help` has an example and the exit codes. -q, -v and --debug may stand behind any command.
`gitrel --install-completion` has the shell complete commands, releases, deploys, people and variables."""
GROUPS = {"config": config.app, "trust": trust.app, "export": export.app, "hook": serve.hook_app}


def make_app(word: str = "") -> typer.Typer:
    """All commands, or the one that `word` names: typer looks at every parameter of all that it is given (60 ms)."""
    app = typer.Typer(
        name="gitrel",
        help="Build, release and run with git itself: signed, append-only releases in an ordinary repository.",
        epilog=EPILOG,
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
    _quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Results and errors only.")] = False,
    _verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Also say what takes how long.")] = False,
    _debug: Annotated[bool, typer.Option("--debug", help="Show a traceback with an error.")] = False,
) -> None:
    if version:
        print(f"gitrel {__version__}")
        raise typer.Exit(0)


def make_command(word: str = "") -> TyperGroup:
    """`make_app`'s commands, each with the options that every command has."""
    top = cast(TyperGroup, get_command(make_app(word)))
    todo: list[Any] = [top]
    while todo:
        command = todo.pop()
        if isinstance(command, TyperGroup):
            todo += command.commands.values()
        if command is not top:
            command.params += [
                TyperOption(param_decls=[*words], is_flag=True, expose_value=False, hidden=True)
                for words in (("-q", "--quiet"), ("-v", "--verbose"), ("--debug",))
            ]
    return top


def _typed(argv: Sequence[str], env: Mapping[str, str]) -> Sequence[str]:
    """The words that say which command it is; while a shell asks for completions, those before the one it asks for."""
    if "_GITREL_COMPLETE" not in env:
        return argv
    line = env.get("COMP_WORDS", "") or env.get("_TYPER_COMPLETE_ARGS", "")
    return line.split()[1 : None if line[-1:].isspace() else -1]


def run_command(argv: list[str]) -> int:
    """Run one command. Every `GitrelError` becomes a message and its exit status, everything else is a bug."""
    own = argv[: argv.index("--")] if "--" in argv else argv
    debug = "--debug" in own
    Console.verbosity = len({"-v", "--verbose"} & {*own}) - len({"-q", "--quiet"} & {*own})
    console = Console(as_json="--json" in own)
    word = next((word for word in _typed(argv, os.environ) if not word.startswith("-")), "")
    named = "gitrel"
    try:
        command = make_command(word)
        named = f"gitrel {word}" if word in command.commands else named
        outcome: Any = command(args=argv, prog_name="gitrel", standalone_mode=False)
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
            path = getattr(getattr(error, "ctx", None), "command_path", named)  # not every error has a context
            console.error(UsageError(said, hint=f"`{path} --help` shows what it takes"))
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
