"""What runs, for Prometheus: a text file (exposition format 0.0.4) that node_exporter's textfile collector reads.

    write(path, encode(report.document(…), home.read_state(), memory=report.resident(sessions)))

It is written aside and renamed, so that nobody reads half of it. Every name is listed in docs/server.md. A metric
that has no value now is left out; `gitrel_last_write_timestamp_seconds` tells a file that nobody writes any more.
"""

from __future__ import annotations

import datetime
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gitrel import __version__
from gitrel.errors import LocalStateError
from gitrel.ids import Entry

if TYPE_CHECKING:
    from gitrel.run.state import Sight, State

Labels = Mapping[str, str]

PHASES = ("empty", "preparing", "joining", "switching", "trying", "steady", "closing", "closed")

# Name -> type, help; in the order of the file.
_FAMILIES = {
    "gitrel_info": ("gauge", "This server: its app, deploy, and the version of gitrel. Always 1."),
    "gitrel_release": ("gauge", "Number of the release that runs, 0 if none."),
    "gitrel_release_newest": ("gauge", "Number of the newest release here that may run."),
    "gitrel_release_good": ("gauge", "Number of the newest release that was healthy here."),
    "gitrel_release_pinned": ("gauge", "Number of the release that this server is pinned to, 0 if it is not."),
    "gitrel_releases_failed": ("gauge", "Releases that failed here, newer than the newest good one."),
    "gitrel_releases_refused": ("gauge", "Releases of the remote, newer than the newest here, that are refused."),
    "gitrel_releases_pending": ("gauge", "Releases of the remote that wait for approvals."),
    "gitrel_phase": ("gauge", "1 for the phase that the supervisor is in."),
    "gitrel_trouble": ("gauge", "1 if the release that runs is not healthy."),
    "gitrel_remote_trouble": ("gauge", "1 if the last look at the remote failed."),
    "gitrel_remote_contact_timestamp_seconds": ("gauge", "When the remote last answered as it should."),
    "gitrel_mirror_up": ("gauge", "1 if the remote or mirror answered when it was asked last."),
    "gitrel_mirror_refused": ("gauge", "1 if what it shows is refused: forged, forked or rewritten."),
    "gitrel_mirror_behind": ("gauge", "1 if it cannot give what was seen: an old ledger, or a broken transfer."),
    "gitrel_mirror_last_success_timestamp_seconds": ("gauge", "When it last answered with nothing wrong."),
    "gitrel_forks": ("gauge", "Names under which two records are shown."),
    "gitrel_signed_timestamp_seconds": ("gauge", "When the newest record that was seen here was signed."),
    "gitrel_stale": ("gauge", "1 if nothing was signed for longer than max_silence; absent without one."),
    "gitrel_supervisor_start_timestamp_seconds": ("gauge", "When the supervisor was started."),
    "gitrel_last_write_timestamp_seconds": ("gauge", "When this file was written."),
    "gitrel_process_up": ("gauge", "1 if the process is up: healthy, or past the time that it has to stay up."),
    "gitrel_process_restarts_total": ("counter", "Restarts of the process since its release was started."),
    "gitrel_process_state_timestamp_seconds": ("gauge", "When the process came into the state that it is in."),
    "gitrel_process_last_exit_code": ("gauge", "Exit code of the process's last run."),
    "gitrel_process_last_exit_signal": ("gauge", "Signal that ended the process's last run."),
    "gitrel_process_resident_memory_bytes": ("gauge", "Resident memory of the process and its session."),
}


def encode(report: Mapping[str, Any], state: State, *, memory: Mapping[int, int]) -> str:
    """The whole file. `report` is a status document (`gitrel.run.report`), `memory` bytes by session."""
    samples: dict[str, list[str]] = {name: [] for name in _FAMILIES}
    for name, labels, value in (*_of_home(report, state), *_of_mirrors(state), *_of_processes(report, memory)):
        samples[name].append(f"{name}{_labels(labels)} {value:.15g}\n")
    text = ""
    for name, (kind, about) in _FAMILIES.items():
        if samples[name]:
            text += f"# HELP {name} {about}\n# TYPE {name} {kind}\n" + "".join(samples[name])
    return text


