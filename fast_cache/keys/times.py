"""Times and their zones.

Two datetimes of one instant are one key only if a function can't tell them apart: wall-clock text, UTC offset, fold
and the zone's name all count (``ZoneInfo("UTC")`` and ``timezone.utc`` differ by name). Fixed offsets without a name
of their own count as one zone, whoever made them: the standard library, or Pydantic when it parsed a request.
"""

from __future__ import annotations

from datetime import UTC, datetime, time, timedelta, timezone, tzinfo
from types import NoneType
from typing import Final
from zoneinfo import ZoneInfo

from fast_cache.keys.classes import ancestry, label
from fast_cache.keys.text import quote
from fast_cache.keys.walk import RefusalError, Walk

_PYDANTIC_OFFSET = ("pydantic_core", "TzInfo")


STANDARD_ZONES: Final = frozenset({NoneType, timezone, ZoneInfo})
"""The exact types of ``tzinfo`` that run no code of the user's."""


def encode_datetime(value: datetime, walk: Walk | None = None) -> str:
    zone = value.tzinfo
    if (zone is None or zone is UTC) and not value.fold:
        return f"datetime({datetime.isoformat(value)})"  # the usual ones, three calls less
    return f"datetime({datetime.isoformat(value)}{_fold(value)}{_zone(value)})"


def encode_time(value: time, walk: Walk) -> str:
    return f"time({time.isoformat(value)}{_fold(value)}{_zone(value)})"


def encode_timezone(value: timezone, walk: Walk) -> str:
    offset: timedelta = value.utcoffset(None)
    return f"timezone({offset.days},{offset.seconds},{offset.microseconds}{_fixed_name(value)})"


def encode_zone_info(value: ZoneInfo, walk: Walk) -> str:
    if value.key is None:
        raise RefusalError("it is a ZoneInfo without a key")
    return f"ZoneInfo({quote(value.key)})"


def _fold(value: datetime | time) -> str:
    return ",fold" if value.fold else ""


def _zone(value: datetime | time) -> str:
    zone = value.tzinfo
    if zone is None:
        return ""
    if type(zone) is timezone:
        return _fixed_name(zone)
    if type(zone) is ZoneInfo and zone.key is not None:
        return f",ZoneInfo({quote(zone.key)})"
    if _PYDANTIC_OFFSET in ancestry(type(zone)):
        return ""
    return f",{label(type(zone))}({_name_at(zone, value)})"


def _fixed_name(zone: timezone) -> str:
    if zone is UTC:
        return ""
    name = zone.tzname(None)
    return "" if name == timezone(zone.utcoffset(None)).tzname(None) else f",{quote(name)}"


def _name_at(zone: tzinfo, value: datetime | time) -> str:
    name = zone.tzname(value if isinstance(value, datetime) else None)
    return "" if name is None else quote(name)
