"""A git repository as gitrel sees it: objects, checked on every read, and refs.

Objects are read by id alone, so replace refs, grafts and shallow files change nothing. Objects and refs are read
and written here, strictly and durably; to find a repository and to read its configuration is dulwich's part, imported
where it is needed: a home's own repository is opened without it, before each start of a process.
"""

from __future__ import annotations

import os
import re
import zlib
from pathlib import Path

from gitrel.errors import LocalStateError, NotFound
from gitrel.ids import Kind, ObjectFormat, ObjectId
from gitrel.store.durable import create_object, make_folders, replace_file
from gitrel.store.packfile import NUMBERS
from gitrel.store.packs import Packs
from gitrel.store.refs import Refs

_CONFIG = {
    ObjectFormat.SHA1: "[core]\n\trepositoryformatversion = 0\n\tbare = true\n",
    ObjectFormat.SHA256: (
        "[core]\n\trepositoryformatversion = 1\n\tbare = true\n[extensions]\n\tobjectFormat = sha256\n"
    ),
}
_OTHERS = re.compile(rb"^[ \t]*\[[ \t]*(?:core|extensions|include)", re.IGNORECASE | re.MULTILINE)


class Repository:
    """An open repository. `path` is its common git folder, `work_tree` the checked-out folder, if it has one."""

    def __init__(self, path: Path, work_tree: Path | None, fmt: ObjectFormat, objects: Path | None = None) -> None:
        self.path = path
        self.objects = objects or path / "objects"
        self.work_tree = work_tree
        self.format = fmt
        self.refs = Refs(path)
        self._packs = Packs(self.objects, fmt)

    @classmethod
    def discover(cls, start: Path) -> Repository:
        """The repository that `start` is in, as git finds it. Raises `NotFound`."""
        from dulwich.errors import NotGitRepository
        from dulwich.repo import Repo

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
        if fmt := _made_here(path):
            return cls(path.resolve(), None, fmt)
        from dulwich.errors import NotGitRepository
        from dulwich.repo import Repo

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
    def packs(self) -> Packs:
        """For the other modules of this package."""
        return self._packs

    def __contains__(self, oid: ObjectId) -> bool:
        if any(os.path.exists(self._loose_path(oid, folder)) for folder in self._packs.folders):
            return True
        return self._packs.find(oid) is not None

    def read(self, oid: ObjectId, kind: Kind) -> bytes:
        """The data of an object whose kind is known. Raises `NotFound`, or `LocalStateError` if it is another kind."""
        found, data = self.read_any(oid)
        if found != kind:
            raise LocalStateError(f"expected a {kind}, found a {found}", where=str(oid))
        return data

    def read_any(self, oid: ObjectId) -> tuple[Kind, bytes]:
        """An object's kind and data, hashed again. Raises `NotFound`, `LocalStateError` for damaged bytes."""
        found = self._read_loose(oid)
        if found is None:
            if (packed := self._packs.find(oid)) is None:
                raise NotFound("no such object", where=f"{oid} in {self.path}")
            pack, offset = packed
            found = pack.read(offset)
        kind, data = found
        if self.format.object_id(kind, data) != oid:
            raise LocalStateError("object does not have the bytes that its id names", where=str(oid))
        return kind, data

    def write(self, kind: Kind, data: bytes) -> ObjectId:
        """Store one object, loose. It is durable when this returns."""
        oid = self.format.object_id(kind, data)
        path = Path(self._loose_path(oid, self.objects))
        if oid not in self:
            make_folders(path.parent)
            create_object(path, zlib.compress(b"%s %d\0" % (kind.encode(), len(data)) + data))
        return oid

    def config(self, section: str, key: str, *, host: bool = True) -> str | None:
        """A value of git's configuration (git-config(1)): the repository's and, with `host`, the user's, the system's.

        `section` may have a subsection after a dot: `remote.origin`.
        """
        from dulwich.config import ConfigFile, StackedConfig

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

    @staticmethod
    def _loose_path(oid: ObjectId, objects: Path) -> str:
        return f"{objects}/{oid[:2]}/{oid[2:]}"

    def _read_loose(self, oid: ObjectId) -> tuple[Kind, bytes] | None:
        for folder in self._packs.folders:
            try:
                fd = os.open(self._loose_path(oid, folder), os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            except (FileNotFoundError, NotADirectoryError):
                continue
            with open(fd, "rb") as file:
                return _inflate_loose(file.read(), oid)
        return None


def _made_here(path: Path) -> ObjectFormat | None:
    """The format of a repository that `init_bare` made: its configuration begins as that writes it.

    What was added since says nothing about the format (git-config(1), `core` and `extensions`).
    """
    try:
        raw = (path / "config").read_bytes() if (path / "objects").is_dir() and (path / "refs").is_dir() else b""
    except OSError:
        return None
    for fmt, text in _CONFIG.items():
        rest = raw[len(text) :].lstrip()
        if raw.startswith(text.encode()) and rest[:1] in (b"", b"[") and not _OTHERS.search(rest):
            return fmt
    return None


def _inflate_loose(deflated: bytes, oid: ObjectId) -> tuple[Kind, bytes]:
    """git's loose object: one zlib stream of `kind size NUL data`, nothing after it."""
    stream = zlib.decompressobj()
    try:
        head, nul, rest = stream.decompress(deflated, 64).partition(b"\0")
        kind, _, size = head.decode("ascii").partition(" ")
        if not nul or kind not in NUMBERS or not size.isdigit() or (size[0] == "0" and size != "0"):
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
