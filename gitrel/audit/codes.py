"""The codes of findings, which never change their meaning (docs/auditing.md has them as a table).

An *error* is what an auditor wants to be woken for: a record that is forged, lost, replaced or cut off, or that
servers refuse. A *warning* changes no verdict, but somebody should look: what is among the records and is none, what
misleads other tools, what this audit could not see. A *note* is for the report: an honest ledger has some.
"""

from __future__ import annotations

from enum import StrEnum

from gitrel.dataclass import dataclass


class Severity(StrEnum):
    ERROR = "error"
    WARNING = "warning"
    NOTE = "note"


class Code(StrEnum):
    """What was found."""

    NO_TRUST = "no-trust"
    WRONG_PIN = "wrong-pin"
    MISSING_OBJECT = "missing-object"
    DAMAGED_OBJECT = "damaged-object"
    WRONG_KIND = "wrong-kind"
    DAMAGED_REF = "damaged-ref"
    NOT_CANONICAL = "not-canonical"
    UNSIGNED = "unsigned"
    MISNAMED = "misnamed"
    OTHER_APP = "other-app"
    TRUST_BROKEN = "trust-broken"
    UNKNOWN_TRUST = "unknown-trust"
    BAD_SIGNATURE = "bad-signature"
    NO_ROLE = "no-role"
    POSITION = "position"
    FORK = "fork"
    GAP = "gap"
    BROKEN_LINK = "broken-link"
    BAD_BUILD = "bad-build"
    BAD_CONFIG = "bad-config"
    BAD_TREE = "bad-tree"
    BAD_CONTENT = "bad-content"
    HEAD_MISSING = "head-missing"
    HISTORY_CUT = "history-cut"
    HISTORY_REWRITTEN = "history-rewritten"
    HOSTS_DIFFER = "hosts-differ"
    SPLIT_VIEW = "split-view"
    WITHHELD = "withheld"
    STRAY_REF = "stray-ref"
    VOID_APPROVAL = "void-approval"
    FOREIGN_BUILD = "foreign-build"
    UNNAMED_PART = "unnamed-part"
    ORIGIN_DIFFERS = "origin-differs"
    REPLACED = "replaced"
    GRAFTED = "grafted"
    LINKED_REFS = "linked-refs"
    SHALLOW = "shallow"
    CONTENTS_ABSENT = "contents-absent"
    PENDING = "pending"
    REPUDIATED = "repudiated"
    SUPERSEDED_SIGNER = "superseded-signer"
    UNLISTED_DEPLOY = "unlisted-deploy"
    CLAIMED_TIME = "claimed-time"
    BORROWED = "borrowed"
    HOST_BEHIND = "host-behind"
    LEDGER_ONLY = "ledger-only"

    @property
    def severity(self) -> Severity:
        return _TABLE[self].severity

    @property
    def meaning(self) -> str:
        return _TABLE[self].meaning

    @property
    def advice(self) -> str:
        return _TABLE[self].advice


@dataclass(frozen=True, slots=True)
class _Row:
    severity: Severity
    meaning: str
    advice: str


_FETCH = (
    "fetch all refs (`git fetch origin 'refs/*:refs/*'`), or audit the URL; if it is missing there, too, "
    "ask who can write to the host"
)
_HOST = "keep this clone as evidence, and ask who can write to the host"
_REMOVE = "servers pass it over; ask who put it there, and have whoever runs the host remove it"
_SIGNER = "ask the one who signed it; make a good record on top, and repudiate it if it could ever run"

