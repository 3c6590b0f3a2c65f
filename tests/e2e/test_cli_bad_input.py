"""Bad input, row by row: the exit code, what, where, why and the next step; and nothing is left half done."""

from __future__ import annotations

import re
import shutil
import socket
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from room import Desk, Room, room

__all__ = ["room"]  # the fixture

Arrange = Callable[[Desk], object]


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """`what`, `where`, `why` and `next` are searched for; an empty `why` is for a `what` that says it all."""

    arrange: Arrange = field(default=lambda _desk: None)
    command: tuple[str, ...] = ("release",)
    code: int
    what: str
    where: str = "."
    why: str = ""
    next: str = "."
    note: str = ""
    started: bool = True
    cwd: str = "."


def builds(command: str, rest: str = "") -> Arrange:
    """A committed build command, as a script so that nothing needs quoting twice."""

    def arrange(desk: Desk) -> None:
        desk.write("build.sh", command)
        desk.manifest(f'[build]\ncommand = "sh build.sh"\n{rest}')

    return arrange


def commits(name: str, text: str) -> Arrange:
    def arrange(desk: Desk) -> None:
        desk.write(name, text)
        desk.commit(name)

    return arrange


def manifest(text: str) -> Arrange:
    return lambda desk: desk.manifest(text)


def removes(name: str) -> Arrange:
    def arrange(desk: Desk) -> None:
        desk.git("rm", "-q", name)
        desk.commit(f"without {name}")

    return arrange


def no_key(desk: Desk) -> None:
    shutil.rmtree(desk.home / ".ssh")


def encrypted_key(desk: Desk) -> None:
    key = str(desk.home / ".ssh/id_ed25519")
    subprocess.run(["ssh-keygen", "-q", "-p", "-P", "", "-N", "secret", "-f", key], check=True, capture_output=True)


def stranger(desk: Desk) -> None:
    """Somebody without a role, who knows the app."""
    key = desk.path.parent.joinpath("mallory")
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
    desk.git("config", "gpg.format", "ssh")
    desk.git("config", "user.signingkey", str(key))


def uncommitted_manifest(desk: Desk) -> None:
    removes("gitrel.toml")(desk)
    desk.write("gitrel.toml", 'app = "shop"\n')


def remote_url(url: str) -> Arrange:
    return lambda desk: desk.git("remote", "set-url", "origin", url)


def remote_gone(desk: Desk) -> None:
    assert desk.remote is not None
    desk.remote.rename(desk.remote.with_name("away"))


def remote_is_a_folder(desk: Desk) -> None:
    remote_gone(desk)
    assert desk.remote is not None
    desk.remote.mkdir()
    (desk.remote / "notes.txt").write_text("no repository\n")


def remote_hook(desk: Desk) -> None:
    assert desk.remote is not None
    hook = desk.remote / "hooks/pre-receive"
    hook.write_text("#!/bin/sh\necho 'Fridays are closed' >&2\nexit 1\n")
    hook.chmod(0o755)


def nobody_listens() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"git://127.0.0.1:{free.getsockname()[1]}/shop.git"


def taken(name: str, kind: str) -> Arrange:
    """Something that is no record has the next number on the remote."""

    def arrange(desk: Desk) -> None:
        desk.git("push", "-q", "origin", f"HEAD{'' if kind == 'commit' else '^{tree}'}:{name}")

    return arrange


def rewritten(desk: Desk) -> None:
    desk.gitrel("release", "-m", "one")
    desk.git("update-ref", "refs/releases/v1", "refs/trust/v1")


BYTES = "import os; os.close(os.open(b'caf\\xe9', os.O_CREAT))"
SOCKET = "import socket; socket.socket(socket.AF_UNIX).bind('app.sock')"
OF_THE_COMMIT = r"mend it and commit"

