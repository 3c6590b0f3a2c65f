"""What the surveys of the ledgers share: objects, refs, the trust that was verified, and from a refusal to a finding.

A refusal whose cause is an object that cannot be read is that object's finding, whichever records need it; one whose
cause is a record that was refused already is that record's.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from functools import cache
from types import MappingProxyType

from gitrel.audit.codes import Code
from gitrel.audit.explain import ORDER, Outcome
from gitrel.audit.findings import Findings
from gitrel.audit.places import Seen
from gitrel.audit.reading import AuditedObjects, Nodes
from gitrel.audit.result import Signer
from gitrel.dataclass import dataclass
from gitrel.errors import FormatError, LocalStateError, NotFound, Refused
from gitrel.format.record import AnyRecord, BuildRecord, Cited, ReleaseRecord, Signed
from gitrel.format.tree import directory_node, parse_tree
from gitrel.ids import Deploy, Entry, KeyId, ObjectFormat, ObjectId, RecordId, Sha256
from gitrel.keys.sshsig import parse_sshsig
from gitrel.trust.chain import TrustChain
from gitrel.trust.checks import Check
from gitrel.trust.content import BUILD_FOLDER, CONFIG_FOLDER, check_shape, hash_tree
from gitrel.trust.signers import verify_signature
from gitrel.trust.walk import RecordReader

_SIGNATURE = re.compile(rb"^gpgsig", re.MULTILINE)
Key = tuple[Code, str]  # which finding

_CODES = {
    Check.NAME: Code.MISNAMED,
    Check.CANONICAL: Code.NOT_CANONICAL,
    Check.APP: Code.OTHER_APP,
    Check.TRUST_CHAIN: Code.UNKNOWN_TRUST,
    Check.SIGNATURE: Code.NO_ROLE,
    Check.THRESHOLD: Code.PENDING,
    Check.POSITION: Code.POSITION,
    Check.PREVIOUS: Code.BROKEN_LINK,
    Check.BUILD: Code.BAD_BUILD,
    Check.CONFIG: Code.BAD_CONFIG,
    Check.TREE: Code.BAD_TREE,
    Check.CONTENT: Code.BAD_CONTENT,
    Check.REPUDIATED: Code.REPUDIATED,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Scope:
    """`deploys` None: all. `contents`: files are read and hashed. `now`: seconds since 1970, to compare claims with."""

    pin: Sha256
    deploys: frozenset[Deploy] | None = None
    contents: bool = True
    now: int


class Ground:
    """One audit's common knowledge. `chain` and what comes after it are filled by the surveys, in their order."""

    def __init__(
        self, objects: AuditedObjects, seen: Seen, fmt: ObjectFormat, scope: Scope, findings: Findings
    ) -> None:
        self.objects = objects
        self.refs = seen.refs
        self.damaged = seen.damaged
        self.names = {str(ref): oid for ref, oid in seen.refs.items()}
        self.format = fmt
        self.scope = scope
        self.findings = findings
        self.reader = RecordReader(self.names, objects)
        self.chain = TrustChain(fmt, scope.pin)
        self.broken_trust: tuple[Entry, Key] | None = None  # the newest trust record that there is, and what broke
        self.heads: dict[tuple[Deploy, Entry], list[tuple[Entry, RecordId]]] = {}
        self.approvers: dict[ObjectId, list[KeyId]] = {}
        self.carried: Counter[ObjectId] = Counter()  # build and config records, by the releases that carry them
        self.absent: set[str] = set()  # refs of the records whose files are not here on purpose
        self._partial = seen.partial
        self._nodes = Nodes()
        self._builds: dict[ObjectId, Key | None] = {}

    def read_record(self, ref: str, oid: ObjectId) -> bytes | Key:
        """A commit's bytes, or the finding that there is none."""
        self.objects.failed = None
        if (known := self.reader.known(oid)) is not None:
            return known
        try:
            kind, raw = self.objects.read_any(oid)
        except NotFound:
            return self.findings.add(Code.MISSING_OBJECT, ref, f"there is no object {oid}", about=oid, check=2)
        except LocalStateError as error:
            return self._damaged(ref, oid, error, Check.CANONICAL)
        if kind != "commit":
            return self.findings.add(
                Code.WRONG_KIND, ref, f"names a {kind}, not a record", about=f"{ref} {oid}", check=2
            )
        return raw

    def _damaged(self, ref: str, oid: ObjectId, error: LocalStateError, check: int) -> Key:
        return self.findings.add(Code.DAMAGED_OBJECT, ref, f"object {oid}: {error.summary}", about=oid, check=check)

    def refuse(self, refusal: Refused, ref: str, oid: ObjectId, raw: bytes, signed: Signed[AnyRecord] | None) -> Key:
        """The finding that a refusal is."""
        if failure := self.objects.failed:
            if failure.missing:
                what = f"there is no {failure.kind} {failure.oid}, which {ref} needs"
                return self.findings.add(Code.MISSING_OBJECT, ref, what, about=failure.oid, check=refusal.check)
            if isinstance(failure.error, LocalStateError):
                return self._damaged(ref, failure.oid, failure.error, refusal.check)
        if cause := self._cause(refusal, signed):
            return self.findings.rest_on(cause, ref)
        code, about = _CODES.get(Check(refusal.check), Code.NOT_CANONICAL), str(oid)
        evidence: tuple[str, ...] = (oid,)
        if refusal.check == Check.CANONICAL and _SIGNATURE.search(raw.partition(b"\n\n")[0]) is None:
            code = Code.UNSIGNED
        elif refusal.check == Check.NAME:
            about = ref
        elif refusal.check == Check.SIGNATURE and signed is not None and _is_forged(signed):
            code = Code.BAD_SIGNATURE
        elif refusal.check in (Check.BUILD, Check.CONFIG) and (part := _part(refusal, signed)):
            about = part
        elif refusal.check == Check.POSITION and signed is not None and (fork := self._fork(signed)):
            code, evidence = Code.FORK, (fork.oid, oid)
        who = self.who(signed) if signed is not None and code is not Code.BAD_SIGNATURE else ""
        hint = refusal.hint if code is Code.PENDING else ""
        return self.findings.add(
            code, ref, refusal.summary, about=about, check=refusal.check, who=who, evidence=evidence, advice=hint
        )

    def _cause(self, refusal: Refused, signed: Signed[AnyRecord] | None) -> Key | None:
        """The finding of another record that this refusal follows from."""
        if signed is None:
            return None
        cited = getattr(signed.record, "trust", None)
        if refusal.check == Check.TRUST_CHAIN and self.broken_trust and isinstance(cited, Cited):
            newest, key = self.broken_trust
            if len(self.chain) < cited.entry <= newest or key[0] is Code.NO_TRUST:
                return key
        part = _part(refusal, signed)
        return self.findings.error_of(part) if part else None

    def _fork(self, signed: Signed[AnyRecord]) -> RecordId | None:
        """Another release that trust names at this one's place."""
        record = signed.record
        if not isinstance(record, ReleaseRecord):
            return None
        named = self.heads.get((record.deploy, record.entry), ())
        return next((id_ for _, id_ in named if id_ != signed.id), None)

    def signers(self, signed: Signed[AnyRecord], *, verified: bool = False) -> tuple[Signer, ...]:
        """Whose keys signed a record, in the eyes of the trust that it cites, its own first; none if that is forged.

        `verified`: the record's own signature was, so it is not looked at again.
        """
        if not verified and _is_forged(signed):
            return ()
        trust = getattr(signed.record, "trust", None)
        owners = self.chain.cited(trust, "").owners if trust is not None and self.knows(trust) else {}
        keys = dict.fromkeys([parse_sshsig(signed.signature).public_key.id, *self.approvers.get(signed.id.oid, ())])
        return tuple(Signer(key, owners.get(key)) for key in keys)

    def knows(self, trust: Cited) -> bool:
        try:
            self.chain.cited(trust, "")
        except Refused:
            return False
        return True

    def who(self, signed: Signed[AnyRecord]) -> str:
        return ", ".join(each.person or f"an unknown key {each.key}" for each in self.signers(signed))

    def is_absent(self, ref: str) -> bool:
        """Whether what failed is a file that a partial clone has left out; then it is remembered as unchecked."""
        failure = self.objects.failed
        if failure is None or not failure.missing or not self._partial or failure.kind == "commit":
            return False
        self.absent.add(ref)
        return True

    def check_tree(self, signed: Signed[AnyRecord], ref: str) -> None:
        """Check 12 of a record by itself: all of its files, hashed. Raises `Refused`."""
        node = hash_tree(self.objects, signed.tree, ref, self._nodes)
        if node.oid != signed.tree or node.sha256 != signed.record.tree_sha256:
            raise Refused(
                "its files are not the signed ones",
                check=Check.CONTENT,
                where=ref,
                why=f"Tree-SHA256 is {signed.record.tree_sha256}, the bytes give {node.sha256}",
            )

    def check_build(self, signed: Signed[BuildRecord], ref: str) -> Key | None:
        """Checks 11 and 12 of a build, once for each; the finding, if it fails."""
        oid = signed.id.oid
        if oid not in self._builds:
            self.objects.failed = None
            self._builds[oid] = None
            try:
                self._check_build(signed, ref)
            except Refused as refusal:
                if not self.is_absent(ref):
                    self._builds[oid] = self.refuse(refusal, ref, oid, signed.raw, signed)
        return self._builds[oid]

    def _check_build(self, signed: Signed[BuildRecord], ref: str) -> None:
        top = self.listing(signed.tree)
        build = top.get(BUILD_FOLDER)
        if build is not None:
            check_shape(self.objects, ObjectId.from_raw(build), ref, links=self.scope.contents)
        if self.scope.contents:
            self.check_tree(signed, ref)

    def listing(self, tree: ObjectId) -> dict[str, bytes]:
        """A folder's names, and the raw ids under them. Raises `Refused` (11)."""
        try:
            return {each.name: each.oid.raw for each in parse_tree(self.objects.read(tree, "tree"), self.format)}
        except (FormatError, NotFound, LocalStateError) as error:
            raise Refused("its tree cannot be read", check=Check.TREE, why=error.what) from None

    def config_of(self, tree: ObjectId) -> dict[str, bytes] | None:
        """The files of a release's config and their raw ids; None if they cannot be read. The empty one is absent."""
        failed = self.objects.failed
        try:
            folder = self.listing(tree).get(CONFIG_FOLDER)
            empty = directory_node({}, self.format)[1].oid.raw
            return {} if folder in (None, empty) else self.listing(ObjectId.from_raw(folder or b""))
        except Refused:
            return None
        finally:
            self.objects.failed = failed


@cache
def outcomes(refused: int | None, unchecked: frozenset[Check] = frozenset()) -> Mapping[Check, Outcome]:
    """Check by check, in the verifier's order; what comes after a refusal was not reached."""
    found: dict[Check, Outcome] = {}
    passed = True
    for check in ORDER:
        if check == refused:
            found[check], passed = Outcome.REFUSED, False
        elif check in unchecked:
            found[check] = Outcome.NOT_CHECKED
        else:
            found[check] = Outcome.PASSED if passed else Outcome.NOT_REACHED
    return MappingProxyType(found)


def _part(refusal: Refused, signed: Signed[AnyRecord] | None) -> str:
    """The build or config record for which a release was refused."""
    if signed is None or not isinstance(signed.record, ReleaseRecord):
        return ""
    if refusal.check == Check.BUILD:
        return signed.record.build.oid
    return signed.record.config.id.oid if refusal.check == Check.CONFIG and signed.record.config else ""


def _is_forged(signed: Signed[AnyRecord]) -> bool:
    try:
        verify_signature(signed, "")
    except Refused:
        return True
    return False
