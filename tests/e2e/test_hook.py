"""`gitrel hook pre-receive` behind a real `git receive-pack`: what a push by stock git may and may not put there."""

from __future__ import annotations

import base64
import hashlib
import re
import subprocess

import pytest
from guarded import clone, desk, landed, refused, template
from handmade import (
    approval_by_hand,
    build_by_hand,
    called,
    cite,
    commit_by_hand,
    config_by_hand,
    install_hook,
    release_by_hand,
)
from room import Desk, Room, room, run

__all__ = ["desk", "room", "template"]  # fixtures


def test_everything_that_gitrel_pushes_passes(room: Room, desk: Desk) -> None:
    """Every command that publishes, by two people, with a threshold, a second deploy and a rollback."""
    pin = desk.gitrel("trust", "show", "--json").json["pin"]
    desk.gitrel("config", "set", "A=1")
    desk.gitrel("release")
    desk.gitrel("rollback", "v1")
    desk.write("app.py", "print('two')\n")
    desk.commit()
    desk.gitrel("build")
    desk.gitrel("release")
    desk.gitrel("release", "--deploy", "staging")
    desk.gitrel("config", "set", "--deploy", "staging", "B=2")
    desk.gitrel("release", "--deploy", "staging")
    desk.gitrel("trust", "set-role", "release", "alice", "bob", "--threshold", "2", "--yes")
    desk.gitrel("trust", "set-role", "root", "alice", "bob", "--threshold", "2", "--yes")
    bob = room.clone("bob", "bob")
    bob.gitrel("init", "--trust", pin)
    bob.gitrel("approve", "trust/v5", "--yes")
    assert desk.gitrel("release", "--json").json["pending"]
    bob.gitrel("approve", "v6", "--yes")
    desk.gitrel("trust", "repudiate", "v5", "--yes")
    bob.gitrel("approve", "trust/v6", "--yes")
    bob.gitrel("release")
    desk.gitrel("approve", "v7", "--yes")
    assert [each["verdict"] for each in desk.gitrel("log", "--json").json["releases"]] == [
        "good", "good", "refused", "good", "good", "good", "good",
    ]  # fmt: skip
    desk.fsck()


def test_a_good_release_by_hand_lands(room: Room, desk: Desk) -> None:
    bob = clone(room, "bob", "bob")
    oid = release_by_hand(bob, like="refs/releases/v1", entry=3, previous="refs/releases/v2", trust=3)
    landed(bob, f"{oid}:refs/releases/v3")
    desk.git("fetch", "-q", "origin", "refs/releases/*:refs/releases/*")
    assert "3 of 3 releases good" in desk.gitrel("verify", "--all").out
    desk.fsck()


def test_moved(desk: Desk) -> None:
    assert "never replaced" in refused(desk, 13, "+refs/releases/v1:refs/releases/v2")
    assert "never replaced" in refused(desk, 13, "+refs/trust/v2:refs/trust/v1")


def test_deleted(desk: Desk) -> None:
    build = next(iter(desk.remote_refs("refs/builds/")))
    for name in ("refs/releases/v1", "refs/trust/v3", build):
        assert "never deleted" in refused(desk, 13, f":{name}")


def test_out_of_order(room: Room, desk: Desk) -> None:
    bob = clone(room, "bob", "bob")
    third = release_by_hand(bob, like="refs/releases/v1", entry=3, previous="refs/releases/v2", trust=3)
    fourth = release_by_hand(bob, like="refs/releases/v1", entry=4, previous=third, trust=3)
    refused(bob, 8, f"{fourth}:refs/releases/v4")
    refused(bob, 8, f"{third}:refs/releases/v4")
    twin = release_by_hand(bob, like="refs/releases/v1", entry=3, previous="refs/releases/v1", trust=3)
    refused(bob, 8, f"{twin}:refs/releases/v3")
    landed(bob, f"{fourth}:refs/releases/v4", f"{third}:refs/releases/v3")


