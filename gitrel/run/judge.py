"""The releases of a home, judged again by the trust that it has now. Their records were verified when they came."""

from __future__ import annotations

from gitrel.errors import LocalStateError, NotFound
from gitrel.ids import TRUST, Entry, Ledger, ObjectId, RecordId
from gitrel.run.home import Home
from gitrel.run.state import State
from gitrel.run.watch import APPROVALS
from gitrel.store.repository import Repository
from gitrel.trust.chain import TrustChain
from gitrel.trust.history import released_before
from gitrel.trust.ledger import ChainedRelease, ReleaseLedger, Verdict
from gitrel.trust.walk import RecordReader, load_trust


def accepted(repo: Repository, state: State, part: RecordId) -> bool:
    """Whether a release that was accepted here carries a part: a refused one stands in the chain, but gets no ref."""
    good = frozenset(repo.refs.list(Ledger.releases(state.deploy).prefix).values())
    return released_before(repo, state.seen, part, good=good)


def judge_alone(repo: Repository, trust: TrustChain, state: State, entry: Entry, oid: ObjectId) -> Verdict:
    """A release that was verified when it came, judged again by today's trust; its chain is not walked again.

    Raises `NotFound`, `LocalStateError`.
    """
    ledger = ReleaseLedger(
        trust,
        state.deploy,
        RecordReader(repo.refs.view(APPROVALS), repo),
        shallow=True,
        released_before=lambda part: accepted(repo, state, part),
    )
    return ledger.add(str(ledger.ledger[entry]), repo.read(oid, "commit"))


def judge_here(home: Home, repo: Repository, state: State, entry: Entry) -> ChainedRelease:
    """The records of a release that was verified when it came, by the newest trust that this home has.

    Raises `NotFound`, `Refused`, `LocalStateError`.
    """
    ref = str(Ledger.releases(state.deploy)[entry])
    oid = repo.refs.get(ref)
    if oid is None:
        raise NotFound(f"{entry} is not in this home", where=str(home.path), hint="`gitrel pull`")
    trust = load_trust(repo.refs.view(TRUST.prefix, APPROVALS), repo, repo.format, state.pin)
    verdict = judge_alone(repo, trust, state, entry, oid)
    if verdict.release is None:
        raise verdict.refusal or LocalStateError("no verdict", where=ref)
    return verdict.release
