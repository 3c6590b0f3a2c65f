"""A server's commands."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gitrel.cli.console import Console
from gitrel.cli.options import DeployName, HomePath, Json, Pin, Port, Scale

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)


@app.command()
def join(
    url: Annotated[str, typer.Argument(help="The repository, as git would name it.")],
    home: Annotated[Path, typer.Argument(help="A folder that does not exist yet, or is empty.")],
    trust: Pin = None,
    first_use: Annotated[bool, typer.Option("--first-use", help="Accept the trust that the remote has now.")] = False,
    identity: Annotated[
        Path | None, typer.Option("--identity", help="The key that reads secrets; default: the host's SSH key.")
    ] = None,
    deploy: DeployName = "production",
    json: Json = False,
) -> None:
    """Set a server up: its home, the remote, the pinned trust, the key that reads secrets."""
    from gitrel.cli.join import join as command

    command(Console(as_json=json), url, home, trust, first_use, deploy, identity)


@app.command()
def pull(
    home: HomePath = None,
    switch: Annotated[bool, typer.Option(help="Point `current` at what was pulled.")] = True,
    json: Json = False,
) -> None:
    """Fetch, verify and check out the newest release that may run."""
    from gitrel.cli.pulling import pull as command

    command(Console(as_json=json), home, switch)


@app.command("run")
def run_(
    entry: Annotated[str | None, typer.Argument(metavar="[vN]", help="Default: the newest.")] = None,
    scale: Scale = "",
    follow: Annotated[bool, typer.Option("--follow", help="Move to newer releases as they come.")] = False,
    interval: Annotated[float, typer.Option(help="Seconds between two looks with --follow.")] = 30.0,
    stop_if_repudiated: Annotated[
        bool, typer.Option("--stop-if-repudiated", help="Rather run nothing than an earlier release.")
    ] = False,
    port: Port = 5000,
    home: HomePath = None,
) -> None:
    """Pull if the remote is there, then run and supervise the release's processes."""
    from gitrel.cli.running import run as command

    command(Console(), home, entry, scale, follow, interval, port, stop_if_repudiated)


@app.command("exec")
def exec_(
    process: Annotated[str, typer.Argument(help="A process type of the Procfile.")],
    args: Annotated[list[str] | None, typer.Argument(help="Arguments for its command.")] = None,
    port: Port = 5000,
    home: HomePath = None,
) -> None:
    """Verify the current release and become one of its processes (for systemd and containers)."""
    from gitrel.cli.running import exec_process

    exec_process(home, process, args or [], port)


@app.command()
def status(home: HomePath = None, json: Json = False) -> None:
    """What runs here, and what the remote said last."""
    from gitrel.cli.status import status as command

    command(Console(as_json=json), home)


hook_app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Git hooks for a self-hosted remote.")
app.add_typer(hook_app, name="hook")


@hook_app.command("pre-receive")
def hook_pre_receive(trust: Pin = None) -> None:
    """Let only verified records into the ledgers; every other ref passes. Reads what git's pre-receive hook gets."""
    from gitrel.cli.hook import pre_receive

    pre_receive(Console(), trust)
