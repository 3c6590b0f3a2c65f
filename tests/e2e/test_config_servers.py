"""Config on servers: what processes get, what keeps a release from starting, and where a secret is never found."""

from __future__ import annotations

import hashlib
import json
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from apps import HEALTH, PYTHON, Host, Shop, farm, host, plain_app, shop
from handmade import config_by_hand, release_by_hand
from room import Desk, Room, room, run

__all__ = ["farm", "host", "room", "shop"]  # fixtures

SLEEPER = "echo up; exec sleep 1000"
FIRST, SECOND = "canary-of-the-first-kind", "canary-of-the-second-kind"
OF_STAGING = "canary-of-staging"

_APP = """\
import hashlib, os
from http.server import BaseHTTPRequestHandler, HTTPServer


class Page(BaseHTTPRequestHandler):
    def do_GET(self):
        secret = hashlib.sha256(os.environ["DATABASE_URL"].encode()).hexdigest()[:16]
        words = [os.environ["GITREL_DEPLOY"], os.environ["GITREL_RELEASE"], os.environ["COLOUR"], secret]
        self.send_response(200)
        self.end_headers()
        self.wfile.write(" ".join(words).encode())


HTTPServer(("127.0.0.1", int(os.environ["PORT"])), Page).serve_forever()
"""


def web_app(desk: Desk) -> None:
    desk.write("app.py", _APP)
    desk.write("Procfile", f"web: exec {PYTHON} app.py\n")
    desk.manifest(f'[run]\nrequired_env = ["DATABASE_URL"]\n[run.web]\n{HEALTH}[run.web.env]\nCOLOUR = "white"\n')


def keygen(folder: Path, name: str) -> Path:
    path = folder / name
    argv = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", f"root@{name}", "-f", str(path)]
    subprocess.run(argv, check=True)
    return path


def public(key: Path) -> str:
    return key.with_suffix(".pub").read_text().strip()


def answer(deploy: str, release: str, colour: str, secret: str) -> str:
    return f"{deploy} {release} {colour} {hashlib.sha256(secret.encode()).hexdigest()[:16]}"


@dataclass
class Told:
    """Runs gitrel and keeps all that it prints."""

    desk: Desk
    text: str = field(default="")

    def __call__(self, *args: str, stdin: str = "") -> str:
        desk = self.desk
        done = run(desk.argv(*args), desk.path, desk.env, stdin.encode()) if stdin else desk.gitrel(*args)
        assert done.code == 0, done.err
        self.text += done.out + done.err
        return done.out


def objects_of(repository: Path) -> bytes:
    """Every object's bytes, inflated."""
    argv = ["git", "-C", str(repository), "cat-file", "--batch-all-objects", "--batch"]
    return subprocess.run(argv, capture_output=True, check=True).stdout


def files_with(folder: Path, words: list[str]) -> list[str]:
    argv = ["grep", "-rlaF", *(arg for word in words for arg in ("-e", word)), str(folder)]
    return subprocess.run(argv, capture_output=True, check=False, text=True).stdout.splitlines()


