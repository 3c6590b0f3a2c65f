"""Tree -> folder: always a fresh one, complete and verified before it gets its name.

- The whole tree is read, parsed strictly, measured and held against the limits before the first file is made
  (`gitrel.store.plan`).
- Every folder is made and opened relative to the one above (O_NOFOLLOW), every file with O_EXCL | O_NOFOLLOW:
  no link, FIFO or file that somebody planted is ever written through.
- Every blob is hashed as it is written, with git's hash and with SHA-256, and so is every tree. A file that an
  older checkout has is linked instead of written, and hashed through the new link (`gitrel.store.writing`).
- Order: everything below `.tmp-<random>`, syncfs, rename, fsync of the parent. Killed in between, it leaves a
  `.tmp-…` folder, which `remove_stale` takes away.

Files are 0444 or 0555, folders 0555, and all of them dated `FILE_TIME`: the same tree is the same folder
whenever it is written, and a hard link from one checkout to another changes nothing but the time of the last
change, which a seal has (`gitrel.store.seal`). The date is after 1980, which zip archives begin with. Bytecode
is valid in a checkout if it is hash-based, as compileall makes it when SOURCE_DATE_EPOCH is set, or if its
sources had this date when it was made.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
from collections.abc import Mapping
from pathlib import Path

from gitrel.errors import GitrelError, LocalStateError
from gitrel.format.tree import Node
from gitrel.ids import ObjectId
from gitrel.store.descent import open_folder
from gitrel.store.durable import disk_error
from gitrel.store.objects import ObjectReader
from gitrel.store.plan import Plan
from gitrel.store.reading import TreeLimits
from gitrel.store.removal import STAGING, delete_entry
from gitrel.store.repository import Repository
from gitrel.store.writing import FILE_TIME, Base, Writing

__all__ = ["FILE_TIME", "Base", "StagedCheckout", "stage_checkout"]


def stage_checkout(
    repo: Repository,
    tree: ObjectId,
    parent: Path,
    *,
    limits: TreeLimits | None = None,
    base: Base | None = None,
) -> StagedCheckout:
    """Write a tree into a fresh folder below `parent`, which must exist and be no link.

    What `base`, an older checkout on the same filesystem, has at the same place is linked instead of written
    and as good: a linked file is hashed too, and one that is not what the tree says is written after all.
    Links are made as the tree has them: whether their targets are allowed is for the caller to check before.
    A blob that its pack holds as a delta is in memory whole, up to `packs.MAX_DELTA`; others pass in
    pieces.

    Raises `Refused`: check 11 for a tree that is malformed or over a limit, 12 for content that is missing or
    is not what its id says. `LocalStateError` for the disk. Nothing stays behind, as far as the disk allows.
    """
    objects = ObjectReader(repo)
    plan = Plan(objects, repo.format, limits or TreeLimits())
    plan.check(plan.measure(tree, 0))
    staged = StagedCheckout(parent)
    try:
        writing = Writing(plan, repo.format, staged.descriptor)
        staged.node = writing.run(tree, base)
        staged.linked = writing.linked
    except BaseException as error:
        _discard_after(staged, error)
        if isinstance(error, OSError):
            raise disk_error(error, staged.path) from error
        raise
    return staged


class StagedCheckout:
    """A complete folder that has no name yet. Leaving the context discards it, unless it was published.

    `linked`: the inodes that it shares with other checkouts, each with the time of the last change (ctime, in
    nanoseconds) that it had when its bytes were hashed.
    """

    node: Node
    linked: Mapping[int, int]

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
