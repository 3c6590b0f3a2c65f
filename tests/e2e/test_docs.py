"""The README, the tutorial and the walk-throughs, each typed in as a whole."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from apps import free_port
from conftest import Person, program
from room import Desk, Room, room
from typed import blocks, shows, type_in

__all__ = ["room"]  # the fixture

pytestmark = pytest.mark.timeout(300)


def field(name: str) -> str:
    return f"""sed -n 's/^ *"{name}": "\\(.*\\)",\\?$/\\1/p'"""


PIN = f'"$(gitrel trust show --json | {field("pin")})"'
URL = "https://git.example.com/shop.git"
PAGES = "web: exec python3 -m http.server $PORT --bind 127.0.0.1 --directory public\n"
SECRET = "postgres://shop:hunter2@db/shop"


@pytest.mark.parametrize(
    ("shown", "fits"),
    [
        ("a\nb", True),
        ("b\nc", True),
        ("a\nc", False),
        ("a\n…\nd 1", True),
        ("d …", True),
        ("a…c", False),
        ("b…", True),
        ("", True),
    ],
)
def test_what_is_shown_is_compared(shown: str, fits: bool) -> None:
    assert shows(shown, "a\nb\nc\nd 1\n") is fits


def test_the_tutorial(home: Path, tmp_path: Path) -> None:
    """Two machines, and ssh between them and the host; below `~/tour`, where nothing is left."""
    program("sshd")
    typed = blocks("docs/tutorial.md")
    assert "pip install" in typed[0].commands
    swap = {"127.0.0.1:5000": f"127.0.0.1:{(web := free_port())}", "2222": str(free_port())}
    swap |= {"--interval 2": "--interval 0.3"}
    printed = type_in("docs/tutorial.md", tmp_path, home, swap=swap, skip=1, env={"PORT": str(web)})
    assert 'Good "git" signature' in printed
    assert not (home / "tour").exists()


def app(room: Room) -> Desk:
    """An app of one page, pushed, as it is before gitrel is heard of."""
    desk = Desk(path=room.folder / "shop", env=room.machine(), remote=room.bare())
    desk.path.mkdir()
    desk.git("init", "-q")
    desk.git("config", "push.default", "current")
    desk.git("remote", "add", "origin", str(room.remote))
    desk.write("public/index.html", "gitrel's\n")
    desk.commit("The app")
    return desk


def server(room: Room, where: str, home: Path, key: Person) -> dict[str, str]:
    """What a page says of its host and its server, which here are folders; `gitrel run` goes into the background."""
    start = f"gitrel run --home {where} --follow > {home}.log 2>&1 &"
    until = f"until [[ $(readlink {home}/current) == releases/v* ]]; do sleep 0.1; done"
    return {
        f"gitrel run --home {where} --follow": f"{start} {until}",
        f"{where} --trust PIN": f"{where} --trust {PIN} --identity {key.path}",
        URL: str(room.remote),
        where: str(home),
    }


def reader(room: Room, home: Path) -> dict[str, str]:
    """What the server's join printed, which a person would copy."""
    return {'"$READER"': f'"$(gitrel join {room.remote} {home} --trust {PIN} --json | {field("reader")})"'}


@contextlib.contextmanager
def read_all_the_time(file: Path) -> Iterator[list[str]]:
    """What a file held, each time that it changed, while the block runs; it must never be missing."""
    seen, over = [""], threading.Event()

    def read() -> None:
        while not over.is_set():
            try:
                text = file.read_text()
            except OSError as error:
                text = str(error)
            if text != seen[-1]:
                seen.append(text)
            over.wait(0.001)

    reader = threading.Thread(target=read)
    reader.start()
    try:
        yield seen
    finally:
        over.set()
        reader.join()


