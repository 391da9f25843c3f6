"""The standard library's values with parts, by exact type.

Lists and tuples keep their order; sets and dicts are sorted by the encodings of their members, so that the order of
insertion and ``PYTHONHASHSEED`` don't show; ``OrderedDict`` keeps its order because it compares by it. Iteration goes
through the builtin's own methods, so the encoders also serve subclasses that override theirs.
"""

from __future__ import annotations

from collections import OrderedDict, defaultdict, deque
from datetime import datetime, time, timezone
from types import MappingProxyType
from typing import Any, Final
from zoneinfo import ZoneInfo

from fast_cache.keys.times import encode_datetime, encode_time, encode_timezone, encode_zone_info
from fast_cache.keys.walk import Encoder, RefusalError, Walk

_FORMATS: Final = frozenset("cbB?hHiIlLqQnNefd")
"""Formats of ``struct`` whose bytes are the value; objects and pointers would put addresses into a key."""

_MEMBER: Final = "[...]"
"""How a path names what a set or a dict holds: keys are data, and data does not belong in an error's text."""


def _list(value: list[Any], walk: Walk) -> str:
    return f"[{walk.join(list(list.__iter__(value)))}]"


def _tuple(value: tuple[Any, ...], walk: Walk) -> str:
    return f"({walk.join(list(tuple.__iter__(value)))})"


def _deque(value: deque[Any], walk: Walk) -> str:
    return f"deque({walk.encode(value.maxlen)};{walk.join(list(deque.__iter__(value)))})"


def _set(value: set[Any], walk: Walk) -> str:
    return f"set({_members(list(set.__iter__(value)), walk)})"


def _frozenset(value: frozenset[Any], walk: Walk) -> str:
    return f"frozenset({_members(list(frozenset.__iter__(value)), walk)})"


def _members(members: list[Any], walk: Walk) -> str:
    walk.spend(len(members))
    try:
        return ",".join(sorted(map(walk.encode, members)))
    except RefusalError as refusal:
        refusal.within(_MEMBER)
        raise


def _dict(value: dict[Any, Any], walk: Walk) -> str:
    return f"dict({','.join(sorted(_pairs(list(dict.items(value)), walk)))})"


def _ordered_dict(value: OrderedDict[Any, Any], walk: Walk) -> str:
    return f"OrderedDict({','.join(_pairs(list(OrderedDict.items(value)), walk))})"


def _default_dict(value: defaultdict[Any, Any], walk: Walk) -> str:
    factory = walk.part("default_factory", value.default_factory)
    return f"defaultdict({factory};{','.join(sorted(_pairs(list(dict.items(value)), walk)))})"


def _mapping_proxy(value: MappingProxyType[Any, Any], walk: Walk) -> str:
    return f"mappingproxy({walk.encode(value.copy())})"


def _pairs(items: list[tuple[Any, Any]], walk: Walk) -> list[str]:
    walk.spend(len(items))
    try:
        return [f"{walk.encode(key)}={walk.encode(value)}" for key, value in items]
    except RefusalError as refusal:
        refusal.within(_MEMBER)
        raise


def _slice(value: slice, walk: Walk) -> str:
    return f"slice({walk.join([value.start, value.stop, value.step])})"


def _memoryview(value: memoryview, walk: Walk) -> str:
    if value.format.lstrip("@=<>!") not in _FORMATS:
        raise RefusalError("it is a memoryview of something else than plain numbers")
    return f"memoryview({walk.join([value.format, value.shape])},'{value.tobytes().hex()}')"


CONTAINERS: Final[dict[type, Encoder]] = {
    list: _list,
    tuple: _tuple,
    dict: _dict,
    set: _set,
    frozenset: _frozenset,
    datetime: encode_datetime,
    time: encode_time,
    timezone: encode_timezone,
    ZoneInfo: encode_zone_info,
    OrderedDict: _ordered_dict,
    defaultdict: _default_dict,
    MappingProxyType: _mapping_proxy,
    deque: _deque,
    slice: _slice,
    memoryview: _memoryview,
}
