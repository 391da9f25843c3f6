"""`transaction`: what is changed inside is changed at the end, or not at all, and nobody else notices before."""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from contextvars import copy_context
from inspect import signature
from pathlib import Path
from typing import Any

import pytest
from fastapi import Depends, FastAPI, HTTPException, WebSocket, WebSocketDisconnect
from fastapi.responses import StreamingResponse
from fastapi.testclient import TestClient

from examples.sqlite_backend import SQLiteBackend
from fast_cache import (
    Cache,
    CacheBackend,
    ConfigurationError,
    EncodeError,
    InMemoryBackend,
    InvalidTypeError,
    RedisBackend,
)
from fast_cache.backends.pending import Veil
from fast_cache.testing import Blocking, Flavour, Store, in_both_flavours, only_suspending
from tests.support.asgi_client import ask
from tests.support.stores import backends, cache_over

LONG = 60


backend = backends("transactions")


class Rollback(Exception):
    """What the block of a test ends by."""


@asynccontextmanager
async def transaction(flavour: Flavour, store: Store) -> AsyncIterator[None]:
    if isinstance(flavour, Blocking):
        with store._cache.transaction():
            yield
    else:
        async with store._cache.transaction():
            yield


@asynccontextmanager
async def rolled_back(flavour: Flavour, store: Store) -> AsyncIterator[None]:
    """A transaction whose block raises at its end."""
    try:
        async with transaction(flavour, store):
            yield
            raise Rollback
    except Rollback:
        pass


class Source:
    """A cached function that counts its runs."""

    def __init__(self, flavour: Flavour, store: Store, **options: Any) -> None:
        self.flavour = flavour
        self.runs: list[int] = []

        @store.cached(expire=LONG, **options)
        async def read(item_id: int) -> int:
            self.runs.append(item_id)
            return len(self.runs)

        self.read = read

    async def __call__(self, item_id: int = 1) -> int:
        number: int = await self.flavour.call(self.read, item_id)
        return number

    async def elsewhere(self, item_id: int = 1) -> int:
        """What somebody reads who is in no transaction."""
        run = self.flavour.start
        caller = _outside(lambda: run(self.read, item_id))
        number: int = await caller.result()
        return number


def _outside(call: Callable[[], Any]) -> Any:
    """Make a call as code would that was started before any transaction."""
    return _BEFORE.copy().run(call)


_BEFORE = copy_context()


Act = Callable[[Flavour, Store, Source], Awaitable[object]]


async def _one(flavour: Flavour, store: Store, source: Source) -> object:
    return await flavour.call(source.read.invalidate, 1)


async def _whole(flavour: Flavour, store: Store, source: Source) -> object:
    return await flavour.call(source.read.invalidate_all)


async def _tag(flavour: Flavour, store: Store, source: Source) -> object:
    return await flavour.do(store._cache, "invalidate_tags", "items")


async def _template(flavour: Flavour, store: Store, source: Source) -> object:
    return await flavour.do(store._cache, "invalidate", "items:1")


async def _delete(flavour: Flavour, store: Store, source: Source) -> object:
    return await store.delete(source.read.key(1))


async def _delete_many(flavour: Flavour, store: Store, source: Source) -> object:
    return await store.ask("delete_many", iter([source.read.key(1)]))


async def _clear(flavour: Flavour, store: Store, source: Source) -> object:
    return await flavour.do(store.backend, "clear")


async def _write(flavour: Flavour, store: Store, source: Source) -> object:
    async def write(item_id: int) -> None: ...

    return await flavour.call(store._cache.invalidates(source.read)(flavour.function(write)), 1)


ACTS = [_one, _whole, _tag, _template, _delete, _delete_many, _clear, _write]
acts = pytest.mark.parametrize("act", ACTS, ids=[act.__name__.strip("_") for act in ACTS])


@acts
@in_both_flavours
async def test_what_is_invalidated_inside_is_so_at_the_end(flavour: Flavour, backend: CacheBackend, act: Act) -> None:
    store = flavour.use(backend)
    source = Source(flavour, store, key="items:{item_id}", tags="items")
    assert await source() == 1
    async with transaction(flavour, store):
        assert not await act(flavour, store, source)
        assert await source.elsewhere() == 1, "others find it until then"
        assert await source() == 2, "who has invalidated it does not"
        assert await source() == 3, "and what is loaded inside is not stored"
        assert await source.elsewhere() == 1, "nor seen by others"
    assert await source.elsewhere() == 4
    assert await source() == 4


