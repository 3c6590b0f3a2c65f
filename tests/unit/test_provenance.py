"""gitrel.format.provenance: what in-toto's tools read, in one byte string, without credentials."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gitrel.errors import FormatError
from gitrel.format.provenance import (
    MAX_PROVENANCE,
    Provenance,
    StatedOrigin,
    encode_provenance,
    parse_provenance,
    redact_urls,
    source_uri,
    strip_credentials,
)
from gitrel.ids import ObjectId, Sha256

SMALL = Provenance(
    tree=ObjectId("a" * 40),
    tree_sha256=Sha256("b" * 64),
    source=ObjectId("c" * 40),
    started=1700000000,
    finished=1700000060,
    gitrel_version="1.0.0",
    python_version="3.11.7",
)
FULL = replace(
    SMALL,
    source_uri="git+https://git.example.org/shop.git",
    command="make\tall\necho 'ü'",
    output="dist",
    exclude=("tests", "docs"),
    pass_env=("PIP_INDEX_URL",),
    invocation_id="https://ci.example.org/run/7",
)
GOLDEN = """\
{
  "_type": "https://in-toto.io/Statement/v1",
  "predicate": {
    "buildDefinition": {
      "buildType": "urn:gitrel:build:v1",
      "externalParameters": {
        "command": "make\\tall\\necho 'ü'",
        "exclude": [
          "tests",
          "docs"
        ],
        "output": "dist",
        "pass_env": [
          "PIP_INDEX_URL"
        ],
        "source": {
          "digest": {
            "gitCommit": "cccccccccccccccccccccccccccccccccccccccc"
          },
          "uri": "git+https://git.example.org/shop.git"
        }
      },
      "internalParameters": {},
      "resolvedDependencies": [
        {
          "digest": {
            "gitCommit": "cccccccccccccccccccccccccccccccccccccccc"
          },
          "uri": "git+https://git.example.org/shop.git"
        }
      ]
    },
    "runDetails": {
      "builder": {
        "id": "urn:gitrel:builder:v1",
        "version": {
          "gitrel": "1.0.0",
          "python": "3.11.7"
        }
      },
      "metadata": {
        "finishedOn": "2023-11-14T22:14:20Z",
        "invocationId": "https://ci.example.org/run/7",
        "startedOn": "2023-11-14T22:13:20Z"
      }
    }
  },
  "predicateType": "https://slsa.dev/provenance/v1",
  "subject": [
    {
      "digest": {
        "gitTree": "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
        "sha256": "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"
      },
      "name": "build"
    }
  ]
}
"""

text = st.text(st.characters(exclude_categories=["Cs"]))
oids = st.integers(0, 2**160 - 1).map(lambda number: ObjectId(f"{number:040x}"))
provenances = st.builds(
    Provenance,
    tree=oids,
    tree_sha256=st.integers(0, 2**256 - 1).map(lambda number: Sha256(f"{number:064x}")),
    source=oids,
    source_uri=st.none() | text,
    command=st.none() | text,
    output=text,
    exclude=st.lists(text).map(tuple),
    pass_env=st.lists(text).map(tuple),
    started=st.integers(0, 253402300799),
    finished=st.integers(0, 253402300799),
    gitrel_version=text,
    python_version=text,
    invocation_id=st.none() | text,
)


def test_the_bytes_of_a_statement() -> None:
    assert encode_provenance(FULL).decode() == GOLDEN


@given(provenances)
def test_what_is_written_is_read_back_and_canonical(provenance: Provenance) -> None:
    """Subject and source come back; keys sorted, indent 2, one final newline, UTF-8."""
    raw = encode_provenance(provenance)
    assert parse_provenance(raw) == StatedOrigin(
        tree=provenance.tree,
        tree_sha256=provenance.tree_sha256,
        source=provenance.source,
        source_uri=provenance.source_uri,
    )
    assert json.dumps(json.loads(raw), sort_keys=True, indent=2, ensure_ascii=False).encode() + b"\n" == raw
    assert encode_provenance(replace(provenance)) == raw


def test_what_is_not_known_is_absent() -> None:
    raw = encode_provenance(SMALL)
    statement = json.loads(raw)
    definition = statement["predicate"]["buildDefinition"]
    assert sorted(definition["externalParameters"]) == ["exclude", "output", "pass_env", "source"]
    assert definition["resolvedDependencies"] == [{"digest": {"gitCommit": "c" * 40}}]
    assert sorted(statement["predicate"]["runDetails"]["metadata"]) == ["finishedOn", "startedOn"]
    assert parse_provenance(raw).source_uri is None


@pytest.mark.parametrize("change", [{"started": -1}, {"finished": 253402300800}, {"command": "\ud800"}])
def test_what_cannot_be_written(change: dict[str, Any]) -> None:
    with pytest.raises(FormatError):
        encode_provenance(replace(SMALL, **change))


def test_times_are_rfc_3339_in_utc() -> None:
    """in-toto's Timestamp: https://github.com/in-toto/attestation/blob/main/spec/v1/field_types.md"""
    raw = encode_provenance(replace(SMALL, started=0, finished=253402300799)).decode()
    stamps = re.findall(r'"(\d[^"]*Z)"', raw)
    assert stamps == ["9999-12-31T23:59:59Z", "1970-01-01T00:00:00Z"]


