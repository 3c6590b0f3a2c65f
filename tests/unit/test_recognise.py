"""gitrel.build.recognise and gitrel.cli.first_files: what `gitrel init` makes of a folder, a row a kind of app.

The files that it writes are in `golden_recipes.txt`, one section a row; `python -m test_recognise` writes that anew.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gitrel.build.recognise import MAX_READ, recognise
from gitrel.cli.first_files import manifest_text, procfile_text, write_first_files
from gitrel.format.manifest import parse_manifest
from gitrel.format.procfile import parse_procfile
from gitrel.ids import App

GOLDEN = Path(__file__).with_name("golden_recipes.txt")
SHOP = App("shop")
FLASK = "from flask import Flask\n\napp = Flask(__name__)\n"
MANAGE = 'os.environ.setdefault("DJANGO_SETTINGS_MODULE", "site_one.settings.live")\n'

ROWS: dict[str, Mapping[str, str]] = {
    "nothing known": {"README": "", "run.sh": "", ".hidden.html": ""},
    "static": {"index.html": ""},
    "static, in public": {"public/index.html": ""},
    "flask, gunicorn": {"requirements.txt": "# web\nFlask==3.1\ngunicorn\n-r more.txt\n", "app.py": FLASK},
    "flask alone": {"requirements.txt": "flask", "main.py": "import flask\nweb: flask.Flask = flask.Flask('x')\n"},
    "flask, a factory": {
        "requirements.txt": "flask\ngunicorn\n",
        "shop/__init__.py": "def create_app(test=None):\n    ...\n",
        "tests/app.py": "",
    },
    "fastapi": {"requirements.txt": "fastapi[standard]\n", "main.py": "from fastapi import FastAPI\napi = FastAPI()\n"},
    "fastapi below src, without uvicorn": {
        "pyproject.toml": '[build-system]\nrequires = ["hatchling"]\n[project]\ndependencies = ["fastapi"]\n',
        "src/shop/main.py": "app = FastAPI(\n",
    },
    "django": {"requirements.txt": "Django\ngunicorn", "manage.py": MANAGE, "site_one/wsgi.py": ""},
    "django alone": {"requirements.txt": "django", "manage.py": MANAGE, "site_one/wsgi.py": ""},
    "uv": {
        "uv.lock": "",
        "pyproject.toml": '[project]\nname = "x"\ndependencies = ["flask>=3", "gunicorn"]\n',
        "app.py": FLASK,
    },
    "poetry": {
        "poetry.lock": "",
        "pyproject.toml": '[tool.poetry.dependencies]\nflask = "^3"\ngunicorn = "*"\n',
        "app.py": FLASK,
    },
    "pyproject without a build system": {
        "pyproject.toml": '[project]\nname = "x"\ndependencies = ["rich"]\n',
        "main.py": "",
    },
    "pyproject of tools only": {"pyproject.toml": "[tool.ruff]\n", "run.py": ""},
    "python without a list": {"server.py": "print(1)\n"},
    "npm, started by node": {
        "package.json": '{"scripts": {"start": "node ./server.js"}, "dependencies": {"express": "5"}}',
        "package-lock.json": "{}",
    },
    "npm, built, started by npm": {
        "package.json": '{"scripts": {"start": "tsx x.ts", "build": "tsc"}, "devDependencies": {"typescript": "5"}}',
        "package-lock.json": "{}",
    },
    "node without a lock": {"package.json": '{"main": "lib/index.js", "dependencies": {"x": "1"}}', "lib/index.js": ""},
    "node alone": {"package.json": "{}", "server.js": ""},
    "next, pnpm": {
        "package.json": '{"scripts": {"build": "next build", "start": "next start"}, "dependencies": {"next": "15"}}',
        "pnpm-lock.yaml": "",
    },
    "vite, yarn 1": {
        "package.json": '{"scripts": {"build": "vite build", "start": "vite"}, "devDependencies": {"vite": "7"}}',
        "yarn.lock": "# yarn lockfile v1\n",
        "index.html": "",
    },
    "yarn 4": {
        "package.json": '{"scripts": {"build": "x", "start": "node a.js"}, "dependencies": {"y": "1"}}',
        "yarn.lock": "__metadata:\n  version: 8\n",
    },
    "go": {"go.mod": "module example.org/shop\n", "main.go": "package main\n"},
    "go, several commands": {"go.mod": "", "cmd/admin/main.go": "", "cmd/web/main.go": "", "cmd/lib/x.go": ""},
    "rack, puma": {"Gemfile": "", "Gemfile.lock": "GEM\n  specs:\n    puma (6.4.0)\n", "config.ru": ""},
    "rails": {
        "Gemfile": "",
        "Gemfile.lock": "    rails (8.0.0)\n",
        "bin/rails": "",
        "config.ru": "",
        "package.json": "{}",
    },
    "a gem without an app": {"Gemfile": "", "app.py": ""},
    "with a Procfile of its own": {
        "requirements.txt": "flask",
        "app.py": FLASK,
        "Procfile": "worker: python3 w.py\nrelease: python3 m.py\nwritable: true\n",
    },
    "with a Procfile that is none": {"requirements.txt": "flask", "app.py": FLASK, "Procfile": "web\n"},
}


def laid(folder: Path, files: Mapping[str, str]) -> Path:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def written(folder: Path, files: Mapping[str, str]) -> str:
    """What `gitrel init` writes and says, as a section of the golden file has it."""
    found = write_first_files(laid(folder, files), SHOP)
    parts = [f"kind: {found.kind}", *(f"assumed: {each}" for each in found.assumed), f"next: {found.next_step}"]
    parts += [f"--- {name}\n{(folder / name).read_text()}".rstrip("\n") for name in found.written]
    return "\n".join(parts)


def sections() -> dict[str, str]:
    found = re.split(r"^=== (.*)\n", GOLDEN.read_text(), flags=re.MULTILINE)[1:]
    return {name: text.rstrip("\n") for name, text in zip(found[::2], found[1::2], strict=True)}


def test_every_row_is_in_the_golden_file_and_nothing_else() -> None:
    assert list(sections()) == list(ROWS)


@pytest.mark.parametrize("name", ROWS)
def test_what_is_written(name: str, tmp_path: Path) -> None:
    """Compared word by word, and read with the project's own parsers."""
    assert written(tmp_path, ROWS[name]) == sections()[name]
    manifest = parse_manifest((tmp_path / "gitrel.toml").read_bytes())
    assert manifest.app == SHOP
    if (tmp_path / "Procfile").exists() and "Procfile" not in ROWS[name]:
        assert set(manifest.run) <= set(parse_procfile((tmp_path / "Procfile").read_bytes())) == {"web"}


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    laid(tmp_path, {"index.html": "", "gitrel.toml": "mine", "Procfile": "mine"})
    found = write_first_files(tmp_path, SHOP)
    assert (found.written, found.assumed, found.next_step) == ((), (), "gitrel release")
    assert {(tmp_path / name).read_text() for name in ("gitrel.toml", "Procfile")} == {"mine"}
    (tmp_path / "Procfile").unlink()
    (tmp_path / "Procfile").symlink_to("nowhere")
    assert write_first_files(tmp_path, SHOP).written == ()
    assert not (tmp_path / "nowhere").exists()


