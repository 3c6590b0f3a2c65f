"""What git does to a repository over the years, and `git fetch` with the ledgers in it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from apps import Host, Shop, farm, host, shop
from room import NAMESPACES, Desk, run

__all__ = ["farm", "host", "shop"]  # fixtures

Hosts = Callable[..., Host]
Shops = Callable[[int], Shop]

HOUSEKEEPING = (
    ("gc", "--quiet", "--prune=now"),
    ("pack-refs", "--all", "--prune"),
    ("repack", "-q", "-a", "-d", "-f"),
    ("maintenance", "run", "--quiet", "--task=gc", "--task=commit-graph", "--task=loose-objects"),
    ("maintenance", "run", "--quiet", "--task=incremental-repack", "--task=pack-refs"),
    ("prune", "--expire=now"),
    ("fsck", "--strict", "--no-dangling", "--no-progress"),
)


def keep_house(dev: Shop, folder: Path) -> None:
    """Everything that git does by itself or is told to do, with no mercy for what no ref reaches."""
    for args in HOUSEKEEPING:
        done = run(["git", "-C", str(folder), *args], dev.desk.path, dev.desk.env)
        if args[0] != "maintenance" or "not a valid task" not in done.err:  # tasks came with several versions of git
            assert done.code == 0, (args, done.err)


def ledgers(refs: dict[str, str]) -> dict[str, str]:
    return {name: oid for name, oid in refs.items() if name.startswith(NAMESPACES)}


def test_housekeeping_leaves_the_ledgers_and_gitrel_works_on(shop: Shops, host: Hosts) -> None:
    dev = shop(2)
    desk, old = dev.desk, Path(dev.url)
    server = host(dev.url, dev.pin)
    server.gitrel("pull")
    before = ledgers(desk.refs())
    for folder in (desk.path, old, server.path / "repo.git"):
        keep_house(dev, folder)
        assert not list((folder / ".git/refs/releases" if folder == desk.path else folder / "refs/releases").glob("*"))
    assert ledgers(desk.refs()) == before == ledgers(desk.remote_refs())
    assert server.gitrel("pull").out == "v2 (nothing new)\n"
    # the host moves: a mirror clone is a remote like the one before
    moved = old.with_name("moved.git")
    desk.git("clone", "-q", "--mirror", str(old), str(moved))
    old.rename(old.with_name("off.git"))
    desk.git("remote", "set-url", "origin", str(moved))
    dev.desk.gitrel("verify", "--all")
    dev.release()
    server.gitrel("mirror", "--add", str(moved), "--remove", dev.url)
    assert server.gitrel("pull").out == "v3\n"
    keep_house(dev, server.path / "repo.git")
    assert server.gitrel("pull").out == "v3 (nothing new)\n"
    server.gitrel("doctor")


def test_git_fetch_brings_the_ledgers_and_moves_nothing(shop: Shops) -> None:
    """`gitrel init --fetch` adds what is missing, once, and git then refuses what was rewritten."""
    dev = shop(2)
    dev.desk.git("push", "-q", "origin", "main")
    clone = Desk(path=dev.desk.path.with_name("clone"), env=dev.desk.env, remote=dev.desk.remote)
    dev.desk.git("clone", "-q", dev.url, str(clone.path))
    assert "`gitrel init --fetch`" in clone.gitrel("init", "--trust", dev.pin).err
    own = clone.git("config", "--get-all", "remote.origin.fetch")
    said = clone.gitrel("init", "--fetch").err
    lines = clone.git("config", "--get-all", "remote.origin.fetch").splitlines()
    assert lines == [own, *(f"{namespace}*:{namespace}*" for namespace in (*NAMESPACES, "refs/approvals/"))]
    assert said.count("added to git's configuration") == 5
    assert "added" not in clone.gitrel("init", "--fetch").err
    assert clone.git("config", "--get-all", "remote.origin.fetch").splitlines() == lines
    dev.release()
    clone.git("fetch", "-q")
    assert ledgers(clone.refs()) == ledgers(dev.desk.remote_refs())
    assert clone.gitrel("verify", "--remote", "none", "--json").json
    forged = dev.desk.git("commit-tree", "HEAD^{tree}", "-m", "another")
    dev.desk.git("push", "-q", "--force", "origin", f"{forged}:refs/releases/v3")
    rejected = clone.attempt("fetch")
    assert rejected.code != 0
    assert "[rejected]" in rejected.err
    assert ledgers(clone.refs())["refs/releases/v3"] != forged
    assert clone.gitrel("release", code=10).message["where"] == "refs/releases/v3"
    bare = dev.desk.path.with_name("alone")
    bare.mkdir()
    lonely = Desk(path=bare, env=dev.desk.env, remote=None)
    lonely.git("init", "-q")
    lonely.write("Procfile", "web: sleep 1\n")
    lonely.commit()
    before = lonely.snapshot()
    assert lonely.gitrel("init", "--fetch", code=2).message["where"] == "origin"
    assert lonely.snapshot() == before
