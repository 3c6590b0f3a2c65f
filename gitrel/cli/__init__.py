"""The command line: the only code that prints, reads the environment or exits."""

from __future__ import annotations


def main() -> int:
    """The entry point `gitrel`. Returns the exit status (`gitrel.errors.ExitCode`)."""
    from gitrel.cli.app import run

    return run()
