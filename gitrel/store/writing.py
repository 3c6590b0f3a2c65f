"""A plan written out into a fresh folder: folders, links to an older checkout's files, then the other files.

Blobs come in the order in which they lie in their packs, so a disk reads on; each is inflated once, hashed once, and
written to every place that it has. Several processes do it (`gitrel.workers`), each with its own way down.

A file of an older checkout may have been changed by whoever runs there, and a link to it changes the very time that
would tell. So nothing about it is believed: first all links are made, then every linked file is read through its new
name, in a folder that nobody else has, and hashed; it must be in the same state before and after. To read it starts at
least a tick of the clock after it was linked, so whatever is done to it later has another ctime than the one that
`linked` says.
"""

from __future__ import annotations

import contextlib
import os
import stat
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple, TypeVar

from gitrel.errors import LocalStateError, Refused
from gitrel.format.tree import Mode, Node
from gitrel.ids import ObjectFormat, ObjectId, Sha256
from gitrel.store.descent import Descent, open_folder
from gitrel.store.durable import TICK
from gitrel.store.objects import PIECE, WHOLE, Stored
from gitrel.store.plan import Layout, Place, Plan, check_kind, content, damaged, mismatch
from gitrel.store.twin import Ids, ObjectHash, ids_of
from gitrel.workers import AHEAD, SHARE, STEP, Share, in_order

FILE_TIME = 315_619_200  # 1980-01-02T00:00:00Z: in 1980 in every time zone

_MAKE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
# Without O_NOATIME every read of a file that was just linked would write its inode (relatime, mount(8))
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOATIME | os.O_CLOEXEC
_NS = (FILE_TIME * 10**9, FILE_TIME * 10**9)
_RIGHTS = {Mode.FILE: 0o444, Mode.EXECUTABLE: 0o555}

T = TypeVar("T")
R = TypeVar("R")


class Base(NamedTuple):
    """An older checkout: the folder, and the tree that it was made from."""

    folder: Path
    tree: ObjectId


class _Blob(NamedTuple):
    """One blob and its places. Its deflated data ends within `room` bytes, where that is known."""

    stored: Stored
    room: int | None
    places: list[Place]


class Writing:
    """One checkout into the folder whose descriptor is `top`. Raises `OSError`, `Refused`."""

    def __init__(self, plan: Plan, fmt: ObjectFormat, top: int) -> None:
        self._plan, self._format, self._top = plan, fmt, top
        self._sha256: dict[ObjectId, bytes] = {}
        self.linked: dict[int, int] = {}

    def run(self, tree: ObjectId, base: Base | None) -> Node:
        """Write all of it; both ids of what was written."""
        layout = self._plan.lay_out(tree, base.tree if base else None)
        with Descent(self._top) as descent:
            for folder in layout.folders[1:]:
                os.mkdir(folder.name, 0o700, dir_fd=descent.to(folder.above or folder))
        self._fill(layout, base)
        with Descent(self._top) as descent:
            for folder in reversed(layout.folders):  # what is in a folder comes before it
                fd = descent.to(folder)
                os.fchmod(fd, 0o555)
                os.utime(fd, ns=_NS)
        if self._format is ObjectFormat.SHA256:
            return Node(Mode.DIRECTORY, tree, Sha256(tree))
        return Node(Mode.DIRECTORY, tree, self._plan.twin(tree, self._sha256))

    def _fill(self, layout: Layout, base: Base | None) -> None:
        linked = self._link(layout.same, base) if base is not None else []
        done = set(linked)
        self._write([*layout.new, *(place for place in layout.same if place not in done)])
        self._write(self._hash_linked(linked))

    def _each(self, items: Sequence[T], size: Callable[[T], int], work: Callable[[T, Descent], R]) -> Iterator[R]:
        """What `work` makes of each of them, about a megabyte at a time; `size` in bytes."""
        with Descent(self._top) as descent:

            def go(part: slice) -> list[R]:
                return [work(item, descent) for item in items[part]]

            with contextlib.closing(in_order(_shares(map(size, items)), go, ahead=AHEAD)) as results:
                for _, found in results:
                    yield from found

    def _write(self, places: list[Place]) -> None:
        by_oid: dict[ObjectId, list[Place]] = {}
        for place in places:
            by_oid.setdefault(place.oid, []).append(place)
        blobs = list(_in_pack_order(self._plan, by_oid))
        made = self._each(blobs, lambda blob: blob.stored.size * len(blob.places), self._write_blob)
        for blob, sha256 in zip(blobs, made, strict=True):
            self._sha256[blob.stored.oid] = sha256

    def _write_blob(self, blob: _Blob, descent: Descent) -> bytes:
        """Its SHA-256 id, raw."""
        ids = self._write_whole(blob, descent) if blob.stored.size <= WHOLE else self._write_big(blob, descent)
        if ids.oid != blob.stored.oid.raw:
            raise mismatch(blob.stored.oid)
        return ids.sha256

    def _write_whole(self, blob: _Blob, descent: Descent) -> Ids:
        data = content(blob.stored, "blob", blob.room)
        for folder, name, mode, oid in blob.places:
            above = descent.to(folder)
            if mode is Mode.SYMLINK:
                _make_link(name, data, oid, above)
                continue
            fd = os.open(name, _MAKE, 0o400, dir_fd=above)
            try:
                _write_all(fd, data)
                _finish(fd, mode)
            finally:
                os.close(fd)
        return ids_of("blob", data, self._format)

    def _write_big(self, blob: _Blob, descent: Descent) -> Ids:
        """Each place in turn, in pieces, and what the last one got is hashed: all of them got the same."""
        stored = blob.stored
        ids = []
        for folder, name, mode, _ in blob.places:
            fd = os.open(name, _MAKE, 0o400, dir_fd=descent.to(folder))
            try:
                digest = ObjectHash("blob", stored.size, self._format)
                for piece in _pieces(stored):
                    digest.update(piece)
                    _write_all(fd, piece)
                _finish(fd, mode)
            finally:
                os.close(fd)
            ids.append(digest.ids())
        if len(set(ids)) != 1:
            raise mismatch(stored.oid)
        return ids[0]

    def _link(self, places: list[Place], base: Base) -> list[Place]:
        """Link what can be linked; what was."""
        try:
            fd = open_folder(base.folder)
        except OSError:
            return []
        try:
            with Descent(fd) as theirs:
                done = self._each(places, lambda _: 0, lambda place, ours: _link_one(place, theirs, ours))
                return [place for place, linked in zip(places, done, strict=True) if linked]
        finally:
            os.close(fd)

    def _hash_linked(self, places: list[Place]) -> list[Place]:
        """Those of the linked files that are not what the tree says, after their links are gone again."""
        wrong = []
        for place, found in zip(places, self._each(places, self._size, self._hash_link), strict=True):
            if found is None:
                wrong.append(place)
            else:
                sha256, inode, ctime = found
                self._sha256[place.oid] = sha256
                self.linked[inode] = ctime
        return wrong

    def _hash_link(self, place: Place, descent: Descent) -> tuple[bytes, int, int] | None:
        """The SHA-256 id of a linked file, its inode, and its ctime; None, and no link any more, if it is another."""
        above = descent.to(place.folder)
        with contextlib.suppress(OSError):  # a FIFO, a link, a file that cannot be read
            if found := self._as_said(place, above):
                return found
        os.unlink(place.name, dir_fd=above)
        return None

    def _size(self, place: Place) -> int:
        return self._plan.blobs[place.oid].size

    def _as_said(self, place: Place, above: int) -> tuple[bytes, int, int] | None:
        size = self._size(place)
        fd = os.open(place.name, _READ, dir_fd=above)
        try:
            info = os.fstat(fd)
            rights = stat.S_IFREG | _RIGHTS[place.mode]
            if (info.st_mode, info.st_uid, info.st_size, info.st_mtime_ns) != (rights, os.geteuid(), size, _NS[1]):
                return None
            _let_pass(info.st_ctime_ns)
            ids = _hash_file(fd, size, self._format)
            after = os.fstat(fd)
        finally:
            os.close(fd)
        if ids is None or ids.oid != place.oid.raw or after.st_ctime_ns != info.st_ctime_ns:
            return None
        return ids.sha256, info.st_ino, info.st_ctime_ns


