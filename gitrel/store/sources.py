"""Which builds are of which source commit: an index beside the repository, for finding only.

    <id of the build record> SP <id of the source commit, or `-` of what is no build record> LF

Each line was read from the bytes that the record's id names, so it never grows old, and who finds a build here verifies
it. Records that came since are read, at 0.1 ms each, and added when they are `MANY`; so a repository with fewer builds
has no such file. One that is gone or torn is made again.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable

from gitrel.errors import FormatError, LocalStateError, NotFound
from gitrel.format.record import BuildRecord, parse_record_as
from gitrel.ids import BuildRef, ObjectId
from gitrel.store.durable import make_folders, replace_file
from gitrel.store.repository import Repository

MANY = 100  # records
_LINE = re.compile(rb"^([0-9a-f]{40,64}) ([0-9a-f]{40,64}|-)\n", re.MULTILINE)


def builds_of(repo: Repository, source: ObjectId) -> dict[str, ObjectId]:
    """The refs of the builds that say that they are of a source commit; unverified. Raises `LocalStateError`."""
    path = repo.path / "gitrel" / "sources"
    try:
        indexed = dict(_LINE.findall(path.read_bytes()))
    except FileNotFoundError:
        indexed = {}
    except OSError as error:
        raise LocalStateError("cannot read", where=str(path), why=error.strerror or str(error)) from error
    there = repo.refs.lines("refs/builds/").values()
    new = _read(repo, (oid for oid in there if oid not in indexed))
    indexed |= new
    if len(new) >= MANY:
        with contextlib.suppress(LocalStateError):  # a folder that is full or read-only costs time, and no more
            make_folders(path.parent)
            replace_file(path, b"".join(b"%s %s\n" % line for line in indexed.items() if line[1]))
    wanted = source.encode()
    found = [ObjectId.from_hex(oid) for oid in there if indexed[oid] == wanted]
    return {str(BuildRef(oid)): oid for oid in found}


def _read(repo: Repository, builds: Iterable[bytes]) -> dict[bytes, bytes]:
    found: dict[bytes, bytes] = {}
    for oid in builds:
        try:
            raw = repo.read(ObjectId.from_hex(oid), "commit")
        except (NotFound, LocalStateError):
            found[oid] = b""  # not a line: it may be here the next time
            continue
        with contextlib.suppress(FormatError):
            found[oid] = b"-"
            found[oid] = parse_record_as(BuildRecord, raw, repo.format).record.source.encode()
    return found
