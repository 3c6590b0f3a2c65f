"""Text as records hold it: UTF-8 without control characters. And sizes as people read them."""

from __future__ import annotations

import unicodedata

from gitrel.errors import FormatError


def decode(raw: bytes, what: str) -> str:
    """UTF-8, strictly, without control characters (Unicode category Cc) other than LF. Raises `FormatError`."""
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise FormatError(f"{what} is not UTF-8", why=f"byte {error.start}") from None
    check_text(text, what)
    return text


def check_text(text: str, what: str) -> None:
    """Raises `FormatError` for a control character other than LF, or text that UTF-8 cannot hold."""
    if text.isascii() and text.replace("\n", "").isprintable():
        return
    for at, char in enumerate(text):
        if char != "\n" and unicodedata.category(char) in ("Cc", "Cs"):
            raise FormatError(f"{what} has a control character", why=f"{char!r} at {at}")


def size(number: int) -> str:
    """`12 KB`, `3.4 MB`, `1.2 GB`."""
    value, unit = number / 1000, "KB"
    for larger in ("MB", "GB", "TB"):
        if value >= 1000:
            value, unit = value / 1000, larger
    return f"{value:.1f} {unit}" if value < 10 and unit != "KB" else f"{value:.0f} {unit}"
