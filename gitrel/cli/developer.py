"""What a developer's command works with: the repository, its remote, the trust in force, the key."""

from __future__ import annotations

import itertools
import os
import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from gitrel.cli.console import Console
from gitrel.errors import FormatError, NotFound, Refused, UsageError
from gitrel.format.commit import Stamp
from gitrel.format.refs import RefView
from gitrel.ids import TRUST, App, Deploy, Entry, Ledger, Sha256
from gitrel.store.known_apps import read_known_apps
from gitrel.store.location import GitConfig
from gitrel.store.remote import Remote
from gitrel.store.repository import Repository
from gitrel.store.workspace import Interest, Workspace
from gitrel.trust.chain import TrustChain
from gitrel.trust.walk import load_trust

if TYPE_CHECKING:
    from gitrel.keys.private import Signer
    from gitrel.release.cut import Standing
    from gitrel.release.remembered import Remembered

_GIT_DATE = re.compile(r"@?(\d{1,12}) ([+-]\d{4})")
NO_REMOTE = "none"

T = TypeVar("T")


def known_apps_file(env: Mapping[str, str]) -> Path:
    """Where this user's pins are kept."""
    base = env.get("XDG_CONFIG_HOME") or str(Path(env.get("HOME", "/")) / ".config")
    return Path(base) / "gitrel" / "known_apps"


def cache_folder(env: Mapping[str, str]) -> Path:
    """Where this user keeps what can be made again."""
    return Path(env.get("XDG_CACHE_HOME") or Path(env.get("HOME", "/")) / ".cache") / "gitrel"


class Developer:
    """Opened by `open_developer`. `pin` is what `--trust` said; without it the user's known apps decide."""

    def __init__(
        self,
        console: Console,
        workspace: Workspace,
        env: Mapping[str, str],
        deploy: Deploy,
        pin: Sha256 | None,
    ) -> None:
        self.console = console
        self.workspace = workspace
        self.repo = workspace.repo
        self.env = env
        self.deploy = deploy
        self._pin = pin
        self.git = GitConfig(workspace.repo.path, env)
        self._key: Path | None = None
        self._trust: tuple[int, TrustChain] | None = None
        self._standing: tuple[int, Standing] | None = None

    def use_key(self, path: Path) -> None:
        """Sign with this key instead of git's setting."""
        self._key = path.absolute()

    @property
    def source(self) -> Path:
        """Where git is run: the work tree, or the bare repository."""
        return self.repo.work_tree or self.repo.path

    def sync(self, interest: Interest | None = None, *, first_use: bool = False) -> None:
        """Bring the remote's ledgers here, or what of them is of interest; none of it if this user never accepted its
        trust, but for `first_use`.

        Raises `RemoteError`, `Refused`.
        """

        def judge(refs: RefView, objects: Repository) -> None:
            if str(TRUST[1]) in refs and not first_use:
                self._accepted(refs, objects)

        with self.console.working("asking the remote"):
            self.workspace.sync(judge, interest)

    def interest(self, *deploys: Deploy, below: tuple[str, ...] = ()) -> Interest:
        """The ledgers of this deploy, and of others."""
        found = [(Ledger.releases(deploy), Ledger.config(deploy)) for deploy in (self.deploy, *deploys)]
        return Interest(ledgers=tuple(itertools.chain(*found)), below=below)

    def trust(self) -> TrustChain:
        """The trust chain, walked from the pin, once as long as no ref comes in. Raises `Refused` (3) if this user
        never accepted it."""
        if self._trust is None or self._trust[0] != self.workspace.changes:
            self._trust = self.workspace.changes, self._accepted(self.workspace.refs(), self.repo)
        return self._trust[1]

    def _accepted(self, refs: RefView, objects: Repository) -> TrustChain:
        chain = load_trust(refs, objects, self.repo.format, self._pin)
        known = read_known_apps(known_apps_file(self.env))
        if self._pin is None and known.get(chain.pin) != chain.app:
            raise Refused(
                f"the trust of {chain.app} is not known on this machine",
                check=3,
                where="refs/trust/v1",
                why=f"its pin is {chain.pin}",
                hint=f"compare that with a colleague, then `gitrel init --trust {chain.pin}`",
            )
        return chain

    def standing(self, *, whole: bool = False) -> Standing:
        """The deploy's ledger, verified, once as long as no ref comes in; not again what this user verified before, but
        if the `whole` is asked for."""
        from gitrel.release.cut import standing

        if whole:
            return standing(self.workspace, self.trust(), self.deploy)
        if self._standing is None or self._standing[0] != self.workspace.changes:
            now = standing(self.workspace, self.trust(), self.deploy, self.remembered)
            self._standing = self.workspace.changes, now
        return self._standing[1]

    @cached_property
    def remembered(self) -> Remembered:
        """What this user verified before."""
        from gitrel.release.remembered import Remembered

        return Remembered(cache_folder(self.env) / "verified")

    @cached_property
    def signer(self) -> Signer:
        """The key that git would sign with. Raises `NoUsableKey`."""
        from gitrel.keys.private import load_signer

        return load_signer(
            str(self._key) if self._key else self.git.get(("user",), "signingkey"),
            gpg_format="ssh" if self._key else self.git.get(("gpg",), "format"),
            home=Path(self.env.get("HOME", "/")),
            env=self.env,
            interactive=sys.stdin.isatty(),
        )

    def who(self) -> Stamp:
        """Name, e-mail address and time, as git would put them into a commit. Raises `UsageError`."""
        name = self.env.get("GIT_COMMITTER_NAME") or self.git.get(("user",), "name")
        email = self.env.get("GIT_COMMITTER_EMAIL") or self.git.get(("user",), "email")
        if not name or not email:
            raise UsageError(
                "git does not know who you are",
                where="git's configuration",
                why="user.name or user.email is not set",
                hint="`git config --global user.name 'Your Name'` and `… user.email you@example.com`",
            )
        date = _GIT_DATE.fullmatch(self.env.get("GIT_COMMITTER_DATE", ""))
        now = int(date[1]) if date else int(time.time())
        return Stamp(name=name, email=email, time=now, zone=date[2] if date else _zone(now))


