"""Work on many files or records in several processes, and the results in order.

Python runs one thread at a time but for hashes, deflating and system calls, and most files are small. So the work is
done by processes, forked when there is enough of it: they have everything that the caller has, get their shares by a
pipe, and answer by another. A share or two (a small folder) are done by the caller itself, and everything where there
is one processor, or where no process can be had (RLIMIT_NPROC, a cgroup's pids.max).

A worker ends with its caller, however that ends (PR_SET_PDEATHSIG), and before `in_order` does: none is left in a
folder that is about to be deleted, and nobody holds a lock for longer than its owner.
"""

from __future__ import annotations

import contextlib
import fcntl
import gc
import os
import pickle
import select
import signal
import sys
import traceback
import warnings
from collections import deque
from collections.abc import Callable, Generator, Iterable
from typing import Any, Generic, NamedTuple, NoReturn, TypeVar

from gitrel.errors import LocalStateError
from gitrel.programs import end_with

WORKERS = min(4, len(os.sched_getaffinity(0)))
SHARE = 1024 * 1024  # bytes that make a share
AHEAD = 32 * SHARE  # of memory for what was done and is not taken yet
STEP = 8192  # bytes; what one file counts beside its content, in a share and in memory
_ALONE = 2  # shares that the caller does itself before it takes help; to fork costs as much as one
_BUSY = 2  # shares that a worker has at a time: one that it works on, and the next
_CHUNK = 1 << 20  # bytes that are read at a time, and what a pipe is asked to hold (fcntl(2), F_SETPIPE_SZ)
_LENGTH = 8  # bytes before each message that say how long it is

K = TypeVar("K")
T = TypeVar("T")
R = TypeVar("R")


class Share(NamedTuple, Generic[K, T]):
    """A piece of work: `task` is what a worker gets, pickled, `kept` what the caller wants to have beside the result.

    `cost`: the bytes of memory that both and the result may take until they are taken.
    """

    kept: K
    task: T
    cost: int


class _Result(Generic[R]):
    """What became of a share; `error` is raised where the result is wanted."""

    __slots__ = ("done", "error", "value")

    def __init__(self) -> None:
        self.done = False
        self.error: Exception | None = None
        self.value: R

    def get(self) -> R:
        if self.error is not None:
            raise self.error
        return self.value


def in_order(
    shares: Iterable[Share[K, T]], work: Callable[[T], R], *, ahead: int, busy: bool = False
) -> Generator[tuple[K, R], None, None]:
    """What `work` makes of each share, in order, `ahead` of the consumer by so much cost.

    `busy`: the consumer has as much to do as the workers, and leaves them one processor less.
    `work` sees the caller's memory as it was when the first worker was forked; what it changes there stays with it.
    Raises what `work` raises, and `LocalStateError` for a worker that was killed. Close it (`contextlib.closing`) if
    it may not be exhausted.
    """
    waiting: deque[tuple[Share[K, T], _Result[R]]] = deque()
    held = 0
    with _Crew(work, max(1, WORKERS - busy)) as crew:
        for share in shares:
            waiting.append((share, crew.give(share.task)))
            held += share.cost
            while waiting and (held >= ahead or waiting[0][1].done):
                done, result = waiting.popleft()
                yield done.kept, crew.wait(result)
                held -= done.cost
        for done, result in waiting:
            yield done.kept, crew.wait(result)


