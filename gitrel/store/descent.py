"""The way down to a folder: each one opened relative to the one above it, and no link followed (openat(2)).

Who reads or writes a tree goes from folder to folder by `Descent`, which keeps open only the last one and those
above it. So the number of descriptors is the depth, however many folders there are and whatever the order.
"""

from __future__ import annotations

import os
from pathlib import Path

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def open_folder(name: str | Path, above: int | None = None) -> int:
    """A folder's descriptor; a link is not followed. Raises `OSError`."""
    return os.open(name, _FOLDER, dir_fd=above)


class Folder:
    """One folder of a tree: its name, and what it is in (None for the top, whose `depth` is 0)."""

    __slots__ = ("above", "depth", "name")

    def __init__(self, name: str, above: Folder | None = None) -> None:
        self.name = name
        self.above = above
        self.depth: int = above.depth + 1 if above is not None else 0

    def path(self, name: str = "") -> str:
        """Of the folder, or of an entry in it, relative to the top, which is the empty string."""
        parts = [name] if name else []
        here = self
        while here.above is not None:
            parts.append(here.name)
            here = here.above
        return "/".join(reversed(parts))


def folder_at(path: str, known: dict[str, Folder]) -> Folder:
    """The folder of a path below the top, for who gets paths and no folders; those of `known` are the same again."""
    folder = known.get(path)
    if folder is None:
        above, _, name = path.rpartition("/")
        folder = known[path] = Folder(name, folder_at(above, known) if name else None)
    return folder


class Descent:
    """Where somebody is in a folder whose descriptor is `top`. Raises `OSError`."""

    def __init__(self, top: int) -> None:
        self._way: list[Folder | None] = [None]
        self._fds = [open_folder(".", top)]

    def __enter__(self) -> Descent:
        return self

    def __exit__(self, *exc: object) -> None:
        self._climb(0)

    def to(self, folder: Folder) -> int:
        """The folder's descriptor, which holds until the next call."""
        way = self._way
        if way[-1] is folder:
            return self._fds[-1]
        missing: list[Folder] = []
        here = folder
        while here.above is not None and (here.depth >= len(way) or way[here.depth] is not here):
            missing.append(here)
            here = here.above
        self._climb(here.depth + 1)
        for below in reversed(missing):
            self._fds.append(open_folder(below.name, self._fds[-1]))
            way.append(below)
        return self._fds[-1]

    def _climb(self, height: int) -> None:
        del self._way[height:]
        while len(self._fds) > height:
            os.close(self._fds.pop())
