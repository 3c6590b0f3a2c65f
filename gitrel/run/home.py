"""A server's home: what lies where, and the small state that outlives everything (docs/server.md).

    repo.git/                objects, and refs of verified records only
    builds/<tree id>/        a checkout, read-only, once for each distinct tree; <tree id>.json is its seal
    releases/vN              link to ../builds/<tree id>
    current                  link to releases/vN
    state.json               the pin, the highest release seen, what to run
    run/                     locks, status, quarantine, the processes' HOME

Invariant: what `state.json` names is complete on disk. So the order is objects, refs, checkout, state, links;
the highest release seen is durable before `current` moves.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Self

from gitrel.errors import FormatError, LocalStateError, Locked, NotFound
from gitrel.ids import App, Deploy, Entry, ObjectId, RecordId, Sha256
from gitrel.store.durable import disk_error, make_folders, replace_file, sync_folder
from gitrel.store.repository import Repository
from gitrel.trust.ledger import Anchor

FORMAT = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """What a server remembers.

    `seen`: the newest release that passed all checks of its records; nothing older is ever taken for newer.
    `ready`: the newest whose checkout is complete. `current`: where the link points. `good`: the newest that
    was healthy. `failed` and `refused`: releases that did not run, and why. `pinned`: chosen by hand on this
    server.
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
    refused: Mapping[Entry, str] = field(default_factory=dict)
    contact: float | None = None
    trouble: str | None = None

    def encode(self) -> bytes:
        document = {"format": FORMAT, **asdict(self)}
        seen = self.seen
        document["seen"] = seen and {
            "entry": str(seen.entry),
            "oid": seen.id.oid,
            "sha256": seen.id.sha256,
            "trust": str(seen.trust),
        }
        for key in ("ready", "current", "good", "pinned"):
            document[key] = document[key] and str(document[key])
        for key in ("failed", "refused"):
            document[key] = {str(entry): why for entry, why in getattr(self, key).items()}
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
                refused={Entry.parse(key): str(why) for key, why in document["refused"].items()},
                contact=document["contact"],
                trouble=document["trouble"],
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
        replace_file(path / "state.json", state.encode(), 0o600)
        return cls(path)

    @property
    def state_file(self) -> Path:
        return self.path / "state.json"

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
            fcntl.flock(fd, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            yield fd
        except BlockingIOError:
            raise Locked(
                f"another gitrel holds the {name} lock of this home",
                where=str(path),
                hint="`gitrel status` shows it",
            ) from None
        finally:
            os.close(fd)

    def locked(self, name: str) -> bool:
        """Whether somebody holds the lock now."""
        try:
            with self.lock(name):
                return False
        except Locked:
            return True

    def point(self, link: Path, target: str) -> None:
        """Make `link` a symbolic link to `target`, in one rename, durably."""
        aside = link.with_name(f".{link.name}.{os.getpid()}.tmp")
        try:
            with contextlib.suppress(FileNotFoundError):
                aside.unlink()
            aside.symlink_to(target)
            aside.rename(link)
            sync_folder(link.parent)
        except OSError as error:
            raise disk_error(error, link) from error

    def switch(self, entry: Entry) -> None:
        """Move `current`: state first, then the link, so that the next command can finish what this one
        began.
        """
        self.change_state(lambda state: replace(state, current=entry))
        self.point(self.path / "current", f"releases/{entry}")
