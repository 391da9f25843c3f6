"""From a value to the tree of dicts, lists and scalars that is its tagged JSON.

Only exact types pass; a subclass is another type, with a way of its own or none. Nothing of the value is changed, and
parts that are JSON already are handed on uncopied.
"""

from __future__ import annotations

from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable, Collection, Mapping
from enum import Flag
from math import isfinite
from types import NoneType
from typing import Any, Final

import orjson

from fast_cache.errors import EncodeError
from fast_cache.serializers.atoms import ATOMS
from fast_cache.serializers.kinds import Anatomy, Kind, anatomy_of, state_of
from fast_cache.serializers.names import name_of
from fast_cache.serializers.plain import DEEPEST, SCALARS, TEXT

FACTORIES: Final = {factory.__name__: factory for factory in (bool, bytes, dict, float, int, list, set, str, tuple)}
"""The default factories that a stored defaultdict may have."""

_SURELY_JSON: Final = frozenset({NoneType, bool})


class Writer:
    """Writes one value.

    ``names`` are the names of classes that need not be found through modules. ``careful`` looks at each int and text.
    """

    __slots__ = ("_careful", "_json", "_known", "_names", "_used")

    def __init__(self, names: Mapping[type, str], *, careful: bool = False) -> None:
        self._names = names
        self._used: list[str] = []
        self._known: dict[type, tuple[str, int, Anatomy, _WriteInstance]] = {}
        self._careful = careful
        self._json = _SURELY_JSON if careful else SCALARS

    def dump(self, value: Any) -> bytes:
        """Return the names of the classes and the tree of ``value``, as JSON.

        Raises:
            EncodeError: some part can't be stored exactly, or lies deeper than 64 levels.
            orjson.JSONEncodeError: a number or text that only a careful writer sees.
        """
        tree = self.write(value)
        return orjson.dumps((self._used, tree))

    def write(self, value: Any, depth: int = 0) -> Any:
        """Return the tree of ``value``."""
        cls = type(value)
        if cls in self._json:
            return value
        if cls is dict:
            return self._dict(value, depth)
        if cls is list:
            return self._items(value, depth)
        if cls is float and isfinite(value):
            return value
        if self._careful and ((cls is int and -(2**63) <= value < 2**64) or (cls is str and _is_unicode(value))):
            return value
        atom = ATOMS.get(cls)
        if atom is not None:
            return {atom.tag: atom.write(value)}
        container = _CONTAINERS.get(cls)
        if container is not None:
            return container(self, value, depth)
        known = self._known.get(cls)
        if known is None:
            known = self._known[cls] = self._learn(cls)
        tag, index, anatomy, write_instance = known
        return {tag: write_instance(self, value, index, anatomy, depth)}

    def _items(self, values: Collection[Any], depth: int) -> Collection[Any]:
        _check(depth)
        if self._json.issuperset(map(type, values)):
            return values
        plain, write, depth = self._json, self.write, depth + 1
        return [value if type(value) in plain else write(value, depth) for value in values]

    def _values(self, parts: dict[str, Any], depth: int) -> dict[str, Any]:
        """Attributes by name: where they stand, nothing looks like a tag."""
        _check(depth)
        if self._json.issuperset(map(type, parts.values())):
            return parts
        plain, write, depth = self._json, self.write, depth + 1
        return {name: part if type(part) in plain else write(part, depth) for name, part in parts.items()}

    def _dict(self, value: dict[Any, Any], depth: int) -> dict[str, Any]:
        if self._is_object(value):
            return self._values(value, depth)
        return {"$dict": self._pairs(value, depth)}

    def _is_object(self, value: dict[Any, Any]) -> bool:
        """Whether the dict is a JSON object that no reader takes for a tag."""
        if not TEXT.issuperset(map(type, value)) or (self._careful and not all(map(_is_unicode, value))):
            return False
        return len(value) != 1 or next(iter(value))[:1] != "$"

    def _pairs(self, value: Mapping[Any, Any], depth: int) -> list[Any]:
        return [self._items(list(value), depth), self._items(list(value.values()), depth)]

    def _ordered(self, value: OrderedDict[Any, Any], depth: int) -> Any:
        return {"$ordereddict": self._pairs(_bare(value), depth)}

    def _counter(self, value: Counter[Any], depth: int) -> Any:
        return {"$counter": self._pairs(_bare(value), depth)}

    def _defaultdict(self, value: defaultdict[Any, Any], depth: int) -> Any:
        factory: Any = value.default_factory
        name = None if factory is None else getattr(factory, "__name__", "")
        if name is not None and FACTORIES.get(name) is not factory:
            raise EncodeError("a defaultdict can be stored only if its factory is a built-in type; return a plain dict")
        return {"$defaultdict": [name, *self._pairs(value, depth)]}

    def _deque(self, value: deque[Any], depth: int) -> Any:
        return {"$deque": [value.maxlen, self._items(list(value), depth)]}

    def _tuple(self, value: tuple[Any, ...], depth: int) -> Any:
        return {"$tuple": self._items(value, depth)}

    def _set(self, value: set[Any], depth: int) -> Any:
        return {"$set": self._items(list(value), depth)}

    def _frozenset(self, value: frozenset[Any], depth: int) -> Any:
        return {"$frozenset": self._items(list(value), depth)}

    def _learn(self, cls: type) -> tuple[str, int, Anatomy, _WriteInstance]:
        anatomy = anatomy_of(cls)
        if anatomy is None:
            raise EncodeError(
                f"a value of type {cls.__module__}.{cls.__qualname__} can't be stored so that it comes back the same; "
                "return built-in types, dataclasses, Pydantic models or msgspec structs"
            )
        self._used.append(self._names.get(cls) or name_of(cls))
        return anatomy.kind.value, len(self._used) - 1, anatomy, _INSTANCES[anatomy.kind]

    def _enum(self, value: Any, index: int, anatomy: Anatomy, depth: int) -> list[Any]:
        cls = type(value)
        if cls.__members__.get(value._name_) is value:
            return [index, value._name_]
        bits = value._value_
        if issubclass(cls, Flag) and type(bits) is int and cls(bits) is value:
            return [index, self.write(bits)]  # flags that were combined have no name of their own
        raise EncodeError(f"a member of {cls.__qualname__} can't be found again by its name")

    def _model(self, value: Any, index: int, anatomy: Anatomy, depth: int) -> list[Any]:
        state = state_of(value, anatomy)
        fields_set = value.__pydantic_fields_set__
        extra, private = value.__pydantic_extra__, value.__pydantic_private__
        tree: list[Any] = [index, self._values(state, depth)]
        if fields_set != state.keys() or extra is not None or private is not None:
            tree.append(None if fields_set == state.keys() else list(fields_set))
            tree.append(None if extra is None else self._values(extra, depth))
            tree.append(None if private is None else self._values(private, depth))
        return tree

    def _dataclass(self, value: Any, index: int, anatomy: Anatomy, depth: int) -> list[Any]:
        return [index, self._values(state_of(value, anatomy), depth)]

    def _namedtuple(self, value: Any, index: int, anatomy: Anatomy, depth: int) -> list[Any]:
        return [index, self._items(tuple(_bare(value)), depth)]

    def _struct(self, value: Any, index: int, anatomy: Anatomy, depth: int) -> list[Any]:
        if anatomy.hooked:
            raise EncodeError(
                f"{type(value).__qualname__} has a __post_init__, so it is stored only by functions whose return "
                "annotation names it"
            )
        return [index, self._items([getattr(_bare(value), field) for field in anatomy.fields], depth)]


