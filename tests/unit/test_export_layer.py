"""Layers: what is written is read again, makes the same git tree, and is the same bytes however it came there."""

from __future__ import annotations

import gzip
import io
import tarfile
from pathlib import Path
from typing import TypeAlias

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gitrel.errors import BadInput, FormatError, NotFound
from gitrel.export.layer import (
    LAYER,
    FileObjects,
    FolderNode,
    Item,
    check_clear,
    file_items,
    read_layer,
    tree_items,
    write_layer,
)
from gitrel.format.tree import Mode, Node, blob_node, check_name, directory_node
from gitrel.ids import ObjectFormat, ObjectId

Tree: TypeAlias = "dict[str, Tree | tuple[Mode, bytes]]"
GZIP = f"{LAYER}+gzip"
OURS = ("app", ".gitrel")


def _usable(name: str) -> bool:
    try:
        return check_name(name.encode()) == name and not name.startswith(".wh.")
    except FormatError:
        return False


NAMES = st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=1, max_size=120).filter(_usable)
FILES = st.tuples(st.sampled_from([Mode.FILE, Mode.EXECUTABLE]), st.binary(max_size=600))
LINKS = st.tuples(st.just(Mode.SYMLINK), NAMES.map(lambda text: f"../{text}".encode()))
TREES = st.recursive(
    st.dictionaries(NAMES, FILES | LINKS, min_size=1, max_size=4),
    lambda below: st.dictionaries(NAMES, FILES | LINKS | below, min_size=1, max_size=4),
    max_leaves=12,
)


class Memory:
    """Objects of one format, by id."""

    def __init__(self, fmt: ObjectFormat) -> None:
        self.fmt = fmt
        self.kept: dict[ObjectId, bytes] = {}

    def read(self, oid: ObjectId, kind: str) -> bytes:
        return self.kept[oid]

    def store(self, tree: Tree) -> Node:
        children: dict[str, Node] = {}
        for name, entry in tree.items():
            if isinstance(entry, dict):
                children[name] = self.store(entry)
            else:
                children[name] = blob_node(entry[1], self.fmt, entry[0])
                self.kept[children[name].oid] = entry[1]
        raw, node = directory_node(children, self.fmt)
        self.kept[node.oid] = raw
        return node


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], deadline=None)
@given(tree=TREES, fmt=st.sampled_from(list(ObjectFormat)), packed=st.booleans())
def test_there_and_back(tree: Tree, fmt: ObjectFormat, packed: bool, tmp_path: Path) -> None:
    objects = Memory(fmt)
    node = objects.store(tree)
    items = list(tree_items(objects, node.oid, "app"))
    raw = io.BytesIO()
    digest, size = write_layer(items, raw)
    assert size == len(raw.getvalue())
    assert write_layer(items) == (digest, size)
    blob = tmp_path / "layer"
    blob.write_bytes(gzip.compress(raw.getvalue()) if packed else raw.getvalue())
    again = list(read_layer(blob, GZIP if packed else LAYER))
    assert again == items
    folder = FolderNode("app", fmt)
    for item in again:
        folder.add(item)
    assert folder.node() == node


def layer_of(tmp_path: Path, *members: tarfile.TarInfo) -> Path:
    path = tmp_path / "layer.tar"
    with tarfile.open(path, "w:") as archive:
        for member in members:
            archive.addfile(member, io.BytesIO(b"\0" * member.size))
    return path


@pytest.mark.parametrize(
    "name", ["app", "app/x", "./app", "/app", "//app/x", ".gitrel/x", "bin/../app/x", "../app", "x/../../app"]
)
def test_a_base_that_has_something_where_ours_goes(name: str, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="the base has a /"):
        check_clear(layer_of(tmp_path, tarfile.TarInfo(name)), LAYER, OURS)


@pytest.mark.parametrize("name", ["application/x", "srv/app/x", ".gitrelx", ".", "./", "Dockerfile"])
def test_a_base_that_leaves_room(name: str, tmp_path: Path) -> None:
    check_clear(layer_of(tmp_path, tarfile.TarInfo(name)), LAYER, OURS)


def test_layers_that_are_none(tmp_path: Path) -> None:
    broken = layer_of(tmp_path, tarfile.TarInfo("x"))
    for raw, kind, what in (
        (b"x" * 1024, LAYER, "damaged"),
        (b"", LAYER, "damaged"),
        (broken.read_bytes(), GZIP, "damaged"),
        (gzip.compress(broken.read_bytes())[:-20], GZIP, "damaged"),
        (broken.read_bytes(), f"{LAYER}+zstd", "cannot read"),
    ):
        path = tmp_path / "other"
        path.write_bytes(raw)
        with pytest.raises(BadInput, match=what):
            list(read_layer(path, kind))


def test_a_whiteout_is_no_file() -> None:
    objects = Memory(ObjectFormat.SHA1)
    node = objects.store({".wh.text": (Mode.FILE, b"")})
    with pytest.raises(BadInput, match=r"app/\.wh\.text"):
        list(tree_items(objects, node.oid, "app"))


@pytest.mark.parametrize("path", ["bin/sh", "app/missing/x", "application/x", "/app/x"])
def test_what_is_not_below_the_folder(path: str) -> None:
    folder = FolderNode("app", ObjectFormat.SHA1)
    folder.add(Item("app", Mode.DIRECTORY))
    with pytest.raises(BadInput, match="more than the build"):
        folder.add(Item(path, Mode.FILE))


def test_no_folder_at_all() -> None:
    with pytest.raises(BadInput, match="no build"):
        FolderNode("app", ObjectFormat.SHA1).node()


def test_files_and_their_folders() -> None:
    items = list(file_items({"b": b"1", "x/y": b"2", "x/a": b"3"}, "top"))
    assert [item.path for item in items] == ["top", "top/x", "top/b", "top/x/a", "top/x/y"]


def test_objects_are_what_their_names_say() -> None:
    fmt = ObjectFormat.SHA1
    oid = fmt.object_id("blob", b"data")
    good = FileObjects({f"objects/{oid}": FileObjects.encode("blob", b"data")})
    assert good.read(oid, "blob") == b"data"
    with pytest.raises(NotFound):
        good.read(fmt.object_id("blob", b"other"), "blob")
    for raw, kind in (
        (FileObjects.encode("blob", b"data"), "tree"),
        (FileObjects.encode("blob", b"other"), "blob"),
        (b"blob 4\0dat", "blob"),
        (b"blob 04\0data", "blob"),
        (b"", "blob"),
    ):
        with pytest.raises(FormatError):
            FileObjects({f"objects/{oid}": raw}).read(oid, kind)
