"""The hands of `lifecycle`: does what the table says for one instance, and reports back to it."""

from __future__ import annotations

import os
import signal
import time
from collections import deque
from collections.abc import Callable, Mapping
from functools import partial

from gitrel.run.formation import MARK, Process
from gitrel.run.health import Check
from gitrel.run.lifecycle import (
    RUNNING,
    Action,
    BeginCheck,
    CancelTimer,
    Cleared,
    EndCheck,
    Event,
    Exit,
    Exited,
    Healthy,
    Instance,
    Notice,
    Report,
    SetTimer,
    SignalGroup,
    Spawn,
    Spawned,
    SpawnFailed,
    State,
    Sweep,
    Terms,
    Tidy,
    TimerFired,
    step,
)
from gitrel.run.loop import Timer
from gitrel.run.notify import Listener
from gitrel.run.output import TAIL, Stream
from gitrel.run.room import Room
from gitrel.run.spawn import signal_group, spawn
from gitrel.run.sweep import Sweep as Sweeping

SHELL = "/bin/sh"


class Keeper:
    """Keeps one process running until told to stop, and tells `report` about it.

    `since` is when the state was entered, in epoch seconds; `label` its name in the log; `said` what the process
    says of itself (STATUS of sd_notify(3)).
    """

    def __init__(
        self, process: Process, release: str, room: Room, report: Callable[[Report], None], *, label: str
    ) -> None:
        self.process = process
        self.release = release
        self.label = label
        self.since = time.time()
        self.said = ""
        self._tail: deque[bytes] = deque(maxlen=TAIL)
        self._room = room
        self._tell_about = report
        health = process.health
        self.instance = Instance(
            terms=Terms(
                checked=health is not None,
                ready_within=process.settle if health is None else health.timeout,
                stop_timeout=process.stop_timeout,
            )
        )
        self._events: deque[Event] = deque()
        self._busy = False
        self._timer: Timer | None = None
        self._check: Check | None = None
        self._sweep: Sweeping | None = None
        self._streams: list[Stream] = []
        self._session = 0
        self._listener: Listener | None = None

    @property
    def session(self) -> int:
        """The session of a leader that lives; 0 without one."""
        return self._session if self.instance.state in RUNNING else 0

    def tell(self, event: Event) -> None:
        """An event out of an action (a spawn that failed, say) waits until the actions of the first are
        done.
        """
        self._events.append(event)
        if self._busy:
            return
        self._busy = True
        try:
            while self._events:
                self._step(self._events.popleft())
        finally:
            self._busy = False

    def _step(self, event: Event) -> None:
        before = self.instance.state
        self.instance, actions = step(self.instance, event, self._room.jitter())
        if self.instance.state is not before:
            self.since = time.time()
        for action in actions:
            self._do(action)
        self._room.changed()

    def _do(self, action: Action) -> None:
        match action:
            case Spawn():
                self._spawn()
            case SignalGroup(pid, number):
                self._signal(pid, number)
            case SetTimer(seconds):
                self._cancel_timer()
                self._timer = self._room.loop.after(seconds, partial(self.tell, TimerFired()))
            case CancelTimer():
                self._cancel_timer()
            case BeginCheck():
                self._begin_check()
            case EndCheck():
                self._end_check()
            case Sweep(session):
                self._begin_sweep(session)
            case Tidy():
                self._tidy()
            case Report():
                self._report(action)

    def _spawn(self) -> None:
        process, room = self.process, self._room
        if not room.intact(process):
            self.tell(SpawnFailed("its checkout was changed, and is looked at anew"))
            return
        env = dict(process.env)
        try:
            sockets = []
            if process.listen is not None:
                sockets = [room.sockets.get(process.listen).fileno()]
                env |= {"LISTEN_FDS": "1", "LISTEN_FDNAMES": process.type}
            if process.health is not None and process.health.notify:
                env["NOTIFY_SOCKET"] = self._listen().address
            command = [SHELL, "-c", process.command]
            child = spawn(command, env=env, cwd=process.cwd, give=sockets, user=process.user)
        except OSError as error:
            self.tell(SpawnFailed(f"{error.filename}: {error.strerror}" if error.filename else str(error)))
            return
        self._session = child.pid
        self.said = ""
        self._streams = [
            Stream(room.loop, room.journal, self.label, fd, self._tail) for fd in (child.stdout, child.stderr)
        ]
        room.guardian.add(child.pid)
        room.loop.on_exit(child.pid, self._exited)
        self.tell(Spawned(child.pid))

    def _listen(self) -> Listener:
        """For what the process says of itself: anew for each of its lives, so that no earlier one is heard."""
        self._stop_listening()
        uid = os.geteuid() if self.process.user is None else self.process.user.uid
        self._listener = Listener(self._room.loop, uid, self._notified)
        return self._listener

    def _stop_listening(self) -> None:
        if self._listener is not None:
            self._listener.close()
            self._listener = None

    def _notified(self, said: Mapping[str, str]) -> None:
        if "STATUS" in said:
            self.said = said["STATUS"]
            self._room.changed()
        if said.get("READY") == "1" and self.instance.state is State.STARTING:
            self.tell(Healthy())

    def _exited(self, ended: Exit) -> None:
        self.tell(Exited(ended))

    def _signal(self, pid: int, number: signal.Signals) -> None:
        try:
            signal_group(pid, number)
        except OSError as error:
            self._room.journal.say(f"{self.label}: {number.name} to group {pid}: {error.strerror}")

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _begin_check(self) -> None:
        process, room = self.process, self._room
        if process.health is None or process.health.notify:  # the table asks for none, or the process will say so
            return
        self._check = Check(
            room.loop,
            process.health,
            process.port,
            partial(self.tell, Healthy()),
            listening=None if process.listen is None else room.sockets.get(process.listen),
            members=lambda: room.members(self._session),
        )
        self._check.start()

    def _end_check(self) -> None:
        if self._check is not None:
            self._check.stop()
            self._check = None

    def _begin_sweep(self, session: int) -> None:
        find = partial(self._room.leftovers, session, self.process.env[MARK])
        self._sweep = Sweeping(self._room.loop, find, partial(self.tell, Cleared()))
        self._sweep.start()

    def _tidy(self) -> None:
        if self._sweep is not None:
            self._sweep.cancel()
            self._sweep = None
        for stream in self._streams:
            stream.finish()
        self._streams = []
        self._room.guardian.remove(self._session)
        self._session = 0
        self._stop_listening()

    def last_words(self) -> list[bytes]:
        """The last lines that it printed, those in the pipe included."""
        for stream in self._streams:
            stream.drain()
        return list(self._tail)

    def _report(self, report: Report) -> None:
        said = f": {report.detail}" if report.detail else ""
        if report.notice is not Notice.GONE:
            self._room.journal.say(f"{self.label} {report.notice.value}{said}")
        self._tell_about(report)

    @property
    def gone(self) -> bool:
        return self.instance.state is State.GONE
