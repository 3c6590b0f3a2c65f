"""Several developers, several machines, at once; and what an interruption leaves."""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path

import pytest
from room import NAMESPACES, Desk, Done, Room, files_of, room

__all__ = ["room"]  # the fixture


def settle(process: subprocess.Popen[bytes]) -> Done:
    out, err = process.communicate(timeout=100)
    return Done(code=process.returncode, out=out.decode(), err=err.decode())


def ledgers(desk: Desk) -> dict[str, str]:
    return {name: oid for name, oid in desk.refs().items() if name.startswith(NAMESPACES)}


@pytest.fixture
def desks(room: Room) -> tuple[Desk, Desk]:
    """Two machines with a clone each, on both of which the app is known."""
    one = room.started()
    one.gitrel("build")
    one.git("push", "-q", "origin", "main")
    two = room.clone("two")
    two.gitrel("init", "--trust", one.gitrel("init", "--json").json["pin"])
    return one, two


def test_a_second_clone_has_to_be_told_the_pin(room: Room) -> None:
    one = room.started()
    one.gitrel("release")
    one.git("push", "-q", "origin", "main")
    pin = one.gitrel("init", "--json").json["pin"]
    two = room.clone("two")
    before = two.snapshot()

    refused = two.gitrel("init", code=10)
    assert refused.message["what"] == "the trust of shop is not known on this machine (check 3)"
    assert pin in refused.message["why"]
    assert f"gitrel init --trust {pin}" in refused.message["next"]
    for command in (["release"], ["rollback"], ["config", "set", "A=1"], ["build"]):
        assert two.gitrel(*command, "--json", code=10).json["error"]["check"] == 3
    wrong = two.gitrel("init", "--trust", "0" * 64, code=10)
    assert wrong.message["what"] == "not the trust that is pinned (check 3)"
    assert pin in wrong.message["why"]
    assert two.gitrel("log", code=11).message["where"] == "refs/trust/v1"
    assert two.snapshot() == before

    assert f"shop: trust v1 accepted\npin: {pin}\n" == two.gitrel("init", "--trust", pin).out
    assert (two.home / ".config/gitrel/known_apps").read_text() == f"{pin} shop\n"
    two.gitrel("init")
    assert two.gitrel("release", "--json").json["release"] == "v2"
    assert ledgers(two) == two.remote_refs("refs/releases/") | {
        name: oid for name, oid in ledgers(two).items() if not name.startswith("refs/releases/")
    }


def test_first_use_warns(room: Room) -> None:
    one = room.started()
    one.git("push", "-q", "origin", "main")
    pin = one.gitrel("init", "--json").json["pin"]
    two = room.clone("two")
    said = two.gitrel("init", "--first-use")
    assert f"WARNING: trusting shop as it is now, unseen; its pin is {pin}" in said.err
    assert two.gitrel("release").err.count("WARNING") == 0


def test_another_app_in_the_same_repository_is_refused(room: Room) -> None:
    desk = room.started()
    before = desk.snapshot()
    assert desk.gitrel("init", "--app", "other", code=2).message["where"] == "refs/trust/v1"
    assert desk.snapshot() == before


def test_releases_at_once(desks: tuple[Desk, Desk]) -> None:
    """Six at a time, three on each machine: six numbers, none lost, one chain."""
    one, two = desks
    named = [(desk, f"{name} {number}") for number in range(3) for desk, name in zip(desks, "ab", strict=True)]
    running = [desk.start("release", "-m", name, "--json") for desk, name in named]
    done = [settle(process) for process in running]
    assert [each.code for each in done] == [0] * 6, [each.err for each in done]
    numbers = sorted(each.json["release"] for each in done)
    assert numbers == [f"v{number}" for number in range(1, 7)]
    there = one.remote_refs("refs/releases/")
    assert there == {f"refs/releases/{each.json['release']}": each.json["id"] for each in done}
    one.gitrel("init")
    two.gitrel("init")
    assert ledgers(one) == ledgers(two)
    assert one.remote_refs() == {**ledgers(one), "refs/heads/main": one.git("rev-parse", "main")}
    log = two.gitrel("log", "--json").json["releases"]
    assert sorted(each["subject"] for each in log) == ["a 0", "a 1", "a 2", "b 0", "b 1", "b 2"]
    assert {each["verdict"] for each in log} == {"good"}
    assert "6 of 6 releases good" in one.gitrel("verify", "--all").out
    one.fsck()
    two.fsck()


