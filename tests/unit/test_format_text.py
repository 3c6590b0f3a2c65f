"""Text without control characters."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gitrel.errors import FormatError
from gitrel.format.text import check_text, decode


@pytest.mark.parametrize("code", [*range(0x20), *range(0x7F, 0xA0)])
def test_every_control_character_but_the_newline(code: int) -> None:
    for text in (chr(code), f"a{chr(code)}b", f"é\n{chr(code)}"):
        if code == ord("\n"):
            check_text(text, "text")
        else:
            with pytest.raises(FormatError, match="control character"):
                check_text(text, "text")


@given(text=st.text())
def test_the_rule(text: str) -> None:
    """Accepted is exactly what has neither a control character, LF aside, nor half a surrogate pair."""
    bad = any(unicodedata.category(char) in ("Cc", "Cs") for char in text.replace("\n", ""))
    try:
        check_text(text, "text")
    except FormatError:
        assert bad
    else:
        assert not bad


@given(raw=st.binary())
def test_decoding_loses_nothing(raw: bytes) -> None:
    try:
        text = decode(raw, "text")
    except FormatError:
        return
    assert text.encode() == raw


@pytest.mark.parametrize("raw", [b"\xff", b"\xc0\x80", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"ok\xe2\x80"])
def test_what_is_not_utf_8(raw: bytes) -> None:
    with pytest.raises(FormatError, match="text is not UTF-8"):
        decode(raw, "text")