ROWS: dict[str, Row] = {
    # where
    "not a repository": Row(code=11, what="not a git repository", cwd="..", next="git init"),
    "not a repository, named": Row(
        command=("release", "--repo", "nowhere"), code=11, what="not a git repository", where="nowhere"
    ),
    "not started": Row(started=False, code=11, what="no trust ledger", where="refs/trust/v1", next="gitrel init"),
    "no such commit": Row(command=("release", "nope"), code=11, what="no commit 'nope'", where="shop", next="git log"),
    "a file is no commit": Row(command=("build", "HEAD:app.py"), code=11, what="no commit 'HEAD:app.py'"),
    # keys
    "no key": Row(
        arrange=no_key, code=17, what="no usable signing key", where="id_ed25519", why="no such file", next="ssh-keygen"
    ),
    "no key to start with": Row(
        arrange=no_key, command=("init",), started=False, code=17, what="no usable signing key", next="ssh-keygen -t"
    ),
    "no key for config": Row(arrange=no_key, command=("config", "set", "A=1"), code=17, what="no usable signing key"),
    "no key for a build": Row(arrange=no_key, command=("build",), code=17, what="no usable signing key"),
    "an encrypted key, no agent, no terminal": Row(
        arrange=encrypted_key, code=17, what="no usable signing key", why="encrypted.*no ssh-agent", next="ssh-add /"
    ),
    "no such --key": Row(
        command=("init", "--key", "nowhere"), started=False, code=17, what="no usable signing key", where="/nowhere"
    ),
    "a key without a role": Row(
        arrange=stranger, code=17, what="may not release production", where="", why="nobody's list", next="root role"
    ),
    "nobody's name": Row(
        arrange=lambda desk: (desk.home / ".gitconfig").write_text(""),
        code=2,
        what="git does not know who you are",
        where="git's configuration",
        why="user.name",
        next="git config --global user.name",
    ),
    # files of the source
    "no Procfile": Row(
        arrange=removes("Procfile"), code=16, what="no Procfile", where="Procfile", next="web: .*commit"
    ),
    "an empty Procfile": Row(arrange=commits("Procfile", "#\n"), code=16, what="no process type", where="Procfile"),
    "a Procfile line that is none": Row(
        arrange=commits("Procfile", "web: true\n\nstart the app\n"), code=16,
        what="no colon; a line is `name: command`", where=r"Procfile:3$", next=OF_THE_COMMIT,
    ),
    "a Procfile with one type twice": Row(
        arrange=commits("Procfile", "web: a\nweb: b\n"), code=16, what="web stands twice", where="Procfile:2$"
    ),
    "a Procfile that the build spoils": Row(
        arrange=builds("echo nonsense > Procfile"), code=16, what="no colon", where="Procfile:1$"
    ),
    "a Procfile that is a link": Row(
        arrange=builds("ln -sf /etc/passwd Procfile"), code=16, what="not a regular file", where="Procfile"
    ),
    "no gitrel.toml": Row(
        arrange=removes("gitrel.toml"), code=16, what="no gitrel.toml", where="commit [0-9a-f]{40}", next="gitrel init"
    ),
    "gitrel.toml is not committed": Row(
        arrange=uncommitted_manifest, code=16, what="no gitrel.toml", next="git add .*commit",
        note="not committed, so not in the build: gitrel.toml",
    ),
    "gitrel.toml is not TOML": Row(
        arrange=manifest("[build\n"), code=16, what="not TOML", where="gitrel.toml", why="line 2", next=OF_THE_COMMIT
    ),
    "gitrel.toml has an unknown key": Row(
        arrange=manifest('[build]\ncomand = "make"\n'), code=16,
        what=r"build\.comand: unknown key; did you mean 'command'\?", where="gitrel.toml", next=OF_THE_COMMIT,
    ),
    "gitrel.toml has a wrong type": Row(
        arrange=manifest("[run.web]\nscale = 'two'\n"), code=16, what=r"run\.web\.scale: expected a whole number",
        where="gitrel.toml", next=OF_THE_COMMIT,
    ),
    "gitrel.toml has no time": Row(
        arrange=manifest("[build]\ntimeout = 'soon'\n"), code=16, what=r"build\.timeout: expected a time"
    ),
    "gitrel.toml is of another app": Row(
        arrange=commits("gitrel.toml", 'app = "other"\n'), code=16, what="app = 'other'", where="gitrel.toml",
        why="ledger is of shop", next=OF_THE_COMMIT,
    ),
    "gitrel.toml in the work tree is broken": Row(
        arrange=commits("gitrel.toml", "app = 3\n"), command=("init",), started=False, code=16,
        what="app: expected text", where="gitrel.toml",
    ),
    # the build
    "the build command fails": Row(
        arrange=builds("for i in 1 2 3; do echo line $i; done; echo boom >&2; exit 3"), code=15,
        what="the build command failed: .*3", where="sh build.sh", why=r"(?s)last lines.*line 3\nboom",
        next="clean checkout",
    ),
    "the build command is killed": Row(
        arrange=manifest("[build]\ncommand = 'kill -9 $$'\n"), code=15, what="killed by SIGKILL", why="printed nothing"
    ),
    "the build command hangs": Row(
        arrange=builds("echo waiting; sleep 100", 'timeout = "1s"\n'), code=15, what="longer than 1s",
        why="(?s)waiting", next="timeout",
    ),
    "the build has a socket": Row(
        arrange=builds(f'python3 -c "{SOCKET}"'), code=15, what="is a socket", where=r"^app\.sock$", next="exclude"
    ),
    "the build has a FIFO": Row(arrange=builds("mkdir d; mkfifo d/f"), code=15, what="is a FIFO", where="^d/f$"),
    "a name that is not UTF-8": Row(
        arrange=builds(f'python3 -c "{BYTES}"'), code=15, what="not UTF-8", where="caf", next="exclude"
    ),
    "a link out of the build": Row(
        arrange=builds("ln -s /etc/passwd users"), code=15, what="the link users leads out of the build", where="build",
        why="to '/etc/passwd'", next="allow_links",
    ),
    "a link up and out of the build": Row(
        arrange=builds("ln -s ../../x users"), code=15, what="the link users leads out of the build"
    ),
    "no output folder": Row(
        arrange=manifest('[build]\noutput = "dist"\n'), code=15, what="no output folder", where="dist",
        why="did not make it", next="output",
    ),
    # the remote
    "the remote is down": Row(
        arrange=remote_url(nobody_listens()), code=13, what=".", where=r"git://127\.0\.0\.1", why="refused"
    ),
    "the remote is gone": Row(arrange=remote_gone, code=13, what=".", where="remote.git"),
    "the remote is no repository": Row(
        arrange=remote_is_a_folder, code=13, what="no such repository", where="remote"
    ),
    "the remote refuses": Row(
        arrange=remote_hook, code=13, what="the remote refused the push", where="remote.git", why="Fridays are closed",
        next="ask whoever runs it",
    ),
    "the remote refuses config": Row(
        arrange=remote_hook, command=("config", "set", "A=1"), code=13, what="the remote refused the push"
    ),
    "the remote refuses a start": Row(
        arrange=remote_hook, command=("init",), started=False, code=13, what="the remote refused the push"
    ),
    "no such remote": Row(command=("release", "--remote", "nope"), code=2, what="no such remote", where="nope"),
    "a remote of a kind that is not supported": Row(
        command=("release", "--remote", "ftp://me:secret@host/x"), code=2, what="not supported", where="ftp://",
        next="ssh",
    ),
    "the number is taken by a commit of no ledger": Row(
        arrange=taken("refs/releases/v1", "commit"), code=10, what="something else under this name",
        where="refs/releases/v1", why=".", next="remove that ref",
    ),
    "the number is taken by a tree": Row(
        arrange=taken("refs/releases/v1", "tree"), code=10, what="something else under this name",
        where="refs/releases/v1", why="expected a commit, found a tree",
    ),
    "the config's number is taken": Row(
        arrange=taken("refs/config/v1", "commit"), command=("config", "set", "A=1"), code=10,
        what="something else under this name", where="refs/config/v1",
    ),
    "the first trust record's name is taken": Row(
        arrange=taken("refs/trust/v1", "commit"), command=("init",), started=False, code=10,
        what="something else under this name", where="refs/trust/v1",
    ),
    "a ref that differs here and there": Row(
        arrange=rewritten, code=10, what="the remote has another record under this name", where="refs/releases/v1",
        why="here it is .* there", next="git show",
    ),
}  # fmt: skip


