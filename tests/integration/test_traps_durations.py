"""Lifetimes: every way to write one reaches the store as the same milliseconds, and what can't be one is refused."""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest
import redis
from fastapi import FastAPI

from fast_cache import Cache, CacheBackend, InMemoryBackend, RedisBackend
from fast_cache.errors import ConfigurationError
from fast_cache.testing import Flavour, in_both_flavours
from tests.support.ids import shown

LIFETIMES: list[tuple[Any, int]] = [
    (90, 90_000),
    (90.5, 90_500),
    (0.25, 250),
    (timedelta(minutes=2), 120_000),
    (timedelta(milliseconds=1500), 1500),
    ("2m", 120_000),
    ("1h30m", 5_400_000),
    ("250ms", 250),
    (0.0001, 1),
]
"""What users write, and the milliseconds that Redis has to be told."""

NO_LIFETIMES: list[Any] = [
    0,
    -1,
    0.0,
    -0.5,
    math.nan,
    math.inf,
    -math.inf,
    timedelta(0),
    timedelta(seconds=-1),
    "0s",
    "soon",
    "",
    True,
    False,
    10**400,
    object(),
]


def overhearing(client: Any) -> Any:
    return client.monitor()


@pytest.fixture
def overheard(redis_url: str) -> Iterator[Callable[[], list[int]]]:
    """The lifetimes, in milliseconds, of every SET that the server has carried out since."""
    with contextlib.closing(redis.Redis.from_url(redis_url)) as client, overhearing(client) as monitor:

        def lifetimes() -> list[int]:
            client.echo("that is all")
            found: list[int] = []
            while True:
                # Read as it is: what the driver makes of it goes wrong where a value is binary.
                line = monitor.connection.read_response()
                command = line.decode("ascii").partition("] ")[2]
                if command.startswith('"ECHO"'):
                    return found
                if command.startswith('"SET" "traps:v:'):
                    found += [int(lifetime) for lifetime in re.findall(r'"PX" "(\d+)"$', command)] or [0]

        yield lifetimes


@pytest.mark.parametrize(("expire", "milliseconds"), LIFETIMES, ids=ascii)
@in_both_flavours
async def test_redis_is_told_the_lifetime_of_a_value_in_milliseconds(
    flavour: Flavour, redis_url: str, overheard: Callable[[], list[int]], expire: Any, milliseconds: int
) -> None:
    store = flavour.use(RedisBackend(redis_url, namespace="traps"))
    await store.set("key", "value", expire)
    assert overheard() == [milliseconds]


@pytest.mark.parametrize(("expire", "milliseconds"), LIFETIMES, ids=ascii)
@in_both_flavours
async def test_redis_is_told_the_lifetime_of_a_result_in_milliseconds(
    flavour: Flavour, redis_url: str, overheard: Callable[[], list[int]], expire: Any, milliseconds: int
) -> None:
    store = flavour.use(RedisBackend(redis_url, namespace="traps"))

    @store.cached(expire=expire)
    async def load() -> str:
        return "value"

    assert await flavour.call(load) == "value"
    assert overheard() == [milliseconds]


@in_both_flavours
async def test_redis_keeps_nothing_for_ever(
    flavour: Flavour, redis_url: str, overheard: Callable[[], list[int]]
) -> None:
    store = flavour.use(RedisBackend(redis_url, namespace="traps", max_expire="10m"))

    @store.cached()
    async def load() -> str:
        return "value"

    await store.set("key", "value")
    await store.set("key", "value", "1h")
    await flavour.call(load)
    assert overheard() == [600_000] * 3


@pytest.mark.parametrize("expire", [30, 30.0, timedelta(seconds=30), "30s"], ids=ascii)
@in_both_flavours
async def test_the_default_lifetime_is_that_of_results_without_one(
    flavour: Flavour, redis_url: str, overheard: Callable[[], list[int]], expire: Any
) -> None:
    backend = RedisBackend(redis_url, namespace="traps")
    flavour.use(backend)
    cache = Cache()

    async def body() -> str:
        return "value"

    async def other_body() -> str:
        return "value"

    without, with_its_own = cache.cached(flavour.function(body)), cache.cached(expire=5)(flavour.function(other_body))
    cache.init_app(FastAPI(), backend=backend, default_expire=expire)
    await flavour.call(without)
    await flavour.call(with_its_own)
    assert overheard() == [30_000, 5_000]


@pytest.mark.parametrize("expire", NO_LIFETIMES, ids=lambda value: ascii(shown(value)))
def test_a_decorator_refuses_a_lifetime_that_can_not_be(expire: Any) -> None:
    with pytest.raises(ConfigurationError, match="expire"):
        Cache().cached(expire=expire)(lambda: None)


@pytest.mark.parametrize("expire", NO_LIFETIMES, ids=lambda value: ascii(shown(value)))
def test_init_app_refuses_a_default_lifetime_that_can_not_be(expire: Any) -> None:
    cache = Cache()
    with pytest.raises(ConfigurationError, match="default_expire"):
        cache.init_app(FastAPI(), default_expire=expire)
    with pytest.raises(RuntimeError):
        cache.get_cache()


@pytest.mark.parametrize("expire", NO_LIFETIMES, ids=lambda value: ascii(shown(value)))
@pytest.mark.parametrize("kind", ["memory", "redis"])
@in_both_flavours
async def test_backends_refuse_a_lifetime_that_can_not_be(
    flavour: Flavour, redis_url: str, kind: str, expire: Any
) -> None:
    backend: CacheBackend = InMemoryBackend() if kind == "memory" else RedisBackend(redis_url, namespace="traps")
    store = flavour.use(backend)
    await store.set("key", "before")
    with pytest.raises(ConfigurationError, match="expire"):
        await store.set("key", "after", expire)
    assert await store.get("key") == "before"


@pytest.mark.parametrize("expire", NO_LIFETIMES, ids=lambda value: ascii(shown(value)))
def test_a_lifetime_is_refused_also_while_redis_is_away(expire: Any) -> None:
    backend = RedisBackend("redis://127.0.0.1:1/0")
    with pytest.raises(ConfigurationError, match="expire"):
        backend.set("key", "value", expire)
