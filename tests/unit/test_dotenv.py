"""Dotenv files: what is read, what is refused with its line, and that what is written is read back."""

from __future__ import annotations

import io
import re
import shlex
from collections.abc import Callable

import pytest
from dotenv import dotenv_values
from hypothesis import given
from hypothesis import strategies as st

from gitrel.errors import FormatError
from gitrel.format.dotenv import encode_dotenv, parse_dotenv

NAMES = st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,20}", fullmatch=True)
VALUES = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=60)


@given(st.dictionaries(NAMES, VALUES, max_size=6))
def test_what_is_written_is_read_back(values: dict[str, str]) -> None:
    text = encode_dotenv(values)
    assert parse_dotenv(text.encode(), "f") == {name: value.encode() for name, value in values.items()}


@given(st.dictionaries(NAMES, VALUES.filter(lambda text: "\r" not in text), max_size=6))
def test_python_dotenv_reads_the_same(values: dict[str, str]) -> None:
    assert dotenv_values(stream=io.StringIO(encode_dotenv(values)), interpolate=False) == values


READ = {
    "plain": (b"A=1\nB=two words\n", {"A": "1", "B": "two words"}),
    "no last newline": (b"A=1", {"A": "1"}),
    "nothing": (b"", {}),
    "empty values": (b"A=\nB=''\nC=\"\"\n", {"A": "", "B": "", "C": ""}),
    "comments and blanks": (b"# a\n\n  # b\nA=1 # c\nB='x # y'\n", {"A": "1", "B": "x # y"}),
    "export": (b"export A=1\n", {"A": "1"}),
    "a byte order mark": (b"\xef\xbb\xbfA=1\n", {"A": "1"}),
    "carriage returns": (b"A=1\r\nB=2\r\n", {"A": "1", "B": "2"}),
    "nothing is expanded": (b'A=$HOME ${B}\nB="$A `x`"\n', {"A": "$HOME ${B}", "B": "$A `x`"}),
    "quotes span lines": (b"A='x\ny'\nB=1\n", {"A": "x\ny", "B": "1"}),
    "the same twice": (b"A=1\nA=1\n", {"A": "1"}),
    # as packages/config/src/quote.ts of heroku's CLI writes them
    "heroku: spaces": (b"A='a b $c'\n", {"A": "a b $c"}),
    "heroku: a backslash": (b"A='a\\\\b c'\n", {"A": "a\\b c"}),
    "heroku: a quote": (b'A="it\'s \\$5 \\`x\\` \\"y\\" \\! \\\\\\$"\n', {"A": 'it\'s $5 `x` "y" ! \\$'}),
    "heroku: lines": (b'A="one\\ntwo"\n', {"A": "one\ntwo"}),
    "a shell's quote": (b"A='it'\\''s \\ $x'\nB=1\n", {"A": "it's \\ $x", "B": "1"}),
    "a shell's quote, and lines": (b"A='it'\\''s\nB=2\r\n'\nC=1\n", {"A": "it's\nB=2\r\n", "C": "1"}),
    "another shell's": (b"export A=''\"'\"'a'\"'\"''\n", {"A": "'a'"}),
}


def heroku_quoted(value: str) -> str:
    """As `heroku config -s` writes a value: quote.ts of its CLI."""
    if not re.search(r"[\"\s#!$&'()*,:;<=>?@\[\\\]^`{|}]", value):
        return value
    if re.search(r"['\n]", value):
        escaped = re.sub(r'(["\\$`!])', r"\\\1", value).replace("\n", "\\n")
        return f'"{escaped}"'
    escaped = re.sub(r"(['\\])", r"\\\1", value)
    return f"'{escaped}'"


def written(values: dict[str, str], quoted: Callable[[str], str]) -> bytes:
    return "".join(f"{name}={quoted(value)}\n" for name, value in values.items()).encode()


@given(st.dictionaries(NAMES, VALUES, max_size=6))
def test_what_heroku_prints_is_read(values: dict[str, str]) -> None:
    assert parse_dotenv(written(values, heroku_quoted), "f") == {name: v.encode() for name, v in values.items()}


@given(st.dictionaries(NAMES, VALUES.filter(lambda text: "\\" not in text), max_size=6))
def test_what_is_quoted_for_a_shell_is_read(values: dict[str, str]) -> None:
    """But for backslashes, which are escapes in a dotenv file and none between a shell's single quotes."""
    assert parse_dotenv(written(values, shlex.quote), "f") == {name: v.encode() for name, v in values.items()}


@pytest.mark.parametrize("name", READ)
def test_what_is_read(name: str) -> None:
    raw, expected = READ[name]
    assert parse_dotenv(raw, "f") == {key: value.encode() for key, value in expected.items()}


REFUSED = {
    "text after a shell's quote": (b"A='it'\\''hunter2'x\n", 1, "not NAME=value"),
    "after a shell's quote over lines": (b"A='it'\\''s\n\n'\n\nhunter2 word\n", 5, "not NAME=value"),
    "no assignment": (b"A=1\n\nhunter2 word\nB=2\n", 3, "not NAME=value"),
    "a name alone": (b"A=1\nhunter2\n", 2, "not NAME=value"),
    "an open quote": (b"\n\n\nA='hunter2\n", 4, "not NAME=value"),
    "text after a quote": (b"A='hunter2'x\n", 1, "not NAME=value"),
    "no name": (b"A=1\n=hunter2\n", 2, "not NAME=value"),
    "a bad name": (b"A=1\n\n\n1B=hunter2\n", 4, "not a variable's name: '1B'"),
    "a name with a dash": (b"MY-VAR=hunter2\n", 1, "not a variable's name: 'MY-VAR'"),
    "two values": (b"A=hunter2\nB=\nA=3\n", 3, "A is given twice"),
    "NUL": (b"A=1\nB=hunter2\0\n", 2, "has a NUL byte"),
    "not UTF-8": (b"A=1\nB=2\nC=hunter2\xff\n", 3, "not UTF-8"),
    "too long": (b"A=1\nB=" + b"hunter2" * 20000, 2, "too long"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused_with_its_line(name: str) -> None:
    raw, line, what = REFUSED[name]
    with pytest.raises(FormatError) as caught:
        parse_dotenv(raw, "app.env")
    assert caught.value.where == f"app.env:{line}"
    assert what in caught.value.what
    assert "hunter2" not in f"{caught.value} {caught.value.hint}"


@given(st.binary(max_size=200))
def test_any_bytes_are_variables_or_a_format_error(raw: bytes) -> None:
    try:
        values = parse_dotenv(raw, "f")
    except FormatError as error:
        assert error.where.startswith("f:")
    else:
        assert parse_dotenv(encode_dotenv({n: v.decode() for n, v in values.items()}).encode(), "f") == values
