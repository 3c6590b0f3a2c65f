"""What the processes say, line by line: `12:34:56 web.1 | text`.

- A line is written whole: one queue, fed with finished lines only. A process's stdout and stderr are two
  streams.
- A process's bytes are passed on as they are, escape sequences and invalid UTF-8 included: it is the app's
  own log. What gitrel says itself (`gitrel | …`) has its control characters escaped: part of it comes from
  elsewhere.
- Nothing is lost: when the reader of our output falls behind, we stop reading from the processes, which then
  wait in their write(2). The loop itself never waits for that reader.
- A line over `MAX_LINE` bytes is split, not held. The last line needs no newline.
"""

from __future__ import annotations

import errno
import fcntl
import os
import select
import struct
import termios
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress

from gitrel.run.loop import Loop

MAX_LINE = 64 * 1024  # bytes
QUEUE_HIGH = 1024 * 1024  # bytes that wait to be written before we stop reading
QUEUE_LOW = QUEUE_HIGH // 2
TAIL = 50  # lines of a process that are remembered, for the case that its release fails
TAIL_WIDTH = 1000  # bytes of each
_READ = 64 * 1024
_PIPE_BUF = select.PIPE_BUF  # a pipe that polls writable takes this much without blocking (pipe(7))
_COLOURS = (36, 33, 32, 35, 34, 31)  # of foreman: cyan, yellow, green, magenta, blue, red
_MAY_PASS = (errno.ENOSPC, errno.EDQUOT)
OWN = "gitrel"


class Lines:
    """Bytes in pieces -> whole lines without their newline. Pure."""

    def __init__(self, longest: int = MAX_LINE) -> None:
        self._longest = longest
        self._rest = b""

    def feed(self, data: bytes) -> list[bytes]:
        *whole, rest = (self._rest + data).split(b"\n")
        lines = [piece for line in whole for piece in self._pieces(line)]
        *more, self._rest = self._pieces(rest)
        return lines + more

    def flush(self) -> list[bytes]:
        rest, self._rest = self._rest, b""
        return [rest] if rest else []

    def _pieces(self, line: bytes) -> list[bytes]:
        pieces = []
        while len(line) > self._longest:
            end = _character_start(line, self._longest)
            pieces.append(line[:end])
            line = line[end:]
        return [*pieces, line]


def _character_start(line: bytes, end: int) -> int:
    """`end`, or up to three bytes before it, so that no UTF-8 sequence is cut in two."""
    for at in range(end, max(end - 4, 0), -1):
        if line[at] & 0xC0 != 0x80:
            return at
    return end


class Sink:
    """Writes to one descriptor, in order, never blocking on a pipe or terminal that is full."""

    def __init__(self, loop: Loop, fd: int) -> None:
        self._loop = loop
        self._fd = fd
        self._queue: deque[bytes] = deque()
        self._size = 0
        self._watched = False
        self._paused: list[Callable[[], None]] = []
        self._poll = select.poll()
        self._poll.register(fd, select.POLLOUT)
        self.broken = False

    @property
    def full(self) -> bool:
        return self._size >= QUEUE_HIGH

    @property
    def empty(self) -> bool:
        return not self._queue

    def when_roomy(self, resume: Callable[[], None]) -> None:
        """Call `resume` once there is room again."""
        self._paused.append(resume)

    def put(self, line: bytes) -> None:
        if self.broken:
            return
        self._queue.append(line)
        self._size += len(line)
        if not self._watched:
            self._write()

    def _write(self) -> None:
        while self._queue and (ready := self._poll.poll(0)):
            if ready[0][1] & select.POLLNVAL:
                self._break()
                return
            data = self._gather()
            try:
                written = os.write(self._fd, data)
            except BlockingIOError:
                break
            except OSError as error:
                if error.errno not in _MAY_PASS:
                    self._break()
                    return
                written = len(data)  # the disk that the log goes to is full: this much is lost
            self._drop(written)
        self._watch(bool(self._queue))
        if self._paused and self._size <= QUEUE_LOW:
            self._resume()

    def _gather(self) -> bytes:
        data = bytearray()
        for line in self._queue:
            data += line[: _PIPE_BUF - len(data)]
            if len(data) >= _PIPE_BUF:
                break
        return bytes(data)

    def _drop(self, written: int) -> None:
        self._size -= written
        while written:
            line = self._queue.popleft()
            if len(line) > written:
                self._queue.appendleft(line[written:])
                return
            written -= len(line)

    def _watch(self, on: bool) -> None:
        if on and not self._watched:
            self._loop.writing(self._fd, self._write)
        elif self._watched and not on:
            self._loop.forget(self._fd)
        self._watched = on

    def _break(self) -> None:
        """The reader has gone. What is said from here on is lost, but the processes can go on saying it."""
        self.broken = True
        self._queue.clear()
        self._size = 0
        self._watch(False)
        self._resume()

    def _resume(self) -> None:
        paused, self._paused = self._paused, []
        for resume in paused:
            resume()


