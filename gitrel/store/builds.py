"""The folder of a home's checkouts: each one under the id of its tree, beside a file that says how it was.

The file, `<tree id>.json`, has the tree's SHA-256 id and the seal (`gitrel.store.seal`). It comes after the folder has
got its name: a folder without it is complete, too, and has to be hashed. Checkouts share files by hard links, and each
link moves the ctime that the seals of all of them have. So who makes links does it under the home's lock `builds`,
and seals the others anew (`seal_linked`). Where that did not come to an end, or a checkout was removed, the others
are found to differ from their seals, and are hashed before they are run.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from gitrel.errors import FormatError, LocalStateError
from gitrel.format.tree import Mode, Node
from gitrel.ids import ObjectFormat, ObjectId, Sha256
from gitrel.store.durable import disk_error
from gitrel.store.seal import Seal, hash_folder, seal_folder

if TYPE_CHECKING:
    from gitrel.store.checkout import Base


def present(folder: Path) -> Node | None:
    """The ids of a checkout that was sealed whole under this name. What is in it is not looked at."""
    known = _read(folder)
    return known[0] if known is not None and known[1].is_of(folder) else None


def sealed(folder: Path) -> Node | None:
    """The ids of a checkout whose metadata is what its seal says; None if its bytes have to be looked at."""
    known = _read(folder)
    if known is None or not known[1].is_of(folder):
        return None
    try:
        return known[0] if known[1] == seal_folder(folder) else None
    except LocalStateError:
        return None  # something was planted that cannot even be listed


def hashed(folder: Path) -> tuple[Node, Seal | None] | None:
    """The ids of a checkout by all of its bytes, and a seal for `write_seal`, unless somebody linked its files
    meanwhile; None if it has to be made (again).
    """
    if not folder.is_dir() or folder.is_symlink():
        return None
    known = _read(folder)
    try:
        before = seal_folder(folder)
        node = hash_folder(folder, ObjectFormat.of(ObjectId(folder.name)))
        if node.oid != folder.name or (known is not None and node != known[0]) or not _is_read_only(folder):
            return None
        return node, before if seal_folder(folder) == before else None
    except (LocalStateError, FormatError):
        return None  # something was planted that no checkout has


def seal_linked(folder: Path, node: Node, base: Base | None, linked: Mapping[int, int]) -> None:
    """Seal a new checkout, and anew those that share files with it, whose ctimes the links have moved.

    `linked`: ctimes at which the shared files were hashed. A file of another ctime was changed since; then the
    new checkout gets no seal, and is hashed before it is run. Raises `LocalStateError`.
    """
    seal = seal_folder(folder)
    if seal.agrees(linked):
        write_seal(folder, node, seal)
    known = _read(base.folder) if base is not None and linked else None
    if known is None:
        return
    for path in sorted(folder.parent.glob("*.json")):
        other = path.with_suffix("")
        theirs = _read(other)
        if theirs is not None and other != folder:
            moved = theirs[1].moved(known[1], linked)
            if moved != theirs[1]:
                write_seal(other, theirs[0], moved)


def write_seal(folder: Path, node: Node, seal: Seal) -> None:
    """Whole or not at all, but not durable: what a power loss takes of it, a hash gives back. Raises
    `LocalStateError`.
    """
    path = _file(folder)
    aside = path.with_name(f".{path.name}.{os.urandom(6).hex()}.tmp")
    try:
        try:
            aside.write_text(json.dumps({"sha256": node.sha256, **seal.encode()}))
            aside.rename(path)
        finally:
            aside.unlink(missing_ok=True)
    except OSError as error:
        raise disk_error(error, path) from error


def retire(path: Path) -> None:
    """Remove what stands where a checkout belongs and is none. Raises `LocalStateError`."""
    from gitrel.store.removal import remove_folder

    if path.is_dir() and not path.is_symlink():
        remove_folder(path)
        return
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise disk_error(error, path) from error


def _file(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.json")


def _read(folder: Path) -> tuple[Node, Seal] | None:
    try:
        document = json.loads(_file(folder).read_bytes())
        return Node(Mode.DIRECTORY, ObjectId(folder.name), Sha256(document["sha256"])), Seal.parse(document)
    except (OSError, ValueError, KeyError, TypeError, FormatError):
        return None  # without a readable seal the folder is hashed


def _is_read_only(folder: Path) -> bool:
    """Whether files and folders have the rights that a checkout gives them; git's modes are no more than one bit."""
    for parent, _, files in os.walk(folder):
        if stat.S_IMODE(os.lstat(parent).st_mode) != 0o555:
            return False
        for name in files:
            mode = os.lstat(os.path.join(parent, name)).st_mode
            if stat.S_ISREG(mode) and stat.S_IMODE(mode) not in (0o444, 0o555):
                return False
    return True
