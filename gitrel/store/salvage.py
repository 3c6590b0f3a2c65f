"""What came of fetches that broke: kept, so that the next one asks for the rest and no more.

git's protocol cannot go on in the middle of a pack. But the objects that came whole are good, whoever sent them: each
is known by its hash. They are kept in a folder beside the quarantine, an objects folder (gitrepository-layout(5)):

    pack/incoming-<hex>.tmp     a stream as it came, whole or cut: nobody has looked at it
    pack/pack-<hex>.pack, .idx  what came whole of such streams, each object hashed again (`gitrel.store.resume`)
    info/alternates             the quarantine of the pull that uses it

No ref names what is in here and no repository reads through to it. A pull, with the home's lock held, takes from it
what a release needs into its quarantine, and that is verified as ever. To lose all of it costs time and nothing else:
so it is thrown away as soon as anything about it is odd, the disk is full, or it is `_AGE` old.
"""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

from gitrel.ids import ObjectFormat
from gitrel.store.durable import disk_error
from gitrel.store.ingest import STREAM
from gitrel.store.quarantine import alternates_line
from gitrel.store.repository import Repository

_AGE = 7 * 24 * 3600  # seconds without anything new in it


def streams(folder: Path) -> list[Path]:
    """What nobody has looked at yet, the oldest first."""
    return sorted((folder / "pack").glob(f"{STREAM}*.tmp"), key=lambda path: path.stat().st_mtime_ns)


def repository(folder: Path, fmt: ObjectFormat) -> Repository:
    """The objects in the folder, the quarantine's and the home's; it has no refs."""
    return Repository(folder, None, fmt, objects=folder)


def weigh(folder: Path) -> int:
    """Bytes of the packs and streams."""
    return sum(path.stat().st_size for path in (folder / "pack").glob("*"))


def clear(folder: Path) -> None:
    """Delete the folder, if it is there. Raises `LocalStateError`."""
    try:
        shutil.rmtree(folder)
    except FileNotFoundError:
        return
    except OSError as error:
        raise disk_error(error, folder) from error


class Salvage:
    """The folder, for whoever has the home's lock; it is made by `open`. Raises `LocalStateError`."""

    def __init__(self, folder: Path, *, most: int) -> None:
        """`most`: so many bytes are kept of what broke (limit salvage_bytes)."""
        self.folder = folder
        self._most = most

    def open(self, quarantine: Repository) -> None:
        """Make it fit for use, whatever a killed pull left."""
        try:
            files = list((self.folder / "pack").glob("*"))
            if files and max(path.stat().st_mtime for path in files) < time.time() - _AGE:
                clear(self.folder)
            for name in ("pack", "info"):
                os.makedirs(self.folder / name, 0o700, exist_ok=True)
            (self.folder / "info/alternates").write_bytes(alternates_line(quarantine.objects))
            for path in set(files) - {*streams(self.folder), *_pairs(self.folder)}:
                path.unlink(missing_ok=True)
        except OSError as error:
            raise disk_error(error, self.folder) from error
        self.trim()

    def trim(self) -> int:
        """Keep no more than the limit allows, what came first before what came later; the bytes that are kept."""
        left = self._most
        try:
            packs = [path for path in _pairs(self.folder) if path.suffix == ".pack"]
            for path in sorted(packs, key=lambda path: path.stat().st_mtime_ns):
                if (size := path.stat().st_size) <= left:
                    left -= size
                else:
                    path.unlink()
                    path.with_suffix(".idx").unlink()
            for path in streams(self.folder):
                size = min(left, path.stat().st_size)
                if size == 0:
                    path.unlink()
                elif size < path.stat().st_size:
                    os.truncate(path, size)
                left -= size
        except OSError as error:
            raise disk_error(error, self.folder) from error
        return self._most - left

    def clear(self) -> None:
        clear(self.folder)


def _pairs(folder: Path) -> list[Path]:
    """The packs and indexes that have one another."""
    found = {path.name: path for path in (folder / "pack").glob("pack-*")}
    return [
        path
        for path in found.values()
        if path.suffix in (".pack", ".idx") and f"{path.stem}.pack" in found and f"{path.stem}.idx" in found
    ]
