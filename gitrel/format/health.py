"""`[run.<process>] health` of gitrel.toml, for those who need no more of it."""

from __future__ import annotations

from gitrel.dataclass import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """When a process is healthy: an HTTP `path` answers 2xx or 3xx, the `port` accepts, or the process says so itself
    (`notify`: READY=1 as in sd_notify(3)). `timeout` in seconds."""

    path: str | None = None
    port: bool = False
    notify: bool = False
    timeout: float = 60.0
