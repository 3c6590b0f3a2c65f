"""The Procfile: `name: command`, a process type a line (twelve-factor, factor VIII; docs/spec/procfile.md)."""

from __future__ import annotations

from gitrel.errors import FormatError
from gitrel.format.manifest import PROCESS_NAME

PROCFILE = "Procfile"
MAX_COMMAND = 64 * 1024  # bytes


def parse_procfile(raw: bytes, where: str = PROCFILE) -> dict[str, str]:
    """Process types and their commands, in the file's order.

    Blank lines and lines that begin with `#` are passed over, CRLF and a missing final newline are fine.
    Raises `FormatError` with the line's number.
    """
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        line_number = raw.count(b"\n", 0, error.start) + 1
        raise FormatError("not UTF-8", where=f"{where}:{line_number}") from None
    commands: dict[str, str] = {}
    for number, line in enumerate(text.split("\n"), 1):
        line = line.removesuffix("\r")
        if not line.strip() or line.startswith("#"):
            continue
        name, colon, command = line.partition(":")
        command = command.strip()
        reason = None
        if not colon:
            reason = "no colon; a line is `name: command`"
        elif PROCESS_NAME.fullmatch(name) is None:
            reason = f"not a process type: {name[:60]!r}"
        elif not command:
            reason = f"{name} has no command"
        elif any((char < " " and char != "\t") or char == "\x7f" for char in command):
            reason = "a control character"
        elif len(command.encode()) > MAX_COMMAND:
            reason = f"command over {MAX_COMMAND} bytes"
        elif name in commands:
            reason = f"{name} stands twice"
        if reason:
            raise FormatError(reason, where=f"{where}:{number}")
        commands[name] = command
    if not commands:
        raise FormatError("no process type in it", where=where, hint="add a line such as `web: python app.py`")
    return commands


def shell_command(line: str, args: bool = False) -> str:
    """What `sh -c` is given for a Procfile line, so that a plain command takes the shell's place and gets its signals.

    dash stays a process of its own otherwise, even for one command. With `args`, what follows is handed on.
    """
    command = f"exec {line}" if _is_plain(line) else line
    return f'{command} "$@"' if args else command


def _is_plain(line: str) -> bool:
    """Whether `exec` may stand before it: no shell grammar that it would change."""
    first = line.split(maxsplit=1)[0]
    return not any(char in line for char in ";&|<>()`\n") and first != "exec" and "=" not in first