@acts
@in_both_flavours
async def test_what_is_invalidated_inside_stays_if_the_block_raises(
    flavour: Flavour, backend: CacheBackend, act: Act
) -> None:
    store = flavour.use(backend)
    source = Source(flavour, store, key="items:{item_id}", tags="items")
    assert await source() == 1
    async with rolled_back(flavour, store):
        await act(flavour, store, source)
        assert await source() == 2
    assert await source() == 1
    assert len(source.runs) == 2


@in_both_flavours
async def test_hits_of_what_is_not_invalidated_stay_hits(flavour: Flavour, backend: CacheBackend) -> None:
    store = flavour.use(backend)
    source, other = Source(flavour, store), Source(flavour, store, tags="others", key="others:{item_id}")
    assert [await source(1), await source(2), await other(1)] == [1, 2, 1]
    async with transaction(flavour, store):
        assert await source(1) == 1
        await flavour.call(source.read.invalidate, 1)
        await flavour.do(store._cache, "invalidate_tags", "unheard of")
        assert [await source(2), await other(1)] == [2, 1]
    assert [await source(2), await other(1)] == [2, 1]


@pytest.mark.parametrize("options", [{}, {"hits": 100}], ids=["plain", "counted"])
@in_both_flavours
async def test_a_tag_that_was_added_while_loading_counts_too(
    flavour: Flavour, backend: CacheBackend, options: dict[str, Any]
) -> None:
    store, runs = flavour.use(backend), list[int]()

    @store.cached(expire=LONG, **options)
    async def read() -> int:
        store._cache.current.tags.add("late")
        runs.append(1)
        return len(runs)

    assert await flavour.call(read) == 1
    async with rolled_back(flavour, store):
        assert await flavour.call(read) == 1
        await flavour.do(store._cache, "invalidate_tags", "late")
        assert await flavour.call(read) == 2
    assert await flavour.call(read) == 1


@in_both_flavours
async def test_writes_by_hand_wait_for_the_end(flavour: Flavour, backend: CacheBackend) -> None:
    store = flavour.use(backend)
    await store.set("there", 1)
    async with transaction(flavour, store):
        values = {"one": 1, "two": 2}
        await store.set("new", "value")
        await store.ask("set_many", values)
        values["three"] = 3
        assert await store.delete("there") is False
        assert [await store.get(key) for key in ("new", "one", "there")] == [None, None, 1], "reads find what was there"
    assert [await store.get(key) for key in ("new", "one", "two", "three", "there")] == ["value", 1, 2, None, None]


@in_both_flavours
async def test_writes_by_hand_are_made_in_order(flavour: Flavour, backend: CacheBackend) -> None:
    store = flavour.use(backend)
    async with transaction(flavour, store):
        await store.set("key", 1)
        await flavour.do(store.backend, "clear")
        await store.set("key", 2)
        await store.set("gone", 1)
        await store.ask("delete_many", "gone")
    assert await store.get("key") == 2
    assert await store.get("gone") is None


@in_both_flavours
async def test_lifetimes_wait_too(flavour: Flavour, redis_url: str) -> None:
    store = flavour.use(RedisBackend(redis_url, namespace="lifetimes"))
    await store.set("key", 1, 10)
    async with transaction(flavour, store):
        assert await store.ask("expire", "key", 100) is False
        assert 9 < await store.ask("ttl", "key") <= 10
    assert 99 < await store.ask("ttl", "key") <= 100
    async with transaction(flavour, store):
        assert await store.ask("touch", "key", 1000) is False
        assert await store.ask("ttl", "key") <= 100
        assert await store.ask("delete_match", "k") == 0
        assert await store.has("key")
    assert await store.ask("ttl", "key") is None


@in_both_flavours
async def test_nothing_is_written_by_hand_if_the_block_raises(flavour: Flavour, backend: CacheBackend) -> None:
    store = flavour.use(backend)
    await store.set("there", 1)
    async with rolled_back(flavour, store):
        await store.set("new", 1)
        await store.delete("there")
        await flavour.do(store.backend, "clear")
    assert [await store.get("new"), await store.get("there")] == [None, 1]


