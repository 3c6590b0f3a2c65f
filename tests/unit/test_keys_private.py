"""Which key signs, how, and what is said when none can; with real keys and a real ssh-agent."""

from __future__ import annotations

import base64
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from keys_support import PAYLOAD, Key, ask_pass, ed25519_key, new_key, run, ssh_agent, ssh_verify, string

from gitrel.errors import NoUsableKey
from gitrel.keys.private import Signer, load_signer
from gitrel.keys.public import PublicKey
from gitrel.keys.sshsig import parse_sshsig

PATH = {"PATH": os.environ["PATH"]}
PASSPHRASE = "correct horse"


@pytest.fixture
def agent() -> Iterator[dict[str, str]]:
    with ssh_agent() as env:
        yield env


@pytest.fixture
def house(tmp_path: Path) -> Path:
    """A home folder with `~/.ssh`."""
    (tmp_path / "house/.ssh").mkdir(parents=True)
    return tmp_path / "house"


def load(
    house: Path,
    setting: str | Path | None,
    *,
    fmt: str | None = "ssh",
    env: dict[str, str] | None = None,
    interactive: bool = False,
) -> Signer:
    named = None if setting is None else str(setting)
    return load_signer(named, gpg_format=fmt, home=house, env=PATH if env is None else env, interactive=interactive)


def refusal(house: Path, setting: str | Path | None, **options: object) -> NoUsableKey:
    with pytest.raises(NoUsableKey) as caught:
        load(house, setting, **options)  # type: ignore[arg-type]
    assert caught.value.what == "no usable signing key"
    assert caught.value.where
    assert caught.value.why
    assert caught.value.hint
    return caught.value


def public(path: Path) -> PublicKey:
    return PublicKey.parse_line(Path(f"{path}.pub").read_text())


def assert_signs(signer: Signer, key: PublicKey, folder: Path) -> None:
    assert signer.public_key == key
    text = signer.sign(PAYLOAD)
    signature = parse_sshsig(text)
    signature.verify(PAYLOAD)
    assert signature.public_key == key
    assert ssh_verify(folder, key.bare_line, text)


@pytest.mark.parametrize(
    ("setting", "fmt"),
    [
        (None, None),
        (None, "ssh"),
        ("ABCD1234", "openpgp"),
        ("ABCD1234", None),
        ("/nowhere", "x509"),
        ("", "ssh"),
    ],
)
def test_without_an_ssh_setting_it_is_the_default_key(house: Path, setting: str | None, fmt: str | None) -> None:
    path = new_key(house / ".ssh/id_ed25519", "ed25519")
    assert_signs(load(house, setting, fmt=fmt), public(path), house)


def test_a_setting_names_a_private_key_its_public_key_or_a_path_below_home(house: Path) -> None:
    path = new_key(house / "my key", "ed25519")
    for setting in (str(path), f"{path}.pub", "~/my key", "~/my key.pub"):
        assert_signs(load(house, setting), public(path), house)


def test_a_private_key_without_its_public_key(house: Path) -> None:
    path = new_key(house / "key", "ed25519")
    key = public(path)
    Path(f"{path}.pub").unlink()
    assert_signs(load(house, path), key, house)
    assert_signs(load(house, f"{path}.pub"), key, house)


def test_open_permissions_are_not_gitrels_to_judge(house: Path) -> None:
    path = new_key(house / "key", "ed25519")
    path.chmod(0o644)
    assert_signs(load(house, path), public(path), house)


def test_no_key_at_all_says_where_why_and_what_next(house: Path) -> None:
    error = refusal(house, None, fmt=None)
    assert error.where == str(house / ".ssh/id_ed25519")
    assert error.why == "no such file, and user.signingKey is not set"
    assert "ssh-keygen -t ed25519" in error.hint
    assert "git config gpg.format ssh" in error.hint
    assert "gpg.format openpgp" in refusal(house, "ABCD1234", fmt=None).why
    assert refusal(house, "~/nothing").where == str(house / "nothing")
    assert refusal(house, "~/nothing.pub").why == "no such file"


