"""`gitrel pull` in every state of the remote: what is taken, what is refused, and that nothing else changes."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from apps import Host, Shop, farm, host, plain_app, shop
from conftest import Person
from handmade import build_by_hand, called, release_by_hand
from room import Room, room

__all__ = ["farm", "host", "room", "shop"]  # fixtures

Hosts = Callable[..., Host]
Shops = Callable[[int], Shop]


def test_nothing_new_changes_nothing(shop: Shops, host: Hosts) -> None:
    dev = shop(2)
    server = host(dev.url, dev.pin)
    first = server.gitrel("pull", "--json").json
    assert (first["release"], first["new"], first["pending"]) == ("v2", True, [])
    before = server.snapshot()
    assert server.gitrel("pull").out == "v2 (nothing new)\n"
    assert server.snapshot() == before
    server.fsck()


def test_the_remote_is_gone(shop: Shops, host: Hosts) -> None:
    dev = shop(2)
    server = host(dev.url, dev.pin)
    server.gitrel("pull")
    before = server.snapshot()
    remote = Path(dev.url)
    remote.rename(remote.with_name("away"))
    failed = server.gitrel("pull", code=13)
    assert failed.message["where"] == dev.url
    assert server.snapshot() == before
    assert "TROUBLE" in server.gitrel("status").out
    remote.with_name("away").rename(remote)
    server.gitrel("pull")
    assert server.snapshot() == before
    assert "TROUBLE" not in server.gitrel("status").out


def rolled_back(dev: Shop) -> None:
    dev.at_remote("update-ref", "-d", "refs/releases/v2")


def emptied(dev: Shop) -> None:
    for ref in dev.desk.remote_refs():
        dev.at_remote("update-ref", "-d", ref)


def forked(dev: Shop) -> None:
    """Another v2, as good as the first one."""
    other = release_by_hand(dev.desk, like="refs/releases/v2", entry=2, previous="refs/releases/v1", trust=1)
    dev.push(other, "refs/heads/other")
    dev.at_remote("update-ref", "refs/releases/v2", other)


def recreated(dev: Shop) -> None:
    """A new app of the same name."""
    emptied(dev)
    for ref in dev.desk.refs("refs/"):
        if not ref.startswith("refs/heads/"):
            dev.desk.git("update-ref", "-d", ref)
    dev.desk.git("config", "user.name", "Somebody Else")
    dev.desk.gitrel("init", env={"GIT_COMMITTER_DATE": "1800000000 +0000"})
    dev.releases = 0
    dev.release()


@pytest.mark.parametrize("rewrite", [rolled_back, emptied, forked, recreated])
def test_a_rewritten_ledger_is_refused_and_what_runs_stays(
    rewrite: Callable[[Shop], None], shop: Shops, host: Hosts
) -> None:
    dev = shop(2)
    server = host(dev.url, dev.pin)
    server.gitrel("pull")
    before = server.snapshot()
    rewrite(dev)
    refused = server.gitrel("pull", code=10)
    assert "check 13" in refused.message["what"]
    assert server.snapshot() == before
    assert server.current == "v2"
    assert "TROUBLE" in server.gitrel("status").out
    server.fsck()


def bad_release(dev: Shop, check: int, mallory: Person) -> str:
    """A v3 that this check refuses: unsigned, signed by somebody unknown, a dangerous name, not the signed files."""
    desk, build = dev.desk, None
    if check == 5:
        desk = replace(desk, env={**desk.env, "HOME": str(desk.home.with_name("mallory"))})
        (desk.home / ".ssh").mkdir(parents=True)
        shutil.copy2(mallory.path, desk.home / ".ssh/id_ed25519")
    elif check != 2:
        files = {"Procfile": "web: sleep 1000\n", "gitrel.toml": 'app = "shop"\n'}
        if check == 11:
            files["git~1"] = "what NTFS takes for .git"
        build = build_by_hand(desk, files, trust=1, lie=check == 12)
    before = "refs/releases/v2"
    made = release_by_hand(desk, like=before, entry=3, previous=before, trust=1, build=build, sign=check != 2)
    desk.git("update-ref", "refs/releases/v3", made)
    return made


@pytest.mark.parametrize(
    ("check", "first", "filtering"), [(2, False, True), (5, True, False), (11, True, True), (12, False, False)]
)
def test_a_bad_release_does_not_hide_the_good_one_before_it(
    check: int, first: bool, filtering: bool, shop: Shops, host: Hosts, people: dict[str, Person]
) -> None:
    """v2 is taken and stays; v4 is taken when it comes, though v3 is still there."""
    dev = shop(2)
    if filtering:
        dev.allow_filter()
    server = host(dev.url, dev.pin)
    if not first:
        server.gitrel("pull")
    clean = server.snapshot()
    dev.push(bad_release(dev, check, people["mallory"]), "refs/releases/v3")
    refused = server.gitrel("pull", code=10)
    if not first:
        now = server.snapshot()
        assert {name for name in now | clean if now.get(name) != clean.get(name)} == {"state"}, "nothing came in"
    assert "v3 is refused" in refused.message["what"]
    assert f"check {check}" in refused.message["what"]
    assert "v2 is the newest that may run here" in refused.message["next"]
    assert server.current == "v2"
    before = server.snapshot()
    again = server.gitrel("pull", "--json", code=10)
    assert again.json["error"]["check"] == check
    assert server.snapshot() == before
    status = server.status()
    assert (status["current"], status["newest"], list(status["refused"])) == ("v2", "v2", ["v3"])
    if check == 2:
        return  # nothing can follow what is no record
    good = release_by_hand(dev.desk, like="refs/releases/v1", entry=4, previous="refs/releases/v3", trust=1)
    dev.push(good, "refs/releases/v4")
    assert server.gitrel("pull").out == "v4\n"
    assert (server.current, server.status()["refused"]) == ("v4", {})
    server.fsck()


@pytest.mark.parametrize("filtering", [True, False], ids=["filter", "whole"])
def test_a_first_meeting_with_ten_releases(filtering: bool, shop: Shops, host: Hosts) -> None:
    """With partial clone the whole chain is verified; without it from here on, which is said. Then every link is."""
    dev = shop(10)
    if filtering:
        dev.allow_filter()
    server = host(dev.url, dev.pin)
    pulled = server.gitrel("pull")
    assert pulled.out == "v10\n"
    assert ("from here on only" in pulled.err) is not filtering
    assert len(list((server.path / "repo.git/refs/releases").iterdir())) == (10 if filtering else 1)
    assert len(list((server.path / "releases").iterdir())) == 1
    dev.publish("rollback", "v1")  # its files were never here, or left out
    dev.publish("rollback", "v2")
    later = server.gitrel("pull")
    assert (later.out, "from here on" in later.err) == ("v12\n", False)
    dev.release()
    assert server.gitrel("pull").out == "v13\n"
    assert (server.checkout("v13") / "text").read_text() == f"{dev.releases}\n"
    dev.allow_filter()  # from now on, for those that met it without
    dev.publish("rollback", "v3")
    assert server.gitrel("pull").out == "v14\n"
    server.fsck()


@pytest.mark.parametrize("filtering", [True, False], ids=["filter", "whole"])
def test_a_broken_chain_is_found_at_the_first_meeting_if_records_can_be_had(
    filtering: bool, shop: Shops, host: Hosts
) -> None:
    dev = shop(2)
    dev.at_remote("update-ref", "-d", "refs/releases/v1")
    if filtering:
        dev.allow_filter()
    server = host(dev.url, dev.pin)
    if filtering:
        assert "v1 is missing" in server.gitrel("pull", code=10).message["what"]
    else:
        assert server.gitrel("pull").out == "v2\n"
    server.fsck()


def test_the_very_first_release_is_pending(room: Room, host: Hosts, people: dict[str, Person]) -> None:
    desk = called(room.desk(), "alice")
    plain_app(desk, "echo up; exec sleep 1000")
    pin = desk.gitrel("init", "--json").json["pin"]
    dev = Shop(desk=desk, pin=pin)
    desk.gitrel("trust", "add", "bob", people["bob"].public, "--yes")
    desk.gitrel("trust", "set-role", "release", "alice", "bob", "--threshold", "2", "--yes")
    dev.release()
    server = host(dev.url, dev.pin)
    waiting = server.gitrel("pull", code=11)
    assert "may run yet" in waiting.message["what"]
    assert "bob can approve it" in waiting.message["why"]
    assert server.gitrel("run", code=11).message["what"] == waiting.message["what"]
    server.fsck()
    bob = room.clone("bobs", "bob")
    bob.gitrel("approve", "v1", "--trust", pin, "--yes")
    assert server.gitrel("pull").out == "v1\n"
    dev.release()
    later = server.gitrel("pull", "--json").json
    assert (later["release"], later["pending"]) == ("v1", ["v2"])
    assert "pending    v2: refs/releases/v2: pending" in server.gitrel("status").out
    bob.gitrel("approve", "v2", "--trust", pin, "--yes")
    assert server.gitrel("pull").out == "v2\n"
    assert server.status()["refused"] == {}
    server.fsck()


@pytest.mark.parametrize("filtering", [False, True])
def test_the_newest_release_was_repudiated_before_anybody_saw_it(shop: Shops, host: Hosts, filtering: bool) -> None:
    """Trust names it, and it is there: the one before it may run. Something else under its name is a rollback."""
    dev = shop(2)
    if filtering:
        dev.allow_filter()
    old, new, late = host(dev.url, dev.pin), host(dev.url, dev.pin), host(dev.url, dev.pin)
    with dev.as_of(1):
        old.gitrel("pull")
    dev.desk.gitrel("trust", "repudiate", "v2", "--yes")
    for server in (old, new):
        refused = server.gitrel("pull", code=10)
        assert refused.message["what"] == "v2 is refused: repudiated (check 14)"
        assert (server.current, server.status()["newest"]) == ("v1", "v1")
        with server.running() as app:
            app.expect("v1 is good")
        server.fsck()
    fake = release_by_hand(dev.desk, like="refs/releases/v1", entry=2, previous="refs/releases/v1", trust=1, sign=False)
    dev.at_remote("update-ref", "-d", "refs/releases/v2")
    dev.push(fake, "refs/releases/v2")
    for server in (old, new, late):
        withheld = server.gitrel("pull", code=10)
        assert withheld.message["what"] == "v2 is not there, which trust v2 names (check 13)"
    assert late.status()["current"] is None
