"""`gitrel config list`, `get`, `export`, `diff` and `log`: reading a deploy's variables.

A secret's value is shown by `get` and `export` alone, and only with `--reveal`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from gitrel.cli.config import Place, reading_loudly
from gitrel.cli.config_input import write_raw
from gitrel.cli.deploys import (
    approved_config,
    check_deploy,
    config_head,
    config_ledger,
    named_config,
    newest_good,
    released_files,
)
from gitrel.cli.developer import Developer
from gitrel.cli.reading import difference_fields, local_time, utc_time
from gitrel.errors import GitrelError, UsageError
from gitrel.format.dotenv import encode_dotenv
from gitrel.format.envdir import (
    SECRET_SUFFIX,
    Differences,
    check_value,
    check_variable,
    compare,
    plain_values,
    secret_names,
    variables,
)
from gitrel.release.config import current_files, no_variable, outdated
from gitrel.trust.chain import TrustChain
from gitrel.trust.walk import VerifiedConfig


def list_config(place: Place) -> None:
    with place.open() as dev:
        chain, whole = _ledger(dev)
        ledger = _shown(dev, whole)
        newest = ledger[-1] if ledger else None
        files = current_files(newest, dev.repo)
        values = plain_values(files)
        for name in sorted(variables(files)):
            dev.console.out(f"{name}{_value(name, values)}")
        stale = outdated(ledger, dev.repo, chain, dev.deploy) if ledger else {}
        if stale:
            dev.console.note(f"note: {', '.join(stale)}: encrypted for other readers; `gitrel config reencrypt`")
        dev.console.result(config=str(newest.entry) if newest else None, variables=values, secrets=secret_names(files))


def get_config(place: Place, name: str, entry: str | None, reveal: bool) -> None:
    with place.open() as dev:
        chain, ledger = _ledger(dev)
        files = current_files(_entry(dev, ledger, entry), dev.repo)
        check_variable(name)
        if name in files:
            value = check_value(name, files[name])
        elif name + SECRET_SUFFIX not in files:
            raise no_variable(name, files)
        elif not reveal:
            raise UsageError(f"{name} is a secret", hint=f"`gitrel config get --reveal {name}`, with a reader's key")
        else:
            value = _revealed(dev, place, chain, ledger, files, [name])[name]
        write_raw(value, dev.console)
        dev.console.result(name=name, value=value, secret=name not in files)


def export_config(place: Place, entry: str | None, reveal: bool) -> None:
    """The variables as a dotenv file; without `reveal` a secret is a comment."""
    with place.open() as dev:
        chain, ledger = _ledger(dev)
        files = current_files(_entry(dev, ledger, entry), dev.repo)
        secrets = secret_names(files)
        values = plain_values(files) | (_revealed(dev, place, chain, ledger, files, secrets) if reveal else {})
        hidden = [] if reveal else secrets
        text = "".join(f"# {name} is a secret\n" for name in hidden) + encode_dotenv(dict(sorted(values.items())))
        write_raw(text.removesuffix("\n"), dev.console)
        dev.console.result(variables=values, secrets=secrets)


def _revealed(
    dev: Developer,
    place: Place,
    chain: TrustChain,
    ledger: Sequence[VerifiedConfig],
    files: Mapping[str, bytes],
    names: Sequence[str],
) -> dict[str, str]:
    decrypt = reading_loudly(dev, place.identity, chain, ledger)
    values = {}
    for name in names:
        try:
            values[name] = check_value(name, decrypt(files[name + SECRET_SUFFIX]))
        except GitrelError as error:
            error.where = name
            raise
    return values


def diff_config(place: Place, first: str | None, second: str | None) -> None:
    """Two entries; by default what the newest release carries, and the newest entry, pending or not."""
    with place.open() as dev:
        _, ledger = _ledger(dev)
        if first is None:
            before = released_files(dev, newest_good(dev.standing()))
        else:
            before = current_files(named_config(dev, ledger, first), dev.repo)
        head = config_head(dev, ledger)
        newest = head[-1] if head else None
        after = current_files(named_config(dev, ledger, second) if second else newest, dev.repo)
        different = compare(before, after)
        for line in difference_lines(different, before, after):
            dev.console.out(line)
        dev.console.result(**difference_fields(different))


def difference_lines(different: Differences, before: Mapping[str, bytes], after: Mapping[str, bytes]) -> list[str]:
    """A line for each variable; plain values are shown, secret ones never."""
    old, new = plain_values(before), plain_values(after)
    lines = [(name, f"+ {name}{_value(name, new)}") for name in different.added]
    lines += [(name, f"- {name}{_value(name, old)}") for name in different.removed]
    for name in different.changed:
        lines.append((name, f"~ {name}{_value(name, old)} ->{_value(name, new).replace('=', ' ', 1)}"))
    return [line for _, line in sorted(lines)]


def _value(name: str, values: Mapping[str, str]) -> str:
    """On one line, whatever is in it: nothing that a value holds looks like another variable."""
    if name not in values:
        return " (secret)"
    value = values[name]
    return f"={value if value.isprintable() and value == value.strip() else json.dumps(value, ensure_ascii=False)}"


def log_config(place: Place, name: str | None) -> None:
    """Who changed which variable when, newest first; of all variables or of one."""
    with place.open() as dev:
        _, ledger = _ledger(dev)
        rows: list[list[str]] = []
        found: list[dict[str, Any]] = []
        before: Mapping[str, bytes] = {}
        for entry in ledger:
            files = current_files(entry, dev.repo)
            different = compare(before, files)
            before = files
            if name is not None and name not in different.names:
                continue
            record, stamp = entry.signed.record, entry.signed.committer
            signers = list(dict.fromkeys((entry.maker, *entry.people)))
            note = f" [{entry.lack.what}]" if entry.lack else ""
            rows.append(
                [str(entry.entry), local_time(stamp), ", ".join(signers), str(different), f"{record.subject}{note}"]
            )
            found.append(
                {
                    "config": str(entry.entry),
                    "signer": entry.maker,
                    "signers": signers,
                    "verdict": "good" if entry.usable else ("pending" if entry.pending else "refused"),
                    "claimed_time": utc_time(stamp),
                    "subject": record.subject,
                    **difference_fields(different),
                }
            )
        if name is not None and not found:
            raise no_variable(name, before)
        if rows:
            dev.console.table(rows[::-1], ("config", "claimed", "signers", "changes", "subject"))
        else:
            dev.console.out(f"no config of {dev.deploy} yet")
        dev.console.result(deploy=dev.deploy, entries=found[::-1])


def _ledger(dev: Developer) -> tuple[TrustChain, Sequence[VerifiedConfig]]:
    chain = dev.trust()
    check_deploy(dev, chain)
    return chain, config_ledger(dev, chain)


def _shown(dev: Developer, ledger: Sequence[VerifiedConfig]) -> Sequence[VerifiedConfig]:
    """The ledger up to the newest entry that a release can carry; says so if a newer one waits for approvals."""
    head = config_head(dev, ledger)
    newest = head[-1] if head else None
    if newest is not None and newest.lack is not None:
        dev.console.note(f"note: config {newest.entry} is {newest.lack.what}, and not shown; `gitrel config diff`")
    return approved_config(head)


def _entry(dev: Developer, ledger: Sequence[VerifiedConfig], text: str | None) -> VerifiedConfig | None:
    """An entry by name, or the newest that a release can carry. Raises `NotFound`."""
    if text is not None:
        return named_config(dev, ledger, text)
    shown = _shown(dev, ledger)
    return shown[-1] if shown else None
