"""Folders that an app may write: the links that a build makes for them, and which of those a verifier takes."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from simulator import Simulator

from gitrel.build.writable import link_writable
from gitrel.errors import BadInput, FormatError, Refused
from gitrel.format.manifest import parse_manifest, shared_link
from gitrel.trust.content import check_shape


def test_the_link_leads_from_the_checkout_to_the_home(tmp_path: Path) -> None:
    build = tmp_path / "builds/0123"
    for path in ("tmp", "var/log/app"):
        (build / path).parent.mkdir(parents=True, exist_ok=True)
        (build / path).symlink_to(shared_link(path))
        assert os.path.normpath(build / path / ".." / os.readlink(build / path)) == str(tmp_path / "shared" / path)


def test_what_the_build_has_there_is_left_out_and_said(tmp_path: Path) -> None:
    (tmp_path / "tmp/cache").mkdir(parents=True)
    (tmp_path / "tmp/cache/x").touch()
    (tmp_path / "log").mkdir()
    notes = link_writable(tmp_path, ["tmp", "log", "a/b"])
    assert [note.split()[0] for note in notes] == ["tmp/"]
    assert [os.readlink(tmp_path / path) for path in ("tmp", "log", "a/b")] == [
        "../../shared/tmp", "../../shared/log", "../../../shared/a/b",
    ]  # fmt: skip


@pytest.mark.parametrize("path", ["file", "link", "file/x", "link/x"])
def test_something_else_in_the_way(tmp_path: Path, path: str) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    output = tmp_path / "output"
    output.mkdir()
    (output / "file").touch()
    (output / "link").symlink_to(outside)
    with pytest.raises(BadInput, match=r"run\.writable"):
        link_writable(output, [path])
    assert list(outside.iterdir()) == []


@pytest.mark.parametrize("paths", [["."], ["a", "a"], ["a", "a/b"], ["gitrel.toml"], ["../x"], ["/x"], "x", [1]])
def test_bad_lists(paths: Any) -> None:
    shown = repr(paths).replace("'", '"')
    with pytest.raises(FormatError, match=r"run\.writable"):
        parse_manifest(f'app = "shop"\n[run]\nwritable = {shown}\n'.encode())


MANIFEST = b'app = "shop"\n[run]\nwritable = ["tmp", "var/log"]\n'


def shape(links: dict[str, Any]) -> None:
    """`links`: targets by path, folders as dictionaries."""
    simulator = Simulator()

    def files(links: dict[str, Any]) -> dict[str, Any]:
        return {name: files(each) if isinstance(each, dict) else simulator.link(each) for name, each in links.items()}

    tree = simulator.node({"Procfile": b"web: ./serve\n", "gitrel.toml": MANIFEST, **files(links)})
    check_shape(simulator, tree.oid, "here")


@pytest.mark.parametrize(
    "links",
    [
        {"tmp": "../../shared/tmp"},
        {"var": {"log": "../../../shared/var/log"}},
        {"tmp": "../../shared/tmp", "x": "tmp/cache"},
    ],
)
def test_accepted(links: dict[str, Any]) -> None:
    shape(links)


@pytest.mark.parametrize(
    "links",
    [
        {"tmp": "../../shared/log"},
        {"tmp": "../../shared/tmp/"},
        {"tmp": "../../../shared/tmp"},
        {"log": "../../shared/tmp"},
        {"var": {"log": "../../shared/var/log"}},
        {"tmp": "../../shared/tmp", "x": "tmp/.."},
        {"tmp": "../../shared/tmp", "x": "tmp/../../state.json"},
        {"a": {"tmp": "../../shared/tmp"}},
    ],
)
def test_refused(links: dict[str, Any]) -> None:
    with pytest.raises(Refused, match="leads out of the build"):
        shape(links)
