"""The command line: the only code that prints, reads the environment or exits."""

from __future__ import annotations

import gc
import os
import sys

# A command ends soon, and what it makes in great numbers, modules and records, is in no cycle: to look for cycles as
# often as Python does takes up to a fifth of its time.
COLLECT = (50_000, 20, 100)


def main() -> int:
    """The entry point `gitrel`. Returns the exit status (`gitrel.errors.ExitCode`)."""
    gc.set_threshold(*COLLECT)
    if sys.argv[1:2] == ["exec"]:
        from gitrel.cli.executing import quickly
        from gitrel.cli.outcome import outcome

        if status := outcome(lambda: quickly(sys.argv[2:], os.environ)):  # it returns if there is more to it
            return status
    from gitrel.cli.app import run

    return run()
