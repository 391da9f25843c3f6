"""`warmup`: many keys at once, bounded, with a report."""

from __future__ import annotations

import asyncio
import concurrent.futures
import gc
import threading
import weakref
from collections.abc import Callable
from typing import Any

import pytest
from fastapi import FastAPI

from fast_cache import Cache, CacheBackend, InMemoryBackend, RedisBackend
from fast_cache.errors import ConfigurationError, InvalidTypeError
from fast_cache.testing import Flavour, Suspending, in_both_flavours
from fast_cache.warming import WarmupReport

LONG = 60


@pytest.fixture(params=["memory", "redis"])
def backend(request: pytest.FixtureRequest, redis_url: str) -> CacheBackend:
    return InMemoryBackend() if request.param == "memory" else RedisBackend(redis_url, namespace="warm")


async def warm(flavour: Flavour, cache: Cache, loaders: Any, **options: Any) -> WarmupReport:
    if isinstance(flavour, Suspending):
        return await cache.awarmup(loaders, **options)
    return cache.warmup(loaders, **options)


def cache_over(flavour: Flavour, backend: CacheBackend) -> Cache:
    flavour.use(backend)
    cache = Cache()
    cache.init_app(FastAPI(), backend)
    return cache


@in_both_flavours
async def test_every_key_is_loaded_and_the_failures_are_reported(flavour: Flavour, backend: CacheBackend) -> None:
    cache = cache_over(flavour, backend)
    failure = LookupError("nothing")

    def loader(number: int) -> Callable[[], Any]:
        async def load() -> int:
            if number == 3:
                raise failure
            return number

        return flavour.function(load)

    await flavour.do(backend, "set", "1", "there already")
    steps: list[tuple[int, int]] = []
    report = await warm(
        flavour,
        cache,
        {str(number): loader(number) for number in range(6)},
        expire=LONG,
        progress=lambda done, of: steps.append((done, of)),
    )
    assert sorted(report.loaded) == ["0", "2", "4", "5"]
    assert report.present == ["1"]
    assert report.failed == {"3": failure}
    assert steps == [(done, 6) for done in range(1, 7)]
    assert [await flavour.do(backend, "get", str(number)) for number in range(5)] == [0, "there already", 2, None, 4]


@pytest.mark.parametrize("concurrency", [1, 3])
@in_both_flavours
async def test_no_more_are_loaded_at_once_than_was_said(flavour: Flavour, concurrency: int) -> None:
    cache = cache_over(flavour, InMemoryBackend())
    lock = threading.Lock()
    running, most = 0, 0
    together = flavour.gate()

    async def load() -> int:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
            if running == concurrency:
                together.open()
        await together.passed()
        with lock:
            running -= 1
        return 1

    loaders = {str(number): flavour.function(load) for number in range(9)}
    report = await warm(flavour, cache, loaders, concurrency=concurrency)
    assert len(report.loaded) == 9
    assert most == concurrency


@in_both_flavours
async def test_nothing_to_load_is_no_error(flavour: Flavour) -> None:
    assert await warm(flavour, cache_over(flavour, InMemoryBackend()), {}) == WarmupReport()


def test_a_warmup_that_is_cancelled_loads_no_more() -> None:
    cache = Cache()
    cache.init_app(FastAPI())
    began: list[int] = []

    async def main() -> None:
        both = asyncio.Event()

        async def load() -> None:
            began.append(1)
            if len(began) == 2:
                both.set()
            await asyncio.Event().wait()

        task = asyncio.create_task(cache.awarmup({str(number): load for number in range(5)}, concurrency=2))
        await asyncio.wait_for(both.wait(), 20)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert len(began) == 2


def test_what_can_not_work_is_refused() -> None:
    cache = Cache()
    cache.init_app(FastAPI())
    nonsense: Any
    for nonsense in ([], {"key": 5}):
        with pytest.raises(InvalidTypeError):
            cache.warmup(nonsense)
    with pytest.raises(ConfigurationError, match="concurrency"):
        cache.warmup({}, concurrency=0)
    with pytest.raises(InvalidTypeError, match="concurrency"):
        cache.warmup({}, concurrency=True)


@in_both_flavours
async def test_a_loader_that_is_cancelled_has_failed_and_stops_nothing(flavour: Flavour) -> None:
    async def cancelled() -> None:
        raise asyncio.CancelledError

    async def load() -> int:
        return 1

    loaders = {"a": flavour.function(cancelled), "b": flavour.function(load), "c": flavour.function(load)}
    report = await warm(flavour, cache_over(flavour, InMemoryBackend()), loaders, concurrency=1)
    assert report.loaded == ["b", "c"]
    assert isinstance(report.failed["a"], concurrent.futures.CancelledError)


@in_both_flavours
async def test_loaders_run_in_the_context_of_the_caller(flavour: Flavour) -> None:
    backend = InMemoryBackend()
    cache = cache_over(flavour, backend)

    async def load() -> int:
        return 1

    with cache.disabled():
        await warm(flavour, cache, {"a": flavour.function(load)})
    assert not await flavour.do(backend, "has", "a")
    with cache.detect() as calls:
        await warm(flavour, cache, {"a": flavour.function(load)})
    assert [call.key for call in calls] == ["a"]


@in_both_flavours
async def test_a_loader_may_need_what_its_caller_is_loading(flavour: Flavour) -> None:
    """It does not wait for it, which would be for ever."""
    backend = InMemoryBackend()
    cache, store = cache_over(flavour, backend), flavour.use(backend)
    loads: list[int] = []

    @store.cached(expire=LONG)
    async def outer() -> int:
        loads.append(1)
        if len(loads) == 1:
            await warm(flavour, cache, {"inner": flavour.function(inner)})
        return len(loads)

    async def inner() -> Any:
        return await flavour.call(outer)

    assert await flavour.start(outer).result() == 2


@in_both_flavours
async def test_what_progress_raises_ends_the_warmup(flavour: Flavour) -> None:
    loads: list[int] = []
    failure = ZeroDivisionError()

    async def load() -> None:
        loads.append(1)

    def progress(done: int, of: int) -> None:
        raise failure

    loaders = {str(number): flavour.function(load) for number in range(500)}
    with pytest.raises(ZeroDivisionError) as caught:
        await warm(flavour, cache_over(flavour, InMemoryBackend()), loaders, concurrency=1, progress=progress)
    assert caught.value is failure
    assert len(loads) < 500


class Missing(LookupError):
    pass


@in_both_flavours
async def test_errors_live_no_longer_than_the_report(flavour: Flavour) -> None:
    cache = cache_over(flavour, InMemoryBackend())
    errors: list[weakref.ref[Missing]] = []

    def load() -> None:  # plain in both flavours: nothing of a test's own may hold the error
        error = Missing()
        errors.append(weakref.ref(error))
        try:
            raise error
        finally:
            del error

    loaders = {"a": load, "b": load}
    gc.collect()
    gc.disable()
    try:
        report = await warm(flavour, cache, loaders, concurrency=1)
        assert sorted(report.failed) == ["a", "b"]
        del report
        assert [error() for error in errors] == [None, None]
    finally:
        gc.enable()
