"""Values without parts that JSON lacks: how each is written as JSON, and read back as the same value and type.

One row per type. The JSON of an atom is a text, a number, ``null``, or a list of these. Writing refuses what would come
back as something else; reading trusts nothing and may raise anything, which the codec turns into a DecodeError.

Of a UUID its 128 bits are kept, not the remark how safely it was made. Secrets are written in clear: the store has to
give them back.
"""

from __future__ import annotations

import struct
from binascii import a2b_base64, b2a_base64
from collections.abc import Callable
from datetime import UTC, date, datetime, time, timedelta, timezone, tzinfo
from decimal import Decimal
from fractions import Fraction
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Address, IPv6Interface, IPv6Network
from pathlib import PosixPath, PurePosixPath, PureWindowsPath, WindowsPath
from typing import Any, NamedTuple
from uuid import UUID
from zoneinfo import ZoneInfo

import pydantic
from pydantic import SecretBytes, SecretStr
from pydantic_core import MultiHostUrl, TzInfo, Url

from fast_cache.errors import EncodeError


class Atom(NamedTuple):
    """How one type is written; ``tag`` names the way back, and several types may share it."""

    tag: str
    write: Callable[[Any], Any]


def _text(value: bytes | bytearray) -> str:
    return b2a_base64(value, newline=False).decode("ascii")


def _bytes(text: str) -> bytes:
    return a2b_base64(text, strict_mode=True)


def _doubles(*values: float) -> str:
    return struct.pack(f">{len(values)}d", *values).hex()


def _float(text: str) -> float:
    result: float = struct.unpack(">d", bytes.fromhex(text))[0]
    return result


def _complex(text: str) -> complex:
    return complex(*struct.unpack(">2d", bytes.fromhex(text)))


def _int(text: str) -> int:
    return int(text, 16)  # hexadecimal has no limit of digits, decimal has


def _fraction(body: list[str]) -> Fraction:
    numerator, denominator = body
    return Fraction(_int(numerator), _int(denominator))


def _write_zone(zone: tzinfo | None) -> Any:
    """Null; a key of ``zoneinfo``; seconds, of Pydantic's; a list, of ``datetime.timezone``: empty for UTC."""
    if zone is None:
        return None
    if zone is UTC:
        return []
    if type(zone) is timezone:
        offset, *name = zone.__getinitargs__()  # type: ignore[attr-defined]  # the name, only if one was given
        return [*_write_timedelta(offset), *name]
    if type(zone) is TzInfo:
        offset = zone.utcoffset(None)
        assert offset is not None
        return int(offset.total_seconds())
    if type(zone) is ZoneInfo and zone.key is not None:
        return zone.key
    raise EncodeError(
        f"a time zone of type {type(zone).__qualname__} can't be stored; use datetime.timezone or ZoneInfo"
    )


def _read_zone(body: Any) -> tzinfo | None:
    if body is None:
        return None
    if isinstance(body, str):
        return ZoneInfo(body)
    if isinstance(body, int):
        return TzInfo(body)
    if body == []:
        return UTC
    days, seconds, microseconds, *name = body
    return timezone(timedelta(days, seconds, microseconds), *name)


def _write_moment(value: datetime | time) -> list[Any]:
    return [value.replace(tzinfo=None, fold=0).isoformat(), value.fold, _write_zone(value.tzinfo)]


def _datetime(body: list[Any]) -> datetime:
    text, fold, zone = body
    return datetime.fromisoformat(text).replace(fold=fold, tzinfo=_read_zone(zone))


def _time(body: list[Any]) -> time:
    text, fold, zone = body
    return time.fromisoformat(text).replace(fold=fold, tzinfo=_read_zone(zone))


def _write_timedelta(value: timedelta) -> list[int]:
    return [value.days, value.seconds, value.microseconds]


def _timedelta(body: list[int]) -> timedelta:
    days, seconds, microseconds = body
    return timedelta(days, seconds, microseconds)


