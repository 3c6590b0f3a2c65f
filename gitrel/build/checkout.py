"""A clean checkout of a source commit, as git itself makes it, that leaves no trace in its repository.

Rules:

- The real `git` does the work, so attributes, filters, LFS and the repository's own settings apply. The work
  tree's uncommitted changes, its sparse checkout and its hooks do not.
- A checkout is a linked work tree that the repository has not been told of: a git folder of ours with `HEAD`
  and `commondir` (gitrepository-layout(5)) in the temporary room. `git worktree add` would leave an entry
  behind when gitrel is killed, and could not work in a repository that is read-only; `git submodule init`
  would write to the repository's own configuration.
- Submodules are checked out the same way, all of them and recursively, from the copy that the repository has
  below `modules/` if it holds the commit; else they are cloned into the room.
- A build depends on the commit, not on the builder: line endings, symbolic links and `refs/replace` are as in
  a fresh clone on Linux, whatever the builder's configuration says.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from gitrel.dataclass import dataclass, field
from gitrel.errors import BuildFailed, NotFound
from gitrel.format.provenance import redact_urls, strip_credentials
from gitrel.ids import ObjectId
from gitrel.programs import die_with_parent

LFS_POINTER = b"version https://git-lfs.github.com/spec/v1"  # git-lfs, docs/spec.md
TAIL = 20  # lines of a program's output that an error shows

# What of git's environment reaches git here: how to authenticate, where configuration lies, how to find the
# repository. Everything else could redirect it (GIT_DIR, GIT_INDEX_FILE, GIT_OBJECT_DIRECTORY, …) or change
# what it checks out (GIT_LFS_SKIP_SMUDGE). See git(1), "ENVIRONMENT VARIABLES".
_GIT_KEPT = re.compile(
    r"GIT_(?:CONFIG_(?:GLOBAL|SYSTEM|NOSYSTEM|COUNT|PARAMETERS|KEY_\d+|VALUE_\d+)|SSH|SSH_.*|SSL_.*|HTTP_.*"
    r"|PROXY_.*|ASKPASS|TERMINAL_PROMPT|ALLOW_PROTOCOL|EXEC_PATH|CEILING_DIRECTORIES"
    r"|DISCOVERY_ACROSS_FILESYSTEM)"
)
_NO_PROGRAMS = "core.hooksPath=/dev/null core.fsmonitor=false gc.auto=0 maintenance.auto=false"
_AS_COMMITTED = (
    "core.sparseCheckout=false submodule.recurse=false"
    " core.autocrlf=false core.eol=lf core.symlinks=true core.fileMode=true"
    " lfs.fetchinclude= lfs.fetchexclude="
)

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Git:
    """Stock git in a folder, with the caller's environment (`PATH`, `HOME`, the agent's socket, …)."""

    folder: Path
    env: Mapping[str, str]
    exact: bool = False  # settings that decide what a checkout holds are the commit's alone

    def attempt(self, *args: str) -> subprocess.CompletedProcess[bytes]:
        """Run it, whatever the status. Raises `BuildFailed` if there is no git."""
        settings = f"{_NO_PROGRAMS} {_AS_COMMITTED}" if self.exact else _NO_PROGRAMS
        options = [word for setting in settings.split() for word in ("-c", setting)]
        kept = (name for name in self.env if not name.startswith("GIT_") or _GIT_KEPT.fullmatch(name))
        env = {name: self.env[name] for name in kept}
        env |= {"GIT_NO_REPLACE_OBJECTS": "1", "GIT_OPTIONAL_LOCKS": "0"}
        if self.exact:  # a submodule's URL is the commit's word, not the user's: git-submodule(1) does this too
            env["GIT_PROTOCOL_FROM_USER"] = "0"
        try:
            return subprocess.run(
                ["git", "-C", str(self.folder), *options, *args],
                env=env,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                check=False,
                umask=0o022 if self.exact else -1,
                preexec_fn=die_with_parent,  # the next build clears what a killed one left, and nobody may be at it
            )
        except FileNotFoundError:
            raise BuildFailed("git is not installed", hint="install git, or put it into PATH") from None

    def run(self, *args: str, failed: str, where: str = "", hint: str = "") -> bytes:
        """What it prints. Raises `BuildFailed` with git's last lines."""
        done = self.attempt(*args)
        if done.returncode:
            why = last_lines(done.stderr) if done.returncode > 0 else f"git was killed by signal {-done.returncode}"
            raise BuildFailed(failed, where=where, why=why, hint=hint)
        return done.stdout

    def line(self, *args: str) -> str | None:
        """The one line it prints; None if it fails or prints nothing."""
        done = self.attempt(*args)
        text = os.fsdecode(done.stdout).removesuffix("\n")
        return text if text and not done.returncode else None


