"""`gitrel export …`: what runs here, as files for other programs."""

from __future__ import annotations

import os
import platform
import pwd
import re
import shutil
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from gitrel import __version__
from gitrel.audit.verify import verify_files
from gitrel.cli.console import Console
from gitrel.cli.developer import Developer, open_developer, parse_pin
from gitrel.cli.naming import named_release
from gitrel.cli.server import open_home
from gitrel.errors import UsageError
from gitrel.export import image as oci_image
from gitrel.export.layer import Item, file_items, tree_items
from gitrel.export.proof import Choices, describe, empty_base, verify_image
from gitrel.export.records import collect, read_claim
from gitrel.export.systemd import ROOT, Plan, per_process, supervised
from gitrel.format.manifest import MANIFEST, RELEASE_PHASE
from gitrel.format.procfile import PROCFILE
from gitrel.format.tree import Node
from gitrel.release.cut import Standing
from gitrel.run.home import Home
from gitrel.run.layout import Layout, base_environment
from gitrel.run.resolve import candidates, verify_here
from gitrel.store.differ import read_folder
from gitrel.store.durable import disk_error, make_folders, replace_file
from gitrel.trust.content import bind_trees
from gitrel.trust.ledger import ChainedRelease

_MACHINES = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm/v7", "i686": "386"}  # others are called the same
_USER = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,30}\$?")  # what systemd takes as a user's name everywhere
_WHOM = re.compile(r"[A-Za-z0-9_.-]+(:[A-Za-z0-9_.-]+)?")


def systemd(
    console: Console,
    path: Path | None,
    output: Path | None,
    each_alone: bool,
    user: str | None,
    port: int,
    name: str | None,
) -> None:
    home = open_home(path)
    plan = _plan(home, user or _owner(home), port, name)
    if plan.user == ROOT and all(spec.user is None for spec in plan.processes.values()):
        console.note("note: the processes run as root; --user NAME names somebody else")
    files = per_process(plan) if each_alone else supervised(plan)
    for file, text in files.items():
        if output is None:
            console.out(f"# /etc/{file}\n{text}")
        else:
            make_folders((output / file).parent)
            replace_file(output / file, text.encode())
            console.out(str(output / file))
    console.result(release=str(plan.release), files=files)


def _plan(home: Home, user: str, port: int, name: str | None) -> Plan:
    """Of the release that `gitrel exec` would take."""
    if _USER.fullmatch(user) is None:
        raise UsageError("not a user's name", where=repr(user))
    state = home.read_state()
    verified = verify_here(home, state, state.current or candidates(state)[0])
    layout = Layout(home, verified, port=port)
    kinds = [kind for kind in layout.commands if kind != RELEASE_PHASE]
    processes = {kind: layout.spec(kind) for kind in kinds}
    return Plan(
        app=state.app,
        deploy=state.deploy,
        release=layout.release,
        record=verified.chained.id.oid,
        version=__version__,
        name=state.app if name is None else name,
        home=home.path,
        program=_program(),
        user=user,
        port=port,
        processes=processes,
        scales={kind: state.scales.get(kind, spec.scale) for kind, spec in processes.items()},
    )


def _owner(home: Home) -> str:
    uid = home.state_file.stat().st_uid
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        raise UsageError(f"the home belongs to user {uid}, who has no name here", hint="--user NAME") from None


def _program() -> tuple[str, ...]:
    """How this gitrel is started: its own script, or the interpreter that it runs in."""
    script = Path(sys.argv[0]).absolute()
    if script.name == "gitrel" and os.access(script, os.X_OK):
        return (str(script),)
    return (sys.executable, "-m", "gitrel")


# What processes get in an image before anything of theirs: a HOME that any user may write to.
IMAGE_ENV = base_environment(Path("/tmp"), "app")  # noqa: S108 - the image's own