_WriteInstance = Callable[[Writer, Any, int, Anatomy, int], list[Any]]

_CONTAINERS: Final[dict[type, Callable[[Writer, Any, int], Any]]] = {
    tuple: Writer._tuple,
    set: Writer._set,
    frozenset: Writer._frozenset,
    deque: Writer._deque,
    OrderedDict: Writer._ordered,
    Counter: Writer._counter,
    defaultdict: Writer._defaultdict,
}

_INSTANCES: Final[dict[Kind, _WriteInstance]] = {
    Kind.ENUM: Writer._enum,
    Kind.MODEL: Writer._model,
    Kind.DATACLASS: Writer._dataclass,
    Kind.NAMEDTUPLE: Writer._namedtuple,
    Kind.STRUCT: Writer._struct,
}


def _check(depth: int) -> None:
    if depth >= DEEPEST:
        raise EncodeError(f"a value that is nested deeper than {DEEPEST} levels, or contains itself, can't be stored")


def _bare(value: Any) -> Any:
    """``value``, if it has no attributes beside its content: they would be lost."""
    if getattr(value, "__dict__", None):
        raise EncodeError(f"a {type(value).__qualname__} with attributes of its own can't be stored")
    return value


def _is_unicode(text: str) -> bool:
    """Whether ``text`` has no lone surrogates, which UTF-8 and so JSON can't hold."""
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
