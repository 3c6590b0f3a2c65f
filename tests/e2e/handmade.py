"""Records made with stock git and nothing else, good and bad, for the tests of what is refused.

    oid = release_by_hand(desk, like="refs/releases/v1", entry=2, previous="refs/releases/v1", trust=1)
    desk.git("push", "origin", f"{oid}:refs/releases/v2")

The writer follows docs/spec/record.md and shares no code with the package.
"""

from __future__ import annotations

import hashlib
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

from room import ROOT, Desk, Room

LONG_AGO = "1262304000 +0000"  # 2010


def called(desk: Desk, person: str) -> Desk:
    """Git's name and address on that machine, from which `gitrel init` names its first person."""
    desk.git("config", "--global", "user.name", person)
    desk.git("config", "--global", "user.email", f"{person}@example.org")
    return desk


def sha256_of(desk: Desk, rev: str, kind: str = "commit") -> str:
    """The second id of an object: over its bytes with git's header."""
    raw = desk.raw(rev, kind)
    return hashlib.sha256(b"%s %d\0" % (kind.encode(), len(raw)) + raw).hexdigest()


def tree_sha256(desk: Desk, tree: str) -> str:
    """The id that a SHA-256 repository would give the tree."""
    data = b""
    for line in desk.git("ls-tree", tree).splitlines():
        head, _, name = line.partition("\t")
        mode, kind, oid = head.split(" ")
        child = tree_sha256(desk, oid) if kind == "tree" else sha256_of(desk, oid, "blob")
        data += f"{mode.lstrip('0')} {name}\0".encode() + bytes.fromhex(child)
    return hashlib.sha256(b"tree %d\0" % len(data) + data).hexdigest()


def cite(desk: Desk, rev: str) -> str:
    return f"{desk.git('rev-parse', rev)} {sha256_of(desk, rev)}"


def trailer(desk: Desk, rev: str, key: str) -> str:
    found = re.search(f"^{key}: (.*)$", desk.git("cat-file", "commit", rev), re.MULTILINE)
    assert found is not None, f"no {key} in {rev}"
    return found[1]


def commit_by_hand(desk: Desk, tree: str, parents: list[str], message: str, *, date: str, sign: bool = True) -> str:
    """`git commit-tree -S` with the key on that machine."""
    key = ["-c", "gpg.format=ssh", "-c", "user.signingKey=~/.ssh/id_ed25519"]
    flags = [word for parent in parents for word in ("-p", parent)]
    args = [*key, "commit-tree", *(["-S"] if sign else []), *flags, tree]
    return desk.git(*args, stdin=message.encode(), env={"GIT_AUTHOR_DATE": date, "GIT_COMMITTER_DATE": date})


def release_by_hand(
    desk: Desk,
    *,
    like: str,
    entry: int,
    previous: str | None,
    trust: int,
    deploy: str = "production",
    build: str | None = None,
    tree: str | None = None,
    date: str = LONG_AGO,
    sign: bool = True,
) -> str:
    """A release with the build (or `build`, a record's id) of the release `like` and no config; its id."""
    build = build or trailer(desk, like, "Build").split(" ")[0]
    if tree is None:
        listing = desk.git("ls-tree", f"{build}^{{tree}}", "build")
        tree = desk.git("mktree", stdin=f"{listing}\n".encode())
    lines = [
        "Gitrel-Record: release",
        "Gitrel-Format: 1",
        "App: shop",
        f"Deploy: {deploy}",
        f"Entry: v{entry}",
        *([f"Previous: {cite(desk, previous)}"] if previous else []),
        f"Build: {cite(desk, build)}",
        f"Trust: v{trust} {cite(desk, f'refs/trust/v{trust}')}",
        f"Tree-SHA256: {tree_sha256(desk, tree)}",
    ]
    parents = [*([desk.git("rev-parse", previous)] if previous else []), build]
    message = f"Release by hand v{entry}\n\n" + "\n".join(lines) + "\n"
    return commit_by_hand(desk, tree, parents, message, date=date, sign=sign)


def build_by_hand(desk: Desk, files: dict[str, str], *, trust: int, sign: bool = True, lie: bool = False) -> str:
    """A build of these files (by name at its root), without a builder's statement; its id. `lie`: another content."""
    blobs = {name: desk.git("hash-object", "-w", "--stdin", stdin=text.encode()) for name, text in files.items()}
    listing = "".join(f"100644 blob {oid}\t{name}\n" for name, oid in sorted(blobs.items()))
    inside = desk.git("mktree", stdin=listing.encode())
    note = desk.git("hash-object", "-w", "--stdin", stdin=b"{}\n")
    tree = desk.git("mktree", stdin=f"040000 tree {inside}\tbuild\n100644 blob {note}\tprovenance.json\n".encode())
    lines = [
        "Gitrel-Record: build",
        "Gitrel-Format: 1",
        "App: shop",
        f"Source: {desk.git('rev-parse', 'HEAD')}",
        f"Trust: v{trust} {cite(desk, f'refs/trust/v{trust}')}",
        f"Tree-SHA256: {'0' * 64 if lie else tree_sha256(desk, tree)}",
    ]
    return commit_by_hand(desk, tree, [], "Build by hand\n\n" + "\n".join(lines) + "\n", date=LONG_AGO, sign=sign)


