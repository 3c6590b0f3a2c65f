"""Packs from a remote, taken in under limits: what git accepts is accepted, the rows of bad packs are not."""

from __future__ import annotations

import hashlib
import os
import struct
import subprocess
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gitrel.errors import FormatError, RemoteError
from gitrel.format.record import parse_approval, parse_record
from gitrel.ids import ObjectFormat, ObjectId
from gitrel.store.delta import apply_delta, read_sizes
from gitrel.store.ingest import Ingested, PackReceiver
from gitrel.store.limits import Limits
from gitrel.store.packfile import entry_header
from gitrel.store.repository import Repository

SHA1 = ObjectFormat.SHA1
BLOB, TREE, COMMIT, TAG, OFS, REF = 3, 2, 1, 4, 6, 7


def number(value: int) -> bytes:
    """A delta's sizes: little-endian, seven bits a byte."""
    out = bytearray()
    while True:
        out.append(value & 0x7F | (0x80 if value > 0x7F else 0))
        value >>= 7
        if not value:
            return bytes(out)


def distance(value: int) -> bytes:
    """An ofs-delta's way back."""
    out = [value & 0x7F]
    while value := value >> 7:
        value -= 1
        out.append(0x80 | value & 0x7F)
    return bytes(reversed(out))


def copy(offset: int, size: int) -> bytes:
    return b"\xff" + offset.to_bytes(4, "little") + size.to_bytes(3, "little")


def insert(data: bytes) -> bytes:
    return bytes([len(data)]) + data


def whole(kind: int, data: bytes, *, size: int | None = None) -> bytes:
    return entry_header(kind, len(data) if size is None else size) + zlib.compress(data)


def ref_delta(base: bytes, delta: bytes) -> bytes:
    return entry_header(REF, len(delta)) + base + zlib.compress(delta)


def ofs_delta(back: int, delta: bytes) -> bytes:
    return entry_header(OFS, len(delta)) + distance(back) + zlib.compress(delta)


def pack(*entries: bytes, count: int | None = None, version: int = 2) -> bytes:
    body = b"PACK" + struct.pack(">II", version, len(entries) if count is None else count) + b"".join(entries)
    return body + hashlib.sha1(body).digest()


def blob_id(data: bytes) -> bytes:
    return SHA1.object_id("blob", data).raw


BASE = b"The quick brown fox jumps over the lazy dog.\n" * 10
FULL = number(len(BASE)) + number(len(BASE)) + copy(0, len(BASE))


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Repository]:
    with Repository.init_bare(tmp_path / "home.git", SHA1) as repo:
        yield repo


Take = Callable[..., Ingested]


@pytest.fixture
def take(store: Repository, tmp_path: Path) -> Take:
    """Feed a pack into the home's own pack folder, in pieces of one size."""

    def run(data: bytes, *, piece: int = 7, **limits: int) -> Ingested:
        receiver = PackReceiver(store.objects / "pack", store, Limits(**limits))
        for at in range(0, len(data), piece):
            receiver.write(data[at : at + piece])
        return receiver.finish()

    return run


def fsck(store: Repository) -> str:
    done = subprocess.run(
        ["git", "fsck", "--full", "--strict", "--no-dangling"],
        cwd=store.path,
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": os.environ["PATH"], "GIT_CONFIG_NOSYSTEM": "1", "HOME": str(store.path)},
    )
    complaints = [line for line in (done.stdout + done.stderr).splitlines() if not line.startswith("notice: ")]
    return f"{done.returncode} {complaints}"


