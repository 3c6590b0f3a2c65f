"""Rows for a server's pull of a real build: beside `git fetch --depth 1` and `git checkout-index` of the same release.

A developer releases the folder, and then the same with one file in a hundred changed. Both sides fetch through a pipe
that counts the bytes which `git upload-pack` sends, and end with a folder of files.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from bench.desk import set_up
from bench.made import change
from bench.measure import Row, Series, Took, run, take_turns, together
from bench.trees_rows import Job


class _Remote:
    """A remote with two releases, each fetched while it is the newest."""

    def __init__(self, job: Job) -> None:
        self.at = at = job.scratch
        self._count = at / "count"
        set_up(at, Ed25519PrivateKey.generate())
        self.url = f"ssh://bench{at}/remote.git"
        run("git", "init", "-q", "--bare", at / "remote.git")
        run("git", "config", "uploadpack.allowFilter", "true", cwd=at / "remote.git")
        run("git", "init", "-q", "-b", "main", at / "dev")
        run("git", "remote", "add", "origin", self.url, cwd=at / "dev")
        self.gitrel("init", cwd="dev")
        (at / "dev/Procfile").write_text("web: true\n")
        shutil.copytree(job.folder, at / "dev/files", symlinks=True)
        self.release()

    def release(self) -> None:
        run("git", "add", "-A", "-f", ".", cwd=self.at / "dev")
        run("git", "commit", "-q", "-m", "files", cwd=self.at / "dev")
        self.gitrel("release", cwd="dev")

    def gitrel(self, *words: str | Path, cwd: str = ".") -> Took:
        return run(sys.executable, "-P", self.at / "gitrel", *words, cwd=self.at / cwd)

    def received(self) -> Took:
        """Bytes since it was asked last, as if they were seconds."""
        size = self._count.stat().st_size
        self._count.unlink()
        return Took(seconds=size, cpu=size)


def rows(job: Job) -> list[Row]:
    """The first pull of a server, and the next one."""
    remote = _Remote(job)
    for number in range(job.rounds):
        remote.gitrel("join", remote.url, f"home-{number}", "--first-use")
        run("git", "init", "-q", "--bare", remote.at / f"fetched-{number}")
    found = _beside(job, remote, "first", 1)
    changed = job.scratch / "changed"
    change(remote.at / "dev/files", changed)
    shutil.rmtree(remote.at / "dev/files")
    changed.rename(remote.at / "dev/files")
    remote.release()
    return [*found, *_beside(job, remote, "next, 1 % changed", 2)]


def _beside(job: Job, remote: _Remote, what: str, release: int) -> list[Row]:
    names = ("gitrel", "git fetch --depth 1, checkout-index -a")
    sizes = {name: Series(name=name) for name in names}
    ref = f"refs/releases/v{release}"

    def pull(number: int) -> Took:
        return remote.gitrel("pull", "--home", f"home-{number}")

    def fetch(number: int) -> Took:
        into, to = remote.at / f"fetched-{number}", remote.at / f"git-{release}-{number}"
        to.mkdir()
        git = ("git", f"--git-dir={into}", f"--work-tree={to}")
        fetched = run("git", "fetch", "-q", "--depth=1", remote.url, f"{ref}:{ref}", cwd=into)
        return together(fetched, run(*git, "read-tree", ref, cwd=to), run(*git, "checkout-index", "-a", cwd=to))

    def counted(name: str, side: Callable[[int], Took]) -> Callable[[int], Took]:
        def go(number: int) -> Took:
            took = side(number)
            sizes[name].took.append(remote.received())
            return took

        return go

    sides = {name: counted(name, side) for name, side in zip(names, (pull, fetch), strict=True)}
    series = take_turns(job.rounds, sides, job.say)
    (ours, theirs), (our_size, their_size) = (tuple(each[name] for name in names) for each in (series, sizes))
    return [
        Row(what=f"pull, {what}", ours=ours, theirs=theirs, aim=1.3),
        Row(what=f"pull, {what}: bytes", ours=our_size, theirs=their_size, aim=1.1, unit="B"),
    ]
