"""Three people and a builder: somebody leaves, a key is stolen and used, a release is repudiated; with real commands.

The thief pushes with stock git, past every check that gitrel makes before it signs. Servers and auditors refuse what
he made, nothing of it is executed, what was released before stays good, and the next good release runs.
"""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from conftest import make_person
from handmade import build_by_hand, config_by_hand, release_by_hand
from room import room, run
from team import APP, Server, Team, team, template, thief, verdicts

__all__ = ["room", "team", "template"]  # fixtures

pytestmark = pytest.mark.timeout(600)  # some of these are fifty commands and more

PATIENCE = 60.0


def test_one_leaves_and_a_key_is_stolen(team: Team) -> None:
    server = Server(team)
    server.join(team.pin)
    team.build("two\n")
    assert team.alice.gitrel("release", "--json").json["pending"]
    assert "v2 is pending" in server.pull().err
    assert server.status["current"] == "v1"
    team.bob.gitrel("approve", "v2", "--yes")
    server.pull()
    assert server.status["current"] == "v2"

    # carol leaves; bob and alice release on; what carol could have signed is nothing now
    team.change("remove", "carol")
    team.build("three\n")
    assert team.release() == "v3"
    server.pull()

    # somebody has alice's old disk: carol's key, from the time when one signature was enough
    stolen = thief(team, "carol")
    evil = release_by_hand(stolen, like="refs/releases/v1", entry=4, previous="refs/releases/v3", trust=5)
    stolen.git("push", "-q", "origin", f"{evil}:refs/releases/v4")
    refusal = server.pull(code=10)
    assert "(check 7)" in refusal.err
    assert (server.status["current"], list(server.status["refused"])) == ("v3", ["v4"])
    said, done = verdicts(team, "first-audit", code=10)
    assert said == {"v1": "good", "v2": "good", "v3": "good", "v4": "REFUSED"}
    assert "(check 7)" in done.err
    assert (
        team.alice.git("show", "-s", "--format=%cd", "--date=format:%Y", evil)
        if team.alice.attempt("cat-file", "-e", evil).code == 0
        else True
    )

    # the same key, citing the trust of today
    evil = release_by_hand(stolen, like="refs/releases/v1", entry=5, previous=evil, trust=10)
    stolen.git("push", "-q", "origin", f"{evil}:refs/releases/v5")
    server.pull(code=10)
    assert list(server.status["refused"]) == ["v4", "v5"]
    said, done = verdicts(team, "second-audit", code=10)
    assert said["v5"] == "REFUSED"

    # the next good one is built on top; it runs, and the bad ones stay where they are
    team.build("six\n")
    assert team.release() == "v6"
    server.pull()
    status = server.status
    assert (status["current"], status["refused"], status["trouble"]) == ("v6", {}, None)
    assert (server.home / "current/app.py").read_text() == "six\n"
    said, _ = verdicts(team, "third-audit", code=10)
    assert said == {"v1": "good", "v2": "good", "v3": "good", "v4": "REFUSED", "v5": "REFUSED", "v6": "good"}
    team.alice.fsck()

    # a server that comes later takes the same
    late = Server(team, "late")
    late.join(team.pin)
    late.pull()
    assert late.status["current"] == "v6"


def test_the_bad_ref_is_removed_by_whoever_runs_the_host(team: Team) -> None:
    """Nobody built on it: then its number is free again, and servers never minded it."""
    server = Server(team)
    server.join(team.pin)
    server.pull()
    team.change("remove", "carol")
    stolen = thief(team, "carol")
    evil = release_by_hand(stolen, like="refs/releases/v1", entry=2, previous="refs/releases/v1", trust=5)
    stolen.git("push", "-q", "origin", f"{evil}:refs/releases/v2")
    server.pull(code=10)
    verdicts(team, "audit", code=10)
    run(["git", "update-ref", "-d", "refs/releases/v2"], team.room.remote, team.alice.env)
    assert server.pull().code == 0
    assert server.status["refused"] == {}
    team.build("two\n")
    assert team.release() == "v2"
    server.pull()
    assert server.status["current"] == "v2"
    said, _ = verdicts(team, "after", code=0)
    assert said == {"v1": "good", "v2": "good"}


