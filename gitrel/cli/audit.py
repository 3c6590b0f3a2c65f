"""`gitrel audit`: everything in a repository, judged for somebody who trusts nobody and hands the answer on.

The repository may be hostile: no program is started in it, and nothing is written to it. A URL is fetched into a
scratch folder.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from gitrel import __version__
from gitrel.audit.changes import Changes, read_changes
from gitrel.audit.codes import Severity
from gitrel.audit.differences import Either, Rebuilt, copy_commit, differences
from gitrel.audit.document import as_json, as_sarif
from gitrel.audit.findings import Findings
from gitrel.audit.memory import Memory, read_memory, remember, write_memory
from gitrel.audit.page.whole import as_html
from gitrel.audit.places import RECORDS, check_folder, look
from gitrel.audit.reading import AuditedObjects
from gitrel.audit.result import Audit, Standing
from gitrel.audit.survey import Scope, survey
from gitrel.audit.text import as_text, counted
from gitrel.build.stage import read_manifest, stage
from gitrel.cli.console import Console
from gitrel.cli.developer import parse_argument, parse_entry
from gitrel.cli.server import open_remote
from gitrel.dataclass import dataclass
from gitrel.errors import ExitCode, FormatError, LocalStateError, NotFound, Refused, UsageError
from gitrel.format.record import BuildRecord, parse_record_as
from gitrel.ids import PRODUCTION, TRUST, Deploy, Entry, ObjectFormat, ObjectId, Sha256, names_record
from gitrel.store.differ import read_folder
from gitrel.store.durable import replace_file
from gitrel.store.quarantine import Quarantine
from gitrel.store.remote import FilterUnsupported, Remote
from gitrel.store.repository import Repository
from gitrel.store.snapshot import snapshot
from gitrel.trust.checks import Check
from gitrel.trust.content import BUILD_FOLDER

_SOURCES = ("refs/heads/", "refs/tags/")
_SHOWN = 12  # differing files that are listed; the JSON has all


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What the command line says."""

    repo: str | None
    pin: str | None
    deploys: tuple[str, ...] = ()
    sarif: Path | None = None
    html: Path | None = None
    state: Path | None = None
    compare: str | None = None
    ledger_only: bool = False
    rebuild: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Audited:
    """An open repository; `refs`: what a remote showed, None for the repository's own."""

    repo: Repository
    name: str
    refs: Mapping[str, ObjectId] | None = None


def audit(console: Console, wanted: Wanted) -> ExitCode:
    """Exit 10 for a finding of severity error."""
    pin, deploys = _pin(wanted.pin), [parse_argument("--deploy", Deploy, each) for each in wanted.deploys]
    scope = Scope(
        pin=pin,
        deploys=frozenset(deploys) if deploys else None,
        contents=not wanted.ledger_only,
        now=int(time.time()),
    )
    memory = _memory(wanted.state, pin)
    other = _other_host(wanted.compare)
    progress = console.note if sys.stderr.isatty() else lambda _: None
    with _opened(console, wanted) as opened:
        try:
            found = survey(
                opened.repo, scope, name=opened.name, refs=opened.refs, memory=memory, other=other, progress=progress
            )
        except MemoryError:
            raise LocalStateError("ran out of memory", where=opened.name, why="an object of it is too large") from None
        for each in deploys:
            if all(deploy.name != each for deploy in found.deploys):
                raise NotFound(f"no ledger of {each}", where=opened.name, hint="without --deploy all are audited")
        document = as_json(found)
        _keep(wanted, memory, found)
        changes = read_changes(opened.repo, found, progress) if wanted.html is not None else {}
        _write_page(wanted.html, found, changes, None)
        for line in as_text(found):
            console.out(line)
        rebuilt = None
        if wanted.rebuild is not None:
            rebuilt = rebuild(console, opened.repo, found, parse_entry(wanted.rebuild), deploys)
            document["rebuild"] = rebuilt.fields
            _write_page(wanted.html, found, changes, rebuilt)
    refusal = _refusal(found) or (rebuilt.refusal if rebuilt is not None else None)
    if refusal is not None:
        console.error(refusal, **document)
        return ExitCode.REFUSED
    console.result(**document)
    return ExitCode.DONE


