"""Two trees compared by walking them, held against comparing all their files."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gitrel.errors import FormatError, NotFound
from gitrel.format.tree import Mode, TreeEntry, encode_tree
from gitrel.ids import Kind, ObjectFormat, ObjectId
from gitrel.store.differ import compare_trees, find_entry, read_folder

Files = Mapping[str, "bytes | tuple[Mode, bytes] | Files"]
FORMAT = ObjectFormat.SHA1


@dataclass
class Memory:
    """Trees by id, and how often each was read."""

    trees: dict[ObjectId, bytes] = field(default_factory=dict)
    reads: list[ObjectId] = field(default_factory=list)

    def read(self, oid: ObjectId, kind: Kind) -> bytes:
        assert kind == "tree", "files are not read"
        self.reads.append(oid)
        if oid not in self.trees:
            raise NotFound("no such object", where=oid)
        return self.trees[oid]

    def store(self, files: Files) -> ObjectId:
        entries = []
        for name, value in files.items():
            if isinstance(value, Mapping):
                entries.append(TreeEntry(Mode.DIRECTORY, name, self.store(value)))
            else:
                mode, data = value if isinstance(value, tuple) else (Mode.FILE, value)
                entries.append(TreeEntry(mode, name, FORMAT.object_id("blob", data)))
        raw = encode_tree(entries)
        oid = FORMAT.object_id("tree", raw)
        self.trees[oid] = raw
        return oid


def flat(files: Files, prefix: str = "") -> dict[str, object]:
    """Every file, and every empty folder, by its path."""
    found: dict[str, object] = {}
    for name, value in files.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{prefix}{name}/") or {f"{prefix}{name}": "empty"}
        else:
            found[prefix + name] = value
    return found


def marks(before: Files, after: Files) -> list[str]:
    memory = Memory()
    changes = compare_trees(memory, memory.store(before), memory.store(after))
    return [f"{change.mark} {change.path}" for change in changes]


NAMES = st.sampled_from(["a", "a.b", "a-b", "b", "é", "A"])
TREES: st.SearchStrategy[Files] = st.recursive(
    st.dictionaries(NAMES, st.sampled_from([b"", b"1", (Mode.EXECUTABLE, b"1"), (Mode.SYMLINK, b"b")]), max_size=4),
    lambda inner: st.dictionaries(NAMES, st.one_of(inner, st.sampled_from([b"", b"1"])), max_size=4),
    max_leaves=12,
)


@given(TREES, TREES)
def test_the_walk_finds_what_comparing_all_files_finds(before: Files, after: Files) -> None:
    """But that an empty folder which is filled, or a folder that is emptied, is no change itself."""
    memory = Memory()
    found = {each.path: each.mark for each in compare_trees(memory, memory.store(before), memory.store(after))}
    old, new = flat(before), flat(after)
    full = {path[: at.start()] for tree in (old, new) for path in tree for at in re.finditer("/", path)}
    expected = {path for path in old.keys() | new.keys() if old.get(path) != new.get(path)}
    expected -= {path for path in expected & full if old.get(path, "empty") == new.get(path, "empty")}
    assert found == {path: "A" if path not in old else "D" if path not in new else "M" for path in expected}


@given(TREES)
def test_the_same_tree_is_not_even_read(files: Files) -> None:
    memory = Memory()
    tree = memory.store(files)
    assert list(compare_trees(memory, tree, tree)) == []
    assert memory.reads == []


@given(TREES)
def test_nothing_is_an_empty_tree(files: Files) -> None:
    memory = Memory()
    tree = memory.store(files)
    assert {each.mark for each in compare_trees(memory, None, tree)} <= {"A"}
    assert {each.mark for each in compare_trees(memory, tree, None)} <= {"D"}
    assert len(list(compare_trees(memory, None, tree))) == len(flat(files))


def test_equal_subtrees_are_skipped() -> None:
    memory = Memory()
    big: Files = {f"d{number}": {f"f{each}": b"x" for each in range(10)} for number in range(50)}
    trees = [memory.store({"big": big, "small": {"one": data}}) for data in (b"1", b"2")]
    assert [each.path for each in compare_trees(memory, trees[0], trees[1])] == ["small/one"]
    assert len(memory.reads) == 4, "two tops and two small folders"


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ({"a": b"1"}, {"a": b"2"}, ["M a"]),
        ({"a": b"1"}, {"a": (Mode.EXECUTABLE, b"1")}, ["M a"]),
        ({"a": b"1"}, {"a": (Mode.SYMLINK, b"1")}, ["M a"]),
        ({"a": b"1"}, {"a": {"b": b"1"}}, ["D a", "A a/b"]),
        ({"a": {"b": b"1"}}, {"a": b"1"}, ["A a", "D a/b"]),
        ({}, {"a": {}}, ["A a"]),
        ({"a": {}}, {"a": {"b": b""}}, ["A a/b"]),
        ({"a": b"1"}, {"a": {}}, ["M a"]),
        ({"a": {"b": {"c": b"1"}}}, {}, ["D a/b/c"]),
    ],
)
def test_kinds_of_change(before: Files, after: Files, expected: list[str]) -> None:
    assert marks(before, after) == expected


def test_a_tree_that_is_not_there_is_said() -> None:
    memory = Memory()
    one, two = memory.store({"a": {"x": b"1"}}), memory.store({"a": {"x": b"2"}})
    lost = read_folder(memory, two)["a"].oid
    del memory.trees[lost]
    with pytest.raises(NotFound) as caught:
        list(compare_trees(memory, one, two))
    assert caught.value.where == lost


def test_a_malformed_tree_is_refused() -> None:
    memory = Memory()
    raw = b"100664 a\0" + b"\0" * 20
    bad = FORMAT.object_id("tree", raw)
    memory.trees[bad] = raw
    with pytest.raises(FormatError, match="mode '100664'"):
        list(compare_trees(memory, memory.store({}), bad))


def test_folders_without_end_are_refused() -> None:
    memory = Memory()
    files: Files = {"x": b"1"}
    for _ in range(200):
        files = {"d": files}
    with pytest.raises(FormatError, match="too deeply"):
        list(compare_trees(memory, None, memory.store(files)))


def test_find_entry() -> None:
    memory = Memory()
    tree = memory.store({"a": {"b": {"c": b"1"}}, "d": b"2"})
    assert find_entry(memory, tree, ()) == TreeEntry(Mode.DIRECTORY, "", tree)
    found = find_entry(memory, tree, ("a", "b", "c"))
    assert found == TreeEntry(Mode.FILE, "c", FORMAT.object_id("blob", b"1"))
    for path in (("a", "x"), ("x",), ("d", "c"), ("a", "b", "c", "d")):
        assert find_entry(memory, tree, path) is None