@in_both_flavours
async def test_calls_whose_answer_is_needed_are_made_at_once(flavour: Flavour, backend: CacheBackend) -> None:
    store = flavour.use(backend)
    async with rolled_back(flavour, store):
        assert [await store.ask("incr", "count"), await store.ask("incr", "count", 2)] == [1, 3]
        assert await store.ask("decr", "count") == 2
        assert await store.ask("add", "name", "ada") is True
        assert await store.ask("add", "name", "bob") is False
    assert [await store.get("count"), await store.get("name")] == [2, "ada"]


@in_both_flavours
async def test_an_inner_transaction_hands_its_changes_to_the_outer(flavour: Flavour, backend: CacheBackend) -> None:
    store = flavour.use(backend)
    source = Source(flavour, store)
    assert await source() == 1
    async with transaction(flavour, store):
        await store.set("key", "outer")
        async with transaction(flavour, store):
            await flavour.call(source.read.invalidate, 1)
            await store.set("key", "inner")
        assert await source.elsewhere() == 1
        assert await source() == 2, "still invalidated, in the outer one"
        assert await store.get("key") is None
    assert await source.elsewhere() == 3
    assert await store.get("key") == "inner"


@in_both_flavours
async def test_what_raises_inside_takes_only_its_own_changes_along(flavour: Flavour, backend: CacheBackend) -> None:
    store = flavour.use(backend)
    source = Source(flavour, store)
    assert await source() == 1
    async with transaction(flavour, store):
        await store.set("outer", 1)
        async with rolled_back(flavour, store):
            await flavour.call(source.read.invalidate, 1)
            await store.set("inner", 1)
        assert await source() == 1
    assert [await store.get("outer"), await store.get("inner"), await source()] == [1, None, 1]


@in_both_flavours
async def test_the_outer_one_drops_what_the_inner_one_handed_over(flavour: Flavour, backend: CacheBackend) -> None:
    store = flavour.use(backend)
    async with rolled_back(flavour, store), transaction(flavour, store):
        await store.set("key", 1)
    assert await store.get("key") is None


@in_both_flavours
async def test_a_load_that_began_before_the_end_is_fenced_off(flavour: Flavour, backend: CacheBackend) -> None:
    store, rows = flavour.use(backend), {1: "old"}
    loading, go_on = flavour.gate(), flavour.gate()

    @store.cached(expire=LONG)
    async def read(item_id: int) -> str:
        row = rows[item_id]
        if row == "old":
            loading.open()
            await go_on.passed()
        return row

    async with transaction(flavour, store):
        await flavour.call(read.invalidate, 1)
        early = _outside(lambda: flavour.start(read, 1))
        await loading.passed()
        rows[1] = "new"
    go_on.open()
    assert await early.result() == "old", "who asked before the end may be told so"
    assert await flavour.call(read, 1) == "new"


@in_both_flavours
async def test_loads_inside_are_not_joined_and_join_none(flavour: Flavour, backend: CacheBackend) -> None:
    store, runs = flavour.use(backend), list[str]()
    gates = {"inside": flavour.gate(), "outside": flavour.gate()}
    started = {"inside": flavour.gate(), "outside": flavour.gate()}

    @store.cached(expire=LONG, key="all")
    async def read(who: str) -> str:
        runs.append(who)
        started[who].open()
        await gates[who].passed()
        return who

    outside = flavour.start(read, "outside")
    await started["outside"].passed()
    async with transaction(flavour, store):
        context = copy_context()
        inside = context.run(
            lambda: flavour.start(_in(context, read) if isinstance(flavour, Blocking) else read, "inside")
        )
        await started["inside"].passed()
        gates["inside"].open()
        assert await inside.result() == "inside"
    gates["outside"].open()
    assert await outside.result() == "outside"
    assert await flavour.call(read, "outside") == "outside"
    assert sorted(runs) == ["inside", "outside"]


def _in(context: Any, fn: Callable[..., Any]) -> Callable[..., Any]:
    """A thread begins with a context of its own: let it have that of the transaction."""
    return lambda *args: context.copy().run(fn, *args)


