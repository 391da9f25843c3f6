"""What was cleared in Redis does not stay there until it expires."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest
import redis

from fast_cache import RedisBackend
from fast_cache.testing import Flavour, in_both_flavours
from tests.integration.test_groups import Reports, clear, everything
from tests.support.redis_cluster import RedisCluster


@pytest.fixture
def raw(redis_url: str) -> Iterator[Any]:
    with contextlib.closing(redis.Redis.from_url(redis_url)) as raw:
        yield raw


def stored(raw: Any, namespace: str) -> set[bytes]:
    return set(raw.scan_iter(f"{namespace}:v:*", count=1000))


@in_both_flavours
async def test_what_was_cleared_is_removed_and_nothing_else(flavour: Flavour, redis_url: str, raw: Any) -> None:
    backend = RedisBackend(redis_url, namespace="reclaimed", timeout=10)
    other = RedisBackend(redis_url, namespace="reclaimed other", timeout=10)
    flavour.use(backend)
    flavour.use(other)
    raw.set("reclaimed:v:{not ours}", "and left alone")
    raw.set("reclaimed:v:", b"FC")
    await flavour.do(other, "set", "stays", 1)
    await flavour.do(backend, "set_many", {f"key {number}": number for number in range(1500)})
    await flavour.do(backend, "clear")
    await flavour.do(backend, "set", "after", 1)

    async def is_done() -> bool:
        return len(stored(raw, "reclaimed")) == 3 and not backend._reclaimer.needed()

    await flavour.until(is_done, "what was cleared is removed")
    assert await flavour.do(backend, "get", "after") == 1
    assert await flavour.do(other, "get", "stays") == 1
    assert raw.get("reclaimed:v:{not ours}") == b"and left alone"
    assert backend._reclaimer.removed == 1500


@in_both_flavours
async def test_of_a_function_that_was_invalidated_as_a_whole_nothing_stays(
    flavour: Flavour, redis_url: str, raw: Any
) -> None:
    backend = RedisBackend(redis_url, namespace="reclaimed too", timeout=10)
    store = flavour.use(backend)
    reports = Reports(store)
    for of in range(20):
        await flavour.call(reports.report, of)
        await flavour.call(reports.summary, of)
    await everything(flavour, reports.report)

    async def is_done() -> bool:
        return len(stored(raw, "reclaimed too")) == 20

    await flavour.until(is_done, "those of the one function are removed")
    runs = len(reports.runs)
    await flavour.call(reports.summary, 1)
    assert len(reports.runs) == runs
    await clear(store, "b")

    async def is_empty() -> bool:
        return not stored(raw, "reclaimed too")

    await flavour.until(is_empty, "and those of a namespace")


@in_both_flavours
async def test_what_is_stale_by_a_tag_is_not_removed(flavour: Flavour, redis_url: str, raw: Any) -> None:
    backend = RedisBackend(redis_url, namespace="reclaimed soft", timeout=10)
    store = flavour.use(backend)
    reports = Reports(store)
    kept = store.cached(expire=60, stale_while_revalidate=60, tags="soft")(_same)
    await flavour.call(kept, 1)
    await flavour.call(reports.report, 1)
    if hasattr(store._cache, "invalidate_tags"):
        store._cache.invalidate_tags("soft", soft=True)
    await everything(flavour, reports.report)

    async def is_done() -> bool:
        return len(stored(raw, "reclaimed soft")) == 1 and not backend._reclaimer.needed()

    await flavour.until(is_done, "only what is dead is removed")


@in_both_flavours
async def test_in_a_cluster_every_node_is_gone_through(flavour: Flavour, redis_cluster: RedisCluster) -> None:
    flavour.use(backend := RedisBackend(redis_cluster.url, namespace="reclaimed", timeout=10))
    await flavour.do(backend, "set_many", {f"key {number}": number for number in range(300)})
    await flavour.do(backend, "clear")

    async def is_done() -> bool:
        return backend._reclaimer.removed == 300

    await flavour.until(is_done, "what was cleared is removed")


async def _same(of: int) -> int:
    return of
