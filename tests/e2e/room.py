"""A room for command tests: developers at their machines, one remote, and `gitrel` run as a program of its own.

    from room import Room, room        # `room` is a fixture

    desk = room.desk("shop")           # a repository with a small app, and `origin`, a bare one
    desk.gitrel("init")                # raises unless it exits 0
    before = desk.snapshot()
    failed = desk.gitrel("release", code=16)
    assert desk.snapshot() == before

HOME, keys, git's configuration and dates are fixed, so ids are the same in every run.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from conftest import FIXED_DATE, GIT_CONFIG, Person
from forked import FRESH, Forker

ROOT = Path(__file__).parents[2]
PROCFILE = "web: python3 app.py\nworker: python3 worker.py --queue mail\n"
NAMESPACES = ("refs/trust/", "refs/config/", "refs/builds/", "refs/releases/")
_PATIENCE = 250  # seconds for one command; some builds bring half a package index


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """What became of a program."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        """The one JSON document on stdout."""
        document = json.loads(self.out)
        assert isinstance(document, dict)
        return document

    @property
    def message(self) -> dict[str, str]:
        """The error as people read it: `what`, `where`, `why`, `next`, each as far as it is there."""
        parts: dict[str, str] = {}
        label = ""
        for line in self.err.splitlines():
            head, colon, text = line.strip().partition(": ")
            if line.startswith("gitrel: "):
                parts, label = {"what": line.removeprefix("gitrel: ")}, "what"
            elif parts and colon and head in ("where", "why", "next"):
                parts[head] = text
                label = head
            elif label:
                parts[label] += f"\n{line}"
        return parts


def run(argv: list[str], cwd: Path, env: Mapping[str, str], stdin: bytes = b"") -> Done:
    """Run a program to its end."""
    done = subprocess.run(argv, cwd=cwd, env=env, input=stdin, capture_output=True, check=False, timeout=_PATIENCE)
    return Done(code=done.returncode, out=done.stdout.decode(), err=done.stderr.decode())


@cache
def _forker() -> Forker:
    return Forker()


def gitrel(args: list[str], cwd: Path, env: Mapping[str, str]) -> Done:
    """Run gitrel to its end, in a process of its own, without the time that its imports take."""
    if FRESH:
        return run([sys.executable, "-P", "-m", "gitrel", *args], cwd, env)
    done = _forker().run(args, cwd, env, b"", _PATIENCE)
    return Done(code=done.returncode, out=done.stdout.decode(), err=done.stderr.decode())


@dataclass(frozen=True, slots=True, kw_only=True)
class Desk:
    """One person's repository on one machine. `remote` None: the repository has none."""

    path: Path
    env: Mapping[str, str]
    remote: Path | None

    @property
    def home(self) -> Path:
        return Path(self.env["HOME"])

    def argv(self, *args: str) -> list[str]:
        return [sys.executable, "-P", "-m", "gitrel", *args]

    def environment(self, env: Mapping[str, str | None] | None = None) -> dict[str, str]:
        """The machine's environment with changes; None removes a variable."""
        merged = {**self.env, **(env or {})}
        return {name: value for name, value in merged.items() if value is not None}

    def gitrel(
        self, *args: str, code: int = 0, env: Mapping[str, str | None] | None = None, cwd: Path | None = None
    ) -> Done:
        """Run gitrel; any other exit status than `code` fails the test."""
        done = gitrel(list(args), cwd or self.path, self.environment(env))
        assert done.code == code, f"gitrel {' '.join(args)}: {done.code} instead of {code}\n{done.out}{done.err}"
        assert "Traceback" not in done.err
        return done

    def start(self, *args: str, env: Mapping[str, str | None] | None = None) -> subprocess.Popen[bytes]:
        """Start gitrel in a process group of its own, and do not wait."""
        return subprocess.Popen(
            self.argv(*args),
            cwd=self.path,
            env=self.environment(env),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )

    def attempt(self, *args: str, stdin: bytes = b"", env: Mapping[str, str | None] | None = None) -> Done:
        """Run stock git, however it ends."""
        dated = {"GIT_AUTHOR_DATE": FIXED_DATE, **(env or {})}
        return run(["git", *args], self.path, self.environment(dated), stdin)

    def git(self, *args: str, stdin: bytes = b"", env: Mapping[str, str | None] | None = None) -> str:
        """What stock git prints, without the final newline; its failure is the test's."""
        done = self.attempt(*args, stdin=stdin, env=env)
        assert done.code == 0, f"git {' '.join(args)}: {done.code}\n{done.out}{done.err}"
        return done.out.removesuffix("\n")

    def write(self, name: str, text: str, mode: int = 0o644) -> Path:
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(mode)
        return path

    def commit(self, message: str = "change") -> str:
        """Everything in the folder as a commit; its id."""
        self.git("add", "-A")
        self.git("commit", "-q", "-m", message)
        return self.git("rev-parse", "HEAD")

    def manifest(self, text: str = "") -> str:
        """A committed `gitrel.toml` of the app shop; the commit's id."""
        self.write("gitrel.toml", f'app = "shop"\n{text}')
        return self.commit("gitrel.toml")

    def refs(self, prefix: str = "refs/") -> dict[str, str]:
        """The repository's refs below `prefix`, by full name."""
        return refs_of(self.path, self.env, prefix)

    def remote_refs(self, prefix: str = "refs/") -> dict[str, str]:
        assert self.remote is not None
        return refs_of(self.remote, self.env, prefix)

    def raw(self, rev: str, kind: str = "commit") -> bytes:
        """An object's bytes."""
        argv = ["git", "cat-file", kind, rev]
        return subprocess.run(argv, cwd=self.path, env=self.env, capture_output=True, check=True).stdout

    def store(self, raw: bytes, kind: str = "commit") -> str:
        """Put an object of any bytes into the repository; its id."""
        return self.git("hash-object", "-t", kind, "--literally", "-w", "--stdin", stdin=raw)

    def fsck(self) -> None:
        """Stock git finds no fault, here and on the remote."""
        for folder in filter(None, (self.path, self.remote)):
            done = run(["git", "-C", str(folder), "fsck", "--strict", "--no-dangling"], self.path, self.env)
            said = [line for line in (done.out + done.err).splitlines() if not line.startswith("notice:")]
            assert (done.code, said) == (0, []), f"{folder}: {said}"

    def snapshot(self) -> dict[str, object]:
        """All that a failed command must leave alone: refs here and there, `git status`, files, home, temporary files.

        Objects that nothing points at may stay; half-written ones and locks may not.
        """
        status = self.attempt("status", "--porcelain", "-z", "--ignored", env={"GIT_OPTIONAL_LOCKS": "0"})
        common = Path(self.git("rev-parse", "--path-format=absolute", "--git-common-dir"))
        return {
            "refs": self.refs(),
            "remote": self.remote_refs() if self.remote and (self.remote / "HEAD").is_file() else {},
            "status": (status.code, status.out),
            "files": files_of(self.path, skip={common.name} if common.parent == self.path else set()),
            "git": files_of(common, skip={"objects", "index"}),
            "worktrees": self.git("worktree", "list"),
            "half": [str(path) for path in common.rglob("*") if path.suffix == ".lock" or "tmp" in path.name],
            "home": files_of(self.home, skip=set()),
            "temporary": files_of(Path(self.env["TMPDIR"]), skip=set()),
        }


