"""gitrel's runner beside honcho and supervisord, on one Procfile, at the same time.

    python -m tests.bench.supervisors [--seconds 20] [--restarts 10]

Each runs `web` and `worker`. Idle: CPU time and voluntary context switches of the supervisor (for gitrel with its
guardian) while nothing happens. Memory: proportional set size (proc(5), smaps_rollup). Restart: from `kill -9` of `web`
to the first line of the next one; honcho has none, it ends everything. Start: from exec to both processes up.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import select
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
TICKS = os.sysconf("SC_CLK_TCK")
LINE = "exec sh -c 'echo up $$ >> {log}; exec sleep 100000'"
STABLE = 1.5  # seconds up, after which supervisord calls a process RUNNING (its startsecs is 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """A supervisor that runs. `log`: where `web` writes its pid when it starts."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path
    started: float

    def pids(self) -> list[int]:
        """The supervisor and its helpers: what is of its own program."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        own = os.readlink(f"/proc/{self.process.pid}/exe")
        return [self.process.pid, *(pid for pid in map(int, children) if os.readlink(f"/proc/{pid}/exe") == own)]

    def cpu(self) -> tuple[float, int]:
        """Seconds of CPU and voluntary context switches so far."""
        seconds, switches = 0.0, 0
        for pid in self.pids():
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            seconds += (int(fields[11]) + int(fields[12])) / TICKS
            switches += int(_find(r"(?m)^voluntary_ctxt_switches:\s+(\d+)", f"/proc/{pid}/status"))
        return seconds, switches

    def memory(self) -> int:
        """Kilobytes, proportional."""
        return sum(int(_find(r"(?m)^Pss:\s+(\d+)", f"/proc/{pid}/smaps_rollup")) for pid in self.pids())

    def web(self, count: int) -> int:
        """The pid of the latest `web`, once there have been so many."""
        while len(lines := self.log.read_text().split("\n") if self.log.exists() else []) <= count:
            time.sleep(0.0005)
        return int(lines[count - 1].split()[1])


def _find(pattern: str, path: str) -> str:
    found = re.search(pattern, Path(path).read_text())
    assert found is not None, path
    return found[1]


def gitrel(folder: Path) -> list[str]:
    """A home with one release, pulled before: what is measured is the supervisor."""
    env = {"PATH": os.environ["PATH"], "HOME": str(folder), "PYTHONPATH": str(ROOT)}
    for name in ("author", "committer"):
        env |= {f"GIT_{name.upper()}_NAME": "bench", f"GIT_{name.upper()}_EMAIL": "bench@example.org"}
    (folder / ".ssh").mkdir()

    def call(*argv: str, cwd: Path = folder) -> str:
        return subprocess.run(argv, cwd=cwd, env=env, check=True, capture_output=True, text=True).stdout

    call("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / ".ssh/id_ed25519"))
    app, remote, home = folder / "app", folder / "remote.git", folder / "home"
    call("git", "init", "-q", "--bare", str(remote))
    call("git", "init", "-q", str(app))
    (app / "Procfile").write_bytes((folder / "Procfile").read_bytes())
    (app / "gitrel.toml").write_text('app = "bench"\n')
    call("git", "remote", "add", "origin", str(remote), cwd=app)
    call("git", "add", ".", cwd=app)
    call("git", "commit", "-q", "-m", "bench", cwd=app)
    program = [sys.executable, "-m", "gitrel"]
    call(*program, "init", cwd=app)
    call(*program, "release", cwd=app)
    call(*program, "join", str(remote), str(home), "--first-use")
    call(*program, "pull", "--home", str(home))
    return [*program, "run", "--home", str(home)]


def honcho(folder: Path) -> list[str]:
    return [sys.executable, "-m", "honcho", "-f", str(folder / "Procfile"), "start"]


def supervisord(folder: Path) -> list[str]:
    programs = "".join(
        f'[program:{name}]\ncommand=/bin/sh -c "{line}"\nautorestart=true\nstdout_logfile=/dev/null\n'
        for name, _, line in (line.partition(": ") for line in (folder / "Procfile").read_text().splitlines())
    )
    (folder / "conf").write_text(f"[supervisord]\nnodaemon=true\nlogfile=/dev/null\nlogfile_maxbytes=0\n{programs}")
    return [sys.executable, "-m", "supervisor.supervisord", "-c", str(folder / "conf")]


PEERS: dict[str, Callable[[Path], list[str]]] = {"gitrel": gitrel, "honcho": honcho, "supervisord": supervisord}


@contextlib.contextmanager
def running(name: str) -> Iterator[Peer]:
    with tempfile.TemporaryDirectory(prefix=f"bench-{name}-") as made:
        folder = Path(made)
        log = folder / "log"
        worker = LINE.format(log="/dev/null")
        (folder / "Procfile").write_text(f"web: {LINE.format(log=log)}\nworker: {worker}\n")
        argv = PEERS[name](folder)
        env = {**os.environ, "PYTHONPATH": str(ROOT)}
        started = time.monotonic()
        process = subprocess.Popen(argv, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=folder)
        try:
            peer = Peer(name=name, process=process, log=log, started=started)
            peer.web(1)
            yield peer
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(30)


def restart(peer: Peer, count: int) -> float:
    """Seconds without `web`; it was up for a while before."""
    pid = peer.web(count)
    time.sleep(STABLE)
    fd = os.pidfd_open(pid)
    began = time.monotonic()
    os.kill(pid, signal.SIGKILL)
    select.select([fd], [], [])
    os.close(fd)
    peer.web(count + 1)
    return time.monotonic() - began


def measure(seconds: float, restarts: int) -> dict[str, dict[str, float]]:
    """By peer and by figure; all of them run at the same time, and are restarted in turn."""
    with contextlib.ExitStack() as stack:
        peers = [stack.enter_context(running(name)) for name in PEERS]
        time.sleep(STABLE + 1)
        before = [peer.cpu() for peer in peers]
        time.sleep(seconds)
        after = [peer.cpu() for peer in peers]
        found = {
            peer.name: {
                "idle CPU, ms a minute": (late[0] - early[0]) / seconds * 60_000,
                "idle wakeups a minute": (late[1] - early[1]) / seconds * 60,
                "memory, MiB": peer.memory() / 1024,
            }
            for peer, early, late in zip(peers, before, after, strict=True)
        }
        kept = [peer for peer in peers if peer.name != "honcho"]
        times: dict[str, list[float]] = {peer.name: [] for peer in kept}
        for count in range(1, restarts + 1):
            for peer in kept:
                times[peer.name].append(restart(peer, count))
        for name, each in times.items():
            found[name]["restart, ms"] = statistics.median(each) * 1000
        return found


def table(found: dict[str, dict[str, float]]) -> str:
    """Markdown."""
    figures = list(next(iter(found.values())))
    lines = [f"| | {' | '.join(found)} |", "|---" * (len(found) + 1) + "|"]
    for figure in figures:
        cells = [f"{each[figure]:.1f}" if figure in each else "ends everything" for each in found.values()]
        lines.append(f"| {figure} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--restarts", type=int, default=10)
    options = parser.parse_args()
    print(table(measure(options.seconds, options.restarts)))


if __name__ == "__main__":
    main()
