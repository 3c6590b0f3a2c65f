"""A supervisor with real processes, run by a driver as the command line would: `wanted.json` is what `resolve`
returns, and the guardian holds the lock of the home too. It waits for lines of the log, for pidfds and for the
lock, never for time to pass.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from gitrel.run.proctree import of_home

PATIENCE = 30.0
REPOSITORY = Path(__file__).parents[2]
# Told to look: pulls by the test's own command, and answers what the files say. `LOADING` is shared with the driver.
LOADING = """
import json, os, sys
from pathlib import Path
from gitrel.format.health import Health
from gitrel.run.formation import MARK, Formation, Process, User, Wish, mark

def load(folder, name):
    if not (folder / name).exists():
        return None
    home = str(folder)
    spec = json.loads((folder / name).read_text())
    notes = (folder / "notes").read_text() if (folder / "notes").exists() else ""
    processes = []
    for each in spec["processes"]:
        label = f"{each['type']}.{each.get('index', 1)}"
        processes.append(Process(
            type=each["type"], index=each.get("index", 1), command=each["command"],
            env={"PATH": os.defpath, **each.get("env", {}), MARK: mark(home, spec["release"], label)},
            cwd=folder, port=each.get("port", 0),
            health=Health(**each["health"]) if "health" in each else None,
            settle=each.get("settle", 0.05), stop_timeout=each.get("stop_timeout", 10.0),
            listen=("127.0.0.1", each["listen"]) if "listen" in each else None, limit=each.get("limit"),
            user=User(**each["user"]) if "user" in each else None,
        ))
    prepared = f"prepared {spec['release']}\\n" in notes
    once = [each for each in processes if each.limit is not None and not prepared]
    staying = tuple(each for each in processes if each.limit is None)
    return Formation(release=spec["release"], processes=staying, before=once[0] if once else None)

def wish(folder, last):
    wanted = load(folder, "wanted.json")
    token = (folder / "wanted.json").read_text()
    return Wish(token=token, same=token == last, wanted=wanted, good=load(folder, "good.json"))
"""
LOOKER = """
folder, command, *rest = sys.argv[1:]
if "--no-pull" not in rest:
    code = os.waitstatus_to_exitcode(os.system(command))
else:
    code = 0
with open(3, "wb") as answer:
    answer.write(wish(Path(folder), rest[rest.index("--last") + 1]).encode())
sys.exit(code)
"""
DRIVER = """
import fcntl
from gitrel.run.follow import Looker
from gitrel.run.sockets import inherited
from gitrel.run.supervise import Supervisor

folder = Path(sys.argv[1])

def note(text):
    with open(folder / "notes", "a") as file:
        file.write(text + "\\n")

class Recorder:
    def wanted(self, formation):
        pass

    def prepared(self, formation):
        note(f"prepared {formation.release}")

    def good(self, formation):
        note(f"good {formation.release}")

    def failed(self, formation, why, last_words):
        note(f"failed {formation.release}: {why}" + "".join(" / " + line.decode() for line in last_words))

def told(document):  # into the log itself, so that it shows which of the two came first
    os.write(1, f"status: {document['phase']} {document['release']}, failed {document['failed']}\\n".encode())

lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC)
fcntl.flock(lock, fcntl.LOCK_EX)
options = json.loads((folder / "options.json").read_text())
looker = Looker(
    argv=[sys.executable, "-c", sys.argv[2], str(folder), options.pop("poll", "true")],
    env={"PATH": os.defpath, "PYTHONPATH": os.environ["PYTHONPATH"], MARK: mark(str(folder), "-", "pull")},
    cwd=folder, interval=options.pop("interval", None), limit=options.pop("limit", 60.0),
)
options.setdefault("manager_env", os.environ)
if options.pop("told", False):
    options["observe"] = told
