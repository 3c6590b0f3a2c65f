"""A record's message, read: subject, text and trailers, back to the values of `gitrel.format.body`."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable
from datetime import datetime
from itertools import pairwise

from gitrel.errors import FormatError
from gitrel.format.body import (
    FORMAT,
    AnyRecord,
    ApprovalRecord,
    BuildRecord,
    Cited,
    CitedRelease,
    ConfigRecord,
    Health,
    HeartbeatRecord,
    ReceiptRecord,
    ReleaseRecord,
    TrustRecord,
)
from gitrel.ids import (
    TRUST,
    App,
    BuildRef,
    Deploy,
    Entry,
    Host,
    Ledger,
    LedgerRef,
    ObjectFormat,
    ObjectId,
    RecordId,
    Sha256,
)

_NUMBER = re.compile(r"[1-9][0-9]{0,8}")
_REFUSED = re.compile(r"refused ([1-9][0-9]?)")
_TIME = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z")


class _Trailers:
    """The trailer block, taken line by line in the order of the spec."""

    def __init__(self, block: str, fmt: ObjectFormat) -> None:
        self._lines = block.split("\n")[::-1]  # the next one last
        self._fmt = fmt

    def optional(self, key: str) -> str | None:
        if not self._lines:
            return None
        name, _, value = self._lines[-1].partition(": ")
        if name != key:
            return None
        if not value or value != value.strip():
            raise FormatError("not a trailer", why=repr(self._lines[-1][:80]))
        del self._lines[-1]
        return value

    def take(self, key: str) -> str:
        value = self.optional(key)
        if value is None:
            found = repr(self._lines[-1][:60]) if self._lines else "the end"
            raise FormatError(f"expected the trailer {key!r}", why=f"found {found}")
        return value

    def end(self) -> None:
        if self._lines:
            raise FormatError("a trailer that does not belong here", why=repr(self._lines[-1][:80]))

    def oid(self, text: str) -> ObjectId:
        oid = ObjectId(text)
        if not self._fmt.holds(oid):
            raise FormatError(f"an id of another object format: {text}")
        return oid

    def record_id(self, text: str) -> RecordId:
        oid, _, sha256 = text.partition(" ")
        return RecordId(self.oid(oid), Sha256(sha256))

    def previous(self, entry: Entry) -> RecordId | None:
        """`Previous`: there in every entry but the first."""
        text = self.optional("Previous")
        if (text is None) != (entry == 1):
            raise FormatError(f"{entry} {'names' if text else 'does not name'} a previous entry")
        return self.record_id(text) if text else None

    def cited(self, text: str) -> Cited:
        entry, _, rest = text.partition(" ")
        return Cited(Entry.parse(entry), self.record_id(rest))

    def cited_release(self, text: str) -> CitedRelease:
        deploy, _, rest = text.partition(" ")
        cited = self.cited(rest)
        return CitedRelease(Deploy(deploy), cited.entry, cited.id)

    def heads(self) -> tuple[CitedRelease, ...]:
        """`Head`, any number of times."""
        heads: list[CitedRelease] = []
        while (head := self.optional("Head")) is not None:
            heads.append(self.cited_release(head))
        if any(a.deploy >= b.deploy for a, b in pairwise(heads)):
            raise FormatError("the heads are not sorted by deploy, each once")
        return tuple(heads)


def parse_message(message: str, fmt: ObjectFormat) -> AnyRecord | ApprovalRecord:
    """Raises `FormatError` for any message that does not come back byte for byte."""
    if not message.endswith("\n"):
        raise FormatError("the message does not end in a newline")
    head, blank, block = message[:-1].rpartition("\n\n")
    if not blank:
        raise FormatError("the message has no block of trailers")
    subject, _, text = head.partition("\n\n")
    trailers = _Trailers(block, fmt)
    kind = trailers.take("Gitrel-Record")
    number = trailers.take("Gitrel-Format")
    if number != str(FORMAT):
        newer = _NUMBER.fullmatch(number) is not None
        raise FormatError(
            f"record format {number[:20]!r}",
            why="needs a newer gitrel" if newer else "not a format",
            hint="upgrade gitrel" if newer else "",
        )
    if kind not in _PARSERS:
        raise FormatError(f"not a kind of record: {kind[:40]!r}")
    body: AnyRecord | ApprovalRecord = _PARSERS[kind](trailers, App(trailers.take("App")), subject, text)
    trailers.end()
    if body.message != message:
        raise FormatError("the message is not in its canonical form")
    return body


def _trust(t: _Trailers, app: App, subject: str, text: str) -> TrustRecord:
    entry = Entry.parse(t.take("Entry"))
    previous = t.previous(entry)
    return TrustRecord(
        app=app,
        subject=subject,
        text=text,
        entry=entry,
        previous=previous,
        heads=t.heads(),
        tree_sha256=Sha256(t.take("Tree-SHA256")),
    )


def _config(t: _Trailers, app: App, subject: str, text: str) -> ConfigRecord:
    return ConfigRecord(
        app=app,
        subject=subject,
        text=text,
        deploy=Deploy(t.take("Deploy")),
        entry=(entry := Entry.parse(t.take("Entry"))),
        previous=t.previous(entry),
        trust=t.cited(t.take("Trust")),
        tree_sha256=Sha256(t.take("Tree-SHA256")),
    )


def _build(t: _Trailers, app: App, subject: str, text: str) -> BuildRecord:
    return BuildRecord(
        app=app,
        subject=subject,
        text=text,
        source=t.oid(t.take("Source")),
        trust=t.cited(t.take("Trust")),
        tree_sha256=Sha256(t.take("Tree-SHA256")),
    )


def _release(t: _Trailers, app: App, subject: str, text: str) -> ReleaseRecord:
    return ReleaseRecord(
        app=app,
        subject=subject,
        text=text,
        deploy=Deploy(t.take("Deploy")),
        entry=(entry := Entry.parse(t.take("Entry"))),
        previous=t.previous(entry),
        build=t.record_id(t.take("Build")),
        config=t.cited(cited) if (cited := t.optional("Config")) else None,
        trust=t.cited(t.take("Trust")),
        rollback_to=Entry.parse(back) if (back := t.optional("Rollback-To")) else None,
        promoted_from=t.cited_release(origin) if (origin := t.optional("Promoted-From")) else None,
        tree_sha256=Sha256(t.take("Tree-SHA256")),
    )


def _heartbeat(t: _Trailers, app: App, subject: str, text: str) -> HeartbeatRecord:
    return HeartbeatRecord(
        app=app,
        subject=subject,
        text=text,
        entry=(entry := Entry.parse(t.take("Entry"))),
        previous=t.previous(entry),
        trust=t.cited(t.take("Trust")),
        heads=t.heads(),
        tree_sha256=Sha256(t.take("Tree-SHA256")),
    )


def _receipt(t: _Trailers, app: App, subject: str, text: str) -> ReceiptRecord:
    return ReceiptRecord(
        app=app,
        subject=subject,
        text=text,
        host=Host(t.take("Host")),
        entry=(entry := Entry.parse(t.take("Entry"))),
        previous=t.previous(entry),
        trust=t.cited(t.take("Trust")),
        head=t.cited_release(t.take("Head")),
        release=t.cited_release(t.take("Release")),
        ran=Sha256(t.take("Ran")),
        verdict=_verdict(t.take("Verdict")),
        health=_health(t.take("Health")),
        start=_seconds(t.take("Start")),
        end=_seconds(end) if (end := t.optional("End")) else None,
        tree_sha256=Sha256(t.take("Tree-SHA256")),
    )


def _verdict(text: str) -> int | None:
    if text == "good":
        return None
    match = _REFUSED.fullmatch(text)
    if match is None:
        raise FormatError(f"not a verdict: {text[:40]!r}")
    return int(match[1])


def _health(text: str) -> Health:
    with contextlib.suppress(ValueError):
        return Health(text)
    raise FormatError(f"not a state of health: {text[:40]!r}")


def _seconds(text: str) -> int:
    """`YYYY-MM-DDTHH:MM:SSZ`; what is no date, or another spelling of one, does not come back as it was."""
    with contextlib.suppress(ValueError):
        if _TIME.fullmatch(text):
            return int(datetime.fromisoformat(text).timestamp())
    raise FormatError(f"not a time such as 2031-05-04T03:00:00Z: {text[:40]!r}")


def _approval(t: _Trailers, app: App, subject: str, text: str) -> ApprovalRecord:
    trust = t.cited(t.take("Trust"))
    words = t.take("Record").split(" ")
    if len(words) < 3:
        raise FormatError("an approval names no record")
    return ApprovalRecord(
        app=app,
        subject=subject,
        text=text,
        trust=trust,
        approved=(approved := t.record_id(" ".join(words[-2:]))),
        subject_of=_parse_ref_words(words[:-2], approved.oid),
    )


def _parse_ref_words(words: list[str], oid: ObjectId) -> LedgerRef | BuildRef:
    match words:
        case ["build"]:
            return BuildRef(oid)
        case ["trust", entry]:
            return TRUST[Entry.parse(entry)]
        case ["config", deploy, entry]:
            return Ledger.config(Deploy(deploy))[Entry.parse(entry)]
        case ["release", deploy, entry]:
            return Ledger.releases(Deploy(deploy))[Entry.parse(entry)]
    raise FormatError(f"not a record's name: {' '.join(words)[:80]!r}")


_PARSERS: dict[str, Callable[[_Trailers, App, str, str], AnyRecord | ApprovalRecord]] = {
    "trust": _trust,
    "config": _config,
    "build": _build,
    "release": _release,
    "heartbeat": _heartbeat,
    "receipt": _receipt,
    "approval": _approval,
}
