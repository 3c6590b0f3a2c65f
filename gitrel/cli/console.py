"""What people and programs get to read.

Results go to stdout, progress and notes to stderr. With `--json` stdout carries one JSON document and nothing
else. Text that came from a repository or a remote is escaped: it cannot move a terminal's cursor.

A terminal gets headings, colours and lines cut to its width; a file, a pipe and a dumb terminal get plain lines. Any
NO_COLOR switches the colours off (no-color.org), COLUMNS sets the width.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar, TextIO

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


_BOLD, _RED, _GREEN, _YELLOW = 1, 31, 32, 33  # ECMA-48, 8.3.117
_COLOURS = {
    **dict.fromkeys(("REFUSED", "CANNOT RUN", "FAILED", "TROUBLE", "UNHEALTHY", "refused"), _RED),
    **dict.fromkeys(("PINNED", "pending"), _YELLOW),
    "good": _GREEN,
}
_SLOW = 1.0  # seconds of work after which a terminal is told what is going on


def is_terminal(stream: TextIO) -> bool:
    return stream.isatty() and os.environ.get("TERM", "dumb") != "dumb"


def painted(text: str, colour: int | None, stream: TextIO) -> str:
    if colour is None or not text or not is_terminal(stream) or os.environ.get("NO_COLOR"):
        return text
    return f"\x1b[{colour}m{text}\x1b[0m"


class Console:
    """One command's output. `verbosity` is the whole program's: -1 with `-q`, 1 with `-v`."""

    verbosity: ClassVar[int] = 0

    def __init__(self, *, as_json: bool = False) -> None:
        self.as_json = as_json

    def out(self, text: str = "") -> None:
        """A line of the result, for people."""
        if not self.as_json:
            print(escaped(text), flush=True)

    def note(self, text: str) -> None:
        """Progress, or something worth knowing; never the result. `-q` leaves the warnings."""
        if self.verbosity >= 0 or text.startswith("WARNING"):
            print(escaped(text), file=sys.stderr, flush=True)

    @contextmanager
    def working(self, what: str) -> Iterator[None]:
        """Around what may take long: a terminal is told after a second, and `-v` tells anybody how long it took."""
        started = time.monotonic()
        patience = threading.Timer(_SLOW, self.note, [f"{what} …"])
        patience.daemon = True
        if is_terminal(sys.stderr):
            patience.start()
        try:
            yield
        finally:
            patience.cancel()
        if self.verbosity > 0:
            self.note(f"{what}: {time.monotonic() - started:.2f} s")

    def result(self, **fields: Any) -> None:
        """The result, for programs: printed with `--json`, forgotten without."""
        if self.as_json:
            print(json.dumps(fields, indent=2, ensure_ascii=True, default=str), flush=True)

    def table(self, rows: Sequence[Sequence[str]], heads: Sequence[str] = ()) -> None:
        """Columns, as wide as they need to be; `heads` are for a terminal, on which no line is wider than it is."""
        if not rows or self.as_json:
            return
        import shutil  # it imports every compressor there is

        shown = [[escaped(cell) for cell in row] for row in rows]
        terminal = is_terminal(sys.stdout)
        if terminal and heads:
            shown.insert(0, list(heads))
        widths = [max(map(len, column)) for column in zip(*shown, strict=True)]
        room = shutil.get_terminal_size().columns - sum(widths[:-1]) - 2 * len(widths[:-1])
        for number, row in enumerate(shown):
            if terminal and len(row[-1]) > max(room, 10):
                row[-1] = f"{row[-1][: max(room, 10) - 1]}…"
            while row and not row[-1]:
                row.pop()
            last = len(row) - 1
            bold = _BOLD if terminal and heads and number == 0 else None
            cells = [
                painted(cell, bold or _COLOURS.get(cell), sys.stdout) + " " * (0 if at == last else width - len(cell))
                for at, (cell, width) in enumerate(zip(row, widths, strict=False))
            ]
            print("  ".join(cells).rstrip(), flush=True)

    def facts(self, rows: Iterable[tuple[str, str]], indent: str = "") -> None:
        """A label and a text a line."""
        for label, text in () if self.as_json else rows:
            head, said = escaped(label), escaped(text)
            padding = " " * (10 - len(head))
            mark = painted(head, _COLOURS.get(label, _BOLD), sys.stdout)
            print(f"{indent}{mark}{padding} {painted(said, _COLOURS.get(text), sys.stdout)}".rstrip(), flush=True)

    def error(self, error: GitrelError, **fields: Any) -> None:
        """What, where, why and what to do next; with `--json` beside `fields`, what was found all the same."""
        self.result(**fields, error=error_fields(error))
        check = f" (check {error.check})" if isinstance(error, Refused) else ""
        lines = [painted("gitrel:", _RED, sys.stderr) + escaped(f" {error.what}{check}")]
        lines += [
            f"  {painted(label, _BOLD, sys.stderr)}: {escaped(text)}"
            for label, text in (("where", error.where), (" why", error.why), ("next", _hint(error)))
            if text
        ]
        print("\n".join(lines), file=sys.stderr, flush=True)


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