def test_a_stolen_builders_key(team: Team) -> None:
    """ci's key is replaced; a build by the old one is not released, by gitrel or by hand; old builds roll back."""
    team.build("two\n")
    team.release()
    new = make_person("ci-new", team.room.folder / "tmp-1")
    team.change("add", "ci2", f"{new.path}.pub")
    team.change("set-role", "build", "ci2")
    stolen = thief(team, "ci")
    bad = build_by_hand(stolen, {"Procfile": "web: touch /tmp/stolen\n"}, trust=5)
    stolen.git("push", "-q", "origin", f"{bad}:refs/builds/{bad}")
    team.alice.gitrel("release", "--build", bad, code=11)
    alice = thief(team, "alice")  # alice herself, careless, with stock git
    alice.git("fetch", "-q", "origin", "refs/builds/*:refs/builds/*")
    by_hand = release_by_hand(alice, like="", build=bad, entry=3, previous="refs/releases/v2", trust=11)
    alice.git("push", "-q", "origin", f"{by_hand}:refs/releases/v3")
    server = Server(team)
    server.join(team.pin)
    assert "(check 9)" in server.pull(code=10).err
    assert server.status["current"] == "v2"
    assert team.alice.gitrel("rollback", "v1", "--json").json["release"] == "v4"
    team.bob.gitrel("approve", "v4", "--yes")
    server.pull()
    assert server.status["current"] == "v4"


def test_a_refused_release_vouches_for_nothing(team: Team) -> None:
    """Somebody who may release but not build: what was refused once is refused the next time too."""
    team.change("set-role", "release", "alice", "bob")
    server = Server(team)
    server.join(team.pin)
    server.pull()
    bob = thief(team, "bob")
    bad = build_by_hand(bob, {"Procfile": f"web: {APP}\n", "gitrel.toml": 'app = "shop"\n'}, trust=10)
    second = release_by_hand(bob, like="", build=bad, entry=2, previous="refs/releases/v1", trust=10)
    bob.git("push", "-q", "origin", f"{second}:refs/releases/v2")
    assert "(check 9)" in server.pull(code=10).err
    team.build("three\n")
    assert team.alice.gitrel("release", "--json").json["release"] == "v3"
    server.pull()
    assert server.status["current"] == "v3"
    bob.git("fetch", "-q", "origin", "refs/releases/*:refs/releases/*")
    fourth = release_by_hand(bob, like="", build=bad, entry=4, previous="refs/releases/v3", trust=10)
    bob.git("push", "-q", "origin", f"{fourth}:refs/releases/v4")
    said, _ = verdicts(team, "audit", code=10)
    assert said == {"v1": "good", "v2": "REFUSED", "v3": "good", "v4": "REFUSED"}
    assert "(check 9)" in server.pull(code=10).err
    assert server.status["current"] == "v3"


def test_a_retired_config_key(team: Team) -> None:
    """What its holder adds to the config ledger is not carried into the next config by somebody else's small change."""
    team.change("set-role", "config", "alice", "carol")
    team.change("remove", "carol")
    stolen = thief(team, "carol")
    blob = stolen.git("hash-object", "-w", "--stdin", stdin=b"/tmp/evil.so")
    tree = stolen.git("mktree", stdin=f"100644 blob {blob}\tLD_PRELOAD\n".encode())
    bad = config_by_hand(stolen, tree, entry=1, trust=10)
    stolen.git("push", "-q", "origin", f"{bad}:refs/config/v1")
    team.alice.git("fetch", "-q", "origin", "refs/config/*:refs/config/*")
    done = run(team.alice.argv("config", "set", "A=1"), team.alice.path, team.alice.env)
    assert done.code in (0, 10), done.err
    listed = run(team.alice.argv("config", "list"), team.alice.path, team.alice.env)
    assert "LD_PRELOAD" not in listed.out


