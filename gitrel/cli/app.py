"""All commands, their options, and the one place where an error becomes text and an exit status."""

from __future__ import annotations

import signal
import sys
import traceback
from pathlib import Path
from typing import Annotated, Any

import typer

from gitrel import __version__
from gitrel.cli.console import Console, escaped
from gitrel.errors import ExitCode, GitrelError

app = typer.Typer(
    name="gitrel",
    help="Build, release and run with git itself: signed, append-only releases in an ordinary repository.",
    no_args_is_help=True,
    add_completion=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
config_app = typer.Typer(no_args_is_help=True, help="Read and change a deploy's variables.", rich_markup_mode=None)
app.add_typer(config_app, name="config")

Repo = Annotated[Path | None, typer.Option("--repo", help="The repository; default: the one you are in.")]
RemoteName = Annotated[
    str | None,
    typer.Option("--remote", help="Its remote; default: origin if there is one. `none`: do without."),
]
DeployName = Annotated[str, typer.Option("--deploy", help="The deploy.")]
Pin = Annotated[str | None, typer.Option("--trust", metavar="PIN", help="SHA-256 of trust v1, as `init` prints it.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")]
HomePath = Annotated[
    Path | None,
    typer.Option("--home", envvar="GITREL_HOME", help="The server's home; default: the current folder."),
]
Message = Annotated[str | None, typer.Option("-m", "--message", help="What the release is about.")]
Scale = Annotated[str, typer.Option("-c", "--scale", metavar="web=2,worker=1", help="How many of each process type.")]
Port = Annotated[int, typer.Option("--port", envvar="PORT", help="PORT of the first process type's first process.")]


@app.callback(invoke_without_command=True)
def _top(
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
    _debug: Annotated[bool, typer.Option("--debug", help="Show a traceback with an error.")] = False,
) -> None:
    if version:
        print(f"gitrel {__version__}")
        raise typer.Exit(0)


@app.command()
def init(
    app_name: Annotated[str | None, typer.Option("--app", help="The app's name; default: the folder's.")] = None,
    person: Annotated[str | None, typer.Option("--person", help="Your name in trust.toml.")] = None,
    key: Annotated[Path | None, typer.Option("--key", help="The SSH key to sign with; default: git's setting.")] = None,
    trust: Pin = None,
    first_use: Annotated[bool, typer.Option("--first-use", help="Accept the remote's trust as it is now.")] = False,
    repo: Repo = None,
    remote: RemoteName = None,
    json: Json = False,
) -> None:
    """Start an app's ledger with you in every role, or accept the one that its remote has."""
    from gitrel.cli.stage_release import init as command

    command(Console(as_json=json), repo, remote, app_name, person, key, trust, first_use)


@app.command()
def build(
    rev: Annotated[str, typer.Argument(help="The source commit.")] = "HEAD",
    local: Annotated[bool, typer.Option("--local", help="Do not push the build.")] = False,
    repo: Repo = None,
    remote: RemoteName = None,
    trust: Pin = None,
    json: Json = False,
) -> None:
    """Build a commit in a clean checkout of it, and store the signed build."""
    from gitrel.cli.stage_build import build as command

    command(Console(as_json=json), repo, "none" if local else remote, rev, trust)


@app.command()
def release(
    rev: Annotated[str, typer.Argument(help="The source commit; built if it is not yet.")] = "HEAD",
    build_id: Annotated[str | None, typer.Option("--build", help="Release this build record instead.")] = None,
    message: Message = None,
    deploy: DeployName = "production",
    repo: Repo = None,
    remote: RemoteName = None,
    trust: Pin = None,
    json: Json = False,
) -> None:
    """Combine a build with the deploy's config into the next release: signed, pushed, immutable."""
    from gitrel.cli.stage_release import release as command

    command(Console(as_json=json), repo, remote, deploy, trust, rev, build_id, message)


@app.command()
def rollback(
    to: Annotated[str | None, typer.Argument(metavar="[vN]", help="Default: the release before the newest.")] = None,
    keep_config: Annotated[bool, typer.Option("--keep-config", help="With today's config.")] = False,
    message: Message = None,
    deploy: DeployName = "production",
    repo: Repo = None,
    remote: RemoteName = None,
    trust: Pin = None,
    json: Json = False,
) -> None:
    """Make a new release with the build and config of an earlier one."""
    from gitrel.cli.stage_release import rollback as command

    command(Console(as_json=json), repo, remote, deploy, trust, to, keep_config, message)


@config_app.command("set")
def config_set(
    assignments: Annotated[list[str], typer.Argument(metavar="NAME=VALUE…")],
    deploy: DeployName = "production",
    repo: Repo = None,
    remote: RemoteName = None,
    trust: Pin = None,
    json: Json = False,
) -> None:
    """Set variables; the next release carries them."""
    from gitrel.cli.stage_release import change_config

    change_config(Console(as_json=json), repo, remote, deploy, trust, assignments, [])


@config_app.command("unset")
def config_unset(
    names: Annotated[list[str], typer.Argument(metavar="NAME…")],
    deploy: DeployName = "production",
    repo: Repo = None,
    remote: RemoteName = None,
    trust: Pin = None,
    json: Json = False,
) -> None:
    """Remove variables; the next release is without them."""
    from gitrel.cli.stage_release import change_config

    change_config(Console(as_json=json), repo, remote, deploy, trust, [], names)


@config_app.command("list")
def config_list(
    deploy: DeployName = "production",
    repo: Repo = None,
    remote: RemoteName = None,
    trust: Pin = None,
    json: Json = False,
) -> None:
    """The deploy's variables, as the next release will have them."""
    from gitrel.cli.stage_release import list_config

    list_config(Console(as_json=json), repo, remote, deploy, trust)


@app.command()
def log(
    deploy: DeployName = "production",
    repo: Repo = None,
    remote: RemoteName = None,
    trust: Pin = None,
    json: Json = False,
) -> None:
    """The deploy's releases, newest first."""
    from gitrel.cli.reading import log as command

    command(Console(as_json=json), repo, remote, deploy, trust)


@app.command()
def show(
    entry: Annotated[str | None, typer.Argument(metavar="[vN]", help="Default: the newest that may run.")] = None,
    deploy: DeployName = "production",
    repo: Repo = None,
    remote: RemoteName = None,
    trust: Pin = None,
    json: Json = False,
) -> None:
    """One release: who, when, what it is made of."""
    from gitrel.cli.reading import show as command

    command(Console(as_json=json), repo, remote, deploy, trust, entry)


@app.command()
def verify(
    entry: Annotated[str | None, typer.Argument(metavar="[vN]", help="Default: the newest that may run.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="The files of every release, not of one.")] = False,
    deploy: DeployName = "production",
    repo: Repo = None,
    remote: RemoteName = None,
    trust: Pin = None,
    json: Json = False,
) -> None:
    """Verify the whole ledger's records, and the files of one release (or of all)."""
    from gitrel.cli.reading import verify as command

    command(Console(as_json=json), repo, remote, deploy, trust, entry, everything)


@app.command()
def join(
    url: Annotated[str, typer.Argument(help="The repository, as git would name it.")],
    home: Annotated[Path, typer.Argument(help="A folder that does not exist yet, or is empty.")],
    trust: Pin = None,
    first_use: Annotated[bool, typer.Option("--first-use", help="Accept the trust that the remote has now.")] = False,
    deploy: DeployName = "production",
    json: Json = False,
) -> None:
    """Set a server up: its home, the remote, the pinned trust."""
    from gitrel.cli.server import join as command

    command(Console(as_json=json), url, home, trust, first_use, deploy)


@app.command()
def pull(
    home: HomePath = None,
    switch: Annotated[bool, typer.Option(help="Point `current` at what was pulled.")] = True,
    json: Json = False,
) -> None:
    """Fetch, verify and check out the newest release that may run."""
    from gitrel.cli.server import pull as command

    command(Console(as_json=json), home, switch)


@app.command("run")
def run_(
    entry: Annotated[str | None, typer.Argument(metavar="[vN]", help="Default: the newest.")] = None,
    scale: Scale = "",
    follow: Annotated[bool, typer.Option("--follow", help="Move to newer releases as they come.")] = False,
    interval: Annotated[float, typer.Option(help="Seconds between two looks with --follow.")] = 30.0,
    port: Port = 5000,
    home: HomePath = None,
) -> None:
    """Pull if the remote is there, then run and supervise the release's processes."""
    from gitrel.cli.server import run as command

    command(Console(), home, entry, scale, follow, interval, port)


@app.command("exec")
def exec_(
    process: Annotated[str, typer.Argument(help="A process type of the Procfile.")],
    args: Annotated[list[str] | None, typer.Argument(help="Arguments for its command.")] = None,
    port: Port = 5000,
    home: HomePath = None,
) -> None:
    """Verify the current release and become one of its processes (for systemd and containers)."""
    from gitrel.cli.server import exec_process

    exec_process(home, process, args or [], port)


@app.command()
def status(home: HomePath = None, json: Json = False) -> None:
    """What runs here, and what the remote said last."""
    from gitrel.cli.server import status as command

    command(Console(as_json=json), home)


@app.command()
def demo(
    keep: Annotated[bool, typer.Option("--keep", help="Leave the scratch folder behind.")] = False,
) -> None:
    """Everything once, for real, in a scratch folder."""
    from gitrel.cli.demo import demo as command

    command(Console(), keep)


def run_command(argv: list[str]) -> int:
    """Run one command. Every `GitrelError` becomes a message and its exit status, everything else is a bug."""
    debug = "--debug" in argv
    console = Console(as_json="--json" in argv)
    try:
        outcome: Any = app(args=argv, prog_name="gitrel", standalone_mode=False)
    except GitrelError as error:
        if debug:
            traceback.print_exc()
        console.error(error)
        return error.exit_code
    except typer.TyperException as error:
        show = getattr(error, "show", None)
        if show is not None:
            show()
        return ExitCode.USAGE
    except (KeyboardInterrupt, typer.Abort):
        console.note("gitrel: interrupted")
        return ExitCode.INTERRUPTED
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
        return _unexpected(error, "--debug" in argv)


def _terminated(_number: int, _frame: object) -> None:
    raise KeyboardInterrupt


def _unexpected(error: BaseException, debug: bool) -> int:
    if debug:
        traceback.print_exception(error)
    kind = type(error).__name__
    print(
        f"gitrel: something unexpected happened, which is a bug: {kind}: {escaped(str(error))}\n"
        "  next: run it again as `gitrel --debug …` and report what it prints",
        file=sys.stderr,
    )
    return ExitCode.UNEXPECTED
