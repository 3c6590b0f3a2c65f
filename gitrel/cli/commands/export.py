"""`gitrel export …`"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gitrel.cli.console import Console
from gitrel.cli.options import DeployName, HomePath, Json, Pin, Port, RemoteName, Repo

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="A release as files for other programs.")


@app.command()
def systemd(
    home: HomePath = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", metavar="DIR", help="Write below it as below /etc; default: print.")
    ] = None,
    each_alone: Annotated[bool, typer.Option("--per-process", help="A service for each process.")] = False,
    user: Annotated[str | None, typer.Option("--user", help="Whom gitrel runs as; default: the home's owner.")] = None,
    port: Port = 5000,
    name: Annotated[str | None, typer.Option("--name", help="What the units are called; default: the app.")] = None,
    json: Json = False,
) -> None:
    """Units for systemd that run this home."""
    from gitrel.cli.export import systemd as command

    command(Console(as_json=json), home, output, each_alone, user, port, name)


@app.command()
def oci(
    entry: Annotated[str | None, typer.Argument(metavar="[vN]", help="Default: the newest that may run.")] = None,
    output: Annotated[
        Path, typer.Option("-o", "--output", metavar="DIR|FILE.tar", help="An OCI image layout; must not exist.")
    ] = Path("image"),
    base: Annotated[Path | None, typer.Option("--base", help="An OCI image layout to put it on.")] = None,
    process: Annotated[str, typer.Option("--process", help="The process type that the image runs.")] = "web",
    user: Annotated[str, typer.Option("--user", metavar="UID:GID", help="Whom it runs as.")] = "65532:65532",
    port: Annotated[int, typer.Option(help="PORT in the image; another may be given when it runs.")] = 5000,
    platform: Annotated[
        str | None, typer.Option("--platform", metavar="OS/ARCH", help="Without --base; default: this machine's.")
    ] = None,
    deploy: DeployName = "production",
    repo: Repo = None,
    remote: RemoteName = None,
    trust: Pin = None,
    json: Json = False,
) -> None:
    """A container image of a release, the same at every export; its secrets are not in it."""
    from gitrel.cli.export import oci as command

    command(Console(as_json=json), repo, remote, deploy, trust, entry, base, output, (process, user, port), platform)
