"""What a program that is none of the command line's commands ends with, and what a bug looks like."""

from __future__ import annotations

import sys
from collections.abc import Callable

from gitrel.cli.console import Console, escaped
from gitrel.errors import ExitCode, GitrelError, Interrupted


def outcome(program: Callable[[], object]) -> int:
    """Run it; its exit status. An error has been told, as the command line tells it."""
    try:
        program()
    except GitrelError as error:
        Console().error(error)
        return error.exit_code
    except KeyboardInterrupt:
        Console().error(Interrupted("interrupted"))
        return ExitCode.INTERRUPTED
    except BaseException as error:  # noqa: BLE001 - native code can raise what is no Exception
        return unexpected(error, debug=False)
    return ExitCode.DONE


def unexpected(error: BaseException, debug: bool) -> int:
    if debug:
        import traceback

        traceback.print_exception(error)
    kind = type(error).__name__
    print(
        f"gitrel: something unexpected happened, which is a bug: {kind}: {escaped(str(error))}\n"
        "  next: run it again as `gitrel --debug …` and report what it prints",
        file=sys.stderr,
    )
    return ExitCode.UNEXPECTED
