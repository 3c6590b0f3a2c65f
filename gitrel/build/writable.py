"""Folders that the app may write: in the build, a link to a folder of the server's home (docs/spec/tree.md)."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from gitrel.errors import BadInput
from gitrel.format.manifest import MANIFEST, shared_link


def link_writable(output: Path, paths: Sequence[str]) -> list[str]:
    """Put the links in place of what the build has there. Returns a line for each folder whose content is left out.

    Raises `BadInput` if something else than a folder is in the way.
    """
    return [note for path in paths if (note := _link(output, path)) is not None]


def _link(output: Path, path: str) -> str | None:
    where = output / path
    for folder in (each for each in reversed(where.parents) if each.is_relative_to(output)):
        if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
            raise BadInput(f"run.writable: {folder.relative_to(output)} is no folder", where=MANIFEST)
    if where.is_symlink() or (where.exists() and not where.is_dir()):
        what = f"run.writable: {path} is a file or a link in the build"
        raise BadInput(what, where=MANIFEST, hint="name a folder, or a path that the build does not have")
    left_out = where.is_dir() and any(where.iterdir())
    if where.is_dir():
        shutil.rmtree(where)
    where.parent.mkdir(parents=True, exist_ok=True)
    where.symlink_to(shared_link(path))
    return f"{path}/ is writable on the server: what the build has in it is left out" if left_out else None
