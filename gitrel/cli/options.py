"""Options that many commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gitrel.cli.completing import deploys

Repo = Annotated[Path | None, typer.Option("--repo", help="The repository; default: the one you are in.")]
RemoteName = Annotated[
    str | None,
    typer.Option("--remote", help="Its remote; default: origin if there is one. `none`: do without."),
]
DeployName = Annotated[str, typer.Option("--deploy", help="The deploy.", autocompletion=deploys)]
Pin = Annotated[str | None, typer.Option("--trust", metavar="PIN", help="SHA-256 of trust v1, as `init` prints it.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")]
HomePath = Annotated[
    Path | None,
    typer.Option(
        "--home", envvar="GITREL_HOME", readable=False, help="The server's home; default: the current folder."
    ),
]
Message = Annotated[str | None, typer.Option("-m", "--message", help="What the release is about.")]
Scale = Annotated[str, typer.Option("-c", "--scale", metavar="web=2,worker=1", help="How many of each process type.")]
Port = Annotated[int, typer.Option("--port", envvar="PORT", help="PORT of the first process type's first process.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Sign without asking.")]
