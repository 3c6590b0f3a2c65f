"""Byte streams to a remote: a socket, a program's pipes, HTTP requests. Runs in the transfer child only.

Every wait has an end (`connect_seconds`, `idle_seconds`) and every byte received is counted (`wire_bytes`).
Nothing is followed elsewhere: a redirect is taken within the same origin only, so credentials stay at home.
"""

from __future__ import annotations

import ctypes
import os
import resource
import select
import shlex
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import BinaryIO, Protocol

from dulwich.protocol import Protocol as PktLines

from gitrel.errors import RemoteError
from gitrel.store.limits import Limits, over_limit
from gitrel.store.location import GitConfig, Location

_CHUNK = 65536
_WORDS = 1000  # characters of the server's that are shown
_COMPLAINT = 4096  # bytes kept of what a program says on stderr
_PR_SET_PDEATHSIG = 1  # prctl(2)

# What git clears for a local transport, as `git rev-parse --local-env-vars` lists it.
_OF_ANOTHER_REPOSITORY = {
    "GIT_ALTERNATE_OBJECT_DIRECTORIES",
    "GIT_COMMON_DIR",
    "GIT_CONFIG",
    "GIT_CONFIG_COUNT",
    "GIT_CONFIG_PARAMETERS",
    "GIT_DIR",
    "GIT_GRAFT_FILE",
    "GIT_IMPLICIT_WORK_TREE",
    "GIT_INDEX_FILE",
    "GIT_INTERNAL_SUPER_PREFIX",
    "GIT_NO_REPLACE_OBJECTS",
    "GIT_OBJECT_DIRECTORY",
    "GIT_PREFIX",
    "GIT_REPLACE_REF_BASE",
    "GIT_SHALLOW_FILE",
    "GIT_WORK_TREE",
}

_SERVE = (
    "import sys; sys.path[:] = {path!r}\n"
    "from gitrel.store.wire import serve_upload_pack\n"
    "sys.exit(serve_upload_pack(sys.argv[1]))\n"
)


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

    def __init__(self, where: str, meter: Meter, connect: Callable[[str], _Stream]) -> None:
        self.where = where
        self.meter = meter
        self._connect = connect
        self._stream: _Stream | None = None

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

    def _connected(self) -> _Stream:
        if self._stream is None:
            raise RuntimeError("a request without an advertisement")
        return self._stream


class _Stream:
    """Reads and writes of one connection, none of which waits for ever."""

    def __init__(
        self, meter: Meter, reader: int, writer: int, *, errors: int | None, close: Callable[[], None]
    ) -> None:
        self._meter = meter
        self._reader, self._writer, self._errors = reader, writer, errors
        self._close = close
        self._ahead = b""
        self._said = b""
        self.lines = PktLines(self.read, self.write)
        for fd in {reader, writer, *([errors] if errors is not None else [])}:
            os.set_blocking(fd, False)

    def read(self, size: int) -> bytes:
        """`size` bytes, fewer only at the end of the stream."""
        parts, wanted = [self._ahead[:size]], size - len(self._ahead)
        self._ahead = self._ahead[size:]
        while wanted > 0:
            self._wait(self._reader, select.POLLIN)
            data = os.read(self._reader, _CHUNK)
            if not data:
                break
            self._meter.count(len(data))
            parts.append(data[:wanted])
            self._ahead = data[wanted:]
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


def open_line(
    location: Location, meter: Meter, config: GitConfig, env: Mapping[str, str], *, interactive: bool
) -> Line:
    """The line to a remote, by its scheme; nothing is connected yet."""
    match location.scheme:
        case "local":
            return StreamLine(location.safe, meter, lambda service: _local(location, meter, env, service))
        case "git":
            return StreamLine(location.safe, meter, lambda service: _tcp(location, meter, service))
        case "ssh":
            command = _ssh_command(config, env, meter.limits, interactive=interactive)
            return StreamLine(location.safe, meter, lambda service: _ssh(location, meter, command, env, service))
        case _:
            from gitrel.store.http import HttpLine  # urllib3 takes 40 ms to import

            return HttpLine(location, meter, config)


def _tcp(location: Location, meter: Meter, service: str) -> _Stream:
    """git-daemon(1); the host and the protocol's version follow the path (gitprotocol-pack(5))."""
    port = location.port or 9418
    try:
        link = socket.create_connection((location.host, port), timeout=meter.limits.connect_seconds)
    except OSError as error:
        raise unreachable(error) from error
    link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    stream = _Stream(meter, link.fileno(), link.fileno(), errors=None, close=link.close)
    host = f"[{location.host}]" if ":" in location.host else location.host
    extra = "\0version=2\0" if service == "git-upload-pack" else ""
    line = f"{service} {location.path}\0host={host}:{port}\0{extra}".encode()
    stream.write(b"%04x" % (len(line) + 4) + line)
    return stream


