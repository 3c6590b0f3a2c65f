"""What an auditor remembers from one audit to the next: the head of each ledger (docs/auditing.md).

    {"format": 1, "app": "shop", "pin": "…", "heads": {"refs/releases/v": {"entry": 7, "oid": "…", "sha256": "…"}}}

A head is the newest entry that stood in its ledger's chain; since each names the one before it by both ids, a ledger
that still has it was only added to. A head that was not confirmed is kept, so that the alarm is repeated.
"""

from __future__ import annotations

import json
from collections.abc import Container, Iterator, Mapping
from pathlib import Path

from gitrel.audit.codes import Code
from gitrel.audit.findings import Findings
from gitrel.audit.result import Audit, ConfigReport, ReleaseReport, Standing, TrustReport
from gitrel.dataclass import asdict, dataclass
from gitrel.errors import FormatError, LocalStateError
from gitrel.ids import TRUST, App, Deploy, Entry, Ledger, LedgerRef, ObjectId, RecordId, Sha256, parse_ref
from gitrel.store.durable import replace_file

FORMAT = 1
_IN_FORCE = (Standing.GOOD,)
_LINKED = (Standing.GOOD, Standing.PENDING, Standing.REPUDIATED)


@dataclass(frozen=True, slots=True)
class Head:
    entry: Entry
    id: RecordId


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """`heads` by the prefix of the ledger's refs."""

    app: App
    pin: Sha256
    heads: Mapping[str, Head]


def read_memory(path: Path) -> Memory | None:
    """None if there is no such file yet. Raises `LocalStateError` for any other content than `write_memory`'s."""
    try:
        document = json.loads(path.read_bytes())
        if document["format"] != FORMAT:
            raise LocalStateError("needs a newer gitrel", where=str(path), why=f"format {document['format']}")
        heads = {
            _ledger(prefix): Head(Entry(head["entry"]), RecordId(ObjectId(head["oid"]), Sha256(head["sha256"])))
            for prefix, head in document["heads"].items()
        }
        return Memory(app=App(document["app"]), pin=Sha256(document["pin"]), heads=heads)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, FormatError) as error:
        hint = "restore it from a copy; without it, this audit cannot compare with earlier ones"
        raise LocalStateError("not an auditor's memory", where=str(path), why=str(error), hint=hint) from None


def _ledger(prefix: str) -> str:
    """Raises `FormatError`."""
    if not isinstance(parse_ref(f"{prefix}1"), LedgerRef):
        raise FormatError("not a ledger", where=prefix)
    return prefix


def write_memory(path: Path, memory: Memory) -> None:
    """The old file or the new one, never a part. Raises `LocalStateError`."""
    heads = {prefix: {"entry": int(head.entry), **asdict(head.id)} for prefix, head in sorted(memory.heads.items())}
    document = {"format": FORMAT, "app": memory.app, "pin": memory.pin, "heads": heads}
    replace_file(path, json.dumps(document, indent=2).encode() + b"\n")


def check_memory(memory: Memory, audit: Audit, findings: Findings, deploys: Container[Deploy] | None) -> None:
    """Every head is where it was, of the same bytes; else both are shown as evidence. `deploys`: those looked at."""
    names = {each.prefix: each for each in _ledgers(audit)}
    for prefix, head in memory.heads.items():
        reports = names[prefix].reports if prefix in names else ()
        if prefix not in names and _left_out(prefix, deploys):
            continue
        ref = f"{prefix}{int(head.entry)}"
        there = next((each for each in reports if each.entry == head.entry), None)
        if there is None:
            newest = f"the newest is now {max(each.entry for each in reports)}" if reports else "the ledger is empty"
            what = f"{head.entry} was {head.id.oid} and is gone; {newest}"
            evidence = (str(head.id.oid), *(str(each.oid) for each in reports[-1:]))
            findings.add(Code.HISTORY_CUT, ref, what, about=prefix, check=13, evidence=evidence)
        elif there.oid != head.id.oid or there.sha256 not in (None, head.id.sha256):
            what = f"{head.entry} was {head.id}, and is {there.oid} {there.sha256 or ''}".rstrip()
            evidence = (str(head.id.oid), str(there.oid))
            findings.add(Code.HISTORY_REWRITTEN, ref, what, about=prefix, check=13, evidence=evidence)


def remember(memory: Memory | None, audit: Audit) -> Memory | None:
    """What to keep after this audit; None if there is nothing to believe yet."""
    if audit.app is None:
        return memory
    alarmed = {each.object for each in audit.findings if each.code in (Code.HISTORY_CUT, Code.HISTORY_REWRITTEN)}
    heads = dict(memory.heads) if memory is not None else {}
    for ledger in _ledgers(audit):
        if ledger.prefix in alarmed:
            continue
        standings = _IN_FORCE if ledger.prefix == TRUST.prefix else _LINKED
        for each in ledger.reports:
            if each.standing is Standing.UNPROVEN:
                break
            if each.standing in standings and each.sha256 is not None:
                heads[ledger.prefix] = Head(each.entry, RecordId(each.oid, each.sha256))
    return Memory(app=audit.app, pin=audit.pin, heads=heads)


@dataclass(frozen=True, slots=True)
class _Ledger:
    prefix: str
    reports: tuple[TrustReport, ...] | tuple[ConfigReport, ...] | tuple[ReleaseReport, ...]


def _ledgers(audit: Audit) -> Iterator[_Ledger]:
    yield _Ledger(TRUST.prefix, audit.trust)
    for deploy in audit.deploys:
        yield _Ledger(Ledger.config(deploy.name).prefix, deploy.configs)
        yield _Ledger(Ledger.releases(deploy.name).prefix, deploy.releases)


def _left_out(prefix: str, deploys: Container[Deploy] | None) -> bool:
    """Whether a ledger was not asked for, rather than gone."""
    ref = parse_ref(f"{prefix}1")
    return deploys is not None and isinstance(ref, LedgerRef) and ref.ledger.deploy not in deploys
