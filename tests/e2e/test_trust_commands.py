"""`gitrel trust …` and `gitrel approve` as people mistype them, and as two people use them at once."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from handmade import called, keep, new_key, restored
from room import Desk, Done, Room, room, run

__all__ = ["room"]  # the fixture


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("template")


@pytest.fixture
def alice(room: Room, template: Path) -> Desk:
    """alice in every role, bob in none, one release."""
    desk = restored(room, template)
    if desk is None:
        desk = called(room.desk(), "alice")
        desk.gitrel("init")
        desk.gitrel("trust", "add", "bob", public(room, "bob"), "--yes")
        desk.gitrel("release")
        desk.git("push", "-q", "origin", "main")
        keep(room, template)
    return desk


def public(room: Room, person: str) -> str:
    return f"{room.people[person].path}.pub"


def joined(room: Room, alice: Desk, person: str) -> Desk:
    desk = called(room.clone(person, person), person)
    desk.gitrel("init", "--trust", alice.gitrel("trust", "show", "--json").json["pin"])
    return desk


def refused(desk: Desk, code: int, *args: str) -> Done:
    """The command fails with that code, and leaves everything as it was."""
    before = desk.snapshot()
    done = desk.gitrel(*args, code=code)
    after = desk.snapshot()
    assert after == before
    assert done.message["what"]
    assert done.message["next"], done.err
    return done


@pytest.mark.parametrize(
    ("args", "code", "what"),
    [
        (("remove", "alice"), 2, "without alice nobody could fill the role 'release production'"),
        (("set-role", "root", "alice", "bob", "--threshold", "3"), 2, "a threshold of 3 for 2 people"),
        (("set-role", "root", "alice", "--threshold", "0"), 2, "a threshold of 0 for 1 people"),
        (("set-role", "build", "alcie"), 11, "nobody called alcie"),
        (("set-role", "admin", "alice"), 2, "no role 'admin'"),
        (("set-role", "release", "alice", "--deploy", "Not One"), 2, "not a deploy's name"),
        (("remove", "zoe"), 11, "nobody called zoe"),
        (("remove", "bob", "0123456789"), 11, "bob has no such key, or several"),
        (("remove", "no such name"), 2, "not a person's name"),
        (("add", "bob*", "x.pub"), 2, "not a person's name"),
        (("add", "dan", "nowhere.pub"), 11, "cannot read a public key"),
        (("add", "dan", "ssh-ed25519 AAAA"), 16, "the public key is cut short"),
        (("add", "dan", "app.py"), 16, "not an SSH public key"),
        (("add-reader", "nowhere.pub"), 11, "cannot read a public key"),
        (("remove-reader", "age1nobody"), 11, "no such reader"),
        (("repudiate", "v9"), 11, "no release v9 of production"),
        (("repudiate", "v1", "--deploy", "staging"), 11, "no release v1 of staging"),
        (("repudiate", "one"), 2, "not a release such as v12"),
    ],
)
def test_refused(alice: Desk, args: tuple[str, ...], code: int, what: str) -> None:
    assert what in refused(alice, code, "trust", *args, "--yes").err


def test_nearest_name(alice: Desk) -> None:
    assert refused(alice, 11, "trust", "set-role", "build", "alcie", "--yes").message["next"] == "did you mean alice?"


def test_keys(room: Room, alice: Desk, tmp_path: Path) -> None:
    """Each is refused by its name and its line; a whole file or an agent's listing is taken."""
    folder = tmp_path / "keys"
    folder.mkdir()
    weak = new_key(folder / "weak", "rsa", 2048)
    assert "an RSA key of 2048 bits" in refused(alice, 16, "trust", "add", "dan", f"{weak}.pub", "--yes").err
    ca, key = new_key(folder / "ca", "ed25519"), new_key(folder / "dan", "ed25519")
    done = run(["ssh-keygen", "-q", "-s", str(ca), "-I", "id", "-n", "dan", f"{key}.pub"], folder, alice.env)
    assert done.code == 0, done.err
    assert "a certificate" in refused(alice, 16, "trust", "add", "dan", f"{key}-cert.pub", "--yes").err
    assert "that is a private key" in refused(alice, 16, "trust", "add", "dan", str(key), "--yes").err
    dsa = folder / "dsa.pub"
    dsa.write_text("ssh-dss AAAAB3NzaC1kc3MAAAA=\n")
    assert "a DSA key" in refused(alice, 16, "trust", "add", "dan", str(dsa), "--yes").err
    both = folder / "both keys"
    both.write_text(Path(f"{key}.pub").read_text() + "# and\n" + Path(f"{ca}.pub").read_text())
    assert "bob has that key already" in refused(alice, 2, "trust", "add", "dan", public(room, "bob"), "--yes").err
    twice = folder / "twice"
    twice.write_text(Path(f"{key}.pub").read_text() * 2)
    assert "given twice" in refused(alice, 2, "trust", "add", "dan", str(twice), "--yes").err
    noise = folder / "noise"
    noise.write_bytes(b"\xff\xfe\x00")
    assert "it is not text" in refused(alice, 16, "trust", "add", "dan", str(noise), "--yes").err
    alice.gitrel("trust", "add", "dan", str(both), "--yes")
    assert len(alice.gitrel("trust", "show", "--json").json["people"]["dan"]) == 2
    third = Path(f"{new_key(folder / 'third', 'ecdsa', 384)}.pub").read_text().strip()
    alice.gitrel("trust", "add", "dan", third, "--yes")
    listing = Path(f"{new_key(folder / 'fourth', 'rsa', 3072)}.pub").read_bytes()
    done = run(alice.argv("trust", "add", "dan", "-", "--yes"), alice.path, alice.env, listing)
    assert done.code == 0, done.err
    assert len(alice.gitrel("trust", "show", "--json").json["people"]["dan"]) == 4
    exported = alice.gitrel("trust", "export").out
    assert [line.split(" ")[0] for line in exported.splitlines()] == ["alice", "bob", *["dan"] * 4]


