"""What a release may be called wherever a command takes one.

    v98, 98                 its number
    latest                  the newest that may run
    3f9a2c1                 its record's id, or its source commit's: seven digits or more
    @2011-04-06T20:32:17    the one that was newest then

Times are what the records claim, so the last one is for finding and decides nothing: what it finds is said.
"""

from __future__ import annotations

import difflib
import re
import time
from collections.abc import Iterable, Iterator
from datetime import datetime

from gitrel.cli.console import Console
from gitrel.cli.deploys import check_deploy
from gitrel.cli.developer import Developer
from gitrel.errors import FormatError, NotFound, UsageError
from gitrel.ids import Entry, Ledger
from gitrel.release.cut import Standing
from gitrel.trust.checks import Check
from gitrel.trust.ledger import Verdict

LATEST = "latest"
_ID = re.compile(r"[0-9a-f]{7,64}")
_DATE = re.compile(r"\d{4}-\d\d-\d\d")
_SLOW = 1.0  # seconds after which it is said how long the verification took
_NEARBY = 2000  # releases whose ids are compared with a mistyped one, the newest: difflib takes 2 to 20 us for each


def read_ledger(dev: Developer, *, whole: bool = False) -> Standing:
    """The deploy's ledger, verified, once for a command; `whole`: see `Developer.standing`. Raises `NotFound` for a
    deploy that is none.
    """
    started = time.monotonic()
    with dev.console.working("verifying the releases"):
        now = dev.standing(whole=whole)
    took = time.monotonic() - started
    if took > _SLOW:
        dev.console.note(f"{len(now.verdicts):,} releases verified in {took:.1f} s")
    if not now.verdicts:
        check_deploy(dev, now.trust)
    return now


def named_release(console: Console, now: Standing, text: str | None) -> Verdict:
    """The release of that name, if it may run; None: the newest. Raises `NotFound`, `UsageError`, its `Refused`."""
    return now.good(None if text is None else named_entry(console, now, text))


def named_entry(console: Console, now: Standing, text: str) -> Entry:
    """The number of the release that `text` names; for a number, there need not be one.

    Raises `UsageError` for what names nothing, `NotFound` if there is no such release or more than one.
    """
    if text == LATEST:
        return now.good().entry
    if text.startswith("@"):
        return _newest_at(console, now, text)
    number = _number(text)
    if number is not None and _ID.fullmatch(text) is None:
        return number
    known = {verdict.entry for verdict in now.verdicts}
    if number in known:
        return number
    if _ID.fullmatch(text.lower()):
        return _with_id(console, now, text.lower())
    close = difflib.get_close_matches(text, [LATEST, *map(str, sorted(known, reverse=True))], 1, 0.5)
    raise UsageError(
        f"not a release such as v12: {text[:100]!r}",
        where="[vN]",
        why=f"did you mean {close[0]}?" if close else "",
        hint="`gitrel log` lists the releases; latest, an id of 7 digits or more and @TIME name one too",
    )


def parse_time(text: str, where: str) -> float:
    """Seconds since 1970 of an ISO 8601 time (`2011-04-06`, `…T20:32:17`, `…Z`, `…+02:00`); local if it has no zone.

    Raises `UsageError`.
    """
    try:
        if _DATE.match(text) is None:
            raise ValueError("no date such as 2011-04-06 in front")
        return datetime.fromisoformat(text).timestamp()
    except (ValueError, OverflowError, OSError) as error:
        raise UsageError(
            f"not a time: {text[:100]!r}", where=where, why=str(error), hint="write 2011-04-06T20:32:17, or …Z for UTC"
        ) from None


def is_time(text: str) -> bool:
    return text.startswith("@") or _DATE.match(text) is not None


def claimed_time(verdict: Verdict) -> int | None:
    """When its record says that it was made, in seconds since 1970; None for what is no record."""
    return verdict.signed.committer.time if verdict.signed is not None else None


def _number(text: str) -> Entry | None:
    try:
        return Entry.parse(text if text.startswith("v") else f"v{text}")
    except FormatError:
        return None


def _newest_at(console: Console, now: Standing, text: str) -> Entry:
    """What could have run then: a release that was repudiated later too, none that never had its signatures."""
    moment = parse_time(text[1:], "[vN]")
    ran = [each for each in now.verdicts if each.release or (each.refusal and each.refusal.check == Check.REPUDIATED)]
    made = [(claimed, each.entry) for each in ran if (claimed := claimed_time(each)) is not None]
    before = [each for each in made if each[0] <= moment]
    if not before:
        first = f"the first claims {_shown(min(made)[0])}" if made else "there is none yet"
        raise NotFound(f"no release of {now.deploy} at {text[1:]}", where="[vN]", why=first, hint="see `gitrel log`")
    entry = max(before)[1]
    console.note(f"note: {text} is {entry}, by the times that releases claim")
    return entry


def _shown(seconds: float) -> str:
    return datetime.fromtimestamp(seconds).astimezone().isoformat()


def _with_id(console: Console, now: Standing, prefix: str) -> Entry:
    found = [(name, kind, entry) for name, kind, entry in _ids(now.verdicts) if name.startswith(prefix)]
    names = {name for name, _, _ in found}
    where = Ledger.releases(now.deploy).prefix + "*"
    if not found:
        nearby = [name[: len(prefix)] for name, _, _ in _ids(now.verdicts[-_NEARBY:])]
        close = difflib.get_close_matches(prefix, nearby, 1, 0.7)
        raise NotFound(
            f"no release {prefix}",
            where=where,
            why=f"did you mean {close[0]}?" if close else "no release, and no source of one, has such an id",
            hint="`gitrel log` lists the releases; a commit becomes one with `gitrel release`",
        )
    if len(names) > 1:
        some = ", ".join(f"{name} ({kind} of {entry})" for name, kind, entry in found[:4])
        raise NotFound(
            f"{prefix} is no single id", where=where, why=f"{len(names)} begin so: {some}", hint="write more"
        )
    newest = found[-1][2]
    others = len({entry for _, _, entry in found}) - 1
    if others:
        console.note(f"note: {prefix} is the source of {others + 1} releases; {newest} is the newest")
    return newest


def _ids(verdicts: Iterable[Verdict]) -> Iterator[tuple[str, str, Entry]]:
    """Every id that names a release, with what it is of."""
    for verdict in verdicts:
        if verdict.signed is not None:
            yield verdict.id.oid, "record", verdict.entry
            yield verdict.id.sha256, "sha256", verdict.entry
        if verdict.release is not None:
            yield verdict.release.build.record.source, "source", verdict.entry
