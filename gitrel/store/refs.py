"""Refs of a repository, read strictly and created once (gitrepository-layout(5), git-pack-refs(1)).

gitrel's refs never move, so there is no update and no delete here. A loose ref wins over a packed one, as in
git. Symbolic refs, links, FIFOs and anything else that is not an object id are refused by name.

A ledger may have a hundred thousand refs. To read one of them takes no look at the others (`gitrel.store.packed`), and
those that come together go into `packed-refs` together, under git's own lock for it: one fsync for all instead of two
for each.
"""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
import re
import stat
import time
from collections.abc import ItemsView, Iterator, Mapping, ValuesView
from pathlib import Path
from typing import overload

from gitrel.errors import Conflict, FormatError, LocalStateError
from gitrel.format.refs import RefMap, RefView
from gitrel.ids import Entry, Ledger, ObjectId
from gitrel.store.durable import TICK, create_file, disk_error, make_folders, sync_folder
from gitrel.store.packed import PackedRefs

_MANY = 32  # refs; more are packed
_OURS = b"# pack-refs with: sorted gitrel \n"  # how our packed-refs begins, and its lock from its first moment
_TEMPORARY = re.compile(r"\..*\.tmp|.*\.lock")


class Refs:
    """The refs below `refs/` of the repository whose common folder is given."""

    def __init__(self, common: Path) -> None:
        self._common = common
        self._read = PackedRefs(common, None, b"")

    def get(self, name: str) -> ObjectId | None:
        """The object that the full ref `name` points at. Raises `LocalStateError` for a damaged ref."""
        loose = self._read_loose(self._common / name)
        return loose if loose is not None else self._packed().get(name)

    def list(self, prefix: str) -> dict[str, ObjectId]:
        """Every ref whose full name begins with `prefix`, sorted by name."""
        found = self._packed().list(prefix)
        loose = {name: oid for name in self._loose_names(prefix) if (oid := self._read_loose(self._common / name))}
        return dict(sorted({**found, **loose}.items())) if loose else found

    def count(self, prefix: str) -> int:
        """How many names begin with `prefix`; none of the refs is read."""
        packed = self._packed()
        there = packed.count(prefix)
        return there + sum(not there or packed.get(name) is None for name in self._loose_names(prefix))

    def lines(self, prefix: str) -> dict[bytes, bytes]:
        """As `list`, ids by names, as they are in git's files: for a look at all of them."""
        found = {name: oid for oid, name in self._packed().lines(prefix)}
        for name in self._loose_names(prefix):
            if (oid := self._read_loose(self._common / name)) is not None:
                found[os.fsencode(name)] = oid.encode()
        return found

    def view(self, *namespaces: str) -> LocalRefs:
        """Those below the namespaces, as they are whenever somebody looks."""
        return LocalRefs(self, namespaces)

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
            raise _exists(name, existing)

    def create_all(self, refs: Mapping[str, ObjectId]) -> None:
        """As `create`, for any number of refs. If it raises, some of them may be there, if it is killed, all or none
        of many.
        """
        new = {name: oid for name, oid in refs.items() if self.get(name) is None}
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
        packed = {name: oid for oid, name in self._packed().lines("refs/")}
        for name, oid in new.items():
            if (there := packed.setdefault(name.encode(), oid.encode())) != oid.encode():
                raise _exists(name, ObjectId(there.decode()))
        lines = [b"%s %s\n" % (oid, name) for name, oid in sorted(packed.items())]
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

    def _packed(self) -> PackedRefs:
        """What packed-refs says; read again if it may have changed since."""
        path = self._common / "packed-refs"
        state = _state_of(path)
        if state is None or state != self._read.state:
            self._read = PackedRefs(path, state, _read_regular(path, mapped=True) or b"")
        return self._read

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
        waiting = [prefix.rpartition("/")[0]]
        while waiting:
            folder = waiting.pop()
            try:
                with os.scandir(self._common / folder) as found:
                    there = sorted(found, key=lambda each: each.name)
            except (FileNotFoundError, NotADirectoryError):
                continue
            except OSError as error:
                where, why = str(self._common / folder), error.strerror or str(error)
                raise LocalStateError("cannot read", where=where, why=why) from error
            for each in there:
                name = f"{folder}/{each.name}"
                if each.is_dir():
                    if not each.is_symlink() and f"{name}/".startswith(prefix):
                        waiting.append(name)
                elif name.startswith(prefix) and not _TEMPORARY.fullmatch(each.name):
                    yield name


class LocalRefs(RefView):
    """See `Refs.view`."""

    def __init__(self, refs: Refs, namespaces: tuple[str, ...]) -> None:
        self._refs, self._namespaces = refs, namespaces

    def __getitem__(self, name: str) -> ObjectId:
        oid = self._refs.get(name) if name.startswith(self._namespaces) else None
        if oid is None:
            raise KeyError(name)
        return oid

    def __iter__(self) -> Iterator[str]:
        return iter(self._listed)

    def __len__(self) -> int:
        return sum(map(self._refs.count, self._namespaces))

    def items(self) -> ItemsView[str, ObjectId]:
        return self._listed.items()

    def values(self) -> ValuesView[ObjectId]:
        return self._listed.values()

    @property
    def _listed(self) -> dict[str, ObjectId]:
        return {name: oid for namespace in self._namespaces for name, oid in self._refs.list(namespace).items()}

    def below(self, prefix: str) -> RefMap:
        return self._refs.list(prefix) if prefix.startswith(self._namespaces) else {}

    def entries(self, ledger: Ledger, first: int = 1) -> dict[Entry, ObjectId]:
        """As of any other view; unless there are gaps, only the entries from `first` on are looked at."""
        last = self._last(ledger) if first > 1 else 0
        if first > last > 0:
            return {}
        found = {Entry(number): self.get(str(ledger[number])) for number in range(first, last + 1)}
        if not found or None in found.values():
            return super().entries(ledger, first)
        return {entry: oid for entry, oid in found.items() if oid is not None}

    def newest(self, ledger: Ledger) -> int:
        return self._last(ledger) or super().newest(ledger)

    def _last(self, ledger: Ledger) -> int:
        """The newest entry, if there are as many names as it has numbers; else, and where there is none, 0."""
        last = self._refs.count(ledger.prefix) if ledger.prefix.startswith(self._namespaces) else 0
        return last if last and str(ledger[last]) in self and str(ledger[last + 1]) not in self else 0


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


@overload
def _read_regular(path: Path) -> bytes | None: ...
@overload
def _read_regular(path: Path, *, mapped: bool) -> bytes | mmap.mmap | None: ...
def _read_regular(path: Path, *, mapped: bool = False) -> bytes | mmap.mmap | None:
    """A regular file's bytes, or None where there is none. Never follows a link, never waits on a FIFO.

    `mapped`: in a file that is only ever replaced, as git maps it.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise LocalStateError("cannot read", where=str(path), why=error.strerror or str(error)) from error
    try:
        info = os.fstat(fd)
        if stat.S_ISDIR(info.st_mode):
            return None
        if not stat.S_ISREG(info.st_mode):
            raise LocalStateError("not a regular file", where=str(path))
        if mapped and info.st_size:
            return mmap.mmap(fd, 0, access=mmap.ACCESS_READ)
        with open(fd, "rb", closefd=False) as file:
            return file.read()
    finally:
        os.close(fd)
