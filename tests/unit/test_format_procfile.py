"""The Procfile: row V01 of the catalogue, and that what is accepted is what was written."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gitrel.errors import FormatError
from gitrel.format.procfile import MAX_COMMAND, parse_procfile

ACCEPTED: dict[str, tuple[bytes, dict[str, str]]] = {
    "plain": (b"web: run\n", {"web": "run"}),
    "no final newline": (b"web: run", {"web": "run"}),
    "CRLF": (b"web: run\r\nworker: work\r\n", {"web": "run", "worker": "work"}),
    "order is kept": (b"z: 1\na: 2\nm: 3\n", {"z": "1", "a": "2", "m": "3"}),
    "no space after the colon": (b"web:run\n", {"web": "run"}),
    "colons in the command": (b"web: run --bind 0.0.0.0:80\n", {"web": "run --bind 0.0.0.0:80"}),
    "blank lines and comments": (b"\n# web: no\n  \nweb: run\n", {"web": "run"}),
    "a tab": (b"web:\trun\tx\n", {"web": "run\tx"}),
    "UTF-8": ("web: echo grüße\n".encode(), {"web": "echo grüße"}),
    "longest command": (b"web: " + b"x" * MAX_COMMAND, {"web": "x" * MAX_COMMAND}),
    "odd but good names": (b"Web_2-x: run\n", {"Web_2-x": "run"}),
}

# The line that the message must name; 0: the file as a whole.
REFUSED: dict[str, tuple[bytes, int]] = {
    "empty": (b"", 0),
    "comments only": (b"# nothing\n\n", 0),
    "no colon": (b"web: run\nworker\n", 2),
    "empty command": (b"web: run\n\nworker:  \n", 3),
    "duplicate name": (b"web: a\nworker: b\nweb: c\n", 3),
    "name with a space": (b"web server: run\n", 1),
    "space before the name": (b" web: run\n", 1),
    "space before the colon": (b"web : run\n", 1),
    "empty name": (b": run\n", 1),
    "name with a slash": (b"../web: run\n", 1),
    "name in other letters": ("wéb: run\n".encode(), 1),
    "name too long": (b"w" * 64 + b": run\n", 1),
    "BOM": (b"\xef\xbb\xbfweb: run\n", 1),
    "NUL": (b"web: run\0\nx: y\n", 1),
    "ESC": (b"web: run\x1b[2J\n", 1),
    "CR inside": (b"ok: run\nweb: run\rrm\n", 2),
    "1 MB line": (b"web: " + b"x" * 1_000_000 + b"\n", 1),
    "not UTF-8": (b"web: run\nworker: \xff\n", 2),
}


@pytest.mark.parametrize("row", ACCEPTED)
def test_accepted(row: str) -> None:
    raw, commands = ACCEPTED[row]
    parsed = parse_procfile(raw)
    assert list(parsed.items()) == list(commands.items())


@pytest.mark.parametrize("row", REFUSED)
def test_v01_refused_with_the_line(row: str) -> None:
    raw, line = REFUSED[row]
    with pytest.raises(FormatError) as caught:
        parse_procfile(raw, "Procfile")
    assert caught.value.where == (f"Procfile:{line}" if line else "Procfile")


names = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_-]{0,20}", fullmatch=True)
printable = st.text(st.characters(exclude_categories=("Cc", "Cs")), min_size=1).filter(
    lambda text: text == text.strip()
)


@given(
    commands=st.dictionaries(names, printable, min_size=1, max_size=5),
    newline=st.sampled_from(["\n", "\r\n", "\n\n# x\n"]),
)
def test_what_is_written_is_read(commands: dict[str, str], newline: str) -> None:
    text = "".join(f"{name}: {command}{newline}" for name, command in commands.items())
    assert list(parse_procfile(text.encode()).items()) == list(commands.items())


@given(raw=st.binary(max_size=100) | st.text(alphabet="ab:# \t\r\n\0\x7f\u0085é").map(str.encode))
def test_arbitrary_bytes(raw: bytes) -> None:
    """Nothing but a FormatError comes out, and no command that `sh -c` cannot take."""
    try:
        commands = parse_procfile(raw)
    except FormatError:
        return
    assert commands
    for command in commands.values():
        assert command == command.strip() != ""
        assert not set(command) & {"\0", "\n", "\r", "\x1b"}
