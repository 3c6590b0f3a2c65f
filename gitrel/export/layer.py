"""OCI layers: tar archives whose bytes follow from the files alone (OCI image-spec 1.1, layer.md).

Not compressed, since two zlibs compress differently: a registry's client compresses on the way, and the image's config
names layers by their bytes before that. Names in git's order, folders before what is in them, all of it root's, of the
epoch, with git's two kinds of permission.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import posixpath
import tarfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

from gitrel.dataclass import dataclass
from gitrel.errors import BadInput, FormatError, LocalStateError, NotFound
from gitrel.format.tree import Mode, Node, blob_node, directory_node, parse_tree
from gitrel.ids import ObjectFormat, ObjectId
from gitrel.trust.content import Objects

LAYER = "application/vnd.oci.image.layer.v1.tar"
_GZIP = ("application/vnd.oci.image.layer.v1.tar+gzip", "application/vnd.docker.image.rootfs.diff.tar.gzip")
_PERMISSIONS = {Mode.DIRECTORY: 0o755, Mode.FILE: 0o644, Mode.EXECUTABLE: 0o755, Mode.SYMLINK: 0o777}
_TYPES = {Mode.DIRECTORY: tarfile.DIRTYPE, Mode.SYMLINK: tarfile.SYMTYPE}
MAX_FILE = 2 * 1024**3  # bytes; a file is in memory while it is hashed
_WHITEOUT = ".wh."  # what begins so removes a file of a layer below


@dataclass(frozen=True, slots=True)
class Item:
    """One entry; `data` is a file's content or a link's target."""

    path: str
    mode: Mode
    data: bytes = b""


def tree_items(objects: Objects, tree: ObjectId, path: str) -> Iterator[Item]:
    """A git tree as the folder `path`. Raises `BadInput` for names that mean something else in a layer."""
    yield Item(path, Mode.DIRECTORY)
    for entry in parse_tree(objects.read(tree, "tree"), ObjectFormat.of(tree)):
        below = f"{path}/{entry.name}"
        if entry.name.startswith(_WHITEOUT):
            raise BadInput(f"{below} cannot be in an image", why=f"in a layer {_WHITEOUT}… removes a file")
        if entry.mode is Mode.DIRECTORY:
            yield from tree_items(objects, entry.oid, below)
        else:
            yield Item(below, entry.mode, objects.read(entry.oid, "blob"))


def file_items(files: Mapping[str, bytes], path: str) -> Iterator[Item]:
    """Files by their names below the folder `path`, with the folders on the way."""
    yield Item(path, Mode.DIRECTORY)
    for folder in sorted({name.rpartition("/")[0] for name in files} - {""}):
        yield Item(f"{path}/{folder}", Mode.DIRECTORY)
    for name in sorted(files):
        yield Item(f"{path}/{name}", Mode.FILE, files[name])


class _Hashing(io.RawIOBase):
    """What is written goes to a file, if there is one, and into a digest."""

    def __init__(self, file: BinaryIO | None) -> None:
        self._file = file
        self.digest = hashlib.sha256()
        self.size = 0

    def writable(self) -> bool:
        return True

    def write(self, data: bytes | bytearray | memoryview) -> int:  # type: ignore[override]  # of any buffer
        self.digest.update(data)
        self.size += len(data)
        if self._file is not None:
            self._file.write(data)
        return len(data)


def write_layer(items: Iterable[Item], file: BinaryIO | None = None) -> tuple[str, int]:
    """Digest (`sha256:…`) and size in bytes of the layer, which goes into `file`."""
    sink = _Hashing(file)
    with tarfile.open(fileobj=sink, mode="w|", format=tarfile.PAX_FORMAT, encoding="utf-8") as archive:
        for item in items:
            info = tarfile.TarInfo(item.path)
            info.mode = _PERMISSIONS[item.mode]
            info.type = _TYPES.get(item.mode, tarfile.REGTYPE)
            if item.mode is Mode.SYMLINK:
                info.linkname = item.data.decode("utf-8", "surrogateescape")
                archive.addfile(info)
            else:
                info.size = len(item.data)
                archive.addfile(info, io.BytesIO(item.data))
    return f"sha256:{sink.digest.hexdigest()}", sink.size


def _open(blob: Path, media_type: str) -> tarfile.TarFile:
    if media_type == LAYER:
        return tarfile.open(blob, "r:", encoding="utf-8")
    if media_type in _GZIP:
        return tarfile.open(fileobj=gzip.open(blob), mode="r|", encoding="utf-8")
    raise BadInput("a layer that gitrel cannot read", where=str(blob), why=media_type, hint="skopeo copy with gzip")


def read_layer(blob: Path, media_type: str) -> Iterator[Item]:
    """What `write_layer` wrote; anything else in it shows when the items are written again.

    Raises `BadInput`, `LocalStateError`.
    """
    try:
        with _open(blob, media_type) as archive:
            for member in archive:
                if member.size > MAX_FILE or member.issparse():
                    raise BadInput("a file too large for gitrel", where=member.name, why=f"{member.size} bytes")
                file = archive.extractfile(member) if member.isreg() else None
                if file is not None:
                    yield Item(member.name, Mode.EXECUTABLE if member.mode & 0o100 else Mode.FILE, file.read())
                elif member.issym():
                    yield Item(member.name, Mode.SYMLINK, member.linkname.encode("utf-8", "surrogateescape"))
                else:
                    yield Item(member.name, Mode.DIRECTORY)
    except (tarfile.TarError, EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise BadInput("a damaged layer", where=str(blob), why=str(error)) from error
    except OSError as error:
        raise LocalStateError("cannot read a layer", where=str(blob), why=str(error)) from error


def content_digest(blob: Path, media_type: str) -> str:
    """Of the archive itself, whatever a layer's compression: what a config calls its diff id."""
    digest = hashlib.sha256()
    try:
        with gzip.open(blob) if media_type in _GZIP else blob.open("rb") as file:
            while piece := file.read(1024 * 1024):
                digest.update(piece)
    except (EOFError, OSError, zlib.error) as error:
        raise BadInput("a damaged layer", where=str(blob), why=str(error)) from error
    return f"sha256:{digest.hexdigest()}"