def test_a_statement_by_another_builder_may_say_more() -> None:
    statement = json.loads(GOLDEN)
    statement["predicate"]["buildDefinition"]["buildType"] = "https://ci.example.org/v1"
    statement["predicate"]["buildDefinition"]["resolvedDependencies"].insert(0, {"uri": "pkg:pypi/x@1"})
    statement["predicate"]["runDetails"]["byproducts"] = []
    statement["subject"][0]["annotations"] = {"a": 1}
    assert parse_provenance(json.dumps(statement).encode()).source == "c" * 40


Edit = Callable[[dict[str, Any]], object]
DEFECTS: dict[str, Edit] = {
    "_type: expected 'https": lambda s: s.update(_type="https://in-toto.io/Statement/v0.1"),
    "_type: expected text": lambda s: s.pop("_type"),
    "predicateType: expected 'https": lambda s: s.update(predicateType="https://slsa.dev/provenance/v0.2"),
    "subject: expected an array": lambda s: s.update(subject={}),
    "subject: expected exactly one, found 0": lambda s: s.update(subject=[]),
    "subject: expected exactly one, found 2": lambda s: s["subject"].append(s["subject"][0]),
    "subject\\[0\\]: expected an object": lambda s: s.update(subject=["build"]),
    "subject\\[0\\].name: expected 'build'": lambda s: s["subject"][0].update(name="other"),
    "subject\\[0\\].digest: expected an object": lambda s: s["subject"][0].pop("digest"),
    "subject\\[0\\].digest.gitTree: expected text": lambda s: s["subject"][0]["digest"].pop("gitTree"),
    "not a git object id": lambda s: s["subject"][0]["digest"].update(gitTree="A" * 40),
    "subject\\[0\\].digest.sha256: expected text": lambda s: s["subject"][0]["digest"].update(sha256=1),
    "not a SHA-256 digest": lambda s: s["subject"][0]["digest"].update(sha256="b" * 63),
    "two object formats": lambda s: s["subject"][0]["digest"].update(gitTree="a" * 64),
    "predicate: expected an object": lambda s: s.update(predicate=[]),
    "buildDefinition: expected an object": lambda s: s["predicate"].pop("buildDefinition"),
    "does not hold the source": lambda s: s["predicate"]["buildDefinition"].update(resolvedDependencies=[]),
    "resolvedDependencies: expected an array": lambda s: s["predicate"]["buildDefinition"].pop("resolvedDependencies"),
    "externalParameters: expected an object": lambda s: s["predicate"]["buildDefinition"].update(
        externalParameters=None
    ),
    "externalParameters.source: expected an object": lambda s: s["predicate"]["buildDefinition"][
        "externalParameters"
    ].update(source="x"),
    "source.digest.gitCommit: expected text": lambda s: s["predicate"]["buildDefinition"]["externalParameters"][
        "source"
    ]["digest"].update(gitCommit=None),
}


@pytest.mark.parametrize("says", DEFECTS)
def test_one_defect_in_a_good_statement(says: str) -> None:
    statement = json.loads(GOLDEN)
    DEFECTS[says](statement)
    with pytest.raises(FormatError, match=says):
        parse_provenance(json.dumps(statement).encode())


def test_a_source_uri_that_is_no_text() -> None:
    statement = json.loads(GOLDEN)
    definition = statement["predicate"]["buildDefinition"]
    for source in (definition["externalParameters"]["source"], definition["resolvedDependencies"][0]):
        source["uri"] = None
    with pytest.raises(FormatError, match=r"source\.uri: expected text"):
        parse_provenance(json.dumps(statement).encode())


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b"[]", "expected an object"),
        (b"\xff", "not UTF-8"),
        (b"\xef\xbb\xbf{}", "not JSON"),
        (b'{"a": NaN}', "NaN"),
        (b'{"a": 1, "a": 2}', "stands twice"),
        (b"[" * 100_000, "not JSON"),
        (b"9" * 10_000, "not JSON"),
        (b" " * (MAX_PROVENANCE + 1), "too large"),
    ],
)
def test_what_is_no_statement(raw: bytes, says: str) -> None:
    with pytest.raises(FormatError, match=says):
        parse_provenance(raw)


