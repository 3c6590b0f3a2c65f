"""The hook and a pusher who means harm, or a ledger that is long; over ssh; with a pin. Also see `test_hook.py`."""

from __future__ import annotations

import hashlib
import os
import re
import shlex
import sys
import time
import zlib
from dataclasses import replace
from pathlib import Path

from guarded import clone, desk, landed, push, refused, template
from handmade import (
    build_by_hand,
    called,
    cite,
    commit_by_hand,
    install_hook,
    release_by_hand,
)
from room import ROOT, Desk, Room, room, run
from servers import Servers, servers

from gitrel.format.record import ReleaseRecord, parse_record_as
from gitrel.format.tree import Mode, Node
from gitrel.ids import Entry
from gitrel.keys.private import load_signer
from gitrel.store.records import write_record
from gitrel.store.repository import Repository

__all__ = ["desk", "room", "servers", "template"]  # fixtures


def test_nested_too_deeply(desk: Desk) -> None:
    """1,500 folders in each other: refused by their number, not by a stack that overflows."""
    blob = desk.git("hash-object", "-w", "--stdin", stdin=b"x")
    raw = b"100644 x\0" + bytes.fromhex(blob)
    for _ in range(1500):
        raw = b"40000 d\0" + bytes.fromhex(_tree(desk, raw))
    inside = _tree(desk, raw)
    note = desk.git("hash-object", "-w", "--stdin", stdin=b"{}\n")
    top = desk.git("mktree", stdin=f"040000 tree {inside}\tbuild\n100644 blob {note}\tprovenance.json\n".encode())
    trailers = ["Gitrel-Record: build", "Gitrel-Format: 1", "App: shop", f"Source: {desk.git('rev-parse', 'HEAD')}"]
    trailers += [f"Trust: v3 {cite(desk, 'refs/trust/v3')}", f"Tree-SHA256: {'0' * 64}"]
    bad = commit_by_hand(desk, top, [], "Deep\n\n" + "\n".join(trailers) + "\n", date="1700000000 +0000")
    assert "nested too deeply" in refused(desk, 11, f"{bad}:refs/builds/{bad}")


def _tree(desk: Desk, raw: bytes) -> str:
    """Written without a process for each of many."""
    data = b"tree %d\0" % len(raw) + raw
    oid = hashlib.sha1(data, usedforsecurity=False).hexdigest()
    path = desk.path / ".git/objects" / oid[:2] / oid[2:]
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(zlib.compress(data))
    return oid


def test_the_pin(room: Room) -> None:
    """With a pin nobody can be first with another trust; a pin that is none is said to be none."""
    alice = called(room.desk(), "alice")
    pin = alice.gitrel("init", "--remote", "none", "--json").json["pin"]
    install_hook(room.remote)
    run(["git", "config", "gitrel.trust", pin], room.remote, alice.env)
    alice.git("push", "-q", "origin", "main")
    mallory = room.clone("mallory", "mallory")
    failed = mallory.gitrel("init", "--app", "shop", code=13)
    assert "not the trust that is pinned" in failed.err
    alice.gitrel("release")
    install_hook(room.remote, "--trust", "0" * 64)
    assert "not the trust that is pinned" in alice.gitrel("release", code=13).err
    install_hook(room.remote, "--trust", "nonsense")
    assert "--trust" in alice.gitrel("release", code=13).err
    assert set(alice.remote_refs("refs/releases/")) == {"refs/releases/v1"}


def test_over_ssh(room: Room, servers: Servers) -> None:
    """The line in the hook is all that a host needs, whatever the environment of its sshd."""
    remote = servers.create(f"hook-{os.getpid()}")
    install_hook(remote)
    desk = called(room.desk(remote=False), "alice")
    desk = replace(desk, env={**servers.env(desk.env)}, remote=remote)
    desk.git("remote", "add", "origin", servers.url("ssh", remote.stem))
    desk.gitrel("init")
    desk.gitrel("release")
    refused(desk, 13, ":refs/releases/v1")
    refused(desk, 13, "+refs/trust/v1:refs/releases/v1")
    refused(desk, 2, "HEAD:refs/releases/v2")
    landed(desk, "HEAD:refs/heads/main")
    desk.gitrel("release")


