"""`gitrel receipts`: a server that signs what it ran; and the child of its supervisor that does so.

The key is used here and nowhere else of a server's commands. A receipt is signed once this server's own copy of the
trust lets it, kept until the remote has it, and pushed as any record is: created, never moved.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from pathlib import Path

from gitrel.cli.console import Console
from gitrel.cli.server import open_home, open_remote
from gitrel.dataclass import replace
from gitrel.errors import Conflict, ExitCode, FormatError, GitrelError, NoUsableKey, Refused, UsageError
from gitrel.format.record import CitedRelease, Health, ReceiptRecord, ReleaseRecord, Stamp, parse_record_as
from gitrel.format.trust import KeyLine
from gitrel.ids import TRUST, Entry, Host, Ledger, ObjectId, RecordId
from gitrel.keys.private import Signer, load_signer, write_new_key
from gitrel.release.witness import Place, Ran, newest_entry, write_receipt
from gitrel.run.home import Home
from gitrel.run.judge import judge_here
from gitrel.run.receipts import Happening, Outbox, change_outbox, read_outbox
from gitrel.run.state import State
from gitrel.run.watch import APPROVALS
from gitrel.store.durable import disk_error
from gitrel.store.limits import Limits
from gitrel.store.quarantine import Quarantine
from gitrel.store.remote import Remote
from gitrel.store.repository import Repository
from gitrel.trust.chain import TrustChain
from gitrel.trust.walk import entries, load_trust
from gitrel.trust.witness import may_witness

OWN_KEY = "receipts_ed25519"
_BATCH = 16
_LIMITS = Limits(connect_seconds=10, idle_seconds=15, wall_seconds=60)


def set_up(console: Console, path: Path | None, name: str, key: Path | None) -> None:
    """From now on `gitrel run --receipts` signs as this host, with its own new key or a given one."""
    home = open_home(path)
    try:
        host = Host(name)
    except FormatError as error:
        raise UsageError(error.what, hint="such as web1; the same name gets the key in trust.toml") from None
    before = home.read_state()
    chosen = str(key.absolute()) if key is not None else before.receipt_key or _own_key(home, host)
    signer = _signer(home, chosen)
    with home.lock("courier", wait=True):
        if (before.host, before.receipt_key) != (host, chosen):
            change_outbox(home, Outbox.unsigned)  # what waits is said by the new name, and with the new key
        home.change_state(lambda state: replace(state, host=host, receipt_key=chosen))
    line = f"{KeyLine.parse(signer.public_key.line).bare} {host}"
    console.out(f"key of {host}: {line}")
    console.note(f"next, where trust is changed: gitrel trust add {host} '{line}'")
    console.note(f"and then: gitrel trust set-role receipt {host} (and the other hosts that have it)")
    console.note(f"then: gitrel run --home {home.path} --follow --receipts")
    console.result(host=host, key=line)


def _own_key(home: Home, host: Host) -> str:
    """The name of the home's own key, which is made if it is not there. Raises `LocalStateError`."""
    path = home.path / OWN_KEY
    try:
        with contextlib.suppress(FileExistsError):
            write_new_key(path, str(host))
    except OSError as error:
        raise disk_error(error, path) from error
    return OWN_KEY


def _signer(home: Home, key: str) -> Signer:
    return load_signer(str(home.path / key), gpg_format="ssh", home=home.path, env=dict(os.environ), interactive=False)


def send(console: Console, path: Path) -> int:
    """Sign and push what waits, until nothing does; the exit status. What is wrong is said once, and again when it
    changes: whoever asked tries again later. Raises `GitrelError` of what is new.
    """
    home = Home(path)
    with home.lock("courier", wait=True):
        before = read_outbox(home)
        try:
            while read_outbox(home).waiting:
                _send_some(home)
        except GitrelError as error:
            said = str(error)
            change_outbox(home, lambda box: replace(box, trouble=said))
            if said != before.trouble:
                raise
            return error.exit_code
        if before.trouble is not None:
            change_outbox(home, lambda box: replace(box, trouble=None))
            console.note("sent, what could not be before")
    return ExitCode.DONE


def _send_some(home: Home) -> None:
    state = home.read_state()
    if state.host is None or state.receipt_key is None:
        raise UsageError("this server has no name to sign receipts with", where=str(home.path))
    with home.repository() as repo, open_remote(state.url, _LIMITS) as remote:
        batch = _Batch(home, state, state.host, _signer(home, state.receipt_key), repo, remote)
        try:
            batch.run()
        except Conflict:  # the remote has others of ours: those of an earlier home, or of one that was restored
            change_outbox(home, Outbox.unsigned)
            batch.run()


