"""Tree -> folder: always a fresh one, complete and verified before it gets its name.

- The whole tree is read, parsed strictly, measured and held against the limits before the first file is made;
  a subtree that stands in many places is measured once, so a bomb costs no more than its own objects.
- Every folder is made and opened relative to the one above (O_NOFOLLOW), every file with O_EXCL | O_NOFOLLOW:
  no link, FIFO or file that somebody planted is ever written through.
- Every blob is hashed as it is written, with git's hash and with SHA-256, and so is every tree.
- Order: everything below `.tmp-<random>`, syncfs, rename, fsync of the parent. Killed in between, it leaves a
  `.tmp-…` folder, which `remove_stale` takes away.

Files are 0444 or 0555, folders 0555, and all of them dated `FILE_TIME`: the same tree is the same folder
whenever it is written, and a hard link from one checkout to another changes nothing. The date is after 1980,
which zip archives begin with. Bytecode is valid in a checkout if it is hash-based, as compileall makes it
when SOURCE_DATE_EPOCH is set, or if its sources had this date when it was made.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from gitrel.errors import FormatError, GitrelError, LocalStateError, NotFound, Refused
from gitrel.format.tree import Mode, Node, TreeEntry, directory_node, parse_tree
from gitrel.ids import ObjectFormat, ObjectId
from gitrel.store.durable import disk_error
from gitrel.store.objects import BlobHash, ObjectReader, Stored, in_order
from gitrel.store.reading import TreeLimits
from gitrel.store.removal import STAGING, delete_entry, open_folder
from gitrel.store.repository import Repository

FILE_TIME = 315_619_200  # 1980-01-02T00:00:00Z: in 1980 in every time zone

_MAX_LINK = 4095  # bytes; PATH_MAX without its NUL
_MAX_TREE = 64 * 1024 * 1024  # bytes of one tree object, which is read whole
_BATCH_FILES = 64  # also bounds the folders that are open at a time
_BATCH_BYTES = 1024 * 1024
_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_NS = (FILE_TIME * 10**9, FILE_TIME * 10**9)


def stage_checkout(
    repo: Repository, tree: ObjectId, parent: Path, *, limits: TreeLimits | None = None
) -> StagedCheckout:
    """Write a tree into a fresh folder below `parent`, which must exist and be no link.

    Links are made as the tree has them: whether their targets are allowed is for the caller to check before.
    A blob that its pack holds as a delta is in memory whole, up to `objects.MAX_DELTA`; others pass in
    pieces.

    Raises `Refused`: check 11 for a tree that is malformed or over a limit, 12 for content that is missing or
    is not what its id says. `LocalStateError` for the disk. Nothing stays behind, as far as the disk allows.
    """
    with ObjectReader(repo) as objects:
        plan = _Plan(objects, repo.format, limits or TreeLimits())
        total = plan.measure(tree, 0)
        plan.check(total)
        staged = StagedCheckout(parent)
        try:
            staged.node = _Writing(plan, repo.format).run(staged.descriptor, tree)
        except BaseException as error:
            _discard_after(staged, error)
            if isinstance(error, OSError):
                raise disk_error(error, staged.path) from error
            raise
    return staged


class StagedCheckout:
    """A complete folder that has no name yet. Leaving the context discards it, unless it was published."""

    node: Node

    def __init__(self, parent: Path) -> None:
        name = f"{STAGING}{secrets.token_hex(8)}"
        self.path = parent / name
        with contextlib.ExitStack() as undo:
            try:
                self._parent = open_folder(parent)
                undo.callback(os.close, self._parent)
                os.mkdir(name, 0o700, dir_fd=self._parent)
                undo.callback(os.rmdir, name, dir_fd=self._parent)
                self.descriptor = open_folder(name, self._parent)
            except OSError as error:
                raise disk_error(error, self.path) from error
            undo.pop_all()
        self._open = True

    def __enter__(self) -> StagedCheckout:
        return self

    def __exit__(self, *exc: object) -> None:
        self.discard()

    def publish(self, target: Path) -> bool:
        """Make the folder durable and give it its name, next to where it is. Tells whether it is this one.

        If a folder of that name is there already, this one is discarded and that one kept, unseen: verify it
        as any other. Raises `LocalStateError`, also for a file or link of that name; then this one is
        discarded too.
        """
        if not self._open or target.parent != self.path.parent:
            raise LocalStateError("cannot publish", where=str(target), why="not a sibling of the staged folder")
        try:
            _sync_filesystem(self.descriptor)
            os.rename(self.path.name, target.name, src_dir_fd=self._parent, dst_dir_fd=self._parent)
        except OSError as error:
            self.discard()
            if error.errno in (errno.EEXIST, errno.ENOTEMPTY):
                return False
            raise disk_error(error, target) from error
        try:
            os.fsync(self._parent)
        except OSError as error:  # complete, but its name may not outlive a power loss
            raise disk_error(error, target) from error
        finally:
            self._close()
        return True

    def discard(self) -> None:
        """Delete the folder, if it was not published. Raises `LocalStateError`."""
        if not self._open:
            return
        try:
            delete_entry(self._parent, self.path.name)
        except OSError as error:
            raise disk_error(error, self.path) from error
        finally:
            self._close()

    def _close(self) -> None:
        self._open = False
        os.close(self.descriptor)
        os.close(self._parent)


def _discard_after(staged: StagedCheckout, error: BaseException) -> None:
    try:
        staged.discard()
    except GitrelError as second:
        error.add_note(f"and {staged.path} could not be deleted: {second}")


def _sync_filesystem(fd: int) -> None:
    """syncfs(2): one pass over the filesystem's dirty pages, instead of an fsync for each of many files."""
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    if libc.syncfs(fd) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


