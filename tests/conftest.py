"""Fixtures that every test may use: servers to share, and servers to break."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from fast_cache.backends.redis.backend import DEFAULTS
from tests.support.redis_cluster import RedisCluster
from tests.support.redis_sentinel import RedisSentinel
from tests.support.redis_server import RedisServer
from tests.support.sockets import all_closed, watch_sockets
from tests.support.tls import Certificates


def pytest_configure() -> None:
    watch_sockets()


@pytest.fixture(autouse=True)
def _every_socket_is_closed() -> Iterator[None]:
    with all_closed():
        yield


@pytest.fixture(autouse=True)
def _busy_machines_are_no_outage(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where tests compete for processors a server may be silent for longer than users should have to wait."""
    if "faults" not in request.path.parts:
        monkeypatch.setitem(DEFAULTS, "timeout", 5.0)


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    """A server for the whole run: keep to a namespace, or take ``redis_url``; never stop it."""
    with RedisServer() as server:
        yield server


@pytest.fixture
def redis_url(redis_server: RedisServer) -> str:
    """The address of the shared server, emptied for this test."""
    redis_server.flush()
    return redis_server.url


@pytest.fixture
def own_redis() -> Iterator[RedisServer]:
    """A server for one test, which may freeze, kill and restart it."""
    with RedisServer() as server:
        yield server


@pytest.fixture(scope="session")
def redis_cluster() -> Iterator[RedisCluster]:
    """A cluster for the whole run: keep to a namespace; never break it."""
    with RedisCluster() as cluster:
        yield cluster


@pytest.fixture
def own_cluster() -> Iterator[RedisCluster]:
    """A cluster for one test, whose masters may die: they are replaced soon."""
    with RedisCluster(node_timeout=1.0) as cluster:
        yield cluster


@pytest.fixture(scope="session")
def redis_sentinel() -> Iterator[RedisSentinel]:
    """A master with two replicas and three sentinels for the whole run: keep to a namespace; never break it."""
    with RedisSentinel() as sentinel:
        yield sentinel


@pytest.fixture
def own_sentinel() -> Iterator[RedisSentinel]:
    """The same for one test, whose master may die: it is replaced soon."""
    with RedisSentinel(down_after=0.5) as sentinel:
        yield sentinel


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """An authority of our own, a server's certificate and a client's."""
    return Certificates(tmp_path_factory.mktemp("certificates"))
