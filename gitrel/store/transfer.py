"""The child process that talks to a remote, and the parent's hold on it.

    parent                                  child (python -I, its own process group)
      Child.ask("fetch", …) ──JSON line──▶  limits set, dies with its parent
      waits, at most wall_seconds           conversation, ingest, into the quarantine only
      result or RemoteError ◀──JSON line──  {"ok": …} or {"error": …}

Whatever the remote makes of the child — an exception, a native panic, no more memory, a signal — is a
`RemoteError` in the parent. One child serves one `Remote` for as long as that is open: starting one costs 150 ms.
"""

from __future__ import annotations

import json
import os
import resource
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, cast

from gitrel.dataclass import asdict
from gitrel.errors import Conflict, GitrelError, LocalStateError, NotFound, RemoteError, UsageError
from gitrel.store.limits import FilterUnsupported, Limits

_ROOT = str(Path(__file__).resolve().parents[2])
_CODE = """\
import json, os, sys
hello = json.loads(sys.stdin.buffer.readline())
sys.path[:] = hello["path"]
from gitrel.store.transfer import serve
serve(hello, dict(os.environ))
"""
_ANSWER = 512 * 1024 * 1024  # bytes of one answer: a million refs
_FILE_SLACK = 64 * 1024 * 1024  # a thin pack grows by its bases


_ERRORS = {
    kind.__name__: kind for kind in (RemoteError, FilterUnsupported, Conflict, LocalStateError, NotFound, UsageError)
}


class Child:
    """A running child. `interactive`: it shares the terminal's process group, so that ssh may ask for a passphrase."""

    def __init__(self, env: Mapping[str, str], limits: Limits, *, interactive: bool) -> None:
        self._limits = limits
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  (closed by `close`)
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-c", _CODE],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env=dict(env),
            process_group=None if interactive else 0,
        )
        self._to = cast("IO[bytes]", self._process.stdin)
        self._from = cast("IO[bytes]", self._process.stdout)
        self._group = not interactive
        hello = {
            "path": [_ROOT, *(path for path in sys.path if os.path.isabs(path))],
            "limits": asdict(limits),
            "parent": os.getpid(),
            "interactive": interactive,
        }
        self._send(hello)

    def ask(self, what: str, where: str, *, within: int | None = None, **arguments: Any) -> Any:
        """Have one command done, `within` so many seconds if that is less than the limit allows. `where` is for the
        messages. Raises what the child reports, or `RemoteError`."""
        self._send({"do": what, **arguments})
        answer = self._receive(where, min(within or self._limits.wall_seconds, self._limits.wall_seconds))
        if "error" not in answer:
            return answer["ok"]
        error = answer["error"]
        raise _ERRORS[error.pop("type")](**error)

    def close(self) -> None:
        """End it, and what it started. Idempotent."""
        with suppress(ProcessLookupError):
            if self._group and self._process.poll() is None:
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.kill()
        self._process.wait()
        for pipe in (self._to, self._from, self._errors):
            with suppress(OSError):  # what was not flushed is of no use any more
                pipe.close()

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def _send(self, message: Mapping[str, Any]) -> None:
        with suppress(BrokenPipeError):  # it died: the wait for its answer says how
            self._to.write(json.dumps(message).encode() + b"\n")
            self._to.flush()

    def _receive(self, where: str, seconds: int) -> dict[str, Any]:
        fd = self._from.fileno()
        deadline = time.monotonic() + seconds
        parts: list[bytes] = []
        size = 0
        while not parts or not parts[-1].endswith(b"\n"):
            ready = select.select([fd], [], [], max(0.0, deadline - time.monotonic()))[0]
            if not ready:
                self.close()
                raise RemoteError(
                    "the remote takes too long",
                    where=where,
                    why=f"more than {seconds} seconds (limit wall_seconds)",
                    hint="try again later, or raise the limit wall_seconds",
                )
            data = os.read(fd, 1 << 20)
            size += len(data)
            if not data or size > _ANSWER:
                raise self._death(where)
            parts.append(data)
        answer: dict[str, Any] = json.loads(b"".join(parts))
        return answer

    def _death(self, where: str) -> RemoteError:
        """Why there is no answer: the status, and the last line that it wrote on stderr."""
        status = self._process.wait()
        self._errors.seek(max(0, self._errors.seek(0, os.SEEK_END) - 2000))
        said = self._errors.read().decode("utf-8", "replace").strip().splitlines()
        self.close()
        if status == -signal.SIGXCPU:
            why = f"more than {self._limits.cpu_seconds} seconds of CPU time (limit cpu_seconds)"
        elif status < 0:
            why = f"killed by signal {-status}"
        else:
            why = said[-1][:300] if said else f"status {status}"
        return RemoteError(
            "the transfer died of what the remote sent", where=where, why=ascii(why)[1:-1], hint="try again"
        )


def serve(hello: Mapping[str, Any], env: Mapping[str, str]) -> None:
    """The child's main loop. Ends with its parent, whatever happens to that."""
    from gitrel.programs import end_with  # the parent has no use for it

    end_with(hello["parent"])
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # nothing but answers goes to the parent
    limits = Limits(**hello["limits"])
    _set_limits(limits)
    from gitrel.store.commands import run

    for line in sys.stdin.buffer:
        try:
            answer = {"ok": run(json.loads(line), env, limits, interactive=hello["interactive"])}
        except GitrelError as error:
            answer = {"error": _as_json(error)}
        except MemoryError:
            why = f"more than {limits.memory_bytes} bytes of memory (limit memory_bytes)"
            answer = {"error": _as_json(RemoteError("the remote went over a limit", why=why))}
        out.write(json.dumps(answer).encode() + b"\n")
        out.flush()


def _as_json(error: GitrelError) -> dict[str, str]:
    kind = type(error).__name__ if type(error).__name__ in _ERRORS else "RemoteError"
    return {"type": kind, "what": error.what, "where": error.where, "why": error.why, "hint": error.hint}


def _set_limits(limits: Limits) -> None:
    """Soft limits only: git and ssh, which the child starts, get the hard ones back."""
    for kind, ceiling in (
        (resource.RLIMIT_AS, limits.memory_bytes),
        (resource.RLIMIT_FSIZE, limits.wire_bytes + _FILE_SLACK),
        (resource.RLIMIT_CPU, limits.cpu_seconds),
    ):
        hard = resource.getrlimit(kind)[1]
        resource.setrlimit(kind, (ceiling if hard == resource.RLIM_INFINITY else min(ceiling, hard), hard))
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # the write fails with EFBIG instead
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