def _ssh_command(config: GitConfig, env: Mapping[str, str], limits: Limits, *, interactive: bool) -> list[str]:
    """The program and its options by git's rules: GIT_SSH_COMMAND, core.sshCommand, GIT_SSH (git(1)).

    GIT_SSH is a wrapper that may understand no options. Without a terminal ssh must not wait for an answer.
    """
    text = env.get("GIT_SSH_COMMAND") or config.get(("core",), "sshCommand")
    if text is None and env.get("GIT_SSH"):
        return [env["GIT_SSH"]]
    options = ["-o", f"ConnectTimeout={limits.connect_seconds}", "-o", "SendEnv=GIT_PROTOCOL"]
    batch = [] if interactive else ["-o", "BatchMode=yes"]
    return [*shlex.split(text or "ssh"), *options, *batch]


def _ssh(location: Location, meter: Meter, command: list[str], env: Mapping[str, str], service: str) -> _Stream:
    host = f"{location.user}@{location.host}" if location.user else location.host
    port = ["-p", str(location.port)] if location.port else []
    path = location.path.replace("'", "'\\''")
    argv = [*command, *port, host, f"{service} '{path}'"]
    return _program(argv, meter, {**env, "GIT_PROTOCOL": "version=2"}, ours=False)


def _local(location: Location, meter: Meter, env: Mapping[str, str], service: str) -> _Stream:
    """git itself where there is one (its hooks run), else dulwich's server for reading, in another process."""
    path = Path(location.path)
    if not path.is_dir():
        raise RemoteError("no such folder", hint="check the path")
    own = {name: value for name, value in env.items() if name not in _OF_ANOTHER_REPOSITORY}
    if git := shutil.which("git", path=env.get("PATH", "")):
        argv = [git, service.removeprefix("git-"), location.path]
        return _program(argv, meter, {**own, "GIT_PROTOCOL": "version=2"}, ours=False)
    if service != "git-upload-pack":
        raise RemoteError("pushing to a local path needs git", hint="install git, or push by ssh or http")
    code = _SERVE.format(path=sys.path)
    return _program([sys.executable, "-I", "-c", code, location.path], meter, own, ours=True)


def _program(argv: list[str], meter: Meter, env: Mapping[str, str], *, ours: bool) -> _Stream:
    try:
        process = subprocess.Popen(
            argv,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            env=env,
            preexec_fn=_die_with_parent if ours else _be_free_of_limits,  # noqa: PLW1509  (one thread here)
        )
    except OSError as error:
        raise RemoteError(
            f"cannot start {argv[0]}", why=error.strerror or str(error), hint="is it installed?"
        ) from error
    pipes = [pipe for pipe in (process.stdout, process.stdin, process.stderr) if pipe is not None]
    reader, writer, errors = (pipe.fileno() for pipe in pipes)

    def close() -> None:
        for pipe in pipes:
            pipe.close()
        try:
            process.wait(2)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    return _Stream(meter, reader, writer, errors=errors, close=close)


_LIBC = ctypes.CDLL(None, use_errno=True)


def _die_with_parent() -> None:
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _be_free_of_limits() -> None:
    """git and ssh bring their own; ours are measured for what this process does with hostile bytes."""
    _die_with_parent()
    for kind in (resource.RLIMIT_AS, resource.RLIMIT_FSIZE, resource.RLIMIT_CPU):
        resource.setrlimit(kind, (resource.getrlimit(kind)[1],) * 2)


def serve_upload_pack(path: str) -> int:
    """`git upload-pack` for a machine without git, by dulwich, on stdin and stdout.

    It speaks protocol 0 and offers no filter: dulwich 1.2.21 reads the filter where git does not send it.
    """
    from dulwich.errors import NotGitRepository
    from dulwich.server import FileSystemBackend, UploadPackHandler, serve_command

    class Handler(UploadPackHandler):
        def capabilities(self) -> list[bytes]:
            return [name for name in super().capabilities() if name != b"filter"]

    try:
        return serve_command(Handler, ["upload-pack", path], backend=FileSystemBackend("/"))
    except NotGitRepository:
        sys.stderr.write(f"'{path}' does not appear to be a git repository\n")
        return 128


def unreachable(error: OSError) -> RemoteError:
    """A connection that could not be made; `where` is the caller's."""
    why = "timed out" if isinstance(error, TimeoutError) else error.strerror or str(error)
    return RemoteError("cannot reach the remote", why=why, hint="check the URL, the network, and that the server is up")
