"""Which deploys an app has, and a deploy's config as it stands.

A deploy exists once trust.toml has a table for it, or it has a release or a config; production always does.
"""

from __future__ import annotations

import contextlib
import difflib
import itertools
from collections.abc import Mapping, Sequence

from gitrel.cli.developer import Developer
from gitrel.errors import FormatError, NotFound, Refused, UsageError
from gitrel.format.envdir import Differences, compare
from gitrel.format.record import ConfigRecord, Signed
from gitrel.ids import PRODUCTION, Deploy, Entry, Ledger, LedgerKind, LedgerRef, ObjectId, parse_ref
from gitrel.release.config import current_files
from gitrel.release.cut import Standing
from gitrel.trust.chain import TrustChain
from gitrel.trust.content import bind_trees
from gitrel.trust.history import judge_config
from gitrel.trust.ledger import Verdict
from gitrel.trust.walk import VerifiedConfig

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
    if wanted == PRODUCTION or wanted in chain.newest.policy.deploys:
        return
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


def config_ledger(dev: Developer, chain: TrustChain) -> Sequence[VerifiedConfig]:
    """The deploy's config entries, oldest first; what this user verified before is not verified again unless somebody
    looks at it. Raises `Refused`."""
    anchor = dev.remembered.get(chain.pin, dev.deploy, LedgerKind.CONFIG)
    entries = judge_config(dev.workspace.refs(), dev.repo, chain, dev.deploy, anchor)
    dev.remembered.put(chain.pin, dev.deploy, entries, LedgerKind.CONFIG)
    return entries


def config_head(dev: Developer, ledger: Sequence[VerifiedConfig]) -> Sequence[VerifiedConfig]:
    """The ledger up to the newest entry that counts, or would with more approvals.

    What a retired key adds cites an old trust and so is a link of the chain, but nobody vouches for its content.
    """
    dead = list(itertools.takewhile(lambda each: not each.usable and not each.pending, reversed(ledger)))
    for each in dead:
        ref = each.signed.record.ref
        dev.console.note(f"WARNING: {ref} is passed over: its signer may not set the config any more")
    return ledger[: -len(dead)] if dead else ledger


def approved_config(ledger: Sequence[VerifiedConfig]) -> Sequence[VerifiedConfig]:
    """The ledger up to the newest entry that a release can carry."""
    after = sum(1 for _ in itertools.takewhile(lambda each: not each.usable, reversed(ledger)))
    return ledger[:-after] if after else ledger


def named_config(dev: Developer, ledger: Sequence[VerifiedConfig], text: str) -> VerifiedConfig:
    """An entry by its number, `v12` or `12`. Raises `NotFound`, `UsageError`."""
    try:
        number = Entry.parse(text if text.startswith("v") else f"v{text}")
    except FormatError:
        what = f"not a config entry such as v12: {text[:100]!r}"
        raise UsageError(what, where="[vN]", hint="`gitrel config log` lists them") from None
    if number > len(ledger):
        why = f"the newest is v{len(ledger)}" if ledger else "there is none yet"
        raise NotFound(
            f"no config {number}", where=str(Ledger.config(dev.deploy)[number]), why=why, hint="`gitrel config log`"
        )
    return ledger[number - 1]


def config_to_release(dev: Developer, chain: TrustChain, named: str | None = None) -> Signed[ConfigRecord] | None:
    """The entry that the next release carries: the newest, or the one that is named.

    Raises `Refused` if that one does not count, or not yet: an older one is never taken in silence.
    """
    ledger = config_ledger(dev, chain)
    head = config_head(dev, ledger) if named is None else [named_config(dev, ledger, named)]
    if not head:
        return None
    entry = head[-1]
    if entry.lack is not None:
        before = approved_config(head)
        other = f"; `gitrel release --config {before[-1].entry}` takes the newest that is approved" if before else ""
        raise Refused(
            f"config {entry.entry} is {entry.lack.what}",
            check=entry.lack.check,
            where=entry.lack.where,
            why=f"{entry.signed.record.subject}; {entry.lack.why}" if entry.pending else "",
            hint=f"{entry.lack.hint}{other}" if entry.pending else "",
        )
    return entry.signed


def released_files(dev: Developer, verdict: Verdict | None) -> Mapping[str, bytes]:
    """The envdir that a release carries; nothing for one that may not run."""
    return bind_trees(verdict.release, dev.repo).config if verdict is not None and verdict.release is not None else {}


def newest_good(now: Standing) -> Verdict | None:
    return next((verdict for verdict in reversed(now.verdicts) if verdict.release is not None), None)


def pending_config(dev: Developer, now: Standing) -> tuple[VerifiedConfig, Differences] | None:
    """The newest config entry, if the newest release that may run carries other variables."""
    head = config_head(dev, config_ledger(dev, now.trust))
    if not head:
        return None
    differences = compare(released_files(dev, newest_good(now)), current_files(head[-1], dev.repo))
    return (head[-1], differences) if differences else None
