"""What a repository still needs, in one pack; the rest is deleted (git-repack(1), gitformat-pack(5)).

Whoever calls this lets nobody else write objects meanwhile; readers are fine at any moment, but those that hold on
to a pack by its name (`gitrel.store.objects.ObjectReader`). The order:

    1 the new pack and its index, fsynced       the same objects twice harm nobody
    2 its .promisor, the promisor configuration what is absent on purpose is excused before it is missed
    3 a list of what goes, fsynced              from here on `finish` does the rest, whoever calls it
    4 of each old pack the index, then the rest git and dulwich look at a pack when they see its index
    5 loose objects, the list

Killed anywhere, the repository has all that it needs. In the middle of 4 it may have a tree without its files: before
anybody concludes from a tree that its files are there, `finish` has to have been called. An object is copied as it
stands, its zlib stream read through; a delta stays one, on its base's id, as long as the base stays.
"""

from __future__ import annotations

import contextlib
import os
import re
import zlib
from bisect import bisect_right
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from gitrel.dataclass import dataclass
from gitrel.errors import FormatError, LocalStateError, NotFound
from gitrel.format.tree import Mode, parse_tree
from gitrel.ids import ObjectId
from gitrel.store.durable import create_file, disk_error, replace_file, sync_folder
from gitrel.store.ingest import read_parents
from gitrel.store.objects import ObjectReader
from gitrel.store.pack import Deflated, PackWriter, deflate
from gitrel.store.packfile import REF_DELTA, PackFile, entry_header
from gitrel.store.packs import Pack
from gitrel.store.quarantine import mark_promisor
from gitrel.store.repository import Repository

WHOLE = 4 * 1024 * 1024  # bytes; a bigger object is deflated anew, piece by piece
GONE = "gitrel-gone"  # beside the packs: what is being deleted, a path below objects/ on each line
_PATH = re.compile(r"pack/(?!\.\.?$)[^/]+|[0-9a-f]{2}/[0-9a-f]{38,62}")
_LEFT = re.compile(r"tmp_gitrel_.*|.*\.tmp")  # what a killed writer leaves in the pack folder
_PART = (".idx", ".pack", ".promisor", ".rev", ".bitmap", ".mtimes")  # of a pack; the index first


def reachable(repo: Repository, tips: Iterable[ObjectId], whole: Collection[ObjectId]) -> set[ObjectId]:
    """All commits and tags behind `tips`, and of the commits in `whole` every file, as far as they are here."""
    found: set[ObjectId] = set()
    trees: list[ObjectId] = []
    todo = [*tips, *whole]
    while todo:
        oid = todo.pop()
        if oid in found:
            continue
        try:
            kind, raw = repo.read_any(oid)
        except NotFound:
            continue  # behind a shallow commit
        found.add(oid)
        if kind == "commit":
            todo += read_parents(raw)
            if oid in whole:
                trees.append(_tree_of(raw))
        elif kind == "tag":
            todo.append(ObjectId(raw[7 : raw.index(b"\n")].decode("ascii", "replace")))
    return found | _files(repo, trees)


def _tree_of(commit: bytes) -> ObjectId:
    return ObjectId(commit[5 : commit.index(b"\n")].decode("ascii", "replace"))


def _files(repo: Repository, trees: list[ObjectId]) -> set[ObjectId]:
    found: set[ObjectId] = set()
    while trees:
        oid = trees.pop()
        if oid in found:
            continue
        try:
            entries = parse_tree(repo.read(oid, "tree"), repo.format)
        except NotFound:
            continue
        found.add(oid)
        for entry in entries:
            if entry.mode is Mode.DIRECTORY:
                trees.append(entry.oid)
            else:
                found.add(entry.oid)
    return found


@dataclass(slots=True)
class _Source:
    """A pack that is there: its objects in the order of their places."""

    stem: Path
    offsets: list[int]
    ids: dict[int, ObjectId]
    size: int

    @classmethod
    def read(cls, pack: Pack) -> _Source:
        ids = {offset: ObjectId.from_raw(raw) for raw, offset in pack.entries()}
        return cls(pack.path.with_suffix(""), sorted(ids), ids, pack.size)

    def length(self, offset: int) -> int:
        """Bytes of an object in the pack, for the last one with the trailer."""
        after = bisect_right(self.offsets, offset)
        return (self.offsets[after] if after < len(self.offsets) else self.size) - offset