@dataclass(frozen=True, slots=True)
class _Sum:
    """What stands below a tree, as often as it stands there."""

    entries: int = 0
    size: int = 0
    depth: int = 0
    path: int = 0  # bytes of the longest


class _Plan:
    """Every distinct tree, parsed, and where every distinct blob is."""

    def __init__(self, objects: ObjectReader, fmt: ObjectFormat, limits: TreeLimits) -> None:
        self._objects, self._format, self._limits = objects, fmt, limits
        self.trees: dict[ObjectId, tuple[TreeEntry, ...]] = {}
        self.blobs: dict[ObjectId, Stored] = {}
        self._sums: dict[ObjectId, _Sum] = {}
        self._distinct = 0

    def measure(self, tree: ObjectId, depth: int) -> _Sum:
        known = self._sums.get(tree)
        if known is not None:
            return known
        if depth > self._limits.depth:
            raise self._too_big(f"over {self._limits.depth} folders deep")
        entries = self._parse(tree)
        self._distinct += len(entries)
        if self._distinct > self._limits.entries:
            raise self._too_big(f"over {self._limits.entries} files and folders")
        count = size = below = path = 0
        for entry in entries:
            under = _Sum()
            if entry.mode is Mode.DIRECTORY:
                under = self.measure(entry.oid, depth + 1)
                below = max(below, under.depth + 1)
            else:
                size += self._locate(entry)
            count += 1 + under.entries
            size += under.size
            path = max(path, len(entry.name.encode()) + (1 + under.path if under.path else 0))
        self.trees[tree] = entries
        total = self._sums[tree] = _Sum(count, size, below, path)
        return total

    def check(self, total: _Sum) -> None:
        limits = self._limits
        if total.entries > limits.entries:
            raise self._too_big(f"{total.entries} files and folders, at most {limits.entries}")
        if total.size > limits.total:
            raise self._too_big(f"{total.size} bytes in all, at most {limits.total}")
        if total.depth > limits.depth:
            raise self._too_big(f"{total.depth} folders deep, at most {limits.depth}")
        if total.path > limits.path:
            raise self._too_big(f"a path of {total.path} bytes, at most {limits.path}")

    def _parse(self, tree: ObjectId) -> tuple[TreeEntry, ...]:
        stored = self._find(tree)
        if stored.size > _MAX_TREE:
            raise self._too_big(f"a tree object of {stored.size} bytes, at most {_MAX_TREE}")
        raw = b"".join(content(stored, "tree"))
        if self._format.object_id("tree", raw) != tree:
            raise _mismatch(tree)
        try:
            return parse_tree(raw, self._format)
        except FormatError as error:
            raise Refused(error.what, check=11, where=f"tree {tree}", why=error.why) from None

    def _locate(self, entry: TreeEntry) -> int:
        """The size of an entry's blob, which is not inflated for it."""
        stored = self.blobs.get(entry.oid)
        if stored is None:
            stored = self.blobs[entry.oid] = self._find(entry.oid)
            if stored.kind not in (None, "blob"):
                raise Refused(f"entry {entry.name!r} is a {stored.kind}, not a file", check=11, where=entry.oid)
            if stored.size > self._limits.blob:
                raise self._too_big(f"{entry.name!r} has {stored.size} bytes, at most {self._limits.blob}")
        if entry.mode is Mode.SYMLINK and not 0 < stored.size <= _MAX_LINK:
            why = f"{stored.size} bytes; 1 to {_MAX_LINK} are a path"
            raise Refused(f"link {entry.name!r} has no usable target", check=11, where=entry.oid, why=why)
        return stored.size

    def _find(self, oid: ObjectId) -> Stored:
        try:
            return self._objects.find(oid)
        except NotFound:
            raise Refused("an object of the tree is missing", check=12, where=oid) from None
        except LocalStateError as error:
            raise Refused(error.what, check=12, where=oid, why=error.why) from error

    def _too_big(self, why: str) -> Refused:
        return Refused("tree is too big", check=11, why=why, hint="the limits can be raised")


