"""A git commit as records use it: one grammar, one byte string (docs/spec/record.md, "The commit").

The signature stays text here; `gitrel.keys.sshsig` reads it. What parses re-encodes to the same bytes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache

from gitrel.dataclass import dataclass
from gitrel.errors import FormatError
from gitrel.format.text import check_text, decode
from gitrel.ids import ObjectFormat, ObjectId

MAX_RECORD = 256 * 1024  # bytes; a record is a few hundred, a trust record 150 more for each deploy

_NAME = re.compile(r"[^\s<>\x00](?:[^<>\n\x00]*[^\s<>\x00])?")
_EMAIL = re.compile(r"[^\s<>\x00]+")
_STAMP = re.compile(r"(?P<name>[^<>\n]+) <(?P<email>[^<>\n]+)> (?P<time>0|[1-9][0-9]{0,11}) (?P<zone>[+-][0-9]{4})")
_ZONE = re.compile(r"[+-](?:0[0-9]|1[0-4])[0-5][0-9]")
MAX_TIME = 253402300799  # 9999-12-31T23:59:59Z, the last second that a four-digit year can name

_BEGIN = "-----BEGIN SSH SIGNATURE-----"
_END = "-----END SSH SIGNATURE-----"


@dataclass(frozen=True, slots=True, kw_only=True)
class Stamp:
    """Who and when, as a record claims it: shown to people, trusted by nothing.

    `time` is seconds since 1970 (0 … 9999-12-31), `zone` an offset such as `+0100`.
    """

    name: str
    email: str
    time: int
    zone: str = "+0000"

    def __post_init__(self) -> None:
        for value, shape, what in (
            (self.name, _NAME, "name"),
            (self.email, _EMAIL, "e-mail address"),
            (self.zone, _ZONE, "time zone"),
        ):
            if shape.fullmatch(value) is None:
                raise FormatError(f"not {'an' if what[0] == 'e' else 'a'} {what} that git can store: {value[:80]!r}")
            check_text(value, what)
        if not 0 <= self.time <= MAX_TIME:
            raise FormatError(f"not a time: {self.time}", why=f"0 to {MAX_TIME} seconds")

    @classmethod
    @lru_cache(maxsize=256)  # a ledger's records have author and committer alike
    def parse(cls, text: str) -> Stamp:
        match = _STAMP.fullmatch(text)
        if match is None:
            raise FormatError(f"not `name <email> seconds zone`: {text[:100]!r}")
        return cls(name=match["name"], email=match["email"], time=int(match["time"]), zone=match["zone"])

    def __str__(self) -> str:
        return f"{self.name} <{self.email}> {self.time} {self.zone}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Commit:
    """A commit's headers and message. `signature` is the armor without its final newline, or None: unsigned."""

    tree: ObjectId
    parents: tuple[ObjectId, ...]
    author: Stamp
    committer: Stamp
    signature: str | None
    message: str


def signature_header(fmt: ObjectFormat) -> str:
    """Where stock git keeps a commit's signature (git's `Documentation/technical/hash-function-transition`)."""
    return "gpgsig" if fmt is ObjectFormat.SHA1 else "gpgsig-sha256"


def encode_commit(commit: Commit) -> bytes:
    """The object's bytes; with `signature=None` they are what the signature is made over."""
    lines = [f"tree {commit.tree}"]
    lines += [f"parent {parent}" for parent in commit.parents]
    lines += [f"author {commit.author}", f"committer {commit.committer}"]
    if commit.signature is not None:
        header = signature_header(ObjectFormat.of(commit.tree))
        lines.append(f"{header} " + commit.signature.replace("\n", "\n "))
    return ("\n".join(lines) + "\n\n" + commit.message).encode()


def parse_commit(raw: bytes, fmt: ObjectFormat) -> Commit:
    """Exactly the headers tree, parent*, author, committer, signature, in that order. Raises `FormatError`.

    An unsigned commit is refused as well: there are no unsigned records.
    """
    if len(raw) > MAX_RECORD:
        raise FormatError("record too large", why=f"{len(raw)} bytes, at most {MAX_RECORD}")
    head, blank, message = decode(raw, "record").partition("\n\n")
    if not blank:
        raise FormatError("record without a message")
    lines = iter(head.split("\n"))
    line, tree = _header(lines, next(lines), "tree")
    parents: list[ObjectId] = []
    while line.startswith("parent "):
        line, parent = _header(lines, line, "parent")
        parents.append(_oid(parent, fmt))
    line, author = _header(lines, line, "author")
    line, committer = _header(lines, line, "committer")
    armor = _armor([line, *lines], signature_header(fmt))
    commit = Commit(
        tree=_oid(tree, fmt),
        parents=tuple(parents),
        author=Stamp.parse(author),
        committer=Stamp.parse(committer),
        signature=armor,
        message=message,
    )
    if encode_commit(commit) != raw:  # the grammar above leaves no room for this; the promise is kept all the same
        raise FormatError("record is not in its canonical form")
    return commit


def _header(lines: Iterator[str], line: str, name: str) -> tuple[str, str]:
    """The value of `line`, which must be the header `name`, and the line after it (empty at the end)."""
    if not line.startswith(f"{name} "):
        raise FormatError(f"expected the header {name!r}", why=f"found {line[:60]!r}")
    return next(lines, ""), line[len(name) + 1 :]


def _oid(text: str, fmt: ObjectFormat) -> ObjectId:
    oid = ObjectId(text)
    if not fmt.holds(oid):
        raise FormatError(f"an id of another object format: {text}", why=f"the repository uses {fmt.value}")
    return oid


def _armor(lines: list[str], header: str) -> str:
    first, *rest = lines
    if not first:
        raise FormatError("record is not signed")
    if first != f"{header} {_BEGIN}" or len(rest) < 2 or rest[-1] != f" {_END}":
        raise FormatError("not one SSH signature after the committer", why=f"found {first[:60]!r}")
    if any(not line.startswith(" ") for line in rest):
        raise FormatError("a header after the signature")
    return "\n".join([_BEGIN, *(line[1:] for line in rest)])
