"""Keys that need no text: a call with simple arguments is looked up by the arguments themselves.

Local memory keeps the entries of a function on a shelf of their own, under the value of its only parameter or a tuple
of values. Only exact types may stand there of which no two values are equal and mean different things, as ``0.0`` and
``-0.0`` or ``True`` and ``1`` do; ``bool`` may where a parameter is annotated so and takes nothing else. They are
small, because the entry keeps them alive. Text and slot of a call say the same, and either can be made from the other:
an entry is found by whoever has its text key, and none needs to keep it.
"""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Callable, Hashable, Mapping
from types import NoneType
from typing import Any, Final, NamedTuple
from urllib.parse import unquote_to_bytes
from uuid import UUID
from weakref import WeakValueDictionary, ref

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

_registering = threading.RLock()  # garbage collected in here may run code of the user's that decorates

_shapes: WeakValueDictionary[str, Shape] = WeakValueDictionary()
"""By the name of the shelf: its functions have one prefix and the same parameters, so they have the same slots."""

_prefixes: WeakValueDictionary[str, Family] = WeakValueDictionary()
"""What is asked for the shapes of a text key. A shape keeps its family, so one ends with the last of its shapes."""


class Slot(NamedTuple):
    """Where local memory keeps a call: the name of the shelf of its function, and the key on it."""

    shelf: str
    key: Hashable


class Owner(NamedTuple):
    """What a key says of the instance or class that a method is bound to, if that is one of a certain class.

    The text ``before`` and ``after`` the ``__cache_key__`` of an instance, which comes first in the slot; or, where
    there is none (``after`` is ``None``), the whole text.
    """

    before: str
    after: str | None = None


class Kin:
    """The shapes of one family whose texts begin alike."""

    __slots__ = ("__weakref__", "family", "shapes")

    def __init__(self, family: Family) -> None:
        self.family = family
        self.shapes: tuple[ref[Shape], ...] = ()

    def join(self, shape: Shape) -> None:
        # Replaced, never changed: it is read without the lock.
        self.shapes = (*(known for known in self.shapes if known() is not None), ref(shape))


class Family:
    """The shapes of one prefix, by what stands between it and the first value.

    A method that is bound to many classes has as many shapes. A text is asked once for each length of these beginnings,
    which is as long as the names of the classes are different, and not for each class.
    """

    __slots__ = ("__weakref__", "kins", "lengths")

    def __init__(self) -> None:
        self.kins: WeakValueDictionary[str, Kin] = WeakValueDictionary()
        self.lengths: tuple[int, ...] = ()

    def kin(self, beginning: str) -> Kin:
        """Those whose texts begin so."""
        kin = self.kins.get(beginning)
        if kin is None:
            kin = self.kins[beginning] = Kin(self)
            if len(beginning) not in self.lengths:
                self.lengths = (*self.lengths, len(beginning))
        return kin

    def parse(self, text: str, position: int) -> Slot | None:
        """The slot of a text whose prefix ends at ``position``; ``None`` where it has none."""
        for length in self.lengths:
            kin = self.kins.get(text[position : position + length])
            for known in kin.shapes if kin is not None else ():
                shape = known()
                slot = shape.parse(text) if shape is not None else None
                if slot is not None:
                    return slot
        return None


class Shape:
    """How the slots of one function lie: what its keys say before each value, and which types the value may have.

    :meth:`of` returns the same shape for functions of one name and the same parameters. ``shelf`` names where their
    entries lie: two functions of one name whose parameters differ mean different things by equal values. A method has
    a shape for each class that it is bound to.
    """

    __slots__ = ("__weakref__", "_befores", "_end", "_kin", "_types", "prefix", "shelf")

    def __init__(self, prefix: str, types: Mapping[str, frozenset[type]], owner: Owner | None = None) -> None:
        self.prefix = prefix
        befores: list[str] = []
        allowed: list[frozenset[type]] = []
        pending = ""
        if owner is not None:
            pending = owner.before
            if owner.after is not None:
                befores.append(pending)
                allowed.append(RAW)
                pending = owner.after
        for index, (name, these) in enumerate(types.items()):
            befores.append(f"{pending}{',' if index or owner is not None else ''}{name}=")
            allowed.append(these)
            pending = ""
        self._befores = tuple(befores)
        self._types = tuple(allowed)
        self._end = pending
        self._kin: Kin | None = None
        kinds = ("?" if these is FLAG else "*" for these in allowed)
        self.shelf = prefix + "".join(map("".join, zip(befores, kinds, strict=True))) + self._end

    @classmethod
    def of(cls, prefix: str, types: Mapping[str, frozenset[type]], owner: Owner | None = None) -> Shape:
        """The shape of a function's slots.

        Args:
            prefix: what its keys begin with.
            types: the parameters in its keys after the owner, with the types that their values may have.
            owner: what its keys say of the instance or class that it is bound to.
        """
        made = cls(prefix, types, owner)
        with _registering:
            shape = _shapes.get(made.shelf)
            if shape is None:
                shape = _shapes[made.shelf] = made
                family = _prefixes.get(prefix)
                if family is None:
                    family = _prefixes[prefix] = Family()
                shape._kin = family.kin(shape._befores[0] if shape._befores else shape._end)
                shape._kin.join(shape)
            return shape

    def slot(self, values: tuple[Any, ...]) -> Slot | None:
        """The slot of a call, from the values in its key; ``None`` where the text has to serve."""
        for value, allowed in zip(values, self._types, strict=True):
            if type(value) not in allowed or not _is_small(value):
                return None
        slot = Slot(self.shelf, values[0] if len(values) == 1 else values)
        # A long argument part stands in the text key as its digest, from which no slot could be made.
        return slot if len(self.text(slot)) - len(self.prefix) <= MAX_ARGUMENTS else None

    def text(self, slot: Slot) -> str:
        """The text key of a slot."""
        values: Any = (slot.key,) if len(self._befores) == 1 else slot.key
        encoded = (f"{before}{LEAVES[type(value)](value)}" for before, value in zip(self._befores, values, strict=True))
        return f"{self.prefix}{''.join(encoded)}{self._end}"

    def parse(self, text: str) -> Slot | None:
        """The slot of a text key; ``None`` where it has none."""
        position = len(self.prefix)
        values: list[Any] = []
        for before in self._befores:
            if not text.startswith(before, position):
                return None
            token = _TOKEN.match(text, position + len(before))
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
    end = text.find(":", text.find(":") + 1) + 1  # name:version:
    for _ in range(2):
        if not end:
            break
        family = _prefixes.get(text[:end])
        slot = family.parse(text, end) if family is not None else None
        if slot is not None:
            return slot
        end = text.find(":", end) + 1  # namespace:name:version:
    return text


def text_of(address: Hashable) -> str:
    """The text key of an address."""
    return _shapes[address.shelf].text(address) if isinstance(address, Slot) else str(address)


def _after_fork() -> None:
    global _registering
    _registering = threading.RLock()


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_after_fork)


def _is_small(value: Any) -> bool:
    if type(value) is int:
        return -MAX_INT < value < MAX_INT
    return not isinstance(value, (str, bytes)) or len(value) <= MAX_LENGTH
