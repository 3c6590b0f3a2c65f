"""What a remote may cost: bytes, objects, memory and time.

Every figure is a ceiling for one command's transfers, enforced in the child process that talks to the remote
(`gitrel.store.transfer`) before the cost arises: counts from headers, sizes before inflating, results before
applying a delta. The four before the last are the kernel's and the parent's, for whatever the others did not foresee;
above the last one nothing fails, but less is kept.

The variable `GITREL_LIMITS` sets them: `GITREL_LIMITS="wire_bytes=100000000 idle_seconds=20"` (docs/remotes.md).
"""

from __future__ import annotations

from collections.abc import Mapping

from gitrel.dataclass import dataclass, fields
from gitrel.errors import RemoteError, UsageError

VARIABLE = "GITREL_LIMITS"
_MIB = 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Sizes in bytes, times in seconds."""

    wire_bytes: int = 4096 * _MIB  # received from the remote, protocol included
    refs: int = 1_000_000  # lines of one advertisement
    objects: int = 2_000_000  # in one pack
    object_bytes: int = 512 * _MIB  # one blob, inflated
    metadata_bytes: int = 16 * _MIB  # one commit, tree or tag, inflated
    total_bytes: int = 16384 * _MIB  # all objects of a pack, inflated
    delta_depth: int = 4095  # git's own ceiling for pack.depth, git-config(1)
    connect_seconds: int = 20
    idle_seconds: int = 60  # without a byte from the remote
    wall_seconds: int = 3600  # one operation
    cpu_seconds: int = 1800  # the child, all operations
    memory_bytes: int = 2048 * _MIB  # the child's address space
    salvage_bytes: int = 2048 * _MIB  # kept of a fetch that broke

    @classmethod
    def of(cls, env: Mapping[str, str]) -> Limits:
        """The limits that an environment asks for. Raises `UsageError`."""
        words = env.get(VARIABLE, "").replace(",", " ").split()
        return cls.from_settings(dict(word.partition("=")[::2] for word in words))

    @classmethod
    def from_settings(cls, settings: Mapping[str, str]) -> Limits:
        """Limits with some figures replaced. Raises `UsageError` for an unknown name or value."""
        known = {field.name for field in fields(cls)}
        for name, value in settings.items():
            if name not in known:
                raise UsageError(
                    "no such limit", where=f"{VARIABLE}: {name}", hint=f"the limits are {', '.join(sorted(known))}"
                )
            if not (value.isascii() and value.isdigit() and int(value) > 0):
                raise UsageError(
                    "a limit is a positive whole number", where=f"{VARIABLE}: {name}", why=f"got {value[:50]!r}"
                )
        return cls(**{name: int(value) for name, value in settings.items()})


def over_limit(name: str, ceiling: int, what: str) -> RemoteError:
    """The error for a limit that was reached; `what` says of which thing there was too much."""
    return RemoteError(
        "the remote went over a limit",
        why=f"{what}: more than {ceiling} (limit {name})",
        hint=f"if this remote may cost that much, raise the limit: {VARIABLE}={name}=NUMBER",
    )


class FilterUnsupported(RemoteError):
    """The server offers no partial clone (gitprotocol-v2(5), `filter`). Nothing was asked for, nothing downloaded."""
