"""Where objects from a remote wait until they are verified (git-receive-pack(1), QUARANTINE ENVIRONMENT).

A quarantine is a bare repository of its own that reads through to the home's objects. `adopt` moves what it has
into the home; whatever it still has at the end is deleted. Write order of `adopt`, and why:

    1 shallow, promisor configuration   what is absent on purpose is excused before it is missed
    2 loose objects, then .pack, .promisor, fsynced, then the folder
    3 .idx, then the folder             git and gitrel look at a pack when they see its index

Killed anywhere in between, the home has objects that no ref reaches, or none.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

from gitrel.errors import FormatError, LocalStateError
from gitrel.ids import ObjectId
from gitrel.store.durable import disk_error, make_folders, replace_file, sync_folder
from gitrel.store.ingest import read_parents
from gitrel.store.repository import Repository

_PREFIX = "quarantine-"
PROMISOR_REMOTE = "gitrel"


class Quarantine:
    """A context manager over a fresh folder in `folder`, which must be on the home's filesystem."""

    def __init__(self, repo: Repository, folder: Path) -> None:
        self._home = repo
        self._folder = folder
        self._path: Path | None = None
        self._lock: int | None = None
        self._repository: Repository | None = None
        self.shallow: set[ObjectId] = set()
        """Commits in here whose parents are neither here nor in the home; `Remote.fetch` fills it."""

    @property
    def repository(self) -> Repository:
        """The quarantine's repository: its own objects, and the home's."""
        if self._repository is None:
            raise RuntimeError("the quarantine is not open")
        return self._repository

    def __enter__(self) -> Quarantine:
        make_folders(self._folder)
        path = self._folder / f"{_PREFIX}{secrets.token_hex(8)}"
        try:
            with _locked(self._folder):
                path.mkdir(0o700)
                self._path = path
                self._lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
                fcntl.flock(self._lock, fcntl.LOCK_EX)
            repository = Repository.init_bare(path / "repo.git", self._home.format)
            info = repository.objects / "info"
            make_folders(info)
            (info / "alternates").write_bytes(alternates_line(self._home.objects))
            repository.close()
            self._repository = Repository.open(path / "repo.git")
        except OSError as error:
            self.__exit__(None, None, None)
            raise disk_error(error, path) from error
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._repository is not None:
            self._repository.close()
        if self._path is not None:
            shutil.rmtree(self._path, ignore_errors=True)  # what is left is stale, and `remove_stale` takes it
        if self._lock is not None:
            os.close(self._lock)
        self._repository = self._path = self._lock = None

    def adopt(self) -> None:
        """Move everything into the home, durably; no ref is made. Raises `LocalStateError`."""
        own = self.repository.objects
        packs = sorted((own / "pack").glob("pack-*.pack"))
        try:
            if self.shallow:
                _write_shallow(self._home, self._home_shallow() | self.shallow)
            if any(pack.with_suffix(".promisor").exists() for pack in packs):
                mark_promisor(self._home)
            for folder in sorted(own.glob("[0-9a-f][0-9a-f]")):
                self._move_loose(folder)
            target = self._home.objects / "pack"
            make_folders(target)
            for pack in packs:
                _move_pack(pack, target)
            before = self._home_shallow()
            after = {oid for oid in before if self._lacks_parents(oid)}
            if after != before:
                _write_shallow(self._home, after)
        except OSError as error:
            raise disk_error(error, self._home.objects) from error
        self.shallow = set()

    def _move_loose(self, folder: Path) -> None:
        target = self._home.objects / folder.name
        make_folders(target)
        for file in sorted(folder.iterdir()):
            os.rename(file, target / file.name)
        sync_folder(target)

    def _home_shallow(self) -> set[ObjectId]:
        path = self._home.path / "shallow"
        try:
            return {ObjectId(line) for line in path.read_text("ascii").split()}
        except FileNotFoundError:
            return set()
        except (FormatError, UnicodeDecodeError) as error:
            raise LocalStateError("the file of shallow commits is damaged", where=str(path)) from error

    def _lacks_parents(self, oid: ObjectId) -> bool:
        """Whether a commit that is listed as shallow still is; one that is gone stays listed, as git does."""
        if oid not in self._home:
            return True
        return any(parent not in self._home for parent in read_parents(self._home.read(oid, "commit")))


def remove_stale(folder: Path) -> None:
    """Delete quarantines in `folder` whose process is gone. Raises `LocalStateError`."""
    if not folder.is_dir():
        return
    try:
        with _locked(folder):
            for path in sorted(folder.glob(f"{_PREFIX}*")):
                fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
                try:
                    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    shutil.rmtree(path)
                except BlockingIOError:
                    continue  # its process is alive
                finally:
                    os.close(fd)
    except OSError as error:
        raise disk_error(error, folder) from error


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Nobody removes a quarantine between its making and its locking."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def _move_pack(pack: Path, target: Path) -> None:
    """Everything of a pack but its index, then the index; a pack that the home has already is the same bytes."""
    if (target / f"{pack.stem}.idx").exists():
        return
    for suffix in (".pack", ".promisor"):
        if (source := pack.with_suffix(suffix)).exists():
            os.rename(source, target / source.name)
    sync_folder(target)
    index = pack.with_suffix(".idx")
    os.rename(index, target / index.name)
    sync_folder(target)


def _write_shallow(home: Repository, commits: set[ObjectId]) -> None:
    path = home.path / "shallow"
    if commits:
        replace_file(path, "".join(f"{oid}\n" for oid in sorted(commits)).encode())
    elif path.exists():
        path.unlink()
        sync_folder(home.path)


def mark_promisor(home: Repository) -> None:
    """Tell stock git that absent objects are somewhere else on purpose (gitrepository-layout, partial-clone)."""
    path = home.path / "config"
    if home.config(f"remote.{PROMISOR_REMOTE}", "promisor", host=False) is None:
        section = f'\n[remote "{PROMISOR_REMOTE}"]\n\tpromisor = true\n'.encode()
        replace_file(path, path.read_bytes().removesuffix(b"\n") + b"\n" + section, path.stat().st_mode & 0o777)


def alternates_line(objects: Path) -> bytes:
    """The line of objects/info/alternates for an objects folder (gitrepository-layout(5)).

    Raises `LocalStateError` for a name that could be misread.
    """
    text = str(objects)
    if text.startswith(('"', "#")) or "\n" in text:
        raise LocalStateError("cannot borrow objects from a folder of this name", where=text)
    return f"{text}\n".encode("utf-8", "surrogateescape")
