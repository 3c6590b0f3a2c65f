"""`gitrel export attestation` and `sbom`, from a build to other people's verifiers."""

from __future__ import annotations

import json
import sys
from base64 import b64decode
from pathlib import Path

from handmade import LONG_AGO, build_by_hand, commit_by_hand, trailer, tree_sha256
from room import ROOT, Room, room, run

__all__ = ["room"]  # a fixture

BOM = '{"bomFormat": "CycloneDX", "specVersion": "1.6", "components": [{"type": "library", "name": "flask"}]}'
SPDX = '{"spdxVersion": "SPDX-2.3", "packages": []}'


def test_from_a_build_to_somebody_elses_verifier(room: Room, tmp_path: Path) -> None:
    desk = room.desk()
    desk.manifest(f"[build]\ncommand = '''echo '{BOM}' > bom.json'''\n")
    pin = desk.gitrel("init", "--json").json["pin"]
    desk.gitrel("release")

    done = desk.gitrel("export", "attestation", "-o", "shop.intoto.jsonl")
    assert done.out == ""
    lines = (desk.path / "shop.intoto.jsonl").read_bytes().splitlines(keepends=True)
    oid = next(iter(desk.refs("refs/builds/"))).rpartition("/")[2]
    document = desk.gitrel("export", "attestation", "--build", oid[:8], "--json").json
    assert document["envelopes"] == [json.loads(line) for line in lines]
    page = (ROOT / "docs/attestations.md").read_text()
    recipe = page.partition("```python\n")[2].partition("```")[0]
    key = (desk.home / ".ssh/id_ed25519.pub").read_text().rstrip()
    payloads = []
    for line in lines:
        (tmp_path / "one").write_bytes(line)
        program = recipe.replace("shop-v100.intoto.jsonl", str(tmp_path / "one")).replace("ssh-ed25519 AAAA…", key)
        done = run([sys.executable, "-c", program], tmp_path, desk.env)
        assert done.code == 0, done.err
        payloads.append(done.out.removesuffix("\n").encode())
    assert payloads[0] == desk.raw(f"{oid}:provenance.json", "blob")
    statement = json.loads(payloads[1])
    assert statement["predicateType"] == "https://cyclonedx.org/bom"
    assert statement["predicate"] == json.loads(BOM)
    assert statement["subject"] == json.loads(payloads[0])["subject"]
    assert statement["subject"][0]["digest"]["gitTree"] == desk.git("rev-parse", "refs/releases/v1:build")

    # the list of components, shown and handed on
    shown = desk.gitrel("show", "--json").json["sboms"]
    assert shown == [{"name": "bom.json", "kind": "CycloneDX", "version": "1.6", "components": 1}]
    assert desk.gitrel("export", "sbom", "latest").out == f"{BOM}\n"
    assert "leave one of them out" in desk.gitrel("export", "sbom", "v1", "--build", oid[:8], code=2).err

    # who has not the build role attests nothing
    stranger = {"HOME": room.machine("mallory")["HOME"]}
    refused = desk.gitrel("export", "attestation", "--trust", pin, env=stranger, code=17).message
    assert "may not attest builds" in refused["what"]


def test_several_and_a_broken_one(room: Room) -> None:
    desk = room.desk(remote=False)
    desk.gitrel("init")
    desk.write("bom.json", BOM)
    desk.write("app.spdx.json", SPDX)
    (desk.path / "link.cdx.json").symlink_to("bom.json")
    desk.commit()
    built = desk.gitrel("build", "--json").json["build"]
    assert desk.gitrel("export", "sbom", "--build", built, code=2).message["next"] == "--file app.spdx.json"
    assert desk.gitrel("export", "sbom", "--build", built, "--file", "app.spdx.json").out == SPDX
    lines = desk.gitrel("export", "attestation", "--build", built).out.splitlines()
    kinds = [json.loads(b64decode(json.loads(line)["payload"]))["predicateType"] for line in lines]
    assert kinds == ["https://slsa.dev/provenance/v1", "https://spdx.dev/Document", "https://cyclonedx.org/bom"]

    desk.write("bom.json", "{}")
    desk.commit()
    desk.gitrel("release")
    shown = desk.gitrel("show").out
    assert "app.spdx.json: SPDX 2.3, 0 components" in shown
    assert "bom.json: not an SBOM that is known here" in shown
    assert desk.gitrel("export", "attestation", code=16).message["where"] == "bom.json"


def test_a_provenance_that_is_not_this_builds_is_not_attested(room: Room) -> None:
    """The record is good, by somebody with the build role; what it says of itself is no statement, or another's."""
    desk = room.desk(remote=False)
    desk.gitrel("init")
    one = desk.gitrel("build", "--json").json["build"]
    assert "bom.json" in desk.gitrel("export", "sbom", "--build", one, code=11).message["next"]
    silent = build_by_hand(desk, {"Procfile": "web: true\n", "gitrel.toml": 'app = "shop"\n'}, trust=1)
    theirs = desk.git("rev-parse", f"{silent}:build")
    note = desk.git("rev-parse", f"{one}:provenance.json")
    tree = desk.git("mktree", stdin=f"040000 tree {theirs}\tbuild\n100644 blob {note}\tprovenance.json\n".encode())
    text = desk.git("log", "-1", "--format=%B", silent).rstrip()
    message = text.replace(trailer(desk, silent, "Tree-SHA256"), tree_sha256(desk, tree)) + "\n"
    liar = commit_by_hand(desk, tree, [], message, date=LONG_AGO)
    for oid, why in ((silent, "no statement"), (liar, "another build's")):
        desk.git("update-ref", f"refs/builds/{oid}", oid)
        assert why in desk.gitrel("export", "attestation", "--build", oid, code=10).err
