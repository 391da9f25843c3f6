"""Durations as people write them, as seconds.

One reading for every option that is a length of time: a number of seconds, a ``timedelta``, or text such
as ``"90s"``, ``"5m"``, ``"1h30m"``. Zero, negative, infinite and NaN are refused: whoever writes them means
something that this option can't do.
"""

from __future__ import annotations

import math
import re
from datetime import timedelta

from fast_cache.errors import ConfigurationError, InvalidTypeError

Duration = int | float | timedelta | str
"""Seconds (int or float), a ``timedelta``, or text: ``"250ms"``, ``"30s"``, ``"5m"``, ``"1h30m"``, ``"2d"``."""

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}
_PART = re.compile(r"(\d+(?:\.\d+)?) ?(ms|[smhdw])", re.ASCII)
_WHOLE = re.compile(r"\d+(?:\.\d+)? ?(?:ms|[smhdw])(?: ?\d+(?:\.\d+)? ?(?:ms|[smhdw]))*", re.ASCII)
_NUMBER = re.compile(r"\d+(?:\.\d+)?", re.ASCII)

_LONGEST = 100 * 365 * 86400.0
"""A century, in seconds: what is longer is a mistake of units, and overflows stores that count milliseconds."""


def seconds(value: Duration, *, option: str) -> float:
    """Return ``value`` in seconds; ``option`` names the setting in the error.

    Raises:
        ConfigurationError: zero, negative, infinite, NaN, longer than a century, or text that is no duration.
        InvalidTypeError: not a number, a ``timedelta`` or text.
    """
    if isinstance(value, bool):
        raise InvalidTypeError(
            f"{option} must be a duration, not a bool; use seconds, a timedelta or text such as '5m'"
        )
    if isinstance(value, timedelta):
        result = value.total_seconds()
    elif isinstance(value, (int, float)):
        try:
            result = float(value)
        except OverflowError:
            result = math.inf
    elif isinstance(value, str):
        result = _parse(value, option)
    else:
        raise InvalidTypeError(
            f"{option} must be seconds (int or float), a timedelta or text such as '5m', not {type(value).__name__}"
        )
    if not 0 < result <= _LONGEST:  # also false for NaN
        raise ConfigurationError(
            f"{option} must be longer than 0 and at most a century, got {_shown(value)}; "
            "leave it out (None) for the default"
        )
    return result


def optional_seconds(value: Duration | None, *, option: str) -> float | None:
    """Like :func:`seconds`, with ``None`` left as it is."""
    return None if value is None else seconds(value, option=option)


def _parse(text: str, option: str) -> float:
    compact = text.strip().lower()
    if _NUMBER.fullmatch(compact):
        return float(compact)
    if not _WHOLE.fullmatch(compact):
        raise ConfigurationError(
            f"{option}={text[:40]!r} is not a duration; write it like '250ms', '30s', '5m', '1h30m' or '2d'"
        )
    return sum(float(number) * _UNITS[unit] for number, unit in _PART.findall(compact))


def _shown(value: Duration) -> str:
    return "an endless number" if isinstance(value, int) and abs(value) > 10**30 else repr(value)
