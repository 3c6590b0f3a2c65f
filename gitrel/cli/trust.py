"""`gitrel trust …` and `gitrel approve`: who may do what, and one more signature under what somebody else did."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from gitrel.cli.console import Console
from gitrel.cli.developer import Developer, open_developer, parse_argument, parse_entry
from gitrel.errors import Conflict, FormatError, NotFound, Refused, UsageError
from gitrel.format.record import (
    ApprovalRecord,
    BuildRecord,
    ReleaseRecord,
    Signed,
    TrustRecord,
    approval_payload,
    sign_approval,
)
from gitrel.format.trust import KeyLine, Role, TrustPolicy, encode_allowed_signers, encode_trust
from gitrel.ids import TRUST, ApprovalRef, BuildRef, Deploy, Entry, Ledger, LedgerRef, PersonName
from gitrel.release import amend
from gitrel.release.cut import standing
from gitrel.trust.chain import TrustChain
from gitrel.trust.checks import Check
from gitrel.trust.signers import owners, require_role, verify_approvals, verify_signature
from gitrel.trust.walk import RecordReader, deploys, find_builds

Change = Callable[[TrustPolicy], TrustPolicy]


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Which repository, and how sure the caller is."""

    repo: Path | None
    remote: str | None
    pin: str | None
    yes: bool = False


def show(console: Console, place: Place) -> None:
    with open_developer(console, repo=place.repo, remote=place.remote, trust=place.pin) as dev:
        chain = dev.trust()
        policy = chain.newest.policy
        console.out(f"{chain.app}, trust {chain.newest.entry}, pin {chain.pin}")
        for person, keys in sorted(policy.people.items()):
            for key in keys:
                console.out(f"  {person}: {key.kind} {key.id[:16]}… {key.comment}".rstrip())
        for name, role in _roles(policy):
            console.out(f"  {name}: {role.threshold} of {', '.join(role.people)}")
        for deploy, own in policy.deploys.items():
            for reader in own.readers:
                console.out(f"  reader of {deploy}: {reader[:60]}")
        for deploy, entries in policy.repudiated.items():
            console.out(f"  repudiated in {deploy}: {', '.join(map(str, entries))}")
        if chain.pending is not None:
            console.out(f"  pending: {chain.pending.refusal}")
        console.result(
            app=chain.app,
            trust=str(chain.newest.entry),
            pin=chain.pin,
            people={person: [str(key) for key in keys] for person, keys in policy.people.items()},
            roles={name: {"people": list(role.people), "threshold": role.threshold} for name, role in _roles(policy)},
            readers={deploy: list(own.readers) for deploy, own in policy.deploys.items()},
            repudiated={deploy: [str(entry) for entry in entries] for deploy, entries in policy.repudiated.items()},
            pending=str(chain.pending.refusal) if chain.pending else None,
        )


def _roles(policy: TrustPolicy) -> list[tuple[str, Role]]:
    rows = [("root", policy.root), ("build", policy.build)]
    for deploy, own in policy.deploys.items():
        rows += [(f"release {deploy}", own.release), (f"config of {deploy}", own.config)]
    return rows


def export(console: Console, place: Place) -> None:
    """`allowed_signers` for stock git."""
    with open_developer(console, repo=place.repo, remote=place.remote, trust=place.pin) as dev:
        text = encode_allowed_signers(dev.trust().newest.policy).decode()
        console.out(text.rstrip("\n"))
        console.result(allowed_signers=text)


def add(console: Console, place: Place, person: str, keys: list[str]) -> None:
    name = parse_argument("PERSON", PersonName, person)
    lines = tuple(key for word in keys for key in _keys(word))
    _change(console, place, f"Add {name}", lambda policy: amend.add_person(policy, name, lines))


def remove(console: Console, place: Place, person: str, keys: list[str]) -> None:
    name = parse_argument("PERSON", PersonName, person)
    subject = f"Remove {'a key of ' if keys else ''}{name}"
    _change(console, place, subject, lambda policy: amend.remove_person(policy, name, keys))


def set_role(console: Console, place: Place, role: str, people: list[str], threshold: int, deploy: str) -> None:
    names = [parse_argument("PERSON", PersonName, person) for person in people]
    target = parse_argument("--deploy", Deploy, deploy)
    where = f" {deploy}" if role in ("release", "config") else ""
    _change(
        console,
        place,
        f"Role {role}{where}: {threshold} of {', '.join(names)}"[:200],
        lambda policy: amend.set_role(policy, role, names, threshold, target),
    )


