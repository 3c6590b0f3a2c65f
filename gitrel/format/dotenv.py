"""Dotenv files: `NAME=value` lines as `.env` has them and as `heroku config -s` prints them (docs/config.md).

Lines are split by python-dotenv's parser. Nothing is expanded: `$HOME` is five characters. Stricter than usual:
a line that is neither blank, a comment nor an assignment is an error, and so is a name with two values.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

from gitrel.errors import FormatError
from gitrel.format.envdir import check_value, check_variable

if TYPE_CHECKING:
    from dotenv.parser import Binding

_PLAIN = re.compile(r"[A-Za-z0-9_./:@%+,=-]*")
_DOUBLE_QUOTED = re.compile(r'[^=]*=[^\S\r\n]*"((?:\\.|[^"\\])*)"', re.DOTALL)
_LINE_END = re.compile(r"\r\n|\n|\r")
_ESCAPE = re.compile(r"\\(.)", re.DOTALL)
# How a shell's quoting writes a quote: 'it'\''s', or 'it'"'"'s'; between such quotes a backslash is a backslash
_SHELL_WORD = re.compile(r"""\s*(?:export\s+)?([^=\s]+)=('[^']*'(?:(?:\\'|"'")'[^']*')+)[^\S\r\n]*(?:\r\n|\n|\r|\Z)""")
_SHELL_QUOTE = re.compile(r"""'(?:\\'|"'")'""")
# As python-dotenv has them, and what a shell needs escaped within double quotes, which heroku's CLI therefore does
_ESCAPES = {"a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"} | {c: c for c in "\\'\"$`!"}


def parse_dotenv(raw: bytes, where: str) -> dict[str, bytes]:
    """Variables in the file's order. Raises `FormatError` with `where` and the line; it never shows a value."""
    from dotenv.parser import parse_stream  # 40 ms, and few commands read such files

    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise FormatError("not UTF-8", where=f"{where}:{line}") from None
    found: dict[str, bytes] = {}
    at, line = 0, 1
    bindings = parse_stream(io.StringIO(text, newline=""))
    while (binding := next(bindings, None)) is not None:
        source = binding.original.string
        if word := _SHELL_WORD.match(text, at) if binding.error else None:
            source = word[0]  # python-dotenv knows no such word, and may have ended its line within it
            bindings = parse_stream(io.StringIO(text[word.end() :], newline=""))
        try:
            _take(found, binding, source, word)
        except FormatError as error:
            blank = source[: len(source) - len(source.lstrip())]
            error.where = f"{where}:{line + _lines(blank)}"
            raise
        at, line = at + len(source), line + _lines(source)
    return found


def _lines(text: str) -> int:
    return len(_LINE_END.findall(text))


def _take(found: dict[str, bytes], binding: Binding, source: str, word: re.Match[str] | None) -> None:
    if word is not None:
        name, text = word[1], _SHELL_QUOTE.sub("'", word[2])[1:-1]
    elif binding.key is not None and binding.value is not None:
        name, text = binding.key, _value(source, binding.value)
    elif binding.key is not None or binding.error:
        raise FormatError("not NAME=value", hint="quote a value that has quotes or spaces in it")
    else:
        return  # blank, or a comment
    name = check_variable(name)
    value = text.encode("utf-8", "surrogateescape")
    check_value(name, value)
    if found.setdefault(name, value) != value:
        raise FormatError(f"{name} is given twice, with two values")


def _value(line: str, parsed: str) -> str:
    quoted = _DOUBLE_QUOTED.match(line)
    if quoted is None:
        return parsed
    return _ESCAPE.sub(lambda match: _ESCAPES.get(match[1], match[0]), quoted[1])


def encode_dotenv(values: Mapping[str, str]) -> str:
    """A line for each variable, which `parse_dotenv` and python-dotenv read back as the same values."""
    return "".join(f"{name}={_quoted(value)}\n" for name, value in values.items())


def _quoted(value: str) -> str:
    if _PLAIN.fullmatch(value):
        return value
    escaped = value.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"
