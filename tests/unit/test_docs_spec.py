"""docs/spec/ and docs/exit-codes.md say what the code does: numbers, titles, keys, defaults, limits, examples."""

from __future__ import annotations

import base64
import itertools
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import fields
from pathlib import Path

import pytest
from test_format_golden import LEDGERS, parse

from gitrel.errors import ExitCode
from gitrel.format.body import AnyRecord, ApprovalRecord
from gitrel.format.commit import MAX_RECORD
from gitrel.format.envdir import MAX_TOTAL
from gitrel.format.health import Health
from gitrel.format.manifest import (
    MAX_MANIFEST,
    MAX_VALUE,
    PROCESS_NAME,
    VARIABLE_NAME,
    BuildSpec,
    Manifest,
    RunSpec,
    duration,
    parse_manifest,
)
from gitrel.format.procfile import MAX_COMMAND
from gitrel.format.provenance import MAX_PROVENANCE
from gitrel.format.record import parse_record
from gitrel.format.tree import MAX_NAME, Mode, Node, blob_node, directory_node
from gitrel.format.trust import encode_allowed_signers, parse_trust
from gitrel.ids import PRODUCTION, App, Deploy, Entry, ObjectFormat, PersonName
from gitrel.keys.blob import KINDS, MAX_BLOB, MAX_RSA_BITS, MIN_RSA_BITS
from gitrel.store.reading import TreeLimits
from gitrel.trust.checks import Check
from gitrel.trust.content import MAX_DEPTH, MAX_ENTRIES, MAX_PATH

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
SPEC = DOCS / "spec"
PAGES = sorted(SPEC.glob("*.md"))


def page(name: str) -> str:
    return (SPEC / f"{name}.md").read_text("utf-8")


def section(text: str, heading: str) -> str:
    """What is under a heading, up to the next one of its level or above."""
    level = heading.partition(" ")[0]
    _, found, rest = f"\n{text}".partition(f"\n{heading}\n")
    assert found, f"no {heading!r}"
    return re.split(rf"\n#{{1,{len(level)}}} ", rest)[0]


def rows(text: str) -> list[list[str]]:
    """The cells of the first table, without its head."""
    lines = list(itertools.dropwhile(lambda line: not line.startswith("|"), text.split("\n")))
    table = list(itertools.takewhile(lambda line: line.startswith("|"), lines))
    assert len(table) > 2, "no table"
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in table[2:]]


def code(cell: str) -> str:
    """What stands between the cell's backquotes."""
    assert re.fullmatch(r"`[^`]+`", cell), cell
    return cell[1:-1]


def blocks(text: str, language: str = "") -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def test_the_checks() -> None:
    found = [(int(number), title) for number, title, _ in rows(section(page("verification"), "## The checks"))]
    assert found == [(check.value, check.title) for check in Check]


def test_the_exit_codes() -> None:
    found = [(int(number), name) for number, name, _, _ in rows((DOCS / "exit-codes.md").read_text("utf-8"))]
    assert found == [(each.value, each.name) for each in ExitCode]


# Records

GOLDEN = {name: parse(name, raw, ObjectFormat.SHA1) for name, raw in LEDGERS[ObjectFormat.SHA1].records.items()}


def trailers(body: AnyRecord | ApprovalRecord) -> list[str]:
    block = body.message[:-1].rpartition("\n\n")[2]
    return list(dict.fromkeys(line.partition(": ")[0] for line in block.split("\n")))


# The golden records that have every trailer of their kind
@pytest.mark.parametrize(
    ("kind", "golden"),
    [
        ("trust", "trust-v2"),
        ("config", "config-v2"),
        ("build", "build"),
        ("release", "release-v2"),
        ("heartbeat", "heartbeat"),
        ("receipt", "receipt"),
        ("approval", "approval"),
    ],
)
def test_the_trailers_in_their_order(kind: str, golden: str) -> None:
    body = GOLDEN[golden].record
    assert body.kind == kind
    optional = {field.name for field in fields(body)} - {"subject", "text"}
    assert all(getattr(body, name) not in (None, ()) for name in optional), "a golden record without a trailer"
    table = rows(section(page("record"), f"### {kind}"))
    assert [code(row[0]) for row in table] == trailers(body)
    assert table[0][1] == f"`{kind}`"


def test_every_kind_of_record_is_described() -> None:
    kinds = {signed.record.kind for signed in GOLDEN.values()}
    assert set(re.findall(r"^### (\w+)$", section(page("record"), "## The message"), re.MULTILINE)) == kinds


