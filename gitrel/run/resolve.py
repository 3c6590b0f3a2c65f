"""Which release runs, and as what: from the home's state to a verified formation, without the network."""

from __future__ import annotations

import os
import pwd
from collections.abc import Mapping
from pathlib import Path

from gitrel.errors import LocalStateError, NotFound, UsageError
from gitrel.format.envdir import plain_values
from gitrel.format.manifest import MANIFEST, Manifest, RunSpec, parse_manifest
from gitrel.format.procfile import PROCFILE, RELEASE_PHASE, parse_procfile
from gitrel.ids import Entry, Ledger
from gitrel.run.formation import MARK, Formation, Process, mark
from gitrel.run.home import Home, State
from gitrel.run.prepare import prepare, read_build_file
from gitrel.run.pull import judge_alone
from gitrel.trust.content import VerifiedRelease
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
        ref = str(Ledger.releases(state.deploy)[entry])
        oid = repo.refs.get(ref)
        if oid is None:
            raise NotFound(f"{entry} is not in this home", where=str(home.path), hint="`gitrel pull`")
        refs = repo.refs.list("refs/trust/") | repo.refs.list("refs/approvals/")
        trust = load_trust(refs, repo, repo.format, state.pin)
        verdict = judge_alone(repo, trust, state, entry, oid)
        if verdict.release is None:
            raise verdict.refusal or LocalStateError("no verdict", where=ref)
        return prepare(home, repo, verdict.release, rehash=rehash)


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
    """What a verified release consists of when it runs."""

    def __init__(self, home: Home, verified: VerifiedRelease, *, port: int = DEFAULT_PORT) -> None:
        self._home = home
        self._verified = verified
        self._port = port
        entry = verified.chained.entry
        self.commands = parse_procfile(read_build_file(home, verified, PROCFILE), f"{entry}:{PROCFILE}")
        self.manifest: Manifest = parse_manifest(read_build_file(home, verified, MANIFEST), f"{entry}:{MANIFEST}")
        self._config = plain_values(verified.config)

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
