"""What headers say about caching: ``Cache-Control`` read and written, ``Cache-Groups`` and ``Cache-Status`` written.

Bytes in, bytes out: no I/O, no ASGI. What is read comes from outside: nothing here raises, the time is linear in its
size, and the size is bounded. Where a field is in doubt the more restrictive reading holds: it may cost a hit, never
send a page to whom it was not meant for. What is written is plain ASCII on one line, whatever names, keys and tags are.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Final

__all__ = ["cache_control", "cache_groups", "cache_status", "directives", "is_private", "seconds_of"]

_LONGEST: Final = 8192
"""How many bytes of ``Cache-Control`` are read, over all its lines."""

_MOST_SECONDS: Final = 2**31
"""RFC 9111, section 1.2.2: what can't be represented counts as this."""

_TCHAR: Final = r"!#$%&'*+\-.^_`|~0-9A-Za-z"
"""RFC 9110, section 5.6.2: the characters of a token, and so of a directive's name."""

_DIRECTIVE: Final = re.compile(rf"""([{_TCHAR}]++)(?:(=)(?:"((?:[^"\\]|\\.)*+)"|([{_TCHAR}]++))?+)?+""", re.DOTALL)
_QUOTED_PAIR: Final = re.compile(r"\\(.)", re.DOTALL)

_LIFETIMES: Final = frozenset({"max-age", "s-maxage", "stale-while-revalidate", "stale-if-error"})
_QUALIFIED: Final = frozenset({"no-cache", "private"})
"""Their value is a list of header fields that they concern; they mean more without one."""

_GROUPS: Final = 64
_GROUPS_LENGTH: Final = 4096
"""RFC 9875, section 2: recipients support 32 groups of 32 characters, and whole headers have their limits as well."""

_TOKEN_LENGTH: Final = 512
_TEXT_LENGTH: Final = 1024
"""RFC 9651, sections 3.3.4 and 3.3.3: the lengths of a Token and of a String that every recipient supports."""

_LARGEST_INTEGER: Final = 999_999_999_999_999
"""RFC 9651, section 3.3.1."""

_TOKEN: Final = re.compile(rf"[A-Za-z*][{_TCHAR}:/]*+")
"""RFC 9651, section 3.3.4."""


def directives(fields: Iterable[bytes]) -> Mapping[str, str | None]:
    """The directives of ``Cache-Control``, by name in lower case, with their values or ``None`` (RFC 9111, 5.2).

    The syntax is that of a list (RFC 9110, 5.6.1), and every directive is taken with a token or with text in quotes.
    What does not fit is skipped, except that a name counts wherever one stands: people write ``private; max-age=60``
    and mean both. Where a value is expected and there is none that can be read, it is ``""``, which
    :func:`seconds_of` takes for no time.

    Of a repeated directive the first counts, but of one that says how long something is fresh the shortest (RFC 9111,
    4.2.1, allows to use the first or to call the response stale), and of ``private`` and ``no-cache`` one without the
    names of fields. Fields that are too long to be read are taken for ``no-store``.

    Args:
        fields: the values of the header's lines.
    """
    found: dict[str, str | None] = {}
    left = _LONGEST
    for field in fields:
        left -= len(field)
        if left < 0:
            return {"no-store": None}
        for match in _DIRECTIVE.finditer(field.decode("latin-1")):
            name, equals, quoted, token = match.groups()
            name = name.lower()
            value = token if quoted is None else _QUOTED_PAIR.sub(r"\1", quoted)
            if value is None and (equals or name in _LIFETIMES):
                value = ""
            if name not in found or _restricts(name, value, found[name]):
                found[name] = value
    return found


def _restricts(name: str, value: str | None, known: str | None) -> bool:
    """Whether a repeated directive asks for more than it did before."""
    if name in _LIFETIMES:
        return _seconds(value or "") < _seconds(known or "")
    return value is None and name in _QUALIFIED


def seconds_of(value: str | None) -> int | None:
    """The value of a directive as delta-seconds (RFC 9111, section 1.2.2); ``None`` where there is none.

    What is no number of seconds is 0: caches are to take such a response for stale (4.2.1).
    """
    return None if value is None else _seconds(value)


def _seconds(value: str) -> int:
    if not value.isascii() or not value.isdigit():
        return 0
    digits = value.lstrip("0")
    # Python refuses to read very many digits.
    return _MOST_SECONDS if len(digits) > 10 else min(int(digits or "0"), _MOST_SECONDS)


