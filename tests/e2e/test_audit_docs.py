"""docs/auditing.md, typed in block by block by an auditor who has a URL and a pin; and its script against forgeries."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

import pytest
from handmade import release_by_hand
from room import ROOT, Desk, Done, Room, room, run
from test_audit_command import Auditor, auditor, desk, pin, template

__all__ = ["auditor", "desk", "pin", "room", "template"]  # fixtures

BLOCKS = re.findall(r"^```sh\n(.*?)^```$", (ROOT / "docs/auditing.md").read_text(), re.MULTILINE | re.DOTALL)


@pytest.fixture
def typed(auditor: Auditor, tmp_path: Path) -> Done:
    assert len(BLOCKS) == 4
    wrapper = tmp_path / "bin/gitrel"
    wrapper.parent.mkdir()
    wrapper.write_text(f'#!/bin/sh\nexec {sys.executable} -P -m gitrel "$@"\n')
    wrapper.chmod(0o755)
    env = {**auditor.desk.env, "URL": auditor.url, "PIN": auditor.pin, "PATH": f"{wrapper.parent}:{os.environ['PATH']}"}
    script = "\n".join(["set -eu", "cd", *BLOCKS])
    return run(["bash", "-c", script], tmp_path, env)


def test_the_page_as_it_is_typed(typed: Done, auditor: Auditor) -> None:
    assert typed.code == 0, typed.out + typed.err
    assert "every record and every file was verified" in typed.out
    assert "3 releases: every link and signature holds" in typed.out
    kept = auditor.desk.home / "audits"
    assert {"shop.json", "shop.sarif", "shop-report.json", "audit.sh"} <= {path.name for path in kept.iterdir()}


def by_script(auditor: Auditor, code: int) -> Done:
    (auditor.desk.home / "audits").mkdir(exist_ok=True)
    run(["sh", "-c", BLOCKS[2]], auditor.path, auditor.desk.env)
    done = run(["sh", str(auditor.desk.home / "audits/audit.sh"), auditor.pin], auditor.path, auditor.desk.env)
    assert done.code == code, done.out + done.err
    return done


def test_the_script_refuses_another_pin(auditor: Auditor) -> None:
    auditor.pin = "0" * 64
    assert "not the pinned one" in by_script(auditor, 10).err


def test_the_script_refuses_a_strangers_release(auditor: Auditor) -> None:
    forged = release_by_hand(auditor.desk, like="refs/releases/v1", entry=4, previous="refs/releases/v3", trust=1)
    auditor.desk.git("update-ref", "refs/releases/v4", forged)
    assert "not signed by the keys" in by_script(auditor, 10).err


@pytest.mark.parametrize(("ref", "to"), [("refs/releases/v2", None), ("refs/releases/v2", "refs/releases/v3")])
def test_the_script_refuses_a_gap_and_a_replay(auditor: Auditor, ref: str, to: str | None) -> None:
    auditor.desk.git("update-ref", *(["-d", ref] if to is None else [ref, to]))
    by_script(auditor, 10)


def test_both_judge_a_room_of_two(auditor: Auditor, room: Room, desk: Desk) -> None:
    desk.gitrel("release")
    later = Auditor(room, auditor.pin)
    assert "4 releases" in by_script(later, 0).out
    later.audit()
