"""A ledger of more than a thousand releases: a command looks at what is new, and notices all that it would otherwise.

What is counted: refs that a server lists, as git's own trace has them, and signatures that are verified. The ledger is
made in memory, with the keys that the tests of trust use.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import bench.ledger_rows  # noqa: F401  (it knows where the simulator is)
import pytest
from apps import Host, host
from cryptography.hazmat.primitives import serialization
from handmade import keep, restored
from keys_support import ed25519_key
from room import Desk, Room, refs_of, room
from simulator import FILES, Simulator

from gitrel.cli import stage_release
from gitrel.cli.console import Console
from gitrel.format.record import AnyRecord, Signed
from gitrel.ids import KeyId, ObjectId
from gitrel.release.remembered import KEEP
from gitrel.run.files import prune
from gitrel.run.home import Home
from gitrel.store import repack
from gitrel.store.pack import PackWriter
from gitrel.store.repack import reachable
from gitrel.store.repository import Repository
from gitrel.trust import walk
from gitrel.trust.signers import verify_signature

__all__ = ["host", "room"]  # fixtures

LONG = 1150
NEWS = 250  # refs; all of the ledgers' are 1,800
Hosts = Callable[..., Host]


@pytest.fixture(scope="module")
def long() -> Simulator:
    sim = Simulator()
    sim.trust()
    config, build = sim.config(), sim.build()
    for number in range(1, LONG + 1):
        if number % 300 == 0:
            sim.trust()
        if number % 10 == 0:
            config = sim.config({"LOG_LEVEL": b"%d" % number})
        if number % 2 == 0:
            build = sim.build({**FILES, "version": b"%d" % number})
        sim.release(build, config)
    return sim


class Ledger:
    """A remote with the simulator's records, and a developer who has them; made once for a module."""

    def __init__(self, room: Room, sim: Simulator, template: Path) -> None:
        self.sim = sim
        self.pin = sim.trusts[0].id.sha256
        if (desk := restored(room, template)) is not None:
            self.desk = desk
            return
        self.desk = self.give_key(room.desk())
        self.put()
        self.desk.git("-C", str(self.url), "config", "uploadpack.allowFilter", "true")
        self.desk.git("-C", str(self.url), "config", "uploadpack.allowAnySHA1InWant", "true")
        self.desk.gitrel("init", "--trust", self.pin)
        self.desk.gitrel("log", "-n", "1")
        keep(room, template)

    @property
    def url(self) -> Path:
        assert self.desk.remote is not None
        return self.desk.remote

    @staticmethod
    def give_key(desk: Desk) -> Desk:
        encoding, form = serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH
        raw = ed25519_key("alice").private.private_bytes(encoding, form, serialization.NoEncryption())
        (desk.home / ".ssh/id_ed25519").write_bytes(raw)
        (desk.home / ".ssh/id_ed25519.pub").write_text(f"{ed25519_key('alice').line}\n")
        return desk

    def put(self) -> None:
        """Everything of the simulator's, packed, as a git host keeps it."""
        with Repository.open(self.url) as repo, PackWriter(repo) as pack:
            for kind, data in self.sim.objects.values():
                pack.add(kind, data)
            pack.finish()
        ours = {**refs_of(self.url, self.desk.env), **self.sim.refs}
        lines = "".join(f"{oid} {name}\n" for name, oid in sorted(ours.items()))
        (self.url / "packed-refs").write_text(f"# pack-refs with: sorted \n{lines}")

    def there(self, prefix: str = "refs/") -> dict[str, str]:
        return refs_of(self.url, self.desk.env, prefix)

    def move(self, name: str, to: str) -> None:
        self.desk.git("-C", str(self.url), "update-ref", name, to)


