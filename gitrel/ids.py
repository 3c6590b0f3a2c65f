"""Names and numbers as types: parsed once, at the edge, and trusted to be well formed from then on.

The string types are subclasses of `str` whose constructor validates, so that they print, sort, hash and
serialise as what they are, while a plain `str` where an id is wanted is a type error. Every constructor
raises `FormatError`.
"""

from __future__ import annotations

import hashlib
import re
from enum import StrEnum
from typing import ClassVar, Self

from gitrel.dataclass import dataclass
from gitrel.errors import FormatError

Kind = str  # an object's kind as git spells it: "commit", "tree", "blob", "tag"


class _Word(str):
    """A string of one shape."""

    __slots__ = ()
    _shape: ClassVar[re.Pattern[str]]
    _what: ClassVar[str]

    def __new__(cls, text: str) -> Self:
        if cls._shape.fullmatch(text) is None:
            raise FormatError(f"not {cls._what}: {text[:100]!r}")
        return super().__new__(cls, text)


class ObjectId(_Word):
    """A git object id: 40 (SHA-1) or 64 (SHA-256) lower-case hex digits."""

    __slots__ = ()
    _shape = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
    _what = "a git object id"

    @classmethod
    def from_raw(cls, raw: bytes) -> Self:
        return str.__new__(cls, raw.hex()) if len(raw) in (20, 32) else cls(raw.hex())

    @classmethod
    def from_hex(cls, digits: bytes) -> Self:
        """Of what is known to be 40 or 64 lower-case digits: this is on the way of each ref that is listed."""
        return str.__new__(cls, digits.decode("ascii"))

    @property
    def raw(self) -> bytes:
        return bytes.fromhex(self)


class Sha256(_Word):
    """A SHA-256 digest, 64 lower-case hex digits; always over a git object *with* its header."""

    __slots__ = ()
    _shape = re.compile(r"[0-9a-f]{64}")
    _what = "a SHA-256 digest"

    @classmethod
    def of(cls, kind: Kind, data: bytes) -> Self:
        return str.__new__(cls, _object_digest("sha256", kind, data))

    @property
    def raw(self) -> bytes:
        return bytes.fromhex(self)


_DIGESTS = {"sha1": hashlib.sha1, "sha256": hashlib.sha256}


def _object_digest(algorithm: str, kind: Kind, data: bytes) -> str:
    digest = _DIGESTS[algorithm](b"%s %d\0" % (kind.encode(), len(data)), usedforsecurity=False)
    digest.update(data)
    return digest.hexdigest()


class ObjectFormat(StrEnum):
    """The hash function that names a repository's objects (`extensions.objectFormat`, git-config(1))."""

    SHA1 = "sha1"
    SHA256 = "sha256"

    @property
    def raw_length(self) -> int:
        return 20 if self is ObjectFormat.SHA1 else 32

    def object_id(self, kind: Kind, data: bytes) -> ObjectId:
        """The id of an object; gitobject header and data are hashed as git-hash-object(1) does."""
        return str.__new__(ObjectId, _object_digest(self.value, kind, data))

    def holds(self, oid: ObjectId) -> bool:
        return len(oid) == 2 * self.raw_length

    @classmethod
    def of(cls, oid: ObjectId) -> ObjectFormat:
        return cls.SHA1 if len(oid) == 40 else cls.SHA256


class KeyId(_Word):
    """Hex SHA-256 of a public key blob (RFC 4253, section 6.6)."""

    __slots__ = ()
    _shape = re.compile(r"[0-9a-f]{64}")
    _what = "a key id"

    @classmethod
    def of(cls, blob: bytes) -> Self:
        return cls(hashlib.sha256(blob).hexdigest())


class App(_Word):
    __slots__ = ()
    _shape = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
    _what = "an app's name ([a-z0-9][a-z0-9-]*, at most 63 characters)"


class PersonName(_Word):
    """Who holds keys: a person, or a machine such as CI. A principal of ssh-keygen(1), without its wildcards."""

    __slots__ = ()
    _shape = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@+-]{0,127}")
    _what = "a person's name ([A-Za-z0-9][A-Za-z0-9._@+-]*)"


class Deploy(_Word):
    """The name of a deploy: `production`, `staging`, …"""

    __slots__ = ()
    _shape = re.compile(r"(?!v[0-9]+\Z)[a-z][a-z0-9-]{0,62}")
    _what = "a deploy's name ([a-z][a-z0-9-]*, at most 63 characters, not v and digits)"


PRODUCTION = Deploy("production")


class Host(_Word):
    """The name of a server that signs receipts; in `trust.toml` it is a person of that name."""

    __slots__ = ()
    _shape = Deploy._shape
    _what = "a host's name ([a-z][a-z0-9-]*, at most 63 characters, not v and digits)"


