"""`gitrel trust …`: who may do what."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from gitrel.cli.console import Console
from gitrel.cli.developer import Developer, open_developer, parse_argument, parse_entry
from gitrel.dataclass import dataclass
from gitrel.errors import Conflict, FormatError, NotFound, UsageError
from gitrel.format.trust import KeyLine, Role, TrustPolicy, encode_allowed_signers, encode_trust
from gitrel.ids import Deploy, Ledger, PersonName
from gitrel.release import amend
from gitrel.release.cut import standing
from gitrel.trust.chain import PendingTrust, TrustChain
from gitrel.trust.signers import require_role
from gitrel.trust.walk import deploys

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
            console.out(f"  trust {chain.pending.signed.record.entry} is {_waiting(chain.pending)}")
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
    rows = list(policy.roles.items())
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
                console.note(f"note: {_waiting(after.pending)}: {after.pending.refusal.hint}")
            console.result(
                changed=True, trust=str(signed.record.entry), id=signed.id.oid, pending=after.pending is not None
            )
            return


def _waiting(pending: PendingTrust) -> str:
    return f"{pending.refusal.what}; {pending.refusal.why}"


def _check_settled(chain: TrustChain) -> None:
    """Raises `Conflict` while a change waits for approvals: it holds the next number."""
    if chain.pending is not None:
        record = chain.pending.signed.record
        raise Conflict(
            f"a change of trust is pending: {record.subject}",
            where=str(record.ref),
            why=chain.pending.refusal.why,
            hint=f"{chain.pending.refusal.hint}; to be rid of it, see docs/trust.md, Pending changes",
        )


def _confirm(console: Console, place: Place, before: TrustPolicy, after: TrustPolicy, notes: list[str]) -> None:
    """Show what is about to be signed, and ask. Raises `UsageError` where nobody can answer."""
    for line in [*policy_diff(before, after), *notes]:
        console.note(f"  {line}")
    ask(place.yes, "Sign this?")


def policy_diff(before: TrustPolicy, after: TrustPolicy) -> Iterator[str]:
    """What changes in trust.toml, as a unified diff."""
    old, new = (encode_trust(policy).decode().splitlines() for policy in (before, after))
    return difflib.unified_diff(old, new, "trust.toml", "trust.toml, to be signed", lineterm="", n=2)


def ask(yes: bool, question: str) -> None:
    """Raises `UsageError` unless somebody says yes."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise UsageError("nobody here to confirm it", hint="look at it, then repeat the command with --yes")
    print(f"{question} [y/N] ", end="", file=sys.stderr, flush=True)
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise UsageError("not confirmed", why="nothing was signed")
