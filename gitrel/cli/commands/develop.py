"""A developer's commands."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gitrel.cli.completing import configs, deploys, entries, people, releases
from gitrel.cli.console import Console
from gitrel.cli.manual import BUILDING, PULLING, READING, SIGNING, manual
from gitrel.cli.options import DeployName, Json, Message, Pin, RemoteName, Repo, Yes
from gitrel.errors import ExitCode

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)

ReleaseName = Annotated[
    str | None,
    typer.Argument(
        metavar="[vN]",
        help="Or latest, an id, a source commit's, @TIME; default: the newest that may run.",
        autocompletion=releases,
    ),
]
ConfigEntry = Annotated[
    str | None,
    typer.Option(
        "--config",
        metavar="vN",
        help="The deploy's config as of this entry; default: the newest.",
        autocompletion=configs,
    ),
]


@app.command(epilog=manual("gitrel init --app shop", *SIGNING))
def init(
    app_name: Annotated[str | None, typer.Option("--app", help="The app's name; default: the folder's.")] = None,
    person: Annotated[str | None, typer.Option("--person", help="Your name in trust.toml.")] = None,
    key: Annotated[Path | None, typer.Option("--key", help="The SSH key to sign with; default: git's setting.")] = None,
    trust: Pin = None,
    first_use: Annotated[bool, typer.Option("--first-use", help="Accept the remote's trust as it is now.")] = False,
    repo: Repo = None,
    remote: RemoteName = None,
    fetch: Annotated[
        bool,
        typer.Option("--fetch", help="Have `git fetch` bring the ledgers, too: adds lines to git's configuration."),
    ] = False,
    json: Json = False,
) -> None:
    """Start an app's ledger with you in every role, and its gitrel.toml; or accept the ledger that its remote has."""
    from gitrel.cli.stage_release import init as command

    command(Console(as_json=json), repo, remote, app_name, person, key, trust, first_use, fetch)


@app.command(epilog=manual("gitrel build HEAD", *BUILDING))
def build(
    rev: Annotated[str, typer.Argument(help="The source commit.")] = "HEAD",
    local: Annotated[bool, typer.Option("--local", help="Do not push the build.")] = False,
    repo: Repo = None,
    remote: RemoteName = None,
    trust: Pin = None,
    json: Json = False,
) -> None:
    """Build a commit in a clean checkout of it, and store the signed build."""
    from gitrel.cli.stage_build import build as command

    command(Console(as_json=json), repo, "none" if local else remote, rev, trust)


@app.command(epilog=manual("gitrel release -m 'Faster search'", *BUILDING))
def release(
    rev: Annotated[str, typer.Argument(help="The source commit; built if it is not yet.")] = "HEAD",
    build_id: Annotated[str | None, typer.Option("--build", help="Release this build record instead.")] = None,
    config: ConfigEntry = None,
    message: Message = None,
    deploy: DeployName = "production",
    repo: Repo = None,
    remote: RemoteName = None,
    trust: Pin = None,
    json: Json = False,
) -> None:
    """Combine a build with the deploy's config into the next release: signed, pushed, immutable."""
    from gitrel.cli.stage_release import release as command

    command(Console(as_json=json), repo, remote, deploy, trust, rev, build_id, config, message)


@app.command(epilog=manual("gitrel rollback v98", *SIGNING))
def rollback(
    to: Annotated[
        str | None,
        typer.Argument(metavar="[vN]", help="Default: the release before the newest.", autocompletion=releases),
    ] = None,
    keep_config: Annotated[bool, typer.Option("--keep-config", help="With today's config.")] = False,
    message: Message = None,
    deploy: DeployName = "production",
    repo: Repo = None,
    remote: RemoteName = None,
    trust: Pin = None,
    json: Json = False,
) -> None:
    """Make a new release with the build and config of an earlier one."""
    from gitrel.cli.stage_release import rollback as command

    command(Console(as_json=json), repo, remote, deploy, trust, to, keep_config, message)


@app.command(epilog=manual("gitrel promote --from staging --to production", *SIGNING))
def promote(
    origin: Annotated[
        str,
        typer.Option(
            "--from", metavar="DEPLOY", help="The deploy whose build is released here.", autocompletion=deploys
        ),
    ],
    entry: Annotated[
        str | None,
        typer.Argument(metavar="[vN]", help="Its release; default: the newest that may run.", autocompletion=releases),
    ] = None,
    config: ConfigEntry = None,
    message: Message = None,
    deploy: Annotated[
        str, typer.Option("--to", "--deploy", help="The deploy that gets the release.", autocompletion=deploys)
    ] = "production",
    repo: Repo = None,
    remote: RemoteName = None,
    trust: Pin = None,
    json: Json = False,
) -> None:
    """Release the very build that another deploy ran, with this deploy's config."""
    from gitrel.cli.stage_release import promote as command

    command(Console(as_json=json), repo, remote, deploy, trust, origin, entry, config, message)


