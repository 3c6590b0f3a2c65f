"""gitrel as the first process of a container: a pid namespace, as container engines make them."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from apps import PATIENCE, PYTHON, Host, Running, Shop, farm, host, shop
from conftest import program

__all__ = ["farm", "host", "shop"]  # fixtures

# Twenty that nobody waits for and that end at once, and twenty that stay.
_ORPHANS = """\
import os, subprocess, time

for _ in range(20):
    subprocess.run(["sh", "-c", "sleep 0.05 & sleep 1000 &"])
print("ready", flush=True)
time.sleep(1000)
"""


def test_as_pid_1_it_reaps_orphans_and_stops_on_term(shop: Callable[[int], Shop], host: Callable[..., Host]) -> None:
    dev = shop(0)
    dev.desk.write("orphans.py", _ORPHANS)
    dev.release(f"exec {PYTHON} -u orphans.py")
    server = host(dev.url, dev.pin)
    server.gitrel("pull")
    space = [program("unshare"), "--pid", "--fork", "--mount-proc", "--kill-child"]
    outer = subprocess.Popen(
        [*space, *server.argv("run", "--home", str(server.path))],
        env=dict(server.env),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    app = Running(server, outer)
    try:
        app.expect("ready")
        (first,) = Path(f"/proc/{outer.pid}/task/{outer.pid}/children").read_text().split()
        _await(lambda: len(_states(int(first))) <= 25, "the orphans that ended are still there")
        _await(lambda: "Z" not in _states(int(first)), "zombies")
        os.kill(int(first), signal.SIGTERM)
        assert outer.wait(PATIENCE) == 0
        assert not Path(f"/proc/{first}").exists()
    finally:
        outer.kill()
        outer.communicate()


def _states(first: int) -> list[str]:
    """Of all processes in the pid namespace of `first`."""
    space = os.readlink(f"/proc/{first}/ns/pid")
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            if os.readlink(f"/proc/{pid}/ns/pid") == space:
                found.append(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0])
        except OSError:
            continue  # it has ended
    return found


def _await(true: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)
