"""A folder read by descriptors, hashed, and handed to a sink; the engine below `snapshot` and `hash_folder`.

Nothing is followed: the top folder and every folder below it are opened with O_NOFOLLOW, relative to the one
above. Files are read, hashed and deflated in threads, a batch at a time, and results are taken in the order
of the walk, so that memory does not grow with the folder and what the sink gets is the same each time.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from gitrel.errors import BuildFailed, FormatError
from gitrel.format.tree import Mode, Node, TreeEntry, check_name, directory_node, encode_tree, parse_tree
from gitrel.ids import Kind, ObjectFormat, ObjectId
from gitrel.store.objects import PIECE, BlobHash, in_order
from gitrel.store.pack import Deflated, deflate

WHOLE = 4 * 1024 * 1024  # bytes; a bigger file is hashed in pieces, and deflated in a second pass if it is new

_BATCH_FILES = 64  # also bounds the folders that are open at a time
_BATCH_BYTES = 1024 * 1024
_NOTES = 100
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_DEVICE = re.compile(r"(?:con|prn|aux|nul|com[1-9¹²³]|lpt[1-9¹²³]|conin\$|conout\$) *(?:[.:].*)?", re.I | re.S)
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
    """Where the objects go; `PackWriter` is one."""

    def lacks(self, oid: ObjectId) -> bool: ...
    def add(self, kind: Kind, data: bytes) -> ObjectId: ...
    def put(self, oid: ObjectId, deflated: Deflated) -> None: ...
    def put_pieces(self, oid: ObjectId, kind: Kind, size: int, pieces: Iterator[bytes]) -> None: ...


@contextlib.contextmanager
def open_top(folder: Path) -> Iterator[int]:
    """The folder's descriptor; `folder` itself may not be a link. Raises `BuildFailed`."""
    try:
        fd = os.open(folder, _FOLDER)
    except OSError as error:
        raise _unreadable(error, str(folder)) from error
    try:
        yield fd
    finally:
        os.close(fd)


@dataclass(slots=True, eq=False)
class _Folder:
    fd: int
    name: str
    path: str  # relative to the top, which is ""
    depth: int
    above: _Folder | None
    children: dict[str, Node] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Leaf:
    folder: _Folder
    name: str
    path: str
    info: os.stat_result


