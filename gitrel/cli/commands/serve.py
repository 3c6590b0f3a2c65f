"""A server's commands."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from gitrel.cli.completing import entries
from gitrel.cli.console import Console
from gitrel.cli.manual import KEEPING, PULLING, READING, manual
from gitrel.cli.options import DeployName, HomePath, Json, Pin, Port, Scale
from gitrel.errors import ExitCode, UsageError

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)

Keep = Annotated[
    int, typer.Option("--keep", min=0, metavar="N", help="Releases whose files stay here; 0: never prune. See `prune`.")
]


@app.command(epilog=manual("gitrel join https://example.org/shop.git /srv/shop --trust PIN", *PULLING))
def join(
    url: Annotated[str, typer.Argument(help="The repository, as git would name it.")],
    home: Annotated[Path, typer.Argument(help="A folder that does not exist yet, or is empty.")],
    trust: Pin = None,
    first_use: Annotated[bool, typer.Option("--first-use", help="Accept the trust that the remote has now.")] = False,
    identity: Annotated[
        Path | None, typer.Option("--identity", help="The key that reads secrets; default: the host's SSH key.")
    ] = None,
    mirrors: Annotated[
        list[str] | None, typer.Option("--mirror", metavar="URL", help="Where else to ask; may be repeated.")
    ] = None,
    adopt: Annotated[
        bool, typer.Option("--adopt", help="What is in the folder stays there: Capistrano's releases, `shared`.")
    ] = False,
    deploy: DeployName = "production",
    json: Json = False,
) -> None:
    """Set a server up: its home, the remote, the pinned trust, the key that reads secrets."""
    from gitrel.cli.join import join as command

    command(Console(as_json=json), url, home, trust, first_use, deploy, identity, mirrors or [], adopt)


@app.command(epilog=manual("gitrel mirror --add https://mirror.example.org/shop.git", *KEEPING, ExitCode.CONFLICT))
def mirror(
    add: Annotated[list[str] | None, typer.Option("--add", metavar="URL", help="Ask there, too.")] = None,
    remove: Annotated[list[str] | None, typer.Option("--remove", metavar="URL", help="Ask there no more.")] = None,
    home: HomePath = None,
    json: Json = False,
) -> None:
    """Where this server asks: the remote and its mirrors; without options: show them."""
    from gitrel.cli.join import mirror as command

    command(Console(as_json=json), home, add or [], remove or [])


@app.command(epilog=manual("gitrel pull --home /srv/shop", *PULLING))
def pull(
    file: Annotated[
        str | None, typer.Argument(metavar="[FILE]", help="A bundle (`gitrel bundle`), instead of the remote.")
    ] = None,
    home: HomePath = None,
    switch: Annotated[bool, typer.Option(help="Point `current` at what was pulled.")] = True,
    keep: Keep = 5,
    json: Json = False,
) -> None:
    """Fetch, verify and check out the newest release that may run."""
    from gitrel.cli.pulling import pull as command

    command(Console(as_json=json), home, switch, keep, file)


@app.command("run", epilog=manual("gitrel run --home /srv/shop --follow -c web=2", *PULLING, ExitCode.UNHEALTHY))
def run_(
    entry: Annotated[
        str | None, typer.Argument(metavar="[vN]", help="Default: the newest.", autocompletion=entries)
    ] = None,
    scale: Scale = "",
    follow: Annotated[bool, typer.Option("--follow", help="Move to newer releases as they come.")] = False,
    interval: Annotated[float, typer.Option(help="Seconds between two looks with --follow.")] = 30.0,
    stop_if_repudiated: Annotated[
        bool, typer.Option("--stop-if-repudiated", help="Rather run nothing than an earlier release.")
    ] = False,
    release_phase: Annotated[
        bool, typer.Option(help="Run the Procfile's `release` before a release takes over; on one server of many.")
    ] = True,
    keep: Keep = 5,
    metrics: Annotated[
        Path | None, typer.Option("--metrics", metavar="FILE", help="Kept up to date, in Prometheus's text format.")
    ] = None,
    receipts: Annotated[
        bool, typer.Option("--receipts", help="Sign and push what runs here; see `gitrel receipts`.")
    ] = False,
    port: Port = 5000,
    home: HomePath = None,
) -> None:
    """Pull if the remote is there, then run and supervise the release's processes."""
    from gitrel.cli.looking import Order
    from gitrel.cli.running import parse_scale, run

    order = Order(
        entry=entry,
        scales=parse_scale(scale),
        port=port,
        stop_if_repudiated=stop_if_repudiated,
        release_phase=release_phase,
        keep=keep,
    )
    run(Console(), home, order, follow, interval, metrics, receipts)


