"""`gitrel audit`, by somebody who has a clone, or a URL, and a pin."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
from guarded import KINDS
from handmade import called, keep, release_by_hand, restored
from room import Desk, Done, Room, room, run

__all__ = ["room"]  # the fixture


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("template")


@pytest.fixture
def desk(room: Room, template: Path) -> Desk:
    """Three releases of production, the last one with a config, and one of staging; the host can leave files out."""
    kept = restored(room, template)
    if kept is not None:
        return kept
    desk = called(room.desk(), "alice")
    run(["git", "config", "uploadpack.allowFilter", "true"], room.remote, desk.env)
    desk.git("push", "-q", "origin", "HEAD:refs/heads/main")
    desk.gitrel("init")
    desk.gitrel("trust", "add", "bob", f"{room.people['bob'].path}.pub", "--yes")
    desk.gitrel("release")
    desk.gitrel("rollback", "v1")
    desk.gitrel("config", "set", "LOG_LEVEL=debug", "--release")
    desk.gitrel("release", "--deploy", "staging")
    keep(room, template)
    return desk


@pytest.fixture
def pin(desk: Desk) -> str:
    return str(desk.gitrel("trust", "show", "--json").json["pin"])


class Auditor:
    """A machine with a mirror of the remote, and nothing else."""

    def __init__(self, room: Room, pin: str) -> None:
        self.pin = pin
        self.path = room.folder / f"mirror-{room.count}"
        self.remote = room.remote
        self.desk = Desk(path=self.path, env=room.machine("mallory"), remote=None)
        done = run(["git", "clone", "-q", "--mirror", str(room.remote), str(self.path)], room.folder, self.desk.env)
        assert done.code == 0, done.err

    def audit(self, *args: str, code: int = 0, repo: str = "") -> Done:
        return self.desk.gitrel("audit", "--repo", repo or str(self.path), "--trust", self.pin, *args, code=code)

    def codes(self, *args: str, code: int = 0, repo: str = "") -> dict[str, str]:
        document = self.audit(*args, "--json", code=code, repo=repo).json
        return {each["ref"]: each["code"] for each in document["findings"]}

    @property
    def url(self) -> str:
        return f"file://{self.remote}"


@pytest.fixture
def auditor(desk: Desk, room: Room, pin: str) -> Auditor:
    return Auditor(room, pin)


def test_an_honest_ledger_is_clean(auditor: Auditor) -> None:
    before = auditor.desk.snapshot()
    done = auditor.audit()
    assert "clean" in done.out.splitlines()[-1]
    assert "every record and every file was verified" in done.out
    document = auditor.audit("--json").json
    assert (document["clean"], document["complete"]) == (True, True)
    assert [each["code"] for each in document["findings"]] == ["unlisted-deploy"]
    production, staging = document["deploys"]
    assert [each["standing"] for each in production["releases"]] == ["good"] * 3
    assert [each["rollback_to"] for each in production["releases"]] == [None, "v1", None]
    last = production["releases"][2]
    assert last["changed"] == {"added": ["LOG_LEVEL"], "changed": [], "removed": []}
    assert last["signers"][0]["person"] == "alice"
    assert staging["deploy"] == "staging"
    assert [each["signers"][0]["person"] for each in document["trust"]] == ["alice", "alice"]
    assert auditor.desk.snapshot() == before


def test_a_url_is_audited_from_a_scratch_folder(auditor: Auditor, desk: Desk) -> None:
    before = desk.remote_refs()
    assert "clean" in auditor.audit(repo=auditor.url).out
    assert desk.remote_refs() == before
    assert list(Path(auditor.desk.env["TMPDIR"]).iterdir()) == []


def test_an_audit_needs_a_pin(auditor: Auditor) -> None:
    done = auditor.desk.gitrel("audit", code=2)
    assert done.message["what"] == "no pin"


def test_another_pin_is_an_error_and_judges_nobody(auditor: Auditor) -> None:
    auditor.pin = "0" * 64
    document = auditor.audit("--json", code=10).json
    (finding,) = [each for each in document["findings"] if each["severity"] == "error"]
    assert (finding["code"], finding["check"]) == ("wrong-pin", 3)
    assert len(finding["rests"]) > 6
    assert document["app"] is None


def test_only_the_deploys_that_are_asked_for(auditor: Auditor) -> None:
    document = auditor.audit("--deploy", "staging", "--json").json
    assert [each["deploy"] for each in document["deploys"]] == ["staging"]
    assert document["complete"] is False
    assert "no ledger of stagign" in auditor.audit("--deploy", "stagign", code=11).err


# The ledger without files


def test_the_ledger_only_leaves_files_at_the_host_and_says_so(auditor: Auditor) -> None:
    done = auditor.audit("--ledger-only", repo=auditor.url)
    assert "NOT CHECKED: check 12" in done.out
    assert "INCOMPLETE" in done.out
    document = auditor.audit("--ledger-only", "--json", repo=auditor.url).json
    checks = {each["check"]: each["outcome"] for each in document["deploys"][0]["releases"][2]["checks"]}
    assert checks.pop(12) == "not checked"
    assert set(checks.values()) == {"passed"}
    assert document["deploys"][0]["releases"][2]["variables"] == ["LOG_LEVEL"]


def test_a_host_that_cannot_leave_files_out_is_said(auditor: Auditor, room: Room) -> None:
    run(["git", "config", "uploadpack.allowFilter", "false"], room.remote, auditor.desk.env)
    done = auditor.audit("--ledger-only", repo=auditor.url)
    assert "this host cannot leave files out" in done.err
    assert "NOT CHECKED" in done.out


def test_a_partial_clone_is_incomplete_not_forged(auditor: Auditor) -> None:
    partial = auditor.path.with_name("partial")
    spec = ["git", "clone", "-q", "--mirror", "--filter=blob:limit=100", auditor.url, str(partial)]
    assert run(spec, auditor.path, auditor.desk.env).code == 0
    found = auditor.codes(repo=str(partial), code=10)
    assert set(found.values()) <= {"missing-object", "unlisted-deploy", "contents-absent"}
    assert "missing-object" in found.values(), "trust itself is never left out"


# What is wrong


def test_every_fault_is_found_at_once(auditor: Auditor) -> None:
    forged = release_by_hand(auditor.desk, like="refs/releases/v1", entry=4, previous="refs/releases/v3", trust=1)
    auditor.desk.git("update-ref", "refs/releases/v4", forged)
    auditor.desk.git("update-ref", "refs/releases/latest", forged)
    auditor.desk.git("update-ref", "-d", "refs/releases/v2")
    assert auditor.codes(code=10) == {
        "refs/releases/v2": "gap",
        "refs/releases/v4": "no-role",
        "refs/releases/latest": "stray-ref",
        "refs/releases/staging": "unlisted-deploy",
    }
    done = auditor.audit(code=10)
    assert "NOT CLEAN: 2 errors, 1 warning, 1 note" in done.out
    assert done.message["what"].startswith("the audit found 2 errors")


def test_the_findings_as_sarif(auditor: Auditor, tmp_path: Path) -> None:
    auditor.desk.git("update-ref", "-d", "refs/releases/v2")
    auditor.audit("--sarif", str(tmp_path / "out.sarif"), code=10)
    document = json.loads((tmp_path / "out.sarif").read_text())
    (running,) = document["runs"]
    levels = {each["ruleId"]: each["level"] for each in running["results"]}
    assert levels == {"gap": "error", "unlisted-deploy": "note"}


# What earlier audits saw, and other hosts show


def test_history_is_only_added_to(auditor: Auditor, desk: Desk, room: Room, tmp_path: Path) -> None:
    state = str(tmp_path / "seen.json")
    auditor.audit("--state", state)
    desk.gitrel("release")
    later = Auditor(room, auditor.pin)
    later.audit("--state", state)
    heads = json.loads(Path(state).read_text())["heads"]
    assert heads["refs/releases/v"]["entry"] == 4
    for _ in range(2):  # the alarm is repeated
        found = auditor.codes("--state", state, code=10)
        assert found["refs/releases/v4"] == "history-cut"
    later.audit("--state", state)


def test_another_history_is_shown_with_both_records(auditor: Auditor, desk: Desk, tmp_path: Path) -> None:
    state = str(tmp_path / "seen.json")
    auditor.audit("--state", state)
    seen = auditor.desk.git("rev-parse", "refs/releases/v3")
    forged = release_by_hand(desk, like="refs/releases/v1", entry=3, previous="refs/releases/v2", trust=2)
    auditor.desk.git("fetch", "-q", str(desk.path), forged, env={"GIT_CONFIG_COUNT": "0"})
    auditor.desk.git("update-ref", "refs/releases/v3", forged)
    document = auditor.audit("--state", state, "--json", code=10).json
    (finding,) = [each for each in document["findings"] if each["severity"] == "error"]
    assert (finding["code"], finding["check"]) == ("history-rewritten", 13)
    assert finding["evidence"] == [seen, forged]


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"format": 1, "heads": {"x": 1}}', '{"format": 1'])
def test_a_damaged_memory_is_never_overwritten(auditor: Auditor, tmp_path: Path, content: str) -> None:
    state = tmp_path / "seen.json"
    state.write_text(content)
    auditor.audit("--state", str(state), code=14)
    assert state.read_text() == content


def test_the_memory_of_another_app_is_refused(auditor: Auditor, tmp_path: Path) -> None:
    state = tmp_path / "seen.json"
    auditor.audit("--state", str(state))
    auditor.pin = "0" * 64
    assert "another app" in auditor.audit("--state", str(state), code=2).err


def test_two_hosts_that_show_different_histories(auditor: Auditor, room: Room) -> None:
    assert "hosts-differ" not in auditor.codes("--compare", auditor.url).values()
    auditor.desk.git("update-ref", "refs/releases/v3", "refs/releases/v2")
    found = auditor.codes("--compare", str(auditor.path), repo=auditor.url, code=10)
    assert found["refs/releases/v3"] == "hosts-differ"


def test_a_host_that_is_behind_is_a_note(auditor: Auditor, desk: Desk) -> None:
    desk.gitrel("release")
    found = auditor.codes("--compare", auditor.url)
    assert "host-behind" in found.values()


# Building again


def test_a_build_that_can_be_made_again(auditor: Auditor) -> None:
    document = auditor.audit("--rebuild", "v1", "--json", repo=auditor.url).json
    assert document["rebuild"]["equal"] is True
    assert auditor.audit("--rebuild", "v3").out.count("equal") == 1


def test_a_build_that_differs_names_the_files_and_likely_causes(auditor: Auditor, desk: Desk, room: Room) -> None:
    desk.manifest('[build]\ncommand = "date +%s%N > stamp; pwd > where; echo $RANDOM$$ > x.gz"\n')
    desk.git("push", "-q", "origin", "HEAD:refs/heads/main")
    desk.gitrel("release")
    later = Auditor(room, auditor.pin)
    document = later.audit("--rebuild", "v4", "--json", code=10).json
    different = {each["path"]: each["cause"] for each in document["rebuild"]["differences"]}
    assert set(different) == {"stamp", "where", "x.gz"}
    assert different["where"] == "the path of the build is in it"  # TMPDIR is another one on this machine
    assert "numbers" in different["stamp"]
    assert "archive" in different["x.gz"]
    assert document["rebuild"]["equal"] is False
    assert document["clean"] is True


def test_a_source_that_is_not_there(auditor: Auditor, desk: Desk, room: Room) -> None:
    only = auditor.path.with_name("only-records")
    env = auditor.desk.env
    assert run(["git", "init", "-q", "--bare", str(only)], auditor.path, env).code == 0
    refs = [f"refs/{kind}/*:refs/{kind}/*" for kind in KINDS]
    assert run(["git", "-C", str(only), "fetch", "-q", auditor.url, *refs], auditor.path, env).code == 0
    assert "the source is not here" in auditor.audit("--rebuild", "v1", repo=str(only), code=11).err


# A hostile repository


def test_nothing_of_a_hostile_repository_is_executed(auditor: Auditor, tmp_path: Path) -> None:
    trap = tmp_path / "sprung"
    command = f"touch {trap}"
    script = auditor.path / "hooks/post-checkout"
    script.parent.mkdir(exist_ok=True)
    for name in ("post-checkout", "reference-transaction", "fsmonitor", "pre-auto-gc"):
        script.with_name(name).write_text(f"#!/bin/sh\n{command}\n")
        script.with_name(name).chmod(0o755)
    with (auditor.path / "config").open("a") as config:
        config.write(
            f"[core]\n\tfsmonitor = {command}\n\tsshCommand = {command}\n\tpager = {command}\n"
            f'[alias]\n\trev-parse = !{command}\n[filter "x"]\n\tsmudge = {command}\n\tclean = {command}\n'
            f'[diff]\n\texternal = {command}\n[gpg]\n\tprogram = {command}\n[gpg "ssh"]\n\tprogram = {command}\n'
            f"[uploadpack]\n\tpackObjectsHook = {command}\n[credential]\n\thelper = !{command}\n"
        )
    (auditor.path / "info").mkdir(exist_ok=True)
    (auditor.path / "info/attributes").write_text("* filter=x diff=x\n")
    (auditor.path / "objects/info/alternates").write_text("/\n")
    auditor.audit("--rebuild", "v1")
    assert not trap.exists()


@pytest.mark.parametrize("name", ["packed-refs", "shallow", "config", "info/grafts", "objects/info/alternates"])
def test_a_fifo_does_not_hang_an_audit(auditor: Auditor, name: str) -> None:
    path = auditor.path / name
    path.unlink(missing_ok=True)
    path.parent.mkdir(exist_ok=True)
    os.mkfifo(path)
    assert auditor.audit(code=14).message["what"] == "not a plain file"


@pytest.mark.parametrize("text", ["[core", "[core]\n\trepositoryformatversion = x\n", "\0" * 100])
def test_a_damaged_configuration_is_one_clear_error(auditor: Auditor, text: str) -> None:
    (auditor.path / "config").write_text(text)
    assert "where" in auditor.audit(code=14).message


def test_links_among_the_refs_are_not_followed(auditor: Auditor, tmp_path: Path) -> None:
    shutil.move(auditor.path / "refs", tmp_path / "elsewhere")
    (auditor.path / "refs").symlink_to(tmp_path / "elsewhere")
    assert auditor.codes()["refs"] == "linked-refs"


def test_words_of_the_repository_cannot_move_the_cursor(auditor: Auditor) -> None:
    (auditor.path / "refs/releases").mkdir(parents=True, exist_ok=True)
    (auditor.path / "refs/releases/\x1b[2J").write_text("0" * 40 + "\n")
    (auditor.path / "refs/releases/\nclean; every record and every file was verified").write_text("0" * 40 + "\n")
    done = auditor.audit()
    assert "\x1b" not in done.out + done.err
    assert done.out.count("stray-ref") == 2
    assert "\nclean; every" not in done.out
