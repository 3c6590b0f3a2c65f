"""An OCI image of a release (OCI image-spec 1.1: image-layout.md, manifest.md, config.md).

The base's layers, then the build below /app, then the release's records below /.gitrel. The same release, base and
options make the same digest.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import tarfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from gitrel.dataclass import dataclass
from gitrel.errors import BadInput, LocalStateError, NotFound
from gitrel.export.layer import LAYER, Item, check_clear, write_layer
from gitrel.store.durable import disk_error

APP, RECORDS = "app", ".gitrel"
INDEX = "application/vnd.oci.image.index.v1+json"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_MOST = 16 * 1024 * 1024  # bytes of a JSON document


@dataclass(frozen=True, slots=True, kw_only=True)
class Base:
    """What is below our layers: descriptors, their files, diff ids, and what its config says about the machine."""

    platform: Mapping[str, Any]
    layers: Sequence[Mapping[str, Any]] = ()
    files: Sequence[Path] = ()
    diff_ids: Sequence[str] = ()
    digest: str = ""


class Layout:
    """A folder as image-layout.md has it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def blob(self, descriptor: Mapping[str, Any]) -> Path:
        """Raises `BadInput`, `NotFound`; the bytes are compared with the digest."""
        digest = str(descriptor["digest"])
        if _DIGEST.fullmatch(digest) is None:
            raise BadInput("not a digest that gitrel knows", where=str(self.path), why=digest[:100])
        path = self.path / "blobs/sha256" / digest.removeprefix("sha256:")
        try:
            with path.open("rb") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise NotFound("the image lacks a blob", where=str(path), why=error.strerror or "") from None
        if f"sha256:{found}" != digest:
            raise BadInput("a blob is not what its name says", where=str(path))
        return path

    def document(self, descriptor: Mapping[str, Any]) -> dict[str, Any]:
        return _parsed(self.blob(descriptor))

    def manifest(self) -> tuple[dict[str, Any], str]:
        """The only image of the layout, and its digest. Raises `BadInput`, `NotFound`."""
        if not (self.path / "oci-layout").is_file():
            raise NotFound("not an OCI image layout", where=str(self.path), hint="`skopeo copy … oci:DIR` makes one")
        try:
            found = list(_parsed(self.path / "index.json")["manifests"])
            if len(found) == 1 and found[0]["mediaType"] == INDEX:
                found = list(self.document(found[0])["manifests"])
            kinds = [each["mediaType"] for each in found]
        except (KeyError, TypeError) as error:
            raise BadInput("not an image of OCI 1.1", where=str(self.path), why=f"no {error}") from None
        if kinds != [MANIFEST]:
            why = f"it has {len(kinds)} images" if len(kinds) != 1 else str(kinds[0])
            hint = "`skopeo copy --format oci` makes one of one image"
            raise BadInput("not a layout of one image", where=str(self.path), why=why, hint=hint)
        return self.document(found[0]), str(found[0]["digest"])


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Container engines take `Config` for `config`, and the last of two (Go's encoding/json): there is to be one."""
    if len({key.casefold() for key, _ in pairs}) != len(pairs):
        raise ValueError("a key stands twice")
    return dict(pairs)


def _parsed(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > _MOST:
            raise BadInput("too large for a JSON document of an image", where=str(path))
        document = json.loads(path.read_bytes(), object_pairs_hook=_object)
    except OSError as error:
        raise NotFound("the image lacks a file", where=str(path), why=error.strerror or "") from None
    except ValueError as error:
        raise BadInput("not JSON that is clear", where=str(path), why=str(error)) from None
    if not isinstance(document, dict):
        raise BadInput("not a JSON object", where=str(path))
    return document


def read_base(layout: Layout) -> Base:
    """A base image whose layers leave room for ours. Raises `BadInput`, `NotFound`, `LocalStateError`."""
    manifest, digest = layout.manifest()
    try:
        config = layout.document(manifest["config"])
        layers, diff_ids = list(manifest["layers"]), list(config["rootfs"]["diff_ids"])
        platform: dict[str, Any] = {
            key: config[key] for key in ("architecture", "os", "os.version", "variant") if key in config
        }
        if len(layers) != len(diff_ids):
            raise BadInput("as many layers as diff ids belong to an image", where=str(layout.path))
        files = [layout.blob(layer) for layer in layers]
        for layer, file in zip(layers, files, strict=True):
            check_clear(file, layer["mediaType"], (APP, RECORDS))
    except (KeyError, TypeError) as error:
        raise BadInput("not an image of OCI 1.1", where=str(layout.path), why=f"no {error}") from None
    return Base(platform=platform, layers=layers, files=files, diff_ids=diff_ids, digest=digest)


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """What the config says beside the layers. `run` is its `config` object, `about` its labels and annotations."""

    created: str
    run: Mapping[str, Any]
    about: Mapping[str, str]
    name: str


class Writer:
    """Makes a layout in an empty folder. Raises `LocalStateError`."""

    def __init__(self, path: Path) -> None:
        self.layout = Layout(path)
        self._blobs = path / "blobs/sha256"
        try:
            self._blobs.mkdir(parents=True)
        except OSError as error:
            raise disk_error(error, path) from error

    def write(self, image: Image, base: Base, layers: Iterable[Iterator[Item]]) -> str:
        """The image's digest."""
        try:
            for layer, file in zip(base.layers, base.files, strict=True):
                shutil.copyfile(file, self._blobs / layer["digest"].removeprefix("sha256:"))
            return self._write(image, base, [self._layer(items) for items in layers])
        except OSError as error:
            raise disk_error(error, self.layout.path) from error

    def _write(self, image: Image, base: Base, ours: list[dict[str, Any]]) -> str:
        config = {
            "created": image.created,
            **base.platform,
            "config": {**image.run, "Labels": dict(image.about)},
            "rootfs": {"type": "layers", "diff_ids": [*base.diff_ids, *(layer["digest"] for layer in ours)]},
        }
        annotations = {**image.about, "org.opencontainers.image.created": image.created}
        if base.digest:
            annotations["org.opencontainers.image.base.digest"] = base.digest
        manifest = {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": self._json(config, CONFIG),
            "layers": [*base.layers, *ours],
            "annotations": annotations,
        }
        named = {"annotations": {"org.opencontainers.image.ref.name": image.name}}
        descriptor = {**self._json(manifest, MANIFEST), **named}
        index = {"schemaVersion": 2, "mediaType": INDEX, "manifests": [descriptor]}
        (self.layout.path / "index.json").write_bytes(_encoded(index))
        (self.layout.path / "oci-layout").write_bytes(_encoded({"imageLayoutVersion": "1.0.0"}))
        return str(descriptor["digest"])

    def _layer(self, items: Iterator[Item]) -> dict[str, Any]:
        aside = self._blobs / "layer.tmp"
        with aside.open("wb") as file:
            digest, size = write_layer(items, file)
        aside.rename(self._blobs / digest.removeprefix("sha256:"))
        return {"mediaType": LAYER, "digest": digest, "size": size}

    def _json(self, document: Mapping[str, Any], media_type: str) -> dict[str, Any]:
        raw = _encoded(document)
        digest = hashlib.sha256(raw).hexdigest()
        (self._blobs / digest).write_bytes(raw)
        return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(raw)}


def _encoded(document: Mapping[str, Any]) -> bytes:
    return json.dumps(document, sort_keys=True, ensure_ascii=False, separators=(",", ":")).encode()


def pack(layout: Path, target: Path) -> None:
    """The layout as one archive, the same bytes for the same layout. Raises `LocalStateError`."""

    def plain(info: tarfile.TarInfo) -> tarfile.TarInfo:
        info.uid = info.gid = info.mtime = 0
        info.uname = info.gname = ""
        info.mode = 0o755 if info.isdir() else 0o644
        return info

    aside = target.with_name(f".{target.name}.tmp")
    try:
        with tarfile.open(aside, "w:", format=tarfile.PAX_FORMAT) as archive:
            for path in sorted(layout.rglob("*")):
                archive.add(path, str(path.relative_to(layout)), recursive=False, filter=plain)
        os.replace(aside, target)
    except OSError as error:
        aside.unlink(missing_ok=True)
        raise LocalStateError("cannot write", where=str(target), why=error.strerror or str(error)) from error