def test_nobody_to_ask(alice: Desk) -> None:
    """The tests' standard input is no terminal: nothing is signed without --yes, and the diff is shown all the same."""
    done = refused(alice, 2, "trust", "set-role", "root", "alice", "bob")
    assert "nobody here to confirm it" in done.err
    assert '+    "bob",' in done.err


def test_nothing_changes(alice: Desk) -> None:
    before = alice.remote_refs()
    said = alice.gitrel("trust", "set-role", "root", "alice", "--yes", "--json").json
    assert said == {"changed": False, "trust": "v2"}
    assert alice.remote_refs() == before


def test_somebody_without_the_role(room: Room, alice: Desk) -> None:
    bob = joined(room, alice, "bob")
    assert "bob may not change the trust" in refused(bob, 17, "trust", "remove", "alice", "--yes").err
    assert "bob may not approve v1" in refused(bob, 17, "approve", "v1", "--yes").err
    mallory = joined(room, alice, "mallory")
    assert "in nobody's list" in refused(mallory, 17, "approve", "v1", "--yes").err


def test_approving(room: Room, alice: Desk) -> None:
    """Once, by another person, something that waits for it."""
    bob = joined(room, alice, "bob")
    alice.gitrel("trust", "set-role", "release", "alice", "bob", "--threshold", "2", "--yes")
    token = new_key(bob.home / ".ssh/token", "ed25519")
    alice.gitrel("trust", "add", "bob", f"{token}.pub", "--yes")
    alice.gitrel("release")
    assert "alice has signed v2 already" in refused(alice, 12, "approve", "v2", "--yes").err
    bob.gitrel("approve", "v2", "--yes")
    assert "bob has signed v2 already" in refused(bob, 12, "approve", "v2", "--yes").err
    bob.git("config", "--global", "gpg.format", "ssh")
    bob.git("config", "--global", "user.signingKey", str(token))
    assert "a person counts once" in refused(bob, 12, "approve", "v2", "--yes").err
    refused(bob, 11, "approve", "v3", "--yes")
    refused(bob, 11, "approve", "trust/v4", "--yes")
    refused(bob, 11, "approve", "build/0123456789", "--yes")
    refused(bob, 2, "approve", "tag/v3", "--yes")
    alice.gitrel("trust", "repudiate", "v2", "--yes")
    bob.gitrel("release", code=0)
    assert "(check 14)" in bob.gitrel("approve", "v2", "--yes", code=10).err


