"""`gitrel status`: what runs here, and what the remote said last."""

from __future__ import annotations

import base64
import datetime
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import typer

from gitrel.cli.console import Console
from gitrel.cli.server import open_home, open_sources
from gitrel.cli.staleness import staleness
from gitrel.dataclass import dataclass
from gitrel.errors import ExitCode, NotFound, Refused
from gitrel.format.text import size
from gitrel.ids import Entry
from gitrel.run import report
from gitrel.run.home import Home
from gitrel.run.judge import judge_here
from gitrel.run.receipts import Outbox, read_outbox
from gitrel.run.resolve import carried_config
from gitrel.run.state import Sight, State
from gitrel.trust.signers import verify_signature

TAIL = 10  # lines of a failed release's log
_SERVING = ("steady", "preparing", "joining")  # phases in which the release that runs was healthy


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """All that is shown. `sources`: where it asks, as that may be shown, by URL. `supervisor` is its status file, None
    if it has none yet; `memory` bytes by session; `outbox` the receipts that wait.
    """

    state: State
    sources: Mapping[str, str]
    running: bool
    supervisor: Mapping[str, Any] | None
    memory: Mapping[int, int]
    signers: list[dict[str, str]]
    unverified: str
    config: Entry | None
    outbox: Outbox
    logs: Mapping[Entry, list[str]]
    now: float

    @property
    def waiting(self) -> Entry | None:
        """A config that no release here carries yet."""
        configured = self.state.configured
        return configured if configured is not None and configured > (self.config or 0) else None

    @property
    def failed(self) -> dict[Entry, str]:
        """The failures that nothing good came after."""
        good = self.state.good
        return {entry: why for entry, why in self.state.failed.items() if good is None or entry > good}

    @property
    def problem(self) -> str:
        """Why what should run is not healthy; empty if it is, or if nobody here would know."""
        report_ = self.supervisor
        if self.failed:
            newest = max(self.failed)
            return f"{newest} failed here: {self.failed[newest]}"
        if not self.running:
            return ""
        if report_ is None or not report_.get("release"):
            return "nothing runs yet"
        if report_["trouble"]:
            return f"{report_['release']}: {report_['trouble']}"
        if report_["phase"] not in _SERVING:
            return f"{report_['release']} is not healthy yet ({report_['phase']})"
        down = [each["name"] for each in report_["processes"] if each["state"] != "up"]
        return f"{report_['release']}: not up: {', '.join(down)}" if down and report_["phase"] == "steady" else ""

    @property
    def stale(self) -> float | None:
        """Since when nothing was signed for too long; None if that is not so."""
        return self.state.stale_since(self.now)


def status(console: Console, path: Path | None) -> None:
    """Ends with 18 if what should run is not healthy, or the newest release failed here."""
    home = open_home(path)
    found = _look(home)
    console.facts(_rows(found))
    console.result(**_document(found))
    if found.problem:
        console.note(f"not healthy: {found.problem}")
        raise typer.Exit(ExitCode.UNHEALTHY)


def _look(home: Home) -> Status:
    state = home.read_state()
    supervisor = report.read(home)
    with open_sources(state.sources) as remotes:
        sources = {url: remote.safe_url for url, remote in remotes.items()}
    sessions = {each["pid"] for each in (supervisor or {}).get("processes", ()) if each["pid"]}
    signers: list[dict[str, str]] = []
    unverified = ""
    try:
        signers = _signers(home, state)
    except (Refused, NotFound) as error:
        unverified = str(error)
    return Status(
        state=state,
        sources=sources,
        running=home.locked("run"),
        supervisor=supervisor,
        memory=report.resident(sessions) if sessions else {},
        signers=signers,
        unverified=unverified,
        config=carried_config(home, state),
        outbox=read_outbox(home) if state.host is not None else Outbox(),
        logs={entry: _tail(home.run / "failed" / f"{entry}.log") for entry in state.failed},
        now=time.time(),
    )


def _signers(home: Home, state: State) -> list[dict[str, str]]:
    """Who signed the current release and with which key, then who approved it; verified now, from the records here."""
    if state.current is None:
        return []
    with home.repository() as repo:
        release = judge_here(home, repo, state, state.current)
    own = verify_signature(release.signed, str(release.record.ref))
    person = release.trust.owners[own]
    key = next(key for key in release.trust.policy.people[person] if key.id == own)
    fingerprint = "SHA256:" + base64.b64encode(bytes.fromhex(own)).decode().rstrip("=")  # as ssh-keygen -l has it
    signer = {"person": str(person), "key": fingerprint, "comment": key.comment}
    return [signer, *({"person": str(other)} for other in release.signers if other != person)]


def _tail(path: Path) -> list[str]:
    try:
        return path.read_bytes().decode("utf-8", "replace").splitlines()[-TAIL:]
    except OSError:
        return []  # a release that could not even be started printed nothing