def test_the_example_of_a_record_is_one() -> None:
    (example,) = blocks(section(page("record"), "## An example"))
    assert parse_record(example.encode(), ObjectFormat.SHA1) == GOLDEN["release-v1"]


def test_every_kind_of_key_is_described() -> None:
    for name, heading in (("keys", "## Public keys"), ("signature", "## The blob")):
        text = section(page(name), heading).replace("`-nist", "`ecdsa-sha2-nist")
        assert [kind for kind in KINDS if f"`{kind}`" not in text] == []


# Files

REQUIRED, NONE = "required", "none"


def manifest_keys() -> dict[str, object]:
    """Every key of gitrel.toml as the code has it, with its default."""
    found: dict[str, object] = {"app": REQUIRED}
    for prefix, spec in (("build", BuildSpec()), ("run.<type>", RunSpec()), ("run.<type>.health", Health())):
        found |= {f"{prefix}.{field.name}": getattr(spec, field.name) for field in fields(spec)}
    found["run.<type>.env.<NAME>"] = found.pop("run.<type>.env") or None
    found["run.release.timeout"] = found.pop("run.<type>.timeout")
    of_run = {"required_env", "writable", "max_silence", "hold_when_stale"}
    found |= {f"run.{name}": getattr(Manifest(app=App("a")), name) for name in of_run}
    assert {field.name for field in fields(Manifest)} == {name.partition(".")[0] for name in found} | of_run
    return found


def test_the_keys_of_gitrel_toml_and_their_defaults() -> None:
    stated = {code(key): default.strip("`") for key, _, default, _ in rows(page("manifest"))}
    actual = manifest_keys()
    assert sorted(stated) == sorted(actual)
    for key, default in actual.items():
        if default in (None, REQUIRED):
            assert stated[key] == (REQUIRED if default else NONE), key
            continue
        value = tomllib.loads(f"value = {stated[key]}")["value"]
        if isinstance(default, float):
            assert duration(value) == default, key
        else:
            assert (tuple(value) if isinstance(value, list) else value) == default, key


def test_the_documented_defaults_change_nothing() -> None:
    lines = ["app = 'shop'"]
    for key, _, default, _ in rows(page("manifest")):
        if default.strip("`") not in (REQUIRED, NONE):
            lines.append(f"{code(key).replace('<type>', 'web')} = {default.strip('`')}")
    lines.append("run.web.health.path = '/'")
    bare = parse_manifest(b"app = 'shop'\nrun.web.health.path = '/'\nrun.release = {}")
    assert parse_manifest("\n".join(lines).encode()) == bare


def test_the_example_of_a_manifest_is_one() -> None:
    (example,) = blocks(page("manifest"), "toml")
    manifest = parse_manifest(example.encode())
    assert (manifest.app, manifest.run["web"].scale) == ("shop", 2)


def leaves(table: Mapping[str, object], path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for key, value in table.items():
        if isinstance(value, dict):
            yield from leaves(value, (*path, key))
        else:
            yield (*path, key)


def test_the_keys_of_trust_toml() -> None:
    """The example has every documented key and no other, and is a policy once its keys are written out."""
    (example,) = blocks(section(page("trust"), "## trust.toml"), "toml")
    blob = (base64.b64encode(bytes([number] * 32)).decode() for number in itertools.count())
    text = re.sub(r"AAAA\w*…", lambda _: next(blob), example)
    policy = parse_trust(text.encode())
    assert policy.is_repudiated(PRODUCTION, Entry(97))
    stated = {code(row[0]): row[1] for row in rows(section(page("trust"), "## trust.toml"))}
    shapes = set()
    for path in leaves(tomllib.loads(text)):
        whole = ".".join(path).removesuffix(".people").removesuffix(".threshold")
        for table, name in (("people", "<name>"), ("deploys", "<deploy>"), ("repudiated", "<deploy>")):
            whole = re.sub(rf"^{table}\.[^.]+", f"{table}.{name}", whole)
        shapes.add(whole)
    assert shapes == set(stated)
    assert {key for key, kind in stated.items() if kind == "role"} == {
        "roles.root",
        "roles.build",
        "roles.heartbeat",
        "roles.receipt",
        "deploys.<deploy>.release",
        "deploys.<deploy>.config",
    }
    line = encode_allowed_signers(policy).decode().split("\n")[0]
    (shape,) = blocks(section(page("trust"), "## allowed_signers"))
    name, options, kind, encoded = line.split(" ")
    assert shape.strip() == line.replace(name, "<name>", 1).replace(f"{kind} {encoded}", "<kind> <base64> LF")
    assert options in shape


# Numbers, shapes, the worked example


@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("record", MAX_RECORD),
        ("signature", 4 * MAX_BLOB),
        ("keys", MAX_BLOB),
        ("config", MAX_VALUE),
        ("config", MAX_TOTAL),
        ("manifest", MAX_VALUE),
        ("procfile", MAX_COMMAND),
        ("tree", MAX_NAME),
        ("tree", MAX_ENTRIES),
        ("tree", MAX_DEPTH),
        ("tree", MAX_PATH),
        ("tree", MAX_PATH - 256),
    ],
)
def test_limits(name: str, number: int) -> None:
    assert re.search(rf"\b{number:,}\b", page(name)), f"{name}.md does not say {number:,}"


