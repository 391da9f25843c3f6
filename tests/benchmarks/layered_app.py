"""The application that the workers serve: one origin behind four kinds of cache, each with a path of its own.

``GET /{kind}/{number}`` reads, ``POST /{kind}/{number}?version=`` writes and invalidates, ``GET /counts`` tells how
often this process asked the origin, by kind, and what processor time it took. The origin takes its time, and gives the
version that was written last by any process: versions lie in a file that all of them map. The environment says where
that and Redis are.
"""

from __future__ import annotations

import asyncio
import mmap
import os
import struct
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from fastapi import FastAPI

from fast_cache import Cache, LayeredBackend, RedisBackend
from tests.benchmarks.peers import library

REDIS, VERSIONS = "BENCH_REDIS_URL", "BENCH_VERSIONS"
"""Names in the environment."""

LAYERED, REDIS_ONLY, CASHEWS, NO_CACHE = "layered", "redis", "cashews", "plain"
KINDS = tuple(kind for kind in (LAYERED, REDIS_ONLY, CASHEWS, NO_CACHE) if kind != CASHEWS or find_spec("cashews"))

CPU = "cpu"
"""Nanoseconds, among the counts."""

NUMBERS = 500
"""How many things there are to read."""

LIFETIME = 300
ORIGIN = 0.02
"""Seconds that the origin takes."""

PLACE = struct.Struct("=q")

Item = dict[str, Any]
Read = Callable[[int], Awaitable[Item]]
Forget = Callable[[int], Awaitable[object]]


def create_versions(path: Path) -> None:
    """Everything has version 0."""
    path.write_bytes(bytes(PLACE.size * NUMBERS))


class Origin:
    """What is slow, and counted."""

    def __init__(self, path: str) -> None:
        self.loads: Counter[str] = Counter()
        with open(path, "r+b") as file:
            self._versions = mmap.mmap(file.fileno(), 0)

    async def load(self, kind: str, number: int) -> Item:
        self.loads[kind] += 1
        (version,) = PLACE.unpack_from(self._versions, PLACE.size * number)
        await asyncio.sleep(ORIGIN)
        return {"number": number, "version": version, "name": f"item {number}", "labels": ["new", "in stock"]}

    def write(self, number: int, version: int) -> None:
        """The highest version stays: of two writes at once the later one may arrive first."""
        (there,) = PLACE.unpack_from(self._versions, PLACE.size * number)
        PLACE.pack_into(self._versions, PLACE.size * number, max(there, version))


def create_app(redis_url: str, versions: str) -> FastAPI:
    """The application, with a store in Redis for each kind."""
    app, origin = FastAPI(), Origin(versions)
    layered = LayeredBackend(l2=RedisBackend(redis_url, namespace=LAYERED))
    ways: dict[str, Callable[[Origin], tuple[Read, Forget]]] = {
        LAYERED: partial(_by_ours, app, layered, LAYERED),
        REDIS_ONLY: partial(_by_ours, app, RedisBackend(redis_url, namespace=REDIS_ONLY), REDIS_ONLY),
        CASHEWS: partial(_by_cashews, redis_url),
        NO_CACHE: _by_nobody,
    }
    for kind in KINDS:
        _serve(app, kind, origin, *ways[kind](origin))

    @app.get("/counts")
    async def counts() -> dict[str, int]:
        return {**origin.loads, CPU: time.process_time_ns()}

    return app


def _serve(app: FastAPI, kind: str, origin: Origin, read: Read, forget: Forget) -> None:
    @app.get(f"/{kind}/{{number}}")
    async def get(number: int) -> Item:
        return await read(number)

    @app.post(f"/{kind}/{{number}}")
    async def post(number: int, version: int) -> None:
        origin.write(number, version)
        await forget(number)


def _by_ours(app: FastAPI, backend: Any, kind: str, origin: Origin) -> tuple[Read, Forget]:
    cache = Cache()
    cache.init_app(app, backend=backend)

    @cache.cached(expire=LIFETIME)
    async def item(number: int) -> Item:
        return await origin.load(kind, number)

    return item, item.invalidate


def _by_cashews(redis_url: str, origin: Origin) -> tuple[Read, Forget]:
    cache = library("cashews").Cache()
    cache.setup(redis_url, client_side=True, protocol=2)  # in the third, redis-py's default since 8, it hears nothing

    async def item(number: int) -> Item:
        return await origin.load(CASHEWS, number)

    async def forget(number: int) -> None:
        await cache.delete(f"item:{number}")

    return cache(ttl=LIFETIME, key="item:{number}")(item), forget


def _by_nobody(origin: Origin) -> tuple[Read, Forget]:
    async def forget(number: int) -> None:
        """There is nothing to forget."""

    return partial(origin.load, NO_CACHE), forget


def __getattr__(name: str) -> FastAPI:
    """``app``, made when it is asked for: whoever needs only the names here has no Redis."""
    if name != "app":
        raise AttributeError(name)
    return create_app(os.environ[REDIS], os.environ[VERSIONS])
