"""What the page calls things: people, times, records, and where on the page each is."""

from __future__ import annotations

import base64
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime

from gitrel.audit.changes import Changes
from gitrel.audit.codes import Severity
from gitrel.audit.differences import Rebuilt
from gitrel.audit.findings import Finding
from gitrel.audit.page.markup import EMPTY, Html, code, element, escape, items, join, link
from gitrel.audit.result import (
    ApprovalReport,
    Audit,
    DeployReport,
    ReleaseReport,
    Signer,
    Standing,
    Statement,
    TrustReport,
)
from gitrel.dataclass import dataclass
from gitrel.errors import FormatError
from gitrel.format.commit import Stamp
from gitrel.format.envdir import Differences
from gitrel.ids import BuildRef, Entry, KeyId, LedgerKind, LedgerRef, ObjectId, PersonName, parse_ref

SHORT = 12  # digits of an id, where the whole is given elsewhere
_REFS = 5  # that a finding lists
_NAMES = 50  # of variables that changed

STANDINGS = {
    Standing.GOOD: ("✓", "good", "everything about it was verified"),
    Standing.PENDING: ("…", "waiting", "not enough people have signed it yet; no server runs it"),
    Standing.REPUDIATED: ("⊘", "withdrawn", "declared unfit to run, by a signed change of trust; no server runs it"),
    Standing.REFUSED: ("✗", "refused", "it failed a check; no server runs it"),
    Standing.UNPROVEN: ("?", "unproven", "good by itself, but something before it in its history is broken"),
}
SEVERITIES = {
    Severity.ERROR: ("✗", "somebody should be woken"),
    Severity.WARNING: ("!", "changes no verdict, but somebody should look"),
    Severity.NOTE: ("i", "worth knowing; an honest history has some"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """What the whole page is made of. `found`: the numbers of the findings that concern a ref."""

    audit: Audit
    changes: Mapping[str, Changes]
    rebuilt: Rebuilt | None
    found: Mapping[str, Sequence[int]]
    approvals: Mapping[ObjectId, Sequence[ApprovalReport]]
    anchors: frozenset[str]
    """Refs that have a place on the page."""
    owners: Mapping[KeyId, PersonName]
    """Whose each key is or was, by the newest trust that names it."""

    @classmethod
    def of(cls, audit: Audit, changes: Mapping[str, Changes], rebuilt: Rebuilt | None) -> Subject:
        found: dict[str, list[int]] = {}
        for number, finding in enumerate(audit.findings, 1):
            for ref in dict.fromkeys((finding.ref, *finding.rests)):
                found.setdefault(ref, []).append(number)
        approvals: dict[ObjectId, list[ApprovalReport]] = {}
        for each in audit.approvals:
            if each.counts:
                approvals.setdefault(each.record, []).append(each)
        placed = [each.ref for deploy in audit.deploys for each in (*deploy.releases, *deploy.configs)]
        policies = [each.policy for each in audit.trust if each.policy is not None and each.standing is Standing.GOOD]
        return cls(
            audit=audit,
            changes=changes,
            rebuilt=rebuilt,
            found=found,
            approvals=approvals,
            anchors=frozenset([*placed, *(each.ref for each in audit.trust)]),
            owners={key.id: name for each in policies for name, held in each.people.items() for key in held},
        )

    def ref(self, ref: str) -> Html:
        """What a ref names, as a link if the page has the record."""
        return link(anchor(ref), called(ref)) if ref in self.anchors else called(ref)

    def refs(self, refs: Sequence[str]) -> Html:
        shown = refs if len(refs) <= _REFS else [*refs[: _REFS - 1], refs[-1]]
        parts = [self.ref(ref) for ref in shown]
        if len(refs) > _REFS:
            parts.insert(-1, escape(f"{len(refs) - _REFS:,} more"))
        return join(parts, ", ")

    def signer(self, signer: Signer) -> str:
        """A person whose key it was in the trust that the record cites; else what else is known of the key."""
        if signer.person is not None:
            return signer.person
        owner = self.owners.get(signer.key)
        return f"{owner} (invalid key)" if owner else "an unknown key"

    def name_key(self, unknown: re.Match[str]) -> str:
        """For the first group of a match, a key's id that no trust could name at its place."""
        return self.signer(Signer(KeyId(unknown[1]), None))

    def people(self, signers: Iterable[Signer]) -> Html:
        """Each once."""
        names = dict.fromkeys(self.signer(each) for each in signers)
        return listed(names) if names else escape("nobody")

    def keys(self, signers: Iterable[Signer]) -> Html:
        return items(join([self.signer(each), " ", code(fingerprint(each.key))]) for each in signers)

    def findings_of(self, ref: str) -> Sequence[tuple[int, Finding]]:
        return [(number, self.audit.findings[number - 1]) for number in self.found.get(ref, ())]

    def worst(self, ref: str) -> Severity | None:
        order = list(Severity)
        return min((each.severity for _, each in self.findings_of(ref)), key=order.index, default=None)


def anchor(ref: str) -> str:
    """A ref of ours is unique on the page without its first folder."""
    return ref.removeprefix("refs/")


def called(ref: str) -> Html:
    """`production v12`, `trust v3`: what a ref is called among people; else the ref."""
    try:
        name = parse_ref(ref)
    except FormatError:
        return code(ref)
    if isinstance(name, LedgerRef):
        if name.ledger.kind is LedgerKind.CONFIG:
            return escape(f"settings {name.entry} of {name.ledger.deploy}")
        return escape(f"{name.ledger.deploy or name.ledger} {name.entry}")
    return escape(f"build {name.build[:SHORT]}" if isinstance(name, BuildRef) else f"approval of {name.record[:SHORT]}")


def newest_good(deploy: DeployReport) -> ReleaseReport | None:
    """What a server runs that trusts this history: the newest release that every check let pass."""
    return next((each for each in reversed(deploy.releases) if each.standing is Standing.GOOD), None)


def fingerprint(key: KeyId) -> str:
    """As `ssh-keygen -l` shows it."""
    return f"SHA256:{base64.b64encode(bytes.fromhex(key)).decode().rstrip('=')}"


def listed(names: Iterable[str]) -> Html:
    """`alice, bob and carol`."""
    parts = list(map(escape, names))
    return join([join(parts[:-1], ", "), parts[-1]], " and ") if len(parts) > 1 else join(parts)


def moment(stamp: Stamp | None) -> Html:
    """What the signer's clock said."""
    if stamp is None:
        return escape("at an unknown time")
    at = datetime.fromtimestamp(stamp.time, UTC)
    return element("time", f"{at:%Y-%m-%d %H:%M} UTC", datetime=f"{at:%Y-%m-%dT%H:%M:%SZ}")


def span(events: Sequence[Statement]) -> Html:
    """From when to when, of what stands newest first."""
    return join([moment(events[-1].claimed), " to ", moment(events[0].claimed)])


def ordinary_but(events: Iterable[Statement]) -> str:
    """How many of them are anything but good, or go back."""
    found = list(events)
    counts = Counter(STANDINGS[each.standing][1] for each in found if each.standing is not Standing.GOOD)
    counts.update("going back" for each in found if isinstance(each, ReleaseReport) and each.rollback_to is not None)
    return "".join(f", {count:,} {word}" for word, count in counts.items())


def badge(standing: Standing) -> Html:
    glyph, word, _ = STANDINGS[standing]
    return mark(standing.value, glyph, word)


def mark(kind: str, glyph: str, word: str) -> Html:
    """A sign and a word, so that the colour says nothing of its own."""
    sign = element("span", glyph, aria_hidden="true")
    return element("span", sign, " ", word, class_=f"mark {kind}")


def severity_mark(severity: Severity) -> Html:
    return mark(severity.value, SEVERITIES[severity][0], severity.value)


def variables(changed: Differences | None) -> Html:
    """Names, never values."""
    if not changed:
        return EMPTY
    named = (("added", changed.added), ("changed", changed.changed), ("removed", changed.removed))
    return items(
        join(
            [
                word,
                " ",
                join(map(code, names[:_NAMES]), ", "),
                f" and {len(names) - _NAMES} more" * (len(names) > _NAMES),
            ]
        )
        for word, names in named
        if names
    )


def what_happened(release: ReleaseReport, before: ReleaseReport | None) -> str:
    """In a few words; for a release that could not be read it says so. `before`: the one before it that is there."""
    if release.build is None:
        return "cannot be read"
    if release.rollback_to is not None:
        return f"goes back to {release.rollback_to}"
    if release.promoted_from is not None:
        return f"taken over from {release.promoted_from.deploy} {release.promoted_from.entry}"
    if before is None or before.build is None:
        return "first release" if before is None else "new release"
    found = []
    if before.build != release.build:
        found.append("new code" if before.source != release.source else "another build of the same source")
    if release.changed:
        found.append("new settings")
    return " and ".join(found) or "nothing new"


def with_before(releases: Sequence[ReleaseReport]) -> Iterator[tuple[ReleaseReport | None, ReleaseReport]]:
    """Each with the one before it that is there."""
    return zip((None, *releases), releases, strict=False)


def missing(before: ReleaseReport | None, release: ReleaseReport) -> list[str]:
    """What is lost between two releases that follow each other here."""
    first, last = Entry(before.entry + 1 if before is not None else 1), release.entry - 1
    if first > last:
        return []
    return [f"{first} is missing" if first == last else f"{first} to v{last} are missing"]


def newest_trust(audit: Audit) -> TrustReport | None:
    return next((each for each in reversed(audit.trust) if each.standing is Standing.GOOD), None)
