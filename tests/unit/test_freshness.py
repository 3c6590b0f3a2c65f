"""When a server is stale, by any clock; and what a supervisor writes down for its receipts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from simulator import shop

from gitrel.errors import FormatError, LocalStateError
from gitrel.format.manifest import parse_manifest
from gitrel.ids import App, Deploy, Entry, Host, ObjectId, RecordId, Sha256
from gitrel.run.formation import MARK, Formation, Process, mark
from gitrel.run.freshness import held_back, note_staleness
from gitrel.run.home import Home
from gitrel.run.life import Life
from gitrel.run.receipts import MOST, Happening, Outbox, ReceiptRecorder, change_outbox, read_outbox
from gitrel.run.state import State
from gitrel.trust.ledger import ChainedRelease

STATE = State(app=App("shop"), deploy=Deploy("production"), url="u", pin=Sha256("0" * 64))
DAY = 86400.0
SIGNED = 1_700_000_000  # what the simulator's records claim

times = st.floats(0, 4e9)


@given(times, st.floats(0, 1e9), times, st.none() | times)
def test_stale_is_what_is_older_than_asked_for(alive: float, limit: float, now: float, contact: float | None) -> None:
    """It never ends by time going on, nor by a clock that is set back behind the last contact."""
    life = Life(alive=alive, max_silence=limit)
    since = life.stale_since(now, contact)
    assert since in (None, alive + limit)
    assert (since is not None) == (max(now, contact or 0) > alive + limit)
    if since is not None:
        assert life.stale_since(now + 1, contact) == since
        assert life.stale_since(0, max(now, contact or 0)) == since
        assert replace(life, alive=now).stale_since(now, None) is None


def test_nobody_is_stale_who_was_not_asked_to_be() -> None:
    assert Life(alive=0.0).stale_since(1e12, None) is None
    assert Life(max_silence=1.0).stale_since(1e12, None) is None, "nothing was ever seen"


@given(
    st.builds(
        Life,
        alive=st.none() | times,
        heartbeat=st.none() | st.integers(1, 999_999_999).map(Entry),
        mute=st.none() | st.text(),
        max_silence=st.none() | times,
        hold=st.booleans(),
        said=st.none() | times,
    )
)
def test_the_state_remembers(life: Life) -> None:
    state = replace(STATE, life=life, host=Host("web1"), receipt_key="key")
    assert State.parse(state.encode(), "state.json") == state


def test_what_gitrel_toml_asks_for() -> None:
    bare = parse_manifest(b"app = 'shop'\n[run.web]\n")
    assert (bare.max_silence, bare.hold_when_stale) == (None, False)
    asked = parse_manifest(b"app = 'shop'\n[run]\nmax_silence = '24h'\nhold_when_stale = true\n")
    assert (asked.max_silence, asked.hold_when_stale) == (DAY, True)
    for bad in ("max_silence = 'soon'", "hold_when_stale = 'yes'"):
        with pytest.raises(FormatError):
            parse_manifest(f"app = 'shop'\n[run]\n{bad}\n".encode())


def newest() -> ChainedRelease:
    found = shop(1).verdicts()[-1].release
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("now", "life", "held"),
    [
        (SIGNED + 2 * DAY, Life(alive=1.0, max_silence=DAY, hold=True), True),
        (SIGNED + 2 * DAY, Life(alive=1.0, max_silence=DAY), False),
        (SIGNED + 2 * DAY, Life(alive=1.0, hold=True), False),
        (SIGNED + 2 * DAY, Life(alive=SIGNED + 1.5 * DAY, max_silence=DAY, hold=True), False),
        (SIGNED + 0.5 * DAY, Life(alive=1.0, max_silence=DAY, hold=True), False),
        (SIGNED - 2 * DAY, Life(alive=1.0, max_silence=DAY, hold=True), False),
    ],
    ids=["old", "may be old", "no limit", "a heartbeat", "signed just now", "dated into the future"],
)
def test_a_release_that_was_kept_back_is_held_where_that_was_asked_for(now: float, life: Life, held: bool) -> None:
    state = replace(STATE, ready=Entry(1), life=life)
    trust = shop(1).chain()
    assert (held_back(state, trust, newest(), now) is not None) == held
    assert held_back(replace(state, ready=None), trust, newest(), now) is None, "the first one is taken"


# The outbox


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home.create(tmp_path, STATE)


def test_what_was_said_of_it_is_said_once(home: Home) -> None:
    home.change_state(lambda state: replace(state, life=Life(alive=SIGNED, max_silence=DAY)))
    late = SIGNED + 3 * DAY
    assert note_staleness(home, SIGNED) == (None, None)
    assert note_staleness(home, late) == (None, SIGNED + DAY)
    assert note_staleness(home, late) == (SIGNED + DAY, SIGNED + DAY)
    home.change_state(lambda state: replace(state, life=replace(state.life, alive=late)))
    assert note_staleness(home, late) == (SIGNED + DAY, None)
    assert note_staleness(home, late) == (None, None)


happenings = st.builds(
    Happening,
    release=st.integers(1, 99).map(Entry),
    health=st.sampled_from(["healthy", "failed", "ended"]),
    start=st.integers(0, 2**40),
    end=st.none() | st.integers(0, 2**40),
)


@given(st.lists(st.lists(happenings, max_size=40), max_size=6), st.integers(0, 16))
def test_the_outbox_is_bounded_and_forgets_the_oldest_that_has_no_number(
    more: list[list[Happening]], signed: int
) -> None:
    first = tuple(Happening(release=Entry(100), health="ended", start=n, end=n, signed=f"{n}") for n in range(signed))
    box = Outbox(newest=(Entry(3), RecordId(ObjectId("1" * 40), Sha256("2" * 64))), waiting=first, trouble="t")
    everything = [each for group in more for each in group]
    for group in more:
        box = box.add(*group)
    assert box.waiting[:signed] == first
    rest = list(box.waiting[signed:])
    assert len(box.waiting) <= MOST
    assert rest == everything[len(everything) - len(rest) :]
    assert box.forgotten == len(everything) - len(rest)
    assert Outbox.parse(box.encode(), "receipts.json") == box
    again = box.unsigned()
    assert (again.newest, [each.signed for each in again.waiting]) == (None, [None] * len(box.waiting))


def test_a_damaged_outbox_is_said_and_not_guessed_at(home: Home) -> None:
    for bad in (b"", b"{}", b"[]", b'{"format": 2}', b'{"format": 1, "newest": 3}'):
        (home.path / "receipts.json").write_bytes(bad)
        with pytest.raises(LocalStateError, match="damaged"):
            read_outbox(home)


class Inner:
    def __init__(self) -> None:
        self.said: list[str] = []

    def wanted(self, formation: Formation) -> None:
        self.said.append(f"wanted {formation.release}")

    def prepared(self, formation: Formation) -> None:
        self.said.append(f"prepared {formation.release}")

    def good(self, formation: Formation) -> None:
        self.said.append(f"good {formation.release}")

    def failed(self, formation: Formation, why: str, last_words: object) -> None:
        self.said.append(f"failed {formation.release}: {why}")


def formation(release: str, *names: str) -> Formation:
    return Formation(
        release=release,
        processes=tuple(
            Process(
                type=name, index=1, command="true", env={MARK: mark("h", release, f"{name}.1")}, cwd=Path("/"),
                port=0, health=None, settle=0.0, stop_timeout=1.0,
            )
            for name in names
        ),
    )  # fmt: skip


def test_what_the_supervisor_writes_down(home: Home) -> None:
    clock = iter(range(100, 200, 10))
    inner = Inner()
    recorder = ReceiptRecorder(inner, home, clock=lambda: next(clock))
    one, two = formation("v1", "web"), formation("v2", "web")
    recorder.wanted(one)  # 100
    recorder.good(one)  # 110
    recorder.good(formation("v1", "web", "worker"))
    recorder.wanted(two)  # 120
    recorder.prepared(two)
    recorder.failed(two, "why", [])  # 130
    recorder.good(one)  # 140
    recorder.good(formation("none"))  # 150: repudiated, and nothing else may run
    recorder.closed()  # 160
    assert [(str(each.release), each.health, each.start, each.end) for each in read_outbox(home).waiting] == [
        ("v1", "healthy", 110, None),
        ("v1", "ended", 110, 130),
        ("v2", "failed", 120, 130),
        ("v1", "healthy", 140, None),
        ("v1", "ended", 140, 150),
    ]
    assert inner.said[-3:] == ["failed v2: why", "good v1", "good none"]


def test_what_could_not_be_written_down_can_be_tried_again(home: Home) -> None:
    inner = Inner()
    recorder = ReceiptRecorder(inner, home, clock=lambda: 1.0)
    (home.path / "receipts.json").write_bytes(b"junk")
    with pytest.raises(LocalStateError):
        recorder.good(formation("v1", "web"))
    (home.path / "receipts.json").unlink()
    recorder.good(formation("v1", "web"))
    assert [each.health for each in read_outbox(home).waiting] == ["healthy"]
    assert change_outbox(home, Outbox.unsigned).waiting == read_outbox(home).waiting
