"""`fn.explain(...)`: what a person needs to understand one answer."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import pytest
from sqlalchemy.orm import Session

from examples.sqlite_backend import SQLiteBackend
from fast_cache import Cache, CacheBackend, InMemoryBackend, NotKeyed, RedisBackend
from fast_cache.explanation import Explanation
from fast_cache.testing import Flavour, in_both_flavours
from tests.support.redis_server import RedisServer

SOON = 0.05
LONG = 60


@pytest.fixture(params=["memory", "SQLiteBackend", "redis"])
def backend(request: pytest.FixtureRequest, tmp_path: Path, redis_url: str) -> CacheBackend:
    if request.param == "memory":
        return InMemoryBackend()
    if request.param == "redis":
        return RedisBackend(redis_url, namespace="explain")
    return SQLiteBackend(tmp_path / "cache.db")


@in_both_flavours
async def test_a_value_through_its_life(
    flavour: Flavour, backend: CacheBackend, request: pytest.FixtureRequest
) -> None:
    store = flavour.use(backend)

    @store.cached(expire=SOON, stale_while_revalidate=LONG)
    async def load(number: int, trace: Annotated[str, NotKeyed] = "") -> int:
        return number

    async def explained() -> Explanation:
        explanation: Explanation = await flavour.call(load.explain, 7, trace="t")
        return explanation

    before = await explained()
    assert before.answer == "absent"
    assert before.backend == request.node.callspec.params["backend"]
    assert before.key == load.key(7)
    assert before.inputs == {"number": "7", "trace": "left out by NotKeyed"}
    assert before.options == {"expire": SOON, "stale_while_revalidate": 60}
    assert (before.expires_in, before.load_time, before.loading) == (None, None, False)
    await flavour.call(load, 7)
    assert (await explained()).answer in ("fresh", "stale")

    async def stale() -> bool:
        return (await explained()).answer == "stale"

    await flavour.until(stale, "the value is stale")
    after = await explained()
    assert after.expires_in is not None
    assert after.expires_in <= 0
    assert load.stats().loads == 1, "looking changes nothing"
    assert "answer: stale" in str(after)
    assert "7" in str(after)


@in_both_flavours
async def test_a_load_under_way_is_seen(flavour: Flavour) -> None:
    store, gate = flavour.use(InMemoryBackend()), flavour.gate()

    @store.cached()
    async def load() -> int:
        await gate.passed()
        return 1

    callers = [flavour.start(load) for _ in range(3)]
    await store.followed(load.key(), 2)
    explanation = await flavour.call(load.explain)
    assert (explanation.loading, explanation.waiting) == (True, 2)
    gate.open()
    for caller in callers:
        await caller.result()
    assert (await flavour.call(load.explain)).loading is False


@in_both_flavours
async def test_what_is_stored_and_raised_is_named_and_what_has_no_key_too(flavour: Flavour) -> None:
    store = flavour.use(InMemoryBackend())

    @store.cached(cache_errors={LookupError: LONG})
    async def load(thing: Any) -> int:
        raise LookupError("private")

    with pytest.raises(LookupError):
        await flavour.call(load, 1)
    explanation = await flavour.call(load.explain, 1)
    assert explanation.answer == "raised"
    assert explanation.options == {"cache_errors": {"LookupError": 60}}
    assert "private" not in str(explanation)
    unkeyed = await flavour.call(load.explain, object())
    assert (unkeyed.key, unkeyed.answer) == (None, "uncached")
    assert "unkeyable" in unkeyed.inputs["thing"]


@in_both_flavours
async def test_a_backend_that_is_away_is_named(flavour: Flavour, own_redis: RedisServer) -> None:
    store = flavour.use(RedisBackend(own_redis.url, timeout=0.5))

    @store.cached()
    async def load() -> int:
        return 1

    own_redis.kill()
    assert (await flavour.call(load.explain)).answer == "unavailable"


class Shop:
    def __cache_key__(self) -> str:
        return "main"


def test_methods_and_functions_before_init_app_are_explained() -> None:
    cache = Cache()

    @cache.cached
    def price(self: Any, number: int, session: Session | None = None) -> int:
        return number

    shop = type("Kiosk", (Shop,), {"price": price})()
    explanation = price.explain(shop, 1)
    assert explanation.answer == "uncached"
    assert explanation.backend == "no cache"
    assert explanation.inputs["session"] == "left out as a handle"


@in_both_flavours
async def test_how_often_a_value_was_served_is_told_and_looking_does_not_count(
    flavour: Flavour, backend: CacheBackend
) -> None:
    store = flavour.use(backend)

    @store.cached(expire=LONG, hits=3, refresh_after=2)
    async def load() -> int:
        return 1

    async def explained() -> tuple[str, int | None]:
        for _ in range(2):
            explanation: Explanation = await flavour.call(load.explain)
        return explanation.answer, explanation.hits

    assert await explained() == ("absent", None)
    await flavour.call(load)
    assert await explained() == ("fresh", 0)
    await flavour.call(load)
    await flavour.call(load)
    assert await explained() == ("due", 2)
    await flavour.call(load)
    await store.drain()
    assert await explained() == ("fresh", 0), "it was refreshed"


@in_both_flavours
async def test_a_value_that_was_served_as_often_as_it_may_be_is_none_any_more(
    flavour: Flavour, backend: CacheBackend
) -> None:
    store = flavour.use(backend)

    @store.cached(expire=LONG, hits=1)
    async def load() -> int:
        return 1

    await flavour.call(load)
    await flavour.call(load)
    explanation = await flavour.call(load.explain)
    assert (explanation.answer, explanation.hits) == ("spare", 1)
