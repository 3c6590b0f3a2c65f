"""Refs of a repository, read strictly and created once (gitrepository-layout(5), git-pack-refs(1)).

gitrel's refs never move, so there is no update and no delete here. A loose ref wins over a packed one, as in
git. Symbolic refs, links, FIFOs and anything else that is not an object id are refused by name.

A ledger may have a hundred thousand refs. To read one of them takes no look at the others, and those that come
together go into `packed-refs` together, under git's own lock for it: one fsync for all instead of two for each.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import stat
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from gitrel.errors import Conflict, FormatError, LocalStateError
from gitrel.ids import ObjectId
from gitrel.store.durable import TICK, create_file, disk_error, make_folders, sync_folder

_LINE = rb"^([0-9a-f]{40}|[0-9a-f]{64}) (%s[^\n]*)$"
_OID = re.compile(rb"[0-9a-f]{40}|[0-9a-f]{64}")
_MANY = 32  # refs; more are packed
_OURS = b"# pack-refs with: sorted gitrel \n"  # how our packed-refs begins, and its lock from its first moment
_TEMPORARY = re.compile(r"\..*\.tmp|.*\.lock")


class _Packed:
    """The file packed-refs as it was read: its bytes, and what was made of them by prefix."""

    def __init__(self, state: tuple[int, ...] | None = None, raw: bytes = b"\n") -> None:
        self.state, self.raw = state, raw
        self.listed: dict[str, Mapping[str, ObjectId]] = {}


class Refs:
    """The refs below `refs/` of the repository whose common folder is given."""

    def __init__(self, common: Path) -> None:
        self._common = common
        self._read = _Packed()

    def get(self, name: str) -> ObjectId | None:
        """The object that the full ref `name` points at. Raises `LocalStateError` for a damaged ref."""
        loose = self._read_loose(self._common / name)
        return loose if loose is not None else self._packed_one(name)

    def list(self, prefix: str) -> dict[str, ObjectId]:
        """Every ref whose full name begins with `prefix`, sorted by name."""
        found = dict(self._packed(prefix))
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
            existing = self._packed_one(name) if created else self.get(name)
            if created and existing not in (None, oid):
                path.unlink()
            elif created:
                return
        if existing != oid:
            raise _exists(name, existing)

    def create_all(self, refs: Mapping[str, ObjectId]) -> None:
        """As `create`, for any number of refs. If it raises, some of them may be there, if it is killed, all or none
        of many.
        """
        new = {name: oid for name, oid in refs.items() if self._read_loose(self._common / name) is None}
        fd = self._lock() if len(new) > _MANY else None
        if fd is None:  # or somebody else has the lock: one by one, there is no need to wait
            new = {}
        else:
            try:
                self._pack(fd, new)
            finally:
                with contextlib.suppress(FileNotFoundError):  # renamed
                    self._locked.unlink()
                os.close(fd)
        for name, oid in refs.items():
            if name not in new:
                self.create(name, oid)
            elif (loose := self._read_loose(self._common / name)) not in (None, oid):
                raise _exists(name, loose)  # somebody was first, and looked before it was packed

    @property
    def _locked(self) -> Path:
        return self._common / "packed-refs.lock"

    def _lock(self) -> int | None:
        """git's lock on packed-refs, in which nothing but `_OURS` stands; None if somebody has it.

        It is held by flock(2) too, so that one of ours whose process was killed is known, and removed.
        """
        aside = self._common / f".packed-refs.{os.urandom(6).hex()}.tmp"
        fd = -1
        try:
            with contextlib.suppress(FileNotFoundError), open(self._locked, "rb") as stale:
                if stale.read(len(_OURS)) == _OURS:
                    fcntl.flock(stale, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    if os.fstat(stale.fileno()).st_ino == os.stat(self._locked).st_ino:  # nobody was quicker
                        self._locked.unlink()
            fd = os.open(aside, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
            os.write(fd, _OURS)
            fcntl.flock(fd, fcntl.LOCK_EX)
            os.link(aside, self._locked)
            return os.dup(fd)
        except (BlockingIOError, FileExistsError):
            return None
        except OSError as error:
            raise disk_error(error, self._locked) from error
        finally:
            if fd >= 0:
                aside.unlink()
                os.close(fd)

    def _pack(self, fd: int, new: Mapping[str, ObjectId]) -> None:
        """Write packed-refs with what it has and these, durably. What they peel to is for git to find out."""
        packed = dict(self._packed("refs/"))
        for name, oid in new.items():
            if packed.setdefault(name, oid) != oid:
                raise _exists(name, packed[name])
        lines = [f"{oid} {name}\n".encode() for name, oid in sorted(packed.items())]
        try:
            with open(os.dup(fd), "wb") as file:
                file.seek(0)
                file.write(b"".join([_OURS, *lines]))
                file.truncate()
                file.flush()
                os.fsync(fd)
            os.rename(self._locked, self._common / "packed-refs")
            sync_folder(self._common)
        except OSError as error:
            raise disk_error(error, self._common / "packed-refs") from error

    def _packed_now(self) -> _Packed:
        """What packed-refs says; read again if it may have changed since."""
        path = self._common / "packed-refs"
        state = _state_of(path)
        if state is None or state != self._read.state:
            self._read = _Packed(state, (_read_regular(path) or b"") + b"\n")
        return self._read

    def _packed_one(self, name: str) -> ObjectId | None:
        raw = self._packed_now().raw
        at = raw.rfind(f" {name}\n".encode())
        oid = raw[raw.rfind(b"\n", 0, at) + 1 : at] if at > 0 else b""
        return ObjectId(oid.decode()) if _OID.fullmatch(oid) else None

    def _packed(self, prefix: str) -> Mapping[str, ObjectId]:
        packed, raw_prefix = self._packed_now(), prefix.encode()
        raw, first = packed.raw, packed.raw.find(b" " + raw_prefix)
        if prefix in packed.listed or first < 0:
            return packed.listed.get(prefix, {})
        # In a sorted file they stand together, so most of it is not looked at line by line.
        start, end = raw.rfind(b"\n", 0, first) + 1, raw.find(b"\n", raw.rfind(b" " + raw_prefix))
        lines = re.compile(_LINE % re.escape(raw_prefix), re.MULTILINE).findall(raw, start, end)
        try:
            found = packed.listed[prefix] = {name.decode(): ObjectId(oid.decode()) for oid, name in lines}
        except UnicodeDecodeError as error:
            raise LocalStateError("packed-refs is not UTF-8", where=str(self._common / "packed-refs")) from error
        return found

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


def _state_of(path: Path) -> tuple[int, ...] | None:
    """What tells that a file is still what it was, as git has it (stat-validity in git's read-cache.c).

    None if it changed so lately that it may change once more without another time.
    """
    try:
        info = os.lstat(path)
    except OSError:
        return None  # reading it says why
    if info.st_ctime_ns > time.time_ns() - TICK:
        return None
    return info.st_dev, info.st_ino, info.st_size, info.st_mtime_ns, info.st_ctime_ns


def _exists(name: str, oid: ObjectId | None) -> Conflict:
    return Conflict("ref exists already", where=name, why=f"it points at {oid}")


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
