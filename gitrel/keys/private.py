"""Private keys: the only module that reads or uses one (docs/spec/keys.md, "Signing").

Which key is git's own setting, `user.signingKey` under `gpg.format = ssh` (git-config(1)), else
`~/.ssh/id_ed25519`. A plain private key signs in this process. An encrypted key, a hardware key, or a key
that only ssh-agent holds signs through `ssh-keygen -Y sign`: with the agent if it holds the key, otherwise
at the terminal if there is one. Every signature is parsed and verified before it leaves this module.

No private key, passphrase or payload is ever in an argument or a message. ssh-keygen reads what it signs
from its standard input or, since it asks for a passphrase there, from a private folder.
"""

from __future__ import annotations

import binascii
import os
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Protocol

from gitrel.dataclass import dataclass, field
from gitrel.errors import FormatError, LocalStateError, NoUsableKey
from gitrel.keys.blob import ECDSA_CURVES
from gitrel.keys.native import call_native
from gitrel.keys.plain import RSA_ALGORITHM, ask_agent, plain_signature
from gitrel.keys.public import PublicKey
from gitrel.keys.sshsig import (
    NAMESPACE,
    SshSignature,
    ecdsa_parameters,
    encode_rs,
    normalise,
    parse_sshsig,
    signed_data,
)
from gitrel.keys.wire import Reader

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

    PrivateKey = Ed25519PrivateKey | EllipticCurvePrivateKey | RSAPrivateKey

DEFAULT_KEY = Path(".ssh/id_ed25519")  # below the home folder

_WHAT = "no usable signing key"
_CHOICES = "ssh-keygen -t ed25519, or git config gpg.format ssh && git config user.signingkey PATH"
_UNREADABLE = "not a private key that can be read"
_OTHER_KIND = "not a kind of key that records use"
_MAX_FILE = 64 * 1024  # bytes; an RSA key of 16384 bits has 13,000
_LIST_SECONDS = 20
_SIGN_SECONDS = 120  # an agent may wait for a touch or a confirmation

_PEM_BEGIN = b"-----BEGIN "
_PEM_ENCRYPTED = (b"-----BEGIN ENCRYPTED PRIVATE KEY-----", b"\nProc-Type: 4,ENCRYPTED")
_OPENSSH_BEGIN = b"-----BEGIN OPENSSH PRIVATE KEY-----\n"
_OPENSSH_END = b"-----END OPENSSH PRIVATE KEY-----"
_OPENSSH_MAGIC = b"openssh-key-v1\0"

# What ssh-keygen, an askpass program and a token's middleware need; the rest of the environment stays out.
_PASSED_ENV = (
    *("PATH", "HOME", "TERM", "DISPLAY", "WAYLAND_DISPLAY", "XAUTHORITY", "XDG_RUNTIME_DIR"),
    *("SSH_AUTH_SOCK", "SSH_ASKPASS", "SSH_ASKPASS_REQUIRE", "SSH_SK_PROVIDER", "SSH_SK_HELPER"),
)


class Signer(Protocol):
    """Something that can sign with the private half of `public_key`."""

    @property
    def public_key(self) -> PublicKey: ...

    def sign(self, payload: bytes) -> str:
        """An SSHSIG over `payload`, as `parse_sshsig` reads it. Raises `NoUsableKey`, `LocalStateError`."""
        ...

    def sign_plain(self, data: bytes) -> bytes:
        """The key's own signature over `data` itself (`gitrel.keys.plain`). Raises `NoUsableKey`."""
        ...


def load_signer(
    signing_key: str | None,
    *,
    gpg_format: str | None,
    home: Path,
    env: Mapping[str, str],
    interactive: bool,
) -> Signer:
    """The key to sign with, found usable as far as that shows without using it.

    `signing_key` and `gpg_format` are git's settings: a path to a private key or to a public one, or
    `key::ssh-ed25519 AAAA…`. `interactive` lets ssh-keygen ask at the terminal. Raises `NoUsableKey` saying
    where it looked, why that will not do, and what to do next.
    """
    passed = {name: value for name, value in env.items() if name in _PASSED_ENV}
    ssh = _OpenSsh(passed, env.get("TMPDIR"))
    setting = signing_key if gpg_format == "ssh" else None
    where = "user.signingKey"
    try:
        if setting and setting.startswith(("key::", "ssh-")):  # git's gpg-interface.c, is_literal_ssh_key
            return _from_agent(ssh, PublicKey.parse_line(setting.removeprefix("key::")), where)
        path = _expand(setting, home) if setting else home / DEFAULT_KEY
        where = str(path)
        signer = _from_files(ssh, path, interactive)
    except FormatError as error:
        raise _unusable(error, where) from None
    if signer is None:
        raise NoUsableKey(_WHAT, where=where, why=_absence(signing_key, gpg_format), hint=_CHOICES)
    return signer