def is_private(found: Mapping[str, str | None]) -> bool:
    """Whether a response with these directives may not be kept for the next visitor.

    RFC 9111: ``no-store`` (5.2.2.5), ``private`` (5.2.2.7), and ``no-cache`` (5.2.2.4), which asks for the endpoint to
    be asked each time. With names of fields the last two concern those fields alone; a page is kept with all of its
    fields or not at all, and so they are read as if they had none, as the RFC says that caches often do.
    """
    return "private" in found or "no-store" in found or "no-cache" in found


def cache_control(
    *,
    private: bool,
    max_age: int | None,
    s_maxage: int | None = None,
    stale_while_revalidate: int | None = None,
    stale_if_error: int | None = None,
) -> bytes:
    """The value of ``Cache-Control`` that a page is sent with (RFC 9111, section 5.2.2; RFC 5861).

    Args:
        private: whether it is meant for one visitor: caches that visitors share may not store it.
        max_age: how many seconds it is fresh; ``None``: it has no end. Then it is ``no-cache``: clients keep it and
            ask each time, by its entity tag, since no invalidation reaches them.
        s_maxage: the same for shared caches; left out where ``private`` keeps it from them.
        stale_while_revalidate: how many seconds after it may still be sent while it is refreshed.
        stale_if_error: how many seconds after it may still be sent when refreshing fails.
    """
    parts = ["private" if private else "public"]
    if max_age is None:
        parts.append("no-cache")  # which overrides the others
    else:
        lifetimes = (
            ("max-age", max_age),
            ("s-maxage", None if private else s_maxage),
            ("stale-while-revalidate", stale_while_revalidate),
            ("stale-if-error", stale_if_error),
        )
        parts += (f"{name}={min(max(0, time), _MOST_SECONDS)}" for name, time in lifetimes if time is not None)
    return ", ".join(parts).encode()


def cache_groups(tags: Iterable[str]) -> bytes:
    """The value of ``Cache-Groups`` for a page with these tags (RFC 9875, section 2); ``b""``: it is not sent.

    Left out are tags that no String of RFC 9651 can hold (control characters, what is not ASCII), rather than sent by
    another name under which an invalidation would not find them, and those beyond 64 groups or 4 KiB.
    """
    groups: list[str] = []
    left = _GROUPS_LENGTH
    for tag in dict.fromkeys(tags):
        if not tag.isascii() or not tag.isprintable():
            continue
        group = _string(tag)
        if len(group) + 2 > left:
            continue
        left -= len(group) + 2
        groups.append(group)
        if len(groups) == _GROUPS:
            break
    return ", ".join(groups).encode()


def cache_status(
    name: str,
    *,
    hit: bool = False,
    fwd: str | None = None,
    stored: bool = False,
    collapsed: bool = False,
    ttl: int | None = None,
    key: str | None = None,
    detail: str | None = None,
) -> bytes:
    """What ``name`` did about a request, as one member of ``Cache-Status`` (RFC 9211, section 2).

    Args:
        name: of this cache.
        hit: whether the request was answered from the cache. It excludes the three that follow.
        fwd: why it was not, as one of the words of section 2.2, such as ``"uri-miss"`` or ``"stale"``.
        stored: whether the response was stored.
        collapsed: whether the request waited for another one and was answered with its response.
        ttl: how many seconds the response stays fresh; negative if it is stale.
        key: the cache key. Characters that are not printable ASCII are percent-encoded.
        detail: anything else.
    """
    parts = [_name(name)]
    if hit:
        parts.append("hit")
    else:
        if fwd is not None and _TOKEN.fullmatch(fwd):
            parts.append(f"fwd={fwd}")
        if stored:
            parts.append("stored")
        if collapsed:
            parts.append("collapsed")
    if ttl is not None:
        parts.append(f"ttl={max(-_LARGEST_INTEGER, min(ttl, _LARGEST_INTEGER))}")
    if key is not None:
        parts.append(f"key={_string(_printable(key))}")
    if detail is not None:
        parts.append(f"detail={_token_or_string(detail)}")
    return "; ".join(parts).encode()


def _token_or_string(text: str) -> str:
    return text if len(text) <= _TOKEN_LENGTH and _TOKEN.fullmatch(text) else _string(_printable(text))


_name = lru_cache(maxsize=64)(_token_or_string)
"""An application has one name, and sends it with every page."""


def _string(text: str) -> str:
    """A String (RFC 9651, section 4.1.6) of printable ASCII."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _printable(text: str) -> str:
    """``text`` as printable ASCII of a bounded length, for people to read."""
    text = text[:_TEXT_LENGTH]
    if not text.isascii() or not text.isprintable():
        octets = text.encode("utf-8", "surrogatepass")
        text = "".join(chr(octet) if 0x20 <= octet < 0x7F else f"%{octet:02X}" for octet in octets)
    return text[:_TEXT_LENGTH]
