"""The head of a bundle: what is written is read, and any other bytes are one clear error."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gitrel.errors import FormatError, RemoteError
from gitrel.ids import ObjectFormat, ObjectId
from gitrel.store.bundle import read_head, write_bundle
from gitrel.store.limits import Limits
from gitrel.store.repository import Repository

OID = ObjectId("1" * 40)
LINES = st.lists(
    st.one_of(
        st.binary(max_size=60).map(lambda raw: raw.replace(b"\n", b"")),
        st.sampled_from([b"-" + OID.encode(), OID.encode() + b" refs/x", b"@object-format=sha256", b"@filter=x"]),
    )
)


@pytest.mark.parametrize("fmt", list(ObjectFormat))
def test_what_is_written_is_read(tmp_path: Path, fmt: ObjectFormat) -> None:
    """Sorted, without a date or a name of this machine: twice the same bytes."""
    with Repository.init_bare(tmp_path / "repo.git", fmt) as repo:
        oid = repo.write("blob", b"hello")
        refs, needs = {"refs/releases/v2": oid, "refs/builds/x": oid}, {ObjectId("2" * len(oid)): "refs/releases/v1"}
        sizes = [write_bundle(repo, tmp_path / name, refs, needs, [oid]) for name in ("one", "two")]
    raw = (tmp_path / "one").read_bytes()
    assert raw == (tmp_path / "two").read_bytes()
    assert sizes == [len(raw)] * 2
    file = io.BytesIO(raw)
    head = read_head(file, Limits())
    assert (head.format, head.refs, head.needs) == (fmt, refs, needs)
    assert file.read(4) == b"PACK"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one", "repo.git", "two"]


@given(st.sampled_from([b"# v2 git bundle\n", b"# v3 git bundle\n", b""]), LINES)
def test_any_bytes_are_a_head_or_an_error(first: bytes, lines: list[bytes]) -> None:
    try:
        head = read_head(io.BytesIO(first + b"\n".join(lines)), Limits())
    except (FormatError, RemoteError) as error:
        assert str(error).isprintable()
    else:
        assert all(head.format.holds(oid) for oid in (*head.refs.values(), *head.needs))


@pytest.mark.parametrize("line", ["-{oid} x\n", "{oid} refs/x/{at}\n"])
def test_the_limit_of_refs_is_reached(line: str) -> None:
    text = "".join(line.format(oid=f"{at:040x}", at=at) for at in range(11))
    with pytest.raises(RemoteError, match="limit refs"):
        read_head(io.BytesIO(f"# v2 git bundle\n{text}\n".encode()), Limits(refs=10))