DOCS = Path(__file__).parents[2] / "docs"


@pytest.mark.parametrize("page", ["recipes.md", "reproducible.md"])
def test_the_pages_recipes_are_good_ones(page: str) -> None:
    """Their gitrel.toml parses, and what they show of `gitrel init` is what it says."""
    text = (DOCS / page).read_text()
    blocks = re.findall(r"^```toml\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    assert len(blocks) >= 2
    for block in blocks:
        parse_manifest(b'app = "shop"\n' + block.encode())
    for shown in re.findall(r"^(?:  )?((?:assumed|next): .*)$", text, re.MULTILINE):
        assert shown in sections()["flask, gunicorn"].splitlines()


HOSTILE = ["package.json", "pyproject.toml", "requirements.txt", "manage.py", "app.py", "Gemfile.lock", "Procfile"]


@pytest.mark.parametrize("name", HOSTILE)
def test_odd_files_count_as_not_there(name: str, tmp_path: Path) -> None:
    """A device, a FIFO, a folder, a loop, a link that leads out, something huge, something unreadable."""
    outside = tmp_path / "outside"
    outside.write_text('{"scripts": {"start": "node secret.js"}}')
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "huge").write_bytes(b"x = [" + b" " * MAX_READ)
    for number, target in enumerate(["/dev/zero", name, str(outside), "../fifo", "../huge", "/proc/self/mem"]):
        folder = tmp_path / f"app-{number}"
        folder.mkdir()
        (folder / name).symlink_to(target)
        assert recognise(folder) is None
    folder = laid(tmp_path / "app-folder", {f"{name}/inner": ""})
    assert recognise(folder) is None
    fifo = tmp_path / "app-fifo"
    fifo.mkdir()
    os.mkfifo(fifo / name)
    assert recognise(fifo) is None
    assert recognise(tmp_path / "nowhere") is None