def refs_of(folder: Path, env: Mapping[str, str], prefix: str = "refs/") -> dict[str, str]:
    listing = run(["git", "-C", str(folder), "for-each-ref", "--format=%(refname) %(objectname)", prefix], folder, env)
    assert listing.code == 0, listing.err
    return dict(line.split(" ") for line in listing.out.splitlines())


def files_of(folder: Path, skip: set[str]) -> dict[str, str]:
    """Every entry below a folder, without those of its top that `skip` names: kind, mode and content."""
    found: dict[str, str] = {}
    for top in sorted(folder.iterdir()):
        if top.name not in skip:
            for path in [top, *sorted(top.rglob("*"))] if top.is_dir() and not top.is_symlink() else [top]:
                found[str(path.relative_to(folder))] = _described(path)
    return found


def _described(path: Path) -> str:
    mode = path.lstat().st_mode
    if stat.S_ISLNK(mode):
        return f"link to {os.readlink(path)}"
    content = hashlib.sha256(path.read_bytes()).hexdigest() if stat.S_ISREG(mode) else ""
    return f"{mode:o} {content}"


@dataclass(slots=True, kw_only=True)
class Room:
    """The machines. `env` is what they have in common; each has its own HOME."""

    folder: Path
    env: dict[str, str]
    people: Mapping[str, Person]
    shelf: Path | None = None  # keeps what many rooms begin with
    remote: Path = field(init=False)
    count: int = 0

    def __post_init__(self) -> None:
        self.remote = self.folder / "remote.git"

    def machine(self, person: str = "alice") -> dict[str, str]:
        """A new HOME with a person's key; the environment on that machine."""
        self.count += 1
        home = self.folder / f"machine-{self.count}"
        (home / ".ssh").mkdir(parents=True, mode=0o700)
        (home / ".gitconfig").write_text(GIT_CONFIG)
        key = self.people[person].path
        shutil.copy2(key, home / ".ssh/id_ed25519")
        shutil.copy2(f"{key}.pub", home / ".ssh/id_ed25519.pub")
        (self.folder / f"tmp-{self.count}").mkdir()
        return self._env_of(self.count)

    def bare(self, object_format: str = "sha1") -> Path:
        """The remote: an empty bare repository."""
        argv = ["git", "init", "-q", "--bare", f"--object-format={object_format}", str(self.remote)]
        assert run(argv, self.folder, self.env).code == 0
        return self.remote

    def desk(self, name: str = "shop", *, remote: bool = True, object_format: str = "sha1") -> Desk:
        """A repository with an app of two commits, made on a new machine, and its `origin`."""
        path = self.folder / name
        desk = Desk(path=path, env=self.machine(), remote=self.bare(object_format) if remote else None)
        path.mkdir()
        desk.git("init", "-q", f"--object-format={object_format}")
        if remote:
            desk.git("remote", "add", "origin", str(self.remote))
        desk.write("Procfile", PROCFILE)
        desk.write("app.py", "print('hello')\n")
        desk.write("bin/migrate", "#!/bin/sh\nexit 0\n", 0o755)
        (desk.path / "latest").symlink_to("bin/migrate")
        desk.commit("first")
        desk.manifest()
        return desk

    def started(self, name: str = "shop", *, remote: bool = True) -> Desk:
        """A desk after `gitrel init`: made anew, or a copy if this is the first that the room is asked for."""
        if self.shelf is None or name != "shop" or any(self.folder.iterdir()):
            return self._start(name, remote=remote)
        kept = self.shelf / ("with-remote" if remote else "alone")
        if not kept.exists():
            desk = self._start(name, remote=remote)
            shutil.copytree(self.folder, kept, symlinks=True)
            return desk
        shutil.copytree(kept, self.folder, symlinks=True, dirs_exist_ok=True)
        self.count = 1
        desk = Desk(path=self.folder / name, env=self._env_of(1), remote=self.remote if remote else None)
        if remote:
            desk.git("remote", "set-url", "origin", str(self.remote))
        return desk

    def _start(self, name: str, *, remote: bool) -> Desk:
        desk = self.desk(name, remote=remote)
        desk.gitrel("init")
        return desk

    def _env_of(self, machine: int) -> dict[str, str]:
        home, tmp = self.folder / f"machine-{machine}", self.folder / f"tmp-{machine}"
        changes = {"HOME": str(home), "GIT_CONFIG_GLOBAL": str(home / ".gitconfig"), "TMPDIR": str(tmp)}
        return {**self.env, **changes}

    def clone(self, name: str, person: str = "alice") -> Desk:
        """A second clone of the remote's app, on a new machine; the app's branch has to be there."""
        desk = Desk(path=self.folder / name, env=self.machine(person), remote=self.remote)
        done = run(["git", "clone", "-q", str(self.remote), str(desk.path)], self.folder, desk.env)
        assert done.code == 0, done.err
        return desk


@pytest.fixture
def room(home: Path, people: dict[str, Person], tmp_path: Path, shelf: Path) -> Room:
    """The sealed room of `conftest`, with machines in it."""
    env = {
        **os.environ,
        "GIT_COMMITTER_DATE": FIXED_DATE,
        "PYTHONPATH": str(ROOT),  # the tree under test, installed or not
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    return Room(folder=tmp_path, env=env, people=people, shelf=shelf)
