"""Two implementations, one format: gitrel, and `stranger.sh`, which is docs/spec/ in shell over stock git.

Each makes ledgers that the other verifies, and both refuse the same tampered ones.
"""

from __future__ import annotations

import json
import os
import shutil
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from conftest import FIXED_DATE, Person, run_git
from room import ROOT, Done, gitrel, run

from gitrel.errors import ExitCode

SCRIPT = Path(__file__).with_name("stranger.sh")
MESSAGE = "a release"


@dataclass(frozen=True, slots=True)
class Work:
    """A source repository, and both implementations in it."""

    path: Path
    keys: Path
    """A folder with `alice`, `bob` and their `.pub` files."""

    def git(self, *args: str, stdin: bytes = b"") -> str:
        return run_git(self.path, *args, stdin=stdin).decode().strip()

    def stranger(self, *args: str | Path, expect: int = 0) -> str:
        return self._run(run, [SCRIPT, *args], expect)

    def gitrel(self, *args: str | Path, expect: ExitCode = ExitCode.DONE) -> str:
        return self._run(gitrel, [*args], expect)

    def verdicts(self, pin: str, expect: ExitCode = ExitCode.DONE) -> list[dict[str, Any]]:
        document = json.loads(self.gitrel("verify", "--all", "--trust", pin, "--json", expect=expect))
        releases = document["releases"]
        assert isinstance(releases, list)
        return releases

    def sign_as(self, name: str) -> None:
        self.git("config", "user.signingkey", str(self.keys / name))

    def _run(self, program: Callable[..., Done], args: list[str | Path], expect: int) -> str:
        dates = {"GIT_AUTHOR_DATE": FIXED_DATE, "GIT_COMMITTER_DATE": FIXED_DATE}
        env = {**os.environ, **dates, "PYTHONPATH": str(ROOT)}
        done = program([str(arg) for arg in args], self.path, env)
        assert done.code == expect, f"{args}: status {done.code}\n{done.out}{done.err}"
        return done.out.strip()


@pytest.fixture(params=["sha1", "sha256"])
def work(request: pytest.FixtureRequest, tmp_path: Path, people: dict[str, Person]) -> Work:
    keys = tmp_path / "keys"
    keys.mkdir()
    for name in ("alice", "bob"):
        shutil.copy2(people[name].path, keys / name)
        shutil.copy2(f"{people[name].path}.pub", keys / f"{name}.pub")
    made = Work(tmp_path / "source", keys)
    made.path.mkdir()
    made.git("init", "-q", f"--object-format={request.param}")
    made.git("config", "gpg.format", "ssh")
    made.sign_as("alice")
    for name, text in (("Procfile", "web: exec bin/run\n"), ("gitrel.toml", 'app = "shop"\n')):
        (made.path / name).write_text(text)
    made.git("add", "-A")
    made.git("commit", "-q", "-m", "first")
    return made


@pytest.fixture
def build(tmp_path: Path) -> Path:
    """A folder with everything that a tree may hold, under names that a careless script trips over."""
    folder = tmp_path / "build"
    for name in ("bin", "empty", "a folder", ".hidden"):
        (folder / name).mkdir(parents=True)
    for name, data in (
        ("Procfile", b"web: exec bin/run\n"),
        ("gitrel.toml", b'app = "shop"\n'),
        ("bin/run", b"#!/bin/sh\n"),
        ('a folder/\u00fcml\u00e4ut "quoted" back\\slash ', b"\0\r\n\xff"),
        (".hidden/.gitattributes", b"* text eol=crlf ident export-ignore\n"),
        ("a", b"a file, sorted before the folder a folder and after a.b\n"),
        ("a.b", b"$Id$\r\n"),
        ("nothing", b""),
    ):
        (folder / name).write_bytes(data)
    (folder / "bin" / "run").chmod(0o755)
    (folder / "bin" / "start").symlink_to("run")
    return folder


