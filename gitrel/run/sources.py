"""Where a server asks: the remote, and mirrors of it. Whom, when, and which of them to believe.

- A look that only asks for news asks one source, each in its turn: it costs what it costs with one remote, and a source
  that shows an old ledger, or does not answer, keeps news away for no longer than the others' turns take.
- All are listed when one shows something new, once every `FULL_LOOK` seconds, and by `gitrel pull`. The ones that
  did not answer last time are left out of that when it is only for news: their turn comes.
- A single source is asked for what may be new alone, and for the newest that is known; for all of it when one of those
  is not what it was, and once every `FULL_LOOK` seconds (`gitrel.run.watch`).
- Each source is judged for itself, the one that shows the newest release first; what another one has beyond that comes
  after. So the newest ledger that verifies wins, and nothing that one of them does keeps what the others have away.
- A source that shows less than was seen is behind, which is an error only if there is no other.
- One name with two records is a fork, whichever of them is good, and reported with both ids. If both verify, somebody
  signed twice: no release from there on is taken until one of the sources is gone, so that all servers run the same.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Mapping
from functools import partial

from gitrel.dataclass import dataclass, field, replace
from gitrel.errors import GitrelError, LocalStateError, NotFound, Refused, RemoteError
from gitrel.format.refs import RefMap, RefView
from gitrel.ids import HEARTBEAT, TRUST, Entry, Ledger, ObjectId
from gitrel.run.freshness import hear, settle
from gitrel.run.home import Home
from gitrel.run.news import ask_for_news, everything, judged_digest, judged_refs
from gitrel.run.pull import Progress, Pulled, bring, fetch_trust, judge, vouch
from gitrel.run.state import Refusal, Sight, State
from gitrel.run.views import Fork, disputed, find_forks, refused_of_few, sides_of, up_to
from gitrel.run.watch import FULL_LOOK, Watch, awaiting
from gitrel.store.quarantine import remove_stale
from gitrel.store.remote import Remote
from gitrel.store.repository import Repository
from gitrel.store.salvage import clear
from gitrel.trust.walk import entries

PATIENCE = 60  # seconds for the list of one source's refs, where there are others

Remotes = Mapping[str, Remote]


def pull(
    home: Home,
    remotes: Remotes,
    *,
    now: float,
    anew: bool = True,
    aside: bool = False,
    progress: Progress = lambda _: None,
) -> Pulled:
    """Bring the newest runnable release of the sources, by URL, into the home; `current` does not move.

    Without `anew` a source that shows the same as at the last pull is not looked at any further. `aside`: it is not
    one of the home's sources, and nothing is remembered about it. Raises `Refused` if no source's ledger is a
    continuation of what was seen, `RemoteError`, `NotFound` for a bundle that builds on what is not here, `Locked`.
    """
    with home.lock("pull") as lock:
        state = home.read_state()
        # The lock's file was changed last when all refs were looked at. A clock that was set back is a long time.
        recent = 0 <= now - os.fstat(lock).st_mtime < FULL_LOOK and state.trouble is None
        if recent and not anew and state.watch and _nothing_new(home, state, state.watch, remotes, now):
            return Pulled(release=state.ready, new=False, refused=state.refused)
        with home.repository() as repo:
            look = _Look(home, remotes, repo, progress, anew=anew, aside=aside, full=not recent)
            pulled = look.run(now, everyone=anew or not recent)
        if not aside and look.full:
            os.utime(lock, (now, now))
        return pulled


def _nothing_new(home: Home, state: State, watch: Watch, remotes: Remotes, now: float) -> bool:
    """Ask the source whose turn it is, or the first after it that answers."""
    urls = list(remotes)
    first = state.turn % len(urls)
    sights, errors = dict(state.sights), list[RemoteError]()
    for url in urls[first:] + urls[:first]:
        sight = replace(sights.get(url, Sight(shown=watch.shown)), where=remotes[url].safe_url)
        try:
            shown = remotes[url].list(watch.prefixes, within=_patience(remotes))
        except RemoteError as error:
            errors.append(error)
            sights[url] = replace(sight, away=str(error))
            continue
        if watch.view(shown) != sight.shown:
            sights[url] = replace(sight, away=None)  # or the look that follows would leave it out
            home.change_state(lambda state: replace(state, sights=sights))
            return False
        sights[url] = replace(sight, away=None, contact=sight.contact if sight.odd else now)
        home.change_state(lambda state: replace(state, contact=now, turn=state.turn + 1, sights=sights))
        return True
    home.change_state(lambda state: replace(state, sights=sights))
    raise errors[0]


def _patience(remotes: Remotes) -> int | None:
    return PATIENCE if len(remotes) > 1 else None


@dataclass(slots=True)
class _Judged:
    """What came of the sources, one after the other. `odd`: what is wrong with one, by URL; those that are `behind`
    are not refused."""

    results: list[Pulled] = field(default_factory=list)
    records: set[ObjectId] = field(default_factory=set)
    odd: dict[str, str] = field(default_factory=dict)
    behind: set[str] = field(default_factory=set)
    errors: list[GitrelError] = field(default_factory=list)

    def together(self) -> Pulled:
        """The last one stands on those before it. Raises what was wrong if there is none, a refusal first."""
        if not self.results:
            raise next((error for error in self.errors if isinstance(error, Refused)), self.errors[0])
        last = self.results[-1]
        refused: dict[Entry, Refusal] = {}
        for each in self.results:
            refused |= each.refused
        return replace(
            last,
            new=any(each.new for each in self.results),
            refused={entry: why for entry, why in sorted(refused.items()) if entry > (last.release or 0)},
            shallow=any(each.shallow for each in self.results),
        )


class _Look:
    """One look at all refs that the sources show, by URL."""

    def __init__(
        self,
        home: Home,
        remotes: Remotes,
        repo: Repository,
        progress: Progress,
        *,
        anew: bool,
        aside: bool,
        full: bool,
    ) -> None:
        remove_stale(home.run / "quarantine")
        home.tidy()
        self._home, self._remotes, self._repo = home, remotes, repo
        self._progress = progress
        self._anew, self._aside = anew, aside
        self._state = home.read_state()
        self._ledger, self._configs = Ledger.releases(self._state.deploy), Ledger.config(self._state.deploy)
        self.full = full or aside or len(remotes) > 1 or self._state.seen is None
        self._away: dict[str, GitrelError] = {}
        self._answered: dict[str, RefMap] = {}
        self._judged = _Judged()

    def run(self, now: float, *, everyone: bool) -> Pulled:
        """What is wrong with each source is remembered, whatever comes of it."""
        try:
            return self._run(now, everyone=everyone)
        except (Refused, RemoteError, NotFound):
            if not self._aside:
                with contextlib.suppress(LocalStateError):  # the first error says what to do
                    self._home.change_state(lambda state: replace(state, sights=self._sights(now, None)))
            raise

    def _run(self, now: float, *, everyone: bool) -> Pulled:
        state, several = self._state, len(self._remotes) > 1
        listed = self._listed(everyone=everyone)
        forks: tuple[Fork, ...] = ()
        if several or self._aside:
            views = {self._remotes[url].safe_url: refs for url, refs in listed.items()}
            forks = find_forks(self._repo, views, (TRUST, self._ledger, self._configs))
        if forks and not several:
            raise forks[0].refusal()
        shown = {url: judged_refs(self._repo, self._state, refs, full=self.full) for url, refs in listed.items()}
        heard, mute = self._hear(listed, shown, now)
        if self._anew or judged_digest(listed, state, self._state.life, several=several) != state.judged:
            self._judge(shown, now)
            pulled, approvals = self._judged.together(), awaiting(self._judged.records)
        else:
            pulled = Pulled(release=state.ready, new=False, refused=state.refused)
            approvals = state.watch.approvals if state.watch else set()
            self._judged.odd = {url: sight.odd for url, sight in state.sights.items() if sight.odd is not None}
            self._judged.behind = {url for url, sight in state.sights.items() if not sight.refused}
        broken = any(isinstance(error, RemoteError) for error in self._judged.errors)  # it is asked again some time
        watch = self._watch(listed, approvals)
        configs = [entries(refs, self._configs) for url, refs in listed.items() if url not in self._judged.odd]
        configured = max((entry for each in configs for entry in each), default=None)
        after = self._home.read_state()
        life = settle(self._repo, replace(after, ready=pulled.release), self._state.life, now)
        judged = judged_digest(listed, after, self._state.life, several=several)

        def change(state: State) -> State:
            found = replace(state, ready=pulled.release, refused=pulled.refused, configured=configured, life=life)
            if self._aside:
                return replace(found, judged=None, watch=None)
            return replace(
                found,
                judged=None if broken else judged,
                contact=now,
                trouble=None,
                watch=watch,
                sights=self._sights(now, watch),
                forks=tuple(map(str, forks)),
                turn=state.turn + 1 if several else 0,
            )

        self._home.change_state(change)
        if not (self._aside or self._away or broken):
            clear(self._home.salvage)  # nothing is left that anybody has to go on with
        return replace(pulled, forks=forks, heard=heard, mute=mute)

    def _listed(self, *, everyone: bool) -> dict[str, RefMap]:
        """All that each source has of these ledgers, or of a single one what may be new.

        Raises what is wrong with the first if none answers.
        """
        if not self.full:
            ((url, remote),) = self._remotes.items()
            try:
                news = ask_for_news(remote, self._state)
            except RemoteError as error:
                self._away[url] = error
                raise
            if news is not None:
                self._answered[url] = news
                return {url: news}
            self.full = True
        away = {url for url, sight in self._state.sights.items() if sight.away is not None}
        urls = [url for url in self._remotes if everyone or url not in away]
        found = self._ask(urls) or self._ask([url for url in self._remotes if url not in urls])
        if not found:
            raise next(iter(self._away.values()))
        return found

    def _ask(self, urls: Iterable[str]) -> dict[str, RefMap]:
        prefixes = everything(self._state.deploy)
        found: dict[str, RefMap] = {}
        for url in urls:
            remote = self._remotes[url]
            try:
                refs = remote.list(prefixes, within=_patience(self._remotes))
                if remote.partial:
                    self._check_needs(remote, refs)
                    refs = {
                        name: oid for prefix in prefixes for name, oid in self._repo.refs.list(prefix).items()
                    } | refs
            except (RemoteError, NotFound) as error:
                self._away[url] = error
                continue
            found[url] = self._answered[url] = refs
        return found

    def _check_needs(self, remote: Remote, refs: RefMap) -> None:
        """A bundle has to begin where this home ends, or before that. Raises `NotFound`.

        A heartbeat that it builds on is for stock git: no home keeps any, and each is judged alone.
        """
        there = {oid: said for oid, said in remote.needs().items() if not said.startswith(HEARTBEAT.prefix)}
        needs = {oid: said for oid, said in there.items() if oid not in self._repo}
        seen = self._state.seen
        if needs and not (seen is not None and seen.entry in entries(refs, self._ledger)):
            raise NotFound(
                "the bundle builds on what is not here",
                where=remote.safe_url,
                why=f"it needs {', '.join(said or oid for oid, said in needs.items())}; "
                + (f"the newest here is {seen.entry}" if seen else "nothing was pulled here yet"),
                hint=self._better_bundle(refs),
            )

    def _better_bundle(self, refs: RefMap) -> str:
        seen = self._state.seen
        newest = max(entries(refs, self._ledger), default="")
        return f"make another where the whole ledger is: `gitrel bundle {seen.entry if seen else ''}..{newest} -o FILE`"

    def _hear(
        self, listed: Mapping[str, RefMap], shown: Mapping[str, RefView], now: float
    ) -> tuple[Entry | None, str | None]:
        """The newest heartbeat, if it is news, and why one does not count. The state to judge the rest by knows it."""
        before = self._state.life
        for url, refs in listed.items():
            verify = partial(fetch_trust, self._remotes[url], self._repo, theirs=shown[url], pin=self._state.pin)
            life = hear(self._home, self._remotes[url], self._repo, self._state, shown[url], refs, now, verify)
            self._state = replace(self._state, life=life)
        mute, newest = self._state.life.mute, self._state.life.heartbeat
        if newest != before.heartbeat:
            return newest, mute
        if self._aside:  # what is wrong with a file is said, and not remembered
            self._state = replace(self._state, life=replace(self._state.life, mute=before.mute))
        return None, mute

    def _judge(self, shown: Mapping[str, RefView], now: float) -> None:
        order, good = list(shown), dict[str, RefMap](shown)
        against: set[str] = set()
        if len(self._remotes) > 1:
            order.sort(key=lambda url: self._newest(shown[url]), reverse=True)
            ours = self._repo.refs.list(TRUST.prefix) | self._repo.refs.list(self._ledger.prefix)
            against = {url for url in order if any(shown[url].get(name, oid) != oid for name, oid in ours.items())}
            good = self._undisputed({url: shown[url] for url in order if url not in against})
        ahead = [url for url in good if not self._lacks(good[url])]
        known: set[tuple[str, ObjectId]] = set()
        for url in ahead or order:
            theirs = good.get(url, shown[url])
            if known and (not theirs.items() - known or self._lacks(theirs)):
                continue
            try:
                state = replace(self._home.read_state(), life=self._state.life)
                pulled, records = judge(self._home, self._remotes[url], self._repo, state, theirs, self._progress, now)
            except (Refused, RemoteError, NotFound) as error:
                if self._remotes[url].partial and isinstance(error, NotFound):
                    error.hint = self._better_bundle(shown[url])
                self._judged.odd[url] = str(error)
                self._judged.behind |= {url} if isinstance(error, RemoteError) else set()
                self._judged.errors.append(error)
                continue
            known |= theirs.items() if len(order) > 1 else set()
            self._judged.results.append(pulled)
            self._judged.odd |= refused_of_few(pulled.refused, self._ledger, theirs, shown)
            self._judged.records |= records
        for url in shown:
            if url in against:
                self._judged.odd.setdefault(url, "it shows another record than was verified here under one name")
            elif (lacks := self._lacks(shown[url])) and url not in self._judged.odd:
                self._judged.odd[url] = f"it is behind: it has no {lacks}"
                self._judged.behind.add(url)

    def _newest(self, refs: RefMap) -> tuple[int, int]:
        return max(entries(refs, self._ledger), default=0), max(entries(refs, TRUST), default=0)

    def _lacks(self, refs: RefMap) -> str:
        """A name that everybody has who is not behind what was verified here; empty if it is there."""
        seen = self._home.read_state().seen
        names = [*self._repo.refs.list(TRUST.prefix), *([str(self._ledger[seen.entry])] if seen else [])]
        return next((name for name in reversed(names) if name not in refs), "")

    def _undisputed(self, views: dict[str, RefMap]) -> dict[str, RefMap]:
        """Without those whose record of a name does not verify where another one's does, and without all from a name on
        that has two records which do. What is left over differs only in what nobody can run."""
        for ledger in (TRUST, self._ledger):
            while (name := disputed(views, ledger)) is not None:
                sides = sides_of(views, str(name))
                cut = {url: up_to(refs, ledger, name.entry) for url, refs in views.items()}
                good = {
                    oid for oid, urls in sides.items() if any(self._vouches(url, cut[url], str(name)) for url in urls)
                }
                if not good:
                    break
                if len(good) > 1:
                    views = {url: up_to(refs, ledger, name.entry - 1) for url, refs in views.items()}
                    continue
                for url in [url for oid, urls in sides.items() if oid not in good for url in urls]:
                    del views[url]
                    self._judged.odd[url] = f"it shows another {name}, which does not verify"
        return views

    def _vouches(self, url: str, theirs: RefMap, name: str) -> bool:
        return vouch(self._home, self._remotes[url], self._repo, self._state, theirs, name)

    def _watch(self, listed: Mapping[str, RefMap], approvals: Iterable[str]) -> Watch:
        """What would be new at any of the sources: one that shows v999 must not hide the next one of the others."""
        each = [
            Watch.of(
                refs,
                {at: max(entries(refs, at), default=0) for at in (TRUST, self._ledger, self._configs)}
                | {HEARTBEAT: self._state.life.heartbeat or max(entries(refs, HEARTBEAT), default=0)},
                approvals,
            )
            for refs in listed.values()
        ]
        prefixes = tuple(dict.fromkeys(prefix for watch in each for prefix in watch.prefixes))
        return replace(each[0], prefixes=prefixes) if len(each) > 1 else each[0]

    def _sights(self, now: float, watch: Watch | None) -> dict[str, Sight]:
        """Without a `watch`, what was shown came to nothing."""
        found: dict[str, Sight] = {}
        for url, remote in self._remotes.items():
            old, odd = self._state.sights.get(url, Sight()), self._judged.odd.get(url)
            if url in self._answered:
                found[url] = Sight(
                    shown=watch.view(self._answered[url]) if watch else "",
                    odd=odd,
                    refused=odd is not None and url not in self._judged.behind,
                    contact=old.contact if odd else now,
                    where=remote.safe_url,
                )
            else:
                error = self._away.get(url)
                away = str(error) if error else old.away
                found[url] = replace(old, shown="", away=away, where=remote.safe_url)
        return found


def bring_from(home: Home, remotes: Remotes, entry: Entry, *, progress: Progress = lambda _: None) -> None:
    """`bring` from the first source that can."""
    *others, last = remotes.values()
    for remote in others:
        try:
            return bring(home, remote, entry, progress=progress)
        except RemoteError as error:
            progress(f"not from {remote.safe_url}: {error.what}")
    return bring(home, last, entry, progress=progress)
