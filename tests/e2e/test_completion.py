"""What a shell completes, in real shells; and how little is done for it."""

from __future__ import annotations

import os
import re
import resource
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import program
from handmade import keep, restored
from room import Desk, Room, room, run

from gitrel.release.amend import ROLES

__all__ = ["room"]  # the fixture

EXPECTED = {
    "gitrel rel": ["release"],
    "gitrel trust se": ["set-role"],
    "gitrel show --de": ["--deploy"],
    "gitrel show ": ["v2", "v1", "latest"],
    "gitrel show -q --deploy staging v": ["v1"],
    "gitrel rollback v": ["v2", "v1"],
    "gitrel log --by ": ["alice", "bob"],
    "gitrel log --deploy ": ["production", "staging"],
    "gitrel promote --from staging v": ["v1"],
    "gitrel trust remove b": ["bob"],
    "gitrel trust set-role ": [*ROLES],
    "gitrel trust set-role build a": ["alice"],
    "gitrel config get ": ["LOG_LEVEL", "SECRET_KEY"],
    "gitrel config unset S": ["SECRET_KEY"],
    "gitrel config diff ": ["v2", "v1"],
    "gitrel show v9": [],
}
# Press the tab key: what the line of readline's function would get.
BASH = """
eval "$(gitrel --show-completion bash)"
for line; do
    IFS=' ' read -ra COMP_WORDS <<< "$line"
    [[ $line != *' ' ]] || COMP_WORDS+=('')
    COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
    _gitrel_completion gitrel
    echo "${COMPREPLY[*]}"
done
"""
ZSH = """
autoload -Uz compinit; compinit -D
_arguments() { print -r -- "$@" }; _files() { }
eval "$(gitrel --show-completion zsh)"
words=(${(s: :)1}); [[ $1 != *' ' ]] || words+=('')
CURRENT=${#words}
_gitrel_completion
"""
FISH = 'gitrel --show-completion fish | source; complete -C "$argv[1]"'


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("template")


@pytest.fixture
def desk(room: Room, template: Path) -> Desk:
    """Two releases of production, one of staging, bob, two variables, some of the refs packed; `gitrel` in PATH."""
    desk = restored(room, template)
    if desk is None:
        desk = room.desk()
        desk.gitrel("init", "--person", "alice")
        desk.gitrel("trust", "add", "bob", room.people["bob"].public, "--yes")
        desk.gitrel("release")
        desk.gitrel("config", "set", "LOG_LEVEL=info")
        desk.git("pack-refs", "--all")
        desk.gitrel("config", "set", "SECRET_KEY=1", "--plain", "--release")
        desk.gitrel("release", "--deploy", "staging")
        keep(room, template)
    wrapper = room.folder / "gitrel"
    wrapper.write_text(f'#!/bin/sh\nexec {sys.executable} -P -m gitrel "$@"\n')
    wrapper.chmod(0o755)
    return replace(desk, env={**desk.env, "PATH": f"{room.folder}:{os.environ['PATH']}"})


def test_bash(desk: Desk) -> None:
    done = run([program("bash"), "--norc", "-euc", BASH, "bash", *EXPECTED], desk.path, desk.env)
    shown = [line.split() for line in done.out.splitlines()]
    assert (dict(zip(EXPECTED, shown, strict=True)), done.err) == (EXPECTED, "")


def test_zsh_and_fish(desk: Desk) -> None:
    for shell, script in (("zsh", ["-fc", ZSH, "zsh"]), ("fish", ["-c", FISH])):
        done = run([program(shell), *script, "gitrel show "], desk.path, desk.env)
        assert (done.code, done.err) == (0, ""), done
        assert sorted(re.findall(r"v\d|latest", done.out)) == ["latest", "v1", "v2"], done.out


def ask(folder: Path, env: dict[str, str], line: str) -> list[str]:
    """What the program says to a shell that asks; nothing else is printed."""
    words = line.split(" ")
    asked = {**env, "_GITREL_COMPLETE": "complete_bash", "COMP_WORDS": "\n".join(words)}
    argv = [sys.executable, "-P", "-m", "gitrel"]
    done = run(argv, folder, {**asked, "COMP_CWORD": str(len(words) - 1)})
    assert (done.code, done.err) == (0, ""), done
    return done.out.split()


def test_elsewhere(desk: Desk, tmp_path: Path) -> None:
    """A linked work tree, a server's home, no repository, a broken one."""
    env, tree, home = {**desk.env}, tmp_path / "tree", tmp_path / "home"
    desk.git("worktree", "add", "-q", str(tree))
    assert ask(tree, env, "gitrel show ") == ["v2", "v1", "latest"]
    assert ask(tmp_path, env, f"gitrel config get --repo {desk.path} ") == ["LOG_LEVEL", "SECRET_KEY"]
    assert ask(tmp_path, env, "gitrel log --by ") == []
    desk.gitrel("join", str(desk.path), str(home), "--first-use", "--deploy", "staging")
    desk.gitrel("pull", "--home", str(home))
    assert ask(tmp_path, {**env, "GITREL_HOME": str(home)}, "gitrel pin ") == ["v1"]
    for oid in desk.refs("refs/trust/").values():
        (desk.path / f".git/objects/{oid[:2]}/{oid[2:]}").unlink()
    assert ask(desk.path, env, "gitrel log --by ") == []


def test_it_is_quick(desk: Desk) -> None:
    """A quiet machine takes 90 ms. The clock of a busy one says nothing, so: CPU time, of the best of three, and what
    must not be loaded.
    """
    taken = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert ask(desk.path, {**desk.env}, "gitrel log --by ") == ["alice", "bob"]
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        taken.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert min(taken) < 0.45
    asked = {**desk.env, "_GITREL_COMPLETE": "complete_bash", "COMP_WORDS": "gitrel\nlog\n--by\n", "COMP_CWORD": "3"}
    argv = [sys.executable, "-P", "-X", "importtime", "-m", "gitrel"]
    done = subprocess.run(argv, cwd=desk.path, env=asked, capture_output=True, text=True, check=True)
    loaded = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "gitrel.store.repository" in loaded
    assert not loaded & {"dulwich", "cryptography", "urllib3", "rich", "pyrage", "gitrel.cli.developer"}
    assert len(loaded) <= 190
