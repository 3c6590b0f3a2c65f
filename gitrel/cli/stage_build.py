"""`gitrel build`."""

from __future__ import annotations

import platform
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gitrel import __version__
from gitrel.build.checkout import dirty_paths, remote_url, resolve_commit
from gitrel.build.record import check_build, record_build
from gitrel.build.stage import Staged, read_manifest, stage
from gitrel.cli.console import Console
from gitrel.cli.developer import Developer, open_developer
from gitrel.errors import BadInput, BuildFailed
from gitrel.format.manifest import MANIFEST, Manifest
from gitrel.format.provenance import Provenance, source_uri
from gitrel.format.record import BuildRecord, Signed
from gitrel.ids import BuildRef, ObjectId
from gitrel.store.snapshot import Snapshot, snapshot
from gitrel.store.sources import builds_of
from gitrel.trust.chain import TrustChain
from gitrel.trust.signers import require_role
from gitrel.trust.walk import VerifiedBuild, walk_builds


def build(console: Console, repo: Path | None, remote: str | None, rev: str, pin: str | None) -> None:
    with open_developer(console, repo=repo, remote=remote, trust=pin) as dev:
        dev.sync(dev.interest(below=("refs/builds/",)))
        signed = make_build(dev, dev.trust(), resolve(dev, rev))
        ref = str(BuildRef(signed.id.oid))
        dev.workspace.publish({ref: signed.id.oid})
        console.out(f"build {signed.id.oid} of {signed.record.source[:12]}")
        for each in builds_of_source(dev, dev.trust(), signed.record.source):
            if each.signed.id == signed.id and each.lack is not None:
                console.note(f"note: pending: {each.lack.why or each.lack}")
        console.result(build=signed.id.oid, source=signed.record.source, tree_sha256=signed.record.tree_sha256, ref=ref)


def builds_of_source(dev: Developer, trust: TrustChain, source: ObjectId) -> list[VerifiedBuild]:
    """The builds of a commit that the build role signed, pending or not."""
    return list(walk_builds(dev.workspace.refs(), dev.repo, trust, source, among=builds_of(dev.repo, source)))


def resolve(dev: Developer, rev: str) -> ObjectId:
    """The commit that is meant; says so if the work tree holds something else. Raises `NotFound`."""
    source = resolve_commit(dev.source, rev, env=dev.env)
    if rev == "HEAD" and dev.repo.work_tree is not None:
        dirty = dirty_paths(dev.source, env=dev.env)
        if dirty:
            dev.console.note(f"note: not committed, so not in the build: {', '.join(dirty)}")
    return source


def make_build(dev: Developer, trust: TrustChain, source: ObjectId) -> Signed[BuildRecord]:
    """Build, store and sign; an identical build is found again. No ref is made."""
    policy = trust.newest.policy
    require_role(policy, policy.build, dev.signer.public_key.id, "sign builds")
    who = dev.who()
    with _of_the_commit():
        manifest = read_manifest(dev.source, source, env=dev.env)
        if manifest.app != trust.app:
            raise BadInput(f"app = {manifest.app!r}", where=MANIFEST, why=f"the trust ledger is of {trust.app}")
        dev.console.note(f"building {source[:12]}")
        staged, taken = _store(dev, source, manifest)
    for note in (*staged.notes, *taken.notes):
        dev.console.note(f"note: {note}")
    url = remote_url(dev.source, env=dev.env)
    provenance = Provenance(
        tree=taken.node.oid,
        tree_sha256=taken.node.sha256,
        source=source,
        source_uri=source_uri(url) if url else None,
        command=manifest.build.command,
        output=manifest.build.output,
        exclude=manifest.build.exclude,
        pass_env=manifest.build.pass_env,
        started=staged.started,
        finished=staged.finished,
        gitrel_version=__version__,
        python_version=platform.python_version(),
    )
    built = record_build(
        dev.repo,
        trust.newest,
        taken,
        provenance,
        candidates=(each.signed for each in builds_of_source(dev, trust, source)),
        who=who,
        sign=dev.signer.sign,
    )
    how = "the same as before" if built.reused else f"{taken.files} files, {taken.size:,} bytes"
    dev.console.note(f"built {source[:12]}: {how}")
    return built.signed


def _store(dev: Developer, source: ObjectId, manifest: Manifest) -> tuple[Staged, Snapshot]:
    """Run the build, and store what it leaves. Raises `BuildFailed` with paths as they are in the build."""
    with stage(
        dev.source,
        source,
        manifest.build,
        env=dev.env,
        on_output=dev.console.note,
        tmp=Path(tempfile.gettempdir()),  # itself, for builds at one path, and because a killed one is cleared there
    ) as staged:
        try:
            with dev.console.working("storing the build"):
                taken = snapshot(staged.folder, dev.repo, exclude=staged.exclude)
        except BuildFailed as error:
            error.where = error.where.removeprefix(f"{staged.folder}/")
            error.hint = error.hint or f"let the build command remove it, or `exclude` it under [build] in {MANIFEST}"
            raise
        check_build(dev.repo, taken)
    return staged, taken


@contextmanager
def _of_the_commit() -> Iterator[None]:
    """A bad file is mended in a commit, which somebody who just mended it in the work tree may forget."""
    try:
        yield
    except BadInput as error:
        error.hint = error.hint or "mend it and commit: a build is of what is committed"
        raise
