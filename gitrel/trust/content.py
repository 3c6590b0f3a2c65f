"""A release's files: that they are the signed ones, and that they are safe to check out (checks 9 to 12).

In this order: the small trees that tie the release to its build and config records, the shape of the build's
tree, and, once a checkout has hashed every byte that it wrote, the content. Objects are read through whatever
the caller reads them with; a missing or damaged one is a refusal.
"""

from __future__ import annotations

import contextlib
import fnmatch
import posixpath
from collections.abc import Iterator, Mapping, MutableMapping
from typing import Protocol

from gitrel.dataclass import dataclass, field
from gitrel.errors import FormatError, LocalStateError, NotFound, Refused
from gitrel.format.envdir import parse_envdir
from gitrel.format.manifest import MANIFEST, Manifest, parse_manifest, shared_link
from gitrel.format.procfile import PROCFILE
from gitrel.format.provenance import PROVENANCE, parse_provenance
from gitrel.format.record import BuildRecord, ConfigRecord, Signed
from gitrel.format.tree import Mode, Node, TreeEntry, blob_node, directory_node, parse_tree
from gitrel.ids import Kind, ObjectFormat, ObjectId
from gitrel.trust.checks import Check
from gitrel.trust.ledger import ChainedRelease

BUILD_FOLDER = "build"
CONFIG_FOLDER = "config"

MAX_ENTRIES = 1_000_000
MAX_DEPTH = 128
MAX_PATH = 4095  # bytes; PATH_MAX of Linux without its NUL
_MAX_LINKS = 40  # what the kernel follows before ELOOP (path_resolution(7))
_MAX_STEPS = 4_000_000  # parts of paths that are looked at to follow all links of a build

_PROOF = object()


class Objects(Protocol):
    """Where objects are read from."""

    def read(self, oid: ObjectId, kind: Kind) -> bytes:
        """An object's data. Raises `NotFound`, `LocalStateError`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BoundRelease:
    """A release tied to the trees of its build and config records. Made by `bind_trees` alone.

    `config` holds the envdir's files, already compared with both ids of the config record's tree.
    """

    chained: ChainedRelease
    build_tree: ObjectId
    config: Mapping[str, bytes]
    config_node: Node | None
    provenance: bytes
    proof: object = field(repr=False)

    def __post_init__(self) -> None:
        if self.proof is not _PROOF:
            raise TypeError("a BoundRelease comes out of bind_trees")


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifiedRelease:
    """A release that passed every check, its content included. Made by `verify_content` alone.

    `build` names the tree by both hash functions: `build.oid` for git, `build.sha256` over the bytes that were
    hashed. Only such a value is ever run.
    """

    chained: ChainedRelease
    build: Node
    config: Mapping[str, bytes]
    proof: object = field(repr=False)

    def __post_init__(self) -> None:
        if self.proof is not _PROOF:
            raise TypeError("a VerifiedRelease comes out of verify_content")


def bind_trees(chained: ChainedRelease, objects: Objects) -> BoundRelease:
    """Checks 9 and 10, second half: the release's tree holds the very trees of its build and config records.

    Raises `Refused`.
    """
    ref = str(chained.record.ref)
    top, built = _bind_build(chained, objects, ref)
    config, config_node = _bind_config(chained, top, objects, ref)
    _check_top(top, ref)
    return BoundRelease(
        chained=chained,
        build_tree=built[BUILD_FOLDER].oid,
        config=config,
        config_node=config_node,
        provenance=_read(objects, built[PROVENANCE].oid, "blob", ref),
        proof=_PROOF,
    )


def bind_folders(chained: ChainedRelease, objects: Objects) -> ObjectId:
    """What `bind_trees` says, as far as trees alone tell, where the files are elsewhere; the build's tree.

    Raises `Refused`.
    """
    ref = str(chained.record.ref)
    top, built = _bind_build(chained, objects, ref)
    config = None
    if chained.config is not None:
        files = _entries(objects, chained.config.tree, ObjectFormat.of(chained.id.oid), ref)
        config = TreeEntry(Mode.DIRECTORY, CONFIG_FOLDER, chained.config.tree) if files else None
    if top.get(CONFIG_FOLDER) != config:
        raise Refused("its config/ is not that of the config record", check=Check.CONFIG, where=ref)
    _check_top(top, ref)
    return built[BUILD_FOLDER].oid


def _bind_build(
    chained: ChainedRelease, objects: Objects, ref: str
) -> tuple[Mapping[str, TreeEntry], Mapping[str, TreeEntry]]:
    fmt = ObjectFormat.of(chained.id.oid)
    top = _entries(objects, chained.signed.tree, fmt, ref)
    built = _entries(objects, chained.build.tree, fmt, ref)
    if set(built) != {BUILD_FOLDER, PROVENANCE} or built[PROVENANCE].mode is not Mode.FILE:
        raise Refused("the build record's tree is not build/ and provenance.json", check=Check.BUILD, where=ref)
    if top.get(BUILD_FOLDER) != built[BUILD_FOLDER] or built[BUILD_FOLDER].mode is not Mode.DIRECTORY:
        raise Refused("its build/ is not that of the build record", check=Check.BUILD, where=ref)
    return top, built


def _check_top(top: Mapping[str, TreeEntry], ref: str) -> None:
    if set(top) - {BUILD_FOLDER, CONFIG_FOLDER}:
        raise Refused("its tree holds more than build/ and config/", check=Check.TREE, where=ref)


def _bind_config(
    chained: ChainedRelease, top: Mapping[str, TreeEntry], objects: Objects, ref: str
) -> tuple[Mapping[str, bytes], Node | None]:
    """The envdir's files and node; no node where the release carries no config/."""
    entry = top.get(CONFIG_FOLDER)
    if chained.config is None:
        if entry is not None:
            raise Refused("it has a config/ and cites no config record", check=Check.CONFIG, where=ref)
        return {}, None
    files, node = read_config(chained.config, objects, ref)
    expected = TreeEntry(Mode.DIRECTORY, CONFIG_FOLDER, node.oid) if files else None
    if entry != expected:
        raise Refused("its config/ is not that of the config record", check=Check.CONFIG, where=ref)
    return files, node if files else None


