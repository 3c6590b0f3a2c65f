"""Promotion: what one deploy ran becomes the next release of another, with that one's own config.

The build record is the very same, so nothing is built. It has to count in the other deploy's ledger as any build
does: by its signer's role today, or because that ledger carries it already; what the first deploy's ledger carries
does not help. `Promoted-From` tells people and audits where the release comes from; no check depends on it.
"""

from __future__ import annotations

from gitrel.errors import UsageError
from gitrel.format.record import BuildRecord, CitedRelease, Signed
from gitrel.ids import Deploy, Entry
from gitrel.release.cut import Standing


def choose_promotion(origin: Standing, entry: Entry | None, target: Deploy) -> tuple[Signed[BuildRecord], CitedRelease]:
    """The build of a release that may run (default: the newest), and how the promotion names that release.

    Raises `NotFound`, or the `Refused` of the release; `UsageError` for a deploy promoted to itself.
    """
    if origin.deploy == target:
        raise UsageError(
            f"{target} cannot be promoted to itself", where="--from", hint="`gitrel rollback vN` releases vN again"
        )
    release = origin.good(entry).release
    if release is None:  # `good` raises for what may not run
        raise ValueError(f"{entry} has no verdict")
    return release.build, CitedRelease(origin.deploy, release.entry, release.id)
