"""From a release's records to a folder that may be run: checkout, seal, and the way back to a
`VerifiedRelease`.

A checkout's seal says which tree it is by both hash functions, and what its files' metadata was when it was
complete. As long as the metadata is the same, the content is; otherwise every byte is hashed again, and a
folder that is not the signed tree is replaced from the verified objects.

To look at every file's metadata is for who is about to start a process. To bring a release in or to switch to it,
it is enough that the sealed folder is there: whatever was done in it is found before it is run.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING

from gitrel.errors import FormatError, LocalStateError, Refused
from gitrel.format.tree import Node
from gitrel.ids import ObjectId
from gitrel.run.home import Home
from gitrel.store import builds
from gitrel.trust.checks import Check
from gitrel.trust.content import VerifiedRelease, bind_trees, check_shape, verify_content
from gitrel.trust.ledger import ChainedRelease

if TYPE_CHECKING:  # a start of what is checked out needs no checkout
    from gitrel.store.checkout import Base
    from gitrel.store.repository import Repository


def prepare(
    home: Home, repo: Repository, chained: ChainedRelease, *, rehash: bool = False, starting: bool = True
) -> VerifiedRelease:
    """Make sure that the release's build is checked out whole and unchanged, and verify checks 9 to 12.

    `repo` is where the objects are. Without `starting`, a sealed folder is taken for what it was: call it again
    before a process starts. Raises `Refused`; `LocalStateError` if the disk does not play along. Nothing is
    visible under its final name before it is verified.
    """
    bound = bind_trees(chained, repo)
    folder = home.builds / bound.build_tree
    node = None if starting or rehash else builds.present(folder)
    if node is None:
        node = _unchanged(home, folder, rehash=rehash)
    if node is not None:
        return verify_content(bound, node)
    from gitrel.store.checkout import stage_checkout

    with home.lock("builds", wait=True):
        node = None if rehash else builds.sealed(folder)  # another process may have mended it
        if node is not None:
            return verify_content(bound, node)
        check_shape(repo, bound.build_tree, str(chained.record.ref))
        base = None if os.path.lexists(folder) else _newest_sealed(home)  # to remove a folder moves ctimes, too
        with stage_checkout(repo, bound.build_tree, home.builds, base=base) as staged:
            verified = verify_content(bound, staged.node)
            builds.retire(folder)
            staged.publish(folder)
        builds.seal_linked(folder, verified.build, base, staged.linked)
    return verified


def _unchanged(home: Home, folder: Path, *, rehash: bool) -> Node | None:
    """The ids of an existing checkout, if need be of all its bytes; None if it has to be made (again)."""
    node = None if rehash else builds.sealed(folder)
    if node is not None:
        return node
    node, seal = builds.hashed(folder) or (None, None)
    if node is not None and seal is not None:
        # without space, or in a home that cannot be written to, it is hashed again next time
        with contextlib.suppress(LocalStateError), home.lock("builds", wait=True):
            builds.write_seal(folder, node, seal)
    return node


def _newest_sealed(home: Home) -> Base | None:
    """The checkout that is likely to have most in common with a new one."""
    from gitrel.store.checkout import Base

    state = home.read_state()
    for entry in (state.ready, state.current, state.good):
        with contextlib.suppress(OSError, FormatError):
            folder = home.builds / os.path.basename(os.readlink(home.releases / str(entry)))
            if builds.present(folder):
                return Base(folder, ObjectId(folder.name))
    return None


def read_build_file(home: Home, verified: VerifiedRelease, name: str) -> bytes:
    """A file at the root of a checkout that was just verified. Raises `Refused` if it has none."""
    path = home.builds / verified.build.oid / name
    try:
        return path.read_bytes()
    except OSError as error:
        where = str(verified.chained.record.ref)
        raise Refused(f"its build has no {name}", check=Check.TREE, where=where, why=error.strerror or "") from None
