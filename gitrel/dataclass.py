"""The standard library's `dataclass` and what belongs to it, as far as gitrel uses them, quick to make.

The standard library writes six methods of each class as source text and has each compiled at every start: half a
millisecond a class, up to Python 3.13 at least, and 6 ms for `inspect`. That was a third of `gitrel exec`. Here five of
them are closures over the names of the fields, and `__init__` is compiled when it is called first; to make a value is
no slower. Every class has slots, and its annotations are not evaluated (PEP 563). Type checkers see the standard
library's functions, and `tests/unit/test_dataclass.py` holds these beside them.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

__all__ = ["asdict", "dataclass", "field", "fields", "is_dataclass", "replace"]

T = TypeVar("T")
Key = Callable[[Any], Any]  # what a value is compared by
_MISSING: Any = object()
_ORDER = {f"__{name}__": getattr(operator, name) for name in ("lt", "le", "gt", "ge")}


class _Field:
    """One attribute of a class: its name, and what `field` was told."""

    def __init__(
        self,
        *,
        default: Any = _MISSING,
        default_factory: Callable[[], Any] | None = None,
        init: bool = True,
        repr: bool = True,  # noqa: A002 - the standard library's word
        compare: bool = True,
    ) -> None:
        if default.__hash__ is None:
            raise ValueError(f"every value would have the same {type(default).__name__}: use default_factory")
        self.default = default
        self.default_factory = default_factory
        self.init = init
        self.repr = repr
        self.compare = compare
        self.kw_only = False
        self.name = ""


def _dataclass(
    *, slots: bool, frozen: bool = False, kw_only: bool = False, order: bool = False
) -> Callable[[type[T]], type[T]]:
    if not slots:
        raise TypeError("without slots it is the standard library's")
    return lambda cls: _remake(cls, frozen=frozen, kw_only=kw_only, order=order)


def _remake(cls: type[T], *, frozen: bool, kw_only: bool, order: bool) -> type[T]:
    """The class made again, as only a new class can have slots. What it defines itself stays."""
    body = {name: each for name, each in vars(cls).items() if name not in ("__dict__", "__weakref__")}
    inherited = {each.name: each for base in cls.__mro__[:0:-1] for each in vars(base).get("__fields__", ())}
    own = _take_fields(body, kw_only)
    known = tuple((inherited | own).values())
    methods = _comparing(known, frozen=frozen, order=order) | {"__repr__": _representing(known)}
    if frozen:
        methods |= {"__setattr__": _refuse, "__delattr__": _refuse}
    parts = {
        "__slots__": tuple(name for name in own if name not in inherited),
        "__match_args__": tuple(each.name for each in known if each.init and not each.kw_only),
        "__fields__": known,
        "__dataclass_fields__": _StandardFields(),
    }
    metaclass: Any = type(cls)
    made = metaclass(cls.__name__, cls.__bases__, {**methods, **body, **parts})
    made.__qualname__ = cls.__qualname__
    made.__init__ = _initialising(made, [each for each in known if each.init])
    return made  # type: ignore[no-any-return]


def _take_fields(body: dict[str, Any], kw_only: bool) -> dict[str, _Field]:
    """The fields that a class's body declares; their defaults leave it, to make room for the slots."""
    found = {}
    for name, annotation in body.get("__annotations__", {}).items():
        if not annotation.startswith("ClassVar"):
            given = body.pop(name, _MISSING)
            found[name] = given if isinstance(given, _Field) else _Field(default=given)
            found[name].name, found[name].kw_only = name, kw_only
    return found


def _initialising(cls: Any, taken: Iterable[_Field]) -> Callable[..., None]:
    """`__init__`, compiled when the first value is made: of the classes that a command imports it uses a part."""

    def first(self: Any, /, *args: Any, **given: Any) -> None:
        cls.__init__ = _compiled(cls, taken)
        cls.__init__(self, *args, **given)

    return first