def test_from_capistrano(room: Room, tmp_path: Path, people: dict[str, Person]) -> None:
    page = "docs/from-capistrano.md"
    desk = app(room)
    for name in ("Capfile", "config/deploy.rb", "config/deploy/production.rb"):
        desk.write(name, "# Capistrano's\n")
    desk.commit("As it was with Capistrano")
    home = tmp_path / "www"
    old = home / "releases/20261101120000"
    for folder in (old / "public", home / "releases/20261001120000", home / "repo", home / "shared/config"):
        folder.mkdir(parents=True)
    (home / "shared/public/uploads").mkdir(parents=True)
    (home / "shared/public/uploads/cat.jpeg").write_text("a cat")
    (home / "shared/.env").write_text(f"DATABASE_URL='{SECRET}'\nLOG_LEVEL=info\n")
    (home / "shared/config/master.key").write_text("hunter2\n")
    (home / "revisions.log").write_text("Branch main deployed\n")
    (old / "public/uploads").symlink_to(home / "shared/public/uploads")
    (old / "public/index.html").write_text("Capistrano's\n")
    (home / "current").symlink_to(old)
    swap = {
        "release: bundle exec rails db:migrate": 'release: test "$RAILS_MASTER_KEY" = hunter2',
        "web: exec bundle exec puma -b tcp://127.0.0.1:$PORT\n": PAGES,
        "bundle install --deployment --quiet && bundle exec rails assets:precompile": "test -e public/index.html",
        "ssh web1 cat": "cat",
        "ssh web2 cat": "cat",
        "mv -T": "kill $!; wait; mv -T",
        **server(room, "/var/www/shop", home, people["bob"]),
        **reader(room, home),
    }
    with read_all_the_time(home / "current/public/index.html") as seen:
        type_in(page, tmp_path, desk.home, swap=swap, cwd=str(desk.path), env={**desk.env, "PORT": str(free_port())})
    assert seen == ["", "Capistrano's\n", "gitrel's\n", "Capistrano's\n", "gitrel's\n"]
    assert {path.name for path in (home / "releases").iterdir()} <= {"v1", "v2", "v3"}
    assert (home / "current/public/uploads/cat.jpeg").read_text() == "a cat"
    assert desk.gitrel("log", "--deploy", "staging", "--json").json["releases"]


def test_from_heroku(room: Room, tmp_path: Path, people: dict[str, Person]) -> None:
    page = "docs/from-heroku.md"
    desk = app(room)
    desk.write("Procfile", f'release: test -n "$DATABASE_URL"\n{PAGES}')
    desk.commit("A Procfile")
    heroku = tmp_path / "bin/heroku"  # as its CLI quotes: see tests/unit/test_dotenv.py
    heroku.parent.mkdir()
    heroku.write_text(
        f"#!/bin/sh\ncat <<'END'\nDATABASE_URL='{SECRET}'\nGREETING=\"it's \\$5, \\\"only\\\"\"\n"
        "SECRET_KEY_BASE='a\\\\b c'\nWEB_CONCURRENCY=2\nEND\n"
    )
    heroku.chmod(0o755)
    swap = {
        "pip install -r requirements.txt --target vendor": "test -e public/index.html",
        **server(room, "/srv/shop", tmp_path / "srv", people["bob"]),
        **reader(room, tmp_path / "srv"),
    }
    env = {**desk.env, "PORT": str(free_port()), "PATH": f"{heroku.parent}:{desk.env['PATH']}"}
    type_in(page, tmp_path, desk.home, swap=swap, cwd=str(desk.path), env=env)
    key = ["--reveal", "--identity", str(people["bob"].path)]
    assert desk.gitrel("config", "get", "SECRET_KEY_BASE", *key).out == "a\\b c\n"
    assert desk.gitrel("config", "get", "DATABASE_URL", *key).out == f"{SECRET}\n"


def test_the_readme(room: Room, tmp_path: Path, people: dict[str, Person]) -> None:
    """But for its first block, which tests/e2e/test_server_demo.py runs, and its last, which `.ci/run` does."""
    assert blocks("README.md")[0].commands.endswith("/pip install -q . && .venv/bin/gitrel demo\n")
    desk = app(room)
    desk.write("Procfile", PAGES)
    desk.commit("A Procfile")
    swap = {**server(room, "/srv/shop", tmp_path / "srv", people["bob"]), "--trust PIN": f"--trust {PIN}"}
    env = {**desk.env, "PORT": str(free_port())}
    type_in("README.md", tmp_path, desk.home, swap=swap, skip=1, leave=1, cwd=str(desk.path), env=env)
