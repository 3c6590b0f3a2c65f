"""Which release runs, and as what: from the home's state to a verified formation, without the network."""

from __future__ import annotations

import os
import pwd
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from gitrel.errors import (
    BadInput,
    FormatError,
    GitrelError,
    LocalStateError,
    NotFound,
    NoUsableKey,
    Refused,
    UsageError,
)
from gitrel.format.manifest import MANIFEST, Manifest, RunSpec, parse_manifest
from gitrel.format.procfile import PROCFILE, RELEASE_PHASE, parse_procfile
from gitrel.format.record import ReleaseRecord, parse_record_as
from gitrel.ids import Entry, Ledger
from gitrel.run.formation import MARK, Formation, Process, mark
from gitrel.run.home import Home, State
from gitrel.run.prepare import prepare, read_build_file
from gitrel.run.pull import judge_alone
from gitrel.run.values import config_values
from gitrel.store.repository import Repository
from gitrel.trust.checks import Check
from gitrel.trust.content import VerifiedRelease
from gitrel.trust.ledger import ChainedRelease
from gitrel.trust.walk import load_trust

DEFAULT_PORT = 5000
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def candidates(state: State, entry: Entry | None = None) -> list[Entry]:
    """The releases that may be run, best first: the one asked for, the pinned one, the newest, the last good one.

    Raises `NotFound` if nothing was pulled yet.
    """
    newest = state.ready if state.ready not in state.failed else None
    ordered = [entry, state.pinned, newest, state.good, state.ready]
    found = list(dict.fromkeys(each for each in ordered if each is not None))
    if not found:
        raise NotFound("no release here yet", why=state.trouble or "", hint="`gitrel pull` fetches one")
    return found


def verify_here(home: Home, state: State, entry: Entry, *, rehash: bool = False) -> VerifiedRelease:
    """Verify a release that was pulled earlier, again, from the home's own objects, and its checkout.

    A checkout that was tampered with is replaced. Raises `NotFound`, `Refused`, `LocalStateError`.
    """
    with home.repository() as repo:
        return prepare(home, repo, _judge_here(home, repo, state, entry), rehash=rehash)


def _judge_here(home: Home, repo: Repository, state: State, entry: Entry) -> ChainedRelease:
    """Its records only, by the newest trust that this home has."""
    ref = str(Ledger.releases(state.deploy)[entry])
    oid = repo.refs.get(ref)
    if oid is None:
        raise NotFound(f"{entry} is not in this home", where=str(home.path), hint="`gitrel pull`")
    refs = repo.refs.list("refs/trust/") | repo.refs.list("refs/approvals/")
    trust = load_trust(refs, repo, repo.format, state.pin)
    verdict = judge_alone(repo, trust, state, entry, oid)
    if verdict.release is None:
        raise verdict.refusal or LocalStateError("no verdict", where=ref)
    return verdict.release


def base_environment(home: Home) -> dict[str, str]:
    """What every process gets before `[run.<process>.env]` and the release's config, which may override it."""
    user = pwd.getpwuid(os.getuid()).pw_name
    return {
        "PATH": PATH,
        "HOME": str(home.run / "home"),
        "USER": user,
        "LOGNAME": user,
        "SHELL": "/bin/sh",
        "LANG": "C.UTF-8",
        "TMPDIR": "/tmp",  # noqa: S108 - the usual place, which the process may choose itself
        "PYTHONUNBUFFERED": "1",  # lines reach the log when they are written
        "PYTHONDONTWRITEBYTECODE": "1",  # the checkout is read-only
    }


def platform_environment(home: Home, verified: VerifiedRelease, name: str, port: int) -> dict[str, str]:
    """What nothing overrides: where the process is, and which one it is."""
    record = verified.chained.record
    return {
        "PORT": str(port),
        "GITREL_APP": record.app,
        "GITREL_DEPLOY": record.deploy,
        "GITREL_RELEASE": str(record.entry),
        "GITREL_SOURCE": verified.chained.build.record.source,
        "GITREL_PROCESS": name,
        MARK: mark(str(home.path), str(record.entry), name),
    }


class Layout:
    """What a verified release consists of when it runs, its secrets decrypted.

    Raises `BadInput` and `NoUsableKey` if it cannot run on this server as it is.
    """

    def __init__(self, home: Home, verified: VerifiedRelease, *, port: int = DEFAULT_PORT) -> None:
        self._home = home
        self._verified = verified
        self._port = port
        entry = verified.chained.entry
        self.commands = parse_procfile(read_build_file(home, verified, PROCFILE), f"{entry}:{PROCFILE}")
        self.manifest: Manifest = parse_manifest(read_build_file(home, verified, MANIFEST), f"{entry}:{MANIFEST}")
        self._config = config_values(verified, self.manifest, home.identity)

    @property
    def folder(self) -> Path:
        return self._home.builds / self._verified.build.oid

    def spec(self, kind: str) -> RunSpec:
        return self.manifest.run.get(kind, RunSpec())

    def environment(self, kind: str, index: int) -> dict[str, str]:
        """A process's whole environment; foreman's rule for PORT: +100 for each type, +1 for each instance."""
        kinds = list(self.commands)
        port = self._port + 100 * (kinds.index(kind) if kind in kinds else 0) + index - 1
        return {
            **base_environment(self._home),
            **self.spec(kind).env,
            **self._config,
            **platform_environment(self._home, self._verified, f"{kind}.{index}", port),
        }

    def process(self, kind: str, index: int) -> Process:
        """Raises `NotFound` for a type that the Procfile does not have."""
        if kind not in self.commands:
            raise NotFound(f"no process type {kind!r}", where=PROCFILE, why=f"there are {', '.join(self.commands)}")
        spec = self.spec(kind)
        env = self.environment(kind, index)
        return Process(
            type=kind,
            index=index,
            command=self.commands[kind],
            env=env,
            cwd=self.folder,
            port=int(env["PORT"]),
            health=spec.health,
            settle=spec.settle,
            stop_timeout=spec.stop_timeout,
        )

    def formation(self, scales: Mapping[str, int]) -> Formation:
        """All processes that stay up. Raises `UsageError` for a scale of an unknown type."""
        for kind in scales:
            if kind not in self.commands or kind == RELEASE_PHASE:
                raise UsageError(f"no process type {kind!r} to scale", why=f"there are {', '.join(self.commands)}")
        return Formation(
            release=str(self._verified.chained.entry),
            processes=tuple(
                self.process(kind, index)
                for kind in self.commands
                if kind != RELEASE_PHASE
                for index in range(1, scales.get(kind, self.spec(kind).scale) + 1)
            ),
        )


