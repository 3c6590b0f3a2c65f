"""Real small apps, and servers that run them.

    from apps import Shop, flask_app, host, shop     # `host` and `shop` are fixtures

    server = host(url, pin)                    # joined; `server.gitrel("pull")`, `server.state()`, …
    with server.running("--follow") as app:    # `gitrel run`, a program of its own
        app.expect("v1 is good")               # waits for a line of its log
        assert app.get() == "v1: hello"        # over HTTP

An app answers with `GITREL_RELEASE` and a text, so that an answer tells which release gave it.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from conftest import Person
from room import ROOT, Desk, Done, Room, files_of, gitrel, run

from gitrel.run.proctree import of_home

PATIENCE = 60.0
PYTHON = sys.executable
# What pip needs to reach its index: only those that this machine has are passed.
PIP = ["PIP_CACHE_DIR", *(name for name in os.environ if name.startswith("PIP_") or name.lower().endswith("_proxy"))]
NO_GIT = ("cat", "chmod", "env", "python3", "rm", "sh", "sleep", "uname")  # what a PATH without git has

_FLASK = """\
import os
from flask import Flask

app = Flask(__name__)


@app.get("/")
def page():
    return f"{os.environ['GITREL_RELEASE']}: %s"
"""

_NODE = """\
const text = require("./made.json").text
require("http")
  .createServer((request, response) => response.end(`${process.env.GITREL_RELEASE}: ${text}`))
  .listen(Number(process.env.PORT), "127.0.0.1")
"""

HEALTH = 'health = { path = "/", timeout = "30s" }\nstop_timeout = "5s"\n'


def flask_app(desk: Desk, text: str) -> str:
    """Flask and gunicorn, installed by the build from the package index; the commit's id."""
    desk.write("app.py", _FLASK % text)
    desk.write("requirements.txt", "flask\ngunicorn\n")
    desk.write("Procfile", f"web: {PYTHON} -m gunicorn --bind 127.0.0.1:$PORT --workers 2 app:app\n")
    command = f"{PYTHON} -m pip install -q -r requirements.txt --target vendor"
    return desk.manifest(
        f'[build]\ncommand = "{command}"\npass_env = {json.dumps(sorted(set(PIP)))}\n'
        f'[run.web]\n{HEALTH}[run.web.env]\nPYTHONPATH = "vendor"\n'
    )


def node_app(desk: Desk, text: str) -> str:
    """Node's http server; npm runs its build script, which makes a file that the source does not have."""
    script = f"""node -e 'require("fs").writeFileSync("made.json", JSON.stringify({{text: "{text}"}}))'"""
    desk.write("package.json", json.dumps({"name": "shop", "version": "1.0.0", "scripts": {"build": script}}))
    desk.write("app.js", _NODE)
    desk.write("Procfile", "web: exec node app.js\n")
    return desk.manifest(f'[build]\ncommand = "npm run --silent build"\n[run.web]\n{HEALTH}')


def plain_app(desk: Desk, command: str, manifest: str = '[run.web]\nsettle = "200ms"\nstop_timeout = "2s"\n') -> str:
    """One process type of any shell line."""
    desk.write("Procfile", f"web: {command}\n")
    return desk.manifest(manifest)


