"""How long until the next poll."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gitrel.run.follow import JITTER, LONGEST, SPREAD, pause

INTERVALS = st.floats(min_value=0.1, max_value=86400)
JITTERS = st.floats(min_value=0, max_value=1, exclude_max=True)


@given(INTERVALS, JITTERS)
def test_an_interval_apart_while_all_is_well(interval: float, jitter: float) -> None:
    assert interval * (1 - JITTER) <= pause(interval, 0, jitter) <= interval * (1 + JITTER)


@given(INTERVALS, st.integers(1, 10_000), JITTERS)
def test_failures_make_it_longer_up_to_an_end(interval: float, failures: int, jitter: float) -> None:
    found = pause(interval, failures, jitter)
    assert interval * SPREAD <= found <= max(interval, LONGEST) * (1 + SPREAD)
    assert pause(interval, failures + 1, jitter) >= found


def test_the_figures() -> None:
    assert [pause(30, failures, 0.5) for failures in range(7)] == [30, 60, 120, 240, 480, 600, 600]
    assert pause(3600, 5, 0.5) == 3600


@given(INTERVALS, st.integers(1, 20))
def test_servers_that_lost_one_remote_together_spread_out(interval: float, failures: int) -> None:
    waits = [pause(interval, failures, number / 100) for number in range(100)]
    assert max(waits) > 2.5 * min(waits)
