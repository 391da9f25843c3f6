"""Masters that die, with what they had confirmed and not passed on: behind Sentinels, and in a Cluster."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
import redis
import redis.asyncio
from redis.crc import key_slot

from fast_cache import RedisBackend
from fast_cache.backends.redis.layout import Layout
from fast_cache.testing import Flavour, in_both_flavours
from tests.support.deployments import NAMESPACE, WITHOUT_INFO, add_user, use_everything
from tests.support.redis_cluster import RedisCluster
from tests.support.redis_sentinel import RedisSentinel
from tests.support.redis_server import RedisServer, wait_until

LAYOUT = Layout(NAMESPACE, fence_ms=600_000)


who_may_ask_which_server_it_is_or_not = pytest.mark.parametrize("knows", [True, False], ids=["known", "not known"])


def url_for(url: str, servers: list[RedisServer], *, knows: bool) -> str:
    """``url``, for a user who may not ask which server it is, unless he ``knows``."""
    if knows:
        return url
    for server in servers:
        add_user(server, "unknowing", "secret", *WITHOUT_INFO)
    return url.replace("://", "://unknowing:secret@")


def held_by(server: RedisServer, name: bytes) -> bool:
    return name in server.command("KEYS", "*")  # which a replica in a Cluster answers too


async def survives(
    flavour: Flavour, url: str, master_of: Callable[[bytes], RedisServer], others: Callable[[], list[RedisServer]],
    replica_of: Callable[[RedisServer], RedisServer], fail_over: Callable[[RedisServer], Any],
) -> None:  # fmt: skip
    """Kill the master that confirmed an invalidation, before any replica heard of it."""
    store = flavour.use(RedisBackend(url, namespace=NAMESPACE, timeout="2s"))
    truth = ["before"]

    @store.cached(expire="1h")
    async def load(item: int) -> str:
        return truth[0]

    assert await flavour.call(load, 1) == "before"
    (name,) = {name for server in others() for name in server.command("KEYS", "*") if b":v:" in name}
    master = master_of(name)
    replica = replica_of(master)
    wait_until(lambda: held_by(replica, name), "the replica has the value")
    master.cut_replicas()
    truth[0] = "after"
    await flavour.call(load.invalidate, 1)
    assert not held_by(master, name)
    assert held_by(replica, name), "else there is nothing to be revived"
    failing_over = threading.Thread(target=fail_over, args=(master,))
    failing_over.start()
    while failing_over.is_alive():
        assert await flavour.call(load, 1) == "after"
        await flavour.pause()
    failing_over.join()

    async def cached() -> bool:
        loads = load.stats().loads
        assert await flavour.call(load, 1) == "after"
        return bool(load.stats().loads == loads)

    await flavour.until(cached, "the cache is used again")


@who_may_ask_which_server_it_is_or_not
@in_both_flavours
async def test_an_invalidation_that_died_with_its_master_is_repeated_behind_sentinels(
    flavour: Flavour, own_sentinel: RedisSentinel, knows: bool
) -> None:
    master = own_sentinel.master()
    replicas = [server for server in own_sentinel.servers if server is not master]
    await survives(
        flavour,
        url_for(own_sentinel.url, own_sentinel.servers, knows=knows),
        lambda _: master,
        lambda: [master],
        lambda _: replicas[0],
        lambda _: own_sentinel.fail_over(lossy=True),
    )


@who_may_ask_which_server_it_is_or_not
@in_both_flavours
async def test_an_invalidation_that_died_with_its_master_is_repeated_in_a_cluster(
    flavour: Flavour, own_cluster: RedisCluster, knows: bool
) -> None:
    await survives(
        flavour,
        url_for(own_cluster.url, own_cluster.nodes, knows=knows),
        own_cluster.serving,
        lambda: own_cluster.masters,
        own_cluster.replica_of,
        lambda master: own_cluster.fail_over(master, lossy=True),
    )


@pytest.mark.parametrize("given", ["redis_url", "client", "async_client"])
@in_both_flavours
async def test_everything_works_in_a_cluster(flavour: Flavour, redis_cluster: RedisCluster, given: str) -> None:
    node = redis_cluster.masters[0]
    where: Any = {
        "redis_url": redis_cluster.url,
        "client": redis.RedisCluster(host="127.0.0.1", port=node.port),
        "async_client": redis.asyncio.RedisCluster(host="127.0.0.1", port=node.port),
    }[given]
    await use_everything(flavour, {given: where, "timeout": "5s"})
    if given == "client":
        where.close()
    elif given == "async_client":
        await where.aclose()


@in_both_flavours
async def test_a_slot_that_moved_is_found_and_nothing_is_forgotten(flavour: Flavour, own_cluster: RedisCluster) -> None:
    store = flavour.use(RedisBackend(own_cluster.url, namespace=NAMESPACE, timeout="5s"))
    keys = [f"key {number}" for number in range(50)]
    await store.ask("set_many", dict.fromkeys(keys, "value"))
    taken = {key_slot(name) for node in own_cluster.masters for name in node.command("KEYS", "*")}
    key = next(key for key in map(str, range(1000)) if key_slot(LAYOUT.value_key(key)) not in taken)
    slot = key_slot(LAYOUT.value_key(key))
    old = own_cluster.serving(LAYOUT.value_key(key))
    new = next(node for node in own_cluster.masters if node is not old)
    own_cluster.move_slot(slot, new)
    await store.set(key, "moved")
    assert await store.get(key) == "moved"
    assert held_by(new, LAYOUT.value_key(key))
    assert await store.ask("get_many", keys) == ("value",) * 50
    assert store.backend.engine_store().health.failures == 0


@in_both_flavours
async def test_a_slot_on_its_way_is_asked_for_where_it_is(flavour: Flavour, own_cluster: RedisCluster) -> None:
    store = flavour.use(RedisBackend(own_cluster.url, namespace=NAMESPACE, timeout="5s"))
    await store.set("k", "first")
    name = LAYOUT.value_key("k")
    slot, old = key_slot(name), own_cluster.serving(name)
    new = next(node for node in own_cluster.masters if node is not old)
    ids = {node: node.command("CLUSTER", "MYID").decode() for node in (old, new)}
    new.command("CLUSTER", "SETSLOT", slot, "IMPORTING", ids[old])
    old.command("CLUSTER", "SETSLOT", slot, "MIGRATING", ids[new])
    old.command("MIGRATE", "127.0.0.1", new.port, name, 0, 5000)
    assert await store.get("k") == "first"
    assert await store.delete("k")
    assert await store.get("k") is None
    assert store.backend.engine_store().health.failures == 0


@in_both_flavours
async def test_names_are_listed_from_all_nodes(flavour: Flavour, redis_cluster: RedisCluster) -> None:
    store = flavour.use(RedisBackend(redis_cluster.url, namespace="listed", timeout="5s"))
    keys = {f"{number}" for number in range(500)}
    await store.ask("set_many", dict.fromkeys(keys, 1))
    assert set(await store.keys()) == keys
    assert await store.ask("delete_match", "1") == sum(key.startswith("1") for key in keys)
    assert set(await store.keys()) == {key for key in keys if not key.startswith("1")}