class _Worker(Generic[R]):
    """One process, as its caller sees it. `at_work`: results that it owes, in the order in which they will come."""

    def __init__(self, work: Callable[[Any], R], others: Iterable[_Worker[R]]) -> None:
        parent = os.getpid()
        with contextlib.ExitStack() as undo:
            source, self.to = _pipe(undo)
            self.back, sink = _pipe(undo)
            with warnings.catch_warnings():
                # From 3.12 on Python warns where there are threads: no caller has one that holds a lock.
                warnings.simplefilter("ignore", DeprecationWarning)
                self.pid = os.fork()
            if self.pid == 0:
                _live(work, source, sink, parent, [self, *others])
            os.close(source)
            os.close(sink)
            undo.pop_all()
        os.set_blocking(self.to, False)
        self.at_work: deque[_Result[R]] = deque()
        self._out, self._in = bytearray(), bytearray()

    def give(self, task: object) -> _Result[R]:
        result = _Result[R]()
        self.at_work.append(result)
        self._out += _message(task)
        return result

    def events(self) -> list[tuple[int, int]]:
        """What to wait for, as poll(2) has it."""
        return [(self.back, select.POLLIN), *([(self.to, select.POLLOUT)] if self._out else [])]

    def send(self) -> None:
        with contextlib.suppress(BlockingIOError, BrokenPipeError):  # if it died, `receive` says how
            del self._out[: os.write(self.to, self._out)]

    def receive(self) -> None:
        data = os.read(self.back, _CHUNK)
        if not data:
            raise self._death()
        self._in += data
        while len(self._in) >= (end := _LENGTH + int.from_bytes(self._in[:_LENGTH])):
            result = self.at_work.popleft()
            result.error, result.value = pickle.loads(memoryview(self._in)[_LENGTH:end])  # noqa: S301  (it is our own fork)
            result.done = True
            del self._in[:end]

    def close(self) -> None:
        """It is not needed any more, or not wanted."""
        if self.pid:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        os.close(self.to)
        os.close(self.back)

    def _death(self) -> LocalStateError:
        status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        self.pid = 0
        why = f"killed by signal {-status}" if status < 0 else f"status {status}"
        return LocalStateError("a process that helped with the work died", why=why, hint="try again")


class _Crew(Generic[R]):
    """The workers, made when they are first needed."""

    def __init__(self, work: Callable[[Any], R], most: int) -> None:
        self._work = work
        self._most = most
        self._workers: list[_Worker[R]] = []
        self._given = 0

    def __enter__(self) -> _Crew[R]:
        return self

    def __exit__(self, *exc: object) -> None:
        for worker in self._workers:
            worker.close()

    def give(self, task: object) -> _Result[R]:
        if self._given == _ALONE and WORKERS > 1:
            self._start()
        self._given += 1
        if not self._workers:
            result = _Result[R]()
            result.value, result.done = self._work(task), True
            return result
        while len((worker := min(self._workers, key=_load)).at_work) >= _BUSY:
            self._turn()
        result = worker.give(task)
        self._turn(wait=False)
        return result

    def wait(self, result: _Result[R]) -> R:
        while not result.done:
            self._turn()
        return result.get()

    def _start(self) -> None:
        """As many as can be had."""
        with contextlib.suppress(OSError):
            while len(self._workers) < self._most:
                self._workers.append(_Worker(self._work, self._workers))

    def _turn(self, *, wait: bool = True) -> None:
        """Pass on what can be passed on."""
        poll = select.poll()
        by_fd = {}
        for worker in self._workers:
            for fd, events in worker.events():
                poll.register(fd, events)
                by_fd[fd] = worker
        for fd, _ in poll.poll(None if wait else 0):
            worker = by_fd[fd]
            if fd == worker.back:
                worker.receive()
            else:
                worker.send()


def _load(worker: _Worker[Any]) -> int:
    return len(worker.at_work)


def _message(value: object) -> bytes:
    data = pickle.dumps(value, pickle.HIGHEST_PROTOCOL)
    return len(data).to_bytes(_LENGTH) + data


def _pipe(undo: contextlib.ExitStack) -> tuple[int, int]:
    ends = os.pipe()
    for fd in ends:
        undo.callback(os.close, fd)
    with contextlib.suppress(OSError):  # a user's share of memory for pipes is limited (pipe(7))
        fcntl.fcntl(ends[1], fcntl.F_SETPIPE_SZ, _CHUNK)
    return ends


def _live(
    work: Callable[[Any], object], source: int, sink: int, parent: int, workers: Iterable[_Worker[Any]]
) -> NoReturn:
    """The worker's life. `workers` are itself and those before it, of whose pipes it has the caller's ends."""
    try:
        end_with(parent)
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the caller, which ends its workers
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        gc.freeze()  # what it has from its caller is the caller's to collect
        for worker in workers:
            os.close(worker.to)
            os.close(worker.back)
        with open(source, "rb") as tasks, open(sink, "wb", buffering=0) as results:
            while length := tasks.read(_LENGTH):
                task = pickle.loads(tasks.read(int.from_bytes(length)))  # noqa: S301  (the caller is our parent)
                answer = memoryview(_answer(work, task))
                while answer:
                    answer = answer[results.write(answer) :]
    except BaseException:  # noqa: BLE001  (a fork must not come back)
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)
    os._exit(0)


def _answer(work: Callable[[Any], object], task: object) -> bytes:
    try:
        return _message((None, work(task)))
    except Exception as error:  # noqa: BLE001  (the caller raises it)
        return _message((error, None))
