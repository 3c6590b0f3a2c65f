"""`gitrel.dataclass` beside the standard library: the same classes made by both, and the same done to them."""

from __future__ import annotations

import ast
import dataclasses as standard
import importlib
import operator
import pkgutil
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, ClassVar, Generic, TypeVar

import pytest

import gitrel
from gitrel import dataclass as ours

T = TypeVar("T")
SOURCES = Path(gitrel.__file__).parent


def made_by(library: ModuleType) -> SimpleNamespace:
    """Classes with everything that gitrel's have, made by one of the two libraries."""
    define: Any = library.dataclass
    field: Any = library.field

    @define(frozen=True, slots=True)
    class Point:
        """By position."""

        x: int
        y: int = 0
        label: str = field(default="", compare=False)

    @define(frozen=True, slots=True)
    class Other:
        x: int
        y: int = 0
        label: str = ""

    @define(frozen=True, slots=True, kw_only=True)
    class Named(ABC):
        kind: ClassVar[str] = "none"
        name: str
        secret: bytes = field(default=b"", repr=False)
        notes: list[Any] = field(default_factory=list)

        @abstractmethod
        def rule(self) -> str: ...

    @define(frozen=True, slots=True, kw_only=True)
    class Checked(Named):
        kind: ClassVar[str] = "checked"
        count: int
        doubled: int = field(init=False, compare=False, repr=False)
        where: tuple[Any, ...] = ()

        def __post_init__(self) -> None:
            if self.count < 0:
                raise ValueError("below zero")
            object.__setattr__(self, "doubled", 2 * self.count)

        def rule(self) -> str:
            return f"{self.kind} {self.name}"

    @define(frozen=True, slots=True, order=True)
    class Version:
        major: int
        minor: int = 0

    @define(slots=True)
    class Draft:
        parts: dict[str, Any] = field(default_factory=dict)

    @define(frozen=True, slots=True)
    class Holder(Generic[T]):
        value: T

    @define(frozen=True, slots=True)
    class Spoken:
        text: str

        def __repr__(self) -> str:
            return self.text

    @define(frozen=True, slots=True)
    class Nothing:
        pass

    found = {name: each for name, each in locals().items() if isinstance(each, type)}
    return SimpleNamespace(**found, module=library)


BOTH = {name: made_by(library) for name, library in (("ours", ours), ("standard", standard))}


def assign(value: Any, name: str) -> None:
    setattr(value, name, 1)


def match(value: Any, kind: Any) -> object:
    match value:
        case kind(x, y):
            return (x, y)
        case _:
            return None


DONE: dict[str, Callable[[Any], object]] = {
    "by position": lambda c: c.Point(1, 2, "a"),
    "by name": lambda c: c.Point(x=1, label="a"),
    "both ways": lambda c: c.Point(1, y=3),
    "none missing": lambda c: c.Nothing(),
    "one missing": lambda c: c.Point(y=1),
    "one too many": lambda c: c.Point(1, 2, "a", 4),
    "one twice": lambda c: c.Point(1, x=1),
    "one unknown": lambda c: c.Point(1, z=1),
    "position where a name is wanted": lambda c: c.Checked("a", 1),
    "what is no argument": lambda c: c.Checked(name="a", count=1, doubled=2),
    "a base's field missing": lambda c: c.Checked(count=1),
    "abstract": lambda c: c.Named(name="a"),
    "a subclass": lambda c: c.Checked(name="a", count=1, secret=b"x", where=(1,)),
    "of a subclass": lambda c: (c.Checked(name="a", count=2).rule(), c.Checked(name="a", count=2).doubled),
    "refused by itself": lambda c: c.Checked(name="a", count=-1),
    "a default of its own": lambda c: c.Draft().parts is c.Draft().parts,
    "a default that was given": lambda c: c.Draft({"a": 1}),
    "generic": lambda c: c.Holder(1),
    "its own text": lambda c: c.Spoken("said"),
    "equal": lambda c: c.Point(1, 2, "a") == c.Point(1, 2, "b"),
    "unequal": lambda c: (c.Point(1) == c.Point(2), c.Point(1) != c.Point(2)),
    "equal to another class": lambda c: c.Point(1) == c.Other(1),
    "equal to a tuple": lambda c: c.Point(1, 2) == (1, 2),
    "nothing is equal": lambda c: c.Nothing() == c.Nothing(),
    "hashed": lambda c: len({c.Point(1), c.Point(1, label="a"), c.Point(2)}),
    "hashed, of lists": lambda c: hash(c.Checked(name="a", count=1)),
    "hashed, mutable": lambda c: hash(c.Draft()),
    "sorted": lambda c: sorted([c.Version(2), c.Version(1, 3), c.Version(1)]),
    "compared": lambda c: [f(c.Version(1), c.Version(1, 1)) for f in (operator.lt, operator.le, operator.gt)],
    "compared, equal": lambda c: [f(c.Version(1), c.Version(1)) for f in (operator.lt, operator.le, operator.ge)],
    "compared with another": lambda c: c.Version(1) < 1,
    "without order": lambda c: c.Point(1) < c.Point(2),
    "set, frozen": lambda c: assign(c.Point(1), "x"),
    "set, mutable": lambda c: assign(c.Draft(), "parts"),
    "set, mutable, no field": lambda c: assign(c.Draft(), "other"),
    "deleted": lambda c: delattr(c.Point(1), "x"),
    "without a dictionary": lambda c: vars(c.Point(1)),
    "matched": lambda c: match(c.Point(1, 2), c.Point),
    "what is matched": lambda c: [each.__match_args__ for each in (c.Point, c.Checked, c.Nothing)],
    "replaced": lambda c: c.module.replace(c.Checked(name="a", count=1), count=4).doubled,
    "replaced, checked": lambda c: c.module.replace(c.Checked(name="a", count=1), count=-1),
    "replaced, unknown": lambda c: c.module.replace(c.Point(1), z=1),
    "as a dictionary": lambda c: c.module.asdict(
        c.Checked(name="a", count=1, where=(c.Point(1), {"k": [c.Version(2)]}))
    ),
    "as a dictionary of its own": lambda c: c.module.asdict(d := c.Draft({"a": 1}))["parts"] is d.parts,
    "fields": lambda c: [(each.name, each.init, each.kw_only) for each in c.module.fields(c.Checked)],
    "fields of a value": lambda c: [each.name for each in c.module.fields(c.Point(1))],
    "whether it is one": lambda c: [c.module.is_dataclass(each) for each in (c.Point, c.Point(1), int, 1)],
    "one list for all": lambda c: c.module.field(default=[]) and c.module.dataclass(slots=True)(Shared),
    "documented": lambda c: (c.Point.__doc__, c.Point.__name__, c.Point.__qualname__, c.Point.__module__),
}


