"""`gitrel demo` as a newcomer has it: installed into a fresh environment, run once, interrupted, looked into."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import pytest
from apps import sealed
from conftest import find_program
from room import ROOT, run

SECONDS = 30
_PIP = {name: value for name, value in os.environ.items() if name.startswith("PIP_") or name.endswith("_PROXY")}


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`pip install .` in a new virtual environment, by the pip that is here already; its `gitrel`."""
    folder = tmp_path_factory.mktemp("venv")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    pip = [sys.executable, "-m", "pip", "--python", str(folder / "bin/python")]
    install = [*pip, "install", "-q", "--disable-pip-version-check", str(ROOT)]
    done = run(install, folder, {**os.environ, **_PIP})
    assert done.code == 0, done.err
    return folder / "bin/gitrel"


@pytest.fixture
def env(tmp_path: Path) -> Mapping[str, str]:
    (tmp_path / "tmp").mkdir()
    return {**sealed(tmp_path), "TMPDIR": str(tmp_path / "tmp")}


def left(tmp_path: Path) -> list[str]:
    """Files, and processes that know the folder; one whose parent has just been killed gets a moment to notice."""
    deadline = time.monotonic() + 10
    while (running := knowing(tmp_path / "tmp")) and time.monotonic() < deadline:
        pass
    return [path.name for path in (tmp_path / "tmp").iterdir()] + running


def knowing(folder: Path) -> list[str]:
    """The processes that have a path below a folder in their environment or arguments."""
    found = []
    for proc in Path("/proc").glob("[0-9]*"):
        try:
            known = (proc / "environ").read_bytes() + (proc / "cmdline").read_bytes()
        except OSError:
            continue  # it ended, or is not ours
        if f"{folder}/".encode() in known:
            found.append(f"pid {proc.name}: {known.decode(errors='replace')}")
    return found


def test_from_a_fresh_installation(installed: Path, env: Mapping[str, str], tmp_path: Path) -> None:
    began = time.monotonic()
    done = run([str(installed), "demo"], tmp_path, env)
    took = time.monotonic() - began
    assert done.code == 0, done.out + done.err
    assert "all of it worked" in done.out
    if find_program("ssh-keygen") is not None:  # else the demo says what it leaves out
        assert done.out.count("git verify-commit") == 3
    for answer in ("v1: hello from the first", "v2: good morning from the second", "v3: hello from the first"):
        assert answer in done.out
    assert left(tmp_path) == []
    busy = os.getloadavg()[0] / (os.cpu_count() or 1)
    assert took < SECONDS * max(1.0, busy), f"{took:.0f} s"


def start(gitrel: Path, env: Mapping[str, str], *args: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [str(gitrel), "demo", *args],
        env=env,
        text=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )


def until(demo: subprocess.Popen[str], line: str) -> None:
    assert demo.stdout is not None
    for text in demo.stdout:
        if line in text:
            return
    raise AssertionError(f"it never came to {line!r}")


@pytest.mark.parametrize(
    ("line", "number"), [("gitrel release -m", signal.SIGINT), ("v1: hello", signal.SIGINT), ("PORT=", signal.SIGTERM)]
)
def test_interrupted(installed: Path, env: Mapping[str, str], tmp_path: Path, line: str, number: int) -> None:
    """In the middle of a release, and with the server up; a second signal changes nothing."""
    demo = start(installed, env)
    until(demo, line)
    os.killpg(demo.pid, number)
    os.killpg(demo.pid, number)
    demo.communicate(timeout=60)
    assert demo.returncode == 130
    assert left(tmp_path) == []


# Ctrl-C between the demo's last look at its signals and the fork: a program that it starts must still hear of TERM.
_AT_THE_FORK = """
import os, signal, subprocess, sys

class Popen(subprocess.Popen):
    def __init__(self, argv, **options):
        if "--follow" in argv:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)
        super().__init__(argv, **options)

subprocess.Popen = Popen
from gitrel.cli import main
sys.argv[1:] = ["demo"]
sys.exit(main())
"""


def test_interrupted_at_a_fork(installed: Path, env: Mapping[str, str], tmp_path: Path) -> None:
    done = run([str(installed.with_name("python")), "-c", _AT_THE_FORK], tmp_path, env)
    assert done.code == 130, done.err
    assert "PORT=" in done.out.splitlines()[-1]
    assert left(tmp_path) == []


def test_its_reader_goes_away(installed: Path, env: Mapping[str, str], tmp_path: Path) -> None:
    with start(installed, env) as demo:
        assert demo.stdout is not None
        until(demo, "PORT=")
        demo.stdout.close()
        assert demo.wait(timeout=60) == -signal.SIGPIPE
    assert left(tmp_path) == []


def test_kept(installed: Path, env: Mapping[str, str], tmp_path: Path) -> None:
    demo = start(installed, env, "--keep")
    until(demo, "PORT=")
    demo.send_signal(signal.SIGINT)
    _, said = demo.communicate(timeout=60)
    found = re.search(r"left in (\S+)", said)
    assert found is not None
    assert (Path(found[1]) / "server/state.json").is_file()
    assert left(tmp_path) == [Path(found[1]).name]
