"""The survey of a deploy's releases: each is judged by gitrel's own verifier, and behind a break by itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gitrel.audit.codes import Code
from gitrel.audit.ground import Ground, outcomes
from gitrel.audit.ledgers import UNPROVEN, Chain, is_signed, listed_variables, standing_of, statement
from gitrel.audit.result import DeployReport, ReleaseReport, Standing
from gitrel.errors import FormatError, LocalStateError, NotFound, Refused
from gitrel.format.envdir import compare
from gitrel.format.record import BuildRecord, ConfigRecord, ReleaseRecord, Signed, parse_record_as
from gitrel.ids import TRUST, BuildRef, Deploy, Entry, Ledger, ObjectId, RecordId
from gitrel.trust.checks import Check
from gitrel.trust.content import bind_folders, bind_trees, build_node, verify_content
from gitrel.trust.ledger import ChainedRelease, ReleaseLedger, Verdict

_OF_FILES = (Code.BAD_CONFIG, Code.BAD_CONTENT)  # what a config's own finding says of its files
_DAY = 86_400  # seconds; a clock may be a little ahead


class ReleaseSurvey:
    """One deploy's releases."""

    def __init__(self, ground: Ground, deploy: Deploy) -> None:
        self._ground = ground
        self._deploy = deploy
        self._chain = Chain(ground, Ledger.releases(deploy))
        self._ledger = ReleaseLedger(ground.chain, deploy, ground.reader)
        self._claimed = 0
        self._before: Mapping[str, bytes] = {}

    def run(self) -> tuple[ReleaseReport, ...]:
        return tuple(self._entry(entry, oid) for entry, oid in self._ground.reader.ahead(self._chain.found))

    def _entry(self, entry: Entry, oid: ObjectId) -> ReleaseReport:
        ground, ref = self._ground, str(Ledger.releases(self._deploy)[entry])
        said: dict[str, Any] = {"ref": ref, "oid": oid, "sha256": None, "deploy": self._deploy, "entry": entry}
        raw = ground.read_record(ref, oid)
        if not isinstance(raw, bytes):
            self._chain.broken = raw
            self._ledger.step_over()
            return ReleaseReport(**said, standing=Standing.REFUSED, checks=outcomes(Check.CANONICAL))
        if not len(ground.chain):
            return self._unjudged(ref, raw, said)
        verdict, broken = self._judge(ref, entry, oid, raw)
        if verdict is None or verdict.signed is None:
            return ReleaseReport(**said, standing=Standing.REFUSED, checks=outcomes(broken))
        self._chain.rest(ref)
        refused = verdict.refusal.check if verdict.refusal else None
        if standing_of(refused) is not Standing.REFUSED:
            self._note(ref, verdict.signed)
        if verdict.refusal is not None:
            ground.refuse(verdict.refusal, ref, oid, raw, verdict.signed)
        refused = self._check_files(ref, verdict) or refused
        return self._report(said, verdict, broken or refused)

    def _judge(self, ref: str, entry: Entry, oid: ObjectId, raw: bytes) -> tuple[Verdict | None, int | None]:
        """The verdict, and the check by which the entry breaks the ledger."""
        ground, chain, broken = self._ground, self._chain, None
        signed = _parsed(raw, ground)
        if signed is not None and signed.record.ref == Ledger.releases(self._deploy)[entry]:
            ground.carried.update(signed.record.parents[1 if signed.record.previous else 0 :])
            if chain.arrive(entry, signed.record.previous):
                self._ledger.step_over()
        while True:
            ground.objects.failed = None
            try:
                return self._ledger.add(ref, raw), broken
            except Refused as refusal:
                chain.broken = ground.refuse(refusal, ref, oid, raw, signed)
                self._ledger.step_over()
                if refusal.check != Check.PREVIOUS or broken is not None:
                    return None, refusal.check
                broken = refusal.check  # once more, without its predecessor

    def _unjudged(self, ref: str, raw: bytes, said: dict[str, Any]) -> ReleaseReport:
        """Without any trust a record is as good as its form."""
        signed = _parsed(raw, self._ground)
        if self._ground.broken_trust is not None:
            self._ground.findings.rest_on(self._ground.broken_trust[1], ref)
        if signed is not None:
            said |= statement(self._ground, ref, signed)
        return ReleaseReport(**said, standing=Standing.REFUSED, checks=outcomes(Check.TRUST_CHAIN))

    def _check_files(self, ref: str, verdict: Verdict) -> int | None:
        """Checks 9 to 12 as far as they concern files; the number of the one that refuses."""
        ground, signed = self._ground, verdict.signed
        if signed is None or (verdict.refusal is not None and standing_of(verdict.refusal.check) is Standing.REFUSED):
            return None
        ground.objects.failed = None
        try:
            if verdict.release is None:
                if ground.scope.contents:
                    ground.check_tree(signed, ref)
                return None
            return self._check_release(ref, verdict.release)
        except Refused as refusal:
            if ground.is_absent(ref):
                return None
            ground.refuse(refusal, ref, signed.id.oid, signed.raw, signed)
            return refusal.check

    def _check_release(self, ref: str, release: ChainedRelease) -> int | None:
        """Raises `Refused`."""
        ground = self._ground
        fault = ground.check_build(release.build, str(BuildRef(release.build.id.oid)))
        if fault is not None:
            ground.findings.rest_on(fault, ref)
            return Check.CONTENT
        fault = ground.findings.error_of(release.config.id.oid) if release.config is not None else None
        if fault is not None and fault[0] in _OF_FILES:
            ground.findings.rest_on(fault, ref)
            return Check.CONFIG
        ground.objects.failed = None
        if not ground.scope.contents:
            bind_folders(release, ground.objects)
            return None
        bound = bind_trees(release, ground.objects)
        verify_content(bound, build_node(release.build, ground.objects, ref))
        return None

    def _note(self, ref: str, signed: Signed[ReleaseRecord]) -> None:
        """What changes no verdict, but may interest somebody."""
        ground, claimed = self._ground, signed.committer.time
        if claimed < self._claimed or claimed > ground.scope.now + _DAY:
            what = "claims to be older than the release before it" if claimed < self._claimed else "claims the future"
            ground.findings.add(Code.CLAIMED_TIME, ref, what, about=Ledger.releases(self._deploy).prefix)
        self._claimed = claimed

    def _report(self, said: dict[str, Any], verdict: Verdict, refused: int | None) -> ReleaseReport:
        ground, signed, release = self._ground, verdict.signed, verdict.release
        if signed is None:
            raise ValueError(f"{verdict.ref} was not parsed")
        record = signed.record
        standing, unchecked = standing_of(refused), frozenset[Check]()
        if self._chain.broken is not None:
            standing = Standing.UNPROVEN if standing is Standing.GOOD else standing
            unchecked |= UNPROVEN if refused != Check.PREVIOUS else frozenset()
        absent = {said["ref"], str(BuildRef(record.build.oid))} & ground.absent
        if not ground.scope.contents or absent:
            unchecked |= {Check.CONTENT}
        if release is not None:
            self._note_superseded(said["ref"], signed)
        files = ground.config_of(signed.tree) if record.config is not None else {}
        changed = compare(self._before, files) if files is not None else None
        self._before = files if files is not None else self._before
        build = release.build if release is not None else _build(ground, record.build)
        verified = is_signed(verdict.refusal.check if verdict.refusal else None)
        return ReleaseReport(
            **{**said, **statement(ground, said["ref"], signed, verified=verified)},
            **listed_variables(files),
            standing=standing,
            checks=outcomes(refused, unchecked),
            trust=record.trust,
            build=record.build,
            source=build.record.source if build is not None else None,
            config=record.config,
            changed=changed,
            rollback_to=record.rollback_to,
            promoted_from=record.promoted_from,
        )

    def _note_superseded(self, ref: str, signed: Signed[ReleaseRecord]) -> None:
        signer = self._ground.signers(signed, verified=True)[0]
        if signer.key not in self._ground.chain.newest.owners:
            what = f"signed with a key of {signer.person}'s that trust {self._ground.chain.newest.entry} does not know"
            self._ground.findings.add(
                Code.SUPERSEDED_SIGNER, ref, what, about=signer.key, who=signer.person or "", check=None
            )


