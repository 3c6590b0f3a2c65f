"""The other side, in memory: an honest team's repository, and insiders who will sign anything.

After python-tuf's `repository_simulator.py`. Keys come from fixed seeds, SSHSIG is written a second time in
`keys_support`; every field of a record can be overridden, and any bytes can be put under any ref. `read` is what
the verifier is given (`gitrel.trust.content.Objects`); it believes its own ids, so that a test can put a second
content under one (a collision of SHA-1).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from keys_support import Key, ed25519_key, signed

from gitrel.errors import LocalStateError, NotFound, Refused
from gitrel.format.provenance import Provenance, encode_provenance
from gitrel.format.record import (
    ApprovalRecord,
    BuildRecord,
    Cited,
    CitedRelease,
    ConfigRecord,
    R,
    ReleaseRecord,
    Signed,
    Stamp,
    TrustRecord,
    approval_payload,
    parse_record_as,
    sign_approval,
    sign_record,
    unsigned_payload,
)
from gitrel.format.tree import Mode, Node, blob_node, directory_node
from gitrel.format.trust import (
    SIGNERS_FILE,
    TRUST_FILE,
    DeployPolicy,
    KeyLine,
    Role,
    TrustPolicy,
    encode_allowed_signers,
    encode_trust,
)
from gitrel.ids import (
    PRODUCTION,
    App,
    ApprovalRef,
    BuildRef,
    Deploy,
    Entry,
    KeyId,
    Kind,
    Ledger,
    LedgerRef,
    ObjectFormat,
    ObjectId,
    PersonName,
    Sha256,
)
from gitrel.trust.anchor import Anchor
from gitrel.trust.chain import TrustChain
from gitrel.trust.content import VerifiedRelease, bind_trees, check_shape, hash_tree, verify_content
from gitrel.trust.ledger import ChainedRelease, Verdict
from gitrel.trust.walk import load_trust, walk_builds, walk_releases

SHOP = App("shop")
STAMP = Stamp(name="Alice Example", email="alice@example.org", time=1_700_000_000, zone="+0130")
MANIFEST_FILE = b'app = "shop"\n'
FILES: Mapping[str, Any] = {"Procfile": b"web: ./serve\n", "gitrel.toml": MANIFEST_FILE, "serve": b"#!/bin/sh\n"}

Content = bytes | Node | Mapping[str, Any]


def line(key: Key, comment: str = "") -> KeyLine:
    return KeyLine.parse(f"{key.line} {comment}".strip())


def role(*people: str, threshold: int = 1) -> Role:
    return Role(people=tuple(PersonName(person) for person in people), threshold=threshold)


def policy(
    people: Mapping[str, tuple[Key, ...]] | None = None,
    *,
    root: Role | None = None,
    build: Role | None = None,
    release: Role | None = None,
    config: Role | None = None,
    **more: Any,
) -> TrustPolicy:
    """Alice holds every role, bob is known and holds none; anything else as given."""
    known = people if people is not None else {"alice": (ed25519_key("alice"),), "bob": (ed25519_key("bob"),)}
    alone = role(next(iter(known)))
    production = DeployPolicy(release=release or alone, config=config or alone)
    return TrustPolicy(
        app=more.pop("app", SHOP),
        people={PersonName(name): tuple(line(key, name) for key in keys) for name, keys in known.items()},
        root=root or alone,
        build=build or alone,
        deploys={PRODUCTION: production, **more.pop("deploys", {})},
        **more,
    )


@dataclass
class Simulator:
    """A repository. Methods that make a record publish it under its own ref and return it."""

    app: App = SHOP
    fmt: ObjectFormat = ObjectFormat.SHA1
    objects: dict[ObjectId, tuple[Kind, bytes]] = field(default_factory=dict)
    refs: dict[str, ObjectId] = field(default_factory=dict)
    trusts: list[Signed[TrustRecord]] = field(default_factory=list)
    releases: dict[Deploy, list[Signed[ReleaseRecord]]] = field(default_factory=dict)
    configs: dict[Deploy, list[Signed[ConfigRecord]]] = field(default_factory=dict)
    builds: dict[ObjectId, Node] = field(default_factory=dict)  # the folder build/, by the tree that holds it
    stamp: Stamp = STAMP

    def fork(self) -> Simulator:
        """A copy that goes its own way."""
        return replace(
            self,
            objects=dict(self.objects),
            refs=dict(self.refs),
            builds=dict(self.builds),
            trusts=list(self.trusts),
            releases={deploy: list(all_) for deploy, all_ in self.releases.items()},
            configs={deploy: list(all_) for deploy, all_ in self.configs.items()},
        )

    # what the verifier asks for

    def read(self, oid: ObjectId, kind: Kind) -> bytes:
        if oid not in self.objects:
            raise NotFound("no such object", where=oid)
        found, data = self.objects[oid]
        if found != kind:
            raise LocalStateError(f"expected a {kind}, found a {found}", where=oid)
        return data

    # objects

    def put(self, kind: Kind, data: bytes) -> ObjectId:
        oid = self.fmt.object_id(kind, data)
        self.objects[oid] = (kind, data)
        return oid

    def node(self, content: Content) -> Node:
        """Bytes are a file, a mapping a folder."""
        if isinstance(content, Node):
            return content
        if isinstance(content, bytes):
            self.put("blob", content)
            return blob_node(content, self.fmt)
        children = {name: self.node(each) for name, each in content.items()}
        raw, node = directory_node(children, self.fmt)
        self.put("tree", raw)
        if "build" in children:
            self.builds[node.oid] = children["build"]
        return node

    def raw_tree(self, *entries: tuple[bytes, bytes, ObjectId], end: bytes = b"") -> Node:
        """A tree of any bytes: mode, name, id. Its SHA-256 id is made up."""
        raw = b"".join(b"%s %s\0%s" % (mode, name, oid.raw) for mode, name, oid in entries) + end
        return Node(Mode.DIRECTORY, self.put("tree", raw), Sha256("7" * 64))

    def link(self, target: str | bytes) -> Node:
        raw = target if isinstance(target, bytes) else target.encode()
        self.put("blob", raw)
        return blob_node(raw, self.fmt, Mode.SYMLINK)

    # records

    def sign(self, record: R, tree: ObjectId, key: Key, stamp: Stamp | None = None) -> Signed[R]:
        """Signed and stored; no ref."""
        stamp = stamp or self.stamp
        payload = unsigned_payload(record, tree=tree, author=stamp, committer=stamp)
        raw = sign_record(record, tree=tree, author=stamp, committer=stamp, signature=signed(key, payload))
        self.put("commit", raw)
        return parse_record_as(type(record), raw, self.fmt)

    def publish(self, ref: object, raw: bytes, kind: Kind = "commit") -> ObjectId:
        """Any bytes under any name."""
        self.refs[str(ref)] = oid = self.put(kind, raw)
        return oid

    def trust(
        self, new: TrustPolicy | None = None, by: Key | None = None, approved_by: Iterable[Key] = (), **over: Any
    ) -> Signed[TrustRecord]:
        """The next trust record; `files` overrides what its tree holds."""
        new = new or policy()
        files = {TRUST_FILE: encode_trust(new), SIGNERS_FILE: encode_allowed_signers(new), **over.pop("files", {})}
        node = self.node({name: data for name, data in files.items() if data is not None})
        tree = over.pop("tree", node.oid)
        heads = [
            CitedRelease(deploy, all_[-1].record.entry, all_[-1].id)
            for deploy, all_ in sorted(self.releases.items())
            if all_
        ]
        fields: dict[str, Any] = {
            "app": new.app,
            "subject": f"Trust v{len(self.trusts) + 1}",
            "entry": Entry(len(self.trusts) + 1),
            "previous": self.trusts[-1].id if self.trusts else None,
            "heads": tuple(heads),
            "tree_sha256": node.sha256,
        }
        ref = over.pop("ref", None)
        made = self.sign(TrustRecord(**{**fields, **over}), tree, by or ed25519_key("alice"))
        self.refs[str(ref or made.record.ref)] = made.id.oid
        self.trusts.append(made)
        for key in approved_by:
            self.approve(made, key)
        return made

    @property
    def cited(self) -> Cited:
        return Cited(self.trusts[-1].record.entry, self.trusts[-1].id)

    def config(
        self, values: Mapping[str, Content] | None = None, by: Key | None = None, **over: Any
    ) -> Signed[ConfigRecord]:
        deploy = over.get("deploy", PRODUCTION)
        before = self.configs.setdefault(deploy, [])
        node = self.node({"LOG_LEVEL": b"info"} if values is None else values)
        fields: dict[str, Any] = {
            "app": self.app,
            "subject": "Config",
            "deploy": deploy,
            "entry": Entry(len(before) + 1),
            "previous": before[-1].id if before else None,
            "trust": self.cited,
            "tree_sha256": node.sha256,
        }
        tree = over.pop("tree", node.oid)
        made = self.sign(ConfigRecord(**{**fields, **over}), tree, by or ed25519_key("alice"))
        self.refs[str(made.record.ref)] = made.id.oid
        before.append(made)
        return made

    def build(self, files: Content | None = None, by: Key | None = None, **over: Any) -> Signed[BuildRecord]:
        build = self.node(FILES if files is None else files)
        source = over.pop("source", self.fmt.object_id("commit", b"the source"))
        stated = Provenance(
            tree=build.oid,
            tree_sha256=build.sha256,
            source=source,
            started=0,
            finished=1,
            gitrel_version="1",
            python_version="3",
        )
        node = self.node({"build": build, "provenance.json": over.pop("provenance", encode_provenance(stated))})
        fields: dict[str, Any] = {
            "app": self.app,
            "subject": "Build",
            "source": source,
            "trust": self.cited,
            "tree_sha256": node.sha256,
        }
        tree = over.pop("tree", node.oid)
        made = self.sign(BuildRecord(**{**fields, **over}), tree, by or ed25519_key("alice"))
        self.refs[str(BuildRef(made.id.oid))] = made.id.oid
        return made

    def draft(
        self, build: Signed[BuildRecord] | None = None, config: Signed[ConfigRecord] | None = None, **over: Any
    ) -> tuple[ReleaseRecord, ObjectId]:
        """The next release of a deploy, unsigned, and its tree. `tree` overrides the tree alone, `files` what
        else it holds, `cites_build` and `cites_config` what the record says."""
        deploy = over.get("deploy", PRODUCTION)
        before = self.releases.setdefault(deploy, [])
        build = build or self.build()
        children = {"build": self.builds[build.tree]}
        if config is not None and self.read(config.tree, "tree"):
            children["config"] = Node(Mode.DIRECTORY, config.tree, config.record.tree_sha256)
        node = self.node({**children, **over.pop("files", {})})
        tree = over.pop("tree", node.oid)
        fields: dict[str, Any] = {
            "app": self.app,
            "subject": "Release",
            "deploy": deploy,
            "entry": before[-1].record.entry.next if before else Entry(1),
            "previous": before[-1].id if before else None,
            "build": over.pop("cites_build", build.id),
            "config": over.pop("cites_config", Cited(config.record.entry, config.id) if config else None),
            "trust": self.cited,
            "tree_sha256": node.sha256,
        }
        return ReleaseRecord(**{**fields, **over}), tree

    def release(
        self,
        build: Signed[BuildRecord] | None = None,
        config: Signed[ConfigRecord] | None = None,
        by: Key | None = None,
        approved_by: Iterable[Key] = (),
        **over: Any,
    ) -> Signed[ReleaseRecord]:
        ref, stamp = over.pop("ref", None), over.pop("stamp", None)
        record, tree = self.draft(build, config, **over)
        made = self.sign(record, tree, by or ed25519_key("alice"), stamp)
        self.refs[str(ref or record.ref)] = made.id.oid
        self.releases[record.deploy].append(made)
        for key in approved_by:
            self.approve(made, key)
        return made

    def approve(self, record: Signed[Any], by: Key, **over: Any) -> bytes:
        """`ref`, `key`, `raw` override where it lies, which key it claims, what it is."""
        subject = BuildRef(record.id.oid) if isinstance(record.record, BuildRecord) else record.record.ref
        ref, key = over.pop("ref", None), over.pop("key", KeyId.of(by.blob))
        fields: dict[str, Any] = {
            "app": self.app,
            "subject": "Approval",
            "trust": self.cited,
            "subject_of": subject,
            "approved": record.id,
        }
        change: Callable[[bytes], bytes] = over.pop("change", lambda raw: raw)
        body = ApprovalRecord(**{**fields, **over})
        payload = approval_payload(body, key=key, tagger=self.stamp)
        raw = change(sign_approval(body, key=key, tagger=self.stamp, signature=signed(by, payload)))
        self.publish(ref or ApprovalRef(record.id.oid, key), raw, "tag")
        return raw

    # what a server does

    @property
    def pin(self) -> Sha256:
        return self.trusts[0].id.sha256

    def chain(self, pin: Sha256 | None = None) -> TrustChain:
        return load_trust(self.refs, self, self.fmt, pin or self.pin)

    def verdicts(self, deploy: Deploy = PRODUCTION, **walk: Any) -> list[Verdict]:
        return list(walk_releases(self.refs, self, self.chain(walk.pop("pin", None)), deploy, **walk))

    def outcome(self, deploy: Deploy = PRODUCTION, **walk: Any) -> list[int]:
        """For each release that was judged: 0, it may run, or the check that refused it."""
        return [verdict.refusal.check if verdict.refusal else 0 for verdict in self.verdicts(deploy, **walk)]

    def anchor(self, entry: int = -1, deploy: Deploy = PRODUCTION) -> Anchor:
        found = self.releases[deploy][entry - 1 if entry > 0 else entry]
        return Anchor(found.record.entry, found.id, found.record.trust.entry)

    def verify_files(self, release: ChainedRelease) -> VerifiedRelease:
        """Checks 9 to 12, every byte hashed."""
        bound = bind_trees(release, self)
        check_shape(self, bound.build_tree, str(release.record.ref))
        return verify_content(bound, hash_tree(self, bound.build_tree, str(release.record.ref)))

    def verify(self, entry: int = 0, deploy: Deploy = PRODUCTION) -> VerifiedRelease:
        """One release down to its last byte (default: the newest). Raises `Refused`."""
        verdicts = self.verdicts(deploy)
        verdict = verdicts[-1] if not entry else next(each for each in verdicts if each.entry == entry)
        if verdict.release is None:
            raise verdict.refusal or AssertionError("a verdict that says nothing")
        return self.verify_files(verdict.release)

    def refusal(self, entry: int = 0) -> int:
        """The check that refuses a release at any stage; 0: it may run."""
        try:
            self.verify(entry)
        except Refused as refused:
            return refused.check
        return 0


def shop(count: int = 5, fmt: ObjectFormat = ObjectFormat.SHA1) -> Simulator:
    """An honest team: trust v1, one config, `count` releases with a build each."""
    key = (count, fmt)
    if key not in _SHOPS:
        made = Simulator(fmt=fmt)
        made.trust()
        config = made.config()
        for number in range(1, count + 1):
            made.release(made.build({**FILES, "version": b"%d\n" % number}), config)
        _SHOPS[key] = made
    return copy.copy(_SHOPS[key]).fork()


_SHOPS: dict[tuple[int, ObjectFormat], Simulator] = {}


def commit_with(payload: bytes, signature: str, header: str = "gpgsig") -> bytes:
    """A commit's bytes, given what is signed and an armor, whatever either holds."""
    head, _, message = payload.partition(b"\n\n")
    armor = f"{header} {signature}".replace("\n", "\n ").encode()
    return head + b"\n" + armor + b"\n\n" + message


def find_builds(
    refs: Mapping[str, ObjectId], sim: Simulator, chain: TrustChain, *, enough: bool = True
) -> list[Signed[BuildRecord]]:
    """What `walk_builds` finds; with `enough` without what waits for approvals."""
    return [each.signed for each in walk_builds(refs, sim, chain) if each.lack is None or not enough]


def ledger_ref(entry: int, deploy: Deploy = PRODUCTION) -> LedgerRef:
    return Ledger.releases(deploy)[entry]