@in_both_flavours
async def test_many_are_read_and_invalidated_inside(flavour: Flavour, backend: CacheBackend) -> None:
    store, runs = flavour.use(backend), list[list[int]]()

    @store.cached_many(expire=LONG, window="1ms")
    async def read(ids: list[int]) -> dict[int, int]:
        runs.append(list(ids))
        return {one: len(runs) for one in ids}

    assert await flavour.call(read, [1, 2, 3]) == {1: 1, 2: 1, 3: 1}
    async with rolled_back(flavour, store):
        assert not await flavour.call(read.invalidate, [1, 2])
        assert await flavour.call(read, [1, 2, 3]) == {1: 2, 2: 2, 3: 1}
        assert await flavour.call(read.get, 1) == 3
        assert await flavour.call(read.refresh, [3]) == {3: 4}
    assert await flavour.call(read, [1, 2, 3]) == {1: 1, 2: 1, 3: 1}
    async with transaction(flavour, store):
        await flavour.call(read.invalidate, [1, 2])
    assert await flavour.call(read, [1, 2, 3]) == {1: 5, 2: 5, 3: 1}
    assert runs == [[1, 2, 3], [1, 2], [1], [3], [1, 2]]


@in_both_flavours
async def test_values_by_key_are_loaded_anew_inside_when_they_were_deleted(
    flavour: Flavour, backend: CacheBackend
) -> None:
    store, runs = flavour.use(backend), list[int]()

    async def load() -> int:
        runs.append(1)
        return len(runs)

    async def read() -> Any:
        return await flavour.do(store._cache, "get_or_set", "key", flavour.function(load), LONG)

    assert await read() == 1
    async with transaction(flavour, store):
        assert await read() == 1
        await store.delete("key")
        assert [await read(), await read()] == [2, 3]
        assert await store.has("key")
    assert [await read(), await read()] == [4, 4]


@in_both_flavours
async def test_a_refresh_inside_becomes_an_invalidation(flavour: Flavour, backend: CacheBackend) -> None:
    store = flavour.use(backend)
    source = Source(flavour, store)
    assert await source() == 1
    async with transaction(flavour, store):
        assert await flavour.call(source.read.refresh, 1) == 2
        assert await source.elsewhere() == 1
    assert await source() == 3


@in_both_flavours
async def test_a_stale_value_is_not_refreshed_from_inside(flavour: Flavour) -> None:
    store = flavour.use(InMemoryBackend())
    source = Source(flavour, store, refresh_ahead=LONG - 1e-9)
    assert await source() == 1
    async with transaction(flavour, store):
        await flavour.call(source.read.invalidate, 2)  # so that it is looked at closely
        assert await source() == 1
    await store.drain()
    assert source.runs == [1]


def test_hits_are_as_before_when_nothing_is_open() -> None:
    cache = cache_over(InMemoryBackend())

    class Shop:
        def __cache_key__(self) -> str:
            return "main"

        @cache.cached
        def price(self, item_id: int) -> int:
            return item_id

    @cache.cached
    def read(item_id: int) -> int:
        return item_id

    shop, operations = Shop(), read.invalidate.__self__  # type: ignore[attr-defined]
    read(1)
    shop.price(1)
    with cache.transaction():
        assert not isinstance(operations.shelf, Veil), "nothing is changed yet"
        with cache.transaction():
            read.invalidate(1)
            shop.price.invalidate(1)
            cache.invalidate_tags("tag")
        assert isinstance(operations.shelf, Veil)
        assert isinstance(cache._binding.texts, Veil)
        runs = read.stats().loads + shop.price.stats().loads
        shop.price(1)
        read(1)
        assert read.stats().loads + shop.price.stats().loads == runs + 2
    read(1)
    shop.price(1)
    assert not isinstance(operations.shelf, Veil)
    assert not isinstance(cache._binding.texts, Veil)
    assert not cache._binding._veiled
    assert not cache._binding.store.veils


def test_others_hit_through_a_veil() -> None:
    cache, runs = cache_over(InMemoryBackend()), list[int]()

    @cache.cached
    def read(item_id: int) -> int:
        runs.append(item_id)
        return item_id

    read(1)
    with cache.transaction():
        read.invalidate(1)
        cache.invalidate_tags("tag")
        before = read.stats()
        for _ in range(10):
            _outside(lambda: read(1))
        assert read.stats().hits - before.hits == 10
    assert runs == [1]