def test_a_fifo_a_folder_and_a_device_are_not_read(house: Path) -> None:
    fifo, folder = house / "fifo", house / "folder"
    os.mkfifo(fifo)
    folder.mkdir()
    for path in (fifo, folder, Path(os.devnull), Path("/"), Path(".")):
        assert "not a regular file" in refusal(house, path).why
    os.mkfifo(house / "only.pub")
    assert "not a regular file" in refusal(house, house / "only.pub").why


def _of_openssh(*, magic: bytes = b"openssh-key-v1\0", count: int = 1, tail: bytes = b"") -> bytes:
    body = magic + string(b"none") + string(b"none") + string(b"") + count.to_bytes(4, "big") + tail
    return b"-----BEGIN OPENSSH PRIVATE KEY-----\n%s\n-----END OPENSSH PRIVATE KEY-----\n" % base64.b64encode(body)


BAD_FILES = [
    ("empty", b"", "not an SSH public key"),
    ("binary", b"\xff\xfe\0\0", "not a key file"),
    ("huge", b"x" * 100_000, "over 65536 bytes"),
    ("pem-garbage", b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", "can be read"),
    ("openssh-garbage", b"-----BEGIN OPENSSH PRIVATE KEY-----\n!!\n", "can be read"),
    ("openssh-magic", _of_openssh(magic=b"openssh-key-v9\0"), "can be read"),
    ("openssh-two-keys", _of_openssh(count=2), "2 private keys"),
    ("openssh-cut", _of_openssh(), "cut short"),
    ("openssh-no-private-part", _of_openssh(tail=string(ed25519_key().blob)), "can be read"),
    ("dss", _of_openssh(tail=string(string(b"ssh-dss"))), "DSA"),
    ("certificate", b"ssh-ed25519-cert-v01@openssh.com AAAA\n", "certificate"),
]


@pytest.mark.parametrize(("raw", "why"), [pytest.param(*row[1:], id=row[0]) for row in BAD_FILES])
def test_a_file_that_holds_no_key(house: Path, raw: bytes, why: str) -> None:
    path = house / "key"
    path.write_bytes(raw)
    error = refusal(house, path)
    assert re.search(why, error.why)
    assert error.where == str(path)


def test_every_truncation_of_a_key_is_one_clear_error(house: Path) -> None:
    raw = new_key(house / "whole", "ed25519").read_bytes()
    path = house / "key"
    for length in range(0, len(raw) - 40, 3):
        path.write_bytes(raw[:length])
        refusal(house, path)


def test_keys_that_records_do_not_use(house: Path) -> None:
    assert "2048 bits" in refusal(house, new_key(house / "rsa", "rsa", 2048)).why
    run("openssl", "genpkey", "-algorithm", "ed448", "-out", house / "ed448")
    assert "not a kind of key" in refusal(house, house / "ed448").why
    run("openssl", "ecparam", "-name", "secp256k1", "-genkey", "-noout", "-out", house / "k1")
    assert "not a kind of key" in refusal(house, house / "k1").why


def test_a_public_key_beside_another_private_key(house: Path) -> None:
    path, other = new_key(house / "key", "ed25519"), new_key(house / "other", "ed25519")
    Path(f"{path}.pub").write_bytes(Path(f"{other}.pub").read_bytes())
    assert "not of one key" in refusal(house, f"{path}.pub").why


# The agent


def test_an_encrypted_key_that_the_agent_holds(house: Path, agent: dict[str, str]) -> None:
    path = new_key(house / "plain", "ed25519")
    run("ssh-add", "-q", path, env=agent)
    run("ssh-keygen", "-q", "-p", "-N", PASSPHRASE, "-f", path)
    assert_signs(load(house, path, env=agent), public(path), house)
    assert_signs(load(house, f"{path}.pub", env=agent), public(path), house)


@pytest.mark.parametrize(("kind", "bits"), [("ed25519", None), ("ecdsa", 256), ("ecdsa", 521), ("rsa", 3072)])
def test_a_key_that_only_the_agent_holds(house: Path, agent: dict[str, str], kind: str, bits: int | None) -> None:
    path = new_key(house / "key", kind, bits)
    key = public(path)
    run("ssh-add", "-q", path, env=agent)
    path.unlink()
    line = Path(f"{path}.pub").read_text().strip()
    settings = [f"{path}.pub", str(path), f"key::{line}", f"key::{key.bare_line}"]
    if kind != "ecdsa":  # git takes ssh-… for a key, ecdsa-… for a path
        settings.append(line)
    for setting in settings:
        signer = load(house, setting, env=agent)
        for _ in range(3):  # ECDSA: half of the first values of s are high
            assert_signs(signer, key, house)
    Path(f"{path}.pub").rename(house / "renamed")
    assert_signs(load(house, house / "renamed", env=agent), key, house)


def test_the_agents_key_goes_away_before_it_signs(house: Path, agent: dict[str, str]) -> None:
    path = new_key(house / "key", "ed25519")
    run("ssh-add", "-q", path, env=agent)
    signer = load(house, f"key::{public(path).bare_line}", env=agent)
    run("ssh-add", "-q", "-D", env=agent)
    with pytest.raises(NoUsableKey, match="ssh-agent does not sign"):
        signer.sign(PAYLOAD)


@pytest.mark.parametrize("pem", [False, True], ids=["openssh", "pem"])
def test_an_encrypted_key_without_agent_or_terminal(house: Path, agent: dict[str, str], pem: bool) -> None:
    path = new_key(house / "key", "rsa", 3072, passphrase=PASSPHRASE, pem=pem)
    error = refusal(house, path)
    assert "encrypted" in error.why
    assert "SSH_AUTH_SOCK" in error.why
    assert error.hint == f"ssh-add {path}"
    error = refusal(house, path, env=agent)
    assert "does not hold it" in error.why
    error = refusal(house, path, env={**PATH, "SSH_AUTH_SOCK": str(house / "nobody")})
    assert "does not answer" in error.why


def test_an_encrypted_pem_key_does_not_say_which_key_it_is(house: Path) -> None:
    path = new_key(house / "key", "rsa", 3072, passphrase=PASSPHRASE, pem=True)
    Path(f"{path}.pub").unlink()
    error = refusal(house, path, interactive=True)
    assert error.hint == f"ssh-keygen -y -f {path} > {path}.pub"


@pytest.mark.parametrize("pem", [False, True], ids=["openssh", "pem"])
def test_an_encrypted_key_whose_passphrase_is_asked_for(house: Path, pem: bool) -> None:
    path = new_key(house / "key", "ecdsa", 256, passphrase=PASSPHRASE, pem=pem)
    env = {**ask_pass(house, PASSPHRASE), "TMPDIR": str(house)}
    before = sorted(os.listdir(house))
    signer = load(house, path, env=env, interactive=True)
    for _ in range(4):
        assert_signs(signer, public(path), house / ".ssh")
    assert sorted(os.listdir(house)) == before  # nothing is left of the private folder


def test_a_wrong_passphrase(house: Path) -> None:
    path = new_key(house / "key", "ed25519", passphrase=PASSPHRASE)
    signer = load(house, path, env=ask_pass(house, "wrong"), interactive=True)
    with pytest.raises(NoUsableKey, match="ssh-keygen does not sign") as caught:
        signer.sign(PAYLOAD)
    assert PASSPHRASE not in str(caught.value)


def test_a_literal_key_that_nobody_holds(house: Path, agent: dict[str, str]) -> None:
    line = ed25519_key().line
    for interactive in (False, True):
        assert "does not hold it" in refusal(house, f"key::{line}", env=agent, interactive=interactive).why
    assert "SSH_AUTH_SOCK" in refusal(house, line).why
    assert "certificate" in refusal(house, "ssh-ed25519-cert-v01@openssh.com AAAA").why


def _sk_file(path: Path, key: Key) -> None:
    path.write_bytes(_of_openssh(tail=string(key.blob) + string(b"the handle")))


def test_a_hardware_key_needs_the_agent_or_a_terminal(house: Path, agent: dict[str, str]) -> None:
    key = ed25519_key("alice", b"ssh:")
    path = house / "id_ed25519_sk"
    _sk_file(path, key)
    error = refusal(house, path, env=agent)
    assert "hardware key" in error.why
    assert error.hint == f"ssh-add {path}"
    assert load(house, path, env=agent, interactive=True).public_key.blob == key.blob


def test_openssh_is_not_installed(house: Path) -> None:
    key = new_key(house / "key", "ed25519", passphrase=PASSPHRASE)
    env = {"PATH": str(house), "SSH_AUTH_SOCK": str(house / "nobody")}
    error = refusal(house, key, env=env)
    assert "ssh-add is not installed" in error.why
    assert "OpenSSH" in error.hint


def _spy(house: Path, script: str) -> dict[str, str]:
    """An environment whose ssh-keygen writes down how it was called, and then runs `script`."""
    folder = house / "spy"
    folder.mkdir()
    spy = folder / "ssh-keygen"
    spy.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" > {folder}/argv\nenv > {folder}/env\n{script}\n')
    spy.chmod(0o700)
    return {"PATH": f"{folder}:{os.environ['PATH']}", "AWS_SECRET": "hunter2", "TMPDIR": str(house)}


def test_the_payload_is_no_argument_and_the_environment_is_small(house: Path, agent: dict[str, str]) -> None:
    path = new_key(house / "key", "ed25519")
    run("ssh-add", "-q", path, env=agent)
    env = {**agent, **_spy(house, f'PATH={os.environ["PATH"]}\nexec ssh-keygen "$@"')}
    signer = load(house, f"key::{public(path).bare_line}", env=env)
    assert_signs(signer, public(path), house)
    argv = (house / "spy/argv").read_text()
    assert argv.split("\n")[:5] == ["-Y", "sign", "-n", "git", "-U"]
    assert "tree 4b825dc" not in argv
    passed = dict(line.split("=", 1) for line in (house / "spy/env").read_text().splitlines())
    assert passed["SSH_AUTH_SOCK"] == agent["SSH_AUTH_SOCK"]
    assert set(passed) <= {"PATH", "SSH_AUTH_SOCK", "PWD", "OLDPWD", "SHLVL", "_"}  # the last four are sh's


def test_a_program_that_signs_something_else_is_found_out(house: Path, agent: dict[str, str]) -> None:
    path, other = new_key(house / "key", "ed25519"), new_key(house / "other", "ed25519")
    run("ssh-add", "-q", path, env=agent)
    real = os.environ["PATH"]
    for script, reason in (
        (f"echo other | PATH={real} ssh-keygen -Y sign -n git -f {path}", "does not match"),
        (f"PATH={real} ssh-keygen -Y sign -n git -f {other}", "signs as another key"),
        (f"PATH={real} ssh-keygen -Y sign -n file -f {path}", "another purpose"),
        ("true", "not one SSH signature"),
        ("printf '\\377'", "not one SSH signature"),
        ("echo no >&2; exit 3", "ssh-agent does not sign: no"),
    ):
        env = {**agent, **_spy(house, script)}
        signer = load(house, f"key::{public(path).bare_line}", env=env)
        with pytest.raises(NoUsableKey, match=reason):
            signer.sign(PAYLOAD)
        for file in (house / "spy").iterdir():
            file.unlink()
        (house / "spy").rmdir()


def test_nothing_shows_a_private_key(house: Path) -> None:
    path = new_key(house / "key", "ed25519")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    shown = repr(load(house, path))
    assert "rivateKey object" not in shown
    assert not any(line in shown for line in path.read_text().split("\n") if line)