def test_a_link_inside_the_folder_is_followed(tmp_path: Path) -> None:
    laid(tmp_path, {"deploy/requirements.txt": "flask\n"})
    (tmp_path / "requirements.txt").symlink_to("deploy/requirements.txt")
    recipe = recognise(tmp_path)
    assert recipe is not None
    assert "requirements.txt" in recipe.kind


CONTENT = [
    b"\xff\xfe\0",
    b"[" * 100_000,
    b"a" + b".a" * 40_000 + b" = 1\n",
    b'{"scripts": [], "dependencies": 7, "devDependencies": null, "main": {}}',
    b'{"scripts": {"start": 7, "build": []}, "main": "x; rm -rf /"}',
    b'{"scripts": {"start": "node x.js; rm -rf /"}}',
    b"[project]\ndependencies = [1, {}]\n[tool]\npoetry = 1\n",
    b"project = 1\n",
    b"9" * 5000,
    b'os.environ["DJANGO_SETTINGS_MODULE", "a; rm -rf /.settings"]',
    b"x = Flask(\n$(reboot) = Flask(\n",
]
NAMES = sorted({name for files in ROWS.values() for name in files if "/" not in name})


@pytest.mark.parametrize("content", CONTENT)
def test_odd_content_is_no_error_and_no_command(content: bytes, tmp_path: Path) -> None:
    for name in NAMES:
        folder = tmp_path / f"app-{name}"
        folder.mkdir()
        (folder / name).write_bytes(content)
        for other in ("manage.py", "package.json", "app.py"):
            if name != other:
                (folder / other).write_bytes(content)
        for made in write_first_files(folder, SHOP).written:
            text = (folder / made).read_text()
            assert "rm -rf /" not in text
            assert "reboot" not in text
            assert parse_manifest(text.encode()) if made == "gitrel.toml" else parse_procfile(text.encode())


@settings(max_examples=60)
@given(st.dictionaries(st.sampled_from([*NAMES, "a b", "ü", "x\ny"]), st.binary(max_size=80), max_size=6))
def test_any_folder_gets_files_that_parse(files: dict[str, bytes]) -> None:
    """For every folder there is a recipe or none, never an error, and what would be written parses."""
    with tempfile.TemporaryDirectory() as folder:
        for name, content in files.items():
            Path(folder, name).write_bytes(content)
        recipe = recognise(Path(folder))
    parse_manifest(manifest_text(SHOP, recipe, ["web", "release", "x"]).encode())
    if recipe is not None and recipe.web is not None:
        assert parse_procfile(procfile_text({"web": recipe.web}).encode()) == {"web": recipe.web}


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as top:
        made = [f"=== {name}\n{written(Path(top, str(at)), files)}\n" for at, (name, files) in enumerate(ROWS.items())]
    GOLDEN.write_text("\n".join(made))
