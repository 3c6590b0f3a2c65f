"""`gitrel audit`"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gitrel.cli.completing import deploys
from gitrel.cli.console import Console
from gitrel.cli.manual import READING, manual
from gitrel.cli.options import Json, Pin
from gitrel.errors import ExitCode

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)


@app.command(
    epilog=manual("gitrel audit --repo https://example.org/shop.git --trust PIN", *READING, ExitCode.BUILD_FAILED)
)
def audit(
    repo: Annotated[
        str | None, typer.Option("--repo", metavar="PATH|URL", help="A clone, or where to fetch from; default: here.")
    ] = None,
    trust: Pin = None,
    deploy: Annotated[
        list[str] | None, typer.Option("--deploy", help="Only this one; may be repeated.", autocompletion=deploys)
    ] = None,
    state: Annotated[
        Path | None, typer.Option("--state", metavar="FILE", help="Compare with earlier audits, and remember this one.")
    ] = None,
    compare: Annotated[
        str | None, typer.Option("--compare", metavar="URL", help="A second host, which must show the same.")
    ] = None,
    ledger_only: Annotated[
        bool, typer.Option("--ledger-only", help="All records, and no file: without check 12.")
    ] = False,
    rebuild: Annotated[
        str | None,
        typer.Option("--rebuild", metavar="vN", help="Build its source again, and compare. RUNS the source's build."),
    ] = None,
    html: Annotated[
        Path | None, typer.Option("--html", metavar="FILE", help="The whole audit as one page, to be read and printed.")
    ] = None,
    sarif: Annotated[Path | None, typer.Option("--sarif", metavar="FILE", help="The findings as SARIF 2.1.0.")] = None,
    json: Json = False,
) -> int:
    """Judge every record of every ledger, and every file, trusting nobody but the pin."""
    from gitrel.cli import audit as command

    wanted = command.Wanted(
        repo=repo,
        pin=trust,
        deploys=tuple(deploy or ()),
        sarif=sarif,
        html=html,
        state=state,
        compare=compare,
        ledger_only=ledger_only,
        rebuild=rebuild,
    )
    return command.audit(Console(as_json=json), wanted)
