"""Which release runs, and as what: from the home's state to a verified formation, without the network."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from typing import Self

from gitrel.dataclass import asdict, dataclass, field, replace
from gitrel.errors import BadInput, FormatError, GitrelError, LocalStateError, NotFound, NoUsableKey, Refused
from gitrel.format.manifest import RELEASE_PHASE
from gitrel.format.record import ReleaseRecord, parse_record_as
from gitrel.ids import Entry, Ledger
from gitrel.run.formation import Formation, Wish
from gitrel.run.home import Home
from gitrel.run.judge import judge_here
from gitrel.run.layout import Layout
from gitrel.run.leases import Leases
from gitrel.run.prepare import prepare
from gitrel.run.state import State
from gitrel.trust.checks import Check
from gitrel.trust.content import VerifiedRelease


def candidates(state: State, entry: Entry | None = None) -> list[Entry]:
    """The releases that may be run, best first: the one asked for, the pinned one, the newest, the last good one.

    Raises `NotFound` if nothing was pulled yet.
    """
    newest = state.ready if state.ready not in state.failed else None
    ordered = [entry, state.pinned, newest, state.good, state.ready]
    found = list(dict.fromkeys(each for each in ordered if each is not None))
    if not found:
        raise NotFound("no release here yet", why=state.trouble or "", hint="`gitrel pull` fetches one")
    return found


def verify_here(home: Home, state: State, entry: Entry, *, rehash: bool = False) -> VerifiedRelease:
    """Verify a release that was pulled earlier, again, from the home's own objects, and its checkout.

    A checkout that was tampered with is replaced. Raises `NotFound`, `Refused`, `LocalStateError`.
    """
    with home.repository() as repo:
        return prepare(home, repo, judge_here(home, repo, state, entry), rehash=rehash)


def note_lacking(home: Home, problems: Mapping[Entry, GitrelError]) -> None:
    """Remember which releases this server cannot start as it is, for `status`; forget those that it can."""
    lacking = {entry: str(error) for entry, error in problems.items() if isinstance(error, BadInput | NoUsableKey)}
    home.change_state(lambda state: replace(state, lacking=lacking))


def check_startable(home: Home, entry: Entry) -> None:
    """Whether a release that was pulled could start here. Raises what keeps it from that, which is remembered."""
    try:
        Layout(home, verify_here(home, home.read_state(), entry))
    except (BadInput, NoUsableKey) as error:
        note_lacking(home, {entry: error})
        raise
    note_lacking(home, {})


def carried_config(home: Home, state: State) -> Entry | None:
    """The config entry that the current release carries. It was verified when it was pulled."""
    if state.current is None:
        return None
    with home.repository() as repo:
        oid = repo.refs.get(str(Ledger.releases(state.deploy)[state.current]))
        try:
            found = parse_record_as(ReleaseRecord, repo.read(oid, "commit"), repo.format).record if oid else None
        except FormatError:
            return None  # the next start says what is wrong with it
    return found.config.entry if found and found.config else None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Token:
    """What a look found, for the next one to compare with. `said`: a digest of what it said."""

    release: str = ""
    scales: Mapping[str, int] = field(default_factory=dict)
    said: str = ""

    def encode(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def parse(cls, text: str) -> Self:
        """Raises `ValueError`, `TypeError`."""
        return cls(**json.loads(text)) if text else cls()


class Choice:
    """Which release is to run, asked at the start and at every look.

    `leases` gets one of each release that may run. `wanted` was asked for by number. `release_phase`: whether this
    home is one where it runs. `say` gets what a person should know about a release that was passed over, once as
    long as it stays the same. The checkout of a release that was found before is left alone: its processes may be
    running in it.
    """

    def __init__(
        self,
        home: Home,
        leases: Leases,
        wanted: Entry | None,
        *,
        scales: Mapping[str, int],
        port: int,
        release_phase: bool,
        stop_if_repudiated: bool,
        say: Callable[[str], None],
    ) -> None:
        self._home = home
        self._leases = leases
        self._wanted = wanted
        self._scales = scales
        self._port = port
        self._release_phase = release_phase
        self._stop_if_repudiated = stop_if_repudiated
        self._say = say
        self._remarks: list[str] = []

    def first(self, *, follow: bool) -> Wish:
        """At the start: what is wanted, and what to go back to if that fails.

        Raises the `GitrelError` for which the best release cannot run, if nothing is followed.
        """
        good = self._last_good()
        try:
            wanted, token = self._resolve(_Token())
        except GitrelError as error:
            if not follow:
                raise
            self._remarks.append(f"nothing to run yet: {error}")
            wanted, token = None, _Token()
        return Wish(token=self._speak(token, ""), wanted=wanted, good=good)

    def again(self, last: str) -> Wish:
        """At a later look; `last` is the token of the one before."""
        before = _Token.parse(last)
        try:
            wanted, token = self._resolve(before)
        except GitrelError as error:
            self._remarks.append(f"going on with what runs: {error}")
            wanted, token = None, before
        return Wish(token=self._speak(token, before.said), same=wanted is None, wanted=wanted)

    def _speak(self, token: _Token, before: str) -> str:
        """Say what there is to say, if it is not what was said before; the token that remembers it."""
        said = hashlib.sha256("\n".join(self._remarks).encode()).hexdigest() if self._remarks else ""
        for text in self._remarks if said != before else ():
            self._say(text)
        return replace(token, said=said).encode()

    def _resolve(self, before: _Token) -> tuple[Formation | None, _Token]:
        """The best release that can run now; nothing at all if the one that should run was repudiated alone; None if
        it is what was found before. Raises `GitrelError`, that of the best one.
        """
        problems: dict[Entry, GitrelError] = {}
        state = self._home.read_state()
        order = candidates(state, self._wanted)
        if self._stop_if_repudiated and state.good is not None and order[0] < state.good:
            order.insert(0, state.good)  # the pull went back behind what runs: ask first whether that was repudiated
        for release in order:
            try:
                found = self._one(release, state, before)
            except (Refused, NotFound, LocalStateError, BadInput, NoUsableKey) as error:
                if isinstance(error, NotFound) and release == self._wanted:
                    raise
                problems[release] = error
                self._remarks.append(f"{release} cannot run: {error}")
                if self._stop_if_repudiated and _repudiated(error):
                    break
            else:
                note_lacking(self._home, problems)
                return found
        note_lacking(self._home, problems)
        if all(_repudiated(error) for error in problems.values()):
            return Formation(release="none", processes=()), _Token(release="none")
        raise next(iter(problems.values()))

    def _one(self, release: Entry, state: State, before: _Token) -> tuple[Formation | None, _Token]:
        scales = {**self._scales, **state.scales}  # what was said to this server later counts more
        token = _Token(release=str(release), scales=scales)
        if before.release == token.release:
            with self._home.repository() as repo:
                judge_here(self._home, repo, state, release)
            if before.scales == scales:
                return None, token
        return self._formation(release, state, scales), token

    def _formation(self, release: Entry, state: State, scales: Mapping[str, int]) -> Formation:
        self._leases.take(release)
        layout = Layout(self._home, verify_here(self._home, state, release), port=self._port)
        layout.provide()
        kinds = set(layout.commands) - {RELEASE_PHASE}
        unknown = sorted(set(scales) - kinds)
        if unknown and not (state.good is None and set(unknown) & set(self._scales)):  # else a slip at the first start
            self._remarks.append(f"{release} has no {', '.join(unknown)} to scale")
            scales = {kind: number for kind, number in scales.items() if kind in kinds}
        return layout.formation(scales, prepared=not self._release_phase or release in state.released)

    def _last_good(self) -> Formation | None:
        state = self._home.read_state()
        if state.good is None or state.good == candidates(state, self._wanted)[0]:
            return None
        try:
            return self._formation(state.good, state, {**self._scales, **state.scales})
        except GitrelError as error:
            self._remarks.append(f"no way back to {state.good}: {error}")
            return None


def _repudiated(error: GitrelError) -> bool:
    return isinstance(error, Refused) and error.check == Check.REPUDIATED
