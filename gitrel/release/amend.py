"""Changes of trust: each is a policy made from the policy before, and a record that names the ledgers' heads.

A change that would lock everybody out, or leave a role that nobody can fill, is refused before it is signed.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable, Mapping, Sequence

from gitrel.dataclass import replace
from gitrel.errors import FormatError, NotFound, UsageError
from gitrel.format.record import CitedRelease, Signed, Stamp, TrustRecord
from gitrel.format.trust import (
    SIGNERS_FILE,
    TRUST_FILE,
    KeyLine,
    Role,
    TrustPolicy,
    encode_allowed_signers,
    encode_trust,
    parse_trust,
)
from gitrel.ids import Deploy, Entry, Host, PersonName
from gitrel.keys.public import PublicKey
from gitrel.store.records import Sign, write_record
from gitrel.store.repository import Repository
from gitrel.store.snapshot import store_tree
from gitrel.trust.chain import VerifiedTrust
from gitrel.trust.ledger import Verdict

ROLES = ("root", "build", "release", "config", "heartbeat", "receipt")


def read_keys(lines: Iterable[str], where: str) -> tuple[KeyLine, ...]:
    """Public keys, one a line, as in a .pub file or from `ssh-add -L`. Raises `FormatError` with the line's number."""
    keys = []
    for number, line in enumerate(lines, 1):
        if line.strip() and not line.startswith("#"):
            try:
                key = PublicKey.parse_line(line)
            except FormatError as error:
                raise FormatError(error.what, where=f"{where}:{number}", why=error.why, hint=error.hint) from None
            keys.append(KeyLine.parse(key.line))
    if not keys:
        raise FormatError("no public key in it", where=where)
    return tuple(keys)


def add_person(policy: TrustPolicy, person: PersonName, keys: Sequence[KeyLine]) -> TrustPolicy:
    """A new person, or more keys for one. Raises `UsageError` for a key that somebody has, or that comes twice."""
    owners = {key.id: name for name, owned in policy.people.items() for key in owned}
    for number, key in enumerate(keys):
        if key.id in owners:
            raise UsageError(f"{owners[key.id]} has that key already", where=described(key))
        if key.id in {each.id for each in keys[:number]}:
            raise UsageError("a key that was given twice", where=described(key))
    return replace(policy, people={**policy.people, person: (*policy.people.get(person, ()), *keys)})


def described(key: KeyLine) -> str:
    """A key as people tell it from others."""
    return f"{key.kind} {key.id[:16]}… {key.comment}".rstrip()


def remove_person(policy: TrustPolicy, person: PersonName, keys: Collection[str] = ()) -> TrustPolicy:
    """Somebody leaves, with all keys and roles; or loses only the `keys` named by id or its beginning."""
    _known(policy, person)
    if keys:
        left = tuple(key for key in policy.people[person] if not any(key.id.startswith(name) for name in keys))
        if len(left) + len(keys) != len(policy.people[person]):
            raise NotFound(f"{person} has no such key, or several", where=", ".join(keys), hint="`gitrel trust show`")
        if left:
            return replace(policy, people={**policy.people, person: left})
    people = {name: owned for name, owned in policy.people.items() if name != person}
    deploys = {
        name: replace(
            deploy,
            release=_without(deploy.release, person, f"release {name}"),
            config=_without(deploy.config, person, f"config of {name}"),
        )
        for name, deploy in policy.deploys.items()
    }
    return replace(
        policy,
        people=people,
        root=_without(policy.root, person, "root"),
        build=_without(policy.build, person, "build"),
        heartbeat=_witness_without(policy.heartbeat, person),
        receipt=_witness_without(policy.receipt, person),
        deploys=deploys,
    )


def set_role(
    policy: TrustPolicy, role: str, people: Sequence[PersonName], threshold: int, deploy: Deploy
) -> TrustPolicy:
    """Who holds a role from now on. Raises `UsageError`, `NotFound` for somebody without keys."""
    if role not in ROLES:
        near = difflib.get_close_matches(role, ROLES, 1)
        hint = f"did you mean {near[0]}?" if near else "`gitrel trust show` has the roles, and who holds them"
        raise UsageError(f"no role {role!r}", why=f"there are {', '.join(ROLES)}", hint=hint)
    for person in people:
        _known(policy, person)
    made = Role(people=tuple(dict.fromkeys(people)), threshold=threshold)
    if not 1 <= threshold <= len(made.people):
        raise UsageError(
            f"a threshold of {threshold} for {len(made.people)} people",
            where=role,
            why="nobody could ever reach it" if threshold > 0 else "at least one has to sign",
        )
    match role:
        case "root":
            return replace(policy, root=made)
        case "build":
            return replace(policy, build=made)
        case "heartbeat" | "receipt":
            return _set_witness(policy, role, made)
    before = policy.deploy(deploy)
    after = replace(before, release=made) if role == "release" else replace(before, config=made)
    return replace(policy, deploys={**policy.deploys, deploy: after})


