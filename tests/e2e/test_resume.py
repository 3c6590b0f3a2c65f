"""A link that breaks again and again: what came is kept, the rest is asked for, and the result is the same.

Real servers behind a relay that cuts every so many bytes; `gitrel pull` again until it gets through.
"""

from __future__ import annotations

import os
import random
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from apps import Host, Shop, farm, host, shop
from cutter import DOWN, Cutter, cutter
from room import Done, files_of, refs_of, run
from servers import Servers, servers
from test_server_crash import copied, killed, points, rubbish

__all__ = ["farm", "host", "servers", "shop"]  # fixtures

Hosts = Callable[..., Host]
Shops = Callable[..., Shop]

FILES, SIZE = 150, 20_000  # of noise, which nothing compresses
BUILD = FILES * SIZE
EVERY = 700_000  # bytes until the link breaks
SLOW = 0.001  # seconds for a kilobyte: ssh takes what it has in its buffers with it, up to 2 MB where it waits for us


def big_release(dev: Shop, seed: int, files: int = FILES) -> None:
    noise = random.Random(seed)
    for number in range(files):
        path = dev.desk.path / f"data/{number % 7}/{seed}-{number}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(noise.randbytes(SIZE))
    dev.release()


def big(dev: Shop) -> None:
    big_release(dev, 1)


@pytest.fixture(scope="module")
def in_peace() -> list[object]:
    """What a server has that pulled `dev` in peace, once it is known."""
    return []


@pytest.fixture
def dev(in_peace: list[object], shop: Shops, host: Hosts) -> Shop:
    """A ledger with a small v1 and a big v2, this test's own."""
    made = shop(1, big)
    if not in_peace:
        server = host(made.url, made.pin)
        server.gitrel("pull")
        in_peace.append(whole_release(server))
    return made


def whole_release(server: Host) -> tuple[object, ...]:
    """Which release it is, its files, and the ids of its trees."""
    repo = str(server.path / "repo.git")
    entry = refs_of(server.path / "repo.git", server.env, "refs/releases/")["refs/releases/v2"]
    ids = run(["git", "-C", repo, "rev-parse", f"{entry}^{{tree}}", f"{entry}:build"], server.path, server.env).out
    assert len(ids.split()) == 2
    folder = server.checkout("v2")
    return server.current, folder.name, files_of(folder, skip=set()), ids


def serve(dev: Shop, servers: Servers, name: str, *, filtering: bool = True, **config: str) -> Path:
    """A copy of the ledger on all servers."""
    bare = servers.root / f"{name}.git"
    shutil.copytree(dev.url, bare)
    for key, value in {"uploadpack.allowFilter": str(filtering).lower(), **config}.items():
        assert run(["git", "config", key.replace("__", "."), value], bare, dev.desk.env).code == 0
    return bare


def through(servers: Servers, relay: Cutter, transport: str, name: str) -> str:
    return servers.url(transport, name).replace(f":{servers.ports[transport]}", f":{relay.near}")


def client_env(servers: Servers) -> dict[str, str]:
    """For ssh the relay is the server, whatever its port."""
    env = servers.env({})
    env["GIT_SSH_COMMAND"] += f" -o HostKeyAlias=[127.0.0.1]:{servers.ports['ssh']}"
    return env


def untouched(server: Host) -> dict[str, object]:
    """What a pull that fails leaves as it was."""
    return {**files_of(server.path, skip={"state.json", "run"}), "state": server.state()}


def fsck(server: Host) -> None:
    repo = server.path / "repo.git"
    done = run(["git", "-C", str(repo), "fsck", "--strict", "--no-dangling", "--no-progress"], server.path, server.env)
    assert (done.code, [line for line in done.err.splitlines() if not line.startswith("notice:")]) == (0, [])


def salvaged(server: Host) -> int:
    folder = server.path / "run/salvage"
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def pull_until_done(server: Host) -> list[Done]:
    """Pull until it works; each that fails leaves all but the salvage as it was. What each said."""
    said = []
    for _ in range(12):
        before = untouched(server)
        done = server.attempt("pull")
        said.append(done)
        if done.code == 0:
            return said
        assert (done.code, done.message["next"] != "") == (13, True), done.err
        assert untouched(server) == before
    raise AssertionError("\n".join(done.err for done in said))


def same_as_in_peace(server: Host, in_peace: list[object]) -> None:
    """The release has the objects and files of a server that pulled over a good link, and nothing more is here."""
    assert [whole_release(server)] == in_peace
    assert not (server.path / "run/salvage").exists()
    fsck(server)