@app.command(hidden=True)
def look(
    home: Annotated[Path, typer.Option("--home")],
    order: Annotated[str, typer.Option("--order")],
    last: Annotated[str, typer.Option("--last")],
    pull: Annotated[bool, typer.Option("--pull/--no-pull")] = True,
) -> int:
    """For the supervisor alone: what is to run?"""
    from json import loads

    from gitrel.cli.looking import Order, is_asked
    from gitrel.cli.looking import look as command

    if not is_asked():
        raise UsageError("`gitrel look` is for the supervisor", hint="`gitrel status` shows what runs")
    return command(Console(), home, Order(**loads(order)), last, pull)


class _Exec(TyperCommand):
    """Where `--` stands matters: it is kept as a word, for click takes away the first."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if "--" in args:
            args.insert(args.index("--"), "--")
        return super().parse_args(ctx, args)


@app.command("exec", cls=_Exec, epilog=manual("gitrel exec web --home /srv/shop", *PULLING))
def exec_(
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="PROCESS [-- ARGS] | -- COMMAND", help="A process type of the Procfile, or web.2; or a command."
        ),
    ] = None,
    environment: Annotated[
        str | None, typer.Option("--as", metavar="PROCESS", help="Whose environment a COMMAND gets; default: web's.")
    ] = None,
    port: Port = 5000,
    home: HomePath = None,
) -> None:
    """Verify the current release and become one of its processes, or a command beside them."""
    from gitrel.cli.executing import Words, exec_process

    found = words or []
    at = found.index("--") if "--" in found else 1
    args = found[at + 1 :] if "--" in found else found[1:]
    exec_process(Words(home or Path.cwd(), port, environment, found[:at], args))


@app.command(epilog=manual("gitrel status --home /srv/shop", *KEEPING, ExitCode.REMOTE, ExitCode.UNHEALTHY))
def status(home: HomePath = None, json: Json = False) -> None:
    """What runs here, and what the remote said last."""
    from gitrel.cli.status import status as command

    command(Console(as_json=json), home)


@app.command(epilog=manual("gitrel scale web=3 worker=1", *KEEPING, ExitCode.REFUSED, ExitCode.CONFLICT))
def scale(
    sizes: Annotated[list[str] | None, typer.Argument(metavar="[web=3 …]", help="How many of a process type.")] = None,
    reset: Annotated[bool, typer.Option("--reset", help="As many as the build says, of all types.")] = False,
    home: HomePath = None,
    json: Json = False,
) -> None:
    """How many processes of each type run on this server; without arguments: show it."""
    from gitrel.cli.keeping import scale as command

    command(Console(as_json=json), home, sizes or [], reset)


@app.command(epilog=manual("gitrel pin v98", *PULLING))
def pin(
    entry: Annotated[
        str, typer.Argument(metavar="vN", help="The release that this server stays at.", autocompletion=entries)
    ],
    home: HomePath = None,
    json: Json = False,
) -> None:
    """Stay at one release on this server, whatever comes, until `unpin`."""
    from gitrel.cli.keeping import pin as command

    command(Console(as_json=json), home, entry)


@app.command(epilog=manual("gitrel unpin", *KEEPING, ExitCode.CONFLICT))
def unpin(home: HomePath = None, json: Json = False) -> None:
    """Run the newest release again."""
    from gitrel.cli.keeping import unpin as command

    command(Console(as_json=json), home)


@app.command(epilog=manual("gitrel poke --home /srv/shop", *KEEPING))
def poke(home: HomePath = None, json: Json = False) -> None:
    """Tell the supervisor to look for a new release now."""
    from gitrel.cli.keeping import poke as command

    command(Console(as_json=json), home)


@app.command("prune", epilog=manual("gitrel prune --keep 3 --dry-run", *KEEPING, ExitCode.CONFLICT))
def prune_(
    keep: Annotated[int, typer.Option("--keep", min=1, metavar="N", help="The newest N releases stay.")] = 5,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
    home: HomePath = None,
    json: Json = False,
) -> None:
    """Delete the files of old releases; their records stay."""
    from gitrel.cli.keeping import prune as command

    command(Console(as_json=json), home, keep, dry_run)


hook_app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Git hooks for a self-hosted remote.")


@hook_app.command("pre-receive", epilog=manual("gitrel hook pre-receive --trust PIN", *READING))
def hook_pre_receive(trust: Pin = None) -> None:
    """Let only verified records into the ledgers and pass every other ref, as git's pre-receive hook."""
    from gitrel.cli.hook import pre_receive

    pre_receive(Console(), trust)
