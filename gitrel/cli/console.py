"""What people and programs get to read.

Results go to stdout, progress and notes to stderr. With `--json` stdout carries one JSON document and nothing
else. Text that came from a repository or a remote is escaped: it cannot move a terminal's cursor.
"""

from __future__ import annotations

import json
import sys
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

from gitrel.errors import ExitCode, GitrelError, Refused

# The next step of an error that names none.
_NEXT = {
    ExitCode.UNEXPECTED: "report it, with what `gitrel --debug …` prints",
    ExitCode.USAGE: "the command's --help says what it takes",
    ExitCode.REFUSED: "find out who made it; `gitrel verify --all` names everything that is refused",
    ExitCode.NOT_FOUND: "`gitrel log` lists what there is",
    ExitCode.CONFLICT: "run the command again",
    ExitCode.REMOTE: "run the command again; nothing was changed",
    ExitCode.LOCAL_STATE: "mend that, then run the command again",
    ExitCode.BUILD_FAILED: "mend the build, commit, then build again",
    ExitCode.BAD_INPUT: "mend it, then run the command again",
    ExitCode.NO_KEY: "ssh-keygen -t ed25519",
    ExitCode.UNHEALTHY: "see what its processes printed",
    ExitCode.INTERRUPTED: "run the command again",
}


def escaped(text: str) -> str:
    """`text` with control characters, bidirectional overrides and lone surrogates written as escapes."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        char if char == "\n" or unicodedata.category(char) not in ("Cc", "Cf", "Cs", "Zl", "Zp") else _escape(char)
        for char in text
    )


def _escape(char: str) -> str:
    return char.encode("unicode_escape", "surrogatepass").decode("ascii")


class Console:
    """One command's output."""

    def __init__(self, *, as_json: bool = False, quiet: bool = False) -> None:
        self.as_json = as_json
        self._quiet = quiet

    def out(self, text: str = "") -> None:
        """A line of the result, for people."""
        if not self.as_json:
            print(escaped(text), flush=True)

    def note(self, text: str) -> None:
        """Progress, or something worth knowing; never the result."""
        if not self._quiet:
            print(escaped(text), file=sys.stderr, flush=True)

    def result(self, **fields: Any) -> None:
        """The result, for programs: printed with `--json`, forgotten without."""
        if self.as_json:
            print(json.dumps(fields, indent=2, ensure_ascii=True, default=str), flush=True)

    def table(self, rows: Sequence[Sequence[str]]) -> None:
        """Columns, as wide as they need to be."""
        widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))] if rows else []
        for row in rows:
            cells = [escaped(cell).ljust(width) for cell, width in zip(row, widths, strict=True)]
            self.out("  ".join(cells).rstrip())

    def error(self, error: GitrelError, **fields: Any) -> None:
        """What, where, why and what to do next; with `--json` beside `fields`, what was found all the same."""
        self.result(**fields, error=error_fields(error))
        lines = [f"gitrel: {error.what}"]
        lines += [
            f"  {label}: {text}"
            for label, text in (("where", error.where), (" why", error.why), ("next", _hint(error)))
            if text
        ]
        if isinstance(error, Refused):
            lines[0] += f" (check {error.check})"
        print(escaped("\n".join(lines)), file=sys.stderr, flush=True)


def error_fields(error: GitrelError) -> Mapping[str, Any]:
    """An error as JSON: the same words, the exit code, and the check's number where one refused."""
    fields: dict[str, Any] = {
        "kind": type(error).__name__,
        "exit_code": int(error.exit_code),
        "what": error.what,
        "where": error.where,
        "why": error.why,
        "hint": _hint(error),
    }
    if isinstance(error, Refused):
        fields["check"] = error.check
    return fields


def _hint(error: GitrelError) -> str:
    return error.hint or _NEXT[error.exit_code]
