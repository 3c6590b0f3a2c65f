"""`gitrel.toml`: how an app is built and run (docs/spec/manifest.md). Unknown keys are refused by name."""

from __future__ import annotations

import contextlib
import re
import tomllib
from collections.abc import Callable, Collection, Mapping
from typing import Any, TypeVar

from gitrel.dataclass import dataclass, field
from gitrel.errors import FormatError
from gitrel.format.health import Health
from gitrel.ids import App

MANIFEST = "gitrel.toml"
RELEASE_PHASE = "release"  # the process type that runs once per release instead of staying up
PROCESS_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,62}")
VARIABLE_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,254}")
MAX_VALUE = 128 * 1024 - 256  # bytes; execve(2) refuses a `NAME=value` string over MAX_ARG_STRLEN, 128 KiB
MAX_MANIFEST = 1024 * 1024
_MAX_DOTS = 500  # in a line: tomllib's memory grows with the square of a dotted key's parts, 60 KB take gigabytes

_DURATION = re.compile(r"(?:([0-9]{1,9})h)?(?:([0-9]{1,9})m)?(?:([0-9]{1,9})s)?(?:([0-9]{1,9})ms)?")
_USER = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,30}\$?")
_LISTEN = re.compile(r"(?:\[(?P<six>[0-9a-fA-F:.]+)\]|(?P<four>[0-9.]+|localhost)):(?P<port>[0-9]{1,5})")

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildSpec:
    """`[build]`. `command` None: the source is the build. `timeout` in seconds."""

    command: str | None = None
    output: str = "."
    exclude: tuple[str, ...] = ()
    pass_env: tuple[str, ...] = ()
    timeout: float = 1800.0
    allow_links: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSpec:
    """`[run.<process>]`. Times are seconds; without `health`, staying up for `settle` is enough.

    `listen`: a socket that the process is handed. `user`: the user it runs as. `timeout`: how long the release phase
    may take; of no other process type.
    """

    health: Health | None = None
    settle: float = 2.0
    listen: tuple[str, int] | None = None
    scale: int = 1
    stop_timeout: float = 10.0
    user: str | None = None
    timeout: float = 3600.0
    env: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    app: App
    build: BuildSpec = BuildSpec()
    run: Mapping[str, RunSpec] = field(default_factory=dict)
    required_env: tuple[str, ...] = ()
    writable: tuple[str, ...] = ()
    max_silence: float | None = None
    hold_when_stale: bool = False

    def missing(self, variables: Collection[str]) -> list[str]:
        """The variables of `required_env` that a release's config, which has `variables`, does not have."""
        return [name for name in self.required_env if name not in variables]


def shared_link(path: str) -> str:
    """The target of the link that stands for a writable folder: from `builds/<tree>/<path>` to `shared/<path>`."""
    return "../" * (path.count("/") + 2) + f"shared/{path}"


def parse_manifest(raw: bytes, where: str = MANIFEST) -> Manifest:
    """Raises `FormatError` naming the file, the key's path and what was expected there."""
    top = parse_toml(raw, where)
    build, run = top.table("build"), top.table("run")
    manifest = Manifest(
        app=top.take("app", lambda value: App(_text(value))),
        build=_build(build) if build else BuildSpec(),
        # Read first: what else there is under [run] is a table, of the process type of that name.
        required_env=run.take("required_env", list_of(_variable), ()) if run else (),
        writable=run.take("writable", _folders, ()) if run else (),
        max_silence=run.optional("max_silence", duration) if run else None,
        hold_when_stale=run.take("hold_when_stale", _flag, False) if run else False,
        run={name: _run(name, table) for name, table in run.subtables(PROCESS_NAME)} if run else {},
    )
    top.end()
    return manifest


