"""The door of a self-hosted remote: what a push would add to the ledgers, judged before it lands.

Only refs in gitrel's namespaces are looked at. They are created, never moved or deleted; each must be the entry
that it says, verified by the rules that servers go by. A record that only waits for approvals may land.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from gitrel.errors import FormatError, LocalStateError, NotFound, Refused
from gitrel.format.record import ApprovalRecord, BuildRecord, ReleaseRecord, parse_approval, parse_record_as
from gitrel.ids import (
    TRUST,
    ApprovalRef,
    BuildRef,
    Deploy,
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
from gitrel.trust.chain import TrustChain
from gitrel.trust.checks import Check
from gitrel.trust.content import Objects, bind_trees, build_node, check_shape, hash_tree, verify_content
from gitrel.trust.history import released_before
from gitrel.trust.ledger import Anchor
from gitrel.trust.signers import parse_canonical, verify_signature
from gitrel.trust.walk import entries, find_builds, load_trust, walk_config, walk_releases

NAMESPACES = ("refs/trust/", "refs/config/", "refs/builds/", "refs/releases/", "refs/approvals/")


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
        if update.ref.startswith(NAMESPACES):
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

    def run(self, new: Mapping[RefName, ObjectId]) -> list[str]:
        self._check_trust(new)
        builds = [ref for ref in new if isinstance(ref, BuildRef)]
        for build in builds:
            self._check_build(build)
        for approval in [ref for ref in new if isinstance(ref, ApprovalRef)]:
            self._check_approval(approval, new[approval])
        ledgers = {ref.ledger for ref in new if isinstance(ref, LedgerRef)}
        for ledger in sorted(ledgers):
            if ledger.kind is LedgerKind.CONFIG and ledger.deploy is not None:
                walk_config(self._after, self._objects, self._trust, ledger.deploy)
            elif ledger.kind is LedgerKind.RELEASE and ledger.deploy is not None:
                self._check_releases(ledger.deploy)
        return self._notes

    def _check_trust(self, new: Mapping[RefName, ObjectId]) -> None:
        if self._trust.pending is not None and self._trust.pending.signed.record.ref in new:
            self._notes.append(str(self._trust.pending.refusal))
        newest = max(entries(self._after, TRUST), default=0)
        expected = len(self._trust) + (1 if self._trust.pending is not None else 0)
        if newest != expected:
            raise Refused("the trust ledger is not whole", check=Check.TRUST_CHAIN, where=str(TRUST[newest]))

    def _check_build(self, ref: BuildRef) -> None:
        """Signed by the build role, and whole: its files are hashed, so that no server downloads them in vain."""
        name = str(ref)
        only = {**{key: oid for key, oid in self._after.items() if not key.startswith("refs/builds/")}, name: ref.build}
        signed = next(find_builds(only, self._objects, self._trust, enough=False), None)
        if signed is None:
            self._explain_build(ref)
            raise Refused("not signed by the build role", check=Check.BUILD, where=name)
        node = build_node(signed, self._objects, name)
        check_shape(self._objects, node.oid, name)
        if hash_tree(self._objects, node.oid, name) != node:
            raise Refused("its files are not the signed ones", check=Check.CONTENT, where=name)

    def _explain_build(self, ref: BuildRef) -> None:
        """The reason, if it is another one than the role."""
        try:
            signed = parse_record_as(BuildRecord, self._objects.read(ref.build, "commit"), self._format)
        except FormatError as error:
            raise Refused("not a canonical record", check=Check.CANONICAL, where=str(ref), why=str(error)) from None
        verify_signature(signed, str(ref))

    def _check_approval(self, ref: ApprovalRef, oid: ObjectId) -> None:
        name = str(ref)
        try:
            approval = parse_approval(self._objects.read(oid, "tag"), self._format)
        except FormatError as error:
            raise Refused("not a canonical approval", check=Check.CANONICAL, where=name, why=str(error)) from None
        record: ApprovalRecord = approval.record
        if (record.approved.oid, approval.key) != (ref.record, ref.key):
            raise Refused("the ref does not name this approval", check=Check.NAME, where=name)
        if self._after.get(str(record.subject_of)) != ref.record:
            raise Refused("approves nothing that is here", check=Check.NAME, where=name, why=str(record.subject_of))
        known = dict(self._trust.newest.owners)
        if self._trust.pending is not None:
            known |= {key.id: who for who, keys in self._trust.pending.policy.people.items() for key in keys}
        if verify_signature(approval, name) != approval.key or approval.key not in known:
            raise Refused("signed by a key that nobody has", check=Check.SIGNATURE, where=name)

    def _check_releases(self, deploy: Deploy) -> None:
        anchor = self._anchor(deploy)
        verdicts = walk_releases(
            self._after,
            self._objects,
            self._trust,
            deploy,
            anchor=anchor,
            released_before=lambda part: released_before(self._objects, anchor, part),
        )
        for verdict in verdicts:
            if verdict.pending:
                self._notes.append(str(verdict.refusal))
            elif verdict.release is None:
                raise verdict.refusal or Refused("refused", check=Check.CANONICAL, where=verdict.ref)
            else:
                bound = bind_trees(verdict.release, self._objects)
                check_shape(self._objects, bound.build_tree, verdict.ref)
                verify_content(bound, build_node(verdict.release.build, self._objects, verdict.ref))

    def _anchor(self, deploy: Deploy) -> Anchor | None:
        """The newest release that is here already: it was judged when it came."""
        found = entries(self._before, Ledger.releases(deploy))
        if not found:
            return None
        entry, oid = list(found.items())[-1]
        raw = self._objects.read(oid, "commit")
        record = parse_canonical(ReleaseRecord, raw, self._format, str(Ledger.releases(deploy)[entry])).record
        return Anchor(entry, RecordId.of("commit", raw, self._format), record.trust.entry)
