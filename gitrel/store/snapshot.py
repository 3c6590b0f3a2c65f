"""Folder -> tree: everything that is in a folder, stored whole and byte for byte (docs/spec/tree.md).

- `.gitignore` and attributes play no part. A file is 100644, or 100755 if its owner may execute it; a
  symbolic link is stored as a link; an empty folder is an empty-tree entry.
- An entry named exactly `.git` is left out, with a note. Any other name that git would not check out
  everywhere, every socket, FIFO or device, and what cannot be read or changes meanwhile is refused by its
  path.
- The ids depend on names, modes, links and bytes only; they are what `git add -Af && git write-tree` gives
  for a folder that has no empty folders.
- Everything is in one new pack, and durable, when a snapshot is there to be used; a failed one leaves
  nothing.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

from gitrel.dataclass import dataclass
from gitrel.format.tree import Node, blob_node, check_name, directory_node
from gitrel.store.pack import PackWriter
from gitrel.store.reading import FolderReading, TreeLimits, open_top
from gitrel.store.repository import Repository

Children: TypeAlias = "Mapping[str, Node | bytes | Children]"


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """A stored folder. `files` counts files and links, `size` the bytes in them; `notes` are for people."""

    node: Node
    files: int
    size: int
    notes: tuple[str, ...]


def snapshot(
    folder: Path, repo: Repository, *, exclude: Sequence[str] = (), limits: TreeLimits | None = None
) -> Snapshot:
    """Store what is in `folder`, durably.

    `exclude` holds paths relative to the folder, with `/`. One without `*`, `?` or `[` leaves out the file or
    folder of exactly that path; one with them is matched against the whole path of each file and folder as
    fnmatch(3) does without FNM_PATHNAME, so that `*` spans slashes: `*.pyc` matches at any depth,
    `*/__pycache__` at any depth but the first. What is excluded is not looked at, nor is anything below it.

    Raises `BuildFailed` for what cannot be stored, naming its path; `LocalStateError` for the store's disk.
    """
    with open_top(folder) as top, PackWriter(repo) as pack:
        bounds, excluded = limits or TreeLimits(), _matcher(exclude)
        reading = FolderReading(top, str(folder), repo.format, pack, limits=bounds, excluded=excluded, skip_git=True)
        node = reading.run()
        pack.finish()
    return Snapshot(node=node, files=reading.files, size=reading.size, notes=reading.notes)


def store_tree(repo: Repository, children: Children) -> Node:
    """Store a small tree: bytes become a file of mode 100644, mappings folders; a `Node` is stored already.

    Durable when it returns. Raises `FormatError` for a name that a tree may not hold, `LocalStateError`.
    """
    nodes: dict[str, Node] = {}
    for name, child in children.items():
        check_name(name.encode("utf-8", "surrogateescape"))
        if isinstance(child, Node):
            nodes[name] = child
        elif isinstance(child, bytes):
            nodes[name] = blob_node(child, repo.format)
            repo.write("blob", child)
        else:
            nodes[name] = store_tree(repo, child)
    raw, node = directory_node(nodes, repo.format)
    repo.write("tree", raw)
    return node


def _matcher(exclude: Sequence[str]) -> Callable[[str], object] | None:
    patterns = [
        fnmatch.translate(text) if any(char in text for char in "*?[") else re.escape(text) + r"\Z" for text in exclude
    ]
    return re.compile("|".join(patterns)).match if patterns else None
