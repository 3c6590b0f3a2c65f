"""Whether a checkout is still what was verified: cheaply by inode, or by reading every byte again.

Both walk by descriptors and follow nothing. Both take a path or the descriptor of a folder that the caller
has open, so that what is checked and what is run afterwards are one folder.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
import struct
import time
from collections.abc import Iterator
from pathlib import Path

from gitrel.errors import BuildFailed, LocalStateError
from gitrel.format.tree import Node
from gitrel.ids import ObjectFormat
from gitrel.store.reading import FolderReading, TreeLimits
from gitrel.store.removal import open_folder

_VERSION = b"gitrel seal 1\n"
_INODE = struct.Struct("<?IIIQqqq")  # on the top's device, mode, uid, gid, inode, size, mtime and ctime in ns
_TICK = 20_000_000  # ns; over one tick of the clock that stamps inodes (current_time(), 10 ms at CONFIG_HZ=100)
_MAX_DEPTH = 256  # a folder each is open


def seal_folder(folder: Path | int) -> str:
    """A SHA-256, in hex, over every entry's path, mode, owner, inode, size, mtime, ctime and link target.

    Whatever is added, removed, renamed, replaced, written or given other rights changes it, since each of
    these moves a ctime, which no system call sets. Take it of a published checkout: renaming a folder counts.

    It cannot see bytes changed below the filesystem (on the raw disk, or by its failing); a page that a
    process mapped writable while it could, and has not written yet; and changes by who sets the clock back to
    hit the same nanosecond. A folder whose youngest change is of this very tick of the clock is sealed again
    after the tick, so that no second change hides in it. The other way round, a copy, a restored backup, and
    a hard link made or removed to one of the files have another seal, though every byte is the same.

    Raises `LocalStateError` for what cannot be read.
    """
    with _opened(folder) as (fd, where):
        try:
            seal, youngest = _Sealing(fd).run()
            wait = youngest + _TICK - time.time_ns()
            if 0 < wait <= _TICK:
                time.sleep(wait / 10**9)
                seal, _ = _Sealing(fd).run()
        except OSError as error:
            raise _unreadable(error, where) from error
    return seal


def hash_folder(folder: Path | int, fmt: ObjectFormat, *, limits: TreeLimits | None = None) -> Node:
    """Both ids of a checkout, from its bytes; nothing is written.

    Unlike `snapshot` it leaves nothing out. Raises `LocalStateError` for what no checkout has (a `.git`, a
    FIFO, an unsafe name, a file with a set-user-id bit), for what cannot be read, and for what changes
    meanwhile.
    """
    with _opened(folder) as (fd, where):
        reading = FolderReading(fd, where, fmt, None, limits=limits or TreeLimits(), checkout=True)
        try:
            return reading.run()
        except BuildFailed as error:
            raise LocalStateError(error.what, where=error.where, why=error.why) from error


@contextlib.contextmanager
def _opened(folder: Path | int) -> Iterator[tuple[int, str]]:
    if isinstance(folder, int):
        yield folder, f"folder {folder}"
        return
    try:
        fd = open_folder(folder)
    except OSError as error:
        raise _unreadable(error, str(folder)) from error
    try:
        yield fd, str(folder)
    finally:
        os.close(fd)


class _Sealing:
    """One walk. Raises `OSError`."""

    def __init__(self, top: int) -> None:
        self._top = top
        self._digest = hashlib.sha256(_VERSION)
        self._youngest = 0
        self._device = 0

    def run(self) -> tuple[str, int]:
        """The seal, and the youngest ctime in it, in nanoseconds."""
        info = os.fstat(self._top)
        self._device = info.st_dev
        self._digest.update(self._inode(info))
        self._folder(self._top, b"", 0)
        return self._digest.hexdigest(), self._youngest

    def _folder(self, fd: int, path: bytes, depth: int) -> None:
        """A folder's path and entries, each ended by a NUL, which no name has; then the folders in it."""
        if depth > _MAX_DEPTH:
            raise OSError(0, f"over {_MAX_DEPTH} folders deep")
        with os.scandir(fd) as found:
            entries = sorted(found, key=_name)
        lines, folders = [path, b"\0"], []
        for entry in entries:
            info = entry.stat(follow_symlinks=False)
            name = os.fsencode(entry.name)
            lines += (b"/", name, b"\0", self._inode(info))
            if stat.S_ISDIR(info.st_mode):
                folders.append(name)
            elif stat.S_ISLNK(info.st_mode):
                lines += (os.readlink(name, dir_fd=fd), b"\0")
        lines.append(b"\n")
        self._digest.update(b"".join(lines))
        for name in folders:
            below = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=fd)
            try:
                self._folder(below, path + b"/" + name, depth + 1)
            finally:
                os.close(below)

    def _inode(self, info: os.stat_result) -> bytes:
        ctime = info.st_ctime_ns
        self._youngest = max(self._youngest, ctime)
        return _INODE.pack(
            info.st_dev == self._device,
            info.st_mode,
            info.st_uid,
            info.st_gid,
            info.st_ino,
            info.st_size,
            info.st_mtime_ns,
            ctime,
        )


def _name(entry: os.DirEntry[str]) -> str:
    return entry.name


def _unreadable(error: OSError, where: str) -> LocalStateError:
    return LocalStateError("cannot read", where=str(error.filename or where), why=error.strerror or str(error))