def config_by_hand(desk: Desk, tree: str, *, entry: int, trust: int, previous: str | None = None) -> str:
    """A config of production with the files of a tree; its id."""
    lines = [
        "Gitrel-Record: config",
        "Gitrel-Format: 1",
        "App: shop",
        "Deploy: production",
        f"Entry: v{entry}",
        *([f"Previous: {cite(desk, previous)}"] if previous else []),
        f"Trust: v{trust} {cite(desk, f'refs/trust/v{trust}')}",
        f"Tree-SHA256: {tree_sha256(desk, tree)}",
    ]
    parents = [desk.git("rev-parse", previous)] if previous else []
    return commit_by_hand(desk, tree, parents, "Config by hand\n\n" + "\n".join(lines) + "\n", date=LONG_AGO)


def heartbeat_by_hand(
    desk: Desk,
    *,
    entry: int,
    previous: str,
    heads: list[str],
    app: str = "shop",
    date: str = LONG_AGO,
    sign: bool = True,
) -> str:
    """A heartbeat that cites the trust which `previous` cites; `heads` as `production v2 <cite>`; its id."""
    tree = desk.git("mktree", stdin=b"")
    lines = [
        "Gitrel-Record: heartbeat",
        "Gitrel-Format: 1",
        f"App: {app}",
        f"Entry: v{entry}",
        f"Previous: {cite(desk, previous)}",
        f"Trust: {trailer(desk, previous, 'Trust')}",
        *(f"Head: {head}" for head in heads),
        f"Tree-SHA256: {tree_sha256(desk, tree)}",
    ]
    message = f"Heartbeat by hand v{entry}\n\n" + "\n".join(lines) + "\n"
    return commit_by_hand(desk, tree, [desk.git("rev-parse", previous)], message, date=date, sign=sign)


def approval_by_hand(desk: Desk, rev: str, what: str, *, trust: int, key: str) -> str:
    """The approval of a record, by `git mktag` and ssh-keygen; its id. `what`: `release production v3`."""
    record = desk.git("rev-parse", rev)
    lines = [
        "Gitrel-Record: approval",
        "Gitrel-Format: 1",
        "App: shop",
        f"Trust: v{trust} {cite(desk, f'refs/trust/v{trust}')}",
        f"Record: {what} {cite(desk, rev)}",
    ]
    head = f"object {record}\ntype commit\ntag approvals/{record}/{key}\ntagger Hand <hand@example.org> {LONG_AGO}\n"
    payload = (head + "\nApproved by hand\n\n" + "\n".join(lines) + "\n").encode()
    argv = ["ssh-keygen", "-q", "-Y", "sign", "-n", "git", "-f", str(desk.home / ".ssh/id_ed25519")]
    signed = subprocess.run(argv, input=payload, capture_output=True, check=True, env=dict(desk.env)).stdout
    return desk.store(payload + signed, "tag")


def new_key(path: Path, kind: str, bits: int | None = None) -> Path:
    """A key as ssh-keygen makes it, without a passphrase; its public half is beside it."""
    size = ["-b", str(bits)] if bits else []
    subprocess.run(["ssh-keygen", "-q", "-t", kind, *size, "-N", "", "-C", path.name, "-f", str(path)], check=True)
    return path


def restored(room: Room, template: Path) -> Desk | None:
    """The desk that `keep` put away, in this test's room; None before there is one."""
    if not any(template.iterdir()):
        return None
    shutil.copytree(template, room.folder, symlinks=True, dirs_exist_ok=True)
    machine, temporary = room.folder / "machine-1", room.folder / "tmp-1"
    changes = {"HOME": str(machine), "GIT_CONFIG_GLOBAL": str(machine / ".gitconfig"), "TMPDIR": str(temporary)}
    room.count = 1
    desk = Desk(path=room.folder / "shop", env={**room.env, **changes}, remote=room.remote)
    desk.git("remote", "set-url", "origin", str(room.remote))
    return desk


def keep(room: Room, template: Path) -> None:
    """Put a room away, for the other tests of a module: what it took many commands to make is made once."""
    shutil.copytree(room.folder, template, symlinks=True, dirs_exist_ok=True)


def install_hook(remote: Path, *args: str, before: str = "") -> None:
    """The documented line, with the tree under test instead of an installed gitrel."""
    command = shlex.join([sys.executable, "-P", "-m", "gitrel", "hook", "pre-receive", *args])
    hook = remote / "hooks" / "pre-receive"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text(f"#!/bin/sh\nexport PYTHONPATH={shlex.quote(str(ROOT))}\n{before}exec {command}\n")
    hook.chmod(0o755)
