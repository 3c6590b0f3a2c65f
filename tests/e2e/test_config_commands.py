"""`gitrel config …`, `promote` and `diff` as people use them: records, blobs that stay, and what is shown."""

from __future__ import annotations

import contextlib
import os
import pty
import subprocess
from pathlib import Path

import pytest
from conftest import Person
from room import Desk, Room, room, run

__all__ = ["room"]  # the fixture

SECRET = "s3cret-canary"


def with_input(desk: Desk, text: str, *args: str) -> str:
    done = run(desk.argv(*args), desk.path, desk.env, text.encode())
    assert done.code == 0, done.err
    return done.out + done.err


def at_a_terminal(desk: Desk, typed: str, *args: str) -> str:
    """All that gitrel says when its standard input is a terminal, where this was typed."""
    master, slave = pty.openpty()
    try:
        process = subprocess.Popen(
            desk.argv(*args),
            cwd=desk.path,
            env=desk.env,
            stdin=slave,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,  # so that there is no other terminal to ask at
        )
        assert process.stderr is not None
        said = process.stderr.read(len("DB: "))
        os.write(master, typed.encode())
        out, err = process.communicate(timeout=60)
        assert process.returncode == 0, err
        os.set_blocking(master, False)
        with contextlib.suppress(BlockingIOError):
            said += os.read(master, 4096)  # what the terminal would have shown
        return (said + out + err).decode()
    finally:
        os.close(master)
        os.close(slave)


def blob(desk: Desk, entry: str, name: str, prefix: str = "refs/config") -> str:
    return desk.git("rev-parse", f"{prefix}/{entry}:{name}")


def age(desk: Desk, entry: str, name: str, key: Path) -> str:
    raw = subprocess.run(
        ["git", "show", f"refs/config/{entry}:{name}.age"], cwd=desk.path, env=desk.env, capture_output=True, check=True
    ).stdout
    argv = ["age", "-d", "-i", str(key)]
    return subprocess.run(argv, input=raw, capture_output=True, check=True).stdout.decode()


@pytest.fixture
def desk(room: Room, people: dict[str, Person]) -> Desk:
    """Alice sets config and reads secrets; so does bob's key, which is the server's here."""
    desk = room.started()
    desk.gitrel("trust", "add-reader", "--yes", people["alice"].public, people["bob"].public)
    return desk


def test_values_from_every_source(desk: Desk, people: dict[str, Person]) -> None:
    desk.write("cert", "line 1\nline 2\n")
    said = with_input(desk, f"{SECRET}\n", "config", "set", "--secret", "DB=-", "--from-file", "CERT=cert", "A=1")
    assert "config v1: Set A, CERT, DB" in said
    assert SECRET not in said
    assert age(desk, "v1", "DB", people["bob"].path) == SECRET
    assert age(desk, "v1", "CERT", people["alice"].path) == "line 1\nline 2\n"
    assert desk.gitrel("config", "get", "--reveal", "CERT").out == "line 1\nline 2\n\n"
    assert desk.gitrel("config", "list").out == "A (secret)\nCERT (secret)\nDB (secret)\n"
    other = str(people["bob"].path)
    assert desk.gitrel("config", "get", "--reveal", "DB", "--identity", other).out == f"{SECRET}\n"
    assert desk.gitrel("config", "get", "DB", code=2).message["what"] == "DB is a secret"
    desk.fsck()


def test_a_terminal_is_asked_and_shows_nothing(desk: Desk, people: dict[str, Person]) -> None:
    said = at_a_terminal(desk, f"{SECRET}\n", "config", "set", "--secret", "DB=-")
    assert said.startswith("DB: ")
    assert "config v1: Set DB" in said
    assert SECRET not in said
    assert age(desk, "v1", "DB", people["bob"].path) == SECRET


