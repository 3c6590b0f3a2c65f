"""Names of files that are fine here and mean something else, or nothing, on another system."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

_DEVICE = re.compile(r"(?:con|prn|aux|nul|com[1-9¹²³]|lpt[1-9¹²³]|conin\$|conout\$) *(?:[.:].*)?", re.I | re.S)


def odd_names(prefix: str, names: Iterable[str]) -> list[str]:
    """A note for each name in a folder that another system would not have so; `prefix` is the folder's path."""
    notes = []
    same: dict[str, str] = {}
    for name in names:
        if "\\" in name:
            notes.append(f"{prefix}{name}: a backslash separates folders on Windows")
        if name[1:2] == ":":
            notes.append(f"{prefix}{name}: begins like a drive of Windows")
        if _DEVICE.fullmatch(name):
            notes.append(f"{prefix}{name}: the name of a device on Windows")
        folded = name.lower() if name.isascii() else unicodedata.normalize("NFC", name.casefold())
        if same.setdefault(folded, name) != name:
            notes.append(f"{prefix}{name}: on other systems the same name as {same[folded]}")
    return notes
