"""gitrel's runner beside honcho and supervisord, on one Procfile, at the same time.

    python -m tests.bench.supervisors [--seconds 20] [--restarts 10]

Each runs two processes. Idle: CPU time and voluntary context switches of the supervisor (for gitrel with its
guardian) while nothing happens. Memory: proportional set size (proc(5), smaps_rollup). Restart, with a process for
each: from the death of one, by `kill -9`, to the first line of the next; honcho has none, it ends everything. It needs
`pip install honcho supervisor`.
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
    """A supervisor that runs. In `folder` each process writes its pid when it starts, to a file of its own."""

    name: str
    process: subprocess.Popen[bytes]
    folder: Path

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

    def pid(self, number: int, life: int) -> int:
        """Of a process in its first or a later life, once it has begun."""
        log = self.folder / f"{number}.log"
        while len(lines := log.read_text().split("\n") if log.exists() else []) <= life:
            time.sleep(0.0005)
        return int(lines[life - 1].split()[1])


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
def running(name: str, processes: int) -> Iterator[Peer]:
    with tempfile.TemporaryDirectory(prefix=f"bench-{name}-") as made:
        folder = Path(made)
        lines = [f"p{number}: {LINE.format(log=folder / f'{number}.log')}\n" for number in range(processes)]
        (folder / "Procfile").write_text("".join(lines))
        argv = PEERS[name](folder)
        env = {**os.environ, "PYTHONPATH": str(ROOT)}
        null = subprocess.DEVNULL
        process = subprocess.Popen(argv, env=env, stdin=null, stdout=null, stderr=null, cwd=folder)
        try:
            peer = Peer(name=name, process=process, folder=folder)
            for number in range(processes):
                peer.pid(number, 1)
            yield peer
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(30)


def restart(peer: Peer, number: int) -> float:
    """Seconds without a process that was up for a while before."""
    pid = peer.pid(number, 1)
    fd = os.pidfd_open(pid)
    os.kill(pid, signal.SIGKILL)
    select.select([fd], [], [])
    began = time.monotonic()
    os.close(fd)
    peer.pid(number, 2)
    return time.monotonic() - began


def measure(seconds: float, restarts: int) -> dict[str, dict[str, float]]:
    """By peer and by figure; all of them run at the same time, and are restarted in turn."""
    with contextlib.ExitStack() as stack:
        peers = [stack.enter_context(running(name, 2)) for name in PEERS]
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
    with contextlib.ExitStack() as stack:
        peers = [stack.enter_context(running(name, restarts)) for name in PEERS if name != "honcho"]
        time.sleep(STABLE + 1)
        times: dict[str, list[float]] = {peer.name: [] for peer in peers}
        for number in range(restarts):
            for peer in peers:
                times[peer.name].append(restart(peer, number))
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
