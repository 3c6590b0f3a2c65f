"""A server's home: what lies where, and the small state that outlives everything (docs/server.md).

    repo.git/                objects, and refs of verified records only
    builds/<tree id>/        a checkout, read-only, once for each distinct tree; <tree id>.json is its seal
    releases/vN              link to ../builds/<tree id>
    current                  link to releases/vN
    state.json               the pin, the highest release seen, what to run
    identity.age             what secrets are read with, where no SSH key serves
    run/                     locks, status, quarantine, the processes' HOME

Invariant: what `state.json` names is complete on disk. So the order is objects, refs, checkout, state, links;
the highest release seen is durable before `current` moves. While a home is being made it has a file `.joining`,
and its `state.json` comes last.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Self

from gitrel.errors import FormatError, LocalStateError, Locked, NotFound, Refused, UsageError
from gitrel.ids import App, Deploy, Entry, ObjectId, RecordId, Sha256
from gitrel.store.durable import disk_error, make_folders, replace_file, sync_folder
from gitrel.store.removal import remove_stale as remove_stale_checkouts
from gitrel.store.repository import Repository
from gitrel.trust.checks import Check
from gitrel.trust.ledger import Anchor

FORMAT = 1
_STATE = "state.json"
_JOINING = ".joining"


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """Why a release may not run, as `Refused` said it."""

    check: int
    what: str
    where: str
    why: str

    @classmethod
    def of(cls, error: Refused) -> Self:
        return cls(check=error.check, what=error.what, where=error.where, why=error.why)

    def __str__(self) -> str:
        return str(Refused(self.what, check=self.check, where=self.where, why=self.why))

    @property
    def pending(self) -> bool:
        """Too few people have signed so far."""
        return self.check == Check.THRESHOLD


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """What a server remembers.

    `seen`: the newest release that passed all checks of its records; nothing older is ever taken for newer.
    `ready`: the newest whose checkout is complete. `current`: where the link points. `good`: the newest that
    was healthy. `failed`: releases that did not run, and why; `refused`: those newer than `ready` that may not.
    `judged`: a digest of what the remote showed when all this was found out. `pinned`: chosen by hand on this
    server. `identity`: the file that secrets are read with, below the home or absolute. `lacking`: what kept a
    release from being started here. `configured`: the newest config that the remote shows, which nobody verified.
    `scales`: how many of a process type, where this server differs from the build. `released`: the releases
    whose release phase was done here.
    """

    app: App
    deploy: Deploy
    url: str
    pin: Sha256
    seen: Anchor | None = None
    ready: Entry | None = None
    current: Entry | None = None
    good: Entry | None = None
    pinned: Entry | None = None
    failed: Mapping[Entry, str] = field(default_factory=dict)
    refused: Mapping[Entry, Refusal] = field(default_factory=dict)
    judged: str | None = None
    contact: float | None = None
    trouble: str | None = None
    identity: str | None = None
    lacking: Mapping[Entry, str] = field(default_factory=dict)
    configured: Entry | None = None
    scales: Mapping[str, int] = field(default_factory=dict)
    released: frozenset[Entry] = frozenset()

    def encode(self) -> bytes:
        document = {"format": FORMAT, **asdict(self)}
        seen = self.seen
        document["seen"] = seen and {
            "entry": str(seen.entry),
            "oid": seen.id.oid,
            "sha256": seen.id.sha256,
            "trust": str(seen.trust),
        }
        for key in ("ready", "current", "good", "pinned", "configured"):
            document[key] = document[key] and str(document[key])
        document["released"] = [str(entry) for entry in sorted(self.released)]
        for key in ("failed", "refused", "lacking"):
            document[key] = {str(entry): why for entry, why in document[key].items()}
        return (json.dumps(document, indent=2, ensure_ascii=False) + "\n").encode()

    @classmethod
    def parse(cls, raw: bytes, where: str) -> Self:
        """Raises `LocalStateError`; a file that this program did not write whole is never guessed at."""
        try:
            document = json.loads(raw)
            if document.pop("format") != FORMAT:
                raise FormatError("written by another version of gitrel")
            return cls(
                app=App(document["app"]),
                deploy=Deploy(document["deploy"]),
                url=str(document["url"]),
                pin=Sha256(document["pin"]),
                seen=_anchor(document["seen"]),
                ready=_entry(document["ready"]),
                current=_entry(document["current"]),
                good=_entry(document["good"]),
                pinned=_entry(document["pinned"]),
                failed={Entry.parse(key): str(why) for key, why in document["failed"].items()},
                refused={Entry.parse(key): Refusal(**why) for key, why in document["refused"].items()},
                judged=document["judged"],
                contact=document["contact"],
                trouble=document["trouble"],
                identity=document.get("identity"),  # from here on: keys that came later than format 1 did
                lacking={Entry.parse(key): str(why) for key, why in document.get("lacking", {}).items()},
                configured=_entry(document.get("configured")),
                scales={str(kind): int(number) for kind, number in document.get("scales", {}).items()},
                released=frozenset(map(Entry.parse, document.get("released", []))),
            )
        except (ValueError, KeyError, TypeError, AttributeError, FormatError) as error:
            raise LocalStateError(
                "the home's state is damaged",
                where=where,
                why=str(error),
                hint="restore it from a backup, or `gitrel join` a new home beside this one",
            ) from error


def _anchor(document: Any) -> Anchor | None:
    if document is None:
        return None
    identity = RecordId(ObjectId(document["oid"]), Sha256(document["sha256"]))
    return Anchor(Entry.parse(document["entry"]), identity, Entry.parse(document["trust"]))


def _entry(text: Any) -> Entry | None:
    return None if text is None else Entry.parse(text)


def _try(fd: int, operation: int) -> bool:
    """One attempt at a flock(2); what was held by this descriptor before is given up."""
    try:
        fcntl.flock(fd, operation | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


_HOLDERS = {
    "run": ("a supervisor runs on this home already", "`gitrel status` shows it; end that one first"),
    "pull": ("a pull into this home is under way", "wait for it, then run the command again"),
    "join": ("a join of this home is under way", "wait for it"),
}


def _lock(fd: int, home: Path, name: str) -> None:
    """Hold the lock, or raise `Locked`. A shared lock is that of `Home.locked`, gone in a moment, so try again."""
    while not _try(fd, fcntl.LOCK_EX):
        if not _try(fd, fcntl.LOCK_SH):
            what, hint = _HOLDERS[name]
            raise Locked(what, where=str(home), hint=hint)


def _check_free(path: Path) -> None:
    names = set(os.listdir(path))
    if _STATE in names or (names and _JOINING not in names):
        hint = f"`gitrel status --home {path}` shows it" if _STATE in names else "choose another folder"
        what = "this is a gitrel home already" if _STATE in names else "the folder is not empty"
        raise UsageError(what, where=str(path), hint=hint)


def _remove_temporary(folder: Path) -> None:
    """What `replace_file`, `create_file` and `Home.point` leave in a folder if they are killed."""
    try:
        for entry in os.scandir(folder):
            if entry.name.startswith(".") and entry.name.endswith(".tmp") and not entry.is_dir(follow_symlinks=False):
                os.unlink(entry.path)
    except OSError as error:
        raise disk_error(error, folder) from error


def _clear(path: Path) -> None:
    """Empty a folder that is being made a home."""
    for entry in path.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        elif entry.name != _JOINING:
            entry.unlink()


class Home:
    """The folder that `gitrel join` makes. Raises `NotFound` if `path` is none."""

    def __init__(self, path: Path) -> None:
        self.path = path.resolve()
        if not self.state_file.is_file():
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
    def site(path: Path) -> Iterator[Path]:
        """A folder for `create`: new, empty, or with what a killed `site` left, which is removed first.

        It is made in place, since it may be a mount point. Without a home at the end all is as it was before.
        Raises `UsageError` if something else is there, `Locked`, `LocalStateError`.
        """
        path = path.resolve()
        new = [each for each in (path, *path.parents) if not each.exists()]
        make_folders(path)
        _check_free(path)
        try:
            fd = os.open(path / _JOINING, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise disk_error(error, path) from error
        try:
            _lock(fd, path, "join")
            _check_free(path)  # another join may have come first
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
        return Repository.open(self.path / "repo.git")

    def read_state(self) -> State:
        """Raises `LocalStateError`."""
        try:
            return State.parse(self.state_file.read_bytes(), str(self.state_file))
        except OSError as error:
            raise LocalStateError("cannot read the state", where=str(self.state_file), why=str(error)) from error

    def change_state(self, change: Callable[[State], State]) -> State:
        """Read, change, write, with nobody in between; durable when it returns."""
        with self.lock("state", wait=True):
            before = self.read_state()
            after = change(before)
            if after != before:
                replace_file(self.state_file, after.encode(), 0o600)
            return after

    @contextlib.contextmanager
    def lock(self, name: str, *, wait: bool = False) -> Iterator[int]:
        """Hold `run/<name>.lock`, a flock(2); the kernel lets go of it when its last holder dies. Gives the descriptor.

        Raises `Locked`.
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
                _lock(fd, self.path, name)
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
        with self.lock("state", wait=True):
            _remove_temporary(self.path)
            _remove_temporary(self.releases)
        with self.lock("builds", wait=True):
            remove_stale_checkouts(self.builds)
            _remove_temporary(self.builds)
        repository = self.path / "repo.git"
        _remove_temporary(repository)
        for folder, _, _ in os.walk(repository / "refs"):
            _remove_temporary(Path(folder))

    def switch(self, entry: Entry) -> None:
        """Move `current`: state first, then the link, so that the next command can finish what this one
        began.
        """
        self.change_state(lambda state: replace(state, current=entry))
        self.point(self.path / "current", f"releases/{entry}")