@pytest.mark.parametrize(
    ("transport", "filtering"),
    [("git", True), ("git", False), ("http", True), ("http", False), ("ssh", True)],  # ssh is slow, for its handshakes
)
def test_a_link_that_breaks_all_the_time(
    in_peace: list[object], dev: Shop, host: Hosts, servers: Servers, transport: str, filtering: bool
) -> None:
    """Every byte comes about once, and the server has what one has that pulled in peace."""
    name = f"breaks-{transport}-{filtering}"
    serve(dev, servers, name, filtering=filtering)
    with cutter(servers.ports[transport]) as relay:
        server = host(through(servers, relay, transport, name), dev.pin, env=client_env(servers))
        relay.arm(DOWN, EVERY, bad=True)
        relay.total, relay.pause = 0, SLOW if transport == "ssh" else 0.0
        said = pull_until_done(server)
        attempts = len(said)
        assert attempts >= BUILD // EVERY
        assert relay.total < (2 if transport == "ssh" else 1.3) * BUILD
        assert relay.total < 0.4 * attempts * BUILD
    assert all("came and are kept: the next pull goes on from there" in done.message["next"] for done in said[:-1])
    assert all(re.search(r"fetching v2, of which [0-9.]+ [KM]B came before", done.err) for done in said[1:])
    assert "all again" not in said[-1].err
    same_as_in_peace(server, in_peace)


