"""A server with a remote and mirrors of it: dead, late and lying ones, and two that both have valid signatures."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from itertools import cycle
from pathlib import Path

from apps import PATIENCE, Host, Shop, farm, free_port, host, shop
from conftest import Person
from handmade import release_by_hand
from prometheus_client.parser import text_string_to_metric_families
from room import run
from servers import serving

from gitrel.run import sources
from gitrel.run.home import Home
from gitrel.run.pull import Pulled
from gitrel.run.state import MOST_SOURCES
from gitrel.store.remote import Remote

__all__ = ["farm", "host", "shop"]  # fixtures

Hosts = Callable[..., Host]
Shops = Callable[[int], Shop]
V3 = "refs/releases/v3"


def mirror_of(dev: Shop, name: str) -> Path:
    """A copy of the remote as it is now."""
    assert dev.desk.remote is not None
    return Path(shutil.copytree(dev.desk.remote, dev.desk.remote.with_name(name), symlinks=True))


def at(mirror: Path, dev: Shop, *args: str) -> str:
    done = run(["git", "-C", str(mirror), *args], dev.desk.path, dev.desk.env)
    assert done.code == 0, done.err
    return done.out.strip()


def put(dev: Shop, mirror: Path, oid: str, ref: str) -> None:
    dev.desk.git("push", "-q", "--force", str(mirror), f"{oid}:{ref}")


def other_v3(dev: Shop, *, sign: bool = True) -> str:
    """Another v3 than the next release of the shop, as good as that or unsigned."""
    before = "refs/releases/v2"
    return release_by_hand(dev.desk, like=before, entry=3, previous=before, trust=1, sign=sign)


def test_dead_and_late_mirrors_keep_nothing_away(shop: Shops, host: Hosts) -> None:
    """The newest ledger is taken wherever it is; what is wrong with the others is said, and is no failure."""
    dev = shop(2)
    late, dead = mirror_of(dev, "late.git"), "git://127.0.0.1:1/dead.git"
    server = host()
    server.join(dead, dev.pin, "--mirror", str(late), "--mirror", dev.url)
    dev.release()
    pulled = server.gitrel("pull")
    assert (pulled.out, server.current) == ("v3\n", "v3")
    assert f"note: {dead}: {dead}: cannot reach the remote" in pulled.err
    rows = server.gitrel("status").out.splitlines()
    assert rows[1].startswith(f"remote     {dead}: {dead}: cannot reach")
    assert f"mirror     {late}: it is behind: it has no {V3}" in rows
    assert f"mirror     {dev.url}" in rows
    seen = [(bool(each["away"]), bool(each["odd"]), each["refused"]) for each in server.status()["mirrors"]]
    assert seen == [(True, False, False), (False, True, False), (False, False, False)]
    assert [each["contact"] is not None for each in server.status()["mirrors"]] == [False, False, True]
    server.fsck()
    # the last good one goes, too: what is left shows less than was seen
    Path(dev.url).rename(Path(dev.url).with_name("gone.git"))
    assert "check 13" in server.gitrel("pull", code=10).message["what"]
    assert server.current == "v3"
    assert "TROUBLE" in server.gitrel("status").out
    assert [bool(each["away"]) for each in server.status()["mirrors"]] == [True, False, True]


def test_two_valid_releases_of_one_number_are_reported_and_neither_is_taken(shop: Shops, host: Hosts) -> None:
    dev = shop(2)
    evil = mirror_of(dev, "evil.git")
    server = host()
    server.join(dev.url, dev.pin, "--mirror", str(evil))
    server.gitrel("pull")
    forged = other_v3(dev)
    put(dev, evil, forged, V3)
    dev.release()
    real = dev.desk.refs(V3)[V3]
    before = server.snapshot()
    refused = server.gitrel("pull", code=10)
    assert refused.message["where"] == V3
    assert "two records under one name" in refused.message["what"]
    assert f"{dev.url} shows {real}" in refused.message["why"]
    assert f"{evil} shows {forged}" in refused.message["why"]
    now = server.snapshot()
    assert {name for name in now | before if now.get(name) != before.get(name)} == {"state"}
    assert server.current == "v2"
    assert f"FORK       {V3}: {dev.url} shows {real}, {evil} shows {forged}" in server.gitrel("status").out
    server.gitrel("mirror", "--remove", str(evil))
    assert server.gitrel("pull").out == "v3\n"
    assert server.status()["forks"] == []
    # a mirror that comes back with the other one contradicts what was verified here
    assert server.gitrel("mirror", "--add", str(evil), "--json").json == {"remote": dev.url, "mirrors": [str(evil)]}
    dev.release()
    again = server.gitrel("pull", code=10)
    assert f"this server shows {real}" in again.message["why"]
    assert server.current == "v4"
    server.fsck()


def test_a_lying_mirror_is_reported_and_the_real_release_taken(shop: Shops, host: Hosts) -> None:
    """It shows an unsigned v3, and numbers far ahead that nobody gave."""
    dev = shop(2)
    liar = mirror_of(dev, "liar.git")
    server = host()
    server.join(str(liar), dev.pin, "--mirror", dev.url)
    server.gitrel("pull")
    fake = other_v3(dev, sign=False)
    for number in (3, 999, 1000):
        put(dev, liar, fake, f"refs/releases/v{number}")
    dev.release()
    refused = server.gitrel("pull", code=10)
    assert fake in refused.message["why"]
    assert server.current == "v3"
    assert f"remote     {liar}: it shows another {V3}, which does not verify; last good " in server.gitrel("status").out
    assert [each["refused"] for each in server.status()["mirrors"]] == [True, False]
    at(liar, dev, "update-ref", "-d", V3)
    dev.release()
    assert server.gitrel("pull", code=0).out == "v4\n"
    server.fsck()


def test_a_mirror_that_makes_up_the_next_release_is_named(shop: Shops, host: Hosts) -> None:
    """Nobody else shows it; one that all show is nobody's lie."""
    dev = shop(2)
    liar = mirror_of(dev, "liar.git")
    server = host()
    server.join(dev.url, dev.pin, "--mirror", str(liar))
    server.gitrel("pull")
    fake = other_v3(dev, sign=False)
    put(dev, liar, fake, V3)
    said = server.gitrel("pull", code=10)
    assert f"note: {liar}: it shows {V3}, which is refused, and others do not\n" in said.err
    assert [each["refused"] for each in server.status()["mirrors"]] == [False, True]
    dev.push(fake, V3)
    server.gitrel("pull", code=10)
    assert [each["refused"] for each in server.status()["mirrors"]] == [False, False]
    assert server.current == "v2"