def note_lacking(home: Home, problems: Mapping[Entry, GitrelError]) -> None:
    """Remember which releases this server cannot start as it is, for `status`; forget those that it can."""
    lacking = {entry: str(error) for entry, error in problems.items() if isinstance(error, BadInput | NoUsableKey)}
    home.change_state(lambda state: replace(state, lacking=lacking))


def check_startable(home: Home, entry: Entry) -> None:
    """Whether a release that was pulled could start here. Raises what keeps it from that, which is remembered."""
    try:
        Layout(home, verify_here(home, home.read_state(), entry))
    except (BadInput, NoUsableKey) as error:
        note_lacking(home, {entry: error})
        raise
    note_lacking(home, {})


def carried_config(home: Home, state: State) -> Entry | None:
    """The config entry that the current release carries. It was verified when it was pulled."""
    if state.current is None:
        return None
    with home.repository() as repo:
        oid = repo.refs.get(str(Ledger.releases(state.deploy)[state.current]))
        try:
            found = parse_record_as(ReleaseRecord, repo.read(oid, "commit"), repo.format).record if oid else None
        except FormatError:
            return None  # the next start says what is wrong with it
    return found.config.entry if found and found.config else None


class Choice:
    """Which release the supervisor runs, asked at the start and after every look, and what becomes of it.

    `wanted` was asked for by number. `say` gets what a person should know about a release that was passed over.
    The checkout of a release that is asked for again is left alone: its processes may be running in it.
    """

    def __init__(
        self,
        home: Home,
        wanted: Entry | None,
        *,
        scales: Mapping[str, int],
        port: int,
        stop_if_repudiated: bool,
        say: Callable[[str], None],
    ) -> None:
        self._home = home
        self._wanted = wanted
        self._scales = scales
        self._port = port
        self._stop_if_repudiated = stop_if_repudiated
        self._say = say
        self._said = ""
        self._last: Formation | None = None

    def _formation(self, release: Entry) -> Formation:
        state = self._home.read_state()
        if self._last is not None and self._last.release == str(release):
            with self._home.repository() as repo:
                _judge_here(self._home, repo, state, release)
            return self._last
        layout = Layout(self._home, verify_here(self._home, state, release), port=self._port)
        unknown = sorted(set(self._scales) - set(layout.commands))
        scales = self._scales
        if unknown and state.good is not None:  # it ran before: a later release may have dropped a process type
            self._say_once(f"{release} has no {', '.join(unknown)} to scale")
            scales = {kind: number for kind, number in scales.items() if kind in layout.commands}
        return layout.formation(scales)

    def resolve(self) -> Formation:
        """The best release that can run now; nothing at all if the one that should run was repudiated alone.

        Raises `GitrelError`, that of the best one.
        """
        problems: dict[Entry, GitrelError] = {}
        state = self._home.read_state()
        order = candidates(state, self._wanted)
        if self._stop_if_repudiated and state.good is not None and order[0] < state.good:
            order.insert(0, state.good)  # the pull went back behind what runs: ask first whether that was repudiated
        for release in order:
            try:
                self._last = self._formation(release)
            except (Refused, NotFound, LocalStateError, BadInput, NoUsableKey) as error:
                if isinstance(error, NotFound) and release == self._wanted:
                    raise
                problems[release] = error
                self._say_once(f"{release} cannot run: {error}")
                if self._stop_if_repudiated and _repudiated(error):
                    break
            else:
                note_lacking(self._home, problems)
                return self._last
        note_lacking(self._home, problems)
        if all(_repudiated(error) for error in problems.values()):
            return Formation(release="none", processes=())
        raise next(iter(problems.values()))

    def _say_once(self, text: str) -> None:
        if text != self._said:
            self._say(text)
        self._said = text

    def last_good(self) -> Formation | None:
        """What to go back to if the first choice fails."""
        state = self._home.read_state()
        if state.good is None or state.good == candidates(state, self._wanted)[0]:
            return None
        try:
            return self._formation(state.good)
        except GitrelError as error:
            self._say_once(f"no way back to {state.good}: {error}")
            return None

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

    def failed(self, formation: Formation, why: str) -> None:
        """Remembered, so that it is not tried again by itself."""
        release = Entry.parse(formation.release)
        self._home.change_state(lambda state: replace(state, failed={**state.failed, release: why}))


def _repudiated(error: GitrelError) -> bool:
    return isinstance(error, Refused) and error.check == Check.REPUDIATED