def arguments_with(words: list[str]) -> list[str]:
    """Running processes with one of the words among their arguments."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes()
        except OSError:
            continue  # it has ended
        found += [str(path) for word in words if word.encode() in line]
    return found


def test_one_build_on_two_deploys_and_a_secret_that_is_rotated(
    room: Room, host: Callable[..., Host], tmp_path: Path
) -> None:
    desk = room.desk()
    web_app(desk)
    tell = Told(desk)
    pin = json.loads(tell("init", "--json"))["pin"]
    web, stage = host(), host()
    keys = {"production": keygen(tmp_path, "web1"), "staging": keygen(tmp_path, "stage1")}
    told = []
    for server, deploy in ((web, "production"), (stage, "staging")):
        done = server.gitrel(
            "join",
            str(room.remote),
            str(server.path),
            "--trust",
            pin,
            "--deploy",
            deploy,
            "--identity",
            str(keys[deploy]),
        )
        assert f"reader: {public(keys[deploy])}\n" in done.out
        told.append(done.out + done.err)
        tell("trust", "add-reader", "--yes", "--deploy", deploy, public(keys[deploy]))
    tell("config", "set", "--deploy", "staging", "--secret", "DATABASE_URL=-", stdin=OF_STAGING)
    tell("config", "set", "--deploy", "staging", "COLOUR=green")
    tell("config", "set", "--secret", "DATABASE_URL=-", stdin=f"{FIRST}\n")
    staged = json.loads(tell("release", "--deploy", "staging", "--json"))
    promoted = json.loads(tell("promote", "--from", "staging", "--json"))
    assert promoted["build"] == staged["build"]
    with web.running("--follow") as one, stage.running("--follow") as two:
        one.expect("v1 is good")
        two.expect("v1 is good")
        assert one.get() == answer("production", "v1", "white", FIRST)
        assert two.get() == answer("staging", "v1", "green", OF_STAGING)
        tell("config", "set", "--release", "COLOUR=blue", "DATABASE_URL=-", stdin=SECOND)
        one.expect("v2 is good")
        assert one.get() == answer("production", "v2", "blue", SECOND)
        tell("rollback")
        one.expect("v3 is good")
        assert one.get() == answer("production", "v3", "white", FIRST)
        assert two.get() == answer("staging", "v1", "green", OF_STAGING)
        canaries = [FIRST, SECOND, OF_STAGING]
        assert arguments_with(canaries) == []
        assert arguments_with([str(web.path)]), "the supervisor is seen, so the others would be"
        asked = [server.gitrel(*args) for server in (web, stage) for args in (("status",), ("status", "--json"))]
        homes = [path for folder in (web.path, stage.path) for path in files_with(folder, canaries)]
    asked += [server.gitrel("pull", "--json") for server in (web, stage)]  # now that nobody else pulls
    told += [done.out + done.err for done in asked]
    for command in ("log", "show", "config list", "config log", "config export", "verify --all", "diff v1 v2"):
        tell(*command.split())
    told += [tell.text, one.said.decode(), two.said.decode()]
    assert [text for text in told if any(canary in text for canary in canaries)] == []
    homes += [
        path for folder in (web.path, stage.path, desk.path, room.remote) for path in files_with(folder, canaries)
    ]
    assert homes == []
    for repository in (web.path / "repo.git", stage.path / "repo.git", desk.path, room.remote):
        stored = objects_of(repository)
        assert b"age-encryption.org/v1" in stored
        assert [canary for canary in canaries if canary.encode() in stored] == []
    raw = subprocess.run(
        ["git", "show", "refs/releases/v2:config/DATABASE_URL.age"], cwd=desk.path, capture_output=True, check=True
    ).stdout
    plain = subprocess.run(["age", "-d", "-i", str(keys["production"])], input=raw, capture_output=True, check=True)
    assert plain.stdout.decode() == SECOND
    assert desk.git("diff", "--name-status", "refs/releases/v1", "refs/releases/v2") == (
        "A\tconfig/COLOUR\nM\tconfig/DATABASE_URL.age"
    )
    assert desk.git("diff", "--name-status", "refs/releases/v1", "refs/releases/v3") == ""


@pytest.fixture
def joined(shop: Callable[[int], Shop], host: Callable[..., Host], tmp_path: Path) -> tuple[Desk, Host, Path]:
    """An app at v1 without secrets, pulled by a server whose key is no reader; the key of one that is."""
    dev, reader = shop(1), keygen(tmp_path, "web1")
    dev.desk.gitrel("trust", "add-reader", "--yes", public(reader))
    server = host()
    server.join(dev.url, dev.pin, "--identity", str(keygen(tmp_path, "web2")))
    assert server.gitrel("pull").out == "v1\n"
    return dev.desk, server, reader


def test_a_secret_for_others_stops_the_release_and_not_the_app(joined: tuple[Desk, Host, Path], tmp_path: Path) -> None:
    desk, server, reader = joined
    with server.running("--follow") as app:
        app.expect("v1 is good")
        desk.gitrel("config", "set", "--secret", f"DB={FIRST}", "TOKEN=x", "--release")
        said = app.expect(r"v2 cannot run: .*")[0].decode()
        assert "this server cannot read DB, TOKEN" in said
        assert "its readers: root@web1; this server: root@web2" in said
        status = server.status()
        assert (status["current"], status["newest"], status["good"]) == ("v1", "v2", "v1")
        assert status["supervisor"]["release"] == "v1"
        assert "cannot read DB, TOKEN" in status["lacking"]["v2"]
        assert "CANNOT RUN v2: refs/releases/v2: this server cannot read DB, TOKEN" in server.gitrel("status").out
        # the server becomes a reader; somebody who can read the secrets encrypts them anew
        desk.gitrel("trust", "add-reader", "--yes", public(tmp_path / "web2"))
        desk.gitrel("config", "reencrypt", "--identity", str(reader), "--release")
        app.expect("v3 is good")
        assert server.status()["lacking"] == {}
    assert server.current == "v3"


def test_pull_does_not_switch_to_what_cannot_start(joined: tuple[Desk, Host, Path], tmp_path: Path) -> None:
    desk, server, reader = joined
    desk.gitrel("config", "set", "--secret", f"DB={FIRST}", "--release")
    for _ in range(2):
        done = server.gitrel("pull", code=17)
        assert done.message["what"] == "this server cannot read DB"
        assert done.message["why"] == "its readers: root@web1; this server: root@web2"
        assert "trust add-reader" in done.message["next"]
        assert server.current == "v1"
    assert server.gitrel("pull", "--json", code=17).json["error"]["exit_code"] == 17
    # the same server with another key
    args = ("join", server.state()["url"], str(server.path), "--first-use", "--identity", str(reader))
    assert f"reader: {public(reader)}" in server.gitrel(*args).out
    assert server.gitrel("pull").out == "v2 (nothing new)\n"
    assert server.current == "v2"
    assert server.status()["lacking"] == {}
    reader.unlink()
    done = server.gitrel("exec", "web", code=17)
    assert "cannot read the identity for secrets" in done.message["why"]
    assert FIRST not in done.err


def test_a_release_that_nothing_precedes_ends_the_run(joined: tuple[Desk, Host, Path]) -> None:
    desk, server, _ = joined
    desk.gitrel("config", "set", "--secret", "DB=1", "--deploy", "production", "--release")
    other = replace(server, path=server.path.parent / "other")
    other.join(server.state()["url"], server.state()["pin"], "--identity", str(server.path.parents[1] / "web2"))
    done = run(other.argv("run", "--home", str(other.path)), other.path.parent, other.env)
    assert done.code == 17
    assert done.message["what"] == "this server cannot read DB"


def test_a_config_without_what_the_build_requires(room: Room, host: Callable[..., Host]) -> None:
    """Such a release is not made by gitrel, so its commit is made here: v1's build with the empty config."""
    desk = room.desk()
    plain_app(desk, SLEEPER, '[run]\nrequired_env = ["NEEDED"]\n[run.web]\nsettle = "200ms"\n')
    pin = desk.gitrel("init", "--json").json["pin"]
    desk.gitrel("config", "set", "NEEDED=1")
    desk.gitrel("release")
    server = host(str(room.remote), pin)
    assert server.gitrel("pull").out == "v1\n"
    made = release_by_hand(desk, like="refs/releases/v1", entry=2, previous="refs/releases/v1", trust=1)
    desk.git("push", "-q", "origin", f"{made}:refs/releases/v2")
    done = server.gitrel("pull", code=16)
    assert done.message["what"] == "the config lacks NEEDED"
    assert server.current == "v1"
    assert "CANNOT RUN v2: refs/releases/v2: the config lacks NEEDED" in server.gitrel("status").out
    assert desk.gitrel("rollback", "v1", "--json").json["release"] == "v3"
    assert server.gitrel("pull").out == "v3\n"
    assert server.current == "v3"
    assert server.status()["lacking"] == {}


