"""A simulator's repository on disk, as an auditor gets it: one pack, one file of refs."""

from __future__ import annotations

from pathlib import Path

from simulator import Simulator

from gitrel.audit.findings import Finding
from gitrel.audit.result import Audit
from gitrel.audit.survey import Scope, survey
from gitrel.ids import ObjectId
from gitrel.store.pack import PackWriter, deflate
from gitrel.store.repository import Repository

NOW = 1_700_000_000


def write_repository(sim: Simulator, path: Path, *, without: tuple[ObjectId, ...] = ()) -> Path:
    """Everything that the simulator has, but the objects `without`."""
    with Repository.init_bare(path, sim.fmt) as repo, PackWriter(repo) as pack:
        for oid, (kind, data) in sim.objects.items():
            if oid not in without:
                pack.put(oid, deflate(kind, data))
        pack.finish()
    lines = [f"{oid} {name}\n" for name, oid in sorted(sim.refs.items())]
    (path / "packed-refs").write_text("# pack-refs with: peeled fully-peeled sorted \n" + "".join(lines))
    return path


def audit(path: Path, sim: Simulator, **over: object) -> Audit:
    scope = {"pin": sim.pin, "now": NOW} | {
        name: over.pop(name) for name in ("deploys", "contents", "pin") if name in over
    }
    with Repository.open(path) as repo:
        return survey(repo, Scope(**scope), name="a clone", **over)  # type: ignore[arg-type]


def codes(audit: Audit) -> dict[str, str]:
    """Which finding for which ref."""
    return {finding.ref: finding.code.value for finding in audit.findings}


def found(audit: Audit, code: str) -> list[Finding]:
    return [finding for finding in audit.findings if finding.code == code]
