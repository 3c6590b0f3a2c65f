"""The surveys of the trust, config and release ledgers: every entry gets a report, and none hides another.

A break in a ledger is one finding; the entries after it are judged by themselves, and rest on it. The order of the
calls is the order of `survey` in gitrel.audit.survey.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Mapping
from itertools import islice, zip_longest
from typing import Any

from gitrel.audit.codes import Code
from gitrel.audit.explain import Outcome
from gitrel.audit.ground import Ground, Key, outcomes
from gitrel.audit.result import ConfigReport, Signer, Standing, TrustReport
from gitrel.dataclass import replace
from gitrel.errors import Refused
from gitrel.format.envdir import SECRET_SUFFIX, compare
from gitrel.format.record import AnyRecord, ConfigRecord, R, Signed, TrustRecord
from gitrel.ids import TRUST, Deploy, Entry, KeyId, Ledger, ObjectId, PersonName, RecordId
from gitrel.trust.checks import Check
from gitrel.trust.content import read_config
from gitrel.trust.parts import verify_signatures
from gitrel.trust.signers import judge_signers, parse_canonical, verify_signature
from gitrel.trust.walk import entries, trust_files

UNPROVEN = frozenset({Check.PREVIOUS})
_SHOWN = 5  # missing numbers that a finding names


class Chain:
    """The links of one ledger: gaps, and what rests on a break."""

    def __init__(self, ground: Ground, ledger: Ledger, names: Mapping[str, ObjectId] | None = None) -> None:
        """`names`: the refs of this ledger, if somebody has sorted them out already."""
        self._ground = ground
        self._ledger = ledger
        self.found = entries(ground.names if names is None else names, ledger)
        self._numbers = list(self.found)
        self.last: Entry | None = None
        """The newest entry that bears its own number."""
        self.broken: Key | None = None

    def arrive(self, entry: Entry, previous: RecordId | None) -> bool:
        """An entry that bears its number; whether numbers before it are missing, which breaks the ledger."""
        last, self.last = self.last or 0, entry
        between = self._numbers[bisect_right(self._numbers, last) : bisect_left(self._numbers, entry)]
        holes = entry - last - 1 - len(between)
        if holes == 0:
            return False
        lost = list(islice((n for n in range(last + 1, entry) if n not in self.found), _SHOWN))
        self.broken = damaged = self._ground.damaged.get(self._ledger[lost[0]])
        if damaged is None or holes > 1:
            self.broken = self._gap(entry, lost, holes, previous)
        return True

    def _gap(self, entry: Entry, lost: list[int], holes: int, previous: RecordId | None) -> Key:
        names = ", ".join(str(Entry(n)) for n in lost) + (f" and {holes - _SHOWN} more" if holes > _SHOWN else "")
        what = f"{names} is not there" if holes == 1 else f"{names} are not there"
        evidence: tuple[str, ...] = ()
        if previous is not None and Entry(entry - 1) not in self.found and previous.oid not in self.found.values():
            here = "which is here" if previous.oid in self._ground.objects else "which is not here either"
            what = f"{what}; {entry} names {previous.oid} before it, {here}"
            evidence = (str(previous.oid),)
        return self._ground.findings.add(Code.GAP, str(self._ledger[lost[0]]), what, check=8, evidence=evidence)

    def rest(self, ref: str) -> None:
        """What comes after a break rests on it."""
        if self.broken is not None:
            self._ground.findings.rest_on(self.broken, ref)


def statement(ground: Ground, ref: str, signed: Signed[AnyRecord], *, verified: bool = False) -> dict[str, Any]:
    """The fields that every report has, but for `standing` and `checks`."""
    return {
        "ref": ref,
        "oid": signed.id.oid,
        "sha256": signed.id.sha256,
        "subject": signed.record.subject,
        "text": signed.record.text,
        "signers": ground.signers(signed, verified=verified),
        "claimed": signed.committer,
    }


def survey_trust(ground: Ground) -> tuple[TrustReport, ...]:
    """The trust ledger; fills `ground.chain`, `heads` and `broken_trust`."""
    chain, reports = Chain(ground, TRUST), []
    if not chain.found:
        key = ground.findings.add(Code.NO_TRUST, str(TRUST[1]), "there is no trust ledger", check=4)
        ground.broken_trust = Entry(1), key
    for entry, oid in chain.found.items():
        reports.append(_trust_entry(ground, chain, entry, oid))
        if chain.broken is not None and ground.broken_trust is None:
            ground.broken_trust = max(chain.found), chain.broken
    for trust in ground.chain:
        for head in trust.signed.record.heads:
            ground.heads.setdefault((head.deploy, head.entry), []).append((trust.entry, head.id))
    return tuple(reports)


def _trust_entry(ground: Ground, chain: Chain, entry: Entry, oid: ObjectId) -> TrustReport:
    ref = str(TRUST[entry])
    raw = ground.read_record(ref, oid)
    refused = TrustReport(
        ref=ref, oid=oid, sha256=None, entry=entry, standing=Standing.REFUSED, checks=outcomes(Check.CANONICAL)
    )
    if not isinstance(raw, bytes):
        chain.broken = chain.broken or raw
        return refused
    signed = None
    try:
        signed = parse_canonical(TrustRecord, raw, ground.format, ref)
        if str(signed.record.ref) != ref:
            raise Refused("the ref does not name this record", check=Check.NAME, why=f"it is {signed.record.ref}")
        said = {**statement(ground, ref, signed), "entry": entry, "heads": signed.record.heads}
        if chain.arrive(entry, signed.record.previous) or chain.broken is not None:
            chain.rest(ref)
            verify_signature(signed, ref)
            return TrustReport(**said, standing=Standing.UNPROVEN, checks=outcomes(None, UNPROVEN))
        trust_file, signers_file = trust_files(raw, ground.objects, ground.format, ref)
        approvals = ground.reader.approvals(oid)
        added = ground.chain.add(ref, raw, trust_file=trust_file, signers_file=signers_file, approvals=approvals)
        return TrustReport(**said, standing=Standing.GOOD, policy=added.policy, checks=outcomes(None))
    except Refused as refusal:
        return _refused_trust(ground, chain, refused, refusal, raw, signed)


def _refused_trust(
    ground: Ground, chain: Chain, report: TrustReport, refusal: Refused, raw: bytes, signed: Signed[TrustRecord] | None
) -> TrustReport:
    ref, oid, entry = report.ref, report.oid, report.entry
    pending = ground.chain.pending
    said = {**(statement(ground, ref, signed) if signed else {"ref": ref, "oid": oid, "sha256": None}), "entry": entry}
    if pending is not None and pending.signed.id.oid == oid:
        ground.refuse(refusal, ref, oid, raw, signed)
        if entry != max(chain.found):
            what = f"{entry.next} was made before {entry} was approved"
            chain.broken = ground.findings.add(Code.TRUST_BROKEN, str(TRUST[entry.next]), what, check=4)
        checks = outcomes(Check.THRESHOLD)
        return TrustReport(**said, standing=Standing.PENDING, policy=pending.policy, checks=checks)
    if refusal.check == Check.APP and entry == 1:
        key = ground.findings.add(Code.WRONG_PIN, ref, refusal.why, about=oid, check=3, evidence=(oid,))
    elif refusal.check in (Check.TRUST_CHAIN, Check.PREVIOUS) and ground.objects.failed is None:
        what, check = refusal.summary, refusal.check
        key = ground.findings.add(Code.TRUST_BROKEN, ref, what, about=oid, check=check, evidence=(oid,))
    else:
        key = ground.refuse(refusal, ref, oid, raw, signed)
    chain.broken = chain.broken or key
    return TrustReport(**said, standing=Standing.REFUSED, checks=outcomes(refusal.check))


def name_signers(ground: Ground, reports: tuple[TrustReport, ...]) -> tuple[TrustReport, ...]:
    """Who signed each trust record, approvals included, by the trust before it and by itself."""
    people: dict[KeyId, PersonName] = {}
    named = []
    for report, trust in zip_longest(reports, ground.chain):
        if report is None:
            break
        people |= trust.owners if trust is not None else {}
        keys = dict.fromkeys([*(each.key for each in report.signers), *ground.approvers.get(report.oid, ())])
        named.append(replace(report, signers=tuple(Signer(key, people.get(key)) for key in keys)))
    return tuple(named)


def check_heads(ground: Ground) -> None:
    """Every release that trust names is there; what is lost in the middle of a ledger is a gap of the ledger's own."""
    for (deploy, entry), named in ground.heads.items():
        ledger = Ledger.releases(deploy)
        if str(ledger[entry]) not in ground.names:
            found = entries(ground.names, ledger)
            if entry > max(found, default=0):
                newest = f"the newest that is there is {max(found)}" if found else "there is no release at all"
                what = f"trust {named[0][0]} names {entry} of {deploy}; {newest}"
                evidence = (str(named[0][1].oid),)
                ref = str(ledger[entry])
                ground.findings.add(Code.HEAD_MISSING, ref, what, about=ledger.prefix, check=13, evidence=evidence)