@pytest.mark.parametrize("able", [True, False])
def test_a_server_that_speaks_version_0(
    in_peace: list[object], dev: Shop, host: Hosts, servers: Servers, tmp_path: Path, able: bool
) -> None:
    """It sends single objects if it is configured so; else all comes again, and is taken when it gets through."""
    name = f"version-0-{able}"
    serve(dev, servers, name, uploadpack__allowAnySHA1InWant=str(able).lower())
    wrapper = tmp_path / "ssh-0"
    env = client_env(servers)
    wrapper.write_text(f'#!/bin/sh\nunset GIT_PROTOCOL\nexec {env["GIT_SSH_COMMAND"]} "$@"\n')
    wrapper.chmod(0o755)
    with cutter(servers.ports["ssh"]) as relay:
        url = through(servers, relay, "ssh", name)
        server = host(url, dev.pin, env={**env, "GIT_SSH_COMMAND": str(wrapper)})
        relay.arm(DOWN, BUILD // 2)
        relay.pause = SLOW
        assert server.gitrel("pull", code=13).message["next"].endswith("goes on from there")
        relay.arm(DOWN, None)
        relay.pause = 0.0
        done = server.gitrel("pull")
        assert ("all again" in done.err) is not able
        assert (relay.counts[DOWN] < 0.9 * BUILD) is able
    same_as_in_peace(server, in_peace)


@pytest.mark.parametrize("victim", ["puller", "child"])
def test_killed_in_the_middle(in_peace: list[object], dev: Shop, host: Hosts, servers: Servers, victim: str) -> None:
    serve(dev, servers, f"killed-{victim}")
    with cutter(servers.ports["git"]) as relay:
        server = host(through(servers, relay, "git", f"killed-{victim}"), dev.pin, env=client_env(servers))
        before = untouched(server)
        relay.arm(DOWN, BUILD // 2, hangs=True)
        process = subprocess.Popen(
            server.argv("pull"),
            cwd=server.path.parent,
            env={**server.env, "GITREL_HOME": str(server.path)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        deadline = time.monotonic() + 60
        while salvaged(server) < BUILD // 2 - 200_000:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        os.kill(process.pid if victim == "puller" else int(children[0]), signal.SIGKILL)
        said = process.communicate(timeout=60)[1].decode()
        assert (process.returncode, "came and are kept" in said) == (
            (-signal.SIGKILL, False) if victim == "puller" else (13, True)
        )
        assert untouched(server) == before
        relay.free.set()
        relay.arm(DOWN, None)
        assert "of which" in server.gitrel("pull").err
        assert relay.counts[DOWN] < 0.65 * BUILD
    same_as_in_peace(server, in_peace)


@pytest.mark.parametrize("limits", ["idle_seconds=2", "wall_seconds=3", "wire_bytes=1500000"])
def test_a_limit_is_a_break_like_any_other(
    in_peace: list[object], dev: Shop, host: Hosts, servers: Servers, limits: str
) -> None:
    name = limits.replace("_", "-").replace("=", "-")
    serve(dev, servers, name)
    with cutter(servers.ports["git"]) as relay:
        server = host(through(servers, relay, "git", name), dev.pin, env=client_env(servers))
        relay.arm(DOWN, BUILD // 2 + 300_000, hangs=True)
        failed = server.gitrel("pull", code=13, env={"GITREL_LIMITS": limits})
        assert f"limit {limits.partition('=')[0]}" in failed.message["why"]
        assert failed.message["next"].endswith("goes on from there")
        relay.free.set()
        relay.arm(DOWN, None)
        assert "of which" in server.gitrel("pull").err
        assert relay.counts[DOWN] < 0.65 * BUILD
    same_as_in_peace(server, in_peace)


def test_a_mirror_completes_it(in_peace: list[object], dev: Shop, host: Hosts, servers: Servers) -> None:
    """Bytes have no sender: what one place began, another one finishes, in the same pull."""
    for name in ("first", "second"):
        serve(dev, servers, name)
    with cutter(servers.ports["git"]) as bad, cutter(servers.ports["http"]) as good:
        server = host(through(servers, bad, "git", "first"), dev.pin, env=client_env(servers))
        server.gitrel("mirror", "--add", through(servers, good, "http", "second"))
        bad.arm(DOWN, BUILD // 2)
        good.arm(DOWN, None)
        done = server.gitrel("pull")
        assert "of which" in done.err
        assert good.counts[DOWN] < 0.65 * BUILD
    same_as_in_peace(server, in_peace)


def test_a_newer_release_takes_what_it_can_use(dev: Shop, host: Hosts, servers: Servers) -> None:
    bare = serve(dev, servers, "newer")
    with cutter(servers.ports["git"]) as relay:
        server = host(through(servers, relay, "git", "newer"), dev.pin, env=client_env(servers))
        relay.arm(DOWN, BUILD * 3 // 4)
        server.gitrel("pull", code=13)
        big_release(dev, 2, files=3)
        dev.desk.git("push", "-q", str(bare), "refs/builds/*:refs/builds/*", "refs/releases/*:refs/releases/*")
        relay.arm(DOWN, None)
        done = server.gitrel("pull")
        assert "fetching v3, of which" in done.err
        assert relay.counts[DOWN] < 0.4 * BUILD
    assert server.current == "v3"
    fsck(server)


def test_prune_deletes_it(in_peace: list[object], dev: Shop, host: Hosts, servers: Servers) -> None:
    """When somebody asks for it; not the prune that a pull does by itself, which would be in its own way."""
    serve(dev, servers, "pruned")
    with cutter(servers.ports["git"]) as relay:
        server = host(through(servers, relay, "git", "pruned"), dev.pin, env=client_env(servers))
        relay.arm(DOWN, BUILD // 2)
        server.gitrel("pull", code=13)
        kept = salvaged(server)
        assert kept > BUILD // 3
        assert server.gitrel("prune", "--dry-run", "--json").json["object_bytes"] >= kept - 1000
        assert salvaged(server) == kept
        assert server.gitrel("prune", "--json").json["object_bytes"] >= kept - 1000
        assert not (server.path / "run/salvage").exists()
        relay.arm(DOWN, None)
        assert "of which" not in server.gitrel("pull").err
    same_as_in_peace(server, in_peace)


def test_no_more_is_kept_than_salvage_bytes(in_peace: list[object], dev: Shop, host: Hosts, servers: Servers) -> None:
    serve(dev, servers, "little")
    with cutter(servers.ports["git"]) as relay:
        server = host(through(servers, relay, "git", "little"), dev.pin, env=client_env(servers))
        relay.arm(DOWN, BUILD * 3 // 4)
        failed = server.gitrel("pull", code=13, env={"GITREL_LIMITS": "salvage_bytes=1000000"})
        assert "1.0 MB came and are kept" in failed.message["next"]
        assert sum(path.stat().st_size for path in (server.path / "run/salvage/pack").iterdir()) == 1_000_000
        relay.arm(DOWN, None)
        server.gitrel("pull")
        assert 0.6 * BUILD < relay.counts[DOWN] < 0.8 * BUILD
    same_as_in_peace(server, in_peace)


def test_what_was_kept_is_damaged(in_peace: list[object], dev: Shop, host: Hosts, servers: Servers) -> None:
    """It is found before it is used, thrown away, and in nobody's way."""
    serve(dev, servers, "damaged")
    with cutter(servers.ports["git"]) as relay:
        server = host(through(servers, relay, "git", "damaged"), dev.pin, env=client_env(servers))
        for _ in range(2):
            relay.arm(DOWN, BUILD // 3)
            server.gitrel("pull", code=13)
        relay.arm(DOWN, None)
        (pack,) = (server.path / "run/salvage/pack").glob("*.pack")
        pack.chmod(0o644)
        raw = bytearray(pack.read_bytes())
        raw[len(raw) // 2] ^= 1
        pack.write_bytes(raw)
        assert "of which" not in server.gitrel("pull").err
    same_as_in_peace(server, in_peace)


def test_going_on_killed_anywhere(shop: Shops, host: Hosts) -> None:
    """At a system call of the puller's that changes something: the next pull finishes, and nothing is left over."""
    dev = shop(1)
    big_release(dev, 1, files=20)
    server = host(dev.url, dev.pin)
    argv = ["git", "-C", dev.url, "pack-objects", "-q", "--stdout", "--revs"]
    sent = subprocess.run(argv, input=b"refs/releases/v2\n", capture_output=True, check=True, env=dev.desk.env).stdout
    (server.path / "run/salvage/pack").mkdir(parents=True)
    (server.path / "run/salvage/pack/incoming-1.tmp").write_bytes(sent[: len(sent) * 2 // 3])
    tried = points(copied(server, "counted"), 5, "pull")
    assert len(tried) > 3
    for call, number in tried:
        home = copied(server, f"home-{call}-{number}")
        killed(home, call, number, "pull")
        assert home.gitrel("pull").out.startswith("v2"), (call, number)
        assert rubbish(home) == [], (call, number)
        assert not (home.path / "run/salvage").exists()
        fsck(home)
        shutil.rmtree(home.path)
