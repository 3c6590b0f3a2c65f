"""`gitrel diff`: what happens to an app that goes from one release to another.

Values of variables are never shown, nor those under `[run.*.env]`. Two releases that may run are compared; their
trees are read through the objects that git has, and what is not here is fetched, or said.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence, Set
from pathlib import Path
from typing import Any

from gitrel.build.checkout import Git
from gitrel.build.command import duration_text
from gitrel.cli.console import Console
from gitrel.cli.deploys import released_files
from gitrel.cli.developer import Developer, open_developer
from gitrel.cli.missing import with_objects
from gitrel.cli.naming import named_release, read_ledger
from gitrel.cli.reading import build_file, difference_fields, release_processes
from gitrel.dataclass import dataclass, is_dataclass
from gitrel.dataclass import fields as dataclass_fields
from gitrel.errors import BuildFailed, FormatError, NotFound, Refused
from gitrel.format.envdir import Differences, compare
from gitrel.format.manifest import MANIFEST, Manifest, RunSpec, parse_manifest
from gitrel.ids import App, ObjectId
from gitrel.store.differ import Change, compare_trees
from gitrel.store.objects import ObjectReader
from gitrel.trust.checks import Check
from gitrel.trust.content import bind_trees
from gitrel.trust.ledger import ChainedRelease, Verdict

FILES = 20  # that are listed without --files
COMMITS = 10
_MOST_COMMITS = 1000  # in the JSON
_MARKS = {"A": "added", "M": "changed", "D": "removed"}
_NO_MANIFEST = Manifest(app=App("none"))

Pairs = dict[str, tuple[str | None, str | None]]  # what differs, with both values; None for none


@dataclass(frozen=True, slots=True, kw_only=True)
class Commits:
    """From one source commit to another: those that came and those that were left behind, newest first, each as its
    id, author and subject; how many there are of both. `unknown`: why they cannot be told.
    """

    came: tuple[tuple[str, str, str], ...] = ()
    left: int = 0
    count: int = 0
    unknown: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class File:
    """A file that differs. Sizes in bytes; None where it is not, or where the object is not in this repository."""

    mark: str
    path: str
    before: int | None
    after: int | None

    @property
    def size_unknown(self) -> bool:
        return (self.before is None and self.mark != "A") or (self.after is None and self.mark != "D")

    @property
    def sizes(self) -> str:
        if self.size_unknown:
            return "size unknown: it is not in this repository"
        known = [f"{each:,}" for each in (self.before, self.after) if each is not None]
        return f"{' -> '.join(known)} bytes"


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """Everything that differs between two releases. `settings`: keys of gitrel.toml, with both values."""

    old: ChainedRelease
    new: ChainedRelease
    commits: Commits
    files: tuple[File, ...]
    variables: Differences
    processes: Pairs
    settings: Pairs


def diff(
    console: Console,
    repo: Path | None,
    remote: str | None,
    deploy: str,
    pin: str | None,
    first: str,
    second: str | None,
    all_files: bool,
) -> None:
    with open_developer(console, repo=repo, remote=remote, deploy=deploy, trust=pin) as dev:
        now = read_ledger(dev)
        old, new = named_release(console, now, first), named_release(console, now, second)
        found = compare_releases(dev, old, new)
        console.facts(lines(found, all_files=all_files))
        console.result(**fields(found))


def compare_releases(dev: Developer, old: Verdict, new: Verdict) -> Difference:
    """Raises `Refused`, `NotFound`, `LocalStateError` for what cannot be read, or is not the signed one."""
    before, after = old.runnable, new.runnable
    try:
        return with_objects(dev, [before, after], lambda: _compare(dev, old, new, before, after))
    except FormatError as error:
        raise Refused(error.what, check=Check.TREE, where=error.where or new.ref, why=error.why) from None


def _compare(dev: Developer, old: Verdict, new: Verdict, before: ChainedRelease, after: ChainedRelease) -> Difference:
    trees = [bind_trees(each, dev.repo).build_tree for each in (before, after)]
    reader = ObjectReader(dev.repo)
    files = tuple(_file(change, reader) for change in compare_trees(dev.repo, trees[0], trees[1]))
    commands = [release_processes(dev, each) for each in (old, new)]
    manifests = [_manifest(dev, tree, f"{each.entry}:{MANIFEST}") for tree, each in zip(trees, (old, new), strict=True)]
    return Difference(
        old=before,
        new=after,
        commits=_commits(dev, before.build.record.source, after.build.record.source),
        files=files,
        variables=compare(released_files(dev, old), released_files(dev, new)),
        processes=_different(*commands),
        settings=_settings(*manifests),
    )


def _different(before: Mapping[str, str], after: Mapping[str, str]) -> Pairs:
    """In the order of `after`; what was removed comes last."""
    names = [*after, *(name for name in before if name not in after)]
    return {name: (before.get(name), after.get(name)) for name in names if before.get(name) != after.get(name)}


def _file(change: Change, reader: ObjectReader) -> File:
    sizes = [_size(each.oid, reader) if each is not None else None for each in (change.before, change.after)]
    return File(mark=change.mark, path=change.path, before=sizes[0], after=sizes[1])


def _size(oid: ObjectId, reader: ObjectReader) -> int | None:
    try:
        return reader.find(oid).size
    except NotFound:
        return None


def _manifest(dev: Developer, tree: ObjectId, where: str) -> Manifest | None:
    raw = build_file(dev, tree, MANIFEST)
    return parse_manifest(raw, where) if raw is not None else None


def _settings(old: Manifest | None, new: Manifest | None) -> Pairs:
    """The keys of gitrel.toml that differ. Of variables, that they do, and no value."""
    before, after = old or _NO_MANIFEST, new or _NO_MANIFEST
    found = _fields_apart("build.", before.build, after.build)
    found |= _fields_apart("run.", before, after, {"app", "build", "run"})
    for name in sorted(before.run.keys() | after.run.keys()):
        specs = [each.run.get(name, RunSpec()) for each in (before, after)]
        found |= _fields_apart(f"run.{name}.", specs[0], specs[1], {"env"})
        variables = compare(*({key: value.encode() for key, value in spec.env.items()} for spec in specs))
        found |= {f"run.{name}.env.{key}": (None, "set") for key in variables.added}
        found |= {f"run.{name}.env.{key}": ("set", "set to something else") for key in variables.changed}
        found |= {f"run.{name}.env.{key}": ("set", None) for key in variables.removed}
    return found


def _fields_apart(prefix: str, before: Any, after: Any, but: Set[str] = frozenset()) -> Pairs:
    """Of two dataclasses of one kind."""
    found: Pairs = {}
    for field in dataclass_fields(before):
        values = getattr(before, field.name), getattr(after, field.name)
        if field.name not in but and values[0] != values[1]:
            found[prefix + field.name] = _value(values[0]), _value(values[1])
    return found


def _value(value: Any) -> str | None:
    """A setting as text; None for none. Of a table (`health`) what is not the default."""
    if value is None or value == ():
        return None
    if is_dataclass(value):
        kind: Any = type(value)
        given = [(each.name, getattr(value, each.name)) for each in dataclass_fields(value)]
        named = [(name, each) for name, each in given if each != getattr(kind(), name)]
        return ", ".join(f"{name} {_value(each)}" for name, each in named) or "the defaults"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return duration_text(value)
    return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _commits(dev: Developer, old: ObjectId, new: ObjectId) -> Commits:
    if old == new:
        return Commits()
    git = Git(dev.source, dev.env)
    try:
        absent = [oid for oid in (old, new) if git.attempt("cat-file", "-e", f"{oid}^{{commit}}").returncode]
        if absent:
            return Commits(unknown=f"{absent[0][:12]} is not in this repository; `git fetch` may bring it")
        failed = "git cannot list the commits between"
        counted = git.run("rev-list", "--left-right", "--count", f"{old}...{new}", failed=failed)
        order = ("--no-show-signature", "-z", f"-n{_MOST_COMMITS}", "--format=%H%x00%an%x00%s", f"{old}..{new}")
        listed = git.run("-c", "i18n.logOutputEncoding=UTF-8", "log", *order, failed=failed)
    except BuildFailed as error:
        return Commits(unknown=str(error))
    left, count = map(int, counted.split())
    words = listed.decode("utf-8", "replace").removesuffix("\0").split("\0") if count else []
    came = tuple(zip(words[::3], words[1::3], words[2::3], strict=True))
    return Commits(came=came, left=left, count=count)


def lines(found: Difference, *, all_files: bool = False) -> Iterator[tuple[str, str]]:
    """Labels and texts; a text without a label belongs to what is above it."""
    old, new = found.old, found.new
    yield "releases", f"{old.entry} and {new.entry} of {new.record.deploy}"
    yield "source", _change(old.build.record.source, new.build.record.source)
    yield from _commit_lines(found.commits)
    yield from _file_lines(found.files, None if all_files else FILES)
    yield "variables", str(found.variables) or "the same"
    yield "processes", str(_names(found.processes)) or "the same"
    yield from (("", f"  {name}: {_apart(pair)}") for name, pair in found.processes.items())
    yield from _labelled("settings", [f"{key}: {_apart(pair)}" for key, pair in found.settings.items()])
    yield "signers", _change(", ".join(old.signers), ", ".join(new.signers))
    yield "trust", _change(str(old.trust.entry), str(new.trust.entry))


def _change(before: str, after: str) -> str:
    return f"{before} -> {after}" if before != after else f"{before} in both"


def _apart(pair: tuple[str | None, str | None]) -> str:
    return " -> ".join("none" if each is None else each for each in pair)


def _names(pairs: Pairs) -> Differences:
    return Differences(
        added=tuple(sorted(name for name, pair in pairs.items() if pair[0] is None)),
        changed=tuple(sorted(name for name, pair in pairs.items() if None not in pair)),
        removed=tuple(sorted(name for name, pair in pairs.items() if pair[1] is None)),
    )


def _labelled(label: str, texts: Sequence[str]) -> Iterator[tuple[str, str]]:
    yield label, texts[0] if texts else "the same"
    yield from (("", text) for text in texts[1:])


def _commit_lines(commits: Commits) -> Iterator[tuple[str, str]]:
    if commits.unknown:
        yield "commits", f"unknown: {commits.unknown}"
        return
    back = f", {commits.left} taken back" if commits.left else ""
    yield "commits", f"{commits.count} more{back}" if commits.count or back else "none"
    yield from (("", f"  {oid[:12]}  {author}: {subject}") for oid, author, subject in commits.came[:COMMITS])
    if commits.count > COMMITS:
        yield "", f"  and {commits.count - COMMITS} before them"


def _file_lines(files: Sequence[File], most: int | None) -> Iterator[tuple[str, str]]:
    counts = [(mark, sum(each.mark == letter for each in files)) for letter, mark in _MARKS.items()]
    text = ", ".join(f"{count:,} {mark}" for mark, count in counts if count)
    unknown = any(each.size_unknown for each in files)
    grown = sum((each.after or 0) - (each.before or 0) for each in files)
    yield "files", f"{text}; {'sizes are not all known' if unknown else f'{grown:+,} bytes'}" if files else "the same"
    for each in files[:most]:
        yield "", f"  {each.mark}  {each.path}  {each.sizes}"
    if most is not None and len(files) > most:
        yield "", f"  and {len(files) - most:,} more: --files lists them"


def fields(found: Difference) -> dict[str, Any]:
    """For `--json`."""
    old, new, commits = found.old, found.new, found.commits
    return {
        "releases": [str(old.entry), str(new.entry)],
        "sources": [old.build.record.source, new.build.record.source],
        "commits": {
            "known": not commits.unknown,
            "count": commits.count,
            "taken_back": commits.left,
            "list": [{"id": oid, "author": author, "subject": subject} for oid, author, subject in commits.came],
        },
        "files": [
            {"change": _MARKS[each.mark], "path": each.path, "before": each.before, "after": each.after}
            for each in found.files
        ],
        "variables": difference_fields(found.variables),
        "processes": difference_fields(_names(found.processes)),
        "commands": {name: list(pair) for name, pair in found.processes.items()},
        "settings": {key: list(pair) for key, pair in found.settings.items()},
        "signers": [list(old.signers), list(new.signers)],
        "trust": [str(old.trust.entry), str(new.trust.entry)],
    }