def read_config(signed: Signed[ConfigRecord], objects: Objects, where: str) -> tuple[Mapping[str, bytes], Node]:
    """A config record's files, compared with both signed ids of its tree. Raises `Refused` (10, 12)."""
    fmt = ObjectFormat.of(signed.id.oid)
    files = {}
    for name, file in _entries(objects, signed.tree, fmt, where).items():
        if file.mode is not Mode.FILE:
            raise Refused(f"config/{name} is not a plain file", check=Check.CONFIG, where=where)
        files[name] = _read(objects, file.oid, "blob", where)
    try:
        files = parse_envdir(files)
    except FormatError as error:
        raise Refused("its config is malformed", check=Check.CONFIG, where=where, why=str(error)) from None
    node = directory_node({name: blob_node(data, fmt) for name, data in files.items()}, fmt)[1]
    if node.oid != signed.tree or node.sha256 != signed.record.tree_sha256:
        raise Refused("the config record's files are not the signed ones", check=Check.CONTENT, where=where)
    return files, node


def check_shape(objects: Objects, tree: ObjectId, where: str, *, links: bool = True) -> None:
    """Check 11: entries, names, modes, limits, and `links` that stay inside the build. Raises `Refused`.

    A link may leave the build if the build's own gitrel.toml allows its target (`[build] allow_links`), or if it
    stands for a writable folder (`[run] writable`) and is the one that gitrel makes.
    """
    fmt = ObjectFormat.of(tree)
    found: dict[tuple[str, ...], str] = {}
    targets: dict[ObjectId, str] = {}
    for path, entry in _walk(objects, tree, fmt, where):
        if entry.mode is Mode.SYMLINK:
            if path in ((PROCFILE,), (MANIFEST,)):
                raise Refused(f"{path[0]} is a symbolic link", check=Check.TREE, where=where)
            if not links:
                continue
            if entry.oid not in targets:
                targets[entry.oid] = _link_target(_read(objects, entry.oid, "blob", where), path, where)
            found[path] = targets[entry.oid]
    if found:
        _Links(found, _manifest(objects, tree, fmt, where)).check(where)


