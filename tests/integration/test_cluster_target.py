"""Connections to the nodes of a Cluster, and what they tell of who serves what."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest
import redis
import redis.asyncio

from fast_cache.backends.redis.cluster import Cluster
from fast_cache.backends.redis.driver import discard
from fast_cache.backends.redis.slot_map import SlotMap, slot_of
from fast_cache.backends.redis.target import target_of
from fast_cache.ports import Port
from fast_cache.testing import Flavour, in_both_flavours
from tests.support.deployments import Provider, add_user, ask, make_target, port_of, port_reached, use_everything
from tests.support.proxy import Proxy
from tests.support.redis_cluster import RedisCluster
from tests.support.tls import Certificates, TLSServer, speaks_tls


def make_cluster(url: str | None, *clients: Any, **options: Any) -> Cluster:
    target = make_target(url, *clients, **options)
    assert isinstance(target, Cluster)
    return target


async def read_slots(port: Port, target: Cluster) -> SlotMap:
    connection, asked = await target.connect_where(port)
    try:
        return target.read_slots(await target.maker.ask(port, connection, "CLUSTER", "SLOTS"), asked)
    finally:
        await discard(port, connection)


def cluster_clients(cluster: RedisCluster) -> dict[str, Any]:
    """A target for each way of naming a Cluster."""
    url = cluster.nodes[0].url
    with contextlib.closing(redis.RedisCluster.from_url(url)) as client:
        suspending = redis.asyncio.RedisCluster.from_url(url)
        return {
            "url": make_cluster(cluster.url),
            "client": make_cluster(None, client),
            "async_client": make_cluster(None, suspending),
            "both": make_cluster(None, client, suspending),
        }


@pytest.mark.parametrize("given", ["url", "client", "async_client", "both"])
@in_both_flavours
async def test_a_cluster_tells_who_serves_what(flavour: Flavour, redis_cluster: RedisCluster, given: str) -> None:
    port = port_of(flavour)
    target: Cluster = cluster_clients(redis_cluster)[given]
    assert target.cluster
    connection, asked = await target.connect_where(port)
    try:
        slots = target.read_slots(await target.maker.ask(port, connection, "CLUSTER", "SLOTS"), asked)
    finally:
        await discard(port, connection)
    assert slots.complete
    assert set(slots.addresses) == {("127.0.0.1", node.port) for node in redis_cluster.nodes}
    for key in (b"a", b"b", b"c", b"{a}x"):
        slot = slot_of(key)
        address = slots.serving(slot)
        assert address == ("127.0.0.1", redis_cluster.serving(key).port)
        assert await port_reached(port, target, address) == address[1]
        assert (
            await ask(port, target, "MYID" if False else "CLUSTER", "MYID", address=address)
            == (slots.owner(slot) or "").encode()
        )


@in_both_flavours
async def test_a_node_redirects_to_whom_the_map_names(flavour: Flavour, redis_cluster: RedisCluster) -> None:
    port = port_of(flavour)
    target = make_cluster(redis_cluster.url)
    right = redis_cluster.serving("k")
    wrong = next(node for node in redis_cluster.masters if node is not right)
    asked = ("127.0.0.1", wrong.port)
    redirect = target.redirect(await ask(port, target, "GET", "k", address=asked), asked)
    assert redirect is not None
    assert (redirect.slot, redirect.address, redirect.ask) == (slot_of(b"k"), ("127.0.0.1", right.port), False)


@in_both_flavours
async def test_nodes_that_are_away_are_passed_over_and_tried_last_from_then_on(
    flavour: Flavour, redis_cluster: RedisCluster
) -> None:
    first, second = redis_cluster.masters[:2]
    with Proxy(first.port) as away, Proxy(second.port) as silent, Proxy(second.port) as there:
        away.refuse()
        silent.pause()
        hosts = ",".join(f"127.0.0.1:{proxy.port}" for proxy in (away, silent, there))
        target = target_of(f"redis+cluster://{hosts}", timeout=0.3, connect_timeout=5.0)
        assert await port_reached(port_of(flavour), target) == second.port
        away.accept()
        silent.resume()
        assert await port_reached(port_of(flavour), target) == second.port
        assert (away.accepted, silent.accepted, there.accepted) == (0, 1, 2)


@in_both_flavours
async def test_nodes_that_were_learnt_are_tried_when_the_seeds_are_gone(
    flavour: Flavour, redis_cluster: RedisCluster
) -> None:
    with Proxy(redis_cluster.nodes[0].port) as seed:
        target = make_cluster(f"redis+cluster://127.0.0.1:{seed.port}")
        target.read_slots(redis_cluster.slots(), ("127.0.0.1", seed.port))
        seed.refuse()
        assert await port_reached(port_of(flavour), target) in [node.port for node in redis_cluster.nodes]


@in_both_flavours
async def test_after_a_failover_the_map_shows_another_owner(flavour: Flavour, own_cluster: RedisCluster) -> None:
    port = port_of(flavour)
    target = make_cluster(own_cluster.url)
    before = await read_slots(port, target)
    master = own_cluster.serving("k")
    replica = own_cluster.fail_over(master, lossy=True)
    after = await read_slots(port, target)
    changed = before.changed_owners(after)
    assert slot_of(b"k") in changed
    assert {before.serving(slot) for slot in changed} == {("127.0.0.1", master.port)}
    assert {after.serving(slot) for slot in changed} == {("127.0.0.1", replica.port)}


@in_both_flavours
async def test_a_slot_that_was_moved_is_one_changed_owner(flavour: Flavour, own_cluster: RedisCluster) -> None:
    port = port_of(flavour)
    target = make_cluster(own_cluster.url)
    before = await read_slots(port, target)
    own_cluster.move_slot(0, own_cluster.masters[2])
    after = await read_slots(port, target)
    assert before.changed_owners(after) == {0}
    assert after.serving(0) == ("127.0.0.1", own_cluster.masters[2].port)


@in_both_flavours
async def test_a_user_of_a_cluster_is_authenticated_at_every_node(
    flavour: Flavour, redis_cluster: RedisCluster
) -> None:
    for node in redis_cluster.nodes:
        add_user(node, "hosted", "p@ss", "~*", "+@all", "-@dangerous", "-client", "-config")
    target = make_cluster(redis_cluster.url.replace("://", "://hosted:p%40ss@"))
    assert await ask(port_of(flavour), target, "ACL", "WHOAMI") != b"default"
    provided = make_cluster(redis_cluster.url, credential_provider=Provider("hosted", "p@ss"))
    for node in redis_cluster.nodes:
        reply = await ask(port_of(flavour), provided, "ECHO", "x", address=("127.0.0.1", node.port))
        assert reply == b"x"


@in_both_flavours
async def test_the_remapping_of_a_client_is_taken_over(flavour: Flavour, redis_cluster: RedisCluster) -> None:
    client = redis.asyncio.RedisCluster(
        host="127.0.0.1", port=redis_cluster.nodes[0].port, address_remap=lambda told: ("localhost", told[1])
    )
    target = make_cluster(None, client)
    slots = await read_slots(port_of(flavour), target)
    assert {host for host, _ in slots.addresses} == {"localhost"}


@in_both_flavours
async def test_a_cluster_by_tls(flavour: Flavour, certificates: Certificates) -> None:
    with TLSServer.start(certificates, mutual=True) as server:
        target = make_cluster(f"rediss+cluster://localhost:{server.port}?{certificates.query(client=True)}")
        assert await ask(port_of(flavour), target, "ECHO", "x") == b"x"


@pytest.fixture(scope="module")
def tls_cluster(certificates: Certificates) -> Iterator[RedisCluster]:
    """A cluster that wants to see certificates."""
    with RedisCluster(certificates=certificates) as cluster:
        yield cluster


@pytest.mark.skipif(not speaks_tls(), reason="needs a redis-server with TLS")
@pytest.mark.parametrize("given", ["url", "client", "async_client"])
@in_both_flavours
async def test_the_nodes_of_a_cluster_are_reached_by_tls(
    flavour: Flavour, tls_cluster: RedisCluster, certificates: Certificates, given: str
) -> None:
    port = port_of(flavour)
    seed: dict[str, Any] = {"host": "localhost", "port": tls_cluster.tls_ports[0], "ssl": True}
    seed |= {"ssl_ca_certs": str(certificates.ca), "ssl_certfile": str(certificates.client)}
    seed |= {"ssl_keyfile": str(certificates.client)}
    if given == "url":
        query = certificates.query(client=True)
        target = make_cluster(f"rediss+cluster://localhost:{tls_cluster.tls_ports[0]}?{query}")
    elif given == "client":
        with contextlib.closing(redis.RedisCluster(**seed)) as client:
            target = make_cluster(None, client)
    else:
        target = make_cluster(None, redis.asyncio.RedisCluster(**seed))
    slots = await read_slots(port, target)
    assert {at for _, at in slots.addresses} == set(tls_cluster.tls_ports)
    for address in slots.masters:
        assert await ask(port, target, "ECHO", "x", address=address) == b"x"


@pytest.mark.skipif(not speaks_tls(), reason="needs a redis-server with TLS")
@in_both_flavours
async def test_everything_works_in_a_cluster_by_tls(
    flavour: Flavour, tls_cluster: RedisCluster, certificates: Certificates
) -> None:
    where = f"localhost:{tls_cluster.tls_ports[0]}?{certificates.query(client=True)}"
    await use_everything(flavour, {"redis_url": f"rediss+cluster://{where}"})
