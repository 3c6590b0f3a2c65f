"""What records say: seven kinds of values, each with its trailers and parents (docs/spec/record.md).

A record's message is a subject, optionally free text, and one block of trailers in a fixed order. Nothing here
says that a record is *good*: that is `gitrel.trust`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from datetime import UTC, datetime
from enum import StrEnum
from typing import ClassVar

from gitrel.dataclass import dataclass
from gitrel.errors import FormatError
from gitrel.format.commit import MAX_TIME
from gitrel.format.text import check_text
from gitrel.ids import (
    HEARTBEAT,
    TRUST,
    App,
    BuildRef,
    Deploy,
    Entry,
    Host,
    Ledger,
    LedgerKind,
    LedgerRef,
    ObjectId,
    RecordId,
    Sha256,
)

FORMAT = 1


@dataclass(frozen=True, slots=True)
class Cited:
    """`v7 <oid> <sha256>`: a ledger entry named by another record."""

    entry: Entry
    id: RecordId

    def __str__(self) -> str:
        return f"{self.entry} {self.id}"


@dataclass(frozen=True, slots=True)
class CitedRelease:
    """`staging v41 <oid> <sha256>`: a release of a named deploy."""

    deploy: Deploy
    entry: Entry
    id: RecordId

    def __str__(self) -> str:
        return f"{self.deploy} {self.entry} {self.id}"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Body(ABC):
    kind: ClassVar[str]
    app: App
    subject: str
    text: str = ""

    def __post_init__(self) -> None:
        check_text(self.subject, "subject")
        check_text(self.text, "message")
        if not self.subject or self.subject != self.subject.strip() or "\n" in self.subject:
            raise FormatError("a record's subject is one line without space around it", why=repr(self.subject[:60]))
        if self.text != self.text.strip("\n"):
            raise FormatError("a record's text does not begin or end with a newline")

    @abstractmethod
    def _trailers(self) -> Iterator[tuple[str, object]]:
        """Key and value, in the order of the spec; a value of None is left out."""

    @property
    def parents(self) -> tuple[ObjectId, ...]:
        return ()

    @property
    def message(self) -> str:
        head = [("Gitrel-Record", self.kind), ("Gitrel-Format", FORMAT), ("App", self.app)]
        trailers = "\n".join(f"{key}: {value}" for key, value in [*head, *self._trailers()] if value is not None)
        return "\n\n".join(part for part in (self.subject, self.text, trailers) if part) + "\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class TrustRecord(_Body):
    """Entry of the trust ledger; its tree holds `trust.toml` and `allowed_signers`. `heads` is sorted by deploy."""

    kind: ClassVar[str] = "trust"
    entry: Entry
    previous: RecordId | None
    heads: tuple[CitedRelease, ...] = ()
    tree_sha256: Sha256

    def _trailers(self) -> Iterator[tuple[str, object]]:
        yield "Entry", self.entry
        yield "Previous", self.previous
        for head in self.heads:
            yield "Head", head
        yield "Tree-SHA256", self.tree_sha256

    @property
    def parents(self) -> tuple[ObjectId, ...]:
        return (self.previous.oid,) if self.previous else ()

    @property
    def ref(self) -> LedgerRef:
        return TRUST[self.entry]


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigRecord(_Body):
    """Entry of a deploy's config ledger; its tree is the envdir."""

    kind: ClassVar[str] = "config"
    deploy: Deploy
    entry: Entry
    previous: RecordId | None
    trust: Cited
    tree_sha256: Sha256

    def _trailers(self) -> Iterator[tuple[str, object]]:
        yield "Deploy", self.deploy
        yield "Entry", self.entry
        yield "Previous", self.previous
        yield "Trust", self.trust
        yield "Tree-SHA256", self.tree_sha256

    @property
    def parents(self) -> tuple[ObjectId, ...]:
        return (self.previous.oid,) if self.previous else ()

    @property
    def ref(self) -> LedgerRef:
        return Ledger.config(self.deploy)[self.entry]


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildRecord(_Body):
    """A build; its tree holds `build/` and `provenance.json`."""

    kind: ClassVar[str] = "build"
    source: ObjectId
    trust: Cited
    tree_sha256: Sha256

    def _trailers(self) -> Iterator[tuple[str, object]]:
        yield "Source", self.source
        yield "Trust", self.trust
        yield "Tree-SHA256", self.tree_sha256


@dataclass(frozen=True, slots=True, kw_only=True)
class ReleaseRecord(_Body):
    """Entry of a deploy's release ledger; its tree holds `build/` and, unless it is empty, `config/`."""

    kind: ClassVar[str] = "release"
    deploy: Deploy
    entry: Entry
    previous: RecordId | None
    build: RecordId
    config: Cited | None
    trust: Cited
    rollback_to: Entry | None = None
    promoted_from: CitedRelease | None = None
    tree_sha256: Sha256

    def _trailers(self) -> Iterator[tuple[str, object]]:
        yield "Deploy", self.deploy
        yield "Entry", self.entry
        yield "Previous", self.previous
        yield "Build", self.build
        yield "Config", self.config
        yield "Trust", self.trust
        yield "Rollback-To", self.rollback_to
        yield "Promoted-From", self.promoted_from
        yield "Tree-SHA256", self.tree_sha256

    @property
    def parents(self) -> tuple[ObjectId, ...]:
        cited = (self.previous, self.build, self.config.id if self.config else None)
        return tuple(each.oid for each in cited if each is not None)

    @property
    def ref(self) -> LedgerRef:
        return Ledger.releases(self.deploy)[self.entry]


