"""How far this user has verified a ledger before, so that the next command goes on from there.

One small file for each pin and deploy, in the user's own cache: the anchor of a good release, an old one, so that what
is looked at most comes after it. It says what a server's `state.json` says of the highest release that was seen, and is
as good: the release is named by SHA-256, and it names the one before it so. A file that others may have written counts
for nothing, and neither does one that fits no longer: then all is verified again, as by `gitrel verify` and `audit`.
"""

from __future__ import annotations

import contextlib
import json
import os
import stat
from pathlib import Path

from gitrel.errors import FormatError, LocalStateError
from gitrel.ids import Deploy, Entry, ObjectId, RecordId, Sha256
from gitrel.store.durable import make_folders, replace_file
from gitrel.trust.anchor import Anchor
from gitrel.trust.history import Verdicts

KEEP = 200  # releases that are verified each time: 50 ms, and few ask for an older one


class Remembered:
    """The files below `folder`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def get(self, pin: Sha256, deploy: Deploy) -> Anchor | None:
        try:
            fd = os.open(self._path(pin, deploy), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
            with open(fd, "rb") as file:
                info = os.fstat(fd)
                if not stat.S_ISREG(info.st_mode) or info.st_uid != os.geteuid() or info.st_mode & 0o022:
                    return None
                said = json.loads(file.read())
            record = RecordId(ObjectId(said["oid"]), Sha256(said["sha256"]))
            return Anchor(Entry(said["entry"]), record, Entry(said["trust"]))
        except (OSError, ValueError, KeyError, TypeError, FormatError):
            return None  # without it all is verified

    def put(self, pin: Sha256, deploy: Deploy, verdicts: Verdicts) -> None:
        """Remember the newest good release that is not one of the last `KEEP`, if it is well ahead of what is known."""
        ahead = verdicts.judged[: -2 * KEEP] and verdicts.judged[:-KEEP]
        anchor = next((each.release.anchor for each in reversed(ahead) if each.release is not None), None)
        if anchor is None:
            return
        record = {"oid": anchor.id.oid, "sha256": anchor.id.sha256}
        text = json.dumps({"entry": int(anchor.entry), **record, "trust": int(anchor.trust)})
        with contextlib.suppress(LocalStateError):  # a home that is full or read-only costs time, and no more
            make_folders(self._folder)
            replace_file(self._path(pin, deploy), text.encode(), 0o600)

    def _path(self, pin: Sha256, deploy: Deploy) -> Path:
        return self._folder / f"{pin}-{deploy}.json"
