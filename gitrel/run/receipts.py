"""What a server has to say about the releases it ran, until it is signed and sent: `receipts.json` in the home.

The supervisor writes down what happens; that is all it does. A short-lived child signs and pushes it
(`gitrel.cli.receipts`). What was signed keeps its number, so it stays as it is until the remote has it. Not more than
`MOST` wait: then the oldest that was not signed is forgotten, and counted.

    {"format": 1, "newest": {"entry": "v7", "oid": "…", "sha256": "…"}, "trouble": null, "forgotten": 0,
     "waiting": [{"release": "v3", "health": "healthy", "start": 1700000000, "end": null, "signed": null}]}

`newest`: the last of this host's receipts that the remote has, null where that is not known. Times are seconds since
1970 by this host's clock.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol, Self

from gitrel.dataclass import asdict, dataclass, replace
from gitrel.errors import FormatError, LocalStateError
from gitrel.ids import Entry, ObjectId, RecordId, Sha256
from gitrel.run.formation import Formation
from gitrel.run.home import Home
from gitrel.store.durable import replace_file

FILE = "receipts.json"
FORMAT = 1
MOST = 64
HEALTHY, FAILED, ENDED = "healthy", "failed", "ended"


@dataclass(frozen=True, slots=True, kw_only=True)
class Happening:
    """`signed`: the record's text, once there is one."""

    release: Entry
    health: str
    start: int
    end: int | None = None
    signed: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Outbox:
    newest: tuple[Entry, RecordId] | None = None
    waiting: tuple[Happening, ...] = ()
    forgotten: int = 0
    trouble: str | None = None

    def add(self, *happenings: Happening) -> Outbox:
        """With some more, and the oldest unsigned ones forgotten if there are too many."""
        signed = [each for each in self.waiting if each.signed is not None]
        fresh = [*(each for each in self.waiting if each.signed is None), *happenings]
        over = max(0, len(signed) + len(fresh) - MOST)
        return replace(self, waiting=(*signed, *fresh[over:]), forgotten=self.forgotten + min(over, len(fresh)))

    def unsigned(self) -> Outbox:
        """To sign all of it anew, on top of whatever the remote has."""
        return replace(self, newest=None, waiting=tuple(replace(each, signed=None) for each in self.waiting))

    def encode(self) -> bytes:
        newest = self.newest
        document = {
            "format": FORMAT,
            "newest": newest and {"entry": str(newest[0]), "oid": newest[1].oid, "sha256": newest[1].sha256},
            "trouble": self.trouble,
            "forgotten": self.forgotten,
            "waiting": [{**asdict(each), "release": str(each.release)} for each in self.waiting],
        }
        return (json.dumps(document, indent=1) + "\n").encode()

    @classmethod
    def parse(cls, raw: bytes, where: str) -> Self:
        """Raises `LocalStateError`."""
        try:
            document: dict[str, Any] = json.loads(raw)
            if document["format"] != FORMAT:
                raise FormatError("written by another version of gitrel")
            newest = document["newest"]
            return cls(
                newest=newest
                and (Entry.parse(newest["entry"]), RecordId(ObjectId(newest["oid"]), Sha256(newest["sha256"]))),
                waiting=tuple(
                    Happening(**{**each, "release": Entry.parse(each["release"])}) for each in document["waiting"]
                ),
                forgotten=int(document["forgotten"]),
                trouble=document["trouble"],
            )
        except (ValueError, KeyError, TypeError, FormatError) as error:
            hint = "remove the file: what waits in it is lost, nothing else"
            raise LocalStateError("the outbox is damaged", where=where, why=str(error), hint=hint) from error


def read_outbox(home: Home) -> Outbox:
    """Raises `LocalStateError`."""
    path = home.path / FILE
    try:
        return Outbox.parse(path.read_bytes(), str(path))
    except FileNotFoundError:
        return Outbox()
    except OSError as error:
        raise LocalStateError("cannot read the outbox", where=str(path), why=error.strerror or "") from error


def change_outbox(home: Home, change: Callable[[Outbox], Outbox]) -> Outbox:
    """Read, change, write, with nobody in between; durable when it returns. Raises `LocalStateError`."""
    with home.lock("receipts", wait=True):
        before = read_outbox(home)
        after = change(before)
        if after != before:
            replace_file(home.path / FILE, after.encode(), 0o600)
        return after


class Recorder(Protocol):
    """As `gitrel.run.supervise` has it."""

    def wanted(self, formation: Formation) -> None: ...
    def prepared(self, formation: Formation) -> None: ...
    def good(self, formation: Formation) -> None: ...
    def failed(self, formation: Formation, why: str, last_words: Sequence[bytes]) -> None: ...


class ReceiptRecorder:
    """Has `inner` remember what becomes of formations, and writes it down for the receipts. A call that raised may be
    made again, also when `inner` was done.
    """

    def __init__(self, inner: Recorder, home: Home, clock: Callable[[], float] = time.time) -> None:
        self._inner = inner
        self._home = home
        self._clock = clock
        self._running: tuple[Entry, int] | None = None
        self._begun: dict[Entry, int] = {}

    def wanted(self, formation: Formation) -> None:
        self._inner.wanted(formation)
        if formation.processes:
            self._begun = {Entry.parse(formation.release): int(self._clock())}

    def prepared(self, formation: Formation) -> None:
        self._inner.prepared(formation)

    def good(self, formation: Formation) -> None:
        """One that is good again with another scale is what it was."""
        self._inner.good(formation)
        release = Entry.parse(formation.release) if formation.processes else None
        if self._running is not None and self._running[0] == release:
            return
        now = int(self._clock())
        fresh = [] if release is None else [Happening(release=release, health=HEALTHY, start=now)]
        change_outbox(self._home, lambda box: box.add(*self._ended(now), *fresh))
        self._running = None if release is None else (release, now)

    def failed(self, formation: Formation, why: str, last_words: Sequence[bytes]) -> None:
        """What ran before it, if anything, may have had to stop for it; going back to that is another start."""
        self._inner.failed(formation, why, last_words)
        release, now = Entry.parse(formation.release), int(self._clock())
        begun = self._begun.get(release, now)
        happened = Happening(release=release, health=FAILED, start=begun, end=max(begun, now))
        change_outbox(self._home, lambda box: box.add(*self._ended(now), happened))
        self._running = None

    def closed(self) -> None:
        """Nothing runs any more."""
        now = int(self._clock())
        change_outbox(self._home, lambda box: box.add(*self._ended(now)))
        self._running = None

    def _ended(self, now: int) -> list[Happening]:
        if self._running is None:
            return []
        release, start = self._running
        return [Happening(release=release, health=ENDED, start=start, end=max(start, now))]
