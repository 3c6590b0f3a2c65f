"""What is wrong, odd or worth knowing: a table, the worst first."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from gitrel.audit.codes import Severity
from gitrel.audit.findings import Finding
from gitrel.audit.page.markup import EMPTY, Html, code, element, join, link, said, table
from gitrel.audit.page.words import SEVERITIES, Subject, called, severity_mark

_HEADS = ("Finding", "Where", "Who", "What it means", "What to do")
_KEY = re.compile(r"an unknown key ([0-9a-f]{64})")
_OPEN = 100  # of a severity; more are folded

_TITLES = {Severity.ERROR: "Errors", Severity.WARNING: "Warnings", Severity.NOTE: "Notes"}


def findings(subject: Subject) -> Html:
    parts = [_of(subject, severity) for severity in Severity]
    return element(
        "section",
        element("h2", "Findings", id="findings-h"),
        join(parts) or element("p", "There are none: no error, no warning, no note."),
        id="findings",
        aria_labelledby="findings-h",
    )


def _of(subject: Subject, severity: Severity) -> Html:
    found = [each for each in enumerate(subject.audit.findings, 1) if each[1].severity is severity]
    if not found:
        return EMPTY
    caption = f"{_TITLES[severity]}: {SEVERITIES[severity][1]}"
    parts = [element("h3", f"{_TITLES[severity]} ({len(found):,})")]
    parts.append(_table(subject, caption, found[:_OPEN]))
    for at in range(_OPEN, len(found), _OPEN):
        some = found[at : at + _OPEN]
        label = f"{_TITLES[severity]} {some[0][0]:,} to {some[-1][0]:,}"
        parts.append(element("details", element("summary", label), _table(subject, caption, some)))
    return join(parts)


def _table(subject: Subject, caption: str, found: Sequence[tuple[int, Finding]]) -> Html:
    return table(caption, _HEADS, (_row(subject, number, each) for number, each in found), class_="findings")


def _row(subject: Subject, number: int, finding: Finding) -> Iterator[Html]:
    check = EMPTY
    if finding.check is not None:
        check = join([element("br"), link(f"check-{int(finding.check)}", f"check {int(finding.check)}")])
    name = element("span", f"{number}. ", code(finding.code), id=f"finding-{number}")
    yield join([name, element("br"), severity_mark(finding.severity), check])
    where = [subject.ref(finding.ref)]
    if called(finding.ref) != code(finding.ref):
        where += [element("br"), element("small", code(finding.ref))]
    if finding.object and finding.object != finding.ref:
        where += [element("br"), element("small", "object ", code(finding.object))]
    kept = [each for each in finding.evidence if each != finding.object]
    if kept:
        where += [element("br"), element("small", "keep as evidence ", join(map(code, kept), ", "))]
    yield join(where)
    yield said(_KEY.sub(subject.name_key, finding.who)) if finding.who else join(["not known"])
    rests = EMPTY
    if finding.rests:
        count = f"{len(finding.rests):,} more {'record is' if len(finding.rests) == 1 else 'records are'} concerned: "
        rests = element("p", element("small", count, subject.refs(finding.rests)))
    yield join([element("p", _sentence(finding.code.meaning)), element("p", "Seen: ", said(finding.what, 1000)), rests])
    yield said(_sentence(finding.advice), 1000)


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."
