"""Slots of methods: a shape for each class that a method is bound to.

The text key names the class of the instance, or the class itself, and the slot does not: it stands on a shelf of the
class. What a ``__cache_key__()`` returns is the first value of the slot, where it is simple.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final
from weakref import WeakKeyDictionary

from fast_cache.keys.classes import defines, importable, label
from fast_cache.keys.objects import CACHE_KEY
from fast_cache.keys.slots import Owner, Shape, Slot

_NOT_DEFINED: Final = object()


class OwnerShapes:
    """The shapes of one method.

    Args:
        prefix: what its keys begin with.
        name: the parameter that takes the instance or the class.
        types: the other parameters in its keys, with the types that may stand in a slot.
        of_classes: whether it is the class that is bound.
        encode: what writes the instance or class into a key.
    """

    def __init__(
        self,
        prefix: str,
        name: str,
        types: Mapping[str, frozenset[type]],
        *,
        of_classes: bool,
        encode: Callable[[Any], str],
    ) -> None:
        self._prefix = prefix
        self._name = name
        self._types = types
        self.of_classes = of_classes
        self._encode = encode
        self._known: WeakKeyDictionary[type, Shape] = WeakKeyDictionary()

    def holder(self, owner: Any) -> type | None:
        """The class on whose shelf the calls of ``owner`` lie; ``None`` if it is bound to no such thing."""
        if not self.of_classes:
            return type(owner)
        return owner if isinstance(owner, type) else None

    def shape(self, holder: type) -> Shape | None:
        """The shape for a class; ``None`` if its calls have text keys only."""
        shape = self._known.get(holder)
        if shape is None:
            owner = self._class(holder) if self.of_classes else self._instance(holder)
            if owner is not None:
                shape = self._known[holder] = Shape.of(self._prefix, self._types, owner)
        return shape

    def slot(self, owner: Any, values: tuple[Any, ...]) -> Slot | None:
        """The slot of a call, from what it is bound to and the values of the other parameters."""
        holder = self.holder(owner)
        shape = self.shape(holder) if holder is not None else None
        if shape is None:
            return None
        if self.of_classes:
            return shape.slot(values)
        try:
            given = getattr(owner, CACHE_KEY)
            return shape.slot((given() if callable(given) else given, *values))
        except Exception:  # whoever makes the text will meet it again, and name the parameter
            return None

    def _class(self, cls: type) -> Owner | None:
        if not importable(cls) or defines(type(cls), CACHE_KEY):
            return None
        return Owner(f"{self._name}={self._encode(cls)}")

    def _instance(self, cls: type) -> Owner | None:
        given = next((vars(base)[CACHE_KEY] for base in cls.__mro__ if CACHE_KEY in vars(base)), _NOT_DEFINED)
        if given is _NOT_DEFINED or not _is_method(given) or issubclass(cls, type):
            return None
        return Owner(f"{self._name}={label(cls)}(!", ")")


def _is_method(given: object) -> bool:
    return callable(given) or isinstance(given, (staticmethod, classmethod))