def test_two_valid_trust_records_of_one_number(shop: Shops, host: Hosts, people: dict[str, Person]) -> None:
    """Both by somebody with the root role: neither counts, and what stands on one of them waits."""
    dev = shop(2)
    evil = mirror_of(dev, "evil.git")
    server = host()
    server.join(dev.url, dev.pin, "--mirror", str(evil))
    server.gitrel("pull")
    copy = shutil.copytree(dev.desk.path, dev.desk.path.with_name("copy"), symlinks=True)
    other = replace(dev.desk, path=Path(copy))
    other.gitrel("trust", "add", "mallory", people["mallory"].public, "--yes", "--remote", str(evil))
    dev.desk.gitrel("trust", "add", "bob", people["bob"].public, "--yes")
    dev.release()
    refused = server.gitrel("pull", code=10)
    assert refused.message["where"] == "refs/trust/v2"
    assert all(each.refs()["refs/trust/v2"] in refused.message["why"] for each in (dev.desk, other))
    assert server.current == "v2"
    server.gitrel("mirror", "--remove", str(evil))
    assert server.gitrel("pull").out == "v3\n"


def test_a_frozen_source_keeps_news_away_for_one_turn_only(shop: Shops, host: Hosts) -> None:
    """What `gitrel run --follow` does: one source is asked at each look, and all when one has news."""
    dev = shop(2)
    frozen = mirror_of(dev, "frozen.git")
    server = host()
    server.join(str(frozen), dev.pin, "--mirror", dev.url)
    server.gitrel("pull")
    home = Home(server.path)
    turns = [home.read_state().turn]

    def look() -> Pulled:
        with remotes(home) as opened:
            pulled = sources.pull(home, opened, now=time.time(), anew=False)
        turns.append(home.read_state().turn)
        return pulled

    assert [look().new for _ in range(2)] == [False, False]
    dev.release()
    assert sorted(look().new for _ in range(2)) == [False, True]
    assert [look().new for _ in range(2)] == [False, False]
    assert turns == list(range(turns[0], turns[0] + 7)), "each look is one turn"
    Path(dev.url).rename(Path(dev.url).with_name("away.git"))
    assert [look().new for _ in range(2)] == [False, False], "the next one is asked where one is dead"
    assert home.read_state().sights[dev.url].away is not None
    Path(dev.url).with_name("away.git").rename(dev.url)
    for _ in range(2):
        look()
    assert home.read_state().sights[dev.url].away is None