def readers(console: Console, place: Place, deploy: str, words: list[str], *, add: bool) -> None:
    from gitrel.keys.secrets import describe_reader, parse_reader

    name = parse_argument("--deploy", Deploy, deploy)
    lines = [line for word in words for line in _reader_lines(word)]
    for line in lines if add else ():
        try:
            parse_reader(line)
        except FormatError as error:
            error.where = error.where or f"the reader {describe_reader(line)}"
            raise

    def change(policy: TrustPolicy) -> TrustPolicy:
        before = policy.deploy(name).readers
        if add:
            return amend.set_readers(policy, name, list(dict.fromkeys([*before, *lines])))
        bodies = [" ".join(line.split(" ")[:2]) for line in lines]
        left = [each for each in before if " ".join(each.split(" ")[:2]) not in bodies]
        if len(left) == len(before):
            raise NotFound("no such reader", where=f"readers of {name}", hint="`gitrel trust show`")
        return amend.set_readers(policy, name, left)

    _change(console, place, f"{'Add' if add else 'Remove'} a reader of {name}", change)


def repudiate(console: Console, place: Place, entry: str, deploy: str) -> None:
    number, name = parse_entry(entry), parse_argument("--deploy", Deploy, deploy)
    ref = str(Ledger.releases(name)[number])

    def look(dev: Developer) -> None:
        if dev.workspace.refs().get(ref) is None:  # one that comes later would be born dead
            raise NotFound(f"no release {number} of {name}", where=ref, hint="`gitrel log` lists the releases")

    subject = f"Repudiate {number} of {name}"
    _change(console, place, subject, lambda policy: amend.repudiate(policy, name, number), look)


def _keys(word: str) -> tuple[KeyLine, ...]:
    """A key itself, a .pub file or a file of keys, or `-`: standard input, as from `ssh-add -L`."""
    if word == "-":
        return amend.read_keys(sys.stdin.read().splitlines(), "standard input")
    if " " in word and not Path(word).is_file():
        return amend.read_keys([word], "the command line")
    return amend.read_keys(_text(word).splitlines(), word)


def _reader_lines(word: str) -> list[str]:
    """Raises `FormatError` for what is no key."""
    if word.startswith("age1"):
        return [word]
    return [str(key) for key in _keys(word)]


def _text(path: str) -> str:
    try:
        return Path(path).read_text("utf-8")
    except OSError as error:
        raise NotFound(
            "cannot read a public key", where=path, why=error.strerror or "", hint="a .pub file, a key in quotes, or -"
        ) from error
    except UnicodeDecodeError:
        raise FormatError("not a public key", where=path, why="it is not text") from None


def _change(
    console: Console,
    place: Place,
    subject: str,
    change: Change,
    look: Callable[[Developer], None] = lambda _: None,
) -> None:
    """Make the next trust record: shown as a diff, signed, published; again if somebody else was first.

    `look` sees everything first, and raises if the change makes no sense there.
    """
    with open_developer(console, repo=place.repo, remote=place.remote, trust=place.pin) as dev:
        while True:
            dev.sync()
            chain = dev.trust()
            _check_settled(chain)
            before = chain.newest
            require_role(before.policy, before.policy.root, dev.signer.public_key.id, "change the trust")
            look(dev)
            policy = change(before.policy)
            if policy == before.policy:
                console.out("nothing changes")
                console.result(changed=False, trust=str(before.entry))
                return
            named = amend.heads(
                {name: standing(dev.workspace, chain, name).verdicts for name in deploys(dev.workspace.refs())}
            )
            _confirm(console, place, before.policy, policy, [f"head {head}" for head in named])
            signed = amend.write_trust(
                dev.repo, before, policy, named, subject=subject, who=dev.who(), sign=dev.signer.sign
            )
            ref = str(signed.record.ref)
            try:
                dev.workspace.publish({ref: signed.id.oid})
            except Conflict:
                continue  # somebody else changed the trust: make the same change on top of theirs
            after = dev.trust()
            console.out(f"trust {signed.record.entry}: {subject}")
            if after.pending is not None:
                console.note(f"note: {after.pending.refusal.what}: {after.pending.refusal.why}")
            console.result(
                changed=True, trust=str(signed.record.entry), id=signed.id.oid, pending=after.pending is not None
            )
            return


def _check_settled(chain: TrustChain) -> None:
    """Raises `Conflict` while a change waits for approvals: it holds the next number."""
    if chain.pending is not None:
        record = chain.pending.signed.record
        raise Conflict(
            f"a change of trust is pending: {record.subject}",
            where=str(record.ref),
            why=chain.pending.refusal.why,
            hint=f"`gitrel approve trust/{record.entry}`; to be rid of it, see docs/trust.md, Pending changes",
        )


def _confirm(console: Console, place: Place, before: TrustPolicy, after: TrustPolicy, notes: list[str]) -> None:
    """Show what is about to be signed, and ask. Raises `UsageError` where nobody can answer."""
    diff = difflib.unified_diff(
        encode_trust(before).decode().splitlines(),
        encode_trust(after).decode().splitlines(),
        "trust.toml",
        "trust.toml, to be signed",
        lineterm="",
        n=2,
    )
    for line in [*diff, *notes]:
        console.note(f"  {line}")
    ask(place.yes, "Sign this?")


