"""Two servers of one remote that sign what they run, and what developers and auditors see of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from apps import Host, Shop, farm, host, shop
from handmade import install_hook
from schemas import faults

from gitrel.format.record import ReceiptRecord, parse_record_as, sign_record
from gitrel.ids import Entry, ObjectFormat, RecordId
from gitrel.run.receipts import Happening, Outbox

__all__ = ["farm", "host", "shop"]

Hosts = Callable[..., Host]
Shops = Callable[[int], Shop]

SHA1 = ObjectFormat.SHA1
CRASHES = "echo broken; exit 3"
READ_ONLY = "#!/bin/sh\necho read-only >&2\nexit 1\n"


def enlist(dev: Shop, servers: dict[str, Host]) -> None:
    """Their keys, and the role."""
    for name, server in servers.items():
        key = server.gitrel("receipts", name, "--json").json["key"]
        dev.desk.gitrel("trust", "add", name, key, "--yes")
    dev.desk.gitrel("trust", "set-role", "receipt", *servers, "--yes")


def fleet(dev: Shop, code: int = 0) -> dict[str, dict[str, Any]]:
    found = dev.desk.gitrel("fleet", "--json", code=code).json
    assert faults("fleet.json", [found]) == []
    return {each["host"]: each for each in found["hosts"]}


def receipts(dev: Shop, host: str) -> list[tuple[str, str, bool]]:
    """Release, health, and whether there is an end, as stock git reads the trailers."""
    refs = dev.at_remote(
        "for-each-ref", "--sort=version:refname", "--format=%(refname)", f"refs/receipts/{host}"
    ).split()
    found = []
    for ref in refs:
        lines = dev.at_remote("log", "-1", "--format=%(trailers:only)", ref).splitlines()
        said = dict(line.split(": ", 1) for line in lines)
        found.append((said["Release"].split()[1], said["Health"], "End" in said))
    return found


@pytest.mark.timeout(300)  # 10 s of CPU time in some forty processes: long where all cores are busy
def test_who_runs_what(shop: Shops, host: Hosts) -> None:
    dev = shop(1)
    one, two = host(dev.url, dev.pin), host(dev.url, dev.pin)
    assert "no name to sign receipts with" in one.gitrel("run", "--receipts", code=2).err
    enlist(dev, {"web1": one, "web2": two})
    _may_not_push(dev, two)
    with one.running("--follow", "--receipts") as running:
        running.expect("v1 is good")
        dev.release()
        running.expect("v2 is good")
        dev.release(CRASHES)
        running.expect("v3 failed")
        running.expect("v2 is good")
    assert receipts(dev, "web1") == [
        ("v1", "healthy", False),
        ("v1", "ended", True),
        ("v2", "healthy", False),
        ("v2", "ended", True),
        ("v3", "failed", True),
        ("v2", "healthy", False),
        ("v2", "ended", True),
    ]
    found = fleet(dev)
    assert [(each["release"], each["state"], each["seen"], each["stale"]) for each in found.values()] == [
        ("v2", "stopped", "v3", False),
        ("v1", "stopped", "v1", True),
    ]
    assert (found["web1"]["behind"], found["web2"]["behind"], found["web1"]["verdict"]) == (
        ["v3"],
        ["v2", "v3"],
        "good",
    )
    one.fsck()
    assert [name for name in one.snapshot() if "refs/receipts" in name or name.startswith("run/receipts.git")] == []
    dev.desk.git("fetch", "-q", "origin", "refs/*:refs/*", "--update-head-ok")
    dev.desk.git("verify-commit", "refs/receipts/web1/v1", env=_signers(dev))
    _restored(dev, one)
    _forged_and_split(dev)


def _restored(dev: Shop, server: Host) -> None:
    """A home that has forgotten what it sent, or was put back to where it was before: its ledger goes on."""
    old = RecordId.of("commit", dev.at_remote("cat-file", "commit", "refs/receipts/web1/v1").encode() + b"\n", SHA1)
    happened = Happening(release=Entry(2), health="failed", start=1, end=2)
    for newest in (None, (Entry(1), old)):
        (server.path / "receipts.json").write_bytes(Outbox(newest=newest, waiting=(happened,)).encode())
        server.gitrel("send-receipts", "--home", str(server.path))
    assert receipts(dev, "web1")[7:] == [("v2", "failed", True)] * 2


def _may_not_push(dev: Shop, server: Host) -> None:
    """It runs all the same, and catches up once it may: past the hook that judges."""
    hook = Path(dev.url) / "hooks/pre-receive"
    hook.write_text(READ_ONLY)
    hook.chmod(0o755)
    with server.running("--receipts") as running:
        running.expect("v1 is good")
        running.expect(r"receipts \| gitrel: the remote refused the push")
    assert receipts(dev, "web2") == []
    waiting = server.status()["receipts"]
    assert (waiting["host"], waiting["waiting"], waiting["forgotten"]) == ("web2", 2, 0)
    assert "read-only" in waiting["trouble"]
    install_hook(Path(dev.url))
    with server.running("--receipts") as running:
        running.expect(r"receipts \| sent, what could not be before")
        if b"v1 is good" not in running.said:
            running.expect("v1 is good")
    assert receipts(dev, "web2") == [("v1", "healthy", False), ("v1", "ended", True)] * 2


def _signers(dev: Shop) -> dict[str, str | None]:
    path = dev.desk.path.parent / "signers"
    path.write_text(dev.desk.git("show", "refs/trust/v4:allowed_signers") + "\n")
    return {"GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": "gpg.ssh.allowedSignersFile", "GIT_CONFIG_VALUE_0": str(path)}


def _forged_and_split(dev: Shop) -> None:
    """A receipt that the host did not sign does not land; where it does, it is seen. So is a ledger that went back."""
    raw = dev.at_remote("cat-file", "commit", "refs/receipts/web2/v4").encode() + b"\n"
    last = parse_record_as(ReceiptRecord, raw, SHA1)
    lie = replace(last.record, entry=last.record.entry.next, previous=last.id)
    made = sign_record(lie, tree=last.tree, author=last.author, committer=last.committer, signature=last.signature)
    forged = dev.desk.git("hash-object", "-t", "commit", "-w", "--stdin", stdin=made)
    assert "(check 5)" in dev.desk.attempt("push", "origin", f"{forged}:refs/receipts/web2/v5").err
    (Path(dev.url) / "hooks/pre-receive").unlink()
    dev.push(forged, "refs/receipts/web2/v5")
    (problem,) = fleet(dev, code=10)["web2"]["problems"]
    assert problem.startswith("refs/receipts/web2/v5: bad signature")
    dev.at_remote("update-ref", "-d", "refs/releases/v3")
    audit = dev.desk.gitrel("audit", "--repo", dev.url, "--trust", dev.pin, "--json", code=10).json
    assert {each["code"]: each["who"] for each in audit["findings"]} == {"withheld": "web1", "bad-signature": None}
