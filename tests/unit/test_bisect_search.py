"""Which release `gitrel bisect` tries next, for every place that the first bad one can have."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gitrel.cli.bisect import Result, Search, judge
from gitrel.errors import UsageError


def searched(last: int, first_bad: int, untestable: frozenset[int] = frozenset()) -> tuple[Search, list[int]]:
    search, tried = Search(last), []
    while (number := search.next()) is not None:
        tried.append(number)
        bad = Result.BAD if number >= first_bad else Result.GOOD
        search.tell(number, Result.SKIPPED if number in untestable else bad)
    return search, tried


@given(st.integers(1, 2000).flatmap(lambda last: st.tuples(st.just(last), st.integers(1, last))))
def test_it_finds_the_first_bad_one_in_few_steps(ends: tuple[int, int]) -> None:
    last, first_bad = ends
    search, tried = searched(last, first_bad)
    assert list(search.suspects) == [first_bad]
    assert search.good == first_bad - 1
    assert len(tried) == len(set(tried)) <= math.ceil(math.log2(last)) if last > 1 else tried == []


@given(
    st.integers(1, 60).flatmap(
        lambda last: st.tuples(
            st.just(last), st.integers(1, last), st.frozensets(st.integers(1, max(1, last - 1)), max_size=last)
        )
    )
)
def test_what_cannot_be_tested_is_passed_over(case: tuple[int, int, frozenset[int]]) -> None:
    """The first bad one is always among the suspects, and all of them but the last could not be tested."""
    last, first_bad, untestable = case
    search, tried = searched(last, first_bad, untestable)
    assert len(tried) == len(set(tried))
    assert first_bad in search.suspects
    assert all(each in untestable for each in list(search.suspects)[:-1])
    assert search.left == []


@pytest.mark.parametrize(
    ("status", "result"),
    [(0, Result.GOOD), (1, Result.BAD), (124, Result.BAD), (125, Result.SKIPPED), (126, Result.BAD), (127, Result.BAD)],
)
def test_exit_statuses(status: int, result: Result) -> None:
    assert judge(status, "v1", ["true"]) is result


@pytest.mark.parametrize("status", [128, 139, 255, -9])
def test_a_status_that_says_nothing_ends_the_search(status: int) -> None:
    with pytest.raises(UsageError, match="says nothing of v1"):
        judge(status, "v1", ["true"])
