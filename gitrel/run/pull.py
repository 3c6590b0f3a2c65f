"""Fetch, verify, check out: from what a remote says to a release that may run.

What comes from the remote stays in a quarantine until it is verified; a pull that fails or is killed leaves
the home as it was. First the trust ledger, then the records of all new releases, then the files of one
release: the newest whose records are good.

What came of files when their fetch broke is kept, and a later pull, of any source, goes on from there
(`gitrel.store.salvage`). A quarantine is taken into the home whole or not at all. So one that turns out to hold a
refused release which no good one is built on is thrown away, and the pull starts again as if the remote did not have
that release.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping

from gitrel.dataclass import dataclass, replace
from gitrel.errors import GitrelError, NotFound, Refused, RemoteError
from gitrel.format.refs import RefMap, view
from gitrel.format.text import size
from gitrel.ids import TRUST, BuildRef, Entry, Ledger, ObjectId, RecordId, Sha256
from gitrel.run.files import has_files
from gitrel.run.freshness import held_back
from gitrel.run.home import Home
from gitrel.run.judge import accepted, judge_alone, judge_here
from gitrel.run.prepare import prepare
from gitrel.run.state import Refusal, State
from gitrel.run.views import Fork
from gitrel.run.watch import APPROVALS, approvals_in
from gitrel.store.quarantine import Quarantine
from gitrel.store.remote import FilterUnsupported, Remote
from gitrel.store.repository import Repository
from gitrel.store.salvage import clear
from gitrel.trust.chain import TrustChain
from gitrel.trust.checks import Check
from gitrel.trust.content import VerifiedRelease
from gitrel.trust.history import links
from gitrel.trust.ledger import ChainedRelease, Verdict
from gitrel.trust.walk import entries, load_trust, walk_releases

Progress = Callable[[str], None]

_HAVES = 3  # complete releases that are offered when files are fetched
_LOOKED_AT = 100  # for those


@dataclass(frozen=True, slots=True, kw_only=True)
class Pulled:
    """What a pull found. `release` is the newest that may run (new or not), `refused` every newer one that may
    not. `shallow`: the chain was verified from `release` on only. `forks`: where several sources differ. `heard`: a
    newer heartbeat than before that counts; `mute`: why a newer one does not.
    """

    release: Entry | None
    new: bool
    refused: Mapping[Entry, Refusal]
    shallow: bool = False
    forks: tuple[Fork, ...] = ()
    heard: Entry | None = None
    mute: str | None = None


class _NotThese(Exception):
    """Releases are in the quarantine that may not come into the home: not an error, but another turn."""

    def __init__(
        self, refused: Mapping[Entry, Refusal], ids: Mapping[Entry, RecordId], broken: Entry | None = None
    ) -> None:
        super().__init__()
        self.refused = refused
        self.ids = ids
        self.broken = broken  # where the chain ends: what comes after it was not even looked at


def fetch_trust(
    remote: Remote, repo: Repository, quarantine: Quarantine, theirs: RefMap, pin: Sha256 | None
) -> TrustChain:
    """The remote's trust ledger, verified from the pin; it must hold every entry that this home has.

    Raises `Refused`, `RemoteError`, `NotFound` if there is none.
    """
    ours = repo.refs.list(TRUST.prefix)
    for name, oid in ours.items():
        if theirs.get(name) != oid:
            raise Refused(
                "the trust ledger was rewritten",
                check=Check.HIGHEST_SEEN,
                where=name,
                why=f"it was {oid}, verified; the remote says {theirs.get(name, 'it does not exist')}",
            )
    trust = entries(theirs, TRUST).values()
    approvals = [oid for ref, oid in approvals_in(theirs) if ref.record in trust]
    wants = sorted({oid for oid in (*trust, *approvals) if oid not in quarantine.repository})
    if wants:
        remote.fetch(quarantine, wants, haves=sorted(set(ours.values())))
    return load_trust(theirs, quarantine.repository, repo.format, pin)


def keep_approvals(repo: Repository, theirs: RefMap) -> None:
    """The refs of approvals whose records are here, so that thresholds are met without the remote."""
    ours = repo.refs.list(APPROVALS)
    theirs = {str(ref): oid for ref, oid in approvals_in(theirs) if ref.record in repo}
    repo.refs.create_all({ref: oid for ref, oid in theirs.items() if ours.get(ref) != oid and oid in repo})


def judge(
    home: Home,
    remote: Remote,
    repo: Repository,
    state: State,
    theirs: RefMap,
    progress: Progress,
    now: float,
) -> tuple[Pulled, set[ObjectId]]:
    """Bring the newest runnable release of one remote, which shows `theirs`, into the home; `seen` and `ready` are
    remembered if it is new. Also the records that may still get approvals.

    Every turn leaves out at least one release of the remote's, and all that come after a break in the chain: there is
    an end to it. Raises `Refused` if the remote's ledger is not a continuation of what was seen, `RemoteError`,
    `NotFound`.
    """
    ledger = Ledger.releases(state.deploy)
    refused: dict[Entry, Refusal] = {}
    left_out: dict[Entry, RecordId] = {}
    records: set[ObjectId] = set()
    while True:
        with Quarantine(repo, home.run / "quarantine") as quarantine:
            try:
                pulled = _Pull(home, remote, repo, quarantine, state, theirs, progress, records, now, left_out).run()
            except _NotThese as found:
                refused |= found.refused
                left_out |= found.ids
                after = entries(theirs, ledger, found.broken + 1) if found.broken else ()
                theirs = _without(theirs, ledger, [*found.refused, *after])
                continue
        return replace(pulled, refused=dict(sorted({**refused, **pulled.refused}.items()))), records


def _without(theirs: RefMap, ledger: Ledger, out: Iterable[Entry]) -> RefMap:
    """The remote's refs as if some releases, and what approves them, were not there."""
    names = {str(ledger[entry]) for entry in out}
    records = {theirs[name] for name in names}
    names |= {str(ref) for ref, _ in approvals_in(theirs) if ref.record in records}
    return view(theirs).without(names)


