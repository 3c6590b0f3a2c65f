"""Where a remote is: git's URLs (git-fetch(1), GIT URLS), its names for them, and `url.<base>.insteadOf`.

Schemes are an allow-list: a path, file, git, ssh (with the scp-like form), http and https. Helpers such as
`ext::` run commands and are refused. A URL's user and password never leave in a message: `Location.safe` is
what may be shown.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from urllib.parse import SplitResult, unquote, urlsplit

from dulwich.config import ConfigFile

from gitrel.dataclass import dataclass
from gitrel.errors import LocalStateError, UsageError

_SCP_LIKE = re.compile(r"(?:(?P<user>[^@/:]+)@)?(?P<host>\[[^\]/]+\]|[^:/@\[\]]+):(?P<path>[^:].*|)")
_SCHEMES = "a path, file://, git://, ssh://, user@host:path, http://, https://"
_PROXIES = ("http_proxy", "https_proxy", "all_proxy")
_HOST = re.compile(r"[A-Za-z0-9_.:%\[\]-]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Location:
    """One place of a repository. `scheme` is local, bundle, git, ssh, http or https; `path` is what the server is asked
    for."""

    scheme: str
    path: str
    host: str = ""
    port: int | None = None
    user: str | None = None
    password: str | None = None

    @property
    def safe(self) -> str:
        """The URL without user and password, fit for messages."""
        if self.scheme in ("local", "bundle"):
            return self.path
        host = f"[{self.host}]" if ":" in self.host else self.host
        port = f":{self.port}" if self.port else ""
        slash = "" if self.path.startswith("/") else "/"
        return f"{self.scheme}://{host}{port}{slash}{self.path}"

    def __repr__(self) -> str:
        return f"Location({self.safe!r})"


def parse_location(text: str, folder: Path) -> Location:
    """Read a URL or a path; a relative path is below `folder`. Raises `UsageError`."""
    if not text or any(ord(char) < 32 or ord(char) == 127 for char in text):
        raise UsageError("not a URL of a git repository", why="it is empty or has a control character")
    if re.match(r"[A-Za-z0-9+.-]+::", text):
        raise UsageError(
            "this kind of remote is not supported", where=text.partition("::")[0] + "::", hint=f"use {_SCHEMES}"
        )
    if "://" in text:
        return _from_url(text, folder)
    match = _SCP_LIKE.fullmatch(text)
    if match and not (folder / text).exists():
        location = Location(scheme="ssh", host=match["host"].strip("[]"), user=match["user"], path=match["path"])
        return _checked(location)
    return _on_disk(os.path.normpath(folder / text))


def _on_disk(path: str) -> Location:
    """A folder, or as git has it (git-fetch(1)), a bundle."""
    return Location(scheme="bundle" if os.path.isfile(path) else "local", path=path)


def _from_url(text: str, folder: Path) -> Location:
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError as error:
        raise UsageError("not a URL of a git repository", where=_without_user(text), why=str(error)) from None
    scheme = {"git+ssh": "ssh", "ssh+git": "ssh"}.get(parts.scheme, parts.scheme)
    if scheme == "file":
        if parts.netloc not in ("", "localhost"):
            raise UsageError("a file:// URL has no host", where=_without_user(text), hint="write file:///path")
        return _on_disk(os.path.normpath(folder / unquote(parts.path)))
    if scheme not in ("git", "ssh", "http", "https"):
        raise UsageError("this kind of remote is not supported", where=f"{scheme}://", hint=f"use {_SCHEMES}")
    if parts.query or parts.fragment:
        raise UsageError("a repository's URL has no query and no fragment", where=_without_user(text).split("?")[0])
    return _checked(_with_host(parts, scheme, port))


def _with_host(parts: SplitResult, scheme: str, port: int | None) -> Location:
    if scheme in ("http", "https"):
        path = parts.path  # sent as it is
    else:
        path = unquote(parts.path)
        if path.startswith("/~"):
            path = path[1:]
    return Location(
        scheme=scheme,
        host=parts.hostname or "",
        port=port,
        user=unquote(parts.username) if parts.username else None,
        password=unquote(parts.password) if parts.password else None,
        path=path,
    )


def _checked(location: Location) -> Location:
    """ssh takes what begins with a dash for an option, and so may a remote git (CVE-2017-1000117)."""
    if not _HOST.fullmatch(location.host) or location.host.startswith("-") or (location.user or "").startswith("-"):
        raise UsageError("not a host's name", where=location.safe)
    if location.path.startswith("-") or not location.path.strip("/"):
        raise UsageError("the URL names no repository", where=location.safe)
    if any(ord(char) < 32 for char in location.path):
        raise UsageError("not a URL of a git repository", where=location.host, why="its path has a control character")
    return location


def _without_user(url: str) -> str:
    return re.sub(r"//[^/]*@", "//", url)


def is_true(value: str | None) -> bool:
    """Whether a setting of git's, or a variable of the environment that it reads so, is on (git-config(1), Values)."""
    return (value or "").lower() in ("true", "yes", "on", "1")