@app.command(epilog=manual("gitrel log -n 5 --by alice", *READING))
def log(
    number: Annotated[int | None, typer.Option("-n", "--number", min=1, help="At most so many.")] = None,
    since: Annotated[
        str | None,
        typer.Option(
            "--since", metavar="vN|TIME", help="What came after a release, or from a time on.", autocompletion=releases
        ),
    ] = None,
    by: Annotated[
        str | None, typer.Option("--by", metavar="PERSON", help="What this person signed.", autocompletion=people)
    ] = None,
    graph: Annotated[bool, typer.Option("--graph", help="With the builds and configs that came in.")] = False,
    deploy: DeployName = "production",
    repo: Repo = None,
    remote: RemoteName = None,
    trust: Pin = None,
    json: Json = False,
) -> None:
    """The deploy's releases, newest first."""
    from gitrel.cli.history import Wanted
    from gitrel.cli.history import log as command

    wanted = Wanted(since=since, person=by, most=number, graph=graph)
    command(Console(as_json=json), repo, remote, deploy, trust, wanted)


@app.command(epilog=manual("gitrel show v98", *READING))
def show(
    entry: ReleaseName = None,
    deploy: DeployName = "production",
    repo: Repo = None,
    remote: RemoteName = None,
    trust: Pin = None,
    json: Json = False,
) -> None:
    """One release: who, when, what it is made of."""
    from gitrel.cli.reading import show as command

    command(Console(as_json=json), repo, remote, deploy, trust, entry)


@app.command(epilog=manual("gitrel diff v98 v100", *READING))
def diff(
    first: Annotated[
        str, typer.Argument(metavar="vA", help="A release: v98, latest, an id, @TIME.", autocompletion=releases)
    ],
    second: Annotated[
        str | None,
        typer.Argument(metavar="[vB]", help="Another one; default: the newest that may run.", autocompletion=releases),
    ] = None,
    all_files: Annotated[bool, typer.Option("--files", help="All files that differ, however many.")] = False,
    deploy: DeployName = "production",
    repo: Repo = None,
    remote: RemoteName = None,
    trust: Pin = None,
    json: Json = False,
) -> None:
    """What differs between two releases: source, files, variables by name, processes."""
    from gitrel.cli.difference import diff as command

    command(Console(as_json=json), repo, remote, deploy, trust, first, second, all_files)


@app.command(epilog=manual("gitrel verify v100 --explain", *READING))
def verify(
    entry: ReleaseName = None,
    everything: Annotated[bool, typer.Option("--all", help="The files of every release, not of one.")] = False,
    explain: Annotated[bool, typer.Option("--explain", help="One release, check by check.")] = False,
    oci: Annotated[
        Path | None, typer.Option("--oci", metavar="DIR", help="An exported image instead, by its pin alone.")
    ] = None,
    deploy: DeployName = "production",
    repo: Repo = None,
    remote: RemoteName = None,
    trust: Pin = None,
    json: Json = False,
) -> int:
    """Verify the whole ledger's records, and the files of one release (or of all)."""
    if oci is not None:
        from gitrel.cli.export import check

        check(Console(as_json=json), oci, trust)
        return ExitCode.DONE
    from gitrel.cli.reading import verify as command

    return command(Console(as_json=json), repo, remote, deploy, trust, entry, everything, explain)


@app.command(epilog=manual("gitrel approve v100", *SIGNING))
def approve(
    what: Annotated[
        str, typer.Argument(metavar="vN", help="A release; or config/vN, build/ID, trust/vN.", autocompletion=entries)
    ],
    deploy: DeployName = "production",
    yes: Yes = False,
    repo: Repo = None,
    remote: RemoteName = None,
    trust: Pin = None,
    json: Json = False,
) -> None:
    """Sign an approval of what somebody else made."""
    from gitrel.cli.approval import approve as command
    from gitrel.cli.trust import Place

    command(Console(as_json=json), Place(repo=repo, remote=remote, pin=trust, yes=yes), what, deploy)


@app.command(epilog=manual("gitrel bundle v90..v100 -o shop.bundle", *READING))
def bundle(
    output: Annotated[Path, typer.Option("-o", "--output", metavar="FILE", help="The file; replaced if it exists.")],
    releases: Annotated[
        str | None,
        typer.Argument(
            metavar="[vA..vB]",
            help="What comes after vA, up to vB; without vA everything, without vB up to the newest. "
            "If vA is the newest: heartbeats and changes of trust.",
        ),
    ] = None,
    deploy: DeployName = "production",
    repo: Repo = None,
    remote: RemoteName = None,
    trust: Pin = None,
    json: Json = False,
) -> None:
    """Put releases into one file, for a server without a network: `gitrel pull FILE` there."""
    from gitrel.cli.bundle import bundle as command

    command(Console(as_json=json), repo, remote, deploy, trust, releases, output)


@app.command(epilog=manual("gitrel doctor", *PULLING))
def doctor(
    home: Annotated[
        Path | None,
        typer.Option(
            "--home", envvar="GITREL_HOME", help="A server's home; without it the repository, or where you are."
        ),
    ] = None,
    repo: Repo = None,
    remote: RemoteName = None,
    deploy: DeployName = "production",
    json: Json = False,
) -> int:
    """Check remote, key, trust, clock, disk and settings, and say what to do; changes nothing."""
    from gitrel.cli.doctor import doctor as command

    return command(Console(as_json=json), repo, remote, home, deploy)


@app.command(epilog=manual("gitrel demo --keep", *BUILDING, ExitCode.UNHEALTHY))
def demo(
    keep: Annotated[bool, typer.Option("--keep", help="Leave the scratch folder behind.")] = False,
) -> None:
    """Everything once, for real, in a scratch folder."""
    from gitrel.cli.demo import demo as command

    command(Console(), keep)