class Trace:
    """What git's servers say, from now on."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "packets"
        self.env = {"GIT_TRACE_PACKET": str(self.path)}

    def listed(self, service: str = "upload-pack") -> int:
        """How many refs they listed."""
        lines = self.path.read_text(errors="replace").splitlines()
        self.path.unlink()
        return sum(re.search(rf" {service}> [0-9a-f]{{40}} refs/", line) is not None for line in lines)


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("template")


@pytest.fixture
def ledger(room: Room, long: Simulator, template: Path) -> Ledger:
    return Ledger(room, long.fork(), template)


@pytest.fixture
def trace(tmp_path: Path) -> Trace:
    return Trace(tmp_path)


def test_a_developer_asks_for_news(ledger: Ledger, trace: Trace) -> None:
    before = len(ledger.there())
    ledger.desk.gitrel("rollback", env=trace.env)
    assert 0 < trace.listed() < NEWS
    ledger.desk.gitrel("config", "set", "A=1", env=trace.env)
    assert 0 < trace.listed() < NEWS
    builds = len(ledger.there("refs/builds/"))
    ledger.desk.gitrel("release", env=trace.env)  # a build of this commit may have been made anywhere
    assert trace.path.exists()
    assert builds <= trace.listed() < builds + NEWS
    assert len(ledger.there()) == before + 4
    assert ledger.there("refs/releases/") == refs_of(ledger.desk.path, ledger.desk.env, "refs/releases/")
    ledger.desk.gitrel("verify")
    ledger.desk.fsck()


def test_a_push_has_all_listed_and_that_is_used(ledger: Ledger, trace: Trace) -> None:
    """What the protocol costs anyway (gitprotocol-pack(5), Reference Discovery)."""
    count = len(ledger.there())
    lonely = ledger.desk.gitrel("build", "--remote", "none", "--json").json["ref"]
    assert lonely not in ledger.there()
    ledger.desk.gitrel("rollback", env=trace.env)
    assert trace.listed("receive-pack") >= count - 1
    assert lonely in ledger.there()


def test_what_others_did_meanwhile_comes_along(ledger: Ledger, room: Room, trace: Trace) -> None:
    other = ledger.give_key(Desk(path=room.folder / "other", env=room.machine(), remote=ledger.url))
    other.path.mkdir()
    other.git("init", "-q")
    other.git("remote", "add", "origin", str(ledger.url))
    other.write("Procfile", "web: sleep 50\n")
    other.manifest()
    other.gitrel("init", "--trust", ledger.pin)
    other.gitrel("config", "set", "B=2")
    other.gitrel("release")
    other.gitrel("rollback")
    ledger.desk.gitrel("rollback", "--keep-config", env=trace.env)
    assert trace.listed() < 2 * NEWS
    mine = refs_of(ledger.desk.path, ledger.desk.env)
    assert ledger.there().items() <= mine.items()
    assert max(int(name.rpartition("v")[2]) for name in mine if name.startswith("refs/releases/")) == LONG + 3
    ledger.desk.gitrel("verify")


@pytest.mark.parametrize("many", [3, 849, 2000])
def test_many_releases_at_once(ledger: Ledger, trace: Trace, many: int) -> None:
    sim = ledger.sim
    build, config = sim.build({**FILES, "version": b"more"}), sim.config({"LOG_LEVEL": b"more"})
    for _ in range(many):
        sim.release(build, config)
    ledger.put()
    said = ledger.desk.gitrel("rollback", env=trace.env)
    assert said.out.startswith(f"v{LONG + many + 1} ")
    assert trace.listed() < NEWS + (2 * many if many < 850 else 8 * LONG)
    assert ledger.there().items() <= refs_of(ledger.desk.path, ledger.desk.env).items()


@pytest.mark.parametrize(
    "name", [f"refs/releases/v{LONG}", "refs/releases/v500", "refs/trust/v1", "refs/config/v7", "build"]
)
def test_a_record_that_was_replaced_at_the_remote_is_noticed(ledger: Ledger, name: str) -> None:
    name = next(iter(ledger.there("refs/builds/"))) if name == "build" else name
    ledger.move(name, ledger.there()["refs/releases/v499"])
    before = ledger.there()
    refused = ledger.desk.gitrel("rollback", code=10)
    assert "another record under this name (check 13)" in refused.message["what"]
    assert refused.message["where"] == name
    assert ledger.there() == before


def test_records_are_verified_once_for_a_command(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    verified: list[str] = []
    for key, value in ledger.desk.env.items():
        monkeypatch.setenv(key, value)

    def counted(signed: Signed[AnyRecord], where: str) -> KeyId:
        verified.append(where)
        return verify_signature(signed, where)

    monkeypatch.setattr(walk, "verify_signature", counted)
    stage_release.rollback(Console(as_json=False), ledger.desk.path, None, "production", None, None, False, None)
    assert capsys.readouterr().out.startswith(f"v{LONG + 1} ")
    releases = [where for where in verified if where.startswith("refs/releases/")]
    assert len(releases) == len(set(releases))
    assert KEEP <= len(releases) <= 2 * KEEP
    assert len(verified) == len(set(verified)) < 4 * KEEP


def pulled(ledger: Ledger, host: Hosts) -> Host:
    server = host(str(ledger.url), ledger.pin)
    server.gitrel("pull")
    return server


def test_a_server_asks_for_news(ledger: Ledger, host: Hosts, trace: Trace) -> None:
    server = pulled(ledger, host)
    assert server.gitrel("pull", env=trace.env).out == f"v{LONG} (nothing new)\n"
    assert 0 < trace.listed() < NEWS
    ledger.desk.gitrel("rollback")
    assert server.gitrel("pull", env=trace.env).out == f"v{LONG + 1}\n"
    assert 0 < trace.listed() < NEWS
    ledger.desk.gitrel("config", "set", "A=1")
    bad = ledger.desk.git("commit-tree", "HEAD^{tree}", "-m", "no release")
    ledger.desk.git("push", "-q", "origin", f"{bad}:refs/releases/v{LONG + 2}")
    refused = server.gitrel("pull", code=10, env=trace.env)
    assert refused.message["where"] == f"refs/releases/v{LONG + 2}"
    assert trace.listed() < NEWS
    assert server.state()["configured"] == f"v{LONG // 10 + 2}"
    assert server.state()["ready"] == f"v{LONG + 1}"


@pytest.mark.parametrize("many", [450, 1900])
def test_a_server_that_was_off_for_long(ledger: Ledger, host: Hosts, trace: Trace, many: int) -> None:
    server = pulled(ledger, host)
    sim = ledger.sim
    build, config = sim.build({**FILES, "version": b"more"}), sim.config({"LOG_LEVEL": b"more"})
    for _ in range(many):
        sim.release(build, config)
    ledger.put()
    assert server.gitrel("pull", env=trace.env).out == f"v{LONG + many}\n"
    assert trace.listed() < NEWS + (many if many < 850 else 8 * LONG)
    assert len(refs_of(server.path / "repo.git", server.env, "refs/releases/")) == LONG + many


@pytest.mark.parametrize("what", ["newest gone", "newest replaced", "trust replaced", "trust gone"])
def test_a_server_notices_what_was_taken_back(ledger: Ledger, host: Hosts, what: str) -> None:
    server = pulled(ledger, host)
    before = server.state()
    kind, _, how = what.partition(" ")
    name = f"refs/releases/v{LONG}" if kind == "newest" else "refs/trust/v2"
    if how == "gone":
        ledger.desk.git("-C", str(ledger.url), "update-ref", "-d", name)
    else:
        ledger.move(name, ledger.there()["refs/releases/v7"])
    refused = server.gitrel("pull", code=10)
    assert refused.message["where"] == name
    after: Mapping[str, object] = server.state()
    assert after["seen"] == before["seen"]
    assert after["current"] == before["current"]


def test_a_prune_reads_all_records_only_when_it_may_be_worth_it(
    ledger: Ledger, host: Hosts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is dropped is little beside what is there, three times; then most of what is there."""
    server = host(str(ledger.url), ledger.pin)
    noise = random.Random(1)
    shared, large = noise.randbytes(1_000_000), [noise.randbytes(3_000_000) for _ in range(2)]
    for number in range(9):
        files = {**FILES, "version": b"n%d" % number, "shared": shared}
        ledger.sim.release(ledger.sim.build({**files, "large": large[number // 5]}), None)
        ledger.put()
        server.gitrel("pull", "--keep", "0")
    looks: list[int] = []

    def counted(*args: Any) -> set[ObjectId]:
        looks.append(len(looks))
        return reachable(*args)

    monkeypatch.setattr(repack, "reachable", counted)
    home = Home(server.path)
    seen = []
    for number in (8, 7, 6, 4, 3):
        pruned = prune(home, number, thrifty=True)
        assert len(pruned.kept) == number
        seen.append((len(looks), pruned.object_bytes > 2_000_000))
    assert seen == [(1, False), (1, False), (1, False), (2, True), (2, False)]
    server.gitrel("exec", "--", "true")
    server.fsck()
