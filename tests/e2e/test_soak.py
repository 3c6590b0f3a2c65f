"""A server that nobody is kind to, for some seconds, or for as long as you like:

    GITREL_SOAK=3600 GITREL_SOAK_SEED=7 pytest -s tests/e2e/test_soak.py

Releases keep coming, good ones and bad ones; processes of the app, the guardian and the runner itself are killed,
the remote goes away and comes back, the disk fills up and is emptied. At the end exactly the newest good release
runs, with the right number of processes, no orphan, and as many descriptors and as much memory as at the beginning.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from apps import Host, Shop, farm, host, shop
from conftest import program

from gitrel.run.proctree import of_home

__all__ = ["farm", "host", "shop"]  # fixtures

SECONDS = float(os.environ.get("GITREL_SOAK", "10"))
SEED = int(os.environ.get("GITREL_SOAK_SEED", "1"))
PATIENCE = 90.0
DISK = 64  # MiB
PROCFILE = "web: echo up; exec sleep 1000\nworker: exec sleep 1000\n"
BAD = "web: echo no; exit 3\nworker: exec sleep 1000\n"
MANIFEST = '[run.web]\nsettle = "100ms"\nstop_timeout = "2s"\nscale = 2\n[run.worker]\nsettle = "100ms"\n'
PROCESSES = 3


def _name(pid: int) -> str:
    with contextlib.suppress(OSError):  # it has just ended
        return Path(f"/proc/{pid}/comm").read_text().rstrip()
    return ""


class Soak:
    """What is done to a server, and what must be true of it afterwards."""

    def __init__(self, dev: Shop, server: Host, seed: int, log: Path, *, full: bool) -> None:
        self._dev = dev
        self._server = server
        self._random = random.Random(seed)
        self._log = log
        self._runner: subprocess.Popen[bytes] | None = None
        self._good = ""
        self._away = self._full = False
        self.done: Counter[str] = Counter()
        self.baseline: dict[str, int] = {}
        self.measured: dict[str, int] = {}
        self._trouble = {
            self.release: 8, self.kill_process: 6, self.kill_guardian: 2, self.kill_runner: 2,
            self.take_remote_away: 3, self.fill_disk: 3 * full, self.poke: 2,
        }  # fmt: skip

    # The server

    def start(self) -> None:
        with open(self._log, "ab") as log:
            self._runner = subprocess.Popen(
                self._server.argv("run", "--home", str(self._server.path), "--follow", "--interval", "0.5"),
                env=dict(self._server.env), stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip

    @property
    def runner(self) -> subprocess.Popen[bytes]:
        assert self._runner is not None
        return self._runner

    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self._server.path / "run/status.json").read_text())
        return found

    def await_settled(self) -> None:
        """Until the newest good release runs, whole."""
        deadline = time.monotonic() + PATIENCE
        ours, runs, current = False, ("", "", 0), ""
        while True:
            with contextlib.suppress(OSError, ValueError):
                status = self.status()
                up = [each for each in status["processes"] if each["state"] == "up"]
                ours = status["supervisor"] == self.runner.pid
                current = Path(os.readlink(self._server.path / "current")).name  # later, if the disk was full
                runs = (status["release"], status["phase"], len(up))
                if ours and runs == (self._good, "steady", PROCESSES) and current == self._good:
                    return
            assert self.runner.poll() is None, f"the runner ended: {self.said()}"
            here = f"status of the runner: {ours}, current: {current}, {runs}"
            assert time.monotonic() < deadline, f"it never came to run {self._good}; {here}: {self.said()}"
            time.sleep(0.02)

    def said(self) -> str:
        return self._log.read_text(errors="replace")[-3000:]

    # What happens to it

    def release(self) -> None:
        """A bad one comes once the good one runs: a server falls back to what was good there, not to what it missed."""
        bad = self._random.random() < 0.25
        if bad:
            self.calm()
        if self._away:
            return
        self.publish(BAD if bad else PROCFILE)

    def publish(self, procfile: str) -> None:
        self._dev.desk.write("Procfile", procfile)
        self._dev.releases += 1
        self._dev.desk.write("filler", os.urandom(self._random.randrange(1 << 20)).hex())
        self._dev.desk.commit(f"change {self._dev.releases}")
        name = self._dev.publish("release")
        if procfile == PROCFILE:
            self._good = name

    def kill_process(self) -> None:
        """Not while a release is on trial: that would be its failure, and it is not tried again."""
        with contextlib.suppress(OSError, ValueError):
            status = self.status()
            pids = [each["pid"] for each in status["processes"] if each["pid"]]
            if pids and status["phase"] == "steady":
                os.kill(self._random.choice(pids), self._random.choice([signal.SIGKILL, signal.SIGTERM]))

    def kill_runner(self) -> None:
        self.runner.kill()
        self.runner.wait()
        self._server.await_unlocked()
        assert of_home(str(self._server.path)) == [], self.said()
        self.start()

    def guardians(self) -> list[int]:
        children = Path(f"/proc/{self.runner.pid}/task/{self.runner.pid}/children").read_text().split()
        return [pid for pid in map(int, children) if _name(pid) == "gitrel-guardian"]

    def kill_guardian(self) -> None:
        """And wait for the next one: who kills both at one moment leaves what the next start finds."""
        with contextlib.suppress(OSError):
            before = self.guardians()
            for pid in before:
                os.kill(pid, signal.SIGKILL)
            deadline = time.monotonic() + PATIENCE
            while before and (not self.guardians() or self.guardians() == before):
                assert time.monotonic() < deadline, self.said()
                time.sleep(0.01)

    def take_remote_away(self) -> None:
        url = Path(self._dev.url)
        aside = url.with_name("away.git")
        if self._away:
            aside.rename(url)
        else:
            url.rename(aside)
        self._away = not self._away

    def fill_disk(self) -> None:
        filler = self._server.path.parent / "filler"
        if self._full:
            filler.unlink()
        else:
            with contextlib.suppress(OSError), open(filler, "wb", 0) as file:
                while file.write(bytes(1 << 20)):
                    pass
        self._full = not self._full

    def poke(self) -> None:
        """As `gitrel poke` does: not before the supervisor says that it is one."""
        with contextlib.suppress(OSError, ValueError):
            if self.status()["supervisor"] == self.runner.pid:
                self.runner.send_signal(self._random.choice([signal.SIGHUP, signal.SIGUSR1]))

    # The whole

    def calm(self) -> None:
        if self._away:
            self.take_remote_away()
        if self._full:
            self.fill_disk()
        with contextlib.suppress(OSError, ValueError):
            if self.status()["supervisor"] == self.runner.pid:
                self.runner.send_signal(signal.SIGUSR1)  # it may be waiting longer after failures
        self.await_settled()

    def measure(self) -> dict[str, int]:
        status = Path(f"/proc/{self.runner.pid}/status").read_text()
        found = re.search(r"VmRSS:\s+(\d+)", status)
        assert found is not None
        return {"fds": len(os.listdir(f"/proc/{self.runner.pid}/fd")), "kilobytes": int(found[1])}

    def run(self, seconds: float) -> None:
        self.start()
        self._dev.desk.manifest(MANIFEST)
        self.publish(PROCFILE)
        self.calm()
        self.baseline = self.measure()
        deadline = time.monotonic() + seconds
        each = [act for act, weight in self._trouble.items() if weight]  # once, and then what comes
        self._random.shuffle(each)
        while each or time.monotonic() < deadline:
            (act,) = [each.pop()] if each else self._random.choices(list(self._trouble), list(self._trouble.values()))
            act()
            self.done[act.__name__] += 1
            time.sleep(self._random.random() * 0.3)
            if self._random.random() < 0.1:
                self.calm()
        self.finish()

    def await_no_strays(self) -> None:
        """Nothing but the supervisor, its guardian and the processes; a look is there for a moment only."""
        deadline = time.monotonic() + PATIENCE
        while True:
            leaders = {each["pid"] for each in self.status()["processes"]}
            seen = of_home(str(self._server.path))
            strays = [each for each in seen if each.session not in leaders and each.pid not in self.guardians()]
            if not strays and {each.session for each in seen} >= leaders:
                return
            assert time.monotonic() < deadline, (strays, leaders, seen)
            time.sleep(0.02)

    def finish(self) -> None:
        self.calm()
        self.await_no_strays()
        deadline = time.monotonic() + PATIENCE
        while (after := self.measure())["fds"] > self.baseline["fds"]:  # a look may be under way
            assert time.monotonic() < deadline, (self.baseline, after)
            time.sleep(0.02)
        self.measured = after
        assert after["kilobytes"] < self.baseline["kilobytes"] * 1.3 + 4096, (self.baseline, after)
        self.runner.terminate()
        assert self.runner.wait(PATIENCE) == 0
        assert of_home(str(self._server.path)) == []
        self._server.fsck()
        text = self._log.read_text(errors="replace")
        assert "Traceback" not in text, text[text.index("Traceback") :][:3000]
        assert "which is a bug" not in text


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A small one that can be full; only root can mount one, others go without that trouble."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = os.geteuid() == 0
    if mounted:
        mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK}m,mode=755", "gitrel-soak", str(folder)]
        subprocess.run([program("mount"), *mount[1:]], check=True)
    try:
        yield folder
    finally:
        for seen in of_home(str(folder / "home")):
            with contextlib.suppress(ProcessLookupError):
                os.kill(seen.pid, signal.SIGKILL)
        if mounted:
            subprocess.run([program("umount"), "-l", str(folder)], check=True)


@pytest.mark.timeout(SECONDS * 2 + 300)
def test_soak(shop: Callable[[int], Shop], host: Callable[..., Host], disk: Path, tmp_path: Path) -> None:
    dev = shop(0)
    server = replace(host(), path=disk / "home").join(dev.url, dev.pin)
    soak = Soak(dev, server, SEED, tmp_path / "log", full=os.geteuid() == 0)
    print(f"seed {SEED}")
    try:
        soak.run(SECONDS)
    finally:
        soak.runner.kill()
        soak.runner.wait()
    print(dict(soak.done), soak.baseline, soak.measured)
