"""Words in unit files: systemd.syntax(7), "QUOTING" in systemd.service(5), "SPECIFIERS" in systemd.unit(5).

Only `\\\\` and `\\"` are written as escapes, since the parser of `ReadWritePaths=` knows no others; what would need
another one is refused. A `%` is doubled. A `$` is left alone: a command line that has one gets the prefix `:`, which
turns variables off for all of it.
"""

from __future__ import annotations

import re

from gitrel.errors import UsageError

UNIT_NAME_MAX = 255  # characters, with the suffix
_PLAIN = re.compile(r"[A-Za-z0-9_./:=,@+%-]+")
_UNIT_CHARACTERS = frozenset(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789:-_.\\")
_LONGEST_SUFFIX = len("-@65535.service") + 63  # a process type in it


def word(text: str) -> str:
    """One word of a list or a command line. Raises `UsageError` for what no unit file can hold."""
    if any(char < " " or char == "\x7f" or "\ud800" <= char <= "\udfff" for char in text):
        raise UsageError("cannot stand in a unit file", where=repr(text), why="a control character, or not UTF-8")
    doubled = text.replace("%", "%%")
    if _PLAIN.fullmatch(doubled):
        return doubled
    return '"' + doubled.replace("\\", "\\\\").replace('"', '\\"') + '"'


def command(program: str, *args: str, prefix: str = "") -> str:
    """A command line for `ExecStart=` and its like; `program` is an absolute path. Raises `UsageError`."""
    if not program.startswith("/") or any(char in program for char in "\"'\\"):
        why = "it takes absolute paths without quotes and backslashes"
        raise UsageError("systemd does not run a program of this path", where=program, why=why)
    whole = any("$" in each for each in (program, *args))
    return f"{prefix}{':' if whole else ''}{' '.join(map(word, (program, *args)))}"


def escape_name(text: str) -> str:
    """The first part of a unit's name, as `systemd-escape --mangle` makes it; `@` would make a template, and is
    escaped too. Raises `UsageError`.
    """
    escaped = "".join(_escape_byte(byte) for byte in text.encode("utf-8", "surrogateescape"))
    if not escaped or len(escaped) + _LONGEST_SUFFIX > UNIT_NAME_MAX:
        why = f"it has 1 to {UNIT_NAME_MAX - _LONGEST_SUFFIX} characters"
        raise UsageError("not the beginning of a unit's name", where=repr(text[:300]), why=why)
    return escaped


def _escape_byte(byte: int) -> str:
    if byte in _UNIT_CHARACTERS:
        return chr(byte)
    return "-" if byte == ord("/") else f"\\x{byte:02x}"
