"""Words in unit files: systemd's parser, written down here from its manual, reads back what was meant."""

from __future__ import annotations

import shlex
import string
import subprocess

import pytest
from conftest import program
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from gitrel.errors import UsageError
from gitrel.export.quoting import UNIT_NAME_MAX, command, escape_name, word

PRINTABLE = st.characters(exclude_categories=("Cc", "Cs"))
WORDS = st.text(st.one_of(st.sampled_from("%$\"'\\ ;a/@:"), PRINTABLE), max_size=30)
PROGRAMS = st.text(PRINTABLE.filter(lambda char: char not in "\"'\\"), max_size=30).map(lambda text: f"/{text}")


def parsed(line: str) -> list[str]:
    """A command line's words, by systemd.syntax(7) and systemd.service(5): quotes, then specifiers, then variables."""
    whole = line.startswith(":")
    words = shlex.split(line.removeprefix(":"), posix=True)
    if not whole:
        assert "$" not in line, "a variable"
    return [each.replace("%%", "%") for each in words]


@given(PROGRAMS, st.lists(WORDS, max_size=5))
def test_a_command_line_is_read_as_it_was_meant(path: str, args: list[str]) -> None:
    line = command(path, *args)
    assert parsed(line) == [path, *args]
    assert not any(each in (";", "\\;") for each in line.split()), "two commands"
    assert "\n" not in line
    assert not line.endswith("\\")
    assert "%" not in line.replace("%%", "")


@given(WORDS)
def test_a_word_has_only_the_escapes_that_every_list_knows(text: str) -> None:
    quoted = word(text)
    if quoted.startswith('"'):
        left = quoted[1:-1].replace("\\\\", "").replace('\\"', "")
        assert "\\" not in left
        assert '"' not in left
    else:
        assert quoted == text.replace("%", "%%")


@pytest.mark.parametrize("bad", ["a\nb", "a\0", "\t", "\x7f", "\udcff"])
def test_what_no_unit_file_can_hold(bad: str) -> None:
    with pytest.raises(UsageError, match="cannot stand in a unit file"):
        word(bad)


@pytest.mark.parametrize("path", ["gitrel", "", '/a"b', "/a'b", "/a\\b"])
def test_programs_that_systemd_does_not_run(path: str) -> None:
    with pytest.raises(UsageError, match="systemd does not run"):
        command(path)


@pytest.mark.parametrize("name", ["", "x" * 300])
def test_names_that_are_none(name: str) -> None:
    with pytest.raises(UsageError, match="the beginning of a unit's name"):
        escape_name(name)


def test_the_longest_name_leaves_room_for_the_longest_process_type() -> None:
    longest = max(length for length in range(300) if length and _fits(length))
    assert len(f"{'x' * longest}-{'k' * 63}@65535.service") == UNIT_NAME_MAX


def _fits(length: int) -> bool:
    try:
        escape_name("x" * length)
    except UsageError:
        return False
    return True


SUFFIXES = (
    *(".automount", ".device", ".mount", ".path", ".scope", ".service"),
    *(".slice", ".socket", ".swap", ".target", ".timer"),
)


@settings(max_examples=40, deadline=None)
@given(st.text(st.one_of(st.sampled_from(string.printable), PRINTABLE), min_size=1, max_size=11))
@example("my shop")
@example("a/b\\c-d.e:f_g")
@example("é")
def test_names_as_systemd_escape_makes_them(text: str) -> None:
    assume("@" not in text and not text.startswith("/") and not text.endswith(SUFFIXES))  # whole names, and paths
    argv = [program("systemd-escape"), "--mangle", "--", text]
    done = subprocess.run(argv, capture_output=True, text=True, check=True)
    assert f"{escape_name(text)}.service\n" == done.stdout