class Running:
    """A `gitrel run` and what it says."""

    def __init__(self, host: Host, process: subprocess.Popen[bytes]) -> None:
        self._host = host
        self.process = process
        self.said = b""
        self._seen = 0

    def expect(self, pattern: str) -> re.Match[bytes]:
        """The next match in its log, after the last one."""
        assert self.process.stdout is not None
        fd = self.process.stdout.fileno()
        deadline = time.monotonic() + PATIENCE
        while (match := re.compile(pattern.encode()).search(self.said, self._seen)) is None:
            ready, _, _ = select.select([fd], [], [], max(0.0, deadline - time.monotonic()))
            data = os.read(fd, 65536) if ready else b""
            assert data, f"never said {pattern!r}:\n{self.said.decode(errors='replace')}"
            self.said += data
        self._seen = match.end()
        return match

    def pid(self) -> int:
        return int(self.expect(r"web\.1 started: pid (\d+)")[1])

    def get(self) -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{self._host.port}/", timeout=10) as response:
            body: bytes = response.read()
            return body.decode()

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Signal it and wait; nothing that it started is left. Its exit status."""
        self.process.send_signal(number)
        output, _ = self.process.communicate(timeout=PATIENCE)
        self.said += output
        self._host.await_unlocked()
        assert of_home(str(self._host.path)) == []
        return self.process.returncode


@dataclass(frozen=True, slots=True)
class Host:
    """A server: a home, and an environment that knows nothing of the developers'."""

    path: Path
    env: Mapping[str, str]
    port: int

    def argv(self, *args: str) -> list[str]:
        return [PYTHON, "-P", "-m", "gitrel", *args]

    def attempt(self, *args: str, env: Mapping[str, str] | None = None) -> Done:
        """Run gitrel for this home, whatever comes of it."""
        return gitrel(list(args), self.path.parent, {**self.env, "GITREL_HOME": str(self.path), **(env or {})})

    def gitrel(self, *args: str, code: int = 0, env: Mapping[str, str] | None = None) -> Done:
        """Run gitrel for this home; any other exit status than `code` fails the test."""
        done = self.attempt(*args, env=env)
        assert done.code == code, f"gitrel {' '.join(args)}: {done.code} instead of {code}\n{done.out}{done.err}"
        assert "Traceback" not in done.err
        return done

    def join(self, url: str, pin: str, *args: str) -> Host:
        self.gitrel("join", url, str(self.path), "--trust", pin, *args)
        return self

    def start(self, *args: str, env: Mapping[str, str] | None = None) -> Running:
        argv = self.argv("run", "--home", str(self.path), "--port", str(self.port), "--interval", "0.3", *args)
        process = subprocess.Popen(
            argv,
            cwd=self.path.parent,
            env={**self.env, **(env or {})},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        return Running(self, process)

    @contextlib.contextmanager
    def running(self, *args: str, env: Mapping[str, str] | None = None) -> Iterator[Running]:
        """`gitrel run` for the length of the block; it ends with 0, and nothing of it is left."""
        app = self.start(*args, env=env)
        try:
            yield app
            assert app.end() == 0
        finally:
            if app.process.poll() is None:
                app.end(signal.SIGKILL)

    def status(self) -> dict[str, Any]:
        return self.gitrel("status", "--json").json

    def state(self) -> dict[str, Any]:
        """The home's memory, without what every pull writes down."""
        found: dict[str, Any] = json.loads((self.path / "state.json").read_text())
        return {name: value for name, value in found.items() if name not in ("contact", "trouble", "sights")}

    def snapshot(self) -> dict[str, Any]:
        """All of the home that a failed command leaves alone: every file, and the state."""
        return {**files_of(self.path, skip={"state.json"}), "state": self.state()}

    @property
    def current(self) -> str:
        """Which release the link names, through to files that are there."""
        assert (self.path / "current/Procfile").is_file()
        return Path(os.readlink(self.path / "current")).name

    def await_current(self, entry: str) -> None:
        """Until the supervisor has moved the link: it says that a release is good a moment before."""
        deadline = time.monotonic() + PATIENCE
        link = self.path / "current"
        while not link.is_symlink() or Path(os.readlink(link)).name != entry:
            assert time.monotonic() < deadline, f"current does not become {entry}"
        assert self.current == entry

    def fsck(self) -> None:
        """Stock git finds nothing wrong with the objects and refs."""
        argv = ["git", "-C", str(self.path / "repo.git"), "fsck", "--no-dangling", "--no-progress"]
        done = run(argv, self.path, self.env)
        said = [line for line in (done.out + done.err).splitlines() if not line.startswith("notice:")]
        assert (done.code, said) == (0, [])

    def await_unlocked(self) -> None:
        """Until the supervisor's guardian has let go: nothing that ran is left then."""
        with open(self.path / "run/run.lock", "rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # a hang is pytest's timeout

    def checkout(self, entry: str) -> Path:
        return (self.path / "releases" / entry).resolve()


def free_port() -> int:
    """One of many that nothing else takes: `bind` to 0 could hand it to the next test's client."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


@pytest.fixture
def host(tmp_path: Path) -> Callable[..., Host]:
    """Makes servers: `host(url, pin)` is joined, `host()` is not."""
    count = 0

    def make(url: str = "", pin: str = "", *, folder: Path | None = None, env: Mapping[str, str] | None = None) -> Host:
        nonlocal count
        count += 1
        home = tmp_path / f"server-{count}"
        home.mkdir()
        machine = {**sealed(home), "PYTHONPATH": str(ROOT), **(env or {})}
        made = Host(path=(folder or home) / "home", env=machine, port=free_port())
        return made.join(url, pin) if url else made

    return make


def sealed(home: Path) -> dict[str, str]:
    """An environment of a machine that has nothing but a PATH, and a HOME without a file."""
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(home),
        "TMPDIR": os.environ.get("TMPDIR", "/tmp"),
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_TERMINAL_PROMPT": "0",
        "PYTHONDONTWRITEBYTECODE": "1",
    }


@pytest.fixture
def without_git(tmp_path: Path) -> str:
    """A PATH of a few programs, git not among them."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in NO_GIT:
        found = shutil.which(name)
        assert found is not None, name
        (folder / name).symlink_to(found)
    return str(folder)


@dataclass(slots=True, kw_only=True)
class Shop:
    """A ledger of a small app, its developer and its remote; a copy of one that was made once."""

    desk: Desk
    pin: str
    releases: int = 0

    @property
    def url(self) -> str:
        return str(self.desk.remote)

    def release(self, command: str | None = None) -> str:
        """One more release of new files; its name."""
        if command is not None:
            self.desk.write("Procfile", f"web: {command}\n")
        self.releases += 1
        self.desk.write("text", f"{self.releases}\n")
        self.desk.commit(f"text {self.releases}")
        return self.publish("release")

    def publish(self, *args: str) -> str:
        name = self.desk.gitrel(*args, "--json").json["release"]
        self.releases = int(name[1:])
        return str(name)

    def push(self, oid: str, ref: str) -> None:
        """Past every check of gitrel's, with stock git."""
        self.desk.git("push", "-q", "origin", f"{oid}:{ref}")

    def at_remote(self, *args: str) -> str:
        assert self.desk.remote is not None
        done = run(["git", "-C", str(self.desk.remote), *args], self.desk.path, self.desk.env)
        assert done.code == 0, done.err
        return done.out.strip()

    @contextlib.contextmanager
    def as_of(self, release: int) -> Iterator[None]:
        """The remote as it was when that was the newest one, as far as releases go."""
        later = [f"refs/releases/v{number}" for number in range(release + 1, self.releases + 1)]
        kept = {ref: self.at_remote("rev-parse", ref) for ref in later}
        for ref in later:
            self.at_remote("update-ref", "-d", ref)
        yield
        for ref, oid in kept.items():
            self.at_remote("update-ref", ref, oid)

    def allow_filter(self) -> None:
        self.at_remote("config", "uploadpack.allowFilter", "true")


Change = Callable[[Shop], object]


@dataclass(slots=True)
class Farm:
    """Ledgers made once a session, by number of releases and by what was done after them."""

    folder: Path
    people: Mapping[str, Person]
    made: dict[tuple[int, Change | None], tuple[Path, Shop]] = field(default_factory=dict)

    def copy(self, releases: int, to: Path, change: Change | None = None) -> Shop:
        if (releases, change) not in self.made:
            self.made[releases, change] = self._make(releases, change)
        folder, shop = self.made[releases, change]
        shutil.copytree(folder, to, symlinks=True)
        room = self._room(to)
        desk = Desk(path=to / "shop", env=room.env, remote=to / "remote.git")
        desk.git("remote", "set-url", "origin", str(desk.remote))
        return Shop(desk=desk, pin=shop.pin, releases=shop.releases)

    def _make(self, releases: int, change: Change | None) -> tuple[Path, Shop]:
        folder = self.folder / f"shop-{len(self.made)}"
        folder.mkdir()
        env = {**sealed(folder), "PYTHONPATH": str(ROOT)}
        room = Room(folder=folder, env=env, people=self.people)
        desk = room.desk()
        plain_app(desk, "echo up; exec sleep 1000")
        shop = Shop(desk=desk, pin=desk.gitrel("init", "--json").json["pin"])
        for number in range(releases):
            shop.release("cat text" if number and releases > 2 else None)
        if change is not None:
            change(shop)
        return folder, shop

    def _room(self, folder: Path) -> Room:
        machine = folder / "machine-1"
        env = {
            **sealed(machine),
            "GIT_CONFIG_GLOBAL": str(machine / ".gitconfig"),
            "TMPDIR": str(folder / "tmp-1"),
            "PYTHONPATH": str(ROOT),
        }
        return Room(folder=folder, env=env, people=self.people)


@pytest.fixture(scope="session")
def farm(tmp_path_factory: pytest.TempPathFactory, people: dict[str, Person]) -> Farm:
    return Farm(tmp_path_factory.mktemp("farm"), people)


@pytest.fixture
def shop(farm: Farm, tmp_path: Path) -> Callable[..., Shop]:
    """`shop(n)`: a ledger of n releases, this test's own. `shop(n, change)`: what a function of a module made of it."""
    return lambda releases, change=None: farm.copy(releases, tmp_path / "dev", change)
