"""Both directions with the real ssh-keygen: what one signs, the other verifies."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from keys_support import (
    PAYLOAD,
    armor,
    ecdsa_key,
    ed25519_key,
    new_key,
    run,
    sk_inner,
    ssh_sign,
    ssh_verify,
    sshsig,
    to_sign,
)

from gitrel.errors import FormatError
from gitrel.keys.private import load_signer
from gitrel.keys.public import PublicKey
from gitrel.keys.sshsig import normalise, parse_sshsig

KEYS = [
    ("ed25519", None, False),
    ("ecdsa", 256, False),
    ("ecdsa", 384, False),
    ("ecdsa", 521, False),
    ("rsa", 3072, False),
    ("ecdsa", 256, True),
    ("rsa", 3072, True),
]
each_key = pytest.mark.parametrize(
    ("kind", "bits", "pem"),
    KEYS,
    ids=[f"{kind}-{bits}-{'pem' if pem else 'openssh'}" for kind, bits, pem in KEYS],
)


@each_key
def test_ssh_keygen_verifies_what_gitrel_signs(tmp_path: Path, kind: str, bits: int | None, pem: bool) -> None:
    path = new_key(tmp_path / "key", kind, bits, pem=pem)
    line = Path(f"{path}.pub").read_text()
    signer = load_signer(str(path), gpg_format="ssh", home=tmp_path, env={}, interactive=False)
    assert signer.public_key == PublicKey.parse_line(line)
    for number in range(6):  # ECDSA: half of the first values of s are high
        payload = PAYLOAD + b"%d" % number
        text = signer.sign(payload)
        parse_sshsig(text).verify(payload)
        assert ssh_verify(tmp_path, line, text, payload)
        assert not ssh_verify(tmp_path, line, text, payload + b"x")


@each_key
def test_gitrel_verifies_what_ssh_keygen_signs(tmp_path: Path, kind: str, bits: int | None, pem: bool) -> None:
    path = new_key(tmp_path / "key", kind, bits, pem=pem)
    line = Path(f"{path}.pub").read_text()
    made_low = kind != "ecdsa"
    for number in range(200):  # ECDSA: half of ssh-keygen's values of s are high
        payload = PAYLOAD + b"%d" % number
        made = ssh_sign(path, payload)
        text = normalise(made)
        signature = parse_sshsig(text)
        signature.verify(payload)
        assert signature.public_key == PublicKey.parse_line(line)
        with pytest.raises(FormatError, match="does not match"):
            signature.verify(payload + b"x")
        assert ssh_verify(tmp_path, line, text, payload)
        if text + "\n" != made:
            assert kind == "ecdsa"
            made_low = True
            with pytest.raises(FormatError, match="higher"):
                parse_sshsig(made.removesuffix("\n"))
        if made_low and number:
            break
    assert made_low


@pytest.mark.parametrize("kind", ["ed25519", "ecdsa"])
@pytest.mark.parametrize("application", [b"ssh:", b"ssh:evil"])
def test_c76_c78_hardware_signatures_verify_in_both(tmp_path: Path, kind: str, application: bytes) -> None:
    key = ed25519_key("a", application) if kind == "ed25519" else ecdsa_key("nistp256", application)
    for flags, counter in ((1, 0), (5, 2**32 - 1)):
        made = sk_inner(key, application, to_sign(), flags=flags, counter=counter)
        text = armor(sshsig(key.blob, made))
        parse_sshsig(text).verify(PAYLOAD)
        assert ssh_verify(tmp_path, key.line, text)
        assert not ssh_verify(tmp_path, key.line, text, PAYLOAD + b"x")


@pytest.mark.parametrize("kind", ["ed25519", "ecdsa"])
def test_c77_hardware_signature_without_touch(tmp_path: Path, kind: str) -> None:
    """The same key and data, with and without the bit."""
    key = ed25519_key("a", b"ssh:") if kind == "ed25519" else ecdsa_key("nistp256", b"ssh:")
    touched = armor(sshsig(key.blob, sk_inner(key, b"ssh:", to_sign(), flags=1)))
    text = armor(sshsig(key.blob, sk_inner(key, b"ssh:", to_sign(), flags=0)))
    assert ssh_verify(tmp_path, key.line, touched)
    parse_sshsig(touched).verify(PAYLOAD)
    with pytest.raises(FormatError, match="user presence"):
        parse_sshsig(text)


def test_public_lines_are_those_of_ssh_keygen(tmp_path: Path) -> None:
    for kind, bits in (("ed25519", None), ("ecdsa", 521), ("rsa", 3072)):
        path = new_key(tmp_path / kind, kind, bits)
        line = Path(f"{path}.pub").read_text()
        assert PublicKey.parse_line(line).line + "\n" == line
        fingerprint = run("ssh-keygen", "-l", "-f", path).decode().split(" ")[1]
        key = PublicKey.parse_line(line)
        again = run("ssh-keygen", "-l", "-f", "-", stdin=f"{key.bare_line}\n".encode()).decode().split(" ")[1]
        assert fingerprint == again


def test_c69_a_certificate_of_ssh_keygens_is_refused(tmp_path: Path) -> None:
    authority, path = new_key(tmp_path / "ca", "ed25519"), new_key(tmp_path / "key", "ed25519")
    run("ssh-keygen", "-q", "-s", authority, "-I", "id", "-n", "me", f"{path}.pub")
    with pytest.raises(FormatError, match="certificate"):
        PublicKey.parse_line(Path(f"{path}-cert.pub").read_text())
    done = subprocess.run(
        ["ssh-keygen", "-Y", "sign", "-n", "git", "-f", f"{path}-cert.pub"],
        input=PAYLOAD,
        capture_output=True,
        timeout=60,
        check=True,
    )
    with pytest.raises(FormatError, match="certificate"):
        normalise(done.stdout.decode())
