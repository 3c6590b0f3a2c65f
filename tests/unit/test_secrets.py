"""Secrets in age files: gitrel and the program `age` read one another's, and nothing but values comes out."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from conftest import program

from gitrel.errors import BadInput, FormatError, GitrelError, NoUsableKey
from gitrel.keys.secrets import (
    MAX_SECRET,
    Identity,
    decrypt_secret,
    describe_reader,
    encrypt_secret,
    load_identity,
    new_identity,
    parse_reader,
)

VALUE = b"hunter2 \xc3\xa9\n"


def keygen(folder: Path, kind: str, name: str, passphrase: str = "") -> Path:
    path = folder / name
    argv = ["ssh-keygen", "-q", "-t", kind, "-N", passphrase, "-C", f"root@{name}", "-f", str(path)]
    subprocess.run(argv, check=True)
    return path


def write_identity(path: Path) -> Path:
    path.write_bytes(new_identity())
    return path


def age(*args: str, stdin: bytes) -> bytes:
    return subprocess.run(["age", *args], input=stdin, capture_output=True, check=True).stdout


@pytest.fixture(params=["ed25519", "rsa", "age"])
def identity(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    if request.param == "age":
        return write_identity(tmp_path / "identity.age")
    return keygen(tmp_path, request.param, "web1")


def test_age_reads_what_gitrel_writes(identity: Path) -> None:
    loaded = load_identity(identity)
    secret = encrypt_secret(VALUE, [loaded.reader])
    assert age("-d", "-i", str(identity), stdin=secret) == VALUE
    assert decrypt_secret(secret, [loaded]) == VALUE
    assert VALUE not in secret


@pytest.mark.parametrize("armor", [(), ("-a",)], ids=["binary", "armored"])
def test_gitrel_reads_what_age_writes(identity: Path, armor: tuple[str, ...]) -> None:
    loaded = load_identity(identity)
    assert decrypt_secret(age(*armor, "-r", loaded.reader, stdin=VALUE), [loaded]) == VALUE


def test_every_reader_reads_and_nobody_else(tmp_path: Path) -> None:
    one, two = load_identity(keygen(tmp_path, "ed25519", "one")), load_identity(write_identity(tmp_path / "two"))
    other = load_identity(write_identity(tmp_path / "other"))
    secret = encrypt_secret(b"", [one.reader, two.reader])
    assert decrypt_secret(secret, [other, two]) == decrypt_secret(secret, [one]) == b""
    for keys in ([], [other]):
        with pytest.raises(NoUsableKey, match="encrypted to others"):
            decrypt_secret(secret, keys)


def test_a_new_identity_is_what_age_keygen_makes(tmp_path: Path) -> None:
    made = load_identity(write_identity(tmp_path / "identity.age"))
    said = subprocess.run(["age-keygen", "-y", str(tmp_path / "identity.age")], capture_output=True, check=True)
    assert said.stdout.decode().strip() == made.reader
    subprocess.run(["age-keygen", "-o", str(tmp_path / "theirs")], capture_output=True, check=True)
    theirs = load_identity(tmp_path / "theirs")
    assert decrypt_secret(encrypt_secret(VALUE, [theirs.reader]), [theirs]) == VALUE


def test_every_damaged_byte_is_found(tmp_path: Path) -> None:
    mine = load_identity(keygen(tmp_path, "ed25519", "web1"))
    secret = encrypt_secret(VALUE, [mine.reader])
    damaged = [secret[:at] for at in range(len(secret))]
    damaged += [secret[:at] + bytes([secret[at] ^ 1]) + secret[at + 1 :] for at in range(len(secret))]
    for raw in [*damaged, secret + b"x", b"garbage", b"\0" * 500]:
        with pytest.raises((FormatError, NoUsableKey)):  # a damaged name of the recipient is somebody else's
            decrypt_secret(raw, [mine])
    with pytest.raises(FormatError, match="too large"):
        decrypt_secret(b"x" * (MAX_SECRET + 1), [mine])


def test_readers_that_age_does_not_take(tmp_path: Path) -> None:
    good = load_identity(keygen(tmp_path, "ed25519", "web1")).reader
    ecdsa = keygen(tmp_path, "ecdsa", "web2").with_suffix(".pub").read_text()
    assert parse_reader(f" {good}\n") == good
    bad = {
        ecdsa: "cannot encrypt to ecdsa",
        "age1qqq": "not an age recipient",
        "ssh-ed25519 AAAA": "key",
        "hello": "not an SSH",
    }
    for line, what in bad.items():
        with pytest.raises(FormatError, match=what):
            parse_reader(line)
    with pytest.raises(FormatError, match="cannot encrypt to ecdsa") as caught:
        encrypt_secret(VALUE, [good, ecdsa.strip()])
    assert caught.value.where == "the reader root@web2"
    with pytest.raises(BadInput, match="nobody could read"):
        encrypt_secret(VALUE, [])


def test_identities_that_will_not_do(tmp_path: Path) -> None:
    lone = keygen(tmp_path, "ed25519", "lone")
    lone.with_suffix(".pub").unlink()
    stale = keygen(tmp_path, "ed25519", "stale")
    keygen(tmp_path, "ed25519", "newer").with_suffix(".pub").replace(stale.with_suffix(".pub"))
    mixed = keygen(tmp_path, "rsa", "mixed")
    keygen(tmp_path, "ed25519", "another").with_suffix(".pub").replace(mixed.with_suffix(".pub"))
    bad = {
        stale: "the public key beside it is another one's",
        mixed: "the public key beside it is another one's",
        keygen(tmp_path, "ed25519", "locked", "pass"): "age cannot use it",
        keygen(tmp_path, "ecdsa", "ecdsa"): "age cannot use it",
        lone: "its public key is not beside it",
        tmp_path / "none": "No such file",
        tmp_path: "directory",
    }
    (tmp_path / "text").write_text("AGE-SECRET-KEY-1HUNTER2\n")
    (tmp_path / "bytes").write_bytes(b"\xff\xfe")
    (tmp_path / "empty").write_bytes(b"")
    bad |= {tmp_path / "text": "not an age identity", tmp_path / "bytes": "not text", tmp_path / "empty": "neither"}
    for path, why in bad.items():
        with pytest.raises(NoUsableKey) as caught:
            load_identity(path)
        assert why.lower() in caught.value.why.lower(), path
        assert caught.value.where == str(path)
        assert "HUNTER2" not in f"{caught.value}{caught.value.hint}"


def test_nothing_that_is_printed_holds_a_key_or_a_value(tmp_path: Path) -> None:
    mine = load_identity(write_identity(tmp_path / "identity.age"))
    private = (tmp_path / "identity.age").read_text().splitlines()[-1]
    assert private.startswith("AGE-SECRET-KEY-1")
    shown = repr(mine)
    for raw in (encrypt_secret(VALUE, [mine.reader])[:-1], b"hunter2", VALUE):
        with pytest.raises(GitrelError) as caught:
            decrypt_secret(raw, [mine])
        shown += repr(caught.value) + str(caught.value) + caught.value.hint
    assert private not in shown
    assert "hunter2" not in shown


def test_a_reader_is_called_by_its_comment(tmp_path: Path) -> None:
    made: Identity = load_identity(write_identity(tmp_path / "i"))
    assert describe_reader("ssh-ed25519 AAAAC3NzaC1lZDI1NTE5 root@web1") == "root@web1"
    assert describe_reader("ssh-ed25519 AAAAC3NzaC1lZDI1NTE5") == "ssh-ed25519 …ZDI1NTE5"
    assert describe_reader(made.reader) == f"{made.reader[:12]}…"


def test_the_programs_are_there() -> None:
    assert program("age")
    assert program("age-keygen")