class Repack:
    """What a repack would do, and doing it. `keep` is what is still needed; what is not here of it is no matter.

    Raises `LocalStateError`.
    """

    def __init__(self, repo: Repository, keep: Collection[ObjectId]) -> None:
        self._repo = repo
        self._folder = repo.objects / "pack"
        self._keep = keep
        self._sources = [_Source.read(pack) for pack in repo.packs.own()]
        self._loose = dict(_loose(repo.objects))
        self.total = sum(source.size for source in self._sources) + sum(self._loose.values())
        self.unneeded = 0  # bytes, about: what is not kept, or is here twice
        seen: set[ObjectId] = set()
        for source in self._sources:
            for offset in source.offsets:
                oid = source.ids[offset]
                if oid in seen or oid not in keep:
                    self.unneeded += source.length(offset)
                seen.add(oid)
        self.unneeded += sum(size for oid, size in self._loose.items() if oid in seen or oid not in keep)

    @property
    def pieces(self) -> int:
        """Packs and loose objects that would become one pack."""
        return len(self._sources) + len(self._loose)

    def run(self, removing: Callable[[], AbstractContextManager[object]] = nullcontext) -> int:
        """Write the new pack; delete everything else within `removing()`. Returns the bytes that are free now."""
        before = measure(self._repo.objects)[0]
        due = self.pieces > 1 or self.unneeded > 0
        new = self.write(self._repo) if due else None
        if new is not None:
            self._excuse(new)
        with removing():
            try:
                self._remove(new, due)
            except OSError as error:
                raise disk_error(error, self._folder) from error
        return max(0, before - measure(self._repo.objects)[0])

    def write(self, into: Repository) -> Path | None:
        """A pack of what is kept; None if that is nothing."""
        reader = ObjectReader(self._repo)
        with PackWriter(into) as writer:
            done: set[ObjectId] = set()
            for source in self._sources:
                copy = _Copy(self._repo, source, writer, reader, self._keep)
                for offset in source.offsets:
                    oid = source.ids[offset]
                    if oid in self._keep and oid not in done:
                        copy.copy(oid, offset)
                        done.add(oid)
                copy.close()
            for oid in sorted(set(self._loose) & set(self._keep) - done):
                writer.put(oid, deflate(*self._repo.read_any(oid)))
            return writer.finish()

    def _excuse(self, pack: Path) -> None:
        try:
            create_file(pack.with_suffix(".promisor"), b"", 0o444)
            mark_promisor(self._repo)
        except OSError as error:
            raise disk_error(error, self._folder) from error

    def _remove(self, new: Path | None, due: bool) -> None:
        """Delete the old packs and loose objects if a new pack is `due`, and what killed runs left."""
        names = sorted(os.listdir(self._folder)) if self._folder.is_dir() else []
        stems = {name.removesuffix(".idx") for name in names if name.endswith(".idx")}
        gone = [name for name in names if _LEFT.fullmatch(name) or _is_orphan(name, stems)]
        if due:
            old = sorted({source.stem.name for source in self._sources} - {new.stem if new else ""})
            gone += [f"{stem}{suffix}" for stem in old for suffix in _PART]
        paths = [f"pack/{name}" for name in gone]
        if due:
            paths += [f"{oid[:2]}/{oid[2:]}" for oid in self._loose]
        if paths:
            replace_file(self._folder / GONE, "".join(f"{path}\n" for path in paths).encode())
            finish(self._repo.objects)


def _is_orphan(name: str, stems: Collection[str]) -> bool:
    """Part of a pack whose index never came, or is gone."""
    return name.startswith("pack-") and name.partition(".")[0] not in stems


def finish(objects: Path) -> None:
    """Delete what a killed repack was about to. Raises `LocalStateError`."""
    listed = objects / "pack" / GONE
    try:
        paths = listed.read_text("ascii").splitlines()
    except FileNotFoundError:
        return
    except (OSError, UnicodeDecodeError) as error:
        raise LocalStateError("cannot read the list of old packs", where=str(listed), why=str(error)) from error
    try:
        for path in paths:
            if not _PATH.fullmatch(path):
                raise LocalStateError("the list of old packs is damaged", where=str(listed), why=ascii(path[:100]))
            (objects / path).unlink(missing_ok=True)
        for folder in {path[:2] for path in paths if not path.startswith("pack/")}:
            with contextlib.suppress(OSError):  # not empty: something else is in it
                (objects / folder).rmdir()
        sync_folder(listed.parent)
        listed.unlink()
    except OSError as error:
        raise disk_error(error, objects) from error


class _Copy:
    """Objects of one pack into the new one."""

    def __init__(
        self, repo: Repository, source: _Source, writer: PackWriter, reader: ObjectReader, keep: Collection[ObjectId]
    ) -> None:
        self._repo, self._source, self._writer, self._reader, self._keep = repo, source, writer, reader, keep
        path = source.stem.with_suffix(".pack")
        try:
            self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise LocalStateError("cannot open a pack", where=str(path), why=str(error)) from error
        self._file = PackFile(self._fd, repo.format)

    def close(self) -> None:
        os.close(self._fd)

    def copy(self, oid: ObjectId, offset: int) -> None:
        try:
            _, entry, base = self._file.read_entry(offset)
            if base is None and entry.size > WHOLE:
                stored = self._reader.find(oid)
                kind, data = stored.read()
                self._writer.put_pieces(oid, kind, stored.size, data)
                return
            end = self._file.inflate(entry, lambda _: None)
        except FormatError as error:
            where = f"{self._source.stem.name}.pack"
            raise LocalStateError("damaged pack", where=where, why=f"{oid}: {error}") from error
        if base is None:
            self._writer.put(oid, Deflated(self._file.read(offset, end - offset), entry.crc))
            return
        below = self._source.ids.get(base) if isinstance(base, int) else ObjectId.from_raw(base)
        if below is None or below not in self._keep:
            self._writer.put(oid, deflate(*self._repo.read_any(oid)))
            return
        delta = entry_header(REF_DELTA, entry.size) + below.raw + self._file.read(entry.body, end - entry.body)
        self._writer.put(oid, Deflated(delta, zlib.crc32(delta)))


def measure(objects: Path) -> tuple[int, int]:
    """Bytes of the packs with their indexes, and of the loose objects; and how many packs and loose objects those are.

    Nothing is opened.
    """
    packs = {each.name: each.stat(follow_symlinks=False).st_size for each in os.scandir(objects / "pack")}
    loose = [size for _, size in _loose(objects)]
    return sum(packs.values()) + sum(loose), sum(name.endswith(".pack") for name in packs) + len(loose)


def _loose(objects: Path) -> Iterator[tuple[ObjectId, int]]:
    for folder in sorted(objects.glob("[0-9a-f][0-9a-f]")):
        for entry in os.scandir(folder):
            with contextlib.suppress(FormatError):  # a temporary file is no object
                yield ObjectId(folder.name + entry.name), entry.stat(follow_symlinks=False).st_size