def _compiled(cls: Any, taken: Iterable[_Field]) -> Callable[..., None]:
    """What the standard library makes, but that the slots are set past `__setattr__`, which a frozen class refuses."""
    names: dict[str, Any] = {"_MISSING": _MISSING}
    head, lines = ["self"], ["pass"]
    for each in sorted(taken, key=lambda each: each.kw_only):
        if each.kw_only and "*" not in head:
            head.append("*")
        head.append(each.name)
        if each.default is not _MISSING:
            head[-1] += f"=_default_{each.name}"
        elif each.default_factory is not None:
            head[-1] += "=_MISSING"
            lines.append(f"if {each.name} is _MISSING: {each.name} = _make_{each.name}()")
        lines.append(f"_put_{each.name}(self, {each.name})")
        names[f"_default_{each.name}"] = each.default
        names[f"_make_{each.name}"] = each.default_factory
        names[f"_put_{each.name}"] = getattr(cls, each.name).__set__
    if hasattr(cls, "__post_init__"):
        lines.append("self.__post_init__()")
    exec(f"def __init__({', '.join(head)}):\n " + "\n ".join(lines), names)  # noqa: S102 - names of gitrel's own source
    names["__init__"].__qualname__ = f"{cls.__qualname__}.__init__"
    return names["__init__"]  # type: ignore[no-any-return]


def _comparing(known: Iterable[_Field], *, frozen: bool, order: bool) -> dict[str, Any]:
    compared = [each.name for each in known if each.compare]
    key = operator.attrgetter(*compared) if compared else lambda _: ()

    def hashed(self: object) -> int:
        return hash(key(self))

    found = {name: _comparison(key, compare) for name, compare in _ORDER.items()} if order else {}
    return {"__eq__": _comparison(key, operator.eq), "__hash__": hashed if frozen else None, **found}


def _comparison(key: Key, compare: Callable[[Any, Any], bool]) -> Callable[[object, object], bool]:
    def comparison(self: object, other: object) -> bool:
        return compare(key(self), key(other)) if other.__class__ is self.__class__ else NotImplemented

    return comparison


def _representing(known: Iterable[_Field]) -> Callable[[object], str]:
    names = [each.name for each in known if each.repr]

    def representation(self: object) -> str:
        return f"{type(self).__qualname__}({', '.join(f'{name}={getattr(self, name)!r}' for name in names)})"

    return representation


def _refuse(self: object, name: str, _value: object = None) -> None:
    raise AttributeError(f"{type(self).__qualname__} is frozen, and so is its {name}")


class _StandardFields:
    """`__dataclass_fields__`, made when somebody looks: the standard library's functions, a debugger, a test."""

    def __get__(self, _value: object, cls: Any) -> Mapping[str, Any]:
        from dataclasses import MISSING, field, make_dataclass

        found = []
        for each in cls.__fields__:
            default = MISSING if each.default is _MISSING else each.default
            factory: Any = each.default_factory or MISSING
            given = {name: getattr(each, name) for name in ("init", "repr", "compare", "kw_only")}
            found.append((each.name, Any, field(default=default, default_factory=factory, **given)))
        return vars(make_dataclass(cls.__name__, found))["__dataclass_fields__"]  # type: ignore[no-any-return]


def _fields(value: Any, /) -> tuple[_Field, ...]:
    return value.__fields__  # type: ignore[no-any-return]


def _replace(value: Any, /, **changes: Any) -> Any:
    kept = {each.name: getattr(value, each.name) for each in value.__fields__ if each.init}
    return type(value)(**kept | changes)


def _is_dataclass(value: object, /) -> bool:
    return hasattr(value, "__fields__")


def _asdict(value: Any, /) -> Any:
    """Inside of lists, tuples and dicts too; the rest as it is."""
    if isinstance(value, list | tuple):
        return type(value)([_asdict(each) for each in value])
    if isinstance(value, dict):
        return {_asdict(key): _asdict(each) for key, each in value.items()}
    return {each.name: _asdict(getattr(value, each.name)) for each in _fields(value)} if _is_dataclass(value) else value


if TYPE_CHECKING:
    from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
else:
    asdict, dataclass, field, fields, is_dataclass, replace = (
        _asdict,
        _dataclass,
        _Field,
        _fields,
        _is_dataclass,
        _replace,
    )
