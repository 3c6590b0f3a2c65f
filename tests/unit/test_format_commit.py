"""The commit grammar against the catalogue of rewritten and malformed commits: one byte layout only.

Rows "after signing" edit a good record, which stock git may well go on to accept; rows "signed" are malformed
and then signed by a trusted key, which must not help.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_format_golden import ALICE, LEDGERS, NAMES, each_format, encode, parse

from gitrel.errors import FormatError
from gitrel.format.commit import MAX_RECORD, Stamp, parse_commit
from gitrel.format.record import parse_record
from gitrel.ids import ObjectFormat

Edit = Callable[[bytes], bytes]
SHA1 = ObjectFormat.SHA1
GOOD = LEDGERS[SHA1].records["config-v1"]
PAYLOAD = parse_record(GOOD, SHA1).payload
BEGIN, END = b"-----BEGIN SSH SIGNATURE-----", b"-----END SSH SIGNATURE-----"


def test_the_starting_point_is_good() -> None:
    """Or every row below would pass for the wrong reason."""
    assert resigned(PAYLOAD) == GOOD
    assert parse_record(GOOD, SHA1).raw == GOOD


def header(armor: str) -> bytes:
    return b"\ngpgsig " + armor.removesuffix("\n").replace("\n", "\n ").encode()


def resigned(payload: bytes) -> bytes:
    """The payload with a good signature of alice's after its headers, where git puts it."""
    head, blank, message = payload.partition(b"\n\n")
    return head + header(ALICE.armor(payload)) + blank + message


def swap(old: bytes, new: bytes) -> Edit:
    def edit(raw: bytes) -> bytes:
        assert old in raw
        return raw.replace(old, new, 1)

    return edit


def before(mark: bytes, line: bytes) -> Edit:
    return swap(mark, line + mark)


def moved(raw: bytes) -> bytes:
    """The signature's header between tree and author."""
    head, _, message = raw.partition(b"\n\n")
    signature = head[head.index(b"gpgsig ") :]
    return head.replace(b"\n" + signature, b"").replace(b"author", signature + b"\nauthor", 1) + b"\n\n" + message


def unsigned(raw: bytes) -> bytes:
    assert raw == GOOD
    return PAYLOAD


garbage = b"gpgsig " + BEGIN + b"\n AAAA\n " + END + b"\n"
bobs = b"gpgsig-second " + BEGIN + b"\n QkJC\n " + END + b"\n"

AFTER_SIGNING: dict[str, Edit] = {
    "C04": unsigned,
    "C09": before(b"author ", b"parent " + b"1" * 40 + b"\n"),
    "C11": before(b"gpgsig ", b"note anything\n"),
    "C12": lambda raw: raw + b"\0evil\n",
    "C13": lambda raw: raw.removesuffix(b"\n"),
    "C20": before(b"\n\n", b"\ngpgsig-note anything"),
    "C20 before gpgsig": before(b"gpgsig ", b"gpgsig-note anything\n"),
    "C21": before(b"gpgsig ", b"gpgsigtree " + b"2" * 40 + b"\n"),
    "C22": before(b"\n\n", b"\ngpgsig-sha256 garbage"),
    "C22 armored": before(b"\n\n", b"\ngpgsig-sha256 " + BEGIN + b"\n AAAA\n " + END),
    "C23": swap(END, END + b"\n evil"),
    "C23 blank line": swap(END, END + b"\n "),
    "C26": swap(b"-----\n ", b"-----\r\n "),
    "C28": moved,
    "C33": before(b"\n\n", b"\n" + garbage.removesuffix(b"\n")),
    "C34": before(b"gpgsig ", garbage),
    "C35": before(b"\n\n", b"\n" + bobs.removesuffix(b"\n")),
    "C36": swap(b"-----\n ", b"-----\n"),
    "two spaces after gpgsig": swap(b"gpgsig ", b"gpgsig  "),
    "tab after gpgsig": swap(b"gpgsig ", b"gpgsig\t"),
    "gpgsig of the other object format": swap(b"gpgsig ", b"gpgsig-sha256 "),
    "only BEGIN and END": lambda raw: (
        raw[: raw.index(BEGIN)] + BEGIN + b"\n " + raw[raw.index(END) :].replace(END, b"", 1)
    ),
}

