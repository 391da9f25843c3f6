"""Promises that concern callers together: whose patience ends when, and what becomes of a load that cancels itself."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from examples.sqlite_backend import SQLiteBackend
from fast_cache import CacheBackend, InMemoryBackend, RedisBackend
from fast_cache.errors import LoadTimeout
from fast_cache.testing import Flavour, Suspending, in_both_flavours, only_suspending

SOON = 0.05
LONG = 60


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
