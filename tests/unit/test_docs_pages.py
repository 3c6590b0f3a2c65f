"""The pages hang together: an index of all, links that lead somewhere, and nothing named that is not there."""

from __future__ import annotations

import re
import shlex
from functools import cache
from pathlib import Path

import pytest
from typer.core import TyperCommand, TyperGroup

from gitrel.cli.app import make_command
from gitrel.format.manifest import parse_manifest

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def prose(path: Path) -> str:
    """A page without its blocks."""
    return FENCE.sub("", path.read_text())


def blocks(path: Path, kind: str) -> list[str]:
    return [text for found, text in FENCE.findall(path.read_text()) if found == kind]


@cache
def anchors(path: Path) -> frozenset[str]:
    """What GitHub makes of a page's headings."""
    titles = re.findall(r"^#{1,6} (.+)$", prose(path), re.MULTILINE)
    return frozenset(re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles)


def test_the_index_has_every_page_once() -> None:
    linked = re.findall(r"^\| \[(.+\.md)\]\(\1\) \|", (DOCS / "README.md").read_text(), re.MULTILINE)
    assert len(linked) == len(set(linked))
    pages = {path.name for path in DOCS.glob("*.md")} - {"README.md"}
    assert pages == {name for name in linked if "/" not in name}
    assert "spec/README.md" in linked, "which has the pages of the spec"


@pytest.mark.parametrize("path", [*sorted(DOCS.glob("*.md")), DOCS / "spec/README.md"], ids=name_of)
def test_a_page_says_for_whom_it_is(path: Path) -> None:
    assert re.match(r"# .+\n\nFor [a-z]", path.read_text()), "`For whoever …` comes first"


@pytest.mark.parametrize("path", PAGES, ids=name_of)
def test_links_lead_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(path)):
        file, _, anchor = target.partition("#")
        if not file.startswith("https://"):
            there = (path.parent / file) if file else path
            assert there.exists(), target
            assert not anchor or anchor in anchors(there), target


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().split()) < 400


def test_the_tutorial_takes_ten_minutes() -> None:
    """Six of them to read, at 150 words a minute, and the commands, which are pasted block by block."""
    tutorial = DOCS / "tutorial.md"
    assert len(prose(tutorial).split()) <= 6 * 150
    assert len(blocks(tutorial, "sh")) <= 20


# What a page names


def test_modules_of_the_architecture_are_there() -> None:
    text = (DOCS / "architecture.md").read_text()
    named = set(re.findall(r"\b((?:gitrel|tests)/[\w/]+(?:\.py)?)\b", text))
    assert len(named) > 40
    assert [name for name in sorted(named) if not (ROOT / name).exists()] == []
    packages = {name_of(path.parent) for path in (ROOT / "gitrel").glob("*/__init__.py")}
    assert packages <= set(re.findall(r"^\| \d \| `(gitrel/\w+)`", text, re.MULTILINE))
    assert text.count("```mermaid\n") == 1


def test_rows_of_the_architecture_are_those_that_are_checked() -> None:
    rows = re.findall(r"^\| (\d) \| `gitrel/(\w+)(?:\.py)?`", (DOCS / "architecture.md").read_text(), re.MULTILINE)
    (layers,) = re.findall(r"^layers = \[\n(.*?)^\]", (ROOT / "pyproject.toml").read_text(), re.MULTILINE | re.DOTALL)
    checked = [set(re.findall(r"\w+", line)) for line in layers.splitlines()]
    assert checked == [{name for row, name in rows if int(row) == number} for number in range(1, len(checked) + 1)]


@pytest.mark.parametrize("path", PAGES, ids=name_of)
def test_examples_of_gitrel_toml_are_taken(path: Path) -> None:
    """A whole file, or a part of one, which has no `app`."""
    for text in blocks(path, "toml"):
        if "format = 1" not in text:  # trust.toml
            parse_manifest((text if text.startswith("app") else f'app = "shop"\n{text}').encode())


# What follows `gitrel` in a line, up to what ends the command
CALL = re.compile(r"""(?<![\w./~-])gitrel((?: +(?:'[^']*'|"[^"]*"|[^\s'"|;&<>()`]+))+)""")


@cache
def command_line() -> TyperGroup:
    return make_command()


def calls(path: Path) -> list[list[str]]:
    """The words behind each `gitrel` of a page."""
    code = "\n".join([*blocks(path, "sh"), *re.findall(r"`(gitrel [^`]+)`", prose(path))]).replace("\\\n", " ")
    return [shlex.split(line, comments=True) for line in CALL.findall(code)]


@pytest.mark.parametrize("path", PAGES, ids=name_of)
def test_commands_and_their_options_are_there(path: Path) -> None:
    for words in calls(path):
        said = f"gitrel {' '.join(words)}"
        command: object = command_line()
        rest = list(words)
        while isinstance(command, TyperGroup) and rest and re.fullmatch(r"[a-z][a-z-]*", rest[0]):
            assert rest[0] in command.commands, said
            command = command.commands[rest.pop(0)]
        if isinstance(command, TyperCommand):
            known = {name for each in command.params for name in (*each.opts, *each.secondary_opts)} | {"--help"}
            own = rest[: rest.index("--")] if "--" in rest else rest
            assert {word for word in own if re.fullmatch(r"--\w[\w-]*|-\w", word)} <= known, said


def test_there_are_commands_to_look_at() -> None:
    assert sum(len(calls(path)) for path in PAGES) > 150
