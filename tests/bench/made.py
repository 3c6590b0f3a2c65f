"""Folders to measure with: made up after node_modules, or a copy of a folder with one file in a hundred changed."""

from __future__ import annotations

import os
import random
import re
import shutil
from pathlib import Path

WORDS = re.findall(
    r"\w+",
    """
    const let var function return export import default from require module if else for while this new typeof
    undefined null true false async await Promise then catch error value index length options props state ref
""",
)


def make_tree(folder: Path, files: int) -> Path:
    """The same each time: nine files to a folder, sizes as in node_modules (median 1.5 KB, mean 17 KB), text that
    deflates to a third, one file in a hundred noise, one in twenty executable, some links and empty folders.
    """
    chance = random.Random(files)
    text = " ".join(f"{chance.choice(WORDS)}{chance.choice(['', '.', ';', '()'])}" for _ in range(200_000)).encode()
    noise = chance.randbytes(1 << 22)
    for number in range(files):
        package, part = divmod(number, 45)
        below = folder / f"package-{package}" / (f"lib-{part // 9}" if part >= 9 else "")
        if number % 9 == 0:
            below.mkdir(parents=True, exist_ok=True)
        size = min(int(chance.lognormvariate(7.3, 1.9)), 8 << 20)
        source = noise if number % 100 == 99 else text
        start = chance.randrange(len(source))
        body = (source[start:] + source * (size // len(source) + 1))[:size]
        path = below / f"{chance.choice(WORDS)}-{part}.js"
        path.write_bytes(b"// %d\n%s" % (number, body))
        if number % 20 == 19:
            path.chmod(0o755)
        if part == 44:
            (below / "index.js").symlink_to(path.name)
            (below / "empty").mkdir()
    return folder


def change(folder: Path, to: Path, every: int = 100) -> int:
    """A copy in which one file in `every` has another content; how many have."""
    shutil.copytree(folder, to, symlinks=True)
    paths = sorted(Path(parent) / name for parent, _, names in os.walk(to) for name in names)
    changed = [path for path in paths[::every] if not path.is_symlink()]
    for path in changed:
        mode = path.stat().st_mode
        path.chmod(mode | 0o200)
        with path.open("ab") as file:
            file.write(b"\n// changed\n")
        path.chmod(mode)
    return len(changed)