def check_row(room: Room, row: Row) -> None:
    """Run a row's command, twice: for people and for programs."""
    desk = room.started() if row.started else room.desk()
    row.arrange(desk)
    before = desk.snapshot()
    where = (desk.path / row.cwd).resolve()

    done = desk.gitrel(*row.command, code=row.code, cwd=where)
    said = done.message
    for part, pattern in (("what", row.what), ("where", row.where), ("why", row.why), ("next", row.next)):
        assert re.search(pattern, said.get(part, "")), f"{part}: {done.err}"
    assert row.note in done.err
    assert done.out == ""
    assert "hunter2" not in done.err
    assert "secret" not in done.err
    assert desk.snapshot() == before

    document = desk.gitrel(*row.command, "--json", code=row.code, cwd=where).json
    assert set(document) == {"error"}
    error = document["error"]
    assert set(error) - {"check"} == {"kind", "exit_code", "what", "where", "why", "hint"}
    assert error["exit_code"] == row.code
    assert error["what"] in said["what"]
    assert error["where"] == said.get("where", "")
    assert desk.snapshot() == before


@pytest.mark.parametrize("name", ROWS)
def test_bad_input(room: Room, name: str) -> None:
    check_row(room, ROWS[name])


def test_no_commit_yet(room: Room) -> None:
    path = room.folder / "empty"
    path.mkdir()
    desk = Desk(path=path, env=room.machine(), remote=None)
    desk.git("init", "-q")
    for command in (("release",), ("build",)):
        assert desk.gitrel(*command, code=11).message["next"] == "start one with `gitrel init`"
    desk.gitrel("init")
    before = desk.snapshot()
    for command in (("release",), ("build",)):
        assert "no commit" in desk.gitrel(*command, code=11).message["what"]
    assert desk.snapshot() == before


