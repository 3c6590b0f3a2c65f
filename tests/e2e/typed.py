"""A page of the documentation, typed in block by block as its reader would, in one shell.

    typed = type_in("docs/tutorial.md", tmp_path, home, swap={"5000": "40123"})

A block marked `sh` is typed, in the page's order, from HOME, up to the first command that fails. A block without a mark
is what the one before it prints: these lines, one after the other, somewhere in its output; `…` stands for what is
different each time, alone in a line for any lines. Blocks of other kinds (toml, ini, ruby) are for reading. `swap` puts
what a test has in place of what a reader has; each text of it has to be in the page, so none outlives its reason.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from room import ROOT

BLOCK = re.compile(r"^```(sh)?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_SECONDS = 280  # a net; below the limit of tests/e2e/test_docs.py, so that what was printed is seen


@dataclass(slots=True)
class Block:
    """Commands, and the output that the page shows for them, or nothing."""

    commands: str
    shown: str = ""


def blocks(page: str) -> list[Block]:
    """`page` is named from the project's top."""
    found: list[Block] = []
    for kind, text in BLOCK.findall((ROOT / page).read_text()):
        if kind:
            found.append(Block(text))
        elif found:
            found[-1].shown = text
    return found


def shows(shown: str, printed: str) -> bool:
    lines = (".*" if line == "…" else re.escape(line).replace("…", "[^\n]*") for line in shown.strip().split("\n"))
    return re.search("^" + "\n".join(lines) + "$", printed, re.MULTILINE | re.DOTALL) is not None


def gitrel_in(folder: Path) -> Path:
    """A folder for PATH with a `gitrel` that is the tree under test."""
    wrapper = folder / "typed-bin/gitrel"
    wrapper.parent.mkdir(exist_ok=True)
    wrapper.write_text(f'#!/bin/sh\nPYTHONPATH={ROOT} exec {sys.executable} -P -m gitrel "$@"\n')
    wrapper.chmod(0o755)
    return wrapper.parent


def type_in(
    page: str,
    folder: Path,
    home: Path,
    *,
    swap: Mapping[str, str] | None = None,
    skip: int = 0,
    leave: int = 0,
    cwd: str = "",
    env: Mapping[str, str] | None = None,
    plain: Callable[[str], str] = str,
) -> str:
    """Everything that was printed. Fails if a block does, or prints something else than the page shows.

    `skip` and `leave` are how many blocks at the start and at the end are not typed, such as those that install gitrel.
    `plain` takes out of what is compared what differs each time.
    """
    typed = blocks(page)
    typed = typed[skip : len(typed) - leave]
    text = "\n".join(block.commands for block in typed)
    for old, new in (swap or {}).items():
        assert old in text, f"{page} has no {old!r} any more"
        for block in typed:
            block.commands, block.shown = block.commands.replace(old, new), block.shown.replace(old, new)
    script = ["set -euo pipefail", f"cd {cwd}"]
    for number, block in enumerate(typed):
        script += [f"printf '\\036{number}\\n'", block.commands]
    file = folder / "typed.sh"  # in a file, not in argv, where a page's own `pkill -f` would find it
    file.write_text("\n".join(script))
    machine = {**os.environ, "HOME": str(home), **(env or {})}
    machine["PATH"] = f"{gitrel_in(folder)}:{machine['PATH']}"
    code, printed = _run(file, machine)
    assert code == 0, printed[-4000:]
    parts = dict(part.split("\n", 1) for part in printed.split("\036")[1:])
    for number, block in enumerate(typed):
        said, shown = plain(parts[str(number)]), plain(block.shown)
        assert shows(shown, said), f"{block.commands}\nprinted\n{said}\nnot\n{shown}"
    return printed


def _run(file: Path, env: Mapping[str, str]) -> tuple[int, str]:
    """Its status and what it printed, to a file: a pipe would stay open for as long as a server that it started."""
    out = file.with_suffix(".out")
    with out.open("wb") as printed:
        typing = subprocess.Popen(
            ["bash", str(file)],
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=printed,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        typing.wait(_SECONDS)
    finally:
        with contextlib.suppress(ProcessLookupError):  # all of it is gone, as it should be
            os.killpg(typing.pid, signal.SIGTERM)  # servers, if the page did not come to its end
        code = typing.wait()
    return code, out.read_text()
