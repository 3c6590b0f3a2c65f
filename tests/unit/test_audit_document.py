"""The forms of an audit: JSON by its schema, SARIF by its rules; the docs' table of codes by the code's own."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from audit_support import audit, write_repository
from jsonschema import Draft202012Validator  # type: ignore[import-untyped]
from keys_support import ed25519_key
from simulator import Simulator, shop

from gitrel.audit.codes import Code, Severity
from gitrel.audit.document import as_json, as_sarif
from gitrel.audit.result import Audit
from gitrel.audit.text import as_text

DOCS = Path(__file__).parents[2] / "docs"
SCHEMA = json.loads((DOCS / "schemas/audit.json").read_text())
VALIDATOR = Draft202012Validator(SCHEMA)


@pytest.fixture(scope="module")
def troubled(tmp_path_factory: pytest.TempPathFactory) -> Audit:
    """Of every kind of record a good one, an unreadable one and a refused one."""
    sim = shop(3)
    sim.trust()
    sim.config({"MORE": b"1", "KEY.age": b"x"})
    sim.approve(sim.release(config=sim.configs[next(iter(sim.configs))][-1]), ed25519_key("bob"))
    sim.release(by=ed25519_key("bob"))
    for name in ("refs/trust/v3", "refs/config/v3", "refs/releases/v6", f"refs/builds/{'1' * 40}"):
        sim.publish(name, b"rubbish " + name.encode())
    sim.refs[f"refs/approvals/{'1' * 40}/{'2' * 64}"] = sim.put("tag", b"rubbish")
    sim.refs["refs/releases/latest"] = sim.refs["refs/releases/v1"]
    return audit(write_repository(sim, tmp_path_factory.mktemp("troubled") / "r"), sim)


def honest(tmp_path: Path) -> Audit:
    sim: Simulator = shop(2)
    return audit(write_repository(sim, tmp_path / "r"), sim)


def test_the_json_follows_its_schema(troubled: Audit, tmp_path: Path) -> None:
    for each in (troubled, honest(tmp_path)):
        document = json.loads(json.dumps(as_json(each)))
        assert [f"{error.json_path}: {error.message}" for error in VALIDATOR.iter_errors(document)] == []
    assert len(as_json(troubled)["findings"]) > 6
    assert not VALIDATOR.is_valid({"format": 2})


def test_the_schema_knows_every_code_and_severity() -> None:
    finding = SCHEMA["$defs"]["finding"]["properties"]
    assert finding["code"]["enum"] == [code.value for code in Code]
    assert finding["severity"]["enum"] == [severity.value for severity in Severity]


def test_the_docs_know_every_code() -> None:
    text = (DOCS / "auditing.md").read_text()
    rows = re.findall(r"^\| `([\w-]+)` \| (\w+) \| (.*?) \| (.*?) \|$", text, re.MULTILINE)
    assert rows == [(code.value, code.severity.value, code.meaning, code.advice) for code in Code]


# Of the properties that the published schema (sarif-schema-2.1.0.json, `additionalProperties: false`) allows, ours
SARIF: dict[str, dict[str, str]] = {
    "run": {
        "tool": "tool", "automationDetails": "automation", "invocations": "invocation", "results": "result",
        "properties": "",
    },
    "tool": {"driver": "component"},
    "component": {"name": "", "version": "", "rules": "rule"},
    "rule": {"id": "", "name": "", "shortDescription": "text", "help": "text", "defaultConfiguration": "config"},
    "config": {"level": ""},
    "text": {"text": ""},
    "automation": {"id": ""},
    "invocation": {"executionSuccessful": "", "toolExecutionNotifications": "notification"},
    "notification": {"level": "", "message": "text"},
    "result": {
        "ruleId": "", "ruleIndex": "", "level": "", "message": "text", "locations": "location",
        "partialFingerprints": "", "properties": "",
    },
    "location": {"logicalLocations": "logical"},
    "logical": {"fullyQualifiedName": "", "kind": ""},
}  # fmt: skip


def unknown(value: Any, kind: str) -> list[str]:
    """The properties that no object of that kind has."""
    if not kind:
        return []
    if isinstance(value, list):
        return [name for each in value for name in unknown(each, kind)]
    known = SARIF[kind]
    found = [f"{kind}.{name}" for name in value if name not in known]
    return found + [each for name in known if name in value for each in unknown(value[name], known[name])]


def test_sarif(troubled: Audit) -> None:
    """SARIF 2.1.0, sections 3.13 (the file), 3.14 (run), 3.19 (tool component), 3.27 (result), 3.49 (rule)."""
    document = json.loads(json.dumps(as_sarif(troubled, "1.0")))
    assert document["version"] == "2.1.0"
    assert document["$schema"].endswith("sarif-schema-2.1.0.json")
    (run,) = document["runs"]
    rules = run["tool"]["driver"]["rules"]
    assert [rule["id"] for rule in rules] == [code.value for code in Code]
    assert len({rule["name"] for rule in rules}) == len(rules)
    assert len(run["results"]) == len(troubled.findings)
    for result, finding in zip(run["results"], troubled.findings, strict=True):
        assert rules[result["ruleIndex"]]["id"] == result["ruleId"] == finding.code
        assert result["level"] in ("error", "warning", "note")
        assert rules[result["ruleIndex"]]["defaultConfiguration"]["level"] == result["level"]
        assert result["message"]["text"].startswith(finding.ref)
        assert result["locations"][0]["logicalLocations"][0]["fullyQualifiedName"] == finding.ref
        assert None not in result["properties"].values()
    assert unknown(run, "run") == []
    prints = [tuple(result["partialFingerprints"].values()) for result in run["results"]]
    assert len(set(prints)) == len(prints)


def test_the_verdict_is_the_last_line(troubled: Audit, tmp_path: Path) -> None:
    counts = troubled.counts
    assert list(as_text(troubled))[-1].startswith(f"NOT CLEAN: {counts[Severity.ERROR]} errors, ")
    assert list(as_text(honest(tmp_path)))[-1] == "clean; every record and every file was verified"


def test_every_code_has_something_to_say() -> None:
    assert set(Severity) == {code.severity for code in Code}
    for code in Code:
        assert code.meaning
        assert code.advice
        assert not code.meaning.endswith(".")
