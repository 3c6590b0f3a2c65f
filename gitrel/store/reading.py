"""A folder read by descriptors, hashed, and handed to a sink; the engine below `snapshot` and `hash_folder`.

Nothing is followed: the top folder and every folder below it are opened with O_NOFOLLOW, relative to the one
above. One process walks and takes results; others read, hash and deflate (`gitrel.workers`). Results are taken
in the order of the walk, so what the sink gets is the same each time, and how far the others may be ahead is bounded
in bytes. A file over `WHOLE` is hashed first and deflated in a second pass, into a file, if it is new.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple, Protocol, TypeAlias

from gitrel.dataclass import dataclass
from gitrel.errors import BuildFailed, FormatError
from gitrel.format.names import odd_names
from gitrel.format.tree import Mode, Node, TreeEntry, check_name, encode_tree, parse_tree
from gitrel.ids import Kind, ObjectFormat, ObjectId
from gitrel.store.descent import Descent, Folder, folder_at, open_folder
from gitrel.store.objects import PIECE, WHOLE
from gitrel.store.pack import Deflated, Spooled, deflate
from gitrel.store.twin import Child, Ids, ObjectHash, child, ids_of, tree_of
from gitrel.workers import AHEAD, SHARE, STEP, Share, in_order

_NOTES = 100
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_ANY = {fmt: ObjectId("0" * 2 * fmt.raw_length) for fmt in ObjectFormat}
_SPECIAL = {
    stat.S_IFIFO: "FIFO",
    stat.S_IFSOCK: "socket",
    stat.S_IFCHR: "character device",
    stat.S_IFBLK: "block device",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class TreeLimits:
    """What one tree may hold, when it is stored and when it is written out. Sizes in bytes.

    An entry is a file, a link or a folder, counted as often as it stands in the tree; `path` is a whole path
    below the top, `depth` the number of folders inside one another, the top not counted
    (over 256 is not supported: `seal_folder` keeps each of them open).
    """

    entries: int = 1_000_000
    total: int = 16 * 1024**3
    blob: int = 4 * 1024**3
    depth: int = 128
    path: int = 4095


class Sink(Protocol):
    """Where the objects go; `PackWriter` is one. `lacks` and `spool` are called in forked processes, too."""

    def lacks(self, oid: ObjectId) -> bool: ...
    def spool(self, kind: Kind, size: int, pieces: Iterator[bytes]) -> Spooled: ...
    def put(self, oid: ObjectId, made: Deflated | Spooled) -> None: ...


@contextlib.contextmanager
def open_top(folder: Path) -> Iterator[int]:
    """The folder's descriptor; `folder` itself may not be a link. Raises `BuildFailed`."""
    try:
        fd = open_folder(folder)
    except OSError as error:
        raise _unreadable(error, str(folder)) from error
    try:
        yield fd
    finally:
        os.close(fd)


class _Folder(Folder):
    __slots__ = ("children", "length")

    def __init__(self, name: bytes, above: _Folder | None = None) -> None:
        super().__init__(os.fsdecode(name), above)
        self.children: list[Child] = []
        self.length: int = above.length + len(name) + 1 if above is not None else 0  # of its path, and a slash


_State: TypeAlias = tuple[int, ...]  # see `_state`


class _File(NamedTuple):
    """A file or link as the walk saw it."""

    name: bytes
    mode: int
    size: int
    state: _State


class _Leaf(NamedTuple):
    folder: _Folder
    file: _File


class _Read(NamedTuple):
    """What a file or link is. `made` is there if the blob is new."""

    ids: Ids
    made: Deflated | Spooled | None = None


_Steps: TypeAlias = list[_Leaf | _Folder]
_Task: TypeAlias = list[tuple[str, list[_File]]]  # files by the paths of their folders, in the order of the walk


