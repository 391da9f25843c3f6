"""The classes that an annotation leads to: those it names, and those that their fields name in turn."""

from __future__ import annotations

import typing
from typing import Any, Literal, get_args, get_origin

from fast_cache.serializers.kinds import Kind, kind_of, resolved_fields_of


def classes_in(annotation: Any) -> dict[type, Kind]:
    """Every class of some kind that a value of type ``annotation`` may have an instance of, with its kind.

    Names that can't be looked up lead nowhere, and subclasses are unknown.
    """
    found: dict[type, Kind] = {}
    seen: set[int] = set()
    waiting = [annotation]
    while waiting:
        thing = waiting.pop()
        if id(thing) in seen:
            continue
        seen.add(id(thing))
        waiting += _named_by(thing, found)
    return found


def _named_by(thing: Any, found: dict[type, Kind]) -> list[Any]:
    if isinstance(thing, (list, tuple)):  # the parameters of a Callable
        return list(thing)
    origin = get_origin(thing)
    if origin is Literal:
        return [type(value) for value in get_args(thing)]
    if origin is not None:
        return [origin, *get_args(thing)]
    alias_of = getattr(thing, "__supertype__", None) or getattr(
        thing, "__value__", None
    )  # NewType, or ``type`` statement
    if alias_of is not None and not isinstance(thing, type):
        return [alias_of]
    if isinstance(thing, typing.TypeVar):
        return [thing.__bound__, *thing.__constraints__]
    kind = kind_of(thing) if isinstance(thing, type) else None
    if kind is None:
        return []
    found[thing] = kind
    return [annotation for _, annotation in resolved_fields_of(thing, kind)]
