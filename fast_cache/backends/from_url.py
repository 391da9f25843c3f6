"""A backend by its URL, as an environment variable holds it: where values are kept, and how, in one line of text.

The scheme chooses the backend. Options of the backend are taken off the query; what is left of a URL for Redis, host
and user among it, is read where those are, see ``redis/url.py``. Messages repeat nothing of a URL but the name of an
option, and not even that where a piece of a password may have been taken for one.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Final
from urllib.parse import unquote_plus

from fast_cache.backends.base import CacheBackend
from fast_cache.backends.memory import DEFAULT_MAX_SIZE, InMemoryBackend
from fast_cache.durations import seconds
from fast_cache.errors import ConfigurationError, InvalidTypeError

_MEMORY_SCHEME: Final = "memory://"
_LAYERED: Final = "layered"
"""Alone it stands before ``redis://``, and with a plus before any scheme for Redis."""

_NUMBER: Final = re.compile(r"[0-9]{1,18}")
_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,39}")


@dataclass(frozen=True, slots=True)
class _Kind:
    """What the text of an option may be: ``read`` makes a value of it, or raises a ``ValueError``."""

    read: Callable[[str], Any]
    words: str


def _count(text: str) -> int:
    if not _NUMBER.fullmatch(text) or not int(text):
        raise ValueError
    return int(text)


def _choice(choices: Mapping[str, Any], otherwise: Callable[[str], Any] | None = None) -> Callable[[str], Any]:
    def read(text: str) -> Any:
        if text.lower() in choices:
            return choices[text.lower()]
        if otherwise is None:
            raise ValueError
        return otherwise(text)

    return read


_TEXT: Final = _Kind(str, "text")
_COUNT: Final = _Kind(_count, "a whole number from 1 on, such as 1000")
_COUNT_OR_NONE: Final = _Kind(_choice({"none": None}, _count), "a whole number from 1 on, such as 1000, or none")
_SWITCH: Final = _Kind(_choice({"true": True, "1": True, "false": False, "0": False}), "true or false")
_DURATION: Final = _Kind(partial(seconds, option=""), "a duration longer than 0 such as 30s, 5m or 1.5, in seconds")
_COHERENCE: Final = _Kind(_choice({"tracking": "tracking", "pubsub": "pubsub"}), "tracking or pubsub")

OF_MEMORY: Final = {"namespace": _TEXT, "max_size": _COUNT, "copy": _SWITCH}
OF_REDIS: Final = {
    "namespace": _TEXT,
    "pool_size": _COUNT,
    "max_connections": _COUNT,
    "timeout": _DURATION,
    "connect_timeout": _DURATION,
    "max_load_time": _DURATION,
    "max_expire": _DURATION,
    "max_value_size": _COUNT,
    "lease": _DURATION,
    "compress_above": _COUNT_OR_NONE,
    "wait_for_replicas": _COUNT,
}
OF_TIERS: Final = {"l1_expire": _DURATION, "max_staleness": _DURATION, "coherence": _COHERENCE}
OF_L1: Final = {"l1_max_size": _COUNT, "l1_copy": _SWITCH}

_ONE_MEANING: Final = {"timeout": "socket_timeout", "connect_timeout": "socket_connect_timeout"}
"""Options of ours, and those of the driver's that mean the same. The driver's own ``timeout``, how long a caller waits
for a connection of its pool, has no meaning here, since that pool is not used; ``max_connections`` agrees."""


