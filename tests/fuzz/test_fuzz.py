"""Every target for a few seconds: seeds changed by a fixed sequence of mutations, the same in every run.

For longer, with coverage to guide it: `python tests/fuzz/fuzz_atheris.py TARGET -max_total_time=60`.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Iterator

import pytest
from fuzz_targets import SEEDS, TARGETS, close
from hypothesis import given, settings
from hypothesis import strategies as st

ROUNDS = int(os.environ.get("GITREL_FUZZ_ROUNDS", "4000"))
PATIENCE = 2.0  # seconds for one input, on any machine
WORDS = (
    b"\0", b"\n", b"\n\n", b"\r\n", b" ", b"=", b"\x1b[2J", b"\xff\xfe", "\u202e".encode(), b"{", b"[[", b'"""', b"'",
    b"parent ", b"gpgsig ", b"v0", b"-1", b"9" * 30, b"\xff" * 8, b"\x7f\xff\xff\xff", b"AAAA", b"../", b"a." * 40,
)  # fmt: skip


@pytest.fixture(autouse=True, scope="module")
def _closed() -> Iterator[None]:
    yield
    close()


def mutated(seeds: list[bytes], rng: random.Random) -> bytes:
    """One to four changes: bits, bytes, slices taken out, doubled or from another seed, words that parsers mind."""
    data = rng.choice(seeds)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(data) + 1)
        end = min(len(data), at + rng.choice((1, 2, 8, 64)))
        match rng.randrange(6):
            case 0 if at < len(data):
                data = data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1 :]
            case 1:
                data = data[:at] + data[end:]
            case 2:
                data = data[:end] + data[at:end] * rng.choice((1, 2, 50)) + data[end:]
            case 3:
                other = rng.choice(seeds)
                start = rng.randrange(len(other) + 1)
                data = data[:at] + other[start : start + 64] + data[at:]
            case 4:
                data = data[:at] + rng.choice(WORDS) + data[end:]
            case _:
                data = data[:at] + rng.randbytes(rng.choice((1, 4, 20))) + data[end:]
    return data


@pytest.mark.parametrize("name", TARGETS)
def test_nothing_but_refusals_leaves(name: str) -> None:
    rng = random.Random(name)
    for _ in range(ROUNDS):
        data = mutated(SEEDS[name], rng)
        began = time.monotonic()
        try:
            TARGETS[name](data)
        except Exception as error:  # whatever it is, it is the finding; with the input that brought it
            raise AssertionError(f"{name}: {type(error).__name__}: {error}\n{data!r}") from error
        assert time.monotonic() - began < PATIENCE, f"{name}: slow\n{data!r}"


@pytest.mark.parametrize("name", TARGETS)
def test_seeds_are_accepted(name: str) -> None:
    """What is mutated is good, and there is some for every target."""
    assert set(SEEDS) == set(TARGETS)
    assert SEEDS[name]
    for seed in SEEDS[name]:
        assert TARGETS[name](seed), seed


@pytest.mark.parametrize("name", [name for name in TARGETS if name not in ("pack", "stream")])
@settings(max_examples=60, deadline=None, derandomize=True, database=None)
@given(data=st.binary(max_size=400))
def test_any_bytes(name: str, data: bytes) -> None:
    TARGETS[name](data)
