"""`trust.toml` and `allowed_signers`: who may do what (docs/spec/trust.md).

Keys are only split into their parts here; whether a blob is an acceptable public key is for `gitrel.keys` to
say. A policy that nobody could ever change again, or that names people it does not have, does not parse.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from typing import Any

from gitrel.dataclass import dataclass, field
from gitrel.errors import FormatError
from gitrel.format.manifest import TomlTable, list_of, parse_toml
from gitrel.ids import PRODUCTION, App, Deploy, Entry, KeyId, PersonName

TRUST_FILE = "trust.toml"
SIGNERS_FILE = "allowed_signers"
FORMAT = 1

_ANY = re.compile(r"[^\x00-\x1f]{1,128}")
_KEY = re.compile(r"([a-z0-9][a-z0-9@.-]{0,63}) ([A-Za-z0-9+/]+={0,2})(?: ([^\x00-\x1f\x7f-\x9f]*))?")


@dataclass(frozen=True, slots=True)
class KeyLine:
    """A public key as one line of text (sshd(8), AUTHORIZED_KEYS, without options)."""

    kind: str
    blob: bytes
    comment: str = ""

    @classmethod
    def parse(cls, line: Any) -> KeyLine:
        match = _KEY.fullmatch(line) if isinstance(line, str) else None
        if match is None:
            raise FormatError("expected a public key: type, base64, comment")
        try:
            blob = base64.b64decode(match[2], validate=True)
        except binascii.Error:
            raise FormatError("the key is not base64") from None
        key = cls(match[1], blob, match[3] or "")
        if key.bare.split(" ")[1] != match[2]:
            raise FormatError("the key's base64 is not canonical")
        if key.comment != key.comment.strip():
            raise FormatError("space around a key's comment")
        return key

    @property
    def id(self) -> KeyId:
        return KeyId.of(self.blob)

    @property
    def bare(self) -> str:
        """Type and base64, without the comment."""
        return f"{self.kind} {base64.b64encode(self.blob).decode()}"

    def __str__(self) -> str:
        return f"{self.bare} {self.comment}" if self.comment else self.bare


@dataclass(frozen=True, slots=True, kw_only=True)
class Role:
    """`threshold` of `people` together may do it."""

    people: tuple[PersonName, ...]
    threshold: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class DeployPolicy:
    """Who may release a deploy and set its config, and the keys that can read its secrets."""

    release: Role
    config: Role
    readers: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class TrustPolicy:
    """The whole of `trust.toml`. `deploys` always has production; `repudiated` lists entries that must never run.

    `heartbeat`: who may sign heartbeats; `receipt`: the hosts that sign receipts, each for itself. None: nobody.
    """

    app: App
    people: Mapping[PersonName, tuple[KeyLine, ...]]
    root: Role
    build: Role
    deploys: Mapping[Deploy, DeployPolicy]
    repudiated: Mapping[Deploy, tuple[Entry, ...]] = field(default_factory=dict)
    heartbeat: Role | None = None
    receipt: Role | None = None

    def deploy(self, name: Deploy) -> DeployPolicy:
        """A deploy's own roles, or production's; never production's readers for another deploy."""
        own = self.deploys.get(name)
        if own is not None:
            return own
        production = self.deploys[PRODUCTION]
        return DeployPolicy(release=production.release, config=production.config)

    @property
    def roles(self) -> dict[str, Role]:
        """Those of the whole app, by name; without those that nobody holds."""
        every = {"root": self.root, "build": self.build, "heartbeat": self.heartbeat, "receipt": self.receipt}
        return {name: role for name, role in every.items() if role is not None}

    def is_repudiated(self, deploy: Deploy, entry: Entry) -> bool:
        return entry in self.repudiated.get(deploy, ())


def parse_trust(raw: bytes, where: str = TRUST_FILE) -> TrustPolicy:
    """Raises `FormatError` naming the file and the key's path, or the line where it is no TOML."""
    top = parse_toml(raw, where)
    if top.take("format", _whole) != FORMAT:
        raise FormatError("another format", where=where, why=f"this gitrel knows {FORMAT}", hint="upgrade gitrel")
    app = top.take("app", lambda value: App(_text(value)))
    try:
        policy = _policy(top, app, where)
    except FormatError as error:
        raise error if error.where else FormatError(error.what, where=where, why=error.why) from None
    top.end()
    if PRODUCTION not in policy.deploys:
        raise FormatError("no [deploys.production]", where=where)
    _check_keys(policy.people, where)
    return policy


def _policy(top: TomlTable, app: App, where: str) -> TrustPolicy:
    people = {PersonName(name): _person(table, name, where) for name, table in top.tables("people", _ANY)}
    roles = _required(top, "roles", where)
    heartbeat, receipt = roles.table("heartbeat"), roles.table("receipt")
    policy = TrustPolicy(
        app=app,
        people=people,
        root=_role(_required(roles, "root", where), people),
        build=_role(_required(roles, "build", where), people),
        deploys={Deploy(name): _deploy(table, people, where) for name, table in top.tables("deploys", _ANY)},
        repudiated=_repudiated(top.table("repudiated")),
        heartbeat=_witness(heartbeat, people) if heartbeat else None,
        receipt=_witness(receipt, people) if receipt else None,
    )
    roles.end()
    return policy