def verify_content(bound: BoundRelease, build: Node) -> VerifiedRelease:
    """Check 12, given the two ids of the build's tree as recomputed from its bytes. Raises `Refused`.

    The SHA-256 ids of the release's and of the build record's trees follow from it and are compared with what
    was signed, so a second file with the same SHA-1 changes the verdict.
    """
    chained = bound.chained
    ref = str(chained.record.ref)
    fmt = ObjectFormat.of(chained.id.oid)
    release = {BUILD_FOLDER: build}
    if bound.config_node is not None:
        release[CONFIG_FOLDER] = bound.config_node
    record = {BUILD_FOLDER: build, PROVENANCE: blob_node(bound.provenance, fmt)}
    for children, signed_tree, signed_sha256 in (
        (release, chained.signed.tree, chained.record.tree_sha256),
        (record, chained.build.tree, chained.build.record.tree_sha256),
    ):
        node = directory_node(children, fmt)[1]
        if node.oid != signed_tree or node.sha256 != signed_sha256:
            raise Refused(
                "its content is not the signed one",
                check=Check.CONTENT,
                where=ref,
                why=f"Tree-SHA256 is {signed_sha256}, the bytes give {node.sha256}",
            )
    return VerifiedRelease(chained=chained, build=build, config=bound.config, proof=_PROOF)


def build_node(signed: Signed[BuildRecord], objects: Objects, where: str) -> Node:
    """Both ids of a build record's `build/` tree, proven by the record's signed ids. Raises `Refused`.

    The SHA-256 id is taken from provenance.json if it fits; a record made by hand may state none, and then all
    of the tree is read and hashed.
    """
    fmt = ObjectFormat.of(signed.id.oid)
    tree = _entries(objects, signed.tree, fmt, where)
    if set(tree) != {BUILD_FOLDER, PROVENANCE} or tree[BUILD_FOLDER].mode is not Mode.DIRECTORY:
        raise Refused("the build record's tree is not build/ and provenance.json", check=Check.BUILD, where=where)
    provenance = _read(objects, tree[PROVENANCE].oid, "blob", where)
    build = tree[BUILD_FOLDER].oid

    def fits(node: Node) -> bool:
        children = {BUILD_FOLDER: node, PROVENANCE: blob_node(provenance, fmt)}
        found = directory_node(children, fmt)[1]
        return found.oid == signed.tree and found.sha256 == signed.record.tree_sha256

    with contextlib.suppress(FormatError):  # a statement by somebody else's builder proves nothing, and need not
        node = Node(Mode.DIRECTORY, build, parse_provenance(provenance).tree_sha256)
        if fits(node):
            return node
    node = hash_tree(objects, build, where)
    if not fits(node):
        raise Refused("the build's content is not the signed one", check=Check.CONTENT, where=where)
    return node


def hash_tree(
    objects: Objects, tree: ObjectId, where: str, known: MutableMapping[ObjectId, Node] | None = None
) -> Node:
    """Both ids of a tree, by reading and hashing all of it but what is `known`. Raises `Refused`.

    What was hashed is added to `known`, which must be of the same objects.
    """
    fmt = ObjectFormat.of(tree)
    known = {} if known is None else known

    def node(entry: TreeEntry, depth: int = 0) -> Node:
        if entry.oid not in known:
            if entry.mode is Mode.DIRECTORY:
                if depth > MAX_DEPTH:
                    raise _too_deep(where)
                entries = _entries(objects, entry.oid, fmt, where).values()
                known[entry.oid] = directory_node({each.name: node(each, depth + 1) for each in entries}, fmt)[1]
            else:
                known[entry.oid] = blob_node(_read(objects, entry.oid, "blob", where), fmt)
        found = known[entry.oid]
        if (found.mode is Mode.DIRECTORY) != (entry.mode is Mode.DIRECTORY):
            raise Refused(f"{entry.name!r} has the mode of another kind of object", check=Check.TREE, where=where)
        return Node(entry.mode, found.oid, found.sha256)

    return node(TreeEntry(Mode.DIRECTORY, BUILD_FOLDER, tree))


def _walk(
    objects: Objects, tree: ObjectId, fmt: ObjectFormat, where: str
) -> Iterator[tuple[tuple[str, ...], TreeEntry]]:
    parsed: dict[ObjectId, list[TreeEntry]] = {}
    todo: list[tuple[tuple[str, ...], ObjectId]] = [((), tree)]
    count = 0
    while todo:
        folder, oid = todo.pop()
        if oid not in parsed:
            parsed[oid] = list(_entries(objects, oid, fmt, where).values())
        count += len(parsed[oid]) + 1
        if count > MAX_ENTRIES:
            raise Refused("too many files", check=Check.TREE, where=where, why=f"more than {MAX_ENTRIES}")
        if len(folder) > MAX_DEPTH or sum(len(part.encode()) + 1 for part in folder) > MAX_PATH - 256:
            raise _too_deep(where)
        for entry in parsed[oid]:
            path = (*folder, entry.name)
            yield path, entry
            if entry.mode is Mode.DIRECTORY:
                todo.append((path, entry.oid))


