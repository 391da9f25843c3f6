"""Promises that concern callers together: whose patience ends when, and what becomes of a load that cancels itself."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Coroutine
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI

from examples.sqlite_backend import SQLiteBackend
from fast_cache import Cache, CacheBackend, InMemoryBackend, RedisBackend
from fast_cache.errors import ConfigurationError, LoadTimeout
from fast_cache.testing import Flavour, Suspending, in_both_flavours, only_suspending

SOON = 0.05
LONG = 60


@pytest.fixture(autouse=True)
def nothing_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """Warnings are given once: forget those of other tests."""
    monkeypatch.setattr("fast_cache.once._said", OrderedDict())


@pytest.fixture(params=["memory", "ten methods", "redis"])
def backend(request: pytest.FixtureRequest, tmp_path: Path, redis_url: str) -> CacheBackend:
    if request.param == "memory":
        return InMemoryBackend()
    if request.param == "redis":
        return RedisBackend(redis_url, namespace="promises")
    return SQLiteBackend(tmp_path / "cache.db")


@in_both_flavours
@pytest.mark.parametrize("leader", [{}, {"hard_timeout": SOON}], ids=["patient leader", "hasty leader"])
async def test_each_waiter_has_a_deadline_of_its_own(
    flavour: Flavour, backend: CacheBackend, leader: dict[str, float]
) -> None:
    """One load, three callers: the hasty one has left while the others go on waiting."""
    store, gate, loads = flavour.use(backend), flavour.gate(), list[int]()
    cache = store._cache

    async def body() -> int:
        loads.append(1)
        await gate.passed()
        return 1

    loader = flavour.function(body)

    def ask(**options: float) -> Any:
        keyed = cache.aget_or_set if isinstance(flavour, Suspending) else cache.get_or_set
        return flavour.start(keyed, "key", loader, LONG, **options)

    async def begun() -> bool:
        return bool(loads)

    first = ask(**leader)
    await flavour.until(begun, "the first caller loads")
    hasty, patient, lasting = ask(hard_timeout=SOON), ask(hard_timeout=LONG), ask()
    with pytest.raises(LoadTimeout):
        await hasty.result()
    if leader:
        with pytest.raises(LoadTimeout):
            await first.result()
    gate.open()
    assert await patient.result() == 1
    assert await lasting.result() == 1
    if not leader:
        assert await first.result() == 1
    assert loads == [1]


async def cancels_its_task() -> None:
    task = asyncio.current_task()
    assert task is not None
    task.cancel()
    await asyncio.sleep(0)


async def waits_for_what_is_cancelled() -> None:
    inner = asyncio.get_running_loop().create_future()
    inner.cancel()
    await inner


async def raises_it() -> None:
    raise asyncio.CancelledError


@pytest.mark.parametrize("cancel", [cancels_its_task, waits_for_what_is_cancelled, raises_it])
@pytest.mark.parametrize("options", [{}, {"lock": False}, {"stale_if_error": LONG}], ids=["local", "no lock", "stale"])
@only_suspending
async def test_a_load_that_cancels_itself_leaves_nobody_waiting_and_nothing_stored(
    flavour: Flavour,
    backend: CacheBackend,
    cancel: Callable[[], Coroutine[Any, Any, None]],
    options: dict[str, Any],
) -> None:
    """A cancellation is no error that anything covers for; each caller has a run of the function, and the key works."""
    store, runs, cancels = flavour.use(backend), list[int](), [True]

    @store.cached(expire=LONG, **options)
    async def load() -> int:
        runs.append(1)
        if cancels:
            await cancel()
        return 1

    callers = [asyncio.ensure_future(load()) for _ in range(3)]
    done, waiting = await asyncio.wait(callers, timeout=10)
    assert not waiting
    assert all(caller.cancelled() for caller in done)
    assert len(runs) == 3
    cancels.clear()
    assert await load() == 1
    assert await load() == 1
    assert len(runs) == 4


@pytest.mark.parametrize("window", [None, SOON])
@only_suspending
async def test_a_batch_that_cancels_itself_leaves_nobody_waiting(
    flavour: Flavour, backend: CacheBackend, window: float | None
) -> None:
    store, cancels = flavour.use(backend), [True]

    @store.cached_many(expire=LONG, window=window)
    async def load(numbers: list[int]) -> dict[int, int]:
        if cancels:
            await raises_it()
        return {number: number for number in numbers}

    callers = [asyncio.ensure_future(load.get(number)) for number in (1, 2, 1)]
    done, waiting = await asyncio.wait(callers, timeout=10)
    assert not waiting
    assert all(caller.cancelled() for caller in done)
    cancels.clear()
    assert await load([1, 2]) == {1: 1, 2: 2}


@in_both_flavours
async def test_a_function_has_many_options_at_once(flavour: Flavour, backend: CacheBackend) -> None:
    store, loads = flavour.use(backend), list[int]()
    cache = store._cache

    @store.cached(
        expire=lambda result, number: LONG if result < 10 else 0,
        stale_while_revalidate=LONG,
        stale_if_error=LONG,
        errors=OSError,
        throttle=LONG,
        refresh_ahead=0.1,
        early=0.001,
        jitter=0.1,
        timeout=1,
        hard_timeout=LONG,
        condition=lambda result: result != 2,
        cache_errors={LookupError: LONG},
        tags=("all", "number:{number}"),
        version=2,
        integrity=True,
    )
    async def load(number: int) -> int:
        loads.append(number)
        if number == 0:
            raise LookupError
        return number

    for _ in range(2):
        assert await flavour.call(load, 1) == 1
        assert await flavour.call(load, 2) == 2
        assert await flavour.call(load, 10) == 10
        with pytest.raises(LookupError):
            await flavour.call(load, 0)
    assert sorted(loads) == [0, 1, 2, 2, 10, 10], "what has no lifetime or no consent is not stored"
    await flavour.call(cache.ainvalidate_tags if isinstance(flavour, Suspending) else cache.invalidate_tags, "all")
    assert await flavour.call(load, 1) == 1
    assert loads.count(1) == 2


# What went wrong once.


@pytest.mark.parametrize("options", [{"hard_timeout": 30}, {"timeout": 20, "expire": SOON, "stale_if_error": LONG}])
@in_both_flavours
async def test_a_load_that_cancels_itself_cancels_who_waits_for_it_with_patience(
    flavour: Flavour, backend: CacheBackend, options: dict[str, Any]
) -> None:
    store = flavour.use(backend)
    runs: list[int] = []

    async def cancelled() -> int:
        runs.append(1)
        raise asyncio.CancelledError

    fn = store.cached(**{"expire": LONG, **options})(cancelled)
    with pytest.raises(asyncio.CancelledError):
        await flavour.call(fn)
    assert len(runs) == 2, "behind the caller, and then by the caller, whom that cancels"
    assert len(store.backend.engine_store().flights) == 0


@in_both_flavours
async def test_a_refresh_that_is_cancelled_is_not_repeated_at_once(flavour: Flavour, backend: CacheBackend) -> None:
    store = flavour.use(backend)
    runs: list[int] = []

    async def cancelled() -> int:
        runs.append(1)
        if len(runs) > 1:
            raise asyncio.CancelledError
        return 1

    fn = store.cached(expire=SOON, stale_while_revalidate=LONG, throttle=LONG)(cancelled)
    await flavour.call(fn)
    await flavour.until(lambda: is_stale(flavour, fn), "it is stale")
    for _ in range(3):
        assert await flavour.call(fn) == 1
        await store.drain()
    assert len(runs) == 2


@in_both_flavours
async def test_a_refresh_whose_result_is_not_to_be_stored_is_not_repeated_at_once(
    flavour: Flavour, backend: CacheBackend
) -> None:
    store = flavour.use(backend)
    runs: list[int] = []

    async def number() -> int:
        runs.append(1)
        return len(runs)

    fn = store.cached(expire=SOON, stale_while_revalidate=LONG, throttle=LONG, condition=lambda result: result == 1)(
        number
    )
    await flavour.call(fn)
    await flavour.until(lambda: is_stale(flavour, fn), "it is stale")
    for _ in range(3):
        assert await flavour.call(fn) == 1
        await store.drain()
    assert len(runs) == 2


@in_both_flavours
async def test_an_error_that_nobody_waited_for_is_reported(
    flavour: Flavour, backend: CacheBackend, caplog: pytest.LogCaptureFixture
) -> None:
    store, gate = flavour.use(backend), flavour.gate()

    async def unheard() -> int:
        await gate.passed()
        raise LookupError("a secret")

    fn = store.cached(expire=LONG, hard_timeout=SOON)(unheard)
    with pytest.raises(LoadTimeout):
        await flavour.call(fn)
    gate.open()
    await store.drain()
    assert "unheard raised LookupError, when nobody waited for it any more" in caplog.text
    assert "secret" not in caplog.text


@in_both_flavours
async def test_that_there_is_nothing_of_a_key_is_for_loaders_of_many(flavour: Flavour, backend: CacheBackend) -> None:
    store = flavour.use(backend)

    async def nothing(keys: list[str]) -> dict[str, str]:
        return {}

    async def something() -> str:
        return "found"

    many, one = flavour.function(nothing), flavour.function(something)
    cache = store._cache
    if isinstance(flavour, Suspending):
        assert await cache.amany(["key"], many, LONG, missing_expire=LONG) == {}
        assert await cache.aget_or_set("key", one, LONG) == "found"
    else:
        assert cache.many(["key"], many, LONG, missing_expire=LONG) == {}
        assert not await store.has("key") or isinstance(backend, SQLiteBackend)
        assert cache.get_or_set("key", one, LONG) == "found"


def test_early_takes_lifetimes_that_are_less_than_a_second_apart() -> None:
    cache = Cache()
    cache.init_app(FastAPI(), InMemoryBackend())

    @cache.early(ttl=10, early_ttl=9.5)
    def number() -> int:
        return 1

    assert number.explain().options["refresh_ahead"] == 0.5


@in_both_flavours
async def test_counting_hits_refreshes_nothing_before_its_time(flavour: Flavour, backend: CacheBackend) -> None:
    store = flavour.use(backend)
    runs: list[int] = []

    async def number() -> int:
        runs.append(1)
        return len(runs)

    for options in ({"refresh_ahead": 0.1}, {"expire": None}):
        runs.clear()
        fn = store.cached(**{"expire": LONG, "hits": 100, "version": str(options), **options})(number)
        for _ in range(5):
            assert await flavour.call(fn) == 1
            await store.drain()
        assert len(runs) == 1


@in_both_flavours
async def test_what_is_warmed_up_is_as_if_it_had_been_loaded(flavour: Flavour, backend: CacheBackend) -> None:
    store = flavour.use(backend)
    runs: list[int] = []

    async def number() -> int:
        runs.append(1)
        return len(runs)

    loader, cache = flavour.function(number), store._cache
    options: dict[str, Any] = {"expire": SOON, "tags": "warm", "stale_while_revalidate": LONG}
    if isinstance(flavour, Suspending):
        await cache.awarmup({"key": loader}, **options)
        assert await cache.aget_or_set("key", loader, **options) == 1
        with pytest.raises(ConfigurationError):
            await cache.awarmup({"key": loader}, expire=-1)
    else:
        cache.warmup({"key": loader}, **options)
        assert cache.get_or_set("key", loader, **options) == 1
        with pytest.raises(ConfigurationError):
            cache.warmup({"key": loader}, expire=-1)


@in_both_flavours
async def test_what_lacks_a_tag_is_not_served_to_who_asks_for_it(flavour: Flavour, backend: CacheBackend) -> None:
    store = flavour.use(backend)
    runs: list[int] = []

    async def number() -> int:
        runs.append(1)
        return len(runs)

    loader, cache = flavour.function(number), store._cache

    async def load(**options: Any) -> int:
        if isinstance(flavour, Suspending):
            return int(await cache.aget_or_set("key", loader, LONG, **options))
        return int(cache.get_or_set("key", loader, LONG, **options))

    assert [await load(), await load(tags="a"), await load(tags=("a",)), await load()] == [1, 2, 2, 2]
    assert [await load(tags=("a", "b")), await load(tags="b")] == [3, 3]


@in_both_flavours
async def test_who_looks_is_told_how_long_a_value_is_good_for(flavour: Flavour, redis_url: str) -> None:
    store = flavour.use(RedisBackend(redis_url, namespace="looked"))

    async def number() -> int:
        return 1

    fn = store.cached(expire=LONG)(number)
    await flavour.call(fn)
    with store._cache.detect() as calls:
        await flavour.call(fn)
    assert [call.source for call in calls] == ["redis"]
    assert calls[0].expires_in is not None
    assert 0 < calls[0].expires_in <= LONG


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"expire": lambda: 5}, r"expire= is called with the result, x, y=, which it does not accept"),
        ({"expire": lambda result, x: 5}, r"expire= is called with the result, x, y="),
        ({"condition": lambda: True}, r"condition= is called with the result, which it does not accept"),
        ({"integrity": "yes"}, "integrity must be True or False"),
        ({"shared": "no"}, "shared must be True or False"),
    ],
)
def test_what_can_not_be_called_or_meant_is_refused_at_decoration(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):

        @Cache().cached(**options)
        def fn(x: int, *, y: int = 0) -> int:
            return x


def test_what_takes_the_arguments_is_accepted() -> None:
    @Cache().cached(expire=lambda result, x, y: 5, condition=bool)
    def fn(x: int, *, y: int = 0) -> int:
        return x

    @Cache().cached(expire=lambda *anything, **more: 5)
    def scattered(*args: int, **kwargs: int) -> int:
        return 1

    @Cache().cached(expire=int)
    def counted() -> int:
        return 1


@pytest.mark.parametrize("namespace", [5, "", "a\nb"])
def test_a_namespace_that_can_not_be_is_not_disabled(namespace: Any) -> None:
    with pytest.raises(ConfigurationError), Cache().disabled(namespace):
        pass


@pytest.mark.parametrize("lifetime", [0, -1.5, timedelta(0)])
def test_a_function_that_finds_its_result_out_of_date_does_not_store_it(lifetime: Any) -> None:
    cache = Cache()
    cache.init_app(FastAPI(), InMemoryBackend())
    runs: list[int] = []

    @cache.cached(expire=LONG)
    def fn() -> int:
        runs.append(1)
        cache.current.expire = lifetime
        return 1

    assert [fn(), fn()] == [1, 1]
    assert len(runs) == 2


def test_keys_of_another_type_are_noticed(caplog: pytest.LogCaptureFixture) -> None:
    cache = Cache()
    cache.init_app(FastAPI(), InMemoryBackend())

    @cache.cached_many(expire=LONG)
    def users(ids: list[int]) -> dict[Any, str]:
        return {str(one): "a secret" for one in ids}

    assert users([1, 2]) == {}
    assert "returned nothing that it was asked for, but other keys; are they of another type (int, str)?" in caplog.text
    assert "secret" not in caplog.text


async def is_stale(flavour: Flavour, fn: Any) -> bool:
    return (await flavour.call(fn.explain)).answer in ("stale", "spare")
