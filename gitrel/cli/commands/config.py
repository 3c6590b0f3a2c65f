"""`gitrel config …`"""

from __future__ import annotations

from typing import Annotated

import typer

from gitrel.cli.console import Console
from gitrel.cli.options import DeployName, Json, Pin, RemoteName, Repo

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Read and change a deploy's variables.")


@app.command("set")
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


@app.command("unset")
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


@app.command("list")
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
