"""A host that people run: gitolite, behind a real sshd. Developers may create what they sign, servers only read."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from apps import Host, host, plain_app
from conftest import Person, program
from room import Desk, Room, room, run
from servers import Servers, free_port, servers, serving

__all__ = ["host", "room", "servers"]  # fixtures

RULES = """\
repo shop
    RWC                     =   alice
    RWC     refs/builds/    =   ci
    R                       =   web1
"""
KEYS = {"alice": "alice", "ci": "ci", "web1": "bob"}  # whose key is known to gitolite under which name


@pytest.fixture
def gitolite(servers: Servers, people: dict[str, Person], tmp_path: Path) -> Iterator[Callable[[str], dict[str, str]]]:
    """`gitolite(name)`: what somebody's environment needs to get in, by the URL `gitolite:shop`."""
    program("gitolite")
    home, port = tmp_path / "git", free_port()
    home.mkdir()
    env = {"HOME": str(home), "PATH": f"{Path(program('gitolite')).parent}:/usr/bin:/bin", "GIT_CONFIG_NOSYSTEM": "1"}

    def on_host(*argv: str) -> None:
        subprocess.run(argv, env=env, cwd=home, check=True, capture_output=True)

    (home / "alice.pub").write_text(people["alice"].public)
    on_host("gitolite", "setup", "-pk", str(home / "alice.pub"))
    (home / ".gitolite/conf/gitolite.conf").write_text(RULES)
    for name, person in KEYS.items():
        (home / f".gitolite/keydir/{name}.pub").write_text(people[person].public)
    on_host("gitolite", "compile")
    on_host("gitolite", "trigger", "POST_COMPILE")
    keys = (home / ".ssh/authorized_keys").read_text().replace('command="', f'command="HOME={home} ')
    (home / "keys").write_text(keys)
    config = (servers.folder / "sshd_config").read_text()
    config = config.replace(f"Port {servers.ports['ssh']}", f"Port {port}")
    (home / "sshd_config").write_text(config.replace(f"{servers.folder}/client_key.pub", f"{home}/keys"))
    known = (servers.folder / "known_hosts").read_text().replace(f":{servers.ports['ssh']} ", f":{port} ")
    (home / "known_hosts").write_text(known)

    def enter(name: str) -> dict[str, str]:
        client = (servers.folder / "ssh_config").read_text()
        client = client.replace("Host loopback 127.0.0.1", "Host gitolite")
        client = client.replace(f"Port {servers.ports['ssh']}", f"Port {port}")
        client = client.replace(f"{servers.folder}/known_hosts", f"{home}/known_hosts")
        client = client.replace(f"{servers.folder}/client_key", str(people[KEYS[name]].path))
        (home / f"{name}.ssh").write_text(client)
        return {"GIT_SSH_COMMAND": f"ssh -F {home}/{name}.ssh"}

    with serving([program("sshd"), "-D", "-e", "-f", str(home / "sshd_config")], home, port):
        yield enter


def called(desk: Desk, more: Mapping[str, str]) -> Desk:
    return replace(desk, env={**desk.env, **more})


def test_gitolite(
    gitolite: Callable[[str], dict[str, str]], room: Room, host: Callable[..., Host], people: dict[str, Person]
) -> None:
    desk = called(room.desk(remote=False), gitolite("alice"))
    desk.git("remote", "add", "origin", "gitolite:shop")
    plain_app(desk, "echo up; exec sleep 1000")
    pin = desk.gitrel("init", "--json").json["pin"]
    assert desk.gitrel("release", "--json").json["release"] == "v1"
    server = host("gitolite:shop", pin, env=gitolite("web1"))
    assert server.gitrel("pull").out == "v1\n"

    desk.gitrel("trust", "add", "ci", people["ci"].public, "--yes")
    desk.gitrel("trust", "set-role", "build", "test", "ci", "--yes")
    desk.gitrel("trust", "set-role", "release", "test", "ci", "--yes")
    builder = called(desk, gitolite("ci") | {"GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": "user.signingKey"})
    builder = called(builder, {"GIT_CONFIG_VALUE_0": str(people["ci"].path)})
    desk.write("text", "second")
    desk.commit("second")
    builder.gitrel("build")  # which gitolite lets it push
    refused = builder.gitrel("release", code=13)
    assert "refs/releases/v2" in refused.err
    assert "DENIED by refs/.*" in refused.err or "DENIED by fallthru" in refused.err
    assert desk.gitrel("release", "--json").json["release"] == "v2"
    assert server.gitrel("pull").out == "v2\n"
    assert run(["git", "push", "origin", ":refs/releases/v2"], desk.path, desk.env).code != 0
    server.fsck()
