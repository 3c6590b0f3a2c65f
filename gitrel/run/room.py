"""What all that the supervisor started has in common."""

from __future__ import annotations

from collections.abc import Callable

from gitrel.dataclass import dataclass
from gitrel.processes import Seen
from gitrel.run.formation import Process
from gitrel.run.guardian import Guardian
from gitrel.run.loop import Loop
from gitrel.run.output import Journal
from gitrel.run.sockets import Sockets


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """`leftovers(session, mark)` lists what an exited leader left behind, `members(session)` the pids of one that
    lives; `intact` tells whether a process's checkout is known to be what was verified, and has it mended if not;
    `changed` is called whenever the status file would say something else.
    """

    loop: Loop
    journal: Journal
    guardian: Guardian
    sockets: Sockets
    leftovers: Callable[[int, str], list[Seen]]
    members: Callable[[int], list[int]]
    intact: Callable[[Process], bool]
    jitter: Callable[[], float]
    changed: Callable[[], None]
