"""The end of stage 1: a staged folder becomes a signed build record, or an identical one is found again."""

from __future__ import annotations

from collections.abc import Iterable

from gitrel.dataclass import dataclass
from gitrel.errors import BuildFailed, Refused
from gitrel.format.provenance import PROVENANCE, Provenance, encode_provenance
from gitrel.format.record import BuildRecord, Signed, Stamp
from gitrel.ids import App
from gitrel.store.records import Sign, write_record
from gitrel.store.repository import Repository
from gitrel.store.snapshot import Snapshot, store_tree
from gitrel.trust.chain import VerifiedTrust
from gitrel.trust.content import BUILD_FOLDER, build_node, check_shape


@dataclass(frozen=True, slots=True, kw_only=True)
class Build:
    """A signed build; `reused` if it was there before."""

    signed: Signed[BuildRecord]
    reused: bool


def check_build(repo: Repository, snapshot: Snapshot) -> None:
    """What a server would refuse to check out is refused while somebody is there to mend it. Raises `BuildFailed`."""
    try:
        check_shape(repo, snapshot.node.oid, "build")
    except Refused as refusal:
        raise BuildFailed(refusal.what, where="the build", why=refusal.why, hint=refusal.hint) from None


def record_build(
    repo: Repository,
    trust: VerifiedTrust,
    snapshot: Snapshot,
    provenance: Provenance,
    *,
    candidates: Iterable[Signed[BuildRecord]],
    who: Stamp,
    sign: Sign,
) -> Build:
    """Sign the build, unless one of `candidates` (verified builds of the same source) has the very same tree."""
    for candidate in candidates:
        if build_node(candidate, repo, f"build {candidate.id.oid}") == snapshot.node:
            return Build(signed=candidate, reused=True)
    tree = store_tree(repo, {BUILD_FOLDER: snapshot.node, PROVENANCE: encode_provenance(provenance)})
    record = BuildRecord(
        app=App(trust.policy.app),
        subject=f"Build of {provenance.source[:12]}",
        source=provenance.source,
        trust=trust.cited,
        tree_sha256=tree.sha256,
    )
    return Build(signed=write_record(repo, record, tree, who=who, sign=sign), reused=False)
