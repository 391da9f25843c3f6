"""Keys that need no text: a call with simple arguments is looked up by the arguments themselves.

Local memory keeps the entries of a function on a shelf of their own, under the value of its only parameter or a tuple
of values. Only exact types may stand there of which no two values are equal and mean different things, as ``0.0`` and
``-0.0`` or ``True`` and ``1`` do; ``bool`` may where a parameter is annotated so and takes nothing else. They are
small, because the entry keeps them alive. Text and slot of a call say the same, and either can be made from the other:
an entry is found by whoever has its text key, and none needs to keep it.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Hashable, Mapping
from types import NoneType
from typing import Any, Final, NamedTuple
from urllib.parse import unquote_to_bytes
from uuid import UUID
from weakref import WeakSet, WeakValueDictionary

from fast_cache.keys.compiling import MAX_ARGUMENTS
from fast_cache.keys.scalars import LEAVES

MAX_LENGTH: Final = 128
"""The longest text and bytes in a slot."""

MAX_INT: Final = 1 << 63

_TOKEN: Final = re.compile(
    r"(?P<int>-?\d{1,19})|(?P<word>True|False|None)|'(?P<str>[^']*)'|b'(?P<bytes>[0-9a-f]*)'|UUID\((?P<uuid>[0-9a-f]{32})\)"
)
_READERS: Final[dict[str, Callable[[str], Any]]] = {
    "int": int,
    "word": {"True": True, "False": False, "None": None}.__getitem__,
    "str": lambda text: unquote_to_bytes(text.encode("utf-8", "surrogatepass")).decode("utf-8", "surrogatepass"),
    "bytes": bytes.fromhex,
    "uuid": lambda text: UUID(hex=text),
}
RAW: Final[frozenset[type]] = frozenset({int, str, bytes, NoneType, UUID})
"""Types of which no value equals one of another type, nor another one of its own."""

FLAG: Final[frozenset[type]] = frozenset({bool, NoneType})
"""What stands for a parameter that is annotated ``bool``."""

_registering = threading.Lock()

_shapes: WeakValueDictionary[str, Shape] = WeakValueDictionary()
"""By the name of the shelf: its functions have one prefix and the same parameters, so they have the same slots."""

_prefixes: dict[str, WeakSet[Shape]] = {}


class Slot(NamedTuple):
    """Where local memory keeps a call: the name of the shelf of its function, and the key on it."""

    shelf: str
    key: Hashable


class Shape:
    """How the slots of one function lie: its prefix, and the parameters in its keys with the types they may have.

    :meth:`of` returns the same shape for functions of one name and the same parameters. ``shelf`` names where their
    entries lie: two functions of one name whose parameters differ mean different things by equal values.
    """

    __slots__ = ("__weakref__", "names", "prefix", "shelf", "types")

    def __init__(self, prefix: str, types: Mapping[str, frozenset[type]]) -> None:
        self.prefix = prefix
        self.names = tuple(types)
        self.types = tuple(types.values())
        self.shelf = _shelf_name(prefix, types)

    @classmethod
    def of(cls, prefix: str, types: Mapping[str, frozenset[type]]) -> Shape:
        """The shape of a function's slots."""
        with _registering:
            shape = _shapes.get(_shelf_name(prefix, types))
            if shape is None:
                shape = cls(prefix, types)
                _shapes[shape.shelf] = shape
                _prefixes.setdefault(prefix, WeakSet()).add(shape)
            return shape

    def slot(self, values: tuple[Any, ...]) -> Slot | None:
        """The slot of a call, from the values of the keyed parameters; ``None`` where the text has to serve."""
        for value, allowed in zip(values, self.types, strict=True):
            if type(value) not in allowed or not _is_small(value):
                return None
        slot = Slot(self.shelf, values[0] if len(values) == 1 else values)
        # A long argument part stands in the text key as its digest, from which no slot could be made.
        return slot if len(self.text(slot)) - len(self.prefix) <= MAX_ARGUMENTS else None

    def text(self, slot: Slot) -> str:
        """The text key of a slot."""
        values: Any = (slot.key,) if len(self.names) == 1 else slot.key
        encoded = (f"{name}={LEAVES[type(value)](value)}" for name, value in zip(self.names, values, strict=True))
        return self.prefix + ",".join(encoded)

    def parse(self, text: str) -> Slot | None:
        """The slot of a text key; ``None`` where it has none."""
        position = len(self.prefix)
        values: list[Any] = []
        for index, name in enumerate(self.names):
            start = f"{',' if index else ''}{name}="
            if not text.startswith(start, position):
                return None
            token = _TOKEN.match(text, position + len(start))
            if token is None or token.lastgroup is None:
                return None
            try:
                values.append(_READERS[token.lastgroup](token[token.lastgroup]))
            except ValueError:  # escapes that are no text, half a byte
                return None
            position = token.end()
        slot = self.slot(tuple(values))
        # Several spellings could be read as one value; only the one that is written counts.
        return slot if slot is not None and self.text(slot) == text else None


def address_of(text: str) -> Slot | str:
    """Where local memory keeps the entry of a text key: its slot if it is a function's and has one, else the text."""
    if not _prefixes:
        return text
    end = text.find(":", text.find(":") + 1) + 1  # name:version:
    for _ in range(2):
        if not end:
            break
        for shape in tuple(_prefixes.get(text[:end], ())):
            slot = shape.parse(text)
            if slot is not None:
                return slot
        end = text.find(":", end) + 1  # namespace:name:version:
    return text


def _shelf_name(prefix: str, types: Mapping[str, frozenset[type]]) -> str:
    return prefix + ",".join(f"{name}?" if allowed is FLAG else name for name, allowed in types.items())


def _is_small(value: Any) -> bool:
    if type(value) is int:
        return -MAX_INT < value < MAX_INT
    return not isinstance(value, (str, bytes)) or len(value) <= MAX_LENGTH