def test_nothing_is_executed(room: Room, desk: Desk, tmp_path: Path) -> None:
    """A push with files that tools of all kinds would run: the hook starts no program at all."""
    bob = clone(room, "bob", "bob")
    trace = tmp_path / "trace"
    python = shlex.join([sys.executable, "-P", "-m", "gitrel", "hook", "pre-receive"])
    hook = room.remote / "hooks/pre-receive"
    command = f"exec strace -f -qq -e trace=execve -o {shlex.quote(str(trace))} {python}"
    hook.write_text(f"#!/bin/sh\nexport PYTHONPATH={shlex.quote(str(ROOT))}\n{command}\n")
    oid = release_by_hand(bob, like="refs/releases/v1", entry=3, previous="refs/releases/v2", trust=3)
    landed(bob, f"{oid}:refs/releases/v3")
    assert len(re.findall("execve", trace.read_text())) == 1, trace.read_text()
    files = dict.fromkeys(("sitecustomize.py", "gitrel.py", "post-checkout"), "#!/bin/sh\ntouch /tmp/executed\n")
    bad = build_by_hand(bob, files, trust=3)
    assert push(bob, f"{bad}:refs/builds/{bad}").code == 1
    assert len(re.findall("execve", trace.read_text())) == 1, trace.read_text()


def test_a_huge_object_is_refused_within_bounds(room: Room, desk: Desk) -> None:
    """600 MB of zeros as a release: the hook ends by its own memory limit, and says so."""
    install_hook(room.remote, before="ulimit -v 500000\n")
    huge = desk.path.parent / "huge"
    with huge.open("wb") as file:
        file.truncate(600_000_000)
    oid = desk.git("hash-object", "-w", str(huge))
    began = time.monotonic()
    assert "too large to be verified" in refused(desk, 11, f"{oid}:refs/releases/v3")
    assert time.monotonic() - began < 60
    desk.gitrel("release")


def test_a_long_ledger(room: Room, desk: Desk) -> None:
    """What the hook costs does not grow with the releases that are there already: they were judged when they came."""
    short = _seconds(
        desk, release_by_hand(desk, like="refs/releases/v1", entry=3, previous="refs/releases/v2", trust=3), 3
    )
    _prolong(desk, room.remote, 1000)
    long = release_by_hand(desk, like="refs/releases/v1", entry=1001, previous="refs/releases/v1000", trust=3)
    assert _seconds(desk, long, 1001) < 3 * short + 2


def _seconds(desk: Desk, oid: str, entry: int) -> float:
    began = time.monotonic()
    landed(desk, f"{oid}:refs/releases/v{entry}")
    desk.git("update-ref", f"refs/releases/v{entry}", oid)
    return time.monotonic() - began


def _prolong(desk: Desk, remote: Path, entry: int) -> None:
    """Releases v4 to v<entry> like v3, signed in this process, here and on the remote."""
    signer = load_signer(
        str(desk.home / ".ssh/id_ed25519"), gpg_format="ssh", home=desk.home, env={}, interactive=False
    )
    made = []
    with Repository.open(desk.path) as repo:
        last = parse_record_as(ReleaseRecord, desk.raw("refs/releases/v3"), repo.format)
        template = last.record
        for number in range(4, entry + 1):
            record = replace(template, entry=Entry(number), previous=last.id)
            node = Node(Mode.DIRECTORY, last.tree, template.tree_sha256)
            last = write_record(repo, record, node, who=last.committer, sign=signer.sign)
            made.append(f"create {record.ref} {last.id.oid}\n")
    desk.git("update-ref", "--stdin", stdin="".join(made).encode())
    hook = remote / "hooks/pre-receive"
    hook.rename(remote / "hooks/away")
    landed(desk, "refs/releases/*:refs/releases/*")
    hook.with_name("away").rename(hook)
