"""A build's software bill of materials: found by its name, looked at lightly, handed on as it is.

It is a regular file at the top of the build, named as its format recommends: `bom.json` or `*.cdx.json` (CycloneDX,
https://cyclonedx.org/specification/overview/), `*.spdx.json` (SPDX 2, https://spdx.github.io/spdx-spec/v2.3/).
Nothing in it is verified but that it is JSON that all readers read alike, and what it says it is.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from enum import Enum
from typing import Any

from gitrel.dataclass import dataclass, field
from gitrel.errors import FormatError

MAX_SBOM = 64 * 1024 * 1024  # bytes

_SUFFIXES = (".cdx.json", ".spdx.json")


class SbomKind(Enum):
    """The name for people, the predicate type of in-toto's attestations, where the components are, and versions."""

    CYCLONEDX = "CycloneDX", "https://cyclonedx.org/bom", "components", r"([0-9A-Za-z.-]{1,20})"
    SPDX = "SPDX", "https://spdx.dev/Document", "packages", r"SPDX-([0-9A-Za-z.-]{1,20})"

    def __init__(self, title: str, predicate_type: str, list_name: str, shape: str) -> None:
        self.title = title
        self.predicate_type = predicate_type
        self.list_name = list_name
        self.shape = re.compile(shape)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sbom:
    """`components`: how many are listed at its top."""

    name: str
    kind: SbomKind
    version: str
    components: int
    raw: bytes = field(repr=False)

    def __str__(self) -> str:
        return f"{self.name}: {self.kind.title} {self.version}, {self.components} components"


def sbom_names(names: Iterable[str]) -> list[str]:
    """Those that are an SBOM's, of the names at the top of a build."""
    return sorted(name for name in names if name == "bom.json" or name.endswith(_SUFFIXES))


def parse_sbom(name: str, raw: bytes) -> Sbom:
    """Raises `FormatError`, and nothing else."""
    if len(raw) > MAX_SBOM:
        raise FormatError("file too large", where=name, why=f"{len(raw)} bytes, at most {MAX_SBOM}")
    try:
        document = json.loads(raw.decode("utf-8"), object_pairs_hook=_once, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise FormatError("not JSON that is clear", where=name, why=str(error)) from None
    if not isinstance(document, dict):
        raise FormatError("not a JSON object", where=name)
    kind, version = _kind(document, name)
    listed = document.get(kind.list_name, [])
    if not isinstance(listed, list):
        raise FormatError(f"{kind.list_name}: expected an array", where=name)
    return Sbom(name=name, kind=kind, version=version, components=len(listed), raw=raw)


def _kind(document: dict[str, Any], name: str) -> tuple[SbomKind, str]:
    cyclonedx = document.get("specVersion") if document.get("bomFormat") == "CycloneDX" else None
    for kind, version in ((SbomKind.CYCLONEDX, cyclonedx), (SbomKind.SPDX, document.get("spdxVersion"))):
        if isinstance(version, str) and (match := kind.shape.fullmatch(version)):
            return kind, match[1]
    why = "neither bomFormat CycloneDX and a specVersion, nor an spdxVersion"
    raise FormatError("not an SBOM that is known here", where=name, why=why)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        raise ValueError("a key stands twice in one object")
    return values


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")
