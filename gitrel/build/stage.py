"""Stage 1 up to the folder to be stored: a clean checkout, the build command, the output folder.

Everything happens in a *room*, a folder of its own below the caller's temporary one, that goes away at the
end:

    gitrel-build-<source commit>/
    ├── tree/    the checkout, in which the command runs
    ├── git/     what git needs for it
    ├── home/    the command's HOME
    └── tmp/     the command's TMPDIR

The room's name depends on the commit alone, so that two builds of a commit that write their own paths into
files (byte-compiled Python does) come out the same, on another machine and as another user too. A lock on the
folder says that somebody is in it; the system drops the lock when that somebody is killed, and the same user's next
build clears the room away. A second build of the same commit at the same time, or one that finds another user's room
there, gets a room with a random name.

`gitrel.toml` and `Procfile` are the source commit's: `read_manifest` reads the object, not the work tree.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import secrets
import shutil
import stat
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from gitrel.build.checkout import Checkout, Git, check_out
from gitrel.build.command import OnOutput, kill_leftovers, run_command
from gitrel.build.writable import link_writable
from gitrel.dataclass import dataclass
from gitrel.errors import BadInput, BuildFailed, LocalStateError
from gitrel.format.manifest import MANIFEST, BuildSpec, Manifest, parse_manifest
from gitrel.format.procfile import PROCFILE, parse_procfile
from gitrel.ids import ObjectId

_ROOM = "gitrel-build"
_COMMIT_BOTH = f"`git add {PROCFILE} {MANIFEST}` and commit: a build is of what is committed"
_MISSING_HINT = {
    PROCFILE: f"add one with a line such as `web: python3 app.py`; {_COMMIT_BOTH}",
    MANIFEST: f"`gitrel init` writes one; {_COMMIT_BOTH}",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Staged:
    """What is to be stored: `folder`, without the paths of `exclude`. It lasts as long as the `with` of
    `stage`.

    `manifest` and `processes` are what the folder's own gitrel.toml and Procfile say. Times are whole seconds
    since 1970. `notes` are lines for the person who builds: what was left out, and why.
    """

    folder: Path
    source: ObjectId
    manifest: Manifest
    processes: Mapping[str, str]
    exclude: tuple[str, ...]
    started: int
    finished: int
    notes: tuple[str, ...]


def read_manifest(repo: Path, commit: ObjectId, *, env: Mapping[str, str]) -> Manifest:
    """The commit's `gitrel.toml`. Raises `BadInput` (none, or not a regular file) and `FormatError`."""
    git = Git(repo, env)
    listing = git.run(
        "ls-tree", "-z", "--full-tree", commit, "--", MANIFEST, failed="cannot read the source", where=commit
    )
    if not listing:
        raise BadInput(f"no {MANIFEST}", where=f"commit {commit}", hint=_MISSING_HINT[MANIFEST])
    mode, kind, blob = listing.split(b"\t")[0].decode().split(" ")
    if kind != "blob" or mode == "120000":
        raise BadInput("not a regular file", where=f"{MANIFEST} (commit {commit})")
    raw = git.run("cat-file", "blob", blob, failed="cannot read the source", where=MANIFEST)
    return parse_manifest(raw, f"{MANIFEST} (commit {commit[:12]})")


@contextlib.contextmanager
def stage(
    repo: Path,
    commit: ObjectId,
    spec: BuildSpec,
    *,
    env: Mapping[str, str],
    on_output: OnOutput,
    tmp: Path,
    clock: Callable[[], float] = time.time,
) -> Iterator[Staged]:
    """Build `commit` of the repository at `repo` as `spec` says, below the existing folder `tmp`.

    `env` is the caller's environment, for git and, filtered, for the command; `on_output` gets the command's
    lines and a line for each submodule that is fetched. Nothing remains when the `with` ends, be it by an
    exception.

    Raises `BuildFailed` (checkout, command, output folder), `BadInput` (Procfile or gitrel.toml missing or no
    regular file), `FormatError` (their content, with the line), `NotFound` (no repository), `LocalStateError`
    (`tmp`).
    """
    started = int(clock())
    with room(tmp, commit) as folder:
        source = check_out(repo, commit, folder, env=env, say=on_output)
        carried = {name: _regular(source.folder / name) for name in (PROCFILE, MANIFEST)}
        if spec.command is not None:
            source_time = _commit_time(Git(repo, env), commit)
            _run(spec.command, spec, source.folder, folder, env, source_time, on_output)
        output = _output(source.folder, spec.output)
        _drop_links(source)
        for name, raw in carried.items():
            _carry(output / name, raw, spec)
        manifest = parse_manifest(_read(output / MANIFEST), MANIFEST)
        notes = [f"submodule {path} is left out: .gitmodules says `update = none`" for path in source.skipped]
        notes += link_writable(output, manifest.writable)
        yield Staged(
            folder=output,
            source=commit,
            manifest=manifest,
            processes=parse_procfile(_read(output / PROCFILE), PROCFILE),
            exclude=tuple(each for each in spec.exclude if each not in manifest.writable),
            started=started,
            finished=int(clock()),
            notes=tuple(notes),
        )


