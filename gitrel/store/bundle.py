"""A part of a repository in one file: git's bundles, versions 2 and 3 (gitformat-bundle(5)).

    # v2 git bundle
    -<commit> refs/releases/v90          what it builds on, which whoever reads it must have
    <object> refs/releases/v91           what it brings
                                         an empty line, then a pack

Read in the transfer child, like everything from elsewhere. The pack is unpacked beside the quarantine, and a fetch
takes from there what it asks for and nothing else: so a bundle costs and brings what a remote with partial clone does,
and what of it is refused never comes into the home. Written with whole objects, sorted, without dates: the same
records make the same bytes.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

from gitrel.dataclass import dataclass
from gitrel.errors import FormatError, NotFound, RemoteError
from gitrel.ids import ObjectFormat, ObjectId
from gitrel.store.conversation import RefReader
from gitrel.store.durable import disk_error, make_folders
from gitrel.store.ingest import PackReceiver, read_parents
from gitrel.store.limits import Limits, over_limit
from gitrel.store.outgoing import tree_of, walk, write_pack
from gitrel.store.repository import Repository
from gitrel.store.wire import Meter, escaped

_VERSIONS = {b"# v2 git bundle\n": 2, b"# v3 git bundle\n": 3}
_LINE = 4096  # bytes of a line of the head
_CHUNK = 1 << 20
_UNPACKED = "bundle.git"


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """`refs` by name; `needs` are the commits that it builds on, with what it says about each."""

    format: ObjectFormat
    refs: dict[str, ObjectId]
    needs: dict[ObjectId, str]


def read_head(file: BinaryIO, limits: Limits, prefixes: Sequence[str] = ("refs/",)) -> Head:
    """What stands before the pack. Raises `RemoteError`, `FormatError`."""
    version = _VERSIONS.get(file.readline(_LINE))
    if version is None:
        raise RemoteError("not a git bundle", hint="`gitrel bundle vA..vB -o FILE` makes one")
    fmt, needs, refs = ObjectFormat.SHA1, dict[ObjectId, str](), RefReader(limits.refs, prefixes)
    while (line := file.readline(_LINE)) != b"\n":
        if not line.endswith(b"\n"):
            raise FormatError("the bundle's head is cut off")
        if version == 3 and line.startswith(b"@"):
            fmt = _capability(line[1:-1])
        elif line.startswith(b"-"):
            oid, _, said = line[1:-1].partition(b" ")
            needs[ObjectId(oid.decode("ascii", "replace"))] = escaped(said)
            if len(needs) > limits.refs:
                raise over_limit("refs", limits.refs, "commits that a bundle builds on")
        else:
            refs.add(line)
    if not all(fmt.holds(oid) for oid in (*refs.found.values(), *needs)):
        raise FormatError("the bundle has ids of another length than it says")
    return Head(format=fmt, refs=refs.found, needs=needs)


def _capability(line: bytes) -> ObjectFormat:
    name, _, value = line.partition(b"=")
    if name != b"object-format" or value not in (b"sha1", b"sha256"):
        why = f"it says {escaped(line)}"
        raise RemoteError("this kind of bundle is not supported", why=why, hint="make one that has all its objects")
    return ObjectFormat(value.decode())


def look(path: Path, limits: Limits, prefixes: Sequence[str]) -> Head:
    with _opened(path) as file:
        return read_head(file, limits, prefixes)


def _opened(path: Path) -> BinaryIO:
    try:
        return path.open("rb")
    except OSError as error:
        raise disk_error(error, path) from error


def feed(
    path: Path,
    quarantine: Repository,
    sink: Callable[[bytes], object],
    meter: Meter,
    wants: Sequence[ObjectId],
    *,
    depth: int | None,
    files: bool,
) -> None:
    """Give `sink` a pack of `wants` and what they need: all that is not in the quarantine or the home already.

    Raises `NotFound` for an object that is neither here nor in the bundle, `RemoteError`, `FormatError`.
    """
    with _unpack(path, quarantine, meter) as source:
        try:
            write_pack(source, _select(source, wants, quarantine, depth=depth, files=files), sink)
        except NotFound as error:
            why = f"neither it nor this repository has object {error.where[: 2 * quarantine.format.raw_length]}"
            hint = "make one that begins with an earlier release: `gitrel bundle vA..vB -o FILE`"
            raise NotFound("the bundle builds on what is not here", where=str(path), why=why, hint=hint) from error


def _unpack(path: Path, quarantine: Repository, meter: Meter) -> Repository:
    """All of a bundle's objects, in a repository beside the quarantine's; made once, gone with the quarantine."""
    place = quarantine.path.parent / _UNPACKED
    if any((place / "objects/pack").glob("*.idx")):
        return Repository.open(place)
    with _opened(path) as file:
        head = read_head(file, meter.limits)
        if head.format is not quarantine.format:
            why = f"it has {head.format.value} ids, this repository {quarantine.format.value}"
            raise RemoteError("the bundle's object format is another", why=why)
        Repository.init_bare(place, head.format).close()
        make_folders(place / "objects/info")
        shutil.copyfile(quarantine.objects / "info/alternates", place / "objects/info/alternates")
        receiver = PackReceiver(place / "objects/pack", quarantine, meter.limits)
        while data := file.read(_CHUNK):
            meter.count(len(data))
            receiver.write(data)
        receiver.finish()
    return Repository.open(place)


def _select(
    source: Repository, wants: Sequence[ObjectId], present: Repository, *, depth: int | None, files: bool
) -> list[ObjectId]:
    """What a server with partial clone would send. A commit that is here has its history here."""
    chosen: dict[ObjectId, None] = {}
    trees: list[ObjectId] = []
    queue, seen = list(wants), set[ObjectId]()
    while queue:
        oid = queue.pop()
        if oid in seen or (oid in present and oid not in wants):
            continue
        seen.add(oid)
        kind, data = source.read_any(oid)
        chosen[oid] = None
        if kind == "commit":
            trees += [tree_of(data)] if files else []
            queue += read_parents(data) if depth is None else []
    for tree in trees:
        chosen |= dict.fromkeys(walk(source, tree, seen))
    return [oid for oid in chosen if oid not in present]


def write_bundle(
    repo: Repository,
    path: Path,
    refs: Mapping[str, ObjectId],
    needs: Mapping[ObjectId, str],
    objects: list[ObjectId],
) -> int:
    """Write a bundle, aside and renamed; its bytes. Raises `LocalStateError`, `NotFound` for an absent object."""
    lines = ["# v2 git bundle\n"]
    if repo.format is not ObjectFormat.SHA1:
        lines = ["# v3 git bundle\n", f"@object-format={repo.format.value}\n"]
    lines += [f"-{oid} {said}\n" for oid, said in needs.items()]
    lines += [f"{oid} {name}\n" for name, oid in sorted(refs.items())]
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        try:
            with aside.open("xb") as file:
                file.write(f"{''.join(lines)}\n".encode())
                write_pack(repo, objects, file.write)
                file.flush()
                os.fsync(file.fileno())
                size = file.tell()
            aside.replace(path)
        finally:
            aside.unlink(missing_ok=True)
    except OSError as error:
        raise disk_error(error, path) from error
    return size
