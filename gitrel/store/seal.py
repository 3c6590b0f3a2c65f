"""Whether a checkout is still what was verified: cheaply by inode, or by reading every byte again.

Both walk by descriptors and follow nothing. Both take a path or the descriptor of a folder that the caller
has open, so that what is checked and what is run afterwards are one folder.

A hard link that is made or removed moves a file's ctime, which is the one time that no system call sets, and from
which a seal knows that nobody wrote. So the ctimes of files stand apart from all else, each beside its inode: when
another checkout has come to share a file, and its bytes were hashed since, `Seal.moved` says the new one.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import os
import stat
import struct
import time
from array import array
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from gitrel.dataclass import dataclass
from gitrel.errors import BuildFailed, FormatError, LocalStateError
from gitrel.format.tree import Node
from gitrel.ids import ObjectFormat
from gitrel.store.descent import open_folder
from gitrel.store.durable import TICK

if TYPE_CHECKING:  # to look at metadata needs nothing that reads files
    from gitrel.store.reading import TreeLimits

_VERSION = b"gitrel seal 2\n"
_INODE = struct.Struct("<?IIIQqqq")  # on the top's device, mode, uid, gid, inode, size, mtime and ctime in ns
_MAX_DEPTH = 256  # a folder each is open


@dataclass(frozen=True, slots=True, kw_only=True)
class Seal:
    """What a folder's metadata was.

    `digest`: a SHA-256, in hex, over every entry's path, mode, owner, inode, size, mtime and link target, and the
    ctime of what is no file. `top`: the folder's own inode and ctime. `inodes` and `ctimes`: of every file, in the
    order of the walk. All times in nanoseconds.
    """

    digest: str
    top: tuple[int, int]
    inodes: tuple[int, ...]
    ctimes: tuple[int, ...]

    def encode(self) -> dict[str, Any]:
        """For JSON."""
        return {"seal": self.digest, "top": list(self.top), "inodes": _pack(self.inodes), "ctimes": _pack(self.ctimes)}

    @classmethod
    def parse(cls, document: Mapping[str, Any]) -> Self:
        """Raises `FormatError`."""
        try:
            inode, ctime = map(int, document["top"])
            inodes, ctimes = _unpack(document["inodes"]), _unpack(document["ctimes"])
            return cls(digest=str(document["seal"]), top=(inode, ctime), inodes=inodes, ctimes=ctimes)
        except (ValueError, KeyError, TypeError) as error:
            raise FormatError("not a seal", why=str(error)) from None

    def is_of(self, folder: Path) -> bool:
        """Whether the folder of that name is the one that was sealed: not what is in it, and in no time."""
        try:
            info = os.lstat(folder)
        except OSError:
            return False
        return stat.S_ISDIR(info.st_mode) and (info.st_ino, info.st_ctime_ns) == self.top

    def agrees(self, known: Mapping[int, int]) -> bool:
        """Whether those inodes of `known` that are in the folder had the ctimes that it says."""
        return all(known.get(inode, ctime) == ctime for inode, ctime in zip(self.inodes, self.ctimes, strict=True))

    def moved(self, before: Seal, now: Mapping[int, int]) -> Seal:
        """This seal, after files that `before` and it may share were linked once more, and hashed at the ctimes `now`.

        A file that does not have the ctime which `before` knew keeps its own: it was changed, and that shows.
        """
        old = {inode: ctime for inode, ctime in zip(before.inodes, before.ctimes, strict=True) if inode in now}
        pairs = zip(self.inodes, self.ctimes, strict=True)
        ctimes = tuple(now[inode] if old.get(inode) == ctime else ctime for inode, ctime in pairs)
        return Seal(digest=self.digest, top=self.top, inodes=self.inodes, ctimes=ctimes)


def seal_folder(folder: Path | int) -> Seal:
    """What its metadata is. Two seals are equal if nothing was done to the folder in between.

    Whatever is added, removed, renamed, replaced, written or given other rights moves a ctime, which no system
    call sets. Take it of a published checkout: renaming a folder counts.

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
            wait = youngest + TICK - time.time_ns()
            if 0 < wait <= TICK:
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
    from gitrel.store.reading import FolderReading, TreeLimits

    with _opened(folder) as (fd, where):
        reading = FolderReading(fd, where, fmt, None, limits=limits or TreeLimits(), checkout=True)
        try:
            return reading.run()
        except BuildFailed as error:
            raise LocalStateError(error.what, where=error.where, why=error.why) from error


@contextlib.contextmanager
def _opened(folder: Path | int) -> Iterator[tuple[int, str]]:
    if isinstance(folder, int):
        yield folder, f"/proc/self/fd/{folder}"
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
        self._inodes: list[int] = []
        self._ctimes: list[int] = []

    def run(self) -> tuple[Seal, int]:
        """The seal, and the youngest ctime in it."""
        info = os.fstat(self._top)
        self._device = info.st_dev
        self._digest.update(self._inode(info, info.st_ctime_ns))
        self._folder(self._top, b"", 0)
        youngest = max(info.st_ctime_ns, self._youngest, max(self._ctimes, default=0))
        seal = Seal(
            digest=self._digest.hexdigest(),
            top=(info.st_ino, info.st_ctime_ns),
            inodes=tuple(self._inodes),
            ctimes=tuple(self._ctimes),
        )
        return seal, youngest

    def _folder(self, fd: int, path: bytes, depth: int) -> None:
        """A folder's path and entries, each ended by a NUL, which no name has; then the folders in it."""
        if depth > _MAX_DEPTH:
            raise OSError(0, f"over {_MAX_DEPTH} folders deep")
        lines, folders = [path, b"\0"], []
        for name in sorted(map(os.fsencode, os.listdir(fd))):
            info = os.stat(name, dir_fd=fd, follow_symlinks=False)
            if stat.S_ISREG(info.st_mode):
                self._inodes.append(info.st_ino)
                self._ctimes.append(info.st_ctime_ns)
                lines += (b"/", name, b"\0", self._inode(info, 0))
                continue
            self._youngest = max(self._youngest, info.st_ctime_ns)
            lines += (b"/", name, b"\0", self._inode(info, info.st_ctime_ns))
            if stat.S_ISDIR(info.st_mode):
                folders.append(name)
            elif stat.S_ISLNK(info.st_mode):
                lines += (os.readlink(name, dir_fd=fd), b"\0")
        lines.append(b"\n")
        self._digest.update(b"".join(lines))
        for name in folders:
            below = open_folder(os.fsdecode(name), fd)
            try:
                self._folder(below, path + b"/" + name, depth + 1)
            finally:
                os.close(below)

    def _inode(self, info: os.stat_result, ctime: int) -> bytes:
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


def _pack(numbers: tuple[int, ...]) -> str:
    return base64.b64encode(array("Q", numbers).tobytes()).decode()


def _unpack(text: str) -> tuple[int, ...]:
    found = array("Q")
    found.frombytes(base64.b64decode(text, validate=True))
    return tuple(found)


def _unreadable(error: OSError, where: str) -> LocalStateError:
    return LocalStateError("cannot read", where=str(error.filename or where), why=error.strerror or str(error))