_E, _W, _N = Severity.ERROR, Severity.WARNING, Severity.NOTE
_TABLE = {
    Code.NO_TRUST: _Row(
        _E,
        "there is no trust ledger, so nobody's signature means anything",
        _FETCH,
    ),
    Code.WRONG_PIN: _Row(
        _E,
        "trust v1 is not the pinned one: this is another app's ledger, or a forged one",
        "compare the pin with whoever gave it to you",
    ),
    Code.MISSING_OBJECT: _Row(
        _E,
        "an object that a ref or a record names is not there",
        _FETCH,
    ),
    Code.DAMAGED_OBJECT: _Row(
        _E,
        "an object's bytes cannot be read, or are not those that its id names",
        "fetch it from another clone; if the host has it damaged, too, ask who can write there",
    ),
    Code.WRONG_KIND: _Row(
        _E,
        "a ref names an object that is no record: a tag, a tree, a file",
        _HOST,
    ),
    Code.DAMAGED_REF: _Row(
        _E,
        "a ref is a symbolic ref, a link, or no object id at all",
        _HOST,
    ),
    Code.NOT_CANONICAL: _Row(
        _E,
        "a record's bytes are not in the one form that a record has",
        _HOST,
    ),
    Code.UNSIGNED: _Row(
        _E,
        "a record that nobody signed",
        _HOST,
    ),
    Code.MISNAMED: _Row(
        _E,
        "a record lies under another name than the one that was signed",
        _HOST,
    ),
    Code.OTHER_APP: _Row(
        _E,
        "a record of another app",
        _HOST,
    ),
    Code.TRUST_BROKEN: _Row(
        _E,
        "a trust record that does not follow from the one before it",
        _HOST,
    ),
    Code.UNKNOWN_TRUST: _Row(
        _E,
        "a record cites a trust record that is not in the ledger",
        _HOST,
    ),
    Code.BAD_SIGNATURE: _Row(
        _E,
        "a signature does not match what it stands under",
        _HOST,
    ),
    Code.NO_ROLE: _Row(
        _E,
        "signed by somebody who had no right to",
        _SIGNER,
    ),
    Code.POSITION: _Row(
        _E,
        "signed by somebody who had lost the role by then, or it goes back to an older trust",
        _SIGNER,
    ),
    Code.FORK: _Row(
        _E,
        "two records were signed for one number",
        _HOST,
    ),
    Code.GAP: _Row(
        _E,
        "a number of a ledger has no record",
        _FETCH,
    ),
    Code.BROKEN_LINK: _Row(
        _E,
        "a record does not follow the one before it",
        _HOST,
    ),
    Code.BAD_BUILD: _Row(
        _E,
        "a release carries a build that does not count",
        _SIGNER,
    ),
    Code.BAD_CONFIG: _Row(
        _E,
        "a release carries a config that does not count, or a config's files are malformed",
        _SIGNER,
    ),
    Code.BAD_TREE: _Row(
        _E,
        "a tree has something that no checkout may have",
        _SIGNER,
    ),
    Code.BAD_CONTENT: _Row(
        _E,
        "files are not those that were signed",
        _HOST,
    ),
    Code.HEAD_MISSING: _Row(
        _E,
        "a release that trust names is not there: the ledger was cut off",
        _FETCH,
    ),
    Code.HISTORY_CUT: _Row(
        _E,
        "a record that an earlier audit saw is gone",
        _HOST,
    ),
    Code.HISTORY_REWRITTEN: _Row(
        _E,
        "another record stands where an earlier audit saw one",
        _HOST,
    ),
    Code.HOSTS_DIFFER: _Row(
        _E,
        "two hosts show different records under one name",
        "keep both as evidence, and ask who can write to either host",
    ),
    Code.SPLIT_VIEW: _Row(
        _E,
        "a heartbeat or a host's receipt names another release under a number that is taken here",
        "two were shown two histories: keep both as evidence, and ask who can write to the host",
    ),
    Code.WITHHELD: _Row(
        _E,
        "a heartbeat or a host's receipt names a release that is not here",
        _FETCH,
    ),
    Code.STRAY_REF: _Row(
        _W,
        "a ref among the records that belongs to no ledger",
        _REMOVE,
    ),
    Code.VOID_APPROVAL: _Row(
        _W,
        "an approval that counts for nothing",
        _REMOVE,
    ),
    Code.FOREIGN_BUILD: _Row(
        _W,
        "a build that does not count, and that no release carries",
        _REMOVE,
    ),
    Code.UNNAMED_PART: _Row(
        _W,
        "a record that a release carries has lost its own ref",
        "have whoever runs the host restore the ref: `git update-ref REF OBJECT`",
    ),
    Code.ORIGIN_DIFFERS: _Row(
        _W,
        "a rollback or promotion has not the build of the release that it names",
        _SIGNER,
    ),
    Code.REPLACED: _Row(
        _W,
        "refs/replace makes stock git show other objects than there are; gitrel reads the real ones",
        "`git --no-replace-objects` shows the real ones; ask who put it there",
    ),
    Code.GRAFTED: _Row(
        _W,
        "info/grafts makes stock git show another history than there is; gitrel reads the real one",
        "remove the file, and ask who put it there",
    ),
    Code.LINKED_REFS: _Row(
        _W,
        "a link among the folders of refs; what it leads to was not read",
        "audit the folder that it leads to by itself",
    ),
    Code.SHALLOW: _Row(
        _W,
        "a shallow clone: history before its boundary is not here",
        "`git fetch --unshallow`, or audit the URL",
    ),
    Code.CONTENTS_ABSENT: _Row(
        _W,
        "files are not in this clone on purpose (partial clone), so they were not checked",
        "audit a full clone, or the URL",
    ),
    Code.PENDING: _Row(
        _N,
        "waits for approvals; no server runs it",
        "nothing, or approve it",
    ),
    Code.REPUDIATED: _Row(
        _N,
        "trust says that this release must never run; no server runs it",
        "nothing",
    ),
    Code.SUPERSEDED_SIGNER: _Row(
        _N,
        "signed with a key that today's trust does not know; good, because it was made before",
        "nothing; look closer if the key was stolen",
    ),
    Code.UNLISTED_DEPLOY: _Row(
        _N,
        "a deploy without a table of its own in trust.toml; production's roles hold for it",
        "nothing, if you know of that deploy",
    ),
    Code.CLAIMED_TIME: _Row(
        _N,
        "the claimed time is before that of the record before it, or in the future; times grant nothing",
        "nothing",
    ),
    Code.BORROWED: _Row(
        _N,
        "objects are borrowed from other folders (objects/info/alternates); each is hashed all the same",
        "nothing",
    ),
    Code.HOST_BEHIND: _Row(
        _N,
        "one host has records that the other has not got yet",
        "compare again later; nothing, if it catches up",
    ),
    Code.LEDGER_ONLY: _Row(
        _N,
        "files were not checked, as asked for",
        "audit without --ledger-only",
    ),
}
