"""Many followers of one host: what a poll costs, and that they do not come together. Figures: docs/scaling.md."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
from bench.followers import Crowd, add_release, ask, busiest, herd, next_of, served, url_of

PATIENCE = 60.0
FOLLOWERS = 200
EVERY = 60.0


def test_a_poll_costs_the_same_at_any_number_of_releases() -> None:
    with served([10, 5000]) as (daemon, ledgers):
        few, many = (ask(url_of(daemon, ledgers[number]), next_of(number)) for number in (10, 5000))
    assert few == many == (False, few[1])
    assert few[1] < 1000


def test_hundreds_hear_of_a_release_and_come_back_after_an_outage() -> None:
    with served([3]) as (daemon, ledgers):
        crowd = Crowd(url_of(daemon, ledgers[3]), 1.0, next_of(3))
        try:
            crowd.start(FOLLOWERS)
            await_(lambda: len(crowd.asked) >= FOLLOWERS)
            assert crowd.failed == []
            daemon.stop()
            await_(lambda: len(crowd.failed) >= FOLLOWERS)
            add_release(ledgers[3], 4)
            daemon.start()
            await_(lambda: len(crowd.seen) == FOLLOWERS)
        finally:
            crowd.stop()


@pytest.mark.parametrize(
    ("together", "away", "since"), [(True, (0.0, 0.0), 4 * EVERY), (False, (600.0, 1200.0), 1200.0)]
)
def test_no_thundering_herd(together: bool, away: tuple[float, float], since: float) -> None:
    """Neither after all were started at one moment, nor when the remote comes back to all of them."""
    followers = 6000
    moments = herd(followers, EVERY, 2400.0, lambda moment: away[0] <= moment < away[1], together)
    assert busiest([moment for moment in moments if moment >= since]) < 2.5 * followers / EVERY


def await_(done: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.02)
