"""What each release changed against the one before it: files, processes, source commits. For people to look at.

Read from the same objects as the audit, each hashed; trees and Procfiles only, and no value of a variable. The
repository may be hostile, so every comparison is bounded, and what it left out is said. No verdict depends on this.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable

from gitrel.audit.reading import AuditedObjects
from gitrel.audit.result import Audit, ReleaseReport
from gitrel.dataclass import dataclass
from gitrel.errors import FormatError, LocalStateError, NotFound
from gitrel.format.procfile import PROCFILE, parse_procfile
from gitrel.format.record import BuildRecord, parse_record_as
from gitrel.format.tree import Mode
from gitrel.ids import Kind, ObjectId
from gitrel.store.differ import Change, compare_trees, read_folder
from gitrel.store.repository import Repository
from gitrel.trust.content import BUILD_FOLDER

FILES = 25  # that are listed
COMMITS = 10  # that are listed
_MOST_FILES = 100_000  # that are counted
_MOST_FOLDERS = 20_000  # that are read for one comparison
_MOST_COMMITS = 200  # along first parents
_HEADERS = re.compile(rb"(?:tree [0-9a-f]+\n)(?:parent ([0-9a-f]+)\n)?(?:parent [0-9a-f]+\n)*author ([^<\n]*?) ?<")


@dataclass(frozen=True, slots=True, kw_only=True)
class FileChange:
    """`mark`: A, M or D. Sizes in bytes; None where there is no file, or its size is not known here."""

    mark: str
    path: str
    before: int | None
    after: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceCommit:
    """As the source repository has it; the signed build names the last one, and each names the one before it."""

    id: ObjectId
    author: str
    subject: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Changes:
    """`files` and `commits` are the first of `counts` (by mark) and `commit_count`; the `…_unknown` say why there are
    none. `processes`: what differs, with both commands; None for none.
    """

    first: bool
    files: tuple[FileChange, ...] = ()
    counts: tuple[tuple[str, int], ...] = ()
    files_unknown: str = ""
    processes: tuple[tuple[str, str | None, str | None], ...] = ()
    processes_unknown: str = ""
    commits: tuple[SourceCommit, ...] = ()
    commit_count: int = 0
    commits_unknown: str = ""


def read_changes(
    repo: Repository, audit: Audit, progress: Callable[[str], None] = lambda _: None
) -> dict[str, Changes]:
    """By the releases' refs; none for a release whose record could not be read."""
    found: dict[str, Changes] = {}
    with AuditedObjects(repo) as objects:
        for deploy in audit.deploys:
            progress(f"comparing the releases of {deploy.name}")
            before: _Build | None = None
            for release in deploy.releases:
                if release.build is None:
                    continue
                build = _read_build(objects, release)
                found[release.ref] = _changes(objects, before, build)
                before = build
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class _Build:
    """`tree` None: it cannot be read. `processes` None: no Procfile can be."""

    source: ObjectId | None
    tree: ObjectId | None
    processes: dict[str, str] | None


def _read_build(objects: AuditedObjects, release: ReleaseReport) -> _Build:
    tree = processes = None
    try:
        if release.build is not None:
            record = parse_record_as(BuildRecord, objects.read(release.build.oid, "commit"), objects.format)
            entry = read_folder(objects, record.tree).get(BUILD_FOLDER)
            tree = entry.oid if entry is not None and entry.mode is Mode.DIRECTORY else None
            processes = _processes(objects, tree)
    except (FormatError, NotFound, LocalStateError):
        pass  # the survey has a finding for it; here it is only not compared
    return _Build(source=release.source, tree=tree, processes=processes)


def _processes(objects: AuditedObjects, tree: ObjectId | None) -> dict[str, str] | None:
    entry = read_folder(objects, tree).get(PROCFILE)
    return parse_procfile(objects.read(entry.oid, "blob")) if entry is not None else {}


