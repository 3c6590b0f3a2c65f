"""What many followers cost one plain git host: `git daemon`, and gitrel's own polling code and timing.

    python -m tests.bench.followers [--followers 300] [--interval 10] [--releases 20000] [--herd 100000]

Loaded: so many followers, a thread each, ask a real `git daemon` for the next release, as `gitrel run --follow` does,
while its CPU time is counted; then a release comes; then the daemon is away for three intervals. One more row is what
stock git's way of asking costs, `git ls-remote`. Herd: the same timing for far more of them, without any host, in
virtual seconds: how many asks fall into the busiest second.
"""

from __future__ import annotations

import argparse
import contextlib
import heapq
import json
import os
import random
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from gitrel.errors import RemoteError
from gitrel.run.follow import pause
from gitrel.store.connect import open_line
from gitrel.store.conversation import list_refs
from gitrel.store.limits import Limits
from gitrel.store.location import GitConfig, parse_location
from gitrel.store.wire import Meter

TICKS = os.sysconf("SC_CLK_TCK")
GIT = {"PATH": os.environ["PATH"], "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1", "HOME": "/nonexistent"}


class Daemon:
    """A `git daemon` over a folder of repositories, that can go away and come back."""

    def __init__(self, root: Path) -> None:
        self.root = root
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self.port = int(probe.getsockname()[1])
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        program = f"{subprocess.check_output(['git', '--exec-path'], text=True).strip()}/git-daemon"
        where = ["--listen=127.0.0.1", f"--port={self.port}", f"--base-path={self.root}", "--max-connections=0"]
        argv = [program, "--export-all", "--reuseaddr", *where]
        self._process = subprocess.Popen(argv, env=GIT, stderr=subprocess.DEVNULL)
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port)):
                return
            time.sleep(0.01)  # nothing tells when a port is open

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait()
            self._process = None

    def cpu(self) -> float:
        """Seconds, its own and those of what it started for each connection and has waited for."""
        assert self._process is not None
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        return sum(map(int, fields[11:15])) / TICKS


def make_ledger(root: Path, name: str, releases: int) -> Path:
    """A bare repository with so many refs of releases, and as many of builds; all are one empty commit."""
    path = root / name
    subprocess.run(["git", "init", "-q", "--bare", str(path)], check=True, env=GIT)
    identity = [f"GIT_{who}_{what}=x" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")]
    tree = _git(path, "mktree", stdin="").strip()
    commit = _git(path, "commit-tree", "-m", "x", tree, env=dict(each.split("=") for each in identity)).strip()
    names = [f"refs/releases/v{number}" for number in range(1, releases + 1)]
    names += [f"refs/builds/{number:040x}" for number in range(releases)]
    header = "# pack-refs with: peeled fully-peeled sorted \n"
    (path / "packed-refs").write_text(header + "".join(f"{commit} {name}\n" for name in sorted(names)))
    _git(path, "update-ref", "refs/trust/v1", commit)
    return path


def add_release(path: Path, number: int) -> None:
    _git(path, "update-ref", f"refs/releases/v{number}", "refs/trust/v1")


def _git(path: Path, *args: str, stdin: str | None = None, env: dict[str, str] | None = None) -> str:
    argv = ["git", "-C", str(path), *args]
    return subprocess.run(
        argv, check=True, env={**GIT, **(env or {})}, input=stdin, text=True, capture_output=True
    ).stdout


def ask(url: str, prefixes: Sequence[str]) -> tuple[bool, int]:
    """One poll, by gitrel's own client: whether there is news, and the bytes that the remote sent. Raises
    `RemoteError`.
    """
    meter = Meter(Limits())
    line = open_line(parse_location(url, Path("/")), meter, GitConfig(None, GIT), GIT, interactive=False)
    return bool(list_refs(line, prefixes)), meter.received


@dataclass(slots=True)
class Crowd:
    """Followers of one ledger, each a thread, until `stop`; all begin within the first interval."""

    url: str
    interval: float
    prefixes: Sequence[str]
    asked: list[float] = field(default_factory=list)
    failed: list[float] = field(default_factory=list)
    seen: dict[int, float] = field(default_factory=dict)
    bytes: Counter[int] = field(default_factory=Counter)
    _stopped: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list)

    def start(self, followers: int) -> None:
        for number in range(followers):
            thread = threading.Thread(target=self._follow, args=(number, random.Random(number)))
            self._threads.append(thread)
            thread.start()

    def _follow(self, number: int, chance: random.Random) -> None:
        failures, wait = 0, chance.random() * self.interval
        while not self._stopped.wait(wait):
            moment = time.monotonic()
            try:
                news, received = ask(self.url, self.prefixes)
            except RemoteError:
                failures += 1
                self.failed.append(moment)
            else:
                failures = 0
                self.asked.append(moment)
                self.bytes[received] += 1
                if news:
                    self.seen.setdefault(number, moment)
            wait = pause(self.interval, failures, chance.random())

    def stop(self) -> None:
        self._stopped.set()
        for thread in self._threads:
            thread.join()


