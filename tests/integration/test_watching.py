"""`disabled` and `detect`: contexts for a task or a thread, which nobody else notices."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi import Depends, FastAPI
from fastapi.testclient import TestClient

from examples.sqlite_backend import SQLiteBackend
from fast_cache import Cache, CacheBackend, InMemoryBackend, RedisBackend
from fast_cache.testing import Flavour, in_both_flavours
from fast_cache.watching import Detection

SOON = 0.05
LONG = 60


@pytest.fixture(params=["memory", "SQLiteBackend", "redis"])
def backend(request: pytest.FixtureRequest, tmp_path: Path, redis_url: str) -> CacheBackend:
    if request.param == "memory":
        return InMemoryBackend()
    if request.param == "redis":
        return RedisBackend(redis_url, namespace="watching")
    return SQLiteBackend(tmp_path / "cache.db")


def cache_over(backend: CacheBackend | None = None) -> Cache:
    cache = Cache()
    cache.init_app(FastAPI(), backend)
    return cache


class Shop:
    def __cache_key__(self) -> str:
        return "main"


@in_both_flavours
async def test_inside_disabled_functions_run_and_nothing_is_stored(flavour: Flavour, backend: CacheBackend) -> None:
    store = flavour.use(backend)
    cache, loads = store._cache, list[int]()

    @store.cached(expire=LONG)
    async def load(number: int) -> int:
        loads.append(number)
        return len(loads)

    assert await flavour.call(load, 1) == 1
    with cache.disabled():
        assert [await flavour.call(load, 1) for _ in range(2)] == [2, 3]
        assert await flavour.call(load, 2) == 4
    assert await flavour.call(load, 1) == 1, "what was there is still there"
    assert await flavour.call(load, 2) == 5, "what ran inside was not stored"
    assert load.stats().loads == 2


@in_both_flavours
async def test_inside_disabled_an_invalidation_is_still_one(flavour: Flavour, backend: CacheBackend) -> None:
    store = flavour.use(backend)

    @store.cached(expire=LONG)
    async def load() -> int:
        return 1

    await flavour.call(load)
    with store._cache.disabled():
        assert await flavour.call(load.invalidate) is True
    assert not await store.has(load.key())


def test_only_functions_of_a_namespace_can_be_disabled() -> None:
    cache, loads = cache_over(), list[str]()

    @cache.cached(namespace="shop")
    def shop() -> None:
        loads.append("shop")

    @cache.cached
    def other() -> None:
        loads.append("other")

    with cache.disabled("shop"), cache.disabled("nobody's"):
        for _ in range(2):
            shop()
            other()
            cache.get_or_set("key", lambda: loads.append("loader"))
    assert loads == ["shop", "other", "loader", "shop"]


def test_a_loader_runs_inside_disabled() -> None:
    cache, loads = cache_over(), list[int]()

    def load() -> int:
        loads.append(1)
        return 1

    cache.get_or_set("key", load)
    with cache.disabled():
        cache.get_or_set("key", load)
        asyncio.run(cache.aget_or_set("key", load))
    cache.get_or_set("key", load)
    assert len(loads) == 3


def test_another_thread_and_another_task_notice_nothing() -> None:
    cache, loads = cache_over(), list[int]()

    @cache.cached
    def load() -> int:
        loads.append(1)
        return len(loads)

    results: list[int] = []
    load()
    with cache.disabled():
        thread = threading.Thread(target=lambda: results.append(load()))
        thread.start()
        thread.join()
    assert results == [1]

    async def inside(began: asyncio.Event, end: asyncio.Event) -> int:
        with cache.disabled():
            began.set()
            await end.wait()
            return load()

    async def main() -> tuple[int, int]:
        began, end = asyncio.Event(), asyncio.Event()
        task = asyncio.create_task(inside(began, end))
        await began.wait()
        outside = load()
        end.set()
        return outside, await task

    assert asyncio.run(main()) == (1, 2)


def test_what_is_started_inside_is_inside() -> None:
    cache, loads = cache_over(), list[int]()
    app = FastAPI()
    cache.init_app(app)

    @cache.cached
    def load() -> int:
        loads.append(1)
        return 1

    @app.get("/")
    def endpoint() -> int:  # in a worker thread
        with cache.disabled():
            return nested()

    def nested() -> int:
        return load()

    with TestClient(app) as client:
        client.get("/")
        client.get("/")
    assert len(loads) == 2


@in_both_flavours
async def test_detect_says_where_answers_come_from(
    flavour: Flavour, backend: CacheBackend, request: pytest.FixtureRequest
) -> None:
    store = flavour.use(backend)
    where = request.node.callspec.params["backend"]

    @store.cached(expire=LONG)
    async def load(number: int) -> int:
        return number

    with store._cache.detect() as calls:
        await flavour.call(load, 1)
        await flavour.call(load, 1)
    await flavour.call(load, 1)
    first, second = calls
    assert first == Detection(load.key(1), "call", None)
    assert (second.key, second.source) == (load.key(1), where)
    if where != "SQLiteBackend":  # which can't be asked
        await flavour.call(load, 2)
        assert second.expires_in is None or 0 < second.expires_in <= LONG


@in_both_flavours
async def test_detect_sees_who_waited_for_another(flavour: Flavour) -> None:
    store, gate = flavour.use(InMemoryBackend()), flavour.gate()

    @store.cached(expire=LONG)
    async def load() -> int:
        await gate.passed()
        return 1

    async def detected() -> list[str]:
        with store._cache.detect() as calls:
            await flavour.call(load)
        return [call.source for call in calls]

    callers = [flavour.start(flavour.function(detected)) for _ in range(3)]
    await store.followed(load.key(), 2)
    gate.open()
    assert sorted([await caller.result() for caller in callers]) == [["call"], ["coalesced"], ["coalesced"]]


@in_both_flavours
async def test_detect_sees_stale_answers(flavour: Flavour, backend: CacheBackend) -> None:
    store, fails = flavour.use(backend), list[bool]()

    @store.cached(expire=SOON, stale_if_error=LONG, throttle=LONG)
    async def load() -> int:
        if fails:
            raise OSError
        return 1

    with store._cache.detect() as calls:
        await flavour.call(load)
        fails.append(True)

        async def stale() -> bool:
            await flavour.call(load)
            return calls[-1].source == "stale"

        await flavour.until(stale, "a stale value is served")
        await flavour.call(load)
    assert calls[-1].source == "stale"
    assert calls[-1].expires_in is not None
    assert calls[-1].expires_in <= 0


def test_contexts_nest_and_every_one_sees_what_is_inside() -> None:
    cache = cache_over()

    @cache.cached
    def load(number: int) -> int:
        return number

    with cache.detect() as outer:
        load(1)
        with cache.detect() as inner:
            cache.get_or_set("key", lambda: 1)
        load(1)
    load(1)
    assert [call.source for call in outer] == ["call", "call", "memory"]
    assert [call.key for call in inner] == ["key"]


@pytest.mark.parametrize("context", ["disabled", "detect"])
def test_hits_are_found_at_a_glance_again_when_the_last_context_closes(context: str) -> None:
    backend = InMemoryBackend()
    cache = cache_over(backend)
    shop: Any = type("Kiosk", (Shop,), {"price": cache.cached(lambda self, number: number)})()
    plain = cache.cached(lambda number: number)
    text = cache.cached(lambda numbers: numbers)

    def call() -> None:
        plain(1)
        text([1])
        shop.price(1)
        cache.get_or_set("key", lambda: 1)

    call()
    with contextlib.ExitStack() as stack:
        for _ in range(3):
            stack.enter_context(getattr(cache, context)())
        call()
        assert cache._binding.is_watched
    call()

    def refuse(*_: object) -> None:
        raise AssertionError("this is no glance")

    store: Any = backend.engine_store()
    store.find = refuse
    call()


def test_a_backend_that_is_bound_inside_is_found_after_it() -> None:
    cache, loads = cache_over(), list[int]()

    @cache.cached
    def load() -> int:
        loads.append(1)
        return 1

    with cache.detect() as calls:
        load()
        cache.init_app(FastAPI(), InMemoryBackend())
        load()
        load()
    load()
    assert len(loads) == 2
    assert [call.source for call in calls] == ["call", "call", "memory"]


def test_an_error_leaves_the_context_closed() -> None:
    cache = cache_over()
    with contextlib.suppress(LookupError), cache.disabled():
        raise LookupError
    assert not cache._binding.is_watched


@pytest.mark.parametrize("context", ["disabled", "detect"])
def test_a_context_may_be_closed_by_another_thread(context: str) -> None:
    """So ends a generator that serves as a dependency."""
    cache, app = cache_over(), FastAPI()

    def inside() -> Iterator[None]:
        with getattr(cache, context)():
            yield

    @app.get("/", dependencies=[Depends(inside)])
    def endpoint() -> int:
        return 1

    assert TestClient(app).get("/").status_code == 200
    assert not cache._binding.is_watched


def test_contexts_may_overlap() -> None:
    cache = cache_over()
    cache.get_or_set("key", lambda: 1)
    first, second = cache.disabled(), cache.disabled()
    one, other = cache.detect(), cache.detect()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert cache.get_or_set("key", lambda: 2) == 2, "the second is still open"
    second.__exit__(None, None, None)
    before, after = one.__enter__(), other.__enter__()
    assert cache.get_or_set("key", lambda: 2) == 1
    one.__exit__(None, None, None)
    cache.get_or_set("key", lambda: 2)
    other.__exit__(None, None, None)
    with cache.detect():
        cache.get_or_set("key", lambda: 2)
    assert (len(before), len(after)) == (1, 2)


def test_a_task_that_goes_on_after_the_end_goes_on_without() -> None:
    """Whoever else has a context open."""
    cache, loads = cache_over(), list[int]()

    def load() -> int:
        loads.append(1)
        return 1

    async def main() -> None:
        over = asyncio.Event()

        async def work() -> None:
            await over.wait()
            with cache.detect():
                cache.get_or_set("key", load)
                cache.get_or_set("key", load)

        with cache.disabled():
            task = asyncio.create_task(work())
            await asyncio.sleep(0)
        over.set()
        await task

    asyncio.run(main())
    assert len(loads) == 1
