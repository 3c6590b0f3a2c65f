"""What a release's image says, and the proof that an image says exactly that (docs/oci.md).

Both directions use the same functions: an image is right if its layers and its config are what would be made of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from gitrel.dataclass import dataclass
from gitrel.errors import BadInput, NotFound, Refused
from gitrel.export.image import APP, RECORDS, Base, Image, Layout
from gitrel.export.layer import FolderNode, Item, check_clear, content_digest, file_items, read_layer, write_layer
from gitrel.export.records import Claim, prove, read_claim
from gitrel.export.workload import facts, told
from gitrel.format.envdir import plain_values
from gitrel.format.manifest import MANIFEST, RunSpec, parse_manifest
from gitrel.format.procfile import PROCFILE, parse_procfile, shell_command
from gitrel.format.tree import Mode, Node
from gitrel.ids import ObjectFormat, Sha256
from gitrel.trust.checks import Check

_OCI = "org.opencontainers.image."


@dataclass(frozen=True, slots=True, kw_only=True)
class Choices:
    """What is not the release's to say: which process, as whom (`uid:gid`), on which port, in what environment."""

    process: str
    user: str
    port: int
    base_env: Mapping[str, str]


def describe(claim: Claim, build: Node, procfile: bytes, manifest: bytes, choices: Choices) -> Image:
    """The image of a release. Raises `NotFound` for a process type that it does not have, `FormatError`."""
    chained = claim.chained
    record = chained.record
    commands, spec = parse_procfile(procfile, PROCFILE), parse_manifest(manifest, MANIFEST)
    if choices.process not in commands:
        why = f"there are {', '.join(commands)}"
        raise NotFound(f"no process type {choices.process!r}", where=PROCFILE, why=why, hint="--process NAME")
    plain = plain_values(claim.config)
    env = {
        **choices.base_env,
        **spec.run.get(choices.process, RunSpec()).env,
        **plain,
        "PORT": str(choices.port),
        **told(chained),
        "GITREL_PROCESS": choices.process,
    }
    required = sorted({*claim.secrets, *spec.missing(plain)})
    about = {
        f"{_OCI}title": record.app,
        f"{_OCI}version": str(record.entry),
        f"{_OCI}revision": chained.build.record.source,
        **facts(chained, build),
        "gitrel.process": choices.process,
        "gitrel.required": ", ".join(required),
        "gitrel.writable": ", ".join(spec.writable),
    }
    run = {
        "User": choices.user,
        "Env": [f"{name}={value}" for name, value in sorted(env.items())],
        "Cmd": ["/bin/sh", "-c", shell_command(commands[choices.process])],
        "WorkingDir": f"/{APP}",
    }
    created = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=chained.signed.committer.time)
    return Image(created=f"{created:%Y-%m-%dT%H:%M:%SZ}", run=run, about=about, name=str(record.entry))


@dataclass(frozen=True, slots=True, kw_only=True)
class Proven:
    """An image that is a signed release, and what was not proven: `base`, the number of layers below."""

    claim: Claim
    image: Image
    digest: str
    base: int


def verify_image(layout: Layout, pin: Sha256, base_env: Mapping[str, str]) -> Proven:
    """Raises `Refused`; `NotFound` if there is no image, or not all of it."""
    try:
        return _verify(layout, pin, base_env)
    except BadInput as error:
        where = error.where or str(layout.path)
        raise Refused(error.what, check=Check.CONTENT, where=where, why=error.why, hint=error.hint) from error


def _verify(layout: Layout, pin: Sha256, base_env: Mapping[str, str]) -> Proven:
    manifest, digest = layout.manifest()
    try:
        layers = list(manifest["layers"])
        config = layout.document(manifest["config"])
        diff_ids = list(config["rootfs"]["diff_ids"])
        types = [layer["mediaType"] for layer in layers]
        files = [layout.blob(layer) for layer in layers]
        said = dict(config["config"])
        notes = dict(manifest.get("annotations", {}))
        env = dict(line.split("=", 1) for line in said["Env"])
        process, user, port = str(said["Labels"]["gitrel.process"]), str(said["User"]), int(env["PORT"])
        choices = Choices(process=process, user=user, port=port, base_env=base_env)
    except (KeyError, TypeError, ValueError) as error:
        raise BadInput("not the image of a release", where=str(layout.path), why=f"no {error}") from None
    if len(layers) < 2 or len(layers) != len(diff_ids):
        raise BadInput("not the image of a release", where=str(layout.path), why=f"{len(layers)} layers")
    for file, kind in zip(files[:-2], types[:-2], strict=True):
        check_clear(file, kind, (APP, RECORDS))

    for file, kind, said_id in zip(files[-2:], types[-2:], diff_ids[-2:], strict=True):
        _same(content_digest(file, kind), said_id, str(file))
    claim = read_claim(_records(files[-1], types[-1], diff_ids[-1]), pin)
    walk = _Walk(files[-2], types[-2], ObjectFormat.of(claim.chained.id.oid))
    _same(write_layer(walk)[0], diff_ids[-2], f"/{APP}")
    build = walk.folder.node()
    prove(claim, build)
    image = describe(claim, build, walk.top(PROCFILE), walk.top(MANIFEST), choices)
    expected = {**image.run, "Labels": dict(image.about)}
    different = sorted(key for key in {*said, *expected} if said.get(key) != expected.get(key))
    different += sorted(key for key, text in image.about.items() if notes.get(key, text) != text)
    if different:
        why = f"{', '.join(different)}: not what the release says"
        raise Refused("the image's config is another", check=Check.CONTENT, where=str(layout.path), why=why)
    return Proven(claim=claim, image=image, digest=digest, base=len(layers) - 2)


def _same(found: str, said: Any, where: str) -> None:
    """A layer of ours is its files in the one way in which we write them, and not a byte more: no two programs that
    read archives can differ about it.
    """
    if found != said:
        why = f"it is {found}, the image's config says {said}"
        raise Refused("the layer is not written as a release's is", check=Check.CONTENT, where=where, why=why)


def _records(file: Path, media_type: str, diff_id: Any) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    for item in read_layer(file, media_type):
        folder, _, name = item.path.partition("/")
        if folder != RECORDS:
            raise BadInput("the layer holds more than records", where=item.path)
        if item.mode is not Mode.DIRECTORY:
            found[name] = item.data
    _same(write_layer(file_items(found, RECORDS))[0], diff_id, f"/{RECORDS}")
    return found


class _Walk:
    """The build's layer, once, file by file; what is asked of it afterwards is kept."""

    def __init__(self, file: Path, media_type: str, fmt: ObjectFormat) -> None:
        self._items = read_layer(file, media_type)
        self._kept: dict[str, bytes] = {}
        self.folder = FolderNode(APP, fmt)

    def __iter__(self) -> Iterator[Item]:
        for item in self._items:
            self.folder.add(item)
            if item.path in (f"{APP}/{PROCFILE}", f"{APP}/{MANIFEST}"):
                self._kept[item.path] = item.data
            yield item

    def top(self, name: str) -> bytes:
        if f"{APP}/{name}" not in self._kept:
            raise BadInput(f"the build has no {name}", where=f"/{APP}")
        return self._kept[f"{APP}/{name}"]


def empty_base(platform: str) -> Base:
    """Nothing below, for a machine such as `linux/amd64` or `linux/arm/v7`. Raises `BadInput`."""
    names = platform.split("/")
    if not 2 <= len(names) <= 3 or not all(names):
        raise BadInput("not a platform such as linux/amd64", where=repr(platform))
    return Base(platform=dict(zip(("os", "architecture", "variant"), names, strict=False)))