def ask(yes: bool, question: str) -> None:
    """Raises `UsageError` unless somebody says yes."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise UsageError("nobody here to confirm it", hint="look at it, then repeat the command with --yes")
    print(f"{question} [y/N] ", end="", file=sys.stderr, flush=True)
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise UsageError("not confirmed", why="nothing was signed")


def approve(console: Console, place: Place, what: str, deploy: str) -> None:
    """Sign an approval of a release (`v7`), a trust record (`trust/v3`) or a build (`build/<id>`)."""
    with open_developer(console, repo=place.repo, remote=place.remote, deploy=deploy, trust=place.pin) as dev:
        dev.sync()
        chain = dev.trust()
        subject = _approvable(dev, chain, what)
        key = dev.signer.public_key.id
        person = require_role(subject.policy, subject.role, key, f"approve {what}")
        if person in _signed_by(dev, chain, subject):
            raise Conflict(
                f"{person} has signed {what} already",
                where=str(subject.ref),
                why="a person counts once",
                hint="somebody else has to",
            )
        console.note(f"  {subject.summary}")
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
        pending = _still_pending(dev, what)
        console.out(f"{person} approves {what}{f'; still {pending}' if pending else ''}")
        console.result(approved=what, person=person, ref=name, pending=pending is not None)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Subject:
    """What is to be approved, and by whom: `role` in the eyes of `policy`."""

    ref: LedgerRef | BuildRef
    signed: Signed[TrustRecord] | Signed[BuildRecord] | Signed[ReleaseRecord]
    policy: TrustPolicy
    role: Role
    summary: str


def _signed_by(dev: Developer, chain: TrustChain, subject: _Subject) -> set[PersonName]:
    """Who made the record or has approved it."""
    refs = dev.workspace.refs()
    approvals = RecordReader(refs, dev.repo).approvals(subject.signed.id.oid)
    keys = {verify_signature(subject.signed, str(subject.ref))}
    keys |= verify_approvals(approvals, subject.signed.id, chain.app, dev.repo.format, subject.ref)
    known = owners(subject.policy)
    return {known[key] for key in keys if key in known}


def _approvable(dev: Developer, chain: TrustChain, what: str) -> _Subject:
    """The record that `what` names, if there is nothing wrong with it but signatures. Raises `Refused`, `NotFound`."""
    policy = chain.newest.policy
    kind, _, name = what.rpartition("/")
    if kind == "trust":
        return _pending_trust(chain, parse_entry(name))
    if kind == "build":
        return _build(dev, chain, name)
    if kind not in ("", "release"):
        raise UsageError(f"cannot approve {what!r}", hint="v7, trust/v3 or build/<id>")
    entry = parse_entry(name)
    for verdict in dev.standing().verdicts:
        if verdict.entry == entry:
            if verdict.signed is None or (verdict.refusal is not None and not verdict.pending):
                raise verdict.refusal or NotFound(f"no release {entry}")
            record = verdict.signed.record
            summary = f"{record.entry} of {record.deploy}: {record.subject}; build {record.build.oid}"
            role = policy.deploy(record.deploy).release
            return _Subject(ref=record.ref, signed=verdict.signed, policy=policy, role=role, summary=summary)
    raise NotFound(f"no release {entry}", where=str(Ledger.releases(dev.deploy)[entry]), hint="see `gitrel log`")


def _build(dev: Developer, chain: TrustChain, name: str) -> _Subject:
    policy = chain.newest.policy
    builds = find_builds(dev.workspace.refs(), dev.repo, chain, enough=False)
    found = [signed for signed in builds if signed.id.oid.startswith(name)]
    if len(name) < 4 or len(found) != 1:
        why = f"{len(found)} builds begin with that" if found else "or nobody with the build role signed it"
        raise NotFound("no such build", where=f"refs/builds/{name}*", why=why, hint="`git for-each-ref refs/builds`")
    signed = found[0]
    summary = f"build of {signed.record.source}"
    return _Subject(ref=BuildRef(signed.id.oid), signed=signed, policy=policy, role=policy.build, summary=summary)


def _pending_trust(chain: TrustChain, entry: Entry) -> _Subject:
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
    both = replace(before, people=keys)  # somebody may be new, or have a new key
    diff = difflib.unified_diff(
        encode_trust(before).decode().splitlines(), encode_trust(after).decode().splitlines(), lineterm="", n=2
    )
    summary = "\n  ".join(diff)
    return _Subject(ref=TRUST[entry], signed=pending.signed, policy=both, role=Role(people=people), summary=summary)


def _still_pending(dev: Developer, what: str) -> str | None:
    kind, _, name = what.rpartition("/")
    if kind == "trust":
        pending = dev.trust().pending
        return str(pending.refusal) if pending else None
    if kind == "build":
        return None
    entry = parse_entry(name)
    refusals = [verdict.refusal for verdict in dev.standing().verdicts if verdict.entry == entry]
    found: Refused | None = refusals[0] if refusals else None
    return found.what if found is not None and found.check == Check.THRESHOLD else None
