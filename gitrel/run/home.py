"""A server's home: what lies where, and who may change it when (docs/server.md).

    repo.git/                objects, and refs of verified records only
    builds/<tree id>/        a checkout, read-only, once for each distinct tree; <tree id>.json is its seal
    releases/vN              link to ../builds/<tree id>
    current                  link to releases/vN
    state.json               the pin, the highest release seen, what to run
    identity.age             what secrets are read with, where no SSH key serves
    run/                     locks, status, quarantine, salvage, the processes' HOME

Invariant: what `state.json` names is complete on disk. So the order is objects, refs, checkout, state, links;
the highest release seen is durable before `current` moves. While a home is being made it has a file `.joining`,
and its `state.json` comes last. Where Capistrano was, its releases, `shared` and `current` stay as they are, until
the first switch replaces `current`; nothing else of it is ever touched.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from gitrel.dataclass import replace
from gitrel.errors import LocalStateError, Locked, NotFound, UsageError
from gitrel.ids import Entry
from gitrel.run.state import State
from gitrel.store.durable import disk_error, make_folders, replace_file, sync_folder

if TYPE_CHECKING:  # the supervisor, which stays, knows the home and not the repository
    from gitrel.store.repository import Repository

_STATE = "state.json"
_JOINING = ".joining"
_MADE = frozenset({"builds", "quarantine", "repo.git", "run"})  # by a join, beside `releases`; all that it may remove
_PAUSE = 0.05  # seconds between two attempts at a lock that somebody holds


def _try(fd: int, operation: int) -> bool:
    """One attempt at a flock(2); what was held by this descriptor before is given up."""
    try:
        fcntl.flock(fd, operation | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


_HOLDERS = {
    "run": ("a supervisor runs on this home already", "`gitrel status` shows it; end that one first"),
    "pull": ("a pull or a prune of this home is under way", "wait for it, then run the command again"),
    "join": ("a join of this home is under way", "wait for it"),
}


def _lock(fd: int, home: Path, name: str, patience: float = 0.0) -> None:
    """Hold the lock, or raise `Locked`. A shared lock is that of `Home.locked`, gone in a moment, so try again."""
    deadline = time.monotonic() + patience
    while not _try(fd, fcntl.LOCK_EX):
        if not _try(fd, fcntl.LOCK_SH):
            if time.monotonic() >= deadline:
                what, hint = _HOLDERS[name]
                raise Locked(what, where=str(home), hint=hint)
            time.sleep(_PAUSE)


def _unreadable(error: OSError, path: Path) -> LocalStateError:
    hint = "run it as the user whose home this is, or as root" if isinstance(error, PermissionError) else ""
    return LocalStateError("cannot read the state", where=str(path), why=error.strerror or str(error), hint=hint)


def _check_free(path: Path, adopt: bool) -> None:
    names = set(os.listdir(path))
    if _STATE in names:
        hint = f"`gitrel status --home {path}` shows it"
        raise UsageError("this is a gitrel home already", where=str(path), hint=hint)
    if _JOINING in names:  # a killed join's
        names -= {_JOINING, *_MADE, *filter(_is_temporary, names)}
        if names == {"releases"}:
            names = set()
    if adopt:
        _check_adoptable(path, names & (_MADE | {"identity.age"}))
    elif names:
        capistrano = {"current", "releases"} <= names
        hint = "`--adopt` keeps what is there, for a folder of Capistrano's" if capistrano else "choose another folder"
        raise UsageError("the folder is not empty", where=str(path), hint=hint)


def _check_adoptable(path: Path, taken: set[str]) -> None:
    """Whether a home fits beside what is there; `taken` are names of a home's that somebody else has."""
    releases, current = path / "releases", path / "current"
    if current.exists() and not current.is_symlink():
        taken |= {"current"}
    if releases.is_symlink() or (releases.exists() and not releases.is_dir()):
        taken |= {"releases"}
    elif releases.exists():
        taken |= {f"releases/{name}" for name in os.listdir(releases) if re.fullmatch(r"v[0-9]+", name)}
    if taken:
        hint = "move it away, or choose another folder"
        raise UsageError("something has a name that a home needs", where=str(path), why=min(taken), hint=hint)


def _is_temporary(name: str) -> bool:
    return name.startswith(".") and name.endswith(".tmp")


def _remove_temporary(folder: Path) -> None:
    """What `replace_file`, `create_file` and `Home.point` leave in a folder if they are killed."""
    try:
        for entry in os.scandir(folder):
            if _is_temporary(entry.name) and not entry.is_dir(follow_symlinks=False):
                os.unlink(entry.path)
    except OSError as error:
        raise disk_error(error, folder) from error


def _clear(path: Path) -> None:
    """Take away what a join made, and nothing else."""
    import shutil  # it imports every compressor there is

    for name in _MADE:
        if (path / name).exists():
            shutil.rmtree(path / name)
    if (path / "releases").exists() and not os.listdir(path / "releases"):
        (path / "releases").rmdir()
    _remove_temporary(path)


