"""`gitrel export kubernetes` and `gitrel export nomad`."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path

from gitrel import __version__
from gitrel.cli.config import identities
from gitrel.cli.console import Console
from gitrel.cli.developer import Developer, open_developer
from gitrel.cli.export import IMAGE_ENV, app_files, chosen
from gitrel.dataclass import dataclass
from gitrel.errors import NotFound, NoUsableKey, UsageError
from gitrel.export import kubernetes as kube
from gitrel.export import nomad as nomad_job
from gitrel.export.workload import InImage, Pulled, Workload, facts, told
from gitrel.export.yaml import encode
from gitrel.format.envdir import SECRET_SUFFIX, check_value
from gitrel.format.manifest import MANIFEST, parse_manifest
from gitrel.format.procfile import PROCFILE, parse_procfile, shell_command
from gitrel.ids import Sha256
from gitrel.store.durable import make_folders, replace_file
from gitrel.store.location import parse_location
from gitrel.trust.content import bind_trees

SEALED, EXTERNAL, PLAIN = "sealed", "external", "plain"
_USER = re.compile(r"([1-9][0-9]{0,9}):([0-9]{1,10})")
_BY_DIGEST = re.compile(r".+@sha256:[0-9a-f]{64}")
_YAML = (".yaml", ".yml")


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """Which release, and what its objects are called; as the command line says it. `url`: where servers pull from."""

    entry: str | None
    deploy: str
    repo: Path | None
    remote: str | None
    trust: str | None
    name: str | None
    port: int
    url: str | None


def kubernetes(
    console: Console,
    asked: Asked,
    output: Path | None,
    pull: bool,
    image: str,
    user: str,
    secrets: str | None,
    places: tuple[str | None, str | None, Path | None],
) -> None:
    """`places`: the SecretStore, the Secret with the SSH key, the file of whoever decrypts for `plain`."""
    store, git_key, identity = places
    whom = _USER.fullmatch(user)
    if whom is None:
        raise UsageError("not a user's and a group's numbers", where=repr(user), hint="--user UID:GID, and not root")
    way = secrets or (SEALED if pull else EXTERNAL)
    if way not in (SEALED, EXTERNAL, PLAIN) or (way == SEALED) != pull:
        why = "only what pulls decrypts; an image gets its secrets from the cluster"
        hint = "--secrets external or plain with an image; sealed (the default) with --pull"
        raise UsageError(f"--secrets {way} does not go with {'--pull' if pull else 'an image'}", why=why, hint=hint)
    with _opened(asked, console) as dev:
        work, pin = _workload(dev, asked)
        source = (
            Pulled(image=image, url=_url(dev, asked), pin=pin) if pull else InImage(image=image, base_env=IMAGE_ENV)
        )
        values = _decrypted(dev, work, identity) if way == PLAIN and work.secrets else None
    choices = kube.Choices(user=(int(whom[1]), int(whom[2])), secrets=values, store=store, git_key=git_key)
    files = kube.objects(work, source, choices)
    _remark(console, work, source)
    if _BY_DIGEST.fullmatch(image) is None:
        console.note(f"note: who may push to {image} decides what is in it; IMAGE@sha256:… is one image for ever")
    if pull and work.secrets:
        name = work.label("identity")
        console.note(f"note: the Secret {name} has to hold a reader's key as {kube.IDENTITY_FILE}: docs/kubernetes.md")
    if values:
        console.note(f"WARNING: this has SECRETS IN THE CLEAR, for anyone who reads it: {', '.join(values)}")
    header = f"# {work.app} {work.deploy} {work.entry}, release record {work.facts['gitrel.release'].split()[0]}\n"
    header += f"# Made by `gitrel export kubernetes` of gitrel {__version__}.\n"
    mode = 0o600 if values else 0o644
    if output is None or output.suffix in _YAML:
        text = header + encode(each for found in files.values() for each in found)
        written = [_write(console, output, text, mode)]
    else:
        make_folders(output)
        written = [
            _write(console, output / f"{name}.yaml", header + encode(found), mode) for name, found in files.items()
        ]
    everything = [each for found in files.values() for each in found]
    console.result(release=str(work.entry), **({"files": written} if output else {"objects": everything}))


def nomad(
    console: Console,
    asked: Asked,
    output: Path | None,
    image: str | None,
    driver: str,
    users: tuple[str | None, str | None],
    release_phase: bool,
) -> None:
    """`users`: whom tasks run as, and the file on the clients with which secrets are read."""
    user, identity = users
    with _opened(asked, console) as dev:
        work, pin = _workload(dev, asked)
        source = InImage(image=image, base_env=IMAGE_ENV) if image else Pulled(image="", url=_url(dev, asked), pin=pin)
    choices = nomad_job.Choices(driver=driver, user=user, identity=identity)
    document = nomad_job.job(work, source, choices, release_phase=release_phase)
    _remark(console, work, source)
    if work.secrets and image:
        console.note(
            f"note: the Nomad variable nomad/jobs/{document['Job']['ID']} has to hold {', '.join(work.secrets)}"
        )
    written = _write(console, output, json.dumps(document, indent=2) + "\n", 0o644)
    console.result(release=str(work.entry), **({"files": [written]} if output else {"job": document}))


def _opened(asked: Asked, console: Console) -> AbstractContextManager[Developer]:
    return open_developer(console, repo=asked.repo, remote=asked.remote, deploy=asked.deploy, trust=asked.trust)


def _workload(dev: Developer, asked: Asked) -> tuple[Workload, Sha256]:
    """The release, verified, and the pin by which it was."""
    now, release, build = chosen(dev, asked.entry)
    procfile, manifest = app_files(dev, build)
    record = release.record
    work = Workload(
        app=record.app,
        deploy=record.deploy,
        entry=release.entry,
        name=asked.name or (record.app if record.deploy == "production" else f"{record.app}-{record.deploy}"),
        facts=facts(release, build),
        told=told(release),
        commands={kind: shell_command(line) for kind, line in parse_procfile(procfile, PROCFILE).items()},
        manifest=parse_manifest(manifest, MANIFEST),
        config=bind_trees(release, dev.repo).config,
        base_port=asked.port,
    )
    return work, now.trust.pin


def _url(dev: Developer, asked: Asked) -> str:
    """Where servers find the ledger; never with a password, since what is exported is for everybody to read."""
    name = asked.remote or "origin"
    text = asked.url or dev.git.first(("remote", name), "url")
    if text is None:
        raise UsageError("no remote to pull from", hint="--url URL")
    place = parse_location(text, dev.source)
    if place.scheme in ("http", "https") or place.password is not None:
        return place.safe
    return place.path if place.scheme == "local" else text


def _decrypted(dev: Developer, work: Workload, identity: Path | None) -> Mapping[str, str]:
    from gitrel.keys.secrets import decrypt_secret

    keys = identities(dev, identity)
    found = {}
    for name in work.secrets:
        try:
            found[name] = check_value(name, decrypt_secret(work.config[name + SECRET_SUFFIX], keys))
        except NoUsableKey as error:
            error.what = f"no key here reads {name}"
            error.hint = "--identity PATH names a reader's key; --secrets external needs none"
            raise
    return found


def _remark(console: Console, work: Workload, source: InImage | Pulled) -> None:
    for remark in work.remarks(in_image=isinstance(source, InImage)):
        console.note(f"note: {remark}")


def _write(console: Console, path: Path | None, text: str, mode: int) -> str:
    if path is None:
        console.out(text.removesuffix("\n"))
        return "-"
    if not path.parent.is_dir():
        raise NotFound("no such folder", where=str(path.parent))
    replace_file(path, text.encode(), mode)
    console.out(str(path))
    return str(path)
