"""What a verified release consists of when it runs: processes, their commands, environments and users."""

from __future__ import annotations

import os
import pwd
from collections.abc import Mapping
from pathlib import Path

from gitrel.errors import BadInput, NotFound, UsageError
from gitrel.format.manifest import MANIFEST, RELEASE_PHASE, Manifest, RunSpec, parse_manifest
from gitrel.format.procfile import PROCFILE, parse_procfile
from gitrel.ids import Entry
from gitrel.run.formation import MARK, Formation, Process, User, mark
from gitrel.run.home import Home
from gitrel.run.prepare import read_build_file
from gitrel.run.values import config_values
from gitrel.store.durable import disk_error, make_folders
from gitrel.trust.content import VerifiedRelease

DEFAULT_PORT = 5000
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def find_user(name: str | None, kind: str) -> tuple[str, User | None]:
    """The name of whom a process runs as, and what to become; None: as gitrel itself.

    Raises `BadInput` if there is no such user here, or gitrel may not become it.
    """
    own = _own_name()
    if name is None or name == own:
        return own, None
    try:
        found = pwd.getpwnam(name)
    except KeyError:
        raise BadInput(
            f"{kind} runs as {name}, and this server has no such user",
            where=MANIFEST,
            hint=f"`useradd --system {name}`, or change `[run.{kind}] user`",
        ) from None
    if os.geteuid() != 0:
        raise BadInput(
            f"{kind} runs as {name}, and gitrel as {own}",
            where=MANIFEST,
            why="only root can start processes as another user",
            hint=f"run gitrel as root or as {name}",
        )
    groups = tuple(os.getgrouplist(name, found.pw_gid))
    return name, User(uid=found.pw_uid, gid=found.pw_gid, groups=groups)


def _own_name() -> str:
    """The number, where a container has no name for it."""
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return str(os.geteuid())


def _make(folder: Path, user: User | None, mode: int) -> None:
    """A folder of a user's own. Raises `LocalStateError`."""
    try:
        if not folder.is_dir():
            make_folders(folder)
        if user is not None and os.stat(folder).st_uid != user.uid:
            folder.chmod(mode)
            os.chown(folder, user.uid, user.gid)
    except OSError as error:
        raise disk_error(error, folder) from error


def base_environment(folder: Path, user: str) -> dict[str, str]:
    """What every process gets before `[run.<process>.env]` and the release's config, which may override it."""
    return {
        "PATH": PATH,
        "HOME": str(folder),
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


def app_files(home: Home, verified: VerifiedRelease) -> tuple[dict[str, str], Manifest]:
    """The commands of a verified release by process type, and its manifest. Raises `FormatError`."""
    entry = verified.chained.entry
    commands = parse_procfile(read_build_file(home, verified, PROCFILE), f"{entry}:{PROCFILE}")
    return commands, parse_manifest(read_build_file(home, verified, MANIFEST), f"{entry}:{MANIFEST}")


class Layout:
    """What a verified release consists of when it runs, its secrets decrypted.

    Raises `BadInput` and `NoUsableKey` if it cannot run on this server as it is.
    """

    def __init__(self, home: Home, verified: VerifiedRelease, *, port: int = DEFAULT_PORT) -> None:
        self._home = home
        self._verified = verified
        self._port = port
        self.commands, self.manifest = app_files(home, verified)
        self._users = {kind: find_user(self.spec(kind).user, kind) for kind in self.commands}
        self._config = config_values(verified, self.manifest, home.identity)

    @property
    def release(self) -> Entry:
        return self._verified.chained.entry

    @property
    def folder(self) -> Path:
        return self._home.builds / self._verified.build.oid

    @property
    def first(self) -> str:
        """The process type whose environment a command gets that is of none: `web`, or the Procfile's first."""
        return "web" if "web" in self.commands else next(iter(self.commands))

    def spec(self, kind: str) -> RunSpec:
        return self.manifest.run.get(kind, RunSpec())

    def provide(self) -> None:
        """Make what processes may write, where it is missing: each user's HOME, and the folders of `[run] writable`.

        These belong to the app's user if it has one, to gitrel's if its processes have several. Raises
        `LocalStateError`.
        """
        users = set(self._users.values())
        for name, user in users:
            _make(self._home_of(name, user), user, 0o700)
        for path in self.manifest.writable:
            _make(self._home.path / "shared" / path, next(iter(users))[1] if len(users) == 1 else None, 0o755)

    def _home_of(self, name: str, user: User | None) -> Path:
        return self._home.run / "home" if user is None else self._home.run / "homes" / name

    def environment(self, kind: str, index: int) -> dict[str, str]:
        """A process's whole environment; foreman's rule for PORT: +100 for each type, +1 for each instance."""
        kinds = list(self.commands)
        port = self._port + 100 * (kinds.index(kind) if kind in kinds else 0) + index - 1
        name, user = self._users[kind]
        return {
            **base_environment(self._home_of(name, user), name),
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
            listen=spec.listen,
            user=self._users[kind][1],
            limit=spec.timeout if kind == RELEASE_PHASE else None,
        )

    def formation(self, scales: Mapping[str, int], *, prepared: bool) -> Formation:
        """All processes that stay up, and the release phase if there is one and it is not done (`prepared`).

        Raises `UsageError` for a scale of an unknown type.
        """
        for kind in scales:
            if kind not in self.commands or kind == RELEASE_PHASE:
                raise UsageError(f"no process type {kind!r} to scale", why=f"there are {', '.join(self.commands)}")
        once = RELEASE_PHASE in self.commands and not prepared
        return Formation(
            release=str(self.release),
            before=self.process(RELEASE_PHASE, 1) if once else None,
            processes=tuple(
                self.process(kind, index)
                for kind in self.commands
                if kind != RELEASE_PHASE
                for index in range(1, scales.get(kind, self.spec(kind).scale) + 1)
            ),
        )
