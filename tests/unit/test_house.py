"""The house rules that no linter knows."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCES = sorted((ROOT / "gitrel").rglob("*.py"))
MAX_FILE, MAX_FUNCTION = 400, 50

TOP_LEVEL = {
    ".ci",
    ".gitignore",
    ".pre-commit-config.yaml",
    "LICENSE",
    "README.md",
    "docs",
    "gitrel",
    "pyproject.toml",
    "tests",
}
VAGUE = {"utils", "util", "helpers", "helper", "common", "manager", "base", "misc"}


def pyproject() -> dict[str, object]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def test_there_are_sources() -> None:
    assert len(SOURCES) > 10


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_a_file_is_a_page(path: Path) -> None:
    count = len(path.read_text().splitlines())
    assert count <= MAX_FILE, f"{count} lines: it is asking to be two"


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_a_function_fits_the_screen(path: Path) -> None:
    found = [
        node
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    long = {node.name: length for node in found if (length := (node.end_lineno or 0) - node.lineno + 1) > MAX_FUNCTION}
    assert long == {}


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_a_module_says_its_rules(path: Path) -> None:
    module = ast.parse(path.read_text())
    assert path.stem not in VAGUE
    assert ast.get_docstring(module) or path.name == "__init__.py"


def test_nothing_unplanned_at_the_top() -> None:
    """Of what git has or would add; caches and environments are ignored by `.gitignore`."""
    listed = subprocess.run(
        ["git", "-c", "safe.directory=*", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    found = {name.partition("/")[0] for name in listed.split("\0") if name}
    assert "gitrel" in found
    assert found <= TOP_LEVEL


def test_the_server_side_does_not_load_private_keys() -> None:
    """The import contracts read the source; this looks at a running interpreter."""
    code = """
import importlib, pkgutil, sys
for package in ("gitrel.run", "gitrel.trust", "gitrel.audit"):
    if importlib.util.find_spec(package) is None:
        continue
    for module in pkgutil.walk_packages(importlib.import_module(package).__path__, package + "."):
        importlib.import_module(module.name)
assert "gitrel.trust" in sys.modules
assert "gitrel.keys.private" not in sys.modules
assert "typer" not in sys.modules
"""
    done = subprocess.run(
        [sys.executable, "-c", f"import importlib.util{code}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


TYPED_IN_TESTS = (
    "hypothesis",
    "in-toto-attestation",
    "jsonschema",
    "kubernetes-validate",
    "prometheus-client",
    "pytest",
    "pyyaml",
    "securesystemslib",
)


def test_every_checker_has_one_version() -> None:
    """`.pre-commit-config.yaml` and the extra `dev` pin the same."""
    project = pyproject()["project"]
    assert isinstance(project, dict)
    extras = project["optional-dependencies"]
    pinned = set(re.findall(r'"([\w-]+==[\w.]+)"', (ROOT / ".pre-commit-config.yaml").read_text()))
    checkers = {pin for pin in extras["dev"] if not pin.startswith("pre-commit==")}
    assert len(checkers) == 3
    assert checkers <= pinned
    types_from = {pin.partition("==")[0] for pin in pinned - checkers}
    wanted = {re.split(r"[=<>]", each)[0] for each in (*project["dependencies"], *TYPED_IN_TESTS)}
    assert types_from == wanted


def test_dependencies_are_explained() -> None:
    project = pyproject()["project"]
    assert isinstance(project, dict)
    headings = set(re.findall(r"^### (\S+)", (ROOT / "docs" / "dependencies.md").read_text(), re.MULTILINE))
    everything = [
        *project["dependencies"],
        *(each for extra in project["optional-dependencies"].values() for each in extra),
    ]
    assert headings == {re.split(r"[=<>\[]", each)[0] for each in everything}


SKIPS = {
    "a test": "import pytest\ndef test_x() -> None:\n    pytest.skip('no')\n",
    "a mark": "import pytest\n@pytest.mark.skip(reason='no')\ndef test_x() -> None: ...\n",
    "a condition": "import pytest\n@pytest.mark.skipif(True, reason='no')\ndef test_x() -> None: ...\n",
    "a module": "import pytest\npytest.importorskip('no_such_module')\ndef test_x() -> None: ...\n",
    "a fixture": "import pytest\n@pytest.fixture\ndef f(): pytest.skip('no')\ndef test_x(f) -> None: ...\n",
    "a parameter": "import pytest\n@pytest.mark.parametrize('x', [])\ndef test_x(x) -> None: ...\n",
}


@pytest.mark.parametrize("what", SKIPS)
def test_a_skip_is_a_failure_in_ci_and_only_there(what: str, tmp_path: Path) -> None:
    shutil.copy(ROOT / "tests" / "conftest.py", tmp_path)
    (tmp_path / "test_skipping.py").write_text(SKIPS[what])
    for in_ci, status in (("", 0), ("true", 1)):
        done = subprocess.run(
            [
                sys.executable,
                "-m",
                "pytest",
                "-q",
                "-p",
                "no:cacheprovider",
                "-c",
                os.devnull,
                "--rootdir",
                ".",
                ".",
            ],
            cwd=tmp_path,
            env={**os.environ, "CI": in_ci},
            capture_output=True,
            text=True,
            check=False,
        )
        # A module that skips itself leaves nothing to run: status 5 outside CI, an error in collection in CI.
        expected = {("a module", 0): 5, ("a module", 1): 2}.get((what, status), status)
        assert done.returncode == expected, done.stdout
        assert ("nothing is skipped in CI" in done.stdout) == bool(in_ci)


# What stays, and what is on the way of each start of a process: which modules must not come in, and how many may.
LEAN = {
    "gitrel.cli.supervisor": (
        {
            "cryptography",
            "dataclasses",
            "dulwich",
            "gitrel.cli.app",
            "gitrel.keys",
            "isal",
            "pyrage",
            "shutil",
            "subprocess",
            "tomllib",
            "traceback",
            "typer",
        },
        153,
    ),
    "gitrel.cli.executing": (
        {"gitrel.cli.app", "gitrel.run.pull", "gitrel.run.supervise", "gitrel.store.checkout", "gitrel.store.remote"}
        | {"dataclasses", "dulwich", "gitrel.store.pack", "inspect", "isal", "pyrage", "typer", "urllib3"},
        163,
    ),
}


@pytest.mark.parametrize("module", LEAN)
def test_what_has_to_be_lean(module: str) -> None:
    program = f"import sys, {module}; print(*sys.modules)"
    env = {"PYTHONPATH": str(ROOT), "PATH": os.environ["PATH"]}
    done = subprocess.run([sys.executable, "-c", program], env=env, check=True, capture_output=True, text=True)
    loaded, (unwanted, most) = set(done.stdout.split()), LEAN[module]
    assert loaded & unwanted == set()
    assert len(loaded) <= most