def last_lines(output: bytes) -> str:
    """The end of a program's output, without passwords in URLs."""
    lines = redact_urls(output.decode("utf-8", "replace")).strip().splitlines()
    return "\n".join(lines[-TAIL:]) or "it said nothing"


def resolve_commit(repo: Path, rev: str, *, env: Mapping[str, str]) -> ObjectId:
    """The commit that `rev` names in any spelling of gitrevisions(7); `repo` may be a folder inside it.

    Raises `NotFound` if there is no repository, no commit in it, or none of that name.
    """
    git = Git(repo, env)
    _git_folder(git)
    verify = ("rev-parse", "--verify", "--quiet", "--end-of-options")
    named = git.line(*verify, rev) if "\0" not in rev else None
    # In two steps: in `:/text^{commit}` the end would belong to the text.
    if named and (commit := git.line(*verify, f"{named}^{{commit}}")):
        return ObjectId(commit)
    if git.line(*verify, "HEAD") is None and git.line("rev-list", "--branches", "--remotes", "--tags", "-n1") is None:
        raise NotFound("the repository has no commit yet", where=str(repo), hint="`git commit` makes the first")
    hint = "`git log --all --oneline` lists commits; `git fetch` gets new ones"
    raise NotFound(f"no commit {rev[:200]!r}", where=str(repo), hint=hint)


def dirty_paths(repo: Path, *, env: Mapping[str, str], limit: int = 5) -> list[str]:
    """A few of the paths, untracked ones too, that differ from the commit; none in a bare repository."""
    git = Git(repo, env)
    if git.line("rev-parse", "--is-inside-work-tree") != "true":
        return []
    question = ("status", "--porcelain", "-z", "--no-renames")
    status = git.run(*question, failed="git cannot compare the work tree", where=str(repo))
    entries = [entry[3:].decode("utf-8", "replace") for entry in status.split(b"\0") if entry]
    return entries[:limit]


def remote_url(repo: Path, *, env: Mapping[str, str]) -> str | None:
    """The URL of the remote that the current branch follows, else of `origin`, else of the only remote.

    It may hold a password: show it through `strip_credentials`.
    """
    git = Git(repo, env)
    branch = git.line("symbolic-ref", "--quiet", "--short", "HEAD")
    followed = git.line("config", "--get", f"branch.{branch}.remote") if branch else None
    remotes = (git.line("remote") or "").split("\n")
    only = remotes[0] if len(remotes) == 1 else None
    urls = (git.line("config", "--get", f"remote.{name}.url") for name in (followed, "origin", only) if name)
    return next(filter(None, urls), None)


def _git_folder(git: Git, kind: str = "--git-common-dir") -> Path:
    done = git.attempt("rev-parse", "--path-format=absolute", kind)
    if done.returncode:
        raise NotFound(
            "not a git repository",
            where=str(git.folder),
            why=last_lines(done.stderr),
            hint="run gitrel inside the source's repository, or name it with --repo",
        )
    return Path(os.fsdecode(done.stdout.removesuffix(b"\n")))


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkout:
    """`folder` holds the files. `links` are the `.git` files in it that git needs and a build does not, with
    their content; `skipped` the submodules that `.gitmodules` says not to check out (`update = none`).
    """

    folder: Path
    links: Mapping[Path, bytes]
    skipped: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Home:
    """A repository to check out from: its common git folder, all its git folders, its own work tree."""

    common: Path
    folders: tuple[Path, ...]
    tree: Path | None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Submodule:
    """An entry of `.gitmodules` (gitmodules(5)) and the commit that the tree names for its path."""

    path: str
    commit: ObjectId
    settings: Mapping[str, str]
    name: str


