"""`gitrel log`, `show`, `diff` and `blame` over one ledger; every way in which what they need can be missing."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from handmade import called
from ledgers import SECRET, shop
from room import Desk, Room, room, run
from typed import blocks, type_in

__all__ = ["room"]  # the fixture


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("template")


@pytest.fixture
def desk(room: Room, template: Path) -> Desk:
    return shop(room, template)


def plain(text: str) -> str:
    """Ids as <id>."""
    return re.sub(r"\b[0-9a-f]{12,64}\b", "<id>", text)


def entries(desk: Desk, *words: str) -> list[str]:
    return [each["release"] for each in desk.gitrel("log", *words, "--json").json["releases"]]


def test_log(desk: Desk) -> None:
    assert entries(desk) == ["v6", "v5", "v4", "v3", "v2", "v1"]
    assert entries(desk, "-n", "2") == ["v6", "v5"]
    assert entries(desk, "--since", "v4") == ["v6", "v5"]
    assert entries(desk, "--since", "latest") == []
    assert entries(desk, "--since", "2011-04-05T20:32:17Z") == ["v6", "v5"]
    assert entries(desk, "--since", "@2011-04-05T20:32:18Z") == ["v6"]
    assert entries(desk, "--by", "alice", "-n", "1") == ["v6"]
    assert desk.gitrel("log", "--since", "v6").out.startswith("no such release\n")
    assert plain(desk.gitrel("log", "--graph", "--since", "v2").out) == (
        "*    v6  2011-04-06 20:32  alice  Roll back to v2\n"
        "|\\\n"
        "| o build <id> of <id>, as in v2\n"
        "*    v5  2011-04-05 20:32  alice  Docs\n"
        "|\\\n"
        "| * build <id> of <id>\n"
        "*    v4  2011-04-04 20:32  alice  Workers\n"
        "|\\\n"
        "| * build <id> of <id>\n"
        "*    v3  2011-04-03 20:32  alice  Red\n"
        "|\\\n"
        "| * config v1: Set COLOR, MOTTO\n"
        "config v1 is not released yet: +COLOR +MOTTO\n"
    )


def test_log_of_what_nobody_can_mean(desk: Desk) -> None:
    assert desk.gitrel("log", "--by", "alcie", code=11).message["why"] == "did you mean alice?"
    assert desk.gitrel("log", "--since", "v99", code=11).message["what"] == "no release v99"
    assert desk.gitrel("log", "--since", "2011-99-01", code=2).message["where"] == "--since"
    desk.gitrel("log", "-n", "0", code=2)


def test_the_graph_is_what_git_draws(desk: Desk) -> None:
    """A part hangs below the release that brought it: git says that this release is its first child."""
    drawn = desk.gitrel("log", "--graph").out
    for line, below in re.findall(r"^\*    (v\d)[^\n]*\n((?:\|[^\n]*\n)*)", drawn, re.MULTILINE):
        first = re.findall(r"\| \* build ([0-9a-f]{12})", below)
        parents = desk.git("rev-list", "--parents", "-n1", f"refs/releases/{line}").split()
        for build in first:
            assert any(parent.startswith(build) for parent in parents)
            earlier = desk.git("rev-list", f"refs/releases/{line}^1").split() if line != "v1" else []
            assert not any(each.startswith(build) for each in earlier)


def test_diff(desk: Desk) -> None:
    done = desk.gitrel("diff", "v2", "v5")
    assert plain(done.out) == (
        "releases   v2 and v5 of production\n"
        "source     <id> -> <id>\n"
        "commits    2 more\n"
        "             <id>  alice: Say more\n"
        "             <id>  alice: Add a worker\n"
        "files      2 added, 2 changed; +147 bytes\n"
        "             M  Procfile  20 -> 46 bytes\n"
        "             A  docs/more.md  6 bytes\n"
        "             M  gitrel.toml  13 -> 114 bytes\n"
        "             A  worker.py  14 bytes\n"
        "variables  +COLOR +MOTTO\n"
        "processes  +worker\n"
        "             worker: none -> python3 worker.py\n"
        "settings   run.web.health: none -> path /healthz\n"
        "           run.web.scale: 1 -> 2\n"
        "           run.web.env.MODE: none -> set\n"
        "signers    alice in both\n"
        "trust      v1 in both\n"
    )
    assert SECRET not in done.out + desk.gitrel("diff", "v5", "v2").out
    back = desk.gitrel("diff", "v5", "latest", "--json").json
    assert back["commits"] == {"known": True, "count": 0, "taken_back": 2, "list": []}
    assert [(each["change"], each["path"]) for each in back["files"]] == [
        ("changed", "Procfile"), ("removed", "docs/more.md"), ("changed", "gitrel.toml"), ("removed", "worker.py"),
    ]  # fmt: skip
    assert back["files"][1] == {"change": "removed", "path": "docs/more.md", "before": 6, "after": None}
    assert back["processes"] == {"added": [], "changed": [], "removed": ["worker"]}
    assert back["commands"] == {"worker": ["python3 worker.py", None]}
    assert back["settings"]["run.web.scale"] == ["2", "1"]
    assert back["settings"]["run.web.env.MODE"] == ["set", None]
    assert (back["releases"], back["signers"], back["trust"]) == (["v5", "v6"], [["alice"]] * 2, ["v1", "v1"])


def test_diff_of_the_same_release(desk: Desk) -> None:
    rows = dict(re.findall(r"^(\w+) +(.*)$", desk.gitrel("diff", "v6", "latest").out, re.MULTILINE))
    assert rows["commits"] == "none"
    assert rows["files"] == rows["variables"] == rows["processes"] == rows["settings"] == "the same"


def test_many_files_are_cut_off(desk: Desk) -> None:
    for number in range(30):
        desk.write(f"many/{number:02}", f"{number}\n")
    desk.commit("many")
    desk.gitrel("release")
    short, whole = desk.gitrel("diff", "v6").out, desk.gitrel("diff", "v6", "--files").out
    listed = [len(re.findall(r"^ +A  ", text, re.MULTILINE)) for text in (short, whole)]
    assert listed[0] < listed[1]
    assert listed[1] >= 30
    assert re.search(r"^ +and (\d+) more: --files lists them$", short, re.MULTILINE)
    assert "more: --files" not in whole


def test_names_of_releases(desk: Desk) -> None:
    """The names themselves are tested in tests/unit/test_release_names.py; here, that each command takes them."""
    source = desk.gitrel("show", "v4", "--json").json["source"]
    for name in (source[:8], "@2011-04-04T21:00:00Z", desk.git("rev-parse", "refs/releases/v4")):
        assert desk.gitrel("show", name, "--json").json["release"] == "v4"
        assert desk.gitrel("diff", "v1", name, "--json").json["releases"] == ["v1", "v4"]
        assert desk.gitrel("blame", "app.py", "--release", name, "--json").json["release"] == "v4"
        verified = desk.gitrel("verify", name, "--json").json["releases"]
        assert [each["release"] for each in verified if each["files_verified"]] == ["v4"]
    assert "by the times that releases claim" in desk.gitrel("show", "@2011-04-04T21:00:00Z").err
    assert desk.gitrel("show", "latst", code=2).message["why"] == "did you mean latest?"


def test_blame(desk: Desk) -> None:
    def brought(path: str, *words: str) -> dict[str, str]:
        found = desk.gitrel("blame", path, *words, "--json").json["entries"]
        return {each["path"]: each["release"] for each in found}

    assert brought("app.py") == {"app.py": "v2"}
    assert brought("app.py", "--release", "v1") == {"app.py": "v1"}
    assert brought("worker.py", "--release", "v5") == {"worker.py": "v4"}
    assert brought("./docs/", "--release", "v5") == {"docs/index.md": "v1", "docs/more.md": "v5"}
    # v6 took back what v4 and v5 had brought: its run begins anew
    assert brought("Procfile") == {"Procfile": "v6"}
    assert brought(".") == {
        "Procfile": "v6", "app.py": "v2", "bin": "v1", "docs": "v6", "gitrel.toml": "v6", "latest": "v1"
    }  # fmt: skip
    said = desk.gitrel("blame", "bin", "--release", "v3").out
    assert plain(said) == "v1  2011-04-01 20:32  alice  <id>  bin/migrate\n"
    entry = desk.gitrel("blame", "bin/migrate", "--json").json["entries"][0]
    assert (entry["kind"], entry["signers"], entry["subject"]) == ("executable", ["alice"], "Opening day")
    assert entry["object"] == desk.git("rev-parse", "refs/releases/v1:build/bin/migrate")


def test_blame_of_what_is_not_there(desk: Desk) -> None:
    gone = desk.gitrel("blame", "worker.py", code=11).message
    assert (gone["what"], gone["why"]) == ("no worker.py in v6", "v5 was the last that had it")
    assert desk.gitrel("blame", "docs/indx.md", code=11).message["why"] == "did you mean docs/index.md?"
    assert "no release up to v6" in desk.gitrel("blame", "zzz/zzz", code=11).message["why"]
    assert desk.gitrel("blame", "app.py/x", code=11).message["what"] == "no app.py/x in v6"


def partial_clone(room: Room, desk: Desk) -> Desk:
    """Refs and commits, no file and no folder; made with stock git."""
    assert desk.remote is not None
    run(["git", "config", "uploadpack.allowFilter", "true"], desk.remote, desk.env)
    path = room.folder / "partial"
    argv = ["git", "clone", "-q", "--mirror", "--filter=tree:0", f"file://{desk.remote}", str(path)]
    assert run(argv, room.folder, desk.env).code == 0
    # what a `trust` and a `config` record hold is read at every verification
    partial = Desk(path=path, env=desk.env, remote=desk.remote)
    partial.git("cat-file", "-p", "refs/trust/v1:trust.toml")
    partial.git("cat-file", "-p", "refs/trust/v1:allowed_signers")
    partial.git("config", "remote.origin.url", str(desk.remote))
    return partial


def test_missing_objects_are_fetched_or_said(room: Room, desk: Desk) -> None:
    partial = partial_clone(room, desk)
    bisect = ("bisect", "--good", "v1", "--bad", "v5", "--", "true")
    for command, *words in (("log",), ("show", "v3"), ("diff", "v2", "v5"), ("blame", "app.py"), bisect):
        said = partial.gitrel(command, "--remote", "none", *words, code=11).message
        assert said["what"].startswith("not all objects of v")
        assert said["next"] == "`--remote NAME` names one"
    done = partial.gitrel("diff", "v2", "v5")
    assert done.err == "fetching what is not here of v2, v5\n"
    assert done.out == desk.gitrel("diff", "v2", "v5").out
    assert partial.gitrel("diff", "v2", "v5", "--remote", "none").out == done.out


def test_source_commits_that_are_not_here(room: Room, desk: Desk) -> None:
    bare = Desk(path=room.folder / "bare", env=desk.env, remote=desk.remote)
    bare.path.mkdir()
    bare.git("init", "-q")
    bare.git(
        "fetch",
        "-q",
        str(desk.remote),
        *(f"refs/{kind}/*:refs/{kind}/*" for kind in ("trust", "builds", "config", "releases")),
    )
    said = bare.gitrel("diff", "v2", "v5")
    assert re.search(r"^commits +unknown: [0-9a-f]{12} is not in this repository; `git fetch`", said.out, re.MULTILINE)
    assert bare.gitrel("diff", "v2", "v5", "--json").json["commits"]["known"] is False


def test_the_page_shows_what_is_printed(desk: Desk, tmp_path: Path) -> None:
    """Every command of docs/reading.md in this ledger, and what it prints; ids and durations differ."""
    assert all(block.shown for block in blocks("docs/reading.md"))
    type_in(
        "docs/reading.md",
        tmp_path,
        desk.home,
        cwd=str(desk.path),
        env=desk.env,
        plain=lambda text: re.sub(r"\b\d+\.\d s\b", "<time>", plain(text)),
    )


def test_a_damaged_object(desk: Desk) -> None:
    tree = desk.git("rev-parse", "refs/releases/v5:build/docs")
    path = desk.path / ".git/objects" / tree[:2] / tree[2:]
    for pack in (desk.path / ".git/objects/pack").glob("*.pack"):
        desk.git("unpack-objects", "-q", stdin=pack.read_bytes())
        pack.unlink()
        pack.with_suffix(".idx").unlink()
    path.chmod(0o644)
    path.write_bytes(b"no object")
    assert desk.gitrel("diff", "v2", "v5", code=14).message["where"] == tree
    desk.gitrel("diff", "v2", "v4")


def test_what_may_not_run(room: Room) -> None:
    """A release that waits for a second signature, and one that was repudiated: seen, and not taken."""
    desk = called(room.started(), "alice")
    desk.gitrel("release", "-m", "one")
    desk.write("app.py", "print('two')\n")
    desk.commit("two")
    desk.gitrel("release", "-m", "two")
    person = desk.gitrel("log", "-n", "1", "--json").json["releases"][0]["signers"][0]
    desk.gitrel("trust", "repudiate", "v2", "--yes")
    desk.gitrel("trust", "add", "bob", f"{room.people['bob'].path}.pub", "--yes")
    desk.gitrel("trust", "set-role", "release", person, "bob", "--threshold", "2", "--yes")
    desk.gitrel("release", "-m", "three")

    marks = [line[0] for line in desk.gitrel("log", "--graph").out.splitlines() if line[0] != "|"]
    assert marks == ["?", "x", "*"]
    assert entries(desk, "--by", person) == ["v3", "v1"]
    assert entries(desk, "--by", "bob") == []
    assert desk.gitrel("show", "latest", "--json").json["release"] == "v1"
    for name, check in (("v2", 14), ("v3", 6)):
        assert desk.gitrel("show", name, "--json").json["refusal"]["check"] == check
        for words in (
            ("diff", "v1", name),
            ("blame", "app.py", "--release", name),
            ("bisect", "--good", "v1", "--bad", name, "true"),
        ):
            assert desk.gitrel(*words, "--json", code=10).json["error"]["check"] == check
