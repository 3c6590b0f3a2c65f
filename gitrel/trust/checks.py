"""The numbered checks (docs/spec/verification.md). The numbers appear in every refusal, in tests and in JSON."""

from __future__ import annotations

from enum import IntEnum


class Check(IntEnum):
    """In the order in which they are made: cheap ones first, nothing big is fetched before 8 has passed."""

    NAME = 1
    CANONICAL = 2
    APP = 3
    TRUST_CHAIN = 4
    SIGNATURE = 5
    THRESHOLD = 6
    POSITION = 7
    PREVIOUS = 8
    BUILD = 9
    CONFIG = 10
    TREE = 11
    CONTENT = 12
    HIGHEST_SEEN = 13
    REPUDIATED = 14

    @property
    def title(self) -> str:
        return _TITLES[self]


_TITLES = {
    Check.NAME: "the ref's name is the signed name",
    Check.CANONICAL: "the record is canonical",
    Check.APP: "the app, and the pinned trust",
    Check.TRUST_CHAIN: "the trust chain",
    Check.SIGNATURE: "the signature, and the signer's role",
    Check.THRESHOLD: "enough people signed",
    Check.POSITION: "the signers hold their roles at this position",
    Check.PREVIOUS: "the previous entry",
    Check.BUILD: "the build record",
    Check.CONFIG: "the config record",
    Check.TREE: "the shape of the tree, and its paths",
    Check.CONTENT: "the content",
    Check.HIGHEST_SEEN: "not older than, and descended from, what was seen before",
    Check.REPUDIATED: "not repudiated",
}
