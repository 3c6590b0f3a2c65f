"""`gitrel bisect`: what it finds, what it says, and that nothing is left behind, however it ends."""

from __future__ import annotations

import json
import re
import signal
import time
from pathlib import Path

import pytest
from ledgers import shop
from room import Desk, Room, room

__all__ = ["room"]  # the fixture

BETWEEN = ("--good", "v1", "--bad", "v5", "--")
BROKEN = "test ! -e worker.py"


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("template")


@pytest.fixture
def desk(room: Room, template: Path) -> Desk:
    return shop(room, template)


def steps(done: str) -> list[str]:
    return re.findall(r"^(v\d: (?:good|bad|skipped)[^(\n]*)", done, re.MULTILINE)


def test_the_first_bad_release(desk: Desk) -> None:
    before = desk.snapshot()
    done = desk.gitrel("bisect", *BETWEEN, "sh", "-c", BROKEN)
    assert done.out.startswith("v4 is the first bad release: Workers\n  releases   v3 and v4 of production\n")
    assert "  processes  +worker\n" in done.out
    assert [each.strip() for each in steps(done.err)] == ["v3: good", "v4: bad"]
    assert desk.snapshot() == before


def test_json(desk: Desk) -> None:
    """What the command prints is on stderr; in the document there is the difference that broke it."""
    done = desk.gitrel("bisect", "--json", *BETWEEN, "sh", "-c", f"echo noise; {BROKEN}")
    assert (done.json["first_bad"], done.json["last_good"], done.json["suspects"]) == ("v4", "v3", ["v4"])
    assert done.json["steps"] == [
        {"release": "v3", "result": "good", "exit_status": 0}, {"release": "v4", "result": "bad", "exit_status": 1}
    ]  # fmt: skip
    assert done.json["diff"] == desk.gitrel("diff", "v3", "v4", "--json").json
    assert done.err.count("noise\n") == 2


def test_what_the_command_is_given(desk: Desk, tmp_path: Path) -> None:
    """The release's files, writable and nothing else; the caller's environment, and the release's name."""
    note = tmp_path / "note"
    script = f'find . -type f | sort > "{note}.$GITREL_RELEASE"; echo more >> app.py; mkdir docs/new; {BROKEN}'
    desk.gitrel("bisect", *BETWEEN, "sh", "-c", script)
    assert Path(f"{note}.v4").read_text().split() == [
        "./Procfile", "./app.py", "./bin/migrate", "./docs/index.md", "./gitrel.toml", "./worker.py"
    ]  # fmt: skip
    assert sorted(each.name for each in tmp_path.glob("note.*")) == ["note.v3", "note.v4"]
    assert desk.gitrel("verify", "v4").out.count("every file") == 1


def test_a_command_that_makes_a_mess(desk: Desk) -> None:
    """It removes the checkout, or makes folders that nobody may write to."""
    before = desk.snapshot()
    for mess in ('rm -rf "$PWD" "$TMPDIR"', "mkdir -p a/b/c; chmod 0 a/b", "cd ..; touch x; mkdir v4"):
        script = f"test -e worker.py; bad=$?; {mess}; exit $((1 - bad))"
        assert desk.gitrel("bisect", "--json", *BETWEEN, "sh", "-c", script).json["first_bad"] == "v4"
    planted = desk.gitrel("bisect", *BETWEEN, "sh", "-c", "mkdir -p ../v4/x; test ! -e worker.py", code=14).message
    assert planted["what"] == "something is in the way"
    assert desk.snapshot() == before


def test_releases_with_the_same_files_are_tried_once(desk: Desk) -> None:
    """v3 has the files of v2, and v6 has them again: a skip of one is a skip of all."""
    done = desk.gitrel("bisect", *BETWEEN, "sh", "-c", "test -e worker.py && exit 1; exit 125", code=11)
    assert [each.strip() for each in steps(done.err)] == [
        "v3: skipped",
        "v2: skipped, its files were tried already",
        "v4: bad",
    ]
    assert done.message["what"] == "the first bad release is one of v2, v3, v4"
    assert "exit status 125" in done.message["why"]
    document = desk.gitrel("bisect", "--json", *BETWEEN, "sh", "-c", "exit 125", code=11).json
    assert (document["first_bad"], document["suspects"]) == (None, ["v2", "v3", "v4", "v5"])
    assert document["error"]["exit_code"] == 11