class Entry(int):
    """A position in a ledger, from 1; `str(Entry(100))` is `v100`."""

    __slots__ = ()
    _shape: ClassVar[re.Pattern[str]] = re.compile(r"v([1-9][0-9]{0,8})")

    def __new__(cls, number: int) -> Self:
        if not 1 <= number < 10**9:
            raise FormatError(f"not a ledger position: {number}")
        return super().__new__(cls, number)

    @classmethod
    def parse(cls, text: str) -> Self:
        match = cls._shape.fullmatch(text)
        if match is None:
            raise FormatError(f"not a ledger position such as v12: {text[:100]!r}")
        return cls(int(match[1]))

    def __str__(self) -> str:
        return f"v{int(self)}"

    __repr__ = __str__

    @property
    def next(self) -> Entry:
        return Entry(self + 1)


@dataclass(frozen=True, slots=True)
class RecordId:
    """What a record is called by others: git's id, and SHA-256 over the same bytes."""

    oid: ObjectId
    sha256: Sha256

    @classmethod
    def of(cls, kind: Kind, raw: bytes, fmt: ObjectFormat) -> RecordId:
        return cls(fmt.object_id(kind, raw), Sha256.of(kind, raw))

    def __str__(self) -> str:
        return f"{self.oid} {self.sha256}"


class LedgerKind(StrEnum):
    TRUST = "trust"
    CONFIG = "config"
    RELEASE = "releases"
    HEARTBEAT = "heartbeat"
    RECEIPT = "receipts"


@dataclass(frozen=True, slots=True, order=True)
class Ledger:
    """A numbered series of records under one ref prefix. Config and releases have a deploy, receipts a host."""

    kind: LedgerKind
    deploy: Deploy | None = None
    host: Host | None = None

    @classmethod
    def releases(cls, deploy: Deploy) -> Ledger:
        return cls(LedgerKind.RELEASE, deploy)

    @classmethod
    def config(cls, deploy: Deploy) -> Ledger:
        return cls(LedgerKind.CONFIG, deploy)

    @classmethod
    def receipts(cls, host: Host) -> Ledger:
        return cls(LedgerKind.RECEIPT, host=host)

    @property
    def prefix(self) -> str:
        """All of the ledger's refs, and no other well-formed ref, begin with this."""
        owner = self.host or self.deploy
        if owner is None or self.deploy == PRODUCTION:
            return f"refs/{self.kind.value}/v"
        return f"refs/{self.kind.value}/{owner}/v"

    def __getitem__(self, entry: int) -> LedgerRef:
        return LedgerRef(self, Entry(entry))

    def __str__(self) -> str:
        name, owner = self.kind.value.removesuffix("s"), self.host or self.deploy
        return name if owner is None else f"{name} ({owner})"


TRUST = Ledger(LedgerKind.TRUST)
HEARTBEAT = Ledger(LedgerKind.HEARTBEAT)


@dataclass(frozen=True, slots=True, order=True)
class LedgerRef:
    """`refs/releases/v7`, `refs/config/staging/v2`, `refs/trust/v1`, `refs/receipts/web1/v3`."""

    ledger: Ledger
    entry: Entry

    def __str__(self) -> str:
        return f"{self.ledger.prefix}{int(self.entry)}"


@dataclass(frozen=True, slots=True, order=True)
class BuildRef:
    """`refs/builds/<id of the build record>`."""

    build: ObjectId

    def __str__(self) -> str:
        return f"refs/builds/{self.build}"


@dataclass(frozen=True, slots=True, order=True)
class ApprovalRef:
    """`refs/approvals/<id of the record>/<key id>`."""

    record: ObjectId
    key: KeyId

    def __str__(self) -> str:
        return f"refs/approvals/{self.record}/{self.key}"


RefName = LedgerRef | BuildRef | ApprovalRef


# What the refs of records begin with. Witnesses are many and small: they are mirrored where somebody asks for them.
NAMESPACES = ("refs/trust/", "refs/config/", "refs/builds/", "refs/releases/", "refs/approvals/")
WITNESSES = ("refs/heartbeat/", "refs/receipts/")


def parse_ref(name: str) -> RefName:
    """The one reading of a ref's full name. Raises `FormatError` for every other spelling (`v06`, `V6`, `6`)."""
    try:
        match name.split("/"):
            case ["refs", "trust", entry]:
                return TRUST[Entry.parse(entry)]
            case ["refs", "heartbeat", entry]:
                return HEARTBEAT[Entry.parse(entry)]
            case ["refs", "receipts", host, entry]:
                return Ledger.receipts(Host(host))[Entry.parse(entry)]
            case ["refs", "builds", build]:
                return BuildRef(ObjectId(build))
            case ["refs", "approvals", record, key]:
                return ApprovalRef(ObjectId(record), KeyId(key))
            case ["refs", "config" | "releases" as kind, entry]:
                return Ledger(LedgerKind(kind), PRODUCTION)[Entry.parse(entry)]
            case ["refs", "config" | "releases" as kind, deploy, entry] if deploy != PRODUCTION:
                return Ledger(LedgerKind(kind), Deploy(deploy))[Entry.parse(entry)]
    except FormatError as error:
        raise FormatError("not a ref of gitrel's", where=name[:200], why=error.what) from None
    raise FormatError("not a ref of gitrel's", where=name[:200])


def names_record(name: str) -> bool:
    """Whether a full ref name is that of a record."""
    try:
        parse_ref(name)
    except FormatError:
        return False
    return True
