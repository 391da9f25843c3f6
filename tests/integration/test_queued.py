"""What could not be delivered to a Redis that is away is counted, until it has been."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from examples.sqlite_backend import SQLiteBackend
from fast_cache import CacheBackend, InMemoryBackend, LayeredBackend, RedisBackend
from fast_cache.testing import Flavour, Store, in_both_flavours
from tests.support.redis_server import RedisServer

NAMESPACE = "queued"

TIMEOUT = 1.0
"""In seconds. How long Redis may be silent before it counts as away: more than a busy machine takes."""

MAKERS: dict[str, Callable[[CacheBackend], CacheBackend]] = {
    "redis": lambda far: far,
    "layered": lambda far: LayeredBackend(l2=far),
    "layered and published": lambda far: LayeredBackend(l2=far, coherence="pubsub"),
}

over_redis = pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)


@contextlib.contextmanager
def away(server: RedisServer) -> Iterator[None]:
    server.freeze()
    try:
        yield
    finally:
        server.thaw()


def queued(store: Store) -> int:
    return store.backend.stats().queued


async def until_delivered(flavour: Flavour, store: Store) -> None:
    """Until nothing is queued, and what is read is answered again: what was owed is delivered before that."""

    async def delivered() -> bool:
        return not queued(store) and bool(await store.ask("ping"))

    await flavour.until(delivered, "all is delivered")


@over_redis
@in_both_flavours
async def test_invalidations_are_queued_while_redis_is_away(
    flavour: Flavour, own_redis: RedisServer, make: Callable[[CacheBackend], CacheBackend]
) -> None:
    store = flavour.use(make(RedisBackend(own_redis.url, namespace=NAMESPACE, timeout=TIMEOUT)))
    runs: list[int] = []

    @store.cached(expire=3600, tags=("all",))
    async def item(number: int) -> int:
        runs.append(number)
        return len(runs)

    first = [await flavour.call(item, number) for number in range(3)]
    assert queued(store) == 0
    with away(own_redis):
        assert await flavour.call(item.invalidate, 1) is False
        assert queued(store) == 1
        assert await flavour.call(item.invalidate, 1) is False
        assert queued(store) == 1, "it is the same"
        assert await flavour.call(item.invalidate, 2) is False
        assert queued(store) == 2
        await flavour.do(store._cache, "invalidate_tags", "another", "one")
        assert queued(store) == 4
        assert store._cache.stats().queued == 4
        assert item.stats().queued == 0, "a function has no queue of its own"
    await until_delivered(flavour, store)
    assert not await store.has(item.key(1))
    assert [await flavour.call(item, number) for number in range(3)] == [first[0], len(runs) - 1, len(runs)]
    assert await flavour.call(item.invalidate, 1) is True
    assert queued(store) == 0


@over_redis
@in_both_flavours
async def test_what_is_done_by_hand_while_redis_is_away(
    flavour: Flavour, own_redis: RedisServer, make: Callable[[CacheBackend], CacheBackend]
) -> None:
    store = flavour.use(make(RedisBackend(own_redis.url, namespace=NAMESPACE, timeout=TIMEOUT)))
    await store.set("a", 1)
    with away(own_redis):
        assert await store.delete("a") is False
        assert queued(store) == 1
        await store.set("b", 2)  # nothing is stored, and nothing older stays
        assert queued(store) == 2
        assert await store.get("c") is None
        assert queued(store) == 2
        await store.clear()
        assert queued(store) == 1, "everything is one"
    await until_delivered(flavour, store)
    assert [await store.get("a"), await store.get("b")] == [None, None]


@in_both_flavours
async def test_news_that_could_not_be_published(flavour: Flavour, own_redis: RedisServer, tmp_path: Path) -> None:
    """The store behind is there, and has been told; other processes have not: then nothing is confirmed."""
    carrier = RedisBackend(own_redis.url, namespace=NAMESPACE)
    backend = LayeredBackend(l2=SQLiteBackend(tmp_path / "cache.db"), coherence=carrier)
    with contextlib.closing(carrier):
        store = flavour.use(backend)
        runs: list[int] = []

        @store.cached(expire=3600)
        async def item() -> int:
            runs.append(1)
            return len(runs)

        await store.set("a", 1)
        assert await flavour.call(item) == 1
        assert queued(store) == 0
        with away(own_redis):
            assert await store.delete("a") is False
            assert queued(store) == 1
            assert await flavour.call(item.invalidate) is False
            assert await flavour.call(item) == 2, "it is done all the same"
            assert await store.get("a") is None
        await until_delivered(flavour, store)
        backend.close()


def test_nothing_is_queued_where_all_is_in_local_memory() -> None:
    backend = InMemoryBackend()
    backend.delete("a")
    assert backend.stats().queued == 0
