"""What a shell completes: releases, configs, deploys, people and variables, as they are in the repository here.

Somebody waits with a finger on the tab key: nothing is verified, no remote is asked, dulwich is not loaded, and what
cannot be read completes to nothing. So a completed name is a proposal; the command that takes it judges.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from gitrel.store.repository import Repository

MOST = 50  # of the releases that fit, the newest: a list to choose from, not a log
_ENTRY = re.compile(r"v[1-9][0-9]{0,8}")
_SHA256 = re.compile(r"^\s*objectformat\s*=\s*sha256\s*$", re.IGNORECASE | re.MULTILINE)


def releases(ctx: typer.Context, incomplete: str) -> list[str]:
    return _proposed(incomplete, lambda: [*_entries(_here(ctx), "releases", _deploy(ctx)), "latest"])


def entries(ctx: typer.Context, incomplete: str) -> list[str]:
    """Releases, where a number has to be said."""
    return _proposed(incomplete, lambda: _entries(_here(ctx), "releases", _deploy(ctx)))


def configs(ctx: typer.Context, incomplete: str) -> list[str]:
    return _proposed(incomplete, lambda: _entries(_here(ctx), "config", _deploy(ctx)))


def deploys(ctx: typer.Context, incomplete: str) -> list[str]:
    def find() -> Iterator[str]:
        for kind in ("releases", "config"):
            for name in _names(_here(ctx), f"refs/{kind}/"):
                yield name.split("/")[2] if name.count("/") == 3 else "production"
        yield from _trust(_here(ctx)).get("deploys", ())

    return _proposed(incomplete, lambda: sorted({*find()}))


def people(ctx: typer.Context, incomplete: str) -> list[str]:
    return _proposed(incomplete, lambda: sorted(_trust(_here(ctx))["people"]))


def roles(incomplete: str) -> list[str]:
    return _proposed(incomplete, lambda: ["root", "build", "release", "config", "heartbeat", "receipt"])


def variables(ctx: typer.Context, incomplete: str) -> list[str]:
    def find() -> Iterator[str]:
        from gitrel.format.tree import parse_tree

        with _opened(_here(ctx)) as repo:
            for entry in parse_tree(_newest_tree(repo, "config", _deploy(ctx)), repo.format):
                yield entry.name.removesuffix(".age")

    return _proposed(incomplete, lambda: sorted(find()))


def _proposed(typed: str, find: Callable[[], Iterable[str]]) -> list[str]:
    from gitrel.errors import GitrelError

    try:
        return [each for each in find() if each.startswith(typed)][:MOST]
    except (GitrelError, OSError, ValueError, LookupError, TypeError):
        return []


def _deploy(ctx: typer.Context) -> str:
    """What `--from` or `--deploy` says, if it is typed already; a server's home has the releases of one deploy."""
    if "home" in ctx.params:
        names = _names(_here(ctx), "refs/releases/")
        return next((name.split("/")[2] for name in names if name.count("/") == 3), "production")
    return ctx.params.get("origin") or ctx.params.get("deploy") or "production"


def _here(ctx: typer.Context) -> Path:
    """The git folder, found as git finds it; a server's home has it in `repo.git`. Raises `LookupError`."""
    start = Path(ctx.params.get("repo") or ctx.params.get("home") or ".").absolute()
    for folder in (start, *start.parents):
        for each in (folder / "repo.git", folder / ".git", folder):
            if each.is_file():  # of a linked work tree, or a submodule (gitrepository-layout(5))
                own = folder / each.read_text().removeprefix("gitdir:").strip()
                common = own / "commondir"
                return own / common.read_text().strip() if common.is_file() else own
            if (each / "objects").is_dir() and (each / "refs").is_dir():
                return each
    raise LookupError("not a repository")


def _names(git: Path, prefix: str) -> list[str]:
    """The refs' full names. What they point at is not read: there may be thousands of files."""
    packed = git / "packed-refs"
    found = set(re.findall(rf"^\w+ ({prefix}\S+)$", packed.read_text(), re.MULTILINE) if packed.is_file() else ())
    for parent, _, files in os.walk(git / prefix):
        folder = parent[len(str(git)) + 1 :].rstrip("/")
        found |= {f"{folder}/{name}" for name in files}
    return sorted(name for name in found if _ENTRY.fullmatch(name.rpartition("/")[2]))


def _prefix(kind: str, deploy: str) -> str:
    """What the names of a ledger's refs have before the entry."""
    return f"refs/{kind}/" if deploy == "production" else f"refs/{kind}/{deploy}/"


def _entries(git: Path, kind: str, deploy: str) -> list[str]:
    """The entries of a ledger, newest first."""
    prefix = _prefix(kind, deploy)
    entries = [name.removeprefix(prefix) for name in _names(git, prefix) if name.count("/") == prefix.count("/")]
    return sorted(entries, key=lambda entry: -int(entry[1:]))


@contextmanager
def _opened(git: Path) -> Iterator[Repository]:
    from gitrel.ids import ObjectFormat
    from gitrel.store.repository import Repository

    sha256 = _SHA256.search((git / "config").read_text())
    with Repository(git, None, ObjectFormat.SHA256 if sha256 else ObjectFormat.SHA1) as repo:
        yield repo


def _newest_tree(repo: Repository, kind: str, deploy: str = "production") -> bytes:
    """The tree of a ledger's newest record."""
    from gitrel.ids import ObjectId

    name = _prefix(kind, deploy) + _entries(repo.path, kind, deploy)[0]
    commit = repo.read(repo.refs.list(name)[name], "commit")
    return repo.read(ObjectId(commit.partition(b"\n")[0].removeprefix(b"tree ").decode()), "tree")


def _trust(git: Path) -> dict[str, Any]:
    """The newest trust.toml."""
    import tomllib

    from gitrel.format.tree import parse_tree

    with _opened(git) as repo:
        files = {entry.name: entry.oid for entry in parse_tree(_newest_tree(repo, "trust"), repo.format)}
        return tomllib.loads(repo.read(files["trust.toml"], "blob").decode())
