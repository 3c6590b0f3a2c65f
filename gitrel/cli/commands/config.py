"""`gitrel config …`"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gitrel.cli.completing import configs, variables
from gitrel.cli.console import Console
from gitrel.cli.manual import READING, SIGNING, manual
from gitrel.cli.options import DeployName, Json, Pin, RemoteName, Repo
from gitrel.errors import ExitCode

if TYPE_CHECKING:
    from gitrel.cli.config import Place

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Read and change a deploy's variables.")

Secret = Annotated[
    bool | None,
    typer.Option("--secret/--plain", help="Encrypt to the deploy's readers, or do not; default: as it is now."),
]
Hidden = Annotated[
    bool | None,
    typer.Option("--secret/--plain", help="Encrypt all of them, or none; default: those that look like secrets."),
]
AtOnce = Annotated[bool, typer.Option("--release", help="Release it at once, with the newest release's build.")]
Instead = Annotated[
    bool, typer.Option("--instead", help="Make it without what a change that waits for approvals changes.")
]
IdentityFile = Annotated[
    Path | None,
    typer.Option("--identity", help="Your key for reading secrets: SSH, or age; default: ~/.ssh/id_ed25519, id_rsa."),
]
AnEntry = Annotated[
    str | None,
    typer.Option("--entry", metavar="vN", help="A config entry; default: the newest.", autocompletion=configs),
]
Reveal = Annotated[bool, typer.Option("--reveal", help="Decrypt secrets, and show them.")]


def _place(
    json: bool,
    repo: Path | None,
    remote: str | None,
    deploy: str,
    pin: str | None,
    *,
    identity: Path | None = None,
    release: bool = False,
    instead: bool = False,
) -> Place:
    from gitrel.cli.config import Place

    console = Console(as_json=json)
    return Place(
        console=console,
        repo=repo,
        remote=remote,
        deploy=deploy,
        pin=pin,
        identity=identity,
        release=release,
        instead=instead,
    )


@app.command("set", epilog=manual("gitrel config set --secret DATABASE_URL=-", *SIGNING))
def config_set(
    assignments: Annotated[
        list[str] | None,
        typer.Argument(metavar="NAME=VALUE…", help="NAME=- reads the value from standard input, or asks for it."),
    ] = None,
    from_file: Annotated[
        list[str] | None, typer.Option("--from-file", metavar="NAME=PATH", help="A file's bytes are the value.")
    ] = None,
    secret: Secret = None,
    release: AtOnce = False,
    instead: Instead = False,
    identity: IdentityFile = None,
    deploy: DeployName = "production",
    repo: Repo = None,
    remote: RemoteName = None,
    trust: Pin = None,
    json: Json = False,
) -> None:
    """Set variables; the next release carries them."""
    from gitrel.cli.config import set_config

    place = _place(json, repo, remote, deploy, trust, identity=identity, release=release, instead=instead)
    set_config(place, assignments or [], from_file or [], secret)


@app.command("unset", epilog=manual("gitrel config unset OLD_FLAG", *SIGNING))
def config_unset(
    names: Annotated[list[str], typer.Argument(metavar="NAME…", autocompletion=variables)],
    release: AtOnce = False,
    instead: Instead = False,
    deploy: DeployName = "production",
    repo: Repo = None,
    remote: RemoteName = None,
    trust: Pin = None,
    json: Json = False,
) -> None:
    """Remove variables; the next release is without them."""
    from gitrel.cli.config import unset_config

    place = _place(json, repo, remote, deploy, trust, release=release, instead=instead)
    unset_config(place, names)


@app.command("import", epilog=manual("gitrel config import .env", *SIGNING))
def config_import(
    file: Annotated[
        str, typer.Argument(help="A dotenv file, or what `heroku config -s` printed; - is standard input.")
    ],
    secret: Hidden = None,
    release: AtOnce = False,
    instead: Instead = False,
    identity: IdentityFile = None,
    deploy: DeployName = "production",
    repo: Repo = None,
    remote: RemoteName = None,
    trust: Pin = None,
    json: Json = False,
) -> None:
    """Set all variables of a file, as one change; others stay."""
    from gitrel.cli.config import import_config

    place = _place(json, repo, remote, deploy, trust, identity=identity, release=release, instead=instead)
    import_config(place, file, secret)


@app.command("edit", epilog=manual("gitrel config edit --release", *SIGNING))
def config_edit(
    release: AtOnce = False,
    instead: Instead = False,
    identity: IdentityFile = None,
    deploy: DeployName = "production",
    repo: Repo = None,
    remote: RemoteName = None,
    trust: Pin = None,
    json: Json = False,
) -> None:
    """Change variables in $VISUAL or $EDITOR, as one change."""
    from gitrel.cli.config import edit_config

    place = _place(json, repo, remote, deploy, trust, identity=identity, release=release, instead=instead)
    edit_config(place)


@app.command("reencrypt", epilog=manual("gitrel config reencrypt --release", *SIGNING))
def config_reencrypt(
    everything: Annotated[bool, typer.Option("--all", help="Also what is encrypted to today's readers.")] = False,
    release: AtOnce = False,
    instead: Instead = False,
    identity: IdentityFile = None,
    deploy: DeployName = "production",
    repo: Repo = None,
    remote: RemoteName = None,
    trust: Pin = None,
    json: Json = False,
) -> None:
    """Encrypt the secrets to today's readers, after those have changed."""
    from gitrel.cli.config import reencrypt

    place = _place(json, repo, remote, deploy, trust, identity=identity, release=release, instead=instead)
    reencrypt(place, everything)