def test_a_value_that_is_no_value(joined: tuple[Desk, Host, Path], tmp_path: Path) -> None:
    """Age files made by others can hold anything; what a process cannot be given stops the release."""
    desk, server, reader = joined
    args = ("join", server.state()["url"], str(server.path), "--first-use", "--identity", str(reader))
    server.gitrel(*args)
    desk.gitrel("config", "set", "--secret", "DB=1", "--release")
    assert server.gitrel("pull").out == "v2\n"
    argv = ["age", "-r", " ".join(public(reader).split()[:2])]
    blob = subprocess.run(argv, input=b"hunter2\0", capture_output=True, check=True).stdout
    oid = desk.store(blob, "blob")
    tree = desk.git("mktree", stdin=f"100644 blob {oid}\tDB.age\n".encode())
    made = config_by_hand(desk, tree, entry=2, trust=2, previous="refs/config/v1")
    desk.git("push", "-q", "origin", f"{made}:refs/config/v2")
    desk.gitrel("release")
    done = server.gitrel("pull", code=16)
    assert done.message["what"] == "the secret DB: the value of DB has a NUL byte"
    assert "hunter2" not in done.err
    assert server.current == "v2"


def test_which_value_wins(room: Room, host: Callable[..., Host]) -> None:
    """Base, then the build's, then the release's, then gitrel's own; and nothing of it acts on gitrel."""
    desk = room.desk()
    env = '[run.web.env]\nLANG = "of-build"\nSHELL = "of-build"\nTWICE = "of-build"\nPORT = "1"\nUSER = "of-build"\n'
    plain_app(desk, "exec env", f'[run.web]\nsettle = "200ms"\n{env}')
    pin = desk.gitrel("init", "--json").json["pin"]
    words = ["LANG=of-config", "TWICE=of-config", "PORT=2", "GITREL_RELEASE=v9", "EMPTY="]
    words += ["PYTHONHOME=/nowhere", "PYTHONPATH=/nowhere", "GIT_DIR=/nowhere", "LD_BIND_NOW=1", "BASH_ENV=/nowhere"]
    desk.gitrel("config", "set", *words)
    desk.gitrel("release")
    server = host(str(room.remote), pin)
    assert server.gitrel("pull").out == "v1\n"
    lines = server.gitrel("exec", "web", "--port", "7000").out.splitlines()
    found = dict(line.split("=", 1) for line in lines)
    expected = {
        "TMPDIR": "/tmp", "SHELL": "of-build", "USER": "of-build", "LANG": "of-config", "TWICE": "of-config",
        "EMPTY": "", "PORT": "7000", "GITREL_RELEASE": "v1", "PYTHONHOME": "/nowhere", "LD_BIND_NOW": "1",
    }  # fmt: skip
    assert {name: found.get(name) for name in expected} == expected
    assert server.gitrel("pull").out == "v1 (nothing new)\n"
    assert server.gitrel("status").code == 0


def test_a_supervisor_is_not_touched_by_the_config(joined: tuple[Desk, Host, Path]) -> None:
    desk, server, _ = joined
    with server.running("--follow") as app:
        app.expect("v1 is good")
        desk.gitrel("config", "set", "PYTHONHOME=/nowhere", "PYTHONSTARTUP=/nowhere", "GIT_DIR=/nowhere", "--release")
        app.expect("v2 is good")
        desk.gitrel("config", "set", "A=1", "--release")
        app.expect("v3 is good")  # found by a poller that runs Python


def test_what_waits_for_a_release_is_in_the_status(joined: tuple[Desk, Host, Path]) -> None:
    desk, server, _ = joined
    assert server.status()["pending_config"] is None
    desk.gitrel("config", "set", "A=1")
    server.gitrel("pull")
    assert server.status()["pending_config"] == "v1"
    assert "config     the remote shows v1, which v1 does not carry\n" in server.gitrel("status").out
    desk.gitrel("release")
    server.gitrel("pull")
    status = server.status()
    assert (status["config"], status["pending_config"]) == ("v1", None)
