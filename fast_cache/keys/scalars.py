"""Values without parts: each exact type and the function that encodes it.

``LEAVES`` is asked with ``type(value)``: no ``isinstance``, no order, no user code is run, and nothing here raises.
An encoding is a number, a word, quoted text, or ``Name(...)`` with a name that has no dot (user classes have one):
it never continues with one of ``, : / ; | ] )``, so encodings can be joined by these and still be told apart.
"""

from __future__ import annotations

import pathlib
import re
from collections.abc import Callable
from datetime import date, timedelta
from decimal import Decimal
from fractions import Fraction
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Address, IPv6Interface, IPv6Network
from types import EllipsisType, NoneType
from typing import Any, Final
from uuid import UUID

from fast_cache.keys.text import quote

Leaf = Callable[[Any], str]

WIDE: Final = 1 << 1024
"""Integers from here on are in hexadecimal, which takes linear time and knows no ``sys.set_int_max_str_digits``."""


def _int(value: int) -> str:
    return int.__repr__(value) if -WIDE < value < WIDE else int.__format__(value, "#x")


def _complex(value: complex) -> str:
    return f"complex({value.real!r},{value.imag!r})"


def _bytes(value: bytes) -> str:
    return f"b'{value.hex()}'"


def _bytearray(value: bytearray) -> str:
    return f"bytearray('{bytearray.hex(value)}')"


def _date(value: date) -> str:
    return f"date({date.isoformat(value)})"


def _timedelta(value: timedelta) -> str:
    return f"timedelta({value.days},{value.seconds},{value.microseconds})"


def _uuid(value: UUID) -> str:
    return f"UUID({value.hex})"


def _decimal(value: Decimal) -> str:
    return f"Decimal({Decimal.__str__(value)})"  # the specification makes this one-to-one: 1.0 and 1.00 stay apart


def _fraction(value: Fraction) -> str:
    return f"Fraction({_int(int(value.numerator))},{_int(int(value.denominator))})"


def _range(value: range) -> str:
    return f"range({_int(value.start)},{_int(value.stop)},{_int(value.step)})"


def _pattern(value: re.Pattern[Any]) -> str:
    source = value.pattern
    return f"Pattern({quote(source) if isinstance(source, str) else _bytes(bytes(source))},{value.flags})"


def _written(cls: type) -> Leaf:
    """An encoder for a class whose ``str()`` says everything about its instances."""
    tag = cls.__name__

    def encode_written(value: object) -> str:
        return f"{tag}({quote(str(value))})"

    return encode_written


_ADDRESSES = (IPv4Address, IPv4Interface, IPv4Network, IPv6Address, IPv6Interface, IPv6Network)
_PATHS = (
    pathlib.PosixPath,
    pathlib.WindowsPath,
    pathlib.PurePosixPath,
    pathlib.PureWindowsPath,
    pathlib.Path,  # never made themselves, but from Python 3.12 on they are what a subclass derives from
    pathlib.PurePath,
)

LEAVES: Final[dict[type, Leaf]] = {
    NoneType: repr,
    bool: repr,
    int: _int,
    float: repr,  # the shortest text that reads back as the same number; every NaN is "nan"
    str: quote,
    bytes: _bytes,
    complex: _complex,
    bytearray: _bytearray,
    date: _date,
    timedelta: _timedelta,
    UUID: _uuid,
    Decimal: _decimal,
    Fraction: _fraction,
    range: _range,
    re.Pattern: _pattern,
    EllipsisType: repr,
    **{cls: _written(cls) for cls in (*_ADDRESSES, *_PATHS)},
}

PLAIN: Final[dict[type, Callable[[Any], Any]]] = {
    int: int.__int__,
    float: float.__float__,
    str: str.__str__,
    bytes: bytes.__bytes__,
    complex: complex.__complex__,
}
"""How the value of a subclass becomes one of the exact type, past any method that the subclass overrides."""

IMMUTABLE: Final = frozenset(LEAVES) - {bytearray}
