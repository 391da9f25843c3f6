"""The public suite, over every backend of the package, one of the examples, and the least that a backend can be."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import itertools
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
import redis.asyncio

from examples.sqlite_backend import SQLiteBackend
from fast_cache import CacheBackend, InMemoryBackend, LayeredBackend, PickleSerializer, RedisBackend
from fast_cache.durations import Duration, optional_seconds
from fast_cache.testing import BackendContract
from tests.support.deployments import WITHOUT_SCRIPTS, add_user
from tests.support.redis_cluster import RedisCluster
from tests.support.redis_server import RedisServer

_numbers = itertools.count()


def new_namespace() -> str:
    """Two backends of one test share nothing, and neither do two tests."""
    return f"contract {next(_numbers)}"


class TestInMemoryBackend(BackendContract):
    def make_backend(self) -> CacheBackend:
        return InMemoryBackend()


class TestInMemoryBackendWithCopies(BackendContract):
    def make_backend(self) -> CacheBackend:
        return InMemoryBackend(copy=True)


class TestRedisBackend(BackendContract):
    @pytest.fixture(autouse=True)
    def server(self, redis_url: str) -> None:
        self.url = redis_url

    def make_backend(self) -> CacheBackend:
        return RedisBackend(self.url, namespace=new_namespace(), timeout=10)


class TestRedisBackendWithFewConnections(BackendContract):
    @pytest.fixture(autouse=True)
    def server(self, redis_url: str) -> None:
        self.url = redis_url

    def make_backend(self) -> CacheBackend:
        return RedisBackend(self.url, namespace=new_namespace(), pool_size=1, max_connections=2, timeout=10)


class TestRedisBackendThatSignsAndCompressesEverything(BackendContract):
    @pytest.fixture(autouse=True)
    def server(self, redis_url: str) -> None:
        self.url = redis_url

    def make_backend(self) -> CacheBackend:
        signed = PickleSerializer(secret="a secret of 16 bytes or more")
        return RedisBackend(self.url, namespace=new_namespace(), serializer=signed, compress_above=1, timeout=10)


class TestRedisBackendWithoutScripts(BackendContract):
    @pytest.fixture(autouse=True)
    def server(self, redis_server: RedisServer, redis_url: str) -> None:
        add_user(redis_server, "scriptless", "secret", *WITHOUT_SCRIPTS)
        self.url = redis_url.replace("//", "//scriptless:secret@")

    def make_backend(self) -> CacheBackend:
        return RedisBackend(self.url, namespace=new_namespace(), timeout=10)


class TestRedisBackendOverACluster(BackendContract):
    @pytest.fixture(autouse=True)
    def cluster(self, redis_cluster: RedisCluster) -> None:
        self.url = redis_cluster.url

    def make_backend(self) -> CacheBackend:
        return RedisBackend(self.url, namespace=new_namespace(), timeout=10)


class TestRedisBackendOverTheUsersClient(BackendContract):
    @pytest.fixture(autouse=True)
    def client(self, redis_url: str) -> Iterator[None]:
        with contextlib.closing(redis.Redis.from_url(redis_url)) as self.users:
            yield

    def make_backend(self) -> CacheBackend:
        return RedisBackend(self.users, namespace=new_namespace(), timeout=10)


class OverAsyncClient(RedisBackend):
    """Closes the user's client together with the backend: what the user does elsewhere in a program."""

    def __init__(self, client: Any) -> None:
        super().__init__(client, namespace=new_namespace(), timeout=10)
        self.users = client

    async def aclose(self) -> None:
        await super().aclose()
        with contextlib.suppress(RuntimeError):  # used on a loop that has ended: too late
            await self.users.aclose()


# A client of the user's is not ours to close: where its event loop ends without aclose(), it complains.
@pytest.mark.filterwarnings("ignore::ResourceWarning")
class TestRedisBackendOverTheUsersAsyncClient(BackendContract):
    @pytest.fixture(autouse=True)
    def server(self, redis_url: str) -> Iterator[None]:
        self.url = redis_url
        yield
        gc.collect()  # while the complaint is still ignored

    def make_backend(self) -> CacheBackend:
        return OverAsyncClient(redis.asyncio.Redis.from_url(self.url))


class TestLayeredBackend(BackendContract):
    @pytest.fixture(autouse=True)
    def server(self, redis_url: str) -> None:
        self.url = redis_url

    def make_backend(self) -> CacheBackend:
        return LayeredBackend(l2=RedisBackend(self.url, namespace=new_namespace(), timeout=10))


class TestLayeredBackendWithCopies(BackendContract):
    @pytest.fixture(autouse=True)
    def server(self, redis_url: str) -> None:
        self.url = redis_url

    def make_backend(self) -> CacheBackend:
        far = RedisBackend(self.url, namespace=new_namespace(), timeout=10)
        return LayeredBackend(l1=InMemoryBackend(copy=True), l2=far, coherence="pubsub")


class TestLayeredBackendOverTenMethods(BackendContract):
    def make_backend(self) -> CacheBackend:
        return LayeredBackend(l2=DictBackend())


class TestSQLiteBackend(BackendContract):
    @pytest.fixture(autouse=True)
    def folder(self, tmp_path: Path) -> None:
        self.path = tmp_path / "cache.sqlite3"

    def make_backend(self) -> CacheBackend:
        return SQLiteBackend(self.path, namespace=new_namespace())


class DictBackend(CacheBackend):
    """The ten methods and nothing else: no call of ``super().__init__()``, the asynchronous ones on worker threads."""

    def __init__(self) -> None:
        self.entries: dict[str, tuple[Any, float]] = {}

    def get(self, key: str, default: Any = None) -> Any:
        value, expires = self.entries.get(key, (default, float("inf")))
        return value if time.monotonic() < expires else default

    def set(self, key: str, value: Any, expire: Duration | None = None) -> None:
        lifetime = optional_seconds(expire, option="expire")
        self.entries[key] = (value, float("inf") if lifetime is None else time.monotonic() + lifetime)

    def delete(self, key: str) -> bool:
        found = self.has(key)
        self.entries.pop(key, None)
        return found

    def clear(self) -> None:
        self.entries.clear()

    def has(self, key: str) -> bool:
        return key in self.entries and time.monotonic() < self.entries[key][1]

    async def aget(self, key: str, default: Any = None) -> Any:
        return await self._elsewhere(self.get, key, default)

    async def aset(self, key: str, value: Any, expire: Duration | None = None) -> None:
        await self._elsewhere(self.set, key, value, expire)

    async def adelete(self, key: str) -> Any:
        return await self._elsewhere(self.delete, key)

    async def aclear(self) -> None:
        await self._elsewhere(self.clear)

    async def ahas(self, key: str) -> bool:
        return bool(await self._elsewhere(self.has, key))

    async def _elsewhere(self, method: Callable[..., Any], *args: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(None, method, *args)


class TestTenMethods(BackendContract):
    def make_backend(self) -> CacheBackend:
        return DictBackend()