def parse_toml(raw: bytes, where: str) -> TomlTable:
    """TOML as a table that remembers which of its keys were read. Raises `FormatError` with the line."""
    if len(raw) > MAX_MANIFEST:
        raise FormatError("file too large", where=where, why=f"{len(raw)} bytes, at most {MAX_MANIFEST}")
    if any(line.count(b".") > _MAX_DOTS for line in raw.split(b"\n")):
        raise FormatError("not TOML", where=where, why="nested too deeply")
    try:
        return TomlTable(tomllib.loads(raw.decode("utf-8")), where, "")
    except UnicodeDecodeError as error:
        raise FormatError("not UTF-8", where=where, why=f"byte {error.start}") from None
    except (ValueError, RecursionError) as error:
        raise FormatError("not TOML", where=where, why=str(error) or "nested too deeply") from None


class TomlTable:
    """A TOML table read key by key; `end()` refuses what nobody asked for."""

    def __init__(self, values: dict[str, Any], where: str, path: str) -> None:
        self._values = dict(values)
        self._known: list[str] = []
        self._where = where
        self._path = path

    def _error(self, key: str, what: str) -> FormatError:
        return FormatError(f"{self._path}{key}: {what}", where=self._where)

    def take(self, key: str, read: Callable[[Any], T], default: T | None = None) -> T:
        """The value of `key` as `read` understands it; required unless there is a default."""
        self._known.append(key)
        if key not in self._values:
            if default is None:
                raise self._error(key, "missing")
            return default
        return self._read(key, self._values.pop(key), read)

    def optional(self, key: str, read: Callable[[Any], T]) -> T | None:
        self._known.append(key)
        return self._read(key, self._values.pop(key), read) if key in self._values else None

    def _read(self, key: str, value: Any, read: Callable[[Any], T]) -> T:
        try:
            return read(value)
        except FormatError as error:
            raise self._error(key, error.summary) from None

    def table(self, key: str) -> TomlTable | None:
        value = self.optional(key, _table)
        return None if value is None else TomlTable(value, self._where, f"{self._path}{key}.")

    def tables(self, key: str, names: re.Pattern[str]) -> list[tuple[str, TomlTable]]:
        """The sub-tables of a table whose keys are names of the user's own, in the file's order."""
        group = self.table(key)
        return group.subtables(names) if group else []

    def subtables(self, names: re.Pattern[str]) -> list[tuple[str, TomlTable]]:
        """All that is left, as tables."""
        found = []
        for name in list(self._values):
            if names.fullmatch(name) is None:
                raise self._error(name[:80], "not a name")
            if (table := self.table(name)) is not None:
                found.append((name, table))
        return found

    def items(self) -> list[tuple[str, Any]]:
        """All that is left, for a table of free keys."""
        left = list(self._values.items())
        self._values.clear()
        return left

    def variables(self) -> dict[str, str]:
        """All that is left, as variables and their values."""
        for name in self._values:
            if VARIABLE_NAME.fullmatch(name) is None:
                raise self._error(name[:80], "not a variable's name")
        return {name: self.take(name, value_text) for name in list(self._values)}

    def end(self) -> None:
        for key in self._values:
            import difflib  # only for who misspelt a key

            close = difflib.get_close_matches(key, self._known, 1)
            raise self._error(key[:80], f"unknown key; did you mean {close[0]!r}?" if close else "unknown key")


def _build(table: TomlTable) -> BuildSpec:
    spec = BuildSpec(
        command=table.optional("command", _text),
        output=table.take("output", _relative, "."),
        exclude=table.take("exclude", list_of(_relative), ()),
        pass_env=table.take("pass_env", list_of(_variable), ()),
        timeout=table.take("timeout", duration, BuildSpec().timeout),
        allow_links=table.take("allow_links", list_of(_text), ()),
    )
    table.end()
    return spec


def _run(kind: str, table: TomlTable) -> RunSpec:
    default = RunSpec()
    health = table.table("health")
    env = table.table("env")
    spec = RunSpec(
        health=_health(health) if health else None,
        settle=table.take("settle", duration, default.settle),
        listen=table.optional("listen", _listen),
        scale=table.take("scale", _whole(0, 1000), default.scale),
        stop_timeout=table.take("stop_timeout", duration, default.stop_timeout),
        user=table.optional("user", _user),
        timeout=table.take("timeout", duration, default.timeout) if kind == RELEASE_PHASE else default.timeout,
        env=env.variables() if env else {},
    )
    table.end()
    return spec


