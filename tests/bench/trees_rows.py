"""Rows for folder -> tree and tree -> folder: beside git, and beside ostree where it is installed."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.made import change
from bench.measure import Row, Series, Took, own, run, take_turns, together


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """Where to work, on what, and how often. `say` gets a line for each measurement."""

    folder: Path
    scratch: Path
    rounds: int
    say: Callable[[str], None]


def rows(job: Job) -> list[Row]:
    """Everything that is measured on one folder."""
    later = job.scratch / "later"
    change(job.folder, later)
    return [*_snapshots(job, later), *_checkouts(job, later)]


def _git_snapshot(folder: Path, repo: Path) -> Took:
    """`git add -A && git write-tree`, with an index of its own; every file, whatever .gitignore says."""
    if not repo.exists():
        run("git", "init", "-q", "--bare", repo)
    (repo / "index").unlink(missing_ok=True)
    git = ("git", f"--git-dir={repo}", f"--work-tree={folder}")
    return together(run(*git, "add", "-A", "-f", ".", cwd=folder), run(*git, "write-tree", cwd=folder))


def _took(found: dict[str, Any], key: str = "seconds") -> Took:
    return Took(seconds=found[key], cpu=found["cpu"], peak=found["peak"])


def _snapshots(job: Job, later: Path) -> list[Row]:
    at = job.scratch
    sides: dict[str, Callable[[int], Took]] = {
        "gitrel": lambda number: _took(own("store", folder=job.folder, repo=at / f"own-{number}.git")),
        "git add -A, git write-tree": lambda number: _git_snapshot(job.folder, at / f"git-{number}.git"),
        "gitrel, 1 % changed": lambda number: _took(own("store", folder=later, repo=at / f"own-{number}.git")),
        "git, the same store, no index": lambda number: _git_snapshot(later, at / f"git-{number}.git"),
    }
    if shutil.which("ostree"):
        sides["ostree commit"] = lambda number: _ostree_commit(job.folder, at / f"ostree-{number}")
    series = take_turns(job.rounds, sides, job.say)
    ours, git = series["gitrel"], series["git add -A, git write-tree"]
    changed, git_changed = series["gitrel, 1 % changed"], series["git, the same store, no index"]
    found = [
        Row(what="snapshot into an empty store", ours=ours, theirs=git, aim=0.25),
        Row(what="snapshot, 1 % changed", ours=changed, theirs=git_changed, aim=0.25),
    ]
    if "ostree commit" in series:
        found.append(Row(what="snapshot into an empty store", ours=ours, theirs=series["ostree commit"], aim=0.6))
    return found


def _ostree_commit(folder: Path, repo: Path) -> Took:
    run("ostree", "init", f"--repo={repo}")
    return run("ostree", "commit", f"--repo={repo}", "-b", "main", f"--tree=dir={folder}")


def _git_checkout(repo: Path, to: Path, *options: str) -> Took:
    to.mkdir()
    return run("git", *options, f"--git-dir={repo}", f"--work-tree={to}", "checkout-index", "-a", cwd=to)


def _checkouts(job: Job, later: Path) -> list[Row]:
    at = job.scratch
    repo, theirs = at / "own-0.git", at / "git-0.git"
    tree = own("store", folder=job.folder, repo=repo)["tree"]
    next_tree = own("store", folder=later, repo=repo)["tree"]
    _git_snapshot(job.folder, theirs)
    durable, starts = Series(name="gitrel, durable"), Series(name="gitrel, before a start")

    def cold(number: int) -> Took:
        parent = at / f"builds-{number}"
        parent.mkdir()
        found = own("check_out", repo=repo, tree=tree, parent=parent)
        durable.took.append(_took(found, "durable"))
        return _took(found)

    def linked(number: int) -> Took:
        return _took(own("check_out", repo=repo, tree=next_tree, parent=at / f"builds-{number}", base=tree))

    def switch(number: int) -> Took:
        parent = at / f"builds-{number}"
        starts.took.append(_took(own("find", parent=parent, tree=tree, starting=True)))
        return _took(own("find", parent=parent, tree=tree, starting=False))

    def synced(number: int) -> Took:
        return together(_git_checkout(theirs, at / f"synced-{number}"), run("sync", "-f", at))

    sides: dict[str, Callable[[int], Took]] = {
        "gitrel": cold,
        "git checkout-index -a": lambda number: _git_checkout(theirs, at / f"one-{number}"),
        "the same, checkout.workers=2": lambda number: _git_checkout(
            theirs, at / f"two-{number}", "-c", "checkout.workers=2"
        ),
        "the same, and sync -f": synced,
        "gitrel, next release": linked,
        "gitrel, same build": switch,
    }
    series = take_turns(job.rounds, sides, job.say)
    ours, git = series["gitrel"], series["git checkout-index -a"]
    return [
        Row(what="checkout", ours=ours, theirs=git, aim=0.8),
        Row(what="checkout", ours=ours, theirs=series["the same, checkout.workers=2"], aim=1.2),
        Row(what="checkout, durable", ours=durable, theirs=series["the same, and sync -f"], aim=1.2),
        Row(what="checkout of the next release, 1 % changed", ours=series["gitrel, next release"], theirs=git, aim=0.3),
        Row(what="switch to a release with the same build", ours=series["gitrel, same build"], theirs=ours, aim=0.02),
        Row(what="look through a checkout before a start", ours=starts, theirs=ours, aim=0.2),
    ]