def _check_keys(people: Mapping[PersonName, tuple[KeyLine, ...]], where: str) -> None:
    owners: dict[KeyId, PersonName] = {}
    for person, keys in people.items():
        for key in keys:
            if key.id in owners:
                whose = "the same person's" if owners[key.id] == person else f"also {owners[key.id]}'s"
                raise FormatError(f"people.{person}: a key that stands twice", where=where, why=whose)
            owners[key.id] = person


def encode_trust(policy: TrustPolicy) -> bytes:
    """`trust.toml`, as gitrel writes it: people sorted by name, production first among the deploys."""
    document: dict[str, Any] = {
        "format": FORMAT,
        "app": str(policy.app),
        "people": {str(name): {"keys": [str(key) for key in keys]} for name, keys in sorted(policy.people.items())},
        "roles": {name: _role_table(role) for name, role in policy.roles.items()},
        "deploys": {
            str(name): {
                "release": _role_table(deploy.release),
                "config": _role_table(deploy.config),
                "readers": list(deploy.readers),
            }
            for name, deploy in sorted(policy.deploys.items(), key=lambda item: (item[0] != PRODUCTION, item[0]))
        },
    }
    if policy.repudiated:
        document["repudiated"] = {
            str(name): [str(entry) for entry in sorted(entries)] for name, entries in sorted(policy.repudiated.items())
        }
    import tomli_w  # to read a trust file needs none

    return tomli_w.dumps(document).encode()


def encode_allowed_signers(policy: TrustPolicy) -> bytes:
    """The same keys for stock git (ssh-keygen(1), ALLOWED SIGNERS): people sorted by name, a line for each key."""
    lines = [
        f'{person} namespaces="git" {key.bare}\n' for person, keys in sorted(policy.people.items()) for key in keys
    ]
    return "".join(lines).encode()


def _required(table: TomlTable, key: str, where: str) -> TomlTable:
    found = table.table(key)
    if found is None:
        raise FormatError(f"no table {key!r}", where=where)
    return found


def _person(table: TomlTable, name: str, where: str) -> tuple[KeyLine, ...]:
    keys = table.take("keys", list_of(KeyLine.parse))
    table.end()
    if not keys:
        raise FormatError(f"people.{name}: a person without keys", where=where)
    return keys


def _role(table: TomlTable, known: Mapping[PersonName, object]) -> Role:
    people = table.take("people", lambda value: _members(value, known))
    threshold = table.take("threshold", lambda value: _threshold(value, len(people)))
    table.end()
    return Role(people=people, threshold=threshold)


def _witness(table: TomlTable, known: Mapping[PersonName, object]) -> Role:
    """A role whose records carry one signature."""
    role = _role(table, known)
    if role.threshold != 1:
        raise FormatError("the threshold of `heartbeat` and `receipt` is 1", why="nobody approves such a record")
    return role


def _members(value: Any, known: Mapping[PersonName, object]) -> tuple[PersonName, ...]:
    people = list_of(lambda name: PersonName(_text(name)))(value)
    for person in people:
        if person not in known:
            raise FormatError(f"{str(person)!r} is not in [people]")
    if len(set(people)) != len(people):
        raise FormatError("somebody stands twice")
    return people


def _threshold(value: Any, people: int) -> int:
    if not 1 <= (threshold := _whole(value)) <= people:
        raise FormatError(f"a role of {people} people cannot have this threshold", why="nobody could act in it")
    return threshold


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise FormatError("expected text")
    return value


def _whole(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise FormatError("expected a whole number")
    return value


def _deploy(table: TomlTable, known: Mapping[PersonName, object], where: str) -> DeployPolicy:
    policy = DeployPolicy(
        release=_role(_required(table, "release", where), known),
        config=_role(_required(table, "config", where), known),
        readers=table.take("readers", list_of(_reader), ()),
    )
    table.end()
    return policy


def _reader(value: Any) -> str:
    if not isinstance(value, str) or not value.isprintable() or not value.strip():
        raise FormatError("expected an SSH public key or an age recipient")
    return value


def _repudiated(table: TomlTable | None) -> dict[Deploy, tuple[Entry, ...]]:
    if table is None:
        return {}
    read = list_of(lambda entry: Entry.parse(_text(entry)))
    found = {}
    for name, entries in table.items():
        try:
            found[Deploy(name)] = read(entries)
        except FormatError as error:
            raise FormatError(f"repudiated.{name[:80]}: {error.what}") from None
    return found


def _role_table(role: Role) -> dict[str, Any]:
    return {"people": [str(person) for person in role.people], "threshold": role.threshold}