def backend_from_url(url: str) -> CacheBackend:
    """Return a new backend as ``url`` describes it; nothing is connected yet.

    ============================================  =====================================================================
    ``memory://?max_size=10000&namespace=shop``   local memory; options: ``namespace``, ``max_size``, ``copy``
    ``redis://localhost:6379/0?namespace=shop``   Redis, and so with every URL that :class:`RedisBackend` takes
                                                  (``rediss``, ``unix``, ``redis+sentinel``, ``redis+cluster``, ...);
                                                  options: ``namespace``, ``pool_size``, ``max_connections``,
                                                  ``timeout``, ``connect_timeout``, ``max_load_time``, ``max_expire``,
                                                  ``max_value_size``, ``lease``, ``compress_above``,
                                                  ``wait_for_replicas``, and those of the driver
    ``layered://localhost:6379/0?l1_expire=30s``  local memory before Redis; ``layered+rediss://``, ``layered+unix://``,
                                                  ``layered+redis+sentinel://`` and so on; options besides those of
                                                  Redis: ``l1_expire``, ``max_staleness``, ``coherence``, and
                                                  ``l1_max_size`` and ``l1_copy`` for the memory
    ============================================  =====================================================================

    Args:
        url: the options have the names and meanings of those of the backends' classes. Durations are written as
            everywhere (``30s``, ``1h30m``, or a number of seconds), switches as ``true`` or ``false``, and what has a
            meaning in URLs is percent-encoded.

    Raises:
        ConfigurationError: a scheme or an option that is not known, an option that is given twice or can't be read,
            and whatever the backend's class refuses.
        InvalidTypeError: not text.
    """
    if not isinstance(url, str):
        raise InvalidTypeError(f"the URL of a backend must be text, not {type(url).__name__}")
    if url.startswith(_MEMORY_SCHEME):
        return _memory(url)
    from fast_cache.backends.redis import RedisBackend
    from fast_cache.backends.redis.url import options_of

    server, layered = _server_of(url)
    own = {**OF_REDIS, **OF_TIERS, **OF_L1} if layered else OF_REDIS
    rest, options = _taken(url, own, options_of(server))
    for ours, drivers in _ONE_MEANING.items():
        if ours in options and drivers in options:
            raise ConfigurationError(f"the URL of a backend sets {ours} and {drivers}, which mean the same; drop one")
    far = RedisBackend(server + rest.partition("://")[2], **_chosen(options, OF_REDIS))
    if not layered:
        return far
    from fast_cache.backends.layered import LayeredBackend

    near = InMemoryBackend(far.namespace, options.get("l1_max_size", DEFAULT_MAX_SIZE), options.get("l1_copy", False))
    return LayeredBackend(near, far, **_chosen(options, OF_TIERS))


def _memory(url: str) -> InMemoryBackend:
    rest, options = _taken(url, OF_MEMORY)
    if rest != _MEMORY_SCHEME:
        raise ConfigurationError(
            f"{_MEMORY_SCHEME} has no host and no path; write options like memory://?max_size=1000"
        )
    return InMemoryBackend(**options)


def _server_of(url: str) -> tuple[str, bool]:
    """The scheme for Redis that ``url`` has, and whether it asks for local memory before it."""
    from fast_cache.backends.redis.url import SCHEMES

    scheme, separator, _ = url.partition("://")
    first, plus, behind = scheme.partition("+")
    layered = first == _LAYERED
    server = ((behind if plus else "redis") if layered else scheme) + separator
    if server not in SCHEMES:
        raise ConfigurationError(
            f"the URL of a backend must start with {_MEMORY_SCHEME}, {', '.join(SCHEMES)}; or for two tiers with "
            f"{_LAYERED}://, or {_LAYERED}+ and one of those for Redis"
        )
    return server, layered


def _taken(url: str, own: Mapping[str, _Kind], drivers: Collection[str] = ()) -> tuple[str, dict[str, Any]]:
    """Take the options of ``own`` off the query: the URL without them, and what every option says.

    What is left of the query is the driver's, in the letters in which it stands.
    """
    if "#" in url:
        raise ConfigurationError("the URL of a backend must not contain #; write it as %23")
    place, _, query = url.partition("?")
    left, found = [], dict[str, Any]()
    for piece in filter(None, query.split("&")):
        # What is not UTF-8 becomes lone surrogates: no option is called so, and no namespace may be.
        name, _, text = (unquote_plus(part, errors="surrogateescape") for part in piece.partition("="))
        if name not in own and name not in drivers:
            raise _unknown(place, query, piece, [*own, *drivers])
        if name in found:
            raise ConfigurationError(f"the URL of a backend gives {name} twice")
        if name in own:
            found[name] = _read(name, own[name], text)
        else:
            found[name] = text
            left.append(piece)
    return "?".join([place, "&".join(left)] if left else [place]), found


def _read(name: str, kind: _Kind, text: str) -> Any:
    # Raised behind the block: inside it the error would carry another one, which quotes the text.
    with contextlib.suppress(ValueError):
        return kind.read(text)
    raise ConfigurationError(f"{name} in the URL of a backend must be {kind.words}")


def _chosen(options: Mapping[str, Any], names: Collection[str]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if name in names}


def _unknown(place: str, query: str, piece: str, known: Collection[str]) -> ConfigurationError:
    scheme = place.partition("://")[0] + "://"
    name, given, _ = piece.partition("=")
    advice = ""
    if "@" in query:
        advice = "; in a user name or password write ? as %3F"
    elif name.startswith("ssl_") and "rediss" not in scheme:
        advice = "; options of TLS need a scheme with rediss"
    # A password that was not encoded falls apart at ? and &. Then what follows looks like an option.
    secret = not given or "@" in query or "pass" in unquote_plus(query).lower()
    shown = "an option in its query" if secret or not _NAME.fullmatch(name) else f"the option {name}"
    return ConfigurationError(
        f"the URL of a backend has {shown} that {scheme} does not know; it knows {', '.join(sorted(known))}{advice}"
    )