class GitConfig:
    """git's configuration as git reads it: environment, repository, user, system (git-config(1))."""

    def __init__(self, repository: Path | None, env: Mapping[str, str]) -> None:
        self.repository = repository
        files = [_read(path) for path in _config_files(repository, env) if path.is_file()]
        self.files: tuple[ConfigFile, ...] = (_from_environment(env), *files)
        """The most important first, as dulwich stacks them."""

    def get(self, section: tuple[str, ...], key: str) -> str | None:
        """The value that wins, or None. `section` is `("core",)` or `("remote", "origin")`."""
        last: str | None = None
        for name, value in self.variables():
            if name == (*section, key.lower()):
                last = value
        return last

    def first(self, section: tuple[str, ...], key: str) -> str | None:
        """The first value: of several `remote.<n>.url`, git fetches from that."""
        return next((value for name, value in self.variables() if name == (*section, key.lower())), None)

    def all(self, section: tuple[str, ...], key: str) -> list[str]:
        """Every value, the least important first."""
        return [value for name, value in self.variables() if name == (*section, key.lower())]

    def rewrite(self, url: str, *, push: bool) -> str:
        """`url` after `url.<base>.insteadOf`; the longest match wins, `pushInsteadOf` before it when pushing."""
        for key in ["pushinsteadof", "insteadof"] if push else ["insteadof"]:
            matches = [
                (len(value), name[1])
                for name, value in self.variables()
                if len(name) == 3 and name[0] == "url" and name[2] == key and value and url.startswith(value)
            ]
            if matches:
                length, base = max(matches)
                return base + url[length:]
        return url

    def variables(self) -> Iterator[tuple[tuple[str, ...], str]]:
        """Every variable by its parts, the section and the key in lower case, the least important first."""
        for file in reversed(self.files):
            for section in file.sections():
                parts = [part.decode("utf-8", "surrogateescape") for part in section]
                for key, value in file.items(section):
                    text = value.decode("utf-8", "surrogateescape")
                    yield (parts[0].lower(), *parts[1:], key.decode("utf-8", "surrogateescape").lower()), text


def proxied(env: Mapping[str, str], scheme: str) -> dict[str, str]:
    """The environment with nothing but the proxy that curl, and so git, would choose for this scheme, as
    `<scheme>_proxy`. curl takes no `HTTP_PROXY` (httpoxy).
    """
    upper = env.get("HTTPS_PROXY") if scheme == "https" else None
    chosen = env.get(f"{scheme}_proxy") or upper or env.get("all_proxy") or env.get("ALL_PROXY")
    rest = {name: value for name, value in env.items() if name not in _PROXIES}
    if "NO_PROXY" in rest:
        rest.setdefault("no_proxy", rest["NO_PROXY"])
    return {**rest, f"{scheme}_proxy": chosen} if chosen and scheme in ("http", "https") else rest


def _count(env: Mapping[str, str]) -> int:
    text = env.get("GIT_CONFIG_COUNT", "0")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 5 else 0


def _from_environment(env: Mapping[str, str]) -> ConfigFile:
    """`GIT_CONFIG_COUNT` with its keys and values, `GIT_SSL_CAINFO`, `GIT_SSL_NO_VERIFY` (git-config(1), git(1))."""
    file = ConfigFile()
    for number in range(_count(env)):
        section, _, key = env.get(f"GIT_CONFIG_KEY_{number}", "").rpartition(".")
        head, _, sub = section.partition(".")
        name = tuple(part.encode() for part in ((head, sub) if sub else (head,)))
        file.add(name, key.encode(), env.get(f"GIT_CONFIG_VALUE_{number}", "").encode())
    if env.get("GIT_SSL_CAINFO"):
        file.set((b"http",), b"sslCAInfo", env["GIT_SSL_CAINFO"].encode())
    if "GIT_SSL_NO_VERIFY" in env:
        file.set((b"http",), b"sslVerify", b"false")
    return file


def _config_files(repository: Path | None, env: Mapping[str, str]) -> Iterator[Path]:
    """The most important first (git-config(1), FILES)."""
    if repository is not None:
        yield repository / "config"
    home = env.get("HOME")
    if "GIT_CONFIG_GLOBAL" in env:
        yield Path(env["GIT_CONFIG_GLOBAL"] or os.devnull)
    elif home:
        yield Path(home) / ".gitconfig"
        yield Path(env.get("XDG_CONFIG_HOME") or Path(home) / ".config") / "git" / "config"
    if not is_true(env.get("GIT_CONFIG_NOSYSTEM")):
        yield Path(env.get("GIT_CONFIG_SYSTEM") or "/etc/gitconfig")


def _read(path: Path) -> ConfigFile:
    try:
        return ConfigFile.from_path(str(path))
    except (OSError, ValueError) as error:
        raise LocalStateError("cannot read git's configuration", where=str(path), why=str(error)) from error
