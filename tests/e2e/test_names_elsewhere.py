from pathlib import Path

import pytest
from ledgers import shop
from room import Room, room

__all__ = ["room"]


def test_the_other_commands(room: Room, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    desk = shop(room, tmp_path_factory.mktemp("t"))
    source = desk.gitrel("show", "v4", "--json").json["source"]
    assert desk.gitrel("rollback", source[:9], "--json").json["rollback_to"] == "v4"
    assert desk.gitrel("rollback", "@2011-04-05T00:00Z", "--json").json["rollback_to"] == "v4"
    assert (
        desk.gitrel("promote", "--from", "production", "--to", "staging", "latest", "--json").json["promoted_from"]
        == "production v8"
    )
    assert (
        desk.gitrel("promote", "--from", "production", "--to", "staging", "lates", code=2).message["why"]
        == "did you mean latest?"
    )
    assert desk.gitrel("export", "oci", "latest", "-o", str(tmp_path / "i"), "--json").json["release"] == "v8"
