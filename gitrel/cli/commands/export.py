"""`gitrel export …`"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gitrel.cli.completing import releases
from gitrel.cli.console import Console
from gitrel.cli.manual import KEEPING, READING, manual
from gitrel.cli.options import DeployName, HomePath, Json, Pin, Port, RemoteName, Repo
from gitrel.errors import ExitCode

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="A release as files for other programs.")

ReleaseName = Annotated[
    str | None,
    typer.Argument(
        metavar="[vN]", help="By any of its names; default: the newest that may run.", autocompletion=releases
    ),
]
BuildId = Annotated[str | None, typer.Option("--build", metavar="ID", help="A build instead, released or not.")]
OutputFile = Annotated[Path | None, typer.Option("-o", "--output", metavar="FILE", help="Default: print.")]


@app.command(
    epilog=manual("gitrel export systemd --home /srv/shop -o /etc", *KEEPING, ExitCode.REFUSED, ExitCode.BAD_INPUT)
)
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


@app.command(epilog=manual("gitrel export oci v100 -o image", *READING))
def oci(
    entry: ReleaseName = None,
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


@app.command(epilog=manual("gitrel export attestation v100 -o v100.jsonl", *READING, ExitCode.NO_KEY))
def attestation(
    entry: ReleaseName = None,
    build: BuildId = None,
    output: OutputFile = None,
    deploy: DeployName = "production",
    repo: Repo = None,
    remote: RemoteName = None,
    trust: Pin = None,
    json: Json = False,
) -> None:
    """A build's provenance and SBOM as in-toto attestations, signed in DSSE envelopes with your key."""
    from gitrel.cli.attestation import Place
    from gitrel.cli.attestation import attestation as command

    place = Place(repo=repo, remote=remote, deploy=deploy, pin=trust, release=entry, build=build)
    command(Console(as_json=json), place, output)


@app.command(epilog=manual("gitrel export sbom v100 -o sbom.json", *READING))
def sbom(
    entry: ReleaseName = None,
    build: BuildId = None,
    file: Annotated[str | None, typer.Option("--file", metavar="NAME", help="Which, if there are several.")] = None,
    output: OutputFile = None,
    deploy: DeployName = "production",
    repo: Repo = None,
    remote: RemoteName = None,
    trust: Pin = None,
    json: Json = False,
) -> None:
    """The list of components (CycloneDX or SPDX) that a build carries, as it is."""
    from gitrel.cli.attestation import Place
    from gitrel.cli.attestation import sbom as command

    place = Place(repo=repo, remote=remote, deploy=deploy, pin=trust, release=entry, build=build)
    command(Console(as_json=json), place, file, output)


Image = Annotated[
    str, typer.Option("--image", metavar="REF", help="The release's image; with --pull, one with gitrel.")
]
Url = Annotated[str | None, typer.Option("--url", help="Where it is pulled from; default: the remote's URL.")]
Name = Annotated[str | None, typer.Option("--name", help="What it is called there; default: app, or app-deploy.")]


@app.command(
    epilog=manual("gitrel export kubernetes v100 --image registry.example.org/shop:v100", *READING, ExitCode.NO_KEY)
)
def kubernetes(
    image: Image,
    entry: ReleaseName = None,
    pull: Annotated[bool, typer.Option("--pull", help="Pods fetch and verify the release themselves.")] = False,
    secrets: Annotated[
        str | None,
        typer.Option(metavar="external|sealed|plain", help="Default: external; with --pull: sealed. plain: DECRYPTED."),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", metavar="FILE.yaml|DIR", help="Default: print.")
    ] = None,
    user: Annotated[str, typer.Option("--user", metavar="UID:GID", help="Whom pods run as.")] = "65532:65532",
    store: Annotated[str | None, typer.Option("--store", help="The SecretStore; default: the app's name.")] = None,
    git_key: Annotated[
        str | None, typer.Option("--git-key", metavar="SECRET", help="Its ssh-privatekey and known_hosts, for --pull.")
    ] = None,
    identity: Annotated[Path | None, typer.Option("--identity", help="The key that decrypts for `plain`.")] = None,
    url: Url = None,
    name: Name = None,
    port: Annotated[int, typer.Option(help="PORT of the first process type.")] = 5000,
    deploy: DeployName = "production",
    repo: Repo = None,
    remote: RemoteName = None,
    trust: Pin = None,
    json: Json = False,
) -> None:
    """Deployments, services and the rest for Kubernetes, as YAML."""
    from gitrel.cli.export_engines import Asked
    from gitrel.cli.export_engines import kubernetes as command

    asked = Asked(entry=entry, deploy=deploy, repo=repo, remote=remote, trust=trust, name=name, port=port, url=url)
    command(Console(as_json=json), asked, output, pull, image, user, secrets, (store, git_key, identity))


@app.command(epilog=manual("gitrel export nomad v100 -o shop.nomad.json", *READING))
def nomad(
    entry: ReleaseName = None,
    image: Annotated[
        str | None, typer.Option("--image", metavar="REF", help="Run it in Docker; default: clients with gitrel pull.")
    ] = None,
    driver: Annotated[str, typer.Option("--driver", help="exec or raw_exec, without --image.")] = "exec",
    user: Annotated[str | None, typer.Option("--user", help="Whom tasks run as; default: the driver's.")] = None,
    identity: Annotated[
        str | None, typer.Option("--identity", metavar="FILE", help="On the clients: the key that reads secrets.")
    ] = None,
    release_phase: Annotated[
        bool, typer.Option("--release-phase", help="The batch job of the release phase instead.")
    ] = False,
    output: Annotated[Path | None, typer.Option("-o", "--output", metavar="FILE", help="Default: print.")] = None,
    url: Url = None,
    name: Name = None,
    port: Annotated[int, typer.Option(help="PORT of the first process type.")] = 5000,
    deploy: DeployName = "production",
    repo: Repo = None,
    remote: RemoteName = None,
    trust: Pin = None,
    json: Json = False,
) -> None:
    """A job for Nomad, as its HTTP API takes it."""
    from gitrel.cli.export_engines import Asked
    from gitrel.cli.export_engines import nomad as command

    asked = Asked(entry=entry, deploy=deploy, repo=repo, remote=remote, trust=trust, name=name, port=port, url=url)
    command(Console(as_json=json), asked, output, image, driver, (user, identity), release_phase)
