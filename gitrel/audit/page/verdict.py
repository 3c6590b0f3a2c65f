"""The answer first: one sentence for somebody who is no engineer, what servers run now, what was looked at."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from gitrel.audit.codes import Severity
from gitrel.audit.differences import Rebuilt
from gitrel.audit.page.markup import EMPTY, Html, code, element, escape, items, join, link, said, table
from gitrel.audit.page.words import (
    SHORT,
    STANDINGS,
    Subject,
    anchor,
    badge,
    called,
    moment,
    newest_good,
    severity_mark,
)
from gitrel.audit.result import Audit, DeployReport, Statement
from gitrel.audit.text import counted

_SHOWN = 6  # errors that the verdict names
_DIFFERENT = 20  # files of a build made again that are named
_LIMITS = (
    "Times are what the signers' clocks said. Nobody vouches for them, and nothing here rests on them.",
    "One audit cannot know of records that nobody showed it; comparing with another or an earlier one helps.",
    "Signed by the right people does not mean that the software is good, nor that a server really ran it.",
    "A signature proves which key signed. That only its owner has the key is for its owner to say.",
)


def verdict(subject: Subject) -> Html:
    audit = subject.audit
    kind, glyph, headline = _headline(audit, subject.rebuilt)
    return element(
        "section",
        element("h2", "Verdict", id="verdict-h"),
        element(
            "div",
            element("p", element("span", glyph, aria_hidden="true"), " ", headline, class_="headline"),
            element("p", _explained(audit)),
            _wrong(subject),
            _built_again(subject, subject.rebuilt) if subject.rebuilt is not None else EMPTY,
            element("p", _counts(audit)) if audit.findings else EMPTY,
            class_=f"verdict {kind}",
        ),
        id="verdict",
        aria_labelledby="verdict-h",
    )


def _headline(audit: Audit, rebuilt: Rebuilt | None) -> tuple[str, str, str]:
    app, errors = audit.app, audit.counts[Severity.ERROR]
    if app is None:
        return "bad", "✗", "No. Nothing here can be believed: it does not begin with what the pin stands for."
    if errors:
        wrong = "One thing is" if errors == 1 else f"{errors:,} things are"
        return "bad", "✗", f"No. {wrong} wrong with the release history of {app}."
    if not audit.complete:
        text = f"Nothing wrong was found in the release history of {app}, but not all of it was looked at."
        return "partly", "!", text
    if rebuilt is not None and rebuilt.differences:
        text = f"The release history of {app} is as its people signed it, but one build came out different."
        return "partly", "!", text
    return "good", "✓", f"Yes. The whole release history of {app} is as its people signed it."


def _explained(audit: Audit) -> Html:
    if not audit.clean:
        rest = "What is not named in one was checked all the same, and each release below says how it stands."
        return join(["Do not rely on this history before each ", link("findings", "error"), " is explained. ", rest])
    if not audit.complete:
        return join(["See ", link("checked", "what was not checked"), ". What was looked at is as it was signed."])
    return escape(
        "Every record and every file was verified, starting from the pin: each release was made by people who were "
        "allowed to make it, none is missing, and nothing was changed, replaced or slipped in."
    )


def _wrong(subject: Subject) -> Html:
    """The errors in a line each."""
    errors = [each for each in enumerate(subject.audit.findings, 1) if each[1].severity is Severity.ERROR]
    rows = [
        join([link(f"finding-{number}", called(finding.ref)), ": ", finding.code.meaning])
        for number, finding in errors[:_SHOWN]
    ]
    if len(errors) > _SHOWN:
        rows.append(join([link("findings", f"and {len(errors) - _SHOWN:,} more")]))
    return items(rows)


def _built_again(subject: Subject, rebuilt: Rebuilt) -> Html:
    again = join(["The source of ", subject.ref(rebuilt.release), ", ", code(rebuilt.source), ", was built again: "])
    if not rebuilt.differences:
        return element("p", again, "it gave the very files that were signed.")
    count = len(rebuilt.differences)
    rows = [
        join([code(each.path), ": ", said(each.how), element("br"), element("small", "perhaps: ", said(each.cause))])
        for each in rebuilt.differences[:_DIFFERENT]
    ]
    if count > _DIFFERENT:
        rows.append(escape(f"and {count - _DIFFERENT:,} more"))
    return join([element("p", again, f"{counted(count, 'file')} came out otherwise than signed."), items(rows)])


def _counts(audit: Audit) -> Html:
    found = [join([severity_mark(each), f" × {count:,}"]) for each, count in audit.counts.items() if count]
    return join([join(found, "   "), " — ", link("findings", "read the findings")])


def running(subject: Subject) -> Html:
    """Who put into use what a server runs now."""
    rows = [_running(subject, deploy) for deploy in subject.audit.deploys]
    heads = ("Deploy", "Release", "Put there by", "When (claimed)", "Source commit", "Newer, and not run")
    body = table(
        "The newest release of each deploy that passes every check: what a server that starts today runs.", heads, rows
    )
    return element(
        "section",
        element("h2", "In use now", id="running-h"),
        body if rows else element("p", "There is no release."),
        id="running",
        aria_labelledby="running-h",
    )


def _running(subject: Subject, deploy: DeployReport) -> Iterator[str]:
    good = newest_good(deploy)
    newer = [each for each in deploy.releases if good is None or each.entry > good.entry]
    rest = join(
        (join([link(anchor(each.ref), str(each.entry)), " ", badge(each.standing)]) for each in newer[-3:]), ", "
    )
    if len(newer) > 3:
        rest = join([f"{len(newer) - 3:,} more, ", rest])
    yield deploy.name
    if good is None:
        yield from ("none", "–", "–", "–")
    else:
        yield join([link(anchor(good.ref), str(good.entry)), " ", said(good.subject, 80)])
        yield subject.people(good.signers)
        yield moment(good.claimed)
        yield code(good.source[:SHORT]) if good.source else "unknown"
    yield rest or "none"


def checked(subject: Subject) -> Html:
    audit = subject.audit
    looked: list[str] = [
        f"{counted(len(audit.trust), 'record')} of who may do what (trust){_standings(audit.trust)}",
        *(
            f"{counted(len(each.releases), 'release')} of {each.name}{_standings(each.releases)}, "
            f"{counted(len(each.configs), 'record')} of its settings{_standings(each.configs)}"
            for each in audit.deploys
        ),
        f"{counted(len(audit.builds), 'build')}{_standings(audit.builds)}",
        f"{counted(len(audit.approvals), 'approval')}, of which {sum(each.counts for each in audit.approvals):,} count",
    ]
    left = [f"{each.what}: {each.why} ({each.count:,})" for each in audit.unchecked]
    return element(
        "section",
        element("h2", "What was checked, and what was not", id="checked-h"),
        element("h3", "Looked at"),
        items(looked),
        element("h3", "Not looked at"),
        items(left) or element("p", "Nothing was left out."),
        element("h3", "What no such audit can tell"),
        items(_LIMITS),
        element("h3", "Which history this is about"),
        element("p", "It ends with these records. Another audit of the same history names the same ids."),
        _ends(audit),
        id="checked",
        aria_labelledby="checked-h",
    )


def _standings(reports: Sequence[Statement]) -> str:
    counts = Counter(each.standing for each in reports)
    named = [f"{counts[standing]:,} {word}" for standing, (_, word, _) in STANDINGS.items() if counts[standing]]
    return f" ({', '.join(named)})" if named else ""


def _ends(audit: Audit) -> Html:
    last: list[Statement] = [*audit.trust[-1:]]
    for deploy in audit.deploys:
        last += [*deploy.configs[-1:], *deploy.releases[-1:]]
    rows = [(code(each.ref), code(each.oid), code(each.sha256 or "unreadable")) for each in last]
    return table("The newest record of each ledger", ("Ref", "Commit id", "SHA-256 of the record"), rows)
