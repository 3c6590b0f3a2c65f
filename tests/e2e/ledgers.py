"""A ledger to read in: six releases of a shop on six days of April 2011, by alice.

v1  Opening day      v4  Workers    worker in the Procfile, health and scale in gitrel.toml; and it breaks
v2  Greet twice      v5  Docs
v3  Red              v6  Roll back to v2
    config v1        (v1, v2 and v6 carry no config)
"""

from __future__ import annotations

from pathlib import Path

from handmade import called, keep, restored
from room import Desk, Room

SECRET = "a value that no diff shows"


def day(number: int) -> dict[str, str | None]:
    """At 20:32:17 UTC on a day of April 2011, for git and gitrel."""
    date = f"{1301603537 + number * 86400} +0000"
    return {"GIT_COMMITTER_DATE": date, "GIT_AUTHOR_DATE": date}


def shop(room: Room, template: Path) -> Desk:
    """The same each time but for its builds' ids; made once for a module."""
    desk = restored(room, template)
    if desk is None:
        desk = called(room.desk(), "alice")
        desk.write("Procfile", "web: python3 app.py\n")
        desk.write("docs/index.md", "# Shop\n")
        desk.commit("A shop")
        desk.gitrel("init")
        release(desk, 1, "Opening day")
        desk.write("app.py", "print('hello, hello')\n")
        desk.commit("Greet twice")
        release(desk, 2, "Greet twice")
        desk.gitrel("config", "set", "COLOR=red", f"MOTTO={SECRET}", env=day(3))
        release(desk, 3, "Red")
        desk.write("Procfile", "web: python3 app.py\nworker: python3 worker.py\n")
        desk.write("worker.py", "print('work')\n")
        settings = f'[run.web]\nscale = 2\nhealth = {{ path = "/healthz" }}\n[run.web.env]\nMODE = "{SECRET}"\n'
        desk.write("gitrel.toml", f'app = "shop"\n{settings}')
        desk.commit("Add a worker")
        release(desk, 4, "Workers")
        desk.write("docs/more.md", "More.\n")
        desk.commit("Say more")
        release(desk, 5, "Docs")
        desk.gitrel("rollback", "v2", env=day(6))
        desk.git("push", "-q", "origin", "main")
        keep(room, template)
    return desk


def release(desk: Desk, number: int, subject: str) -> None:
    desk.gitrel("release", "-m", subject, env=day(number))