def busiest(moments: Sequence[float], width: float = 1.0) -> int:
    """The most moments within any `width` seconds."""
    ordered, start, most = sorted(moments), 0, 0
    for end, moment in enumerate(ordered):
        while moment - ordered[start] >= width:
            start += 1
        most = max(most, end - start + 1)
    return most


def herd(followers: int, interval: float, until: float, away: Callable[[float], bool], together: bool) -> list[float]:
    """The moments of all asks, in virtual seconds, of followers that began together or anywhere in an interval."""
    chance = random.Random(followers)
    due = [(0.0 if together else chance.random() * interval, number, 0) for number in range(followers)]
    heapq.heapify(due)
    moments = []
    while due[0][0] < until:
        moment, number, failures = due[0]
        moments.append(moment)
        failures = failures + 1 if away(moment) else 0
        heapq.heapreplace(due, (moment + pause(interval, failures, chance.random()), number, failures))
    return moments


@contextlib.contextmanager
def served(releases: Sequence[int]) -> Iterator[tuple[Daemon, dict[int, Path]]]:
    """A daemon, and ledgers of so many releases: by number, their folders, which are their names."""
    root = Path(tempfile.mkdtemp(prefix="gitrel-followers-"))
    daemon = Daemon(root)
    try:
        ledgers = {number: make_ledger(root, f"{number}.git", number) for number in releases}
        daemon.start()
        yield daemon, ledgers
    finally:
        daemon.stop()
        shutil.rmtree(root)


def url_of(daemon: Daemon, ledger: Path) -> str:
    return f"git://127.0.0.1:{daemon.port}/{ledger.name}"


def next_of(releases: int) -> list[str]:
    return [f"refs/releases/v{releases + 1}", "refs/trust/v2"]


def cost(daemon: Daemon, call: Callable[[], object], times: int) -> float:
    """Milliseconds of the daemon's CPU time for one call."""
    before = daemon.cpu()
    for _ in range(times):
        call()
    time.sleep(0.2)  # until the daemon has waited for the last one
    return (daemon.cpu() - before) / times * 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--followers", type=int, default=300)
    parser.add_argument("--interval", type=float, default=10.0)
    parser.add_argument("--releases", type=int, default=20_000)
    parser.add_argument("--herd", type=int, default=100_000)
    args = parser.parse_args()
    print("| what | figure |\n|---|---|")
    with served([10, args.releases]) as (daemon, ledgers):
        for releases, ledger in ledgers.items():
            url = url_of(daemon, ledger)
            _, received = ask(url, next_of(releases))
            print(f"| one poll at {releases:,} releases: bytes from the host | {received} |")
            print(f"| its CPU time on the host | {cost(daemon, partial(ask, url, next_of(releases)), 100):.1f} ms |")
            stock = partial(subprocess.run, ["git", "ls-remote", url], check=True, env=GIT, capture_output=True)
            print(f"| that of `git ls-remote`, which lists all | {cost(daemon, stock, 20):.1f} ms |")
        _pulls(daemon, 5)
        _loaded(daemon, ledgers[args.releases], args.releases, args.followers, args.interval)
    _herds(args.herd)


