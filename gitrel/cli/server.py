"""What the server's commands share: the home and its remote."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from gitrel.run.home import Home
from gitrel.store.limits import Limits
from gitrel.store.remote import Remote


def open_home(path: Path | None) -> Home:
    return Home(path or Path.cwd())


def open_remote(url: str, limits: Limits | None = None) -> Remote:
    return Remote.resolve(None, url, env=dict(os.environ), limits=limits, interactive=sys.stdin.isatty())