class _Batch:
    """The oldest that wait: signed, written down, pushed, forgotten."""

    def __init__(self, home: Home, state: State, host: Host, signer: Signer, repo: Repository, remote: Remote) -> None:
        self._home, self._state, self._host = home, state, host
        self._signer, self._repo, self._remote = signer, repo, remote
        self._ledger = Ledger.receipts(host)
        refs = repo.refs.list(TRUST.prefix) | repo.refs.list(APPROVALS)
        self._trust: TrustChain = load_trust(refs, repo, repo.format, state.pin)

    def run(self) -> None:
        self._check_key()
        scratch = self._home.run / "receipts.git"
        shutil.rmtree(scratch, ignore_errors=True)
        try:
            with Repository.init_bare(scratch, self._repo.format) as store:
                refs, newest = self._sign(store)
                if refs:
                    self._remote.push(store, refs)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
        gone = len(refs)
        change_outbox(self._home, lambda box: replace(box, newest=newest, waiting=box.waiting[gone:]))

    def _check_key(self) -> None:
        try:
            may_witness(self._trust.newest, self._ledger, self._signer.public_key.id, "trust.toml")
        except Refused as refusal:
            raise NoUsableKey(
                f"{self._host} may not sign receipts yet",
                why=refusal.what,
                hint=f"`gitrel trust add {self._host} KEY` and `gitrel trust set-role receipt {self._host} …`",
            ) from None

    def _sign(self, store: Repository) -> tuple[dict[str, ObjectId], Place | None]:
        """The refs to push, and what the newest will be then. All is durable in the outbox before it is pushed."""
        box = read_outbox(self._home)
        place = box.newest or self._learn()
        signed: list[Happening] = []
        refs: dict[str, ObjectId] = {}
        for each in box.waiting[:_BATCH]:
            raw = each.signed.encode() if each.signed is not None else self._receipt(store, each, place)
            if raw is None:
                continue
            store.write("tree", b"")
            oid = store.write("commit", raw)
            entry = parse_record_as(ReceiptRecord, raw, store.format).record.entry
            refs[str(self._ledger[entry])] = oid
            place = entry, RecordId.of("commit", raw, store.format)
            signed.append(replace(each, signed=raw.decode()))
        taken = len(box.waiting[:_BATCH])
        change_outbox(self._home, lambda now: replace(now, waiting=(*signed, *_after(now, box, taken))))
        return refs, place

    def _receipt(self, store: Repository, happened: Happening, place: Place | None) -> bytes | None:
        """One that is about a release whose record is not here any more is left out."""
        state, deploy, seen = self._state, self._state.deploy, self._state.seen
        oid = self._repo.refs.get(str(Ledger.releases(deploy)[happened.release]))
        if oid is None or seen is None:
            return None
        release = parse_record_as(ReleaseRecord, self._repo.read(oid, "commit"), self._repo.format)
        said = Ran(
            app=state.app,
            host=self._host,
            trust=self._trust.newest.cited,
            head=CitedRelease(deploy, seen.entry, seen.id),
            release=CitedRelease(deploy, happened.release, release.id),
            ran=release.record.tree_sha256,
            verdict=self._verdict(happened.release),
            health=Health(happened.health),
            start=happened.start,
            end=happened.end,
        )
        who = Stamp(name=str(self._host), email=f"{self._host}@{state.app}", time=int(time.time()))
        return write_receipt(store, said, place, who=who, sign=self._signer.sign).raw

    def _verdict(self, release: Entry) -> int | None:
        """What today's trust says of it."""
        try:
            judge_here(self._home, self._repo, self._state, release)
        except Refused as refusal:
            return refusal.check
        return None

    def _learn(self) -> Place | None:
        """This host's newest receipt at the remote, for a home that does not know it."""
        refs = self._remote.list([self._ledger.prefix])
        found = entries(refs, self._ledger)
        if not found:
            return None
        with Quarantine(self._repo, self._home.run / "quarantine") as quarantine:
            self._remote.fetch(quarantine, [max(found.items())[1]], depth=1)
            return newest_entry(refs, quarantine.repository, self._trust, self._ledger)


def _after(now: Outbox, before: Outbox, taken: int) -> tuple[Happening, ...]:
    """What waits behind those that were taken: more may have come, and the oldest may have been forgotten."""
    left = list(now.waiting)
    for each in before.waiting[:taken]:
        if each in left:
            left.remove(each)
    return tuple(left)
