"""The fetch refspecs with which stock git brings the ledgers, too (git-fetch(1), CONFIGURED REMOTE-TRACKING BRANCHES).

Without a `+`: what was fetched once is not replaced by something that does not descend from it, and git says so.
"""

from __future__ import annotations

from gitrel.ids import NAMESPACES
from gitrel.store.location import GitConfig, is_true

REFSPECS = tuple(f"{namespace}*:{namespace}*" for namespace in NAMESPACES)


def missing(config: GitConfig, remote: str) -> list[str]:
    """Those that the remote's configuration lacks; one that forces is there, too."""
    there = {spec.removeprefix("+") for spec in config.all(("remote", remote), "fetch")}
    return [spec for spec in REFSPECS if spec not in there and "refs/*:refs/*" not in there]


def forced(config: GitConfig, remote: str) -> list[str]:
    """Those that let a fetch move the ledgers' refs."""
    return [
        spec
        for spec in config.all(("remote", remote), "fetch")
        if spec.removeprefix("+") in REFSPECS and spec[:1] == "+"
    ]


def prunes(config: GitConfig, remote: str) -> bool:
    """Whether a fetch deletes here what the remote has not, or has no more: a build that was not pushed yet, say."""
    own = config.get(("remote", remote), "prune")
    return is_true(own or config.get(("fetch",), "prune"))
