"""A process that is forked while a transaction is open: that stays its parent's, and is never made twice."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import threading
from collections.abc import Callable, Coroutine
from contextvars import copy_context
from typing import Any

import pytest

from fast_cache import Cache, CacheBackend, InMemoryBackend
from fast_cache.backends.pending import Veil
from fast_cache.testing import PATIENCE, Blocking, Flavour, Store, in_both_flavours
from fast_cache.transactions import Transaction
from tests.support.stores import backends, cache_over

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here"),
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning"),
]

NAMESPACE = "forked"

backend = backends(NAMESPACE, "memory", "redis", "layered")

_BEFORE = copy_context()


def outside(call: Callable[[], Any]) -> Any:
    """Make a call as code would that was started before any transaction."""
    return _BEFORE.copy().run(call)


def in_child(step: Callable[[], Any]) -> Any:
    """What ``step`` returns in a forked child, which ends there; ``None`` if it raises or hangs."""
    told, tell = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            signal.alarm(round(PATIENCE))
            os.write(tell, json.dumps(step()).encode())
        finally:
            os._exit(0)
    os.close(tell)
    with os.fdopen(told) as report:
        answer = report.read()
    os.waitpid(child, 0)
    return json.loads(answer) if answer else None


class Opened:
    """A transaction that this code is in until it says that it ends."""

    def __init__(self, flavour: Flavour, cache: Cache) -> None:
        self._blocks = isinstance(flavour, Blocking)
        self.transaction: Transaction = cache.transaction()
        self.transaction.__enter__()

    async def end(self) -> None:
        if self._blocks:
            self.transaction.__exit__(None, None, None)
        else:
            await self.transaction.__aexit__(None, None, None)

    def run(self, steps: Coroutine[Any, Any, Any]) -> Any:
        """Carry out steps in a child, which has no loop of its own yet."""
        if not self._blocks:
            return asyncio.run(steps)
        try:
            steps.send(None)
        except StopIteration as done:
            return done.value
        raise AssertionError("nothing suspends here")


class Source:
    """A cached function, and the runs of it."""

    def __init__(self, flavour: Flavour, store: Store) -> None:
        self.runs: list[int] = []

        @store.cached(expire=3600, tags=("all",))
        async def read(item_id: int) -> int:
            self.runs.append(item_id)
            return len(self.runs)

        self.read = read


@in_both_flavours
async def test_a_child_that_comes_to_the_end_of_it_changes_nothing(flavour: Flavour, backend: CacheBackend) -> None:
    store = flavour.use(backend)
    source = Source(flavour, store)
    assert await flavour.call(source.read, 1) == 1
    await store.set("set", "before")
    opened = Opened(flavour, store._cache)
    await flavour.call(source.read.invalidate, 1)
    await store.set("set", "by the parent")
    await flavour.do(store._cache, "invalidate_tags", "all")

    async def seen() -> list[Any]:
        return [await store.get("set"), await flavour.call(source.read, 1)]

    async def goes_on() -> list[Any]:
        inside = await seen()
        await opened.end()
        return [inside, await seen()]

    assert in_child(lambda: opened.run(goes_on())) == [["before", 1], ["before", 1]]
    assert outside(lambda: backend.get("set")) == "before", "and the parent's has not ended either"
    await opened.end()
    assert await store.get("set") == "by the parent"
    assert await flavour.call(source.read, 1) == 2


@in_both_flavours
async def test_what_a_child_changes_is_changed_at_once(flavour: Flavour, backend: CacheBackend) -> None:
    """Nobody may ever come to the end of the block there: ``multiprocessing`` does not."""
    store = flavour.use(backend)
    source = Source(flavour, store)
    assert [await flavour.call(source.read, 1), await flavour.call(source.read, 2)] == [1, 2]
    opened = Opened(flavour, store._cache)
    await flavour.call(source.read.invalidate, 1)
    await store.set("by the parent", 1)

    async def changes() -> list[Any]:
        await store.set("by the child", 1)
        removed = await flavour.call(source.read.invalidate, 2)
        return [removed, await store.get("by the child"), await flavour.call(source.read, 2)]

    assert in_child(lambda: opened.run(changes())) == [True, 1, 3]
    shared = not isinstance(backend, InMemoryBackend)
    assert outside(lambda: backend.get("by the child")) == (1 if shared else None)
    assert outside(lambda: backend.get("by the parent")) is None
    await opened.end()
    assert [await store.get("by the parent"), await flavour.call(source.read, 1)] == [1, 3]


@in_both_flavours
async def test_a_transaction_of_a_child_ends_there(flavour: Flavour, backend: CacheBackend) -> None:
    """It is not inside the one that its parent had open, nor inside the one around that."""
    store = flavour.use(backend)
    outer = Opened(flavour, store._cache)
    inner = Opened(flavour, store._cache)
    await store.set("key", "by the parent")

    async def has_one() -> list[Any]:
        mine = Opened(flavour, store._cache)
        await store.set("key", "by the child")
        before = outside(lambda: backend.get("key"))
        await mine.end()
        seen = [before, outside(lambda: backend.get("key"))]
        await inner.end()
        await outer.end()
        return [*seen, await store.get("key")]

    assert in_child(lambda: outer.run(has_one())) == [None, "by the child", "by the child"]
    await inner.end()
    assert outside(lambda: backend.get("key")) != "by the parent"
    await outer.end()
    assert await store.get("key") == "by the parent"


@in_both_flavours
async def test_a_child_does_not_wait_for_a_thread_of_its_parent(flavour: Flavour) -> None:
    """One that was adding something to the transaction at that moment."""
    store = flavour.use(InMemoryBackend())
    opened = Opened(flavour, store._cache)
    await store.set("key", 1)
    pending, holds, release = opened.transaction._pending, threading.Event(), threading.Event()
    assert pending is not None

    def hold() -> None:
        with pending._lock:
            holds.set()
            release.wait(PATIENCE)

    async def ends() -> bool:
        await store.set("another", 1)
        await opened.end()
        return await store.has("another") and not await store.has("key")

    thread = threading.Thread(target=hold)
    thread.start()
    assert holds.wait(PATIENCE)
    try:
        assert in_child(lambda: opened.run(ends())) is True
    finally:
        release.set()
        thread.join()
    await opened.end()
    assert await store.get("key") == 1


def test_nothing_is_veiled_in_a_child() -> None:
    backend = InMemoryBackend()
    cache = cache_over(backend)

    @cache.cached
    def read(item_id: int) -> int:
        return item_id

    def veils() -> list[Any]:
        binding = cache._binding
        return [backend.engine_store().veils, isinstance(binding.texts, Veil), dict(binding._veiled)]

    with cache.transaction():
        read.invalidate(1)
        backend.delete("key")
        assert veils()[:2] == [1, True]
        assert in_child(veils) == [0, False, {}]
    assert veils() == [0, False, {}]
