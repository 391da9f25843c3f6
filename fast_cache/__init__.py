"""fast_cache: caching for FastAPI.

The names below are the package's public surface. Drivers of backends are imported when they are used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fast_cache.backends.base import CacheBackend
from fast_cache.backends.from_url import backend_from_url
from fast_cache.backends.memory import InMemoryBackend
from fast_cache.cache import Cache, CacheDep, cache
from fast_cache.errors import (
    BackendError,
    BackendUnavailable,
    ConfigurationError,
    CounterError,
    DecodeError,
    EncodeError,
    FastCacheError,
    InvalidTypeError,
    LockLost,
    LockTimeout,
    NotInitialisedError,
    NotSupportedError,
    UnkeyableError,
)
from fast_cache.http.options import HTTPOptions
from fast_cache.keys import NotKeyed
from fast_cache.serializers import PickleSerializer, Serializer

if TYPE_CHECKING:
    from fast_cache.backends.layered import LayeredBackend
    from fast_cache.backends.redis import RedisBackend

__all__ = [
    "BackendError",
    "BackendUnavailable",
    "Cache",
    "CacheBackend",
    "CacheDep",
    "ConfigurationError",
    "CounterError",
    "DecodeError",
    "EncodeError",
    "FastCacheError",
    "HTTPOptions",
    "InMemoryBackend",
    "InvalidTypeError",
    "LayeredBackend",
    "LockLost",
    "LockTimeout",
    "NotInitialisedError",
    "NotKeyed",
    "NotSupportedError",
    "PickleSerializer",
    "RedisBackend",
    "Serializer",
    "UnkeyableError",
    "backend_from_url",
    "cache",
]

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name == "RedisBackend":
        from fast_cache.backends.redis import RedisBackend

        return RedisBackend
    if name == "LayeredBackend":
        from fast_cache.backends.layered import LayeredBackend

        return LayeredBackend
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
