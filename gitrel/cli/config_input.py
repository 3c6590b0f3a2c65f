"""Where values of variables come from: standard input, files, an editor. And how they are written to a program.

No value is ever in an argument of a program that is started here, nor in a message.
"""

from __future__ import annotations

import getpass
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from gitrel.cli.console import Console
from gitrel.cli.developer import Developer
from gitrel.errors import FormatError, NotFound, UsageError
from gitrel.format.dotenv import encode_dotenv, parse_dotenv
from gitrel.format.envdir import check_variable

STDIN = "-"
_EDIT_ROUNDS = 20
_EDIT_HEAD = """\
# The variables of {deploy}. A line that goes is a variable that goes; leave all as it is to change nothing.
# A secret stays one, and shows no value. A new secret: `gitrel config set --secret NAME=-`.
"""


def from_stdin(words: list[str]) -> Iterator[tuple[str, bytes]]:
    """At a terminal each is asked for, without an echo; otherwise there is one, without its last newline."""
    names = [word.removesuffix(f"={STDIN}") for word in words if word.endswith(f"={STDIN}")]
    for name in names:
        check_variable(name)
    if len(names) > 1 and not sys.stdin.isatty():
        raise UsageError("two values from one standard input", why=", ".join(names), hint="--from-file NAME=PATH")
    for name in names:
        if sys.stdin.isatty():
            yield name, getpass.getpass(f"{name}: ").encode("utf-8", "surrogateescape")
        else:
            yield name, sys.stdin.buffer.read().removesuffix(b"\n")


def from_file(word: str) -> tuple[str, bytes]:
    name, equals, path = word.partition("=")
    if not equals:
        raise UsageError(f"not NAME=PATH: {word[:80]!r}", where="--from-file")
    return check_variable(name), read_file(Path(path))


def read_file(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise NotFound("cannot read it", where=str(path), why=error.strerror or "") from error


def edited(dev: Developer, shown: Mapping[str, bytes]) -> dict[str, bytes]:
    """What somebody makes of the variables in an editor, which opens again for as long as there is a bad line."""
    text = _EDIT_HEAD.format(deploy=dev.deploy) + encode_dotenv({name: raw.decode() for name, raw in shown.items()})
    with tempfile.TemporaryDirectory(prefix="gitrel-") as folder:  # of mode 0700
        path = Path(folder) / "config.env"
        path.touch(0o600)
        path.write_bytes(text.encode())
        faulty = b""
        for _ in range(_EDIT_ROUNDS):
            _run_editor(dev, path)
            raw = read_file(path)
            try:
                return parse_dotenv(raw, "the edited text")
            except FormatError as error:
                if raw == faulty:
                    raise
                dev.console.note(f"{error}; once more (leave it as it is to give up)")
                faulty = raw
    raise UsageError("the text never became right", where="the editor", why="nothing was changed")


def _run_editor(dev: Developer, path: Path) -> None:
    """As git does it: `$VISUAL` or `$EDITOR` is a shell command."""
    editor = dev.env.get("VISUAL") or dev.env.get("EDITOR") or "vi"
    argv = ["/bin/sh", "-c", f'{editor} "$1"', editor, str(path)]
    status = subprocess.run(argv, env=dict(dev.env), check=False).returncode
    if status:
        why = f"it ended with status {status}; nothing was changed"
        raise UsageError("the editor failed", where=editor[:80], why=why, hint="set EDITOR")


def write_raw(text: str, console: Console) -> None:
    """To a program byte for byte, with a final newline; to a terminal escaped."""
    if console.as_json or sys.stdout.isatty():
        console.out(text)
    else:
        sys.stdout.flush()
        os.write(sys.stdout.fileno(), text.encode("utf-8") + b"\n")
