"""Backends that one test runs over, one after the other, and caches over them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from fastapi import FastAPI

from examples.sqlite_backend import SQLiteBackend
from fast_cache import Cache, CacheBackend, InMemoryBackend, LayeredBackend, RedisBackend

KINDS: Final = ("memory", "SQLiteBackend", "redis", "layered")


def backend_of(kind: str, namespace: str, redis_url: str, directory: Path) -> CacheBackend:
    """A backend of one of the ``KINDS``."""
    match kind:
        case "memory":
            return InMemoryBackend()
        case "redis":
            return RedisBackend(redis_url, namespace=namespace)
        case "layered":
            return LayeredBackend(l2=RedisBackend(redis_url, namespace=namespace))
        case "SQLiteBackend":
            return SQLiteBackend(directory / "cache.db")
    raise ValueError(f"no such kind of backend: {kind}")


def backends(namespace: str, *kinds: str) -> Any:
    """A fixture, to be called ``backend``: each test that takes it runs over every kind, or over those ``kinds``."""

    @pytest.fixture(params=kinds or KINDS)
    def backend(request: pytest.FixtureRequest, tmp_path: Path, redis_url: str) -> Iterator[CacheBackend]:
        made = backend_of(request.param, namespace, redis_url, tmp_path)
        yield made
        made.close()

    return backend


def cache_over(backend: CacheBackend | None = None) -> Cache:
    """A cache of an application, over ``backend`` or the one that there is without."""
    cache = Cache()
    cache.init_app(FastAPI(), backend)
    return cache
