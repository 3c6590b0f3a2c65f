"""The config ledger of a deploy: each change of its variables is a record; the next release carries it."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from gitrel.errors import FormatError, NotFound
from gitrel.format.envdir import SECRET_SUFFIX, check_value, check_variable, parse_envdir
from gitrel.format.record import ConfigRecord, Signed, Stamp
from gitrel.ids import Deploy, Entry
from gitrel.store.records import Sign, write_record
from gitrel.store.repository import Repository
from gitrel.store.snapshot import store_tree
from gitrel.trust.chain import VerifiedTrust
from gitrel.trust.content import read_config
from gitrel.trust.walk import VerifiedConfig


def current_files(newest: VerifiedConfig | None, repo: Repository) -> dict[str, bytes]:
    """The envdir of the newest config record."""
    return dict(read_config(newest.signed, repo, str(newest.signed.record.ref))[0]) if newest else {}


def parse_assignments(words: Collection[str]) -> dict[str, bytes]:
    """`NAME=value` words as variables. Raises `FormatError`, which says which word it is and never shows a value."""
    values: dict[str, bytes] = {}
    for number, word in enumerate(words, 1):
        name, equals, value = word.partition("=")
        raw = value.encode("utf-8", "surrogateescape")
        try:
            if not equals:
                raise FormatError("not NAME=value", hint="put the value after an equals sign")
            check_value(check_variable(name), raw)
        except FormatError as error:
            error.where = f"argument {number}"
            raise
        if values.setdefault(name, raw) != raw:
            raise FormatError(f"{name} is given twice, with two values", where=f"argument {number}")
    return values


def changed(files: Mapping[str, bytes], set_: Mapping[str, bytes], unset: Collection[str]) -> dict[str, bytes] | None:
    """The envdir after a change, or None if nothing changes. Raises `NotFound` for an unknown name to unset."""
    after = dict(files)
    for name in unset:
        try:
            check_variable(name)
        except FormatError as error:
            error.where = "the names to unset"
            raise
        if after.pop(name, None) is None and after.pop(name + SECRET_SUFFIX, None) is None:
            raise NotFound("no such variable", where=name, hint="see `gitrel config list`")
    for name, value in set_.items():
        after.pop(name + SECRET_SUFFIX, None)
        after[name] = value
    after = parse_envdir(after)
    return None if after == files else after


def write_config(
    repo: Repository,
    trust: VerifiedTrust,
    deploy: Deploy,
    files: Mapping[str, bytes],
    previous: VerifiedConfig | None,
    *,
    subject: str,
    who: Stamp,
    sign: Sign,
) -> Signed[ConfigRecord]:
    """The next config record of a deploy, signed and stored; no ref is made."""
    tree = store_tree(repo, dict(files))
    record = ConfigRecord(
        app=trust.policy.app,
        subject=subject,
        deploy=deploy,
        entry=previous.entry.next if previous else Entry(1),
        previous=previous.id if previous else None,
        trust=trust.cited,
        tree_sha256=tree.sha256,
    )
    return write_record(repo, record, tree, who=who, sign=sign)
