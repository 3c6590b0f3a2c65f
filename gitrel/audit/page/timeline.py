"""The history as a picture: a lane for trust and one for each deploy, the newest on top, beside what happened in words.

The picture repeats what the words say, so it is hidden from readers that cannot see it. Rows have one height, the same
here and in page.css.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from gitrel.audit.page.markup import Html, element, escape, join, link, said
from gitrel.audit.page.order import Event, in_order, lane
from gitrel.audit.page.people import changes
from gitrel.audit.page.words import (
    STANDINGS,
    Subject,
    anchor,
    badge,
    missing,
    moment,
    ordinary_but,
    span,
    what_happened,
    with_before,
)
from gitrel.audit.result import ReleaseReport, Standing, TrustReport
from gitrel.format.trust import TrustPolicy
from gitrel.ids import Entry, Ledger, LedgerRef

_CHUNK = 100  # events that are drawn together
_ROW = 34  # pixels, as in page.css
_MIDDLE = _ROW // 2
_LANE = 26  # pixels between lanes
_LANES = 8  # that are drawn; deploys beyond share the last
_CHANGES = 3  # of a version of trust, that are named in its row


def timeline(subject: Subject) -> Html:
    events = in_order(subject.audit)[::-1]
    lanes = ["", *(deploy.name for deploy in subject.audit.deploys)]
    words = _words(subject)
    chunks = [events[at : at + _CHUNK] for at in range(0, len(events), _CHUNK)]
    parts = [_graph(subject, lanes, words, chunk) for chunk in chunks[:1]]
    if earlier := [_folded(_chunk(chunk), _graph(subject, lanes, words, chunk)) for chunk in chunks[1:]]:
        label = escape(f"Earlier: {len(events) - _CHUNK:,} releases and changes of trust")
        parts.append(_folded(label, *earlier) if len(earlier) > 1 else earlier[0])
    return element(
        "section",
        element("h2", "Timeline", id="timeline-h"),
        element(
            "p",
            "The newest on top, in the order that the signatures prove. A dashed line leads from a release to the one "
            "that it goes back to; a dotted one from a release to where it was taken over.",
        ),
        _legend(lanes),
        join(parts) or element("p", "There is nothing to draw."),
        id="timeline",
        aria_labelledby="timeline-h",
    )


def _folded(label: Html, *body: Html) -> Html:
    return element("details", element("summary", label), *body, class_="chunk")


def _chunk(events: Sequence[Event]) -> Html:
    """What is folded up, in a line: which records of which lane, and when."""
    entries: dict[str, list[Entry]] = {}
    for event in events:
        entries.setdefault(lane(event) or "trust", []).append(event.entry)
    names = [f"{name} {min(each)}" + (f" to {max(each)}" if len(each) > 1 else "") for name, each in entries.items()]
    return join([element("strong", ", ".join(names)), ": ", span(events), ordinary_but(events)])


def _legend(lanes: Sequence[str]) -> Html:
    return element("p", f"From left to right: {', '.join(name or 'trust (who may do what)' for name in lanes)}.")


def _words(subject: Subject) -> dict[str, str]:
    """What each event did, by its ref."""
    found = {}
    for deploy in subject.audit.deploys:
        for before, each in with_before(deploy.releases):
            found[each.ref] = "; ".join([*missing(before, each), what_happened(each, before)])
    policy: TrustPolicy | None = None
    for report in subject.audit.trust:
        if report.policy is None:
            found[report.ref] = "a change of trust that does not count"
            continue
        did = changes(policy, report.policy)
        more = f" and {len(did) - _CHANGES} more" if len(did) > _CHANGES else ""
        found[report.ref] = "; ".join(did[:_CHANGES]) + more
        if report.standing is Standing.GOOD:
            policy = report.policy
    return found


def _graph(subject: Subject, lanes: Sequence[str], words: Mapping[str, str], events: Sequence[Event]) -> Html:
    picture = _Picture({name: min(at, _LANES - 1) for at, name in enumerate(lanes)}, events)
    rows = [element("li", picture.of(each), join(_row(subject, words, each), " ")) for each in events]
    return element("ol", *rows, role="list", class_="graph")


def _row(subject: Subject, words: Mapping[str, str], event: Event) -> Iterator[Html]:
    trust = isinstance(event, TrustReport)
    yield link(anchor(event.ref), element("b", f"{'trust' if trust else lane(event)} {event.entry}"))
    yield element("span", moment(event.claimed), class_="when")
    yield element("span", subject.people(event.signers), class_="who")
    text = [words[event.ref]]
    if event.subject and not trust:
        text += [": ", said(event.subject, 120)]
    if event.standing is not Standing.GOOD:
        yield badge(event.standing)
    yield element("span", *text, class_="what")


class _Picture:
    """A piece for each row, so that paper can be cut between them; a line to another release leaves its piece."""

    def __init__(self, column: Mapping[str, int], events: Sequence[Event]) -> None:
        self._column = column
        self._row = {event.ref: at for at, event in enumerate(events)}
        self._count = len(events)
        self._width = (max(column.values(), default=0) + 1) * _LANE
        xs = sorted({_x(at) for at in column.values()})
        self._lanes = element("path", d="".join(f"M{x} 0V{_ROW}" for x in xs), class_="lane")

    def of(self, event: Event) -> Html:
        x = _x(self._column[lane(event)])
        parts = [self._lanes, *self._origin(event, x), *_dot(event, x)]
        return element("svg", *parts, width=self._width, height=_ROW, aria_hidden="true", focusable="false")

    def _origin(self, event: Event, x: int) -> Iterator[Html]:
        """Where a release comes from; what is further down than this picture, its line only leads to the end of."""
        if not isinstance(event, ReleaseReport):
            return
        if event.rollback_to is not None:
            to = self._below(event, Ledger.releases(event.deploy)[event.rollback_to])
            bulge = x + _LANE // 2 + 1
            curve = f"M{x} {_MIDDLE}C{bulge} {_MIDDLE + _ROW // 2} {bulge} {to - _ROW // 2} {x} {to}"
            yield element("path", d=curve, class_="back")
        if (origin := event.promoted_from) is not None:
            to = self._below(event, Ledger.releases(origin.deploy)[origin.entry])
            to_x = _x(self._column.get(origin.deploy, _LANES - 1))
            curve = f"M{x} {_MIDDLE}C{x} {_MIDDLE + _ROW // 2} {to_x} {to - _ROW // 2} {to_x} {to}"
            yield element("path", d=curve, class_="over")

    def _below(self, event: Event, ref: LedgerRef) -> int:
        """How far down another event is."""
        return (self._row.get(str(ref), self._count) - self._row[event.ref]) * _ROW + _MIDDLE


def _x(at: int) -> int:
    return at * _LANE + _LANE // 2


def _dot(event: Event, x: int) -> Iterator[Html]:
    y, standing = _MIDDLE, event.standing.value
    if isinstance(event, TrustReport):
        yield element("rect", x=x - 8, y=y - 8, width=16, height=16, rx=2, class_=f"dot trust {standing}")
    else:
        yield element("circle", cx=x, cy=y, r=9, class_=f"dot {standing}")
    back = isinstance(event, ReleaseReport) and event.rollback_to is not None
    if glyph := STANDINGS[event.standing][0] if event.standing is not Standing.GOOD else "↩" if back else "":
        yield element("text", glyph, x=x, y=y + 4)