def content(stored: Stored, kind: str) -> Iterator[bytes]:
    """An object's data in pieces. Raises `Refused`: check 11 for another kind, 12 for damaged bytes."""
    try:
        found, pieces = stored.read()
        if found != kind:
            raise Refused(f"expected a {kind}, found a {found}", check=11, where=stored.oid)
        yield from pieces
    except LocalStateError as error:
        raise Refused(error.what, check=12, where=stored.oid, why=error.why) from error


def _mismatch(oid: ObjectId) -> Refused:
    return Refused("an object does not have the content that its id names", check=12, where=oid)


@dataclass(slots=True, eq=False)
class _Folder:
    fd: int
    name: str
    oid: ObjectId
    above: _Folder | None
    children: dict[str, Node] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Leaf:
    folder: _Folder
    entry: TreeEntry
    stored: Stored


class _Writing:
    """Writes a plan out: folders in this thread, files in others, by batches. Raises `OSError`, `Refused`."""

    def __init__(self, plan: _Plan, fmt: ObjectFormat) -> None:
        self._plan, self._format = plan, fmt
        self._open: set[int] = set()

    def run(self, fd: int, tree: ObjectId) -> Node:
        top = _Folder(os.dup(fd), "", tree, None)
        self._open.add(top.fd)
        try:
            with contextlib.closing(in_order(self._batches(top), self._write_batch)) as results:
                for done in results:
                    for step, node in done:
                        self._take(step, node)
        finally:
            for left in self._open:
                os.close(left)
        return directory_node(top.children, self._format)[1]

    def _batches(self, top: _Folder) -> Iterator[list[_Leaf | _Folder]]:
        batch: list[_Leaf | _Folder] = []
        size = 0
        for step in self._walk(top):
            batch.append(step)
            if isinstance(step, _Leaf):
                size += step.stored.size
            if len(batch) >= _BATCH_FILES or size >= _BATCH_BYTES:
                yield batch
                batch, size = [], 0
        yield batch

    def _walk(self, top: _Folder) -> Iterator[_Leaf | _Folder]:
        """Leaves in the order of the trees, as `snapshot` packs them; a folder after all that is in it."""
        stack = [(top, iter(self._plan.trees[top.oid]))]
        while stack:
            folder, entries = stack[-1]
            entry = next(entries, None)
            if entry is None:
                stack.pop()
                yield folder
            elif entry.mode is Mode.DIRECTORY:
                os.mkdir(entry.name, 0o700, dir_fd=folder.fd)
                below = _Folder(open_folder(entry.name, folder.fd), entry.name, entry.oid, folder)
                self._open.add(below.fd)
                stack.append((below, iter(self._plan.trees[entry.oid])))
            else:
                yield _Leaf(folder, entry, self._plan.blobs[entry.oid])

    def _write_batch(self, batch: list[_Leaf | _Folder]) -> list[tuple[_Leaf | _Folder, Node | None]]:
        return [(step, self._write(step) if isinstance(step, _Leaf) else None) for step in batch]

    def _write(self, leaf: _Leaf) -> Node:
        digest = BlobHash(leaf.stored.size, self._format)
        if leaf.entry.mode is Mode.SYMLINK:
            target = b"".join(content(leaf.stored, "blob"))
            digest.update(target)
            if b"\0" in target:
                raise Refused(f"link {leaf.entry.name!r} has a NUL in its target", check=11, where=leaf.entry.oid)
            os.symlink(target, leaf.entry.name.encode(), dir_fd=leaf.folder.fd)
            os.utime(leaf.entry.name, ns=_NS, dir_fd=leaf.folder.fd, follow_symlinks=False)
        else:
            fd = os.open(leaf.entry.name, _FILE, 0o400, dir_fd=leaf.folder.fd)
            try:
                for piece in content(leaf.stored, "blob"):
                    digest.update(piece)
                    _write_all(fd, piece)
                os.fchmod(fd, 0o555 if leaf.entry.mode is Mode.EXECUTABLE else 0o444)
                os.utime(fd, ns=_NS)
            finally:
                os.close(fd)
        node = digest.node(leaf.entry.mode)
        if node.oid != leaf.entry.oid:
            raise _mismatch(leaf.entry.oid)
        return node

    def _take(self, step: _Leaf | _Folder, node: Node | None) -> None:
        if isinstance(step, _Leaf):
            if node is not None:
                step.folder.children[step.entry.name] = node
            return
        _, node = directory_node(step.children, self._format)
        if node.oid != step.oid:
            raise _mismatch(step.oid)
        os.fchmod(step.fd, 0o555)
        os.utime(step.fd, ns=_NS)
        if step.above is not None:
            step.above.children[step.name] = node
        self._open.discard(step.fd)
        os.close(step.fd)


def _write_all(fd: int, data: bytes) -> None:
    written = os.write(fd, data)
    while written < len(data):  # a signal, or 2 GiB at once (write(2))
        written += os.write(fd, memoryview(data)[written:])