@pytest.mark.parametrize(
    ("words", "what", "why"),
    [
        (("--good", "v5", "--bad", "v1", "--", "true"), "the good release, v5, is newer", "the bad one is v1"),
        (("--good", "v3", "--bad", "v3", "--", "true"), "v3 cannot be both", ""),
        (("--good", "v2", "--bad", "v6", "--", "true"), "v2 and v6 have the same files", "cannot tell them apart"),
        ((*BETWEEN, "./nothing-here"), "the command cannot be started: ./nothing-here", "No such file"),
        ((*BETWEEN, "./docs"), "the command cannot be started", "ermission denied"),
        ((*BETWEEN, "sh", "-c", "kill -9 $$"), "the command says nothing of v3", "signal 9"),
        ((*BETWEEN, "sh", "-c", "exit 130"), "the command says nothing of v3", "exit status 130"),
        (("--good", "v1"), "", ""),
        (("--good", "v1", "--bad", "vx", "--", "true"), "not a release", "did you mean"),
    ],
)  # fmt: skip
def test_what_makes_no_sense(desk: Desk, words: tuple[str, ...], what: str, why: str) -> None:
    before = desk.snapshot()
    message = desk.gitrel("bisect", *words, code=2).message
    assert message["what"].startswith(what)
    assert why in message.get("why", "")
    assert message["next"]
    assert desk.snapshot() == before


def is_running(pid: int) -> bool:
    """Also false for what was killed, and nobody has waited for (proc(5))."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state not in "ZX"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_it_leaves_nothing_behind(desk: Desk, tmp_path: Path, number: signal.Signals) -> None:
    """Not even what the command left running in sessions of their own."""
    before = desk.snapshot()
    pids = tmp_path / "pids"
    script = f"setsid sleep 1000 & echo $! >> {pids}; echo $$ >> {pids}; echo ready > {pids}.ready; sleep 1000"
    with desk.start("bisect", *BETWEEN, "sh", "-c", script) as process:
        deadline = time.monotonic() + 60
        while not Path(f"{pids}.ready").exists():
            assert time.monotonic() < deadline
            assert process.poll() is None, process.stderr and process.stderr.read()
            time.sleep(0.02)
        process.send_signal(number)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert b"interrupted" in said
    assert desk.snapshot() == before
    assert not [pid for pid in pids.read_text().split() if is_running(int(pid))]


def test_what_a_killed_one_left_is_cleared_by_the_next(desk: Desk, tmp_path: Path) -> None:
    pid, ready = tmp_path / "pid", tmp_path / "ready"
    with desk.start("bisect", *BETWEEN, "sh", "-c", f"echo $$ > {pid}; mv {pid} {ready}; sleep 1000") as process:
        deadline = time.monotonic() + 60
        while not ready.exists():
            assert time.monotonic() < deadline
            time.sleep(0.02)
        process.kill()
    temporary = Path(desk.env["TMPDIR"])
    assert list(temporary.iterdir())
    desk.gitrel("bisect", *BETWEEN, "sh", "-c", BROKEN)
    assert list(temporary.iterdir()) == []
    assert not is_running(int(ready.read_text()))


def test_a_release_that_was_tampered_with_is_not_run(desk: Desk) -> None:
    """The command sees nothing of a build whose files are not the signed ones."""
    blob = desk.git("rev-parse", "refs/releases/v3:build/app.py")
    packs = list((desk.path / ".git/objects/pack").glob("*.pack"))
    assert packs == [], "its objects are loose"
    path = desk.path / ".git/objects" / blob[:2] / blob[2:]
    path.chmod(0o644)
    path.write_bytes(b"no object")
    done = desk.gitrel("bisect", "--json", "--remote", "none", *BETWEEN, "sh", "-c", "echo it ran", code=10)
    assert json.loads(done.out)["error"]["check"] == 12
    assert "it ran" not in done.err