def check_out(repo: Path, commit: ObjectId, room: Path, *, env: Mapping[str, str], say: Say) -> Checkout:
    """Put the commit's files into `room/tree`, and what git needs meanwhile into `room/git`.

    `room` is an existing empty folder of the caller's, who removes it; nothing outside of it is written, but
    for LFS objects, which git-lfs keeps in the repository's own store. `say` gets a line for each submodule
    that is fetched. Raises `NotFound` (not a repository), `BuildFailed` (git's last lines; an LFS file that
    is only a pointer; a submodule that cannot be had).
    """
    git = Git(repo, env)
    top = git.line("rev-parse", "--path-format=absolute", "--show-toplevel")
    common = _git_folder(git)
    home = _Home(
        common=common,
        folders=tuple(dict.fromkeys((_git_folder(git, "--git-dir"), common))),
        tree=Path(top) if top else None,
    )
    maker = _Maker(room, env, say)
    maker.place(home, maker.attach(common, commit, room / "tree"), commit, remote_url(repo, env=env))
    return Checkout(folder=room / "tree", links=maker.links, skipped=tuple(maker.skipped))


@dataclass(slots=True)
class _Maker:
    room: Path
    env: Mapping[str, str]
    say: Say
    links: dict[Path, bytes] = field(default_factory=dict)
    skipped: list[str] = field(default_factory=list)
    count: int = 0

    def _folder(self) -> Path:
        self.count += 1
        folder = self.room / "git" / str(self.count)
        folder.mkdir(parents=True)
        return folder

    def attach(self, common: Path, commit: ObjectId, folder: Path) -> Git:
        """Make `folder` a linked work tree of the repository at `common`, with nothing checked out yet."""
        own = self._folder()
        (own / "HEAD").write_text(f"{commit}\n")
        (own / "commondir").write_bytes(os.fsencode(common) + b"\n")
        (own / "gitdir").write_bytes(os.fsencode(folder / ".git") + b"\n")
        if (common / "reftable").is_dir():
            (own / "reftable").mkdir()  # where git keeps a linked work tree's HEAD then; `reset` writes it
        folder.mkdir(exist_ok=True)
        link = folder / ".git"
        self.links[link] = b"gitdir: " + os.fsencode(own) + b"\n"
        link.write_bytes(self.links[link])
        return Git(folder, self.env, exact=True)

    def place(self, home: _Home, git: Git, commit: ObjectId, url: str | None) -> None:
        shown = "" if git.folder == self.room / "tree" else str(git.folder.relative_to(self.room / "tree"))
        order = ("reset", "--hard", "--quiet", commit)
        git.run(*order, failed="git cannot check out the source", where=shown or commit)
        _refuse_pointers(git, shown)
        here = str(home.tree or home.common)
        base = os.path.join(here, url) if url and _is_path(url) else url or here
        for submodule in _submodules(git, commit):
            if submodule.settings.get("update") == "none":
                self.skipped.append(str(Path(shown, submodule.path)))
            else:
                self._submodule(home, git, submodule, base)

    def _submodule(self, home: _Home, git: Git, submodule: _Submodule, base: str) -> None:
        folder = git.folder / submodule.path
        tree = home.tree / submodule.path if home.tree else None
        nearby = [each / "modules" / submodule.name for each in home.folders]
        nearby += [tree / ".git"] if tree else []
        nearby = [each for each in nearby if (each / "HEAD").is_file() and (each / "objects").is_dir()]
        for common in nearby:
            inner = self.attach(common, submodule.commit, folder)
            if _has(inner, submodule.commit):
                break
        else:
            url = git.line("config", "--get", f"submodule.{submodule.name}.url") or submodule.settings["url"]
            common = self._clone(submodule, resolve_url(base, url), nearby)
            inner = self.attach(common, submodule.commit, folder)
            self._complete(inner, submodule)
        nested = _Home(common=common, folders=(common,), tree=tree)
        self.place(nested, inner, submodule.commit, remote_url(folder, env=self.env))

    def _clone(self, submodule: _Submodule, url: str, nearby: list[Path]) -> Path:
        self.say(f"fetching submodule {submodule.path} from {strip_credentials(url)}")
        target = self._folder()
        options = [word for each in nearby for word in ("--reference-if-able", str(each))]
        options += _depth(submodule)
        Git(self.room, self.env, exact=True).run(
            *("clone", "--bare", "--quiet", *options, "--", url, str(target)),
            failed="the submodule cannot be fetched",
            where=f"{submodule.path} ({strip_credentials(url)})",
            hint=f"`git submodule update --init -- {submodule.path}` in the source should say more",
        )
        return target

    def _complete(self, git: Git, submodule: _Submodule) -> None:
        """No branch may lead to the commit: ask for the very one, as git-submodule(1) does."""
        if not _has(git, submodule.commit):
            git.run(
                *("fetch", "--quiet", *_depth(submodule), "origin", submodule.commit),
                failed=f"the submodule's remote does not have commit {submodule.commit}",
                where=submodule.path,
                hint="push the submodule's commit to its remote, then build again",
            )


