"""`survey`: a whole repository's records judged, in one pass, by somebody who was given a pin and trusts nobody.

Linear in the number of records and of distinct files: every record is parsed and its signature verified once where it
lies, every file and folder is hashed once. What is kept is the result (`gitrel.audit.result`) and a bounded memory of
hashes; no content is. Nothing is written, no program is started, and no setting of the repository's is obeyed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from gitrel.audit.codes import Code
from gitrel.audit.findings import Findings
from gitrel.audit.ground import Ground, Scope
from gitrel.audit.ledgers import check_heads, name_signers, survey_configs, survey_trust
from gitrel.audit.memory import Memory, check_memory
from gitrel.audit.parts import survey_approvals, survey_builds
from gitrel.audit.places import Seen, look, sort_refs
from gitrel.audit.reading import AuditedObjects
from gitrel.audit.releases import ReleaseSurvey, check_origins, check_parts, is_listed
from gitrel.audit.result import Audit, DeployReport, Standing, Unchecked
from gitrel.audit.witnesses import survey_witnesses
from gitrel.dataclass import replace
from gitrel.ids import PRODUCTION, Deploy, LedgerRef, ObjectId
from gitrel.store.repository import Repository

__all__ = ["Scope", "survey"]

Progress = Callable[[str], None]


def survey(
    repo: Repository,
    scope: Scope,
    *,
    name: str,
    refs: Mapping[str, ObjectId] | None = None,
    memory: Memory | None = None,
    other: tuple[str, Mapping[str, ObjectId]] | None = None,
    progress: Progress = lambda _: None,
) -> Audit:
    """`refs`: what a remote showed, whose objects are in `repo`; None: the repository's own. `name` is for people.

    `memory`: what earlier audits saw. `other`: another host's name and refs, to compare with. Never raises for what
    is in the repository's records; `LocalStateError` if its refs cannot be listed at all.
    """
    with AuditedObjects(repo) as objects:
        findings = Findings()
        seen = look(repo, findings) if refs is None else Seen(refs=sort_refs(refs, findings))
        ground = Ground(objects, seen, repo.format, scope, findings)
        if objects.damage is not None:
            damage = objects.damage
            findings.add(Code.DAMAGED_OBJECT, "objects/pack", f"{damage.where}: {damage.what}: {damage.why}", check=2)
        progress("verifying trust")
        trust = survey_trust(ground)
        approvals = survey_approvals(ground)
        trust = name_signers(ground, trust)
        deploys = tuple(_deploy(ground, deploy, progress) for deploy in _deploys(ground))
        progress("verifying builds")
        builds = survey_builds(ground)
        check_heads(ground)
        check_origins(ground, deploys)
        check_parts(ground, deploys)
        survey_witnesses(ground)
        if other is not None:
            compare_hosts(ground, name, *other)
        audit = Audit(
            repository=name,
            pin=scope.pin,
            app=ground.chain.app if len(ground.chain) else None,
            trust=trust,
            deploys=deploys,
            builds=builds,
            approvals=approvals,
            findings=(),
            unchecked=(),
        )
        if memory is not None:
            check_memory(memory, audit, findings, scope.deploys)
        return _finished(ground, audit, seen)


def _deploys(ground: Ground) -> list[Deploy]:
    """All deploys that have a ledger, production first; only those asked for, if some were."""
    found = {ref.ledger.deploy for ref in ground.refs if isinstance(ref, LedgerRef) and ref.ledger.deploy}
    found |= {deploy for deploy, _ in ground.heads}
    if ground.scope.deploys is not None:
        found &= ground.scope.deploys
    return sorted(found, key=lambda deploy: (deploy != PRODUCTION, deploy))


def _deploy(ground: Ground, deploy: Deploy, progress: Progress) -> DeployReport:
    progress(f"verifying {deploy}")
    is_listed(ground, deploy)
    configs = survey_configs(ground, deploy)
    return DeployReport(name=deploy, configs=configs, releases=ReleaseSurvey(ground, deploy).run())


def compare_hosts(ground: Ground, here: str, there: str, theirs: Mapping[str, ObjectId]) -> None:
    """Two hosts show one history if whatever both have is the same, and one has at most not got the newest yet."""
    findings = ground.findings
    others = sort_refs({ref: oid for ref, oid in theirs.items() if ref not in ground.names}, findings)
    others |= {ref: theirs[str(ref)] for ref in ground.refs if str(ref) in theirs}
    for ref, oid in ground.refs.items():
        if ref in others and others[ref] != oid:
            what = f"{here} shows {oid}, {there} shows {others[ref]}"
            findings.add(Code.HOSTS_DIFFER, str(ref), what, check=13, evidence=(oid, others[ref]))
    for have, lack, owner, lacking in ((ground.refs, others, here, there), (others, ground.refs, there, here)):
        newest = {ref.ledger: 0 for ref in lack if isinstance(ref, LedgerRef)}
        for ref in lack:
            if isinstance(ref, LedgerRef):
                newest[ref.ledger] = max(newest[ref.ledger], ref.entry)
        for ref in have:
            if ref in lack:
                continue
            if isinstance(ref, LedgerRef) and ref.entry < newest.get(ref.ledger, 0):
                what = f"{owner} has it, {lacking} has not, and has later ones"
                findings.add(Code.HOSTS_DIFFER, str(ref), what, check=13, evidence=(have[ref],))
            else:
                findings.add(Code.HOST_BEHIND, str(ref), f"{lacking} lacks what {owner} has", about=lacking)


def _finished(ground: Ground, audit: Audit, seen: Seen) -> Audit:
    """With what could not be looked at, said as a finding each."""
    unchecked = []
    if not ground.scope.contents:
        ground.findings.add(Code.LEDGER_ONLY, "refs", "check 12 was left out: no file was read", check=12)
        count = sum(len(each.releases) + len(each.configs) for each in audit.deploys) + len(audit.builds)
        unchecked.append(
            Unchecked(what="check 12, and where links lead, of all records", why="--ledger-only", count=count)
        )
    elif ground.absent:
        what = f"the files of {len(ground.absent)} records are not in this clone"
        ground.findings.add(Code.CONTENTS_ABSENT, sorted(ground.absent)[0], what, about="partial", check=12)
        unchecked.append(Unchecked(what="check 12 of some records", why="a partial clone", count=len(ground.absent)))
    if seen.shallow:
        unchecked.append(Unchecked(what="history before the boundary", why="a shallow clone", count=seen.shallow))
    if ground.broken_trust is not None:
        behind = sum(each.standing is Standing.UNPROVEN for each in audit.trust)
        why = f"trust is broken after {len(ground.chain)} records"
        unchecked.append(
            Unchecked(what="whoever the trust records after the break give roles to", why=why, count=behind)
        )
    if ground.scope.deploys is not None:
        left = {ref.ledger.deploy for ref in ground.refs if isinstance(ref, LedgerRef)} - {None, *ground.scope.deploys}
        if left:
            names = ", ".join(sorted(filter(None, left)))
            unchecked.append(Unchecked(what=f"the deploys {names}", why="--deploy names others", count=len(left)))
    return replace(audit, findings=tuple(ground.findings), unchecked=tuple(unchecked))
