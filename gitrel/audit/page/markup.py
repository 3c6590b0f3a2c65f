"""HTML that is escaped by construction: text is `str`, markup is `Html`, and only this module makes one of the other.

Every child and every attribute that is a plain `str` is escaped, and characters that could hide or reorder what stands
around them (controls, bidirectional overrides, line separators, lone surrogates) are written out as `\\u202e`. Adding
a `str` to an `Html` gives a `str`, which is escaped again: a mistake shows itself, and opens nothing.
"""

from __future__ import annotations

import base64
import hashlib
import html
import re
import unicodedata
from collections.abc import Iterable

_VOID = frozenset({"br", "hr", "input", "meta"})
_HIDING = ("Cc", "Cf", "Cs", "Zl", "Zp")
_BREAKS_OUT = re.compile(r"</|<!--")


class Html(str):
    """Markup that is whole: elements and escaped text."""

    __slots__ = ()


EMPTY = Html("")


def visible(text: str) -> str:
    """Nothing in it hides, or moves what stands beside it; lines stay lines."""
    if text.isprintable():
        return text
    return "".join(
        char if char == "\n" or unicodedata.category(char) not in _HIDING else _written_out(char) for char in text
    )


def _written_out(char: str) -> str:
    return char.encode("unicode_escape", "surrogatepass").decode("ascii")


def escape(text: str) -> Html:
    return text if isinstance(text, Html) else Html(html.escape(visible(text)))


def join(parts: Iterable[str], between: str = "") -> Html:
    return Html(escape(between).join(map(escape, parts)))


def element(name: str, /, *children: str, **attributes: str | bool | int) -> Html:
    """`<name attribute="…">children</name>`. `class_` is class, `aria_label` aria-label; True is a bare attribute, and
    False none.
    """
    parts = ["<", name]
    for key, value in attributes.items():
        if value is False:
            continue
        parts += [" ", key.rstrip("_").replace("_", "-")]
        if value is not True:
            parts += ['="', escape(str(value)), '"']
    parts.append(">")
    if name in _VOID:
        return Html("".join(parts))
    parts += map(escape, children)
    parts += ["</", name, ">"]
    return Html("".join(parts))


def raw_element(name: str, text: str) -> Html:
    """`style` and `script`, whose content is not text to HTML: ours alone, never a repository's."""
    if _BREAKS_OUT.search(text):
        raise ValueError(f"a {name} that could end early")
    return Html(f"<{name}>{text}</{name}>")


def csp_hash(text: str) -> str:
    """What a Content-Security-Policy calls an inline style or script (CSP Level 3, section 2.3.1)."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def said(text: str, most: int = 400) -> Html:
    """What somebody wrote: kept apart from our own words, whatever its letters' direction is, and not endless."""
    return element("bdi", _clipped(text, most))


def code(text: str, most: int = 200) -> Html:
    return element("code", _clipped(text, most))


def _clipped(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[:most]}… ({len(text):,} characters)"


def link(anchor: str, *children: str) -> Html:
    return element("a", *children, href=f"#{anchor}")


def items(parts: Iterable[str], **attributes: str | bool) -> Html:
    """A list, or nothing."""
    found = [element("li", each) for each in parts]
    return element("ul", *found, **attributes) if found else EMPTY


def facts(pairs: Iterable[tuple[str, str]]) -> Html:
    """Names and values, one below the other; what has no value is left out."""
    rows = [join([element("dt", name), element("dd", value)]) for name, value in pairs if value]
    return element("dl", *rows) if rows else EMPTY


def table(caption: str, heads: Iterable[str], rows: Iterable[Iterable[str]], **attributes: str | bool) -> Html:
    """The first cell of a row names it. Roles are said, because a narrow screen shows the cells as blocks, which takes
    a table's meaning from it in some browsers.
    """
    names = list(heads)
    head = element("tr", *(element("th", name, scope="col", role="columnheader") for name in names), role="row")
    body = [element("tr", *_cells(names, row), role="row") for row in rows]
    return element(
        "table",
        element("caption", caption),
        element("thead", head, role="rowgroup"),
        element("tbody", *body, role="rowgroup"),
        role="table",
        **attributes,
    )


def _cells(names: list[str], row: Iterable[str]) -> Iterable[Html]:
    for at, (name, cell) in enumerate(zip(names, row, strict=True)):
        if at == 0:
            yield element("th", cell, scope="row", role="rowheader")
        else:
            yield element("td", cell, role="cell", data_head=name)
