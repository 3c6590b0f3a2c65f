"""The door of a self-hosted remote: what a push would add to the ledgers, judged before it lands.

Only refs in gitrel's namespaces are looked at. They are created, never moved or deleted; each must be the entry
that it says, verified by the rules that servers go by, down to its files. A record that only waits for approvals may
land; the approval that makes it good may too, unless it turns out then that more than a signature was missing.
What was here before the push is only judged as far as the new records rest on it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import TypeVar

from gitrel.audit.places import RECORDS
from gitrel.audit.witnesses import admit_witnesses
from gitrel.dataclass import dataclass
from gitrel.errors import FormatError, LocalStateError, NotFound, Refused
from gitrel.format.record import (
    ApprovalRecord,
    BuildRecord,
    ConfigRecord,
    ReleaseRecord,
    Signed,
    parse_approval,
)
from gitrel.format.tree import directory_node, parse_tree
from gitrel.ids import (
    TRUST,
    ApprovalRef,
    BuildRef,
    Deploy,
    Entry,
    Kind,
    Ledger,
    LedgerKind,
    LedgerRef,
    ObjectFormat,
    ObjectId,
    RecordId,
    RefName,
    Sha256,
    parse_ref,
)
from gitrel.store.repository import Repository
from gitrel.trust.anchor import Anchor
from gitrel.trust.chain import TrustChain
from gitrel.trust.checks import Check
from gitrel.trust.content import (
    BUILD_FOLDER,
    CONFIG_FOLDER,
    Objects,
    bind_trees,
    build_node,
    check_shape,
    hash_tree,
    read_config,
    verify_content,
)
from gitrel.trust.ledger import ReleaseLedger, Verdict
from gitrel.trust.signers import parse_canonical, verify_signature
from gitrel.trust.walk import RecordReader, entries, load_trust, walk_builds, walk_config, walk_releases

P = TypeVar("P", BuildRecord, ConfigRecord)


@dataclass(frozen=True, slots=True)
class Update:
    """One line of a pre-receive hook's input (githooks(5)); `old` or `new` None: the ref is created or deleted."""

    ref: str
    old: ObjectId | None
    new: ObjectId | None


class Layered:
    """Objects of several repositories as one: those that a push brings lie apart until it is accepted."""

    def __init__(self, *layers: Repository) -> None:
        self._layers = layers

    def read(self, oid: ObjectId, kind: Kind) -> bytes:
        for layer in self._layers[:-1]:
            if oid in layer:
                return layer.read(oid, kind)
        return self._layers[-1].read(oid, kind)


def parse_updates(lines: Iterable[str]) -> list[Update]:
    """`<old> <new> <ref>` lines. Raises `FormatError`."""
    updates = []
    for line in lines:
        old, _, rest = line.rstrip("\n").partition(" ")
        new, _, ref = rest.partition(" ")
        updates.append(Update(ref, _id(old), _id(new)))
    return updates


def _id(text: str) -> ObjectId | None:
    return None if set(text) == {"0"} else ObjectId(text)


def admit(
    refs: Mapping[str, ObjectId], objects: Objects, fmt: ObjectFormat, updates: Sequence[Update], pin: Sha256 | None
) -> list[str]:
    """Judge a push onto a repository whose ledgers' refs are `refs`. Returns notes for whoever pushes.

    Raises `Refused` at the first update that may not land; updates of other refs are none of our business.
    """
    new: dict[RefName, ObjectId] = {}
    for update in updates:
        if f"{update.ref}/".startswith(RECORDS):  # a ref called refs/trust would keep all others out
            new[_created(update)] = _only_new(update)
    if not new:
        return []
    after = {**refs, **{str(ref): oid for ref, oid in new.items()}}
    try:
        return _Admission(refs, after, objects, fmt, pin).run(new)
    except (NotFound, LocalStateError) as error:
        raise Refused(error.what, check=Check.CANONICAL, where=error.where, why=error.why) from None


def _created(update: Update) -> RefName:
    try:
        return parse_ref(update.ref)
    except FormatError as error:
        raise Refused(error.what, check=Check.NAME, where=update.ref, why=error.why) from None


def _only_new(update: Update) -> ObjectId:
    if update.old is not None or update.new is None:
        what = "a record is never deleted" if update.new is None else "a record is never replaced"
        raise Refused(what, check=Check.HIGHEST_SEEN, where=update.ref)
    return update.new


