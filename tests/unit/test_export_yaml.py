"""What is written is read again as it was, whatever the version of YAML."""

from __future__ import annotations

from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]
from hypothesis import given
from hypothesis import strategies as st

from gitrel.export.yaml import encode

TEXT = st.text(st.characters(blacklist_categories=["Cs"]), max_size=12)
SCALARS = st.none() | st.booleans() | st.integers() | TEXT
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4), max_leaves=8
)
DOCUMENTS = st.lists(st.dictionaries(TEXT, VALUES, min_size=1), min_size=1, max_size=3)

# YAML 1.1 takes each of these for something that is not text, in one parser or another (yaml.org/type).
AMBIGUOUS = """
    y N yes NO on Off true FALSE null ~ 1 -1 1e3 -1e3 1_000 0777 0o17 0x1F 1.5 .5 1. .inf -.Inf .nan 12:30:45 2026-11-23
    2026-11-23T01:02:03Z = << - -- --- ? ! & * # : | > % @ ` [ ] { } , ' " a: :a a#b #a a\\b é
"""
SPACED = ["", " ", "a ", " a", "a\nb", "a: b", "a #b", "\t", "\x85", "\u2028", "\ufeff"]
PLAIN = ["web", "v7", "/bin/sh", "-c", "--home", "app.kubernetes.io/name", "a@sha256:0f", "e3"]


@given(DOCUMENTS)
def test_it_reads_as_it_was(documents: list[dict[str, Any]]) -> None:
    assert list(yaml.load_all(encode(documents), yaml.CSafeLoader)) == documents


@pytest.mark.parametrize("text", [*AMBIGUOUS.split(), *SPACED])
def test_text_that_could_be_something_else_is_quoted(text: str) -> None:
    line = encode([{"key": text}]).splitlines()[1]
    assert line.startswith('key: "'), line
    assert line.endswith('"'), line
    assert yaml.safe_load(line) == {"key": text}


@pytest.mark.parametrize("text", PLAIN)
def test_plain_words_stay_plain(text: str) -> None:
    assert encode([{text: text}]) == f"---\n{text}: {text}\n"


def test_the_layout() -> None:
    inner = {"b": [1, {"c": True, "d": [["e"], []]}], "f": {}}
    wanted = "---\na:\n  b:\n    - 1\n    - c: true\n      d:\n        - - e\n        - []\n  f: {}\n---\ng: null\n"
    assert encode([{"a": inner}, {"g": None}]) == wanted