def test_config_at_once(desks: tuple[Desk, Desk]) -> None:
    """Nobody's variable is lost: a change is made again on top of the one that was first."""
    one, two = desks
    named = [(desk, f"{name}{number}") for number in range(3) for desk, name in zip(desks, "AB", strict=True)]
    running = [desk.start("config", "set", f"{name}=x", "--json") for desk, name in named]
    done = [settle(process) for process in running]
    assert [each.code for each in done] == [0] * 6, [each.err for each in done]
    assert sorted(each.json["config"] for each in done) == [f"v{number}" for number in range(1, 7)]
    for desk in desks:
        desk.gitrel("init")
        assert set(desk.gitrel("config", "list", "--json").json["variables"]) == {"A0", "A1", "A2", "B0", "B1", "B2"}
    assert ledgers(one) == ledgers(two)


def test_a_record_that_only_the_remote_has_comes_home(room: Room) -> None:
    """As when the power goes between the push and the ref here."""
    desk = room.started()
    desk.gitrel("release")
    desk.git("update-ref", "-d", "refs/releases/v1")
    assert desk.gitrel("release", "--json").json["release"] == "v2"
    assert set(desk.refs("refs/releases/")) == {"refs/releases/v1", "refs/releases/v2"}
    assert "2 of 2" in desk.gitrel("verify", "--all").out


def waiting(room: Room, desk: Desk) -> Path:
    """Commit a build that says its process id and hangs, unless the file exists whose path is returned."""
    go = room.folder / "go"
    desk.manifest(f"[build]\ncommand = 'echo made > made; test -e {go} || {{ echo pid $$; sleep 1000; }}'\n")
    return go


def build_of(process: subprocess.Popen[bytes]) -> int:
    """The build's process id, once gitrel has handed it on."""
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith(b"pid "):
            return int(line[4:])
    raise AssertionError("it ended before the build began")


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state not in "ZX"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted(room: Room, number: signal.Signals) -> None:
    desk = room.started()
    go = waiting(room, desk)
    before = desk.snapshot()
    process = desk.start("release")
    build = build_of(process)
    process.send_signal(number)
    done = settle(process)
    assert done.code == 130, done.err
    assert not alive(build)
    assert desk.snapshot() == before
    go.touch()
    assert desk.gitrel("release", "--json").json["release"] == "v1"
    desk.fsck()


def test_killed(room: Room) -> None:
    """What a killed build leaves is one folder for temporary files, and the next build clears it, and its processes."""
    desk = room.started()
    go = waiting(room, desk)
    before = desk.snapshot()
    process = desk.start("release")
    build = build_of(process)
    process.kill()
    assert settle(process).code == -signal.SIGKILL
    after = desk.snapshot()
    assert {name for name in before if before[name] != after[name]} == {"temporary"}
    go.touch()
    assert desk.gitrel("release", "--json").json["release"] == "v1"
    assert not alive(build)
    assert files_of(Path(desk.env["TMPDIR"]), skip=set()) == {}
    desk.fsck()


@pytest.mark.parametrize("milliseconds", [250, 400, 550, 700, 850, 1000])
def test_killed_at_any_moment(room: Room, milliseconds: int) -> None:
    """Before, in or after the release: the ledger is whole, and the same command works."""
    desk = room.started()
    process = desk.start("release", "-m", "killed")
    try:
        process.wait(milliseconds / 1000)
    except subprocess.TimeoutExpired:
        process.kill()
    settle(process)
    desk.gitrel("release", "-m", "after")
    subjects = [each["subject"] for each in desk.gitrel("log", "--json").json["releases"]]
    assert subjects in (["after"], ["after", "killed"])
    desk.gitrel("verify", "--all")
    assert ledgers(desk) == desk.remote_refs()
    desk.fsck()
