"""Which deploys an app has, and a deploy's config as it stands.

A deploy exists once trust.toml has a table for it, or it has a release or a config; production always does.
"""

from __future__ import annotations

import contextlib
import difflib
from collections.abc import Mapping

from gitrel.cli.developer import Developer
from gitrel.errors import FormatError, NotFound
from gitrel.format.envdir import Differences, compare
from gitrel.ids import PRODUCTION, Deploy, Entry, LedgerRef, ObjectId, RecordId, parse_ref
from gitrel.release.config import current_files
from gitrel.release.cut import Standing
from gitrel.trust.chain import TrustChain
from gitrel.trust.content import bind_trees
from gitrel.trust.ledger import Verdict
from gitrel.trust.signers import verify_signature
from gitrel.trust.walk import VerifiedConfig, walk_config

_CLOSE = 0.8  # of difflib's ratio: "stagin" is staging, "prod" may be a deploy of its own


def known_deploys(refs: Mapping[str, ObjectId], chain: TrustChain) -> list[Deploy]:
    found = {PRODUCTION, *chain.newest.policy.deploys}
    for name in refs:
        if name.startswith(("refs/releases/", "refs/config/")):
            with contextlib.suppress(FormatError):
                ref = parse_ref(name)
                if isinstance(ref, LedgerRef) and ref.ledger.deploy is not None:
                    found.add(ref.ledger.deploy)
    return sorted(found)


def check_deploy(dev: Developer, chain: TrustChain, deploy: Deploy | None = None, *, new: bool = False) -> None:
    """Raises `NotFound` for a deploy that does not exist; with `new`, if its name is close to one that does."""
    wanted = deploy or dev.deploy
    known = known_deploys(dev.workspace.refs(), chain)
    if wanted in known:
        return
    close = difflib.get_close_matches(wanted, known, 1, _CLOSE if new else 0.6)
    if new and not close:
        dev.console.note(f"note: {wanted} is a new deploy, with the roles of production and none of its readers")
        return
    hint = "`gitrel log --deploy NAME` takes any of them"
    if new:
        hint = f"if you mean a new one: `gitrel trust set-role release PERSON… --deploy {wanted}` makes it"
    why = f"did you mean {close[0]}?" if close else f"there {'is' if len(known) == 1 else 'are'} {', '.join(known)}"
    raise NotFound(f"no deploy {wanted}", why=why, hint=hint)


def config_ledger(dev: Developer, chain: TrustChain) -> list[VerifiedConfig]:
    """The deploy's config entries, oldest first. Raises `Refused`."""
    return walk_config(dev.workspace.refs(), dev.repo, chain, dev.deploy)


def usable_config(dev: Developer, chain: TrustChain, ledger: list[VerifiedConfig]) -> list[VerifiedConfig]:
    """The ledger up to the newest entry to build on: its signer holds the role today, or a good release carries it.

    What a retired key adds cites an old trust and so is a link of the chain, but nobody vouches for its content.
    """
    role = chain.newest.policy.deploy(dev.deploy).config
    released: set[RecordId] | None = None
    left = list(ledger)
    while left:
        entry = left[-1]
        ref = str(entry.signed.record.ref)
        if chain.newest.owners.get(verify_signature(entry.signed, ref)) in role.people:
            break
        if released is None:
            good = [each.release for each in dev.standing().verdicts if each.release is not None]
            released = {each.config.id for each in good if each.config is not None}
        if entry.id in released:
            break
        dev.console.note(f"WARNING: {ref} is passed over: its signer may not set the config any more")
        left.pop()
    return left


def newest_config(dev: Developer, chain: TrustChain) -> VerifiedConfig | None:
    """The entry that the next release carries."""
    entries = usable_config(dev, chain, config_ledger(dev, chain))
    return entries[-1] if entries else None


def released_files(dev: Developer, verdict: Verdict | None) -> Mapping[str, bytes]:
    """The envdir that a release carries; nothing for one that may not run."""
    return bind_trees(verdict.release, dev.repo).config if verdict is not None and verdict.release is not None else {}


def newest_good(now: Standing) -> Verdict | None:
    return next((verdict for verdict in reversed(now.verdicts) if verdict.release is not None), None)


def pending_config(dev: Developer, now: Standing) -> tuple[Entry, Differences] | None:
    """The newest config entry, if the newest release that may run carries other variables."""
    newest = newest_config(dev, now.trust)
    if newest is None:
        return None
    differences = compare(released_files(dev, newest_good(now)), current_files(newest, dev.repo))
    return (newest.entry, differences) if differences else None
