"""Every way in which Redis may be deployed and named: everything works, in both flavours."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from functools import partial
from typing import Any
from urllib.parse import quote

import pytest
import redis
import redis.asyncio
import redis.asyncio.sentinel
import redis.sentinel

from fast_cache import RedisBackend
from fast_cache.errors import BackendError
from fast_cache.ports import ASYNCIO
from fast_cache.testing import Flavour, in_both_flavours, only_suspending
from tests.support.deployments import (
    NAMESPACE,
    Provider,
    add_user,
    has_ipv6,
    make_target,
    opened,
    port_of,
    use_everything,
)
from tests.support.proxy import Proxy
from tests.support.redis_cluster import RedisCluster
from tests.support.redis_sentinel import RedisSentinel, Sentinel
from tests.support.redis_server import RedisServer
from tests.support.tls import Certificates, TLSServer, speaks_tls

ODD = "p@ss/w:rd?#%,[ü"
"""What must be percent-encoded, and more."""


@pytest.fixture(scope="module")
def secret_server() -> Iterator[RedisServer]:
    """A server that wants to know who is there."""
    with RedisServer(requirepass=ODD) as server:
        add_user(server, "hosted", ODD)
        add_user(server, "ü@:/", ODD)
        yield server


@pytest.fixture(scope="module")
def secret_sentinel() -> Iterator[RedisSentinel]:
    """Sentinels with a password, and a master with another one."""
    with RedisSentinel(requirepass=ODD, sentinel_pass="sentinels' own") as sentinel:
        for server in sentinel.servers:
            add_user(server, "hosted", ODD)
        yield sentinel


@in_both_flavours
async def test_a_url_of_one_server(flavour: Flavour, redis_url: str) -> None:
    await use_everything(flavour, {"redis_url": redis_url})


@pytest.mark.parametrize("database", ["/3", "/?db=3"])
@in_both_flavours
async def test_another_database(flavour: Flavour, redis_server: RedisServer, redis_url: str, database: str) -> None:
    url = redis_url.removesuffix("/0") + database
    await use_everything(flavour, {"redis_url": url})
    assert {name: facts["keys"] > 0 for name, facts in _keyspace(redis_server).items()} == {"db3": True}


@in_both_flavours
async def test_a_password(flavour: Flavour, secret_server: RedisServer) -> None:
    await use_everything(flavour, {"redis_url": secret_server.url})


@pytest.mark.parametrize("user", ["hosted", "ü@:/"])
@in_both_flavours
async def test_a_user_who_may_do_little(flavour: Flavour, secret_server: RedisServer, user: str) -> None:
    """CLIENT, CONFIG, SCRIPT, INFO and all that is dangerous are forbidden, as by hosted services."""
    who = f"{quote(user, safe='')}:{quote(ODD, safe='')}"
    await use_everything(flavour, {"redis_url": f"redis://{who}@127.0.0.1:{secret_server.port}/0"})


@pytest.mark.skipif(not has_ipv6(), reason="needs IPv6")
@in_both_flavours
async def test_an_ipv6_address(flavour: Flavour) -> None:
    with RedisServer("--bind", "127.0.0.1", "::1") as server:
        await use_everything(flavour, {"redis_url": f"redis://[::1]:{server.port}/0"})


@pytest.mark.parametrize("password", [None, ODD])
@in_both_flavours
async def test_a_unix_socket(flavour: Flavour, password: str | None) -> None:
    with RedisServer(unix_socket=True, requirepass=password) as server:
        await use_everything(flavour, {"redis_url": server.url})


@pytest.mark.parametrize("mutual", [False, True])
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
@in_both_flavours
async def test_tls(flavour: Flavour, certificates: Certificates, host: str, mutual: bool) -> None:
    with TLSServer.start(certificates, mutual=mutual) as server:
        url = f"rediss://{host}:{server.port}/0?{certificates.query(client=mutual)}"
        await use_everything(flavour, {"redis_url": url})


@in_both_flavours
async def test_sentinels(flavour: Flavour, redis_sentinel: RedisSentinel) -> None:
    await use_everything(flavour, {"redis_url": redis_sentinel.url})


@in_both_flavours
async def test_sentinels_with_passwords(flavour: Flavour, secret_sentinel: RedisSentinel) -> None:
    await use_everything(flavour, {"redis_url": secret_sentinel.url})


@in_both_flavours
async def test_sentinels_and_a_user_who_may_not_ask_for_the_role(
    flavour: Flavour, secret_sentinel: RedisSentinel
) -> None:
    url = secret_sentinel.url.replace("redis+sentinel://:", "redis+sentinel://hosted:")
    await use_everything(flavour, {"redis_url": url})


@pytest.mark.skipif(not speaks_tls(), reason="needs a redis-server with TLS")
@in_both_flavours
async def test_sentinels_by_tls(flavour: Flavour, certificates: Certificates) -> None:
    by_tls: Any = {"tls": partial(certificates.server_arguments, mutual=True)}
    with (
        RedisServer("--tls-replication", "yes", **by_tls) as server,
        Sentinel("--tls-replication", "yes", **by_tls) as sentinel,
    ):
        sentinel.command("SENTINEL", "MONITOR", "shop", "127.0.0.1", server.tls_port, 1)
        query = certificates.query(client=True)
        await use_everything(flavour, {"redis_url": f"rediss+sentinel://localhost:{sentinel.tls_port}/shop?{query}"})


@in_both_flavours
async def test_a_provider_of_credentials_is_asked_at_each_new_connection(
    flavour: Flavour, secret_server: RedisServer
) -> None:
    provider = Provider("hosted", ODD)
    url = f"redis://127.0.0.1:{secret_server.port}/0"
    store = flavour.use(RedisBackend(url, namespace=NAMESPACE, credential_provider=provider))
    await store.set("k", 1)
    asked = dict(provider.asked)
    assert sorted(asked.values()) == [0, 1]
    await store.set("k", 2)
    assert provider.asked == asked  # the connection was still there
    add_user(secret_server, "rotated", "another")
    provider.name, provider.password = "rotated", "another"
    secret_server.command("CLIENT", "KILL", "TYPE", "normal")
    # This user may not ask which server it is: it is taken for another one, to which what was said of late is repeated.
    assert await store.get("k") is None
    assert sorted(provider.asked.values()) == [0, 2]
    assert store.backend.engine_store().health.failures == 0


@pytest.mark.parametrize("given", ["redis_url", "client", "async_client", "both"])
@in_both_flavours
async def test_clients_of_the_users(flavour: Flavour, secret_server: RedisServer, given: str) -> None:
    where: dict[str, Any] = {"port": secret_server.port, "username": "hosted", "password": ODD, "db": 0}
    client = redis.Redis(host="127.0.0.1", **where, decode_responses=True, protocol=3)
    async_client = redis.asyncio.Redis(host="127.0.0.1", **where, decode_responses=True, protocol=3)
    clients = {"redis_url": client, "client": client, "async_client": async_client}
    names = ["client", "async_client"] if given == "both" else [given]
    await use_everything(flavour, {name: clients[name] for name in names})


@pytest.mark.parametrize("given", ["client", "async_client", "both"])
@in_both_flavours
async def test_clients_of_sentinel(flavour: Flavour, secret_sentinel: RedisSentinel, given: str) -> None:
    own = {"sentinel_kwargs": {"password": "sentinels' own"}}
    master: dict[str, Any] = {"username": "hosted", "password": ODD}
    manager: Any = redis.sentinel.Sentinel
    async_manager: Any = redis.asyncio.sentinel.Sentinel
    clients = {
        "client": manager(secret_sentinel.addresses, **own).master_for("shop", **master),
        "async_client": async_manager(secret_sentinel.addresses, **own).master_for("shop", **master),
    }
    await use_everything(flavour, clients if given == "both" else {given: clients[given]})


@in_both_flavours
async def test_a_connection_may_have_a_patience_of_its_own(flavour: Flavour, redis_url: str) -> None:
    port = port_of(flavour)
    async with opened(port, make_target(redis_url), timeout=0.7) as connection:
        assert connection.socket_timeout == 0.7


@in_both_flavours
async def test_nothing_is_sent_while_connecting_that_the_settings_do_not_ask_for(
    flavour: Flavour, redis_server: RedisServer
) -> None:
    with Proxy(redis_server.port) as proxy:
        async with opened(port_of(flavour), make_target(proxy.url)):
            proxy.wait_until(lambda: proxy.accepted == 1)
            assert proxy.passed["to_server"] == 0


@only_suspending
async def test_who_is_cancelled_while_connecting_leaves_no_connection(flavour: Flavour) -> None:
    with RedisServer(requirepass="p") as server, Proxy(server.port) as proxy:
        proxy.pause()
        target = make_target(proxy.url.replace("://", "://:p@"))
        caller = flavour.start(target.connect, ASYNCIO)

        async def connected() -> bool:
            return proxy.open == 1

        await flavour.until(connected, "it is connecting")
        caller.cancel()
        with pytest.raises(asyncio.CancelledError):
            await caller.result()
        proxy.resume()

        async def closed() -> bool:
            return proxy.open == 0

        await flavour.until(closed, "the connection is closed")


@pytest.mark.parametrize("deployment", ["one server", "a Cluster"])
@in_both_flavours
async def test_the_setting_that_is_to_blame_is_named_as_long_as_it_is_wrong(
    flavour: Flavour, redis_url: str, redis_cluster: RedisCluster, deployment: str
) -> None:
    url = redis_url if deployment == "one server" else redis_cluster.url
    backend = RedisBackend(url.replace("://", "://nobody:wrong@"), namespace=NAMESPACE, timeout=10)
    store = flavour.use(backend)
    probed: list[object] = []
    meet = backend._link._meet

    async def counted(port: Any) -> None:
        probed.append(port)
        await meet(port)

    backend._link._meet = counted  # type: ignore[method-assign]
    for rounds in (0, 0, 2):

        async def asked_again(rounds: int = rounds) -> bool:
            return len(probed) >= rounds

        await flavour.until(asked_again, "it was asked again whether the server is back")
        with pytest.raises(BackendError, match="redis_url: the server refuses the password") as raised:
            await store.ask("incr", "n")
        assert raised.value.setting == "redis_url"


def _keyspace(server: RedisServer) -> dict[str, Any]:
    with server.client() as client:
        facts: dict[str, Any] = client.info("keyspace")
        return facts
