"""What a release may be called, and what is said of a name that is none."""

from __future__ import annotations

import re
import time
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from keys_support import ed25519_key
from simulator import Simulator, policy

from gitrel.cli.console import Console
from gitrel.cli.naming import named_entry, parse_time
from gitrel.errors import NotFound, Refused, UsageError
from gitrel.format.commit import Stamp
from gitrel.ids import PRODUCTION, Entry, ObjectId
from gitrel.release.cut import Standing

MALLORY = ed25519_key("mallory")
SOURCE = [ObjectId(f"{number}{number}" * 20) for number in (1, 2, 3)]
ALIKE = ObjectId("1" * 12 + "0" * 28)  # begins as SOURCE[0] does


def stamp(text: str) -> Stamp:
    seconds = int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp())
    return Stamp(name="Al", email="al@example.org", time=seconds, zone="+0000")


def ledger() -> Standing:
    """v1 to v3 on three days of 2011; v4 by mallory; v5 of v2's source, dated long ago; v6; v7 repudiated."""
    sim = Simulator()
    sim.trust()
    builds = [sim.build({"Procfile": b"web: x\n", "n": source.encode()}, source=source) for source in (*SOURCE, ALIKE)]
    sim.release(builds[0], stamp=stamp("2011-04-05"))
    sim.release(builds[1], stamp=stamp("2011-04-06"))
    sim.release(builds[2], stamp=stamp("2011-04-07"))
    sim.release(builds[2], by=MALLORY, stamp=stamp("2011-04-07T12:00"))
    sim.release(builds[1], stamp=stamp("1999-01-01"))
    sim.release(builds[3], stamp=stamp("2011-04-08"))
    sim.release(builds[3], stamp=stamp("2011-04-09"))
    sim.trust(policy(repudiated={PRODUCTION: (Entry(7),)}))
    return Standing(trust=sim.chain(), deploy=PRODUCTION, verdicts=tuple(sim.verdicts()))


LEDGER = ledger()
IDS = {int(verdict.entry): verdict.id for verdict in LEDGER.verdicts}


def find(text: str, now: Standing = LEDGER) -> Entry:
    return named_entry(Console(), now, text)


def test_the_ledger_is_what_its_docstring_says() -> None:
    checks = [verdict.refusal.check if verdict.refusal else 0 for verdict in LEDGER.verdicts]
    assert checks == [0, 0, 0, 5, 0, 0, 14]


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("v2", 2),
        ("2", 2),
        ("v4", 4),  # there is one, whatever the verdict
        ("v99", 99),  # whether there is one is not asked here
        ("latest", 6),
        (IDS[3].oid, 3),
        (IDS[3].oid[:7], 3),
        (IDS[3].oid[:7].upper(), 3),
        (IDS[4].oid[:9], 4),
        (IDS[3].sha256[:16], 3),
        (SOURCE[2], 3),
        (SOURCE[2][:7], 3),
        ("@2011-04-06T20:32:17Z", 2),
        ("@2011-04-07T20:00Z", 3),  # v4 never ran
        ("@2011-04-08T23:00Z", 6),  # v5 says that it is from 1999
        ("@1999-06-01", 5),
        ("@2011-04-10", 7),  # it ran, and was repudiated later
    ],
)
def test_names(text: str, number: int) -> None:
    assert find(text) == number


def test_of_several_releases_of_one_source_the_newest_and_it_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert find(SOURCE[1][:8]) == 5
    assert capsys.readouterr().err == "note: 22222222 is the source of 2 releases; v5 is the newest\n"


def test_a_time_is_said_to_be_a_claim(capsys: pytest.CaptureFixture[str]) -> None:
    find("@2011-04-06T20:32:17Z")
    assert capsys.readouterr().err == "note: @2011-04-06T20:32:17Z is v2, by the times that releases claim\n"


def test_a_time_without_a_zone_is_local(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "Pacific/Auckland")
    time.tzset()
    assert find("@2011-04-06T11:59") == 1, "noon of the 6th, there, is midnight in UTC"
    assert find("@2011-04-06T12:01") == 2
    assert find("@2011-04-06T12:01+02:00") == 2
    assert find("@2011-04-06T01:59+02:00") == 1


@pytest.mark.parametrize(
    ("text", "error", "what", "why"),
    [
        ("vN", UsageError, "not a release such as v12: 'vN'", "did you mean v"),
        ("v01", UsageError, "not a release such as v12: 'v01'", "did you mean v1"),
        ("lates", UsageError, "not a release", "did you mean latest"),
        ("release v3", UsageError, "not a release", ""),
        ("", UsageError, "not a release such as v12: ''", ""),
        ("v9999999999", UsageError, "not a release", ""),
        ("abcdef", UsageError, "not a release", ""),  # six digits are too few
        ("@yesterday", UsageError, "not a time: 'yesterday'", "no date"),
        ("@2011-13-01", UsageError, "not a time", "month"),
        ("@", UsageError, "not a time: ''", ""),
        ("@1990-01-01", NotFound, "no release of production at 1990-01-01", "the first claims 1999-01-01"),
        ("1234567", NotFound, "no release 1234567", "no release, and no source"),
        ("1111111", NotFound, "1111111 is no single id", "2 begin so: 1{40} .source of v1., 1{12}0+ .source of v6."),
        (SOURCE[2][:9] + "9", NotFound, "no release 3333333339", "did you mean 3333333333"),
        ("f" * 64, NotFound, "no release f+$", ""),
    ],
)  # fmt: skip
def test_what_names_nothing(text: str, error: type[UsageError | NotFound], what: str, why: str) -> None:
    with pytest.raises(error) as caught:
        find(text)
    assert type(caught.value) is error
    assert re.match(what, caught.value.what)
    assert re.search(why, caught.value.why)
    assert caught.value.hint


def test_names_in_an_empty_ledger() -> None:
    empty = Standing(trust=LEDGER.trust, deploy=PRODUCTION, verdicts=())
    for text in ("latest", "@2011-04-06", "abcdef1"):
        with pytest.raises(NotFound):
            find(text, empty)


def test_what_may_not_run_is_found_and_refused() -> None:
    with pytest.raises(Refused, match="repudiated"):
        LEDGER.good(find("@2011-04-10"))


@given(st.text(max_size=30) | st.from_regex(r"@?\d{1,5}-\d\d-\d\d[T ]?.{0,12}", fullmatch=True))
def test_any_words_are_a_release_or_an_error_of_ours(text: str) -> None:
    try:
        assert find(text) >= 1
    except (UsageError, NotFound) as error:
        assert error.hint


@given(st.integers(0, 2**34))
def test_times_are_iso_8601(seconds: int) -> None:
    assert parse_time(datetime.fromtimestamp(seconds, UTC).isoformat(), "--since") == seconds
