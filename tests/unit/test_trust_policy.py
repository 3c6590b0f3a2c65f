"""`trust.toml` and `allowed_signers`: what encodes comes back, what parses can stand, and nothing else gets out."""

from __future__ import annotations

import re
import time
from typing import Any

import pytest
import tomli_w
from hypothesis import given, settings
from hypothesis import strategies as st
from keys_support import Key, ed25519_key, ssh_sign, ssh_verify
from simulator import line, policy, role

from gitrel.errors import FormatError
from gitrel.format.trust import (
    DeployPolicy,
    KeyLine,
    Role,
    TrustPolicy,
    encode_allowed_signers,
    encode_trust,
    parse_trust,
)
from gitrel.ids import PRODUCTION, App, Deploy, Entry, PersonName

COMMENT = re.compile(r"\S(.*\S)?", re.DOTALL)

names = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._@+-]{0,20}", fullmatch=True).map(PersonName)
comments = st.just("") | st.text(st.characters(exclude_categories=["Cc", "Cs"]), max_size=30).map(str.strip)
blobs = st.binary(min_size=1, max_size=60)
deploy_names = st.from_regex(r"[a-u][a-z0-9-]{0,12}", fullmatch=True).map(Deploy)
entries = st.lists(st.integers(1, 10**9 - 1).map(Entry), max_size=4, unique=True).map(lambda all_: tuple(sorted(all_)))


@st.composite
def policies(draw: st.DrawFn) -> TrustPolicy:
    people = draw(st.lists(names, min_size=1, max_size=5, unique=True))
    keys = draw(st.lists(blobs, min_size=len(people), max_size=9, unique=True))
    owned: dict[PersonName, list[KeyLine]] = {person: [] for person in people}
    for at, blob in enumerate(keys):
        kind = draw(st.sampled_from(["ssh-ed25519", "ssh-rsa", "sk-ssh-ed25519@openssh.com"]))
        owned[people[at % len(people)]].append(KeyLine(kind, blob, draw(comments)))

    def some() -> Role:
        members = tuple(draw(st.lists(st.sampled_from(people), min_size=1, unique=True)))
        return Role(people=members, threshold=draw(st.integers(1, len(members))))

    readers = st.lists(st.from_regex(r"age1[a-z0-9]{5,20}", fullmatch=True), max_size=3).map(tuple)
    deploys = [PRODUCTION, *draw(st.lists(deploy_names.filter(lambda name: name != PRODUCTION), max_size=3))]
    return TrustPolicy(
        app=draw(st.from_regex(r"[a-z0-9][a-z0-9-]{0,20}", fullmatch=True).map(App)),
        people={person: tuple(each) for person, each in owned.items()},
        root=some(),
        build=some(),
        deploys={name: DeployPolicy(release=some(), config=some(), readers=draw(readers)) for name in deploys},
        repudiated=draw(st.dictionaries(deploy_names, entries, max_size=3)),
    )


@settings(deadline=None)
@given(policies())
def test_what_encodes_comes_back(made: TrustPolicy) -> None:
    raw = encode_trust(made)
    assert parse_trust(raw) == made
    assert encode_trust(parse_trust(raw)) == raw


@settings(deadline=None)
@given(policies())
def test_allowed_signers_has_a_line_for_each_key(made: TrustPolicy) -> None:
    """People sorted by name, keys in order; every line is read back as exactly one key of one person."""
    lines = encode_allowed_signers(made).decode().removesuffix("\n").split("\n")
    found = [each.split(' namespaces="git" ') for each in lines]
    assert found == [[person, key.bare] for person in sorted(made.people) for key in made.people[person]]
    assert encode_allowed_signers(parse_trust(encode_trust(made))) == encode_allowed_signers(made)


