"""gitrel.audit.differences: which files of two builds differ, and why that usually is."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from gitrel.audit.differences import differences
from gitrel.format.tree import Node
from gitrel.ids import ObjectFormat
from gitrel.store.repository import Repository
from gitrel.store.snapshot import store_tree

ROOM = b"/tmp/gitrel-build-" + b"a" * 40
ROWS: dict[str, tuple[str, bytes, bytes, str]] = {
    "byte code": ("x.pyc", b"\0one", b"\0two", "byte-compiled"),
    "an archive": ("x.tar", b"one", b"two", "an archive"),
    "a path": ("x", ROOM + b"/tree", b"/var" + ROOM + b"/tree", "the path of the build"),
    "a path of older gitrels": ("x", b"/tmp/gitrel-build-0-" + b"a" * 40, b"two", "the path of the build"),
    "an interpreter": ("flask", b"#!/usr/bin/python3\nrun()\n", b"#!/opt/bin/python3\nrun()\n", "the interpreter"),
    "another script": ("flask", b"#!/bin/sh\none\n", b"#!/bin/bash\ntwo\n", "another version"),
    "a list of digests": ("a.dist-info/RECORD", b"x,sha256=a,1\n", b"x,sha256=b,1\n", "see which of those differ"),
    "another order": ("x", b"1\n2\n", b"2\n1\n", "another order"),
    "a time": ("x", b"made 2011-04-06 at 20:32:17", b"made 2012-12-24 at 00:00:00", "SOURCE_DATE_EPOCH"),
    "a number": ("x", b"id 1\n", b"id 2\n", "only numbers differ"),
    "a version": ("x", b"one\n", b"two\n", "another version"),
}


@pytest.fixture
def repo(tmp_path: Path) -> Iterator[Repository]:
    with Repository.init_bare(tmp_path / "r.git", ObjectFormat.SHA1) as repo:
        yield repo


def tree(repo: Repository, path: str, data: bytes) -> Node:
    folder, _, name = path.rpartition("/")
    inner = store_tree(repo, {name: data})
    return store_tree(repo, {folder: inner}) if folder else inner


@pytest.mark.parametrize("name", ROWS)
def test_the_usual_cause(name: str, repo: Repository) -> None:
    path, signed, rebuilt, cause = ROWS[name]
    (found,) = differences(repo, tree(repo, path, signed).oid, tree(repo, path, rebuilt).oid)
    assert found.path == path
    assert found.how == f"{len(signed)} bytes, rebuilt {len(rebuilt)}"
    assert cause in found.cause


def test_what_is_in_one_of_them_only(repo: Repository) -> None:
    found = list(differences(repo, tree(repo, "one", b"").oid, tree(repo, "two", b"").oid))
    assert [(each.path, each.how) for each in found] == [
        ("one", "only in the signed build"),
        ("two", "only in the rebuilt one"),
    ]
