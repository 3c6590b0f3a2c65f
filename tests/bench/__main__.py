"""The command: `python -m tests.bench [--files N]... [--folder PATH]... [--releases N] [--rounds N] [--scratch DIR]`.

Prints Markdown, progress to stderr. It needs git, and ostree where that is to be compared with. A group of rows is a
module with a function `rows`, which takes a `Job`; add yours to `GROUPS`.
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import gitrel

sys.path.insert(0, str(Path(__file__).parents[1]))  # as pytest has it, and mypy: what is in tests/ has short names

from bench import pull_rows, trees_rows
from bench.made import make_tree
from bench.measure import Row, table
from bench.trees_rows import Job

GROUPS: dict[str, Callable[[Job], list[Row]]] = {"trees": trees_rows.rows, "pull": pull_rows.rows}
SIZES = (300, 3_000, 27_000)


def main() -> None:
    """Everything that was asked for, as it comes."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description="gitrel beside git and ostree")
    parser.add_argument("--files", type=int, action="append", help=f"make a folder of so many files (default: {SIZES})")
    parser.add_argument("--folder", type=Path, action="append", default=[], help="measure on this folder, too")
    parser.add_argument("--releases", type=int, help="make a ledger of so many, and one of ten times as many")
    parser.add_argument("--only", choices=sorted(GROUPS), action="append", help="these groups of rows")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--scratch", type=Path, default=Path(tempfile.gettempdir()), help="the disk to measure on")
    options = parser.parse_args()
    sizes = options.files or ([] if options.folder or options.releases else SIZES)
    print(f"{machine()}; {options.rounds} rounds on {filesystem(options.scratch)}.")
    with tempfile.TemporaryDirectory(prefix="gitrel-bench-", dir=options.scratch) as made:
        scratch = Path(made)
        try:
            for number, (title, folder) in enumerate(folders(scratch, sizes, options.folder)):
                print(f"\n{title}:\n")
                for name in options.only or GROUPS:
                    job = Job(folder=folder, scratch=scratch / f"{number}-{name}", rounds=options.rounds, say=say)
                    job.scratch.mkdir()
                    print(table(GROUPS[name](job)), end="", flush=True)
            if options.releases:
                from bench import ledger_rows  # what it needs of the tests, the others do not

                print(f"\nA ledger of {options.releases:,} releases:\n")
                print(table(ledger_rows.rows(scratch, options.releases, options.rounds, say)), end="", flush=True)
        finally:
            subprocess.run(["chmod", "-R", "u+w", scratch], check=True)


def folders(scratch: Path, sizes: Sequence[int], given: Sequence[Path]) -> Iterator[tuple[str, Path]]:
    """Each with its title."""
    for size in sizes:
        yield describe(f"Made up, {size:,} files", make_tree(scratch / f"made-{size}", size))
    for folder in given:
        yield describe(f"`{folder.name}`", folder.resolve())


def describe(title: str, folder: Path) -> tuple[str, Path]:
    paths = [Path(parent) / name for parent, _, names in os.walk(folder) for name in names]
    size = sum(path.lstat().st_size for path in paths)
    return f"{title} ({len(paths):,} files, {size / 1e6:.0f} MB)", folder


def machine() -> str:
    versions = [f"gitrel {gitrel.__version__}", f"Python {platform.python_version()}"]
    for program in ("git", "ostree"):
        if shutil.which(program):
            said = subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout
            versions.append(f"{program} {re.findall('[0-9][0-9.]+', said)[0]}")
    return f"{os.cpu_count()} processors, Linux {platform.release()}; {', '.join(versions)}"


def filesystem(folder: Path) -> str:
    said = subprocess.run(["df", "--output=fstype", folder], capture_output=True, text=True, check=True)
    return said.stdout.split()[-1]


def say(line: str) -> None:
    print(line, file=sys.stderr)


if __name__ == "__main__":
    main()
