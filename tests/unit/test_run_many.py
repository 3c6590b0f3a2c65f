"""A home and a remote with thousands of releases: what is asked again and again costs what it costs with ten."""

from __future__ import annotations

import json
import os
import re
import resource
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from simulator import FILES, Simulator

from gitrel.ids import PRODUCTION, Entry, ObjectFormat
from gitrel.run.home import Home
from gitrel.store.pack import PackWriter
from gitrel.store.repository import Repository
from gitrel.trust.anchor import Anchor

RELEASES = 4000
FEW = 150  # refs
SECONDS = 4.0  # of CPU, at most, for a command of which the slowest takes 1
ROOT = str(Path(__file__).parents[2])
POLL = """
import sys
from pathlib import Path
from gitrel.cli.console import Console
from gitrel.cli.pulling import poll
from gitrel.run.home import Home
sys.exit(poll(Console(), Home(Path(sys.argv[1])), 5))
"""
PROCFILE = {**FILES, "Procfile": b"web: cat version\n"}


def store(sim: Simulator, repo: Repository) -> None:
    """All that is in the simulator's repository, in one pack; refs in packed-refs, as a git host keeps them."""
    with PackWriter(repo) as writer:
        for kind, data in sim.objects.values():
            writer.add(kind, data)
        writer.finish()
    lines = "".join(f"{oid} {name}\n" for name, oid in sorted(sim.refs.items()))
    (repo.path / "packed-refs").write_text(f"# pack-refs with: sorted\n{lines}")


def release(sim: Simulator, number: int) -> None:
    sim.release(sim.build({**PROCFILE, "version": b"%d\n" % number}))


class Server:
    """`gitrel` run as a program for one home."""

    def __init__(self, folder: Path, remote: Path, home: Path) -> None:
        self.remote, self.home = remote, home
        self._trace = folder / "trace"

    def gitrel(self, *args: str) -> tuple[str, float, int]:
        return self._measured([sys.executable, "-P", "-m", "gitrel", *args, "--home", str(self.home)])

    def _measured(self, argv: list[str]) -> tuple[str, float, int]:
        """What it printed, its seconds of CPU, and the refs that the remote sent."""
        self._trace.unlink(missing_ok=True)
        begun = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run(
            argv,
            env={**os.environ, "PYTHONPATH": ROOT, "GIT_TRACE_PACKET": str(self._trace)},
            cwd="/",
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        ended = resource.getrusage(resource.RUSAGE_CHILDREN)
        said = self._trace.read_text(errors="replace") if self._trace.exists() else ""
        refs = len(re.findall(r"upload-pack> [0-9a-f]{40} refs/", said))
        return done.stdout, ended.ru_utime + ended.ru_stime - begun.ru_utime - begun.ru_stime, refs

    def poll(self) -> tuple[str, float, int]:
        """As the supervisor's child does it."""
        return self._measured([sys.executable, "-P", "-c", POLL, str(self.home)])


@pytest.mark.timeout(400)
def test_thousands_of_releases(tmp_path: Path) -> None:
    sim = Simulator()
    sim.trust()
    for number in range(1, RELEASES + 1):
        release(sim, number)
    remote, path = tmp_path / "remote.git", tmp_path / "home"
    with Repository.init_bare(remote, ObjectFormat.SHA1) as repo:
        store(sim, repo)
    server = Server(tmp_path, remote, path)
    pin = sim.trusts[0].id.sha256
    argv = [sys.executable, "-P", "-m", "gitrel", "join", str(remote), str(path), "--trust", pin]
    subprocess.run(argv, env={**os.environ, "PYTHONPATH": ROOT}, cwd="/", check=True)
    home = Home(path)
    with home.repository() as repo:  # as if it had pulled each of them
        store(sim, repo)
    last = sim.releases[PRODUCTION][-1]
    anchor = Anchor(Entry(RELEASES), last.id, last.record.trust.entry)
    home.change_state(lambda state: replace(state, seen=anchor, ready=anchor.entry))
    assert server.gitrel("pull")[0] == f"v{RELEASES} (nothing new)\n"
    costs = {name: server.gitrel(*name.split())[1:] for name in ("status --json", "pull", "scale", "pin v3600")}
    costs |= {"first poll": server.poll()[1:], "poll": server.poll()[1:]}
    assert 0 < costs["pull"][1] < FEW, "the newest, and what would follow it"
    os.utime(path / "run/pull.lock", (0, 0))
    assert server.gitrel("pull")[2] > RELEASES, "now and then all refs"
    assert costs["poll"][1] == 0, "nothing is there below what is watched"
    assert costs["poll"][0] < costs["pull"][0]
    assert {name: cost for name, cost in costs.items() if cost[0] > SECONDS} == {}
    assert (path / "current/version").read_text() == "3600\n"
    release(sim, RELEASES + 1)
    with Repository.open(remote) as repo:
        store(sim, repo)
    said, seconds, refs = server.poll()
    assert (said, 0 < refs < 2 * FEW) == (f"v{RELEASES + 1}\n", True), (
        "what is new is found, and the next ones looked at"
    )
    assert server.poll()[2] == 0
    begun = time.monotonic()
    pruned = json.loads(server.gitrel("prune", "--keep", "1", "--json")[0])
    assert pruned["kept"] == ["v3600", f"v{RELEASES + 1}"]
    assert time.monotonic() - begun < 60
    assert server.gitrel("exec", "web")[0] == "3600\n"
    print(costs, seconds, pruned)
