"""A team of three and a builder, its servers, its thieves and its auditors, for the walk-through of trust.

`team` and `template` are fixtures; what takes many commands is made once for a module.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from conftest import make_person
from handmade import called, keep, restored
from room import Desk, Done, Room, run

KINDS = ("trust", "builds", "config", "releases", "approvals")
APP = "while :; do sleep 1; done"


class Team:
    """alice, bob and carol release, two together; ci builds; v1 is alice's alone, from before, v2 is everybody's."""

    def __init__(self, room: Room, alice: Desk) -> None:
        self.room = room
        self.alice = alice
        self.env: dict[str, dict[str, str]] = {}
        self.pin: str = alice.gitrel("trust", "show", "--json").json["pin"]

    @property
    def bob(self) -> Desk:
        return self._desk("bob")

    @property
    def carol(self) -> Desk:
        return self._desk("carol")

    @property
    def ci(self) -> Desk:
        return self._desk("ci")

    def _desk(self, person: str) -> Desk:
        path = self.room.folder / person
        if path.exists():
            return Desk(path=path, env=self.env[person], remote=self.room.remote)
        desk = called(self.room.clone(person, person), person)
        self.env[person] = dict(desk.env)
        desk.gitrel("init", "--trust", self.pin)
        return desk

    def build(self, text: str) -> str:
        """A commit by alice, built by ci; the source's id."""
        self.alice.write("app.py", text)
        source = self.alice.commit()
        self.alice.git("push", "-q", "origin", "main")
        self.ci.git("pull", "-q")
        self.ci.gitrel("build")
        return source

    def release(self) -> str:
        """By alice and bob; its number."""
        number: str = self.alice.gitrel("release", "--json").json["release"]
        self.bob.gitrel("approve", number, "--yes")
        return number

    def change(self, *args: str) -> str:
        """A change of trust by alice and bob; its number."""
        number: str = self.alice.gitrel("trust", *args, "--yes", "--json").json["trust"]
        self.bob.gitrel("approve", f"trust/{number}", "--yes")
        return number


class Server:
    """A server's home."""

    def __init__(self, team: Team, name: str = "server") -> None:
        self.home = team.room.folder / name
        self.desk = team.alice

    def join(self, pin: str, code: int = 0) -> Done:
        assert self.desk.remote is not None
        return self.desk.gitrel("join", str(self.desk.remote), str(self.home), "--trust", pin, code=code)

    def pull(self, code: int = 0) -> Done:
        return self.desk.gitrel("pull", "--home", str(self.home), code=code)

    @property
    def status(self) -> dict[str, Any]:
        return self.desk.gitrel("status", "--home", str(self.home), "--json").json


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("template")


@pytest.fixture
def team(room: Room, template: Path, tmp_path_factory: pytest.TempPathFactory) -> Team:
    keys = tmp_path_factory.mktemp("more-keys")
    room.people = {**room.people, "carol": make_person("carol", keys)}
    alice = restored(room, template)
    if alice is None:
        alice = called(room.desk(), "alice")
        run(["git", "config", "uploadpack.allowFilter", "true"], room.remote, alice.env)
        alice.write("Procfile", f"web: {APP}\n")
        alice.manifest('[run.web]\nstop_timeout = "1s"\n')
        alice.git("push", "-q", "origin", "main")
        alice.gitrel("init")
        alice.gitrel("release")
        for person in ("bob", "carol", "ci"):
            alice.gitrel("trust", "add", person, f"{room.people[person].path}.pub", "--yes")
        alice.gitrel("trust", "set-role", "release", "alice", "bob", "carol", "--yes")
        alice.gitrel("trust", "set-role", "build", "ci", "--yes")
        alice.gitrel("trust", "set-role", "release", "alice", "bob", "carol", "--threshold", "2", "--yes")
        alice.gitrel("trust", "set-role", "root", "alice", "bob", "carol", "--yes")
        alice.gitrel("trust", "set-role", "root", "alice", "bob", "carol", "--threshold", "2", "--yes")
        keep(room, template)
    team = Team(room, alice)
    if "trust/v9" not in "".join(alice.remote_refs("refs/approvals/")):
        team.bob.gitrel("approve", "trust/v9", "--yes")
    return team


def thief(team: Team, person: str) -> Desk:
    """A machine with somebody's key, the ledgers, and stock git."""
    desk = team.room.clone(f"thief-{team.room.count}", person)
    desk.git("fetch", "-q", "origin", *(f"refs/{kind}/*:refs/{kind}/*" for kind in KINDS))
    return desk


def auditor(team: Team, name: str) -> Desk:
    """A plain mirror, on a machine that has only the pin."""
    path = team.room.folder / name
    env = team.room.machine("mallory")
    assert run(["git", "clone", "-q", "--mirror", str(team.room.remote), str(path)], team.room.folder, env).code == 0
    return Desk(path=path, env=env, remote=None)


def verdicts(team: Team, name: str, code: int) -> tuple[dict[str, str], Done]:
    """What `gitrel verify --all` says of each release, in a mirror."""
    mirror = auditor(team, name)
    done = mirror.gitrel("verify", "--all", "--trust", team.pin, "--remote", "none", code=code)
    rows = [line.split("  ") for line in done.out.splitlines() if line.startswith("v")]
    return {row[0]: row[1] for row in rows}, done