@settings(max_examples=400, deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes(raw: bytes) -> None:
    with pytest.raises(FormatError):
        parse_trust(raw)


GOOD: dict[str, Any] = {
    "format": 1,
    "app": "shop",
    "people": {"alice": {"keys": [str(line(ed25519_key("alice")))]}},
    "roles": {"root": {"people": ["alice"], "threshold": 1}, "build": {"people": ["alice"], "threshold": 1}},
    "deploys": {
        "production": {
            "release": {"people": ["alice"], "threshold": 1},
            "config": {"people": ["alice"], "threshold": 1},
            "readers": ["age1x"],
        }
    },
    "repudiated": {"production": ["v1"]},
}
values = st.recursive(
    st.none().map(lambda _: "")
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=True)
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
    | st.dates()
    | st.sampled_from(["alice", "v1", "shop", "production"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abz.-_ *", max_size=6), inner, max_size=3),
    max_leaves=6,
)


def places(table: dict[str, Any], path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    found = []
    for key, value in table.items():
        found.append((*path, key))
        if isinstance(value, dict):
            found += places(value, (*path, key))
    return found


@settings(max_examples=600, deadline=None)
@given(st.sampled_from(places(GOOD)), values, st.sampled_from(["replace", "add", "delete"]))
def test_any_toml(path: tuple[str, ...], value: Any, how: str) -> None:
    """One value of a good file is another, or one more, or gone: it parses and comes back, or it is a FormatError."""
    document = _copy(GOOD)
    table = document
    for key in path[:-1]:
        table = table[key]
    if how == "delete":
        del table[path[-1]]
    else:
        table[path[-1] if how == "replace" else f"{path[-1]}x"] = value
    try:
        made = parse_trust(tomli_w.dumps(document).encode())
    except FormatError as error:
        assert "trust.toml" in str(error)
    else:
        assert parse_trust(encode_trust(made)) == made


def _copy(value: Any) -> Any:
    return {key: _copy(each) for key, each in value.items()} if isinstance(value, dict) else value


REFUSED: dict[str, tuple[str, str, str]] = {
    "threshold-above": ("threshold = 1", "threshold = 2", "threshold"),
    "threshold-zero": ("threshold = 1", "threshold = 0", "threshold"),
    "threshold-below": ("threshold = 1", "threshold = -1", "threshold"),
    "threshold-true": ("threshold = 1", "threshold = true", "whole number"),
    "threshold-float": ("threshold = 1", "threshold = 1.0", "whole number"),
    "threshold-huge": ("threshold = 1", "threshold = 0x" + "f" * 20_000, "threshold"),
    "nobody": ('people = [\n    "alice",\n]', "people = []", "threshold"),
    "stranger": ('people = [\n    "alice",\n]', 'people = ["mallory"]', "'mallory' is not in [people]"),
    "twice": ('people = [\n    "alice",\n]', 'people = ["alice", "alice"]', "twice"),
    "number-as-person": ('people = [\n    "alice",\n]', "people = [1]", "roles.root.people"),
    "no-keys": ("[people.bob]\nkeys = [\n", "[people.bob]\nkeys = []\nx = [\n", "people.bob"),
    "wildcard": ("[people.bob]", '[people."b*b"]', "person's name"),
    "negated": ("[people.bob]", '[people."!bob"]', "person's name"),
    "pattern-list": ("[people.bob]", '[people."bob,mallory"]', "person's name"),
    "format-2": ("format = 1", "format = 2", "knows 1"),
    "format-float": ("format = 1", "format = 1.0", "whole number"),
    "format-text": ("format = 1", 'format = "1"', "whole number"),
    "format-true": ("format = 1", "format = true", "whole number"),
    "app-number": ('app = "shop"', "app = 5", "app: expected text"),
    "app-date": ('app = "shop"', "app = 2020-01-01", "app: expected text"),
    "unknown-key": ("format = 1", "format = 1\nformta = 1", "did you mean"),
    "unknown-role": ("[roles.root]", "[roles.rooot]", "root"),
    "no-production": ("[deploys.production", "[deploys.prod", "deploys.production"),
    "odd-deploy": ("[deploys.production", "[deploys.v1", "deploy's name"),
    "repudiated-number": ("format = 1", "format = 1\nrepudiated.production = [1]", "repudiated.production"),
    "repudiated-padded": ("format = 1", 'format = 1\nrepudiated.production = ["v01"]', "repudiated.production"),
    "reader-number": ("readers = []", "readers = [1]", "readers"),
    "reader-blank": ("readers = []", 'readers = [" "]', "readers"),
    "not-utf8": ("shop", "sh\udcffop", "UTF-8"),
    "same-key-twice": ("ssh-ed25519 BOB bob", "ssh-ed25519 ALICE bob", "people.bob: a key that stands twice"),
    "same-key-other-comment": ("ssh-ed25519 ALICE alice", 'ssh-ed25519 ALICE a", "ssh-ed25519 ALICE b', "stands twice"),
    "spaces-around-a-comment": ("ssh-ed25519 BOB bob", "ssh-ed25519 BOB  bob", "comment"),
    "control-in-a-comment": ("ssh-ed25519 BOB bob", "ssh-ed25519 BOB b\x9bb", "public key"),
    "loose-base64": ("ssh-ed25519 BOB bob", "ssh-ed25519 AB== bob", "canonical"),
    "no-base64": ("ssh-ed25519 BOB bob", "ssh-ed25519 !!!! bob", "public key"),
    "only-a-kind": ("ssh-ed25519 BOB bob", "ssh-ed25519", "public key"),
    "C67-options": ("ssh-ed25519 BOB bob", "cert-authority ssh-ed25519 BOB", "public key"),
}


def document(old: str, new: str) -> bytes:
    text = encode_trust(policy()).decode()
    marks = {"ALICE": ed25519_key("alice"), "BOB": ed25519_key("bob")}
    for mark, key in marks.items():
        text = text.replace(key.line.split(" ")[1], mark)
    assert old in text
    text = text.replace(old, new)
    for mark, key in marks.items():
        text = text.replace(mark, key.line.split(" ")[1])
    return text.encode("utf-8", "surrogateescape")


@pytest.mark.parametrize("name", REFUSED)
def test_refused_by_name(name: str) -> None:
    old, new, reason = REFUSED[name]
    with pytest.raises(FormatError) as caught:
        parse_trust(document(old, new), "here")
    assert reason in str(caught.value)
    assert caught.value.where == "here" or "here" in str(caught.value)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize(
    "raw",
    [
        b"a" + b".a" * 400_000 + b" = 1",
        b"[" + b"a." * 400_000 + b"a]",
        b'"a"' + b' . "a"' * 100_000 + b" = 1",
        b"a = " + b"[" * 500_000,
        b"x = " + b"{a=" * 200_000,
        b'"' * 900_000,
        b"a." * 16 + b'"' * 900_000,
        b"".join(b"a." * 499 + b"k%d = 1\n" % at for at in range(500)),
        b"a = 1" + b"1" * 900_000,
        b"a" * 2_000_000,
        b"".join(b"k%d = 1\n" % at for at in range(60_000)),
    ],
    ids=[
        "dots",
        "header",
        "quoted",
        "arrays",
        "tables",
        "quotes",
        "dots-and-quotes",
        "many-dots",
        "number",
        "long",
        "keys",
    ],
)
def test_what_would_take_forever_is_refused_at_once(raw: bytes) -> None:
    begun = time.process_time()
    with pytest.raises(FormatError):
        parse_trust(raw)
    assert time.process_time() - begun < 5


def test_a_deploy_without_its_table_has_productions_roles_and_no_readers() -> None:
    own = DeployPolicy(release=role("bob"), config=role("bob"), readers=("age1x",))
    made = policy(deploys={PRODUCTION: own})
    assert made.deploy(Deploy("staging")) == DeployPolicy(release=role("bob"), config=role("bob"))
    assert made.deploy(PRODUCTION).readers == ("age1x",)


def test_stock_ssh_keygen_reads_allowed_signers(tmp_path: Any, people: Any) -> None:
    alice, mallory = people["alice"], people["mallory"]
    made = policy({"alice": (Key(alice.private, alice.blob),)})
    (text,) = encode_allowed_signers(made).decode().splitlines()
    bare = text.removeprefix('alice namespaces="git" ')
    payload = b"anything"
    assert ssh_verify(tmp_path, bare, ssh_sign(alice.path, payload).rstrip("\n"), payload)
    assert not ssh_verify(tmp_path, bare, ssh_sign(mallory.path, payload).rstrip("\n"), payload)