def check_clear(blob: Path, media_type: str, tops: Iterable[str]) -> None:
    """Raises `BadInput` if a base's layer has anything where ours go: it would be seen beside our files."""
    taken = set(tops)
    for item in read_layer(blob, media_type):
        top = posixpath.normpath("/" + item.path.lstrip("/")).split("/")[1]
        if top in taken:
            raise BadInput(f"the base has a /{top}", where=item.path, why="an image's own files would mix with it")


class FolderNode:
    """The git tree that the items of a folder make, file by file."""

    def __init__(self, path: str, fmt: ObjectFormat) -> None:
        self._path = path
        self._fmt = fmt
        self._folders: dict[str, dict[str, Node]] = {}

    def add(self, item: Item) -> None:
        """Raises `BadInput` for what is not below the folder."""
        if item.mode is Mode.DIRECTORY:
            self._folders.setdefault(item.path, {})
        parent, _, name = item.path.rpartition("/")
        if item.path == self._path:
            return
        if parent not in self._folders:
            raise BadInput("the layer holds more than the build", where=item.path)
        if item.mode is not Mode.DIRECTORY:
            self._folders[parent][name] = blob_node(item.data, self._fmt, item.mode)

    def node(self) -> Node:
        """Raises `BadInput` if there is no folder."""
        if self._path not in self._folders:
            raise BadInput("the layer has no build", where=self._path)
        for path in sorted(self._folders, key=len, reverse=True):
            node = directory_node(self._folders[path], self._fmt)[1]
            if path == self._path:
                return node
            parent, _, name = path.rpartition("/")
            self._folders[parent][name] = node
        raise AssertionError("the shortest path is the folder's own")


class FileObjects:
    """Git objects in files that are named after their ids and hold what the ids are made of (`kind SP size NUL data`).

    `sha1sum` of such a file, or `sha256sum`, is its name.
    """

    def __init__(self, files: Mapping[str, bytes]) -> None:
        self._files = files

    def read(self, oid: ObjectId, kind: str) -> bytes:
        raw = self._files.get(f"objects/{oid}")
        if raw is None:
            raise NotFound("not in the image", where=oid)
        data = raw.partition(b"\0")[2]
        if raw != b"%s %d\0%s" % (kind.encode(), len(data), data) or ObjectFormat.of(oid).object_id(kind, data) != oid:
            raise FormatError("the object is not what its name says", where=oid)
        return data

    @staticmethod
    def encode(kind: str, data: bytes) -> bytes:
        return b"%s %d\0%s" % (kind.encode(), len(data), data)