@dataclass(frozen=True, slots=True, kw_only=True)
class ApprovalRecord(_Body):
    """One more person's signature under a record: a signed annotated tag on it.

    `subject_of` is the approved record's ref as a value, `approved` its id.
    """

    kind: ClassVar[str] = "approval"
    trust: Cited
    subject_of: LedgerRef | BuildRef
    approved: RecordId

    def _trailers(self) -> Iterator[tuple[str, object]]:
        yield "Trust", self.trust
        yield "Record", f"{ref_words(self.subject_of)} {self.approved}"


@dataclass(frozen=True, slots=True, kw_only=True)
class HeartbeatRecord(_Body):
    """Entry of the heartbeat ledger: `heads`, sorted by deploy, are the newest releases. Its tree is empty."""

    kind: ClassVar[str] = "heartbeat"
    entry: Entry
    previous: RecordId | None
    trust: Cited
    heads: tuple[CitedRelease, ...] = ()
    tree_sha256: Sha256

    def _trailers(self) -> Iterator[tuple[str, object]]:
        yield "Entry", self.entry
        yield "Previous", self.previous
        yield "Trust", self.trust
        for head in self.heads:
            yield "Head", head
        yield "Tree-SHA256", self.tree_sha256

    @property
    def parents(self) -> tuple[ObjectId, ...]:
        return (self.previous.oid,) if self.previous else ()

    @property
    def ref(self) -> LedgerRef:
        return HEARTBEAT[self.entry]


class Health(StrEnum):
    """What became of a release on a host."""

    HEALTHY = "healthy"
    FAILED = "failed"
    ENDED = "ended"


@dataclass(frozen=True, slots=True, kw_only=True)
class ReceiptRecord(_Body):
    """Entry of a host's ledger of receipts: what it ran. Its tree is empty.

    `head` is the newest release that the host had seen, of the same deploy; `ran` the release's `Tree-SHA256`;
    `verdict` the check that refuses the release by the trust that the host had, None if none does. `start` and `end`
    are seconds since 1970 by the host's clock; there is an end unless the release is healthy.
    """

    kind: ClassVar[str] = "receipt"
    host: Host
    entry: Entry
    previous: RecordId | None
    trust: Cited
    head: CitedRelease
    release: CitedRelease
    ran: Sha256
    verdict: int | None
    health: Health
    start: int
    end: int | None = None
    tree_sha256: Sha256

    def __post_init__(self) -> None:
        # by name: the base class of a class with slots is not the one that `super()` without arguments would mean
        _Body.__post_init__(self)
        if self.head.deploy != self.release.deploy:
            raise FormatError("a receipt about two deploys", why=f"{self.release.deploy} and {self.head.deploy}")
        if (self.end is None) != (self.health is Health.HEALTHY):
            raise FormatError("a receipt has an end unless the release is healthy", why=self.health.value)
        if self.head.entry < self.release.entry or (
            self.head.entry == self.release.entry and self.head != self.release
        ):
            raise FormatError("a receipt whose head is not the newest", why=f"{self.head.entry}, {self.release.entry}")

    def _trailers(self) -> Iterator[tuple[str, object]]:
        yield "Host", self.host
        yield "Entry", self.entry
        yield "Previous", self.previous
        yield "Trust", self.trust
        yield "Head", self.head
        yield "Release", self.release
        yield "Ran", self.ran
        yield "Verdict", "good" if self.verdict is None else f"refused {self.verdict}"
        yield "Health", self.health.value
        yield "Start", utc_text(self.start)
        yield "End", None if self.end is None else utc_text(self.end)
        yield "Tree-SHA256", self.tree_sha256

    @property
    def parents(self) -> tuple[ObjectId, ...]:
        return (self.previous.oid,) if self.previous else ()

    @property
    def ref(self) -> LedgerRef:
        return Ledger.receipts(self.host)[self.entry]


AnyRecord = TrustRecord | ConfigRecord | BuildRecord | ReleaseRecord | HeartbeatRecord | ReceiptRecord


def utc_text(seconds: int) -> str:
    """`2031-05-04T03:00:00Z`; the years 1970 to 9999. Raises `FormatError`."""
    if not 0 <= seconds <= MAX_TIME:
        raise FormatError("not a time from 1970 to 9999", why=str(seconds))
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}Z"


def ref_words(ref: LedgerRef | BuildRef) -> str:
    """A record's name in a trailer: `release production v100`, `trust v4`, `build`."""
    match ref:
        case BuildRef():
            return "build"
        case LedgerRef(Ledger(LedgerKind.TRUST), entry):
            return f"trust {entry}"
        case LedgerRef(Ledger(kind, deploy), entry):
            return f"{kind.value.removesuffix('s')} {deploy} {entry}"
