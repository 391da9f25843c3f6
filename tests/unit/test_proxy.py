"""The proxy that other tests put between a client and a server does what it says."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from tests.support.proxy import Proxy
from tests.support.redis_server import RedisServer


@pytest.fixture
def proxy(redis_server: RedisServer) -> Iterator[Proxy]:
    redis_server.flush()
    with Proxy(redis_server.port) as proxy:
        yield proxy


@pytest.fixture
def client(proxy: Proxy) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(proxy.url, socket_timeout=10, retry=Retry(NoBackoff(), 0), protocol=2) as client:
        yield client


@pytest.fixture
def impatient(proxy: Proxy) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(proxy.url, socket_timeout=0.2, retry=Retry(NoBackoff(), 0), protocol=2) as client:
        yield client


def test_it_passes_on_and_counts(proxy: Proxy, client: redis.Redis) -> None:
    value = b"x" * 300_000
    client.set("k", value)
    assert client.get("k") == value
    assert (proxy.accepted, proxy.open) == (1, 1)
    proxy.wait_until(lambda: min(proxy.passed.values()) > len(value))
    client.close()
    proxy.wait_until(lambda: proxy.open == 0)


def test_each_direction_can_be_delayed(proxy: Proxy, client: redis.Redis) -> None:
    client.ping()
    proxy.delay(to_server=0.05, to_client=0.1)
    began = time.monotonic()
    client.ping()
    assert time.monotonic() - began >= 0.15


def test_what_is_held_back_is_delivered_afterwards(proxy: Proxy, impatient: redis.Redis, client: redis.Redis) -> None:
    client.set("k", "before")
    impatient.ping()
    proxy.pause()
    with pytest.raises(redis.TimeoutError):
        impatient.set("k", "after")
    proxy.resume()
    proxy.wait_until(lambda: proxy.open == 1)  # the one that gave up, once its last words are delivered
    assert client.get("k") == b"after"


def test_a_server_can_be_made_silent_while_it_hears_everything(
    proxy: Proxy, impatient: redis.Redis, redis_server: RedisServer
) -> None:
    impatient.ping()
    proxy.silence("to_client")
    with pytest.raises(redis.TimeoutError):
        impatient.set("k", "heard")
    with redis_server.client() as direct:
        assert direct.get("k") == b"heard"


@pytest.mark.parametrize("reset", [True, False])
def test_all_connections_can_be_cut(proxy: Proxy, reset: bool) -> None:
    with socket.create_connection(("127.0.0.1", proxy.port), timeout=10) as connection:
        connection.sendall(b"PING\r\n")
        assert connection.recv(100) == b"+PONG\r\n"
        assert proxy.cut(reset=reset) == 1
        if reset:
            with pytest.raises(ConnectionResetError):
                connection.recv(100)
        else:
            assert connection.recv(100) == b""
    assert proxy.open == 0


def test_new_connections_can_be_refused_while_old_ones_stay(proxy: Proxy, client: redis.Redis) -> None:
    client.ping()
    proxy.refuse()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", proxy.port), timeout=10)
    client.ping()
    proxy.accept()
    socket.create_connection(("127.0.0.1", proxy.port), timeout=10).close()


@pytest.mark.parametrize("reset", [True, False])
def test_a_reply_can_be_lost_after_the_server_has_obeyed(proxy: Proxy, client: redis.Redis, reset: bool) -> None:
    client.ping()
    proxy.lose_reply(to=b"INCR", times=1, reset=reset)
    assert client.set("other", 1)
    with pytest.raises(redis.ConnectionError):
        client.incr("n")
    proxy.wait_until(lambda: proxy.lost_replies == 1)
    assert client.get("n") == b"1"
    assert client.incr("n") == 2


def test_where_nobody_listens_behind_it_connections_end_at_once(proxy: Proxy, client: redis.Redis) -> None:
    proxy.target = ("127.0.0.1", 1)
    with pytest.raises(redis.ConnectionError):
        client.ping()


def test_a_server_that_ends_is_felt_by_the_client(own_redis: RedisServer) -> None:
    with Proxy(own_redis.port) as proxy, redis.Redis.from_url(proxy.url, retry=Retry(NoBackoff(), 0)) as client:
        client.ping()
        own_redis.kill()
        with pytest.raises(redis.ConnectionError):
            client.ping()
