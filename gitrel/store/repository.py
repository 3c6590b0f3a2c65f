"""A git repository as gitrel sees it: objects, checked on every read, and refs.

Objects are read by id alone, so replace refs, grafts and shallow files change nothing. Loose objects and refs
are read and written here, strictly and durably; packs, transport and configuration are dulwich's.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator
from pathlib import Path

from dulwich.config import ConfigFile, StackedConfig
from dulwich.errors import NotGitRepository
from dulwich.object_format import get_object_format
from dulwich.object_store import DiskObjectStore
from dulwich.objects import ObjectID
from dulwich.repo import Repo

from gitrel.errors import LocalStateError, NotFound
from gitrel.ids import Kind, ObjectFormat, ObjectId
from gitrel.store.durable import create_file, make_folders, replace_file
from gitrel.store.refs import Refs

_CONFIG = {
    ObjectFormat.SHA1: "[core]\n\trepositoryformatversion = 0\n\tbare = true\n",
    ObjectFormat.SHA256: (
        "[core]\n\trepositoryformatversion = 1\n\tbare = true\n[extensions]\n\tobjectFormat = sha256\n"
    ),
}
_KINDS = {1: "commit", 2: "tree", 3: "blob", 4: "tag"}


class Repository:
    """An open repository. `path` is its common git folder, `work_tree` the checked-out folder, if it has one."""

    def __init__(self, path: Path, work_tree: Path | None, fmt: ObjectFormat, objects: Path | None = None) -> None:
        self.path = path
        self.objects = objects or path / "objects"
        self.work_tree = work_tree
        self.format = fmt
        self.refs = Refs(path)
        self._packs = DiskObjectStore(self.objects, object_format=get_object_format(fmt.value))

    @classmethod
    def discover(cls, start: Path) -> Repository:
        """The repository that `start` is in, as git finds it. Raises `NotFound`."""
        try:
            with Repo.discover(str(start)) as found:
                work_tree = None if found.bare else Path(found.path)
                return cls(Path(found.commondir()).resolve(), work_tree, ObjectFormat(found.object_format.name))
        except NotGitRepository:
            raise NotFound(
                "not a git repository", where=str(start), hint="run it in a repository, or `git init`"
            ) from None
        except (OSError, ValueError) as error:
            raise LocalStateError("cannot open the repository", where=str(start), why=str(error)) from error

    @classmethod
    def open(cls, path: Path) -> Repository:
        """The repository whose git folder, or work tree, is `path`. Raises `NotFound`."""
        try:
            with Repo(str(path)) as found:
                work_tree = None if found.bare else Path(found.path)
                return cls(Path(found.commondir()).resolve(), work_tree, ObjectFormat(found.object_format.name))
        except NotGitRepository:
            raise NotFound("not a git repository", where=str(path)) from None

    @classmethod
    def init_bare(cls, path: Path, fmt: ObjectFormat) -> Repository:
        """Make an empty bare repository (gitrepository-layout(5)). Raises `LocalStateError`."""
        for folder in ("objects/info", "objects/pack", "refs/heads", "refs/tags", "info"):
            make_folders(path / folder)
        replace_file(path / "config", _CONFIG[fmt].encode())
        replace_file(path / "HEAD", b"ref: refs/heads/main\n")  # last: without it this is no repository
        return cls(path.resolve(), None, fmt)

    def close(self) -> None:
        self._packs.close()

    def __enter__(self) -> Repository:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    @property
    def packs(self) -> DiskObjectStore:
        """dulwich's view of the packs, for the other modules of this package."""
        return self._packs

    def __contains__(self, oid: ObjectId) -> bool:
        return ObjectID(oid.encode()) in self._packs  # loose ones and alternates included

    def read(self, oid: ObjectId, kind: Kind) -> bytes:
        """The data of an object whose kind is known. Raises `NotFound`, or `LocalStateError` if it is another kind."""
        found, data = self.read_any(oid)
        if found != kind:
            raise LocalStateError(f"expected a {kind}, found a {found}", where=str(oid))
        return data

    def read_any(self, oid: ObjectId) -> tuple[Kind, bytes]:
        """An object's kind and data, hashed again. Raises `NotFound`, `LocalStateError` for damaged bytes."""
        loose = self._read_loose(oid)
        kind, data = loose if loose is not None else self._read_packed(oid)
        if self.format.object_id(kind, data) != oid:
            raise LocalStateError("object does not have the bytes that its id names", where=str(oid))
        return kind, data

    def write(self, kind: Kind, data: bytes) -> ObjectId:
        """Store one object, loose. It is durable when this returns."""
        oid = self.format.object_id(kind, data)
        path = self._loose_path(oid)
        if oid not in self:
            make_folders(path.parent)
            create_file(path, zlib.compress(b"%s %d\0" % (kind.encode(), len(data)) + data), 0o444)
        return oid

    def config(self, section: str, key: str, *, host: bool = True) -> str | None:
        """A value of git's configuration (git-config(1)): the repository's and, with `host`, the user's, the system's.

        `section` may have a subsection after a dot: `remote.origin`.
        """
        name, _, sub = section.partition(".")
        try:
            own = ConfigFile.from_path(str(self.path / "config"))
            files = [own, *(StackedConfig.default_backends() if host else [])]
            value = StackedConfig(files).get((name.encode(), sub.encode()) if sub else (name.encode(),), key.encode())
        except KeyError:
            return None
        except (OSError, ValueError) as error:
            raise LocalStateError(
                "cannot read git's configuration", where=str(self.path / "config"), why=str(error)
            ) from error
        return value.decode("utf-8", "surrogateescape")

    def _loose_path(self, oid: ObjectId) -> Path:
        return self.objects / oid[:2] / oid[2:]

    def _read_loose(self, oid: ObjectId) -> tuple[Kind, bytes] | None:
        for folder in (self.objects, *self._alternates()):
            try:
                fd = os.open(folder / oid[:2] / oid[2:], os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            except (FileNotFoundError, NotADirectoryError):
                continue
            with open(fd, "rb") as file:
                return _inflate_loose(file.read(), oid)
        return None

    def _alternates(self) -> Iterator[Path]:
        for other in self._packs.alternates:
            if isinstance(other, DiskObjectStore):
                yield Path(os.fsdecode(other.path))

    def _read_packed(self, oid: ObjectId) -> tuple[Kind, bytes]:
        try:
            number, data = self._packs.get_raw(oid.encode())  # type: ignore[arg-type]
        except KeyError:
            raise NotFound("no such object", where=f"{oid} in {self.path}") from None
        except Exception as error:  # dulwich raises whatever its parser trips over in a damaged pack
            raise LocalStateError("cannot read an object from its pack", where=str(oid), why=str(error)) from error
        return _KINDS[number], data


def _inflate_loose(deflated: bytes, oid: ObjectId) -> tuple[Kind, bytes]:
    """git's loose object: one zlib stream of `kind size NUL data`, nothing after it."""
    stream = zlib.decompressobj()
    try:
        head, nul, rest = stream.decompress(deflated, 64).partition(b"\0")
        kind, _, size = head.decode("ascii").partition(" ")
        if not nul or kind not in _KINDS.values() or not size.isdigit() or (size[0] == "0" and size != "0"):
            raise ValueError("not an object's header")
        missing = int(size) - len(rest)
        data = rest + (stream.decompress(stream.unconsumed_tail, missing + 1) if missing >= 0 else b"")
        if (
            len(data) != int(size)
            or not (stream.eof or not stream.decompress(stream.unconsumed_tail, 1))
            or stream.unused_data
        ):
            raise ValueError("its size is not what its header says")
    except (zlib.error, ValueError, OverflowError) as error:
        raise LocalStateError("damaged loose object", where=str(oid), why=str(error)) from error
    return kind, data
