"""A remote repository, as gitrel uses it: list refs, fetch objects, create refs. Nothing else is ever asked of it.

The work is done by a child process under limits (`gitrel.store.transfer`); the names a remote gives are checked
before they are handed out, its words are escaped, and what it sends lands in a `Quarantine`.
"""

from __future__ import annotations

import random
import re
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from gitrel.dataclass import asdict, dataclass
from gitrel.errors import Conflict, LocalStateError, Refused, RemoteError, UsageError
from gitrel.format.text import size
from gitrel.ids import ObjectFormat, ObjectId
from gitrel.store.limits import FilterUnsupported, Limits
from gitrel.store.location import GitConfig, Location, parse_location, proxied
from gitrel.store.quarantine import Quarantine
from gitrel.store.repository import Repository
from gitrel.store.salvage import Salvage
from gitrel.store.transfer import Child

__all__ = ["Fetched", "FilterUnsupported", "Limits", "Offer", "Remote"]

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
_ATTEMPTS = 6  # of a push that met somebody else's lock
_DECLINED = "hook declined"  # git's words for one ref; the others are an "atomic push failure" then
_PAUSE = 0.05  # seconds before the second attempt; doubles, with jitter
_LOCKED = re.compile(r"lock|File exists|already exists|atomic|failed to update ref|incorrect old value", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetched:
    """What a fetch brought: objects in packs, bytes from the wire, and whether the filter was applied. `anew`: it could
    have gone on from what was kept, and the server could not."""

    objects: int
    wire_bytes: int
    filtered: bool
    anew: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """What a server says that it can do: git's protocol `version`, and of filter, shallow, atomic, report-status."""

    version: int
    format: ObjectFormat
    able: frozenset[str]


class Remote:
    """A remote. Use it as a context manager, or `close` it: it holds a child process between operations."""

    def __init__(
        self,
        fetch: Location,
        push: Location,
        *,
        env: Mapping[str, str],
        config: Path | None,
        limits: Limits,
        interactive: bool,
    ) -> None:
        self._fetch, self._push = fetch, push
        self._env = dict(env)
        self._config = config
        self._limits = limits
        self._interactive = interactive
        self._child: Child | None = None

    @classmethod
    def resolve(
        cls,
        repo: Repository | None,
        name_or_url: str,
        *,
        env: Mapping[str, str],
        limits: Limits | None = None,
        interactive: bool = False,
    ) -> Remote:
        """The remote of that name in git's configuration, or at that URL or path. Nothing is connected yet.

        `env` is the environment of ssh, git and the child, and says what the limits are unless they are given
        (`Limits.of`). `interactive`: ssh may ask at the terminal. Raises `UsageError` for an unknown name and for a URL
        that is not on the list of schemes.
        """
        config = GitConfig(repo.path if repo else None, env)
        section = ("remote", name_or_url)
        url = config.first(section, "url")
        if url is None and _NAME.fullmatch(name_or_url) and not Path(name_or_url).exists():
            raise UsageError("no such remote", where=name_or_url, hint="`git remote -v` lists them; or give a URL")
        # git reads a relative path of the configuration from the top of the work tree
        folder = (repo.work_tree or repo.path) if repo and url is not None else Path.cwd()
        push_url = config.first(section, "pushurl")
        fetch = parse_location(config.rewrite(url or name_or_url, push=False), folder)
        push = config.rewrite(push_url or url or name_or_url, push=push_url is None)
        return cls(
            fetch,
            parse_location(push, folder),
            env=env,
            config=repo.path if repo else None,
            limits=limits or Limits.of(env),
            interactive=interactive,
        )

    @property
    def limits(self) -> Limits:
        return self._limits

    @property
    def safe_url(self) -> str:
        """Where it fetches from, without credentials."""
        return self._fetch.safe

    def __enter__(self) -> Remote:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        if self._child is not None:
            self._child.close()
        self._child = None

    @property
    def partial(self) -> bool:
        """It is a bundle: a file with a part of the ledgers, which says nothing about the rest."""
        return self._fetch.scheme == "bundle"

    @property
    def folder(self) -> Path | None:
        """Where it is pushed to, if that is a folder of this machine."""
        return Path(self._push.path) if self._push.scheme == "local" else None

    def offers(self, *, push: bool) -> Offer:
        """Ask the server that is fetched from, or pushed to. Raises `RemoteError`."""
        service = "git-receive-pack" if push else "git-upload-pack"
        found = self._ask(self._push if push else self._fetch, "offers", service=service)
        return Offer(
            version=found["version"], format=ObjectFormat(found["format"]), able=frozenset(map(str, found["able"]))
        )

    def needs(self) -> dict[ObjectId, str]:
        """The commits that a bundle builds on, and what it says about each; none for any other remote."""
        found = self._ask(self._fetch, "needs") if self.partial else {}
        return {ObjectId(oid): said for oid, said in found.items()}

    def list(self, prefixes: Sequence[str], *, within: int | None = None) -> dict[str, ObjectId]:
        """The remote's refs whose full names begin with one of `prefixes`, sorted; an empty repository has none.

        `within` so many seconds, or as the limits say. Raises `RemoteError`, also for malformed or repeated names
        and ids.
        """
        return self._list(self._fetch, prefixes, within)

    def fetch(
        self,
        quarantine: Quarantine,
        wants: Sequence[ObjectId],
        *,
        haves: Sequence[ObjectId] = (),
        shallow: Collection[ObjectId] = (),
        depth: int | None = None,
        filter_spec: str | None = None,
    ) -> Fetched:
        """Bring `wants`, ids that refs of the remote's point at, and what they need, into the quarantine.

        `haves` are commits whose objects the home has completely, the likeliest first (256 are offered); of them,
        `shallow` are those whose parents it lacks. `depth` cuts the history, `filter_spec` leaves objects out
        (git-rev-list(1), --filter). Raises `RemoteError`, and `FilterUnsupported` before anything is downloaded.
        """
        if not wants:
            return Fetched(objects=0, wire_bytes=0, filtered=False)
        done = self._ask(
            self._fetch,
            "fetch",
            quarantine=str(quarantine.repository.path),
            wants=list(dict.fromkeys(wants)),
            haves=list(haves),
            shallow=sorted(shallow),
            depth=depth,
            filter=filter_spec,
        )
        quarantine.shallow |= {ObjectId(oid) for oid in done["shallow"]}
        return Fetched(objects=done["objects"], wire_bytes=done["bytes"], filtered=filter_spec is not None)

    def fetch_files(
        self,
        quarantine: Quarantine,
        folder: Path,
        wants: Sequence[ObjectId],
        *,
        haves: Sequence[ObjectId] = (),
        sure: bool,
        begin: Callable[[int], object] = lambda _: None,
    ) -> Fetched:
        """Bring commits `wants` with all their files, one commit deep, and go on where an earlier call broke.

        What came of one that breaks is kept in `folder` (`gitrel.store.salvage`); it is for the caller to delete once
        the home has what was wanted. `haves`: as for `fetch`, all of them shallow. `sure`: `wants` were verified, so
        what they do not need may go. `begin` is told how many bytes came before. Raises `RemoteError`,
        `LocalStateError`.
        """
        if self.partial:  # a file does not break
            begin(0)
            return self.fetch(quarantine, wants, haves=haves, shallow=haves, depth=1)
        salvage = Salvage(folder, most=self._limits.salvage_bytes)
        at: dict[str, Any] = {
            "salvage": str(folder),
            "quarantine": str(quarantine.repository.path),
            "wants": list(dict.fromkeys(wants)),
            "sure": sure,
        }
        salvage.open(quarantine.repository)
        try:
            before: int = self._ask(self._fetch, "salvage", **at)
        except (RemoteError, LocalStateError):  # whatever is wrong with it must not keep the rest away
            salvage.clear()
            salvage.open(quarantine.repository)
            before = 0
        begin(before)
        try:
            done = self._ask(self._fetch, "resume", **at, haves=list(haves), shallow=sorted(haves), resuming=before > 0)
        except LocalStateError:
            salvage.clear()  # the disk is full, or something in there is damaged
            raise
        except RemoteError as error:
            if kept := salvage.trim():
                came = f"{size(kept)} came and are kept: the next pull goes on from there"
                error.hint = f"{error.hint}; {came}" if error.hint else came
            else:
                salvage.clear()
            raise
        quarantine.shallow |= {ObjectId(oid) for oid in done["shallow"]}
        return Fetched(objects=done["objects"], wire_bytes=done["bytes"], filtered=False, anew=done["anew"])

    def push(self, repo: Repository, refs: Mapping[str, ObjectId], *, also: Sequence[str] = ()) -> None:
        """Create refs on the remote, all or none; those that have this very value already are fine.

        With them go the records below the namespaces in `also` that the remote lacks; is one there another one,
        nothing is pushed: `Refused` (13).

        Where the server has no atomic push they are created one by one in the order given. Raises `Conflict`
        naming a ref that has another value, `RemoteError` for every other refusal. After a broken connection the
        remote is asked what became of it, so an error means that the last ref is not there, and repeating is safe.
        """
        for attempt in range(_ATTEMPTS):
            try:
                reasons = self._ask(self._push, "push", repository=str(repo.path), refs=dict(refs), also=list(also))
            except RemoteError:
                if self._landed(refs):
                    return
                raise
            if "rewritten" in reasons:
                raise rewritten(**reasons["rewritten"])
            if not reasons or self._landed(refs):
                return
            said = reasons.pop("")
            if attempt == _ATTEMPTS - 1 or not _is_locked(reasons.values()):
                name, why = next(iter(reasons.items()))
                raise _refusal(name, why, said, self._push)
            time.sleep(_PAUSE * 2**attempt * random.uniform(0.5, 1.5))  # the other one is still at it

    def _landed(self, refs: Mapping[str, ObjectId]) -> bool:
        """Whether all refs are there after all. Raises `Conflict` for one that somebody else made."""
        try:
            there = self._list(self._push, list(refs))
        except RemoteError:
            return False
        for name, oid in refs.items():
            if there.get(name, oid) != oid:
                raise Conflict("the remote has this ref already", where=name, why=f"it points at {there[name]}")
        return all(name in there for name in refs)

    def _list(self, location: Location, prefixes: Sequence[str], within: int | None = None) -> dict[str, ObjectId]:
        found = self._ask(location, "list", within=within, prefixes=list(prefixes))
        return {name: ObjectId(oid) for name, oid in found.items()}

    def _ask(self, location: Location, what: str, *, within: int | None = None, **arguments: Any) -> Any:
        if self._child is None or not self._child.alive:
            self.close()
            self._child = Child(proxied(self._env, location.scheme), self._limits, interactive=self._interactive)
        config = str(self._config) if self._config else None
        where = location.safe
        return self._child.ask(what, where, within=within, location=asdict(location), config=config, **arguments)


def rewritten(name: str, here: ObjectId, there: ObjectId) -> Refused:
    """What a remote is refused for that changed a record."""
    return Refused(
        "the remote has another record under this name",
        check=13,
        where=name,
        why=f"here it is {here}, there {there}",
        hint="the ledger was forked or rewritten: compare both with `git show`",
    )


def _is_locked(reasons: Collection[str]) -> bool:
    """Whether somebody else's push is in the way, for a moment."""
    return any(map(_LOCKED.search, reasons)) and not any(_DECLINED in why for why in reasons)


def _refusal(name: str, why: str, said: str, location: Location) -> RemoteError:
    words = f"{name}: {why}" + (f" ({said})" if said else "")
    return RemoteError(
        "the remote refused the push",
        where=location.safe,
        why=words,
        hint="a hook or a rule of the server's decides this; ask whoever runs it",
    )