Supervisor(
    Recorder(), looker, wish(folder, ""), home=str(folder), status=folder / "status.json", output=1, hold=[lock],
    given=inherited(os.environ), **options,
).run()
"""


class Server:
    """One home, and the supervisor that runs on it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.process: subprocess.Popen[bytes] | None = None
        self.said = b""
        self.seen = 0

    def want(self, release: str, *processes: dict[str, Any], file: str = "wanted.json") -> None:
        new = self.folder / "new"
        new.write_text(json.dumps({"release": release, "processes": processes}))
        new.replace(self.folder / file)

    def start(self, *prefix: str, pass_fds: Sequence[int] = (), **options: Any) -> None:
        (self.folder / "options.json").write_text(json.dumps(options))
        self.process = subprocess.Popen(
            [*prefix, sys.executable, "-c", LOADING + DRIVER, str(self.folder), LOADING + LOOKER],
            stdout=subprocess.PIPE,
            pass_fds=pass_fds,
            env={"PYTHONPATH": str(REPOSITORY), "PATH": os.environ["PATH"], "SECRET": "x"},
        )  # fmt: skip
        self.said, self.seen = b"", 0

    @property
    def running(self) -> subprocess.Popen[bytes]:
        assert self.process is not None
        return self.process

    def expect(self, pattern: str, *, in_any_order: bool = False) -> re.Match[bytes]:
        """The next match in what it says, from where the last one ended, or `in_any_order` from the beginning."""
        if in_any_order:
            self.seen = 0
        assert self.running.stdout is not None
        fd = self.running.stdout.fileno()
        deadline = time.monotonic() + PATIENCE
        while (match := re.compile(pattern.encode()).search(self.said, self.seen)) is None:
            ready, _, _ = select.select([fd], [], [], max(0.0, deadline - time.monotonic()))
            data = os.read(fd, 65536) if ready else b""
            assert data, f"never said {pattern!r}:\n{self.said.decode(errors='replace')}"
            self.said += data
        self.seen = match.end()
        return match

    def pid(self, pattern: str) -> int:
        return int(self.expect(pattern + r" (\d+)\n")[1])

    def up(self, *patterns: str) -> None:
        """Until the first release is good and everything else was said, in whatever order."""
        for pattern in ("v1 is good", *patterns):
            self.expect(pattern, in_any_order=True)

    def signal(self, number: signal.Signals) -> None:
        self.running.send_signal(number)

    def stop(self) -> str:
        """TERM; it must end with 0 and leave nothing. Returns all that it said."""
        self.signal(signal.SIGTERM)
        assert self.rest() == 0
        assert of_home(str(self.folder)) == []
        return self.said.decode(errors="replace")

    def rest(self) -> int:
        output, _ = self.running.communicate(timeout=PATIENCE)
        self.said += output
        return self.running.returncode

    def status(self) -> dict[str, Any]:
        """Whatever a log line says of a release is in it; other changes may follow until the supervisor waits."""
        found: dict[str, Any] = json.loads((self.folder / "status.json").read_text())
        return found

    def settle(self, release: str) -> None:
        """Until the release is good, said so in the status file, and the supervisor has gone to wait."""
        stat = Path(f"/proc/{self.running.pid}/status")
        deadline = time.monotonic() + PATIENCE
        while "State:\tS" not in stat.read_text() or (
            (status := self.status())["phase"],
            status["release"],
        ) != ("steady", release):
            assert time.monotonic() < deadline, "it never went to wait"

    def notes(self) -> list[str]:
        return (self.folder / "notes").read_text().splitlines()

    def await_unlocked(self) -> None:
        """Until the guardian has let go: nothing of the home is left then."""
        with open(self.folder / "lock", "rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # a hang is pytest's timeout


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    made = Server(tmp_path)
    yield made
    if made.process is not None and made.process.poll() is None:
        made.process.kill()
        made.process.communicate()
        made.await_unlocked()


def await_end(pid: int) -> None:
    """Until it has ended; it may have already."""
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    assert select.select([fd], [], [], PATIENCE)[0] == [fd]
    os.close(fd)


def web(command: str, **more: Any) -> dict[str, Any]:
    return {"type": "web", "command": command, **more}


SLEEP = "echo pid $$; exec sleep 1000"
PYTHON = f"exec {sys.executable} -u -c "