class FolderReading:
    """One walk over a folder whose descriptor is `top`; `where` names it in errors.

    Without a sink, ids are computed and nothing is stored. What `excluded` agrees to, by its path below the
    top, is not looked at. With `skip_git`, an entry `.git` is left out with a note; else it is refused. In
    a `checkout`, mode bits that no checkout has are refused, too.
    """

    def __init__(
        self,
        top: int,
        where: str,
        fmt: ObjectFormat,
        sink: Sink | None,
        *,
        limits: TreeLimits,
        excluded: Callable[[str], object] | None = None,
        skip_git: bool = False,
        checkout: bool = False,
    ) -> None:
        self._top, self._where, self._format, self._sink = top, where, fmt, sink
        self._excluded = excluded
        self._limits, self._skip_git, self._checkout = limits, skip_git, checkout
        self._entries = self.files = self.size = 0
        self._said: list[str] = []
        self._made: set[bytes] = set()
        self._folders: dict[str, Folder] = {}

    @property
    def notes(self) -> tuple[str, ...]:
        more = len(self._said) - _NOTES
        return (*self._said[:_NOTES], *([f"and {more} more notes of this kind"] if more > 0 else []))

    def run(self) -> Node:
        """The folder's ids. Raises `BuildFailed`, naming the path; what the sink raises."""
        ids = None
        with self._descent() as descent:
            shares = in_order(self._shares(), lambda task: self._read_all(task, descent), ahead=AHEAD)
            with contextlib.closing(shares):
                for steps, reads in shares:
                    found = iter(reads)
                    for step in steps:
                        ids = self._leave(step) if isinstance(step, _Folder) else self._take(step, next(found))
        if ids is None:
            raise BuildFailed("the walk ended early", where=self._where)
        return ids.node()

    def _shares(self) -> Iterator[Share[_Steps, _Task]]:
        steps: _Steps = []
        task: _Task = []
        size = cost = 0
        with self._descent() as descent:
            here = None
            for step in self._walk(descent):
                steps.append(step)
                size += STEP
                if isinstance(step, _Leaf):
                    if step.folder is not here:
                        here = step.folder
                        task.append((here.path(), []))
                    task[-1][1].append(step.file)
                    size += step.file.size
                    cost += min(step.file.size, WHOLE)
                if size >= SHARE:
                    yield Share(steps, task, cost + STEP * len(steps))
                    steps, task, size, cost, here = [], [], 0, 0, None
        yield Share(steps, task, cost + STEP * len(steps))

    def _descent(self) -> Descent:
        try:
            return Descent(self._top)
        except OSError as error:
            raise _unreadable(error, self._where) from error

    def _walk(self, descent: Descent) -> Iterator[_Leaf | _Folder]:
        """Leaves in the order of their names' bytes; a folder comes when everything in it has come."""
        top = _Folder(b"")
        stack = [(top, self._names_in(top, descent))]
        while stack:
            folder, names = stack[-1]
            name = next(names, None)
            if name is None:
                stack.pop()
                yield folder
                continue
            try:
                info = os.stat(name, dir_fd=descent.to(folder), follow_symlinks=False)
            except OSError as error:
                raise self._failed(error, folder, name) from error
            if stat.S_ISDIR(info.st_mode):
                self._check_folder(folder, name)
                below = _Folder(name, folder)
                stack.append((below, self._names_in(below, descent)))
            else:
                self._check_file(folder, name, info)
                yield _Leaf(folder, _File(name, info.st_mode, info.st_size, _state(info)))

    def _names_in(self, folder: _Folder, descent: Descent) -> Iterator[bytes]:
        try:
            names = sorted(map(os.fsencode, os.listdir(descent.to(folder))))
        except OSError as error:
            raise self._failed(error, folder) from error
        prefix = f"{folder.path()}/" if folder.above is not None else ""
        kept = []
        for name in names:
            text = os.fsdecode(name)
            if self._excluded is not None and self._excluded(prefix + text):
                continue
            if name == b".git" and self._skip_git:
                self._said.append(f"{prefix}.git is left out: git's own folders are never stored")
                continue
            try:
                check_name(name)
            except FormatError as error:
                raise BuildFailed(error.what, where=self._full(folder, name), why=error.why) from None
            kept.append(name)
        self._said += odd_names(prefix, [name.decode() for name in kept])
        return iter(kept)

    def _check_folder(self, folder: _Folder, name: bytes) -> None:
        if not self._checkout and name.lower() in (b".gitattributes", b".gitmodules"):
            raise BuildFailed("is a folder", where=self._full(folder, name), why="git-fsck(1) takes it for an error")
        if folder.depth >= self._limits.depth:
            raise self._too_big(folder, name, f"over {self._limits.depth} folders deep")
        self._count(folder, name)

    def _check_file(self, folder: _Folder, name: bytes, info: os.stat_result) -> None:
        mode, size, limits = info.st_mode, info.st_size, self._limits
        kind = stat.S_IFMT(mode)
        if kind == stat.S_IFLNK:
            self._check_link(folder, name)
        elif kind != stat.S_IFREG:
            what = f"is a {_SPECIAL.get(kind, 'file of an unknown kind')}"
            raise BuildFailed(what, where=self._full(folder, name), why="a tree holds files and links")
        elif self._checkout and mode & 0o7000:
            raise BuildFailed("has a set-user-id, set-group-id or sticky bit", where=self._full(folder, name))
        self.files += 1
        self.size += size
        if self.size > limits.total:
            raise self._too_big(folder, name, f"over {limits.total} bytes in all")
        if size > limits.blob:
            raise self._too_big(folder, name, f"over {limits.blob} bytes")
        self._count(folder, name)

    def _count(self, folder: _Folder, name: bytes) -> None:
        self._entries += 1
        if self._entries > self._limits.entries:
            raise self._too_big(folder, name, f"over {self._limits.entries} files and folders")
        if folder.length + len(name) > self._limits.path:
            raise self._too_big(folder, name, f"path over {self._limits.path} bytes")

    def _too_big(self, folder: _Folder, name: bytes, why: str) -> BuildFailed:
        return BuildFailed("too big to be stored", where=self._full(folder, name), why=why)

    def _check_link(self, folder: _Folder, name: bytes) -> None:
        """Some names are fine for a file and not for a link; the format's own parser says which."""
        try:
            parse_tree(encode_tree([TreeEntry(Mode.SYMLINK, name.decode(), _ANY[self._format])]), self._format)
        except FormatError as error:
            raise BuildFailed(error.what, where=self._full(folder, name), why="git refuses it") from None

    def _read_all(self, task: _Task, descent: Descent) -> list[_Read]:
        return [
            self._read(folder, file, descent)
            for path, files in task
            for folder in [folder_at(path, self._folders)]
            for file in files
        ]

    def _read(self, folder: Folder, file: _File, descent: Descent) -> _Read:
        try:
            above = descent.to(folder)
            if stat.S_ISLNK(file.mode):
                data = os.readlink(file.name, dir_fd=above)
            elif file.size > WHOLE:
                return self._read_big(folder, file, above)
            else:
                data = self._content(folder, file, above)
        except OSError as error:
            raise self._failed(error, folder, file.name) from error
        ids = ids_of("blob", data, self._format)
        return _Read(ids, deflate("blob", data) if self._is_new(ids) else None)

    def _is_new(self, ids: Ids) -> bool:
        """Whether the sink lacks a blob; what this process has made already, it will get."""
        if self._sink is None or ids.oid in self._made or not self._sink.lacks(ObjectId.from_raw(ids.oid)):
            return False
        self._made.add(ids.oid)
        return True

    def _content(self, folder: Folder, file: _File, above: int) -> bytes:
        """The file's bytes: exactly as many as the walk saw, of a file that is the same before and after."""
        fd = os.open(file.name, _FILE, dir_fd=above)
        try:
            data = os.read(fd, file.size + 1)
            if len(data) != file.size or _state(os.fstat(fd)) != file.state:
                raise self._changed(folder, file)
        finally:
            os.close(fd)
        return data

    def _read_big(self, folder: Folder, file: _File, above: int) -> _Read:
        digest = ObjectHash("blob", file.size, self._format)
        for piece in self._pieces(folder, file, above):
            digest.update(piece)
        ids = digest.ids()
        if self._sink is None or not self._is_new(ids):
            return _Read(ids)
        return _Read(ids, self._sink.spool("blob", file.size, self._again(folder, file, above, ids)))

    def _again(self, folder: Folder, file: _File, above: int, ids: Ids) -> Iterator[bytes]:
        digest = ObjectHash("blob", file.size, ObjectFormat.SHA256)  # one will do: the file was the same
        try:
            for piece in self._pieces(folder, file, above):
                digest.update(piece)
                yield piece
        except OSError as error:  # or it would be taken for one of the store's
            raise self._failed(error, folder, file.name) from error
        if digest.ids().sha256 != ids.sha256:
            raise self._changed(folder, file)

    def _pieces(self, folder: Folder, file: _File, above: int) -> Iterator[bytes]:
        """As `_content`, in pieces."""
        with open(os.open(file.name, _FILE, dir_fd=above), "rb", buffering=0) as opened:
            left = file.size
            while piece := opened.read(min(left + 1, PIECE)):
                left -= len(piece)
                if left < 0:
                    break
                yield piece
            if left or _state(os.fstat(opened.fileno())) != file.state:
                raise self._changed(folder, file)

    def _take(self, leaf: _Leaf, read: _Read) -> Ids:
        leaf.folder.children.append(child(_mode(leaf.file), leaf.file.name, read.ids))
        if self._sink is not None and read.made is not None:
            self._sink.put(ObjectId.from_raw(read.ids.oid), read.made)
        return read.ids

    def _leave(self, folder: _Folder) -> Ids:
        raw, ids = tree_of(folder.children, self._format)
        if self._sink is not None and self._sink.lacks(oid := ObjectId.from_raw(ids.oid)):
            self._sink.put(oid, deflate("tree", raw))
        folder.children.clear()
        if isinstance(folder.above, _Folder):
            folder.above.children.append(child(Mode.DIRECTORY, os.fsencode(folder.name), ids))
        return ids

    def _full(self, folder: Folder, name: bytes = b"") -> str:
        """A path for people; bytes that are no UTF-8 are escaped."""
        path = folder.path(os.fsdecode(name))
        whole = f"{self._where}/{path}" if path else self._where
        return os.fsencode(whole).decode("utf-8", "backslashreplace")

    def _failed(self, error: OSError, folder: Folder, name: bytes = b"") -> BuildFailed:
        return _unreadable(error, self._full(folder, name))

    def _changed(self, folder: Folder, file: _File) -> BuildFailed:
        where = self._full(folder, file.name)
        return BuildFailed("changed while it was read", where=where, hint="stop what writes there, and try again")


def _mode(file: _File) -> Mode:
    if stat.S_ISLNK(file.mode):
        return Mode.SYMLINK
    return Mode.EXECUTABLE if file.mode & stat.S_IXUSR else Mode.FILE


def _state(info: os.stat_result) -> _State:
    """What a change of a file's content or mode changes (inode(7)); setting back mtime still moves ctime."""
    return info.st_mode, info.st_dev, info.st_ino, info.st_size, info.st_mtime_ns, info.st_ctime_ns


def _unreadable(error: OSError, where: str) -> BuildFailed:
    return BuildFailed("cannot read", where=where, why=error.strerror or str(error))
