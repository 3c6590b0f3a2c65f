"""Every release of every deploy, the newest first; each unfolds to what it changed, its checks and its commands.

Folded parts are ordinary `<details>`: a browser does not lay them out until they are opened, and needs no script.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from gitrel.audit.changes import Changes, FileChange
from gitrel.audit.explain import Outcome
from gitrel.audit.findings import Finding
from gitrel.audit.page.byhand import release_commands
from gitrel.audit.page.markup import EMPTY, Html, code, element, facts, items, join, link, said
from gitrel.audit.page.words import (
    SHORT,
    Subject,
    anchor,
    badge,
    mark,
    missing,
    moment,
    ordinary_but,
    severity_mark,
    span,
    variables,
    what_happened,
    with_before,
)
from gitrel.audit.result import ConfigReport, DeployReport, ReleaseReport, Statement
from gitrel.ids import TRUST, Ledger
from gitrel.trust.checks import Check

_CHUNK = 100  # releases that are folded together
_MARKS = {"A": "added", "M": "changed", "D": "removed"}
_REFUSED = Outcome.REFUSED
_SUBJECT = 120  # characters, in a line with other things
_TEXT = 4000  # characters, of a message
_NAMES = 2000  # characters, of names of variables
_PROCESSES = 25  # that are listed


def releases(subject: Subject) -> Html:
    return element(
        "section",
        element("h2", "Every release", id="releases-h"),
        element(
            "p",
            "The newest first. Each unfolds to what it changed, who signed it, what was checked, and the commands that "
            "show the same without gitrel.",
        ),
        join(_deploy(subject, each) for each in subject.audit.deploys) or element("p", "There is none."),
        id="releases",
        aria_labelledby="releases-h",
    )


def _deploy(subject: Subject, deploy: DeployReport) -> Html:
    pairs = list(with_before(deploy.releases))[::-1]
    chunks = [pairs[at : at + _CHUNK] for at in range(0, len(pairs), _CHUNK)]
    parts = [element("h3", deploy.name)]
    if not pairs:
        parts.append(element("p", "No release."))
    for number, chunk in enumerate(chunks):
        body = element(
            "ol",
            *(row for before, each in chunk for row in _rows(subject, each, before)),
            class_="releases",
            role="list",
        )
        if len(chunks) > 1:
            label = element("summary", _chunk([each for _, each in chunk]))
            body = element("details", label, body, class_="chunk", open=number == 0)
        parts.append(body)
    parts.append(_configs(subject, deploy))
    return join(parts)


def _chunk(shown: Sequence[ReleaseReport]) -> Html:
    """What is folded up, in a line."""
    return join([element("strong", f"{shown[-1].entry} to {shown[0].entry}"), " ", span(shown), ordinary_but(shown)])


def _rows(subject: Subject, release: ReleaseReport, before: ReleaseReport | None) -> Iterator[Html]:
    yield _release(subject, release, before)
    yield from (element("li", mark("refused", "✗", lost), class_="lost") for lost in missing(before, release))


def _release(subject: Subject, release: ReleaseReport, before: ReleaseReport | None) -> Html:
    worst = subject.worst(release.ref)
    happened = what_happened(release, before)
    marks = [badge(release.standing), " ", severity_mark(worst) if worst is not None else EMPTY]
    line = [
        element("b", str(release.entry)),
        element("span", moment(release.claimed)),
        element("span", subject.people(release.signers)),
        element("span", happened, ": " if release.subject else "", said(release.subject, _SUBJECT)),
        element("span", *marks),
    ]
    body = [_facts(subject, release), _changed(release, subject.changes.get(release.ref))]
    body += [_checks(release), element("h4", "Verify by hand"), release_commands(subject, release)]
    return element("li", element("details", element("summary", join(line, " ")), *body, id=anchor(release.ref)))


def _facts(subject: Subject, release: ReleaseReport) -> Html:
    back, origin, config = release.rollback_to, release.promoted_from, release.config
    return facts(
        [
            ("Findings", items(_finding(number, each) for number, each in subject.findings_of(release.ref))),
            ("Said", _message(release)),
            ("Goes back to", subject.ref(f"{release.ref.rpartition('/')[0]}/{back}") if back else ""),
            ("Taken over from", subject.ref(str(Ledger.releases(origin.deploy)[origin.entry])) if origin else ""),
            ("Signed by", subject.keys(release.signers) or "nobody whose signature holds"),
            ("By the rules of", subject.ref(str(TRUST[release.trust.entry])) if release.trust else ""),
            ("Source commit", code(release.source) if release.source else "unknown"),
            ("Build", code(release.build.oid) if release.build else "unknown"),
            ("Settings", join([str(config.entry), " ", code(config.id.oid)]) if config else "none"),
            ("Variables", code(", ".join(release.variables), _NAMES) if release.variables else ""),
            ("Of these secret", code(", ".join(release.secrets), _NAMES) if release.secrets else ""),
            ("Commit id", code(release.oid)),
            ("SHA-256", code(release.sha256) if release.sha256 else "unreadable"),
        ]
    )


def _message(release: ReleaseReport) -> Html:
    """What the line above has no room for."""
    whole = "\n\n".join(filter(None, (release.subject, release.text)))
    return said(whole, _TEXT) if release.text or len(whole) > _SUBJECT else EMPTY


def _finding(number: int, finding: Finding) -> Html:
    name = link(f"finding-{number}", f"{number}. {finding.code}")
    return join([severity_mark(finding.severity), " ", name, ": ", said(finding.what)])


def _changed(release: ReleaseReport, changes: Changes | None) -> Html:
    if changes is None:
        return EMPTY
    settings = variables(release.changed) or ("unknown" if release.changed is None and release.config else "the same")
    title = "What it brought" if changes.first else "What it changed"
    pairs = [
        ("Source commits", _commits(changes)),
        ("Files", _files(changes)),
        ("Variables", settings),
        ("Processes", _processes(changes)),
    ]
    return join([element("h4", title), facts(pairs)])


def _commits(changes: Changes) -> Html:
    rows = [
        join([code(each.id[:SHORT]), " ", said(each.author, 80), ": ", said(each.subject, 200)])
        for each in changes.commits
    ]
    more = changes.commit_count - len(rows)
    if changes.commits_unknown:
        rows.append(join(["the rest is unknown: " if rows else "", said(changes.commits_unknown)]))
    elif more > 0:
        rows.append(join([f"and {more:,} before them"]))
    return items(rows) or join(["none"])


def _files(changes: Changes) -> Html:
    counted = ", ".join(f"{count:,} {_MARKS[name]}" for name, count in changes.counts)
    rows = [
        join([_MARKS[each.mark], " ", code(each.path), " ", element("small", _sizes(each))]) for each in changes.files
    ]
    more = sum(count for _, count in changes.counts) - len(rows)
    if more > 0:
        rows.append(join([f"and {more:,} more"]))
    unknown = join([" not all of them are known: ", said(changes.files_unknown)]) if changes.files_unknown else EMPTY
    return join([counted or ("" if unknown else "the same"), unknown, items(rows)])


def _sizes(file: FileChange) -> str:
    known = [f"{each:,}" for each in (file.before, file.after) if each is not None]
    return f"{' → '.join(known)} bytes" if known else ""


def _processes(changes: Changes) -> Html:
    if changes.processes_unknown:
        return join([changes.processes_unknown])
    rows = []
    for name, old, new in changes.processes[:_PROCESSES]:
        how = "added" if old is None else "removed" if new is None else "changed"
        lines = [
            element("div", word, " ", code(each[:_TEXT]))
            for word, each in (("before", old), ("now", new))
            if each is not None
        ]
        rows.append(join([f"{how} ", code(name), *lines]))
    return items(rows) or join(["the same"])


def _checks(statement: Statement) -> Html:
    """All fourteen in a line if they passed; else each that did not."""
    by = {outcome: [check for check, each in statement.checks.items() if each is outcome] for outcome in Outcome}
    passed = len(by[Outcome.PASSED])
    if passed == len(statement.checks):
        return join([element("h4", "Checks"), element("p", mark("good", "✓", f"all {passed} checks passed"))])
    rows = [join([mark("refused", "✗", "refused"), " by ", _check(each), f": {each.title}"]) for each in by[_REFUSED]]
    if later := by[Outcome.NOT_REACHED]:
        rows.append(
            join([mark("pending", "–", "not reached"), " after that: ", join(map(_check, sorted(later)), ", ")])
        )
    rows += [
        join([mark("warning", "!", "not checked"), ": ", _check(each), f": {each.title}"])
        for each in by[Outcome.NOT_CHECKED]
    ]
    text = element("p", f"{passed} of {len(statement.checks)} checks passed, and these did not:")
    return join([element("h4", "Checks"), text, items(rows)])


def _check(check: Check) -> Html:
    return link(f"check-{int(check)}", f"check {int(check)}")


def _configs(subject: Subject, deploy: DeployReport) -> Html:
    """The ledger of settings, folded: who changed which variable."""
    if not deploy.configs:
        return EMPTY
    rows = [element("li", join(_config(subject, each))) for each in reversed(deploy.configs)]
    summary = element(
        "summary", f"Changes of settings of {deploy.name} ({len(rows):,}); they take effect with the next release"
    )
    return element("details", summary, element("ol", *rows, class_="configs", role="list"), class_="chunk")


def _config(subject: Subject, config: ConfigReport) -> Iterator[Html]:
    yield element("span", element("b", str(config.entry)), " ", id=anchor(config.ref))
    yield join(
        [
            moment(config.claimed),
            " by ",
            subject.people(config.signers),
            ": ",
            said(config.subject, _SUBJECT),
            " ",
            badge(config.standing),
        ]
    )
    yield variables(config.changed)
