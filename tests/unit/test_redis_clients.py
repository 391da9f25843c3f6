"""What is taken from URLs and from the user's clients: where and as whom they connect, with our patience."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
import redis
import redis.asyncio
import redis.asyncio.connection
import redis.asyncio.sentinel
import redis.connection
import redis.sentinel

from fast_cache import RedisBackend
from fast_cache.backends.redis.target import target_of
from fast_cache.backends.redis.url import read_url
from fast_cache.errors import ConfigurationError, InvalidTypeError
from tests.support.deployments import Provider

Connection = Any


def connections(*clients: Any, url: str | None = None, **options: Any) -> list[Connection]:
    """One connection of each flavour, not connected."""
    maker = target_of(url, clients, timeout=0.2, connect_timeout=0.3, **options).maker
    return [maker.blocking(), maker.suspending()]


def make_client(kind: str, **options: Any) -> Any:
    """A client of either flavour."""
    return (redis.Redis if kind == "blocking" else redis.asyncio.Redis)(**options)


def make_sentinel(kind: str, *args: Any, **options: Any) -> Any:
    module: Any = redis.sentinel if kind == "blocking" else redis.asyncio.sentinel
    return module.Sentinel(*args, **options)


DB_7 = {"db": 7}

in_either_kind = pytest.mark.parametrize("kind", ["blocking", "suspending"])


@in_either_kind
def test_where_and_as_whom_a_client_connects_is_taken_over_with_our_patience(kind: str) -> None:
    theirs = {"socket_timeout": 60, "socket_connect_timeout": 60, "protocol": 3}
    client = make_client(kind, host="h", port=1, db=2, username="u", password="p", decode_responses=True, **theirs)
    for connection in connections(client):
        assert (connection.host, connection.port, connection.db) == ("h", 1, 2)
        assert (connection.username, connection.password) == ("u", "p")
        assert (connection.socket_timeout, connection.socket_connect_timeout) == (0.2, 0.3)
        assert connection.retry.get_retries() == 0
        assert connection.protocol == 2


@in_either_kind
def test_a_provider_of_credentials_of_a_client_is_taken_over(kind: str) -> None:
    provider = Provider("u", "p")
    for connection in connections(make_client(kind, credential_provider=provider)):
        assert connection.credential_provider is provider


@in_either_kind
@pytest.mark.parametrize("tls", [False, True])
def test_a_client_of_sentinel_brings_its_sentinels_and_their_users(kind: str, tls: bool) -> None:
    manager = make_sentinel(
        kind, [("a", 1), ("b", 2)], sentinel_kwargs={"password": "s", "ssl": tls}, socket_timeout=60
    )
    target: Any = target_of(
        None, (manager.master_for("shop", password="m", ssl=tls),), timeout=0.2, connect_timeout=0.3
    )
    assert (target._sentinels, target._service, target.cluster) == ((("a", 1), ("b", 2)), "shop", False)
    for maker, password in ((target.maker, "m"), (target._asking, "s")):
        for connection in (maker.blocking(), maker.suspending()):
            assert connection.password == password
            is_tls = isinstance(connection, redis.connection.SSLConnection | redis.asyncio.connection.SSLConnection)
            assert is_tls is tls
    assert [c.socket_timeout for c in (target.maker.blocking(), target._asking.suspending())] == [0.2, 0.3]


@in_either_kind
def test_a_client_that_reads_from_replicas_is_refused(kind: str) -> None:
    client = make_sentinel(kind, [("127.0.0.1", 1)]).slave_for("shop")
    with pytest.raises(ConfigurationError, match="master_for"):
        RedisBackend(client)


class OwnConnection(redis.Connection):
    """A class of connections that only the user has."""


def test_a_client_with_a_class_of_its_own_needs_its_like() -> None:
    client = redis.Redis(connection_pool=redis.ConnectionPool(connection_class=OwnConnection))
    with pytest.raises(ConfigurationError, match="async_client"):
        RedisBackend(client)
    blocking, suspending = connections(client, redis.asyncio.Redis(port=7))
    assert type(blocking) is OwnConnection
    assert (blocking.socket_timeout, blocking.retry.get_retries()) == (0.2, 0)
    assert suspending.port == 7


def test_two_clients_for_different_deployments_are_refused() -> None:
    clients = make_client("blocking"), make_sentinel("suspending", [("127.0.0.1", 1)]).master_for("shop")
    with pytest.raises(ConfigurationError, match="different deployments"):
        RedisBackend(client=clients[0], async_client=clients[1])


@pytest.mark.parametrize("given", [object(), redis.ConnectionPool(), redis.sentinel.Sentinel([])])  # type: ignore[no-untyped-call]
def test_what_is_no_client_is_refused(given: Any) -> None:
    with pytest.raises(InvalidTypeError, match="text or a redis client"):
        RedisBackend(given)


def test_a_client_for_a_cluster_brings_its_nodes_and_its_user() -> None:
    nodes: Any = [redis.asyncio.cluster.ClusterNode("a", 1), redis.asyncio.cluster.ClusterNode("b", 2)]
    client = redis.asyncio.RedisCluster(startup_nodes=nodes, username="u", password="p", ssl=True, ssl_ca_certs="/ca")
    target: Any = target_of(None, (client,), timeout=0.2, connect_timeout=0.3)
    assert target.cluster
    assert target._seeds == (("a", 1), ("b", 2))
    for connection in (target.maker.blocking(), target.maker.suspending()):
        assert (connection.username, connection.password, connection.ca_certs) == ("u", "p", "/ca")
        assert (connection.socket_timeout, connection.socket_connect_timeout) == (0.2, 0.3)


@pytest.mark.parametrize(
    ("url", "hosts", "service", "options"),
    [
        ("redis+sentinel://a/shop", [("a", 26379)], "shop", {"db": 0}),
        (
            "redis+sentinel://a:1,[::1]:2,[fe80::1]/s%2Fp/7/",
            [("a", 1), ("::1", 2), ("fe80::1", 26379)],
            "s/p",
            {"db": 7},
        ),
        (
            "redis+sentinel://u%40:p%2F@a/shop?db=3",
            [("a", 26379)],
            "shop",
            {"username": "u@", "password": "p/", "db": 3},
        ),
        ("redis+sentinel://:p,@w@a/shop", [("a", 26379)], "shop", {"password": "p,@w", "db": 0}),
        ("redis+sentinel://u@a/shop", [("a", 26379)], "shop", {"username": "u", "db": 0}),
        ("redis+cluster://a,b:7000", [("a", 6379), ("b", 7000)], None, {"db": 0}),
        ("redis+cluster://:p@a/0?client_name=c", [("a", 6379)], None, {"password": "p", "db": 0, "client_name": "c"}),
    ],
)
def test_urls_of_several_hosts_are_read(url: str, hosts: Any, service: str | None, options: dict[str, Any]) -> None:
    place = read_url(url)
    assert (list(place.hosts), place.service, dict(place.options)) == (hosts, service, options)


def test_sentinels_have_a_user_of_their_own_and_share_the_certificates() -> None:
    query = "sentinel_username=su&sentinel_password=s%20p&ssl_ca_certs=/ca&socket_timeout=9&client_name=c"
    place = read_url(f"rediss+sentinel://u:p@a/shop?{query}")
    assert place.class_name == "SSLConnection"
    assert dict(place.asking) == {"username": "su", "password": "s p", "ssl_ca_certs": "/ca", "socket_timeout": 9.0}
    assert (place.options["username"], place.options["password"], place.options["ssl_ca_certs"]) == ("u", "p", "/ca")
    assert "sentinel_password" not in place.options


@pytest.mark.parametrize("url", ["redis+cluster://a,b", "redis+sentinel://a/shop", "redis://a"])
def test_nothing_is_connected_when_a_backend_is_made(url: str) -> None:
    with contextlib.closing(RedisBackend(url)) as backend:
        assert backend.engine_store().health.failures == 0