@pytest.fixture(scope="session")
def ledgers(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """What `hand_made` made already: a folder, and the pins by name in it."""
    return tmp_path_factory.mktemp("ledgers"), {}


@pytest.fixture
def hand_made(work: Work, build: Path, ledgers: tuple[Path, dict[str, str]]) -> Callable[[int], str]:
    """Trust v1 of a threshold, two config records, a build and two releases without gitrel; the pin."""
    folder, pins = ledgers

    def make(threshold: int) -> str:
        name = f"{work.git('rev-parse', '--show-object-format')}-{threshold}"
        if name in pins:
            shutil.rmtree(work.path)
            shutil.copytree(folder / name, work.path.parent, dirs_exist_ok=True)
            work.sign_as("alice")
        else:
            pins[name] = _by_hand(work, build, threshold)
            for part in ("source", "envdir"):
                shutil.copytree(work.path.parent / part, folder / name / part)
        return pins[name]

    return make


def _by_hand(work: Work, build: Path, threshold: int) -> str:
    envdir = work.path.parent / "envdir"
    envdir.mkdir()
    (envdir / "GREETING").write_bytes(b"hello")
    pin = work.stranger("trust", "shop", str(threshold), work.keys / "alice.pub", work.keys / "bob.pub")
    work.stranger("config", envdir)
    built = work.stranger("build", build, "HEAD")
    work.stranger("release", built, "First")
    (envdir / "GREETING").write_bytes(b"good morning")
    work.stranger("config", envdir)
    work.stranger("release", built, "Second")
    return pin


def content(folder: Path) -> dict[str, tuple[str, bytes]]:
    """Every path below a folder with what git stores of it."""
    found: dict[str, tuple[str, bytes]] = {}
    for path in folder.rglob("*"):
        name = str(path.relative_to(folder))
        if path.is_symlink():
            found[name] = ("link", os.fsencode(os.readlink(path)))
        elif path.is_dir():
            found[name] = ("folder", b"")
        else:
            runs = path.stat().st_mode & stat.S_IXUSR
            found[name] = ("executable" if runs else "file", path.read_bytes())
    return found


def test_gitrel_accepts_what_the_stranger_makes(work: Work, hand_made: Callable[[int], str]) -> None:
    pin = hand_made(1)
    first, second = work.verdicts(pin)
    for verdict, entry, config in ((first, "v1", "v1"), (second, "v2", "v2")):
        assert verdict["release"] == entry
        assert (verdict["verdict"], verdict["files_verified"]) == ("good", True)
        assert (verdict["config"], verdict["signers"]) == (config, ["alice"])
    assert work.git("fsck", "--strict", "--full") == ""


def test_the_strangers_approvals_count(work: Work, hand_made: Callable[[int], str]) -> None:
    pin = hand_made(2)
    work.stranger("approve", "v1")  # alice's key again: she counts once
    assert [each["verdict"] for each in work.verdicts(pin)] == ["pending", "pending"]
    work.sign_as("bob")
    work.stranger("approve", "v1")
    assert [(each["verdict"], each.get("signers")) for each in work.verdicts(pin)] == [
        ("good", ["alice", "bob"]),
        ("pending", None),
    ]
    approvals = work.git("for-each-ref", "--format=%(objectname)", "refs/approvals").split()
    signers = work.path.parent / "allowed_signers"
    signers.write_text(work.git("show", "refs/trust/v1:allowed_signers") + "\n")
    assert len(approvals) == 2
    for oid in approvals:
        work.git("-c", f"gpg.ssh.allowedSignersFile={signers}", "verify-tag", oid)


def test_a_server_runs_what_the_stranger_released(
    work: Work, build: Path, hand_made: Callable[[int], str], tmp_path: Path
) -> None:
    pin = hand_made(1)
    home = tmp_path / "server"
    work.gitrel("join", work.path, home, "--trust", pin)
    assert work.gitrel("pull", "--home", home) == "v2"
    assert content(home / "current") == content(build)


def test_each_continues_the_others_ledger(work: Work, build: Path, hand_made: Callable[[int], str]) -> None:
    pin = hand_made(1)
    work.gitrel("init", "--trust", pin)
    work.gitrel("config", "set", "GREETING=good evening")
    work.gitrel("release", "-m", MESSAGE)
    (build / "nothing").write_bytes(b"something")
    work.stranger("release", work.stranger("build", build, "HEAD"), "Fourth")
    assert work.stranger("verify", pin).splitlines() == [
        *(f"refs/config/v{number}: good" for number in (1, 2, 3)),
        *(f"refs/releases/v{number}: good" for number in (1, 2, 3, 4)),
    ]
    assert [each["verdict"] for each in work.verdicts(pin)] == ["good"] * 4


def test_order_without_clocks(work: Work, hand_made: Callable[[int], str]) -> None:
    """The table of docs/spec/verification.md under that name: bob's key is removed once v3 is there."""
    pin = hand_made(1)
    built = work.git("for-each-ref", "--format=%(objectname)", "refs/builds")
    work.sign_as("bob")
    work.stranger("release", built, "By bob, in time")
    work.sign_as("alice")
    assert work.stranger("trust", "shop", "1", work.keys / "alice.pub") == pin
    assert [each["signers"] for each in work.verdicts(pin)] == [["alice"], ["alice"], ["bob"]]
    work.sign_as("bob")
    for trust, check in (("v1", 7), ("v2", 5)):
        work.stranger("release", built, "By bob, too late", trust)
        error = json.loads(work.gitrel("verify", "--trust", pin, "--json", expect=ExitCode.REFUSED))["error"]
        assert error["check"] == check
        work.git("update-ref", "-d", "refs/releases/v4")
    work.sign_as("alice")
    work.stranger("release", built, "By alice, meanwhile", "v1")
    work.stranger("release", built, "By alice", "v2")
    assert [each["verdict"] for each in work.verdicts(pin)] == ["good"] * 5
    assert "refs/releases/v5: good" in work.stranger("verify", pin).splitlines()
    work.stranger("release", built, "By alice, going back", "v1")
    error = json.loads(work.gitrel("verify", "--trust", pin, "--json", expect=ExitCode.REFUSED))["error"]
    assert error["check"] == 7


# One ledger by gitrel, one change; both verifiers are asked.


def rewritten(work: Work, change: Callable[[bytes], bytes], ref: str = "refs/releases/v2") -> None:
    """The record with other bytes, and nobody's signature over them."""
    raw = run_git(work.path, "cat-file", "commit", ref)
    assert change(raw) != raw
    oid = work.git("hash-object", "-w", "-t", "commit", "--stdin", "--literally", stdin=change(raw))
    work.git("update-ref", ref, oid)


def resigned(work: Work, change: Callable[[str], str], ref: str = "refs/releases/v2") -> None:
    """The record with another message, rightly signed: what somebody with a trusted key can do."""
    raw = run_git(work.path, "cat-file", "commit", ref).decode()
    message = raw.partition("\n\n")[2]
    assert change(message) != message
    parents = [word for line in raw.splitlines() if line.startswith("parent ") for word in ("-p", line[7:])]
    tree = work.git("rev-parse", f"{ref}^{{tree}}")
    oid = work.git("commit-tree", "-S", *parents, "-F", "-", tree, stdin=change(message).encode())
    work.git("update-ref", ref, oid)


def with_header(raw: bytes) -> bytes:
    """git leaves every header named gpgsig… out of what it verifies."""
    return raw.replace(b"\n\n", b"\ngpgsig-note anything\n\n", 1)


def wrapped_elsewhere(raw: bytes) -> bytes:
    """The same signature in lines of other lengths."""
    begin = b"-----BEGIN SSH SIGNATURE-----\n "
    at = raw.index(begin) + len(begin)
    return raw[: at + 40] + b"\n " + raw[at + 40 :]


def other_digit(key: str) -> Callable[[str], str]:
    """The last hex digit of a trailer's value changed."""

    def change(message: str) -> str:
        lines = message.split("\n")
        at = next(number for number, line in enumerate(lines) if line.startswith(f"{key}: "))
        lines[at] = lines[at][:-1] + ("0" if lines[at][-1] != "0" else "1")
        return "\n".join(lines)

    return change


def drop_config(work: Work) -> None:
    """A release of the right build with another config/ than the one it cites."""
    raw = run_git(work.path, "cat-file", "commit", "refs/releases/v2").decode()
    old = work.git("rev-parse", "refs/releases/v2^{tree}")
    new = work.git("mktree", stdin=(work.git("ls-tree", old, "build") + "\n").encode())
    rewritten(work, lambda _: raw.replace(f"tree {old}", f"tree {new}", 1).encode())


def swap(work: Work) -> None:
    work.git("update-ref", "refs/releases/v2", "refs/releases/v1")


def remove_first(work: Work) -> None:
    work.git("update-ref", "-d", "refs/releases/v1")


TAMPERINGS: dict[str, Callable[[Work], None]] = {
    "a byte of the subject": lambda work: rewritten(work, lambda raw: raw.replace(MESSAGE.encode(), b"a Release")),
    "a byte of an older release": lambda work: rewritten(
        work, lambda raw: raw.replace(MESSAGE.encode(), b"a Release"), "refs/releases/v1"
    ),
    "an unsigned header": lambda work: rewritten(work, with_header),
    "the armor wrapped elsewhere": lambda work: rewritten(work, wrapped_elsewhere),
    "another tree": drop_config,
    "an older release under a newer name": swap,
    "a missing release": remove_first,
    "signed: other files": lambda work: resigned(work, other_digit("Tree-SHA256")),
    "signed: another predecessor": lambda work: resigned(work, other_digit("Previous")),
    "signed: another build": lambda work: resigned(work, other_digit("Build")),
    "signed: another config": lambda work: resigned(work, other_digit("Config")),
    "signed: another trust": lambda work: resigned(work, other_digit("Trust")),
    "signed: another app": lambda work: resigned(work, lambda text: text.replace("App: shop", "App: shoq")),
    "signed: another deploy": lambda work: resigned(work, lambda text: text.replace(": production", ": staging")),
    "signed: another number": lambda work: resigned(work, lambda text: text.replace("Entry: v2", "Entry: v3")),
}


_LEDGERS: dict[str, tuple[Path, str]] = {}  # by object format: made once, copied for each test


@pytest.fixture
def pin(work: Work, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Two releases by gitrel in `work`; the pin."""
    object_format = work.git("rev-parse", "--show-object-format")
    if object_format not in _LEDGERS:
        found = work.gitrel("init").rpartition("pin: ")[2]
        for greeting in ("hello", "good morning"):
            work.gitrel("config", "set", f"GREETING={greeting}")
            work.gitrel("release", "-m", MESSAGE)
        kept = tmp_path_factory.mktemp("ledger") / "source"
        shutil.copytree(work.path, kept, symlinks=True)
        _LEDGERS[object_format] = kept, found
    kept, found = _LEDGERS[object_format]
    shutil.rmtree(work.path)
    shutil.copytree(kept, work.path, symlinks=True)
    work.sign_as("alice")
    return found


def test_the_stranger_accepts_what_gitrel_makes(work: Work, pin: str) -> None:
    assert "refs/releases/v2: good" in work.stranger("verify", pin).splitlines()


def test_both_refuse_another_pin(work: Work, pin: str) -> None:
    other = pin[:-1] + ("0" if pin[-1] != "0" else "1")
    work.stranger("verify", other, expect=ExitCode.REFUSED)
    work.gitrel("verify", "--all", "--trust", other, expect=ExitCode.REFUSED)


@pytest.mark.parametrize("work", ["sha1"], indirect=True)  # the format that has two ids to check
@pytest.mark.parametrize("tamper", TAMPERINGS.values(), ids=TAMPERINGS)
def test_both_refuse(tamper: Callable[[Work], None], work: Work, pin: str) -> None:
    tamper(work)
    work.stranger("verify", pin, expect=ExitCode.REFUSED)
    work.gitrel("verify", "--all", "--trust", pin, expect=ExitCode.REFUSED)
