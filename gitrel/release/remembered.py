"""How far this user has verified a ledger before, so that the next command goes on from there.

One small file for each pin and deploy, and one for its config, in the user's own cache: the anchor of a good entry, an
old one, so that what is looked at most comes after it. It says what a server's `state.json` says of the highest release
that was seen, and is as good: the entry is named by SHA-256, and it names the one before it so. A file that others may
have written counts for nothing, and neither does one that fits no longer: then all is verified again, as by
`gitrel verify` and `audit`.
"""

from __future__ import annotations

import contextlib
import json
import os
import stat
from collections.abc import Sequence
from pathlib import Path

from gitrel.errors import FormatError, LocalStateError
from gitrel.ids import Deploy, Entry, LedgerKind, ObjectId, RecordId, Sha256
from gitrel.store.durable import make_folders, replace_file
from gitrel.trust.anchor import Anchor
from gitrel.trust.history import Configs, Verdicts
from gitrel.trust.ledger import Verdict
from gitrel.trust.walk import VerifiedConfig

KEEP = 100  # entries that are verified each time, and up to as many more: 40 to 80 ms, and few ask for an older one


class Remembered:
    """The files below `folder`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def get(self, pin: Sha256, deploy: Deploy, kind: LedgerKind = LedgerKind.RELEASE) -> Anchor | None:
        try:
            fd = os.open(self._path(pin, deploy, kind), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
            with open(fd, "rb") as file:
                info = os.fstat(fd)
                if not stat.S_ISREG(info.st_mode) or info.st_uid != os.geteuid() or info.st_mode & 0o022:
                    return None
                said = json.loads(file.read())
            record = RecordId(ObjectId(said["oid"]), Sha256(said["sha256"]))
            return Anchor(Entry(said["entry"]), record, Entry(said["trust"]))
        except (OSError, ValueError, KeyError, TypeError, FormatError):
            return None  # without it all is verified

    def put(
        self, pin: Sha256, deploy: Deploy, judged: Verdicts | Configs, kind: LedgerKind = LedgerKind.RELEASE
    ) -> None:
        """Remember the newest good entry that is not one of the last `KEEP`, if it is well ahead of what is known."""
        entries: Sequence[Verdict | VerifiedConfig] = judged.judged
        ahead = entries[: -2 * KEEP] and entries[:-KEEP]
        anchor = next((each.anchor for each in reversed(ahead) if each.anchor is not None), None)
        if anchor is None:
            return
        record = {"oid": anchor.id.oid, "sha256": anchor.id.sha256}
        text = json.dumps({"entry": int(anchor.entry), **record, "trust": int(anchor.trust)})
        with contextlib.suppress(LocalStateError):  # a home that is full or read-only costs time, and no more
            make_folders(self._folder)
            replace_file(self._path(pin, deploy, kind), text.encode(), 0o600)

    def _path(self, pin: Sha256, deploy: Deploy, kind: LedgerKind) -> Path:
        name = f"{pin}-{deploy}"
        return self._folder / (f"{name}.json" if kind is LedgerKind.RELEASE else f"{name}.{kind.value}.json")
