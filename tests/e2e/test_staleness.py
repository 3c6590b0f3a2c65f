"""Heartbeats, and servers that nobody has shown anything new: what they say, what they go on doing, what they hold."""

from __future__ import annotations

from collections.abc import Callable

from apps import Host, Shop, farm, host, shop
from conftest import FIXED_DATE

__all__ = ["farm", "host", "shop"]

Hosts = Callable[..., Host]
Shops = Callable[[int], Shop]

OLD = {"GIT_COMMITTER_DATE": FIXED_DATE}  # as if the remote had kept it back for years
QUIET = '[run]\nmax_silence = "10000h"\nhold_when_stale = true\n[run.web]\nsettle = "200ms"\nstop_timeout = "2s"\n'


def signed_long_ago(dev: Shop, text: str) -> str:
    dev.desk.write("text", text)
    dev.desk.commit(text)
    return str(dev.desk.gitrel("release", "--json", env=OLD).json["release"])


def test_a_server_that_is_shown_nothing_new(shop: Shops, host: Hosts) -> None:
    dev = shop(0)
    dev.desk.manifest(QUIET)
    assert "nobody holds the heartbeat role" in dev.desk.gitrel("heartbeat", code=17).err
    dev.desk.gitrel("trust", "set-role", "heartbeat", "test", "--yes", env=OLD)
    signed_long_ago(dev, "1")
    server = host(dev.url, dev.pin)
    assert "STALE since 20" in server.gitrel("pull").err
    assert "STALE      since 20" in server.gitrel("status").out
    prometheus = server.path.parent / "gitrel.prom"
    with server.running("--follow", "--metrics", str(prometheus)) as running:
        running.expect("v1 is good")
        status = server.status()
        assert (status["current"], status["healthy"], status["heartbeat"]) == ("v1", True, None)
        assert status["stale_since"] == status["signed"] + status["max_silence"]
        signed_long_ago(dev, "2")
        running.expect("v2 is refused: .*held back: signed too long ago")
        assert "gitrel_stale 1" in prometheus.read_text()
        assert dev.desk.gitrel("heartbeat", env=OLD).out == "heartbeat v1: production v2\n"  # kept back, too
        assert dev.desk.gitrel("heartbeat", "--json").json["heads"] == {"production": "v2"}
        running.expect("not stale any more")
        running.expect("v2 is good")
        server.await_current("v2")
        status = server.status()
        assert (status["stale_since"], status["heartbeat"], status["heartbeat_trouble"]) == (None, "v2", None)
    assert "gitrel_stale 0" in prometheus.read_text()
    _what_a_hostile_remote_shows(dev, server)
    assert server.state()["life"]["heartbeat"] == "v2"
    server.fsck()


def _what_a_hostile_remote_shows(dev: Shop, server: Host) -> None:
    """Heartbeats that do not count: said, and nothing else is kept away by them."""
    dev.allow_filter()
    dev.release()
    dev.desk.gitrel("heartbeat")
    newest = dev.at_remote("rev-parse", "refs/releases/v3")
    dev.at_remote("update-ref", "-d", "refs/releases/v3")
    server.gitrel("pull")
    said = server.state()["life"]["mute"]
    assert said == "refs/heartbeat/v3 names v3 of production, and the remote shows another one, or none"
    dev.at_remote("update-ref", "-d", "refs/heartbeat/v3")
    dev.at_remote("update-ref", "refs/heartbeat/v9", newest)
    server.gitrel("pull")
    assert "heartbeat  not a canonical record" in server.gitrel("status").out.replace("refs/heartbeat/v9: ", "")