@dataclass(frozen=True, slots=True)
class _Read:
    """A step that a thread has done. `deflated` is there if the blob is new and small enough to be held."""

    step: _Leaf | _Folder
    node: Node | None = None
    deflated: Deflated | None = None


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
        excluded: Callable[[str], object] = lambda _path: False,
        skip_git: bool = False,
        checkout: bool = False,
    ) -> None:
        self._top, self._where, self._format, self._sink = top, where, fmt, sink
        self._excluded = excluded
        self._limits, self._skip_git, self._checkout = limits, skip_git, checkout
        self._open: set[int] = set()
        self._entries = self.files = self.size = 0
        self._said: list[str] = []

    @property
    def notes(self) -> tuple[str, ...]:
        more = len(self._said) - _NOTES
        return (*self._said[:_NOTES], *([f"and {more} more notes of this kind"] if more > 0 else []))

    def run(self) -> Node:
        """The folder's ids. Raises `BuildFailed`, naming the path; what the sink raises."""
        try:
            with contextlib.closing(in_order(self._batches(), self._read_batch)) as results:
                node = None
                for done in results:
                    for read in done:
                        node = self._take(read)
        finally:
            for fd in self._open:
                os.close(fd)
        if node is None:
            raise BuildFailed("the walk ended early", where=self._where)
        return node

    def _batches(self) -> Iterator[list[_Leaf | _Folder]]:
        batch: list[_Leaf | _Folder] = []
        size = 0
        for step in self._walk():
            batch.append(step)
            if isinstance(step, _Leaf):
                size += step.info.st_size
            if len(batch) >= _BATCH_FILES or size >= _BATCH_BYTES:
                yield batch
                batch, size = [], 0
        yield batch

    def _walk(self) -> Iterator[_Leaf | _Folder]:
        """Leaves in the order of their names' bytes; a folder comes when everything in it has come."""
        top = self._enter(None, "", "")
        stack = [(top, self._entries_of(top))]
        while stack:
            folder, entries = stack[-1]
            entry = next(entries, None)
            if entry is None:
                stack.pop()
                yield folder
                continue
            path = f"{folder.path}/{entry.name}" if folder.path else entry.name
            try:
                info = entry.stat(follow_symlinks=False)
            except OSError as error:
                raise _unreadable(error, self._full(path)) from error
            self._check_entry(folder, path, info)
            if stat.S_ISDIR(info.st_mode):
                below = self._enter(folder, entry.name, path)
                stack.append((below, self._entries_of(below)))
            else:
                yield _Leaf(folder, entry.name, path, info)

    def _enter(self, above: _Folder | None, name: str, path: str) -> _Folder:
        try:
            fd = os.open(name, _FOLDER, dir_fd=above.fd) if above else os.open(".", _FOLDER, dir_fd=self._top)
        except OSError as error:
            raise _unreadable(error, self._full(path)) from error
        self._open.add(fd)
        return _Folder(fd, name, path, above.depth + 1 if above else 0, above)

    def _entries_of(self, folder: _Folder) -> Iterator[os.DirEntry[str]]:
        try:
            with os.scandir(folder.fd) as found:
                entries = sorted(found, key=lambda entry: os.fsencode(entry.name))
        except OSError as error:
            raise _unreadable(error, self._full(folder.path)) from error
        prefix = f"{folder.path}/" if folder.path else ""
        kept = []
        for entry in entries:
            if self._excluded(prefix + entry.name):
                continue
            if entry.name == ".git" and self._skip_git:
                self._said.append(f"{prefix}.git is left out: git's own folders are never stored")
                continue
            try:
                check_name(os.fsencode(entry.name))
            except FormatError as error:
                raise BuildFailed(error.what, where=self._full(prefix + entry.name), why=error.why) from None
            kept.append(entry)
        self._said += _odd_names(prefix, [entry.name for entry in kept])
        return iter(kept)

    def _check_entry(self, folder: _Folder, path: str, info: os.stat_result) -> None:
        kind, limits = stat.S_IFMT(info.st_mode), self._limits
        if kind in _SPECIAL:
            raise BuildFailed(f"is a {_SPECIAL[kind]}", where=self._full(path), why="a tree holds files and links")
        name = path.rpartition("/")[2]
        if kind == stat.S_IFLNK:
            self._check_link(name, path)
        if not self._checkout and kind == stat.S_IFDIR and name.lower() in (".gitattributes", ".gitmodules"):
            raise BuildFailed("is a folder", where=self._full(path), why="git-fsck(1) takes it for an error")
        if self._checkout and kind == stat.S_IFREG and info.st_mode & 0o7000:
            raise BuildFailed("has a set-user-id, set-group-id or sticky bit", where=self._full(path))
        self._entries += 1
        if kind != stat.S_IFDIR:
            self.files += 1
            self.size += info.st_size
        for is_over, what in (
            (self._entries > limits.entries, f"over {limits.entries} files and folders"),
            (self.size > limits.total, f"over {limits.total} bytes in all"),
            (kind != stat.S_IFDIR and info.st_size > limits.blob, f"over {limits.blob} bytes"),
            (kind == stat.S_IFDIR and folder.depth >= limits.depth, f"over {limits.depth} folders deep"),
            (len(os.fsencode(path)) > limits.path, f"path over {limits.path} bytes"),
        ):
            if is_over:
                raise BuildFailed("too big to be stored", where=self._full(path), why=what)

    def _check_link(self, name: str, path: str) -> None:
        """Some names are fine for a file and not for a link; the format's own parser says which."""
        try:
            parse_tree(encode_tree([TreeEntry(Mode.SYMLINK, name, _ANY[self._format])]), self._format)
        except FormatError as error:
            raise BuildFailed(error.what, where=self._full(path), why="git refuses it") from None

    def _read_batch(self, batch: list[_Leaf | _Folder]) -> list[_Read]:
        return [self._read(step) if isinstance(step, _Leaf) else _Read(step) for step in batch]

    def _read(self, leaf: _Leaf) -> _Read:
        try:
            if stat.S_ISLNK(leaf.info.st_mode):
                data = os.readlink(os.fsencode(leaf.name), dir_fd=leaf.folder.fd)
                return self._ready(leaf, Mode.SYMLINK, data)
            mode = Mode.EXECUTABLE if leaf.info.st_mode & stat.S_IXUSR else Mode.FILE
            if leaf.info.st_size <= WHOLE:
                return self._ready(leaf, mode, b"".join(self._pieces(leaf)))
            digest = BlobHash(leaf.info.st_size, self._format)
            for piece in self._pieces(leaf):
                digest.update(piece)
            return _Read(leaf, digest.node(mode))
        except OSError as error:
            raise _unreadable(error, self._full(leaf.path)) from error

    def _ready(self, leaf: _Leaf, mode: Mode, data: bytes) -> _Read:
        digest = BlobHash(len(data), self._format)
        digest.update(data)
        node = digest.node(mode)
        if self._sink is None or not self._sink.lacks(node.oid):
            return _Read(leaf, node)
        return _Read(leaf, node, deflate("blob", data))

    def _pieces(self, leaf: _Leaf) -> Iterator[bytes]:
        """The file's bytes: exactly as many as the walk saw, of a file that is the same before and after."""
        with open(os.open(leaf.name, _FILE, dir_fd=leaf.folder.fd), "rb", buffering=0) as file:
            left = leaf.info.st_size
            while piece := file.read(min(left + 1, WHOLE + 1 if leaf.info.st_size <= WHOLE else PIECE)):
                left -= len(piece)
                if left < 0:
                    break
                yield piece
            if left or _state(os.fstat(file.fileno())) != _state(leaf.info):
                raise _changed(self._full(leaf.path))

    def _take(self, read: _Read) -> Node:
        if isinstance(read.step, _Folder):
            return self._leave(read.step)
        leaf, node = read.step, read.node
        if node is None:
            raise BuildFailed("was not read", where=self._full(leaf.path))
        leaf.folder.children[leaf.name] = node
        if self._sink is not None and read.deflated is not None:
            self._sink.put(node.oid, read.deflated)
        elif self._sink is not None and leaf.info.st_size > WHOLE and self._sink.lacks(node.oid):
            self._sink.put_pieces(node.oid, "blob", leaf.info.st_size, self._again(leaf, node))
        return node

    def _again(self, leaf: _Leaf, node: Node) -> Iterator[bytes]:
        digest = BlobHash(leaf.info.st_size, self._format)
        try:
            for piece in self._pieces(leaf):
                digest.update(piece)
                yield piece
        except OSError as error:
            raise _unreadable(error, self._full(leaf.path)) from error
        if digest.node(node.mode) != node:
            raise _changed(self._full(leaf.path))

    def _leave(self, folder: _Folder) -> Node:
        raw, node = directory_node(folder.children, self._format)
        if self._sink is not None:
            self._sink.add("tree", raw)
        if folder.above is not None:
            folder.above.children[folder.name] = node
        self._open.discard(folder.fd)
        os.close(folder.fd)
        return node

    def _full(self, path: str) -> str:
        """A path for people; bytes that are no UTF-8 are escaped."""
        whole = f"{self._where}/{path}" if path else self._where
        return os.fsencode(whole).decode("utf-8", "backslashreplace")


