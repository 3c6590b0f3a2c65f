"""docs/threat-model.md and docs/trust.md name tests, pages and commands that exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from gitrel.cli.app import make_app

ROOT = Path(__file__).parents[2]
PAGES = ("threat-model.md", "trust.md")
CODE = re.compile(r"```sh\n(.*?)```|`([^`\n]+)`", re.DOTALL)
COMMAND = re.compile(r"\bgitrel ((?:trust|hook|config) [a-z-]+|[a-z]+)")


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


@pytest.mark.parametrize("page", PAGES)
def test_links(page: str) -> None:
    path = ROOT / "docs" / page
    for target in re.findall(r"\]\(([^)#]+)\)", path.read_text()):
        assert (path.parent / target).is_file(), target


@pytest.mark.parametrize("page", PAGES)
def test_commands(page: str) -> None:
    code = "\n".join(block or inline for block, inline in CODE.findall((ROOT / "docs" / page).read_text()))
    found = set(COMMAND.findall(code))
    assert found
    for words in found:
        done = CliRunner().invoke(make_app(), [*words.split(" "), "--help"])
        assert done.exit_code == 0, f"{page}: gitrel {words}"
