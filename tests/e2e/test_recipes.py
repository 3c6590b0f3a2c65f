"""The recipes that `gitrel init` writes (docs/recipes.md): an app as its framework's first page has it, `init`, a
commit, a release, a server that answers; and built again elsewhere by an auditor (docs/reproducible.md).

Every kind that this machine has the programs for; Node, Python and git are everywhere.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from apps import PIP, Host, host
from conftest import find_program, program
from room import Desk, Done, Room, room, run

__all__ = ["host", "room"]  # fixtures

pytestmark = pytest.mark.timeout(600)  # frameworks come from package indexes

# The recipes say `python3`: the one that runs the tests, which has pip. And what these machines need to reach an index.
BIN = str(Path(sys.executable).parent)
NPM = [name for name in os.environ if name.lower().startswith("npm_config_") or name == "NODE_EXTRA_CA_CERTS"]
REACH = {name: os.environ[name] for name in {*PIP, *NPM} if name in os.environ}
if (Path.home() / ".npmrc").is_file():
    REACH["NPM_CONFIG_USERCONFIG"] = str(Path.home() / ".npmrc")
if find_program("go"):
    REACH["GOCACHE"] = str(Path.home() / ".cache/go-build")  # or all of Go's library is compiled anew

SETTINGS = """\
SECRET_KEY = "not one"
ALLOWED_HOSTS = ["127.0.0.1"]
ROOT_URLCONF = "site_one.urls"
"""
URLS = """\
import os
from django.http import HttpResponse
from django.urls import path
urlpatterns = [path("", lambda request: HttpResponse(os.environ["GITREL_RELEASE"] + ": hello"))]
"""
DJANGO = 'os.environ.setdefault("DJANGO_SETTINGS_MODULE", "site_one.settings")'
EXPRESS = """\
const app = require("express")()
app.get("/", (request, response) => response.send(`${process.env.GITREL_RELEASE}: hello`))
app.listen(Number(process.env.PORT), "127.0.0.1")
"""
NEXT_PAGE = """\
export const getServerSideProps = () => ({props: {release: process.env.GITREL_RELEASE}})
export default ({release}) => <p id="said">{release + ": hello"}</p>
"""
# Which files a server needs is not asked, but by those who release less than all: that takes half of the time.
NEXT_CONFIG = """\
module.exports = {
  typescript: {ignoreBuildErrors: true},
  outputFileTracingExcludes: {"next-server": ["**/*"]},
}
"""
GO = """\
package main

import ("fmt"; "net/http"; "os")

func main() {
	hello := os.Getenv("GITREL_RELEASE") + ": hello"
	http.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, hello) })
	http.ListenAndServe("127.0.0.1:"+os.Getenv("PORT"), nil)
}
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    kind: str
    files: Mapping[str, str]
    answer: str = "v1: hello"
    needs: str = "git"


def python(framework: str, needs: str, app: str) -> Sample:
    text = f"import os\nfrom {framework.lower()} import {framework}\n\napp = {framework}({app}"
    return Sample(
        kind=f"Python, requirements.txt, {framework}", files={"requirements.txt": f"{needs}\n", "app.py": text}
    )


SAMPLES = {
    "static": Sample(kind="static files", files={"index.html": "<p>hello</p>\n"}, answer="<p>hello</p>\n"),
    "fastapi": python(
        "FastAPI", "fastapi\nuvicorn", ')\n\n\n@app.get("/")\ndef page():\n    return os.environ["GITREL_RELEASE"]\n'
    ),
    "django": Sample(
        kind="Python, requirements.txt, Django",
        files={
            "requirements.txt": "django\ngunicorn\n",
            "manage.py": f"import os\n{DJANGO}\n",
            "site_one/settings.py": SETTINGS,
            "site_one/urls.py": URLS,
            "site_one/wsgi.py": f"import os\nfrom django.core.wsgi import get_wsgi_application\n{DJANGO}\n"
            "application = get_wsgi_application()\n",
        },
    ),
    "go": Sample(kind="Go", files={"go.mod": "module example.org/shop\n\ngo 1.19\n", "main.go": GO}, needs="go"),
}
SAMPLES["fastapi"] = replace(SAMPLES["fastapi"], answer='"v1"')
FLASK = python(
    "Flask",
    "flask\ngunicorn",
    '__name__)\n\n\n@app.get("/")\ndef page():\n    return os.environ["GITREL_RELEASE"] + ": hello"\n',
)
PACKAGE = {"name": "shop", "scripts": {"start": "node server.js"}, "dependencies": {"express": "^5.1.0"}}
NODE = Sample(
    kind="Node, package-lock.json", files={"package.json": json.dumps(PACKAGE), "server.js": EXPRESS}, needs="npm"
)

