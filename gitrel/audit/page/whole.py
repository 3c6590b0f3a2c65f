"""An audit as one page of HTML that needs nothing else: no network, no script to be read, no clock.

The same audit gives the same bytes. The page's Content-Security-Policy lets its own style and its own script in, by
their hashes, and nothing else; the script only adds comfort (a filter, buttons), and puts no text into markup.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.resources import files

from gitrel.audit.changes import Changes
from gitrel.audit.differences import Rebuilt
from gitrel.audit.explain import ORDER
from gitrel.audit.page.byhand import byhand
from gitrel.audit.page.findings import findings
from gitrel.audit.page.markup import Html, code, csp_hash, element, facts, link, raw_element, said
from gitrel.audit.page.people import trust
from gitrel.audit.page.releases import releases
from gitrel.audit.page.timeline import timeline
from gitrel.audit.page.verdict import checked, running, verdict
from gitrel.audit.page.words import STANDINGS, Subject, badge
from gitrel.audit.result import Audit

_NAV = {
    "verdict": "Verdict",
    "running": "In use now",
    "findings": "Findings",
    "timeline": "Timeline",
    "releases": "Every release",
    "people": "People and roles",
    "checked": "What was checked",
    "byhand": "Verify by hand",
    "words": "What the words mean",
}
_WORDS = {
    "Release": "one version of the app, put into use: files and settings under one signature. It is never changed; "
    "to change anything, even to go back, is a new release with the next number.",
    "Deploy": "a place that releases are for, such as production or staging. Each has a history of its own.",
    "Build": "the files of a release, made from one commit of the source code and signed by whoever made them.",
    "Settings": "the deploy's variables. Their names are shown here, their values never.",
    "Signed by": "whose key signed it, which is arithmetic: nobody can put another's name there. An approval is one "
    "more signature, where a release takes more than one person.",
    "Trust": "the signed list of who may do what.",
    "Pin": "64 digits that stand for the first version of trust. The auditor has it from the app's people, and "
    "everything else follows from it.",
    "Claimed time": "what the signer's clock said. The order of releases is proven, the times are not.",
}


def as_html(audit: Audit, changes: Mapping[str, Changes], version: str, rebuilt: Rebuilt | None = None) -> str:
    """`changes`: what `gitrel.audit.changes` read; `version`: gitrel's; `rebuilt`: a build made again."""
    style, script = (files("gitrel.audit.page").joinpath(name).read_text("utf-8") for name in ("page.css", "page.js"))
    subject = Subject.of(audit, changes, rebuilt)
    parts = (verdict, running, findings, timeline, releases, trust, checked, byhand, _words)
    body = element(
        "body",
        element("a", "To the verdict", href="#verdict", class_="skip"),
        _header(audit),
        _nav(),
        element("main", *(part(subject) for part in parts), id="main"),
        element("footer", element("p", f"Made by gitrel {version} from the repository's records alone.")),
        raw_element("script", script),
    )
    page = element("html", _head(audit, style, script), body, lang="en")
    return f"<!DOCTYPE html>\n{page}\n"


def _head(audit: Audit, style: str, script: str) -> Html:
    policy = (
        f"default-src 'none'; style-src {csp_hash(style)}; script-src {csp_hash(script)}; base-uri 'none'; "
        "form-action 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
    )
    return element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=policy),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("meta", name="referrer", content="no-referrer"),
        element("title", f"Audit of {audit.app or 'an unknown app'}"),
        raw_element("style", style),
    )


def _header(audit: Audit) -> Html:
    return element(
        "header",
        element("h1", "Audit of ", str(audit.app) if audit.app else "an unknown app"),
        facts([("Repository", said(audit.repository)), ("Pin", code(audit.pin))]),
        element("p", "Audited by ____________________________  on ____________________", class_="paper"),
    )


def _nav() -> Html:
    return element(
        "nav", element("ul", *(element("li", link(at, name)) for at, name in _NAV.items())), aria_label="On this page"
    )


def _words(_: Subject) -> Html:
    checks = [element("li", f"Check {int(check)}: {check.title}", id=f"check-{int(check)}") for check in sorted(ORDER)]
    return element(
        "section",
        element("h2", _NAV["words"], id="words-h"),
        facts(_WORDS.items()),
        element("h3", "How a record can stand"),
        facts((badge(standing), meaning) for standing, (_, _, meaning) in STANDINGS.items()),
        element("h3", "The checks"),
        element("p", "Each release is checked fourteen times over; the first check that fails refuses it."),
        element("ul", *checks),
        id="words",
        aria_labelledby="words-h",
    )