def test_a_stray_ref_is_in_nobodys_way(room: Room) -> None:
    """What is no record is not mirrored, not pushed, and does not stop the numbers before it."""
    desk = room.started()
    for name in ("refs/releases/v3", "refs/releases/latest", f"refs/builds/{'a' * 40}", "refs/trust/v7"):
        desk.git("push", "-q", "origin", f"HEAD:{name}")
    desk.git("update-ref", "refs/config/latest", "HEAD")
    assert desk.gitrel("release", "--json").json["release"] == "v1"
    assert desk.gitrel("release", "--json").json["release"] == "v2"
    desk.gitrel("release", code=10)
    assert set(desk.refs("refs/releases/")) == {"refs/releases/v1", "refs/releases/v2"}
    assert "refs/config/latest" not in desk.remote_refs()
    assert desk.remote is not None
    subprocess.run(["git", "-C", str(desk.remote), "update-ref", "-d", "refs/releases/v3"], check=True)
    assert desk.gitrel("release", "--json").json["release"] == "v3"


def test_offline_reading(room: Room) -> None:
    """What is here can be read and verified without the remote."""
    desk = room.started()
    desk.gitrel("config", "set", "A=1")
    desk.gitrel("release")
    remote_gone(desk)
    for command in ("log", "show", "verify"):
        desk.gitrel(command)
    assert desk.gitrel("config", "list").out == "A=1\n"
    assert desk.gitrel("release", "--remote", "none", "--json").json["pushed"] is False


def test_a_broken_link_ends_the_ledger(room: Room) -> None:
    """What stands before it stays good; it and what follows are refused, and so is going on."""
    desk = room.started(remote=False)
    for name in ("one", "two", "three"):
        desk.gitrel("release", "-m", name)
    desk.git("update-ref", "refs/releases/v2", "refs/trust/v1")
    before = desk.snapshot()
    for command in (("verify",), ("verify", "v2"), ("verify", "v3"), ("show", "v2"), ("show", "v3"), ("release",)):
        assert desk.gitrel(*command, code=10).message["where"] == "refs/releases/v2"
    desk.gitrel("verify", "v1")
    assert desk.gitrel("show", "--json").json["subject"] == "one"
    assert [each["verdict"] for each in desk.gitrel("log", "--json").json["releases"]] == ["refused", "good"]
    assert "REFUSED" in desk.gitrel("log").out
    assert desk.snapshot() == before