def survey_configs(ground: Ground, deploy: Deploy) -> tuple[ConfigReport, ...]:
    """A deploy's config ledger."""
    chain, reports = Chain(ground, Ledger.config(deploy)), []
    previous, known = None, True
    before: Mapping[str, bytes] = {}
    for entry, oid in chain.found.items():
        report, signed = _config_entry(ground, chain, oid, entry, deploy)
        if signed is not None:
            gap = chain.arrive(entry, signed.record.previous)
            broken = not gap and known and signed.record.previous != previous
            if broken:
                refusal = Refused("does not follow the entry before it", check=Check.PREVIOUS, where=report.ref)
                chain.broken = ground.refuse(refusal, report.ref, oid, signed.raw, signed)
            chain.rest(report.ref)
            report, before = _config_files(ground, signed, report, before)
            report = _placed(report, broken, chain.broken is not None)
        reports.append(report)
        previous, known = (signed.id, True) if signed is not None else (None, False)
    return tuple(reports)


def _config_entry(
    ground: Ground, chain: Chain, oid: ObjectId, entry: Entry, deploy: Deploy
) -> tuple[ConfigReport, Signed[ConfigRecord] | None]:
    """Judged by itself; without a record if it can be no link of the ledger."""
    ref = str(Ledger.config(deploy)[entry])
    said: dict[str, Any] = {"ref": ref, "oid": oid, "sha256": None, "deploy": deploy, "entry": entry}
    raw = ground.read_record(ref, oid)
    if not isinstance(raw, bytes):
        chain.broken = raw
        return ConfigReport(**said, standing=Standing.REFUSED, checks=outcomes(Check.CANONICAL)), None
    try:
        signed = parse_link(ground, ConfigRecord, ref, raw)
    except Refused as refusal:
        chain.broken = ground.refuse(refusal, ref, oid, raw, None)
        return ConfigReport(**said, standing=Standing.REFUSED, checks=outcomes(refusal.check)), None
    said |= {**statement(ground, ref, signed), "trust": signed.record.trust}
    refused = None
    try:
        _judge_config(ground, signed, ref)
    except Refused as refusal:
        ground.refuse(refusal, ref, oid, raw, signed)
        refused = refusal.check
    unchecked = frozenset() if ground.scope.contents and ref not in ground.absent else frozenset({Check.CONTENT})
    return ConfigReport(**said, standing=standing_of(refused), checks=outcomes(refused, unchecked)), signed