@only_suspending
async def test_what_goes_on_after_the_end_changes_the_cache_at_once(flavour: Flavour, backend: CacheBackend) -> None:
    store = flavour.use(backend)
    source, ended = Source(flavour, store), asyncio.Event()
    assert await source() == 1

    async def straggler() -> None:
        await ended.wait()
        await source.read.invalidate(1)
        await store.set("key", 1)

    async with store._cache.transaction():
        await store.set("key", 0)
        task = asyncio.create_task(straggler())
    ended.set()
    await task
    assert await store.get("key") == 1
    assert await source() == 2


@only_suspending
async def test_what_is_started_inside_belongs_to_it(flavour: Flavour, backend: CacheBackend) -> None:
    store = flavour.use(backend)
    async with store._cache.transaction():
        await asyncio.create_task(store.set("task", 1))
        await asyncio.to_thread(store.backend.set, "thread", 1)
        assert [await store.get("task"), await store.get("thread")] == [None, None]
    assert [await store.get("task"), await store.get("thread")] == [1, 1]


@only_suspending
async def test_what_outlives_the_inner_one_belongs_to_the_outer(flavour: Flavour, backend: CacheBackend) -> None:
    store, ended = flavour.use(backend), asyncio.Event()

    async def straggler() -> None:
        await ended.wait()
        await store.set("key", 1)

    async with store._cache.transaction():
        async with store._cache.transaction():
            task = asyncio.create_task(straggler())
        ended.set()
        await task
        assert await store.get("key") is None
    assert await store.get("key") == 1


@only_suspending
async def test_a_blocking_one_works_on_a_loop(flavour: Flavour, backend: CacheBackend) -> None:
    store = flavour.use(backend)
    source = Source(flavour, store)
    assert await source() == 1
    with store._cache.transaction():
        await source.read.invalidate(1)
        await store.set("key", 1)
        assert await source() == 2
    assert await store.get("key") == 1
    assert await source() == 3


@only_suspending
async def test_two_at_once_know_nothing_of_each_other(flavour: Flavour, backend: CacheBackend) -> None:
    store = flavour.use(backend)
    source, both = Source(flavour, store), asyncio.Barrier(2)
    assert [await source(1), await source(2)] == [1, 2]

    async def change(item_id: int, *, well: bool) -> None:
        async with store._cache.transaction():
            await both.wait()
            await source.read.invalidate(item_id)
            await both.wait()
            assert await source(3 - item_id) == 3 - item_id
            await both.wait()
            if not well:
                raise Rollback

    done = await asyncio.gather(change(1, well=True), change(2, well=False), return_exceptions=True)
    assert [type(one) for one in done] == [type(None), Rollback]
    assert [await source(2), await source(1)] == [2, 3]


