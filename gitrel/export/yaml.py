"""YAML that all readers take alike: block style, and scalars as JSON has them, which YAML 1.2 takes as they are.

Text stands bare only where no version of YAML sees a number, a truth value, nothing or a date in it: parsers of 1.1
take `no`, `1e3`, `0777` and `12:30` for something else (and do not agree on which). Mappings keep their order.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

_BARE = re.compile(r"-{0,2}[A-Za-z/](?:[A-Za-z0-9_./:@-]*[A-Za-z0-9_/])?")
_WORDS = frozenset({"y", "n", "yes", "no", "on", "off", "true", "false", "null"})
# What JSON leaves as it is, and YAML does not print (section 5.1) or takes for the end of a line.
_ESCAPED = re.compile("[\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff]")


def encode(documents: Iterable[Mapping[str, Any]]) -> str:
    """Documents of mappings, lists, text, whole numbers, truth values and None."""
    return "".join(f"---\n{line}\n" for line in ("\n".join(_block(each)) for each in documents))


def _block(value: Any) -> list[str]:
    """The lines of a value that has some."""
    lines: list[str] = []
    if isinstance(value, Mapping):
        for key, inner in value.items():
            if _is_scalar(inner):
                lines.append(f"{_scalar(key)}: {_scalar(inner)}")
            else:
                lines += [f"{_scalar(key)}:", *(f"  {line}" for line in _block(inner))]
        return lines
    for item in value:
        first, *more = [_scalar(item)] if _is_scalar(item) else _block(item)
        lines += [f"- {first}", *(f"  {line}" for line in more)]
    return lines


def _is_scalar(value: Any) -> bool:
    return not value or isinstance(value, str) or not isinstance(value, Mapping | Sequence)


def _scalar(value: Any) -> str:
    if isinstance(value, str) and _BARE.fullmatch(value) and value.lower() not in _WORDS:
        return value
    return _ESCAPED.sub(lambda match: f"\\u{ord(match[0]):04x}", json.dumps(value, ensure_ascii=False))
