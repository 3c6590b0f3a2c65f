"""A repository's refs and whatever in it could mislead its readers, looked at without git and without following links.

Refs are read one by one, so that a damaged one hides no other. A loose ref wins over a packed one, as in git. What is
found here changes no verdict: records are read by id, through no replacement, graft or shallow boundary.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path

from gitrel.audit.codes import Code
from gitrel.audit.findings import Findings
from gitrel.dataclass import dataclass, field
from gitrel.errors import FormatError, LocalStateError
from gitrel.ids import NAMESPACES, WITNESSES, ObjectId, RefName, parse_ref
from gitrel.store.repository import Repository

RECORDS = (*NAMESPACES, *WITNESSES)  # where every kind of record lies
_REPLACE = "refs/replace/"
_PACKED = re.compile(rb"([0-9a-f]{40}|[0-9a-f]{64}) (refs/[^\n]+)")
_MAX_FILE = 512 * 1024 * 1024  # bytes of packed-refs: over a million refs
_PLAIN = ("HEAD", "config", "packed-refs", "shallow", "info/grafts", "objects/info/alternates", "commondir")


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """`refs`: those that are names of records, and what they say; `damaged`: those that say nothing, and the findings
    that this is. `partial`: files may be absent on purpose.
    """

    refs: Mapping[RefName, ObjectId]
    damaged: Mapping[RefName, tuple[Code, str]] = field(default_factory=dict)
    partial: bool = False
    shallow: int = 0

    @property
    def names(self) -> dict[str, ObjectId]:
        return {str(ref): oid for ref, oid in self.refs.items()}


def check_folder(git: Path) -> None:
    """Raises `LocalStateError` if a file that every reader opens is a FIFO, a device or a link, before one does."""
    for name in _PLAIN:
        try:
            mode = (git / name).lstat().st_mode
        except (FileNotFoundError, NotADirectoryError):
            continue
        if not stat.S_ISREG(mode) and not (name == "HEAD" and stat.S_ISLNK(mode)):
            raise LocalStateError("not a plain file", where=str(git / name), hint="do not open this repository at all")


def look(repo: Repository, findings: Findings) -> Seen:
    """Everything about a repository but its objects."""
    found = _packed(repo.path, findings)
    damaged: dict[RefName, tuple[Code, str]] = {}
    for name, oid in _loose(repo, findings, damaged):
        found[name] = oid
    for name in sorted(found):
        if name.startswith(_REPLACE):
            findings.add(Code.REPLACED, name, f"replaces {name.removeprefix(_REPLACE)[:64]}", evidence=(found[name],))
    shallow = _lines(repo.path / "shallow")
    if shallow:
        findings.add(
            Code.SHALLOW, "shallow", f"history is cut off at {len(shallow)} commits", evidence=(*shallow[:20],)
        )
    if grafts := _lines(repo.path / "info/grafts"):
        findings.add(Code.GRAFTED, "info/grafts", f"other parents for {len(grafts)} commits")
    if borrowed := _lines(repo.objects / "info/alternates"):
        findings.add(Code.BORROWED, "objects/info/alternates", f"also reads {', '.join(borrowed[:5])}")
    refs = {ref: oid for ref, oid in sort_refs(found, findings).items() if ref not in damaged}
    return Seen(refs=refs, damaged=damaged, partial=_is_partial(repo), shallow=len(shallow))


def sort_refs(found: Mapping[str, ObjectId], findings: Findings) -> dict[RefName, ObjectId]:
    """The refs of records among them; the others of our namespaces are strays."""
    refs: dict[RefName, ObjectId] = {}
    for name, oid in sorted(found.items()):
        if f"{name}/".startswith(RECORDS):
            try:
                refs[parse_ref(name)] = oid
            except FormatError as error:
                findings.add(Code.STRAY_REF, name, f"no name of a record: {error.why or error.what}", evidence=(oid,))
    return refs


def _packed(git: Path, findings: Findings) -> dict[str, ObjectId]:
    found: dict[str, ObjectId] = {}
    for number, line in enumerate(_read(git / "packed-refs").split(b"\n"), 1):
        if not line or line.startswith((b"#", b"^")):
            continue
        match = _PACKED.fullmatch(line)
        if match is None:
            findings.add(Code.DAMAGED_REF, "packed-refs", f"line {number} is no ref", about=f"packed-refs:{number}")
        else:
            found[match[2].decode("utf-8", "backslashreplace")] = ObjectId(match[1].decode())
    return found


def _loose(
    repo: Repository, findings: Findings, damaged: dict[RefName, tuple[Code, str]]
) -> Iterator[tuple[str, ObjectId]]:
    top = repo.path / "refs"
    if top.is_symlink():
        findings.add(Code.LINKED_REFS, "refs", f"a link to {os.readlink(top)}", check=2)
        return
    for folder in (*(name.rstrip("/") for name in RECORDS), _REPLACE.rstrip("/")):
        yield from _below(repo, folder, findings, damaged)


def _below(
    repo: Repository, folder: str, findings: Findings, damaged: dict[RefName, tuple[Code, str]]
) -> Iterator[tuple[str, ObjectId]]:
    path = repo.path / folder
    if path.is_symlink():
        findings.add(Code.LINKED_REFS, _shown(folder), f"a link to {os.readlink(path)!r}")
        return
    names = sorted(os.listdir(path)) if path.is_dir() else []
    for name in [f"{folder}/{each}" for each in names] if path.is_dir() else [folder]:
        mode = _mode(repo.path / name)
        if mode is None:
            continue
        if stat.S_ISDIR(mode) or (stat.S_ISLNK(mode) and (repo.path / name).is_dir()):
            yield from _below(repo, name, findings, damaged)
            continue
        try:
            oid = repo.refs.get(name)
            if oid is not None:
                yield _shown(name), oid
        except (LocalStateError, ValueError) as error:
            what = str(error) if not isinstance(error, LocalStateError) else f"{error.what}: {error.why}"
            try:
                ref = parse_ref(name)
                damaged[ref] = findings.add(Code.DAMAGED_REF, name, what, check=2)
            except FormatError:
                findings.add(Code.STRAY_REF, _shown(name), what)


def _shown(name: str) -> str:
    """A file's name as text; bytes that are no UTF-8 are escaped."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def _mode(path: Path) -> int | None:
    try:
        return path.lstat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return None


def _is_partial(repo: Repository) -> bool:
    """Whether the repository says that absent objects are at a remote (gitrepository-layout, partial clone)."""
    pack = repo.objects / "pack"
    return pack.is_dir() and any(name.endswith(".promisor") for name in os.listdir(pack))


def _lines(path: Path) -> list[str]:
    return [line for line in _read(path).decode("utf-8", "backslashreplace").split("\n") if line and line[0] != "#"]


def _read(path: Path) -> bytes:
    """A regular file's bytes; nothing where there is none."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return b""
    except OSError as error:
        raise LocalStateError("cannot read", where=str(path), why=error.strerror or str(error)) from error
    with open(fd, "rb") as file:
        info = os.fstat(fd)
        if not stat.S_ISREG(info.st_mode) or info.st_size > _MAX_FILE:
            raise LocalStateError("not a plain file, or too big", where=str(path))
        return file.read()