def _pulls(daemon: Daemon, homes: int) -> None:
    """What a release of three small files costs, by real servers."""
    root = daemon.root / "developer"
    env = {**os.environ, **GIT, "HOME": str(root), "GIT_CONFIG_GLOBAL": str(root / ".gitconfig")}
    (root / ".ssh").mkdir(parents=True)
    (root / ".gitconfig").write_text("[user]\n\tname = A Developer\n\temail = dev@example.org\n")
    key = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(root / ".ssh/id_ed25519")]
    app = root / "app"

    def run(*argv: str) -> str:
        return subprocess.run(argv, check=True, env=env, cwd=app, text=True, capture_output=True).stdout

    def gitrel(*args: str) -> str:
        return run(sys.executable, "-P", "-m", "gitrel", *args)

    def release(text: str) -> None:
        (app / "text").write_text(text)
        run("git", "add", "-A")
        run("git", "commit", "-q", "-m", text)
        gitrel("release")

    subprocess.run(key, check=True, env=env)
    for folder, options in ((app, ()), (daemon.root / "app.git", ("--bare",))):
        subprocess.run(["git", "init", "-q", *options, str(folder)], check=True, env=env)
    run("git", "remote", "add", "origin", str(daemon.root / "app.git"))
    (app / "Procfile").write_text("web: exec sleep 1000\n")
    pin = json.loads(gitrel("init", "--app", "shop", "--json"))["pin"]
    release("first")
    servers = [str(root / f"server-{number}") for number in range(homes)]
    for server in servers:
        gitrel("join", f"git://127.0.0.1:{daemon.port}/app.git", server, "--trust", pin)
        gitrel("pull", "--home", server)
    release("second")
    waiting = iter(servers)
    used = os.times()
    spent = cost(daemon, lambda: gitrel("pull", "--home", next(waiting)), homes)
    own = os.times()
    cpu = (own.children_user + own.children_system - used.children_user - used.children_system) / homes * 1000
    print(f"| a pull of one more small release: CPU time on the host, on the server | {spent:.0f} ms, {cpu:.0f} ms |")


def _loaded(daemon: Daemon, ledger: Path, releases: int, followers: int, interval: float) -> None:
    crowd = Crowd(url_of(daemon, ledger), interval, next_of(releases))
    crowd.start(followers)
    time.sleep(interval)
    begin, before, count = time.monotonic(), daemon.cpu(), len(crowd.asked)
    time.sleep(2 * interval)
    spent, asked = time.monotonic() - begin, len(crowd.asked) - count
    print(f"| {followers} followers, every {interval:g} s: polls a second | {asked / spent:.1f} |")
    print(f"| the host's CPU for them | {(daemon.cpu() - before) / spent * 100:.0f} % of a core |")
    add_release(ledger, releases + 1)
    moment = time.monotonic()
    while len(crowd.seen) < followers:
        time.sleep(0.05)
    waits = [seen - moment for seen in crowd.seen.values()]
    print(f"| a release is known to half of them, to all | {statistics.median(waits):.1f} s, {max(waits):.1f} s |")
    daemon.stop()
    time.sleep(3 * interval)
    daemon.start()
    back = time.monotonic()
    time.sleep(8 * interval)
    crowd.stop()
    after = [each for each in crowd.asked if each >= back]
    print(f"| away for {3 * interval:g} s: the busiest second when it is back | {busiest(after)} polls |")


def _herds(followers: int, interval: float = 60.0) -> None:
    even = followers / interval
    for what, together, away in (
        ("started at one moment, from the fourth interval on", True, lambda _: False),
        ("the remote away for ten minutes, after it is back", False, lambda moment: 600 <= moment < 1200),
    ):
        moments = herd(followers, interval, 3000, away, together)
        after = [each for each in moments if each >= (1200 if not together else 3 * interval)]
        print(f"| {followers:,} every {interval:g} s ({even:,.0f} a second), {what}: the busiest second |", end=" ")
        print(f"{busiest(after):,} polls ({busiest(after) / even:.1f} times the even load) |")


if __name__ == "__main__":
    main()
