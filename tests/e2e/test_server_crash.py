"""Killed at a system call that changes something, or without space: the old release or the new one, and no repair.

The suite tries some of these calls, spread over the run; with `GITREL_SWEEP=1` in the environment, each of them.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from apps import Host, Shop, farm, host, shop
from room import Done, run

__all__ = ["farm", "host", "shop"]  # fixtures

Hosts = Callable[..., Host]
Shops = Callable[[int], Shop]

STEP = 1 if "GITREL_SWEEP" in os.environ else 17  # every how many calls one is tried
CALLS = (
    "rename renameat renameat2 link linkat symlink symlinkat unlink unlinkat rmdir mkdir mkdirat "
    "fsync fdatasync syncfs ftruncate fchmod"
).replace(" ", ",")


def traced(server: Host, options: list[str], args: tuple[str, ...]) -> Done:
    argv = ["strace", "-f", "-qq", "--seccomp-bpf", *options, *server.argv(*args)]
    return run(argv, server.path.parent, {**server.env, "GITREL_HOME": str(server.path)})


def killed(server: Host, call: str, number: int, *args: str) -> None:
    """Run gitrel, and kill its main process as it enters this system call for the Nth time."""
    inject = ["-o", "/dev/null", "-e", f"trace={call}", "-e", f"inject={call}:signal=KILL:when={number}"]
    assert traced(server, inject, args).code in (-signal.SIGKILL, 0, 13)  # 0, 13: a child came to that number first


def points(server: Host, first: int, *args: str) -> list[tuple[str, int]]:
    """The calls of the main process when nobody kills it, as strace counts them: by name. Some of them, or all."""
    log = server.path.parent / "calls"
    assert traced(server, ["-o", str(log), "-e", f"trace={CALLS}"], args).code == 0
    lines = [line.split(maxsplit=1) for line in log.read_text().splitlines() if "(" in line]
    seen: Counter[str] = Counter()
    found = []
    for pid, text in lines:
        if pid == lines[0][0]:
            name = text.split("(")[0]
            seen[name] += 1
            found.append((name, seen[name]))
    return found[first % STEP :: STEP]


def rubbish(server: Host) -> list[str]:
    """What a killed run left that no later one took away."""
    found = [path for path in server.path.rglob("*") if ".tmp" in path.name or path.name.startswith("quarantine-")]
    return [str(path.relative_to(server.path)) for path in found]


def copied(server: Host, name: str) -> Host:
    """The same server once more."""
    path = server.path.with_name(name)
    shutil.copytree(server.path, path, symlinks=True)
    return Host(path=path, env=server.env, port=server.port)


@pytest.fixture
def pair(shop: Shops, host: Hosts) -> Host:
    """A server that has v1 and a v2 to pull; each prints its number and ends."""
    dev = shop(0)
    dev.release("cat text")
    server = host(dev.url, dev.pin)
    server.gitrel("pull")
    dev.desk.gitrel("config", "set", "A=1")
    dev.release("cat text")
    return server


def test_pull_killed_anywhere(pair: Host) -> None:
    tried = points(copied(pair, "counted"), 4, "pull")
    assert len(tried) > 5
    for call, number in tried:
        server = copied(pair, f"home-{call}-{number}")
        killed(server, call, number, "pull")
        assert server.gitrel("exec", "web").out in ("1\n", "2\n"), (call, number)
        again = server.gitrel("pull")
        assert again.out.startswith("v2"), (call, number)
        assert (server.current, (server.path / "current/text").read_text()) == ("v2", "2\n")
        assert rubbish(server) == [], (call, number)
        server.fsck()
        shutil.rmtree(server.path)


def test_prune_killed_anywhere(shop: Shops, host: Hosts) -> None:
    """What runs still starts, and the next prune finishes."""
    dev = shop(1)
    server = host(dev.url, dev.pin)
    server.gitrel("pull")
    for _ in range(2):
        dev.release("cat text")
        server.gitrel("pull")
    args = ("prune", "--keep", "1")
    tried = points(copied(server, "counted"), 6, *args)
    assert len(tried) > 2
    for call, number in tried:
        home = copied(server, f"home-{call}-{number}")
        killed(home, call, number, *args)
        assert home.gitrel("exec", "web").out == "3\n", (call, number)
        assert home.gitrel(*args, "--json").json["kept"] == ["v3"]
        assert rubbish(home) == [], (call, number)
        assert len(list((home.path / "repo.git/objects/pack").iterdir())) == 3, (call, number)  # pack, index, promisor
        assert [path.name for path in (home.path / "releases").iterdir()] == ["v3"]
        home.fsck()
        shutil.rmtree(home.path)


@pytest.mark.parametrize("args", [("pin", "v1"), ("unpin",), ("scale", "web=2")], ids=lambda args: args[0])
def test_pin_and_scale_killed_anywhere(args: tuple[str, ...], pair: Host) -> None:
    pair.gitrel("pull")
    if args == ("unpin",):
        pair.gitrel("pin", "v1")
    after = {"pin": "1\n", "unpin": "2\n", "scale": "2\n"}[args[0]]
    for call, number in points(copied(pair, "counted"), 3, *args):
        server = copied(pair, f"home-{call}-{number}")
        killed(server, call, number, *args)
        assert server.gitrel("exec", "web").out in ("1\n", "2\n"), (call, number)
        server.gitrel("status")
        server.gitrel(*args)
        assert server.gitrel("exec", "web").out == after, (call, number)
        server.gitrel("pull")
        assert rubbish(server) == [], (call, number)
        server.fsck()
        shutil.rmtree(server.path)


def test_join_killed_anywhere(shop: Shops, host: Hosts) -> None:
    dev = shop(1)

    def join(server: Host) -> tuple[str, ...]:
        return "join", dev.url, str(server.path), "--trust", dev.pin

    counted = host()
    for call, number in points(counted, 7, *join(counted)):
        server = host()
        killed(server, call, number, *join(server))
        server.gitrel(*join(server))
        assert server.gitrel("pull").out == "v1\n", (call, number)
        left = {path.name for path in server.path.iterdir()} - {".joining"}
        assert left == {"builds", "current", "releases", "repo.git", "run", "state.json"}
        assert rubbish(server) == [], (call, number)
        server.fsck()


def test_repair_killed_anywhere(pair: Host) -> None:
    def tampered(name: str) -> Host:
        server = copied(pair, name)
        (server.checkout("v1") / "text").write_text("other\n")
        return server

    for call, number in points(tampered("counted"), 2, "exec", "web"):
        server = tampered(f"home-{call}-{number}")
        killed(server, call, number, "exec", "web")
        assert server.gitrel("exec", "web").out == "1\n", (call, number)
        assert (server.checkout("v1") / "text").read_text() == "1\n"


def test_a_join_that_fails_leaves_nothing(shop: Shops, host: Hosts, tmp_path: Path) -> None:
    dev = shop(1)
    wrong = "0" * 64
    server = host(folder=tmp_path / "not" / "there")
    failed = run(server.argv("join", dev.url, str(server.path), "--trust", wrong), tmp_path, server.env)
    assert failed.code == 10
    assert not (tmp_path / "not").exists()
    empty = tmp_path / "empty"
    empty.mkdir()
    for url, pin, code in ((dev.url, wrong, 10), (f"{dev.url}.none", dev.pin, 13), ("ext::sh -c x", dev.pin, 2)):
        failed = run(server.argv("join", url, str(empty), "--trust", pin), tmp_path, server.env)
        assert failed.code == code
        assert list(empty.iterdir()) == []
    (empty / "mine").write_text("mine")
    failed = run(server.argv("join", dev.url, str(empty), "--trust", dev.pin), tmp_path, server.env)
    assert (failed.code, failed.message["what"]) == (2, "the folder is not empty")
    assert (empty / "mine").read_text() == "mine"
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere").mkdir()
    done = run(server.argv("join", dev.url, str(link), "--trust", dev.pin), tmp_path, server.env)
    assert done.code == 0
    assert link.is_symlink()
    assert (tmp_path / "elsewhere/state.json").is_file()
    again = run(server.argv("join", dev.url, str(link), "--trust", dev.pin), tmp_path, server.env)
    assert again.code == 0, "the same join again is no error"
    other = run(server.argv("join", dev.url, str(link), "--trust", wrong), tmp_path, server.env)
    assert (other.code, other.message["what"]) == (2, "this is a gitrel home already")


SMALL_DISK = """
set -u
mount -t tmpfs -o size=8m none "$MOUNT"
cp -a "$FROM" "$MOUNT/home"
export GITREL_HOME="$MOUNT/home"
"""


def on_a_small_disk(server: Host, mount: Path, script: str) -> subprocess.CompletedProcess[str]:
    """Run a script beside a copy of the home, `$MOUNT/home`, where `gitrel` is the program."""
    mount.mkdir()
    program = " ".join(shlex.quote(word) for word in server.argv())
    return subprocess.run(
        ["unshare", "--mount", "--map-root-user", "sh", "-c", f'gitrel() {{ {program} "$@"; }}\n{SMALL_DISK}{script}'],
        env={**server.env, "MOUNT": str(mount), "FROM": str(server.path)},
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )


def test_without_space_the_old_release_stays(pair: Host, tmp_path: Path) -> None:
    """A filesystem of its own, full, then read-only: pull fails and what is there starts; with space again v2 comes."""
    script = """
