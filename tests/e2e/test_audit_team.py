"""A team's honest year: thresholds, a colleague who left, a stolen key, a pending release: notes, and no alarm."""

from __future__ import annotations

from room import room
from team import Team, auditor, team, template

__all__ = ["room", "team", "template"]  # fixtures


def test_an_honest_team_wakes_nobody(team: Team) -> None:
    team.build("print('one')")
    team.release()
    team.build("print('two')")
    stolen = team.release()
    team.carol.gitrel("rollback", "v2")
    team.bob.gitrel("approve", "v4", "--yes")
    team.change("set-role", "release", "alice", "bob", "--threshold", "2")
    team.change("set-role", "root", "alice", "bob", "--threshold", "2")
    team.change("remove", "carol")
    team.change("repudiate", stolen)
    team.alice.gitrel("release")
    mirror = auditor(team, "mirror")
    document = mirror.gitrel("audit", "--trust", team.pin, "--json").json
    found = {(each["code"], each["severity"], each["ref"]) for each in document["findings"]}
    assert found >= {
        ("repudiated", "note", f"refs/releases/{stolen}"),
        ("superseded-signer", "note", "refs/releases/v4"),
        ("pending", "note", "refs/releases/v5"),
    }
    assert {severity for _, severity, _ in found} == {"note"}
    assert (document["clean"], document["complete"]) == (True, True)
    fourth = document["deploys"][0]["releases"][3]
    assert [each["person"] for each in fourth["signers"]] == ["carol", "bob"]
    ninth = document["trust"][8]
    assert [each["person"] for each in ninth["signers"]] == ["alice", "bob"]