class _Admission:
    """One push, judged against the ledgers as they would be."""

    def __init__(
        self,
        before: Mapping[str, ObjectId],
        after: Mapping[str, ObjectId],
        objects: Objects,
        fmt: ObjectFormat,
        pin: Sha256 | None,
    ) -> None:
        self._before = before
        self._after = after
        self._objects = objects
        self._format = fmt
        self._trust: TrustChain = load_trust(after, objects, fmt, pin)
        self._notes: list[str] = []
        self._carried: dict[Deploy, set[RecordId]] = {}

    def run(self, new: Mapping[RefName, ObjectId]) -> list[str]:
        self._check_trust(new)
        for build in [ref for ref in new if isinstance(ref, BuildRef)]:
            if new[build] != build.build:
                raise Refused("the ref does not name this record", check=Check.NAME, where=str(build))
            self._check_build(build)
        judged = [ref for ref in new if isinstance(ref, LedgerRef)]
        for approval in [ref for ref in new if isinstance(ref, ApprovalRef)]:
            approved = self._check_approval(approval, new[approval]).subject_of
            if isinstance(approved, LedgerRef):
                judged.append(approved)
        for ledger in sorted({ref.ledger for ref in judged}):
            found = sorted({ref.entry for ref in judged if ref.ledger == ledger})
            if ledger.kind is LedgerKind.CONFIG and ledger.deploy is not None:
                self._check_configs(ledger.deploy, found)
            elif ledger.kind is LedgerKind.RELEASE and ledger.deploy is not None:
                self._check_releases(ledger.deploy, found)
            elif ledger.kind in (LedgerKind.HEARTBEAT, LedgerKind.RECEIPT):
                self._notes += admit_witnesses(self._before, self._after, self._objects, self._trust, ledger, found)
        return self._notes

    def _check_trust(self, new: Mapping[RefName, ObjectId]) -> None:
        if self._trust.pending is not None and self._trust.pending.signed.record.ref in new:
            self._notes.append(str(self._trust.pending.refusal))
        newest = max(entries(self._after, TRUST), default=0)
        expected = len(self._trust) + (1 if self._trust.pending is not None else 0)
        if newest != expected:
            raise Refused("the trust ledger is not whole", check=Check.TRUST_CHAIN, where=str(TRUST[newest]))
        known = [each.signed.record for each in self._trust]
        if self._trust.pending is not None:
            known.append(self._trust.pending.signed.record)
        for record in known:
            for head in record.heads if record.ref in new else ():
                name = str(Ledger.releases(head.deploy)[head.entry])
                if self._after.get(name) != head.id.oid:
                    raise Refused(
                        "names a release that is not here", check=Check.HIGHEST_SEEN, where=str(record.ref), why=name
                    )

    def _check_build(self, ref: BuildRef) -> None:
        """Signed by the build role, and whole: its files are hashed, so that no server downloads them in vain."""
        name = str(ref)
        only = {**{key: oid for key, oid in self._after.items() if not key.startswith("refs/builds/")}, name: ref.build}
        signed = next((each.signed for each in walk_builds(only, self._objects, self._trust)), None)
        if signed is None:
            self._explain_build(ref)
            raise Refused("not signed by the build role", check=Check.BUILD, where=name)
        self._check_files(signed, name)

    def _check_files(self, signed: Signed[BuildRecord], name: str) -> None:
        """The shape first: it bounds what is hashed."""
        try:
            top = parse_tree(self._objects.read(signed.tree, "tree"), self._format)
        except FormatError as error:
            raise Refused("its tree is malformed", check=Check.TREE, where=name, why=str(error)) from None
        for entry in top:
            if entry.name == BUILD_FOLDER:
                check_shape(self._objects, entry.oid, name)
        node = build_node(signed, self._objects, name)
        if hash_tree(self._objects, node.oid, name) != node:
            raise Refused("its files are not the signed ones", check=Check.CONTENT, where=name)

    def _explain_build(self, ref: BuildRef) -> None:
        """The reason, if it is another one than the role."""
        signed = parse_canonical(BuildRecord, self._objects.read(ref.build, "commit"), self._format, str(ref))
        if signed.record.app != self._trust.app:
            raise Refused("made for another app", check=Check.APP, where=str(ref), why=signed.record.app)
        self._trust.cited(signed.record.trust, str(ref))
        verify_signature(signed, str(ref))

    def _check_approval(self, ref: ApprovalRef, oid: ObjectId) -> ApprovalRecord:
        name = str(ref)
        try:
            approval = parse_approval(self._objects.read(oid, "tag"), self._format)
        except FormatError as error:
            raise Refused("not a canonical approval", check=Check.CANONICAL, where=name, why=str(error)) from None
        record: ApprovalRecord = approval.record
        if (record.approved.oid, approval.key) != (ref.record, ref.key):
            raise Refused("the ref does not name this approval", check=Check.NAME, where=name)
        if record.app != self._trust.app:
            raise Refused("an approval for another app", check=Check.APP, where=name, why=record.app)
        approved = self._objects.read(ref.record, "commit")
        if (
            self._after.get(str(record.subject_of)) != ref.record
            or RecordId.of("commit", approved, self._format) != record.approved
        ):
            raise Refused("approves nothing that is here", check=Check.NAME, where=name, why=str(record.subject_of))
        known = dict(self._trust.newest.owners)
        if self._trust.pending is not None:
            known |= {key.id: who for who, keys in self._trust.pending.policy.people.items() for key in keys}
        if verify_signature(approval, name) != approval.key or approval.key not in known:
            raise Refused("signed by a key that nobody has", check=Check.SIGNATURE, where=name)
        return record

    def _check_configs(self, deploy: Deploy, judged: Sequence[Entry]) -> None:
        """The chain, the files, and today's role: what a release cannot carry must not become the newest config."""
        for config in walk_config(self._after, self._objects, self._trust, deploy):
            if config.entry in judged:
                if config.lack is not None and not config.pending:
                    raise config.lack
                read_config(config.signed, self._objects, str(config.signed.record.ref))
                if config.lack is not None:
                    self._notes.append(str(config.lack))

    def _check_releases(self, deploy: Deploy, judged: Sequence[Entry]) -> None:
        """Every entry of `judged` may run, or lacks nothing but signatures. Raises `Refused`."""
        ledger = Ledger.releases(deploy)
        verdicts: dict[Entry, Verdict] = {}
        for verdict in self._walk(deploy, self._anchor(deploy, judged[0])):
            verdicts[verdict.entry] = verdict
            if verdict.entry in judged:
                self._check_release(verdict)
        for entry in judged:
            if entry not in verdicts:
                broken = next((each.refusal for each in verdicts.values() if each.signed is None), None)
                why = str(broken) if broken else ""
                raise Refused(
                    "nothing can follow what is here", check=Check.PREVIOUS, where=str(ledger[entry]), why=why
                )

    def _walk(self, deploy: Deploy, anchor: Anchor | None) -> list[Verdict]:
        released = partial(self._has_released, deploy)
        return list(
            walk_releases(self._after, self._objects, self._trust, deploy, anchor=anchor, released_before=released)
        )

    def _check_release(self, verdict: Verdict) -> None:
        if verdict.release is not None:
            bound = bind_trees(verdict.release, self._objects)
            check_shape(self._objects, bound.build_tree, verdict.ref)
            verify_content(bound, build_node(verdict.release.build, self._objects, verdict.ref))
        elif verdict.pending and verdict.signed is not None:
            self._check_pending(verdict.signed, verdict.ref)
            self._notes.append(str(verdict.refusal))
        else:
            raise verdict.refusal or Refused("refused", check=Check.CANONICAL, where=verdict.ref)

    def _check_pending(self, signed: Signed[ReleaseRecord], ref: str) -> None:
        """Its files are those of the records that it cites: nobody looks at them again when it is approved."""
        record = signed.record
        build = self._cited(BuildRecord, record.build, Check.BUILD, ref)
        self._check_files(build, ref)
        children = {BUILD_FOLDER: build_node(build, self._objects, ref)}
        if record.config is not None:
            config = self._cited(ConfigRecord, record.config.id, Check.CONFIG, ref)
            files, node = read_config(config, self._objects, ref)
            if files:
                children[CONFIG_FOLDER] = node
        node = directory_node(children, self._format)[1]
        if node.oid != signed.tree or node.sha256 != record.tree_sha256:
            raise Refused("its content is not that of the records it cites", check=Check.CONTENT, where=ref)

    def _cited(self, kind: type[P], cited: RecordId, check: Check, ref: str) -> Signed[P]:
        signed = parse_canonical(kind, self._objects.read(cited.oid, "commit"), self._format, ref)
        if signed.id != cited or signed.record.app != self._trust.app:
            raise Refused(f"not the {kind.kind} record that is cited", check=check, where=ref)
        verify_signature(signed, ref)
        return signed

    def _anchor(self, deploy: Deploy, below: Entry) -> Anchor | None:
        """The newest release before `below` that is here already and good by itself: it was judged when it came."""
        for entry, oid in reversed(entries(self._before, Ledger.releases(deploy)).items()):
            if entry >= below:
                continue
            try:
                verdict = self._alone(deploy, entry, oid)
            except (Refused, NotFound, LocalStateError):
                continue  # the walk from an earlier one comes to it, and says what is wrong
            if verdict.release is not None:
                return verdict.release.anchor
        return None

    def _alone(self, deploy: Deploy, entry: Entry, oid: ObjectId) -> Verdict:
        name, raw = str(Ledger.releases(deploy)[entry]), self._objects.read(oid, "commit")
        reader = RecordReader(self._before, self._objects)
        released = partial(self._has_released, deploy)
        return ReleaseLedger(self._trust, deploy, reader, shallow=True, released_before=released).add(name, raw)

    def _has_released(self, deploy: Deploy, part: RecordId) -> bool:
        """Whether a good release carries a build or config record. The first answer takes a walk of the ledger."""
        if deploy not in self._carried:
            walked = walk_releases(self._after, self._objects, self._trust, deploy)
            good = [each.release for each in walked if each.release is not None]
            parts = {each.build.id for each in good} | {each.config.id for each in good if each.config is not None}
            self._carried[deploy] = parts
        return part in self._carried[deploy]
