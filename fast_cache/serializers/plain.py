"""Whether a value is JSON as it stands, so that orjson writes it and reads it back unchanged.

Everything is looked at, because orjson by itself would write a tuple as a list, an enum as its value and NaN as null.
Integers beyond 64 bits and text with lone surrogates pass here: orjson refuses them loudly.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import isfinite
from types import NoneType
from typing import Any, Final

SCALARS: Final = frozenset({NoneType, bool, int, str})
TEXT: Final = frozenset({str})

DEEPEST: Final = 64
"""How deep values may be nested. One level takes up to three in tagged JSON, and orjson writes at most 254."""


def is_plain(value: Any) -> bool:
    """Whether ``value`` has only exact ``None``, bool, int, finite float, str, list, and dict with text for keys."""
    return _are_plain((value,), -1)


def _are_plain(values: Iterable[Any], depth: int) -> bool:
    if depth == DEEPEST:
        return False
    for value in values:
        cls = type(value)
        if cls in SCALARS:
            continue
        if cls is float:
            if not isfinite(value):
                return False
        elif cls is dict:
            if not TEXT.issuperset(map(type, value)) or not _are_plain(value.values(), depth + 1):
                return False
        elif cls is not list or not _are_plain(value, depth + 1):
            return False
    return True