def test_limits_in_other_units() -> None:
    assert f"of {MIN_RSA_BITS} to {MAX_RSA_BITS} bits" in page("keys")
    assert MAX_MANIFEST == MAX_PROVENANCE == 1024**2
    for name in ("manifest", "trust", "provenance"):
        assert "at most 1 MiB" in page(name)
    limits = TreeLimits()
    assert (limits.entries, limits.depth, limits.path) == (MAX_ENTRIES, MAX_DEPTH, MAX_PATH)
    stated = dict(rows(section(page("tree"), "## Limits")))
    assert stated["one file"] == f"{limits.blob // 1024**3} GiB"
    assert stated["all files"] == f"{limits.total // 1024**3} GiB"


def test_shapes_of_names() -> None:
    shapes = {code(row[0]): row[1] for row in rows(section(page("record"), "## Text"))}
    assert code(shapes["<app>"]) == App._shape.pattern
    assert Deploy._shape.pattern.endswith(shapes["<deploy>"].split("`")[1])
    assert code(shapes["<entry>"]) == Entry._shape.pattern.replace("(", "").replace(")", "")
    assert f"`{PersonName._shape.pattern}`" in page("trust")
    assert PROCESS_NAME.pattern in page("procfile")
    assert f"`{VARIABLE_NAME.pattern}`" in page("config")
    assert f"`{VARIABLE_NAME.pattern}`" in page("manifest")


def test_the_worked_example_of_tree_sha256() -> None:
    fmt = ObjectFormat.SHA1
    children = {
        "Procfile": blob_node(b"web: ./hello\n", fmt),
        "greet": blob_node(b"hello", fmt, Mode.SYMLINK),
        "hello": blob_node(b"#!/bin/sh\necho hello\n", fmt, Mode.EXECUTABLE),
        "tmp": directory_node({}, fmt)[1],
    }
    build = directory_node(children, fmt)[1]
    release = directory_node({"build": build}, fmt)[1]
    text = section(page("tree"), "## Tree-SHA256")

    def ids(node: Node) -> list[str]:
        return [f"`{node.oid}`", f"`{node.sha256}`"]

    assert [[row[0], code(row[1]), *row[3:]] for row in rows(text)] == [
        [node.mode.value.decode(), name, *ids(node)] for name, node in children.items()
    ]
    second = rows(text.partition("is the tree\n")[2])
    assert [row[1:] for row in second] == [ids(build), ids(release)]
    assert f"`Tree-SHA256: {release.sha256}`" in text


def test_the_modes() -> None:
    assert {code(row[0]) for row in rows(section(page("tree"), "## Entries"))} == {mode.value.decode() for mode in Mode}


# The pages themselves


def test_there_are_pages_and_the_index_names_them_all() -> None:
    assert len(PAGES) > 10
    listed = re.findall(r"^\| \[(\w+\.md)\]\(\1\)", page("README"), re.MULTILINE)
    assert sorted([*listed, "README.md"]) == [path.name for path in PAGES]


def test_what_the_code_refers_to_is_there() -> None:
    """`docs/spec/record.md, "The commit"` in a docstring names a page, and a heading of it."""
    found = 0
    for source in sorted((ROOT / "gitrel").rglob("*.py")):
        for name, heading in re.findall(r"docs/spec/(\w+)\.md(?:,\s+\"([^\"]+)\")?", source.read_text("utf-8")):
            found += 1
            text = page(name)
            assert not heading or f"# {heading}\n" in text, f"{source.name}: {name}.md has no {heading!r}"
    assert found > 10
