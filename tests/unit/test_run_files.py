"""Leases: who runs a release keeps its files, for as long as any process of theirs lives."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gitrel.ids import App, Deploy, Entry, Sha256
from gitrel.run.files import disk_usage
from gitrel.run.home import Home
from gitrel.run.leases import Leases
from gitrel.run.state import State


@pytest.fixture
def place(tmp_path: Path) -> Home:
    state = State(app=App("shop"), deploy=Deploy("production"), url="u", pin=Sha256("0" * 64))
    return Home.create(tmp_path / "home", state)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Home:
    state = State(app=App("shop"), deploy=Deploy("production"), url="u", pin=Sha256("0" * 64))
    return Home.create(tmp_path_factory.mktemp("leases") / "home", state)


def held(home: Home) -> set[int]:
    with closing(Leases(home)) as leases:
        return {int(entry) for entry in leases.close_all_others()}


NUMBERS = st.sets(st.integers(1, 40) | st.integers(10**9 - 5, 10**9 - 1), max_size=12)


@given(NUMBERS, NUMBERS, NUMBERS)
def test_what_anybody_holds_is_found(shared: Home, mine: set[int], theirs: set[int], dropped: set[int]) -> None:
    with closing(Leases(shared)) as one, closing(Leases(shared)) as two:
        for number in mine:
            one.take(Entry(number))
        for number in theirs:
            two.take(Entry(number))
        assert held(shared) == mine | theirs
        for number in dropped:
            one.drop(Entry(number))
        assert held(shared) == (mine - dropped) | theirs
    assert held(shared) == set()


def test_it_passes_through_exec_and_ends_with_the_last_process(place: Home) -> None:
    leases = Leases(place, inherited=True)
    leases.take(Entry(7))
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE, close_fds=False) as child:
        leases.close()
        assert held(place) == {7}
        child.communicate()
    assert held(place) == set()


def test_one_that_is_not_inherited_is_not(place: Home) -> None:
    with closing(Leases(place)) as leases:
        leases.take(Entry(7))
        with subprocess.Popen(["cat"], stdin=subprocess.PIPE, close_fds=False) as child:
            leases.close()
            assert held(place) == set()
            child.communicate()


def test_taking_waits_while_that_release_is_being_deleted(place: Home) -> None:
    taken = threading.Event()

    def take() -> None:
        with closing(Leases(place)) as leases:
            leases.take(Entry(3))
            taken.set()

    with closing(Leases(place)) as pruning, closing(Leases(place)) as other:
        assert pruning.close_all_others() == set()
        pruning.drop(Entry(4))
        other.take(Entry(4))  # one that stays is to be had at once
        thread = threading.Thread(target=take)
        thread.start()
        assert not taken.wait(0.2)
    thread.join(10)
    assert taken.is_set()


def test_a_home_that_cannot_be_written_to_needs_none(place: Home) -> None:
    script = (
        "import sys; from pathlib import Path; from gitrel.run.home import Home; from gitrel.run.leases import Leases;"
        "from gitrel.ids import Entry; leases = Leases(Home(Path(sys.argv[1]))); leases.take(Entry(1));"
        "print(leases.fd)"
    )
    place.state_file.chmod(0o644)
    for folder in (place.path, *place.path.parents):
        if folder.is_relative_to("/tmp") and folder != Path("/tmp"):
            folder.chmod(folder.stat().st_mode | 0o755)
    argv = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", sys.executable, "-P", "-c", script]
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run([*argv, str(place.path)], env=env, capture_output=True, text=True, check=False, cwd="/")
    assert done.stdout == "-1\n", done.stderr


def test_bytes_that_are_free_afterwards(tmp_path: Path) -> None:
    """A file that another folder has a link to frees nothing."""
    one, two = tmp_path / "one", tmp_path / "two"
    one.mkdir()
    two.mkdir()
    (one / "own").write_bytes(bytes(10_000))
    (one / "shared").write_bytes(bytes(100_000))
    os.link(one / "shared", two / "shared")
    alone = disk_usage([one])
    assert 10_000 <= alone < 100_000
    assert disk_usage([one, two]) >= alone + 100_000
    assert disk_usage([tmp_path / "none"]) == 0
