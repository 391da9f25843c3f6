"""Ten thousand callers of one key at once, tasks of several event loops and threads: one load, and everyone has it."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager

import pytest
from fastapi import FastAPI

from fast_cache import Cache, CacheBackend, InMemoryBackend, RedisBackend
from fast_cache.testing import PATIENCE

KEY = "a key"
LOOPS = 2
TASKS = 4800
"""On each of the loops."""
THREADS = 400
CALLERS = LOOPS * TASKS + THREADS


class Value:
    """What a load makes: it is held back until everybody is there."""

    def __init__(self) -> None:
        self.loads: list[str] = []
        self._go = threading.Event()

    def let_go(self) -> None:
        self._go.set()

    def load(self) -> str:
        self.loads.append("thread")
        assert self._go.wait(PATIENCE)
        return f"value {len(self.loads)}"

    async def aload(self) -> str:
        self.loads.append("task")
        assert await asyncio.to_thread(self._go.wait, PATIENCE)
        return f"value {len(self.loads)}"


@contextmanager
def made(kind: str, redis_url: str) -> Iterator[CacheBackend]:
    # The server answers at once; it is this crowd that takes longer than a second to read what it said.
    redis = RedisBackend(redis_url, timeout=PATIENCE, connect_timeout=PATIENCE)
    with closing(redis if kind == "redis" else InMemoryBackend()) as backend:
        yield backend


async def all_wait(backend: CacheBackend, callers: int) -> None:
    """Wait until everybody but the one who loads waits for the load."""
    async with asyncio.timeout(PATIENCE):
        while backend.engine_store().flights.waiting(KEY) < callers - 1:  # noqa: ASYNC110
            await asyncio.sleep(0.005)


@pytest.mark.parametrize(("kind", "first"), [("memory", "task"), ("redis", "thread")])
def test_ten_thousand_callers_of_one_key_cause_one_load(kind: str, first: str, redis_url: str) -> None:
    value = Value()
    cache = Cache()

    async def tasks(number: int) -> list[str]:
        results = await asyncio.gather(*(cache.aget_or_set(KEY, value.aload, 60) for _ in range(number)))
        if isinstance(backend, RedisBackend):
            await backend.aclose()
        return results

    def loop(number: int) -> list[str]:
        return asyncio.run(tasks(number))

    def thread() -> list[str]:
        return [cache.get_or_set(KEY, value.load, 60)]

    with made(kind, redis_url) as backend, ThreadPoolExecutor(max_workers=1 + LOOPS + THREADS) as pool:
        cache.init_app(FastAPI(), backend=backend)
        leader = pool.submit(loop, 1) if first == "task" else pool.submit(thread)
        callers: list[Future[list[str]]] = [leader]
        try:
            asyncio.run(begun(value))
            threads = THREADS - (first == "thread")
            callers += [pool.submit(loop, TASKS - (first == "task" and number == 0)) for number in range(LOOPS)]
            callers += [pool.submit(thread) for _ in range(threads)]
            asyncio.run(all_wait(backend, CALLERS))
        finally:
            value.let_go()
        results = Counter(result for caller in callers for result in caller.result(PATIENCE))
        assert value.loads == [first]
        assert results == {"value 1": CALLERS}
        assert backend.get(KEY) == "value 1"
        assert cache.stats().loads == 1


async def begun(value: Value) -> None:
    """Wait until somebody loads."""
    async with asyncio.timeout(PATIENCE):
        while not value.loads:  # noqa: ASYNC110
            await asyncio.sleep(0.005)