class TestGoodPacks:
    @pytest.mark.parametrize("piece", [1, 13, 100_000])
    def test_whole_objects_and_deltas_of_deltas(self, store: Repository, take: Take, piece: int) -> None:
        """Both kinds of delta, a base behind its delta, and stock git's verdict on pack and index."""
        second = BASE + b"second"
        third = second + b"third"
        to_second = number(len(BASE)) + number(len(second)) + copy(0, len(BASE)) + insert(b"second")
        to_third = number(len(second)) + number(len(third)) + copy(0, len(second)) + insert(b"third")
        first = whole(BLOB, BASE)
        middle = ofs_delta(len(first), to_second)
        done = take(pack(first, middle, ofs_delta(len(middle), to_third)), piece=piece)
        assert (done.objects, done.parents) == (3, {})
        for data in (BASE, second, third):
            assert store.read(SHA1.object_id("blob", data), "blob") == data
        assert fsck(store) == "0 []"

    def test_a_delta_before_its_base(self, store: Repository, take: Take) -> None:
        delta = number(len(BASE)) + number(4) + insert(b"1234")
        take(pack(ref_delta(blob_id(BASE), delta), whole(BLOB, BASE)))
        assert store.read(SHA1.object_id("blob", b"1234"), "blob") == b"1234"
        assert fsck(store) == "0 []"

    def test_a_thin_pack_is_completed(self, store: Repository, take: Take) -> None:
        """The base comes from the home; the stored pack stands alone, as git wants it on disk."""
        store.write("blob", BASE)
        delta = number(len(BASE)) + number(4) + insert(b"1234")
        done = take(pack(ref_delta(blob_id(BASE), delta)))
        path = store.objects / "pack" / f"{done.pack}.pack"
        assert subprocess.run(["git", "verify-pack", path], check=False, capture_output=True).returncode == 0
        assert fsck(store) == "0 []"

    def test_a_thin_pack_that_has_its_base_all_the_same(self, store: Repository, take: Take) -> None:
        """A base of the home's that another delta of the pack makes is there once."""
        other = BASE[::-1]
        store.write("blob", BASE)
        store.write("blob", other)
        make_base = (
            number(len(other))
            + number(len(BASE))
            + b"".join(insert(BASE[at : at + 100]) for at in range(0, len(BASE), 100))
        )
        use_base = number(len(BASE)) + number(4) + insert(b"1234")
        take(pack(ref_delta(blob_id(BASE), use_base), ref_delta(blob_id(other), make_base)))
        assert fsck(store) == "0 []"

    def test_no_objects(self, store: Repository, take: Take) -> None:
        assert take(pack()) == Ingested(pack=None, objects=0, parents={})
        assert list((store.objects / "pack").iterdir()) == []

    def test_parents_of_commits(self, store: Repository, take: Take) -> None:
        tree = SHA1.object_id("tree", b"")
        parents = [ObjectId("1" * 40), ObjectId("2" * 40)]
        data = f"tree {tree}\nparent {parents[0]}\nparent {parents[1]}\nauthor a <a> 0 +0000\n\nparent x".encode()
        assert take(pack(whole(COMMIT, data))).parents == {SHA1.object_id("commit", data): parents}

    @settings(deadline=None, max_examples=40)  # an fsync takes what it takes
    @given(st.lists(st.binary(max_size=3000), unique=True, max_size=12), st.integers(1, 5000))
    def test_whatever_is_packed_comes_back(
        self, tmp_path_factory: pytest.TempPathFactory, blobs: list[bytes], piece: int
    ) -> None:
        folder = tmp_path_factory.mktemp("pack")
        with Repository.init_bare(folder / "home.git", SHA1) as store:
            receiver = PackReceiver(store.objects / "pack", store, Limits())
            data = pack(*(whole(BLOB, blob) for blob in blobs))
            for at in range(0, len(data), piece):
                receiver.write(data[at : at + piece])
            receiver.finish()
            for blob in blobs:
                assert store.read(SHA1.object_id("blob", blob), "blob") == blob


GOOD = pack(whole(BLOB, BASE), whole(BLOB, b"x"))
ONE = whole(BLOB, BASE)

