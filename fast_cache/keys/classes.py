"""Names of classes and functions, and what a class descends from, without importing anything.

A class's label is ``module.Outer+Inner``: the last dot ends the module, so no two pairs of module and qualified
name share one. Ancestry is a set of (top-level package, class name), which recognises the classes of libraries that
may not be installed, and their subclasses.
"""

from __future__ import annotations

import functools
import itertools
import secrets
import sys
import threading
from typing import Any, Final
from weakref import WeakKeyDictionary

from fast_cache.keys.text import escape_name

_PROCESS: Final = secrets.token_hex(8)
_numbering = threading.Lock()
_numbers: WeakKeyDictionary[type, int] = WeakKeyDictionary()
_next_number: Final = itertools.count(1)


def label(named: Any) -> str:
    """Return the name of a class or function as it stands in a key."""
    return f"{escape_name(named.__module__)}.{escape_name(named.__qualname__).replace('.', '+')}"


def ancestry(cls: type) -> frozenset[tuple[str, str]]:
    """Return (top-level package, class name) of the class and of everything that it inherits from."""
    return frozenset((str(base.__module__).partition(".")[0], base.__name__) for base in cls.__mro__)


def defines(cls: type, attribute: str) -> bool:
    """Whether the class or one of its bases has the attribute, metaclasses and ``__getattr__`` not asked."""
    return any(attribute in vars(base) for base in cls.__mro__)


def importable(named: Any) -> bool:
    """Whether a class or function is what its module holds under its name, so that the name stands for it."""
    module, qualname = getattr(named, "__module__", None), getattr(named, "__qualname__", None)
    if not isinstance(module, str) or not isinstance(qualname, str) or module not in sys.modules:
        return False
    found: Any = sys.modules[module]
    for name in qualname.split("."):
        found = getattr(found, name, None)
    return found is named


def process_label(cls: type) -> str:
    """Return a name for a class that can't be found by its own: the same in this process, found in no other.

    Two classes made by one function share module and qualified name and may differ in everything else.
    """
    number = _numbers.get(cls)
    if number is None:
        with _numbering:
            number = _numbers.get(cls)
            if number is None:
                number = _numbers[cls] = next(_next_number)
    return f"{label(cls)}~{_PROCESS}.{number}"


def cached_properties(cls: type) -> frozenset[str]:
    """Return the names that a ``cached_property`` writes into the instance: derived, so no part of its state."""
    return frozenset(
        name
        for base in cls.__mro__
        for name, member in vars(base).items()
        if isinstance(member, functools.cached_property)
    )


def slots(classes: tuple[type, ...]) -> frozenset[str]:
    """Return the attribute names that the classes declare in ``__slots__``, mangled as the compiler does."""
    names: set[str] = set()
    for cls in classes:
        declared = vars(cls).get("__slots__", ())
        for name in (declared,) if isinstance(declared, str) else declared:
            if name in {"__dict__", "__weakref__"}:
                continue
            private = name.startswith("__") and not name.endswith("__")
            names.add(f"_{cls.__name__.lstrip('_')}{name}" if private else name)
    return frozenset(names)
