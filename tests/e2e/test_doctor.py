"""`gitrel doctor` says what is wrong and what to do, with the exit code of that, and changes nothing."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from apps import Host, Shop, farm, host, shop
from conftest import Person
from room import Desk, Done

__all__ = ["farm", "host", "shop"]  # fixtures

Hosts = Callable[..., Host]
Shops = Callable[[int], Shop]


def found(done: Done) -> dict[str, Any]:
    """What is not ok: by check, what is said."""
    document = done.json
    assert document["exit_code"] == done.code
    assert all(each["hint"] for each in document["checks"] if each["state"] == "warn"), "each says what to do"
    return {each["check"]: each["said"] for each in document["checks"] if each["state"] != "ok"}


def looked(desk: Desk, code: int = 0, **env: str) -> dict[str, Any]:
    before = desk.snapshot()
    done = desk.gitrel("doctor", "--json", code=code, env=env)
    assert desk.snapshot() == before
    return found(done)


def test_a_developers_repository(shop: Shops, people: dict[str, Person]) -> None:
    dev = shop(2)
    desk, remote = dev.desk, Path(dev.url)
    first = looked(desk)
    assert first.keys() == {"remote", "hosting", "refspecs"}
    assert "cannot leave files out" in first["remote"]
    dev.allow_filter()
    for key in ("denyDeletes", "denyNonFastForwards"):
        dev.at_remote("config", f"receive.{key}", "true")
    (remote / "hooks/pre-receive").write_text("#!/bin/sh\n")
    (remote / "hooks/pre-receive").chmod(0o755)
    desk.gitrel("init", "--fetch")
    assert looked(desk) == {}
    text = desk.gitrel("doctor").out
    assert "alice" not in text or "root" in text
    assert "protocol version 2" in text
    desk.gitrel("rollback", env={"GIT_COMMITTER_DATE": "4000000000 +0000"})
    assert "minutes ahead of this clock" in looked(desk)["clock"]
    desk.git("config", "user.signingKey", str(people["mallory"].path))
    desk.git("config", "gpg.format", "ssh")
    assert "nobody's" in looked(desk, 17)["key"]
    desk.git("config", "user.signingKey", "/nonexistent")
    assert looked(desk, 17).keys() == {"key", "clock"}
    desk.git("config", "--unset", "user.signingKey")
    desk.git("config", "fetch.prune", "true")
    assert "prunes" in looked(desk)["refspecs"]
    desk.git("config", "--unset", "fetch.prune")
    desk.git("config", "--add", "remote.origin.fetch", "+refs/releases/*:refs/releases/*")
    assert "may move" in looked(desk)["refspecs"]
    remote.rename(remote.with_name("away"))
    assert "no such folder" in looked(desk, 13)["remote"]
    remote.with_name("away").rename(remote)
    dev.at_remote("update-ref", "refs/releases/v2", dev.desk.refs()["refs/releases/v1"])
    assert "another record there" in looked(desk, 10)["remote"]
    (desk.home / ".config/gitrel/known_apps").unlink()
    assert "not known on this machine" in looked(desk, 10)["trust"]


def test_a_servers_home(shop: Shops, host: Hosts) -> None:
    dev = shop(1)
    dev.allow_filter()
    server = host(dev.url, dev.pin)

    def looked(code: int = 0) -> dict[str, Any]:
        before = server.snapshot()
        done = server.gitrel("doctor", "--json", code=code)
        assert server.snapshot() == before
        return found(done)

    assert looked() == {"release": "none is current yet"}
    server.gitrel("pull")
    assert looked() == {}
    assert server.gitrel("doctor").out.splitlines()[0].startswith("ok    home        ")
    server.gitrel("mirror", "--add", "git://127.0.0.1:1/x.git")
    assert "cannot reach" in looked()["mirror"]
    remote = Path(dev.url)
    remote.rename(remote.with_name("away"))
    assert looked(13).keys() == {"mirror", "remote", "sources"}
    remote.with_name("away").rename(remote)
    server.gitrel("mirror", "--remove", "git://127.0.0.1:1/x.git")
    (server.path / "state.json").chmod(0o644)
    assert "others may read it" in looked()["home"]
    (server.path / "state.json").chmod(0o600)
    shutil.rmtree(server.path / "repo.git/refs/trust")
    assert "no trust ledger" in looked(11)["trust"]


@pytest.mark.parametrize("where", ["nowhere"])
def test_neither(where: str, shop: Shops, tmp_path: Path) -> None:
    dev = shop(1)
    (tmp_path / where).mkdir()
    assert dev.desk.gitrel("doctor", code=11, cwd=tmp_path / where).message["what"] == "not a git repository"
