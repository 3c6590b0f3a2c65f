"""What a home remembers of the formations that ran: the supervisor's `Recorder`."""

from __future__ import annotations

from collections.abc import Sequence

from gitrel.dataclass import replace
from gitrel.ids import Entry
from gitrel.run.formation import Formation
from gitrel.run.home import Home
from gitrel.run.leases import Leases
from gitrel.run.state import State
from gitrel.store.durable import make_folders, replace_file


class HomeRecorder:
    """`leases` keep a prune from what runs, or is about to: whoever looks takes one of each release that it finds, and
    here they end. Methods raise `LocalStateError`.
    """

    def __init__(self, home: Home, leases: Leases) -> None:
        self._home = home
        self._leases = leases
        self._leased: set[Entry] = set()
        self._wanted: Entry | None = None

    def wanted(self, formation: Formation) -> None:
        self._wanted = Entry.parse(formation.release) if formation.processes else None
        self._leased |= {self._wanted} if self._wanted else set()

    def prepared(self, formation: Formation) -> None:
        """Its release phase is done in this home."""
        release = Entry.parse(formation.release)
        self._home.change_state(lambda state: replace(state, released=state.released | {release}))

    def good(self, formation: Formation) -> None:
        """All its processes have been healthy: remembered, and `current` is it."""
        if not formation.processes:
            return
        release = Entry.parse(formation.release)

        def change(state: State) -> State:
            failed = {entry: why for entry, why in state.failed.items() if entry != release}
            return replace(state, good=release, failed=failed)

        self._home.change_state(change)
        self._home.switch(release)
        for entry in self._leased - {release, self._wanted}:
            self._leases.drop(entry)
        self._leased &= {release, self._wanted}

    def failed(self, formation: Formation, why: str, last_words: Sequence[bytes]) -> None:
        """Remembered, so that it is not tried again by itself; what its processes printed last is kept beside."""
        release = Entry.parse(formation.release)
        self._home.change_state(lambda state: replace(state, failed={**state.failed, release: why}))
        log = self._home.run / "failed" / f"{release}.log"
        make_folders(log.parent)
        replace_file(log, b"".join(line + b"\n" for line in last_words), 0o600)