SIGNED: dict[str, Edit] = {
    "C90": before(b"author ", b"tree " + b"2" * 40 + b"\n"),
    "C91": swap(b"\nauthor", b"\ntree " + b"2" * 40 + b"\nauthor"),
    "C92": before(b"\n\n", b"\nparent " + b"1" * 40),
    "C93": before(b"\n\n", b"\ncommitter Eve <eve@example.org> 1 +0000"),
    "C94": before(b"committer ", b"author Eve <eve@example.org> 1 +0000\n"),
    "C95": before(b"\n\n", b"\nmergetag object " + b"1" * 40 + b"\n type commit\n tag v1"),
    "C96": before(b"\n\n", b"\nencoding UTF-7"),
    "C97": swap(b"LOG_LEVEL set", b"LOG_LEVEL \xff set"),
    "C98": before(b"author ", b"parent " + b"1" * 40 + b"\nparent " + b"2" * 40 + b"\n"),
    "C99": before(b"author ", (b"parent " + b"1" * 40 + b"\n") * 2),
    "D01": swap(b" 1700000000 ", b" 9223372036854775808 "),
    "D02": swap(b" 1700000000 ", b" -1 "),
    "D03": swap(b" +0130", b" +9999"),
    "D04": swap(b" <alice@example.org>", b""),
    "D04 empty": swap(b"<alice@example.org>", b"<>"),
    "D05": swap(b"author Alice", b"author Ali\nce"),
    "D06": swap(b"author Alice", b"author Ali\0ce"),
    "D07": lambda payload: payload[: payload.index(b"\n\n")] + b"\n",
    "D07 empty": lambda payload: payload[: payload.index(b"\n\n")] + b"\n\n",
    "D08": before(b"author ", b"nospace\n"),
    "D09": lambda payload: payload[:5] + payload[5:45].upper() + payload[45:],
    "D13": before(b"tree ", b"x y\n z\n"),
    "D14 ESC": swap(b"LOG_LEVEL set", b"\x1b[2J"),
    "D14 CR": swap(b"LOG_LEVEL set", b"LOG\rset"),
    "C1 control": swap(b"LOG_LEVEL set", "\u009b2J".encode()),
    "time with a leading zero": swap(b" 1700000000 ", b" 01700000000 "),
    "time with a plus": swap(b" 1700000000 ", b" +1700000000 "),
    "time in other digits": swap(b" 1700000000 ", " ١٧".encode() + b" "),
    "year 10000": swap(b" 1700000000 ", b" 253402300800 "),
    "zone of 99 minutes": swap(b" +0130", b" +0199"),
    "two spaces before the time": swap(b"> 17", b">  17"),
    "tree id too short": lambda payload: payload[:44] + payload[45:],
    "tree id of the other object format": lambda payload: payload[:45] + b"0" * 24 + payload[45:],
    "overlong UTF-8": swap(b"LOG_LEVEL set", b"\xc0\xaf"),
    "surrogate in UTF-8": swap(b"LOG_LEVEL set", b"\xed\xa0\x80"),
    "no tree": lambda payload: payload[payload.index(b"author ") :],
    "no author": lambda payload: payload[:46] + payload[payload.index(b"committer ") :],
    "no committer": swap(b"committer Alice <alice@example.org> 1700000000 +0130\n\n", b"\n"),
}

# The signature's own rows: what stands in gpgsig is no SSH signature at all, or stands elsewhere.
INSTEAD: dict[str, bytes] = {
    "D10": b"",
    "D11": b"\ngpgsig -----BEGIN PGP SIGNATURE-----\n \n iQ==\n -----END PGP SIGNATURE-----",
    "D12": b"\ngpgsig ",
    "D12 without the space": b"\ngpgsig",
}


@pytest.mark.parametrize("row", AFTER_SIGNING)
def test_after_signing(row: str) -> None:
    edited = AFTER_SIGNING[row](GOOD)
    assert edited != GOOD
    with pytest.raises(FormatError):
        parse_record(edited, SHA1)


@each_format
@pytest.mark.parametrize("name", ["config-v2", "release-v2", "trust-v2"])
def test_c08_a_parent_removed_after_signing(name: str, fmt: ObjectFormat) -> None:
    """Each parent in turn, and all of them: a fake beginning of the ledger."""
    raw = LEDGERS[fmt].records[name]
    parents = [line for line in raw.splitlines(keepends=True) if line.startswith(b"parent ")]
    assert parents
    for gone in [*([parent] for parent in parents), parents]:
        edited = raw
        for line in gone:
            edited = edited.replace(line, b"", 1)
        with pytest.raises(FormatError, match="parents"):
            parse_record(edited, fmt)