def oci(
    console: Console,
    repo: Path | None,
    remote: str | None,
    deploy: str,
    pin: str | None,
    entry: str | None,
    base: Path | None,
    output: Path,
    choices: tuple[str, str, int],
    machine: str | None,
) -> None:
    """`choices`: the process type, `uid:gid`, the port."""
    process, user, port = choices
    if _WHOM.fullmatch(user) is None:
        raise UsageError("not a user of an image", where=repr(user), hint="--user UID:GID")
    if output.exists():
        raise UsageError("something is there already", where=str(output), hint="choose another name, or remove it")
    below = oci_image.read_base(oci_image.Layout(base)) if base else empty_base(machine or _platform())
    made = Choices(process=process, user=user, port=port, base_env=IMAGE_ENV)
    with open_developer(console, repo=repo, remote=remote, deploy=deploy, trust=pin) as dev:
        now, release, build = chosen(dev, entry)
        records = collect(dev.repo, dev.workspace.refs(), bind_trees(release, dev.repo))
        claim = read_claim(records, now.trust.pin)  # what nobody could verify is not written
        files = app_files(dev, build)
        image = describe(claim, build, files[0], files[1], made)
        layers = (tree_items(dev.repo, build.oid, oci_image.APP), file_items(records, oci_image.RECORDS))
        digest = _write(output, image, below, layers)
    console.out(f"{release.entry}  {digest}")
    if image.about["gitrel.required"]:
        console.note(f"to be given when it runs: {image.about['gitrel.required']}")
    if image.about["gitrel.writable"]:
        console.note(f"to be mounted below /shared, for it to write to: {image.about['gitrel.writable']}")
    console.result(release=str(release.entry), digest=digest, annotations=image.about)


def chosen(dev: Developer, entry: str | None) -> tuple[Standing, ChainedRelease, Node]:
    """The ledger, the release of that name (None: the newest), and its build, all of it verified."""
    dev.sync()
    now = dev.standing()
    release = named_release(dev.console, now, entry).runnable
    return now, release, verify_files(dev.repo, release).build


def app_files(dev: Developer, build: Node) -> list[bytes]:
    """The build's Procfile and gitrel.toml."""
    top = read_folder(dev.repo, build.oid)
    return [dev.repo.read(top[name].oid, "blob") for name in (PROCFILE, MANIFEST)]


def _platform() -> str:
    machine = platform.machine()
    return f"linux/{_MACHINES.get(machine, machine)}"


def _write(output: Path, image: oci_image.Image, base: oci_image.Base, layers: Iterable[Iterator[Item]]) -> str:
    """A folder, or an archive if the name ends in `.tar`; complete when it has its name. The image's digest."""
    aside = output.with_name(f".{output.name}.{os.getpid()}.tmp")
    try:
        digest = oci_image.Writer(aside).write(image, base, layers)
        if output.suffix == ".tar":
            oci_image.pack(aside, output)
        else:
            aside.rename(output)
    except OSError as error:
        raise disk_error(error, output) from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return digest


def check(console: Console, path: Path, pin: str | None) -> None:
    """An image against a pin, with nothing but its own files."""
    digest = parse_pin(pin)
    if digest is None:
        raise UsageError("no pin to check against", hint="--trust PIN, as `gitrel init` printed it")
    proven = verify_image(oci_image.Layout(path), digest, IMAGE_ENV)
    chained, about = proven.claim.chained, proven.image.about
    rows = [
        ("image", proven.digest),
        ("release", f"{chained.entry} of {chained.record.app}, {chained.record.deploy}"),
        ("id", str(chained.id)),
        ("process", f"{about['gitrel.process']}, as user {proven.image.run['User']}"),
        ("signers", about["gitrel.signers"]),
        ("source", chained.build.record.source),
        ("trust", f"{chained.trust.entry}, pin {digest}; what trust said later is not in an image"),
        ("base", f"{proven.base} layers, which nobody signed here" if proven.base else "none"),
        ("required", about["gitrel.required"] or "nothing"),
    ]
    console.facts(rows)
    console.result(digest=proven.digest, release=str(chained.entry), base_layers=proven.base, annotations=about)
