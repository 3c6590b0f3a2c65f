"""The targets under atheris (libFuzzer for Python), which looks for inputs that reach new code.

    pip install atheris
    python tests/fuzz/fuzz_atheris.py record -max_total_time=60 [-rss_limit_mb=2048] [CORPUS-FOLDER]

Without a corpus folder it starts from the seeds. A finding ends it, with the input in a file `crash-…`.
"""

from __future__ import annotations

import importlib
import sys
import tempfile
from pathlib import Path


def main(argv: list[str]) -> None:
    atheris = importlib.import_module("atheris")  # not among the test dependencies
    with atheris.instrument_imports(include=["gitrel"]):
        from fuzz_targets import SEEDS, TARGETS, close
    if len(argv) < 2 or argv[1] not in TARGETS:
        print(f"usage: {argv[0]} TARGET [libFuzzer's flags]; TARGET is one of {', '.join(TARGETS)}", file=sys.stderr)
        raise SystemExit(2)
    name, rest = argv[1], argv[2:]

    def one(data: bytes) -> None:
        TARGETS[name](data)

    with tempfile.TemporaryDirectory(prefix="corpus-") as folder:
        if all(word.startswith("-") for word in rest):
            for number, seed in enumerate(SEEDS[name]):
                (Path(folder) / str(number)).write_bytes(seed)
            rest.append(folder)
        atheris.Setup([argv[0], *rest], one)
        try:
            atheris.Fuzz()
        finally:
            close()


if __name__ == "__main__":
    main(sys.argv)
