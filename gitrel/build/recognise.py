"""What kind of app a folder holds, and how such an app is usually built and run: a first guess, for a person to mend.

Told by the names of files and by the content of a few small ones; nothing of the app is run, and nothing in it can
make this fail: what is too large, no regular file, leads out of the folder or cannot be read counts as not there.
Words from the app's files get into a command only if they match a narrow pattern.

Where there are several kinds, the one that is more likely to answer requests wins: Ruby, Python, Go, Node, and only
then a folder of static files.
"""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from gitrel.dataclass import dataclass, field
from gitrel.errors import FormatError
from gitrel.format.manifest import parse_toml

MAX_READ = 512 * 1024  # bytes of a file
_MAX_FOLDERS = 40  # that are looked into for an app's module

_WORD = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
_PATH = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_./-]*")
_MODULE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_LISTEN = "127.0.0.1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """`kind` for people; the rest as in gitrel.toml and the Procfile. A line for each guess: `web_assumed` those that
    a Procfile of the app's own makes void."""

    kind: str
    command: str | None = None
    output: str = "."
    pass_env: tuple[str, ...] = ()
    writable: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    web: str | None = None
    assumed: tuple[str, ...] = ()
    web_assumed: tuple[str, ...] = ()


class Source:
    """A folder, read with care."""

    def __init__(self, folder: Path) -> None:
        self._top = os.path.realpath(folder)

    def _stat(self, name: str) -> os.stat_result | None:
        path = os.path.join(self._top, name)
        try:
            if not os.path.realpath(path).startswith(f"{self._top.rstrip('/')}/"):
                return None
            return os.stat(path)
        except (OSError, ValueError):
            return None

    def has(self, *names: str) -> str | None:
        """The first of them that is a regular file."""
        found = ((name, self._stat(name)) for name in names)
        return next((name for name, status in found if status is not None and stat.S_ISREG(status.st_mode)), None)

    def read(self, name: str) -> bytes:
        """A small file's content; nothing for any other."""
        if self.has(name) is None:
            return b""
        try:
            fd = os.open(os.path.join(self._top, name), os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
            with open(fd, "rb") as file:
                data = file.read(MAX_READ + 1)
        except OSError:
            return b""
        return data if len(data) <= MAX_READ else b""

    def text(self, name: str) -> str:
        return self.read(name).decode("utf-8", "replace")

    def json(self, name: str) -> dict[str, Any]:
        try:
            value = json.loads(self.read(name))
        except (ValueError, RecursionError):
            return {}
        return value if isinstance(value, dict) else {}

    def toml(self, name: str) -> dict[str, Any]:
        try:
            return dict(parse_toml(self.read(name), name).items())
        except FormatError:
            return {}

    def folders(self, below: str = ".") -> list[str]:
        """The first few folders whose names could be a module's or a command's, sorted."""
        try:
            names = sorted(os.listdir(os.path.join(self._top, below)))
        except OSError:
            return []
        found = [name for name in names if _WORD.fullmatch(name)]
        statuses = ((name, self._stat(f"{below}/{name}")) for name in found)
        return [name for name, status in statuses if status is not None and stat.S_ISDIR(status.st_mode)][:_MAX_FOLDERS]


def recognise(folder: Path) -> Recipe | None:
    """The recipe for what is in the folder; None if it is nothing known."""
    source = Source(folder)
    for kind in (_ruby, _python, _go, _node, _static):
        if (recipe := kind(source)) is not None:
            return recipe
    return None


# Python

_PIP = "python3 -m pip install --quiet --no-compile --target vendor"
_EXPORTED = '"$TMPDIR/requirements.txt"'
_DEPENDENCIES = (
    "import tomllib; print(*tomllib.load(open('pyproject.toml', 'rb'))['project']['dependencies'], sep='\\n')"
)
_FRAMEWORK = re.compile(
    r"^([A-Za-z_]\w*)(?:\s*:[^=\n]+)?\s*=\s*(?:\w+\.)?(Flask|FastAPI|Starlette|Quart)\(", re.MULTILINE
)
_FACTORY = re.compile(r"^def create_app\(", re.MULTILINE)
_SETTINGS = re.compile(r"""["']DJANGO_SETTINGS_MODULE["']\s*,\s*["']([A-Za-z_]\w*)[\w.]*["']""")
_PYTHON_FILES = ("app.py", "main.py", "wsgi.py", "asgi.py", "application.py", "server.py", "run.py", "api.py")
_ASYNC = ("FastAPI", "Starlette", "Quart")


def _python(source: Source) -> Recipe | None:
    project = source.toml("pyproject.toml")
    listed = source.has("uv.lock", "poetry.lock", "requirements.txt", "pyproject.toml")
    if listed is None and source.has("manage.py", *_PYTHON_FILES) is None:
        return None
    command = _python_command(listed, project)
    needed = _python_needs(source, project)
    title, web, web_assumed = _python_web(source, needed)
    assumed = (
        f"what it needs is in {listed}, and goes into vendor/ ([build] command)",
        "servers have the Python that you build with (wheels are made for one version)",
    )
    path = [*(["vendor"] if command else []), *(["src"] if source.folders("src") else [])]
    return Recipe(
        kind=", ".join(filter(None, ("Python", listed, title))),
        command=command,
        pass_env=("PIP_INDEX_URL", "PIP_CACHE_DIR") if command else (),
        env={"PYTHONPATH": ":".join(path)} if path else {},
        web=web,
        assumed=assumed if command else (),
        web_assumed=web_assumed,
    )


def _python_command(listed: str | None, project: Mapping[str, Any]) -> str | None:
    if listed == "requirements.txt":
        return f"{_PIP} -r requirements.txt"
    export = {
        "uv.lock": f"uv export --quiet --frozen --no-dev --no-emit-project --output-file {_EXPORTED}",
        "poetry.lock": f"poetry export --quiet --only main --output {_EXPORTED}",  # of poetry-plugin-export
    }.get(listed or "")
    if export is not None:
        return f"{export} && {_PIP} -r {_EXPORTED}"
    if listed is not None and "build-system" in project:
        return f"{_PIP} . && rm -rf build *.egg-info"
    if _strings(_table(project, "project").get("dependencies")):
        return f'python3 -c "{_DEPENDENCIES}" > {_EXPORTED} && {_PIP} -r {_EXPORTED}'
    return None


def _python_needs(source: Source, project: Mapping[str, Any]) -> set[str]:
    """The names of packages that the app asks for itself; `fastapi[standard]` brings uvicorn."""
    lines = [*source.text("requirements.txt").splitlines(), *_strings(_table(project, "project").get("dependencies"))]
    lines += _table(_table(_table(project, "tool"), "poetry"), "dependencies")
    found = {match[0].lower().replace("_", "-") for line in lines if (match := _WORD.match(line.strip()))}
    return found | ({"uvicorn"} if any(line.strip().lower().startswith("fastapi[") for line in lines) else set())


def _python_web(source: Source, needed: set[str]) -> tuple[str, str | None, tuple[str, ...]]:
    """The framework's name, the command of the process type web, and what was assumed for it."""
    gunicorn = f"exec python3 -m gunicorn --bind {_LISTEN}:$PORT"
    if source.has("manage.py") and (match := _SETTINGS.search(source.text("manage.py"))):
        if source.has(f"{match[1]}/wsgi.py") and "gunicorn" in needed:
            return "Django", f"{gunicorn} {match[1]}.wsgi", (f"web is {match[1]}.wsgi, served by gunicorn (Procfile)",)
        web = f"exec python3 manage.py runserver --noreload {_LISTEN}:$PORT"
        return "Django", web, (_development("Django", "gunicorn"),)
    for name, module in _python_modules(source):
        text = source.text(name)
        if match := _FRAMEWORK.search(text):
            target, title = f"{module}:{match[1]}", match[2]
        elif "flask" in needed and _FACTORY.search(text):
            target, title = f"{module}:create_app()", "Flask"
        else:
            continue
        if title in _ASYNC:
            web = f"exec python3 -m uvicorn --host {_LISTEN} --port $PORT {target}"
            lacking = () if "uvicorn" in needed else ("uvicorn is installed: it is not among what the app asks for",)
            return title, web, (f"web is {target}, served by uvicorn (Procfile)", *lacking)
        if "gunicorn" in needed:
            quoted = f"'{target}'" if "(" in target else target
            return title, f"{gunicorn} {quoted}", (f"web is {target}, served by gunicorn (Procfile)",)
        web = f"exec python3 -m flask --app {target.removesuffix(':create_app()')} run --host {_LISTEN} --port $PORT"
        return title, web, (_development("Flask", "gunicorn"),)
    file = source.has(*_PYTHON_FILES)
    if file is None:
        return "", None, ()
    return "", f"exec python3 {file}", (f"web is {file}, which listens on $PORT (Procfile)",)


def _development(framework: str, server: str) -> str:
    return f"web is {framework}'s own server, for development only, because {server} is not among what the app asks for"


def _python_modules(source: Source) -> Iterator[tuple[str, str]]:
    """Files that may make a web app, with the names that they are imported by."""
    for file in _PYTHON_FILES:
        yield file, file.removesuffix(".py")
    for top in ("", "src/"):
        for package in filter(_MODULE.fullmatch, source.folders(top or ".")):
            for file in ("__init__.py", *_PYTHON_FILES):
                module = package if file == "__init__.py" else f"{package}.{file.removesuffix('.py')}"
                yield f"{top}{package}/{file}", module


# Node

_NODE_START = re.compile(r"node (?:\./)?([A-Za-z0-9_][A-Za-z0-9_./-]*)")
_NODE_FILES = ("server.js", "app.js", "index.js", "server.mjs", "index.mjs")


def _node(source: Source) -> Recipe | None:
    if source.has("package.json") is None:
        return None
    package = source.json("package.json")
    scripts, needed = (
        _table(package, "scripts"),
        {**_table(package, "devDependencies"), **_table(package, "dependencies")},
    )
    lock = source.has("package-lock.json", "npm-shrinkwrap.json", "pnpm-lock.yaml", "yarn.lock")
    builds = isinstance(scripts.get("build"), str)
    title, web, output = _node_web(source, package, needed, builds)
    command = _node_command(source, lock, builds, prune=output == ".")  # another folder has nothing of it
    assumed = [f"what it needs is in {lock} ([build] command)"] if lock else []
    if needed and not lock:
        assumed.append("there is no lock file, so that two builds may differ: commit one")
    if builds:
        assumed.append("its script `build` makes what is released ([build] command)")
    return Recipe(
        kind=", ".join(filter(None, ("Node", lock, title))),
        command=command,
        output=output,
        pass_env=("NPM_CONFIG_REGISTRY", "NPM_CONFIG_CACHE"),
        writable=(".next/cache",) if title == "Next" else (),
        env={} if output != "." else {"NODE_ENV": "production"},
        web=web,
        assumed=tuple(assumed),
        web_assumed=(f"web is `{web.removeprefix('exec ')}`, which listens on $PORT (Procfile)",) if web else (),
    )


def _node_command(source: Source, lock: str | None, builds: bool, *, prune: bool) -> str:
    """Everything is installed, the app is built, and what only the build needed goes again."""
    if lock == "pnpm-lock.yaml":  # its own state has times and paths in it
        only, state = "--prod --ignore-scripts", "node_modules/.modules.yaml node_modules/.pnpm-workspace-state*"
        words, after = ("pnpm install --frozen-lockfile", "--prod", "pnpm", f"pnpm prune {only}"), f"rm -f {state}"
    elif lock == "yarn.lock" and "__metadata:" in source.text("yarn.lock"):
        linked = "YARN_NODE_LINKER=node-modules"  # or the packages would stay in yarn's own cache
        words, after = (f"{linked} yarn install --immutable", "", "yarn", ""), ""
    elif lock == "yarn.lock":
        only = "--production --ignore-scripts --prefer-offline"
        words, after = ("yarn install --frozen-lockfile", "--production", "yarn", f"yarn install {only}"), ""
    else:
        words, after = ("npm ci" if lock else "npm install", "--omit=dev", "npm", "npm prune --omit=dev"), ""
    install, without, tool, pruned = words
    steps = [install, f"{tool} run build", pruned if prune else ""] if builds else [f"{install} {without}".strip()]
    return " && ".join(filter(None, [*steps, after if prune else ""]))


def _node_web(
    source: Source, package: Mapping[str, Any], needed: Mapping[str, Any], builds: bool
) -> tuple[str, str | None, str]:
    """The framework's name, the command of the process type web, and the folder that becomes the build."""
    start = _table(package, "scripts").get("start")
    if "next" in needed:
        return "Next", f"exec node_modules/.bin/next start --hostname {_LISTEN} --port $PORT", "."
    if isinstance(start, str) and (match := _NODE_START.fullmatch(start.strip())):
        return "", f"exec node {match[1]}", "."
    if builds and "vite" in needed:
        return "Vite", _serve("."), "dist"
    if isinstance(start, str) and start.strip():
        return "", "exec npm start", "."
    main = package.get("main")
    if isinstance(main, str) and _PATH.fullmatch(main) and source.has(main):
        return "", f"exec node {main}", "."
    file = source.has(*_NODE_FILES)
    return "", f"exec node {file}" if file else None, "."


# Go, Ruby, static files


def _go(source: Source) -> Recipe | None:
    if source.has("go.mod") is None:
        return None
    commands = [name for name in source.folders("cmd") if source.has(f"cmd/{name}/main.go")]
    package = "." if source.has("main.go") or not commands else f"./cmd/{'web' if 'web' in commands else commands[0]}"
    assumed = [f"bin/web is the program in {package} ([build] command)"]
    if len(commands) + (package == ".") > 1:
        assumed.append(f"nothing else in cmd/ is built; there are {', '.join(commands)}")
    return Recipe(
        kind="Go",
        command=f"CGO_ENABLED=0 go build -trimpath -buildvcs=false -o bin/web {package}",
        pass_env=("GOPROXY", "GOCACHE", "GOMODCACHE"),
        web="exec bin/web",
        assumed=tuple(assumed),
        web_assumed=("web is bin/web, which listens on $PORT (Procfile)",),
    )


def _ruby(source: Source) -> Recipe | None:
    if source.has("Gemfile") is None:
        return None
    gems = set(re.findall(r"^ {4}([a-z0-9_-]+) \(", source.text("Gemfile.lock"), re.MULTILINE))
    rails = "rails" in gems and source.has("bin/rails") is not None
    env = {"RAILS_ENV": "production", "RAILS_LOG_TO_STDOUT": "1"} if rails else {"RACK_ENV": "production"}
    web, server = None, ""
    if rails:
        web, server = f"exec bundle exec rails server --binding {_LISTEN} --port $PORT", "Rails"
    elif source.has("config.ru"):
        puma = f"puma --bind tcp://{_LISTEN}:$PORT" if "puma" in gems else f"rackup --host {_LISTEN} --port $PORT"
        web, server = f"exec bundle exec {puma}", "config.ru"
    assumed = ["what it needs is in Gemfile.lock, and goes into vendor/bundle ([build] command)"]
    assumed += ["servers have the Ruby and the bundler that you build with"]
    assumed += ["it wants SECRET_KEY_BASE: gitrel config set --secret SECRET_KEY_BASE=…"] if rails else []
    settings = ("path vendor/bundle", "deployment true", "without development:test")
    configure = " && ".join(f"bundle config set --local {setting}" for setting in settings)
    return Recipe(
        kind="Ruby, Rails" if rails else "Ruby",
        command=f"{configure} && bundle install --quiet",
        writable=("log", "tmp") if rails else (),
        env=env,
        web=web,
        assumed=tuple(assumed),
        web_assumed=(f"web is {server} (Procfile)",) if web else (),
    )


def _static(source: Source) -> Recipe | None:
    page = source.has("index.html", "public/index.html")
    if page is None:
        return None
    folder = os.path.dirname(page) or "."
    whose = "this folder's files" if folder == "." else f"the files of {folder}/"
    assumed = (f"web serves {whose} as they are, with Python's own server (Procfile)",)
    return Recipe(kind="static files", web=_serve(folder), web_assumed=assumed)


def _serve(folder: str) -> str:
    below = "" if folder == "." else f" --directory {folder}"
    return f"exec python3 -m http.server --bind {_LISTEN}{below} $PORT"


def _table(values: Mapping[str, Any], name: str) -> dict[str, Any]:
    value = values.get(name)
    return value if isinstance(value, dict) else {}


def _strings(value: Any) -> list[str]:
    return [each for each in value if isinstance(each, str)] if isinstance(value, list) else []
