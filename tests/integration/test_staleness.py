"""Stale values, refreshes behind the callers, and limited patience: over every kind of store, in both flavours."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
import traceback
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI

from examples.sqlite_backend import SQLiteBackend
from fast_cache import Cache, CacheBackend, InMemoryBackend, RedisBackend
from fast_cache.errors import ConfigurationError, LoadTimeout
from fast_cache.testing import Flavour, Gate, Store, in_both_flavours

SOON = 0.05
"""A lifetime after which the tests wait for values to be stale."""

LONG = 60


@pytest.fixture(params=["memory", "ten methods", "redis"])
def backend(request: pytest.FixtureRequest, tmp_path: Path, redis_url: str) -> CacheBackend:
    if request.param == "memory":
        return InMemoryBackend()
    if request.param == "redis":
        return RedisBackend(redis_url, namespace="stale")
    return SQLiteBackend(tmp_path / "cache.db")


@pytest.fixture(autouse=True)
def _everything_is_news(monkeypatch: pytest.MonkeyPatch) -> None:
    """Warnings are given once: forget those of other tests."""
    monkeypatch.setattr("fast_cache.once._said", OrderedDict())


class Source:
    """What a function reads: it counts, fails when told to, and waits at a gate."""

    def __init__(self, flavour: Flavour) -> None:
        self.flavour = flavour
        self.loads = 0
        self.fails: Exception | None = None
        self.gate: Gate | None = None

    def cached(self, store: Store, **options: Any) -> Any:
        @store.cached(**options)
        async def load() -> int:
            self.loads += 1
            number, gate, fails = self.loads, self.gate, self.fails
            if gate is not None:
                await gate.passed()
            if fails is not None:
                raise fails
            return number

        return load

    async def expired(self) -> None:
        """Wait until what was loaded last is no longer fresh."""
        deadline = time.monotonic() + SOON + 0.01  # servers count in milliseconds

        async def over() -> bool:
            return time.monotonic() > deadline

        await self.flavour.until(over, "the value has expired")

    async def loaded(self, times: int) -> None:
        """Wait until the function has begun so many times."""

        async def begun() -> bool:
            return self.loads >= times

        await self.flavour.until(begun, f"the function runs for the {times}th time")


async def becomes(flavour: Flavour, fn: Any, number: int) -> None:
    """Wait until ``fn`` returns what its load of that number stored, or a later one: on a slow machine that is soon."""

    async def is_there() -> bool:
        return bool(await flavour.call(fn) >= number)

    await flavour.until(is_there, f"the result of load {number} is served")


def complaints(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == "fast_cache"]


@in_both_flavours
async def test_a_stale_value_is_served_while_one_refresh_runs(flavour: Flavour, backend: CacheBackend) -> None:
    store, source = flavour.use(backend), Source(flavour)
    load = source.cached(store, expire=SOON, stale_while_revalidate=LONG)
    assert await flavour.call(load) == 1
    await source.expired()
    source.gate = flavour.gate()
    assert [await flavour.call(load) for _ in range(5)] == [1] * 5
    await source.loaded(2)
    assert await flavour.call(load) == 1
    assert source.loads == 2
    source.gate.open()
    await becomes(flavour, load, 2)
    stats = load.stats()
    assert stats.misses == 1
    assert stats.loads == source.loads


@in_both_flavours
async def test_beyond_its_window_a_stale_value_is_a_miss(flavour: Flavour, backend: CacheBackend) -> None:
    store, source = flavour.use(backend), Source(flavour)
    load = source.cached(store, expire=SOON, stale_while_revalidate=SOON)
    assert await flavour.call(load) == 1
    await source.expired()
    await source.expired()
    assert await flavour.call(load) == 2
    assert load.stats().misses == 2


@in_both_flavours
async def test_what_is_removed_is_not_served_stale(flavour: Flavour, backend: CacheBackend) -> None:
    store, source = flavour.use(backend), Source(flavour)
    load = source.cached(store, expire=SOON, stale_while_revalidate=LONG, stale_if_error=LONG)
    await flavour.call(load)
    await source.expired()
    assert await flavour.call(load.invalidate) is True
    source.fails = LookupError()
    with pytest.raises(LookupError):
        await flavour.call(load)


@in_both_flavours
async def test_a_refresh_in_flight_does_not_undo_an_invalidation(flavour: Flavour, backend: CacheBackend) -> None:
    store, source = flavour.use(backend), Source(flavour)
    load = source.cached(store, expire=SOON, stale_while_revalidate=LONG)
    await flavour.call(load)
    await source.expired()
    source.gate = flavour.gate()
    assert await flavour.call(load) == 1
    await source.loaded(2)
    await flavour.call(load.invalidate)
    source.gate.open()
    source.gate = None
    assert await flavour.call(load) == 3, "neither the stale value nor that of the refresh, which began before"

    async def idle() -> bool:
        return len(load_background(load)) == 0

    await flavour.until(idle, "the refresh has ended")
    assert await flavour.call(load) in (3, 4), "it was not stored"


def load_background(load: Any) -> Any:
    return load.invalidate.__self__.binding.background


@in_both_flavours
async def test_a_stale_value_covers_for_an_error(
    flavour: Flavour, backend: CacheBackend, caplog: pytest.LogCaptureFixture
) -> None:
    store, source = flavour.use(backend), Source(flavour)
    load = source.cached(store, expire=SOON, stale_if_error=LONG, errors=LookupError, throttle=LONG)
    await flavour.call(load)
    await source.expired()
    source.fails = KeyError("private")
    with caplog.at_level(logging.WARNING, "fast_cache"):
        assert [await flavour.call(load) for _ in range(5)] == [1] * 5
    assert source.loads == 2, "a source that fails is left in peace"
    assert len(complaints(caplog)) == 1
    assert "KeyError" in complaints(caplog)[0]
    assert "private" not in caplog.text


@in_both_flavours
async def test_a_source_is_asked_again_after_a_while(flavour: Flavour, backend: CacheBackend) -> None:
    store, source = flavour.use(backend), Source(flavour)
    load = source.cached(store, expire=SOON, stale_if_error=LONG, throttle=SOON)
    await flavour.call(load)
    await source.expired()
    source.fails = OSError()
    assert await flavour.call(load) == 1
    source.fails = None
    await becomes(flavour, load, 3)


@in_both_flavours
async def test_other_errors_are_raised(flavour: Flavour, backend: CacheBackend) -> None:
    store, source = flavour.use(backend), Source(flavour)
    load = source.cached(store, expire=SOON, stale_if_error=LONG, errors=(OSError, LookupError))
    await flavour.call(load)
    await source.expired()
    source.fails = ZeroDivisionError()
    with pytest.raises(ZeroDivisionError):
        await flavour.call(load)


@in_both_flavours
async def test_followers_of_a_load_that_fails_are_covered_too(flavour: Flavour, backend: CacheBackend) -> None:
    store, source = flavour.use(backend), Source(flavour)
    load = source.cached(store, expire=SOON, stale_if_error=LONG)
    await flavour.call(load)
    await source.expired()
    source.gate, source.fails = flavour.gate(), OSError()
    callers = [flavour.start(load) for _ in range(3)]
    await store.followed(load.key(), 2)
    source.gate.open()
    assert [await caller.result() for caller in callers] == [1, 1, 1]
    assert source.loads == 2


@pytest.mark.parametrize("ahead", [0.9, LONG * 0.9])
@in_both_flavours
async def test_a_value_is_refreshed_before_it_expires(flavour: Flavour, backend: CacheBackend, ahead: float) -> None:
    store, source = flavour.use(backend), Source(flavour)
    load = source.cached(store, expire=LONG, refresh_ahead=ahead)
    assert await flavour.call(load) == 1
    assert await flavour.call(load) == 1
    assert source.loads == 1, "a tenth of the lifetime has not passed"


@in_both_flavours
async def test_a_refresh_ahead_runs_once_and_behind_its_callers(flavour: Flavour, backend: CacheBackend) -> None:
    store, source = flavour.use(backend), Source(flavour)
    load = source.cached(store, expire=LONG, refresh_ahead=LONG - SOON)
    assert await flavour.call(load) == 1
    await source.expired()
    source.gate = flavour.gate()
    assert [await flavour.call(load) for _ in range(5)] == [1] * 5
    await source.loaded(2)
    source.gate.open()
    await becomes(flavour, load, 2)
    assert load.stats().misses == 1


@in_both_flavours
async def test_a_refresh_ahead_that_fails_is_not_repeated_at_once(
    flavour: Flavour, backend: CacheBackend, caplog: pytest.LogCaptureFixture
) -> None:
    store, source = flavour.use(backend), Source(flavour)
    load = source.cached(store, expire=LONG, refresh_ahead=LONG - SOON, stale_if_error=1, throttle=LONG)
    await flavour.call(load)
    await source.expired()
    source.fails = OSError()
    assert await flavour.call(load) == 1
    await source.loaded(2)

    async def idle() -> bool:
        return len(load_background(load)) == 0

    await flavour.until(idle, "the refresh has ended")
    assert [await flavour.call(load) for _ in range(5)] == [1] * 5
    assert source.loads == 2


@in_both_flavours
async def test_an_early_refresh_is_drawn_for(
    flavour: Flavour, backend: CacheBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[float] = []

    def draw() -> float:
        drawn.append(0.0)
        return lot

    monkeypatch.setattr("fast_cache.freshness.random.random", draw)
    store, source = flavour.use(backend), Source(flavour)
    lot = 0.0  # never early
    load = source.cached(store, expire=LONG, early=100)
    gate = source.gate = flavour.gate()
    caller = flavour.start(load)
    await source.loaded(1)
    await source.expired()
    gate.open()
    source.gate = None
    assert await caller.result() == 1
    assert [await flavour.call(load) for _ in range(3)] == [1] * 3
    assert drawn, "10 * 100 * 0.06 s before its end the value is drawn for"
    assert source.loads == 1
    lot = 1.0 - 1e-15
    await becomes(flavour, load, 2)


@in_both_flavours
async def test_who_holds_something_stale_waits_for_a_limited_time(flavour: Flavour, backend: CacheBackend) -> None:
    store, source = flavour.use(backend), Source(flavour)
    load = source.cached(store, expire=SOON, stale_if_error=LONG, timeout=SOON)
    assert await flavour.call(load) == 1
    await source.expired()
    source.gate = flavour.gate()
    assert await flavour.call(load) == 1
    assert await flavour.call(load) == 1
    assert source.loads == 2, "the load goes on, and others join it"
    source.gate.open()
    await becomes(flavour, load, 2)


@in_both_flavours
async def test_nobody_waits_longer_than_the_hard_timeout(flavour: Flavour, backend: CacheBackend) -> None:
    store, source = flavour.use(backend), Source(flavour)
    load = source.cached(store, expire=LONG, hard_timeout=SOON)
    source.gate = flavour.gate()
    callers = [flavour.start(load) for _ in range(3)]
    for caller in callers:
        with pytest.raises(LoadTimeout, match=r"load did not return within 0\.05 s"):
            await caller.result()
    assert source.loads == 1
    source.gate.open()
    source.gate = None
    await becomes(flavour, load, 1)
    assert source.loads == 1, "what the load returned in the end was stored"


@in_both_flavours
async def test_a_hard_timeout_is_an_error_that_can_be_covered_for(flavour: Flavour, backend: CacheBackend) -> None:
    store, source = flavour.use(backend), Source(flavour)
    # Long enough for the first load, where tests compete for processors.
    load = source.cached(store, expire=SOON, stale_if_error=LONG, hard_timeout=1, errors=TimeoutError)
    await flavour.call(load)
    await source.expired()
    source.gate = flavour.gate()
    assert await flavour.call(load) == 1
    source.gate.open()


@in_both_flavours
async def test_a_function_in_time_returns_and_raises_as_ever(flavour: Flavour, backend: CacheBackend) -> None:
    store, source = flavour.use(backend), Source(flavour)
    load = source.cached(store, expire=LONG, hard_timeout=LONG)
    source.fails = LookupError("mine")
    with pytest.raises(LookupError, match="mine"):
        await flavour.call(load)
    source.fails = None
    assert [await flavour.call(load) for _ in range(2)] == [2, 2]


@in_both_flavours
async def test_jitter_shortens_lifetimes(
    flavour: Flavour, backend: CacheBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fast_cache.freshness.random.uniform", lambda low, high: low)
    store, source = flavour.use(backend), Source(flavour)
    load = source.cached(store, expire=LONG, jitter=1 - SOON / LONG)
    assert await flavour.call(load) == 1
    await source.expired()
    assert await flavour.call(load) == 2


@in_both_flavours
async def test_a_lifetime_may_depend_on_the_result_and_the_arguments(flavour: Flavour, backend: CacheBackend) -> None:
    store = flavour.use(backend)
    loads: list[tuple[int, int]] = []

    async def load(one: int, two: int = 0) -> int:
        loads.append((one, two))
        return one + two

    asked: list[tuple[Any, ...]] = []

    def lifetime(result: int, *args: int, **kwargs: int) -> Any:
        asked.append((result, args, kwargs))
        return {1: 0, 2: -1, 3: "1m", 4: None}[result]

    cached = store.cached(expire=lifetime)(load)
    for _ in range(2):
        for one in (1, 2, 3, 4):
            assert await flavour.call(cached, one) == one
    assert loads == [(1, 0), (2, 0), (3, 0), (4, 0), (1, 0), (2, 0)]
    assert asked[0] in [(1, (1, 0), {}), (1, (1,), {})]


@in_both_flavours
async def test_a_lifetime_that_makes_no_sense_is_no_lifetime(
    flavour: Flavour, backend: CacheBackend, caplog: pytest.LogCaptureFixture
) -> None:
    store, source = flavour.use(backend), Source(flavour)
    load = source.cached(store, expire=lambda result: "private")
    assert [await flavour.call(load) for _ in range(2)] == [1, 2]
    assert len(complaints(caplog)) == 1
    assert "private" not in caplog.text


@in_both_flavours
async def test_a_value_may_be_served_so_many_times(flavour: Flavour, backend: CacheBackend) -> None:
    store, source = flavour.use(backend), Source(flavour)
    load = source.cached(store, expire=LONG, hits=2)
    assert [await flavour.call(load) for _ in range(7)] == [1, 1, 1, 2, 2, 2, 3]
    assert load.stats().hits == 4
    await flavour.call(load.invalidate)
    assert [await flavour.call(load) for _ in range(4)] == [4, 4, 4, 5]


@in_both_flavours
async def test_hits_need_no_lifetime(flavour: Flavour, backend: CacheBackend) -> None:
    store, source = flavour.use(backend), Source(flavour)
    load = source.cached(store, hits=1)
    assert [await flavour.call(load) for _ in range(5)] == [1, 1, 2, 2, 3]


@in_both_flavours
async def test_a_value_is_refreshed_before_its_last_hits(flavour: Flavour, backend: CacheBackend) -> None:
    store, source = flavour.use(backend), Source(flavour)
    load = source.cached(store, expire=LONG, hits=100, refresh_after=2)
    assert [await flavour.call(load) for _ in range(3)] == [1] * 3
    assert source.loads == 1
    await becomes(flavour, load, 2)
    assert load.stats().misses == 1


class Missing(LookupError):
    """An exception with a constructor and a state of its own."""

    def __init__(self, item: int, *, hint: str) -> None:
        super().__init__(f"no item {item}")
        self.item = item
        self.hint = hint


@in_both_flavours
async def test_an_exception_is_stored_and_raised_anew(flavour: Flavour, backend: CacheBackend) -> None:
    store, source = flavour.use(backend), Source(flavour)
    load = source.cached(store, expire=LONG, cache_errors={OSError: LONG, LookupError: LONG})
    source.fails = Missing(7, hint="try 8")
    raised: list[Missing] = []
    for _ in range(4):
        with pytest.raises(Missing) as caught:
            await flavour.call(load)
        raised.append(caught.value)
    assert source.loads == 1
    assert {(str(error), error.item, error.hint) for error in raised} == {("no item 7", 7, "try 8")}
    assert len({id(error) for error in raised}) == 4
    depths = [len(traceback.extract_tb(error.__traceback__)) for error in raised]
    assert depths[1] == depths[2] == depths[3] < depths[0]
    assert raised[1].__cause__ is raised[1].__context__ is None
    if not isinstance(backend, SQLiteBackend):  # which hands out the bytes that it was given
        assert not await store.has(load.key())
        assert await store.get(load.key(), "nothing") == "nothing"
    assert load.stats().errors == 1


@in_both_flavours
async def test_a_stored_exception_has_a_lifetime_of_its_own_and_can_be_removed(
    flavour: Flavour, backend: CacheBackend
) -> None:
    store, source = flavour.use(backend), Source(flavour)
    load = source.cached(store, expire=LONG, cache_errors={KeyError: SOON, OSError: LONG})
    source.fails = KeyError("x")
    with pytest.raises(KeyError):
        await flavour.call(load)
    await source.expired()
    source.fails = OSError(2, "gone")
    for _ in range(2):
        with pytest.raises(FileNotFoundError, match="gone"):
            await flavour.call(load)
    assert source.loads == 2
    await flavour.call(load.invalidate)
    source.fails = None
    assert await flavour.call(load) == 3


@in_both_flavours
async def test_other_exceptions_are_not_stored(flavour: Flavour, backend: CacheBackend) -> None:
    store, source = flavour.use(backend), Source(flavour)
    load = source.cached(store, expire=LONG, cache_errors={LookupError: LONG})
    source.fails = ValueError("x")
    for _ in range(2):
        with pytest.raises(ValueError, match="x"):
            await flavour.call(load)
    assert source.loads == 2


@in_both_flavours
async def test_an_exception_does_not_take_the_place_of_a_value_that_covers_for_it(
    flavour: Flavour, backend: CacheBackend
) -> None:
    store, source = flavour.use(backend), Source(flavour)
    load = source.cached(
        store, expire=SOON, stale_if_error=LONG, errors=OSError, throttle=SOON, cache_errors={Exception: LONG}
    )
    await flavour.call(load)
    await source.expired()
    source.fails = OSError()
    assert await flavour.call(load) == 1
    await source.expired()
    source.fails = LookupError()
    for _ in range(2):
        with pytest.raises(LookupError):
            await flavour.call(load)
    assert source.loads == 3


@in_both_flavours
async def test_values_beside_stored_exceptions_keep_their_type(flavour: Flavour, backend: CacheBackend) -> None:
    store = flavour.use(backend)
    loads: list[int] = []

    @store.cached(expire=LONG, cache_errors={LookupError: LONG})
    async def load(number: int) -> tuple[int, ...] | None:
        loads.append(number)
        return (number,) if number else None

    for _ in range(2):
        assert await flavour.call(load, 1) == (1,)
        assert await flavour.call(load, 0) is None
    assert loads == [1, 0]
    if not isinstance(backend, SQLiteBackend):
        assert await store.get(load.key(1)) == (1,)


@in_both_flavours
async def test_a_function_can_say_how_long_its_result_lives(flavour: Flavour, backend: CacheBackend) -> None:
    store = flavour.use(backend)
    cache = store._cache
    loads: list[Any] = []

    @store.cached(expire=LONG)
    async def load(lifetime: Any) -> int:
        loads.append(lifetime)
        cache.current.expire = lifetime
        return len(loads)

    for lifetime in (SOON, None, "1m"):
        await flavour.call(load, lifetime)
    began = time.monotonic()

    async def over() -> bool:
        return time.monotonic() > began + SOON + 0.01

    await flavour.until(over, "the short lifetime is over")
    for lifetime in (SOON, None, "1m"):
        await flavour.call(load, lifetime)
    assert loads == [SOON, None, "1m", SOON]


@in_both_flavours
async def test_a_function_can_keep_its_result_from_being_stored(flavour: Flavour, backend: CacheBackend) -> None:
    store = flavour.use(backend)
    cache = store._cache
    loads: list[str] = []

    @store.cached(expire=LONG, cache_errors={LookupError: LONG})
    async def inner(fails: bool) -> str:
        loads.append("inner")
        cache.current.skip()
        if fails:
            raise LookupError
        return "value"

    @store.cached(expire=LONG)
    async def outer() -> str:
        loads.append("outer")
        inside: str = await flavour.call(inner, False)
        return inside

    for _ in range(2):
        assert await flavour.call(outer) == "value"
    assert loads == ["outer", "inner"], "it was the inner result that was not stored"
    assert await flavour.call(inner, False) == "value"
    for _ in range(2):
        with pytest.raises(LookupError):
            await flavour.call(inner, True)
    assert loads.count("inner") == 4


def test_what_is_said_where_nothing_is_loaded_has_no_effect() -> None:
    cache = Cache()
    cache.current.expire = 5
    cache.current.skip()
    assert cache.current.expire is None
    with pytest.raises(ConfigurationError, match="expire"):
        cache.current.expire = "soon"


def test_a_sync_function_on_the_thread_of_a_loop_never_waits() -> None:
    cache = Cache()
    cache.init_app(FastAPI())
    threads: list[str] = []

    @cache.cached(expire=LONG, hard_timeout=LONG)
    def load() -> int:
        threads.append(threading.current_thread().name)
        return 1

    async def main() -> int:
        return load()

    assert asyncio.run(main()) == 1
    assert threads == [threading.current_thread().name]
