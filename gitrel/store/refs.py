"""Refs of a repository, read strictly and created once (gitrepository-layout(5), git-pack-refs(1)).

gitrel's refs never move, so there is no update and no delete here. A loose ref wins over a packed one, as in
git. Symbolic refs, links, FIFOs and anything else that is not an object id are refused by name.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path

from gitrel.errors import Conflict, FormatError, LocalStateError
from gitrel.ids import ObjectId
from gitrel.store.durable import create_file, make_folders

_PACKED = re.compile(rb"^([0-9a-f]{40}|[0-9a-f]{64}) (refs/[^\n]+)$", re.MULTILINE)
_TEMPORARY = re.compile(r"\..*\.tmp|.*\.lock")


class Refs:
    """The refs below `refs/` of the repository whose common folder is given."""

    def __init__(self, common: Path) -> None:
        self._common = common

    def get(self, name: str) -> ObjectId | None:
        """The object that the full ref `name` points at. Raises `LocalStateError` for a damaged ref."""
        loose = self._read_loose(self._common / name)
        return loose if loose is not None else self._packed().get(name)

    def list(self, prefix: str) -> dict[str, ObjectId]:
        """Every ref whose full name begins with `prefix`, sorted by name."""
        found = {name: oid for name, oid in self._packed().items() if name.startswith(prefix)}
        for name in self._loose_names(prefix):
            oid = self._read_loose(self._common / name)
            if oid is not None:
                found[name] = oid
        return dict(sorted(found.items()))

    def create(self, name: str, oid: ObjectId) -> None:
        """Create a ref that must not exist; one that already says the same is fine.

        Raises `Conflict` if it exists with another value. Durable when it returns; the object must be already.
        """
        path = self._common / name
        existing = self.get(name)
        if existing is None:
            make_folders(path.parent)
            created = create_file(path, f"{oid}\n".encode())
            # `git pack-refs` may have moved somebody else's ref into packed-refs between the two looks
            existing = self._packed().get(name) if created else self.get(name)
            if created and existing not in (None, oid):
                path.unlink()
            elif created:
                return
        if existing != oid:
            raise Conflict("ref exists already", where=name, why=f"it points at {existing}")

    def _packed(self) -> dict[str, ObjectId]:
        raw = _read_regular(self._common / "packed-refs")
        if raw is None:
            return {}
        try:
            return {name.decode(): ObjectId(oid.decode()) for oid, name in _PACKED.findall(raw)}
        except UnicodeDecodeError as error:
            raise LocalStateError("packed-refs is not UTF-8", where=str(self._common / "packed-refs")) from error

    def _read_loose(self, path: Path) -> ObjectId | None:
        raw = _read_regular(path)
        if raw is None:
            return None
        try:
            return ObjectId(raw.decode("ascii").removesuffix("\n"))
        except (FormatError, UnicodeDecodeError):
            what = "symbolic ref" if raw.startswith(b"ref:") else "damaged ref"
            raise LocalStateError(what, where=str(path), why="expected one object id") from None

    def _loose_names(self, prefix: str) -> Iterator[str]:
        folder = self._common / prefix.rpartition("/")[0]
        for parent, folders, files in os.walk(folder, followlinks=False):
            folders[:] = sorted(name for name in folders if not (Path(parent) / name).is_symlink())
            for file in files:
                name = (Path(parent) / file).relative_to(self._common).as_posix()
                if name.startswith(prefix) and not _TEMPORARY.fullmatch(file):
                    yield name


def _read_regular(path: Path) -> bytes | None:
    """A small regular file's bytes, or None where there is none. Never follows a link, never waits on a FIFO."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise LocalStateError("cannot read", where=str(path), why=error.strerror or str(error)) from error
    with open(fd, "rb") as file:
        mode = os.fstat(fd).st_mode
        if stat.S_ISDIR(mode):
            return None
        if not stat.S_ISREG(mode):
            raise LocalStateError("not a regular file", where=str(path))
        return file.read()
