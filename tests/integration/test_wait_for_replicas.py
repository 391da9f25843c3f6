"""``wait_for_replicas``: an invalidation counts as confirmed when replicas have it; until then it is not forgotten."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from fast_cache import CacheBackend, RedisBackend
from fast_cache.backends.redis import invalidations
from fast_cache.backends.redis.link import Link
from fast_cache.testing import Flavour, in_both_flavours
from tests.support.deployments import NAMESPACE, use_everything
from tests.support.proxy import Proxy
from tests.support.redis_cluster import RedisCluster, follows
from tests.support.redis_server import RedisServer, wait_until

VALUES = f"{NAMESPACE}:v:*"


@pytest.fixture
def master() -> Iterator[RedisServer]:
    with RedisServer("--repl-diskless-sync-delay", "0") as server:
        yield server


@pytest.fixture
def replica(master: RedisServer) -> Iterator[RedisServer]:
    with RedisServer() as server:
        server.command("REPLICAOF", "127.0.0.1", master.port)
        wait_until(lambda: follows(server), "the replica follows")
        wait_until(lambda: bool(master.command("WAIT", 1, 100) == 1), "it says how far it is")
        yield server


def backend_at(url: str, replicas: int = 1) -> RedisBackend:
    return RedisBackend(url, namespace=NAMESPACE, timeout="5s", wait_for_replicas=replicas)


def link_of(backend: Any) -> Link:
    link: Link = backend._link
    return link


def told(backend: Any) -> bool:
    """Whether there is something that replicas may lack."""
    return bool(link_of(backend)._invalidations.told())


def failures(backend: CacheBackend) -> int:
    return backend.engine_store().health.failures


@in_both_flavours
async def test_what_was_invalidated_is_gone_from_the_replica_too(
    flavour: Flavour, master: RedisServer, replica: RedisServer
) -> None:
    store = flavour.use(backend_at(master.url))
    for step in (lambda: store.delete("k"), store.clear, lambda: store.ask("delete_match", "k")):
        await store.set("k", "v")
        assert replica.command("KEYS", VALUES)
        generation = replica.command("GET", f"{NAMESPACE}:g:")
        await step()
        assert not told(store.backend)
        assert not replica.command("KEYS", VALUES) or replica.command("GET", f"{NAMESPACE}:g:") != generation
    await use_everything(flavour, {"redis_url": master.url, "timeout": "5s", "wait_for_replicas": 1})
    assert failures(store.backend) == 0


@in_both_flavours
async def test_in_a_cluster_the_replicas_of_each_master_are_asked(
    flavour: Flavour, redis_cluster: RedisCluster
) -> None:
    await use_everything(flavour, {"redis_url": redis_cluster.url, "timeout": "5s", "wait_for_replicas": 1})


@in_both_flavours
async def test_an_invalidation_that_no_replica_acknowledged_is_not_confirmed_until_one_has(
    flavour: Flavour, master: RedisServer, replica: RedisServer
) -> None:
    store = flavour.use(backend_at(master.url))
    await store.ask("set_many", {"k": "old", "other": "value"})
    master.cut_replicas()
    await store.delete("k")
    assert failures(store.backend) == 1
    assert told(store.backend)
    assert len(replica.command("KEYS", VALUES)) == 2
    assert await store.get("k") is None
    assert await store.get("other") == "value", "what the master has is served"
    assert not link_of(store.backend).away()
    master.mend_replicas()

    async def acknowledged() -> bool:
        return not told(store.backend)

    await flavour.until(acknowledged, "a replica has it")
    assert len(replica.command("KEYS", VALUES)) == 1
    assert len(master.command("KEYS", VALUES)) == 1, "nothing was deleted twice"
    await store.delete("other")
    assert failures(store.backend) == 1


@in_both_flavours
async def test_what_no_replica_acknowledged_is_told_to_the_one_that_takes_over_however_late(
    flavour: Flavour, master: RedisServer, replica: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(invalidations, "_REPLAYED", 0.001)
    with Proxy(master.port) as proxy:
        store = flavour.use(backend_at(proxy.url))
        await store.set("k", "old")
        master.cut_replicas()
        await store.delete("k")
        replica.command("REPLICAOF", "NO", "ONE")
        proxy.target = ("127.0.0.1", replica.port)
        assert replica.command("KEYS", VALUES)
        master.kill()

        async def deleted() -> bool:
            return not replica.command("KEYS", VALUES)

        await flavour.until(deleted, "the new master has been told, though nobody asks it")
        assert told(store.backend), "it has no replica"
        assert await store.get("k", "absent") == "absent"


@in_both_flavours
async def test_more_replicas_than_there_are_never_acknowledge(
    flavour: Flavour, master: RedisServer, replica: RedisServer
) -> None:
    store = flavour.use(RedisBackend(master.url, namespace=NAMESPACE, timeout=0.2, wait_for_replicas=2))
    await store.set("k", "v")
    assert failures(store.backend) == 1
    assert await store.get("k") == "v"


def test_many_at_once_wait_for_the_same_answers(master: RedisServer, replica: RedisServer) -> None:
    backend = backend_at(master.url)
    asyncio.run(change_many(backend))
    assert failures(backend) == 0
    assert not told(backend)
    waits = int(master.client().info("commandstats")["cmdstat_wait"]["calls"])
    assert waits < 100


async def change_many(backend: RedisBackend) -> None:
    await asyncio.gather(*(backend.aset(f"key {number}", number) for number in range(100)))
    await asyncio.gather(*(backend.adelete(f"key {number}") for number in range(100)))
    await backend.aset_many(dict.fromkeys(map(str, range(100)), 1))
    await backend.aclose()
