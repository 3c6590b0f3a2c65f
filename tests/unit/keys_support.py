"""Keys, forged signatures, and the real OpenSSH, for the tests of `gitrel.keys`.

The encoders here are written apart from the package's own, so that a test compares two readings of the spec.
"""

from __future__ import annotations

import base64
import hashlib
import os
import re
import signal
import struct
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa, utils

PAYLOAD = b"tree 4b825dc642cb6eb9a060e54bf8d69288fbee4904\n\nv1\n"
ED25519_L = 0x1000000000000000000000000000000014DEF9DEA2F79CD65812631A5CF5D3ED
SK_ED25519 = b"sk-ssh-ed25519@openssh.com"
SK_ECDSA = b"sk-ecdsa-sha2-nistp256@openssh.com"
CURVES: dict[str, tuple[ec.EllipticCurve, hashes.HashAlgorithm, int]] = {
    "nistp256": (
        ec.SECP256R1(),
        hashes.SHA256(),
        0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551,
    ),
    "nistp384": (
        ec.SECP384R1(),
        hashes.SHA384(),
        0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFC7634D81F4372DDF581A0DB248B0A77AECEC196ACCC52973,
    ),
    "nistp521": (
        ec.SECP521R1(),
        hashes.SHA512(),
        (2**261 - 1 << 260) + 0xA51868783BF2F966B7FCC0148F709A5D03BB5C9B8899C47AEBB6FB71E91386409,
    ),
}


def string(value: bytes) -> bytes:
    return struct.pack(">I", len(value)) + value