def test_a_file_changes_when_its_value_does_and_not_before(desk: Desk) -> None:
    desk.gitrel("config", "set", "--secret", "DB=1", "KEY=2")
    first = blob(desk, "v1", "DB.age"), blob(desk, "v1", "KEY.age")
    # what stays what it is makes no record, and a secret stays one
    assert desk.gitrel("config", "set", "DB=1", "--json").json == {"changed": False, "config": "v1"}
    assert desk.gitrel("config", "set", "DB=2", "PLAIN=x", "--json").json["config"] == "v2"
    assert blob(desk, "v2", "KEY.age") == first[1]
    assert blob(desk, "v2", "DB.age") != first[0]
    assert desk.git("diff", "--name-status", "refs/config/v1", "refs/config/v2") == "M\tDB.age\nA\tPLAIN"
    assert desk.gitrel("config", "diff", "v1", "v2").out == "~ DB (secret) -> (secret)\n+ PLAIN=x\n"
    # from secret to plain and back takes a word
    said = desk.gitrel("config", "set", "--plain", "KEY=2").err
    assert desk.git("show", "refs/config/v3:KEY") == "2"
    assert said == ""
    desk.gitrel("config", "set", "--secret", "KEY=2")
    assert desk.git("ls-tree", "--name-only", "refs/config/v4").split() == ["DB.age", "KEY.age", "PLAIN"]


def test_without_a_readers_key_a_secret_can_be_set_and_released(desk: Desk, room: Room) -> None:
    desk.gitrel("config", "set", "--secret", "DB=1")
    desk.gitrel("trust", "remove-reader", "--yes", room.people["alice"].public)
    desk.gitrel("config", "set", "NEW=2", "--secret")
    assert age(desk, "v2", "NEW", room.people["bob"].path) == "2"
    assert blob(desk, "v2", "DB.age") == blob(desk, "v1", "DB.age"), "nothing is encrypted anew by itself"
    assert desk.gitrel("release", "--json").json["config"] == "v2"
    done = desk.gitrel("config", "get", "--reveal", "NEW", code=17)
    assert done.message["why"].startswith("it is encrypted to bob; here: alice")


def test_readers_change(desk: Desk, people: dict[str, Person], tmp_path: Path) -> None:
    subprocess.run(["age-keygen", "-o", str(tmp_path / "id")], capture_output=True, check=True)
    argv = ["age-keygen", "-y", str(tmp_path / "id")]
    reader = subprocess.run(argv, capture_output=True, check=True, text=True).stdout.strip()
    desk.gitrel("config", "set", "--secret", f"DB={SECRET}", "OTHER=x")
    assert desk.gitrel("config", "reencrypt").out == "nothing changes\n"
    desk.gitrel("trust", "remove-reader", "--yes", people["bob"].public)
    desk.gitrel("trust", "add-reader", "--yes", reader)
    said = desk.gitrel("config", "set", "A=1", "OTHER=y").err
    assert "note: DB: encrypted for other readers; `gitrel config reencrypt`" in said
    done = desk.gitrel("config", "reencrypt")
    assert done.out.startswith("config v3: Encrypt DB anew;")
    assert "WARNING: bob is no reader any more, and can still read the values in the ledger" in done.err
    assert "DB, OTHER" in done.err
    assert blob(desk, "v3", "OTHER.age") == blob(desk, "v2", "OTHER.age")
    assert age(desk, "v3", "DB", tmp_path / "id") == SECRET
    assert age(desk, "v1", "DB", people["bob"].path) == SECRET, "which is what the warning is about"
    with pytest.raises(subprocess.CalledProcessError):
        age(desk, "v3", "DB", people["bob"].path)
    assert desk.gitrel("config", "reencrypt", "--json").json["changed"] is False
    assert desk.gitrel("config", "reencrypt", "--all", "--json").json["config"] == "v4"