@pytest.mark.parametrize("row", SIGNED)
def test_signed(row: str) -> None:
    edited = SIGNED[row](PAYLOAD)
    assert edited != PAYLOAD
    with pytest.raises(FormatError):
        parse_record(resigned(edited), SHA1)


@pytest.mark.parametrize("row", INSTEAD)
def test_no_ssh_signature(row: str) -> None:
    head, blank, message = PAYLOAD.partition(b"\n\n")
    raw = head + INSTEAD[row] + blank + message
    with pytest.raises(FormatError):
        parse_record(raw, SHA1)
    with pytest.raises(FormatError):
        parse_record(raw.removesuffix(b"\n") + b"\n" + ALICE.armor(PAYLOAD).encode(), SHA1)


@each_format
@pytest.mark.parametrize("name", NAMES)
def test_a_record_of_one_object_format_is_none_of_the_other(name: str, fmt: ObjectFormat) -> None:
    (other,) = set(ObjectFormat) - {fmt}
    with pytest.raises(FormatError):
        parse(name, LEDGERS[fmt].records[name], other)


@pytest.mark.parametrize("name", NAMES)
def test_a_cut_record_is_refused(name: str) -> None:
    raw = LEDGERS[SHA1].records[name]
    for end in range(len(raw)):
        with pytest.raises(FormatError):
            parse(name, raw[:end], SHA1)


def test_size_is_bounded_before_anything_is_read() -> None:
    roomy = GOOD.replace(b"LOG_LEVEL set", b"x" * (MAX_RECORD - len(GOOD) + len(b"LOG_LEVEL set")))
    assert len(roomy) == MAX_RECORD
    assert parse_record(roomy, SHA1).raw == roomy
    with pytest.raises(FormatError, match="too large"):
        parse_record(roomy.replace(b"xx", b"xxx", 1), SHA1)


@given(raw=st.binary(max_size=400))
def test_arbitrary_bytes_are_refused(raw: bytes) -> None:
    for read in (parse_commit, parse_record):
        with pytest.raises(FormatError):
            read(raw, SHA1)


@given(data=st.data(), name=st.sampled_from(NAMES), fmt=st.sampled_from(ObjectFormat))
def test_what_parses_re_encodes_to_the_same_bytes(data: st.DataObject, name: str, fmt: ObjectFormat) -> None:
    """Good bytes, with a few slices cut, repeated, moved or overwritten."""
    raw = LEDGERS[fmt].records[name]
    for _ in range(data.draw(st.integers(1, 3))):
        start = data.draw(st.integers(0, len(raw)))
        end = data.draw(st.integers(start, min(len(raw), start + 80)))
        other = data.draw(st.integers(0, len(raw)))
        piece = data.draw(
            st.sampled_from([b"", raw[start:end] * 2, raw[other : other + end - start]]) | st.binary(max_size=8)
        )
        raw = raw[:start] + piece + raw[end:]
    try:
        signed = parse(name, raw, fmt)
    except FormatError:
        return
    assert encode(signed) == raw


@given(
    name=st.text(st.characters(exclude_characters="<>\n\0", exclude_categories=("Cc", "Cs")), min_size=1).filter(
        lambda text: text == text.strip()
    ),
    email=st.text(
        st.characters(exclude_characters="<>", exclude_categories=("Cc", "Cs", "Zs", "Zl", "Zp")), min_size=1
    ),
    time=st.integers(0, 253402300799),
    zone=st.builds("{}{:02}{:02}".format, st.sampled_from("+-"), st.integers(0, 14), st.integers(0, 59)),
)
def test_a_stamp_comes_back(name: str, email: str, time: int, zone: str) -> None:
    stamp = Stamp(name=name, email=email, time=time, zone=zone)
    assert Stamp.parse(str(stamp)) == stamp


@given(text=st.text(max_size=60) | st.from_regex(r"[^<>\n]* <[^<>\n]*> [0-9+-]* [+-][0-9]{3,5}", fullmatch=True))
def test_a_stamp_that_parses_prints_as_it_was(text: str) -> None:
    try:
        stamp = Stamp.parse(text)
    except FormatError:
        return
    assert str(stamp) == text