def _in_pack_order(plan: Plan, blobs: dict[ObjectId, list[Place]]) -> Iterator[_Blob]:
    """Each blob with the way to the next one in its pack."""
    ordered = sorted((plan.blobs[oid] for oid in blobs), key=lambda stored: (stored.fd, stored.offset))
    ends = [after.offset if after.fd == stored.fd >= 0 else None for stored, after in pairwise(ordered)]
    for stored, end in zip(ordered, [*ends, None], strict=False):
        yield _Blob(stored, end - stored.body if end is not None else None, blobs[stored.oid])


def _shares(sizes: Iterator[int]) -> Iterator[Share[None, slice]]:
    """Cut what has these sizes into shares of about a megabyte."""
    start, stop, size = 0, 0, 0
    for stop, each in enumerate(sizes, 1):
        size += each + STEP
        if size >= SHARE:
            yield Share(None, slice(start, stop), size)
            start, size = stop, 0
    if stop > start:
        yield Share(None, slice(start, stop), size)


def _pieces(stored: Stored) -> Iterator[bytes]:
    try:
        kind, pieces = stored.read()
        check_kind(stored, kind, "blob")
        yield from pieces
    except LocalStateError as error:
        raise damaged(stored, error) from error


def _make_link(name: str, target: bytes, oid: ObjectId, above: int) -> None:
    if b"\0" in target:
        raise Refused(f"link {name!r} has a NUL in its target", check=11, where=oid)
    os.symlink(target, name.encode(), dir_fd=above)
    os.utime(name, ns=_NS, dir_fd=above, follow_symlinks=False)


def _finish(fd: int, mode: Mode) -> None:
    os.fchmod(fd, _RIGHTS[mode])
    os.utime(fd, ns=_NS)


def _write_all(fd: int, data: bytes) -> None:
    written = os.write(fd, data)
    while written < len(data):  # a signal, or 2 GiB at once (write(2))
        written += os.write(fd, memoryview(data)[written:])


def _link_one(place: Place, theirs: Descent, ours: Descent) -> bool:
    """False where a link cannot be: another filesystem, too many links, or none of theirs there (link(2))."""
    try:
        source = theirs.to(place.folder)
    except OSError:
        return False
    target = ours.to(place.folder)
    try:
        os.link(place.name, place.name, src_dir_fd=source, dst_dir_fd=target, follow_symlinks=False)
    except OSError:
        return False
    return True


def _let_pass(ctime: int) -> None:
    """Wait until the tick of the clock is over in which a file was changed last, so that the next change shows."""
    wait = ctime + TICK - time.time_ns()
    if 0 < wait <= TICK:
        time.sleep(wait / 10**9)


def _hash_file(fd: int, size: int, fmt: ObjectFormat) -> Ids | None:
    """Both ids of an open file; None if it does not have the size."""
    if size <= WHOLE:
        data = os.read(fd, size + 1)
        return ids_of("blob", data, fmt) if len(data) == size else None
    digest = ObjectHash("blob", size, fmt)
    left = size
    while piece := os.read(fd, min(PIECE, left + 1)):
        digest.update(piece)
        left -= len(piece)
    return digest.ids() if left == 0 else None
