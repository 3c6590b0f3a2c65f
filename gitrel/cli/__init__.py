"""The command line: the only code that prints, reads the environment or exits."""

from __future__ import annotations

import os
import sys


def main() -> int:
    """The entry point `gitrel`. Returns the exit status (`gitrel.errors.ExitCode`)."""
    if sys.argv[1:2] == ["exec"]:
        from gitrel.cli.executing import quickly
        from gitrel.cli.outcome import outcome

        if status := outcome(lambda: quickly(sys.argv[2:], os.environ)):  # it returns if there is more to it
            return status
    from gitrel.cli.app import run

    return run()
