"""Stock git and ssh-keygen agree with gitrel: what gitrel writes they verify, what they make gitrel accepts."""

from __future__ import annotations

import hashlib
import re
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from conftest import program
from room import NAMESPACES, Desk, Room, room, run

__all__ = ["room"]  # the fixture

POSITIONS = 12  # bytes changed in each record


@pytest.fixture
def ledger(room: Room) -> Desk:
    """Records of every kind, on the remote too."""
    desk = room.started()
    desk.gitrel("release", "-m", "One\n\nWith text.")
    desk.gitrel("config", "set", "A=1", "B=2")
    desk.gitrel("config", "unset", "B")
    desk.gitrel("release")
    desk.gitrel("rollback")
    return desk


@pytest.fixture
def auditor(ledger: Desk, room: Room) -> Desk:
    """Somebody with stock git alone: a plain clone of the remote, and no key."""
    path = room.folder / "auditor"
    env = {**ledger.env, "HOME": str(room.folder)}
    desk = Desk(path=path, env=env, remote=room.remote)
    assert run(["git", "clone", "-q", str(room.remote), str(path)], room.folder, env).code == 0
    desk.git("fetch", "-q", "origin", "refs/*:refs/*")
    return desk


def records(desk: Desk) -> dict[str, str]:
    return {name: oid for name, oid in desk.refs().items() if name.startswith(NAMESPACES)}


def signers(desk: Desk) -> str:
    """The allowed signers of the trust in force, in a file."""
    return str(desk.write(".git/allowed", desk.git("show", "refs/trust/v1:allowed_signers") + "\n"))


def verified(desk: Desk, rev: str, allowed: str) -> bool:
    done = desk.attempt("-c", f"gpg.ssh.allowedSignersFile={allowed}", "verify-commit", rev)
    assert done.code in (0, 1, 128)
    return done.code == 0 and 'Good "git" signature' in done.err


def sha256_tree(desk: Desk, rev: str, folder: Path) -> str:
    """The id that a SHA-256 repository gives the checked-out tree of a record."""
    folder.mkdir()
    archive = subprocess.run(["git", "archive", rev], cwd=desk.path, env=desk.env, capture_output=True, check=True)
    subprocess.run(["tar", "-x"], cwd=folder, input=archive.stdout, check=True)
    for command in ("init -q --object-format=sha256", "add -Af"):
        assert run(["git", *command.split()], folder, desk.env).code == 0
    return run(["git", "write-tree"], folder, desk.env).out.strip()


def test_fsck_is_clean(ledger: Desk, auditor: Desk) -> None:
    ledger.fsck()
    auditor.fsck()
    assert {name.split("/")[1] for name in records(auditor)} == {"trust", "config", "builds", "releases"}


def test_verify_commit_of_every_record(auditor: Desk) -> None:
    program("ssh-keygen")
    found = records(auditor)
    allowed = signers(auditor)
    assert len(found) == 7
    assert {name for name in found if verified(auditor, name, allowed)} == set(found)
    nobody = str(auditor.write(".git/nobody", ""))
    assert not any(verified(auditor, name, nobody) for name in found)