_URLS = """
    AmqpDsn AnyHttpUrl AnyUrl AnyWebsocketUrl ClickHouseDsn CockroachDsn FileUrl FtpUrl HttpUrl KafkaDsn MariaDBDsn
    MongoDsn MySQLDsn NatsDsn PostgresDsn RedisDsn SnowflakeDsn WebsocketUrl
"""  # looked up by name: not every version of Pydantic has them all

_candidates = (
    *(PosixPath, PurePosixPath, PureWindowsPath, WindowsPath),
    *(IPv4Address, IPv4Interface, IPv4Network, IPv6Address, IPv6Interface, IPv6Network),
    *(Url, MultiHostUrl, *(getattr(pydantic, name, None) for name in _URLS.split())),
)

IN_WORDS: tuple[type, ...] = tuple(cls for cls in _candidates if isinstance(cls, type))
"""Classes whose instances are made from their own text: paths, addresses, URLs."""

_BY_NAME = {cls.__name__: cls for cls in IN_WORDS}


def _write_in_words(value: Any) -> list[str]:
    cls, text = type(value), str(value)
    if cls(text) != value:
        raise EncodeError(f"this {cls.__name__} can't be made from its own text, so it can't be stored")
    return [cls.__name__, text]


def _in_words(body: list[str]) -> Any:
    name, text = body
    return _BY_NAME[name](text)


def _write_secret(value: SecretStr | SecretBytes) -> str | list[str]:
    secret = value.get_secret_value()
    if type(value) is SecretStr and type(secret) is str:
        return secret
    if type(value) is SecretBytes and type(secret) is bytes:
        return [_text(secret)]
    raise EncodeError(f"a {type(value).__name__} that hides a {type(secret).__name__} can't be stored")


def _secret(body: str | list[str]) -> SecretStr | SecretBytes:
    if isinstance(body, str):
        return SecretStr(body)
    (text,) = body
    return SecretBytes(_bytes(text))


ATOMS: dict[type, Atom] = {
    float: Atom("$float", _doubles),  # only inf and nan come here
    int: Atom("$int", hex),  # only beyond 64 bits
    str: Atom("$str", lambda value: _text(value.encode("utf-8", "surrogatepass"))),  # only with lone surrogates
    bytes: Atom("$bytes", _text),
    bytearray: Atom("$bytearray", _text),
    complex: Atom("$complex", lambda value: _doubles(value.real, value.imag)),
    Decimal: Atom("$decimal", str),
    Fraction: Atom("$fraction", lambda value: [hex(value.numerator), hex(value.denominator)]),
    datetime: Atom("$datetime", _write_moment),
    date: Atom("$date", date.isoformat),
    time: Atom("$time", _write_moment),
    timedelta: Atom("$timedelta", _write_timedelta),
    timezone: Atom("$zone", _write_zone),
    TzInfo: Atom("$zone", _write_zone),
    ZoneInfo: Atom("$zone", _write_zone),
    UUID: Atom("$uuid", lambda value: value.hex),
    SecretStr: Atom("$secret", _write_secret),
    SecretBytes: Atom("$secret", _write_secret),
    **dict.fromkeys(IN_WORDS, Atom("$text", _write_in_words)),
}
"""By exact type: a subclass is another type, and refused."""

READERS: dict[str, Callable[[Any], Any]] = {
    "$float": _float,
    "$int": _int,
    "$str": lambda text: _bytes(text).decode("utf-8", "surrogatepass"),
    "$bytes": _bytes,
    "$bytearray": lambda text: bytearray(_bytes(text)),
    "$complex": _complex,
    "$decimal": Decimal,
    "$fraction": _fraction,
    "$datetime": _datetime,
    "$date": date.fromisoformat,
    "$time": _time,
    "$timedelta": _timedelta,
    "$zone": _read_zone,
    "$uuid": UUID,
    "$secret": _secret,
    "$text": _in_words,
}
"""By tag."""