def _keep(wanted: Wanted, memory: Memory | None, found: Audit) -> None:
    if wanted.sarif is not None:
        replace_file(wanted.sarif, json.dumps(as_sarif(found, __version__), indent=2).encode() + b"\n")
    kept = remember(memory, found)
    if wanted.state is not None and kept is not None:
        write_memory(wanted.state, kept)


def _write_page(path: Path | None, found: Audit, changes: Mapping[str, Changes], rebuilt: Rebuilt | None) -> None:
    if path is not None:
        replace_file(path, as_html(found, changes, __version__, rebuilt).encode())


def _pin(text: str | None) -> Sha256:
    if text is None:
        raise UsageError(
            "no pin",
            why="an audit needs to know whose ledger it is",
            hint="`--trust PIN`, which you have from the app's people, and not from the repository",
        )
    return parse_argument("--trust", Sha256, text)


def _memory(path: Path | None, pin: Sha256) -> Memory | None:
    memory = read_memory(path) if path is not None else None
    if memory is not None and memory.pin != pin:
        raise UsageError("the memory is of another app", where=str(path), why=f"its pin is {memory.pin}")
    return memory


def _other_host(url: str | None) -> tuple[str, Mapping[str, ObjectId]] | None:
    if url is None:
        return None
    if Path(url).is_dir():  # whose git would be started by a remote
        with _local(Path(url)) as repo:
            return url, look(repo, Findings()).names
    with open_remote(url) as remote:
        return remote.safe_url, remote.list(RECORDS)


def _local(path: Path, *, discover: bool = False) -> Repository:
    """A folder that may be anything. Raises `NotFound`, `LocalStateError`."""
    for folder in (path / ".git", path):
        check_folder(folder)
    try:
        return Repository.discover(path.absolute()) if discover else Repository.open(path.absolute())
    except (OSError, ValueError, AssertionError) as error:  # what dulwich trips over in a damaged configuration
        raise LocalStateError("cannot open the repository", where=str(path), why=str(error)) from error


@contextmanager
def _opened(console: Console, wanted: Wanted) -> Iterator[Audited]:
    text = wanted.repo or "."
    if Path(text).is_dir() or (":" not in text and not Path(text).is_file()):
        with _local(Path(text), discover=wanted.repo is None) as repo:
            yield Audited(repo=repo, name=str(repo.path))
        return
    with tempfile.TemporaryDirectory(prefix="gitrel-audit-") as scratch, open_remote(text) as remote:
        yield from _fetched(console, remote, Path(scratch), wanted)


def _fetched(console: Console, remote: Remote, folder: Path, wanted: Wanted) -> Iterator[Audited]:
    """Everything that the remote's refs of records name, in a repository of our own."""
    prefixes = [*RECORDS, *(_SOURCES if wanted.rebuild is not None else ())]
    theirs = remote.list(prefixes)
    fmt = ObjectFormat.of(next(iter(theirs.values()))) if theirs else ObjectFormat.SHA1
    wants = {name: oid for name, oid in theirs.items() if name.startswith(_SOURCES) or names_record(name)}
    with Repository.init_bare(folder / "repo.git", fmt) as repo:
        with Quarantine(repo, folder / "quarantine") as quarantine:
            _fetch(console, remote, quarantine, wants, ledger_only=wanted.ledger_only)
            quarantine.adopt()
        refs = {name: oid for name, oid in theirs.items() if not name.startswith(_SOURCES)}
        yield Audited(repo=repo, name=remote.safe_url, refs=refs)


