"""How long until the next poll; and with what a look is asked, where the child is played by hand."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gitrel.run import follow
from gitrel.run.follow import JITTER, LONGEST, SPREAD, Follower, Looker, pause
from gitrel.run.formation import Formation, Wish
from gitrel.run.lifecycle import Exit

INTERVALS = st.floats(min_value=0.1, max_value=86400)
JITTERS = st.floats(min_value=0, max_value=1, exclude_max=True)
FORMATION = Formation(release="v1", processes=())


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


class Child:
    """A task that ends when the test says so."""

    started: list[Child]

    def __init__(self, job: Any, _room: object, done: Callable[[Exit], None]) -> None:
        self.argv: list[str] = job.argv
        self._done = done
        self.answer = b""

    def start(self) -> None:
        Child.started.append(self)

    def end(self, wish: Wish) -> None:
        self.answer = wish.encode()
        self._done(Exit(code=0))

    @property
    def last(self) -> str:
        return self.argv[self.argv.index("--last") + 1]


@pytest.fixture
def wishes(monkeypatch: pytest.MonkeyPatch) -> list[Wish]:
    Child.started = []
    monkeypatch.setattr(follow, "Task", Child)
    return []


@pytest.fixture
def follower(wishes: list[Wish]) -> Follower:
    room: Any = SimpleNamespace(journal=SimpleNamespace(say=print))
    looker = Looker(argv=["/look"], env={}, cwd=Path("/"), interval=None, limit=60.0)
    return Follower(looker, room, "first", wishes.append)


def test_a_look_compares_with_the_answer_before_it(follower: Follower, wishes: list[Wish]) -> None:
    follower.look()
    Child.started[0].end(Wish(token="second", wanted=FORMATION))
    follower.look()
    Child.started[1].end(Wish(token="second", same=True))
    assert [child.last for child in Child.started] == ["first", "second"]
    assert [wish.wanted for wish in wishes] == [FORMATION]


@pytest.mark.parametrize("also", ["", "look", "poll"])
def test_a_look_anew_that_has_to_wait_forgets_the_answer_that_comes_meanwhile(follower: Follower, also: str) -> None:
    follower.look()
    if also:
        getattr(follower, also)()
    follower.look_anew()
    assert len(Child.started) == 1
    Child.started[0].end(Wish(token="second", same=True))
    assert [child.last for child in Child.started] == ["first", ""]
    Child.started[1].end(Wish(token="third", wanted=FORMATION))
    follower.look()
    assert Child.started[2].last == "third"
