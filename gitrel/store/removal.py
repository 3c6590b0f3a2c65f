"""Taking a read-only folder away, whatever is in it: by descriptors, following nothing.

A folder first gets a name of the kind that `remove_stale` takes away, so that its own name never stands for
half of it. What is deeper than one level is moved up before it is deleted: the depth of what somebody planted
costs neither descriptors nor stack.
"""

from __future__ import annotations

import os
import secrets
import stat
from pathlib import Path

from gitrel.errors import LocalStateError
from gitrel.store.descent import open_folder
from gitrel.store.durable import disk_error

STAGING = ".tmp-"


def remove_folder(path: Path) -> None:
    """Delete a folder and all that is in it. One that is not there is fine.

    Raises `LocalStateError`, also for what is no folder.
    """
    try:
        parent = open_folder(path.parent)
    except FileNotFoundError:
        return
    except OSError as error:
        raise disk_error(error, path.parent) from error
    try:
        if not stat.S_ISDIR(os.stat(path.name, dir_fd=parent, follow_symlinks=False).st_mode):
            raise LocalStateError("not a folder", where=str(path))
        name = f"{STAGING}{secrets.token_hex(8)}"
        os.rename(path.name, name, src_dir_fd=parent, dst_dir_fd=parent)
        os.fsync(parent)
        delete_entry(parent, name)
    except FileNotFoundError:
        return
    except OSError as error:
        raise disk_error(error, path) from error
    finally:
        os.close(parent)


def remove_stale(parent: Path) -> None:
    """Delete what killed runs left in `parent`: entries `.tmp-…` of this user. Call it under the home's lock.

    Raises `LocalStateError`.
    """
    try:
        fd = open_folder(parent)
    except FileNotFoundError:
        return
    except OSError as error:
        raise disk_error(error, parent) from error
    try:
        for name in os.listdir(fd):
            owner = os.stat(name, dir_fd=fd, follow_symlinks=False).st_uid
            if name.startswith(STAGING) and owner == os.geteuid():
                delete_entry(fd, name)
    except OSError as error:
        raise disk_error(error, parent) from error
    finally:
        os.close(fd)


def delete_entry(parent: int, name: str) -> None:
    """Delete one entry of the folder whose descriptor is `parent`. Raises `OSError`."""
    if not stat.S_ISDIR(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode):
        os.unlink(name, dir_fd=parent)
        return
    top = open_folder(name, parent)
    try:
        os.fchmod(top, 0o700)
        waiting = _delete_files(top)
        while waiting:
            found = waiting.pop()
            waiting += _lift(found, top)
            os.rmdir(found, dir_fd=top)
    finally:
        os.close(top)
    os.rmdir(name, dir_fd=parent)


def _lift(name: str, top: int) -> list[str]:
    """Empty a folder of `top`: its files go, its folders move to `top`, under the names it returns."""
    lifted = []
    fd = open_folder(name, top)
    try:
        os.fchmod(fd, 0o700)
        for below in _delete_files(fd):
            _make_writable(below, fd)
            lifted.append(f"{STAGING}{secrets.token_hex(8)}")
            os.rename(below, lifted[-1], src_dir_fd=fd, dst_dir_fd=top)
    finally:
        os.close(fd)
    return lifted


def _make_writable(name: str, parent: int) -> None:
    """Moving a folder writes its `..`, so it has to be writable itself (rename(2))."""
    fd = open_folder(name, parent)
    try:
        os.fchmod(fd, 0o700)
    finally:
        os.close(fd)


def _delete_files(fd: int) -> list[str]:
    """Delete what is no folder; the names of the folders."""
    folders = []
    with os.scandir(fd) as found:
        entries = list(found)
    for entry in entries:
        if entry.is_dir(follow_symlinks=False):
            folders.append(entry.name)
        else:
            os.unlink(entry.name, dir_fd=fd)
    return folders