class Shared:
    items: list[int] = []  # noqa: RUF012 - a mistake on purpose


def outcome(done: Callable[[Any], object], classes: SimpleNamespace) -> object:
    try:
        return repr(done(classes))
    except (TypeError, AttributeError, ValueError) as error:
        return AttributeError if isinstance(error, AttributeError) else type(error)


@pytest.mark.parametrize("what", DONE)
def test_both_do_the_same(what: str) -> None:
    results = {name: outcome(DONE[what], classes) for name, classes in BOTH.items()}
    assert results["ours"] == results["standard"]


def test_a_mistake_says_what_is_wrong() -> None:
    point = BOTH["ours"].Point
    with pytest.raises(TypeError, match=r"Point.__init__\(\) got an unexpected keyword argument 'z'$"):
        point(z=1)
    with pytest.raises(AttributeError, match=r"Point is frozen, and so is its x$"):
        point(1).x = 2
    with pytest.raises(AttributeError, match=r"Point is frozen, and so is its z$"):  # a TypeError of Python 3.11's own
        point(1).z = 2
    with pytest.raises(TypeError, match="without slots"):
        ours.dataclass(slots=False)(Shared)


def test_the_standard_library_knows_ours() -> None:
    """Its `replace`, `asdict` and `fields` work on what is made here: a debugger's and a test's do."""
    found: Any = BOTH["ours"].Checked(name="a", count=1, where=(BOTH["ours"].Point(1),))
    assert bool(standard.is_dataclass(found))
    assert standard.asdict(found) == ours.asdict(found)
    assert standard.replace(found, count=2) == ours.replace(found, count=2)
    facts = operator.attrgetter("name", "init", "repr", "compare", "kw_only")
    assert [facts(each) for each in standard.fields(found)] == [
        facts(each) for each in standard.fields(BOTH["standard"].Checked)
    ]


def test_gitrel_makes_all_its_classes_so() -> None:
    importing = {
        path.relative_to(SOURCES).as_posix()
        for path in SOURCES.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if (isinstance(node, ast.ImportFrom) and node.module == "dataclasses")
        or (isinstance(node, ast.Import) and "dataclasses" in [each.name for each in node.names])
    }
    assert importing == {"dataclass.py"}


def test_every_class_of_gitrel_is_known_to_the_standard_library() -> None:
    count = 0
    for module in pkgutil.walk_packages([str(SOURCES)], "gitrel."):
        if not module.name.endswith("__main__"):
            for cls in vars(importlib.import_module(module.name)).values():
                if isinstance(cls, type) and "__fields__" in vars(cls):
                    count += 1
                    assert [each.name for each in ours.fields(cls)] == [each.name for each in standard.fields(cls)]
                    assert "__dict__" not in vars(cls)
    assert count > 150