def test_warnings(desk: Desk) -> None:
    words = [
        "API_KEY=1",
        "TOKEN=1",
        "MY_PASSWORD2=1",
        "URL=redis://u:p@h/0",
        "PUBLIC_KEY=1",
        "KEYS=1",
        "HOST=http://h:80/",
    ]
    said = desk.gitrel("config", "set", *words, "LD_PRELOAD=x", "PYTHONPATH=x", "PORT=1", "GITREL_RELEASE=v0").err
    named = [line.removeprefix("WARNING: ").split(" ", 1) for line in said.splitlines()]
    assert {name for name, what in named if "looks like a secret" in what} == {
        "API_KEY",
        "TOKEN",
        "MY_PASSWORD2",
        "URL",
    }
    assert {name for name, what in named if "gitrel itself never sees it" in what} == {"LD_PRELOAD", "PYTHONPATH"}
    assert {name for name, what in named if "gitrel's to set" in what} == {"PORT", "GITREL_RELEASE"}
    assert "u:p" not in said
    assert "WARNING" not in desk.gitrel("config", "set", "--secret", "API_KEY=1", "B_TOKEN=2").err


def test_import_and_export(desk: Desk) -> None:
    desk.write("app.env", f"# mine\nexport A='x y'\nDB_URL=postgres://u:{SECRET}@db/shop\nAPI_KEY=k\n")
    done = desk.gitrel("config", "import", "app.env")
    assert done.err == "note: encrypted, since they look like secrets: API_KEY, DB_URL\n"
    assert desk.gitrel("config", "list").out == "A=x y\nAPI_KEY (secret)\nDB_URL (secret)\n"
    exported = desk.gitrel("config", "export").out
    assert exported == "# API_KEY is a secret\n# DB_URL is a secret\nA='x y'\n"
    revealed = desk.gitrel("config", "export", "--reveal").out
    assert f"DB_URL='postgres://u:{SECRET}@db/shop'" in revealed or f"DB_URL=postgres://u:{SECRET}@db/shop" in revealed
    assert "nothing changes" in with_input(desk, revealed, "config", "import", "-")
    with_input(desk, revealed, "config", "import", "-", "--deploy", "other", "--plain")
    assert desk.git("show", "refs/config/other/v1:API_KEY") == "k"


def test_an_editor(desk: Desk, tmp_path: Path) -> None:
    desk.gitrel("config", "set", "A=1", "B=two words", "GONE=x")
    desk.gitrel("config", "set", "--secret", f"DB={SECRET}", "KEY=1")
    kept = blob(desk, "v2", "DB.age")
    script = tmp_path / "editor"
    seen = tmp_path / "seen"
    script.write_text(
        f'#!/bin/sh\ncp "$1" {seen}\nsed -i -e s/^A=1/A=9/ -e /^GONE/d -e "s/^KEY=.*/KEY=new/" "$1"\necho N=1 >> "$1"\n'
    )
    script.chmod(0o755)
    done = desk.gitrel("config", "edit", env={"EDITOR": str(script)})
    assert done.out.startswith("config v3: Set A, KEY, N and Unset GONE;")
    assert SECRET not in seen.read_text()
    assert "B='two words'\n" in seen.read_text()
    assert blob(desk, "v3", "DB.age") == kept
    assert desk.gitrel("config", "get", "--reveal", "KEY").out == "new\n"
    assert desk.gitrel("config", "edit", env={"EDITOR": "true"}).out == "nothing changes\n"
    before = desk.snapshot()
    desk.gitrel("config", "edit", code=2, env={"EDITOR": "false"})
    desk.gitrel("config", "edit", code=2, env={"EDITOR": "truncate -s 0"})
    bad = desk.gitrel("config", "edit", code=16, env={"EDITOR": "sed -i s/^A=9/hunter2/"})
    assert bad.message["where"].startswith("the edited text:")
    assert "hunter2" not in bad.err
    assert desk.snapshot() == before


def test_an_editor_that_is_open_while_others_work(desk: Desk, tmp_path: Path) -> None:
    """Both changes hold; on the same variable the later one is told."""
    desk.gitrel("config", "set", "A=1", "B=1")
    other = f"{' '.join(desk.argv('config', 'set'))} B=theirs --repo {desk.path} >/dev/null 2>&1; sed -i s/^A=1/A=mine/"
    assert desk.gitrel("config", "edit", env={"EDITOR": other}).out.startswith("config v3: Set A;")
    assert desk.gitrel("config", "list").out == "A=mine\nB=theirs\n"
    other = f"{' '.join(desk.argv('config', 'set'))} A=theirs --repo {desk.path} >/dev/null 2>&1; sed -i s/^A=mine/A=x/"
    done = desk.gitrel("config", "edit", code=12, env={"EDITOR": other})
    assert done.message["what"] == "alice changed A meanwhile" or " changed A meanwhile" in done.message["what"]
    assert done.message["why"] == "Set A"
    assert desk.gitrel("config", "list").out == "A=theirs\nB=theirs\n"


