"""Both directions: stock git checks, verifies and *makes* the golden records, byte for byte."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from test_format_golden import ALICE, BOB, DATE, IDS, LEDGERS, GoldenLedger, each_format, parse

from gitrel.format.record import AnyRecord, BuildRecord, Signed, SignedApproval
from gitrel.ids import ApprovalRef, BuildRef, ObjectFormat

if TYPE_CHECKING:
    from conftest import Git, Person


def scratch(folder: Path, fmt: ObjectFormat, git: Git) -> GoldenLedger:
    """The ledger, written by stock git into a new repository at `folder`, each record under its ref."""
    git(folder, "init", "-q", f"--object-format={fmt}", ".")
    ledger = LEDGERS[fmt]
    for kind, raw in ledger.objects:
        oid = git(folder, "hash-object", "-w", "-t", kind, "--stdin", stdin=raw).decode().strip()
        assert oid == fmt.object_id(kind, raw)
    for name, raw in ledger.records.items():
        signed = parse(name, raw, fmt)
        kind = "tag" if name == "approval" else "commit"
        oid = git(folder, "hash-object", "-w", "-t", kind, "--stdin", stdin=raw).decode().strip()
        assert oid == signed.id.oid == IDS[fmt, name]
        git(folder, "update-ref", ref_of(signed), oid)
    return ledger


def ref_of(signed: Signed[AnyRecord] | SignedApproval) -> str:
    if isinstance(signed, SignedApproval):
        return str(ApprovalRef(signed.record.approved.oid, signed.key))
    record = signed.record
    return str(BuildRef(signed.id.oid) if isinstance(record, BuildRecord) else record.ref)


@each_format
def test_stock_git_finds_nothing_wrong(fmt: ObjectFormat, tmp_path: Path, git: Git) -> None:
    scratch(tmp_path, fmt, git)
    assert git(tmp_path, "fsck", "--strict", "--full") == b""


@each_format
def test_stock_git_verifies_every_record(fmt: ObjectFormat, tmp_path: Path, git: Git) -> None:
    ledger = scratch(tmp_path, fmt, git)
    signers = tmp_path / "allowed_signers"
    signers.write_bytes(git(tmp_path, "show", "refs/trust/v1:allowed_signers"))
    trusting = ("-c", f"gpg.ssh.allowedSignersFile={signers}")
    for name, raw in ledger.records.items():
        verb = "verify-tag" if name == "approval" else "verify-commit"
        git(tmp_path, *trusting, verb, parse(name, raw, fmt).id.oid)


@each_format
def test_stock_git_makes_the_same_bytes(
    fmt: ObjectFormat, tmp_path: Path, git: Git, people: dict[str, Person], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`git commit-tree -S` and `git tag -s`, given the message, arrive at the golden ids."""
    ledger = scratch(tmp_path, fmt, git)
    (tmp_path / "message").touch()
    for name, raw in ledger.records.items():
        signed = parse(name, raw, fmt)
        by = BOB if name in ("build", "release-v2") else ALICE
        for role in ("AUTHOR", "COMMITTER"):
            monkeypatch.setenv(f"GIT_{role}_NAME", by.stamp.name)
            monkeypatch.setenv(f"GIT_{role}_EMAIL", by.stamp.email)
        (tmp_path / "message").write_text(signed.record.message)
        signing = ("-c", "gpg.format=ssh", "-c", f"user.signingkey={people[by.name].path}")
        if isinstance(signed, SignedApproval):
            tag = str(ApprovalRef(signed.record.approved.oid, signed.key)).removeprefix("refs/")
            at = ("--cleanup=verbatim", "-F", "message", tag, signed.record.approved.oid)
            git(tmp_path, *signing, "tag", "-s", *at, date=DATE)
            made = git(tmp_path, "rev-parse", f"refs/tags/{tag}")
        else:
            parents = [word for parent in signed.record.parents for word in ("-p", parent)]
            made = git(tmp_path, *signing, "commit-tree", "-S", *parents, "-F", "message", signed.tree, date=DATE)
        assert made.decode().strip() == signed.id.oid, name
