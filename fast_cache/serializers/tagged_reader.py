"""From tagged JSON back to the value.

The tree comes from outside: an unknown tag, a class that this process does not have, or a body of the wrong shape is an
error, of whatever type; the codec makes a DecodeError of it. Instances are made without calling their classes.
"""

from __future__ import annotations

from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable, Mapping
from enum import Flag
from typing import Any, Final

from pydantic import BaseModel

from fast_cache.errors import DecodeError
from fast_cache.serializers.atoms import READERS
from fast_cache.serializers.kinds import Anatomy, Kind, anatomy_of, kind_of
from fast_cache.serializers.names import class_of
from fast_cache.serializers.plain import DEEPEST
from fast_cache.serializers.tagged_writer import FACTORIES

_DEEPEST_TREE: Final = 3 * DEEPEST + 2

_new = object.__new__
_set_dict = vars(BaseModel)["__dict__"].__set__
_set_fields_set = vars(BaseModel)["__pydantic_fields_set__"].__set__
_set_extra = vars(BaseModel)["__pydantic_extra__"].__set__
_set_private = vars(BaseModel)["__pydantic_private__"].__set__


class Reader:
    """Reads one tree, changing it on the way.

    ``names`` are those of its classes; ``classes`` are found by name before modules are looked into.
    """

    __slots__ = ("_classes", "_known", "_names")

    def __init__(self, classes: Mapping[str, type], names: list[str]) -> None:
        self._classes = classes
        self._names = names
        self._known: dict[int, tuple[str, type, Anatomy]] = {}

    def read(self, node: Any, depth: int = 0) -> Any:
        """Return the value that ``node`` stands for."""
        if type(node) is dict:
            if len(node) == 1:
                [tag] = node
                if tag[:1] == "$":
                    return self._tagged(tag, node[tag], depth + 1)
            return self._values(node, depth)
        return self._items(node, depth) if type(node) is list else node

    def _items(self, nodes: list[Any], depth: int) -> list[Any]:
        if type(nodes) is not list or depth > _DEEPEST_TREE:
            raise DecodeError("a list was expected, or the value is nested too deeply")
        read, depth = self.read, depth + 1
        for index, node in enumerate(nodes):
            cls = type(node)
            if cls is dict or cls is list:
                nodes[index] = read(node, depth)
        return nodes

    def _values(self, nodes: dict[str, Any], depth: int) -> dict[str, Any]:
        if type(nodes) is not dict or depth > _DEEPEST_TREE:
            raise DecodeError("an object was expected, or the value is nested too deeply")
        read, depth = self.read, depth + 1
        for name, node in nodes.items():
            cls = type(node)
            if cls is dict or cls is list:
                nodes[name] = read(node, depth)
        return nodes

    def _tagged(self, tag: str, body: Any, depth: int) -> Any:
        read_instance = _INSTANCES.get(tag)
        if read_instance is not None:
            index, parts, *more = body
            known = self._known.get(index)
            if known is None or known[0] != tag:
                known = self._known[index] = self._find(tag, self._names[index])
            return read_instance(self, known[1], known[2], parts, more, depth + 1)
        atom = READERS.get(tag)
        if atom is not None:
            return atom(body)
        container = _CONTAINERS.get(tag)
        if container is None:
            raise DecodeError("the payload has a tag that this version does not know")
        return container(self, body, depth)

    def _find(self, tag: str, name: str) -> tuple[str, type, Anatomy]:
        kind = Kind(tag)
        cls = self._classes.get(name)
        if cls is None or kind_of(cls) is not kind:
            cls = class_of(name, kind)
        anatomy = anatomy_of(cls)
        if anatomy is None:
            raise DecodeError("instances of the stored class can't be made")
        return tag, cls, anatomy

    def _pairs(self, body: list[Any], depth: int) -> zip[tuple[Any, Any]]:
        keys, values = body
        return zip(self._items(keys, depth), self._items(values, depth), strict=True)

    def _dict(self, body: list[Any], depth: int) -> dict[Any, Any]:
        return dict(self._pairs(body, depth))

    def _ordered(self, body: list[Any], depth: int) -> OrderedDict[Any, Any]:
        return OrderedDict(self._pairs(body, depth))

    def _counter(self, body: list[Any], depth: int) -> Counter[Any]:
        return Counter(dict(self._pairs(body, depth)))

    def _defaultdict(self, body: list[Any], depth: int) -> defaultdict[Any, Any]:
        name, *pairs = body
        return defaultdict(None if name is None else FACTORIES[name], self._pairs(pairs, depth))

    def _deque(self, body: list[Any], depth: int) -> deque[Any]:
        maxlen, items = body
        return deque(self._items(items, depth), maxlen)

    def _tuple(self, body: list[Any], depth: int) -> tuple[Any, ...]:
        return tuple(self._items(body, depth))

    def _set(self, body: list[Any], depth: int) -> set[Any]:
        return set(self._items(body, depth))

    def _frozenset(self, body: list[Any], depth: int) -> frozenset[Any]:
        return frozenset(self._items(body, depth))

    def _enum(self, cls: Any, anatomy: Anatomy, member: Any, more: list[Any], depth: int) -> Any:
        if isinstance(member, str):
            return cls.__members__[member]
        if not issubclass(cls, Flag):
            raise DecodeError("a member that has no name is stored, and the class is no Flag")
        return cls(self.read(member))

    def _model(self, cls: type, anatomy: Anatomy, state: Any, more: list[Any], depth: int) -> Any:
        state = self._values(state, depth)
        fields_set, extra, private = more or (None, None, None)
        model: Any = _new(cls)
        _set_dict(model, state)
        _set_fields_set(model, set(state if fields_set is None else fields_set))
        _set_extra(model, None if extra is None else self._values(extra, depth))
        _set_private(model, None if private is None else self._values(private, depth))
        return model

    def _dataclass(self, cls: type, anatomy: Anatomy, state: Any, more: list[Any], depth: int) -> Any:
        state = self._values(state, depth)
        instance: Any = _new(cls)
        for name in anatomy.slots:
            if name in state:
                object.__setattr__(instance, name, state.pop(name))
        if state:
            instance.__dict__.update(state)
        return instance

    def _namedtuple(self, cls: Any, anatomy: Anatomy, items: Any, more: list[Any], depth: int) -> Any:
        self._check_length(items, anatomy)
        return tuple.__new__(cls, self._items(items, depth))

    def _struct(self, cls: type, anatomy: Anatomy, items: Any, more: list[Any], depth: int) -> Any:
        self._check_length(items, anatomy)
        if anatomy.hooked:
            raise DecodeError("a struct with __post_init__ is not made from tags")
        return cls(**dict(zip(anatomy.fields, self._items(items, depth), strict=True)))

    @staticmethod
    def _check_length(items: Any, anatomy: Anatomy) -> None:
        if len(items) != len(anatomy.fields):
            raise DecodeError("the stored fields are not those of the class")


_CONTAINERS: Final[dict[str, Callable[[Reader, Any, int], Any]]] = {
    "$dict": Reader._dict,
    "$ordereddict": Reader._ordered,
    "$counter": Reader._counter,
    "$defaultdict": Reader._defaultdict,
    "$deque": Reader._deque,
    "$tuple": Reader._tuple,
    "$set": Reader._set,
    "$frozenset": Reader._frozenset,
}

_INSTANCES: Final[dict[str, Callable[[Reader, Any, Anatomy, Any, list[Any], int], Any]]] = {
    Kind.ENUM.value: Reader._enum,
    Kind.MODEL.value: Reader._model,
    Kind.DATACLASS.value: Reader._dataclass,
    Kind.NAMEDTUPLE.value: Reader._namedtuple,
    Kind.STRUCT.value: Reader._struct,
}