BAD = {
    "P01 empty stream": b"",
    "P02 cut in the header": GOOD[:9],
    "P03 cut inside an object": GOOD[:40],
    "P04 no trailer": GOOD[:-20],
    "P05 half a trailer": GOOD[:-10],
    "P06 wrong trailer": GOOD[:-1] + bytes([GOOD[-1] ^ 1]),
    "P08 more than it says": pack(ONE, whole(BLOB, b"x"), whole(BLOB, b"y"), count=1),
    "P08 less than it says": pack(ONE, count=3),
    "P09 bytes behind the trailer": GOOD + b"garbage that is longer than a trailer",
    "P10 version 99": pack(ONE, version=99),
    "P11 type 0": pack(whole(0, b"x")),
    "P12 type 5": pack(whole(5, b"x")),
    "P13 inflates to more": pack(whole(BLOB, b"0" * 100_000, size=10)),
    "P14 inflates to less": pack(whole(BLOB, b"01234", size=100)),
    "P20 ofs-delta of itself": pack(ONE, ofs_delta(0, FULL)),
    "P21 ofs-delta before the pack": pack(ONE, ofs_delta(len(ONE) + 50, FULL)),
    "P22 ofs-delta into an object": pack(ONE, ofs_delta(len(ONE) - 3, FULL)),
    "P23 ref-deltas of each other": pack(ref_delta(b"\1" * 20, FULL), ref_delta(b"\2" * 20, FULL)),
    "P24 base nowhere": pack(ref_delta(b"\7" * 20, FULL)),
    "P25 copies from behind the base": pack(ONE, ofs_delta(len(ONE), number(450) + number(9) + copy(445, 9))),
    "P26 wrong size of the base": pack(ONE, ofs_delta(len(ONE), number(5) + number(5) + copy(0, 5))),
    "P27 instruction 0": pack(ONE, ofs_delta(len(ONE), number(450) + number(1) + b"\0")),
    "P28 an object twice": pack(ONE, ONE),
    "a delta makes more than it says": pack(ONE, ofs_delta(len(ONE), number(450) + number(2) + insert(b"abc"))),
    "a delta makes less than it says": pack(ONE, ofs_delta(len(ONE), number(450) + number(4) + insert(b"abc"))),
    "a delta ends inside an instruction": pack(ONE, ofs_delta(len(ONE), number(450) + number(9) + b"\xff\0")),
    "an empty delta": pack(ONE, ofs_delta(len(ONE), b"")),
    "a size without end": pack(b"\xbf" + b"\xff" * 30 + zlib.compress(b"x")),
    "not deflated": pack(entry_header(BLOB, 5) + b"hello"),
    "the trailer read as an object": pack(ONE, entry_header(BLOB, 5), count=2),
}


@pytest.mark.parametrize("row", BAD)
def test_bad_packs_are_refused(store: Repository, take: Take, row: str) -> None:
    with pytest.raises(FormatError):
        take(BAD[row])
    assert not list((store.objects / "pack").glob("*.idx"))


def test_a_good_pack_cut_at_any_byte(store: Repository) -> None:
    for end in range(len(GOOD)):
        folder = store.path / f"cut{end}"
        folder.mkdir()
        receiver = PackReceiver(folder, store, Limits())
        receiver.write(GOOD[:end])
        with pytest.raises(FormatError):
            receiver.finish()


ZEROS = b"\0" * 1_000_000
MANY = number(len(ZEROS)) + number(64 * len(ZEROS)) + copy(0, len(ZEROS)) * 64


def chain(length: int) -> bytes:
    """Every object a delta of the one before."""
    entries, last = [whole(BLOB, b"0" * 8)], len(whole(BLOB, b"0" * 8))
    for at in range(length):
        entries.append(ofs_delta(last, number(8) + number(8) + insert(b"%08d" % (at + 1))))
        last = len(entries[-1])
    return pack(*entries)


COSTLY = {
    "P07 four billion objects": (pack(ONE, count=2**32 - 1), {}, "objects"),
    "P15 honest bomb": (pack(whole(BLOB, ZEROS)), {"object_bytes": 999_999}, "object_bytes"),
    "P16 delta bomb": (
        pack(whole(BLOB, ZEROS), ref_delta(blob_id(ZEROS), MANY)),
        {"object_bytes": 10**7},
        "object_bytes",
    ),
    "P17 a result of 2^50 bytes": (pack(ONE, ofs_delta(len(ONE), number(450) + number(2**50))), {}, "object_bytes"),
    "P18 much from little": (
        pack(whole(BLOB, ZEROS), *[ref_delta(blob_id(ZEROS), MANY[:3] + MANY[:3] + copy(0, 10**6))] * 20),
        {"total_bytes": 15 * 10**6},
        "total_bytes",
    ),
    "P19 deep chain": (chain(300), {"delta_depth": 299}, "delta_depth"),
    "P29 200,000 parents": (
        pack(whole(COMMIT, b"tree " + b"0" * 40 + (b"\nparent " + b"1" * 40) * 200_000)),
        {"metadata_bytes": 1_000_000},
        "metadata_bytes",
    ),
    "P30 500,000 header lines": (
        pack(whole(COMMIT, b"tree " + b"0" * 40 + b"\nx y" * 500_000)),
        {"metadata_bytes": 1_000_000},
        "metadata_bytes",
    ),
    "P31 commit message": (pack(whole(COMMIT, ZEROS)), {"metadata_bytes": 10_000}, "metadata_bytes"),
    "P32 huge tree": (pack(whole(TREE, ZEROS)), {"metadata_bytes": 10_000}, "metadata_bytes"),
    "a tree made huge by a delta": (
        pack(whole(TREE, b"0" * 9), ref_delta(SHA1.object_id("tree", b"0" * 9).raw, number(9) + number(10**6))),
        {"metadata_bytes": 10_000},
        "metadata_bytes",
    ),
    "P34 many objects": (pack(*(whole(BLOB, b"%d" % at) for at in range(101))), {"objects": 100}, "objects"),
}


