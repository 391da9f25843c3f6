"""Servers that do not say which ones they are, since the user may not run INFO: alone, and in a Cluster.

Each new connection may lead to another one than before, which lacks what that one had confirmed.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from fast_cache import RedisBackend
from fast_cache.backends.redis.layout import Layout
from fast_cache.testing import Flavour, in_both_flavours
from tests.support.deployments import NAMESPACE, WITHOUT_INFO, add_user, use_everything
from tests.support.redis_cluster import RedisCluster
from tests.support.redis_server import RedisServer

LAYOUT = Layout(NAMESPACE, fence_ms=600_000)
KEYS = [f"key {number}" for number in range(12)]
"""In a Cluster, on all of its nodes."""


class Place:
    """One server, or a Cluster, with a user who may not ask which it is.

    Args:
        masters: of the Cluster, or the server alone.
        settled: returns when all serve again that were started again.
    """

    def __init__(self, url: str, masters: list[RedisServer], settled: Callable[[], None]) -> None:
        for server in masters:
            server.flush()
            add_user(server, "unknowing", "secret", *WITHOUT_INFO)
        self.masters = masters
        self._url = url
        self.url = url.replace("://", "://unknowing:secret@")
        self._settled = settled

    def backend(self) -> Any:
        # Not about time-outs: machines that run tests are busy.
        return RedisBackend(self.url, namespace=NAMESPACE, timeout=10, connect_timeout=10)

    def others(self) -> Any:
        """A backend of another process, which knows the servers."""
        return RedisBackend(self._url, namespace=NAMESPACE, timeout=10, connect_timeout=10)

    def close_connections(self) -> None:
        """Close those of the user, as what stands between may do at any time."""
        for server in self.masters:
            server.command("CLIENT", "KILL", "USER", "unknowing")

    def save(self) -> None:
        for server in self.masters:
            server.command("SAVE")

    def kill(self) -> None:
        for server in self.masters:
            server.kill()

    def start(self) -> None:
        """Start what was killed, with what it saved last."""
        for server in self.masters:
            server.start()
            add_user(server, "unknowing", "secret", *WITHOUT_INFO)
        self._settled()

    def holds(self, key: str) -> bool:
        return any(LAYOUT.value_key(key) in server.command("KEYS", "*") for server in self.masters)


@pytest.fixture(scope="module")
def cluster() -> Iterator[RedisCluster]:
    """A cluster whose nodes are killed here, and started again before any replica takes over."""
    with RedisCluster() as cluster:
        yield cluster


@pytest.fixture(params=["one server", "a Cluster"])
def place(request: pytest.FixtureRequest) -> Place:
    if request.param == "one server":
        server: RedisServer = request.getfixturevalue("own_redis")
        return Place(server.url, [server], lambda: None)
    nodes: RedisCluster = request.getfixturevalue("cluster")
    return Place(nodes.url, nodes.masters, nodes.await_ok)


def never_away(backend: Any) -> bool:
    """Whether no call failed, and the servers were never taken to be away."""
    return bool(backend.engine_store().health.failures == 0 and backend._link.epoch == 0)


@in_both_flavours
async def test_everything_works(flavour: Flavour, place: Place) -> None:
    for _ in range(2):
        await use_everything(flavour, {"redis_url": place.url})
    place.close_connections()
    await use_everything(flavour, {"redis_url": place.url})


def test_threads_and_loops_are_served_over_every_new_connection(place: Place) -> None:
    backend = place.backend()

    def by_threads() -> None:
        for key in KEYS:
            backend.delete(key)
            backend.set(key, "of a thread", 60)
            assert backend.get(key) == "of a thread"

    async def by_tasks() -> None:
        for key in KEYS:
            await backend.adelete(key)
            await backend.aset(key, "of a task", 60)
            assert await backend.aget(key) == "of a task"

    async def by_a_loop() -> None:
        await by_tasks()
        place.close_connections()
        await by_tasks()
        await backend.aclose()

    by_threads()
    place.close_connections()
    by_threads()
    asyncio.run(by_a_loop())
    asyncio.run(by_a_loop())
    by_threads()
    assert never_away(backend)
    backend.close()


@in_both_flavours
async def test_a_snapshot_that_revives_what_was_invalidated_is_not_believed(flavour: Flavour, place: Place) -> None:
    """Connections break, and new ones are made without anybody's having noticed an outage."""
    store = flavour.use(place.backend())
    truth = ["before"]

    @store.cached(expire="1h", tags=["all"])
    async def tagged(item: int) -> str:
        return truth[0]

    for key in KEYS:
        await store.set(key, "before")
    for item in range(12):
        assert await flavour.call(tagged, item) == "before"
    place.save()
    for key in KEYS:
        await store.delete(key)
    truth[0] = "after"
    await flavour.do(store._cache, "invalidate_tags", "all")
    place.kill()
    place.start()
    assert all(place.holds(key) for key in KEYS), "else there is nothing to be revived"
    for item in range(12):
        assert await flavour.call(tagged, item) == "after"
    assert [await store.get(key) for key in KEYS] == [None] * len(KEYS)
    assert never_away(store.backend)


@in_both_flavours
async def test_an_outage_may_last_longer_than_invalidations_are_remembered(flavour: Flavour, place: Place) -> None:
    backend = place.backend()
    store = flavour.use(backend)
    passed = 0.0
    backend._link._invalidations._clock = lambda: time.monotonic() + passed
    for key in KEYS:
        await store.set(key, "before")
    place.save()
    for key in KEYS:
        assert await store.delete(key), "else there is nothing to be revived"
    place.kill()

    async def away() -> bool:
        await store.get(KEYS[0])
        return bool(backend._link.away())

    await flavour.until(away, "the outage is noticed")
    passed += 600
    place.start()

    async def back() -> bool:
        return not backend._link.away()

    await flavour.until(back, "the servers are met again")
    assert [await store.get(key) for key in KEYS] == [None] * len(KEYS)


@in_both_flavours
async def test_what_is_told_again_is_not_told_for_ever(flavour: Flavour, place: Place) -> None:
    """Else whatever was invalidated once would be lost with every new connection."""
    backend = place.backend()
    store, others = flavour.use(backend), flavour.use(place.others())
    passed = 0.0
    backend._link._invalidations._clock = lambda: time.monotonic() + passed
    await store.delete(KEYS[0])
    for seconds, found in (20, None), (20, "of others"):
        await others.set(KEYS[0], "of others")
        passed += seconds
        place.close_connections()
        assert await store.get(KEYS[0]) == found
    assert never_away(store.backend)
