"""`gitrel heartbeat`: somebody is there, and this is the newest."""

from __future__ import annotations

from pathlib import Path

from gitrel.cli.console import Console
from gitrel.cli.developer import open_developer
from gitrel.errors import Conflict, NoUsableKey
from gitrel.ids import HEARTBEAT
from gitrel.release.amend import heads
from gitrel.release.cut import MAX_TRIES, standing
from gitrel.release.witness import newest_entry, write_heartbeat
from gitrel.trust.signers import require_role
from gitrel.trust.walk import deploys


def heartbeat(console: Console, repo: Path | None, remote: str | None, pin: str | None) -> None:
    with open_developer(console, repo=repo, remote=remote, trust=pin, also=(f"refs/{HEARTBEAT.kind.value}/",)) as dev:
        for attempt in range(MAX_TRIES):
            dev.sync()
            chain = dev.trust()
            role = chain.newest.policy.heartbeat
            if role is None:
                hint = "`gitrel trust set-role heartbeat PERSON`"
                raise NoUsableKey("nobody holds the heartbeat role", where="trust.toml", hint=hint)
            require_role(chain.newest.policy, role, dev.signer.public_key.id, "sign heartbeats")
            refs = dev.workspace.refs()
            named = heads({name: standing(dev.workspace, chain, name).verdicts for name in deploys(refs)})
            previous = newest_entry(refs, dev.repo, chain, HEARTBEAT)
            signed = write_heartbeat(dev.repo, chain, named, previous, who=dev.who(), sign=dev.signer.sign)
            record = signed.record
            try:
                dev.workspace.publish({str(record.ref): signed.id.oid})
            except Conflict:
                if attempt == MAX_TRIES - 1:
                    raise
                continue
            console.out(f"heartbeat {record.entry}: {', '.join(f'{each.deploy} {each.entry}' for each in named)}")
            console.result(
                heartbeat=str(record.entry),
                id=signed.id.oid,
                trust=str(record.trust.entry),
                heads={each.deploy: str(each.entry) for each in named},
                pushed=dev.workspace.remote is not None,
            )
            return
