"""An application is cached where a variable of its environment says: every kind of URL, with a real Redis behind it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlencode

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from fast_cache import Cache, InMemoryBackend, LayeredBackend, RedisBackend
from tests.support.redis_cluster import RedisCluster
from tests.support.redis_sentinel import RedisSentinel
from tests.support.redis_server import RedisServer, wait_until
from tests.support.tls import Certificates, TLSServer

OURS = {"namespace": "by-url", "timeout": "10s", "connect_timeout": "10s"}
"""Much patience, since machines that run tests are busy."""

PLACES = ["redis", "rediss", "unix", "redis+sentinel", "redis+cluster"]


class Place:
    """Where a URL leads, and who can be asked what lies there."""

    def __init__(self, url: str, servers: list[RedisServer]) -> None:
        self.url = f"{url}{'&' if '?' in url else '?'}{urlencode(OURS)}"
        self._servers = servers

    def keys(self) -> set[bytes]:
        return {key for server in self._servers for key in server.command("KEYS", "*")}


@pytest.fixture
def place(request: pytest.FixtureRequest) -> Iterator[Place]:
    """A Redis with nothing in it, deployed in the way that is asked for."""

    def fixture(name: str) -> Any:
        return request.getfixturevalue(name)

    with contextlib.ExitStack() as stack:
        scheme = request.param
        if scheme == "redis":
            yield Place(fixture("redis_url"), [fixture("redis_server")])
        elif scheme == "rediss":
            certificates: Certificates = fixture("certificates")
            tls = stack.enter_context(TLSServer.start(certificates, mutual=True))
            yield Place(f"rediss://127.0.0.1:{tls.port}/0?{certificates.query(client=True)}", [tls.server])
        elif scheme == "unix":
            server = stack.enter_context(RedisServer(unix_socket=True, requirepass="p&q?@"))
            yield Place(server.url, [server])
        elif scheme == "redis+sentinel":
            sentinel: RedisSentinel = fixture("redis_sentinel")
            sentinel.master().flush()
            yield Place(sentinel.url, [sentinel.master()])
        else:
            cluster: RedisCluster = fixture("redis_cluster")
            cluster.flush()
            yield Place(cluster.url, cluster.masters)


class Process:
    """An application as one process would have it, that reads where its cache is from the environment."""

    def __init__(self) -> None:
        self.loads: list[int] = []
        self.cache = Cache()
        self.app = FastAPI()
        self.cache.init_app(self.app, backend=os.environ["CACHE_URL"])

        @self.cache.cached(expire="10m")
        def price(item_id: int) -> int:
            self.loads.append(item_id)
            return item_id * 2

        @self.app.get("/prices/{item_id}")
        @self.cache.cached(expire="10m")
        async def read_price(item_id: int) -> int:
            self.loads.append(-item_id)
            return item_id * 3

        self.price = price

    def source(self) -> str:
        """Where the price of item 1 comes from now."""
        with self.cache.detect() as calls:
            assert self.price(1) == 2
        return calls[0].source

    def holds(self) -> bool:
        """Whether there is a copy of the price of item 1 in local memory, by now."""
        assert self.price(1) == 2
        stats = self.cache.stats()
        return stats.coherence is not None and stats.coherence.sure and stats.size > 0


@contextlib.contextmanager
def two_processes() -> Iterator[tuple[Process, TestClient, Process, TestClient]]:
    first, second = Process(), Process()
    with TestClient(first.app) as client, TestClient(second.app) as other:
        yield first, client, second, other


@pytest.mark.parametrize("place", PLACES, indirect=True)
def test_processes_share_the_redis_that_a_url_names(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CACHE_URL", place.url)
    with two_processes() as (first, client, second, other):
        assert type(first.cache.get_cache()) is RedisBackend
        assert [client.get("/prices/1").json(), other.get("/prices/1").json()] == [3, 3]
        assert [first.price(1), second.price(1)] == [2, 2]
        assert (first.loads, second.loads) == ([-1, 1], [])
        assert second.source() == "redis"
        assert second.price.invalidate(1)
        assert first.source() == "call"
    keys = place.keys()
    assert keys
    assert all(key.startswith(b"by-url:") for key in keys)


@pytest.mark.parametrize("coherence", ["tracking", "pubsub"])
@pytest.mark.parametrize("place", PLACES, indirect=True)
def test_two_tiers_by_url_are_one_cache(place: Place, coherence: str, monkeypatch: pytest.MonkeyPatch) -> None:
    scheme, _, rest = place.url.partition("://")
    own = urlencode({"l1_expire": "5m", "max_staleness": "1m", "l1_max_size": 100, "coherence": coherence})
    monkeypatch.setenv("CACHE_URL", f"layered{'' if scheme == 'redis' else '+' + scheme}://{rest}&{own}")
    with two_processes() as (first, client, second, other):
        backend = first.cache.get_cache()
        assert isinstance(backend, LayeredBackend)
        assert (backend.l1.max_size, backend.namespace) == (100, "by-url")
        assert [client.get("/prices/1").json(), other.get("/prices/1").json()] == [3, 3]
        assert (first.loads, second.loads) == ([-1], [])
        for process in (first, second):
            wait_until(process.holds, "no copy is held")
        assert (first.loads, second.loads) == ([-1, 1], [])
        assert second.source() == "memory"
        assert second.price.invalidate(1)
        wait_until(lambda: first.source() == "call", "a copy stays for ever")
        assert (first.loads, second.loads) == ([-1, 1, 1], [])
    keys = place.keys()
    assert keys
    assert all(key.startswith(b"by-url:") for key in keys)


def test_memory_by_url_is_each_process_s_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CACHE_URL", "memory://?max_size=100")
    with two_processes() as (first, client, second, other):
        assert type(first.cache.get_cache()) is InMemoryBackend
        assert [client.get("/prices/1").json() for _ in range(2)] == [3, 3]
        assert other.get("/prices/1").json() == 3
        assert (first.loads, second.loads) == ([-1], [-1])
        assert first.source() == "call"
        assert first.source() == "memory"


@pytest.mark.parametrize("place", ["rediss"], indirect=True)
def test_a_wrong_password_is_told_once_and_costs_only_the_cache(
    place: Place, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("CACHE_URL", place.url.replace("rediss://", "rediss://:hunter2@"))
    process = Process()
    with TestClient(process.app) as client:
        assert [client.get("/prices/1").json() for _ in range(2)] == [3, 3]
        assert process.loads == [-1, -1]
    told = [record.getMessage() for record in caplog.records if "password" in record.getMessage()]
    assert len(told) == 1
    assert "hunter2" not in caplog.text
    assert not place.keys()