class Remote(SQLiteBackend):
    """Waits before each removal, so that its caller can be cancelled there."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.waiting = asyncio.Event()
        self.go_on = asyncio.Event()

    async def adelete(self, key: str) -> Any:
        self.waiting.set()
        await self.go_on.wait()
        return await super().adelete(key)


@only_suspending
async def test_who_is_cancelled_while_it_ends_loses_nothing(flavour: Flavour, tmp_path: Path) -> None:
    backend = Remote(tmp_path / "cache.db")
    store = flavour.use(backend)
    source = Source(flavour, store)
    for item_id in (1, 2, 3):
        await source(item_id)

    async def change() -> None:
        async with store._cache.transaction():
            for item_id in (1, 2):
                await source.read.invalidate(item_id)
            await store.set("key", 1)

    task = asyncio.create_task(change())
    await backend.waiting.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    backend.go_on.set()

    async def made() -> bool:
        return bool(await store.get("key") == 1)

    await flavour.until(made, "the changes are made all the same")
    assert [await source(item_id) for item_id in (1, 2, 3)] == [4, 5, 3]


def test_a_loop_that_ends_meanwhile_makes_them_all(tmp_path: Path) -> None:
    backend = SQLiteBackend(tmp_path / "cache.db")
    cache = cache_over(backend)
    for key in ("one", "two"):
        backend.set(key, 1)

    class Waits(SQLiteBackend):
        async def adelete(self, key: str) -> Any:
            await asyncio.sleep(0)
            return await super().adelete(key)

    slow = Waits(tmp_path / "cache.db")

    async def change() -> None:
        async with cache.transaction():
            await slow.adelete("one")
            await slow.adelete("two")
            await slow.aset("three", 3)

    async def main() -> None:
        task = asyncio.create_task(change())
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        task.cancel()  # and the loop ends, which cancels whatever runs on it

    asyncio.run(main())
    assert [backend.get(key) for key in ("one", "two", "three")] == [None, None, 3]
    backend.close()
    slow.close()


@only_suspending
async def test_who_is_cancelled_inside_changes_nothing(flavour: Flavour, backend: CacheBackend) -> None:
    store, inside = flavour.use(backend), asyncio.Event()

    async def change() -> None:
        async with store._cache.transaction():
            await store.set("key", 1)
            inside.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(change())
    await inside.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await store.get("key") is None


@in_both_flavours
async def test_above_a_function_each_call_has_its_own(flavour: Flavour, backend: CacheBackend) -> None:
    store = flavour.use(backend)

    async def write(key: str, *, well: bool = True) -> str:
        await store.set(key, 1)
        assert await store.get(key) is None
        if not well:
            raise Rollback
        return key

    wrapped = store._cache.transaction()(flavour.function(write))
    assert wrapped.__name__ == "write"
    assert await flavour.call(wrapped, "one") == "one"
    with pytest.raises(Rollback):
        await flavour.call(wrapped, "two", well=False)
    assert [await store.get("one"), await store.get("two")] == [1, None]


def test_a_generator_function_is_refused() -> None:
    def generate() -> Iterator[int]:
        yield 1

    with pytest.raises(ConfigurationError, match="generator"):
        Cache().transaction()(generate)


def test_one_that_is_open_is_not_opened_again() -> None:
    cache = cache_over(InMemoryBackend())
    once = cache.transaction()
    with once, pytest.raises(ConfigurationError, match="open already"), once:
        pass
    with once:
        pass


@in_both_flavours
async def test_what_is_wrong_is_said_at_once(flavour: Flavour, redis_url: str) -> None:
    for backend in (InMemoryBackend(), RedisBackend(redis_url, namespace="wrong")):
        store = flavour.use(backend)
        wrong: list[tuple[str, tuple[Any, ...]]] = [
            ("set", ("", 1)),
            ("set", ("key", 1, -1)),
            ("delete", (5,)),
            ("expire", ("key", 0)),
            ("expire", ("key", None)),
            ("touch", ("key", "soon")),
            ("set_many", (["key"],)),
            ("set_many", ({"key": 1}, "soon")),
            ("delete_many", ("key", "")),
            ("delete_match", (7,)),
        ]
        async with transaction(flavour, store):
            for call, args in wrong:
                with pytest.raises(ConfigurationError):
                    await store.ask(call, *args)
            with pytest.raises(TypeError):
                await store.ask("delete")


@in_both_flavours
async def test_what_a_store_raises_is_raised_at_the_end_when_all_is_done(flavour: Flavour, redis_url: str) -> None:
    store = flavour.use(RedisBackend(redis_url, namespace="errors"))

    async def change() -> None:
        async with transaction(flavour, store):
            await store.set("one", object())
            await store.set("two", object())
            await store.set("three", 3)

    with pytest.raises(EncodeError) as caught:
        await change()
    assert await store.get("three") == 3
    assert "1 more" in "".join(caught.value.__notes__)


@in_both_flavours
async def test_redis_being_away_does_not_raise(flavour: Flavour) -> None:
    backend = RedisBackend("redis://127.0.0.1:1/0", namespace="away", connect_timeout=0.1)
    store = flavour.use(backend)
    source = Source(flavour, store)
    async with transaction(flavour, store):
        await flavour.call(source.read.invalidate, 1)
        await store.set("key", 1)
        await flavour.do(store._cache, "invalidate_tags", "tag")
    assert await source() == 1


# In dependencies. FastAPI runs those written ``def`` step by step, each on a thread with a copy of the context.


def unit_of_work(cache: Cache, *, suspends: bool, fails: bool = False) -> Callable[..., Any]:
    """A dependency that holds a transaction open; if it ``fails``, it is when what it is around has ended well."""

    async def suspending() -> AsyncIterator[None]:
        async with cache.transaction():
            yield
            if fails:
                raise Rollback

    def blocking() -> Iterator[None]:
        with cache.transaction():
            yield
            if fails:
                raise Rollback

    return suspending if suspends else blocking


def writes(backend: CacheBackend, fn: Callable[[int], Any], *, suspends: bool) -> Callable[..., Any]:
    """An endpoint that changes the cache, and raises unless it is for item 1."""

    async def suspending(item_id: int) -> None:
        await backend.aset(f"item:{item_id}", item_id)
        blocking(item_id)

    def blocking(item_id: int) -> None:
        backend.set(f"item:{item_id}", item_id)
        fn(item_id)
        if item_id > 1:
            raise HTTPException(409)

    return suspending if suspends else blocking


def kinds(*names: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize(",".join(names), list(itertools.product([True, False], repeat=len(names))))


@kinds("dependency", "endpoint")
def test_a_dependency_can_hold_one_open(dependency: bool, endpoint: bool) -> None:
    backend, runs = InMemoryBackend(), list[int]()
    cache, app = Cache(), FastAPI()
    cache.init_app(app, backend)

    @cache.cached(expire=LONG)
    def read(item_id: int) -> int:
        runs.append(item_id)
        return len(runs)

    write = writes(backend, read.invalidate, suspends=endpoint)
    app.post("/items/{item_id}", dependencies=[Depends(unit_of_work(cache, suspends=dependency))])(write)
    with TestClient(app) as client:
        assert [read(1), read(2)] == [1, 2]
        assert client.post("/items/1").status_code == 200
        assert client.post("/items/2").status_code == 409
        assert [read(1), read(2)] == [3, 2]
    assert [backend.get("item:1"), backend.get("item:2")] == [1, None]


@kinds("outer", "inner", "endpoint")
def test_dependencies_can_hold_one_in_another(outer: bool, inner: bool, endpoint: bool) -> None:
    backend = InMemoryBackend()
    cache, app = Cache(), FastAPI()
    cache.init_app(app, backend)
    for path, fails in (("/well", False), ("/fails", True)):
        around = [
            Depends(unit_of_work(cache, suspends=outer, fails=fails)),
            Depends(unit_of_work(cache, suspends=inner)),
        ]

        def write(path: str = path) -> None:
            with cache.transaction():
                backend.set(path, 1)
            assert backend.get(path) is None

        async def awrite(path: str = path) -> None:
            async with cache.transaction():
                await backend.aset(path, 1)
            assert await backend.aget(path) is None

        app.post(path, dependencies=around)(awrite if endpoint else write)
    with TestClient(app) as client:
        assert client.post("/well").status_code == 200
        with pytest.raises(Rollback):
            client.post("/fails")
    assert [backend.get("/well"), backend.get("/fails")] == [1, None]


@pytest.mark.skipif("scope" not in signature(Depends).parameters, reason="this FastAPI has one scope")
@pytest.mark.parametrize("ends_first", ["inner", "outer"])
def test_dependencies_of_different_scopes_hold_one_each(ends_first: str) -> None:
    """Where the outer one ends first, what is left of the inner one is made by itself."""
    backend = InMemoryBackend()
    cache, app = Cache(), FastAPI()
    cache.init_app(app, backend)
    outer, inner = (unit_of_work(cache, suspends=False) for _ in range(2))
    scopes: list[Any] = ["request", "function"] if ends_first == "inner" else ["function", "request"]

    @app.post("/")
    def write(one: Any = Depends(outer, scope=scopes[0]), two: Any = Depends(inner, scope=scopes[1])) -> None:  # noqa: B008
        backend.set("key", 1)
        assert backend.get("key") is None

    with TestClient(app) as client:
        assert client.post("/").status_code == 200
    assert backend.get("key") == 1


@pytest.mark.parametrize("dependency", [True, False])
def test_requests_at_the_same_time_know_nothing_of_each_other(dependency: bool) -> None:
    backend, both = InMemoryBackend(), asyncio.Barrier(2)
    cache, app = Cache(), FastAPI()
    cache.init_app(app, backend)

    @app.post("/items/{item_id}", dependencies=[Depends(unit_of_work(cache, suspends=dependency))])
    async def write(item_id: int) -> None:
        await both.wait()
        await backend.aset(f"item:{item_id}", item_id)
        await both.wait()
        if item_id > 1:
            raise HTTPException(409)

    async def main() -> list[int]:
        # Both run in tasks of ours, in copies of one context that is used for more requests.
        async def post(item_id: int) -> int:
            return (await ask(app, f"/items/{item_id}", method="POST")).status

        return list(await asyncio.gather(post(1), post(2)))

    assert asyncio.run(main()) == [200, 409]
    assert [backend.get("item:1"), backend.get("item:2")] == [1, None]


def test_what_follows_in_the_same_context_is_not_in_it() -> None:
    backend = InMemoryBackend()
    cache, app = Cache(), FastAPI()
    cache.init_app(app, backend)
    write = writes(backend, lambda _: None, suspends=False)
    app.post("/items/{item_id}", dependencies=[Depends(unit_of_work(cache, suspends=False))])(write)

    async def main() -> None:
        async with cache.transaction():
            assert (await ask(app, "/items/1", method="POST")).status == 200
            assert await backend.aget("item:1") is None, "it is left to the one around"
            await backend.aset("own", 1)
        assert [await backend.aget("item:1"), await backend.aget("own")] == [1, 1]
        await backend.aset("later", 1)
        assert await backend.aget("later") == 1

    asyncio.run(main())


def test_a_dependency_of_a_web_socket_can_hold_one_open() -> None:
    backend = InMemoryBackend()
    cache, app = Cache(), FastAPI()
    cache.init_app(app, backend)

    @app.websocket("/ws", dependencies=[Depends(unit_of_work(cache, suspends=False))])
    async def talk(socket: WebSocket) -> None:
        await socket.accept()
        await backend.aset("key", 1)
        await socket.send_json(await backend.aget("key"))
        await socket.close()

    with TestClient(app) as client, client.websocket_connect("/ws") as socket:
        assert socket.receive_json() is None
        with pytest.raises(WebSocketDisconnect):
            socket.receive_json()
    assert backend.get("key") == 1


def test_a_stream_can_hold_one_open() -> None:
    backend = InMemoryBackend()
    cache, app = Cache(), FastAPI()
    cache.init_app(app, backend)

    @app.get("/")
    def stream() -> StreamingResponse:
        def parts() -> Iterator[str]:
            with cache.transaction():
                yield "1"
                backend.set("key", 1)
                yield str(backend.get("key"))

        return StreamingResponse(parts())

    with TestClient(app) as client:
        assert client.get("/").text == "1None"
    assert backend.get("key") == 1


def test_where_one_would_be_lost_it_is_not_opened() -> None:
    backend = InMemoryBackend()
    cache, app = Cache(), FastAPI()
    write = writes(backend, lambda _: None, suspends=False)
    app.post("/items/{item_id}", dependencies=[Depends(unit_of_work(cache, suspends=False))])(write)
    with TestClient(app) as client, pytest.raises(ConfigurationError, match="async def"):
        client.post("/items/1")
    assert backend.get("item:1") is None


def test_a_thread_may_open_one_in_a_generator_of_its_own() -> None:
    """It runs the whole of it: nothing is lost, and nobody else sees it."""
    backend, seen = InMemoryBackend(), list[object]()
    cache, app = Cache(), FastAPI()

    @contextmanager
    def within() -> Iterator[None]:
        with cache.transaction():
            yield

    @app.post("/")
    def write() -> None:
        with within():
            backend.set("key", 1)
            seen.append(backend.get("key"))
        seen.append(backend.get("key"))

    with TestClient(app) as client:
        assert client.post("/").status_code == 200
    assert seen == [None, 1]


def test_threads_that_collect_while_it_ends_lose_nothing() -> None:
    backend = InMemoryBackend()
    cache = cache_over(backend)
    go, threads = threading.Event(), list[threading.Thread]()

    def write(number: int) -> None:
        go.wait()
        for step in range(50):
            backend.set(f"{number}:{step}", 1)

    for lap in range(20):
        backend.clear()
        go.clear()
        with cache.transaction():
            context = copy_context()
            threads = [threading.Thread(target=context.copy().run, args=(write, number)) for number in range(4)]
            for thread in threads:
                thread.start()
            go.set()
        for thread in threads:
            thread.join()
        assert len(backend) == 200, f"in or after the transaction, each is made once ({lap})"


def test_not_text_is_refused() -> None:
    with pytest.raises(InvalidTypeError):
        cache_over(InMemoryBackend()).invalidate(5)  # type: ignore[arg-type]
