"""`gitrel prune`: what goes, what stays, and that everything works afterwards, rollbacks to what is gone included."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from apps import Host, Shop, farm, host, shop
from conftest import Person
from room import run

__all__ = ["farm", "host", "shop"]  # fixtures

Hosts = Callable[..., Host]
Shops = Callable[[int], Shop]


def has(server: Host, oid: str) -> bool:
    """Whether the home has an object."""
    argv = ["git", "-C", str(server.path / "repo.git"), "-c", "remote.gitrel.url=/nowhere", "cat-file", "-e", oid]
    return run(argv, server.path, server.env).code == 0


def blob(dev: Shop, release: str) -> str:
    return dev.desk.git("rev-parse", f"refs/releases/{release}:build/text")


def links(server: Host) -> list[str]:
    return sorted(os.listdir(server.path / "releases"))


BOTH = pytest.mark.parametrize("filters", [True, False])  # what the remote can do


@pytest.fixture
def filters() -> bool:
    return True


@pytest.fixture
def five(filters: bool, shop: Shops, host: Hosts) -> tuple[Shop, Host]:
    """A server that has pulled v1 … v5, each with a file of its own, and never pruned."""
    dev = shop(5)
    if filters:
        dev.allow_filter()
    with dev.as_of(1):
        server = host(dev.url, dev.pin)
    for number in range(1, 6):
        with dev.as_of(number):
            server.gitrel("pull", "--keep", "0")
    assert links(server) == ["v1", "v2", "v3", "v4", "v5"]
    return dev, server


@BOTH
def test_what_goes_and_what_stays(five: tuple[Shop, Host]) -> None:
    dev, server = five
    server.gitrel("prune", "--dry-run")  # makes the file for leases
    before = server.snapshot()
    planned = server.gitrel("prune", "--keep", "2", "--dry-run", "--json").json
    assert server.snapshot() == before
    done = server.gitrel("prune", "--keep", "2", "--json").json
    assert (planned["kept"], planned["deleted"]) == (done["kept"], done["deleted"])
    assert (done["kept"], done["deleted"]) == (["v4", "v5"], ["v1", "v2", "v3"])
    assert done["checkout_bytes"] == planned["checkout_bytes"] > 0
    assert done["object_bytes"] > 0
    assert links(server) == ["v4", "v5"]
    assert len([path for path in (server.path / "builds").iterdir() if path.is_dir()]) == 2
    assert [has(server, blob(dev, f"v{number}")) for number in range(1, 6)] == [False, False, False, True, True]
    assert len(list((server.path / "repo.git/objects/pack").glob("*.pack"))) == 1
    assert len(list((server.path / "repo.git/refs/releases").iterdir())) == 5, "records stay"
    server.fsck()
    assert server.gitrel("exec", "web").out == "5\n"  # hashes what lost a hard link again, and seals it anew
    after = server.snapshot()
    again = server.gitrel("prune", "--keep", "2", "--json").json
    assert (again["deleted"], again["bytes"]) == ([], 0)
    assert server.snapshot() == after
    assert server.gitrel("pull").out == "v5 (nothing new)\n"


@BOTH
def test_a_rollback_to_what_is_gone(five: tuple[Shop, Host]) -> None:
    """Its files are fetched again, and the next release after it comes as ever."""
    dev, server = five
    server.gitrel("prune", "--keep", "1")
    dev.publish("rollback", "v2")
    assert server.gitrel("pull").out == "v6\n"
    assert server.gitrel("exec", "web").out == "2\n"
    dev.release()
    assert server.gitrel("pull").out == "v7\n"
    assert server.gitrel("exec", "web").out == f"{dev.releases}\n"
    server.fsck()


def test_a_release_that_goes_back_to_a_pruned_one(five: tuple[Shop, Host]) -> None:
    """The newest is repudiated, and the one before it has to run, of which nothing but the record is left."""
    dev, server = five
    server.gitrel("prune", "--keep", "1")
    dev.desk.gitrel("trust", "repudiate", "v5", "--yes")
    server.gitrel("pull", code=10)
    assert server.gitrel("exec", "web").out == "4\n"
    assert server.status()["newest"] == "v4"
    server.fsck()


def test_a_build_counts_because_a_pruned_release_carried_it(
    shop: Shops, host: Hosts, people: dict[str, Person]
) -> None:
    """Its builder holds the role no more: the proof is in the records, which stay."""
    dev = shop(1)
    server = host(dev.url, dev.pin)
    for _ in range(3):
        dev.release("cat text")
        server.gitrel("pull")
    dev.desk.gitrel("trust", "add", "bob", people["bob"].public, "--yes")
    dev.desk.gitrel("trust", "set-role", "build", "bob", "--yes")
    server.gitrel("prune", "--keep", "1")
    dev.publish("rollback", "v2")
    assert server.gitrel("pull").out == "v5\n"
    server.gitrel("prune", "--keep", "1")
    assert server.gitrel("exec", "web").out == "2\n"
    server.fsck()


def test_what_is_pinned_or_runs_stays(five: tuple[Shop, Host]) -> None:
    _, server = five
    server.gitrel("pin", "v2")
    with server.running("v1") as app:
        app.expect("v1 is good")
        done = server.gitrel("prune", "--keep", "1", "--json").json
        assert done["kept"] == ["v1", "v2", "v5"]
        assert links(server) == ["v1", "v2", "v5"]
    server.gitrel("unpin")
    server.gitrel("pull", "--keep", "0")
    assert server.gitrel("exec", "web").out == "5\n"


def test_a_process_without_a_supervisor_keeps_its_files(shop: Shops, host: Hosts) -> None:
    """`gitrel exec` under systemd: the process runs on in a release that is not the newest any more."""
    dev = shop(1)
    server = host(dev.url, dev.pin)
    server.gitrel("pull")
    argv = server.argv("exec", "web", "--home", str(server.path))
    with subprocess.Popen(argv, env=server.env, stdout=subprocess.PIPE, cwd="/") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"up\n"
        try:
            dev.release()
            server.gitrel("pull")
            assert server.gitrel("prune", "--keep", "1", "--json").json["kept"] == ["v1", "v2"]
        finally:
            process.terminate()
    assert server.gitrel("prune", "--keep", "1", "--json").json["kept"] == ["v2"]


def test_pulls_prune_by_themselves(shop: Shops, host: Hosts) -> None:
    dev = shop(1)
    server = host(dev.url, dev.pin)
    for _ in range(4):
        server.gitrel("pull", "--keep", "2")
        dev.release()
    said = server.gitrel("pull", "--keep", "2").err
    assert "pruned v3: " in said
    assert links(server) == ["v4", "v5"]
    server.fsck()


def test_a_damaged_object_stops_it_before_anything_of_it_is_deleted(shop: Shops, host: Hosts) -> None:
    dev = shop(2)
    server = host(dev.url, dev.pin)
    server.gitrel("pull")
    dev.release()
    server.gitrel("pull")
    folder = server.path / "repo.git/objects/pack"
    before = sorted(folder.iterdir())
    for index in folder.glob("*.idx"):
        listing = subprocess.run(
            ["git", "show-index"], input=index.read_bytes(), capture_output=True, check=True
        ).stdout
        for line in listing.decode().splitlines():
            offset, oid = line.split()[:2]
            if oid == blob(dev, "v3"):
                pack = index.with_suffix(".pack")
                pack.chmod(0o644)
                with pack.open("r+b") as file:
                    file.seek(int(offset) + 3)
                    file.write(b"\xff\xff\xff")
    failed = server.gitrel("prune", "--keep", "1", code=14)
    assert failed.message["what"] == "damaged pack"
    assert sorted(folder.iterdir()) == before


def test_big_files_and_deltas(shop: Shops, host: Hosts, tmp_path: Path) -> None:
    """What git packs as deltas, and a file that is too big to be copied at once, come through."""
    dev = shop(1)
    server = host(dev.url, dev.pin)
    text = "".join(f"line {number}\n" for number in range(20_000))
    noise = os.urandom(6_000_000)
    for number in range(3):
        dev.desk.write("long", f"{text}{number}\n")
        (dev.desk.path / "noise").write_bytes(noise)
        dev.release("cat text")
        dev.at_remote("repack", "-a", "-d", "-f", "-q")
        server.gitrel("pull", "--keep", "0")
    server.gitrel("prune", "--keep", "2")
    server.fsck()
    shutil.rmtree(server.path / "builds", onerror=_writable)
    (server.path / "builds").mkdir()
    assert server.gitrel("exec", "web").out == "4\n"
    assert (server.checkout("v4") / "long").read_text() == f"{text}2\n"
    assert (server.checkout("v4") / "noise").read_bytes() == noise


def _writable(call: Callable[[str], object], path: str, _: object) -> None:
    Path(path).parent.chmod(0o755)
    call(path)
