"""The good path of a developer's commands: with and without a remote, in every kind of repository, text and JSON."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from room import NAMESPACES, Desk, Room, refs_of, room, run

__all__ = ["room"]  # the fixture

RELEASE_KEYS = {
    "release", "deploy", "id", "sha256", "build", "config", "rollback_to", "promoted_from", "pending",
    "pushed",
}  # fmt: skip
VERDICT_KEYS = {
    "release", "id", "verdict", "sha256", "subject", "claimed_time", "claimed_by", "build", "config", "trust",
    "rollback_to", "promoted_from", "signers", "source",
}  # fmt: skip
OID = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")


def everything(desk: Desk) -> None:
    """Each command once, and what it leaves in the repository."""
    first = desk.gitrel("build")
    build = re.fullmatch(r"build ([0-9a-f]+) of [0-9a-f]{12}\n", first.out)
    assert build
    assert OID.fullmatch(build[1])
    assert list(desk.refs("refs/builds/")) == [f"refs/builds/{build[1]}"]

    said = desk.gitrel("release", "-m", "The first\n\nIt greets.\n\nIn two paragraphs.").out
    assert re.fullmatch(r"v1  [0-9a-f]+  The first\n", said)
    assert desk.gitrel("config", "set", "LOG_LEVEL=debug", "EMPTY=").out.startswith("config v1: Set EMPTY, LOG_LEVEL")
    assert desk.gitrel("config", "list").out == "EMPTY=\nLOG_LEVEL=debug\n"
    desk.gitrel("release")
    desk.gitrel("config", "unset", "EMPTY")
    desk.gitrel("release", "--build", build[1][:8], "-m", "By its build")
    desk.gitrel("rollback")
    desk.gitrel("rollback", "v1", "-m", "Back to the start")
    desk.gitrel("rollback", "v1", "--keep-config")

    said = desk.gitrel("log").out
    rows = [re.split(r"  +", line) for line in said.splitlines()]
    assert [row[0] for row in rows] == ["v6", "v5", "v4", "v3", "v2", "v1"]
    assert [next((cell for cell in row if cell.startswith("config")), "") for row in rows] == [
        "config v2", "", "config v1", "config v2", "config v1", "",
    ]  # fmt: skip
    assert [row[-1] for row in rows] == [
        "Roll back to v1", "Back to the start", "Roll back to v2", "By its build", rows[4][-1], "The first",
    ]  # fmt: skip

    shown = desk.gitrel("show", "v1").out
    assert re.search(r"^process +worker: python3 worker.py --queue mail$", shown, re.MULTILINE)
    assert re.search(r"^ +It greets\.\n +In two paragraphs\.$", shown, re.MULTILINE)
    assert re.search(r"^rollback +to v2$", desk.gitrel("show", "4").out, re.MULTILINE)
    assert desk.gitrel("verify").out.count("every file") == 1
    assert desk.gitrel("verify", "--all").out.count("records and every file verified\n") == 6
    assert "6 of 6 releases good" in desk.gitrel("verify", "v3").out
    assert len(desk.refs("refs/builds/")) == 1, "one build, released six times"


@pytest.mark.parametrize("remote", [True, False], ids=["remote", "alone"])
def test_every_command(room: Room, remote: bool) -> None:
    desk = room.started(remote=remote)
    everything(desk)
    assert desk.attempt("status", "--porcelain").out == ""
    desk.fsck()
    if remote:
        ours = {name: oid for name, oid in desk.refs().items() if name.startswith(NAMESPACES)}
        assert desk.remote_refs() == ours


def test_a_sha256_repository(room: Room) -> None:
    desk = room.desk(object_format="sha256")
    desk.gitrel("init")
    everything(desk)
    assert all(len(oid) == 64 for oid in desk.remote_refs().values())
    desk.fsck()
    other = Desk(path=room.folder / "other", env=room.machine(), remote=room.remote)
    desk.git("push", "-q", "origin", "main")
    assert run(["git", "clone", "-q", str(room.remote), str(other.path)], room.folder, other.env).code == 0
    other.gitrel("init", "--trust", desk.gitrel("init", "--json").json["pin"])
    assert "6 of 6" in other.gitrel("verify", "--all").out
    other.gitrel("release", "-m", "from elsewhere")
    assert desk.gitrel("rollback", "--json").json["release"] == "v8"


def test_a_linked_work_tree(room: Room) -> None:
    main = room.started()
    main.git("worktree", "add", "-q", "-b", "side", str(room.folder / "side"))
    desk = Desk(path=room.folder / "side", env=main.env, remote=main.remote)
    desk.write("app.py", "print('side')\n")
    source = desk.commit("side")
    everything(desk)
    assert desk.gitrel("show", "--json").json["source"] == source
    assert main.gitrel("log").out == desk.gitrel("log").out
    desk.fsck()


def test_a_bare_repository(room: Room) -> None:
    work = room.desk()
    work.git("push", "-q", "origin", "main")
    assert work.remote is not None
    desk = Desk(path=room.folder / "bare.git", env=work.env, remote=work.remote)
    argv = ["git", "clone", "-q", "--bare", str(work.remote), str(desk.path)]
    assert run(argv, room.folder, work.env).code == 0
    made = desk.gitrel("init", "--app", "shop", "--json").json
    assert (made["made"], made["app"]) == (True, "shop")
    everything(desk)
    assert set(desk.remote_refs("refs/releases/")) == {f"refs/releases/v{number}" for number in range(1, 7)}
    desk.fsck()


def test_from_a_folder_inside_and_from_outside(room: Room) -> None:
    desk = room.started()
    assert desk.gitrel("release", "--json", cwd=desk.path / "bin").json["release"] == "v1"
    assert desk.gitrel("release", "--repo", str(desk.path), "--json", cwd=room.folder).json["release"] == "v2"
    assert desk.gitrel("release", "--repo", "shop", "--json", cwd=room.folder).json["release"] == "v3"


def test_json(room: Room) -> None:
    """One document on stdout, with the same keys whatever happened."""
    desk = room.desk()
    init = desk.gitrel("init", "--json").json
    assert set(init) == {"app", "pin", "trust", "made", "written", "kind", "assumed", "next"}
    assert (init["app"], init["trust"], init["made"]) == ("shop", "v1", True)
    assert desk.gitrel("init", "--json").json == {**init, "made": False}

    build = desk.gitrel("build", "--json").json
    assert set(build) == {"build", "source", "tree_sha256", "ref"}
    assert desk.gitrel("build", "--json").json == build
    release = desk.gitrel("release", "--json").json
    assert set(release) == RELEASE_KEYS
    assert (release["build"], release["config"], release["pushed"]) == (build["build"], None, True)

    changed = desk.gitrel("config", "set", "A=1", "--json").json
    assert set(changed) == {"changed", "config", "id", "pending"}
    assert desk.gitrel("config", "set", "A=1", "--json").json == {"changed": False, "config": "v1"}
    assert desk.gitrel("config", "list", "--json").json == {"config": "v1", "variables": {"A": "1"}, "secrets": []}
    assert desk.gitrel("release", "--json").json["config"] == "v1"
    assert desk.gitrel("config", "unset", "A", "--json").json["config"] == "v2"

    back = desk.gitrel("rollback", "--json").json
    assert set(back) == RELEASE_KEYS
    assert (back["release"], back["rollback_to"], back["config"]) == ("v3", "v1", None)
    kept = desk.gitrel("rollback", "v2", "--keep-config", "--json").json
    assert (kept["rollback_to"], kept["config"]) == ("v2", "v2")

    log = desk.gitrel("log", "--json").json
    assert [each["release"] for each in log["releases"]] == ["v4", "v3", "v2", "v1"]
    assert all(set(each) == VERDICT_KEYS for each in log["releases"])
    shown = desk.gitrel("show", "v2", "--json").json
    assert set(shown) == VERDICT_KEYS | {"variables", "variables_since", "processes", "sboms"}
    assert (shown["variables"], list(shown["processes"])) == (["A"], ["web", "worker"])
    for args, files in ((("verify",), [0, 0, 0, 1]), (("verify", "v2"), [0, 1, 0, 0]), (("verify", "--all"), [1] * 4)):
        verdict = desk.gitrel(*args, "--json").json
        assert set(verdict) == {"deploy", "pin", "trust", "releases"}
        assert [each["files_verified"] for each in verdict["releases"]] == [bool(each) for each in files]
        assert all(set(each) == VERDICT_KEYS | {"files_verified"} for each in verdict["releases"])


def test_the_same_room_gives_the_same_ids(room: Room, tmp_path: Path) -> None:
    """Records are a function of their content, the key and the date alone."""
    ledgers = []
    for name in ("one", "two"):
        folder = tmp_path / name
        folder.mkdir()
        desk = Room(folder=folder, env=room.env, people=room.people).started(remote=False)
        desk.gitrel("config", "set", "A=1")
        desk.gitrel("release")
        ledgers.append({**desk.refs("refs/trust/"), **desk.refs("refs/config/")})
    assert ledgers[0] == ledgers[1]


def test_an_identical_build_is_found_again(room: Room) -> None:
    """Even one that writes the path it was made at into its files."""
    desk = room.started()
    desk.manifest('[build]\ncommand = "pwd > where; echo 1 > __pycache__"\n')
    first = desk.gitrel("build", "--json").json
    again = desk.gitrel("build", "--json")
    assert again.json == first
    assert "the same as before" in again.err


def test_dirty_is_said_and_not_built(room: Room) -> None:
    desk = room.started()
    desk.write("app.py", "print('dirty')\n")
    desk.write("new.txt", "new\n")
    before = desk.snapshot()
    said = desk.gitrel("build").err
    assert "note: not committed, so not in the build: app.py, new.txt" in said
    after = desk.snapshot()
    assert {name for name in before if before[name] != after[name]} == {"refs", "remote", "git"}
    build = next(iter(desk.refs("refs/builds/")))
    assert desk.git("show", f"{build}:build/app.py") == "print('hello')"
    assert "new.txt" not in desk.git("ls-tree", f"{build}:build")


def test_a_nested_repository_is_left_out_and_said(room: Room) -> None:
    desk = room.started()
    desk.manifest('[build]\ncommand = "mkdir -p vendor/lib && git init -q vendor/lib && touch vendor/lib/code"\n')
    assert "note: vendor/lib/.git is left out" in desk.gitrel("release").err
    build = next(iter(desk.refs("refs/builds/")))
    assert desk.git("ls-tree", "-r", "--name-only", f"{build}:build/vendor") == "lib/code"
    desk.fsck()


def test_a_remote_that_comes_later_gets_everything(room: Room) -> None:
    alone = room.started(remote=False)
    alone.gitrel("config", "set", "A=1")
    alone.gitrel("release")
    desk = Desk(path=alone.path, env=alone.env, remote=room.bare())
    desk.git("remote", "add", "origin", str(desk.remote))
    assert desk.gitrel("release", "--json").json["release"] == "v2"
    assert desk.remote_refs() == {n: o for n, o in refs_of(desk.path, desk.env).items() if n.startswith(NAMESPACES)}
    desk.fsck()