def _state(info: os.stat_result) -> tuple[int, ...]:
    """What a change of a file's content or mode changes (inode(7)); setting back mtime still moves ctime."""
    return info.st_mode, info.st_dev, info.st_ino, info.st_size, info.st_mtime_ns, info.st_ctime_ns


def _changed(where: str) -> BuildFailed:
    return BuildFailed("changed while it was read", where=where, hint="stop what writes there, and try again")


def _unreadable(error: OSError, where: str) -> BuildFailed:
    return BuildFailed("cannot read", where=where, why=error.strerror or str(error))


def _odd_names(prefix: str, names: list[str]) -> list[str]:
    """Names that are fine here and mean something else, or nothing, on another system."""
    notes = []
    same: dict[str, str] = {}
    for name in names:
        if "\\" in name:
            notes.append(f"{prefix}{name}: a backslash separates folders on Windows")
        if name[1:2] == ":":
            notes.append(f"{prefix}{name}: begins like a drive of Windows")
        if _DEVICE.fullmatch(name):
            notes.append(f"{prefix}{name}: the name of a device on Windows")
        folded = name.lower() if name.isascii() else unicodedata.normalize("NFC", name.casefold())
        if same.setdefault(folded, name) != name:
            notes.append(f"{prefix}{name}: on other systems the same name as {same[folded]}")
    return notes