def vouch(home: Home, remote: Remote, repo: Repository, state: State, theirs: RefMap, name: str) -> bool:
    """Whether the record that a remote has under this name may count: a look in a quarantine, and no more."""
    with Quarantine(repo, home.run / "quarantine") as quarantine:
        try:
            return _Pull(home, remote, repo, quarantine, state, theirs, lambda _: None, set()).vouch(name)
        except (Refused, RemoteError, NotFound):
            return False


def bring(home: Home, remote: Remote, entry: Entry, *, progress: Progress = lambda _: None) -> None:
    """Make sure that a release whose records are here can be started; the remote is asked only for what is missing.

    Raises `NotFound`, `Refused`, `RemoteError`, `LocalStateError`. To be called with the lock `pull` held.
    """
    home.tidy()
    with home.repository() as repo, Quarantine(repo, home.run / "quarantine") as quarantine:
        state = home.read_state()
        release = judge_here(home, repo, state, entry)
        _Pull(home, remote, repo, quarantine, state, {}, progress, set()).check_out(release)


class _Pull:
    """One pull, step by step. `records`: gets those that may have too few approvals so far. `now`: to take new ones.
    `left_out`: what the remote has besides `theirs`, and an earlier turn refused.
    """

    def __init__(
        self,
        home: Home,
        remote: Remote,
        repo: Repository,
        quarantine: Quarantine,
        state: State,
        theirs: Mapping[str, ObjectId],
        progress: Progress,
        records: set[ObjectId],
        now: float = 0.0,
        left_out: Mapping[Entry, RecordId] | None = None,
    ) -> None:
        self._now = now
        self._left_out = left_out or {}
        self._records = records
        self._home = home
        self._remote = remote
        self._repo = repo
        self._quarantine = quarantine
        self._state = state
        self._theirs = view(theirs)
        self._progress = progress
        self._ledger = Ledger.releases(state.deploy)
        self._refused: dict[Entry, Refusal] = {}

    def run(self) -> Pulled:
        """Raises `_NotThese`, before anything of the quarantine came into the home."""
        trust = fetch_trust(self._remote, self._repo, self._quarantine, self._theirs, self._state.pin)
        if trust.pending is not None:
            self._records.add(trust.pending.signed.id.oid)
        try:
            self._fetch_records()
        except FilterUnsupported:
            return self._without_filter(trust)
        return self._finish(trust, self._take_newest(trust))

    def _without_filter(self, trust: TrustChain) -> Pulled:
        """For a remote that cannot leave files out: what the chain needs, each release one commit deep."""
        new = self._new()
        if self._state.seen is not None or not new:
            self._fetch_whole(new)
            return self._finish(trust, self._take_newest(trust))
        entry = max(new)  # a first meeting: what is not fetched cannot be judged
        self._fetch_whole({entry: new[entry]})
        return self._finish(trust, self._take_newest(trust, only=entry), shallow=entry > 1)

    def _take_newest(self, trust: TrustChain, only: Entry | None = None) -> Entry | None:
        """Judge the new releases (or one, without what stands before it), and take the newest that may run."""
        verdicts = self._verdicts(trust, only)
        refused: dict[Entry, Refusal] = {}
        for verdict in reversed(verdicts):
            if verdict.release is None:
                refused[verdict.entry] = self._refusal(verdict)
            elif refused:
                break
            elif (why := held_back(self._state, trust, verdict.release, self._now)) is not None:
                refused = {each.entry: replace(why, where=each.ref) for each in verdicts if each.release is not None}
                break
            else:
                self._take(trust, verdict.release, verdicts)
                return verdict.entry
        if refused:
            last = verdicts[-1].entry
            ids = {each.entry: each.id for each in verdicts if each.entry in refused}
            raise _NotThese(refused, ids, last if len(entries(self._theirs, self._ledger, last)) > 1 else None)
        return None

    def _verdicts(self, trust: TrustChain, only: Entry | None = None) -> list[Verdict]:
        theirs = self._theirs
        if only is not None:
            theirs = theirs.without(
                {str(self._ledger[entry]) for entry in entries(theirs, self._ledger) if entry != only}
            )
        return list(
            walk_releases(
                theirs,
                self._quarantine.repository,
                trust,
                self._state.deploy,
                anchor=self._state.seen,
                shallow=only is not None,
                released_before=lambda part: accepted(self._repo, self._state, part),
                left_out=self._left_out,
            )
        )

    def vouch(self, name: str) -> bool:
        """Whether the record of this name passes the checks of records; nothing comes into the home."""
        trust = fetch_trust(self._remote, self._repo, self._quarantine, self._theirs, self._state.pin)
        if name.startswith(TRUST.prefix):
            return any(str(TRUST[each.entry]) == name for each in trust)
        try:
            self._fetch_records()
        except FilterUnsupported:
            self._fetch_whole(self._new())
        return any(verdict.ref == name and verdict.release is not None for verdict in self._verdicts(trust))

    def _finish(self, trust: TrustChain, taken: Entry | None, *, shallow: bool = False) -> Pulled:
        if taken is not None:
            return Pulled(release=taken, new=True, refused={}, shallow=shallow)
        self._adopt(trust, [])
        entry = self._still_good(trust)
        return Pulled(release=entry, new=False, refused=self._refused)

    def _still_good(self, trust: TrustChain) -> Entry | None:
        """The newest release here that today's trust lets run: mostly the one that was ready before."""
        ready = self._state.ready
        for entry, oid in self._downwards(ready):
            verdict = judge_alone(self._repo, trust, self._state, entry, oid)
            if verdict.release is None:
                self._refused[entry] = self._refusal(verdict)
                continue
            if entry != ready:
                self.check_out(verdict.release)
            return entry
        return None

    def _downwards(self, start: Entry | None) -> Iterator[tuple[Entry, ObjectId]]:
        """The releases that are here, from `start`, or from the newest."""
        first = start or self._repo.refs.view(self._ledger.prefix).newest(self._ledger)
        for number in range(first, 0, -1):
            if (oid := self._repo.refs.get(str(self._ledger[number]))) is not None:
                yield Entry(number), oid

    def check_out(self, release: ChainedRelease) -> None:
        """The files of a release whose records are in the home."""
        self._fetch_files(release)
        prepared = self._prepare(release)
        self._quarantine.adopt()
        clear(self._home.salvage)
        self._home.point(self._home.releases / str(release.entry), f"../builds/{prepared.build.oid}")

    def _new(self) -> dict[Entry, ObjectId]:
        return entries(self._theirs, self._ledger, self._state.seen.entry + 1 if self._state.seen is not None else 1)

    def _missing(self, oids: Iterable[ObjectId]) -> list[ObjectId]:
        return sorted({oid for oid in oids if oid not in self._quarantine.repository})

    def _fetch_records(self) -> None:
        """All commits of the new releases, without files. Raises `FilterUnsupported`."""
        new = self._new()
        wants = self._missing([*new.values(), *(oid for _, oid in approvals_in(self._theirs))])
        if wants:
            self._progress(f"fetching the records of {len(new)} new release{'s' if len(new) != 1 else ''}")
            haves = [self._state.seen.id.oid] if self._state.seen else []
            # A first meeting without filter left nothing of what came before: whoever filters now must not count on it.
            shallow = haves if self._repo.refs.get(str(self._ledger[Entry(1)])) is None else []
            self._remote.fetch(self._quarantine, wants, haves=haves, shallow=shallow, filter_spec="tree:0")

    def _fetch_whole(self, new: Mapping[Entry, ObjectId]) -> None:
        """Release commits with their files, then the build and config records that they cite."""
        haves, releases = [self._state.seen.id.oid] if self._state.seen else [], list(new.values())
        if wants := self._missing([*releases, *(oid for _, oid in approvals_in(self._theirs))]):
            self._fetch_keeping(wants, haves, ", ".join(map(str, new)) or "approvals", sure=False)
        parts = {part for oid in releases for part in links(self._quarantine.repository, oid).parts}
        self._fetch_shallow(self._missing(parts), releases)

    def _fetch_shallow(self, wants: list[ObjectId], haves: list[ObjectId]) -> None:
        if wants:
            self._remote.fetch(self._quarantine, sorted(set(wants)), haves=haves, shallow=haves, depth=1)

    def _take(self, trust: TrustChain, release: ChainedRelease, verdicts: list[Verdict]) -> None:
        self._fetch_files(release)
        self._progress(f"checking out {release.entry}")
        try:
            verified = self._prepare(release)
        except Refused as refusal:
            raise _NotThese({release.entry: Refusal.of(refusal)}, {release.entry: release.id}) from None
        self._adopt(trust, [each.release for each in verdicts if each.release and each.entry <= release.entry])
        clear(self._home.salvage)
        entry = release.entry
        self._home.point(self._home.releases / str(entry), f"../builds/{verified.build.oid}")
        self._home.change_state(lambda state: replace(state, seen=release.anchor, ready=entry))

    def _prepare(self, release: ChainedRelease) -> VerifiedRelease:
        """Check the release's files out. What cannot be checked out is not kept for another time."""
        try:
            return prepare(self._home, self._quarantine.repository, release, starting=False)
        except GitrelError:
            clear(self._home.salvage)
            raise

    def _fetch_files(self, release: ChainedRelease) -> None:
        wants = [release.id.oid, release.build.id.oid, *([release.config.id.oid] if release.config else [])]
        if all(has_files(self._quarantine.repository, oid) for oid in wants):
            return
        self._fetch_keeping(wants, self._complete(), str(release.entry), sure=True)

    def _fetch_keeping(self, wants: list[ObjectId], haves: list[ObjectId], what: str, *, sure: bool) -> None:
        """Releases with their files; `sure`: their records were verified."""

        def begin(before: int) -> None:
            self._progress(f"fetching {what}" + (f", of which {size(before)} came before" if before else ""))

        at = self._quarantine, self._home.salvage
        if self._remote.fetch_files(*at, wants, haves=haves, sure=sure, begin=begin).anew:
            self._progress(f"note: the remote could not send the rest of {what} alone, so it sent all again")

    def _complete(self) -> list[ObjectId]:
        """The newest releases whose files are here, of the last few."""
        last = itertools.islice(
            self._downwards(self._state.seen.entry if self._state.seen is not None else None), _LOOKED_AT
        )
        found = (oid for _, oid in last if has_files(self._quarantine.repository, oid))
        return list(itertools.islice(found, _HAVES))

    def _adopt(self, trust: TrustChain, releases: list[ChainedRelease]) -> None:
        """Objects first, then the refs that name them."""
        self._quarantine.adopt()
        refs = {str(TRUST[each.entry]): each.id.oid for each in trust}
        for release in releases:
            refs[str(BuildRef(release.build.id.oid))] = release.build.id.oid
            if release.config is not None:
                refs[str(release.config.record.ref)] = release.config.id.oid
            refs[str(release.record.ref)] = release.id.oid
        self._repo.refs.create_all(refs)
        keep_approvals(self._repo, self._theirs)

    def _refusal(self, verdict: Verdict) -> Refusal:
        if verdict.refusal is None:
            raise ValueError(f"{verdict.ref} was not refused")
        self._records.add(verdict.id.oid)
        with contextlib.suppress(NotFound):
            self._records.update(links(self._quarantine.repository, verdict.id.oid).parts)
        return Refusal.of(verdict.refusal)