def _config_files(
    ground: Ground, signed: Signed[ConfigRecord], report: ConfigReport, before: Mapping[str, bytes]
) -> tuple[ConfigReport, Mapping[str, bytes]]:
    try:
        files = ground.listing(signed.tree)
    except Refused:
        return report, before
    return replace(report, **listed_variables(files), changed=compare(before, files)), files


def _placed(report: ConfigReport, broken: bool, behind: bool) -> ConfigReport:
    """With what its place in the ledger makes of it."""
    if broken:
        return replace(report, standing=Standing.REFUSED, checks={**report.checks, Check.PREVIOUS: Outcome.REFUSED})
    if behind:
        standing = Standing.UNPROVEN if report.standing is Standing.GOOD else report.standing
        return replace(report, standing=standing, checks={**report.checks, Check.PREVIOUS: Outcome.NOT_CHECKED})
    return report


def parse_link(ground: Ground, kind: type[R], ref: str, raw: bytes) -> Signed[R]:
    """A record of the right kind, app and name. Raises `Refused` (1, 2, 3)."""
    signed = parse_canonical(kind, raw, ground.format, ref)
    named = getattr(signed.record, "ref", ref)
    if str(named) != ref:
        raise Refused("the ref does not name this record", check=Check.NAME, where=ref, why=f"it is {named}")
    if len(ground.chain) and signed.record.app != ground.chain.app:
        raise Refused("made for another app", check=Check.APP, where=ref, why=signed.record.app)
    return signed


def _judge_config(ground: Ground, signed: Signed[ConfigRecord], ref: str) -> None:
    """Signature, role in the trust that it cites, files. Raises `Refused`."""
    ground.objects.failed = None
    record = signed.record
    cited = ground.chain.cited(record.trust, ref)
    signatures = verify_signatures(signed, record.ref, ground.reader, ground.chain, ref)
    lack = judge_signers(signatures, cited.policy.deploy(record.deploy).config, cited.owners, record.ref, ref)
    if lack is not None and lack.check != Check.THRESHOLD:
        raise lack
    if ground.scope.contents:
        try:
            read_config(signed, ground.objects, ref)
        except Refused:
            if not ground.is_absent(ref):
                raise
    if lack is not None:
        raise lack


def is_signed(refused: int | None) -> bool:
    """Whether a refusal came after the signature had been verified."""
    return refused in (None, Check.THRESHOLD, Check.POSITION, Check.BUILD, Check.CONFIG, Check.REPUDIATED)


def standing_of(refused: int | None) -> Standing:
    if refused is None:
        return Standing.GOOD
    odd = {Check.THRESHOLD: Standing.PENDING, Check.REPUDIATED: Standing.REPUDIATED}
    return odd.get(Check(refused), Standing.REFUSED)


def listed_variables(files: Iterable[str] | None) -> dict[str, Any]:
    """The names in an envdir, as reports have them."""
    if files is None:
        return {"variables": None, "secrets": None}
    names = list(files)
    return {
        "variables": tuple(sorted(name.removesuffix(SECRET_SUFFIX) for name in names)),
        "secrets": tuple(sorted(name.removesuffix(SECRET_SUFFIX) for name in names if name.endswith(SECRET_SUFFIX))),
    }
