"""The pins that this user has accepted, as `known_hosts` keeps host keys: a line `<pin> <app>` each.

The file belongs to the user and lies outside every repository, because what a repository says about its own
trust proves nothing.
"""

from __future__ import annotations

from pathlib import Path

from gitrel.errors import BadInput, FormatError
from gitrel.ids import App, Sha256
from gitrel.store.durable import make_folders, replace_file


def read_known_apps(path: Path) -> dict[Sha256, App]:
    """Raises `BadInput` naming the line; a missing file knows nothing."""
    try:
        text = path.read_text("utf-8")
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput("cannot read the known apps", where=str(path), why=str(error)) from error
    known: dict[Sha256, App] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        first, _, second = line.partition(" ")
        try:
            pin, app = Sha256(first), App(second)
        except FormatError as error:
            raise BadInput(error.what, where=f"{path}:{number}", hint="a line is `<pin> <app>`") from None
        known[pin] = app
    return known


def add_known_app(path: Path, pin: Sha256, app: App) -> None:
    """Remember a pin; durable when it returns."""
    known = read_known_apps(path)
    if pin not in known:
        known[pin] = app
        make_folders(path.parent)
        replace_file(path, "".join(f"{each} {name}\n" for each, name in known.items()).encode(), 0o600)
