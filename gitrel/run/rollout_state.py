"""The words of `gitrel.run.rollout`: phases, events, actions, and the value that it steps through."""

from __future__ import annotations

from enum import StrEnum
from typing import TypeAlias

from gitrel.dataclass import dataclass, field, replace
from gitrel.run.formation import Formation


class Phase(StrEnum):
    EMPTY = "empty"
    PREPARING = "preparing"
    JOINING = "joining"
    SWITCHING = "switching"
    TRYING = "trying"
    STEADY = "steady"
    CLOSING = "closing"
    CLOSED = "closed"


@dataclass(frozen=True, slots=True, order=True)
class Member:
    """A process of one attempt at a formation; `attempt` tells two attempts at one release apart."""

    attempt: int
    name: str


# Events


@dataclass(frozen=True, slots=True)
class Wanted:
    formation: Formation


@dataclass(frozen=True, slots=True)
class Ready:
    """A process is healthy, or the release phase has ended well."""

    member: Member


@dataclass(frozen=True, slots=True)
class Failed:
    """A process exited unasked, could not be started, or was not healthy in time; the release phase failed."""

    member: Member
    why: str


@dataclass(frozen=True, slots=True)
class Gone:
    """A process that was told to stop, or ran once, is gone, with all it left behind."""

    member: Member


@dataclass(frozen=True, slots=True)
class Close:
    """Stop everything; said twice: at once."""


Event: TypeAlias = Wanted | Ready | Failed | Gone | Close
EVENTS: tuple[type[Event], ...] = (Wanted, Ready, Failed, Gone, Close)


# Actions


@dataclass(frozen=True, slots=True)
class Start:
    formation: Formation
    members: frozenset[Member]


@dataclass(frozen=True, slots=True)
class Stop:
    members: frozenset[Member]


@dataclass(frozen=True, slots=True)
class KillAll:
    pass


@dataclass(frozen=True, slots=True)
class MarkPrepared:
    formation: Formation


@dataclass(frozen=True, slots=True)
class MarkGood:
    formation: Formation


@dataclass(frozen=True, slots=True)
class MarkFailed:
    formation: Formation
    why: str


@dataclass(frozen=True, slots=True)
class Say:
    text: str


Action: TypeAlias = Start | Stop | KillAll | MarkPrepared | MarkGood | MarkFailed | Say

NOTHING = Formation(release="", processes=())


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """A formation as it was begun. `alive`: started and not yet gone; `waiting`: of these, not yet healthy."""

    number: int = 0
    formation: Formation = NOTHING
    alive: frozenset[str] = frozenset()
    waiting: frozenset[str] = frozenset()

    @property
    def release(self) -> str:
        return self.formation.release

    def members(self, names: frozenset[str] | None = None) -> frozenset[Member]:
        return frozenset(Member(self.number, name) for name in (self.alive if names is None else names))

    def start(self, names: frozenset[str]) -> Attempt:
        return replace(self, alive=self.alive | names, waiting=self.waiting | names)

    def drop(self, names: frozenset[str]) -> Attempt:
        return replace(self, alive=self.alive - names, waiting=self.waiting - names)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rollout:
    """`leaving`: stopped, not yet gone, and of no attempt any more; `failed`: releases; `later`: wanted once what is
    under way has ended; `trouble`: why TRYING lasts, or why nothing runs; `count`: attempts so far.
    """

    phase: Phase = Phase.EMPTY
    running: Attempt = field(default_factory=Attempt)
    next: Attempt = field(default_factory=Attempt)
    later: Formation | None = None
    good: Formation | None = None
    failed: frozenset[str] = frozenset()
    leaving: frozenset[Member] = frozenset()
    trouble: str = ""
    count: int = 0

    @property
    def alive(self) -> frozenset[Member]:
        return self.running.members() | self.next.members() | self.leaving
