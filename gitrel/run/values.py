"""A release's variables on this server. Secrets are decrypted when the release is about to start, in memory alone.

What goes wrong here is about this server and this release: nothing is said about the release's signatures, which
were verified before, and the release is tried again at the next look.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from gitrel.errors import BadInput, FormatError, NoUsableKey
from gitrel.format.envdir import SECRET_SUFFIX, check_value, plain_values, secret_names, variables
from gitrel.format.manifest import Manifest
from gitrel.trust.content import VerifiedRelease

if TYPE_CHECKING:
    from gitrel.keys.secrets import Identity


def config_values(verified: VerifiedRelease, manifest: Manifest, identity: Path | None) -> dict[str, str]:
    """All variables of the release's config, by name.

    Raises `BadInput` if one that the build requires is missing, or a secret is damaged; `NoUsableKey` if this
    server's identity cannot read one. Both name the variables, and never a value.
    """
    record = verified.chained.record
    where = str(record.ref)
    missing = manifest.missing(variables(verified.config))
    if missing:
        raise BadInput(
            f"the config lacks {', '.join(missing)}",
            where=where,
            why="the build requires it (`required_env` in gitrel.toml)",
            hint=f"`gitrel config set --deploy {record.deploy} {missing[0]}=…`, then `gitrel release`",
        )
    values = plain_values(verified.config)
    secrets = secret_names(verified.config)
    return values | _decrypted(verified, secrets, identity) if secrets else values


def _decrypted(verified: VerifiedRelease, names: list[str], identity: Path | None) -> dict[str, str]:
    from gitrel.keys.secrets import decrypt_secret, load_identity  # not at every start: most have no secrets

    record = verified.chained.record
    found: dict[str, str] = {}
    unreadable: list[str] = []
    keys: list[Identity] = []
    problem = ""
    try:
        keys = [load_identity(identity)] if identity else []
    except NoUsableKey as error:
        problem = str(error)
    for name in names:
        try:
            found[name] = check_value(name, decrypt_secret(verified.config[name + SECRET_SUFFIX], keys))
        except NoUsableKey:
            unreadable.append(name)
        except FormatError as error:
            raise BadInput(f"the secret {name}: {error.what}", where=str(record.ref), why=error.why) from None
    if unreadable:
        raise NoUsableKey(
            f"this server cannot read {', '.join(unreadable)}",
            where=str(record.ref),
            why=_why(verified, keys, problem),
            hint="`gitrel trust add-reader` with this server's line, `gitrel config reencrypt`, `gitrel release`",
        )
    return found


def _why(verified: VerifiedRelease, keys: list[Identity], problem: str) -> str:
    from gitrel.keys.secrets import describe_reader

    readers = verified.chained.trust.policy.deploy(verified.chained.record.deploy).readers
    mine = problem or ", ".join(describe_reader(key.reader) for key in keys) or "no identity; `gitrel join --identity`"
    return f"its readers: {', '.join(map(describe_reader, readers)) or 'nobody'}; this server: {mine}"
