"""Files that survive `kill -9` and power loss: written aside, fsynced, then renamed or linked into place.

The order is always contents, name, folder; a reader sees the old file or the new one, never a part.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from gitrel.errors import LocalStateError

TICK = 20_000_000  # ns; over one tick of the clock that stamps inodes (current_time(), 10 ms at CONFIG_HZ=100)


def replace_file(path: Path, data: bytes, mode: int = 0o644) -> None:
    """Make `path` hold `data`, replacing what is there. Raises `LocalStateError` and leaves the old file."""
    _publish(path, data, mode, _aside(path), replace=True)


def create_file(path: Path, data: bytes, mode: int = 0o644) -> bool:
    """Make `path` hold `data` unless something of that name exists; tells whether this call created it."""
    return _publish(path, data, mode, _aside(path), replace=False)


def create_object(path: Path, data: bytes) -> bool:
    """As `create_file`, for a loose object. If it is killed, it leaves what git would: git-fsck(1) passes over a file
    of such a name, and git-prune(1) removes it.
    """
    return _publish(path, data, 0o444, path.with_name(f"tmp_obj_{os.urandom(6).hex()}"), replace=False)


def _aside(path: Path) -> Path:
    return path.with_name(f".{path.name[:100]}.{os.urandom(6).hex()}.tmp")


def _publish(path: Path, data: bytes, mode: int, aside: Path, *, replace: bool) -> bool:
    try:
        try:
            fd = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
            with open(fd, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(fd)
            if replace:
                os.rename(aside, path)
            else:
                os.link(aside, path)
            sync_folder(path.parent)
        except FileExistsError:
            return False
        finally:
            with contextlib.suppress(FileNotFoundError):  # renamed away, or never made
                aside.unlink()
    except OSError as error:
        raise disk_error(error, path) from error
    return True


def sync_folder(folder: Path) -> None:
    """fsync a folder, so that the names in it are durable (fsync(2), NOTES)."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def make_folders(folder: Path) -> None:
    """`mkdir -p`, each new name durable. Raises `LocalStateError`."""
    try:
        missing = []
        while not folder.is_dir():
            missing.append(folder)
            folder = folder.parent
        for folder in reversed(missing):
            with contextlib.suppress(FileExistsError):  # another process made it meanwhile
                folder.mkdir()
            sync_folder(folder.parent)
    except OSError as error:
        raise disk_error(error, folder) from error


def disk_error(error: OSError, path: Path) -> LocalStateError:
    """An operating system's error as one of ours, with what to do about the common ones."""
    hints = {
        28: "free some disk space",
        30: "the filesystem is read-only",
        13: "check the owner and permissions",
    }
    where = str(error.filename or path)
    return LocalStateError(
        "cannot write", where=where, why=error.strerror or str(error), hint=hints.get(error.errno or 0, "")
    )