def _too_deep(where: str) -> Refused:
    return Refused("folders nested too deeply", check=Check.TREE, where=where, why=f"more than {MAX_DEPTH}")


def _link_target(raw: bytes, path: tuple[str, ...], where: str) -> str:
    name = "/".join(path)
    if not raw or b"\0" in raw or len(raw) > MAX_PATH:
        raise Refused(f"the link {name} has no usable target", check=Check.TREE, where=where)
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        raise Refused(f"the target of the link {name} is not UTF-8", check=Check.TREE, where=where) from None


class _Links:
    """All links of a build, and the targets outside of it that its gitrel.toml allows."""

    def __init__(self, links: Mapping[tuple[str, ...], str], manifest: Manifest | None) -> None:
        self._links = links
        self._allowed = manifest.build.allow_links if manifest else ()
        self._shared = {tuple(path.split("/")): shared_link(path) for path in manifest.writable} if manifest else {}
        self._steps = 0

    def check(self, where: str) -> None:
        """Raises `Refused` (11)."""
        for path, target in self._links.items():
            if not self._is_safe(path):
                raise Refused(
                    f"the link {'/'.join(path)} leads out of the build",
                    check=Check.TREE,
                    where=where,
                    why=f"to {target[:200]!r}",
                    hint="if that is meant, name the target in gitrel.toml: [build] allow_links",
                )
            if self._steps > _MAX_STEPS:
                raise Refused("its links are too long and too many", check=Check.TREE, where=where)

    def _is_safe(self, path: tuple[str, ...]) -> bool:
        """Whether following the link at `path`, through others too, stays inside or ends where it is allowed to."""
        here = list(path)
        todo: list[str] = []
        followed = 0
        while True:
            target = self._links.get(tuple(here)) if len(here) <= MAX_DEPTH + 1 else None
            if target is not None:
                followed += 1
                if followed > _MAX_LINKS:
                    return True  # a loop: the kernel answers ELOOP, nothing is reached
                if self._shared.get(tuple(here)) == target or (self._allowed and self._is_allowed(target)):
                    return ".." not in todo
                if target.startswith("/"):
                    return False
                here.pop()
                todo.extend(reversed(target.split("/")))
                self._steps += len(todo)
            if not todo:
                return True
            part = todo.pop()
            if part == "..":
                if not here:
                    return False
                here.pop()
            elif part not in ("", "."):
                here.append(part)

    def _is_allowed(self, target: str) -> bool:
        """A pattern's `*` covers slashes too, but no way back up: `..` is resolved first."""
        plain = posixpath.normpath(target)
        return any(target == each or fnmatch.fnmatchcase(plain, each) for each in self._allowed)


def _manifest(objects: Objects, tree: ObjectId, fmt: ObjectFormat, where: str) -> Manifest | None:
    entry = _entries(objects, tree, fmt, where).get(MANIFEST)
    if entry is None or entry.mode is Mode.DIRECTORY:
        return None
    try:
        return parse_manifest(_read(objects, entry.oid, "blob", where))
    except FormatError as error:
        raise Refused("its gitrel.toml is malformed", check=Check.TREE, where=where, why=str(error)) from None


def _entries(objects: Objects, tree: ObjectId, fmt: ObjectFormat, where: str) -> dict[str, TreeEntry]:
    try:
        return {entry.name: entry for entry in parse_tree(_read(objects, tree, "tree", where), fmt)}
    except FormatError as error:
        raise Refused("its tree is malformed", check=Check.TREE, where=where, why=str(error)) from None


def _read(objects: Objects, oid: ObjectId, kind: Kind, where: str) -> bytes:
    try:
        return objects.read(oid, kind)
    except (NotFound, LocalStateError) as error:
        raise Refused(
            f"an object of it cannot be read: {error.what}", check=Check.TREE, where=where, why=str(oid)
        ) from None