@app.command("list", epilog=manual("gitrel config list --deploy staging", *READING))
def config_list(
    deploy: DeployName = "production",
    repo: Repo = None,
    remote: RemoteName = None,
    trust: Pin = None,
    json: Json = False,
) -> None:
    """The deploy's variables, as the next release will have them."""
    from gitrel.cli.config_views import list_config

    list_config(_place(json, repo, remote, deploy, trust))


@app.command("get", epilog=manual("gitrel config get DATABASE_URL --reveal", *READING, ExitCode.NO_KEY))
def config_get(
    name: Annotated[str, typer.Argument(help="The variable.", autocompletion=variables)],
    reveal: Reveal = False,
    entry: AnEntry = None,
    identity: IdentityFile = None,
    deploy: DeployName = "production",
    repo: Repo = None,
    remote: RemoteName = None,
    trust: Pin = None,
    json: Json = False,
) -> None:
    """One variable's value."""
    from gitrel.cli.config_views import get_config

    place = _place(json, repo, remote, deploy, trust, identity=identity)
    get_config(place, name, entry, reveal)


@app.command("export", epilog=manual("gitrel config export --reveal", *READING, ExitCode.NO_KEY))
def config_export(
    reveal: Reveal = False,
    entry: AnEntry = None,
    identity: IdentityFile = None,
    deploy: DeployName = "production",
    repo: Repo = None,
    remote: RemoteName = None,
    trust: Pin = None,
    json: Json = False,
) -> None:
    """The variables as a dotenv file."""
    from gitrel.cli.config_views import export_config

    place = _place(json, repo, remote, deploy, trust, identity=identity)
    export_config(place, entry, reveal)


@app.command("diff", epilog=manual("gitrel config diff v3 v4", *READING))
def config_diff(
    first: Annotated[
        str | None,
        typer.Argument(metavar="[vA]", help="Default: what the newest release carries.", autocompletion=configs),
    ] = None,
    second: Annotated[
        str | None, typer.Argument(metavar="[vB]", help="Default: the newest config.", autocompletion=configs)
    ] = None,
    deploy: DeployName = "production",
    repo: Repo = None,
    remote: RemoteName = None,
    trust: Pin = None,
    json: Json = False,
) -> None:
    """Which variables differ between two config entries, or are not released yet."""
    from gitrel.cli.config_views import diff_config

    place = _place(json, repo, remote, deploy, trust)
    diff_config(place, first, second)


@app.command("log", epilog=manual("gitrel config log DATABASE_URL", *READING))
def config_log(
    name: Annotated[str | None, typer.Argument(help="Only this variable.", autocompletion=variables)] = None,
    deploy: DeployName = "production",
    repo: Repo = None,
    remote: RemoteName = None,
    trust: Pin = None,
    json: Json = False,
) -> None:
    """Who changed which variable when."""
    from gitrel.cli.config_views import log_config

    log_config(_place(json, repo, remote, deploy, trust), name)