def test_verify_commit_fails_after_a_change_of_one_byte(auditor: Desk) -> None:
    """White space aside: ssh-keygen reads past it in the armor. gitrel does not, as a test below shows."""
    allowed = signers(auditor)
    for name in records(auditor):
        raw = auditor.raw(name)
        for at in range(7, len(raw) - 1, len(raw) // POSITIONS):
            at += len(raw[at:]) - len(raw[at:].lstrip())
            changed = auditor.store(raw[:at] + bytes([raw[at] ^ 1]) + raw[at + 1 :])
            assert not verified(auditor, changed, allowed), f"{name}, byte {at}"


def test_the_graph_shows_where_a_release_comes_from(auditor: Desk) -> None:
    """Previous release, build, config: the picture of `git log --graph`, by the order of parents."""
    refs = records(auditor)
    build = next(oid for name, oid in refs.items() if name.startswith("refs/builds/"))
    parents = {
        name: auditor.git("rev-parse", f"{name}^@").split() for name in refs if not name.startswith("refs/builds/")
    }
    assert parents == {
        "refs/trust/v1": [],
        "refs/config/v1": [],
        "refs/config/v2": [refs["refs/config/v1"]],
        "refs/releases/v1": [build],
        "refs/releases/v2": [refs["refs/releases/v1"], build, refs["refs/config/v2"]],
        "refs/releases/v3": [refs["refs/releases/v2"], build],
    }
    drawn = auditor.git("log", "--graph", "--format=%H", "refs/releases/v2")
    assert {oid for oid in refs.values() if oid in drawn} == {
        oid for name, oid in refs.items() if name not in ("refs/releases/v3", "refs/trust/v1")
    }


def test_tree_sha256_is_what_a_sha256_repository_gives(auditor: Desk, tmp_path: Path) -> None:
    found = records(auditor)
    assert found
    for number, name in enumerate(found):
        stated = auditor.git("log", "-1", "--format=%(trailers:key=Tree-SHA256,valueonly)", name).strip()
        assert stated == sha256_tree(auditor, name, tmp_path / f"tree-{number}"), name


def test_a_byte_changed_is_refused_by_gitrel(room: Room) -> None:
    """Every ledger's record, at a stride, put in the place of the good one."""
    desk = room.started(remote=False)
    desk.gitrel("config", "set", "A=1")
    desk.gitrel("release", "-m", "One")
    for name, stride in (("refs/releases/v1", 61), ("refs/config/v1", 197), ("refs/trust/v1", 197)):
        raw, good = desk.raw(name), desk.refs()[name]
        for at in range(stride // 2, len(raw), stride):
            bad = desk.store(raw[:at] + bytes([raw[at] ^ 1]) + raw[at + 1 :])
            (desk.path / ".git" / name).write_text(f"{bad}\n")  # update-ref looks at what it is given
            before = desk.snapshot()
            command = ("config", "list") if name == "refs/config/v1" else ("verify", "--all")
            failed = desk.gitrel(*command, "--json", code=10)
            assert failed.json["error"]["exit_code"] == 10, f"{name}, byte {at}"
            assert "where" in failed.message, f"{name}, byte {at}"
            assert desk.snapshot() == before
        (desk.path / ".git" / name).write_text(f"{good}\n")
    desk.gitrel("verify", "--all")


@contextmanager
def agent(folder: Path, env: Mapping[str, str]) -> Iterator[dict[str, str]]:
    """A running ssh-agent; the environment that leads to it."""
    socket = folder / "agent.sock"
    with subprocess.Popen(["ssh-agent", "-D", "-a", str(socket)], env=env, stdout=subprocess.PIPE) as server:
        assert server.stdout is not None
        server.stdout.readline()  # it says where it listens, and does
        try:
            yield {**env, "SSH_AUTH_SOCK": str(socket)}
        finally:
            server.terminate()


KINDS = {
    "ecdsa": ("-t", "ecdsa", "-b", "256", "-N", ""),
    "ecdsa-521": ("-t", "ecdsa", "-b", "521", "-N", ""),
    "rsa": ("-t", "rsa", "-b", "3072", "-N", ""),
    "pem": ("-t", "rsa", "-b", "3072", "-m", "PEM", "-N", ""),
    "ed25519 in the agent alone": ("-t", "ed25519", "-N", ""),
    "ecdsa in the agent alone": ("-t", "ecdsa", "-b", "384", "-N", ""),
    "encrypted, in the agent": ("-t", "ed25519", "-N", "a passphrase"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_other_keys(room: Room, kind: str) -> None:
    """gitrel signs with the key of git's own setting, and stock git verifies it."""
    desk = room.desk(remote=False)
    key = room.folder / "key"
    subprocess.run(["ssh-keygen", "-q", *KINDS[kind], "-f", str(key)], check=True)
    desk.git("config", "gpg.format", "ssh")
    desk.git("config", "user.signingkey", str(key))
    with ExitStack() as stack:
        env = dict(desk.env)
        if "agent" in kind:
            env = stack.enter_context(agent(room.folder, env))
            helper = desk.write(".git/askpass", "#!/bin/sh\necho a passphrase\n", 0o755)
            asking = {"SSH_ASKPASS": str(helper), "SSH_ASKPASS_REQUIRE": "force"}
            subprocess.run(["ssh-add", "-q", str(key)], env={**env, **asking}, check=True, capture_output=True)
        if "alone" in kind:
            key.unlink()
            desk.git("config", "user.signingkey", f"key::{Path(f'{key}.pub').read_text().strip()}")
        desk.gitrel("init", env=env)
        desk.gitrel("config", "set", "A=1", env=env)
        desk.gitrel("release", env=env)
    assert "1 of 1 releases good" in desk.gitrel("verify", "--all").out
    allowed = signers(desk)
    found = records(desk)
    assert len(found) == 4
    assert all(verified(desk, name, allowed) for name in found)
    desk.fsck()


def cited(desk: Desk, name: str) -> str:
    """A record as others cite it: git's id, and SHA-256 over the same bytes with git's header."""
    raw = desk.raw(name)
    return f"{desk.refs()[name]} {hashlib.sha256(b'commit %d' % len(raw) + bytes(1) + raw).hexdigest()}"


def by_hand(desk: Desk, ref: str, tree: str, parents: list[str], message: str) -> None:
    """A record made with git commit-tree alone."""
    options = [word for parent in parents for word in ("-p", parent)]
    settings = ("-c", "gpg.format=ssh", "-c", f"user.signingkey={desk.home}/.ssh/id_ed25519")
    made = desk.git(*settings, "commit-tree", "-S", *options, tree, stdin=message.encode())
    desk.git("update-ref", ref, made, "0" * 40)


def test_records_made_by_hand_are_accepted(room: Room, tmp_path: Path) -> None:
    desk = room.started()
    desk.gitrel("config", "set", "A=1")
    desk.gitrel("release")
    value = desk.git("hash-object", "-w", "--stdin", stdin=b"by hand")
    config = desk.git("mktree", stdin=f"100644 blob {value}\tGREETING\n".encode())
    trust = f"v1 {cited(desk, 'refs/trust/v1')}"
    head = "Gitrel-Record: {}\nGitrel-Format: 1\nApp: shop\nDeploy: production\nEntry: v2\n"
    by_hand(
        desk, "refs/config/v2", config, ["refs/config/v1"],
        "Greet\n\n" + head.format("config") + f"Previous: {cited(desk, 'refs/config/v1')}\nTrust: {trust}\n"
        f"Tree-SHA256: {sha256_tree(desk, config, tmp_path / 'config')}\n",
    )  # fmt: skip
    assert desk.gitrel("config", "list").out == "GREETING=by hand\n"

    build = next(iter(desk.refs("refs/builds/")))
    files = desk.git("rev-parse", f"{build}:build")
    tree = desk.git("mktree", stdin=f"040000 tree {files}\tbuild\n040000 tree {config}\tconfig\n".encode())
    by_hand(
        desk, "refs/releases/v2", tree, ["refs/releases/v1", build, "refs/config/v2"],
        "By hand\n\nWith git alone.\n\n" + head.format("release")
        + f"Previous: {cited(desk, 'refs/releases/v1')}\nBuild: {cited(desk, build)}\n"
        f"Config: v2 {cited(desk, 'refs/config/v2')}\nTrust: {trust}\n"
        f"Tree-SHA256: {sha256_tree(desk, tree, tmp_path / 'release')}\n",
    )  # fmt: skip
    assert desk.gitrel("verify", "--all").out.count("records and every file verified") == 2
    assert re.search(r"^ +With git alone\.$", desk.gitrel("show", "v2").out, re.MULTILINE)
    assert desk.gitrel("rollback", "--json").json["release"] == "v3"
    assert set(desk.remote_refs()) == set(records(desk)), "the next push takes what was made by hand along"
    desk.fsck()