def test_approvals_satisfy_stock_git(team: Team) -> None:
    team.build("two\n")
    team.release()
    team.alice.git("fetch", "-q", "origin", "refs/approvals/*:refs/approvals/*")
    signers = team.room.folder / "signers"
    signers.write_text(team.alice.gitrel("trust", "export").out)
    shown = team.alice.git("show", "refs/trust/v9:allowed_signers")
    assert signers.read_text() == shown + "\n"
    names = list(team.alice.refs("refs/approvals/"))
    assert len(names) == 2
    for name in names:
        done = team.alice.attempt("-c", f"gpg.ssh.allowedSignersFile={signers}", "verify-tag", name)
        assert (done.code, 'Good "git" signature for bob' in done.err) == (0, True), done.err
    done = team.alice.attempt("-c", f"gpg.ssh.allowedSignersFile={signers}", "verify-commit", "refs/releases/v2")
    assert (done.code, 'Good "git" signature for alice' in done.err) == (0, True), done.err


def test_a_server_without_the_right_pin(team: Team) -> None:
    server = Server(team)
    assert "(check 3)" in server.join("0" * 64, code=10).err
    assert not server.home.exists()
    assert team.alice.remote is not None
    args = ("join", str(team.alice.remote), str(server.home))
    assert "no pin" in team.alice.gitrel(*args, code=2).err
    assert not server.home.exists()
    assert "pin" in team.alice.gitrel(*args, "--trust", "nonsense", code=2).err
    assert team.alice.gitrel(*args, "--first-use").err.startswith("WARNING")
    assert server.status["pin"] == team.pin


def test_a_server_keeps_what_it_runs_and_recovers(team: Team) -> None:
    """The remote loses a release and part of the trust, then has them again."""
    team.build("two\n")
    team.release()
    server = Server(team)
    server.join(team.pin)
    server.pull()
    remote = team.room.remote
    aside = team.room.folder / "aside.git"
    shutil.copytree(remote, aside)
    for name in ("refs/releases/v2", "refs/trust/v9"):
        oid = team.alice.remote_refs(name)[name]
        run(["git", "update-ref", "-d", name], remote, team.alice.env)
        assert "(check 13)" in server.pull(code=10).err
        status = server.status
        assert status["current"] == "v2"
        assert name in status["trouble"]
        run(["git", "update-ref", name, oid], remote, team.alice.env)
        server.pull()
        assert (server.status["trouble"], server.status["current"]) == (None, "v2")


@contextmanager
def following(server: Server, *flags: str) -> Iterator[subprocess.Popen[bytes]]:
    args = ("run", "--home", str(server.home), "--follow", "--interval", "3600", *flags)
    process = server.desk.start(*args)
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=PATIENCE)
        print(out.decode(), err.decode())


def poke(server: Server) -> None:
    """Have it pull now."""
    server.desk.gitrel("poke", "--home", str(server.home))


def until(server: Server, release: str) -> dict[str, Any]:
    """The supervisor's own report, once it is about that release and its processes are up (gone, for none)."""
    deadline = time.monotonic() + PATIENCE
    report: dict[str, Any] = {}
    while time.monotonic() < deadline:
        try:
            report = json.loads((server.home / "run/status.json").read_bytes())
        except (OSError, ValueError):
            report = {}
        states = {each["state"] for each in report.get("processes", [])}
        if report.get("release") == release and states <= ({"gone"} if release == "none" else {"up"}):
            return report
        time.sleep(0.05)
    raise AssertionError(f"never {release}: {report}")


def test_a_repudiated_release_is_left(team: Team) -> None:
    team.build("two\n")
    team.release()
    server = Server(team)
    server.join(team.pin)
    with following(server):
        until(server, "v2")
        team.change("repudiate", "v2")
        poke(server)
        until(server, "v1")
        assert "(check" not in (server.home / "state.json").read_text()
        team.build("three\n")
        team.release()
        poke(server)
        until(server, "v3")


def test_a_repudiated_release_is_stopped(team: Team) -> None:
    team.build("two\n")
    team.release()
    server = Server(team)
    server.join(team.pin)
    with following(server, "--stop-if-repudiated"):
        until(server, "v2")
        team.change("repudiate", "v2")
        poke(server)
        assert [each["pid"] for each in until(server, "none")["processes"]] in ([], [None])
        team.build("three\n")
        team.release()
        poke(server)
        until(server, "v3")
