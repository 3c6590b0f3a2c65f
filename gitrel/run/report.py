"""The status file: what runs, for whoever asks. One JSON document, replaced whole after every change.

    {"format": 1, "supervisor": 812, "ticks": 48123, "started": "2031-05-04T03:00:00Z",
     "written": "2031-05-04T03:02:01Z", "phase": "steady", "trouble": "",
     "release": "v3", "since": "2031-05-04T03:00:00Z", "next": null, "good": "v3", "failed": ["v2"],
     "processes": [{"name": "web.1", "release": "v3", "pid": 815, "state": "up", "said": "", "since": "…",
                    "restarts": 0, "failures": 0, "last_exit": {"code": 1, "signal": null}}]}

`phase` is of `rollout.Phase`, a process's `state` of `lifecycle.State`, `last_exit` null before the first
exit. `ticks` is when the supervisor was started, as /proc/PID/stat says it. Times are UTC by this host's clock. It
is a report, not a state: nothing that runs reads it back, so it is not fsynced; after the supervisor has ended it is
stale, and only believed while the home's lock `run` is held.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gitrel.errors import FormatError, LocalStateError, NotFound
from gitrel.ids import Entry
from gitrel.processes import look, snapshot
from gitrel.run.formation import home_of
from gitrel.run.proctree import mark_of

if TYPE_CHECKING:  # who asks what runs knows nothing of how it is kept running
    from gitrel.run.home import Home
    from gitrel.run.rollout_state import Rollout
    from gitrel.run.tend import Keeper

FORMAT = 1
_STARTED = time.time()  # of this process, near enough


def document(rollout: Rollout, keepers: Sequence[Keeper], since: float) -> dict[str, Any]:
    me = look(os.getpid())
    return {
        "format": FORMAT,
        "supervisor": os.getpid(),
        "ticks": me.start if me else None,
        "started": utc(_STARTED),
        "written": utc(time.time()),
        "phase": rollout.phase.value,
        "trouble": rollout.trouble,
        "release": rollout.running.release or None,
        "since": utc(since),
        "next": rollout.next.release or None,
        "good": rollout.good.release if rollout.good else None,
        "failed": sorted(rollout.failed),
        "processes": [_process(keeper) for keeper in keepers],
    }


def _process(keeper: Keeper) -> dict[str, Any]:
    instance = keeper.instance
    ended = instance.last_exit
    return {
        "name": keeper.process.name,
        "release": keeper.release,
        "said": keeper.said,
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


def read(home: Home) -> dict[str, Any] | None:
    """What the supervisor of a home wrote last; None without one, or before it wrote anything.

    Raises `LocalStateError` if this user may not look.
    """
    if not home.locked("run"):
        return None
    try:
        found = json.loads(home.status_file.read_bytes())
    except PermissionError as error:
        raise LocalStateError("cannot read", where=str(home.status_file), why=error.strerror or "") from error
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) and found.get("format") == FORMAT else None


def tell(home: Home, number: signal.Signals) -> int:
    """Send a signal to the supervisor of a home, and to nothing else; its pid.

    The status file only says where to look. It is the supervisor if it was started when the file says, and the
    home's `run.lock` is its own; the signal goes through a pidfd from before that was checked. Raises `NotFound` if
    none runs or can be found here, `LocalStateError` if it is another user's.
    """
    status = read(home)
    pid = status.get("supervisor") if status else None
    if not status or not isinstance(pid, int) or pid <= 0:
        raise NotFound("no supervisor runs on this home", where=str(home.path), hint="`gitrel run --follow`")
    try:
        fd = os.pidfd_open(pid)
        try:
            seen = look(pid)
            if seen is None or seen.start != status.get("ticks") or not _holds(pid, home.run / "run.lock"):
                raise ProcessLookupError
            signal.pidfd_send_signal(fd, number)
        finally:
            os.close(fd)
    except ProcessLookupError:
        why = f"process {pid} has ended or is another one; does it run in another container?"
        raise NotFound("the supervisor is not to be found", where=str(home.path), why=why) from None
    except OSError as error:
        hint = "run it as the user whose supervisor this is, or as root"
        raise LocalStateError("may not signal the supervisor", where=f"pid {pid}", why=str(error), hint=hint) from error
    return pid


def _holds(pid: int, path: Path) -> bool:
    """Whether a process took the flock(2) on a file, or has the file open. Raises `OSError` if that is not ours to
    know."""
    wanted = path.stat()
    for line in Path("/proc/locks").read_text("ascii").splitlines():
        match line.split():
            case [_, "FLOCK", "ADVISORY", "WRITE", owner, place, *_] if owner == str(pid):
                if place.rpartition(":")[2] == str(wanted.st_ino):
                    return True
    folder = f"/proc/{pid}/fd"
    for name in os.listdir(folder):
        with contextlib.suppress(FileNotFoundError):  # closed meanwhile
            if os.path.samestat(os.stat(f"{folder}/{name}"), wanted):
                return True
    return False


def in_use(home: Home) -> set[Entry]:
    """The releases that run here, as far as the supervisor and the processes themselves say."""
    status = read(home) or {}
    said = {status.get("release"), status.get("good"), *(each.get("release") for each in status.get("processes", ()))}
    for seen in snapshot().values():
        mark = mark_of(seen.pid)
        if mark is not None and home_of(mark) == str(home.path):
            said.add(mark.rsplit(":", 2)[1])
    found = set()
    for name in said:
        with contextlib.suppress(FormatError):
            if isinstance(name, str):
                found.add(Entry.parse(name))
    return found


def resident(sessions: Collection[int]) -> Mapping[int, int]:
    """Bytes of memory by session: the sum of its processes' resident sets (proc(5), statm); shared pages count each
    time. A session that cannot be seen has none."""
    found: dict[int, int] = {}
    for seen in snapshot().values():
        if seen.session in sessions:
            with contextlib.suppress(OSError, IndexError, ValueError):  # it ended
                pages = int(Path(f"/proc/{seen.pid}/statm").read_text("ascii").split()[1])
                found[seen.session] = found.get(seen.session, 0) + pages * os.sysconf("SC_PAGESIZE")
    return found