def test_who_changed_what(desk: Desk) -> None:
    desk.gitrel("config", "set", "A=1", "B=1")
    desk.gitrel("config", "set", "--secret", f"B={SECRET}")
    desk.gitrel("config", "unset", "A")
    entries = desk.gitrel("config", "log", "--json").json["entries"]
    assert [(e["config"], e["added"], e["changed"], e["removed"]) for e in entries] == [
        ("v3", [], [], ["A"]), ("v2", [], ["B"], []), ("v1", ["A", "B"], [], []),
    ]  # fmt: skip
    assert all(e["signer"] and e["claimed_time"].startswith("2023-11-14") for e in entries)
    assert [line.split()[0] for line in desk.gitrel("config", "log", "A").out.splitlines()] == ["v3", "v1"]
    assert SECRET not in desk.gitrel("config", "log").out


def test_views_name_variables_and_never_a_secrets_value(desk: Desk) -> None:
    desk.gitrel("config", "set", "A=1", "B=1")
    assert desk.gitrel("log").out == "no release of production yet\nconfig v1 is not released yet: +A +B\n"
    desk.gitrel("release")
    assert "not released" not in desk.gitrel("log").out
    desk.gitrel("config", "set", "--secret", f"DB={SECRET}", f"B={SECRET}")
    desk.gitrel("config", "unset", "A")
    assert desk.gitrel("log").out.splitlines()[-1] == "config v3 is not released yet: +DB ~B -A"
    assert desk.gitrel("config", "diff").out == "- A=1\n~ B=1 -> (secret)\n+ DB (secret)\n"
    pending = desk.gitrel("log", "--json").json["pending_config"]
    assert pending == {"config": "v3", "added": ["DB"], "changed": ["B"], "removed": ["A"], "refusal": None}
    assert desk.gitrel("config", "set", "C=1", "--release", "--json").json["release"]["config"] == "v4"
    assert desk.gitrel("log", "--json").json["pending_config"] is None
    shown = desk.gitrel("show", "v2")
    assert "variables  +C +DB ~B -A since v1\n" in shown.out
    assert desk.gitrel("show", "--json").json["variables_since"]["changed"] == ["B"]
    differ = desk.gitrel("diff", "v1", "v2")
    assert "variables  +C +DB ~B -A\n" in differ.out
    assert "processes  the same\n" in differ.out
    stock = desk.git("diff", "--name-status", "--no-renames", "refs/releases/v1:config", "refs/releases/v2:config")
    assert stock.splitlines() == ["D\tA", "D\tB", "A\tB.age", "A\tC", "A\tDB.age"]
    assert SECRET not in shown.out + differ.out + desk.gitrel("config", "log").out + desk.gitrel("config", "list").out


def test_release_at_once_keeps_the_build(desk: Desk) -> None:
    assert desk.gitrel("config", "set", "A=1", "--release", code=11).message["what"] == "no release that may run"
    assert desk.refs("refs/config/") == {}, "nothing was written"
    build = desk.gitrel("release", "--json").json["build"]
    desk.write("app.py", "print('newer')\n")
    desk.commit()
    made = desk.gitrel("config", "set", "A=1", "--release", "--json").json
    assert (made["config"], made["release"]["release"], made["release"]["build"]) == ("v1", "v2", build)
    desk.gitrel("config", "unset", "A")
    assert desk.gitrel("config", "set", "B=1", "--release", "--json").json["release"]["release"] == "v3"
    assert desk.gitrel("config", "set", "B=1", "--release").out == "nothing changes\n"
    # a change that waits is released when asked for, even if this one changes nothing
    desk.gitrel("config", "set", "B=2")
    assert desk.gitrel("config", "set", "B=2", "--release", "--json").json["release"]["config"] == "v4"