@given(
    st.binary()
    | st.recursive(st.none() | text, lambda inner: st.dictionaries(text, inner)).map(lambda v: json.dumps(v).encode())
)
def test_parsing_raises_nothing_but_format_errors(raw: bytes) -> None:
    with pytest.raises(FormatError):
        parse_provenance(raw)


@given(st.integers(0, len(GOLDEN.encode()) - 1), st.integers(0, 255))
def test_a_changed_byte_is_a_format_error_or_another_statement(at: int, value: int) -> None:
    raw = bytearray(GOLDEN.encode())
    raw[at] = value
    try:
        origin = parse_provenance(bytes(raw))
    except FormatError:
        return
    assert isinstance(origin, StatedOrigin)


# URLs

URLS = [
    # remote, without credentials, as a source
    ("https://example.org/a/b.git", "https://example.org/a/b.git", "git+https://example.org/a/b.git"),
    ("https://u:pw@example.org/a.git", "https://example.org/a.git", "git+https://example.org/a.git"),
    ("https://ghp_token@example.org/a", "https://example.org/a", "git+https://example.org/a"),
    ("https://u:p@ss@example.org/a", "https://example.org/a", "git+https://example.org/a"),
    (
        "https://example.org:8443/a?private_token=x#y",
        "https://example.org:8443/a",
        "git+https://example.org:8443/a",
    ),
    ("HTTPS://u:pw@example.org/a", "HTTPS://example.org/a", "git+HTTPS://example.org/a"),
    ("https://example.org/a@b", "https://example.org/a@b", "git+https://example.org/a@b"),
    ("https://[::1]:8000/a", "https://[::1]:8000/a", "git+https://[::1]:8000/a"),
    ("ssh://git:pw@example.org:22/a", "ssh://git@example.org:22/a", "git+ssh://git@example.org:22/a"),
    ("ssh://example.org/a", "ssh://example.org/a", "git+ssh://example.org/a"),
    ("git@example.org:a/b.git", "git@example.org:a/b.git", "git+ssh://git@example.org/a/b.git"),
    ("u:pw@example.org:a", "u@example.org:a", "git+ssh://u@example.org/a"),
    ("example.org:/srv/a b.git", "example.org:/srv/a b.git", "git+ssh://example.org/srv/a%20b.git"),
    ("git@[::1]:a", "git@[::1]:a", "git+ssh://git@[::1]/a"),
    ("git://example.org/a", "git://example.org/a", "git+git://example.org/a"),
    ("/srv/git/a.git", "/srv/git/a.git", None),
    ("../a.git", "../a.git", None),
    ("a/b:c@d", "a/b:c@d", None),
    ("file:///srv/a.git", "file:///srv/a.git", None),
    ("ext::sh -c x", "ext::sh -c x", None),
    ("persistent::https://u:pw@h/a", "persistent::https://h/a", None),
    ("", "", None),
]


@pytest.mark.parametrize(("url", "bare", "uri"), URLS)
def test_a_remotes_url(url: str, bare: str, uri: str | None) -> None:
    assert strip_credentials(url) == bare
    assert strip_credentials(bare) == bare
    assert source_uri(url) == uri


def test_no_remote_is_no_uri() -> None:
    assert source_uri(None) is None


@given(
    st.sampled_from(["https", "http", "ssh", "git+ssh", "ftp"]),
    st.text("abc:@%!", max_size=8),
    st.text("XYZ@:", min_size=4, max_size=8),
)
def test_a_password_never_comes_through(scheme: str, user: str, password: str) -> None:
    """Whatever stands between the first colon and the last @ before the path."""
    url = f"{scheme}://{user}:{password}@host/path"
    assert not set("XYZ") & set(strip_credentials(url))
    assert not set("XYZ") & set(redact_urls(f"fatal: unable to access '{url}': no"))
    assert not set("XYZ") & set(source_uri(url) or "")


def test_redacting_leaves_other_text_and_takes_long_lines() -> None:
    plain = "see https://example.org/a@b and mail@example.org"
    assert redact_urls(plain) == plain
    assert redact_urls("\x1b[31mhttps://u:p@h/ then ssh://git:x@h") == "\x1b[31mhttps://***@h/ then ssh://***@h"
    assert redact_urls("x" * 1_000_000) == "x" * 1_000_000