def test_signed_by_nobody_who_may(room: Room, desk: Desk) -> None:
    mallory = clone(room, "mallory", "mallory")
    bad = release_by_hand(mallory, like="refs/releases/v1", entry=3, previous="refs/releases/v2", trust=3)
    assert "who may not release" in refused(mallory, 5, f"{bad}:refs/releases/v3")
    bad = release_by_hand(mallory, like="refs/releases/v1", entry=3, previous="refs/releases/v2", trust=3, sign=False)
    refused(mallory, 2, f"{bad}:refs/releases/v3")
    raw = mallory.raw("refs/releases/v2").replace(b"Entry: v2", b"Entry: v3")
    refused(mallory, 8, f"{mallory.store(raw)}:refs/releases/v3")
    raw = mallory.raw("refs/releases/v2").replace(b"Release ", b"release ")
    refused(mallory, 13, f"+{mallory.store(raw)}:refs/releases/v2")


def test_a_changed_message_under_a_good_signature(room: Room, desk: Desk) -> None:
    bob = clone(room, "bob", "bob")
    good = release_by_hand(bob, like="refs/releases/v1", entry=3, previous="refs/releases/v2", trust=3)
    bad = bob.store(bob.raw(good).replace(b"by hand", b"by HAND"))
    assert "bad signature" in refused(bob, 5, f"{bad}:refs/releases/v3")


def test_a_retired_key(room: Room, desk: Desk) -> None:
    desk.gitrel("trust", "remove", "bob", "--yes")
    bob = clone(room, "bob", "bob")
    bad = release_by_hand(bob, like="refs/releases/v1", entry=3, previous="refs/releases/v2", trust=3)
    assert "lost the role in trust v4" in refused(bob, 7, f"{bad}:refs/releases/v3")
    bad = release_by_hand(bob, like="refs/releases/v1", entry=3, previous="refs/releases/v2", trust=4)
    refused(bob, 5, f"{bad}:refs/releases/v3")


@pytest.mark.parametrize("name", ["refs/releases/latest", "refs/releases/v03", "refs/releases/staging"])
def test_stray_names(desk: Desk, name: str) -> None:
    assert "not a ref of gitrel's" in refused(desk, 1, f"HEAD:{name}")


def test_a_name_that_would_keep_a_ledger_out(room: Room) -> None:
    """A ref called refs/config leaves no room for refs/config/v1."""
    desk = called(room.desk(), "alice")
    install_hook(room.remote)
    desk.gitrel("init")
    refused(desk, 1, "HEAD:refs/config")
    desk.gitrel("config", "set", "A=1")


def test_not_a_record(desk: Desk) -> None:
    refused(desk, 2, "HEAD:refs/releases/v3")
    blob = desk.git("hash-object", "-w", "--stdin", stdin=b"x")
    refused(desk, 2, f"{blob}:refs/releases/v3")
    desk.git("tag", "-a", "-m", "a tag", "tagged", "refs/releases/v2")
    refused(desk, 2, "tagged:refs/releases/v3")
    refused(desk, 2, f"{blob}:refs/approvals/{desk.git('rev-parse', 'refs/releases/v2')}/{'0' * 64}")
    refused(desk, 2, f"HEAD:refs/builds/{desk.git('rev-parse', 'HEAD')}")
    refused(desk, 1, f"HEAD:refs/builds/{'0' * 40}")
    refused(desk, 2, "HEAD:refs/config/v1")


def test_a_ledger_of_a_deploy_that_never_was(room: Room, desk: Desk) -> None:
    """A release of one deploy under the name of another."""
    bob = clone(room, "bob", "bob")
    one = release_by_hand(bob, like="refs/releases/v1", entry=1, previous=None, trust=3)
    refused(bob, 1, f"{one}:refs/releases/staging/v1")
    one = release_by_hand(bob, like="refs/releases/v1", entry=1, previous=None, trust=3, deploy="staging")
    landed(bob, f"{one}:refs/releases/staging/v1")


def test_builds(room: Room, desk: Desk) -> None:
    """Files that are not the signed ones, a signer without the role, a link that leads out."""
    bob = clone(room, "bob", "bob")
    lie = build_by_hand(desk, {"Procfile": "web: x\n"}, trust=3, lie=True)
    assert "not the signed one" in refused(desk, 12, f"{lie}:refs/builds/{lie}")
    other = build_by_hand(bob, {"Procfile": "web: x\n"}, trust=3)
    refused(bob, 9, f"{other}:refs/builds/{other}")
    release = release_by_hand(bob, like="", build=other, entry=3, previous="refs/releases/v2", trust=3)
    refused(bob, 9, f"{release}:refs/releases/v3")
    good = build_by_hand(desk, {"Procfile": "web: x\n"}, trust=3)
    refused(desk, 1, f"{good}:refs/builds/{other}")
    landed(desk, f"{good}:refs/builds/{good}")