@contextmanager
def remotes(home: Home) -> Iterator[dict[str, Remote]]:
    with ExitStack() as stack:
        yield {
            url: stack.enter_context(Remote.resolve(None, url, env={"PATH": "/usr/bin:/bin"}))
            for url in home.read_state().sources
        }


def test_the_metrics_say_which_place_is_away_and_which_one_lies(shop: Shops, host: Hosts) -> None:
    """Two mirrors that are served for real: one of them is stopped and comes back, the other one forks the ledger."""
    dev = shop(2)
    liar, dying = mirror_of(dev, "liar.git"), mirror_of(dev, "dying.git")
    port = free_port()
    away = f"git://127.0.0.1:{port}/dying.git"
    daemon = ["git", "daemon", "--listen=127.0.0.1", f"--port={port}", "--export-all", "--reuseaddr"]
    daemon += [f"--base-path={dying.parent}"]
    server, scales = host(), cycle((2, 1))
    prometheus = server.path.parent / "gitrel.prom"

    def metric(name: str) -> dict[str, float]:
        text = prometheus.read_text() if prometheus.exists() else ""
        families = text_string_to_metric_families(text)
        return {each.labels["url"]: each.value for family in families for each in family.samples if each.name == name}

    def until(name: str, want: dict[str, float]) -> None:
        """Poked, as it waits longer after each failure; and scaled, as the file is written when something happens."""
        deadline = time.monotonic() + PATIENCE
        while metric(name) != want:
            assert time.monotonic() < deadline, f"{name}: {metric(name)} instead of {want}"
            server.gitrel("poke")
            server.gitrel("scale", f"web={next(scales)}")

    with ExitStack() as stack:
        stack.enter_context(serving(daemon, dying.parent, port))
        server.join(dev.url, dev.pin, "--mirror", str(liar), "--mirror", away)
        with server.running("--follow", "--metrics", str(prometheus)) as running:
            running.expect("v2 is good")
            until("gitrel_mirror_up", {dev.url: 1, str(liar): 1, away: 1})
            good = metric("gitrel_mirror_last_success_timestamp_seconds")
            assert set(good) == {dev.url, str(liar), away}
            stack.close()
            put(dev, liar, other_v3(dev, sign=False), V3)
            dev.release()
            running.expect("v3 is good")
            until("gitrel_mirror_up", {dev.url: 1, str(liar): 1, away: 0})
            until("gitrel_mirror_refused", {dev.url: 0, str(liar): 1, away: 0})
            until("gitrel_mirror_behind", {dev.url: 0, str(liar): 0, away: 0})
            last = metric("gitrel_mirror_last_success_timestamp_seconds")
            assert last[dev.url] > good[dev.url]
            assert last[away] < last[dev.url]
            assert f"mirror     {away}: {away}: cannot reach the remote" in server.gitrel("status").out
            with serving(daemon, dying.parent, port):
                until("gitrel_mirror_up", {dev.url: 1, str(liar): 1, away: 1})
                until("gitrel_mirror_behind", {dev.url: 0, str(liar): 0, away: 1})
                server.gitrel("mirror", "--remove", str(liar))
                until("gitrel_mirror_refused", {dev.url: 0, away: 0})


def test_join_takes_the_first_place_that_has_the_pinned_trust(shop: Shops, host: Hosts) -> None:
    dev = shop(1)
    empty = Path(dev.url).with_name("empty.git")
    assert run(["git", "init", "-q", "--bare", str(empty)], dev.desk.path, dev.desk.env).code == 0
    server = host()
    args = ("join", str(empty), str(server.path), "--trust", dev.pin, "--mirror", dev.url)
    assert "not from there" in server.gitrel(*args).err
    server.gitrel(*args)  # once more is fine
    assert server.gitrel("pull").out == "v1\n"
    many = [word for number in range(MOST_SOURCES - 2) for word in ("--add", f"{dev.url}-{number}")]
    server.gitrel("mirror", *many)
    full = server.gitrel("mirror", "--add", f"{dev.url}-more", code=2)
    assert full.message["what"] == f"a home asks in {MOST_SOURCES} places at most"
    server.gitrel("mirror", *[{"--add": "--remove"}.get(word, word) for word in many])
    refused = server.gitrel("mirror", "--remove", dev.url, "--remove", str(empty), code=2)
    assert "one place" in refused.message["what"]
    assert server.gitrel("mirror", "--remove", "/elsewhere", code=11).message["where"] == "/elsewhere"
    assert server.gitrel("mirror", "--add", "ext::sh", code=2).message["what"] == "this kind of remote is not supported"
    assert server.gitrel("mirror", "--remove", str(empty)).out == f"remote  {dev.url}\n"