def _set_witness(policy: TrustPolicy, name: str, role: Role) -> TrustPolicy:
    """Raises `UsageError` for what nobody could sign: with a threshold, or for a host of no host's name."""
    if role.threshold != 1:
        raise UsageError(f"the threshold of {name} is 1", where=name, why="nobody approves such a record")
    if name == "heartbeat":
        return replace(policy, heartbeat=role)
    for person in role.people:
        try:
            Host(person)
        except FormatError as error:
            raise UsageError(error.what, where=name, hint="a host that signs receipts has a name like web1") from None
    return replace(policy, receipt=role)


def set_readers(policy: TrustPolicy, deploy: Deploy, readers: Sequence[str]) -> TrustPolicy:
    before = policy.deploy(deploy)
    return replace(policy, deploys={**policy.deploys, deploy: replace(before, readers=tuple(readers))})


def repudiate(policy: TrustPolicy, deploy: Deploy, entry: Entry) -> TrustPolicy:
    """A release that must never run again."""
    entries = sorted({*policy.repudiated.get(deploy, ()), entry})
    return replace(policy, repudiated={**policy.repudiated, deploy: tuple(entries)})


def heads(standings: Mapping[Deploy, Sequence[Verdict]]) -> tuple[CitedRelease, ...]:
    """The newest release of every deploy that is good now: what comes after it is judged by the new trust too."""
    found = []
    for deploy, verdicts in sorted(standings.items()):
        good = [verdict for verdict in verdicts if verdict.release is not None]
        if good:
            found.append(CitedRelease(deploy, good[-1].entry, good[-1].id))
    return tuple(found)


def write_trust(
    repo: Repository,
    before: VerifiedTrust,
    policy: TrustPolicy,
    named: tuple[CitedRelease, ...],
    *,
    subject: str,
    who: Stamp,
    sign: Sign,
) -> Signed[TrustRecord]:
    """The next trust record, signed and stored; no ref is made. Raises `UsageError` if the policy cannot stand."""
    raw = encode_trust(policy)
    try:
        parse_trust(raw)
    except FormatError as error:
        raise UsageError("that trust could not stand", why=error.what) from None
    tree = store_tree(repo, {TRUST_FILE: raw, SIGNERS_FILE: encode_allowed_signers(policy)})
    record = TrustRecord(
        app=policy.app,
        subject=subject,
        entry=before.entry.next,
        previous=before.id,
        heads=_not_going_back(before, named),
        tree_sha256=tree.sha256,
    )
    return write_record(repo, record, tree, who=who, sign=sign)


def _not_going_back(before: VerifiedTrust, named: tuple[CitedRelease, ...]) -> tuple[CitedRelease, ...]:
    """A head never goes back, also when the release that it names has been repudiated since."""
    best = {head.deploy: head for head in before.signed.record.heads}
    for head in named:
        if head.deploy not in best or head.entry > best[head.deploy].entry:
            best[head.deploy] = head
    return tuple(best[deploy] for deploy in sorted(best))


def _known(policy: TrustPolicy, person: PersonName) -> None:
    if person not in policy.people:
        near = difflib.get_close_matches(person, policy.people, n=1)
        raise NotFound(
            f"nobody called {person}",
            where=TRUST_FILE,
            why=f"there are {', '.join(sorted(policy.people))}",
            hint=f"did you mean {near[0]}?" if near else f"`gitrel trust add {person} KEY`",
        )


def _witness_without(role: Role | None, person: PersonName) -> Role | None:
    """A role that need not be there goes with the last who holds it."""
    left = tuple(each for each in role.people if each != person) if role else ()
    return replace(role, people=left) if role and left else None


def _without(role: Role, person: PersonName, name: str) -> Role:
    left = tuple(each for each in role.people if each != person)
    if len(left) < role.threshold:
        raise UsageError(
            f"without {person} nobody could fill the role {name!r}",
            why=f"{len(left)} people would be left for a threshold of {role.threshold}",
            hint=f"first give it to somebody else: `gitrel trust set-role {name.partition(' ')[0]} …`",
        )
    return replace(role, people=left)