def _depth(submodule: _Submodule) -> list[str]:
    return ["--depth", "1"] if submodule.settings.get("shallow") == "true" else []


def _has(git: Git, commit: ObjectId) -> bool:
    return git.attempt("cat-file", "-e", f"{commit}^{{commit}}").returncode == 0


def _submodules(git: Git, commit: ObjectId) -> Iterator[_Submodule]:
    """The commits in the tree, with what `.gitmodules` of the same commit says of them."""
    tree = git.run("ls-tree", "-r", "-z", "--full-tree", commit, failed="cannot list the source")
    links = [entry.split(b"\t", 1) for entry in tree.split(b"\0") if entry.startswith(b"160000 ")]
    if not links:
        return
    named = _gitmodules(git, commit)
    for head, raw in links:
        path = os.fsdecode(raw)
        found = [(name, each) for name, each in named.items() if each.get("path") == path and each.get("url")]
        if not found:
            raise BuildFailed(
                "a submodule without a path and URL in .gitmodules",
                where=path,
                hint=f"`git submodule add URL {path}`, or `git rm --cached {path}` if it is none",
            )
        name, settings = found[-1]
        if ".." in name.split("/") or name.startswith("/"):
            raise BuildFailed(f"a submodule's name that git refuses: {name[:100]!r}", where=".gitmodules")
        yield _Submodule(path=path, commit=ObjectId(head.split()[2].decode()), settings=settings, name=name)


def _gitmodules(git: Git, commit: ObjectId) -> dict[str, dict[str, str]]:
    blob = f"{commit}:.gitmodules"
    if git.attempt("cat-file", "-e", blob).returncode:
        return {}
    listing = git.attempt("config", "-z", "--blob", blob, "--get-regexp", r"^submodule\..*\.")
    if listing.returncode not in (0, 1):  # 1: no such key
        raise BuildFailed("git cannot read .gitmodules", where=commit, why=last_lines(listing.stderr))
    named: dict[str, dict[str, str]] = {}
    for entry in os.fsdecode(listing.stdout).split("\0"):
        key, _, value = entry.partition("\n")
        name, _, variable = key.removeprefix("submodule.").rpartition(".")
        if name:
            named.setdefault(name, {})[variable] = value
    return named


def _refuse_pointers(git: Git, shown: str) -> None:
    """An LFS pointer in the place of the file's content means that git-lfs did not do its part."""
    listing = git.run("ls-files", "-z", "--", ":(attr:filter=lfs)", failed="git cannot read the attributes")
    for raw in filter(None, listing.split(b"\0")):
        path = git.folder / os.fsdecode(raw)
        if path.is_symlink() or not path.is_file():
            continue
        with path.open("rb") as file:
            if file.read(len(LFS_POINTER)) == LFS_POINTER:
                raise BuildFailed(
                    "an LFS file came out as a pointer instead of its content",
                    where=str(Path(shown, os.fsdecode(raw))),
                    why="git-lfs is not installed, or not set up for this user or repository",
                    hint="install git-lfs, run `git lfs install`, then build again",
                )


def _is_path(url: str) -> bool:
    """Rather than `scheme://…` or `host:path`: no colon before the first slash (git-clone(1))."""
    return ":" not in url.partition("/")[0]


def resolve_url(base: str, url: str) -> str:
    """A submodule's URL as git resolves it: `./` and `../` are relative to the superproject's remote.

    After git's remote.c, relative_url: `../` takes one component off the remote's URL, the last of them at a
    colon (`host:path`) too. Raises `BuildFailed` when there is nothing left to take off.
    """
    if not url.startswith(("./", "../")):
        return url
    left, separator = base.rstrip("/"), "/"
    rest = url
    while rest.startswith(("./", "../")):
        if rest.startswith("../"):
            slash, colon = left.rfind("/"), left.rfind(":")
            cut = slash if slash >= 0 else colon
            if cut < 0:
                why = f"relative to {strip_credentials(base)}"
                raise BuildFailed("a submodule's URL leads nowhere", where=url, why=why)
            left, separator = left[:cut], left[cut]
        rest = rest.partition("/")[2]
    return f"{left}{separator}{rest}".rstrip("/")
