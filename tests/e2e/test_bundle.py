"""A server that no network reaches: what it gets comes in a file, by the same checks."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest
from apps import Host, Shop, farm, host, plain_app, shop
from conftest import Person
from handmade import called, release_by_hand
from room import Room, room, run

__all__ = ["farm", "host", "room", "shop"]  # fixtures

Hosts = Callable[..., Host]
Shops = Callable[[int], Shop]


def bundled(dev: Shop, *args: str) -> Path:
    """`gitrel bundle`; the file."""
    count = len(list(dev.desk.path.parent.glob("*.bundle")))
    path = dev.desk.path.parent / f"{count}.bundle"
    said = dev.desk.gitrel("bundle", *args, "-o", str(path)).err
    first, dots, _ = "".join(args[:1]).partition("..")
    assert (f"it builds on {first}\n" if first and dots else "it builds on nothing") in said
    return path


def test_a_server_without_a_network(shop: Shops, host: Hosts, tmp_path: Path) -> None:
    """Joined, pulled, and pulled again from files; stock git verifies and fetches the same files."""
    dev = shop(2)
    whole, again = bundled(dev, "v2"), bundled(dev, "..v2")
    assert hashlib.sha256(whole.read_bytes()).digest() == hashlib.sha256(again.read_bytes()).digest()
    server = host(str(whole), dev.pin)
    Path(dev.url).rename(Path(dev.url).with_name("unreachable.git"))
    assert server.gitrel("pull").out == "v2\n"
    assert sorted(ref.name for ref in (server.path / "repo.git/refs/releases").iterdir()) == ["v1", "v2"]
    Path(dev.url).with_name("unreachable.git").rename(dev.url)
    dev.publish("rollback", "v1")
    dev.release()
    thin, late = bundled(dev, "v2..v4"), bundled(dev, "v3..")
    assert thin.read_bytes().split(b"\n")[1] == f"-{dev.desk.refs()['refs/releases/v2']} refs/releases/v2".encode()
    before = server.snapshot()
    lacking = server.gitrel("pull", str(late), code=11)
    assert "it needs refs/releases/v3; the newest here is v2" in lacking.message["why"]
    assert "`gitrel bundle v2..v4 -o FILE`" in lacking.message["next"]
    late.write_bytes(late.read_bytes().replace(b" refs/releases/v3", b" \x1b[31mv3", 1))
    assert "needs \\x1b[31mv3;" in server.gitrel("pull", str(late), code=11).message["why"]
    assert server.snapshot() == before
    with server.running() as app:
        app.expect("v2 is good")
        assert server.gitrel("pull", str(thin)).out == "v4\n"
        app.expect("v4 is good")
    assert (server.checkout("v4") / "text").read_text() == f"{dev.releases}\n"
    contact = server.status()["contact"]
    assert server.gitrel("pull", str(thin)).out == "v4 (nothing new)\n"
    assert server.gitrel("pull", str(whole)).out == "v4 (nothing new)\n", "an old file is no way back"
    assert server.status()["contact"] == contact
    server.gitrel("pin", "v3")  # with v1's files, which were left out so far, and are in the file that it was joined to
    server.gitrel("unpin")
    server.fsck()
    _stock_git(dev, whole, thin, tmp_path / "stock.git")


def _stock_git(dev: Shop, whole: Path, thin: Path, folder: Path) -> None:
    def git(*args: str) -> str:
        done = run(["git", "-C", str(folder), *args], dev.desk.path, dev.desk.env)
        assert done.code == 0, done.err
        return done.out

    folder.mkdir()
    git("init", "-q", "--bare")
    for file in (whole, thin):
        git("bundle", "verify", "-q", str(file))
        git("fetch", "-q", str(file), "refs/*:refs/*")
        git("fsck", "--strict", "--no-dangling")
    ours = {name: oid for name, oid in dev.desk.remote_refs().items() if not name.startswith("refs/heads/")}
    shown = dict(line.split()[::-1] for line in git("show-ref").splitlines())
    assert {name: oid for name, oid in shown.items() if "builds" not in name} == {
        name: oid for name, oid in ours.items() if "builds" not in name
    }
    audit = ["audit", "--repo", str(whole), "--trust", dev.pin, "--json"]
    assert dev.desk.gitrel(*audit).json["findings"] == []


def bad_files(dev: Shop, good: Path) -> dict[str, tuple[bytes, int, str]]:
    raw = good.read_bytes()
    head, pack = raw.split(b"\n\n", 1)
    return {
        "no bundle": (b"hello\n", 13, "not a git bundle"),
        "cut in the head": (head[:40], 13, "damaged"),
        "cut in the pack": (raw[:-30], 13, "damaged"),
        "a flipped byte": (raw[:-40] + bytes([raw[-40] ^ 1]) + raw[-39:], 13, "damaged"),
        "a filter": (
            raw.replace(b"# v2 git bundle\n", b"# v3 git bundle\n@filter=blob:none\n", 1),
            13,
            "not supported",
        ),
        "a ref out of refs": (head + b"\n" + b"1" * 40 + b" refs/releases/../../x\n\n" + pack, 13, "malformed ref"),
        "nothing of the pack": (head + b"\n\n", 13, "damaged"),
    }


def test_bad_files_change_nothing(shop: Shops, host: Hosts) -> None:
    """Each by the limits and checks of a remote; a refused release in it comes no further than the quarantine."""
    dev = shop(1)
    server = host(dev.url, dev.pin)
    server.gitrel("pull")
    dev.release()
    good = bundled(dev)
    clean = server.snapshot()
    path = dev.desk.path.parent / "bad"
    for name, (raw, code, what) in bad_files(dev, good).items():
        path.write_bytes(raw)
        done = server.gitrel("pull", str(path), code=code)
        assert what in done.message["what"] + done.message.get("why", ""), name
        assert "\x1b" not in done.err
        assert server.snapshot() == clean, name
    assert server.gitrel("pull", str(path.with_name("missing")), code=11).message["what"] == "no such file"
    small = server.gitrel("pull", str(good), code=13, env={"GITREL_LIMITS": "objects=2"})
    assert "objects in a pack: more than 2 (limit objects)" in small.message["why"]
    assert server.snapshot() == clean
    server.gitrel("pull", str(good))
    clean = server.snapshot()
    # another v2, as good as the one that was verified here; then an unsigned v3
    forged = release_by_hand(dev.desk, like="refs/releases/v2", entry=2, previous="refs/releases/v1", trust=1)
    dev.desk.git("update-ref", "refs/evil/releases/v2", forged)
    dev.desk.git("bundle", "create", "-q", str(path), "refs/evil/releases/v2")
    path.write_bytes(path.read_bytes().replace(b"refs/evil/", b"refs/", 1))
    refused = server.gitrel("pull", str(path), code=10)
    assert "two records under one name" in refused.message["what"]
    assert forged in refused.message["why"]
    assert server.snapshot() == clean
    bad = release_by_hand(dev.desk, like="refs/releases/v2", entry=3, previous="refs/releases/v2", trust=1, sign=False)
    dev.desk.git("update-ref", "refs/releases/v3", bad)
    dev.desk.git("bundle", "create", "-q", str(path), "refs/releases/v2..refs/releases/v3")
    assert "v3 is refused" in server.gitrel("pull", str(path), code=10).message["what"]
    now = server.snapshot()
    assert {name for name in now | clean if now.get(name) != clean.get(name)} == {"state"}


@pytest.mark.parametrize("object_format", ["sha256"])
def test_thresholds_and_sha256(object_format: str, room: Room, host: Hosts, people: dict[str, Person]) -> None:
    """A pending release travels without its approvals, which come in a later file; version 3 for SHA-256."""
    desk = called(room.desk(object_format=object_format), "alice")
    plain_app(desk, "exec sleep 1000")
    dev = Shop(desk=desk, pin=desk.gitrel("init", "--json").json["pin"])
    dev.release()
    assert "nothing between" in desk.gitrel("bundle", "v1..v1", "-o", "x", code=2).message["what"]
    desk.gitrel("trust", "add", "bob", people["bob"].public, "--yes")
    desk.gitrel("trust", "set-role", "release", "alice", "bob", "--threshold", "2", "--yes")
    dev.release()
    waiting = bundled(dev, "..v2")
    assert waiting.read_bytes().startswith(b"# v3 git bundle\n@object-format=sha256\n")
    server = host(str(waiting), dev.pin)
    pulled = server.gitrel("pull", "--json").json
    assert (pulled["release"], pulled["new"], pulled["pending"]) == ("v1", True, ["v2"])
    desk.git("push", "-q", "origin", "main")
    bob = room.clone("bobs", "bob")
    bob.gitrel("approve", "v2", "--trust", dev.pin, "--yes")
    assert server.gitrel("pull", str(bundled(dev, "v1..v2"))).out == "v2\n"
    desk.gitrel("trust", "set-role", "release", "alice", "--yes")
    refused = desk.gitrel("bundle", "..v1", "-o", "x", code=2)
    assert "rolled back" in refused.message["what"]
    assert "`gitrel bundle ..v2 -o FILE`" in refused.message["next"]
    server.fsck()
