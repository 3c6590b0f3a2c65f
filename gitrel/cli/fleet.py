"""`gitrel fleet`: what every host says that it runs, by the receipts that it signed, and how that differs from what
the ledger says is the newest.

Times are the hosts' own, and claims. A host that takes its orders from an attacker can say anything here; nobody else
can say anything in its name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gitrel.cli.console import Console
from gitrel.cli.developer import Developer, open_developer
from gitrel.dataclass import dataclass
from gitrel.errors import ExitCode, Refused
from gitrel.format.body import utc_text
from gitrel.format.record import Health, ReceiptRecord
from gitrel.format.refs import RefMap
from gitrel.ids import HEARTBEAT, WITNESSES, Deploy, Entry, Host, Ledger
from gitrel.release.cut import standing
from gitrel.trust.chain import TrustChain
from gitrel.trust.witness import VerifiedWitness, contradictions, may_witness, walk_witnesses, witness_ledgers

_SAID = {Health.HEALTHY: "runs", Health.FAILED: "failed", Health.ENDED: "stopped"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """A host. `last`: its newest receipt that is good; `newer`: the good releases of its deploy after the one that it
    is about; `problems`: what is wrong with its ledger, or with what it was shown.
    """

    host: Host
    last: ReceiptRecord | None
    signed: int | None
    newer: tuple[Entry, ...]
    problems: tuple[str, ...]

    @property
    def unseen(self) -> tuple[Entry, ...]:
        """Those that it had not even seen."""
        return tuple(entry for entry in self.newer if self.last is None or entry > self.last.head.entry)

    @property
    def remark(self) -> str:
        parts = list(self.problems)
        if self.last is not None and self.last.verdict is not None:
            parts.append(f"refused here by check {self.last.verdict}")
        if self.unseen:
            parts.append(f"STALE: has not seen {self.unseen[-1]}")
        elif self.newer:
            parts.append(f"behind: {self.newer[-1]} is the newest")
        return "; ".join(parts)


def fleet(console: Console, repo: Path | None, remote: str | None, pin: str | None) -> int:
    """10 if a host's receipts are not what they should be, or were made of another ledger than this one."""
    with open_developer(console, repo=repo, remote=remote, trust=pin, also=WITNESSES) as dev:
        dev.sync()
        chain, refs = dev.trust(), dev.workspace.refs()
        good: dict[Deploy, tuple[Entry, ...]] = {}
        role = chain.newest.policy.receipt
        ledgers = witness_ledgers(refs)
        names = {ledger.host for ledger in ledgers if ledger.host is not None}
        names |= {Host(person) for person in (role.people if role else ())}
        walked = {host: _walk(dev, chain, ledgers, Ledger.receipts(host)) for host in sorted(names)}
        members = [_member(dev, chain, refs, host, found, good) for host, found in walked.items()]
        beat = _heartbeat(_walk(dev, chain, ledgers, HEARTBEAT))
    if not members:
        console.out("no host signs receipts; see `gitrel receipts --help`")
    console.table([_row(member) for member in members], ("host", "deploy", "release", "", "since", ""))
    if beat is not None:
        console.out(f"heartbeat {beat['entry']}, {beat['signed']}")
    console.result(
        hosts=[_document(member) for member in members],
        newest={deploy: str(entries[-1]) if entries else None for deploy, entries in sorted(good.items())},
        heartbeat=beat,
    )
    return ExitCode.REFUSED if any(member.problems for member in members) else ExitCode.DONE


def _walk(
    dev: Developer, chain: TrustChain, ledgers: Mapping[Ledger, RefMap], ledger: Ledger
) -> list[VerifiedWitness | Refused]:
    return [found for _, found in walk_witnesses(ledgers.get(ledger, {}), dev.repo, chain, ledger)]


def _member(
    dev: Developer,
    chain: TrustChain,
    refs: RefMap,
    host: Host,
    walked: Sequence[VerifiedWitness | Refused],
    good: dict[Deploy, tuple[Entry, ...]],
) -> Member:
    ledger = Ledger.receipts(host)
    last: VerifiedWitness | None = None
    problems: list[str] = []
    for found in walked:
        if isinstance(found, Refused):
            problems.append(str(found))
            continue
        try:
            may_witness(chain.newest, ledger, found.key, str(found.record.ref))
        except Refused:
            continue  # by a key that has since been taken away: it says nothing about today
        last = found
        for cited, here in contradictions(found.record, refs):
            what = "is not here" if here is None else f"is another one here ({here})"
            problems.append(f"it saw {cited.deploy} {cited.entry} {cited.id.oid}, which {what}")
    record = last.record if last is not None else None
    if last is None or not isinstance(record, ReceiptRecord):
        return Member(host=host, last=None, signed=None, newer=(), problems=tuple(problems))
    deploy = record.release.deploy
    if deploy not in good:
        verdicts = standing(dev.workspace, chain, deploy).verdicts
        good[deploy] = tuple(verdict.entry for verdict in verdicts if verdict.release is not None)
    newer = tuple(entry for entry in good[deploy] if entry > record.release.entry)
    signed = last.signed.committer.time
    return Member(host=host, last=record, signed=signed, newer=newer, problems=tuple(dict.fromkeys(problems)))


def _heartbeat(walked: Sequence[VerifiedWitness | Refused]) -> dict[str, str] | None:
    """The newest that is good."""
    good = [each for each in walked if isinstance(each, VerifiedWitness)]
    if not good:
        return None
    return {"entry": str(good[-1].record.entry), "signed": utc_text(good[-1].signed.committer.time)}


def _row(member: Member) -> tuple[str, ...]:
    last = member.last
    if last is None:
        return str(member.host), "", "", "nothing yet", "", member.remark
    since = utc_text(last.start if last.end is None else last.end)
    return (
        str(member.host),
        str(last.release.deploy),
        str(last.release.entry),
        _SAID[last.health],
        since,
        member.remark,
    )


def _document(member: Member) -> dict[str, Any]:
    last = member.last
    said: dict[str, Any] = {"host": member.host, "state": None, "problems": list(member.problems)}
    if last is None:
        return said
    return {
        **said,
        "state": _SAID[last.health],
        "deploy": last.release.deploy,
        "release": str(last.release.entry),
        "id": last.release.id.oid,
        "tree_sha256": last.ran,
        "verdict": "good" if last.verdict is None else f"refused {last.verdict}",
        "start": utc_text(last.start),
        "end": None if last.end is None else utc_text(last.end),
        "seen": str(last.head.entry),
        "behind": [str(entry) for entry in member.newer],
        "stale": bool(member.unseen),
        "receipt": str(last.entry),
        "signed": None if member.signed is None else utc_text(member.signed),
    }
