"""The metrics file, read by Prometheus's own parser."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from gitrel.errors import LocalStateError
from gitrel.ids import App, Deploy, Entry, Sha256
from gitrel.run import metrics, status_file
from gitrel.run.loop import Loop
from gitrel.run.output import Journal, Sink
from gitrel.run.report import resident
from gitrel.run.rollout_state import Phase
from gitrel.run.state import Refusal, Sight, State
from gitrel.run.status_file import StatusFile
from gitrel.trust.checks import Check

STATE = State(app=App("shop"), deploy=Deploy("production"), url="u", pin=Sha256("0" * 64))


def report(**changes: Any) -> dict[str, Any]:
    process = {
        "name": "web.1",
        "pid": 815,
        "state": "up",
        "since": "2031-05-04T03:00:00Z",
        "restarts": 2,
        "failures": 0,
        "last_exit": {"code": 1, "signal": None},
    }
    document = {
        "supervisor": 812,
        "started": "2031-05-04T03:00:00Z",
        "written": "2031-05-04T03:02:01Z",
        "phase": "steady",
        "trouble": "",
        "release": "v3",
        "processes": [process, {**process, "name": "web.2", "pid": None, "state": "backoff", "last_exit": None}],
    }
    return {**document, **changes}


def parsed(text: str) -> dict[tuple[str, str], float]:
    """Sample name and process (or phase) -> value; every family has help and a type."""
    found = {}
    for family in text_string_to_metric_families(text):
        assert family.documentation
        assert family.type in ("gauge", "counter")
        for sample in family.samples:
            found[sample.name, sample.labels.get("process", sample.labels.get("phase", ""))] = sample.value
    return found


def test_what_prometheus_reads() -> None:
    pending = Refusal(check=Check.THRESHOLD, what="pending", where="", why="")
    bad = Refusal(check=5, what="bad", where="", why="")
    state = replace(
        STATE,
        ready=Entry(9),
        good=Entry(8),
        pinned=Entry(3),
        contact=1_700_000_000.25,
        failed={Entry(2): "old", Entry(9): "new"},
        refused={Entry(10): bad, Entry(11): pending},
    )
    found = parsed(metrics.encode(report(), state, memory={815: 12_345_678}))
    assert found["gitrel_release", ""] == 3
    assert found["gitrel_release_newest", ""] == 9
    assert found["gitrel_release_pinned", ""] == 3
    assert found["gitrel_releases_failed", ""] == 1
    assert found["gitrel_releases_refused", ""] == 1
    assert found["gitrel_releases_pending", ""] == 1
    assert found["gitrel_remote_contact_timestamp_seconds", ""] == 1_700_000_000.25
    assert found["gitrel_supervisor_start_timestamp_seconds", ""] == 1_935_630_000
    assert (found["gitrel_process_up", "web.1"], found["gitrel_process_up", "web.2"]) == (1, 0)
    assert found["gitrel_process_restarts_total", "web.1"] == 2
    assert found["gitrel_process_last_exit_code", "web.1"] == 1
    assert found["gitrel_process_resident_memory_bytes", "web.1"] == 12_345_678
    assert ("gitrel_process_resident_memory_bytes", "web.2") not in found
    assert ("gitrel_process_last_exit_code", "web.2") not in found
    assert {phase for name, phase in found if name == "gitrel_phase"} == {str(phase) for phase in Phase}
    assert sum(value for (name, _), value in found.items() if name == "gitrel_phase") == 1


def by_url(text: str, name: str) -> dict[str, float]:
    families = text_string_to_metric_families(text)
    return {each.labels["url"]: each.value for family in families for each in family.samples if each.name == name}


def test_one_series_for_each_place_that_is_asked() -> None:
    """Without user and password; what was asked before, or never, is not there."""
    state = replace(
        STATE,
        url="https://ci:hunter2@one/shop.git",
        mirrors=("https://bob@one/shop.git", "git@two:shop.git", "/three.git", "/never.git"),
        sights={
            "https://ci:hunter2@one/shop.git": Sight(where="https://one/shop.git", contact=20.0),
            "https://bob@one/shop.git": Sight(where="https://one/shop.git", contact=10.0, away="cannot reach"),
            "git@two:shop.git": Sight(where="ssh://two/shop.git", odd="another v3", refused=True),
            "/three.git": Sight(where="/three.git", odd="it has no v3", contact=30.0),
            "/removed.git": Sight(where="/removed.git"),
        },
        forks=("v3: two",),
    )
    text = metrics.encode(report(), state, memory={})
    one, two, three = "https://one/shop.git", "ssh://two/shop.git", "/three.git"
    assert by_url(text, "gitrel_mirror_up") == {one: 0, two: 1, three: 1}, "of two that look the same, the worse"
    assert by_url(text, "gitrel_mirror_refused") == {one: 0, two: 1, three: 0}
    assert by_url(text, "gitrel_mirror_behind") == {one: 0, two: 0, three: 1}
    assert by_url(text, "gitrel_mirror_last_success_timestamp_seconds") == {one: 10, three: 30}
    assert parsed(text)["gitrel_forks", ""] == 1
    assert "hunter2" not in text
    assert "bob" not in text


def test_before_anything_runs() -> None:
    found = parsed(metrics.encode(report(release=None, phase="empty", processes=[]), STATE, memory={}))
    assert found["gitrel_release", ""] == 0
    assert ("gitrel_remote_contact_timestamp_seconds", "") not in found
    nothing = parsed(metrics.encode(report(release="none", processes=[]), STATE, memory={}))
    assert nothing["gitrel_release", ""] == 0, "`none` is what runs when all is repudiated"


@given(st.text(st.characters(codec="utf-8", exclude_characters="\r"), max_size=20))
def test_any_label_comes_back(name: str) -> None:
    process = {**report()["processes"][0], "name": name}
    text = metrics.encode(report(processes=[process]), STATE, memory={})
    labels = [
        sample.labels["process"]
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == "gitrel_process_up"
    ]
    assert labels == [name]


def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "gitrel.prom"
    metrics.write(path, "one 1\n")
    metrics.write(path, "two 2\n")
    assert path.read_text() == "two 2\n"
    assert path.stat().st_mode & 0o777 == 0o644
    assert os.listdir(tmp_path) == ["gitrel.prom"]
    with pytest.raises(LocalStateError, match="cannot write the metrics"):
        metrics.write(tmp_path / "not" / "there.prom", "")


def test_memory_of_a_session() -> None:
    own = os.getsid(0)
    found = resident({own, 2**22 + 1})
    assert set(found) == {own}
    assert found[own] > 1_000_000
    begun = time.monotonic()
    assert resident(set()) == {}
    assert time.monotonic() - begun < 5


def test_it_is_written_now_and_then_while_nothing_happens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(status_file, "OBSERVE", 0.01)
    written: list[Mapping[str, Any]] = []
    with Loop((signal.SIGUSR1,), lambda _: None) as loop, open(os.devnull, "wb") as nowhere:
        journal = Journal(Sink(loop, nowhere.fileno()))
        made = StatusFile(loop, journal, tmp_path / "status.json", report, written.append)
        made.start()
        while len(written) < 3:
            made.write()
            loop.turn()
    assert written == [report()] * 3
