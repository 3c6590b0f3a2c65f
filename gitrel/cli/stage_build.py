"""`gitrel build`."""

from __future__ import annotations

import platform
import tempfile
from pathlib import Path

from gitrel import __version__
from gitrel.build.checkout import dirty_paths, remote_url, resolve_commit
from gitrel.build.record import check_build, record_build
from gitrel.build.stage import read_manifest, stage
from gitrel.cli.console import Console
from gitrel.cli.developer import Developer, open_developer
from gitrel.errors import BadInput
from gitrel.format.provenance import Provenance, source_uri
from gitrel.format.record import BuildRecord, Signed
from gitrel.ids import BuildRef, ObjectId
from gitrel.store.snapshot import snapshot
from gitrel.trust.chain import TrustChain
from gitrel.trust.signers import require_role
from gitrel.trust.walk import find_builds


def build(console: Console, repo: Path | None, remote: str | None, rev: str, pin: str | None) -> None:
    with open_developer(console, repo=repo, remote=remote, trust=pin) as dev:
        dev.sync()
        signed = make_build(dev, dev.trust(), resolve(dev, rev))
        ref = str(BuildRef(signed.id.oid))
        dev.workspace.publish({ref: signed.id.oid})
        console.out(f"build {signed.id.oid} of {signed.record.source[:12]}")
        console.result(build=signed.id.oid, source=signed.record.source, tree_sha256=signed.record.tree_sha256, ref=ref)


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
    manifest = read_manifest(dev.source, source, env=dev.env)
    if manifest.app != trust.app:
        raise BadInput(f"app = {manifest.app!r}", where="gitrel.toml", why=f"the trust ledger is of {trust.app}")
    dev.console.note(f"building {source[:12]}")
    with (
        tempfile.TemporaryDirectory(prefix="gitrel-") as scratch,
        stage(dev.source, source, manifest.build, env=dev.env, on_output=dev.console.note, tmp=Path(scratch)) as staged,
    ):
        taken = snapshot(staged.folder, dev.repo, exclude=staged.exclude)
    for note in (*staged.notes, *taken.notes):
        dev.console.note(f"note: {note}")
    check_build(dev.repo, taken)
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
        candidates=find_builds(dev.workspace.refs(), dev.repo, trust, source),
        who=who,
        sign=dev.signer.sign,
    )
    how = "the same as before" if built.reused else f"{taken.files} files, {taken.size:,} bytes"
    dev.console.note(f"built {source[:12]}: {how}")
    return built.signed
