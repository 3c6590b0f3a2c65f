"""Stage 2: a build and a config become the next release of a deploy.

A release record is judged by the verifier that servers use before it is published, so a mistake is found where
it was made. Numbers come from the remote: whoever creates `refs/releases/vN` first has it, the other takes N+1.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from gitrel.dataclass import dataclass
from gitrel.errors import BadInput, Conflict, NotFound, Refused
from gitrel.format.envdir import variables
from gitrel.format.manifest import MANIFEST, Manifest, parse_manifest
from gitrel.format.record import BuildRecord, Cited, CitedRelease, ConfigRecord, ReleaseRecord, Signed, Stamp
from gitrel.format.tree import Mode, directory_node, parse_tree
from gitrel.ids import BuildRef, Deploy, Entry, Ledger, ObjectId, RecordId
from gitrel.release.remembered import Remembered
from gitrel.store.records import Sign, write_record
from gitrel.store.repository import Repository
from gitrel.store.workspace import Workspace
from gitrel.trust.chain import TrustChain
from gitrel.trust.checks import Check
from gitrel.trust.content import BUILD_FOLDER, CONFIG_FOLDER, bind_trees, build_node, read_config
from gitrel.trust.history import Judged, judge_releases
from gitrel.trust.ledger import ReleaseLedger, Verdict
from gitrel.trust.walk import RecordReader

MAX_TRIES = 100  # releases that others may cut while ours is being signed


@dataclass(frozen=True, slots=True, kw_only=True)
class Ingredients:
    """What the next release is made of."""

    build: Signed[BuildRecord]
    config: Signed[ConfigRecord] | None
    subject: str
    text: str = ""
    rollback_to: Entry | None = None
    promoted_from: CitedRelease | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """The next release, signed and judged. `lack`: the approvals that it waits for."""

    signed: Signed[ReleaseRecord]
    lack: Refused | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """A deploy's ledger as it stands: all verdicts, oldest first (`gitrel.trust.history.Verdicts`: or on demand)."""

    trust: TrustChain
    deploy: Deploy
    verdicts: Sequence[Verdict]

    @property
    def skipped(self) -> int:
        """How many of the oldest were verified on this machine before, and are not judged again yet."""
        return self.verdicts.skipped if isinstance(self.verdicts, Judged) else 0

    @property
    def newest(self) -> Verdict | None:
        return self.verdicts[-1] if self.verdicts else None

    def good(self, entry: Entry | None = None) -> Verdict:
        """The verdict of an entry (default: the newest that may run).

        Raises `NotFound`, or its `Refused`; for an entry beyond the end of a broken chain, the one that broke it.
        """
        for verdict in reversed(self.verdicts):
            if entry is None and verdict.release is not None:
                return verdict
            if verdict.entry == entry:
                if verdict.refusal is not None:
                    raise verdict.refusal
                return verdict
        last = self.newest
        beyond = last is not None and last.signed is None and entry is not None and entry > last.entry
        if last is not None and last.refusal is not None and not last.pending and (entry is None or beyond):
            raise last.refusal
        newest = f"the newest is {self.newest.entry}" if self.newest else "there is none yet"
        raise NotFound(
            f"no release {entry}" if entry else "no release that may run",
            where=Ledger.releases(self.deploy).prefix + (str(int(entry)) if entry else ""),
            why=newest,
            hint="see `gitrel log`",
        )


def standing(workspace: Workspace, trust: TrustChain, deploy: Deploy, remembered: Remembered | None = None) -> Standing:
    """Verify a deploy's release ledger (records only): all of it, or what came after that which is remembered."""
    anchor = remembered.get(trust.pin, deploy) if remembered is not None else None
    verdicts = judge_releases(workspace.refs(), workspace.repo, trust, deploy, anchor)
    if remembered is not None:
        remembered.put(trust.pin, deploy, verdicts)
    return Standing(trust=trust, deploy=deploy, verdicts=verdicts)