def _fetch(
    console: Console, remote: Remote, quarantine: Quarantine, refs: Mapping[str, ObjectId], *, ledger_only: bool
) -> None:
    rest = sorted(set(refs.values()))
    if ledger_only:
        remote.fetch(quarantine, sorted({oid for name, oid in refs.items() if name.startswith(TRUST.prefix)}))
        rest = [oid for oid in rest if oid not in quarantine.repository]
        try:
            remote.fetch(quarantine, rest, filter_spec="blob:none")
            return
        except FilterUnsupported:
            console.note("note: this host cannot leave files out; everything is fetched, and files are not checked")
    remote.fetch(quarantine, rest)


def _refusal(found: Audit) -> Refused | None:
    errors = [each for each in found.findings if each.severity is Severity.ERROR]
    if not errors:
        return None
    first = errors[0]
    more = f", and {len(errors) - 1} more" if len(errors) > 1 else ""
    return Refused(
        f"the audit found {counted(len(errors), 'error')}",
        check=int(first.check or 13),
        where=found.repository,
        why=f"{first.ref}: {first.what}{more}",
        hint=first.advice,
    )


def rebuild(console: Console, repo: Repository, found: Audit, entry: Entry, deploys: Sequence[Deploy]) -> Rebuilt:
    """Runs the source's build command, as `gitrel build` does, in a copy of the source with none of its repository's
    settings. Raises `NotFound`, `BuildFailed`, `BadInput`, `Refused` for a release that is refused.
    """
    deploy = deploys[0] if deploys else PRODUCTION
    release = found.release(deploy, entry)
    if release is None or release.build is None or release.source is None:
        raise NotFound(f"no release {entry} of {deploy} to rebuild", where=found.repository)
    if release.standing is Standing.REFUSED:
        raise Refused("a refused release is not built", check=Check.BUILD, where=release.ref)
    env, tmp = dict(os.environ), Path(tempfile.gettempdir())
    with (
        tempfile.TemporaryDirectory(prefix="gitrel-rebuild-") as folder,
        AuditedObjects(repo) as objects,
        Repository.init_bare(Path(folder) / "source.git", repo.format) as source,
    ):
        try:
            copy_commit(objects, release.source, source)
        except NotFound as error:
            hint = "fetch the branch that has it; records name their source and do not carry it"
            raise NotFound("the source is not here", where=release.source, why=error.where, hint=hint) from None
        manifest = read_manifest(source.path, release.source, env=env)
        console.note(f"building {release.source[:12]} again")
        with stage(source.path, release.source, manifest.build, env=env, on_output=console.note, tmp=tmp) as staged:
            taken = snapshot(staged.folder, source, exclude=staged.exclude)
        signed = _build_tree(objects, release.build.oid)
        different = tuple(differences(Either(objects, source), signed, taken.node.oid))
    rebuilt = Rebuilt(
        release=release.ref,
        source=release.source,
        signed=signed,
        rebuilt=taken.node.oid,
        differences=different,
    )
    _print_rebuilt(console, rebuilt)
    return rebuilt


def _build_tree(objects: AuditedObjects, build: ObjectId) -> ObjectId:
    try:
        record = parse_record_as(BuildRecord, objects.read(build, "commit"), objects.format)
    except FormatError as error:
        raise LocalStateError("not a build record", where=build, why=str(error)) from None
    return read_folder(objects, record.tree)[BUILD_FOLDER].oid


def _print_rebuilt(console: Console, rebuilt: Rebuilt) -> None:
    same = "equal" if rebuilt.signed == rebuilt.rebuilt else f"{len(rebuilt.differences)} files differ"
    console.out(f"rebuilt {rebuilt.source} for {rebuilt.release}: {same}")
    for each in rebuilt.differences[:_SHOWN]:
        console.out(f"  {each.path}: {each.how}")
        console.out(f"    perhaps: {each.cause}")
    if len(rebuilt.differences) > _SHOWN:
        console.out(f"  and {len(rebuilt.differences) - _SHOWN} more")