def test_two_changes_at_once(room: Room, alice: Desk) -> None:
    """Both are there afterwards, whoever was first."""
    alice.gitrel("trust", "set-role", "root", "alice", "bob", "--yes")
    bob = joined(room, alice, "bob")
    folder = room.folder / "more"
    folder.mkdir()
    for _ in range(2):
        started = []
        for desk in (alice, bob):
            name = f"p{len(list(folder.iterdir()))}"
            key = new_key(folder / name, "ed25519")
            started.append(desk.start("trust", "add", name, f"{key}.pub", "--yes"))
        for process in started:
            out, err = process.communicate(timeout=100)
            assert process.returncode == 0, (out, err)
    shown = alice.gitrel("trust", "export", "--json")
    bob.gitrel("trust", "set-role", "build", "bob", "--yes")  # brings everything
    people = bob.gitrel("trust", "show", "--json").json["people"]
    assert len([name for name in people if name.startswith("p")]) == 4, shown.out


def test_a_pending_change(room: Room, alice: Desk) -> None:
    """It holds its number, releases go on, a second change waits; whoever runs the host can remove it."""
    bob = joined(room, alice, "bob")
    alice.gitrel("trust", "set-role", "root", "alice", "bob", "--threshold", "2", "--yes")
    shown = alice.gitrel("trust", "show", "--json").json
    assert (shown["trust"], bool(shown["pending"])) == ("v2", True)
    assert alice.gitrel("release", "--json").json["release"] == "v2"
    done = refused(alice, 12, "trust", "set-role", "build", "alice", "bob", "--yes")
    assert "a change of trust is pending: Role root: 2 of alice, bob" in done.err
    assert "gitrel approve trust/v3" in done.message["next"]

    run(["git", "update-ref", "-d", "refs/trust/v3"], room.remote, alice.env)
    alice.git("update-ref", "-d", "refs/trust/v3")
    alice.gitrel("trust", "set-role", "build", "alice", "bob", "--yes")
    assert alice.gitrel("trust", "show", "--json").json["trust"] == "v3"
    bob.gitrel("build")
    assert bob.gitrel("trust", "show", "--json").json["trust"] == "v3"


def test_a_pending_change_is_approved_by_somebody_new(room: Room, alice: Desk) -> None:
    """The threshold of the trust that it makes counts too; then it is in force."""
    bob = joined(room, alice, "bob")
    alice.gitrel("trust", "set-role", "root", "alice", "bob", "--threshold", "2", "--yes")
    bob.gitrel("approve", "trust/v3", "--yes")
    alice.gitrel("trust", "set-role", "build", "alice", "bob", "--yes")
    assert "is not pending" in bob.gitrel("approve", "trust/v3", "--yes", code=11).err
    assert "nobody here to confirm it" in refused(bob, 2, "approve", "trust/v4").err
    bob.gitrel("approve", "trust/v4", "--yes")
    shown = bob.gitrel("trust", "show", "--json").json
    assert (shown["trust"], shown["pending"]) == ("v4", None)
    server = room.folder / "server"
    assert alice.remote is not None
    alice.gitrel("join", str(alice.remote), str(server), "--trust", shown["pin"])
    shutil.rmtree(server)
