"""Config and build records that need two people: pending until the second one approves, and nothing carries them."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from apps import Host, host, plain_app
from handmade import LONG_AGO, called, cite, commit_by_hand, install_hook, keep, restored, trailer, tree_sha256
from room import Desk, Done, Room, room, run

__all__ = ["host", "room"]  # fixtures

Desks = tuple[Desk, Desk]


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("template")


@pytest.fixture
def desks(room: Room, template: Path) -> Desks:
    """alice, and bob in a clone; the remote is guarded; config takes both of them; v1 carries config v1."""
    alice = restored(room, template)
    if alice is None:
        alice = called(room.desk(), "alice")
        install_hook(room.remote)
        run(
            ["git", "config", "uploadpack.allowFilter", "true"], room.remote, alice.env
        )  # so that servers see all of it
        plain_app(alice, "exec sleep 1000")
        alice.git("push", "-q", "origin", "main")
        alice.gitrel("init")
        alice.gitrel("trust", "add", "bob", f"{room.people['bob'].path}.pub", "--yes")
        alice.gitrel("config", "set", "A=1")
        alice.gitrel("release")
        alice.gitrel("trust", "set-role", "config", "alice", "bob", "--threshold", "2", "--yes")
        keep(room, template)
    bob = called(room.clone("bobs", "bob"), "bob")
    bob.gitrel("init", "--trust", pin_of(alice))
    return alice, bob


def pin_of(desk: Desk) -> str:
    pin: str = desk.gitrel("trust", "show", "--json").json["pin"]
    return pin


def refused(desk: Desk, code: int, *args: str) -> Done:
    """The command fails with that code, and leaves everything as it was; what was fetched may stay."""
    before = desk.remote_refs()
    done = desk.gitrel(*args, code=code)
    assert desk.remote_refs() == before
    return done


def verdicts(desk: Desk) -> list[str]:
    return [each["verdict"] for each in desk.gitrel("log", "--json").json["releases"]]


def carrying(desk: Desk, entry: int, config: int, *, trust: int) -> str:
    """A release by hand: the build of the one before, and that config; its id."""
    previous, cited = f"refs/releases/v{entry - 1}", f"refs/config/v{config}"
    build = trailer(desk, previous, "Build").split(" ")[0]
    folder = desk.git("ls-tree", f"{build}^{{tree}}", "build")
    files = desk.git("rev-parse", f"{cited}^{{tree}}")
    tree = desk.git("mktree", stdin=f"{folder}\n040000 tree {files}\tconfig\n".encode())
    lines = [
        "Gitrel-Record: release", "Gitrel-Format: 1", "App: shop", "Deploy: production", f"Entry: v{entry}",
        f"Previous: {cite(desk, previous)}", f"Build: {cite(desk, build)}", f"Config: v{config} {cite(desk, cited)}",
        f"Trust: v{trust} {cite(desk, f'refs/trust/v{trust}')}", f"Tree-SHA256: {tree_sha256(desk, tree)}",
    ]  # fmt: skip
    parents = [desk.git("rev-parse", rev) for rev in (previous, build, cited)]
    return commit_by_hand(desk, tree, parents, "By hand\n\n" + "\n".join(lines) + "\n", date=LONG_AGO)


def test_one_sets_and_another_approves(desks: Desks) -> None:
    alice, bob = desks
    said = alice.gitrel("config", "set", "A=2", "B=2")
    assert said.out == "config v2: Set A, B\n"
    assert "pending: 1 of 2 signatures; signed by alice; bob can approve it: `gitrel approve config/v2`" in said.err
    done = refused(alice, 10, "release")
    assert done.message["what"] == "config v2 is pending: 1 of 2 signatures (check 6)"
    assert done.message["next"] == (
        "`gitrel approve config/v2`; `gitrel release --config v1` takes the newest that is approved"
    )
    assert "building" not in done.err
    assert refused(alice, 10, "rollback", "v1", "--keep-config").message["where"] == "refs/config/v2"
    assert refused(alice, 10, "release", "--config", "v2").message["where"] == "refs/config/v2"
    assert "alice has signed config/v2 already" in refused(alice, 12, "approve", "config/v2", "--yes").err

    shown = refused(bob, 2, "approve", "config/v2")  # nobody at the terminal
    assert "config v2 of production, by alice: Set A, B" in shown.err
    assert "since config v1:\n    ~ A=1 -> 2\n    + B=2\n" in shown.err
    bob.gitrel("approve", "config/v2", "--yes")
    assert refused(bob, 12, "approve", "config/v2", "--yes").message["why"] == "a person counts once"
    assert alice.gitrel("release", "--json").json["config"] == "v2"
    assert verdicts(alice) == ["good", "good"]
    assert "6  passed       enough people signed: release: 1 of alice; build: 1 of alice; config: 2 of alice, bob" in (
        alice.gitrel("verify", "--explain").out
    )
    alice.fsck()


def test_an_approval_satisfies_stock_git(desks: Desks) -> None:
    alice, bob = desks
    alice.gitrel("config", "set", "A=2")
    name = bob.gitrel("approve", "config/v2", "--yes", "--json").json["ref"]
    signers = alice.path / "signers"
    signers.write_text(alice.gitrel("trust", "export").out)
    alice.git("fetch", "-q", "origin", f"{name}:{name}")
    done = alice.attempt("-c", f"gpg.ssh.allowedSignersFile={signers}", "verify-tag", name)
    assert (done.code, 'Good "git" signature for bob' in done.err) == (0, True), done.err
    config = alice.git("rev-parse", "refs/config/v2")
    assert f"\nRecord: config production v2 {config} " in alice.git("cat-file", "tag", name)


def test_what_is_pending_is_shown_as_such(desks: Desks) -> None:
    alice, bob = desks
    alice.gitrel("config", "set", "A=2")
    bob.gitrel("trust", "show")
    bob.gitrel("config", "set", "C=3", code=12)  # brings everything
    for desk in desks:
        listed = desk.gitrel("config", "list")
        assert listed.out == "A=1\n"
        assert listed.err == "note: config v2 is pending: 1 of 2 signatures, and not shown; `gitrel config diff`\n"
        assert desk.gitrel("config", "get", "A").out == "1\n"
        assert desk.gitrel("config", "get", "A", "--entry", "v2").out == "2\n"
        assert desk.gitrel("config", "diff").out == "~ A=1 -> 2\n"
        newest, first = desk.gitrel("config", "log").out.splitlines()
        assert newest.endswith("alice  ~A  Set A [pending: 1 of 2 signatures]")
        assert "pending" not in first
        assert [each["verdict"] for each in desk.gitrel("config", "log", "--json").json["entries"]] == [
            "pending",
            "good",
        ]
        line = "config v2 is pending: 1 of 2 signatures; signed by alice; bob can approve it: ~A"
        assert desk.gitrel("log").out.splitlines()[-1] == line
        assert desk.gitrel("log", "--json").json["pending_config"]["refusal"]["check"] == 6
        assert "1 of 1 releases good" in desk.gitrel("verify", "--all").out
    bob.gitrel("approve", "config/v2", "--yes")
    assert bob.gitrel("log").out.splitlines()[-1] == "config v2 is not released yet: ~A"
    assert "alice, bob" in bob.gitrel("config", "log").out.splitlines()[0]
    assert bob.gitrel("config", "list").err == ""


def test_nobody_signs_what_they_did_not_look_at(desks: Desks) -> None:
    """A change on top of a pending one would carry it: who made or approved that one may, another may not."""
    alice, bob = desks
    alice.gitrel("config", "set", "A=evil")
    alice.gitrel("config", "set", "B=2")  # her own
    done = refused(bob, 12, "config", "set", "C=3")
    assert done.message["what"] == "config v3 is pending: Set B"
    assert done.message["next"].startswith("`gitrel approve config/v3`, then make yours on top of it; or --instead")
    assert refused(bob, 12, "config", "unset", "A").message["where"] == "refs/config/v3"
    said = bob.gitrel("config", "set", "--instead", "C=3")
    assert said.out == "config v4: Set C instead of v3\n"
    shown = refused(alice, 2, "approve", "config/v4").err
    assert "since config v1:\n    + C=3\n" in shown
    alice.gitrel("approve", "config/v4", "--yes")
    assert alice.gitrel("config", "list").out == "A=1\nC=3\n"
    alice.gitrel("config", "set", "D=4")
    bob.gitrel("approve", "config/v5", "--yes")
    bob.gitrel("config", "set", "E=5")
    assert bob.gitrel("config", "list", "--json").json["variables"] == {"A": "1", "C": "3", "D": "4"}
    said = alice.gitrel("config", "set", "--instead", "A=1")
    assert said.out == "config v7: Nothing instead of v6\n"
    bob.gitrel("approve", "config/v7", "--yes")
    assert bob.gitrel("config", "list").out == "A=1\nC=3\nD=4\n"


def test_what_cannot_be_approved(desks: Desks) -> None:
    alice, bob = desks
    assert refused(bob, 11, "approve", "config/v2", "--yes").message["why"] == "the newest is v1"
    assert (
        refused(bob, 11, "approve", "config/v1", "--deploy", "staging", "--yes").message["why"] == "there is none yet"
    )
    assert refused(bob, 2, "approve", "config/one", "--yes").message["where"] == "[vN]"
    assert "config/v7" in refused(bob, 2, "approve", "tag/v1", "--yes").message["next"]
    alice.gitrel("config", "set", "A=2")
    alice.gitrel("trust", "set-role", "config", "bob", "--yes")
    done = refused(bob, 10, "approve", "config/v2", "--yes")
    assert "signed by alice, who does not hold the config role" in done.err
    assert "bob" in refused(alice, 17, "approve", "config/v1", "--yes").message["why"]


def test_before_anything_is_signed(desks: Desks) -> None:
    alice, _ = desks
    done = refused(alice, 2, "config", "set", "A=2", "--release")
    assert done.message["what"] == "the config of production needs 2 people: it cannot be released at once"
    alice.gitrel("config", "set", "A=2")
    assert alice.gitrel("release", "--config", "v1", "--json").json["config"] == "v1"
    assert refused(alice, 11, "release", "--config", "v9").message["what"] == "no config v9"


def test_another_deploy(desks: Desks) -> None:
    alice, bob = desks
    said = alice.gitrel("config", "set", "A=1", "--deploy", "staging").err
    assert "`gitrel approve config/v1 --deploy staging`" in said
    refused(alice, 10, "release", "--deploy", "staging")
    assert refused(alice, 10, "promote", "--from", "production", "--to", "staging").message["where"] == (
        "refs/config/staging/v1"
    )
    bob.gitrel("approve", "config/v1", "--deploy", "staging", "--yes")
    assert alice.gitrel("promote", "--from", "production", "--to", "staging", "--json").json["config"] == "v1"


def test_a_release_that_carries_a_pending_config(desks: Desks, host: Callable[..., Host]) -> None:
    """gitrel makes none; one by hand is pending for everybody, and runs once the config is approved."""
    alice, bob = desks
    server = host(str(alice.remote), pin_of(alice))
    assert server.gitrel("pull").out == "v1\n"
    alice.gitrel("config", "set", "A=2")
    made = carrying(alice, 2, 2, trust=3)
    pushed = alice.attempt("push", "origin", f"{made}:refs/releases/v2")
    assert pushed.code == 0, pushed.err
    assert "its config v2 is pending: 1 of 2 signatures" in pushed.err
    found = server.gitrel("pull", "--json").json
    assert (found["release"], found["pending"]) == ("v1", ["v2"])
    assert "its config v2 is pending: 1 of 2 signatures" in server.gitrel("status").out
    assert server.current == "v1"
    alice.git("fetch", "-q", "origin", "refs/releases/*:refs/releases/*")
    assert verdicts(alice) == ["pending", "good"]
    assert "[its config v2 is pending: 1 of 2 signatures]" in alice.gitrel("log").out.splitlines()[0]
    assert "v2  pending" in alice.gitrel("verify", "--all").out
    shown = alice.gitrel("show", "v2").out
    assert "its config v2 is pending: 1 of 2 signatures: signed by alice; bob can approve it" in shown
    assert " 6  refused" in alice.gitrel("verify", "--explain", "v2").out

    bob.gitrel("approve", "config/v2", "--yes")
    assert server.gitrel("pull").out == "v2\n"
    assert server.status()["refused"] == {}
    alice.git("fetch", "-q", "origin", "refs/approvals/*:refs/approvals/*")
    assert verdicts(alice) == ["good", "good"]
    # the approval is in the home: what runs is judged again without the remote
    assert alice.remote is not None
    os.rename(alice.remote, alice.remote.with_name("gone"))
    with server.running() as app:
        app.expect("v2 is good")
    server.fsck()


def test_both_wait(desks: Desks, host: Callable[..., Host]) -> None:
    """The release and its config each need bob; he may approve them in any order."""
    alice, bob = desks
    alice.gitrel("trust", "set-role", "release", "alice", "bob", "--threshold", "2", "--yes")
    alice.gitrel("config", "set", "A=2")
    made = carrying(alice, 2, 2, trust=4)
    alice.git("push", "-q", "origin", f"{made}:refs/releases/v2")
    said = bob.gitrel("approve", "v2", "--yes")
    assert "note: its config v2 is pending: 1 of 2 signatures" in said.err
    assert bob.gitrel("log", "--json").json["releases"][0]["verdict"] == "pending"
    bob.gitrel("approve", "config/v2", "--yes")
    assert verdicts(bob) == ["good", "good"]
    assert host(str(alice.remote), pin_of(alice)).gitrel("pull").out == "v2\n"


def test_a_threshold_that_is_raised(desks: Desks) -> None:
    """What a release has carried counts on; what none has carried needs the approvals of today."""
    alice, bob = desks
    alice.gitrel("trust", "set-role", "config", "alice", "bob", "--yes")
    alice.gitrel("config", "set", "A=2")
    alice.gitrel("trust", "set-role", "config", "alice", "bob", "--threshold", "2", "--yes")
    assert [each["verdict"] for each in alice.gitrel("config", "log", "--json").json["entries"]] == ["pending", "good"]
    assert refused(alice, 10, "release").message["where"] == "refs/config/v2"
    bob.gitrel("approve", "config/v2", "--yes")
    assert alice.gitrel("release", "--json").json["config"] == "v2"


def test_builds_that_need_two(room: Room, desks: Desks, host: Callable[..., Host]) -> None:
    alice, bob = desks
    alice.gitrel("trust", "set-role", "build", "alice", "bob", "--threshold", "2", "--yes")
    assert alice.gitrel("release", "--json").json["release"] == "v2", "v1 carries that build already"
    old = alice.git("rev-parse", "refs/releases/v2^2")
    done = refused(alice, 10, "promote", "--from", "production", "--to", "staging")
    assert done.message["next"] == f"`gitrel approve build/{old[:12]}`", "staging does not"
    alice.write("app.py", "print('two')\n")
    alice.commit()
    done = alice.gitrel("release", code=10)
    build = next(iter(alice.remote_refs("refs/builds/").keys() - bob.refs("refs/builds/").keys())).rpartition("/")[2]
    assert done.message["what"] == f"build {build[:12]} is pending: 1 of 2 signatures (check 6)"
    assert done.message["next"] == f"`gitrel approve build/{build[:12]}`"
    assert refused(alice, 10, "release").message == done.message, "and it is not built again"
    assert refused(alice, 10, "release", "--build", build[:8]).message == done.message
    assert verdicts(alice) == ["good", "good"]
    assert "alice has signed" in refused(alice, 12, "approve", f"build/{build[:8]}", "--yes").err
    bob.gitrel("approve", f"build/{build[:8]}", "--yes")
    assert alice.gitrel("release", "--json").json["build"] == build
    assert host(str(alice.remote), pin_of(alice)).gitrel("pull").out == "v3\n"
    alice.fsck()
