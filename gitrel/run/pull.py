"""Fetch, verify, check out: from what a remote says to a release that may run.

What comes from the remote stays in a quarantine until it is verified; a pull that fails or is killed leaves
the home as it was. First the trust ledger, then the records of all new releases, then the files of one
release: the newest whose records are good. If its files are refused, the next older one is tried.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from gitrel.errors import FormatError, Refused
from gitrel.ids import TRUST, ApprovalRef, BuildRef, Entry, Ledger, ObjectId, Sha256, parse_ref
from gitrel.run.history import cited, has_files, released_before
from gitrel.run.home import Home, State
from gitrel.run.prepare import prepare
from gitrel.store.quarantine import Quarantine, remove_stale
from gitrel.store.remote import FilterUnsupported, Remote
from gitrel.store.removal import remove_stale as remove_stale_checkouts
from gitrel.store.repository import Repository
from gitrel.trust.chain import TrustChain
from gitrel.trust.checks import Check
from gitrel.trust.ledger import ChainedRelease, Verdict
from gitrel.trust.walk import RefMap, entries, load_trust, walk_releases

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pulled:
    """What a pull found. `release` is the newest that may run (new or not), `refused` every newer one that
    may not.
    """

    release: Entry | None
    new: bool
    refused: tuple[Verdict, ...]
    shallow: bool = False


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
    wants = sorted({oid for oid in entries(theirs, TRUST).values() if oid not in quarantine.repository})
    if wants:
        remote.fetch(quarantine, wants, haves=sorted(set(ours.values())))
    return load_trust(theirs, quarantine.repository, repo.format, pin)


def pull(home: Home, remote: Remote, *, now: float, progress: Progress = lambda _: None) -> Pulled:
    """Bring the newest runnable release of the remote into the home; `current` does not move.

    Raises `Refused` if the remote's ledger is not a continuation of what was seen, `RemoteError`, `Locked`.
    """
    with home.lock("pull"), home.repository() as repo:
        remove_stale(home.run / "quarantine")
        remove_stale_checkouts(home.builds)
        state = home.read_state()
        ledger = Ledger.releases(state.deploy)
        progress("asking the remote")
        theirs = remote.list([TRUST.prefix, ledger.prefix, "refs/approvals/"])
        with Quarantine(repo, home.run / "quarantine") as quarantine:
            pulled = _Pull(home, remote, repo, quarantine, state, theirs, progress).run()
        home.change_state(lambda state: replace(state, contact=now))
        return pulled


class _Pull:
    """One pull, step by step."""

    def __init__(
        self,
        home: Home,
        remote: Remote,
        repo: Repository,
        quarantine: Quarantine,
        state: State,
        theirs: Mapping[str, ObjectId],
        progress: Progress,
    ) -> None:
        self._home = home
        self._remote = remote
        self._repo = repo
        self._quarantine = quarantine
        self._state = state
        self._theirs = theirs
        self._progress = progress
        self._ledger = Ledger.releases(state.deploy)

    def run(self) -> Pulled:
        trust = fetch_trust(self._remote, self._repo, self._quarantine, self._theirs, self._state.pin)
        shallow = self._fetch_records()
        verdicts = list(
            walk_releases(
                self._theirs,
                self._quarantine.repository,
                trust,
                self._state.deploy,
                anchor=self._state.seen,
                shallow=shallow,
                released_before=lambda part: released_before(self._repo, self._state.seen, part),
            )
        )
        refused = [verdict for verdict in verdicts if verdict.release is None]
        for verdict in reversed(verdicts):
            if verdict.release is None:
                continue
            try:
                self._take(trust, verdict.release, verdicts)
            except Refused as refusal:
                refused.append(replace(verdict, release=None, refusal=refusal))
                continue
            return self._result(verdict.entry, True, refused, shallow)
        self._adopt(trust, [])
        return self._result(self._state.ready, False, refused, shallow)

    def _result(self, entry: Entry | None, new: bool, refused: list[Verdict], shallow: bool) -> Pulled:
        newer = tuple(
            sorted((each for each in refused if entry is None or each.entry > entry), key=lambda each: each.entry)
        )
        reasons = {each.entry: str(each.refusal) for each in newer}
        self._home.change_state(lambda state: replace(state, refused=reasons))
        return Pulled(release=entry, new=new, refused=newer, shallow=shallow)

    def _fetch_records(self) -> bool:
        """All commits of the new releases, without files where the remote can; whether the beginning is
        missing.
        """
        seen = self._state.seen
        new = {
            entry: oid
            for entry, oid in entries(self._theirs, self._ledger).items()
            if (seen is None or entry > seen.entry) and oid not in self._quarantine.repository
        }
        approvals = [oid for name, oid in self._theirs.items() if name.startswith("refs/approvals/")]
        approvals = [oid for oid in approvals if oid not in self._quarantine.repository]
        wants = sorted({*new.values(), *approvals})
        if not wants:
            return False
        self._progress(f"fetching {len(new)} new release{'s' if len(new) != 1 else ''}")
        haves = [seen.id.oid] if seen else []
        try:
            self._remote.fetch(self._quarantine, wants, haves=haves, filter_spec="tree:0")
        except FilterUnsupported:
            return self._fetch_whole(new, approvals, haves)
        return False

    def _fetch_whole(self, new: Mapping[Entry, ObjectId], approvals: list[ObjectId], haves: list[ObjectId]) -> bool:
        """For a remote that cannot leave files out: as few releases as the chain needs, one commit deep."""
        first = self._state.seen is None
        newest = [oid for _, oid in sorted(new.items())]
        wants = newest[-1:] if first else newest
        self._fetch_shallow([*wants, *approvals], haves)
        if first:
            # what was not fetched cannot be judged; the verifier is told to begin at the newest
            self._theirs = {
                name: oid
                for name, oid in self._theirs.items()
                if not name.startswith(self._ledger.prefix) or oid in wants
            }
        self._fetch_parts([oid for oid in wants if oid in self._quarantine.repository])
        return first and bool(new) and max(new) > 1

    def _fetch_shallow(self, wants: list[ObjectId], haves: list[ObjectId]) -> None:
        if wants:
            self._remote.fetch(self._quarantine, sorted(set(wants)), haves=haves, shallow=haves, depth=1)

    def _fetch_parts(self, releases: list[ObjectId]) -> None:
        """The build and config records that fetched release commits cite."""
        parts = {part for oid in releases for part in cited(self._quarantine.repository, oid).parts}
        missing = sorted(oid for oid in parts if oid not in self._quarantine.repository)
        self._fetch_shallow(missing, releases)

    def _take(self, trust: TrustChain, release: ChainedRelease, verdicts: list[Verdict]) -> None:
        self._fetch_files(release)
        self._progress(f"checking out {release.entry}")
        verified = prepare(self._home, self._quarantine.repository, release)
        self._adopt(trust, [each.release for each in verdicts if each.release and each.entry <= release.entry])
        entry = release.entry
        self._home.point(self._home.releases / str(entry), f"../builds/{verified.build.oid}")
        self._home.change_state(lambda state: replace(state, seen=release.anchor, ready=entry))

    def _fetch_files(self, release: ChainedRelease) -> None:
        wants = [release.id.oid, release.build.id.oid, *([release.config.id.oid] if release.config else [])]
        if all(has_files(self._quarantine.repository, oid) for oid in wants):
            return
        self._progress(f"fetching {release.entry}")
        complete = [
            oid
            for oid in self._repo.refs.list(self._ledger.prefix).values()
            if has_files(self._quarantine.repository, oid)
        ]
        self._remote.fetch(self._quarantine, wants, haves=complete[-3:], shallow=complete[-3:], depth=1)

    def _adopt(self, trust: TrustChain, releases: list[ChainedRelease]) -> None:
        """Objects first, then the refs that name them."""
        self._quarantine.adopt()
        for each in trust:
            self._repo.refs.create(str(TRUST[each.entry]), each.id.oid)
        for release in releases:
            self._repo.refs.create(str(BuildRef(release.build.id.oid)), release.build.id.oid)
            if release.config is not None:
                self._repo.refs.create(str(release.config.record.ref), release.config.id.oid)
            self._repo.refs.create(str(release.record.ref), release.id.oid)
        for name, oid in self._theirs.items():
            if name.startswith("refs/approvals/") and oid in self._repo and _approves(name, self._repo):
                self._repo.refs.create(name, oid)


def _approves(name: str, repo: Repository) -> bool:
    """Whether an approval's ref is well-formed and its record is one that this home has."""
    try:
        ref = parse_ref(name)
    except FormatError:
        return False
    return isinstance(ref, ApprovalRef) and ref.record in repo
