"""`gitrel blame`: the release that brought a file as it is.

That is the first of the unbroken run of releases, back from the one that is asked about, which have the same file at
that path: the same content, and the same mode. Releases that may not run never ran, and are passed over. What a release
holds is read from its build record; the one that is asked about is tied to its own by checks 9 and 10.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gitrel.cli.console import Console
from gitrel.cli.developer import Developer, open_developer
from gitrel.cli.missing import with_objects
from gitrel.cli.naming import named_release, read_ledger
from gitrel.cli.reading import local_time, utc_time
from gitrel.errors import FormatError, NotFound, Refused
from gitrel.format.tree import Mode, TreeEntry
from gitrel.ids import ObjectId
from gitrel.store.differ import find_entry, read_folder
from gitrel.trust.checks import Check
from gitrel.trust.content import BUILD_FOLDER, bind_trees
from gitrel.trust.ledger import ChainedRelease

_KINDS = {Mode.DIRECTORY: "folder", Mode.FILE: "file", Mode.EXECUTABLE: "executable", Mode.SYMLINK: "link"}

Parts = tuple[str, ...]  # a path below the top of a build, by its names


def blame(
    console: Console, repo: Path | None, remote: str | None, deploy: str, pin: str | None, path: str, name: str | None
) -> None:
    with open_developer(console, repo=repo, remote=remote, deploy=deploy, trust=pin) as dev:
        now = read_ledger(dev)
        asked = named_release(console, now, name).runnable
        releases = [each.release for each in now.verdicts if each.release is not None and each.entry <= asked.entry]
        parts = tuple(part for part in path.split("/") if part not in ("", "."))
        try:
            found = with_objects(dev, releases[::-1], lambda: _found(dev, releases, parts))
        except FormatError as error:
            raise Refused(error.what, check=Check.TREE, where=error.where or path, why=error.why) from None
        console.table([_row(*each) for each in found])
        console.result(release=str(asked.entry), path="/".join(parts), entries=[_fields(*each) for each in found])


def _found(
    dev: Developer, releases: Sequence[ChainedRelease], path: Parts
) -> list[tuple[str, TreeEntry, ChainedRelease]]:
    """What is at the path in the newest of the releases, a folder entry by entry, each with who brought it."""
    newest = releases[-1]
    bind_trees(newest, dev.repo)
    look = _Look(dev)
    there = look(newest, path)
    if there is None:
        raise _nowhere(look, releases, path)
    wanted = {path: there}
    if there.mode is Mode.DIRECTORY:
        inside = read_folder(dev.repo, there.oid)
        wanted = {(*path, name): entry for name, entry in inside.items()} or wanted
    brought = _brought(look, releases, wanted)
    return [("/".join(each), entry, brought[each]) for each, entry in wanted.items()]


class _Look:
    """What is at a path in a release's build. A tree that many releases share is read once."""

    def __init__(self, dev: Developer) -> None:
        self._objects = dev.repo
        self._tops: dict[ObjectId, ObjectId | None] = {}
        self._seen: dict[tuple[ObjectId, Parts], TreeEntry | None] = {}

    def __call__(self, release: ChainedRelease, path: Parts) -> TreeEntry | None:
        record = release.build.tree
        if record not in self._tops:
            top = read_folder(self._objects, record).get(BUILD_FOLDER)
            self._tops[record] = top.oid if top is not None else None
        build = self._tops[record]
        if build is None:
            return None
        if (build, path) not in self._seen:
            self._seen[build, path] = find_entry(self._objects, build, path)
        return self._seen[build, path]

    def names(self, release: ChainedRelease, path: Parts) -> list[str]:
        """What is in the folder; nothing where there is none."""
        there = self(release, path)
        return list(read_folder(self._objects, there.oid)) if there and there.mode is Mode.DIRECTORY else []


def _brought(
    look: _Look, releases: Sequence[ChainedRelease], wanted: Mapping[Parts, TreeEntry]
) -> dict[Parts, ChainedRelease]:
    """The first release of each path's run. All paths go back together, as far as the longest run."""
    brought = dict.fromkeys(wanted, releases[-1])
    running = set(wanted)
    for release in reversed(releases[:-1]):
        running = {path for path in running if look(release, path) == wanted[path]}
        if not running:
            break
        brought |= dict.fromkeys(running, release)
    return brought


def _nowhere(look: _Look, releases: Sequence[ChainedRelease], path: Parts) -> NotFound:
    """Nothing is there: an earlier release may have had it, or it is mistyped."""
    newest, wanted = releases[-1], "/".join(path)
    last = next((each for each in reversed(releases) if look(each, path) is not None), None)
    if last is not None:
        why = f"{last.entry} was the last that had it"
        hint = f"`gitrel blame --release {last.entry} {wanted}`"
    else:
        above = next(path[:depth] for depth in range(len(path) - 1, -1, -1) if look.names(newest, path[:depth]))
        names = look.names(newest, above)
        close = difflib.get_close_matches(path[len(above)], names, 1, 0.5)
        why = f"did you mean {'/'.join((*above, close[0]))}?" if close else f"no release up to {newest.entry} has it"
        hint = "paths begin at the top of the build; `gitrel blame .` lists what is there"
    return NotFound(f"no {wanted} in {newest.entry}", where=str(newest.record.ref), why=why, hint=hint)


def _row(path: str, entry: TreeEntry, release: ChainedRelease) -> list[str]:
    return [
        str(release.entry),
        local_time(release.signed.committer),
        ", ".join(release.signers),
        release.build.record.source[:12],
        f"{path}/" if entry.mode is Mode.DIRECTORY else path,
    ]


def _fields(path: str, entry: TreeEntry, release: ChainedRelease) -> dict[str, Any]:
    return {
        "path": path,
        "kind": _KINDS[entry.mode],
        "object": entry.oid,
        "release": str(release.entry),
        "signers": list(release.signers),
        "source": release.build.record.source,
        "claimed_time": utc_time(release.signed.committer),
        "subject": release.record.subject,
    }