def _parsed(raw: bytes, ground: Ground) -> Signed[ReleaseRecord] | None:
    try:
        return parse_record_as(ReleaseRecord, raw, ground.format)
    except FormatError:
        return None


def _build(ground: Ground, cited: RecordId) -> Signed[BuildRecord] | None:
    try:
        return parse_record_as(BuildRecord, ground.objects.read(cited.oid, "commit"), ground.format)
    except (FormatError, NotFound, LocalStateError):
        return None


def check_origins(ground: Ground, deploys: tuple[DeployReport, ...]) -> None:
    """A rollback, or a promotion, has the build of the release that it names."""
    builds = {(each.deploy, each.entry): each for deploy in deploys for each in deploy.releases}
    for release in builds.values():
        named = _origin(release)
        if named is None or release.build is None:
            continue
        origin = builds.get(named)
        where = f"{named[1]} of {named[0]}"
        if origin is None:
            if ground.scope.deploys is None or named[0] in ground.scope.deploys:
                _differs(ground, release, f"names {where}, which is not there")
        elif release.promoted_from is not None and origin.oid != release.promoted_from.id.oid:
            _differs(ground, release, f"names another {where} than the one that is there")
        elif origin.build is not None and origin.build != release.build:
            _differs(ground, release, f"says that it is {where} again, and has another build")


