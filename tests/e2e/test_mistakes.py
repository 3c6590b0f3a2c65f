"""The 20 most likely mistakes: each gets a message that says what to do next, compared word by word."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from handmade import called, keep, restored, sha256_of
from room import Desk, Room, room
from test_cli_bad_input import ROWS as FILES
from test_cli_bad_input import builds, encrypted_key, no_key, remote_gone, removes, stranger
from test_cli_bad_words import ROWS as WORDS

from gitrel.cli.reference import read_commands
from gitrel.errors import ExitCode

__all__ = ["room"]  # the fixture


@dataclass(frozen=True, slots=True, kw_only=True)
class Mistake:
    """`says`: all of stderr but notes, where {shop}, {remote}, {home} and {commit} stand for what they are here."""

    command: str
    code: int
    says: str
    arrange: Callable[[Desk], object] = lambda _desk: None
    cwd: str = "."


def nameless(desk: Desk) -> None:
    (desk.home / ".gitconfig").write_text("")


def mistyped_key(desk: Desk) -> None:
    desk.manifest("[build]\ncomand = 'make'\n")


def not_accepted(desk: Desk) -> None:
    (desk.home / ".config/gitrel/known_apps").unlink()


MISTAKES = {
    "a mistyped command": Mistake(command="releas", code=2, says="""\
gitrel: No such command 'releas'. Did you mean 'release'?
  next: `gitrel --help` shows what it takes
"""),
    "a mistyped option": Mistake(command="log --josn", code=2, says="""\
gitrel: No such option: --josn (Possible options: --json, --since)
  next: `gitrel log --help` shows what it takes
"""),
    "another folder": Mistake(command="release", code=11, cwd="..", says="""\
gitrel: not a git repository
  where: {folder}
  next: run it in a repository, or `git init`
"""),
    "not started yet": Mistake(command="release --repo {fresh}", code=11, says="""\
gitrel: no trust ledger
  where: refs/trust/v1
  next: start one with `gitrel init`
"""),
    "nothing committed for it": Mistake(command="release", code=16, arrange=removes("Procfile"), says="""\
gitrel: no Procfile
  where: Procfile
  next: add one with a line such as `web: python3 app.py`; `git add Procfile gitrel.toml` and commit: \
a build is of what is committed
"""),
    "a mistyped key of gitrel.toml": Mistake(command="release", code=16, arrange=mistyped_key, says="""\
gitrel: build.comand: unknown key; did you mean 'command'?
  where: gitrel.toml (commit {commit})
  next: mend it and commit: a build is of what is committed
"""),
    "a build that fails": Mistake(command="release", code=15, arrange=builds("echo no module; exit 3"), says="""\
gitrel: the build command failed: exit status 3
  where: sh build.sh
   why: its last lines:
no module
  next: it runs in a clean checkout, with nothing of your environment but PATH and [build] pass_env
"""),
    "no key": Mistake(command="release", code=17, arrange=no_key, says="""\
gitrel: no usable signing key
  where: {key}
   why: no such file, and user.signingKey is not set
  next: ssh-keygen -t ed25519, or git config gpg.format ssh && git config user.signingkey PATH
"""),
    "a key with a passphrase, and no agent": Mistake(command="release", code=17, arrange=encrypted_key, says="""\
gitrel: no usable signing key
  where: {key}
   why: it is encrypted, there is no terminal to ask at, and no ssh-agent is running (SSH_AUTH_SOCK is not set)
  next: ssh-add {key}
"""),
    "git was never told a name": Mistake(command="release", code=2, arrange=nameless, says="""\
gitrel: git does not know who you are
  where: git's configuration
   why: user.name or user.email is not set
  next: `git config --global user.name 'Your Name'` and `… user.email you@example.com`
"""),
    "no right to release": Mistake(command="release", code=17, arrange=stranger, says="""\
gitrel: your key may not release production
   why: the key {key_id}… is in nobody's list in trust.toml
  next: ask somebody with the root role to add it, or choose another with `git config user.signingkey`
"""),
    "a clone whose trust was never accepted": Mistake(command="log", code=10, arrange=not_accepted, says="""\
gitrel: the trust of shop is not known on this machine (check 3)
  where: refs/trust/v1
   why: its pin is {pin}
  next: compare that with a colleague, then `gitrel init --trust {pin}`