def test_deploys_and_promotion(desk: Desk) -> None:
    desk.gitrel("config", "set", "WHERE=production")
    said = desk.gitrel("config", "set", "WHERE=staging", "--deploy", "staging").err
    assert said == "note: staging is a new deploy, with the roles of production and none of its readers\n"
    refused = desk.gitrel("config", "set", "--secret", "DB=1", "--deploy", "staging", code=16)
    assert refused.message["where"] == "the readers of staging"
    staged = desk.gitrel("release", "--deploy", "staging", "--json").json
    assert (staged["release"], staged["config"]) == ("v1", "v1")
    desk.write("app.py", "print('newer')\n")
    desk.commit()
    desk.gitrel("release", "--deploy", "staging")
    first = desk.gitrel("promote", "--from", "staging", "v1", "--json").json
    assert (first["release"], first["build"], first["promoted_from"]) == ("v1", staged["build"], "staging v1")
    second = desk.gitrel("promote", "--from", "staging", "--to", "production", "-m", "Go").out
    assert second.endswith("Go\n")
    trailer = desk.git("log", "-1", "--format=%(trailers:key=Promoted-From,valueonly)", "refs/releases/v2").strip()
    assert trailer.split()[:3] == ["staging", "v2", desk.refs("refs/releases/")["refs/releases/staging/v2"]]
    assert desk.git("show", "refs/releases/v2:config/WHERE") == "production"
    assert desk.git("show", "refs/releases/staging/v2:config/WHERE") == "staging"
    assert desk.git("rev-parse", "refs/releases/v2:build") == desk.git("rev-parse", "refs/releases/staging/v2:build")
    assert "promoted   from staging v2" in desk.gitrel("show").out
    assert list(desk.refs("refs/config/")) == ["refs/config/staging/v1", "refs/config/v1"]
    assert "2 of 2" in desk.gitrel("verify", "--all").out
    assert "2 of 2" in desk.gitrel("verify", "--all", "--deploy", "staging").out
    desk.fsck()


def test_a_ci_that_cannot_read_secrets_releases_them(room: Room, desk: Desk) -> None:
    desk.git("push", "-q", "origin", "main")
    desk.gitrel("config", "set", "--secret", f"DB={SECRET}")
    desk.gitrel("trust", "add", "ci", room.people["ci"].public, "--yes")
    desk.gitrel("trust", "set-role", "build", "ci", "--yes")
    desk.gitrel("trust", "set-role", "release", "ci", "--yes")
    ci = room.clone("ci", "ci")
    ci.gitrel("init", "--trust", desk.gitrel("init", "--json").json["pin"])
    assert ci.gitrel("release", "--json").json["config"] == "v1"
    ci.gitrel("config", "get", "--reveal", "DB", code=17)
    ci.gitrel("config", "set", "A=1", code=17)  # nor may it change any
    assert ci.git("rev-parse", "refs/releases/v1:config/DB.age") == blob(desk, "v1", "DB.age")


def test_a_value_is_shown_on_one_line(desk: Desk) -> None:
    """Or it could look like other variables, to who lists them or approves them."""
    words = ["A=1\nB=2", "C= x ", "D=", "E=é ü", "F=\x1b[31m"]
    desk.gitrel("config", "set", *words)
    lines = ['A="1\\nB=2"', 'C=" x "', "D=", "E=é ü", 'F="\\u001b[31m"']
    assert desk.gitrel("config", "list").out.splitlines() == lines
    assert desk.gitrel("config", "diff").out.splitlines() == [f"+ {line}" for line in lines]
    assert desk.gitrel("config", "get", "A").out == "1\nB=2\n"


def test_nothing_is_built_for_a_config_that_lacks_a_variable(desk: Desk) -> None:
    desk.manifest('[run]\nrequired_env = ["DB"]\n')
    done = desk.gitrel("release", code=16)
    assert done.message["what"] == "the config of production lacks DB"
    assert "building" not in done.err
    desk.gitrel("config", "set", "DB=1")
    assert "building" in desk.gitrel("release").err
