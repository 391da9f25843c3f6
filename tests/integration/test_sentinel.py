"""The master that Sentinels watch: found, checked for its role, and found again when it dies."""

from __future__ import annotations

import time
from typing import Any

import pytest
import redis
import redis.sentinel

from fast_cache.backends.redis.deployment import Target
from fast_cache.errors import BackendUnavailable
from fast_cache.testing import Flavour, in_both_flavours
from tests.support.deployments import make_target, opened, port_of, port_reached
from tests.support.proxy import Proxy
from tests.support.redis_sentinel import RedisSentinel, Sentinel
from tests.support.redis_server import RedisServer, free_port


def sentinels_at(*ports: int, service: str = "shop", **options: Any) -> Target:
    hosts = ",".join(f"127.0.0.1:{port}" for port in ports)
    return make_target(f"redis+sentinel://{hosts}/{service}", **options)


@in_both_flavours
async def test_a_sentinel_is_asked_where_the_master_is(flavour: Flavour, redis_sentinel: RedisSentinel) -> None:
    target = make_target(redis_sentinel.url)
    assert not target.cluster
    assert await port_reached(port_of(flavour), target) == redis_sentinel.master().port


@in_both_flavours
async def test_after_a_failover_new_connections_lead_to_the_new_master(flavour: Flavour) -> None:
    with RedisSentinel(down_after=0.5) as sentinel:
        target = make_target(sentinel.url)
        assert await port_reached(port_of(flavour), target) == sentinel.master().port
        new = sentinel.fail_over()
        assert await port_reached(port_of(flavour), target) == new.port


@in_both_flavours
async def test_sentinels_that_are_away_are_passed_over_and_asked_last_from_then_on(
    flavour: Flavour, redis_sentinel: RedisSentinel
) -> None:
    master = redis_sentinel.master()
    with Proxy(redis_sentinel.sentinels[0].port) as away, Proxy(redis_sentinel.sentinels[1].port) as there:
        away.refuse()
        target = sentinels_at(away.port, there.port)
        assert await port_reached(port_of(flavour), target) == master.port
        away.accept()
        assert await port_reached(port_of(flavour), target) == master.port
        assert (away.accepted, there.accepted) == (0, 2)


@in_both_flavours
async def test_a_sentinel_that_is_silent_costs_no_more_than_connect_timeout(
    flavour: Flavour, redis_sentinel: RedisSentinel
) -> None:
    with Proxy(redis_sentinel.sentinels[0].port) as silent:
        silent.pause()
        target = sentinels_at(silent.port, redis_sentinel.sentinels[1].port, connect_timeout=0.3)
        began = time.monotonic()
        assert await port_reached(port_of(flavour), target) == redis_sentinel.master().port
        assert time.monotonic() - began >= 0.3  # it was asked, and given its time


@in_both_flavours
async def test_a_master_that_is_none_any_more_is_not_taken(flavour: Flavour) -> None:
    """The moment in a failover at which the Sentinels still name the old one."""
    with RedisServer() as master, RedisServer() as replica, Sentinel() as sentinel:
        replica.command("REPLICAOF", "127.0.0.1", master.port)
        sentinel.command("SENTINEL", "MONITOR", "shop", "127.0.0.1", master.port, 1)
        master.command("REPLICAOF", "127.0.0.1", replica.port)
        with pytest.raises(BackendUnavailable, match="a master that is none") as caught:
            await sentinels_at(sentinel.port).connect(port_of(flavour))
        assert caught.value.setting is None

        async def closed() -> bool:
            return b"cmd=role" not in master.command("CLIENT", "LIST")

        await flavour.until(closed, "the connection is closed")


@in_both_flavours
async def test_another_sentinel_may_know_better(flavour: Flavour, redis_sentinel: RedisSentinel) -> None:
    with RedisServer() as replica, Sentinel() as mistaken:
        mistaken.command("SENTINEL", "MONITOR", "shop", "127.0.0.1", replica.port, 1)
        replica.command("REPLICAOF", "127.0.0.1", redis_sentinel.servers[0].port)
        target = sentinels_at(mistaken.port, redis_sentinel.sentinels[0].port)
        assert await port_reached(port_of(flavour), target) == redis_sentinel.master().port


@in_both_flavours
async def test_where_no_sentinel_answers_that_is_an_outage(flavour: Flavour) -> None:
    with pytest.raises(BackendUnavailable) as caught:
        await sentinels_at(free_port(), free_port()).connect(port_of(flavour))
    assert caught.value.setting is None
    assert isinstance(caught.value.__cause__, redis.ConnectionError)


@in_both_flavours
async def test_the_host_that_a_client_forces_on_its_sentinels_is_used(
    flavour: Flavour, redis_sentinel: RedisSentinel
) -> None:
    manager: Any = redis.sentinel.Sentinel
    client = manager(redis_sentinel.addresses, force_master_ip="localhost").master_for("shop")
    async with opened(port_of(flavour), make_target(None, client)) as connection:
        assert (connection.host, connection.port) == ("localhost", redis_sentinel.master().port)