def _changes(objects: AuditedObjects, before: _Build | None, after: _Build) -> Changes:
    files, counts, files_unknown = _files(objects, before, after)
    commits, commit_count, commits_unknown = _commits(objects, before, after)
    old = before.processes if before is not None else {}
    known = old is not None and after.processes is not None
    return Changes(
        first=before is None,
        files=files,
        counts=counts,
        files_unknown=files_unknown,
        processes=_apart(old or {}, after.processes or {}) if known else (),
        processes_unknown="" if known else "a Procfile of the two cannot be read",
        commits=commits,
        commit_count=commit_count,
        commits_unknown=commits_unknown,
    )


def _apart(old: dict[str, str], new: dict[str, str]) -> tuple[tuple[str, str | None, str | None], ...]:
    names = dict.fromkeys([*new, *old])
    return tuple((name, old.get(name), new.get(name)) for name in names if old.get(name) != new.get(name))


class _Bounded:
    """Trees that share their folders can stand for more files than there is time: after so many reads it is enough."""

    def __init__(self, objects: AuditedObjects) -> None:
        self._objects = objects
        self._left = _MOST_FOLDERS

    def read(self, oid: ObjectId, kind: Kind) -> bytes:
        self._left -= 1
        if self._left < 0:
            raise LocalStateError(f"more than {_MOST_FOLDERS:,} folders to compare")
        return self._objects.read(oid, kind)


def _files(
    objects: AuditedObjects, before: _Build | None, after: _Build
) -> tuple[tuple[FileChange, ...], tuple[tuple[str, int], ...], str]:
    old = before.tree if before is not None else None
    if after.tree is None or (before is not None and old is None):
        return (), (), "a build of the two cannot be read"
    listed: list[FileChange] = []
    counts: Counter[str] = Counter()
    unknown = ""
    try:
        for change in compare_trees(_Bounded(objects), old, after.tree):
            counts[change.mark] += 1
            if len(listed) < FILES:
                listed.append(_file(objects, change))
            if counts.total() >= _MOST_FILES:
                unknown = f"more than {_MOST_FILES:,} files differ"
                break
    except (FormatError, NotFound, LocalStateError) as error:
        unknown = error.what
    return tuple(listed), tuple(sorted(counts.items())), unknown


def _file(objects: AuditedObjects, change: Change) -> FileChange:
    sizes = [objects.size(each.oid) if each is not None else None for each in (change.before, change.after)]
    return FileChange(mark=change.mark, path=change.path, before=sizes[0], after=sizes[1])


def _commits(
    objects: AuditedObjects, before: _Build | None, after: _Build
) -> tuple[tuple[SourceCommit, ...], int, str]:
    """From the old source to the new one, newest first, along first parents; of a first release the newest alone."""
    old, at = before.source if before is not None else None, after.source
    if at is None or (before is not None and old is None):
        return (), 0, "a build of the two cannot be read"
    listed: list[SourceCommit] = []
    for count in range(_MOST_COMMITS):
        if at == old or (before is None and count):
            return tuple(listed), count, ""
        if at is None:
            return (), 0, "it does not build on the source before (along first parents)"
        try:
            at, commit = _source_commit(objects, at)
        except (FormatError, NotFound, LocalStateError):
            return tuple(listed), 0, "the source commits are not all in this repository"
        if count < COMMITS:
            listed.append(commit)
    return tuple(listed), 0, f"the source before is not among the {_MOST_COMMITS} commits before it"


def _source_commit(objects: AuditedObjects, oid: ObjectId) -> tuple[ObjectId | None, SourceCommit]:
    """Its first parent, and what it says. Raises `NotFound`, `LocalStateError`, `FormatError`."""
    raw = objects.read(oid, "commit")
    match = _HEADERS.match(raw)
    if match is None:
        raise FormatError("not a commit", where=oid)
    subject = raw.partition(b"\n\n")[2].lstrip(b"\n").partition(b"\n")[0]
    parent = ObjectId(match[1].decode()) if match[1] else None
    author, subject_text = (each.decode("utf-8", "replace") for each in (match[2], subject))
    return parent, SourceCommit(id=oid, author=author, subject=subject_text)