def test_a_release_whose_tree_is_not_its_build(room: Room, desk: Desk) -> None:
    bob = clone(room, "bob", "bob")
    build = bob.git("rev-parse", "refs/releases/v2^2")
    blob = bob.git("hash-object", "-w", "--stdin", stdin=b"evil")
    inside = bob.git("mktree", stdin=f"100644 blob {blob}\tProcfile\n".encode())
    tree = bob.git("mktree", stdin=f"040000 tree {inside}\tbuild\n".encode())
    bad = release_by_hand(bob, like="", build=build, tree=tree, entry=3, previous="refs/releases/v2", trust=3)
    refused(bob, 9, f"{bad}:refs/releases/v3")


def test_a_branch_and_a_bad_record_in_one_push(room: Room, desk: Desk) -> None:
    """All or nothing, in either order; alone the branch passes, and so does any other ref of any name."""
    mallory = clone(room, "mallory", "mallory")
    bad = release_by_hand(mallory, like="refs/releases/v1", entry=3, previous="refs/releases/v2", trust=3)
    refused(mallory, 5, "HEAD:refs/heads/other", f"{bad}:refs/releases/v3")
    refused(mallory, 5, f"{bad}:refs/releases/v3", "HEAD:refs/heads/other")
    landed(mallory, "HEAD:refs/heads/other", "HEAD:refs/tags/v3", "HEAD:refs/release/v3", "HEAD:refs/notes/x")
    landed(mallory, "+HEAD~1:refs/heads/other", ":refs/tags/v3")
    argv = [b"git", b"push", b"-q", b"origin", b"HEAD:refs/heads/\xff\xfe"]
    done = subprocess.run(argv, cwd=mallory.path, env=mallory.env, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr


def test_an_approval_of_nothing(room: Room, desk: Desk) -> None:
    """Tags made by gitrel elsewhere, and what is left of them here."""
    desk.gitrel("trust", "set-role", "release", "alice", "bob", "--threshold", "2", "--yes")
    desk.gitrel("release")
    bob = room.clone("bob", "bob")
    bob.gitrel("init", "--trust", desk.gitrel("trust", "show", "--json").json["pin"])
    bob.gitrel("approve", "v3", "--yes")
    name, oid = next(iter(bob.refs("refs/approvals/").items()))
    record = bob.git("rev-parse", "refs/releases/v2")
    key = name.rpartition("/")[2]
    assert "not name this approval" in refused(bob, 1, f"{oid}:refs/approvals/{record}/{key}")
    assert "not name this approval" in refused(bob, 1, f"{oid}:refs/approvals/{'0' * 40}/{key}")
    run(["git", "update-ref", "-d", name], room.remote, desk.env)
    run(["git", "update-ref", "-d", "refs/releases/v3"], room.remote, desk.env)  # as whoever runs the host can
    assert "approves nothing that is here" in refused(bob, 1, f"{oid}:{name}")
    landed(bob, f"{oid}:{name}", "refs/releases/v3:refs/releases/v3")


def test_an_approval_by_nobody(room: Room, desk: Desk) -> None:
    desk.gitrel("trust", "set-role", "release", "alice", "bob", "--threshold", "2", "--yes")
    desk.gitrel("release")
    mallory = clone(room, "mallory", "mallory")
    pub = (mallory.home / ".ssh/id_ed25519.pub").read_text()
    key = hashlib.sha256(base64.b64decode(pub.split(" ")[1])).hexdigest()
    oid = mallory.git("rev-parse", "refs/releases/v3")
    tag = approval_by_hand(mallory, "refs/releases/v3", "release production v3", trust=4, key=key)
    assert "a key that nobody has" in refused(mallory, 5, f"{tag}:refs/approvals/{oid}/{key}")


def test_a_pending_release(room: Room, desk: Desk) -> None:
    """It lands and is said to be pending, unless more than signatures is missing."""
    desk.gitrel("trust", "set-role", "release", "alice", "bob", "--threshold", "2", "--yes")
    bob = clone(room, "bob", "bob")
    build = bob.git("rev-parse", "refs/releases/v2^2")
    blob = bob.git("hash-object", "-w", "--stdin", stdin=b"evil")
    inside = bob.git("mktree", stdin=f"100644 blob {blob}\tProcfile\n".encode())
    tree = bob.git("mktree", stdin=f"040000 tree {inside}\tbuild\n".encode())
    bad = release_by_hand(bob, like="", build=build, tree=tree, entry=3, previous="refs/releases/v2", trust=4)
    refused(bob, 12, f"{bad}:refs/releases/v3")
    other = build_by_hand(bob, {"Procfile": "web: x\n"}, trust=4)  # bob has no build role
    bad = release_by_hand(bob, like="", build=other, entry=3, previous="refs/releases/v2", trust=4)
    assert "its build record" in refused(bob, 9, f"{bad}:refs/releases/v3")
    good = release_by_hand(bob, like="refs/releases/v1", entry=3, previous="refs/releases/v2", trust=4)
    assert "pending: 1 of 2" in landed(bob, f"{good}:refs/releases/v3").err
    desk.gitrel("approve", "v3", "--yes")
    assert desk.gitrel("log", "--json").json["releases"][0]["verdict"] == "good"


def test_a_config_by_a_key_that_was_retired(room: Room, desk: Desk) -> None:
    """No release could carry it, and it would stand in the way of the next."""
    desk.gitrel("trust", "set-role", "config", "alice", "bob", "--yes")
    bob = room.clone("bob", "bob")
    bob.gitrel("init", "--trust", desk.gitrel("trust", "show", "--json").json["pin"])
    desk.gitrel("trust", "remove", "bob", "--yes")
    tree = bob.git("mktree", stdin=f"100644 blob {bob.git('hash-object', '-w', '--stdin', stdin=b'x')}\tA\n".encode())
    bad = config_by_hand(bob, tree, entry=1, trust=4)
    assert "who does not hold the config role" in refused(bob, 5, f"{bad}:refs/config/v1")


def test_trust(room: Room, desk: Desk) -> None:
    """A trust record by somebody without root, one after a gap, one while another is pending."""
    desk.gitrel("trust", "set-role", "root", "alice", "bob", "--yes")
    desk.gitrel("trust", "set-role", "root", "alice", "bob", "--threshold", "2", "--yes")  # signed by one: pending
    desk.gitrel("trust", "add", "ci", str(room.people["ci"].path) + ".pub", "--yes", code=12)
    for name in ("refs/trust/v5", "refs/trust/v6", "refs/trust/v7"):
        assert (name in desk.remote_refs()) == (name == "refs/trust/v5"), name
    mallory = clone(room, "mallory", "mallory")
    raw = mallory.git("cat-file", "commit", "refs/trust/v4")
    message = raw.partition("\n\n")[2].replace("Entry: v4", "Entry: v6")
    message = re.sub("Previous: .*", f"Previous: {cite(mallory, 'refs/trust/v5')}", message)
    tree = mallory.git("rev-parse", "refs/trust/v4^{tree}")
    parent = mallory.git("rev-parse", "refs/trust/v5")
    bad = commit_by_hand(mallory, tree, [parent], message + "\n", date="1700000000 +0000")
    refused(mallory, 6, f"{bad}:refs/trust/v6")
    refused(mallory, 6, f"{bad}:refs/trust/v7")


def test_a_rollback_to_a_retired_builders_build(room: Room, desk: Desk) -> None:
    """It was released before, which takes a look at the whole ledger; a new one of that key was not."""
    desk.gitrel("trust", "set-role", "build", "bob", "--yes")
    assert desk.gitrel("rollback", "v1", "--json").json["release"] == "v3"
    assert desk.gitrel("rollback", "v2", "--json").json["release"] == "v4"
    other = build_by_hand(desk, {"Procfile": "web: x\n"}, trust=4)
    bad = release_by_hand(desk, like="", build=other, entry=5, previous="refs/releases/v4", trust=4)
    refused(desk, 9, f"{bad}:refs/releases/v5")
