"""With which key a server reads secrets, and the reader line that people add to its deploy."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from gitrel.dataclass import replace
from gitrel.errors import NoUsableKey
from gitrel.keys.secrets import Identity, load_identity, new_identity
from gitrel.run.home import Home
from gitrel.store.durable import create_file

HOST_KEY = Path("/etc/ssh/ssh_host_ed25519_key")
OWN = "identity.age"


def settle_identity(home: Home, given: Path | None, env: Mapping[str, str]) -> Identity:
    """The home's identity: the one that is given, the one that it has, or the first of the usual ones; remembered.

    Raises `NoUsableKey`, `LocalStateError`.
    """
    known = home.read_state().identity
    if given is None and known is not None:
        return load_identity(home.path / known)
    path, identity = _choose(home, given, env)
    home.change_state(lambda state: replace(state, identity=path))
    return identity


def _choose(home: Home, given: Path | None, env: Mapping[str, str]) -> tuple[str, Identity]:
    if given is not None:
        return str(given.absolute()), load_identity(given)
    for path in (HOST_KEY, Path(env.get("HOME", "/")) / ".ssh/id_ed25519"):
        try:
            return str(path), load_identity(path)
        except NoUsableKey:
            continue  # not there, not ours to read, or with a passphrase that nobody could type at 3 a.m.
    own = home.path / OWN  # named without the folder, which may move
    create_file(own, new_identity(), 0o600)  # unless it has one from an earlier time
    return OWN, load_identity(own)