def write_new_key(path: Path, comment: str) -> None:
    """A new Ed25519 key in a new file of mode 0600, unencrypted, and its `.pub` beside it, as ssh-keygen(1) lays
    them. Raises `FileExistsError`."""
    from cryptography.hazmat.primitives import serialization as pem
    from cryptography.hazmat.primitives.asymmetric import ed25519

    key = ed25519.Ed25519PrivateKey.generate()
    raw = key.private_bytes(pem.Encoding.PEM, pem.PrivateFormat.OpenSSH, pem.NoEncryption())
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(raw)
    line = key.public_key().public_bytes(pem.Encoding.OpenSSH, pem.PublicFormat.OpenSSH).decode()
    Path(f"{path}.pub").write_text(f"{line} {comment}\n", encoding="utf-8")


def _unusable(error: FormatError, where: str) -> NoUsableKey:
    return NoUsableKey(_WHAT, where=where, why=str(error), hint=error.hint or _CHOICES)


def _expand(setting: str, home: Path) -> Path:
    return home / setting[2:] if setting.startswith("~/") else Path(setting)


def _absence(signing_key: str | None, gpg_format: str | None) -> str:
    if gpg_format == "ssh" and signing_key:
        return "no such file"
    if signing_key:
        return f"no such file, and user.signingKey is for gpg.format {gpg_format or 'openpgp'}"
    return "no such file, and user.signingKey is not set"


def _from_files(ssh: _OpenSsh, path: Path, interactive: bool) -> Signer | None:
    """The signer of a key file or of a `.pub`; `None` if there is neither. Raises also `FormatError`."""
    private = path.with_suffix("") if path.suffix == ".pub" else path
    beside = Path(f"{private}.pub")
    raw = _read(private)
    if raw is None or not raw.startswith(_PEM_BEGIN):  # ssh-keygen takes a public key under any name
        line = _read(beside) if raw is None else raw
        return None if line is None else _from_agent(ssh, _public_key(line), str(path))
    file = _KeyFile.inspect(raw)
    key = file.public_key
    named = _read(beside) if path != private or (file.encrypted and key is None) else None
    if named is not None:
        key = _paired(_public_key(named), key, private)
    if key is None and file.encrypted:
        hint = f"ssh-keygen -y -f {quote(str(private))} > {quote(str(beside))}"
        raise FormatError("it is encrypted, and its .pub is missing", hint=hint)
    if key is not None and (file.encrypted or key.is_hardware):
        kind = "a hardware key" if key.is_hardware else "encrypted"
        return _from_agent_or_terminal(ssh, key, private, kind, interactive)
    signer = _PlainSigner.load(raw, str(private))
    _paired(signer.public_key, key, private)
    return signer


def _paired(key: PublicKey, other: PublicKey | None, private: Path) -> PublicKey:
    """`key`, which must be `other` if that is known."""
    if other is not None and key != other:
        raise FormatError(f"{private.name} and its .pub are not of one key")
    return key


def _from_agent(ssh: _OpenSsh, key: PublicKey, where: str) -> Signer:
    lack = ssh.agent_lacks(key)
    if lack:
        hint = "ssh-add PATH-OF-THE-PRIVATE-KEY"
        raise NoUsableKey(_WHAT, where=where, why=f"this is a public key, and {lack}", hint=hint)
    return _OpenSshSigner(public_key=key, ssh=ssh, path=None)


def _from_agent_or_terminal(ssh: _OpenSsh, key: PublicKey, path: Path, kind: str, interactive: bool) -> Signer:
    lack = ssh.agent_lacks(key)
    if lack and not interactive:
        why = f"it is {kind}, there is no terminal to ask at, and {lack}"
        raise NoUsableKey(_WHAT, where=str(path), why=why, hint=f"ssh-add {quote(str(path))}")
    return _OpenSshSigner(public_key=key, ssh=ssh, path=path if lack else None)


def _public_key(raw: bytes) -> PublicKey:
    try:
        return PublicKey.parse_line(raw.decode())
    except UnicodeDecodeError:
        raise FormatError("not a key file") from None


