"""Secrets: values encrypted to a deploy's readers with age (https://age-encryption.org/v1), through pyrage.

A reader is an SSH public key (ssh-ed25519, ssh-rsa) or an age recipient (`age1…`); what is written here, `age -d`
reads with the reader's own key, and the other way round. No message ever holds a value or a private key.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyrage  # type: ignore[import-untyped]

from gitrel.dataclass import dataclass, field
from gitrel.errors import BadInput, FormatError, NoUsableKey
from gitrel.keys.native import call_native
from gitrel.keys.public import PublicKey

MAX_SECRET = 256 * 1024  # bytes of an .age file; the value in it is at most half of that
_SSH_KINDS = ("ssh-ed25519", "ssh-rsa")
_AGE_IDENTITY = "AGE-SECRET-KEY-1"
_NO_MATCH = "No matching keys found"  # what pyrage's DecryptError says, which has no code


def parse_reader(line: str) -> str:
    """A reader in its one spelling: `age1…`, or an SSH key with its comment. Raises `FormatError` saying why not."""
    line = line.strip()
    _recipient(line)
    return line if line.startswith("age1") else PublicKey.parse_line(line).line


def _recipient(line: str) -> Any:
    if line.startswith("age1"):
        return call_native("not an age recipient", lambda: pyrage.x25519.Recipient.from_str(line))
    key = PublicKey.parse_line(line)
    if key.kind not in _SSH_KINDS:
        raise FormatError(f"age cannot encrypt to {key.kind}", why=f"it takes {', '.join(_SSH_KINDS)} and age1…")
    return call_native("not an SSH key that age takes", lambda: pyrage.ssh.Recipient.from_str(key.bare_line))


def encrypt_secret(value: bytes, readers: Sequence[str]) -> bytes:
    """An age file that each of `readers` can read. Raises `BadInput` without readers, `FormatError` for a bad one."""
    if not readers:
        raise BadInput("nobody could read that secret", why="the deploy has no readers", hint="gitrel trust add-reader")
    recipients = []
    for line in readers:
        try:
            recipients.append(_recipient(line))
        except FormatError as error:
            error.where = f"the reader {describe_reader(line)}"
            error.hint = "`gitrel trust remove-reader` it"
            raise
    return bytes(call_native("age cannot encrypt this", lambda: pyrage.encrypt(value, recipients)))


@dataclass(frozen=True, slots=True)
class Identity:
    """A private key that secrets can be read with. `reader` is the line that trust.toml lists for it."""

    reader: str
    key: Any = field(repr=False)


def load_identity(path: Path) -> Identity:
    """An unencrypted SSH private key (with its .pub beside it), or an age identity file.

    Raises `NoUsableKey`.
    """
    where = str(path)
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise NoUsableKey("cannot read the identity for secrets", where=where, why=error.strerror or "") from error
    try:
        if b"PRIVATE KEY-----" in raw:
            key = call_native("age cannot use it", lambda: pyrage.ssh.Identity.from_buffer(raw))
            return Identity(_public_line(path, key), key)
        lines = [line.strip() for line in raw.decode("utf-8").splitlines() if line.startswith(_AGE_IDENTITY)]
        if len(lines) != 1:
            raise FormatError("neither an SSH private key nor an age identity")
        found = call_native("not an age identity", lambda: pyrage.x25519.Identity.from_str(lines[0]))
        return Identity(str(found.to_public()), found)
    except (FormatError, UnicodeDecodeError) as error:
        why = str(error) if isinstance(error, FormatError) else "it is not text"
        raise NoUsableKey(
            "no usable identity for secrets",
            where=where,
            why=why,
            hint="an SSH key without a passphrase, or a file that `age-keygen -o FILE` made",
        ) from None


def _public_line(path: Path, key: Any) -> str:
    """The public half lies beside the private key, as ssh-keygen puts it; one that was left behind is found out."""
    where = f"{path}.pub"
    try:
        line = PublicKey.parse_line(Path(where).read_text("utf-8")).line
    except (OSError, UnicodeDecodeError) as error:
        raise FormatError("its public key is not beside it", where=where, why=str(error)) from None
    recipient = _recipient(line)
    if call_native("age cannot use it", lambda: _decrypt(pyrage.encrypt(b"", [recipient]), [key])) is None:
        raise FormatError("the public key beside it is another one's", where=where)
    return line


def new_identity() -> bytes:
    """The file of a new age identity, as age-keygen(1) writes it."""
    key = pyrage.x25519.Identity.generate()
    return f"# public key: {key.to_public()}\n{key}\n".encode("ascii")


def decrypt_secret(data: bytes, identities: Sequence[Identity]) -> bytes:
    """The value in an age file, armored or not.

    Raises `NoUsableKey` if it is encrypted to others; `FormatError` if it is damaged or none.
    """
    if len(data) > MAX_SECRET:
        raise FormatError("a secret too large", why=f"{len(data)} bytes, at most {MAX_SECRET}")
    keys = [identity.key for identity in identities]
    value = call_native("not an age file, or a damaged one", lambda: _decrypt(data, keys))
    if value is None:
        raise NoUsableKey("encrypted to others", hint="`gitrel config reencrypt`, by somebody who can read it")
    return value


def _decrypt(data: bytes, keys: Sequence[Any]) -> bytes | None:
    try:
        return bytes(pyrage.decrypt(data, keys))
    except pyrage.DecryptError as error:
        if str(error) == _NO_MATCH:
            return None
        raise


def describe_reader(line: str) -> str:
    """A reader as people know it: an SSH key's comment, or the beginning of what there is."""
    kind, _, rest = line.partition(" ")
    encoded, _, comment = rest.partition(" ")
    return comment.strip() or (f"{kind} …{encoded[-8:]}" if encoded else f"{kind[:12]}…")
