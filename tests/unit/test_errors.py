"""The error tree: what its docstring draws is what the code has."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from gitrel import errors
from gitrel.errors import Conflict, ExitCode, FormatError, GitrelError, Refused


def tree(root: type[GitrelError], depth: int = 0) -> Iterator[tuple[str, int, int]]:
    """Name, depth and exit code of every class that gitrel/errors.py defines, in the order of definition."""
    yield root.__name__, depth, root.exit_code
    for child in root.__subclasses__():
        if child.__module__ == errors.__name__:
            yield from tree(child, depth + 1)


TREE = list(tree(GitrelError))


def test_the_drawing_is_the_tree() -> None:
    assert errors.__doc__
    drawn = re.findall(r"^    ([│├└─ ]*)(\w+) +(\d+) ", errors.__doc__, re.MULTILINE)
    assert [(name, len(branch) // 4, int(code)) for branch, name, code in drawn] == TREE


def test_every_error_is_explained() -> None:
    """docs/errors.md: the tree, a section each, with the exit code, what it means, why it happens and what to do."""
    text = (Path(__file__).parents[2] / "docs/errors.md").read_text("utf-8")
    sections = dict(section.split("\n", 1) for section in text.split("\n## ")[1:])
    assert list(sections) == [name for name, _, _ in TREE]
    for name, _, code in TREE:
        body = sections[name]
        assert f"Exit code {code}, {ExitCode(code).name}." in body, name
        parts = re.findall(r"^- \*\*(It means|It happens|To do:)\*\* +(\S.{20,})", body, re.MULTILINE)
        assert [part for part, _ in parts] == ["It means", "It happens", "To do:"], name


def test_every_leaf_has_an_exit_code_of_its_own() -> None:
    """A child that shares its parent's code narrows the parent; no two branches share one."""
    branches = [code for _, depth, code in TREE if depth == 1]
    assert len(branches) > 8
    assert len(set(branches)) == len(branches)
    assert ExitCode.UNEXPECTED not in branches
    for name, depth, code in TREE:
        if depth > 1:
            assert code in branches, name


def test_every_exit_code_is_some_errors() -> None:
    assert len({code.value for code in ExitCode}) == len(ExitCode.__members__)
    assert set(ExitCode) - {code for _, _, code in TREE} == {ExitCode.DONE}
    assert all(0 <= code < 256 for code in ExitCode)


@pytest.mark.parametrize(
    ("where", "why", "text"),
    [
        ("", "", "what"),
        ("file", "", "file: what"),
        ("", "because", "what: because"),
        ("file", "because", "file: what: because"),
    ],
)
def test_text(where: str, why: str, text: str) -> None:
    error = Conflict("what", where=where, why=why, hint="do this")
    assert str(error) == text
    assert (error.what, error.where, error.why, error.hint) == ("what", where, why, "do this")


def test_a_refusal_names_its_check() -> None:
    error = Refused("not signed", check=5, where="refs/releases/v6")
    assert (error.check, error.exit_code) == (5, 10)


def test_a_format_error_is_bad_input() -> None:
    assert issubclass(FormatError, errors.BadInput)
    assert issubclass(errors.Locked, Conflict)