def _origin(release: ReleaseReport) -> tuple[Deploy, Entry] | None:
    if release.promoted_from is not None:
        return release.promoted_from.deploy, release.promoted_from.entry
    return (release.deploy, release.rollback_to) if release.rollback_to is not None else None


def _differs(ground: Ground, release: ReleaseReport, what: str) -> None:
    people = ", ".join(each.person or each.key for each in release.signers)
    ground.findings.add(Code.ORIGIN_DIFFERS, release.ref, what, about=release.oid, who=people)


def check_parts(ground: Ground, deploys: tuple[DeployReport, ...]) -> None:
    """What a release carries has a ref of its own, and the config ledger has it at the number that it bears."""
    named = set(ground.refs.values())
    for release in (each for deploy in deploys for each in deploy.releases):
        parts = {str(BuildRef(release.build.oid)): release.build.oid} if release.build is not None else {}
        if release.config is not None:
            parts[str(Ledger.config(release.deploy)[release.config.entry])] = release.config.id.oid
        for ref, oid in parts.items():
            there = ground.names.get(ref)
            if there is not None and there != oid and _config_ref(ground, oid) == ref:
                what = f"{release.ref} carries another {ref}"
                ground.findings.add(Code.FORK, ref, what, about=oid, check=8, evidence=(there, oid))
            elif there is None and oid not in named and ground.findings.error_of(oid) is None and oid in ground.objects:
                what = f"{release.ref} carries {oid}, which no ref names"
                ground.findings.add(Code.UNNAMED_PART, ref, what, about=oid)


def _config_ref(ground: Ground, oid: ObjectId) -> str:
    """Where a config record belongs; empty if it is none."""
    try:
        return str(parse_record_as(ConfigRecord, ground.objects.read(oid, "commit"), ground.format).record.ref)
    except (FormatError, NotFound, LocalStateError):
        return ""


def is_listed(ground: Ground, deploy: Deploy) -> None:
    """A deploy that trust.toml does not name has production's roles."""
    if len(ground.chain) and deploy not in ground.chain.newest.policy.deploys:
        ref = Ledger.releases(deploy).prefix.removesuffix("/v")
        ground.findings.add(Code.UNLISTED_DEPLOY, ref, f"{deploy} is not in {TRUST[ground.chain.newest.entry]}")
