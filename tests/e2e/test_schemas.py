"""Every `--json`: one walk through all commands, and each document held against its schema in docs/schemas/."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

from handmade import called
from jsonschema import Draft202012Validator  # type: ignore[import-untyped]
from room import Desk, Room, room
from schemas import SCHEMAS, faults

from gitrel.cli.reference import read_commands

__all__ = ["room"]  # the fixture


def test_every_command_has_a_schema_and_every_schema_a_command() -> None:
    """`poke` needs a supervisor: what it prints is a number, and tests of the supervisor read it."""
    for schema in SCHEMAS.values():
        Draft202012Validator.check_schema(schema)
    commands = {command.schema for command in read_commands() if command.schema}
    assert commands == SCHEMAS.keys() - {"common.json", "error.json"}
    assert faults("poke.json", [{"supervisor": 812}]) == []
    for wrong in ({"supervisor": "812"}, {}, {"supervisor": 812, "more": 1}):
        assert faults("poke.json", [wrong]) != []


class Walk:
    """Runs commands with `--json`, and keeps what they print by the schema that it has to follow."""

    def __init__(self) -> None:
        self.documents: dict[str, list[Any]] = defaultdict(list)

    def __call__(self, desk: Desk, *words: str, code: int = 0, env: dict[str, str | None] | None = None) -> Any:
        argv = list(words)
        argv.insert(words.index("--") if "--" in words else len(words), "--json")
        document = desk.gitrel(*argv, code=code, env=env).json
        length = 2 if words[0] in ("config", "trust", "export") else 1
        name = "-".join(words[:length]) if set(document) != {"error"} else "error"
        self.documents[f"{name}.json"].append(document)
        return document


def develop(walk: Walk, desk: Desk, room: Room) -> None:
    walk(desk, "release", code=11)
    pin = walk(desk, "init")["pin"]
    walk(desk, "log")
    walk(desk, "build")
    walk(desk, "config", "list")
    walk(desk, "release", "-m", "one")
    walk(desk, "release", "--wat", code=2)
    desk.write("app.py", "print('two')\n")
    desk.write("build.cdx.json", '{"bomFormat": "CycloneDX", "specVersion": "1.5", "components": []}')
    desk.manifest('[run.web.env]\nA = "1"\n')
    walk(desk, "config", "set", "LOG_LEVEL=info")
    walk(desk, "log")
    walk(desk, "config", "set", "COLOR=red", "--release")
    walk(desk, "release", "-m", "two")
    walk(desk, "rollback", "v1")
    walk(desk, "show", "v3")
    walk(desk, "diff", "v1", "v3")
    walk(desk, "verify")
    walk(desk, "verify", "v1", "--explain")
    walk(desk, "blame", "app.py")
    walk(desk, "bisect", "--good", "v1", "--bad", "v3", "--", "grep", "-q", "hello", "app.py")
    walk(desk, "promote", "--from", "production", "v3", "--to", "staging")
    walk(desk, "show", "v9", code=11)
    walk(desk, "bundle", "-o", str(room.folder / "all.bundle"))
    walk(desk, "audit", "--trust", pin)


def configure(walk: Walk, desk: Desk, room: Room) -> None:
    desk.write("more.env", "MORE=1\n")
    walk(desk, "config", "import", "more.env")
    walk(desk, "config", "edit", env={"EDITOR": "sed -i s/MORE=1/MORE=2/"})
    walk(desk, "config", "unset", "MORE")
    walk(desk, "trust", "add-reader", room.people["alice"].public, "--yes")
    walk(desk, "config", "set", "TOKEN=x", "--secret")
    walk(desk, "config", "reencrypt", "--all")
    for words in (("list",), ("get", "TOKEN", "--reveal"), ("get", "COLOR"), ("export",), ("export", "--reveal")):
        walk(desk, "config", *words)
    walk(desk, "config", "diff")
    walk(desk, "config", "log")


def trust(walk: Walk, desk: Desk, room: Room) -> None:
    walk(desk, "trust", "show")
    walk(desk, "trust", "export")
    walk(desk, "trust", "add", "bob", room.people["bob"].public, "--yes")
    walk(desk, "trust", "set-role", "release", "alice", "bob", "--threshold", "2", "--yes")
    walk(desk, "release")
    walk(desk, "log")
    walk(desk, "verify")
    desk.git("config", "gpg.format", "ssh")
    desk.git("config", "user.signingkey", str(room.people["bob"].path))
    walk(desk, "approve", "v5", "--yes")
    desk.git("config", "--unset", "user.signingkey")
    walk(desk, "trust", "set-role", "release", "alice", "--yes")
    walk(desk, "trust", "remove", "bob", "--yes")
    walk(desk, "trust", "remove-reader", room.people["alice"].public, "--yes")
    walk(desk, "config", "unset", "TOKEN")
    walk(desk, "release")
    walk(desk, "trust", "repudiate", "v2", "--yes")
    walk(desk, "show", "v2")
    walk(desk, "verify", code=10)
    walk(desk, "trust", "set-role", "heartbeat", "alice", "--yes")
    walk(desk, "heartbeat")
    walk(desk, "fleet")


def export(walk: Walk, desk: Desk, room: Room, home: Path) -> None:
    walk(desk, "export", "oci", "-o", str(room.folder / "image"))
    walk(desk, "export", "attestation")
    walk(desk, "export", "sbom", "v3")
    walk(desk, "export", "kubernetes", "--image", "example.org/shop:v7")
    walk(desk, "export", "nomad", "--image", "example.org/shop:v7")
    walk(desk, "export", "systemd", "--home", str(home))


def serve(walk: Walk, desk: Desk, home: Path) -> None:
    at = ("--home", str(home))
    walk(desk, "join", str(desk.path), str(home), "--first-use", "--identity", str(desk.home / ".ssh/id_ed25519"))
    walk(desk, "status", *at)
    walk(desk, "pull", *at)
    walk(desk, "status", *at)
    walk(desk, "mirror", *at)
    walk(desk, "scale", *at)
    walk(desk, "scale", "web=2", *at)
    walk(desk, "poke", *at, code=11)
    walk(desk, "pin", "v3", *at)
    walk(desk, "unpin", *at)
    walk(desk, "prune", *at)
    walk(desk, "receipts", "web1", *at)
    walk(desk, "doctor", *at)
    walk(desk, "status", *at)


def test_every_document_follows_its_schema(room: Room) -> None:
    walk, desk, home = Walk(), called(room.desk(remote=False), "alice"), room.folder / "home"
    desk.git("config", "uploadpack.allowFilter", "true")
    develop(walk, desk, room)
    configure(walk, desk, room)
    trust(walk, desk, room)
    serve(walk, desk, home)
    export(walk, desk, room, home)
    assert walk.documents.keys() == SCHEMAS.keys() - {"common.json", "poke.json"}
    found = [f"{name}: {error}" for name, each in walk.documents.items() for error in faults(name, each)]
    assert found == []
