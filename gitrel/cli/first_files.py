"""The files that `gitrel init` writes where there are none: gitrel.toml, and a Procfile if it knows what to put in."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from gitrel.build.recognise import Recipe, Source, recognise
from gitrel.cli.console import Console
from gitrel.dataclass import dataclass
from gitrel.errors import FormatError
from gitrel.format.manifest import MANIFEST
from gitrel.format.procfile import PROCFILE, parse_procfile
from gitrel.ids import App
from gitrel.store.durable import create_file

_WEB = "web"
_RESERVED = ("required_env", "writable")  # of [run]: no process type of that name has a table
_HEALTH = 'health = { port = true, timeout = "60s" } # a page says more, if the app has one: { path = "/healthz" }'

_NOTHING_KNOWN = """
# [build]
# command = "make dist"       # run by sh in a clean checkout; without it the source is the build
# output = "."                # the folder that becomes the build
# exclude = ["tests"]
# pass_env = ["PIP_INDEX_URL"]

# [run.web]
# health = { path = "/healthz", timeout = "60s" }
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class FirstFiles:
    """What was written, for which kind of app (None: nothing known, or nothing written), and what was assumed."""

    written: tuple[str, ...] = ()
    kind: str | None = None
    assumed: tuple[str, ...] = ()
    lacks_procfile: bool = False

    @property
    def next_step(self) -> str:
        commit = "git add {} && git commit -m 'Release with gitrel' && gitrel release"
        if self.lacks_procfile:
            return (
                f"write a {PROCFILE} with a line such as `web: COMMAND`; then {commit.format(f'{MANIFEST} {PROCFILE}')}"
            )
        return commit.format(" ".join(self.written)) if self.written else "gitrel release"


def write_first_files(folder: Path, app: App) -> FirstFiles:
    """Overwrites nothing. Raises `LocalStateError` if the disk does not let us."""
    recipe = recognise(folder)
    there = _processes(folder)
    planned = {_WEB: recipe.web} if recipe is not None and recipe.web is not None else {}
    names = planned if there is None else there
    text = manifest_text(app, recipe, names)
    written = [MANIFEST] if create_file(folder / MANIFEST, text.encode()) else []
    if planned and create_file(folder / PROCFILE, procfile_text(planned).encode()):
        written.append(PROCFILE)
    assumed: tuple[str, ...] = ()
    if recipe is not None:
        assumed += recipe.assumed if MANIFEST in written else ()
        assumed += recipe.web_assumed if PROCFILE in written else ()
    return FirstFiles(
        written=tuple(written),
        kind=recipe.kind if recipe is not None and written else None,
        assumed=assumed,
        lacks_procfile=there is None and not planned,
    )


def _processes(folder: Path) -> Iterable[str] | None:
    """The process types of the folder's own Procfile; none of one that cannot be read, None without one."""
    if not (folder / PROCFILE).is_symlink() and not (folder / PROCFILE).exists():
        return None
    try:
        return list(parse_procfile(Source(folder).read(PROCFILE)))
    except FormatError:
        return []  # a build will say what is wrong with it


def manifest_text(app: App, recipe: Recipe | None, processes: Iterable[str]) -> str:
    """A gitrel.toml for the process types that the Procfile has."""
    if recipe is None:
        return f'# How this app is built and run by gitrel; commit this file.\napp = "{app}"\n{_NOTHING_KNOWN}'
    head = [
        "# How this app is built and run by gitrel; commit this file.",
        f"# `gitrel init` wrote it for: {recipe.kind}. Change what does not fit; docs/recipes.md has more.",
        f"app = {_quoted(app)}",
    ]
    parts = ["\n".join(head), _build_text(recipe)]
    if recipe.writable:
        folders = ", ".join(map(_quoted, recipe.writable))
        parts.append(f"[run]\nwritable = [{folders}] # a release's own files cannot be written to")
    for name in processes:
        if name not in _RESERVED:
            parts += _process_text(name, recipe.env)
    return "\n\n".join(filter(None, parts)) + "\n"


def _build_text(recipe: Recipe) -> str:
    if recipe.command is None:
        return "# Nothing has to be built: the source is what runs."
    lines = ["[build]", "# Run by sh in a clean checkout of the commit, with an empty HOME."]
    lines.append(f"command = {_quoted(recipe.command)}")
    if recipe.output != ".":
        lines.append(f"output = {_quoted(recipe.output)} # the folder that is released")
    if recipe.pass_env:
        names = ", ".join(map(_quoted, recipe.pass_env))
        lines.append(f"pass_env = [{names}] # nothing else of your environment reaches it, but PATH")
    return "\n".join(lines)


def _process_text(name: str, env: Mapping[str, str]) -> list[str]:
    parts = []
    if name == _WEB:
        parts.append(f"[run.{name}]\n{_HEALTH}")
    if env:
        lines = "\n".join(f"{variable} = {_quoted(value)}" for variable, value in env.items())
        parts.append(f"[run.{name}.env]\n{lines}")
    return parts


def procfile_text(processes: Mapping[str, str]) -> str:
    lines = "".join(f"{name}: {command}\n" for name, command in processes.items())
    return f"# What runs, a process type a line; each process is told its port in $PORT.\n{lines}"


def _quoted(text: str) -> str:
    """A TOML basic string; JSON's escapes are TOML's, but for a DEL, which no recipe has."""
    return json.dumps(text, ensure_ascii=False)


def tell(console: Console, found: FirstFiles) -> None:
    """For the person: what was written, on what assumptions, and what comes next."""
    if found.written:
        for_what = f", for {found.kind}" if found.kind else "; the kind of app is not known"
        console.note(f"wrote {' and '.join(found.written)}{for_what}")
    for assumed in found.assumed:
        console.note(f"  assumed: {assumed}")
    if found.written:
        console.note("look at what was written, change what does not fit, then commit it")
    console.note(f"next: {found.next_step}")