def _run(
    command: str,
    spec: BuildSpec,
    tree: Path,
    room: Path,
    env: Mapping[str, str],
    source_time: int,
    on_output: OnOutput,
) -> None:
    for name in ("home", "tmp"):
        (room / name).mkdir()
    run_command(
        command,
        folder=tree,
        caller=env,
        pass_env=spec.pass_env,
        home=room / "home",
        temp=room / "tmp",
        source_time=source_time,
        timeout=spec.timeout,
        on_output=on_output,
    )


def _commit_time(git: Git, commit: ObjectId) -> int:
    """The committer's time, in seconds since 1970."""
    out = git.run("rev-list", "-n1", "--format=%ct", commit, failed="cannot read the commit", where=commit)
    return int(out.split()[-1])


def _regular(path: Path) -> bytes | None:
    """The content of a regular file; None for anything else, a symbolic link too."""
    return path.read_bytes() if path.is_file() and not path.is_symlink() else None


def _output(tree: Path, name: str) -> Path:
    """The output folder, in the checkout even when followed through links."""
    path = tree / name
    try:
        real = path.resolve(strict=True)
    except (OSError, RuntimeError) as error:  # RuntimeError: a loop of links, before Python 3.13
        why = "the build command did not make it" if isinstance(error, FileNotFoundError) else str(error)
        raise BuildFailed(
            "no output folder", where=name, why=why, hint=f"`output` under [build] in {MANIFEST} names it"
        ) from None
    if not real.is_relative_to(tree.resolve()):
        raise BuildFailed("the output folder is outside the checkout", where=name, why=f"it is a link to {real}")
    if not real.is_dir():
        raise BuildFailed(
            "the output is not a folder", where=name, hint=f"`output` under [build] in {MANIFEST} names it"
        )
    return real


def _drop_links(source: Checkout) -> None:
    """Remove the `.git` files that the checkout made; what the command put in their place is not ours."""
    for link, content in source.links.items():
        if _regular(link) == content:
            link.unlink()


def _carry(target: Path, raw: bytes | None, spec: BuildSpec) -> None:
    """Leave the output's own file, if it has one, or write the source's."""
    name = target.name
    if name in spec.exclude:
        raise BadInput(f"build.exclude: a build cannot do without {name}", where=MANIFEST)
    if target.is_symlink() or (target.exists() and not target.is_file()):
        raise BadInput("not a regular file", where=name, hint=f"{name} has to be a file, not a link or a folder")
    if not target.exists():
        if raw is None:
            raise BadInput(f"no {name}", where=name, hint=_MISSING_HINT[name])
        target.write_bytes(raw)


def _read(path: Path) -> bytes:
    return path.read_bytes()


@contextlib.contextmanager
def room(tmp: Path, commit: ObjectId) -> Iterator[Path]:
    """An empty folder for one build, locked and private; rooms that killed builds left in `tmp` are cleared
    first.

    Raises `LocalStateError` when the disk does not let us.
    """
    prefix = f"{_ROOM}-"
    try:
        tmp = tmp.resolve(strict=True)
        for stale in sorted(tmp.glob(f"{prefix}*")):
            with _entered(stale) as free:
                if free:
                    kill_leftovers(home=stale / "home", temp=stale / "tmp")
                    _clear(stale)
        folder, lock = _make_room(tmp, f"{prefix}{commit}")
    except OSError as error:
        raise LocalStateError(
            "cannot make a folder to build in", where=str(tmp), why=error.strerror or str(error)
        ) from error
    try:
        yield folder
    finally:
        try:
            _clear(folder)
        except OSError as error:
            raise LocalStateError("cannot remove the build's folder", where=str(folder), why=str(error)) from error
        finally:
            os.close(lock)


def _make_room(tmp: Path, name: str) -> tuple[Path, int]:
    """The folder, and the descriptor that locks it. Another build may take or clear the name meanwhile."""
    folder = tmp / name
    while True:
        try:
            folder.mkdir(mode=0o700)
            lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except (FileExistsError, FileNotFoundError):
            folder = tmp / f"{name}-{secrets.token_hex(4)}"
            continue
        if _locked(lock) and _is_same(lock, folder):
            return folder, lock
        os.close(lock)
        folder = tmp / f"{name}-{secrets.token_hex(4)}"


@contextlib.contextmanager
def _entered(folder: Path) -> Iterator[bool]:
    """Whether `folder` is a room of this user's with nobody in it; it is locked meanwhile."""
    try:
        lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        yield False  # gone, a link, a file, or not to be opened: not a room that we could clear
        return
    try:
        yield os.fstat(lock).st_uid == os.geteuid() and _locked(lock)
    finally:
        os.close(lock)


def _locked(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_same(lock: int, folder: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(lock), os.lstat(folder))
    except FileNotFoundError:
        return False


def _clear(folder: Path) -> None:
    """Or leave it for the next build to clear, if a program that outlived an earlier build is at work in it."""
    try:
        remove_tree(folder)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.ENOENT):
            raise


def remove_tree(folder: Path) -> None:
    """`rm -rf`, folders without write permission too (Go's module cache). Links are not followed."""
    for path, names, _ in os.walk(folder):
        for name in [".", *names]:
            inner = os.path.join(path, name)
            mode = os.lstat(inner).st_mode
            if stat.S_ISDIR(mode) and mode & stat.S_IRWXU != stat.S_IRWXU:
                os.chmod(inner, stat.S_IRWXU)
    shutil.rmtree(folder)
