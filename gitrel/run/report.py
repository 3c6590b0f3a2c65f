"""The status file: what runs, for whoever asks. One JSON document, replaced whole after every change.

    {"format": 1, "supervisor": 812, "written": "2031-05-04T03:02:01Z", "phase": "steady", "trouble": "",
     "release": "v3", "since": "2031-05-04T03:00:00Z", "good": "v3", "failed": ["v2"],
     "processes": [{"name": "web.1", "pid": 815, "state": "up", "since": "…", "restarts": 0, "failures": 0,
                    "last_exit": {"code": 1, "signal": null}}]}

`phase` is of `rollout.Phase`, a process's `state` of `lifecycle.State`, `last_exit` null before the first
exit. Times are UTC by this host's clock. It is a report, not a state: nothing reads it back, so it is not
fsynced.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gitrel.run.rollout import Rollout
from gitrel.run.tend import Keeper

FORMAT = 1


def document(rollout: Rollout, keepers: Sequence[Keeper], since: float) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "supervisor": os.getpid(),
        "written": utc(time.time()),
        "phase": rollout.phase.value,
        "trouble": rollout.trouble,
        "release": rollout.running.release or None,
        "since": utc(since),
        "good": rollout.good.release if rollout.good else None,
        "failed": sorted(rollout.failed),
        "processes": [_process(keeper) for keeper in keepers],
    }


def _process(keeper: Keeper) -> dict[str, Any]:
    instance = keeper.instance
    ended = instance.last_exit
    return {
        "name": keeper.process.name,
        "pid": instance.pid or None,
        "state": instance.state.value,
        "since": utc(keeper.since),
        "restarts": instance.restarts,
        "failures": instance.failures,
        "last_exit": {"code": ended.code, "signal": ended.signal} if ended else None,
    }


def utc(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


def write(path: Path, status: dict[str, Any]) -> None:
    """Raises `OSError`; the old document then stays."""
    new = path.with_name(f".{path.name}.new")
    new.write_text(json.dumps(status, indent=1) + "\n", encoding="utf-8")
    new.replace(path)
