"""The commands of witnesses: who says what is the newest, and who runs what."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gitrel.cli.console import Console
from gitrel.cli.manual import KEEPING, READING, SIGNING, manual
from gitrel.cli.options import HomePath, Json, Pin, RemoteName, Repo
from gitrel.errors import ExitCode

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)


@app.command(epilog=manual("gitrel heartbeat", *SIGNING))
def heartbeat(repo: Repo = None, remote: RemoteName = None, trust: Pin = None, json: Json = False) -> None:
    """Sign which releases are the newest, now and then: by it a server tells quiet from cut off (`max_silence`)."""
    from gitrel.cli.heartbeat import heartbeat as command

    command(Console(as_json=json), repo, remote, trust)


@app.command(epilog=manual("gitrel fleet", *READING))
def fleet(repo: Repo = None, remote: RemoteName = None, trust: Pin = None, json: Json = False) -> int:
    """Which host runs which release, since when, and who is behind: by the receipts that they signed."""
    from gitrel.cli.fleet import fleet as command

    return command(Console(as_json=json), repo, remote, trust)


@app.command("send-receipts", hidden=True)
def send_receipts(home: Annotated[Path, typer.Option("--home")]) -> int:
    """For the supervisor alone: sign and push what happened since the last time."""
    from gitrel.cli.receipts import send

    return send(Console(), home)


@app.command(epilog=manual("gitrel receipts web1 --home /srv/shop", *KEEPING, ExitCode.NO_KEY))
def receipts(
    host: Annotated[str, typer.Argument(metavar="NAME", help="As whom this server signs, such as web1.")],
    key: Annotated[
        Path | None, typer.Option("--key", metavar="FILE", help="An SSH key; default: a new one in the home.")
    ] = None,
    home: HomePath = None,
    json: Json = False,
) -> None:
    """Name this server and its key, so that `gitrel run --receipts` can sign what it ran."""
    from gitrel.cli.receipts import set_up

    set_up(Console(as_json=json), home, host, key)
