"""gitrel's side of the rows, each in a process of its own, so that its memory is its own: see `measure.own`.
Each returns seconds, and the workers that it had if those were not all.

What is timed is the work on files. Starting Python is not part of it.
"""

from __future__ import annotations

import gc
import json
import os
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gitrel.cli import COLLECT
from gitrel.ids import PRODUCTION, ObjectFormat, ObjectId, Sha256
from gitrel.store import builds
from gitrel.store.checkout import Base, stage_checkout
from gitrel.store.repository import Repository
from gitrel.store.snapshot import snapshot
from gitrel.trust.walk import load_trust, walk_releases
from gitrel.workers import WORKERS


def store(folder: str, repo: str) -> dict[str, Any]:
    """A snapshot; makes the repository if it is not there."""
    path = Path(repo)
    with Repository.open(path) if path.exists() else Repository.init_bare(path, ObjectFormat.SHA1) as opened:
        started = time.perf_counter()
        taken = snapshot(Path(folder), opened)
        seconds = time.perf_counter() - started
    return {"seconds": seconds, "tree": taken.node.oid, "sha256": taken.node.sha256, "files": taken.files}


def check_out(repo: str, tree: str, parent: str, base: str | None = None) -> dict[str, Any]:
    """A checkout, its seal, and those of others that it shares files with; `durable` has the time of syncfs, too."""
    with Repository.open(Path(repo)) as opened:
        folder = Path(parent) / tree
        older = Base(Path(parent) / base, ObjectId(base)) if base else None
        started = time.perf_counter()
        with stage_checkout(opened, ObjectId(tree), Path(parent), base=older) as staged:
            written = time.perf_counter() - started
            staged.publish(folder)
            published = time.perf_counter() - started
        builds.seal_linked(folder, staged.node, older, staged.linked)
        durable = time.perf_counter() - started
    return {
        "seconds": durable - published + written,
        "durable": durable,
        "sha256": staged.node.sha256,
        "linked": len(staged.linked),
    }


def find(parent: str, tree: str, starting: bool) -> dict[str, Any]:
    """An existing checkout, for a switch to it, or for a process that is about to start in it."""
    started = time.perf_counter()
    node = (builds.sealed if starting else builds.present)(Path(parent) / tree)
    seconds = time.perf_counter() - started
    if node is None or node.oid != tree:
        raise RuntimeError("the checkout is not what it was")
    return {"seconds": seconds}


def verify(repo: str, pin: str, releases: int) -> dict[str, Any]:
    """Every check of the records of a ledger of so many releases; the verdicts are let go as they come."""
    with Repository.open(Path(repo)) as opened:
        started = time.perf_counter()
        refs = opened.refs.list("refs/")
        trust = load_trust(refs, opened, opened.format, Sha256(pin))
        good = sum(each.release is not None for each in walk_releases(refs, opened, trust, PRODUCTION))
        seconds = time.perf_counter() - started
    if good != releases:
        raise RuntimeError(f"{good} of {releases} are good")
    return {"seconds": seconds, "workers": max(1, WORKERS - 1)}


FUNCTIONS: dict[str, Callable[..., dict[str, Any]]] = {
    "store": store,
    "check_out": check_out,
    "find": find,
    "verify": verify,
}


def main() -> None:
    gc.set_threshold(*COLLECT)
    before = _processor()
    found = FUNCTIONS[sys.argv[1]](**json.loads(sys.argv[2]))
    cpu = _processor() - before
    # VmHWM, not ru_maxrss: that one remembers the process which this one was forked from (proc(5), getrusage(2))
    own = int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0])
    workers = found.pop("workers", WORKERS) * resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    print(json.dumps({**found, "cpu": cpu, "peak": (own + workers) / 1024}))


def _processor() -> float:
    """Seconds, of the workers, too."""
    return sum(os.times()[:4])


if __name__ == "__main__":
    main()
