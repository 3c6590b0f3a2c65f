"""`gitrel` without the imports: a process that has them all forks for every command.

What developers type is a third of the suite's processes, and most of the time of each is imports. Each command still
is a process of its own, with its own arguments, environment, folder and descriptors; so is the child that it has talk
to a remote, which is a fork of the command. What a supervisor or git's hooks run is started as they start it. With
`GITREL_FRESH=1` in the environment every command and every such child gets a new interpreter.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import io
import json
import os
import pkgutil
import select
import signal
import socket
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import IO, NoReturn

FRESH = bool(os.environ.get("GITREL_FRESH"))
_ROOT = Path(__file__).parents[2]
_LARGEST = 1 << 20  # bytes of a request; Linux takes 128 KiB of one argument or variable


class Forker:
    """Belongs to one process of the suite, and ends with it."""

    def __init__(self) -> None:
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _LARGEST)
        code = f"import sys, forked; forked.serve({theirs.fileno()})"
        with theirs:
            self._server = subprocess.Popen(
                [sys.executable, "-P", "-c", code],
                env={**os.environ, "PYTHONPATH": os.pathsep.join([str(_ROOT), str(Path(__file__).parent)])},
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
            )

        atexit.register(self._close)

    def _close(self) -> None:
        self._socket.close()
        self._server.wait()

    def run(
        self, args: list[str], cwd: Path, env: Mapping[str, str], stdin: bytes, patience: float
    ) -> subprocess.CompletedProcess[bytes]:
        """As `subprocess.run` of `python -P -m gitrel ARGS`. Raises `TimeoutExpired`."""
        with tempfile.TemporaryFile() as given, tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
            given.write(stdin)
            given.seek(0)
            status = self._await(args, cwd, env, [given, out, err], patience)
            for file in (out, err):
                file.seek(0)
            return subprocess.CompletedProcess(args, os.waitstatus_to_exitcode(status), out.read(), err.read())

    def _await(
        self, args: list[str], cwd: Path, env: Mapping[str, str], files: list[IO[bytes]], patience: float
    ) -> int:
        receive, send = os.pipe()
        with open(receive, "rb", 0) as report:
            request = json.dumps({"args": args, "cwd": str(cwd), "env": dict(env)}).encode()
            try:
                socket.send_fds(self._socket, [request], [*(file.fileno() for file in files), send])
            finally:
                os.close(send)
            first = report.read(10)
            assert first, f"gitrel cannot be imported, or the process that forks has ended: {self._server.poll()}"
            pid = int(first)
            if not select.select([report], [], [], patience)[0]:
                os.kill(pid, signal.SIGKILL)
                raise subprocess.TimeoutExpired(args, patience)
            return int(report.read(10))


def serve(number: int) -> None:
    """Fork for each request until the suite's process has ended."""
    import gitrel

    for module in pkgutil.walk_packages(gitrel.__path__, "gitrel."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    gc.collect()
    gc.freeze()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    with socket.socket(fileno=number) as requests:
        while True:
            data, fds, _, _ = socket.recv_fds(requests, _LARGEST, 4)
            if not data:
                return
            if os.fork() == 0:
                requests.close()
                _report(json.loads(data), fds)
            for fd in fds:
                os.close(fd)


def _report(request: dict[str, object], fds: list[int]) -> NoReturn:
    """Fork once more: who tells how it ended cannot be the one that ends."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    report = fds.pop()
    pid = os.fork()
    if pid == 0:
        os.close(report)
        _become(request, fds)
    os.write(report, b"%10d" % pid)
    os.write(report, b"%10d" % os.waitpid(pid, 0)[1])
    os._exit(0)


def _become(request: dict[str, object], fds: list[int]) -> NoReturn:
    """A new interpreter, as far as gitrel can tell."""
    code = 1
    try:
        for number, fd in enumerate(fds):
            os.dup2(fd, number)
            os.close(fd)
        os.chdir(str(request["cwd"]))
        env, args = request["env"], request["args"]
        assert isinstance(env, dict)
        assert isinstance(args, list)
        os.environ.clear()
        os.environ.update(env)
        sys.argv = [str(_ROOT / "gitrel/__main__.py"), *args]
        sys.stdin = io.TextIOWrapper(io.BufferedReader(io.FileIO(0, "rb", closefd=False)), "utf-8")
        sys.stdout = io.TextIOWrapper(io.BufferedWriter(io.FileIO(1, "wb", closefd=False)), "utf-8")
        errors = io.BufferedWriter(io.FileIO(2, "wb", closefd=False))
        sys.stderr = io.TextIOWrapper(errors, "utf-8", "backslashreplace", line_buffering=True)
        from gitrel.cli import main
        from gitrel.store import transfer

        vars(transfer)["subprocess"] = SimpleNamespace(Popen=_Talker, PIPE=subprocess.PIPE)
        code = main()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


class _Talker:
    """The `subprocess.Popen` of the child that talks to a remote, as far as its parent uses it."""

    def __init__(
        self, argv: Sequence[str], *, stderr: IO[bytes], env: Mapping[str, str], process_group: int | None, **_: object
    ) -> None:
        self.returncode: int | None = None
        (given, to), (receive, out) = os.pipe(), os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            for number, fd in enumerate((given, out, stderr.fileno())):
                os.dup2(fd, number)
            _talk(argv, env, process_group)
        os.close(given)
        os.close(out)
        self.stdin, self.stdout = open(to, "wb"), open(receive, "rb")  # noqa: SIM115  (closed by their user)

    def poll(self) -> int | None:
        return self._wait(os.WNOHANG)

    def wait(self) -> int:
        code = self._wait(0)
        assert code is not None
        return code

    def kill(self) -> None:
        if self.poll() is None:
            os.kill(self.pid, signal.SIGKILL)

    def _wait(self, options: int) -> int | None:
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, options)
            self.returncode = os.waitstatus_to_exitcode(status) if pid else None
        return self.returncode


def _talk(argv: Sequence[str], env: Mapping[str, str], process_group: int | None) -> NoReturn:
    """What `python -I -c CODE` does, with the descriptors and signals that it has."""
    code = 1
    try:
        if process_group is not None:
            os.setpgid(0, process_group)
        os.closerange(3, os.sysconf("SC_OPEN_MAX"))
        signal.signal(signal.SIGPIPE, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.environ.clear()
        os.environ.update(env)
        sys.stdin = io.TextIOWrapper(io.BufferedReader(io.FileIO(0, "rb", closefd=False)), "utf-8")
        exec(argv[-1], {"__name__": "__main__"})
        code = 0
    finally:
        if code:
            os.write(2, traceback.format_exc().encode())
        os._exit(code)