head -c 100m /dev/zero > "$MOUNT/filler" 2>/dev/null
gitrel pull; echo "full: $?"
gitrel exec web
gitrel status | grep current
head -c 100m /dev/zero > "$MOUNT/filler" 2>/dev/null
truncate -s -40k "$MOUNT/filler"
gitrel pull; echo "nearly full: $?"
gitrel exec web
rm "$MOUNT/filler"
gitrel pull; echo "space: $?"
gitrel exec web
mount -o remount,ro "$MOUNT"
gitrel pull; echo "read-only: $?"
gitrel exec web
find "$MOUNT/home" -name '*.tmp*' -o -name 'quarantine-*'
git -C "$MOUNT/home/repo.git" fsck --no-dangling --no-progress; echo "fsck: $?"
"""
    done = on_a_small_disk(pair, tmp_path / "full", script)
    said = done.stdout
    assert re.search(r"full: 14\n1\n", said), done.stdout + done.stderr
    assert "current    v1" in said
    assert re.search(r"nearly full: 14\n1\n", said), done.stdout + done.stderr
    assert said.endswith("v2\nspace: 0\n2\nread-only: 14\n2\nfsck: 0\n"), said + done.stderr
    assert "free some disk space" in done.stderr
    assert "a bug" not in done.stderr
    assert "the filesystem is read-only" in done.stderr


def test_prune_without_space(shop: Shops, host: Hosts, tmp_path: Path) -> None:
    """On a full disk it frees what it can without space, and the rest when there is some; nothing breaks."""
    dev = shop(1)
    server = host(dev.url, dev.pin)
    server.gitrel("pull")
    for _ in range(2):
        dev.release("cat text")
        server.gitrel("pull")
    server.gitrel("prune", "--dry-run")
    script = """
for left in 0 4k 12k 24k 40k 64k; do
  rm -f "$MOUNT/filler"; head -c 100m /dev/zero > "$MOUNT/filler" 2>/dev/null
  truncate -s "-$left" "$MOUNT/filler"
  gitrel prune --keep 1 >/dev/null; code=$?
  [ $code = 0 ] || [ $code = 14 ] || echo "prune with $left: $code"
  gitrel exec web || echo "exec with $left"
done
rm "$MOUNT/filler"
gitrel prune --keep 1 | grep kept; echo "space: $?"
gitrel exec web
find "$MOUNT/home" -name '*.tmp*' -o -name 'tmp_*' -o -name gitrel-gone
git -C "$MOUNT/home/repo.git" fsck --no-dangling --no-progress; echo "fsck: $?"
"""
    done = on_a_small_disk(server, tmp_path / "full", script)
    assert done.stdout == "3\n" * 6 + "kept: v3\nspace: 0\n3\nfsck: 0\n", done.stdout + done.stderr
    assert "a bug" not in done.stderr