def _of_home(report: Mapping[str, Any], state: State) -> Iterator[tuple[str, Labels, float]]:
    newer = [entry for entry in state.failed if state.good is None or entry > state.good]
    pending = sum(refusal.pending for refusal in state.refused.values())
    yield "gitrel_info", {"app": state.app, "deploy": state.deploy, "version": __version__}, 1
    yield "gitrel_release", {}, _number(report["release"])
    yield "gitrel_release_newest", {}, state.ready or 0
    yield "gitrel_release_good", {}, state.good or 0
    yield "gitrel_release_pinned", {}, state.pinned or 0
    yield "gitrel_releases_failed", {}, len(newer)
    yield "gitrel_releases_refused", {}, len(state.refused) - pending
    yield "gitrel_releases_pending", {}, pending
    for phase in dict.fromkeys((*PHASES, report["phase"])):
        yield "gitrel_phase", {"phase": phase}, phase == report["phase"]
    yield "gitrel_trouble", {}, bool(report["trouble"])
    yield "gitrel_remote_trouble", {}, state.trouble is not None
    if state.contact is not None:
        yield "gitrel_remote_contact_timestamp_seconds", {}, state.contact
    yield "gitrel_forks", {}, len(state.forks)
    if state.life.alive is not None:
        yield "gitrel_signed_timestamp_seconds", {}, state.life.alive
    if state.life.max_silence is not None:
        yield "gitrel_stale", {}, state.stale_since(_seconds(report["written"])) is not None
    yield "gitrel_supervisor_start_timestamp_seconds", {}, _seconds(report["started"])
    yield "gitrel_last_write_timestamp_seconds", {}, _seconds(report["written"])


def _of_mirrors(state: State) -> Iterator[tuple[str, Labels, float]]:
    """One series for each place that is asked, and was; two that differ in their user alone are one, the worse."""
    places: dict[str, list[Sight]] = {}
    for url in state.sources:
        if (sight := state.sights.get(url)) is not None and sight.where:
            places.setdefault(sight.where, []).append(sight)
    for where, sights in places.items():
        labels = {"url": where}
        yield "gitrel_mirror_up", labels, all(sight.away is None for sight in sights)
        yield "gitrel_mirror_refused", labels, any(sight.refused for sight in sights)
        yield "gitrel_mirror_behind", labels, any(sight.behind for sight in sights)
        contacts = [sight.contact for sight in sights if sight.contact is not None]
        if len(contacts) == len(sights):
            yield "gitrel_mirror_last_success_timestamp_seconds", labels, min(contacts)


def _of_processes(report: Mapping[str, Any], memory: Mapping[int, int]) -> Iterator[tuple[str, Labels, float]]:
    for process in report["processes"]:
        labels = {"process": process["name"], "release": process.get("release") or report["release"] or ""}
        yield "gitrel_process_up", labels, process["state"] == "up"
        yield "gitrel_process_restarts_total", labels, process["restarts"]
        yield "gitrel_process_state_timestamp_seconds", labels, _seconds(process["since"])
        ended = process["last_exit"] or {}
        for key in ("code", "signal"):
            if ended.get(key) is not None:
                yield f"gitrel_process_last_exit_{key}", labels, ended[key]
        if process["pid"] in memory:
            yield "gitrel_process_resident_memory_bytes", labels, memory[process["pid"]]


def _number(release: str | None) -> int:
    return Entry.parse(release) if release and release[1:].isdigit() else 0


def _seconds(utc: str) -> float:
    return datetime.datetime.fromisoformat(utc).timestamp()


def _labels(labels: Labels) -> str:
    """Backslash, quote and newline are the three that are escaped."""
    if not labels:
        return ""
    escapes = str.maketrans({"\\": r"\\", '"': r"\"", "\n": r"\n"})
    return "{" + ",".join(f'{name}="{text.translate(escapes)}"' for name, text in labels.items()) + "}"


def write(path: Path, text: str) -> None:
    """Raises `LocalStateError`; the old file then stays. For others to read; not fsynced: it is of this moment."""
    new = path.with_name(f".{path.name}.{os.getpid()}.new")  # no *.prom, so no collector reads it
    try:
        new.write_text(text, encoding="utf-8")
        new.chmod(0o644)
        new.replace(path)
    except OSError as error:
        raise LocalStateError("cannot write the metrics", where=str(path), why=error.strerror or "") from error
