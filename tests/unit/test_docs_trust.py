"""docs/threat-model.md names the tests that hold its promises."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_every_promise_names_tests_that_are_there() -> None:
    text = (ROOT / "docs/threat-model.md").read_text()
    rows = [line for line in text.partition("## What each attacker")[0].splitlines() if line.startswith("| ")]
    promises = [row for row in rows if not row.startswith("| promise ")]
    assert len(promises) > 10
    for row in promises:
        named = re.findall(r"`(tests/[a-z_0-9/]+\.py)`", row)
        assert named, row
        for name in named:
            assert re.search(r"^ *def test_", (ROOT / name).read_text(), re.MULTILINE), name
