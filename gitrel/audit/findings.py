"""Findings, collected: one fault is one finding.

What is merely built on a fault is listed in its `rests`, once, and judged by itself as far as it can be.
"""

from __future__ import annotations

from collections.abc import Iterator

from gitrel.audit.codes import Code, Severity
from gitrel.dataclass import dataclass, replace
from gitrel.trust.checks import Check


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One fault or fact.

    `check`: the number that refuses it, None where none does. `ref`: a ref's full name, or a file of the repository.
    `object`: the object, key or ref that it is about; `who`: people or a key, as far as signatures tell. `evidence`:
    ids to keep. `rests`: refs of the records that are built on it, or have the same fault by it.
    """

    code: Code
    check: Check | None
    ref: str
    object: str
    who: str
    what: str
    evidence: tuple[str, ...]
    rests: tuple[str, ...]
    advice: str

    @property
    def severity(self) -> Severity:
        return self.code.severity


class Findings:
    """Findings as they come in; the same fault of the same object is one, however many meet it."""

    def __init__(self) -> None:
        self._found: dict[tuple[Code, str], Finding] = {}
        self._rests: dict[tuple[Code, str], dict[str, None]] = {}
        self._by_object: dict[str, tuple[Code, str]] = {}

    def add(
        self,
        code: Code,
        ref: str,
        what: str,
        *,
        about: str = "",
        check: int | None = None,
        who: str = "",
        evidence: tuple[str, ...] = (),
        advice: str = "",
    ) -> tuple[Code, str]:
        """`about`: the object, key or ref whose fault it is; default: the ref. Returns what `rest_on` takes."""
        key = (code, about or ref)
        if key in self._found:
            return self.rest_on(key, ref)
        self._found[key] = Finding(
            code=code,
            check=Check(check) if check is not None else None,
            ref=ref,
            object=about,
            who=who,
            what=what,
            evidence=evidence,
            rests=(),
            advice=advice or code.advice,
        )
        if code.severity is Severity.ERROR:
            self._by_object.setdefault(about or ref, key)
        return key

    def rest_on(self, key: tuple[Code, str], ref: str) -> tuple[Code, str]:
        """One more record that is built on what was found."""
        if self._found[key].ref != ref:
            self._rests.setdefault(key, {})[ref] = None
        return key

    def error_of(self, about: str) -> tuple[Code, str] | None:
        """The first error that an object was found to have."""
        return self._by_object.get(about)

    def __iter__(self) -> Iterator[Finding]:
        """Errors first; then as they were found."""
        order = list(Severity)
        for key, finding in sorted(self._found.items(), key=lambda item: order.index(item[1].severity)):
            yield replace(finding, rests=tuple(self._rests.get(key, ())))