def cut(repo: Repository, now: Standing, ingredients: Ingredients, *, who: Stamp, sign: Sign) -> Made:
    """Make the release that follows `now`: signed, stored, judged; no ref is made.

    Raises `Refused` if the ledger cannot be continued, or if the verifier would refuse the new release for
    anything but a missing approval; `BadInput` if the config lacks what the build requires: no server would start it.
    """
    entry, previous = _next(now)
    build = build_node(ingredients.build, repo, f"build {ingredients.build.id.oid}")
    children = {BUILD_FOLDER: build}
    config = ingredients.config
    files: Mapping[str, bytes] = {}
    if config is not None:
        files, node = read_config(config, repo, str(config.record.ref))
        if files:
            children[CONFIG_FOLDER] = node
    manifest = _manifest(repo, build.oid)
    if manifest is not None:
        check_required(manifest, files, now.deploy)
    raw, tree = directory_node(children, repo.format)
    repo.write("tree", raw)
    record = ReleaseRecord(
        app=now.trust.app,
        deploy=now.deploy,
        subject=ingredients.subject,
        text=ingredients.text,
        entry=entry,
        previous=previous,
        build=ingredients.build.id,
        config=Cited(config.record.entry, config.id) if config else None,
        trust=now.trust.newest.cited,
        rollback_to=ingredients.rollback_to,
        promoted_from=ingredients.promoted_from,
        tree_sha256=tree.sha256,
    )
    signed = write_record(repo, record, tree, who=who, sign=sign)
    return Made(signed=signed, lack=_judge(repo, now, signed))


def _manifest(repo: Repository, build: ObjectId) -> Manifest | None:
    entry = next((each for each in parse_tree(repo.read(build, "tree"), repo.format) if each.name == MANIFEST), None)
    if entry is None or entry.mode is Mode.DIRECTORY:
        return None
    return parse_manifest(repo.read(entry.oid, "blob"))


def check_required(manifest: Manifest, files: Mapping[str, bytes], deploy: Deploy) -> None:
    """Raises `BadInput` if the config lacks a variable that the build requires: no server would start that."""
    missing = manifest.missing(variables(files))
    if missing:
        raise BadInput(
            f"the config of {deploy} lacks {', '.join(missing)}",
            where=MANIFEST,
            why="it is in `required_env`, so no server would start this release",
            hint=f"`gitrel config set --deploy {deploy} {missing[0]}=…`, with --secret if it is one",
        )


def publish(
    workspace: Workspace,
    look: Callable[[], Standing],
    make: Callable[[Standing], Made],
) -> Made:
    """Cut and publish, again with the next number whenever somebody else took it. Raises `Conflict`, `RemoteError`."""
    for _ in range(MAX_TRIES):
        made = make(look())
        record = made.signed.record
        refs: dict[str, ObjectId] = {str(BuildRef(record.build.oid)): record.build.oid}
        if record.config is not None:
            refs[str(Ledger.config(record.deploy)[record.config.entry])] = record.config.id.oid
        refs[str(record.ref)] = made.signed.id.oid
        try:
            workspace.publish(refs)
        except Conflict:
            workspace.sync()  # all: what is in the way may be another ref than the next
            continue
        return made
    raise Conflict("others were first every time", why=f"{MAX_TRIES} tries", hint="run the command again")


def _next(now: Standing) -> tuple[Entry, RecordId | None]:
    newest = now.newest
    if newest is None:
        return Entry(1), None
    if newest.signed is None and newest.refusal is not None:
        raise Refused(
            f"nothing can follow {newest.entry}: {newest.refusal.what}",
            check=newest.refusal.check,
            where=newest.ref,
            why=newest.refusal.why,
            hint="it is no link of the ledger; whoever runs the remote must remove that ref",
        )
    return newest.entry.next, newest.id


def _judge(repo: Repository, now: Standing, signed: Signed[ReleaseRecord]) -> Refused | None:
    """The approvals that are lacking (6). Raises `Refused` for anything else."""
    reader = RecordReader(repo.refs.view("refs/approvals/"), repo)
    later: list[Verdict] = []
    anchor = None
    for verdict in reversed(now.verdicts):
        if verdict.release is not None:
            anchor = verdict.release.anchor
            break
        later.append(verdict)
    ledger = ReleaseLedger(
        now.trust, now.deploy, reader, anchor=anchor, released_before=lambda part: _carried(now, part)
    )
    for verdict in reversed(later):
        if verdict.signed is not None:
            ledger.add(verdict.ref, verdict.signed.raw)
    verdict = ledger.add(str(signed.record.ref), signed.raw)
    if verdict.release is not None:
        bind_trees(verdict.release, repo)
    elif verdict.refusal is not None and verdict.refusal.check != Check.THRESHOLD:
        raise verdict.refusal
    return verdict.refusal


def _carried(now: Standing, part: RecordId) -> bool:
    """Whether a good release carries a build or config record."""
    good = (verdict.release for verdict in now.verdicts if verdict.release is not None)
    return any(part in (each.build.id, each.config and each.config.id) for each in good)
