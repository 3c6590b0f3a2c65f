"""`gitrel status`: what runs here, and what the remote said last."""

from __future__ import annotations

import datetime
import json
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from gitrel.cli.console import Console
from gitrel.cli.server import open_home, open_remote
from gitrel.ids import Entry
from gitrel.run.home import State
from gitrel.run.resolve import carried_config


def status(console: Console, path: Path | None) -> None:
    home = open_home(path)
    state = home.read_state()
    running = home.locked("run")
    try:
        report: dict[str, Any] | None = json.loads(home.status_file.read_bytes()) if running else None
    except (OSError, ValueError):
        report = None  # written anew at the supervisor's next change
    with open_remote(state.url) as remote:
        where = remote.safe_url
    carried = carried_config(home, state)
    waiting = state.configured if state.configured is not None and state.configured > (carried or 0) else None
    for label, text in _rows(state, where, running, report or {}, time.time(), waiting):
        console.out(f"{label:<10} {text}")
    console.result(
        app=state.app,
        deploy=state.deploy,
        remote=where,
        pin=state.pin,
        current=str(state.current) if state.current else None,
        newest=str(state.ready) if state.ready else None,
        good=str(state.good) if state.good else None,
        pinned=str(state.pinned) if state.pinned else None,
        failed={str(entry): why for entry, why in state.failed.items()},
        refused={str(entry): str(refusal) for entry, refusal in state.refused.items()},
        lacking={str(entry): why for entry, why in state.lacking.items()},
        config=str(carried) if carried else None,
        pending_config=str(waiting) if waiting else None,
        contact=state.contact,
        trouble=state.trouble,
        supervisor=report,
    )


def _rows(
    state: State, remote: str, running: bool, report: Mapping[str, Any], now: float, waiting: Entry | None
) -> Iterator[tuple[str, str]]:
    """What `status` shows to people."""
    yield "app", f"{state.app}, {state.deploy}"
    yield "remote", remote
    yield "current", str(state.current or "none")
    yield "newest", str(state.ready or "none")
    supervisor = "running" if running else "not running"
    if report.get("release"):
        supervisor += f", pid {report['supervisor']}: {report['release']} for {_since(report['since'], now)}"
    yield "supervisor", supervisor
    yield "contact", f"{duration(now - state.contact)} ago" if state.contact is not None else "never"
    if state.pinned is not None:
        yield "PINNED", f"to {state.pinned} on this server"
    if state.trouble is not None:
        yield "TROUBLE", state.trouble
    for entry, refusal in state.refused.items():
        yield "pending" if refusal.pending else "REFUSED", f"{entry}: {refusal}"
    if waiting is not None:
        yield "config", f"the remote shows {waiting}, which {state.current or 'no release here'} does not carry"
    for entry, why in state.lacking.items():
        yield "CANNOT RUN", f"{entry}: {why}"
    for entry, why in state.failed.items():
        if state.good is None or entry > state.good:
            yield "FAILED", f"{entry}: {why}"
    if report.get("trouble"):
        yield "UNHEALTHY", f"{report['release']}: {report['trouble']}"
    for process in report.get("processes", []):
        yield process["name"], _process(process, now)


def _process(process: Mapping[str, Any], now: float) -> str:
    text = f"{process['state']} for {_since(process['since'], now)}"
    if process["pid"]:
        text += f", pid {process['pid']}"
    text += f", {process['restarts']} restart{'' if process['restarts'] == 1 else 's'}"
    ended = process["last_exit"]
    if ended:
        text += f", last: {'signal' if ended['signal'] else 'exit code'} {ended['signal'] or ended['code']}"
    return text


def _since(utc: str, now: float) -> str:
    return duration(now - datetime.datetime.fromisoformat(utc).timestamp())


def duration(seconds: float) -> str:
    """`12 s`, `3 min`, `5 h`, `3 days`: one unit is enough for a look at it. A clock set back counts as 0."""
    for unit, size in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{int(seconds // size)} {unit}"
    return f"{max(0, int(seconds))} s"
