"""A deploy's config as files: one for each variable (docs/spec/config.md).

A plain file `LOG_LEVEL` holds the value, all of its bytes and nothing else; `DATABASE_URL.age` holds it encrypted.
"""

from __future__ import annotations

from collections.abc import Mapping

from gitrel.dataclass import dataclass
from gitrel.errors import FormatError
from gitrel.format.manifest import MAX_VALUE, VARIABLE_NAME

SECRET_SUFFIX = ".age"  # noqa: S105 - a file name's ending
MAX_TOTAL = 1024 * 1024  # bytes of names and values; well below what execve(2) takes in total


def check_variable(name: str) -> str:
    """A variable's name. Raises `FormatError`."""
    if VARIABLE_NAME.fullmatch(name) is None:
        raise FormatError(f"not a variable's name: {name[:80]!r}", hint="letters, digits and _, not a digit first")
    return name


def check_value(name: str, value: bytes) -> str:
    """A plain value as the text that execve(2) can carry. Raises `FormatError`, which never shows the value."""
    if b"\0" in value:
        raise FormatError(f"the value of {name} has a NUL byte")
    if len(value) > MAX_VALUE:
        raise FormatError(f"the value of {name} is too long", why=f"{len(value)} bytes, at most {MAX_VALUE}")
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError:
        raise FormatError(f"the value of {name} is not UTF-8") from None


def parse_envdir(files: Mapping[str, bytes]) -> dict[str, bytes]:
    """Check a config tree's files. Returns them sorted by file name. Raises `FormatError`."""
    seen: set[str] = set()
    total = 0
    for file, data in sorted(files.items()):
        name = check_variable(file.removesuffix(SECRET_SUFFIX))
        if name in seen:
            raise FormatError(f"{name} is there both plain and secret")
        if file == name:
            check_value(name, data)
        seen.add(name)
        total += len(name) + len(data)
    if total > MAX_TOTAL:
        raise FormatError("the config is too large", why=f"{total} bytes, at most {MAX_TOTAL}")
    return dict(sorted(files.items()))


def plain_values(files: Mapping[str, bytes]) -> dict[str, str]:
    """The variables that are not secret."""
    return {file: check_value(file, data) for file, data in files.items() if not file.endswith(SECRET_SUFFIX)}


def variables(files: Mapping[str, bytes]) -> list[str]:
    """The names of all variables."""
    return [file.removesuffix(SECRET_SUFFIX) for file in files]


def secret_names(files: Mapping[str, bytes]) -> list[str]:
    return [file.removesuffix(SECRET_SUFFIX) for file in files if file.endswith(SECRET_SUFFIX)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Differences:
    """Names of variables, each sorted. A secret whose file differs is `changed`: only its readers could tell more."""

    added: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.added or self.changed or self.removed)

    @property
    def names(self) -> frozenset[str]:
        return frozenset((*self.added, *self.changed, *self.removed))

    def __str__(self) -> str:
        """`+ADDED ~CHANGED -REMOVED`, as one line."""
        marked = (("+", self.added), ("~", self.changed), ("-", self.removed))
        return " ".join(f"{mark}{name}" for mark, names in marked for name in names)


def compare(before: Mapping[str, bytes], after: Mapping[str, bytes]) -> Differences:
    """What happened to the variables between two envdirs. One that became secret, or plain, is changed."""
    old, new = _by_name(before), _by_name(after)
    return Differences(
        added=tuple(sorted(new.keys() - old.keys())),
        changed=tuple(sorted(name for name in new.keys() & old.keys() if new[name] != old[name])),
        removed=tuple(sorted(old.keys() - new.keys())),
    )


def _by_name(files: Mapping[str, bytes]) -> dict[str, tuple[str, bytes]]:
    return {file.removesuffix(SECRET_SUFFIX): (file, data) for file, data in files.items()}
