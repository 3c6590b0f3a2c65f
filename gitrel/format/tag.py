"""A git annotated tag as approvals use it: one grammar, one byte string (docs/spec/record.md, "The tag")."""

from __future__ import annotations

from gitrel.dataclass import dataclass
from gitrel.errors import FormatError
from gitrel.format.commit import MAX_RECORD, Stamp
from gitrel.format.text import decode
from gitrel.ids import ObjectFormat, ObjectId

_BEGIN = "-----BEGIN SSH SIGNATURE-----\n"
_END = "-----END SSH SIGNATURE-----"


@dataclass(frozen=True, slots=True, kw_only=True)
class Tag:
    """A tag on a commit. `signature` is the armor without its final newline, or None: unsigned."""

    object: ObjectId
    name: str
    tagger: Stamp
    message: str
    signature: str | None


def encode_tag(tag: Tag) -> bytes:
    """The object's bytes; with `signature=None` they are what the signature is made over."""
    head = f"object {tag.object}\ntype commit\ntag {tag.name}\ntagger {tag.tagger}\n\n{tag.message}"
    return (head if tag.signature is None else f"{head}{tag.signature}\n").encode()


def parse_tag(raw: bytes, fmt: ObjectFormat) -> Tag:
    """Exactly object, type commit, tag, tagger, a message, one SSH signature. Raises `FormatError`."""
    if len(raw) > MAX_RECORD:
        raise FormatError("record too large", why=f"{len(raw)} bytes, at most {MAX_RECORD}")
    head, _, rest = decode(raw, "tag").partition("\n\n")
    values: list[str] = []
    lines = head.split("\n")
    for name, line in zip(("object", "type", "tag", "tagger"), [*lines, "", "", "", ""], strict=False):
        if not line.startswith(f"{name} "):
            raise FormatError(f"expected the tag header {name!r}", why=f"found {line[:60]!r}")
        values.append(line[len(name) + 1 :])
    message, begin, body = rest.partition(_BEGIN)
    if not begin or not body.endswith(f"\n{_END}\n"):
        raise FormatError("not one SSH signature at the end of the tag")
    tag = Tag(
        object=ObjectId(values[0]),
        name=values[2],
        tagger=Stamp.parse(values[3]),
        message=message,
        signature=(begin + body).removesuffix("\n"),
    )
    if encode_tag(tag) != raw or not fmt.holds(tag.object):
        raise FormatError("tag is not in its canonical form")
    return tag