def _read(path: Path) -> bytes | None:
    """A key file's bytes; `None` if there is no such file. A FIFO or a device is not waited for."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
        try:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise FormatError(f"{path} is not a regular file")
            with open(fd, "rb", closefd=False) as file:
                raw = file.read(_MAX_FILE + 1)
        finally:
            os.close(fd)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise FormatError(f"{path} cannot be read", why=getattr(error, "strerror", "")) from None
    if len(raw) > _MAX_FILE:
        raise FormatError(f"{path} is not a key file", why=f"over {_MAX_FILE} bytes")
    return raw


@dataclass(frozen=True, slots=True, kw_only=True)
class _KeyFile:
    """What a private key's file says without its passphrase. PEM files do not say which key they hold."""

    public_key: PublicKey | None
    encrypted: bool

    @classmethod
    def inspect(cls, raw: bytes) -> _KeyFile:
        """OpenSSH's PROTOCOL.key, or PEM. Raises `FormatError`."""
        if not raw.startswith(_OPENSSH_BEGIN):
            return cls(public_key=None, encrypted=any(mark in raw[:256] for mark in _PEM_ENCRYPTED))
        try:
            body = binascii.a2b_base64(raw[len(_OPENSSH_BEGIN) :].partition(_OPENSSH_END)[0])
        except ValueError:
            raise FormatError(_UNREADABLE) from None
        if not body.startswith(_OPENSSH_MAGIC):
            raise FormatError(_UNREADABLE)
        reader = Reader(body[len(_OPENSSH_MAGIC) :], "the private key's file")
        cipher, _kdf, _kdf_options, count = reader.string(), reader.string(), reader.string(), reader.uint32()
        if count != 1:
            raise FormatError(f"a file of {count} private keys", why="only one is accepted")
        return cls(public_key=PublicKey.from_blob(reader.string()), encrypted=cipher != b"none")


@dataclass(frozen=True, slots=True, kw_only=True)
class _PlainSigner:
    """Signs in this process."""

    public_key: PublicKey
    where: str
    private: PrivateKey = field(repr=False)

    @classmethod
    def load(cls, raw: bytes, where: str) -> _PlainSigner:
        """Raises `FormatError`."""
        from cryptography.hazmat.primitives import serialization as pem
        from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

        load = pem.load_ssh_private_key if raw.startswith(_OPENSSH_BEGIN) else pem.load_pem_private_key
        key = call_native(_UNREADABLE, lambda: load(raw, None))
        if not isinstance(key, ed25519.Ed25519PrivateKey | ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey):
            raise FormatError(_OTHER_KIND)
        public = key.public_key()
        line = call_native(_OTHER_KIND, lambda: public.public_bytes(pem.Encoding.OpenSSH, pem.PublicFormat.OpenSSH))
        return cls(public_key=PublicKey.parse_line(line.decode()), where=where, private=key)

    def sign(self, payload: bytes) -> str:
        data = signed_data(payload)
        try:
            algorithm, signature = call_native("it refuses to sign", lambda: self._raw(data, "rsa-sha2-512"))
            made = SshSignature(public_key=self.public_key, algorithm=algorithm, signature=signature)
            return _checked(made, self.public_key, payload)
        except FormatError as error:
            raise _unusable(error, self.where) from None

    def sign_plain(self, data: bytes) -> bytes:
        try:
            algorithm, signature = call_native("it refuses to sign", lambda: self._raw(data, RSA_ALGORITHM))
            return plain_signature(self.public_key, algorithm, signature, data)
        except FormatError as error:
            raise _unusable(error, self.where) from None

    def _raw(self, data: bytes, rsa_algorithm: str) -> tuple[str, bytes]:
        from cryptography.hazmat.primitives import hashes
        from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa, utils

        key, kind = self.private, self.public_key.kind
        if isinstance(key, rsa.RSAPrivateKey):
            digest = hashes.SHA256() if rsa_algorithm == RSA_ALGORITHM else hashes.SHA512()
            return rsa_algorithm, key.sign(data, padding.PKCS1v15(), digest)
        if isinstance(key, ec.EllipticCurvePrivateKey):
            curve = ECDSA_CURVES[kind]
            der = key.sign(data, ec.ECDSA(ecdsa_parameters(curve)[1]))
            return kind, encode_rs(*utils.decode_dss_signature(der), curve)
        return kind, key.sign(data)