@pytest.mark.parametrize("row", COSTLY)
def test_limits_are_reached_before_the_cost(store: Repository, take: Take, row: str) -> None:
    data, limits, name = COSTLY[row]
    with pytest.raises(RemoteError, match=f"limit {name}") as caught:
        take(data, piece=100_000, **limits)
    assert name in caught.value.hint


@pytest.mark.parametrize("row", ["P29 200,000 parents", "P30 500,000 header lines"])
def test_what_passes_a_raised_limit_is_still_no_record(row: str) -> None:
    """A record is small: the verifier does not even look for its headers."""
    data = COSTLY[row][0]
    raw = zlib.decompressobj().decompress(data[data.index(b"\x78") :])
    with pytest.raises(FormatError, match="too large"):
        parse_record(raw, SHA1)


def test_P00_the_control(take: Take) -> None:  # noqa: N802 - the row's name
    assert take(GOOD).objects == 2


def test_P33_a_chain_of_5000_tags_is_taken_and_followed_by_nobody(take: Take) -> None:  # noqa: N802 - the row's name
    """An approval is a tag on a commit: what tags a tag is refused at the first link."""
    target, kind, tags = "1" * 40, "commit", []
    for _ in range(5000):
        raw = f"object {target}\ntype {kind}\ntag x\ntagger A <a@b> 1 +0000\n\nx\n".encode()
        target, kind = SHA1.object_id("tag", raw), "tag"
        tags.append(raw)
    assert take(pack(*(whole(TAG, raw) for raw in tags)), piece=100_000).objects == 5000
    with pytest.raises(FormatError):
        parse_approval(tags[-1], SHA1)


def test_a_deep_chain_below_the_limit_is_fine(store: Repository, take: Take) -> None:
    assert take(chain(3000), piece=100_000).objects == 3001


class TestDeltas:
    @given(st.binary(max_size=2000), st.data())
    def test_applies_what_it_says(self, base: bytes, data: st.DataObject) -> None:
        """Any sequence of instructions gives the bytes that they name."""
        expected, code = b"", b""
        for _ in range(data.draw(st.integers(0, 8))):
            if base and data.draw(st.booleans()):
                at = data.draw(st.integers(0, len(base) - 1))
                size = data.draw(st.integers(1, len(base) - at))
                expected, code = expected + base[at : at + size], code + copy(at, size)
            else:
                text = data.draw(st.binary(min_size=1, max_size=127))
                expected, code = expected + text, code + insert(text)
        delta = number(len(base)) + number(len(expected)) + code
        assert apply_delta(base, delta) == expected
        assert read_sizes(delta)[:2] == (len(base), len(expected))

    @given(st.binary(max_size=50), st.binary(max_size=50))
    def test_any_bytes_give_a_result_of_the_size_they_say_or_a_format_error(self, base: bytes, delta: bytes) -> None:
        try:
            result = apply_delta(base, delta)
        except FormatError:
            return
        assert len(result) == read_sizes(delta)[1]

    def test_a_copy_of_size_zero_is_64_kib(self) -> None:
        base = b"x" * 0x10000
        assert apply_delta(base, number(0x10000) + number(0x10000) + b"\x80") == base