def mpint(value: int) -> bytes:
    return string(value.to_bytes(value.bit_length() // 8 + 1, "big") if value else b"")


@dataclass(frozen=True)
class Key:
    """A private key of a test, and its public blob."""

    private: ed25519.Ed25519PrivateKey | ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey
    blob: bytes

    @property
    def line(self) -> str:
        (length,) = struct.unpack(">I", self.blob[:4])
        return f"{self.blob[4 : 4 + length].decode()} {base64.b64encode(self.blob).decode()}"


@cache
def ed25519_key(name: str = "alice", application: bytes | None = None) -> Key:
    private = ed25519.Ed25519PrivateKey.from_private_bytes(hashlib.sha256(name.encode()).digest())
    kind, end = (b"ssh-ed25519", b"") if application is None else (SK_ED25519, string(application))
    return Key(private, string(kind) + string(private.public_key().public_bytes_raw()) + end)


@cache
def ecdsa_key(curve: str = "nistp256", application: bytes | None = None) -> Key:
    private = ec.derive_private_key(0x1234567890ABCDEF << 64, CURVES[curve][0])
    numbers = private.public_key().public_numbers()
    width = (private.curve.key_size + 7) // 8
    point = b"\x04" + numbers.x.to_bytes(width, "big") + numbers.y.to_bytes(width, "big")
    kind, end = (b"ecdsa-sha2-" + curve.encode(), b"") if application is None else (SK_ECDSA, string(application))
    return Key(private, string(kind) + string(curve.encode()) + string(point) + end)


@cache
def rsa_key(bits: int = 3072) -> Key:
    private = rsa.generate_private_key(65537, bits)
    numbers = private.public_key().public_numbers()
    return Key(private, string(b"ssh-rsa") + mpint(numbers.e) + mpint(numbers.n))


def armor(blob: bytes, columns: int = 70) -> str:
    text = base64.b64encode(blob).decode()
    lines = re.findall(f".{{1,{columns}}}", text)
    return "\n".join(["-----BEGIN SSH SIGNATURE-----", *lines, "-----END SSH SIGNATURE-----"])


def dearmor(text: str) -> bytes:
    return base64.b64decode("".join(text.split("\n")[1:-1]))


def to_sign(
    payload: bytes = PAYLOAD, *, namespace: bytes = b"git", reserved: bytes = b"", hash_name: str = "sha512"
) -> bytes:
    digest = hashlib.new(hash_name.lower(), payload).digest()
    return b"SSHSIG" + string(namespace) + string(reserved) + string(hash_name.encode()) + string(digest)


def sshsig(
    public: bytes,
    inner: bytes,
    *,
    magic: bytes = b"SSHSIG",
    version: int = 1,
    namespace: bytes = b"git",
    reserved: bytes = b"",
    hash_name: str = "sha512",
) -> bytes:
    fields = (public, namespace, reserved, hash_name.encode(), inner)
    return magic + struct.pack(">I", version) + b"".join(string(field) for field in fields)


def ecdsa_rs(key: Key, data: bytes, curve: str, *, high: bool = False) -> bytes:
    assert isinstance(key.private, ec.EllipticCurvePrivateKey)
    _, digest, n = CURVES[curve]
    r, s = utils.decode_dss_signature(key.private.sign(data, ec.ECDSA(digest)))
    low, other = min(s, n - s), max(s, n - s)
    return mpint(r) + mpint(other if high else low)


def inner(key: Key, data: bytes, *, algorithm: bytes | None = None, high: bool = False) -> bytes:
    """The signature inside, of a key that is no sk key."""
    (length,) = struct.unpack(">I", key.blob[:4])
    kind = key.blob[4 : 4 + length]
    if isinstance(key.private, ed25519.Ed25519PrivateKey):
        return string(algorithm or kind) + string(key.private.sign(data))
    if isinstance(key.private, rsa.RSAPrivateKey):
        name = algorithm or b"rsa-sha2-512"
        digest = {b"rsa-sha2-512": hashes.SHA512(), b"rsa-sha2-256": hashes.SHA256()}.get(name, hashes.SHA1())
        return string(name) + string(key.private.sign(data, padding.PKCS1v15(), digest))
    return string(algorithm or kind) + string(ecdsa_rs(key, data, kind.decode().removeprefix("ecdsa-sha2-"), high=high))


def signed(key: Key, payload: bytes = PAYLOAD) -> str:
    """A good signature, of a key that is no sk key."""
    return armor(sshsig(key.blob, inner(key, to_sign(payload))))


def sk_inner(
    key: Key, application: bytes, data: bytes, *, flags: int = 1, counter: int = 7, high: bool = False
) -> bytes:
    """What a hardware key makes (PROTOCOL.u2f), in software."""
    state = struct.pack(">BI", flags, counter)
    message = hashlib.sha256(application).digest() + state + hashlib.sha256(data).digest()
    if isinstance(key.private, ed25519.Ed25519PrivateKey):
        return string(SK_ED25519) + string(key.private.sign(message)) + state
    return string(SK_ECDSA) + string(ecdsa_rs(key, message, "nistp256", high=high)) + state


def run(*argv: str | Path, stdin: bytes = b"", env: dict[str, str] | None = None) -> bytes:
    done = subprocess.run(
        [str(each) for each in argv], input=stdin, capture_output=True, env=env, timeout=60, check=False
    )
    assert done.returncode == 0, (argv, done.stdout, done.stderr)
    return done.stdout


def new_key(path: Path, kind: str, bits: int | None = None, passphrase: str = "", pem: bool = False) -> Path:
    extra = (["-b", str(bits)] if bits else []) + (["-m", "PEM"] if pem else [])
    run("ssh-keygen", "-q", "-t", kind, *extra, "-N", passphrase, "-C", "a test", "-f", path)
    return path


def ssh_sign(path: Path, payload: bytes = PAYLOAD) -> str:
    """What ssh-keygen prints, final newline and all."""
    return run("ssh-keygen", "-Y", "sign", "-n", "git", "-f", path, stdin=payload).decode()


def ssh_verify(folder: Path, line: str, text: str, payload: bytes = PAYLOAD) -> bool:
    """What `git verify-commit` asks ssh-keygen."""
    (folder / "allowed").write_text(f'me namespaces="git" {line}\n')
    (folder / "signature").write_text(text + "\n")
    files: list[str | Path] = ["-f", folder / "allowed", "-s", folder / "signature"]
    argv: list[str | Path] = ["ssh-keygen", "-Y", "verify", "-n", "git", "-I", "me", *files]
    done = subprocess.run(argv, input=payload, capture_output=True, timeout=60, check=False)
    return done.returncode == 0


@contextmanager
def ssh_agent() -> Iterator[dict[str, str]]:
    """A real agent of its own, and the environment that leads to it."""
    with tempfile.TemporaryDirectory(prefix="agent-") as folder:  # a socket's path has to be short
        said = run("ssh-agent", "-s", "-a", f"{folder}/socket").decode()  # it listens when this returns
        found = re.search(r"SSH_AGENT_PID=([0-9]+)", said)
        assert found is not None, said
        try:
            yield {"PATH": os.environ["PATH"], "SSH_AUTH_SOCK": f"{folder}/socket"}
        finally:
            os.kill(int(found[1]), signal.SIGTERM)


def ask_pass(folder: Path, passphrase: str) -> dict[str, str]:
    """An environment in which ssh-keygen asks a program instead of the terminal, which tests have not."""
    script = folder / "askpass"
    script.write_text(f"#!/bin/sh\necho '{passphrase}'\n")
    script.chmod(0o700)
    return {"PATH": os.environ["PATH"], "SSH_ASKPASS": str(script), "SSH_ASKPASS_REQUIRE": "force"}
