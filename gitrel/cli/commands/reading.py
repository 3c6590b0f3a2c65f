"""Commands that look for something in a ledger."""

from __future__ import annotations

from typing import Annotated

import typer

from gitrel.cli.completing import releases
from gitrel.cli.console import Console
from gitrel.cli.manual import READING, manual
from gitrel.cli.options import DeployName, Json, Pin, RemoteName, Repo

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)


@app.command(epilog=manual("gitrel blame templates/index.html", *READING))
def blame(
    path: Annotated[str, typer.Argument(help="A file, or a folder (each entry of it), from the top of the build.")],
    release: Annotated[
        str | None,
        typer.Option(
            "--release", metavar="vN", help="As it is there; default: the newest that may run.", autocompletion=releases
        ),
    ] = None,
    deploy: DeployName = "production",
    repo: Repo = None,
    remote: RemoteName = None,
    trust: Pin = None,
    json: Json = False,
) -> None:
    """Which release brought a file as it is, and who signed that."""
    from gitrel.cli.blame import blame as command

    command(Console(as_json=json), repo, remote, deploy, trust, path, release)


@app.command(epilog=manual("gitrel bisect --good v90 -- ./check.sh", *READING))
def bisect(
    command: Annotated[list[str], typer.Argument(metavar="-- CMD…", help="Exits 0 if good, 125 to skip, else bad.")],
    good: Annotated[
        str, typer.Option("--good", metavar="vN", help="A release that was good.", autocompletion=releases)
    ],
    bad: Annotated[
        str, typer.Option("--bad", metavar="vN", help="A newer one that is not.", autocompletion=releases)
    ] = "latest",
    deploy: DeployName = "production",
    repo: Repo = None,
    remote: RemoteName = None,
    trust: Pin = None,
    json: Json = False,
) -> int:
    """The first bad release, found by running a command in a checkout of one after the other."""
    from gitrel.cli.bisect import bisect as search

    return search(Console(as_json=json), repo, remote, deploy, trust, good, bad, command)
