"""Whether two values are the same: value and exact type, all the way down.

Stricter than ``==``, which takes ``1`` for ``True``, ``0.0`` for ``-0.0``, one order of keys or one time zone for
another; and NaN is the same as NaN. What it has not been taught is never the same, unless it is one object. It decides
whether what a codec gives back is what the codec was given.
"""

from __future__ import annotations

from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable, Collection, Mapping
from datetime import date, datetime, time, timedelta, timezone, tzinfo
from decimal import Decimal
from fractions import Fraction
from math import copysign
from types import NoneType
from typing import Any, Final
from uuid import UUID
from zoneinfo import ZoneInfo

from pydantic import SecretBytes, SecretStr
from pydantic_core import TzInfo

from fast_cache.serializers.atoms import IN_WORDS
from fast_cache.serializers.kinds import Kind, anatomy_of, state_of


def same(one: Any, other: Any) -> bool:
    """Whether nobody could tell ``one`` from ``other``, except by identity."""
    if one is other:
        return True
    cls = type(one)
    if cls is not type(other):
        return False
    if cls in _BY_EQUALITY:
        return bool(one == other)
    compare = _COMPARISONS.get(cls)
    return compare(one, other) if compare is not None else _instances(one, other)


def _floats(one: float, other: float) -> bool:
    if one == other:
        return one != 0 or copysign(1.0, one) == copysign(1.0, other)
    return one != one and other != other


def _complexes(one: complex, other: complex) -> bool:
    return _floats(one.real, other.real) and _floats(one.imag, other.imag)


def _in_words(one: Any, other: Any) -> bool:
    return str(one) == str(other)


def _moments(one: datetime | time, other: datetime | time) -> bool:
    # As shown on the clock: aware times that are equal may be written in different zones.
    return (
        one.fold == other.fold
        and one.replace(tzinfo=None) == other.replace(tzinfo=None)
        and same(one.tzinfo, other.tzinfo)
    )


def _zones(one: tzinfo, other: tzinfo) -> bool:
    return repr(one) == repr(other)  # all that the three known kinds of zones consist of


def _secrets(one: Any, other: Any) -> bool:
    return same(one.get_secret_value(), other.get_secret_value())


def _sequences(one: Collection[Any], other: Collection[Any]) -> bool:
    return len(one) == len(other) and all(map(same, one, other))


def _deques(one: deque[Any], other: deque[Any]) -> bool:
    return one.maxlen == other.maxlen and _sequences(one, other)


def _sets(one: Collection[Any], other: Collection[Any]) -> bool:
    if len(one) != len(other):
        return False
    twins = {item: item for item in other}
    strangers = []
    for item in one:
        if item in twins:
            if not same(item, twins.pop(item)):
                return False
        else:
            strangers.append(item)  # NaN, or something that contains it: equal to none
    left = list(twins.values())
    for item in strangers:
        found = next((index for index, twin in enumerate(left) if same(item, twin)), None)
        if found is None:
            return False
        del left[found]
    return True


def _mappings(one: Mapping[Any, Any], other: Mapping[Any, Any]) -> bool:
    return len(one) == len(other) and all(map(same, one, other)) and all(map(same, one.values(), other.values()))


def _defaultdicts(one: defaultdict[Any, Any], other: defaultdict[Any, Any]) -> bool:
    return one.default_factory is other.default_factory and _mappings(one, other)


def _attributed(compare: Callable[[Any, Any], bool]) -> Callable[[Any, Any], bool]:
    """For types whose instances may have attributes beside their content."""
    return lambda one, other: compare(one, other) and _attributes(one.__dict__, other.__dict__)


def _attributes(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Attributes by name; their order is nobody's business."""
    if one.keys() != other.keys():
        return False
    for name, part in one.items():
        twin = other[name]
        cls = type(part)
        if cls in _BY_EQUALITY and cls is type(twin):  # as in same(), without the call: most attributes are such
            if part != twin:
                return False
        elif not same(part, twin):
            return False
    return True


def _instances(one: Any, other: Any) -> bool:
    anatomy = anatomy_of(type(one))
    if anatomy is None or anatomy.kind is Kind.ENUM:  # two members are two, or they would be one object
        return False
    if anatomy.kind is Kind.MODEL:
        return (
            one.__pydantic_fields_set__ == other.__pydantic_fields_set__
            and _attributes(state_of(one, anatomy), state_of(other, anatomy))
            and same(one.__pydantic_extra__, other.__pydantic_extra__)
            and same(one.__pydantic_private__, other.__pydantic_private__)
        )
    if anatomy.kind is Kind.DATACLASS:
        return _attributes(state_of(one, anatomy), state_of(other, anatomy))
    fields = all(same(getattr(one, field), getattr(other, field)) for field in anatomy.fields)
    return fields and _attributes(getattr(one, "__dict__", {}), getattr(other, "__dict__", {}))


_BY_EQUALITY: Final = frozenset({NoneType, bool, int, str, bytes, bytearray, date, timedelta, Fraction, UUID})

_COMPARISONS: Final[dict[type, Callable[[Any, Any], bool]]] = {
    float: _floats,
    complex: _complexes,
    Decimal: _in_words,
    datetime: _moments,
    time: _moments,
    timezone: _zones,
    TzInfo: _zones,
    ZoneInfo: _zones,
    SecretStr: _secrets,
    SecretBytes: _secrets,
    list: _sequences,
    tuple: _sequences,
    deque: _deques,
    set: _sets,
    frozenset: _sets,
    dict: _mappings,
    OrderedDict: _attributed(_mappings),
    Counter: _attributed(_mappings),
    defaultdict: _defaultdicts,
    **dict.fromkeys(IN_WORDS, _in_words),
}
