"""Who reads from Redis and writes to it, each as its documentation shows, with its defaults.

A contestant may have several ways: the next one is tried where one fails under a load. All store the same dictionaries
under the same keys, which don't meet: ours stand in a namespace, those of other libraries in databases of their own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any
from urllib.parse import urlsplit

import orjson
import redis
from fastapi import FastAPI

from fast_cache import Cache, RedisBackend
from tests.benchmarks.harness import NotAHit
from tests.benchmarks.peers import library
from tests.benchmarks.report import OURS

NAMESPACE = "shop"
LIFETIME = 600
"""Seconds."""

REDIS_PY = "redis-py"
CACHED = f"{OURS}, cached function"

FILLERS = 50
"""Tasks that fill a store: fewer than any pool has connections."""

Value = dict[str, Any]


class NothingFound(RuntimeError):
    """What was stored before is not there."""


@dataclass(frozen=True)
class Subject:
    """One way to read and write.

    Args:
        read: takes a key; awaited, unless the subject blocks. ``None`` where there is nothing.
        write: takes a key and a value; nothing where only reads are compared.
        close: gives all connections back.
        fill: takes all keys and a value; by ``write`` where it is left out.
        open: awaited before anything else, where there is something to await.
    """

    read: Callable[[str], Any]
    write: Callable[[str, Any], Any] | None
    close: Callable[[], Awaitable[object]]
    fill: Callable[[Sequence[str], Value], Awaitable[object]] | None = None
    open: Callable[[], Awaitable[object]] | None = None


@dataclass(frozen=True)
class Contestant:
    """A name in the tables, and its ways: called with a URL, each makes a subject.

    Args:
        name: what the tables call it.
        ways: by the name of what is not its default; that of the default, the first, is empty.
    """

    name: str
    ways: dict[str, Callable[[str], Subject]] = field(hash=False)


async def opened(contestant: Contestant, way: str, url: str) -> Subject:
    """A subject that can be used."""
    subject = contestant.ways[way](url)
    if subject.open is not None:
        await subject.open()
    return subject


async def fill(subject: Subject, keys: Sequence[str], value: Value, *, blocking: bool) -> None:
    """Store ``value`` under every key."""
    write = subject.write
    if subject.fill is not None:
        await subject.fill(keys, value)
    elif write is None:
        raise ValueError("a subject that can't write must know how it is filled")
    elif blocking:
        with ThreadPoolExecutor(max_workers=1) as pool:
            pool.submit(lambda: [write(key, value) for key in keys]).result()
    else:
        await few_at_once(write(key, value) for key in keys)


async def few_at_once(steps: Iterable[Awaitable[object]]) -> None:
    """Await all steps, in a few tasks."""
    left = iter(steps)

    async def work() -> None:
        for step in left:
            await step

    async with asyncio.TaskGroup() as group:
        for _ in range(FILLERS):
            group.create_task(work())


def ours(url: Any) -> Subject:
    backend = RedisBackend(url, namespace=NAMESPACE, timeout=5)
    return Subject(backend.aget, partial(backend.aset, expire=LIFETIME), backend.aclose)


def ours_cached(url: Any) -> Subject:
    """A decorated function that must not run once it is filled."""
    backend = RedisBackend(url, namespace=NAMESPACE, timeout=5)
    cache = Cache()
    cache.init_app(FastAPI(), backend=backend)
    source: list[Value] = []

    @cache.cached(expire=LIFETIME)
    async def fetch(key: str) -> dict[str, Any]:
        if not source:
            raise NotAHit("the cached function ran")
        return source[0]

    async def filled(keys: Sequence[str], value: Value) -> None:
        source.append(value)
        try:
            await few_at_once(fetch(key) for key in keys)
        finally:
            source.clear()

    return Subject(fetch, None, backend.aclose, filled)


def redis_py(url: str) -> Subject:
    return _redis_py(library("redis.asyncio").Redis.from_url(url))


def redis_py_waiting(url: str) -> Subject:
    driver = library("redis.asyncio")
    return _redis_py(driver.Redis.from_pool(driver.BlockingConnectionPool.from_url(url)))


def redis_py_cluster(url: str) -> Subject:
    client = library("redis.asyncio").RedisCluster.from_url(url)
    # Initialised by its first users, who come at once, it fails some of them (8.1).
    return replace(_redis_py(client), open=client.initialize)


def _redis_py(client: Any) -> Subject:
    lifetime_ms = LIFETIME * 1000

    async def read(key: str) -> Any:
        data = await client.get(key)
        return None if data is None else orjson.loads(data)

    async def write(key: str, value: Any) -> None:
        await client.set(key, orjson.dumps(value), px=lifetime_ms)

    return Subject(read, write, client.aclose)


def ours_in_cluster(url: str) -> Subject:
    return ours(url.replace("redis://", "redis+cluster://").removesuffix("/0"))


def ours_blocking(url: str) -> Subject:
    backend = RedisBackend(url, namespace=NAMESPACE, timeout=5)
    return Subject(backend.get, partial(backend.set, expire=LIFETIME), _at_once(backend.close))


def redis_py_blocking(url: str) -> Subject:
    client = redis.Redis.from_url(url)
    lifetime_ms = LIFETIME * 1000

    def read(key: str) -> Any:
        data: Any = client.get(key)
        return None if data is None else orjson.loads(data)

    def write(key: str, value: Any) -> None:
        client.set(key, orjson.dumps(value), px=lifetime_ms)

    return Subject(read, write, _at_once(client.close))


def cashews(url: str) -> Subject:
    cache = library("cashews").Cache()
    cache.setup(_in_database(url, 1))
    return Subject(cache.get, partial(cache.set, expire=LIFETIME), cache.close)


def aiocache(url: str) -> Subject:
    aiocache = library("aiocache")
    parts = urlsplit(url)
    cache = aiocache.Cache(
        aiocache.Cache.REDIS,
        endpoint=parts.hostname,
        port=parts.port,
        db=2,
        serializer=aiocache.serializers.JsonSerializer(),
    )
    return Subject(cache.get, partial(cache.set, ttl=LIFETIME), cache.close)


def _in_database(url: str, number: int) -> str:
    return urlsplit(url)._replace(path=f"/{number}").geturl()


def _at_once(close: Callable[[], object]) -> Callable[[], Coroutine[Any, Any, None]]:
    async def closed() -> None:
        close()

    return closed


ASYNC = (
    Contestant(OURS, {"": ours}),
    Contestant(CACHED, {"": ours_cached}),
    Contestant(REDIS_PY, {"": redis_py, "BlockingConnectionPool": redis_py_waiting}),
)
BLOCKING = (
    Contestant(OURS, {"": ours_blocking}),
    Contestant(REDIS_PY, {"": redis_py_blocking}),
)
PEERS = (
    Contestant(OURS, {"": ours}),
    Contestant(REDIS_PY, {"": redis_py}),
    Contestant("cashews", {"": cashews}),
    Contestant("aiocache", {"": aiocache}),
)
CLUSTER = (
    Contestant(OURS, {"": ours_in_cluster}),
    Contestant(REDIS_PY, {"": redis_py_cluster}),
)