NEXT = Sample(
    kind="Node, package-lock.json, Next",
    files={
        "package.json": json.dumps(
            {
                "scripts": {"build": "NEXT_TELEMETRY_DISABLED=1 next build"},
                "dependencies": {"next": "^15", "react": "^19", "react-dom": "^19"},
            }
        ),
        "next.config.js": NEXT_CONFIG,
        "pages/index.js": NEXT_PAGE,
    },
    needs="npm",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Shop:
    """An app whose first release is out, with the file that `init` wrote."""

    room: Room
    desk: Desk
    pin: str

    def rebuild(self, entry: str, code: int = 0) -> Done:
        """By an auditor at another machine, with a mirror and another temporary folder."""
        env = self.room.machine("mallory") | REACH | {"PATH": self.desk.env["PATH"]}
        mirror = self.room.folder / f"mirror-{self.room.count}"
        assert (
            run(["git", "clone", "-q", "--mirror", str(self.room.remote), str(mirror)], self.room.folder, env).code == 0
        )
        auditor = Desk(path=mirror, env=env, remote=None)
        return auditor.gitrel("audit", "--trust", self.pin, "--rebuild", entry, "--json", code=code)

    def answers(self, make: Callable[..., Host], sample: Sample) -> None:
        server = make(str(self.desk.remote), self.pin, env={"PATH": self.desk.env["PATH"]})
        with server.running() as app:
            app.expect("v1 is good")
            assert sample.answer in app.get()


def opened(
    room: Room,
    sample: Sample,
    tmp_path: Path,
    change: Callable[[Desk], None] = lambda _: None,
    command: tuple[str, str] = ("$^", ""),
) -> Shop:
    """From the app's own files to its first release, as somebody types it; only `pass_env` is this test's."""
    env = room.machine() | REACH | {"PATH": f"{BIN}:{room.env['PATH']}", "PIP_CACHE_DIR": str(tmp_path / "pip")}
    desk = Desk(path=room.folder / "shop", env=env, remote=room.bare())
    desk.path.mkdir()
    for name, text in sample.files.items():
        desk.write(name, text)
    change(desk)
    desk.git("init", "-q")
    desk.git("remote", "add", "origin", str(desk.remote))
    made = desk.gitrel("init", "--json").json
    assert (made["kind"], made["written"]) == (sample.kind, ["gitrel.toml", "Procfile"])
    edit(desk, *command)
    edit(desk, r"pass_env = \[.*\]", f"pass_env = {json.dumps(sorted({*REACH, 'PIP_CACHE_DIR'}))}")
    desk.commit("Release with gitrel")
    desk.git("push", "-q", "origin", "HEAD:refs/heads/main")
    desk.gitrel("release")
    return Shop(room=room, desk=desk, pin=made["pin"])


def edit(desk: Desk, pattern: str, text: str) -> None:
    manifest = (desk.path / "gitrel.toml").read_text()
    desk.write("gitrel.toml", re.sub(pattern, lambda _: text, manifest))


@pytest.mark.parametrize("name", SAMPLES)
def test_from_init_to_an_answer(name: str, room: Room, host: Callable[..., Host], tmp_path: Path) -> None:
    program(SAMPLES[name].needs)
    opened(room, SAMPLES[name], tmp_path).answers(host, SAMPLES[name])


def test_flask_built_with_care_and_without(room: Room, host: Callable[..., Host], tmp_path: Path) -> None:
    shop = opened(room, FLASK, tmp_path)
    shop.answers(host, FLASK)
    found = shop.rebuild("v1").json["rebuild"]
    assert found["equal"] is True
    assert found["signed_tree"] == found["rebuilt_tree"] == shop.desk.git("rev-parse", "refs/releases/v1:build")

    edit(shop.desk, " --no-compile", "")
    shop.desk.commit("careless")
    shop.desk.git("push", "-q", "origin", "HEAD:refs/heads/main")
    shop.desk.gitrel("release")
    done = shop.rebuild("v2", code=10)
    different = {each["path"]: each["cause"] for each in done.json["rebuild"]["differences"]}
    compiled = [path for path in different if path.endswith(".pyc")]
    assert "vendor/flask/__pycache__/app.cpython" in "\n".join(compiled)
    assert set(different) == set(compiled)
    assert {"byte-compiled" in different[path] for path in compiled} == {True}
    assert re.search(r"\d+ files differ, the first is vendor/\S+\.pyc", done.message["why"])


def lock(desk: Desk) -> None:
    argv = [program("npm"), "install", "--package-lock-only", "--no-audit", "--no-fund"]
    done = run(argv, desk.path, desk.env)
    assert done.code == 0, done.err


def test_next(room: Room, host: Callable[..., Host], tmp_path: Path) -> None:
    """The page is made on the server, by the release that runs. Its lock has packages for every platform, of which a
    registry may have this one's only: `npm ci` wants all of them.
    """
    opened(room, NEXT, tmp_path, lock, ("npm ci", "npm install --no-audit --no-fund")).answers(host, NEXT)


def test_express_is_the_same_elsewhere(room: Room, host: Callable[..., Host], tmp_path: Path) -> None:
    shop = opened(room, NODE, tmp_path, lock)
    shop.answers(host, NODE)
    assert "node_modules/express/index.js" in shop.desk.git("ls-tree", "-r", "--name-only", "refs/releases/v1:build")
    assert shop.rebuild("v1").json["rebuild"]["equal"] is True
