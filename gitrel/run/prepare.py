"""From a release's records to a folder that may be run: checkout, seal, and the way back to a
`VerifiedRelease`.

A checkout's seal says which tree it is by both hash functions, and what its files' metadata was when it was
complete. As long as the metadata is the same, the content is; otherwise every byte is hashed again, and a
folder that is not the signed tree is replaced from the verified objects.
"""

from __future__ import annotations

import contextlib
import json
import os
import stat
from pathlib import Path

from gitrel.errors import FormatError, LocalStateError, Refused
from gitrel.format.tree import Mode, Node
from gitrel.ids import ObjectFormat, ObjectId, Sha256
from gitrel.run.home import Home
from gitrel.store.checkout import stage_checkout
from gitrel.store.durable import disk_error, replace_file
from gitrel.store.removal import remove_folder
from gitrel.store.repository import Repository
from gitrel.store.seal import hash_folder, seal_folder
from gitrel.trust.checks import Check
from gitrel.trust.content import VerifiedRelease, bind_trees, check_shape, verify_content
from gitrel.trust.ledger import ChainedRelease


def prepare(home: Home, repo: Repository, chained: ChainedRelease, *, rehash: bool = False) -> VerifiedRelease:
    """Make sure that the release's build is checked out whole and unchanged, and verify checks 9 to 12.

    `repo` is where the objects are. Raises `Refused`; `LocalStateError` if the disk does not play along.
    Nothing is visible under its final name before it is verified.
    """
    bound = bind_trees(chained, repo)
    node = _unchanged(home, bound.build_tree, rehash=rehash)
    if node is not None:
        return verify_content(bound, node)
    folder = home.builds / bound.build_tree
    with home.lock("builds", wait=True):
        node = _sealed(folder, bound.build_tree)  # another process may have mended it
        if node is not None:
            return verify_content(bound, node)
        check_shape(repo, bound.build_tree, str(chained.record.ref))
        with stage_checkout(repo, bound.build_tree, home.builds) as staged:
            verified = verify_content(bound, staged.node)
            _retire(folder)
            staged.publish(folder)
        _write_seal(folder, verified.build)
    return verified


def _sealed(folder: Path, tree: ObjectId) -> Node | None:
    """The ids of a checkout whose metadata is what its seal says; None if its bytes have to be looked at."""
    seal = _read_seal(folder, tree)
    if seal is None or not folder.is_dir() or folder.is_symlink():
        return None
    try:
        return seal[0] if seal[1] == seal_folder(folder) else None
    except LocalStateError:
        return None  # something was planted that cannot even be listed


def _unchanged(home: Home, tree: ObjectId, *, rehash: bool) -> Node | None:
    """The ids of an existing checkout, if need be of all its bytes; None if it has to be made (again)."""
    folder = home.builds / tree
    node = None if rehash else _sealed(folder, tree)
    if node is not None or not folder.is_dir() or folder.is_symlink():
        return node
    seal = _read_seal(folder, tree)
    try:
        node = hash_folder(folder, ObjectFormat.of(tree))
    except (LocalStateError, FormatError):
        return None  # something was planted that no checkout has
    if node.oid != tree or (seal is not None and node != seal[0]) or not _read_only(folder):
        return None
    # without space, or in a home that cannot be written to, it is hashed again next time
    with contextlib.suppress(LocalStateError), home.lock("builds", wait=True):
        _write_seal(folder, node)
    return node


def _seal_file(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.json")


def _write_seal(folder: Path, node: Node) -> None:
    document = {"sha256": node.sha256, "seal": seal_folder(folder)}
    replace_file(_seal_file(folder), json.dumps(document).encode())


def _read_seal(folder: Path, tree: ObjectId) -> tuple[Node, str] | None:
    try:
        document = json.loads(_seal_file(folder).read_bytes())
        return Node(Mode.DIRECTORY, tree, Sha256(document["sha256"])), str(document["seal"])
    except (OSError, ValueError, KeyError, TypeError, FormatError):
        return None  # without a readable seal the folder is hashed


def _read_only(folder: Path) -> bool:
    """Whether files and folders have the rights that a checkout gives them; git's modes are no more than one bit."""
    for parent, _, files in os.walk(folder):
        if stat.S_IMODE(os.lstat(parent).st_mode) != 0o555:
            return False
        for name in files:
            mode = os.lstat(os.path.join(parent, name)).st_mode
            if stat.S_ISREG(mode) and stat.S_IMODE(mode) not in (0o444, 0o555):
                return False
    return True


def _retire(path: Path) -> None:
    """Remove what stands where a checkout belongs and is none. Raises `LocalStateError`."""
    if path.is_dir() and not path.is_symlink():
        remove_folder(path)
        return
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise disk_error(error, path) from error


def read_build_file(home: Home, verified: VerifiedRelease, name: str) -> bytes:
    """A file at the root of a checkout that was just verified. Raises `Refused` if it has none."""
    path = home.builds / verified.build.oid / name
    try:
        return path.read_bytes()
    except OSError as error:
        where = str(verified.chained.record.ref)
        raise Refused(f"its build has no {name}", check=Check.TREE, where=where, why=error.strerror or "") from None