def _zone(now: int) -> str:
    offset = time.localtime(now).tm_gmtoff // 60
    return f"{'-' if offset < 0 else '+'}{abs(offset) // 60:02d}{abs(offset) % 60:02d}"


@contextmanager
def open_developer(
    console: Console,
    *,
    repo: Path | None,
    remote: str | None = None,
    deploy: str = "production",
    trust: str | None = None,
    also: tuple[str, ...] = (),
) -> Iterator[Developer]:
    """`remote` None: `origin` if there is one; `none`: no remote. `also`: see `Workspace`."""
    env = dict(os.environ)
    if repo is not None and not repo.is_dir():  # or one further up would be taken for it
        raise NotFound("not a git repository", where=str(repo.absolute()), why="no such folder")
    deploy_name, pin = parse_argument("--deploy", Deploy, deploy), parse_pin(trust)
    with Repository.discover((repo or Path.cwd()).absolute()) as opened:
        name = remote
        if name is None and GitConfig(opened.path, env).first(("remote", "origin"), "url") is not None:
            name = "origin"
        target = None
        if name is not None and name != NO_REMOTE:
            target = Remote.resolve(opened, name, env=env, interactive=sys.stdin.isatty())
        try:
            yield Developer(console, Workspace(opened, target, also), env, deploy_name, pin)
        finally:
            if target is not None:
                target.close()


def parse_argument(option: str, parse: Callable[[str], T], text: str) -> T:
    """A word of the command line as the value that it stands for. Raises `UsageError` naming the option."""
    try:
        return parse(text)
    except FormatError as error:
        raise UsageError(error.what, where=option, why=error.why, hint=error.hint) from None


def parse_pin(text: str | None) -> Sha256 | None:
    """What `--trust` says. Raises `UsageError`."""
    return None if text is None else parse_argument("--trust", Sha256, text)


def parse_entry(text: str) -> Entry:
    """`v12` or `12`. Raises `UsageError`."""
    try:
        return Entry.parse(text if text.startswith("v") else f"v{text}")
    except FormatError:
        what = f"not a release such as v12: {text[:100]!r}"
        raise UsageError(what, where="[vN]", hint="`gitrel log` lists the releases") from None


def slug(text: str) -> str:
    """A name made from free text, as apps and people are named."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:63]


def default_app(folder: Path) -> App:
    return App(slug(folder.resolve().name.removesuffix(".git")) or "app")
