"""docs/schemas/, and what a document lacks of them. `$ref` in a schema names a file beside it."""

from __future__ import annotations

import json
from typing import Any

from jsonschema import Draft202012Validator  # type: ignore[import-untyped]
from referencing import Registry
from referencing.jsonschema import DRAFT202012
from room import ROOT

SCHEMAS = {path.name: json.loads(path.read_text()) for path in sorted((ROOT / "docs/schemas").glob("*.json"))}
REGISTRY: Registry[Any] = Registry().with_resources(
    (name, DRAFT202012.create_resource(schema)) for name, schema in SCHEMAS.items()
)


def faults(name: str, documents: list[Any]) -> list[str]:
    """Where documents are not what the schema says."""
    validator = Draft202012Validator({"$ref": name}, registry=REGISTRY)
    return [f"{error.json_path}: {error.message[:300]}" for each in documents for error in validator.iter_errors(each)]
