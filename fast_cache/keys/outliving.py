"""Whether what a call holds is still good when the request is over that it was made for.

What a request opens and closes (a session, a connection, an upload, an open file) is looked for in the values
themselves and in what they hold: attributes, slots, the cells and defaults of functions, the items of small
containers. The search is bounded; what lies beyond the bounds is taken for a plain value. It runs no code of the
user's, and only calls ask for it that may be repeated behind their caller's back.
"""

from __future__ import annotations

import functools
import sys
from collections import deque
from collections.abc import Iterable, Iterator
from types import BuiltinMethodType, CellType, FunctionType, MethodType, ModuleType
from typing import Any, Final

from fast_cache.keys.classes import slots
from fast_cache.keys.roles import Role, ends_with_request, role_of_class
from fast_cache.keys.scalars import LEAVES

_DEPTH: Final = 4
"""How far from a value what it holds is looked for: a loader, its service, its repository, its session."""

_OBJECTS: Final = 200
"""How many objects are looked at for one call, and how many items a container may have to be looked into."""

_CONTAINERS: Final[tuple[Any, ...]] = (dict, list, tuple, set, frozenset, deque)

_PLAIN: Final = (*LEAVES, type, ModuleType)


def outlive_request(values: Iterable[Any]) -> bool:
    """Whether none of ``values``, and nothing that they hold, ends with the request for which it was made."""
    try:
        return not any(_ends(value) for value in _reached(values))
    except Exception:  # something can't be looked into; whoever asks can always do without
        return False


def _reached(values: Iterable[Any]) -> Iterator[Any]:
    """The values and what they hold, the nearest first."""
    waiting = deque((value, 0) for value in values)
    seen: set[int] = set()
    while waiting and len(seen) < _OBJECTS:
        value, depth = waiting.popleft()
        cls = type(value)  # not isinstance, which asks a proxy for the class of what it stands for
        if id(value) in seen or issubclass(cls, _PLAIN):
            continue
        seen.add(id(value))
        yield value
        if depth < _DEPTH and role_of_class(cls) is not Role.HANDLE:  # a client or an engine is not opened up
            waiting.extend((held, depth + 1) for held in _held(value, cls))


def _ends(value: Any) -> bool:
    if not ends_with_request(type(value)):
        return _is_attached(value)
    return not any(value is stream for stream in (sys.stdin, sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__))


def _is_attached(value: Any) -> bool:
    """Whether ``value`` is an SQLAlchemy (or SQLModel) row, which reads more from its session when it is asked."""
    state = _attributes(value).get("_sa_instance_state")
    return getattr(state, "session_id", None) is not None


def _held(value: Any, cls: type) -> Iterator[Any]:
    """What ``value`` holds, one step away."""
    if issubclass(cls, FunctionType):
        yield from value.__closure__ or ()
        yield from value.__defaults__ or ()
        yield from (value.__kwdefaults__ or {}).values()
        yield value.__dict__.get("__wrapped__")
    elif issubclass(cls, CellType):
        try:
            yield value.cell_contents
        except ValueError:  # not assigned yet
            return
    elif issubclass(cls, MethodType):
        yield value.__self__
        yield value.__func__
    elif issubclass(cls, BuiltinMethodType):
        yield value.__self__
    else:
        if issubclass(cls, functools.partial):
            yield value.func
            yield value.args
            yield value.keywords
        yield from _items(value, cls)
        if cls not in _CONTAINERS:
            yield from _attributes(value).values()
            yield from _slots(value, cls)


def _items(value: Any, cls: type) -> list[Any]:
    for kind in _CONTAINERS:
        if issubclass(cls, kind):
            if kind.__len__(value) > _OBJECTS:
                return []
            try:
                return list(dict.values(value) if kind is dict else kind.__iter__(value))
            except RuntimeError:  # another thread changes it
                return []
    return []


def _attributes(value: Any) -> dict[str, Any]:
    try:
        return dict(object.__getattribute__(value, "__dict__"))
    except Exception:  # it has none
        return {}


def _slots(value: Any, cls: type) -> Iterator[Any]:
    for name in slots(cls.__mro__):
        try:
            yield object.__getattribute__(value, name)
        except AttributeError:  # not assigned yet
            continue
