"""The small state of a home that outlives everything: `state.json` (docs/server.md)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Self

from gitrel.dataclass import asdict, dataclass, field
from gitrel.errors import FormatError, LocalStateError, Refused
from gitrel.ids import App, Deploy, Entry, Host, ObjectId, RecordId, Sha256
from gitrel.run.life import Life
from gitrel.run.watch import Watch
from gitrel.trust.anchor import Anchor
from gitrel.trust.checks import Check

FORMAT = 1
MOST_SOURCES = 16  # places where a home asks: they share the time of a look


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """Why a release may not run, as `Refused` said it."""

    check: int
    what: str
    where: str
    why: str

    @classmethod
    def of(cls, error: Refused) -> Self:
        return cls(check=error.check, what=error.what, where=error.where, why=error.why)

    def __str__(self) -> str:
        return str(Refused(self.what, check=self.check, where=self.where, why=self.why))

    @property
    def pending(self) -> bool:
        """Too few people have signed so far."""
        return self.check == Check.THRESHOLD


@dataclass(frozen=True, slots=True, kw_only=True)
class Sight:
    """What a source showed when it was looked at last: `shown` is the digest of what a `Watch` asks for.
    `away`: why it did not answer; `odd`: what is wrong with what it shows. Both are None if all is well. `refused`:
    what is odd contradicts what was seen or does not verify; otherwise it gave less than was seen. `contact`: when all
    was well last, in seconds since 1970. `where`: its URL, as it may be shown.
    """

    shown: str = ""
    away: str | None = None
    odd: str | None = None
    refused: bool = False
    contact: float | None = None
    where: str = ""

    @property
    def behind(self) -> bool:
        """It answers, and cannot give what was seen: an older ledger, or a transfer that broke."""
        return self.away is None and self.odd is not None and not self.refused


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """What a server remembers.

    `seen`: the newest release that passed all checks of its records; nothing older is ever taken for newer.
    `ready`: the newest whose checkout is complete. `current`: where the link points. `good`: the newest that
    was healthy. `failed`: releases that did not run, and why; `refused`: those newer than `ready` that may not.
    `judged`: a digest of what the remote showed when all this was found out. `pinned`: chosen by hand on this
    server. `identity`: the file that secrets are read with, below the home or absolute. `lacking`: what kept a
    release from being started here. `configured`: the newest config that the remote shows, which nobody verified.
    `scales`: how many of a process type, where this server differs from the build. `released`: the releases
    whose release phase was done here. `mirrors`: where else than at `url` the ledgers may be had; `sights`: what each
    of all places showed, by URL; `forks`: where they differ, in words; `turn`: counts looks, for whose turn it is.
    `life`: what was signed when. `host`: as whom this server signs receipts, with the key in the file `receipt_key`,
    below the home or absolute.
    """

    app: App
    deploy: Deploy
    url: str
    pin: Sha256
    seen: Anchor | None = None
    ready: Entry | None = None
    current: Entry | None = None
    good: Entry | None = None
    pinned: Entry | None = None
    failed: Mapping[Entry, str] = field(default_factory=dict)
    refused: Mapping[Entry, Refusal] = field(default_factory=dict)
    judged: str | None = None
    contact: float | None = None
    trouble: str | None = None
    identity: str | None = None
    lacking: Mapping[Entry, str] = field(default_factory=dict)
    configured: Entry | None = None
    scales: Mapping[str, int] = field(default_factory=dict)
    released: frozenset[Entry] = frozenset()
    watch: Watch | None = None
    mirrors: tuple[str, ...] = ()
    sights: Mapping[str, Sight] = field(default_factory=dict)
    forks: tuple[str, ...] = ()
    turn: int = 0
    life: Life = field(default_factory=Life)
    host: Host | None = None
    receipt_key: str | None = None

    @property
    def sources(self) -> tuple[str, ...]:
        """Every URL, in the order in which they were given."""
        return (self.url, *self.mirrors)

    def stale_since(self, now: float) -> float | None:
        """Since when this server is stale (`gitrel.run.life`); None if it is not."""
        return self.life.stale_since(now, self.contact)

    def encode(self) -> bytes:
        document = {"format": FORMAT, **asdict(self), "life": self.life.encode()}
        seen = self.seen
        document["seen"] = seen and {
            "entry": str(seen.entry),
            "oid": seen.id.oid,
            "sha256": seen.id.sha256,
            "trust": str(seen.trust),
        }
        for key in ("ready", "current", "good", "pinned", "configured"):
            document[key] = document[key] and str(document[key])
        document["released"] = [str(entry) for entry in sorted(self.released)]
        for key in ("failed", "refused", "lacking"):
            document[key] = {str(entry): why for entry, why in document[key].items()}
        return (json.dumps(document, indent=2, ensure_ascii=False) + "\n").encode()

    @classmethod
    def parse(cls, raw: bytes, where: str) -> Self:
        """Raises `LocalStateError`; a file that this program did not write whole is never guessed at."""
        try:
            document = json.loads(raw)
            if document.pop("format") != FORMAT:
                raise FormatError("written by another version of gitrel")
            return cls(
                app=App(document["app"]),
                deploy=Deploy(document["deploy"]),
                url=str(document["url"]),
                pin=Sha256(document["pin"]),
                seen=_anchor(document["seen"]),
                ready=_entry(document["ready"]),
                current=_entry(document["current"]),
                good=_entry(document["good"]),
                pinned=_entry(document["pinned"]),
                failed={Entry.parse(key): str(why) for key, why in document["failed"].items()},
                refused={Entry.parse(key): Refusal(**why) for key, why in document["refused"].items()},
                judged=document["judged"],
                contact=document["contact"],
                trouble=document["trouble"],
                identity=document.get("identity"),  # from here on: keys that came later than format 1 did
                lacking={Entry.parse(key): str(why) for key, why in document.get("lacking", {}).items()},
                configured=_entry(document.get("configured")),
                scales={str(kind): int(number) for kind, number in document.get("scales", {}).items()},
                released=frozenset(map(Entry.parse, document.get("released", []))),
                watch=Watch.parse(document.get("watch")),
                mirrors=tuple(map(str, document.get("mirrors", ()))),
                sights={str(url): Sight(**sight) for url, sight in document.get("sights", {}).items()},
                forks=tuple(map(str, document.get("forks", ()))),
                turn=int(document.get("turn", 0)),
                life=Life.parse(document["life"]) if "life" in document else Life(),
                host=Host(document["host"]) if document.get("host") else None,
                receipt_key=document.get("receipt_key"),
            )
        except (ValueError, KeyError, TypeError, AttributeError, FormatError) as error:
            raise LocalStateError(
                "the home's state is damaged",
                where=where,
                why=str(error),
                hint="restore it from a backup, or `gitrel join` a new home beside this one",
            ) from error


def _anchor(document: Any) -> Anchor | None:
    if document is None:
        return None
    identity = RecordId(ObjectId(document["oid"]), Sha256(document["sha256"]))
    return Anchor(Entry.parse(document["entry"]), identity, Entry.parse(document["trust"]))


def _entry(text: Any) -> Entry | None:
    return None if text is None else Entry.parse(text)
