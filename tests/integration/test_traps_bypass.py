"""Around the cache: skip_cache, refresh, life before init_app, and what is refused at decoration."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import inspect
import logging
from collections import OrderedDict
from collections.abc import AsyncIterator, Iterator
from typing import Any, cast

import pytest
from fastapi import FastAPI

from fast_cache import (
    Cache,
    CacheBackend,
    ConfigurationError,
    FastCacheError,
    InMemoryBackend,
    NotInitialisedError,
    RedisBackend,
    cache,
)
from fast_cache.testing import Blocking, Flavour, in_both_flavours

BACKENDS = pytest.mark.parametrize("kind", ["memory", "redis"])


def make_backend(kind: str, redis_url: str) -> CacheBackend:
    return RedisBackend(redis_url, namespace="traps") if kind == "redis" else InMemoryBackend()


@pytest.fixture(autouse=True)
def _everything_is_news(monkeypatch: pytest.MonkeyPatch) -> None:
    """Warnings are given once: forget those of other tests."""
    monkeypatch.setattr("fast_cache.once._said", OrderedDict())


@BACKENDS
@in_both_flavours
async def test_skip_cache_runs_the_function_and_touches_nothing(flavour: Flavour, redis_url: str, kind: str) -> None:
    store = flavour.use(make_backend(kind, redis_url))
    loads: list[int] = []

    @store.cached()
    async def load(number: int) -> int:
        loads.append(number)
        return len(loads)

    assert await flavour.call(load, 1, skip_cache=True) == 1
    assert not await store.has(load.key(1)), "nothing is stored"
    assert await flavour.call(load, 1) == 2
    assert await flavour.call(load, 1, skip_cache=True) == 3
    assert await flavour.call(load, number=1, skip_cache=True) == 4
    assert await flavour.call(load, 1) == 2, "nothing is overwritten"
    assert await flavour.call(load, 1, skip_cache=False) == 2
    assert loads == [1] * 4


@in_both_flavours
async def test_skip_cache_does_not_join_a_load_that_is_under_way(flavour: Flavour) -> None:
    store = flavour.use(InMemoryBackend())
    go = flavour.gate()
    loads: list[None] = []

    @store.cached()
    async def load() -> int:
        loads.append(None)
        number = len(loads)
        if number == 1:
            await go.passed()
        return number

    leader = flavour.start(load)

    async def begun() -> bool:
        return bool(loads)

    await flavour.until(begun, "the load has begun")
    assert await flavour.call(load, skip_cache=True) == 2
    go.open()
    assert await leader.result() == 1


@pytest.mark.parametrize("spelling", ["keyword only", "with a default", "without a default"])
@in_both_flavours
async def test_a_function_that_declares_skip_cache_gets_what_its_caller_says(flavour: Flavour, spelling: str) -> None:
    store = flavour.use(InMemoryBackend())
    seen: list[bool] = []

    @store.cached()
    async def keyword_only(number: int, *, skip_cache: bool = False) -> int:
        seen.append(skip_cache)
        return len(seen)

    @store.cached()
    async def with_a_default(number: int, skip_cache: bool = False) -> int:
        seen.append(skip_cache)
        return len(seen)

    @store.cached()
    async def without_a_default(number: int, skip_cache: bool) -> int:
        seen.append(skip_cache)
        return len(seen)

    functions = {
        "keyword only": keyword_only,
        "with a default": with_a_default,
        "without a default": without_a_default,
    }
    load = functions[spelling]
    assert await flavour.call(load, 1, skip_cache=True) == 1
    assert await flavour.call(load, 1, skip_cache=False) == 2
    assert await flavour.call(load, 1, skip_cache=False) == 2
    assert await flavour.call(load, 1, skip_cache=True) == 3
    assert seen == [True, False, True]


@in_both_flavours
async def test_a_function_whose_skip_cache_is_true_by_default_can_be_told_not_to(flavour: Flavour) -> None:
    store = flavour.use(InMemoryBackend())
    seen: list[bool] = []

    @store.cached()
    async def load(number: int, skip_cache: bool = True) -> int:
        seen.append(skip_cache)
        return len(seen)

    assert await flavour.call(load, 1, skip_cache=False) == 1
    assert seen == [False]
    assert await flavour.call(load, 1, skip_cache=False) == 1


@in_both_flavours
async def test_skip_cache_given_by_position_to_a_function_that_declares_it_skips(flavour: Flavour) -> None:
    store = flavour.use(InMemoryBackend())
    seen: list[bool] = []

    @store.cached()
    async def load(number: int, skip_cache: bool = False) -> int:
        seen.append(skip_cache)
        return len(seen)

    assert [await flavour.call(load, 1, True) for _ in range(2)] == [1, 2]
    assert seen == [True, True]


@in_both_flavours
async def test_a_function_that_takes_any_keyword_does_not_see_skip_cache(flavour: Flavour) -> None:
    store = flavour.use(InMemoryBackend())
    seen: list[dict[str, Any]] = []

    @store.cached()
    async def load(**options: Any) -> int:
        seen.append(options)
        return len(seen)

    assert await flavour.call(load, a=1, skip_cache=True) == 1
    assert await flavour.call(load, a=1, skip_cache=True) == 2
    assert await flavour.call(load, a=1, skip_cache=False) == 3
    assert await flavour.call(load, a=1) == 3
    assert seen == [{"a": 1}] * 3


@in_both_flavours
async def test_skip_cache_works_where_there_is_no_key(flavour: Flavour, caplog: pytest.LogCaptureFixture) -> None:
    store = flavour.use(InMemoryBackend())

    @store.cached()
    async def load(thing: object) -> str:
        return "value"

    assert await flavour.call(load, object(), skip_cache=True) == "value"
    assert caplog.records == []


@BACKENDS
@in_both_flavours
async def test_refresh_calls_the_function_and_stores_what_it_returns(
    flavour: Flavour, redis_url: str, kind: str
) -> None:
    store = flavour.use(make_backend(kind, redis_url))
    loads: list[int] = []

    @store.cached()
    async def load(number: int) -> list[int]:
        loads.append(number)
        return [number, len(loads)]

    assert await flavour.call(load.refresh, 1) == [1, 1]
    assert await flavour.call(load, 1) == [1, 1]
    assert await flavour.call(load.refresh, number=1) == [1, 2]
    assert await flavour.call(load, 1) == [1, 2]
    assert await flavour.call(load, 2) == [2, 3]
    assert loads == [1, 1, 2]


@BACKENDS
@in_both_flavours
async def test_a_refresh_that_fails_raises_and_leaves_the_old_result(
    flavour: Flavour, redis_url: str, kind: str
) -> None:
    store = flavour.use(make_backend(kind, redis_url))
    loads: list[None] = []

    @store.cached()
    async def load() -> str:
        loads.append(None)
        if len(loads) == 2:
            raise LookupError("not now")
        return f"value {len(loads)}"

    assert await flavour.call(load) == "value 1"
    with pytest.raises(LookupError, match="not now"):
        await flavour.call(load.refresh)
    assert await flavour.call(load) == "value 1"
    assert await flavour.call(load.refresh) == "value 3"


def test_the_backend_can_not_be_had_before_init_app() -> None:
    fresh = Cache()
    for ask in (fresh.get_cache, lambda: asyncio.run(fresh.aget_cache())):
        with pytest.raises(RuntimeError, match=r"init_app\(app\)") as caught:
            ask()
        assert isinstance(caught.value, NotInitialisedError)
        assert isinstance(caught.value, FastCacheError)


def test_the_one_cache_of_the_package_is_a_cache() -> None:
    assert isinstance(cache, Cache)


@in_both_flavours
async def test_before_init_app_decorated_functions_run_uncached(flavour: Flavour) -> None:
    fresh = Cache()
    loads: list[int] = []

    async def body(number: int) -> int:
        loads.append(number)
        return len(loads)

    load = fresh.cached(expire=60)(flavour.function(body))
    assert [await flavour.call(load, 1) for _ in range(3)] == [1, 2, 3]
    assert await flavour.call(load, 1, skip_cache=True) == 4
    assert await flavour.call(load.refresh, 1) == 5
    assert not await flavour.call(load.invalidate, 1)
    assert load.key(1) == load.key(number=1)
    backend = InMemoryBackend()
    flavour.use(backend)
    fresh.init_app(FastAPI(), backend=backend)
    assert [await flavour.call(load, 1) for _ in range(3)] == [6] * 3
    assert fresh.get_cache() is backend


@in_both_flavours
async def test_before_init_app_exceptions_and_wrong_calls_are_those_of_the_function(flavour: Flavour) -> None:
    async def body(number: int) -> int:
        raise LookupError(number)

    load = Cache().cached(flavour.function(body))
    with pytest.raises(LookupError):
        await flavour.call(load, 1)
    with pytest.raises(TypeError, match="argument"):
        await flavour.call(load)


@in_both_flavours
async def test_init_app_again_puts_another_backend_behind_the_same_functions(flavour: Flavour) -> None:
    fresh = Cache()
    loads: list[None] = []

    async def body() -> int:
        loads.append(None)
        return len(loads)

    load = fresh.cached(flavour.function(body))
    first, second = InMemoryBackend(), InMemoryBackend()
    for backend, results in ((first, [1, 1]), (second, [2, 2]), (first, [1, 1])):
        fresh.init_app(FastAPI(), backend=backend)
        assert [await flavour.call(load) for _ in range(2)] == results


@in_both_flavours
async def test_two_caches_do_not_share_anything(flavour: Flavour) -> None:
    caches = Cache(), Cache()
    loads: list[None] = []

    async def body() -> int:
        loads.append(None)
        return len(loads)

    functions = [each.cached(flavour.function(body)) for each in caches]
    for each in caches:
        each.init_app(FastAPI())
    assert [await flavour.call(load) for load in functions * 2] == [1, 2, 1, 2]


@pytest.mark.parametrize("wrong", [None, "app", object(), FastAPI, InMemoryBackend()])
def test_init_app_refuses_what_is_no_app(wrong: Any) -> None:
    with pytest.raises(ConfigurationError, match="app"):
        Cache().init_app(wrong)


@pytest.mark.parametrize("wrong", ["localhost", InMemoryBackend, {}, object()])
def test_init_app_refuses_what_is_no_backend(wrong: Any) -> None:
    fresh = Cache()
    with pytest.raises(ConfigurationError, match="backend"):
        fresh.init_app(FastAPI(), backend=wrong)
    with pytest.raises(NotInitialisedError):
        fresh.get_cache()


def generator() -> Iterator[int]:
    yield 1


async def async_generator() -> AsyncIterator[int]:
    yield 1


@contextlib.contextmanager
def context_manager() -> Iterator[int]:
    yield 1


@contextlib.asynccontextmanager
async def async_context_manager() -> AsyncIterator[int]:
    yield 1


class Streaming:
    def __iter__(self) -> Iterator[int]:
        yield 1

    async def pages(self) -> AsyncIterator[int]:
        yield 1


@pytest.mark.parametrize(
    "function",
    [
        generator,
        async_generator,
        context_manager,
        async_context_manager,
        Streaming.__iter__,
        Streaming.pages,
        staticmethod(generator),
        classmethod(cast(Any, async_generator)),
    ],
    ids=lambda function: getattr(function, "__qualname__", "?"),
)
@pytest.mark.parametrize("bare", [True, False])
def test_functions_that_yield_are_refused_at_decoration(function: Any, bare: bool) -> None:
    fresh = Cache()
    with pytest.raises(ConfigurationError, match="read only once"):
        fresh.cached(function) if bare else fresh.cached(expire=60)(function)


@pytest.mark.parametrize(
    "options",
    [
        {"namespace": ""},
        {"namespace": "a\nb"},
        {"namespace": 5},
        {"version": ""},
        {"version": True},
        {"version": 1.5},
        {"key": ""},
        {"key": 5},
        {"key_builder": "text"},
        {"condition": "text"},
        {"expire": "soon"},
    ],
    ids=str,
)
def test_options_that_can_not_work_are_refused_at_decoration(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        Cache().cached(**options)(lambda: None)


@pytest.mark.parametrize("wrong", [functools.cached_property(lambda self: 1), object(), [], 5j])
def test_what_is_neither_a_function_nor_a_duration_is_refused_where_it_is_written(wrong: Any) -> None:
    """``@cache.cached`` on the wrong thing must not quietly leave a decorator in its place."""
    with pytest.raises(ConfigurationError):
        Cache().cached(wrong)


@in_both_flavours
async def test_a_decorated_function_looks_like_the_one_it_was(flavour: Flavour) -> None:
    async def body(number: int, *, flag: bool = False) -> int:
        """What it does."""
        return number

    body.tag = "mine"  # type: ignore[attr-defined]
    function = flavour.function(body)
    load = Cache().cached(expire=60)(function)
    assert load.__name__ == "body"
    assert load.__qualname__ == body.__qualname__
    assert load.__doc__ == "What it does."
    assert load.__module__ == __name__
    assert load.__wrapped__ is function
    assert load.tag == "mine"
    assert inspect.signature(load) == inspect.signature(function)
    assert str(inspect.signature(load)) == str(inspect.signature(function))
    assert inspect.iscoroutinefunction(load) is not isinstance(flavour, Blocking)
    assert await flavour.call(load.__wrapped__, 1) == 1


def test_nothing_is_logged_where_nothing_is_wrong(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    fresh = Cache()

    @fresh.cached(expire=60)
    def load(number: int) -> int:
        return number

    load(1)
    fresh.init_app(FastAPI())
    for _ in range(3):
        load(1)
    load.invalidate(1)
    load.refresh(1)
    load(1, skip_cache=True)
    fresh.get_cache().clear()
    assert [record for record in caplog.records if record.name.startswith("fast_cache")] == []
