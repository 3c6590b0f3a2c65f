"""All releases and changes of trust in one order: as the signatures prove it, by claimed times where they do not.

A release comes after the trust that it cites and after the release that it was taken over from; a change of trust
after the releases that it names. In a broken history that may be impossible, and then the earliest claim goes first.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from gitrel.audit.result import Audit, ReleaseReport, TrustReport
from gitrel.ids import Entry

Event = TrustReport | ReleaseReport
_TRUST = ""  # its lane's name; a deploy's is the deploy's


def lane(event: Event) -> str:
    return event.deploy if isinstance(event, ReleaseReport) else _TRUST


def in_order(audit: Audit) -> list[Event]:
    """The oldest first."""
    lanes: dict[str, Sequence[Event]] = {_TRUST: audit.trust}
    lanes |= {deploy.name: deploy.releases for deploy in audit.deploys}
    claims = {name: _rising(events) for name, events in lanes.items()}
    ends = {name: events[-1].entry for name, events in lanes.items() if events}
    at = dict.fromkeys(lanes, 0)
    reached: dict[str, int] = dict.fromkeys(lanes, 0)
    found: list[Event] = []
    while waiting := [name for name, events in lanes.items() if at[name] < len(events)]:
        ready = [name for name in waiting if _is_ready(lanes[name][at[name]], reached, ends)]
        chosen = min(ready or waiting, key=lambda name: claims[name][at[name]])
        event = lanes[chosen][at[chosen]]
        found.append(event)
        at[chosen] += 1
        reached[chosen] = event.entry
    return found


def _rising(events: Sequence[Event]) -> list[int]:
    """Claimed times that never go back; what claims nothing has the time before it."""
    latest, found = 0, []
    for event in events:
        latest = max(latest, event.claimed.time if event.claimed is not None else 0)
        found.append(latest)
    return found


def _is_ready(event: Event, reached: Mapping[str, int], ends: Mapping[str, int]) -> bool:
    """Whether what it cites is there already; what is nowhere is not waited for."""
    return all(reached[name] >= entry for name, entry in _cited(event) if entry <= ends.get(name, 0))


def _cited(event: Event) -> Iterator[tuple[str, Entry]]:
    if isinstance(event, TrustReport):
        yield from ((head.deploy, head.entry) for head in event.heads)
        return
    if event.trust is not None:
        yield _TRUST, event.trust.entry
    if event.promoted_from is not None:
        yield event.promoted_from.deploy, event.promoted_from.entry
