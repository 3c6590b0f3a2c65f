"""The benchmark runs, on a folder too small to mean anything; `python -m tests.bench` is the real one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import gitrel

ROOT = Path(gitrel.__file__).parents[1]


def test_the_command_prints_a_table(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.bench", "--files", "30", "--rounds", "1"]
    done = subprocess.run(
        [*command, "--scratch", str(tmp_path)],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    )
    rows = [line for line in done.stdout.splitlines() if line.startswith("| ")]
    assert rows[0].split(" | ")[1:4] == ["gitrel", "beside", "ratio"]
    assert {row.split(" | ")[0] for row in rows[2:]} >= {
        "| snapshot into an empty store",
        "| snapshot, 1 % changed",
        "| checkout",
        "| checkout of the next release, 1 % changed",
        "| switch to a release with the same build",
    }
    assert all("**" in row and "MiB" in row for row in rows[2:])
    assert "git " in done.stdout
    assert list(tmp_path.iterdir()) == []