def _document(found: Status) -> dict[str, Any]:
    state = found.state
    processes = [
        {**each, "resident_bytes": found.memory.get(each["pid"])}
        for each in (found.supervisor or {}).get("processes", ())
    ]
    return {
        "app": state.app,
        "deploy": state.deploy,
        "remote": found.sources[state.url],
        "mirrors": _mirrors(found),
        "forks": list(state.forks),
        "pin": state.pin,
        "healthy": not found.problem,
        "problem": found.problem or None,
        "current": _name(state.current),
        "signers": found.signers,
        "newest": _name(state.ready),
        "good": _name(state.good),
        "pinned": _name(state.pinned),
        "scales": dict(state.scales),
        "failed": {str(entry): why for entry, why in state.failed.items()},
        "logs": {str(entry): lines for entry, lines in found.logs.items()},
        "refused": {str(entry): str(refusal) for entry, refusal in state.refused.items()},
        "pending": [str(entry) for entry, refusal in state.refused.items() if refusal.pending],
        "lacking": {str(entry): why for entry, why in state.lacking.items()},
        "config": _name(found.config),
        "pending_config": _name(found.waiting),
        "contact": state.contact,
        "signed": state.life.alive,
        "max_silence": state.life.max_silence,
        "stale_since": found.stale,
        "heartbeat": _name(state.life.heartbeat),
        "heartbeat_trouble": state.life.mute,
        "receipts": state.host
        and {
            "host": state.host,
            "waiting": len(found.outbox.waiting),
            "forgotten": found.outbox.forgotten,
            "trouble": found.outbox.trouble,
        },
        "trouble": state.trouble,
        "running": found.running,
        "supervisor": found.supervisor and {**found.supervisor, "processes": processes},
    }


def _mirrors(found: Status) -> list[dict[str, Any]]:
    """All places where a server with mirrors asks, and what is wrong with them."""
    sights = {url: found.state.sights.get(url, Sight()) for url in found.sources if found.state.mirrors}
    return [
        {
            "url": found.sources[url],
            "away": sight.away,
            "odd": sight.odd,
            "refused": sight.refused,
            "contact": sight.contact,
        }
        for url, sight in sights.items()
    ]


def _name(entry: Entry | None) -> str | None:
    return None if entry is None else str(entry)


def _rows(found: Status) -> Iterator[tuple[str, str]]:
    """What `status` shows to people."""
    state, supervisor, now = found.state, found.supervisor or {}, found.now
    yield "app", f"{state.app}, {state.deploy}"
    for url, where in found.sources.items():
        sight = state.sights.get(url, Sight())
        said = sight.away or sight.odd if state.mirrors else None
        last = f"; last good {_ago(sight.contact, now)}" if sight.contact is not None else ""
        yield "remote" if url == state.url else "mirror", f"{where}: {said}{last}" if said else where
    yield "current", str(state.current or "none")
    if found.signers:
        first, *others = found.signers
        approved = f", approved by {', '.join(each['person'] for each in others)}" if others else ""
        comment = f" ({first['comment']})" if first["comment"] else ""
        yield "signed by", f"{first['person']}, {first['key']}{comment}{approved}"
    if found.unverified:
        yield "REFUSED", found.unverified
    yield "newest", str(state.ready or "none")
    said = "running" if found.running else "not running"
    if supervisor.get("release"):
        said += f", pid {supervisor['supervisor']}: {supervisor['release']} for {_since(supervisor['since'], now)}"
    yield "supervisor", said
    yield "contact", "never" if state.contact is None else _ago(state.contact, now)
    if state.pinned is not None:
        yield "PINNED", f"to {state.pinned} on this server; `gitrel unpin` ends it"
    if state.scales:
        scales = " ".join(f"{kind}={number}" for kind, number in sorted(state.scales.items()))
        yield "scaled", f"{scales} on this server"
    yield from _troubles(found)
    for process in supervisor.get("processes", []):
        yield process["name"], _process(process, found.memory, now)


def _troubles(found: Status) -> Iterator[tuple[str, str]]:
    state, supervisor = found.state, found.supervisor or {}
    if state.trouble is not None:
        yield "TROUBLE", state.trouble
    if found.stale is not None:
        yield "STALE", staleness(state.life, found.stale)
    if state.life.mute is not None:
        yield "heartbeat", state.life.mute
    if found.outbox.trouble is not None:
        yield "receipts", f"{len(found.outbox.waiting)} wait: {found.outbox.trouble}"
    for fork in state.forks:
        yield "FORK", fork
    for entry, refusal in state.refused.items():
        yield "pending" if refusal.pending else "REFUSED", f"{entry}: {refusal}"
    if found.waiting is not None:
        carrier = state.current or "no release here"
        yield "config", f"the remote shows {found.waiting}, which {carrier} does not carry"
    for entry, why in state.lacking.items():
        yield "CANNOT RUN", f"{entry}: {why}"
    for entry, why in found.failed.items():
        yield "FAILED", f"{entry}: {why}"
        for line in found.logs[entry]:
            yield "", f"| {line}"
    if supervisor.get("trouble"):
        yield "UNHEALTHY", f"{supervisor['release']}: {supervisor['trouble']}"


def _ago(contact: float, now: float) -> str:
    if contact > now + 1:
        return f"{duration(contact - now)} ahead of this server's clock, which was set back"
    return f"{duration(now - contact)} ago"


def _process(process: Mapping[str, Any], memory: Mapping[int, int], now: float) -> str:
    text = f"{process['state']} for {_since(process['since'], now)}"
    if process["pid"]:
        text += f", pid {process['pid']}"
    if process["pid"] in memory:
        text += f", {size(memory[process['pid']])}"
    text += f", {process['restarts']} restart{'' if process['restarts'] == 1 else 's'}"
    ended = process["last_exit"]
    if ended:
        text += f", last: {'signal' if ended['signal'] else 'exit code'} {ended['signal'] or ended['code']}"
    return text


def _since(utc: str, now: float) -> str:
    return duration(now - datetime.datetime.fromisoformat(utc).timestamp())


def duration(seconds: float) -> str:
    """`12 s`, `3 min`, `5 h`, `3 days`: one unit is enough for a look at it. A clock set back counts as 0."""
    for unit, length in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{int(seconds // length)} {unit}"
    return f"{max(0, int(seconds))} s"
