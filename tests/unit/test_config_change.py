"""Which file a change of config gives each variable, and which names and values are warned about."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gitrel.errors import NotFound
from gitrel.format.envdir import SECRET_SUFFIX, variables
from gitrel.release.config import Change, changed, key_set, looks_secret, warnings


def encrypt(value: bytes) -> bytes:
    """Another file at each call, as age makes it."""
    encrypt.count += 1  # type: ignore[attr-defined]
    return b"%d:" % encrypt.count + value  # type: ignore[attr-defined]


encrypt.count = 0  # type: ignore[attr-defined]


def decrypt(blob: bytes) -> bytes:
    return blob.partition(b":")[2]


NAMES = st.sampled_from("ABCD")
VALUES = st.sampled_from([b"", b"1", b"2"])
FILES = st.dictionaries(NAMES, st.tuples(st.booleans(), VALUES)).map(
    lambda made: {n + SECRET_SUFFIX * hidden: (b"0:" + v if hidden else v) for n, (hidden, v) in made.items()}
)


@given(FILES, st.dictionaries(NAMES, VALUES), st.dictionaries(NAMES, st.booleans()))
def test_a_variable_has_its_value_its_kind_and_keeps_its_file(
    files: dict[str, bytes], set_: dict[str, bytes], secret: dict[str, bool]
) -> None:
    after = changed(files, Change(set_=set_, secret=secret), encrypt=encrypt, decrypt=decrypt)
    found = files if after is None else after
    assert after is None or after != files
    assert sorted(variables(found)) == sorted({*variables(files), *set_}), "each once, and none is lost"
    for name, value in set_.items():
        hidden = secret.get(name, name + SECRET_SUFFIX in files)
        file = name + SECRET_SUFFIX if hidden else name
        assert (decrypt(found[file]) if hidden else found[file]) == value
        if hidden and file in files and decrypt(files[file]) == value:
            assert found[file] == files[file], "a secret that keeps its value keeps its file"
    for file, data in files.items():
        if file.removesuffix(SECRET_SUFFIX) not in set_:
            assert found[file] == data


@given(FILES, FILES)
def test_unset(files: dict[str, bytes], others: dict[str, bytes]) -> None:
    names = sorted(set(variables(files)))
    after = changed(files, Change(unset=names), encrypt=encrypt, decrypt=decrypt)
    assert after == (None if not names else {})
    for unknown in sorted(set(variables(others)) - set(names)):
        with pytest.raises(NotFound):
            changed(files, Change(unset=[unknown]), encrypt=encrypt, decrypt=decrypt)


def test_who_cannot_read_a_secret_writes_it_anew() -> None:
    files = {"A.age": b"0:1"}
    after = changed(files, Change(set_={"A": b"1"}), encrypt=encrypt, decrypt=lambda _: None)
    assert after is not None
    assert after != files


SECRETS = [
    ("API_KEY", b"x"), ("aws_secret_access_key", b"x"), ("GITHUB_TOKEN", b"x"), ("TOKEN", b"x"), ("DB_PASSWORD", b""),
    ("PASSWORD_FILE", b"x"), ("CLIENT_SECRET_1", b"x"), ("SENTRY_DSN", b"x"), ("URL", b"postgres://u:p@h/db"),
    ("URL", b"redis://:p@h"), ("URLS", b"a,amqp+ssl://u:p@h"),
]  # fmt: skip
OPEN = [
    ("LOG_LEVEL", b"x"), ("KEYBOARD", b"x"), ("TOKENS_PER_MINUTE", b"9"), ("STRIPE_PUBLISHABLE_KEY", b"x"),
    ("PUBLIC_KEY", b"x"), ("URL", b"https://h:8080/a@b"), ("URL", b"https://user@h/"), ("URL", b"//u:p@h"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "value"), SECRETS)
def test_what_looks_like_a_secret(name: str, value: bytes) -> None:
    assert looks_secret(name, value)
    assert [name in each for each in warnings({name: value}, [name])] == [True]
    assert warnings({name + SECRET_SUFFIX: value}, [name]) == [], "it is one"


@pytest.mark.parametrize(("name", "value"), OPEN)
def test_what_does_not(name: str, value: bytes) -> None:
    assert not looks_secret(name, value)
    assert warnings({name: value}, [name]) == []


@pytest.mark.timeout(20)
def test_looking_at_a_long_value_takes_no_time() -> None:
    for text in (b"x" * 130_000, b"://" * 40_000, b"a://b:" * 20_000, b" " * 130_000):
        assert not looks_secret("A", text)


def test_readers_are_compared_by_their_keys() -> None:
    assert key_set(["ssh-ed25519 AAAA root@web1", "age1x"]) == key_set(["age1x", "ssh-ed25519 AAAA root@renamed"])
    assert key_set(["ssh-ed25519 AAAA"]) != key_set(["ssh-ed25519 AAAB"])
