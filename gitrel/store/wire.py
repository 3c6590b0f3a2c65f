"""Byte streams to a remote: a socket, a program's pipes, HTTP requests. Runs in the transfer child only.

Every wait has an end (`connect_seconds`, `idle_seconds`) and every byte received is counted (`wire_bytes`).
Nothing is followed elsewhere: a redirect is taken within the same origin only, so credentials stay at home.
"""

from __future__ import annotations

import os
import select
from collections.abc import Callable
from typing import BinaryIO, Protocol

from dulwich.protocol import Protocol as PktLines

from gitrel.errors import RemoteError
from gitrel.store.limits import Limits, over_limit

_CHUNK = 65536
_WORDS = 1000  # characters of the server's that are shown
_COMPLAINT = 4096  # bytes kept of what a program says on stderr


def escaped(raw: bytes | str) -> str:
    """A server's words, the last thousand characters, harmless to a terminal: what is unprintable is spelled out."""
    text = raw.decode("utf-8", "backslashreplace") if isinstance(raw, bytes) else raw
    text = " ".join(text.split())
    text = "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)
    return text[-_WORDS:]


class Meter:
    """Counts what came from the remote."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.received = 0

    def count(self, size: int) -> None:
        self.received += size
        if self.received > self.limits.wire_bytes:
            raise over_limit("wire_bytes", self.limits.wire_bytes, "bytes received")


class Line(Protocol):
    """A remote's git service, one conversation at a time.

    `advertisement` opens the service and gives what it says first; `request` sends a body and gives the answer;
    `goodbye` asks for nothing more, `complaint` is what the other side said beside the protocol, `close` ends it all.
    """

    where: str
    meter: Meter

    def advertisement(self, service: str) -> PktLines: ...
    def request(self, body: BinaryIO) -> PktLines: ...
    def goodbye(self) -> None: ...
    def complaint(self) -> str: ...
    def close(self) -> None: ...


class StreamLine:
    """A connection that both sides keep open: git://, ssh, a local program."""

    def __init__(self, where: str, meter: Meter, connect: Callable[[str], Stream]) -> None:
        self.where = where
        self.meter = meter
        self._connect = connect
        self._stream: Stream | None = None

    def advertisement(self, service: str) -> PktLines:
        self.close()
        self._stream = self._connect(service)
        return self._stream.lines

    def request(self, body: BinaryIO) -> PktLines:
        stream = self._connected()
        while chunk := body.read(_CHUNK):
            stream.write(chunk)
        return stream.lines

    def goodbye(self) -> None:
        """A flush where a request is awaited: the server ends without a complaint in its log."""
        self._connected().write(b"0000")

    def complaint(self) -> str:
        return self._stream.complaint() if self._stream else ""

    def close(self) -> None:
        if self._stream is not None:
            self._stream.close()
        self._stream = None

    def _connected(self) -> Stream:
        if self._stream is None:
            raise RuntimeError("a request without an advertisement")
        return self._stream


class Stream:
    """Reads and writes of one connection, none of which waits for ever."""

    def __init__(
        self, meter: Meter, reader: int, writer: int, *, errors: int | None, close: Callable[[], None]
    ) -> None:
        self._meter = meter
        self._reader, self._writer, self._errors = reader, writer, errors
        self._close = close
        self._ahead = b""
        self._at = 0  # what was read of it
        self._said = b""
        self.lines = PktLines(self.read, self.write)
        for fd in {reader, writer, *([errors] if errors is not None else [])}:
            os.set_blocking(fd, False)

    def read(self, size: int) -> bytes:
        """`size` bytes, fewer only at the end of the stream."""
        end = self._at + size
        found = self._ahead[self._at : end]
        self._at = end
        if len(found) == size:  # mostly: a list of refs is a hundred thousand small reads
            return found
        parts, wanted = [found], size - len(found)
        self._ahead, self._at = b"", 0
        while wanted > 0:
            self._wait(self._reader, select.POLLIN)
            data = os.read(self._reader, _CHUNK)
            if not data:
                break
            self._meter.count(len(data))
            parts.append(data[:wanted])
            self._ahead, self._at = data, min(wanted, len(data))
            wanted -= len(data)
        return b"".join(parts)

    def write(self, data: bytes) -> int:
        view = memoryview(data)
        while view:
            self._wait(self._writer, select.POLLOUT)
            view = view[os.write(self._writer, view) :]
        return len(data)

    def complaint(self) -> str:
        """What the program said on stderr, as far as it has; it is given a moment to say it."""
        while self._errors is not None and select.select([self._errors], [], [], 1.0)[0]:
            self._listen(self._errors)
        return self._said.decode("utf-8", "replace").strip()

    def close(self) -> None:
        self._close()

    def _wait(self, fd: int, event: int) -> None:
        while True:
            poll = select.poll()
            poll.register(fd, event)
            if self._errors is not None:
                poll.register(self._errors, select.POLLIN)
            ready = [at for at, _ in poll.poll(self._meter.limits.idle_seconds * 1000)]
            if not ready:
                raise RemoteError(
                    "the remote does not answer",
                    why=f"nothing came for {self._meter.limits.idle_seconds} seconds (limit idle_seconds)",
                    hint="try again later, or raise the limit idle_seconds",
                )
            if self._errors is not None and self._errors in ready:
                self._listen(self._errors)
            if fd in ready:
                return

    def _listen(self, errors: int) -> None:
        data = os.read(errors, _CHUNK)
        self._said = (self._said + data)[-_COMPLAINT:]
        if not data:
            self._errors = None


def unreachable(error: OSError) -> RemoteError:
    """A connection that could not be made; `where` is the caller's."""
    why = "timed out (limit connect_seconds)" if isinstance(error, TimeoutError) else error.strerror or str(error)
    return RemoteError("cannot reach the remote", why=why, hint="check the URL, the network, and that the server is up")
