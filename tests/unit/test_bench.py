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
    lines = [line for line in done.stdout.splitlines() if line.startswith("| ")]
    assert lines[0].split(" | ")[1:4] == ["gitrel", "beside", "ratio"]
    rows = [line for line in lines if "**" in line]
    assert {row.split(" | ")[0] for row in rows} >= {
        "| snapshot into an empty store",
        "| snapshot, 1 % changed",
        "| checkout",
        "| checkout of the next release, 1 % changed",
        "| switch to a release with the same build",
        "| pull, first",
        "| pull, next, 1 % changed: bytes",
    }
    assert all(("MiB" in row) != ("| pull" in row) for row in rows)
    assert "git " in done.stdout
    assert list(tmp_path.iterdir()) == []