def _health(table: TomlTable) -> Health:
    default = Health()
    health = Health(
        path=table.optional("path", _url_path),
        port=table.take("port", _flag, default.port),
        notify=table.take("notify", _flag, default.notify),
        timeout=table.take("timeout", duration, default.timeout),
    )
    table.end()
    ways = [health.path is not None, health.port, health.notify]
    if not any(ways):
        raise table._error("", "none of `path`, `port = true` and `notify = true`")
    if health.notify and sum(ways) > 1:
        raise table._error("notify", "a process that says itself when it is ready is not asked as well")
    return health


def list_of(read: Callable[[Any], T]) -> Callable[[Any], tuple[T, ...]]:
    def read_list(value: Any) -> tuple[T, ...]:
        if not isinstance(value, list):
            raise FormatError("expected a list")
        return tuple(read(item) for item in value)

    return read_list


def duration(value: Any) -> float:
    """Seconds, from a number or from text such as `90s`, `30m`, `1h30m`, `500ms`."""
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 10**9:
        return float(value)
    match = _DURATION.fullmatch(value) if isinstance(value, str) and value else None
    if match is None:
        raise FormatError("expected a time such as '90s', '30m' or '1h30m'")
    hours, minutes, seconds, millis = (int(part or 0) for part in match.groups())
    return hours * 3600 + minutes * 60 + seconds + millis / 1000


def value_text(value: Any) -> str:
    """A variable's value: what execve(2) can carry."""
    if not isinstance(text := value, str):
        raise FormatError("expected text")
    if "\0" in text or len(text.encode("utf-8", "surrogatepass")) > MAX_VALUE:
        raise FormatError("a value has no NUL and at most 128 KiB")
    return text


def _table(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise FormatError("expected a table")
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value.strip() or "\0" in value:
        raise FormatError("expected text")
    return value


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise FormatError("expected true or false")
    return value


def _whole(least: int, most: int) -> Callable[[Any], int]:
    def read(value: Any) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
            raise FormatError(f"expected a whole number from {least} to {most}")
        return value

    return read


def _variable(value: Any) -> str:
    if VARIABLE_NAME.fullmatch(text := _text(value)) is None:
        raise FormatError(f"not a variable's name: {text[:80]!r}")
    return text


def _relative(value: Any) -> str:
    """A path below the source, without `..`; the folder itself is `.`"""
    parts = (text := _text(value)).split("/")
    if text.startswith("/") or ".." in parts:
        raise FormatError(f"not a path inside the source: {text[:80]!r}")
    return "/".join(part for part in parts if part not in ("", ".")) or "."


def _folders(value: Any) -> tuple[str, ...]:
    """Paths below the build, none inside another."""
    paths = list_of(_relative)(value)
    for path in paths:
        inside = [other for other in paths if other.startswith(f"{path}/")]
        if path in (".", MANIFEST, "Procfile") or inside or paths.count(path) > 1:
            raise FormatError(f"not a folder of its own: {(inside or [path])[0][:80]!r}")
    return paths


def _url_path(value: Any) -> str:
    if not (text := _text(value)).startswith("/") or any(char <= " " or char > "~" for char in text):
        raise FormatError("expected a URL's path such as '/healthz'")
    return text


def _user(value: Any) -> str:
    if _USER.fullmatch(text := _text(value)) is None:
        raise FormatError("expected a user's name")
    return text


def _listen(value: Any) -> tuple[str, int]:
    """The address in its shortest form. No other name than localhost: a name server has no say in how a start goes."""
    from ipaddress import IPv4Address, IPv6Address  # few need it, and each start of a process pays for imports

    if (match := _LISTEN.fullmatch(_text(value))) is not None and 1 <= (port := int(match["port"])) <= 65535:
        with contextlib.suppress(ValueError):
            if match["six"]:
                return str(IPv6Address(match["six"])), port
            return str(IPv4Address(match["four"].replace("localhost", "127.0.0.1"))), port
    raise FormatError("expected an IP address (or localhost) and a port, such as '127.0.0.1:8000' or '[::1]:8000'")
