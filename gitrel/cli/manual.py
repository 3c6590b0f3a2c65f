"""What each command's help ends with: an example, and the exit codes it may end with.

It is the `epilog` of the command, so the help, `docs/cli.md` and the man page have it from one place
(`gitrel.cli.reference`).
"""

from __future__ import annotations

from gitrel.errors import ExitCode

_ALWAYS = (ExitCode.DONE, ExitCode.UNEXPECTED, ExitCode.USAGE, ExitCode.INTERRUPTED)

# Of what reads a repository's ledgers; of what signs a record and pushes it; of what a server's home can be in.
READING = (ExitCode.REFUSED, ExitCode.NOT_FOUND, ExitCode.REMOTE, ExitCode.LOCAL_STATE, ExitCode.BAD_INPUT)
SIGNING = (*READING, ExitCode.CONFLICT, ExitCode.NO_KEY)
BUILDING = (*SIGNING, ExitCode.BUILD_FAILED)
KEEPING = (ExitCode.NOT_FOUND, ExitCode.LOCAL_STATE)
PULLING = (*KEEPING, ExitCode.REFUSED, ExitCode.CONFLICT, ExitCode.REMOTE, ExitCode.BAD_INPUT, ExitCode.NO_KEY)


def manual(example: str, *codes: ExitCode) -> str:
    """The end of a command's help. 0, 1, 2 and 130 are every command's."""
    listed = ", ".join(f"{int(code)} {spelled(code)}" for code in sorted({*_ALWAYS, *codes}))
    return f"\b\nExample:\n  {example}\n\nExit codes: {listed}."


def parts(epilog: str) -> tuple[str, list[ExitCode]]:
    """The example and the codes that `manual` was given, and 0, 1, 2 and 130."""
    example, _, codes = epilog.removeprefix("\b\nExample:\n  ").partition("\n\nExit codes: ")
    return example, [ExitCode(int(each.split()[0])) for each in codes.split(", ")]


def spelled(code: ExitCode) -> str:
    return code.name.lower().replace("_", " ")
