"""The tutorial, typed in block by block as a reader would, in one shell."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"
BLOCK = re.compile(r"^```(sh)?\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(page: str) -> list[tuple[str, str]]:
    """The commands of a page, each with the output that the page shows for it (or nothing)."""
    found: list[tuple[str, str]] = []
    for kind, text in BLOCK.findall((DOCS / page).read_text()):
        if kind == "sh":
            found.append((text, ""))
        else:
            found[-1] = (found[-1][0], text)
    return found


@pytest.fixture
def port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def test_the_tutorial_as_it_is_typed(home: Path, tmp_path: Path, port: int) -> None:
    typed = blocks("tutorial.md")
    assert len(typed) > 8, "the tutorial lost its commands"
    assert "pip install" in typed[0][0]
    script = ["set -eu", "cd"]
    for number, (commands, _) in enumerate(typed[1:]):  # the first block installs gitrel, which stands in PATH here
        commands = commands.replace("127.0.0.1:5000", f"127.0.0.1:{port}")
        script += [f"echo '--- {number}'", commands]
    binary = Path(sys.executable).parent
    file = tmp_path / "typed.sh"  # in a file, not in argv, where the tutorial's own `pkill -f` would find it
    file.write_text("\n".join(script))
    env = {**os.environ, "HOME": str(home), "PORT": str(port), "PATH": f"{binary}:{os.environ['PATH']}"}
    with subprocess.Popen(
        ["bash", str(file)],
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    ) as typing:
        try:
            printed, _ = typing.communicate(timeout=100)
        finally:
            with contextlib.suppress(ProcessLookupError):  # all of it is gone, as it should be
                os.killpg(typing.pid, signal.SIGTERM)  # the server, if the tutorial did not come to its end
    assert typing.returncode == 0, printed[-4000:]
    shown = dict(part.partition("\n")[::2] for part in printed.split("--- ")[1:])
    for number, (commands, output) in enumerate(typed[1:]):
        if output:
            assert output.strip() in shown[str(number)], f"{commands}\nprinted\n{shown[str(number)]}"