class Home:
    """The folder that `gitrel join` makes. Raises `NotFound` if `path` is none."""

    def __init__(self, path: Path) -> None:
        self.path = path.resolve()
        try:
            there = self.state_file.is_file()
        except OSError as error:
            raise _unreadable(error, path) from error
        if not there:
            raise NotFound("not a gitrel home", where=str(path), hint="`gitrel join URL HOME --trust PIN` makes one")

    @classmethod
    def create(cls, path: Path, state: State) -> Home:
        """Write the state into a folder that has its `repo.git` already; the home exists once this returns."""
        for folder in ("builds", "releases", "run"):
            make_folders(path / folder)
        replace_file(path / _STATE, state.encode(), 0o600)
        return cls(path)

    @staticmethod
    @contextlib.contextmanager
    def site(path: Path, *, adopt: bool = False) -> Iterator[Path]:
        """A folder for `create`: new, empty, or with what a killed `site` left, which is removed first.

        It is made in place, since it may be a mount point. Without a home at the end all is as it was before. With
        `adopt` other things may be there, as far as a home does not need their names; they are left alone.
        Raises `UsageError` if something else is there, `Locked`, `LocalStateError`.
        """
        path = path.resolve()
        new = [each for each in (path, *path.parents) if not each.exists()]
        make_folders(path)
        _check_free(path, adopt)
        try:
            fd = os.open(path / _JOINING, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise disk_error(error, path) from error
        try:
            _lock(fd, path, "join")
            _check_free(path, adopt)  # another join may have come first
            _clear(path)
            try:
                yield path
            finally:
                if not (path / _STATE).exists():
                    _clear(path)
                (path / _JOINING).unlink()
                for folder in new if not (path / _STATE).exists() else ():
                    folder.rmdir()
        except OSError as error:
            raise disk_error(error, path) from error
        finally:
            os.close(fd)

    @property
    def state_file(self) -> Path:
        return self.path / _STATE

    @property
    def run(self) -> Path:
        return self.path / "run"

    @property
    def salvage(self) -> Path:
        """What came of fetches that broke (`gitrel.store.salvage`)."""
        return self.run / "salvage"

    @property
    def builds(self) -> Path:
        return self.path / "builds"

    @property
    def releases(self) -> Path:
        return self.path / "releases"

    @property
    def status_file(self) -> Path:
        return self.run / "status.json"

    @property
    def identity(self) -> Path | None:
        """The file that secrets are read with. Raises `LocalStateError`."""
        known = self.read_state().identity
        return self.path / known if known else None

    def repository(self) -> Repository:
        from gitrel.store.repository import Repository

        return Repository.open(self.path / "repo.git")

    def read_state(self) -> State:
        """Raises `LocalStateError`."""
        try:
            return State.parse(self.state_file.read_bytes(), str(self.state_file))
        except OSError as error:
            raise _unreadable(error, self.state_file) from error

    def change_state(self, change: Callable[[State], State]) -> State:
        """Read, change, write, with nobody in between; durable when it returns."""
        with self.lock("state", wait=True):
            before = self.read_state()
            after = change(before)
            if after != before:
                replace_file(self.state_file, after.encode(), 0o600)
            return after

    @contextlib.contextmanager
    def lock(self, name: str, *, wait: bool = False, patience: float = 0.0) -> Iterator[int]:
        """Hold `run/<name>.lock`, a flock(2); the kernel lets go of it when its last holder dies. Gives the descriptor.

        Raises `Locked`, without `wait` after `patience` seconds.
        """
        path = self.run / f"{name}.lock"
        try:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise disk_error(error, path) from error
        try:
            if wait:
                fcntl.flock(fd, fcntl.LOCK_EX)
            else:
                _lock(fd, self.path, name, patience)
            yield fd
        finally:
            os.close(fd)

    def locked(self, name: str) -> bool:
        """Whether somebody holds the lock now. Looking keeps nobody from getting it."""
        try:
            fd = os.open(self.run / f"{name}.lock", os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        except OSError as error:
            raise disk_error(error, self.run) from error
        try:
            return not _try(fd, fcntl.LOCK_SH)
        finally:
            os.close(fd)

    def point(self, link: Path, target: str) -> None:
        """Make `link` a symbolic link to `target`, in one rename, durably."""
        aside = link.with_name(f".{link.name}.{os.getpid()}.tmp")
        with self.lock("state", wait=True):
            try:
                aside.unlink(missing_ok=True)
                aside.symlink_to(target)
                aside.rename(link)
                sync_folder(link.parent)
            except OSError as error:
                raise disk_error(error, link) from error

    def tidy(self) -> None:
        """Remove what killed runs left half written. To be called with the lock `pull` held.

        Every such file is written under the lock that is held while it is looked for here.
        """
        from gitrel.store import repack
        from gitrel.store.removal import remove_stale

        with self.lock("state", wait=True):
            _remove_temporary(self.path)
            _remove_temporary(self.releases)
        with self.lock("builds", wait=True):
            remove_stale(self.builds)
            _remove_temporary(self.builds)
        repository = self.path / "repo.git"
        _remove_temporary(repository)
        for folder, _, _ in os.walk(repository / "refs"):
            _remove_temporary(Path(folder))
        if (repository / "objects/pack" / repack.GONE).exists():
            with self.lock("builds", wait=True):
                repack.finish(repository / "objects")

    def switch(self, entry: Entry) -> None:
        """Move `current`: state first, then the link, so that the next command can finish what this one began."""
        self.change_state(lambda state: replace(state, current=entry))
        self.point(self.path / "current", f"releases/{entry}")
