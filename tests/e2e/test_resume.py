"""A link that breaks again and again: what came is kept, the rest is asked for, and the result is the same.

Real servers behind a relay that cuts every so many bytes; `gitrel pull` again until it gets through.
"""

from __future__ import annotations

import os
import random
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

__all__ = ["farm", "host", "servers", "shop"]  # fixtures

Hosts = Callable[..., Host]
Shops = Callable[[int], Shop]

FILES, SIZE = 150, 20_000  # of noise, which nothing compresses
BUILD = FILES * SIZE
EVERY = 700_000  # bytes until the link breaks


def big_release(dev: Shop, seed: int, files: int = FILES) -> str:
    noise = random.Random(seed)
    for number in range(files):
        path = dev.desk.path / f"data/{number % 7}/{seed}-{number}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(noise.randbytes(SIZE))
    return dev.release()


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


def pull_until_done(server: Host, args: tuple[str, ...] = (), *, at_most: int = 12) -> list[Done]:
    """Pull until it works; each that fails leaves all but the salvage as it was. What each said."""
    said = []
    for _ in range(at_most):
        before = untouched(server)
        done = run(server.argv("pull", *args), server.path.parent, {**server.env, "GITREL_HOME": str(server.path)})
        said.append(done)
        if done.code == 0:
            return said
        assert (done.code, done.message["next"] != "") == (13, True), done.err
        assert untouched(server) == before
    raise AssertionError("\n".join(done.err for done in said))


@pytest.mark.parametrize("filtering", [True, False])
@pytest.mark.parametrize("transport", ["git", "http", "ssh"])
def test_a_link_that_breaks_all_the_time(
    shop: Shops, host: Hosts, servers: Servers, transport: str, filtering: bool
) -> None:
    """Every byte comes about once, and the server has what one has that pulled in peace."""
    dev = shop(1)
    release = big_release(dev, 1)
    name = f"breaks-{transport}-{filtering}"
    serve(dev, servers, name, filtering=filtering)
    with cutter(servers.ports[transport]) as relay:
        server = host(through(servers, relay, transport, name), dev.pin, env=client_env(servers))
        relay.arm(DOWN, EVERY, bad=True)
        relay.total = 0
        said = pull_until_done(server)
    with open("/tmp/res.txt", "a") as f:
        print(transport, filtering, len(said), relay.total, relay.total / BUILD, file=f)
    assert False
