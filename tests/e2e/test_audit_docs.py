"""docs/auditing.md, typed in block by block by an auditor who has a URL and a pin; and its script against forgeries."""

from __future__ import annotations

from pathlib import Path

import pytest
from handmade import release_by_hand
from room import Desk, Done, Room, room, run
from test_audit_command import Auditor, auditor, desk, pin, template
from typed import blocks, type_in

__all__ = ["auditor", "desk", "pin", "room", "template"]  # fixtures

BLOCKS = [block.commands for block in blocks("docs/auditing.md")]


def test_the_page_as_it_is_typed(auditor: Auditor, tmp_path: Path) -> None:
    env = {**auditor.desk.env, "URL": auditor.url, "PIN": auditor.pin}
    printed = type_in("docs/auditing.md", tmp_path, auditor.desk.home, env=env)
    assert "every record and every file was verified" in printed
    assert "3 releases: every link and signature holds" in printed
    kept = auditor.desk.home / "audits"
    assert {"shop.json", "shop.sarif", "shop-report.json", "audit.sh"} <= {path.name for path in kept.iterdir()}


def by_script(auditor: Auditor, code: int) -> Done:
    (auditor.desk.home / "audits").mkdir(exist_ok=True)
    (script,) = (block for block in BLOCKS if "audit.sh <<" in block)
    run(["sh", "-c", script], auditor.path, auditor.desk.env)
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