@dataclass(frozen=True, slots=True, kw_only=True)
class _OpenSshSigner:
    """Signs through ssh-keygen: with the key in the file `path`, or, if that is `None`, with the agent's."""

    public_key: PublicKey
    ssh: _OpenSsh
    path: Path | None

    def sign(self, payload: bytes) -> str:
        where = str(self.path or "ssh-agent")
        try:
            with tempfile.TemporaryDirectory(prefix="gitrel-sign-", dir=self.ssh.tmp) as folder:
                if self.path is None:
                    armor = self.ssh.sign_with_agent(self.public_key, payload, Path(folder))
                else:
                    armor = self.ssh.sign_at_terminal(self.path, payload, Path(folder))
            return _checked(parse_sshsig(normalise(armor)), self.public_key, payload)
        except FormatError as error:
            raise _unusable(error, where) from None
        except OSError as error:
            raise LocalStateError("cannot sign", where=where, why=str(error)) from None

    def sign_plain(self, data: bytes) -> bytes:
        where = str(self.path or "ssh-agent")
        try:
            if self.public_key.is_hardware:
                raise FormatError("a hardware key signs in SSH's own format only", hint="use a key of another kind")
            if self.path is not None:
                raise FormatError("ssh-keygen signs in SSH's own format only", hint=f"ssh-add {quote(str(self.path))}")
            signed = ask_agent(self.ssh.env["SSH_AUTH_SOCK"], self.public_key, data, seconds=_SIGN_SECONDS)
            return plain_signature(self.public_key, *signed, data)
        except FormatError as error:
            raise _unusable(error, where) from None


def _checked(signature: SshSignature, key: PublicKey, payload: bytes) -> str:
    """The armor of a signature that a verifier will accept. Raises `FormatError`."""
    if signature.public_key != key:
        raise FormatError("it signs as another key", why=signature.public_key.bare_line)
    armor = signature.armor()
    parse_sshsig(armor).verify(payload)
    return armor


@dataclass(frozen=True, slots=True)
class _OpenSsh:
    """OpenSSH's programs, run with `env` and nothing else. `tmp` is for private folders, by default /tmp."""

    env: Mapping[str, str] = field(repr=False)
    tmp: str | None

    def agent_lacks(self, key: PublicKey) -> str:
        """Why ssh-agent cannot sign with `key`; empty if it can."""
        if not self.env.get("SSH_AUTH_SOCK"):
            return "no ssh-agent is running (SSH_AUTH_SOCK is not set)"
        done = self._run("ssh-add", "-L", seconds=_LIST_SECONDS)
        if done.returncode not in (0, 1):  # 1: it holds no keys
            return f"ssh-agent does not answer ({_last_line(done.stderr)})"
        encoded = key.bare_line.split(" ")[1].encode()
        if any(encoded in line.split(b" ")[1:2] for line in done.stdout.splitlines()):
            return ""
        return "ssh-agent does not hold it"

    def sign_with_agent(self, key: PublicKey, payload: bytes, folder: Path) -> str:
        public = folder / "key.pub"
        public.write_text(f"{key.bare_line}\n")
        argv = ("-Y", "sign", "-n", NAMESPACE, "-U", "-f", str(public))
        done = self._run("ssh-keygen", *argv, stdin=payload, seconds=_SIGN_SECONDS)
        if done.returncode != 0:
            raise FormatError("ssh-agent does not sign", why=_last_line(done.stderr), hint="ssh-add -l")
        return done.stdout.decode("latin-1")

    def sign_at_terminal(self, path: Path, payload: bytes, folder: Path) -> str:
        """As git does: the payload in a file, so that passphrase, PIN and touch can be asked for."""
        file = folder / "payload"
        file.write_bytes(payload)
        argv = ("-Y", "sign", "-n", NAMESPACE, "-f", str(path), str(file))
        done = self._run("ssh-keygen", *argv, seconds=None)
        if done.returncode != 0:
            raise FormatError("ssh-keygen does not sign", why="it says why above", hint=f"ssh-add {quote(str(path))}")
        return (folder / "payload.sig").read_text(encoding="latin-1")

    def _run(
        self, program: str, *arguments: str, seconds: int | None, stdin: bytes = b""
    ) -> subprocess.CompletedProcess[bytes]:
        """Runs it captured; with `seconds=None` at the terminal, for as long as the user takes."""
        found = shutil.which(program, path=self.env.get("PATH", os.defpath))
        if found is None:
            raise FormatError(f"{program} is not installed", hint="install OpenSSH's client programs")
        argv = [found, *arguments]
        if seconds is None:
            return subprocess.run(argv, env=self.env, stdout=subprocess.DEVNULL, check=False)
        try:
            return subprocess.run(argv, input=stdin, env=self.env, capture_output=True, timeout=seconds, check=False)
        except subprocess.TimeoutExpired:
            raise FormatError(f"{program} gave no answer in {seconds} seconds") from None


def _last_line(stderr: bytes) -> str:
    lines = stderr.decode("utf-8", "replace").strip().splitlines()
    return "".join(char if char.isprintable() else "?" for char in lines[-1][:200]) if lines else "no reason given"
