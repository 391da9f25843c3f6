"""Redis away, silent, full or forbidding: calls succeed, and nothing older than an invalidation is served after."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from fast_cache import Cache, CacheBackend, RedisBackend
from fast_cache.testing import Flavour, Store, in_both_flavours, only_suspending
from tests.support.redis_server import RedisServer, free_port


@pytest.fixture(autouse=True)
def _everything_is_news(monkeypatch: pytest.MonkeyPatch) -> None:
    """Warnings are given once: forget those of other tests."""
    monkeypatch.setattr("fast_cache.once._said", OrderedDict())


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def make_backend(url: str, **options: Any) -> RedisBackend:
    """A backend that gives up on a silent server soon, so that a test can wait for it."""
    return RedisBackend(url, namespace="traps", timeout=0.25, connect_timeout=0.25, **options)


class Source:
    """What is cached: a value that changes, and how often it was asked for."""

    def __init__(self, flavour: Flavour, store: Store) -> None:
        self.value = "old"
        self.loads = 0
        self._flavour = flavour

        @store.cached()
        async def load(item: int) -> str:
            self.loads += 1
            return self.value

        self.load: Any = load

    async def read(self) -> Any:
        return await self._flavour.call(self.load, 1)

    async def invalidate(self) -> Any:
        return await self._flavour.call(self.load.invalidate, 1)

    async def cached(self) -> bool:
        """Whether two reads in a row cost no load."""
        before = self.loads
        await self.read()
        await self.read()
        return self.loads == before


async def use_everything(flavour: Flavour, store: Store, source: Source) -> None:
    """Every operation that an application may call; while Redis is away none may raise."""
    assert await source.read() == source.value
    assert await flavour.call(source.load.refresh, 1) == source.value
    assert await flavour.call(source.load, 1, skip_cache=True) == source.value
    assert not await source.invalidate()
    await store.set("key", "value", 60)
    assert await store.get("key", "absent") == "absent"
    assert await store.has("key") is False
    assert not await store.delete("key")
    await store.clear()


@in_both_flavours
async def test_where_nothing_listens_every_call_succeeds_and_one_warning_is_given(
    flavour: Flavour, caplog: pytest.LogCaptureFixture
) -> None:
    store = flavour.use(make_backend(f"redis://127.0.0.1:{free_port()}/0"))
    source = Source(flavour, store)
    for _ in range(3):
        await use_everything(flavour, store, source)
    assert len(warnings(caplog)) == 1


@pytest.mark.parametrize("operation", ["read", "refresh", "invalidate", "set", "get", "has", "delete", "clear"])
@in_both_flavours
async def test_no_operation_raises_while_redis_is_away(flavour: Flavour, operation: str) -> None:
    store = flavour.use(make_backend(f"redis://127.0.0.1:{free_port()}/0"))
    source = Source(flavour, store)
    operations: dict[str, Callable[[], Any]] = {
        "read": source.read,
        "refresh": lambda: flavour.call(source.load.refresh, 1),
        "invalidate": source.invalidate,
        "set": lambda: store.set("key", "value"),
        "get": lambda: store.get("key"),
        "has": lambda: store.has("key"),
        "delete": lambda: store.delete("key"),
        "clear": store.clear,
    }
    for _ in range(2):  # the first finds out, the second is told at once
        await operations[operation]()


def test_an_application_starts_serves_and_stops_without_its_redis(caplog: pytest.LogCaptureFixture) -> None:
    cache = Cache()
    app = FastAPI()
    cache.init_app(app, backend=make_backend(f"redis://127.0.0.1:{free_port()}/0"))

    @app.get("/async/{number}")
    @cache.cached(expire=60)
    async def suspending(number: int) -> int:
        return number

    @app.get("/sync/{number}")
    @cache.cached(expire=60)
    def blocking(number: int) -> int:
        return number

    with TestClient(app) as client:
        for number in range(5):
            for path in ("async", "sync"):
                response = client.get(f"/{path}/{number}")
                assert (response.status_code, response.json()) == (200, number)
    assert len(warnings(caplog)) == 1


@in_both_flavours
async def test_calls_go_on_when_redis_dies_and_are_cached_again_when_it_is_back(
    flavour: Flavour, own_redis: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    store = flavour.use(make_backend(own_redis.url))
    source = Source(flavour, store)
    await source.read()
    await flavour.until(source.cached, "the result is cached")
    caplog.clear()
    own_redis.kill()
    for _ in range(3):
        await use_everything(flavour, store, source)
    own_redis.start()
    await flavour.until(source.cached, "the result is cached again")
    assert len(warnings(caplog)) == 1


@in_both_flavours
async def test_calls_go_on_when_redis_falls_silent_and_are_cached_again_when_it_speaks(
    flavour: Flavour, own_redis: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    store = flavour.use(make_backend(own_redis.url))
    source = Source(flavour, store)
    await flavour.until(source.cached, "the result is cached")
    caplog.clear()
    own_redis.freeze()
    for _ in range(3):
        await use_everything(flavour, store, source)
    own_redis.thaw()
    await flavour.until(source.cached, "the result is cached again")
    assert len(warnings(caplog)) == 1


@in_both_flavours
async def test_each_outage_is_told_once(
    flavour: Flavour, own_redis: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "fast_cache")
    store = flavour.use(make_backend(own_redis.url, max_connections=20))
    source = Source(flavour, store)
    await flavour.until(source.cached, "the result is cached")
    caplog.clear()
    for outage in range(1, 4):
        own_redis.kill()
        for number in range(20):
            await flavour.call(source.load, number)
            await store.get("key")
        assert len(warnings(caplog)) == outage
        own_redis.start()
        await flavour.until(source.cached, "the result is cached again")
    recoveries = [record for record in caplog.records if record.levelno == logging.INFO]
    assert len(recoveries) == 3
    assert len(warnings(caplog)) == 3


CHANGES = ["invalidate", "delete", "clear", "set"]


async def change(step: str, store: Store, source: Source) -> None:
    """Make the cached value old; what becomes of it is known to this process."""
    source.value = "new"
    key = source.load.key(1)
    if step == "invalidate":
        await source.invalidate()
    elif step == "delete":
        await store.delete(key)
    elif step == "clear":
        await store.clear()
    else:
        await store.set(key, "new")


@pytest.mark.parametrize("step", CHANGES)
@in_both_flavours
async def test_what_was_invalidated_while_redis_was_silent_is_not_served_after(
    flavour: Flavour, own_redis: RedisServer, step: str
) -> None:
    store = flavour.use(make_backend(own_redis.url))
    source = Source(flavour, store)
    await flavour.until(source.cached, "the old value is cached")
    own_redis.freeze()
    await change(step, store, source)
    assert await source.read() == "new"
    own_redis.thaw()
    seen = []

    async def cached_again() -> bool:
        before = source.loads
        seen.append(await source.read())
        return source.loads == before

    await flavour.until(cached_again, "the new value is cached")
    assert set(seen) == {"new"}


@pytest.mark.parametrize("step", CHANGES)
@in_both_flavours
async def test_what_was_invalidated_while_the_way_to_redis_was_cut_is_not_served_after(
    flavour: Flavour, own_redis: RedisServer, step: str
) -> None:
    """The server lives and keeps its data; it refuses us for a while."""
    store = flavour.use(make_backend(own_redis.url))
    source = Source(flavour, store)
    await flavour.until(source.cached, "the old value is cached")
    with contextlib.closing(own_redis.client()) as admin:
        admin.acl_setuser("admin", enabled=True, nopass=True, categories=["+@all"], keys=["*"], channels=["*"])
    with contextlib.closing(own_redis.client(username="admin", password="")) as admin:
        # Commands that read and write are forbidden: replies are errors, connections stay.
        admin.acl_setuser("default", enabled=True, nopass=True, categories=["-@all"], keys=["*"])
        admin.client_kill_filter(_type="normal", skipme=True)
        await change(step, store, source)
        assert await source.read() == "new"
        admin.acl_setuser("default", enabled=True, nopass=True, categories=["+@all"], keys=["*"])
        await flavour.until(source.cached, "the new value is cached")
        assert await source.read() == "new"


@in_both_flavours
async def test_many_keys_invalidated_in_an_outage_are_all_gone_after(flavour: Flavour, own_redis: RedisServer) -> None:
    store = flavour.use(make_backend(own_redis.url))
    values = dict.fromkeys(range(300), "old")
    loads: list[int] = []

    @store.cached()
    async def load(number: int) -> str:
        loads.append(number)
        return values[number]

    async def served_from_redis() -> bool:
        before = len(loads)
        await flavour.call(load, 0)
        return len(loads) == before

    for number in values:
        await flavour.call(load, number)
    own_redis.freeze()
    for number in values:
        if number % 3:
            values[number] = "new"
            await flavour.call(load.invalidate, number)
    own_redis.thaw()
    await flavour.until(served_from_redis, "what was not invalidated is served from Redis")
    for _ in range(2):
        assert {number: await flavour.call(load, number) for number in values} == values


@only_suspending
async def test_an_invalidation_whose_caller_is_cancelled_is_delivered_all_the_same(
    flavour: Flavour, own_redis: RedisServer
) -> None:
    store = flavour.use(make_backend(own_redis.url))
    source = Source(flavour, store)
    await flavour.until(source.cached, "the old value is cached")
    own_redis.freeze()
    source.value = "new"
    invalidation = flavour.start(source.invalidate)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    invalidation.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await invalidation.result()
    own_redis.thaw()
    await flavour.until(source.cached, "the new value is cached")
    assert await source.read() == "new"


@in_both_flavours
async def test_callers_who_waited_for_a_load_get_it_when_redis_dies_meanwhile(
    flavour: Flavour, own_redis: RedisServer
) -> None:
    store = flavour.use(make_backend(own_redis.url))
    go = flavour.gate()
    loads: list[None] = []

    @store.cached()
    async def load() -> str:
        loads.append(None)
        await go.passed()
        return "value"

    callers = [flavour.start(load) for _ in range(10)]
    await store.followed(load.key(), 9)
    own_redis.kill()
    go.open()
    assert [await caller.result() for caller in callers] == ["value"] * 10
    assert len(loads) == 1


@in_both_flavours
async def test_an_outage_costs_callers_of_one_key_one_load(flavour: Flavour, own_redis: RedisServer) -> None:
    """Single flight needs no store: a stampede on the source is the last thing it can use now."""
    store = flavour.use(make_backend(own_redis.url))
    own_redis.kill()
    go = flavour.gate()
    loads: list[None] = []

    @store.cached()
    async def load() -> str:
        loads.append(None)
        await go.passed()
        return "value"

    callers = [flavour.start(load) for _ in range(20)]
    await store.followed(load.key(), 19)
    go.open()
    assert [await caller.result() for caller in callers] == ["value"] * 20
    assert len(loads) == 1


@in_both_flavours
async def test_connections_that_the_server_closed_are_no_outage(
    flavour: Flavour, own_redis: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    """An idle timeout, a failover, a restart between two calls: the next call connects again."""
    store = flavour.use(make_backend(own_redis.url))
    source = Source(flavour, store)
    await flavour.until(source.cached, "the result is cached")
    with contextlib.closing(own_redis.client()) as admin:
        for _ in range(3):
            admin.client_kill_filter(_type="normal", skipme=True)
            await flavour.pause()  # an event loop learns of it when it looks at its sockets
            assert await source.read() == "old"
    assert source.loads == 1
    assert warnings(caplog) == []


@in_both_flavours
async def test_after_an_outage_only_pool_size_connections_stay_open(flavour: Flavour, own_redis: RedisServer) -> None:
    store = flavour.use(make_backend(own_redis.url, pool_size=1, max_connections=10))
    source = Source(flavour, store)
    await flavour.until(source.cached, "the result is cached")
    health = store.backend.engine_store().health
    for outage in range(1, 4):
        own_redis.kill()

        async def tried_in_vain(failures: int = 4 * outage) -> bool:
            await source.read()
            return health.failures >= failures

        await flavour.until(tried_in_vain, "calls have failed to connect")
        own_redis.start()
        await flavour.until(source.cached, "the result is cached again")
    callers = [flavour.start(flavour.function(store.get), "key") for _ in range(40)]
    for caller in callers:
        await caller.result()
    with contextlib.closing(own_redis.client()) as admin:

        async def closed() -> bool:
            return bool(admin.info("clients")["connected_clients"] <= 2)  # ours, and the one that asks

        await flavour.until(closed, "one connection is left open")


@in_both_flavours
async def test_a_server_that_is_full_costs_no_call_and_one_warning(
    flavour: Flavour, own_redis: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    store = flavour.use(make_backend(own_redis.url))
    source = Source(flavour, store)
    await flavour.until(source.cached, "the result is cached")
    caplog.clear()
    with contextlib.closing(own_redis.client()) as admin:
        admin.config_set("maxmemory", "1")
        for number in range(2, 12):
            assert await flavour.call(source.load, number) == "old"
            assert await source.read() == "old"
        await store.set("key", "value")
        assert await store.get("key", "absent") == "absent"
        assert len(warnings(caplog)) == 1
        admin.config_set("maxmemory", "0")
    await flavour.call(source.load, 20)
    before = source.loads
    await flavour.call(source.load, 20)
    assert source.loads == before


@pytest.mark.parametrize("forbidden", ["eval", "watch", "set", "get", "del"])
@in_both_flavours
async def test_a_server_that_forbids_a_command_costs_no_call_and_one_warning(
    flavour: Flavour, own_redis: RedisServer, forbidden: str, caplog: pytest.LogCaptureFixture
) -> None:
    rights = [f"-{forbidden}", *(["-eval"] if forbidden == "watch" else [])]
    with contextlib.closing(own_redis.client()) as admin:
        admin.acl_setuser(
            "ours", enabled=True, passwords=["+secret"], categories=["+@all"], commands=rights, keys=["*"]
        )
    url = own_redis.url.replace("redis://", "redis://ours:secret@")
    store = flavour.use(make_backend(url))
    source = Source(flavour, store)
    for number in range(10):
        for _ in range(2):
            assert await flavour.call(source.load, number) == "old"
            assert await flavour.call(source.load.refresh, number) == "old"
    assert len(warnings(caplog)) == (forbidden != "eval"), "what scripts do can be done without"


@in_both_flavours
async def test_a_wrong_password_costs_no_call_and_is_not_told(
    flavour: Flavour, own_redis: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "fast_cache")
    url = own_redis.url.replace("redis://", "redis://somebody:hunter2@")
    store = flavour.use(make_backend(url))
    source = Source(flavour, store)
    for _ in range(3):
        assert await source.read() == "old"
    assert len(warnings(caplog)) == 1
    assert "hunter2" not in caplog.text


class Faulty(CacheBackend):
    """Ten methods over a dict, some of which raise."""

    def __init__(self, *faulty: str) -> None:
        self.entries: dict[str, Any] = {}
        self.faulty = set(faulty)

    def _check(self, name: str) -> None:
        if name in self.faulty:
            raise OSError(f"{name} is out of order")

    def get(self, key: str, default: Any = None) -> Any:
        self._check("get")
        return self.entries.get(key, default)

    def set(self, key: str, value: Any, expire: Any = None) -> None:
        self._check("set")
        self.entries[key] = value

    def delete(self, key: str) -> bool:
        self._check("delete")
        return self.entries.pop(key, None) is not None

    def clear(self) -> None:
        self._check("clear")
        self.entries.clear()

    def has(self, key: str) -> bool:
        self._check("has")
        return key in self.entries

    async def aget(self, key: str, default: Any = None) -> Any:
        return self.get(key, default)

    async def aset(self, key: str, value: Any, expire: Any = None) -> None:
        self.set(key, value, expire)

    async def adelete(self, key: str) -> bool:
        return self.delete(key)

    async def aclear(self) -> None:
        self.clear()

    async def ahas(self, key: str) -> bool:
        return self.has(key)


@pytest.mark.parametrize("faulty", [("get",), ("set",), ("get", "set"), ("get", "set", "delete", "has", "clear")])
@in_both_flavours
async def test_a_backend_that_raises_costs_no_call_and_one_warning(
    flavour: Flavour, faulty: tuple[str, ...], caplog: pytest.LogCaptureFixture
) -> None:
    backend = Faulty(*faulty)
    store = flavour.use(backend)
    source = Source(flavour, store)
    for number in range(10):
        assert await flavour.call(source.load, number) == "old"
        assert await flavour.call(source.load.refresh, number) == "old"
    assert len(warnings(caplog)) == 1
    backend.faulty.clear()
    await flavour.until(source.cached, "the result is cached")


@in_both_flavours
async def test_a_backend_that_raises_does_not_make_an_invalidation_raise(
    flavour: Flavour, caplog: pytest.LogCaptureFixture
) -> None:
    backend = Faulty("delete")
    store = flavour.use(backend)
    source = Source(flavour, store)
    await source.read()
    for _ in range(3):
        assert not await source.invalidate()
    assert len(warnings(caplog)) == 1


def test_the_backend_is_made_without_connecting() -> None:
    backend = RedisBackend(f"redis://127.0.0.1:{free_port()}/0")
    assert backend.engine_store().health.failures == 0
    backend.close()


@pytest.mark.parametrize(
    "url",
    [
        "",
        "localhost:6379",
        "http://localhost",
        "redis://localhost/db",
        "redis://localhost:0",
        "redis://h:port",
        None,
        5,
    ],
)
def test_an_address_that_can_not_be_is_refused_at_once_and_never_repeated(url: Any) -> None:
    from fast_cache import ConfigurationError

    with pytest.raises(ConfigurationError):
        RedisBackend(url)
    if isinstance(url, str) and "://" in url:
        with pytest.raises(ConfigurationError) as caught:
            RedisBackend(url.replace("://", "://user:hunter2@"))
        assert "hunter2" not in str(caught.value)


def test_nothing_listens_where_these_tests_say_so() -> None:
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", free_port()), timeout=10)