class Journal:
    """Puts the time and a name before each line. `clock` gives seconds since the epoch; the time shown is
    local.
    """

    def __init__(self, sink: Sink, *, colour: bool = False, clock: Callable[[], float] = time.time) -> None:
        self.sink = sink
        self._colour = colour
        self._clock = clock
        self._colours: dict[str, int] = {}

    def line(self, name: str, text: bytes) -> None:
        prefix = f"{time.strftime('%H:%M:%S', time.localtime(self._clock()))} {name} |"
        if self._colour:
            colour = self._colours.setdefault(name, _COLOURS[len(self._colours) % len(_COLOURS)])
            prefix = f"\x1b[0;{colour}m{prefix}\x1b[0m"
        self.sink.put(prefix.encode() + b" " + text + b"\n")

    def say(self, text: str) -> None:
        """A line of gitrel's own."""
        shown = "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)
        self.line(OWN, shown.encode("utf-8", "backslashreplace"))


class Stream:
    """One pipe of one process, read until its end or until `finish`. `tail` gets each line too."""

    def __init__(self, loop: Loop, journal: Journal, name: str, fd: int, tail: deque[bytes] | None = None) -> None:
        self._loop = loop
        self._journal = journal
        self._name = name
        self._fd = fd
        self._tail = tail
        self._lines = Lines()
        loop.reading(fd, self._readable)

    def _readable(self) -> None:
        if self._journal.sink.full:
            self._loop.forget(self._fd)
            self._journal.sink.when_roomy(self._go_on)
            return
        if not self._read(_READ):
            self._close()

    def _go_on(self) -> None:
        if self._fd >= 0:
            self._loop.reading(self._fd, self._readable)

    def _read(self, most: int) -> int:
        """Bytes read; 0 at the end, -1 if there is nothing to read now."""
        try:
            data = os.read(self._fd, most)
        except BlockingIOError:
            return -1
        self._pass_on(self._lines.feed(data))
        return len(data)

    def _pass_on(self, lines: list[bytes]) -> None:
        for line in lines:
            self._journal.line(self._name, line)
        if self._tail is not None:
            self._tail.extend(line[:TAIL_WIDTH] for line in lines)

    def drain(self) -> None:
        """Take what is in the pipe now, and not what somebody may still add to it."""
        if self._fd < 0:
            return
        left = struct.unpack("i", fcntl.ioctl(self._fd, termios.FIONREAD, b"\0" * 4))[0]
        while left > 0 and (count := self._read(left)) > 0:
            left -= count

    def finish(self) -> None:
        """The process is gone: take what it left."""
        if self._fd >= 0:
            self.drain()
            self._close()

    def _close(self) -> None:
        self._pass_on(self._lines.flush())
        self._loop.forget(self._fd)
        with suppress(OSError):
            os.close(self._fd)
        self._fd = -1
