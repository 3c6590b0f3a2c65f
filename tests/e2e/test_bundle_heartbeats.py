"""A server that no network reaches, and that is to hear now and then that nothing is new: in files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from apps import Host, Shop, farm, host, shop
from conftest import FIXED_DATE
from handmade import cite, heartbeat_by_hand
from room import Done, run

__all__ = ["farm", "host", "shop"]  # fixtures

Hosts = Callable[..., Host]
Shops = Callable[[int], Shop]

OLD = {"GIT_COMMITTER_DATE": FIXED_DATE}
QUIET = '[run]\nmax_silence = "10000h"\nhold_when_stale = true\n[run.web]\nsettle = "200ms"\nstop_timeout = "2s"\n'


def bundled(dev: Shop, releases: str, *, has: tuple[str | None, str | None]) -> Path:
    """`gitrel bundle`, which says the heartbeat that is in it, and the release that it builds on."""
    path = dev.desk.path.parent / f"{len(list(dev.desk.path.parent.glob('*.bundle')))}.bundle"
    made = dev.desk.gitrel("bundle", releases, "-o", str(path), "--json").json
    assert (made["heartbeat"], made["needs"]) == has
    return path


def stock(dev: Shop, folder: Path, *args: str) -> Done:
    return run(["git", "-C", str(folder), *args], dev.desk.path, dev.desk.env)


def quiet(dev: Shop) -> None:
    """One release, which asks for a sign of life; everything so far was signed long ago."""
    dev.desk.manifest(QUIET)
    dev.desk.gitrel("trust", "set-role", "heartbeat", "test", "--yes", env=OLD)
    dev.desk.write("text", "1")
    dev.desk.commit("1")
    dev.desk.gitrel("release", env=OLD)


def test_a_file_a_day_keeps_a_server_fresh(shop: Shops, host: Hosts, tmp_path: Path) -> None:
    """With nothing in it but the heartbeat; a release that is held back comes with the next one."""
    dev = shop(0)
    quiet(dev)
    first = bundled(dev, "..v1", has=(None, None))
    server = host(str(first), dev.pin)
    assert "STALE since 20" in server.gitrel("pull").err
    dev.desk.gitrel("heartbeat", env=OLD)
    late = bundled(dev, "v1..", has=("v1", "v1"))
    said = server.gitrel("pull", str(late))
    assert (said.out, "heartbeat v1\n" in said.err, "not stale" in said.err) == ("v1 (nothing new)\n", True, False)
    dev.desk.gitrel("heartbeat")
    today = bundled(dev, "v1..v1", has=("v2", "v1"))
    said = server.gitrel("pull", str(today))
    assert "heartbeat v2\nnot stale any more\n" in said.err
    status = server.status()
    assert (status["stale_since"], status["heartbeat"], status["heartbeat_trouble"]) == (None, "v2", None)
    # the release of long ago is taken now, by a server that is fresh, and by none that is stale
    dev.desk.write("text", "2")
    dev.desk.commit("2")
    dev.desk.gitrel("release", env=OLD)
    old = bundled(dev, "v1..v2", has=("v2", "v1"))
    other = host(str(first), dev.pin)
    other.gitrel("pull")
    assert server.gitrel("pull", str(old)).out == "v2\n"
    dev.at_remote("update-ref", "-d", "refs/heartbeat/v2")
    dev.desk.git("update-ref", "-d", "refs/heartbeat/v2")
    withheld = bundled(dev, "v1..v2", has=("v1", "v1"))
    assert "held back" in other.gitrel("pull", str(withheld), code=10).message["what"]
    dev.desk.gitrel("heartbeat")
    lacking = other.gitrel("pull", str(bundled(dev, "v2..", has=("v2", "v2"))), code=11)
    assert "it needs refs/releases/v2; the newest here is v1" in lacking.message["why"]
    pulled = other.gitrel("pull", str(bundled(dev, "v1..", has=("v2", "v1"))), "--json").json
    assert (pulled["release"], pulled["heartbeat"], pulled["heartbeat_trouble"]) == ("v2", "v2", None)
    for each in (server, other):
        each.fsck()
    _stock_git(dev, tmp_path / "stock.git")


def _stock_git(dev: Shop, mirror: Path) -> None:
    """A mirror that takes one file after the other; what a file builds on is asked for by git, too."""
    mirror.mkdir()
    assert stock(dev, mirror, "init", "-q", "--bare").code == 0
    dev.release()
    dev.desk.gitrel("heartbeat")
    whole, thin = bundled(dev, "..v2", has=("v2", None)), bundled(dev, "v3..", has=("v3", "v3"))
    ours = dev.desk.refs()
    needs = {ours["refs/releases/v3"]: "refs/releases/v3", ours["refs/heartbeat/v2"]: "refs/heartbeat/v2"}
    head = thin.read_bytes().partition(b"\n\n")[0].decode().splitlines()
    assert dict(line[1:].split(" ") for line in head if line.startswith("-")) == needs
    missing = stock(dev, mirror, "bundle", "verify", str(thin))
    assert missing.code != 0
    assert all(oid in missing.err for oid in needs)
    for file in (whole, bundled(dev, "v2..v3", has=("v3", "v2")), thin):
        listed = stock(dev, mirror, "bundle", "list-heads", str(file))
        assert (listed.code, " refs/heartbeat/v" in listed.out) == (0, True)
        verified = stock(dev, mirror, "bundle", "verify", str(file))
        assert (verified.code, "is okay" in verified.err + verified.out) == (0, True), verified.err
        fetched = stock(dev, mirror, "fetch", "-q", str(file), "refs/*:refs/*")
        assert fetched.code == 0, fetched.err
    assert stock(dev, mirror, "fsck", "--strict", "--no-dangling").code == 0
    beats = [line.split()[1] for line in stock(dev, mirror, "show-ref").out.splitlines() if "heartbeat" in line]
    assert beats == ["refs/heartbeat/v1", "refs/heartbeat/v2", "refs/heartbeat/v3"]
    for file in (whole, bundled(dev, "..v3", has=("v3", None))):
        assert dev.desk.gitrel("audit", "--repo", str(file), "--trust", dev.pin, "--json").json["findings"] == []


def test_a_change_of_trust_alone_travels(shop: Shops, host: Hosts) -> None:
    """That the newest release was repudiated: whoever runs it has to hear it, and that nothing came since."""
    dev = shop(1)
    server = host(dev.url, dev.pin)
    server.gitrel("pull")
    dev.release()
    server.gitrel("pull")
    nothing = dev.desk.gitrel("bundle", "v2..", "-o", "x", code=2)
    assert nothing.message["what"] == "there is nothing between them"
    dev.desk.gitrel("trust", "set-role", "heartbeat", "test", "--yes")
    dev.desk.gitrel("trust", "repudiate", "v2", "--yes")
    told = server.gitrel("pull", str(bundled(dev, "v2..", has=(None, "v2"))), code=10)
    assert "repudiated" in told.message["what"]
    assert server.current == "v1"
    dev.desk.gitrel("heartbeat")
    again = server.gitrel("pull", str(bundled(dev, "v2..", has=("v1", "v2"))))
    assert "heartbeat v1\n" in again.err
    assert server.status()["heartbeat"] == "v1"
    fresh = host(str(bundled(dev, "", has=("v1", None))), dev.pin)
    assert fresh.gitrel("pull", code=10).message["what"].startswith("v2 is refused")
    assert fresh.current == "v1"
    server.fsck()


def test_what_does_not_count_over_the_network_does_not_in_a_file(shop: Shops, host: Hosts) -> None:
    """The same refs, shown to one server by the remote and brought to another one by git's own bundle."""
    dev = shop(0)
    quiet(dev)
    network, air = host(dev.url, dev.pin), host(dev.url, dev.pin)
    dev.desk.gitrel("heartbeat", env=OLD)
    for server in (network, air):
        server.gitrel("pull")
    one, beat = f"production v1 {cite(dev.desk, 'refs/releases/v1')}", "refs/heartbeat/v1"
    other = f"production v1 {cite(dev.desk, 'refs/trust/v1')}"
    cases = {
        "unsigned": ({"heads": [one], "sign": False}, "not signed"),
        "of another app": ({"heads": [one], "app": "toyshop"}, "made for another app"),
        "of a release that is not there": ({"heads": [one.replace(" v1 ", " v9 ")]}, "names v9 of production"),
        "of another release": ({"heads": [other]}, "names v1 of production, and the remote shows another one"),
        "of another deploy": ({"heads": [one.replace("production", "staging")]}, None),
        "dated into the future": ({"heads": [one], "date": "4000000000 +0000"}, None),
    }
    number = 1
    for name, (what, why) in cases.items():
        number += 1
        ref = f"refs/heartbeat/v{number}"
        dev.push(heartbeat_by_hand(dev.desk, entry=number, previous=beat, **what), ref)  # type: ignore[arg-type]
        file = dev.desk.path.parent / f"{number}.bundle"
        dev.at_remote("bundle", "create", "-q", str(file), "--glob=refs/trust/*", "--glob=refs/heartbeat/*")
        seen, brought = network.gitrel("pull", "--json"), air.gitrel("pull", str(file), "--json")
        assert seen.json == brought.json, name
        assert brought.json["heartbeat"] == (None if why else f"v{number}"), name
        if why is not None:
            assert why in brought.json["heartbeat_trouble"], name
            assert f"note: a heartbeat does not count: {brought.json['heartbeat_trouble']}\n" in brought.err
            assert (network.status()["heartbeat_trouble"], air.status()["heartbeat_trouble"]) == (
                brought.json["heartbeat_trouble"],
                None,
            ), "what is wrong with a file is not remembered"
            dev.at_remote("update-ref", "-d", ref)
    for server in (network, air):
        status = server.status()
        assert status["heartbeat"] == f"v{number}"
        assert status["signed"] <= status["contact"] + 600, "no later than it was first seen here"
        assert status["stale_since"] is None
    replayed = dev.desk.path.parent / "2.bundle"
    dev.at_remote("bundle", "create", "-q", str(replayed), "refs/trust/v1", "refs/trust/v2", beat)
    before = air.snapshot()
    assert air.gitrel("pull", str(replayed), "--json").json["heartbeat"] is None
    assert air.snapshot() == before
