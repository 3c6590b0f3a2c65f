"""With which key a server reads its secrets: each that `gitrel join` may choose, read by gitrel and by `age -d`."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from apps import Host, host, plain_app
from conftest import program
from handmade import keep, restored
from room import Desk, Done, Room, files_of, room, run

__all__ = ["host", "room"]  # fixtures

CANARY = "canary-of-the-identity"
# A machine whose /etc/ssh is another folder: what the test's own host has there plays no part.
ELSEWHERE = 'mount --bind "$1" /etc/ssh && shift && exec "$@"'


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("template")


@pytest.fixture
def desk(room: Room, template: Path) -> Desk:
    """An app at v1, whose one process prints a variable."""
    desk = restored(room, template)
    if desk is None:
        desk = room.desk()
        plain_app(desk, "printf %s $DB")
        desk.gitrel("init")
        desk.gitrel("release")
        keep(room, template)
    return desk


def keygen(path: Path, passphrase: str = "") -> Path:
    argv = ["ssh-keygen", "-q", "-t", "ed25519", "-N", passphrase, "-C", f"root@{path.name}", "-f", str(path)]
    subprocess.run(argv, check=True)
    return path


def public(key: Path) -> str:
    return key.with_suffix(".pub").read_text().strip()


@dataclass(frozen=True)
class Machine:
    """A server with an /etc/ssh of its own."""

    desk: Desk
    server: Host
    etc: Path

    def gitrel(self, *args: str, code: int = 0) -> Done:
        space = [program("unshare"), "--mount", "--map-root-user", "sh", "-c", ELSEWHERE, "sh", str(self.etc)]
        env = {**self.server.env, "GITREL_HOME": str(self.server.path)}
        done = run([*space, *self.server.argv(*args)], self.server.path.parent, env)
        assert done.code == code, done.out + done.err
        return done

    def join(self, *args: str, code: int = 0) -> Done:
        pin = self.desk.gitrel("init", "--json").json["pin"]
        url = str(self.desk.remote)
        return self.gitrel("join", url, str(self.server.path), "--trust", pin, "--json", *args, code=code)

    def reads_with(self, key: Path, *args: str) -> None:
        """Joined, it prints that key's reader line; what is encrypted to the line, gitrel and age read with the key."""
        reader = self.join(*args).json["reader"]
        assert self.join().json["reader"] == reader, "asked again, it says the same"
        self.desk.gitrel("trust", "add-reader", "--yes", reader)
        self.desk.gitrel("config", "set", "--secret", f"DB={CANARY}", "--release")
        assert self.gitrel("pull").out == "v2\n"
        assert self.gitrel("exec", "web").out == CANARY
        raw = subprocess.run(
            ["git", "show", "refs/releases/v2:config/DB.age"], cwd=self.desk.path, capture_output=True, check=True
        ).stdout
        plain = subprocess.run([program("age"), "-d", "-i", str(key)], input=raw, capture_output=True, check=True)
        assert plain.stdout.decode() == CANARY
        assert self.desk.gitrel("config", "get", "--reveal", "DB", "--identity", str(key)).out == f"{CANARY}\n"


@pytest.fixture
def machine(desk: Desk, host: Callable[..., Host], tmp_path: Path) -> Machine:
    (tmp_path / "etc").mkdir()
    server = host()
    (Path(server.env["HOME"]) / ".ssh").mkdir(mode=0o700)
    return Machine(desk, server, tmp_path / "etc")


def test_the_hosts_key_comes_first(machine: Machine) -> None:
    keygen(Path(machine.server.env["HOME"]) / ".ssh/id_ed25519")
    machine.reads_with(keygen(machine.etc / "ssh_host_ed25519_key"))


@pytest.mark.parametrize("fault", ["none", "locked", "no public half", "another public half", "no key"])
def test_the_users_key_comes_next(machine: Machine, fault: str, tmp_path: Path) -> None:
    """Where the host has none, or one that does not serve."""
    key = machine.etc / "ssh_host_ed25519_key"
    if fault == "no key":
        key.write_text("-----BEGIN OPENSSH PRIVATE KEY-----\n")
    elif fault != "none":
        keygen(key, "secret" if fault == "locked" else "")
    if fault == "no public half":
        key.with_suffix(".pub").unlink()
    elif fault == "another public half":
        keygen(tmp_path / "newer").with_suffix(".pub").replace(key.with_suffix(".pub"))
    machine.reads_with(keygen(Path(machine.server.env["HOME"]) / ".ssh/id_ed25519"))


def test_the_last_is_a_new_one_of_its_own(machine: Machine) -> None:
    keygen(Path(machine.server.env["HOME"]) / ".ssh/id_ed25519", "nobody types this at 3 a.m.")
    own = machine.server.path / "identity.age"
    machine.reads_with(own)
    assert own.stat().st_mode & 0o777 == 0o600
    moved = machine.server.path.rename(machine.server.path.with_name("moved"))
    done = run(machine.server.argv("exec", "web", "--home", str(moved)), moved.parent, machine.server.env)
    assert done.out == CANARY, "it is named without the folder, which may move"


@pytest.mark.parametrize("kind", ["ssh", "age"])
def test_one_that_is_named(machine: Machine, kind: str, tmp_path: Path) -> None:
    keygen(machine.etc / "ssh_host_ed25519_key")
    named = tmp_path / "named"
    if kind == "ssh":
        keygen(named)
    else:
        subprocess.run([program("age-keygen"), "-o", str(named)], capture_output=True, check=True)
    machine.reads_with(named, "--identity", str(named))


def test_one_that_will_not_do(machine: Machine, tmp_path: Path) -> None:
    with unchanged(machine.server.path.parent):
        for path in (tmp_path / "none", keygen(tmp_path / "locked", "secret")):
            assert machine.join("--identity", str(path), code=17).json["error"]["where"] == str(path)
    machine.join()
    before = machine.server.state()["identity"]
    machine.join("--identity", str(tmp_path / "none"), code=17)
    assert machine.server.state()["identity"] == before


@contextmanager
def unchanged(folder: Path) -> Iterator[None]:
    before = files_of(folder, skip=set())
    yield
    assert files_of(folder, skip=set()) == before


def test_another_one_later(machine: Machine, tmp_path: Path) -> None:
    first = machine.join().json["reader"]
    other = keygen(tmp_path / "web9")
    assert machine.join("--identity", str(other)).json["reader"] == public(other) != first
    assert machine.join().json["reader"] == public(other)
    # a home from before there were identities
    path = machine.server.path / "state.json"
    before = json.loads(path.read_text())
    path.write_text(json.dumps({k: v for k, v in before.items() if k not in ("identity", "lacking", "configured")}))
    assert machine.gitrel("pull").out == "v1\n"
    assert machine.join().json["reader"] == first


def test_the_key_of_the_machine_that_this_is(desk: Desk, host: Callable[..., Host]) -> None:
    server = host()
    pin = desk.gitrel("init", "--json").json["pin"]
    reader = server.gitrel("join", str(desk.remote), str(server.path), "--trust", pin, "--json").json["reader"]
    host_key = Path("/etc/ssh/ssh_host_ed25519_key")
    if os.access(host_key, os.R_OK):
        assert reader == public(host_key)
    else:
        assert reader.startswith("age1")
