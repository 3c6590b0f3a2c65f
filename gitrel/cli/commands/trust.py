"""`gitrel trust …`"""

from __future__ import annotations

from typing import Annotated

import typer

from gitrel.cli.completing import entries, people, roles
from gitrel.cli.console import Console
from gitrel.cli.manual import READING, SIGNING, manual
from gitrel.cli.options import DeployName, Json, Pin, RemoteName, Repo, Yes

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Read and change who may do what.")


@app.command("show", epilog=manual("gitrel trust show", *READING))
def trust_show(repo: Repo = None, remote: RemoteName = None, trust: Pin = None, json: Json = False) -> None:
    """Who may do what, as of the newest trust record."""
    from gitrel.cli import trust as command

    command.show(Console(as_json=json), command.Place(repo=repo, remote=remote, pin=trust))


@app.command("export", epilog=manual("gitrel trust export > allowed_signers", *READING))
def trust_export(repo: Repo = None, remote: RemoteName = None, trust: Pin = None, json: Json = False) -> None:
    """The people's keys as `allowed_signers`, for stock git."""
    from gitrel.cli import trust as command

    command.export(Console(as_json=json), command.Place(repo=repo, remote=remote, pin=trust))


@app.command("add", epilog=manual("gitrel trust add bob bob.pub", *SIGNING))
def trust_add(
    person: Annotated[
        str, typer.Argument(help="A new person or machine, or one who gets more keys.", autocompletion=people)
    ],
    keys: Annotated[list[str], typer.Argument(metavar="KEY…", help="A .pub file, a key in quotes, or - for stdin.")],
    yes: Yes = False,
    repo: Repo = None,
    remote: RemoteName = None,
    trust: Pin = None,
    json: Json = False,
) -> None:
    """Give somebody keys; roles are given with `set-role`."""
    from gitrel.cli import trust as command

    command.add(Console(as_json=json), command.Place(repo=repo, remote=remote, pin=trust, yes=yes), person, keys)


@app.command("remove", epilog=manual("gitrel trust remove bob", *SIGNING))
def trust_remove(
    person: Annotated[str, typer.Argument(help="Who leaves.", autocompletion=people)],
    keys: Annotated[list[str] | None, typer.Argument(metavar="[KEY-ID…]", help="Only these keys.")] = None,
    yes: Yes = False,
    repo: Repo = None,
    remote: RemoteName = None,
    trust: Pin = None,
    json: Json = False,
) -> None:
    """Take somebody out, with all keys and roles; or only some keys."""
    from gitrel.cli import trust as command

    command.remove(
        Console(as_json=json), command.Place(repo=repo, remote=remote, pin=trust, yes=yes), person, keys or []
    )


@app.command("set-role", epilog=manual("gitrel trust set-role release alice bob --threshold 2", *SIGNING))
def trust_set_role(
    role: Annotated[
        str, typer.Argument(help="root, build, release, config, heartbeat or receipt.", autocompletion=roles)
    ],
    people: Annotated[list[str], typer.Argument(metavar="PERSON…", autocompletion=people)],
    threshold: Annotated[int, typer.Option("--threshold", help="How many of them together.")] = 1,
    deploy: DeployName = "production",
    yes: Yes = False,
    repo: Repo = None,
    remote: RemoteName = None,
    trust: Pin = None,
    json: Json = False,
) -> None:
    """Say who holds a role from now on."""
    from gitrel.cli import trust as command

    place = command.Place(repo=repo, remote=remote, pin=trust, yes=yes)
    command.set_role(Console(as_json=json), place, role, people, threshold, deploy)


@app.command("add-reader", epilog=manual("gitrel trust add-reader /etc/ssh/ssh_host_ed25519_key.pub", *SIGNING))
def trust_add_reader(
    readers: Annotated[list[str], typer.Argument(metavar="KEY…", help="SSH public keys or age recipients.")],
    deploy: DeployName = "production",
    yes: Yes = False,
    repo: Repo = None,
    remote: RemoteName = None,
    trust: Pin = None,
    json: Json = False,
) -> None:
    """Let a server or a person read a deploy's secrets."""
    from gitrel.cli import trust as command

    place = command.Place(repo=repo, remote=remote, pin=trust, yes=yes)
    command.readers(Console(as_json=json), place, deploy, readers, add=True)


@app.command("remove-reader", epilog=manual("gitrel trust remove-reader old-server.pub", *SIGNING))
def trust_remove_reader(
    readers: Annotated[list[str], typer.Argument(metavar="KEY…")],
    deploy: DeployName = "production",
    yes: Yes = False,
    repo: Repo = None,
    remote: RemoteName = None,
    trust: Pin = None,
    json: Json = False,
) -> None:
    """Encrypt a deploy's secrets to somebody no longer."""
    from gitrel.cli import trust as command

    place = command.Place(repo=repo, remote=remote, pin=trust, yes=yes)
    command.readers(Console(as_json=json), place, deploy, readers, add=False)


@app.command("repudiate", epilog=manual("gitrel trust repudiate v97", *SIGNING))
def trust_repudiate(
    entry: Annotated[str, typer.Argument(metavar="vN", autocompletion=entries)],
    deploy: DeployName = "production",
    yes: Yes = False,
    repo: Repo = None,
    remote: RemoteName = None,
    trust: Pin = None,
    json: Json = False,
) -> None:
    """Let a release never run again, anywhere."""
    from gitrel.cli import trust as command

    place = command.Place(repo=repo, remote=remote, pin=trust, yes=yes)
    command.repudiate(Console(as_json=json), place, entry, deploy)
