"""What a release changed against the one before it, and the order of everything that happened."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from simulator import FILES, Simulator
from test_audit_page import STAGING, rules, source, story, surveyed

from gitrel.audit import changes as module
from gitrel.audit.changes import Changes, FileChange
from gitrel.audit.page.order import in_order, lane
from gitrel.audit.result import ReleaseReport
from gitrel.format.record import CitedRelease
from gitrel.format.tree import Mode
from gitrel.ids import PRODUCTION, Entry


def changed(sim: Simulator, path: Path) -> dict[str, Changes]:
    return surveyed(sim, path / "shop.git")[1]


def started() -> Simulator:
    sim = Simulator()
    sim.trust(rules())
    return sim


def test_files_processes_and_commits(tmp_path: Path) -> None:
    sim = started()
    first = source(sim, None, b"First")
    sim.release(sim.build(source=first))
    second = source(sim, first, b"Second")
    third = source(sim, second, b"Third")
    after = {
        "Procfile": b"worker: ./work\n",
        "gitrel.toml": FILES["gitrel.toml"],
        "new": {"file": b"12345"},
        "serve": b"x",
    }
    sim.release(sim.build(after, source=third))
    found = changed(sim, tmp_path)
    assert found["refs/releases/v1"].first
    assert dict(found["refs/releases/v1"].counts) == {"A": 3}
    two = found["refs/releases/v2"]
    assert two.files == (
        FileChange(mark="M", path="Procfile", before=13, after=15),
        FileChange(mark="A", path="new/file", before=None, after=5),
        FileChange(mark="M", path="serve", before=10, after=1),
    )
    assert two.processes == (("worker", None, "./work"), ("web", "./serve", None))
    assert [each.subject for each in two.commits] == ["Third", "Second"]
    assert (two.commit_count, two.commits_unknown) == (2, "")


def test_going_back_undoes_it(tmp_path: Path) -> None:
    sim = started()
    first = source(sim, None, b"First")
    build = sim.build(source=first)
    sim.release(build)
    sim.release(sim.build({**FILES, "more": b"1"}, source=source(sim, first, b"Second")))
    sim.release(build, rollback_to=Entry(1))
    back = changed(sim, tmp_path)["refs/releases/v3"]
    assert dict(back.counts) == {"D": 1}
    assert (back.commits, back.commits_unknown) == ((), "it does not build on the source before (along first parents)")


def test_a_source_that_is_elsewhere_is_said(tmp_path: Path) -> None:
    sim = started()
    sim.release()
    sim.release(sim.build(source=sim.fmt.object_id("commit", b"elsewhere")))
    assert "not all in this repository" in changed(sim, tmp_path)["refs/releases/v2"].commits_unknown


def test_trees_that_stand_for_too_many_files_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A few folders inside one another, each twice in the next: 4,096 files."""
    sim = started()
    sim.release()
    node = sim.node({"file": b"1"})
    for _ in range(12):
        node = sim.node({"a": node, "b": node})
    sim.release(sim.build({**FILES, "bomb": node}))
    monkeypatch.setattr(module, "_MOST_FOLDERS", 500)
    found = changed(sim, tmp_path)["refs/releases/v2"]
    assert found.files_unknown == "more than 500 folders to compare"


def test_what_cannot_be_read_is_said(tmp_path: Path) -> None:
    sim = started()
    sim.release()
    broken = sim.raw_tree((Mode.DIRECTORY.value, b"x", sim.fmt.object_id("tree", b"nowhere")))
    sim.release(sim.build(broken))
    sim.release(sim.build({**FILES, "Procfile": b"no colon\n"}))
    found = changed(sim, tmp_path)
    assert found["refs/releases/v2"].files_unknown
    assert found["refs/releases/v3"].processes_unknown


def test_the_order_is_the_proven_one_whatever_the_clocks_say(tmp_path: Path) -> None:
    """All claims in the story are equal, so nothing but citations orders it."""
    order = in_order(surveyed(story(), tmp_path / "shop.git")[0])
    names = [f"{lane(each)} {each.entry}" for each in order]
    assert sorted(names) == sorted(set(names))
    assert names.index("staging v1") < names.index("production v1")
    assert names.index("production v3") < names.index(" v2") < names.index("production v4")
    for name in ("", STAGING, PRODUCTION):
        entries = [each.entry for each in order if lane(each) == name]
        assert entries == sorted(entries)


def test_what_is_nowhere_is_not_waited_for(tmp_path: Path) -> None:
    sim = started()
    nowhere = replace(sim.cited, entry=Entry(99))
    sim.release()
    sim.release(trust=nowhere)
    sim.trust(rules())
    sim.release()
    order = in_order(surveyed(sim, tmp_path / "shop.git")[0])
    named = [f"{lane(each)} {each.entry}" for each in order]
    assert named == [" v1", "production v1", "production v2", " v2", "production v3"]


def test_an_impossible_order_is_still_one(tmp_path: Path) -> None:
    sim = started()
    made = sim.release(deploy=STAGING)
    ahead = CitedRelease(STAGING, Entry(9), made.id)
    sim.release(promoted_from=ahead)
    sim.trust(rules(), heads=(ahead,))
    order = in_order(surveyed(sim, tmp_path / "shop.git")[0])
    assert len(order) == 4
    assert {each.entry for each in order if isinstance(each, ReleaseReport)} == {1}
