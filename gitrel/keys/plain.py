"""A key's own signature over bytes as they are, with no SSHSIG around them: what readers of DSSE check.

    Ed25519   the 64 bytes of RFC 8032
    ECDSA     DER (RFC 3279, 2.2.3), over the hash that goes with the curve (RFC 5656, 6.2.1)
    RSA       PKCS#1 v1.5 with SHA-256 (RFC 8017, 8.2)

A key in a file signs so by itself. ssh-agent does it too, if asked in its own protocol
(https://datatracker.ietf.org/doc/html/draft-miller-ssh-agent, section 3.6). ssh-keygen does not, and a hardware key
cannot: it signs a hash of its own making (PROTOCOL.u2f). What is signed here must begin unlike an SSHSIG and unlike
a login's session id, or it could be taken for one; DSSE's does.
"""

from __future__ import annotations

import socket

from gitrel.errors import FormatError
from gitrel.keys import wire
from gitrel.keys.blob import RSA, EcdsaMaterial
from gitrel.keys.public import PublicKey
from gitrel.keys.sshsig import SshSignature, encode_rs, read_rs

RSA_ALGORITHM = "rsa-sha2-256"

_SIGN_REQUEST, _SIGN_RESPONSE = 13, 14
_RSA_SHA2_256 = 2  # a flag of the request
_MAX_ANSWER = 64 * 1024  # bytes


def plain_signature(key: PublicKey, algorithm: str, signature: bytes, data: bytes) -> bytes:
    """An SSH signature over `data` in the form above, verified. Raises `FormatError`."""
    material = key.material
    if isinstance(material, EcdsaMaterial):
        signature = encode_rs(*read_rs(signature), material.curve)
    made = SshSignature(public_key=key, algorithm=algorithm, signature=signature)
    made.verify_plain(data)
    if not isinstance(material, EcdsaMaterial):
        return signature
    from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

    return encode_dss_signature(*read_rs(signature))


def ask_agent(path: str, key: PublicKey, data: bytes, *, seconds: float) -> tuple[str, bytes]:
    """ssh-agent's signature over `data`: the algorithm and SSH's encoding. Raises `FormatError`."""
    flags = _RSA_SHA2_256 if key.kind == RSA else 0
    request = bytes([_SIGN_REQUEST]) + wire.string(key.blob) + wire.string(data) + wire.uint32(flags)
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as agent:
            agent.settimeout(seconds)
            agent.connect(path)
            agent.sendall(wire.string(request))
            length = int.from_bytes(_received(agent, 4), "big")
            if not 1 <= length <= _MAX_ANSWER:
                raise FormatError("ssh-agent gives no clear answer")
            answer = wire.Reader(_received(agent, length), "ssh-agent's answer")
    except OSError as error:
        raise FormatError("ssh-agent does not answer", why=str(error), hint="ssh-add -l") from None
    if answer.byte() != _SIGN_RESPONSE:
        raise FormatError("ssh-agent does not sign", hint="ssh-add -l")
    inner = wire.Reader(answer.string(), "ssh-agent's signature")
    answer.end()
    algorithm, signature = inner.string(), inner.string()
    inner.end()
    return algorithm.decode("latin-1"), signature


def _received(agent: socket.socket, length: int) -> bytes:
    data = b""
    while len(data) < length:
        part = agent.recv(length - len(data))
        if not part:
            raise FormatError("ssh-agent hangs up")
        data += part
    return data
