"""`gitrel approve`: one more signature under what somebody else made.

What is to be approved is shown first: a pending record runs, or is in force, once enough people vouch for all of it.
"""

from __future__ import annotations

from gitrel.cli.config_views import difference_lines
from gitrel.cli.console import Console
from gitrel.cli.deploys import approved_config, config_ledger, named_config
from gitrel.cli.developer import Developer, open_developer, parse_entry
from gitrel.cli.stage_release import named_build
from gitrel.cli.trust import Place, ask, policy_diff
from gitrel.dataclass import dataclass, replace
from gitrel.errors import Conflict, NotFound, Refused, UsageError
from gitrel.format.envdir import compare
from gitrel.format.record import (
    ApprovalRecord,
    BuildRecord,
    ConfigRecord,
    ReleaseRecord,
    Signed,
    TrustRecord,
    approval_payload,
    sign_approval,
)
from gitrel.format.trust import Role, TrustPolicy
from gitrel.ids import TRUST, ApprovalRef, BuildRef, Entry, Ledger, LedgerRef
from gitrel.release.config import current_files
from gitrel.trust.chain import TrustChain
from gitrel.trust.parts import verify_signatures
from gitrel.trust.signers import owners, require_role
from gitrel.trust.walk import RecordReader


@dataclass(frozen=True, slots=True, kw_only=True)
class _Subject:
    """What is to be approved, by whom (`role` in the eyes of `policy`), and what keeps it pending (None: nothing)."""

    ref: LedgerRef | BuildRef
    signed: Signed[TrustRecord] | Signed[ConfigRecord] | Signed[BuildRecord] | Signed[ReleaseRecord]
    policy: TrustPolicy
    role: Role
    lack: Refused | None
    summary: list[str]


def approve(console: Console, place: Place, what: str, deploy: str) -> None:
    """Sign an approval of a release (`v7`), a config (`config/v7`), a build (`build/<id>`) or a trust (`trust/v3`)."""
    with open_developer(console, repo=place.repo, remote=place.remote, deploy=deploy, trust=place.pin) as dev:
        dev.sync(dev.interest(below=("refs/builds/",)))
        chain = dev.trust()
        subject = _approvable(dev, chain, what)
        key = dev.signer.public_key.id
        person = require_role(subject.policy, subject.role, key, f"approve {what}")
        reader = RecordReader(dev.workspace.refs(), dev.repo)
        signatures = verify_signatures(subject.signed, subject.ref, reader, chain, str(subject.ref))
        if person in signatures.people(subject.role, owners(subject.policy)):
            raise Conflict(
                f"{person} has signed {what} already",
                where=str(subject.ref),
                why="a person counts once",
                hint="somebody else has to",
            )
        for line in subject.summary:
            console.note(f"  {line}")
        ask(place.yes, "Approve it?")
        record = ApprovalRecord(
            app=chain.app,
            subject=f"{person} approves {what}"[:200],
            trust=chain.newest.cited,
            subject_of=subject.ref,
            approved=subject.signed.id,
        )
        tagger = dev.who()
        signature = dev.signer.sign(approval_payload(record, key=key, tagger=tagger))
        oid = dev.repo.write("tag", sign_approval(record, key=key, tagger=tagger, signature=signature))
        name = str(ApprovalRef(subject.signed.id.oid, key))
        dev.workspace.publish({name: oid})
        lack = _still_lacking(dev, what)
        console.out(f"{person} approves {what}")
        if lack is not None:
            console.note(f"note: {lack.what}; {lack.why}")
        console.result(approved=what, person=person, ref=name, pending=lack is not None)


def _approvable(dev: Developer, chain: TrustChain, what: str) -> _Subject:
    """The record that `what` names, if there is nothing wrong with it but signatures. Raises `Refused`, `NotFound`."""
    kind, _, name = what.rpartition("/")
    match kind:
        case "" | "release":
            return _release(dev, chain, parse_entry(name))
        case "config":
            return _config(dev, chain, name)
        case "build":
            return _build(dev, chain, name)
        case "trust":
            return _trust(chain, parse_entry(name))
    raise UsageError(f"cannot approve {what!r}", hint="v7, config/v7, build/<id> or trust/v3")


def _release(dev: Developer, chain: TrustChain, entry: Entry) -> _Subject:
    now = dev.standing()
    for verdict in reversed(now.verdicts):
        if verdict.entry == entry:
            if verdict.signed is None or (verdict.refusal is not None and not verdict.pending):
                raise verdict.refusal or NotFound(f"no release {entry}")
            record = verdict.signed.record
            config = f", config {record.config.entry}" if record.config else ""
            summary = f"{record.entry} of {record.deploy}: {record.subject}; build {record.build.oid}{config}"
            return _Subject(
                ref=record.ref,
                signed=verdict.signed,
                policy=chain.newest.policy,
                role=chain.newest.policy.deploy(record.deploy).release,
                lack=verdict.refusal,
                summary=[summary],
            )
    why = f"the newest is {now.newest.entry}" if now.newest else "there is none yet"
    where = str(Ledger.releases(dev.deploy)[entry])
    raise NotFound(f"no release {entry}", where=where, why=why, hint="see `gitrel log`")


def _config(dev: Developer, chain: TrustChain, name: str) -> _Subject:
    ledger = config_ledger(dev, chain)
    entry = named_config(dev, ledger, name)
    if entry.lack is not None and not entry.pending:
        raise entry.lack
    before = approved_config(ledger[: entry.entry - 1])
    old = before[-1] if before else None
    files = [current_files(each, dev.repo) for each in (old, entry)]
    record = entry.signed.record
    return _Subject(
        ref=record.ref,
        signed=entry.signed,
        policy=chain.newest.policy,
        role=chain.newest.policy.deploy(record.deploy).config,
        lack=entry.lack,
        summary=[
            f"config {entry.entry} of {record.deploy}, by {entry.maker}: {record.subject}",
            f"since config {old.entry}:" if old else "the first:",
            *(f"  {line}" for line in difference_lines(compare(*files), *files)),
        ],
    )


def _build(dev: Developer, chain: TrustChain, name: str) -> _Subject:
    build = named_build(dev, chain, name)
    return _Subject(
        ref=BuildRef(build.signed.id.oid),
        signed=build.signed,
        policy=chain.newest.policy,
        role=chain.newest.policy.build,
        lack=build.lack,
        summary=[f"build of {build.signed.record.source}"],
    )


def _trust(chain: TrustChain, entry: Entry) -> _Subject:
    pending = chain.pending
    if pending is None or pending.signed.record.entry != entry:
        raise NotFound(
            f"trust {entry} is not pending",
            where=str(TRUST[entry]),
            why=f"trust {chain.newest.entry} is in force",
            hint="`gitrel trust show`",
        )
    before, after = chain.newest.policy, pending.policy
    people = tuple(dict.fromkeys([*before.root.people, *after.root.people]))
    keys = {
        who: tuple(dict.fromkeys([*before.people.get(who, ()), *after.people.get(who, ())]))
        for who in [*before.people, *after.people]
    }
    return _Subject(
        ref=TRUST[entry],
        signed=pending.signed,
        policy=replace(before, people=keys),  # somebody may be new, or have a new key
        role=Role(people=people),
        lack=pending.refusal,
        summary=list(policy_diff(before, after)),
    )


def _still_lacking(dev: Developer, what: str) -> Refused | None:
    chain = dev.trust()
    if what.startswith("trust/"):
        return chain.pending.refusal if chain.pending else None
    return _approvable(dev, chain, what).lack
