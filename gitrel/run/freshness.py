"""How long nobody has signed anything: what a server can know of a remote that shows it nothing new.

A sign of life is a record that verifies: a release that came here, the newest trust, a heartbeat. It counts from when
it was signed, as far as its date says, but not from later than this server first saw it, by its own clock. So neither
an old record that was kept back nor one dated into the future makes anything look fresh.

A heartbeat counts once, by the roles of the newest trust, and only if the remote shows the releases of this deploy that
it names: what somebody signed to be the newest is not kept from this server. Nothing of it stays in the home but its
number. One that does not count is said, and keeps no release away.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import islice

from gitrel.dataclass import replace
from gitrel.errors import FormatError, LocalStateError, NotFound, Refused, RemoteError
from gitrel.format.manifest import MANIFEST, parse_manifest
from gitrel.format.record import ReleaseRecord, parse_record, parse_record_as
from gitrel.format.refs import RefMap
from gitrel.ids import HEARTBEAT, TRUST, Entry, Ledger, ObjectId
from gitrel.run.home import Home
from gitrel.run.life import Life
from gitrel.run.state import Refusal, State
from gitrel.store.differ import read_folder
from gitrel.store.quarantine import Quarantine
from gitrel.store.remote import FilterUnsupported, Remote
from gitrel.store.repository import Repository
from gitrel.trust.chain import TrustChain
from gitrel.trust.checks import Check
from gitrel.trust.content import BUILD_FOLDER
from gitrel.trust.ledger import ChainedRelease
from gitrel.trust.walk import entries
from gitrel.trust.witness import contradictions, judge_heartbeat

_TRIED = 4  # of the newest heartbeats: junk under the highest number hides no good one


def held_back(state: State, trust: TrustChain, release: ChainedRelease, now: float) -> Refusal | None:
    """Why a release is not taken yet, where the release here asks for that: all that was signed is too old."""
    life = state.life
    if not life.hold or life.max_silence is None or state.ready is None:
        return None
    alive = _latest(life.alive, now, trust.newest.signed.committer.time, release.signed.committer.time)
    if replace(life, alive=alive).stale_since(now, state.contact) is None:
        return None
    return Refusal(
        check=Check.HIGHEST_SEEN,
        what="held back: signed too long ago",
        where=str(release.record.ref),
        why=f"nothing was signed for {life.max_silence:g} s (max_silence), and a stale server takes no new release",
    )


def _latest(alive: float | None, now: float, *signed: float) -> float:
    return max(min(now, max(signed)), alive or 0.0)


def hear(
    home: Home,
    remote: Remote,
    repo: Repository,
    state: State,
    theirs: RefMap,
    shown: RefMap,
    now: float,
    verify: Callable[[Quarantine], TrustChain],
) -> Life:
    """What is known once the newest heartbeat of `shown` that counts is, and why a newer one does not.

    `theirs`: the remote's refs otherwise. `verify` brings its trust into a quarantine.
    """
    found = reversed(entries(shown, HEARTBEAT).items())
    life = state.life
    new = dict(islice(((entry, oid) for entry, oid in found if entry > (life.heartbeat or 0)), _TRIED))
    if not new:
        return replace(life, mute=None)
    try:
        with Quarantine(repo, home.run / "quarantine") as quarantine:
            trust = verify(quarantine)
            if trust.newest.policy.heartbeat is None:
                return replace(life, mute=None)  # nobody may sign one, so nobody expects one
            _fetch(remote, quarantine, list(new.values()))
            return _newest(trust, quarantine.repository, state, new, theirs, now)
    except (Refused, RemoteError, NotFound) as error:
        return replace(life, mute=str(error))


def _fetch(remote: Remote, quarantine: Quarantine, commits: list[ObjectId]) -> None:
    """The commits alone: what calls itself a heartbeat may be a release with all its files."""
    try:
        remote.fetch(quarantine, commits, depth=1, filter_spec="tree:0")
    except FilterUnsupported:
        remote.fetch(quarantine, commits, depth=1)


def _newest(
    trust: TrustChain, objects: Repository, state: State, new: Mapping[Entry, ObjectId], theirs: RefMap, now: float
) -> Life:
    mute: str | None = None
    for entry, oid in new.items():
        ref = str(HEARTBEAT[entry])
        try:
            found = judge_heartbeat(trust, entry, objects.read(oid, "commit"))
        except (Refused, NotFound, LocalStateError) as error:
            mute = mute or str(error)
            continue
        kept = [cited for cited, _ in contradictions(found.record, theirs) if cited.deploy == state.deploy]
        if kept:
            mute = mute or f"{ref} names {kept[0].entry} of {kept[0].deploy}, and the remote shows another one, or none"
            continue
        signed = found.signed.committer.time
        return replace(state.life, heartbeat=entry, alive=_latest(state.life.alive, now, signed), mute=mute)
    return replace(state.life, mute=mute)


def settle(repo: Repository, state: State, life: Life, now: float) -> Life:
    """`life` with what the records that came into the home tell, and what the newest release asks for.

    Raises `LocalStateError`.
    """
    oids = [*reversed(entries(repo.refs.list(TRUST.prefix), TRUST).values())][:1]
    oids += [state.seen.id.oid] if state.seen else []
    times = [parse_record(repo.read(oid, "commit"), repo.format).committer.time for oid in oids]
    alive = _latest(life.alive, now, *times) if times else life.alive
    release = repo.refs.get(str(Ledger.releases(state.deploy)[state.ready])) if state.ready else None
    max_silence, hold = _asked(repo, release) if release else (None, False)
    return replace(life, alive=alive, max_silence=max_silence, hold=hold)


def _asked(repo: Repository, release: ObjectId) -> tuple[float | None, bool]:
    """`[run] max_silence` and `hold_when_stale` of a release whose files are here; one that cannot run asks nothing."""
    try:
        oid = parse_record_as(ReleaseRecord, repo.read(release, "commit"), repo.format).tree
        for name in (BUILD_FOLDER, MANIFEST):
            oid = read_folder(repo, oid)[name].oid
        manifest = parse_manifest(repo.read(oid, "blob"))
    except (FormatError, NotFound, KeyError):
        return None, False
    return manifest.max_silence, manifest.hold_when_stale


def note_staleness(home: Home, now: float) -> tuple[float | None, float | None]:
    """Since when this server is stale, as it was said last and as it is now; remembered."""
    before = home.read_state()
    since = before.stale_since(now)
    if (since is None) != (before.life.said is None):
        home.change_state(lambda state: replace(state, life=replace(state.life, said=since)))
    return before.life.said, since