"""),
    "a remote that is not there": Mistake(command="release", code=13, arrange=remote_gone, says="""\
gitrel: no such folder
  where: {remote}
  next: check the path; `git remote -v` shows what a repository has
"""),
    "a release that there is none": Mistake(command="show v22", code=11, says="""\
gitrel: no release v22
  where: refs/releases/v22
   why: the newest is v2
  next: see `gitrel log`
"""),
    "a mistyped deploy": Mistake(command="log --deploy productoin", code=11, says="""\
gitrel: no deploy productoin
   why: did you mean production?
  next: `gitrel log --deploy NAME` takes any of them
"""),
    "a mistyped person": Mistake(command="trust remove bbo --yes", code=11, says="""\
gitrel: nobody called bbo
  where: trust.toml
   why: there are alice, bob
  next: did you mean bob?
"""),
    "a mistyped variable": Mistake(command="config get LOG_LEVL", code=11, says="""\
gitrel: no such variable
  where: LOG_LEVL
   why: did you mean LOG_LEVEL?
  next: see `gitrel config list`
"""),
    "a variable without a value": Mistake(command="config set LOG_LEVEL", code=16, says="""\
gitrel: not NAME=value
  where: argument 1
  next: put the value after an equals sign
"""),
    "a secret that nobody could read": Mistake(command="config set --secret TOKEN=x", code=16, says="""\
gitrel: nobody could read that secret
  where: the readers of production
   why: the deploy has no readers
  next: `gitrel trust add-reader --deploy production KEY`; `gitrel join` prints a server's
"""),
    "a server without a pin": Mistake(command="join {remote} {home}", code=2, says="""\
gitrel: no pin
   why: a server has to know whom to believe
  next: `--trust PIN`, with the pin that `gitrel init` printed; or `--first-use`, to take what is there
"""),
    "a server's command elsewhere": Mistake(command="status", code=11, says="""\
gitrel: not a gitrel home
  where: {shop}
  next: `gitrel join URL HOME --trust PIN` makes one
"""),
}  # fmt: skip


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("template")


@pytest.fixture
def desk(room: Room, template: Path) -> Desk:
    """Two releases, a variable, and bob."""
    desk = restored(room, template)
    if desk is None:
        desk = called(room.desk(), "alice")
        desk.git("clone", "-q", "--origin", "elsewhere", str(desk.path), "../fresh")
        desk.gitrel("init")
        desk.gitrel("trust", "add", "bob", room.people["bob"].public, "--yes")
        desk.gitrel("release")
        desk.gitrel("config", "set", "LOG_LEVEL=info", "--release")
        keep(room, template)
    return desk


@pytest.mark.parametrize("name", MISTAKES)
def test_it_is_told_what_to_do(desk: Desk, room: Room, name: str) -> None:
    mistake = MISTAKES[name]
    mistake.arrange(desk)
    before = desk.snapshot()
    places = {name: str(room.folder / name) for name in ("shop", "home", "fresh")}
    places |= {"folder": str(room.folder), "remote": str(room.remote), "key": str(desk.home / ".ssh/id_ed25519")}
    places |= {"commit": desk.git("rev-parse", "HEAD")[:12], "pin": sha256_of(desk, "refs/trust/v1")}
    argv = mistake.command.format(**places).split(" ")
    done = desk.gitrel(*argv, code=mistake.code, cwd=(desk.path / mistake.cwd).resolve())
    places["key_id"] = (re.findall("the key ([0-9a-f]{16})", done.err) or [""])[0]
    assert done.err[done.err.index("gitrel: ") :] == mistake.says.format(**places)
    assert done.out == ""
    assert desk.snapshot() == before


def test_the_exit_codes_are_those_of_the_manual() -> None:
    codes = {command.name: command.codes for command in read_commands()}
    rows = [(each.command.split(), each.code) for each in MISTAKES.values()]
    rows += [(list(row.command), row.code) for row in (*FILES.values(), *WORDS.values())]
    for words, code in rows:
        known = codes.get(f"gitrel {words[0]}") or codes.get(f"gitrel {' '.join(words[:2])}") or [ExitCode.USAGE]
        assert code in known, words


def test_there_are_twenty() -> None:
    assert len(MISTAKES) >= 20
    assert all("  next: " in each.says for each in MISTAKES.values())
