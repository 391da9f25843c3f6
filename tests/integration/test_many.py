"""Functions that load many: each element is cached by itself, and what is missing is loaded together."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated, Any

import pytest
from fastapi import Depends, FastAPI

from examples.sqlite_backend import SQLiteBackend
from fast_cache import Cache, CacheBackend, InMemoryBackend, NotKeyed, RedisBackend
from fast_cache.backends.redis.link import Link
from fast_cache.errors import ConfigurationError, InvalidTypeError, LoadTimeout
from fast_cache.testing import Flavour, Store, Suspending, in_both_flavours

LONG = 60
SOON = 0.05


@pytest.fixture(params=["memory", "copying memory", "ten methods", "redis"])
def backend(request: pytest.FixtureRequest, tmp_path: Path, redis_url: str) -> CacheBackend:
    if request.param == "memory":
        return InMemoryBackend()
    if request.param == "copying memory":
        return InMemoryBackend(copy=True)
    if request.param == "redis":
        return RedisBackend(redis_url, namespace="many")
    return SQLiteBackend(tmp_path / "cache.db")


class Shelf:
    """A source of books, decorated: ids below a hundred exist. What it was asked for is in ``asked``."""

    def __init__(self, store: Store, **options: Any) -> None:
        self.asked: list[list[int]] = []
        self.titles: dict[int, Any] = {number: [f"book {number}"] for number in range(100)}
        self.before: Callable[[], Any] | None = None

        async def books(ids: Iterable[int], language: str = "en") -> dict[int, list[str]]:
            wanted = list(ids)
            self.asked.append(wanted)
            if self.before is not None:
                await self.before()
            return {number: self.titles[number] for number in wanted if number in self.titles}

        self.books = store.cached_many(**{"expire": LONG, **options})(books)


@in_both_flavours
async def test_only_what_is_missing_is_loaded(flavour: Flavour, backend: CacheBackend) -> None:
    shelf = Shelf(flavour.use(backend))
    assert await flavour.call(shelf.books, [3, 1, 2]) == {3: ["book 3"], 1: ["book 1"], 2: ["book 2"]}
    found = await flavour.call(shelf.books, (number for number in (2, 4, 3)))
    assert list(found.items()) == [(2, ["book 2"]), (4, ["book 4"]), (3, ["book 3"])]
    assert shelf.asked == [[3, 1, 2], [4]]
    stats = shelf.books.stats()
    assert (stats.hits, stats.misses, stats.loads) == (2, 4, 2)


@in_both_flavours
async def test_other_arguments_are_part_of_the_key(flavour: Flavour) -> None:
    shelf = Shelf(flavour.use(InMemoryBackend()))
    await flavour.call(shelf.books, [1])
    await flavour.call(shelf.books, ids=[1], language="en")
    await flavour.call(shelf.books, [1], "de")
    assert shelf.asked == [[1], [1]]
    assert shelf.books.key(1) == shelf.books.key(ids=1, language="en") != shelf.books.key(1, "de")


@in_both_flavours
async def test_nothing_is_asked_for_nothing(flavour: Flavour, backend: CacheBackend) -> None:
    shelf = Shelf(flavour.use(backend))
    assert await flavour.call(shelf.books, []) == {}
    assert shelf.asked == []


@in_both_flavours
async def test_an_element_is_asked_for_once(flavour: Flavour) -> None:
    shelf = Shelf(flavour.use(InMemoryBackend()))
    assert await flavour.call(shelf.books, [1, 1, 1]) == {1: ["book 1"]}
    assert shelf.asked == [[1]]


@in_both_flavours
async def test_what_is_not_found_is_missing_and_not_remembered(flavour: Flavour, backend: CacheBackend) -> None:
    shelf = Shelf(flavour.use(backend))
    for _ in range(2):
        assert await flavour.call(shelf.books, [1, 200]) == {1: ["book 1"]}
    assert shelf.asked == [[1, 200], [200]]
    assert await flavour.do(backend, "get", shelf.books.key(200), "nothing") == "nothing"


@in_both_flavours
async def test_it_is_remembered_if_asked_for(flavour: Flavour, backend: CacheBackend) -> None:
    shelf = Shelf(flavour.use(backend), missing_expire=LONG)
    for _ in range(2):
        assert await flavour.call(shelf.books, [1, 200]) == {1: ["book 1"]}
    assert await flavour.call(shelf.books.get, 200) is None
    assert await flavour.call(shelf.books.get, 200, default="none") == "none"
    assert shelf.asked == [[1, 200]]
    if not isinstance(backend, SQLiteBackend):  # which holds bytes, and knows nothing of them
        assert await flavour.do(backend, "get", shelf.books.key(200), "nothing") == "nothing"
        assert not await flavour.do(backend, "has", shelf.books.key(200))
    shelf.titles[200] = "new"
    await flavour.call(shelf.books.invalidate, [200])
    assert await flavour.call(shelf.books, [200]) == {200: "new"}


@in_both_flavours
async def test_no_type_of_the_users_makes_it_remembered(flavour: Flavour, backend: CacheBackend) -> None:
    shelf = Shelf(flavour.use(backend), cache_errors={Exception: LONG})
    for _ in range(2):
        await flavour.call(shelf.books, [200])
    assert shelf.asked == [[200], [200]]


@in_both_flavours
async def test_none_is_a_value(flavour: Flavour, backend: CacheBackend) -> None:
    shelf = Shelf(flavour.use(backend))
    shelf.titles[5] = None
    for _ in range(2):
        assert await flavour.call(shelf.books, [5]) == {5: None}
    assert await flavour.call(shelf.books.get, 5, default="none") is None
    assert shelf.asked == [[5]]


@in_both_flavours
async def test_calls_that_overlap_load_each_element_once(flavour: Flavour, backend: CacheBackend) -> None:
    store = flavour.use(backend)
    shelf, gate = Shelf(store), flavour.gate()
    shelf.before = gate.passed
    first = flavour.start(shelf.books, [1, 2, 3, 200])
    await flavour.until(lambda: _is(len(shelf.asked) == 1), "the first one loads")
    second = flavour.start(shelf.books, [2, 3, 4, 200])
    await flavour.until(lambda: _is(len(shelf.asked) == 2), "the second one loads what the first does not")
    await store.followed(shelf.books.key(3), 1)
    gate.open()
    assert set(await first.result()) == {1, 2, 3}
    assert set(await second.result()) == {2, 3, 4}
    assert sorted(map(sorted, shelf.asked)) == [[1, 2, 3, 200], [4]]


@in_both_flavours
async def test_batches_that_overlap_crosswise_do_not_wait_for_each_other(
    flavour: Flavour, backend: CacheBackend
) -> None:
    shelf = Shelf(flavour.use(backend))
    callers = [flavour.start(shelf.books, numbers) for numbers in ([1, 2, 3], [3, 2, 1], [2, 3, 1], [3, 4], [4, 1])]
    for caller in callers:
        await caller.result()
    assert sorted(number for asked in shelf.asked for number in asked) == [1, 2, 3, 4]


@in_both_flavours
async def test_an_invalidation_is_not_undone_by_a_batch_in_flight(flavour: Flavour, backend: CacheBackend) -> None:
    shelf, gate = Shelf(flavour.use(backend)), flavour.gate()
    shelf.before = gate.passed
    caller = flavour.start(shelf.books, [1, 2])
    await flavour.until(lambda: _is(bool(shelf.asked)), "it loads")
    await flavour.call(shelf.books.invalidate, [1])
    gate.open()
    assert set(await caller.result()) == {1, 2}
    shelf.titles[1] = shelf.titles[2] = "new"
    assert await flavour.call(shelf.books, [1, 2]) == {1: "new", 2: ["book 2"]}


@in_both_flavours
async def test_an_error_reaches_everyone_and_is_not_stored(flavour: Flavour, backend: CacheBackend) -> None:
    store = flavour.use(backend)
    shelf, gate = Shelf(store), flavour.gate()
    await flavour.call(shelf.books, [1])

    async def fail() -> None:
        await gate.passed()
        raise LookupError("the shelf is empty")

    shelf.before = fail
    callers = [flavour.start(shelf.books, [1, 2])]
    await flavour.until(lambda: _is(len(shelf.asked) == 2), "the first one loads")
    callers.append(flavour.start(shelf.books, [2]))
    await store.followed(shelf.books.key(2), 1)
    gate.open()
    for caller in callers:
        with pytest.raises(LookupError):
            await caller.result()
    shelf.before = None
    assert await flavour.call(shelf.books, [1, 2]) == {1: ["book 1"], 2: ["book 2"]}
    assert shelf.asked == [[1], [2], [2]]
    assert shelf.books.stats().errors == 1


@in_both_flavours
async def test_what_returns_no_dict_is_told_so(flavour: Flavour) -> None:
    store = flavour.use(InMemoryBackend())

    async def wrong(ids: list[int]) -> Any:
        return [ids]

    with pytest.raises(InvalidTypeError, match=r"wrong returned a list; a loader of many returns a dict"):
        await flavour.call(store.cached_many(expire=LONG)(wrong), [1])


@in_both_flavours
async def test_stale_elements_are_served_while_one_batch_refreshes(flavour: Flavour, backend: CacheBackend) -> None:
    store = flavour.use(backend)
    shelf = Shelf(store, expire=SOON, stale_while_revalidate=LONG)
    await flavour.call(shelf.books, [1, 2, 3])
    await flavour.until(lambda: _is_stale(flavour, shelf, 3), "they expire")
    shelf.titles = {1: "new", 2: "new"}
    found = await flavour.call(shelf.books, [1, 2, 3])
    assert found == {1: ["book 1"], 2: ["book 2"], 3: ["book 3"]}
    await store.drain()
    assert shelf.asked == [[1, 2, 3], [1, 2, 3]]
    assert await flavour.call(shelf.books, [1, 2, 3]) == {1: "new", 2: "new"}, "what is gone is gone"


@in_both_flavours
async def test_an_error_is_covered_by_what_is_stale(flavour: Flavour, backend: CacheBackend) -> None:
    shelf = Shelf(flavour.use(backend), expire=SOON, stale_if_error=LONG)
    await flavour.call(shelf.books, [1])
    await flavour.until(lambda: _is_stale(flavour, shelf, 1), "it expires")

    async def fail() -> None:
        raise LookupError

    shelf.before = fail
    assert await flavour.call(shelf.books, [1]) == {1: ["book 1"]}
    with pytest.raises(LookupError):
        await flavour.call(shelf.books, [1, 2])


@in_both_flavours
async def test_that_there_is_nothing_any_more_is_no_error(flavour: Flavour, backend: CacheBackend) -> None:
    shelf = Shelf(flavour.use(backend), expire=SOON, stale_if_error=LONG)
    await flavour.call(shelf.books, [1])
    await flavour.until(lambda: _is_stale(flavour, shelf, 1), "it expires")
    shelf.titles.clear()
    assert await flavour.call(shelf.books, [1]) == {}

    async def fail() -> None:
        raise LookupError

    shelf.before = fail
    with pytest.raises(LookupError):  # the old value does not come back
        await flavour.call(shelf.books, [1])


@in_both_flavours
async def test_refreshing_replaces_and_removes(flavour: Flavour, backend: CacheBackend) -> None:
    shelf = Shelf(flavour.use(backend))
    await flavour.call(shelf.books, [1, 2, 3])
    shelf.titles = {1: "new"}
    assert await flavour.call(shelf.books.refresh, [1, 2]) == {1: "new"}
    assert await flavour.call(shelf.books, [1, 2, 3]) == {1: "new", 3: ["book 3"]}
    assert shelf.asked == [[1, 2, 3], [1, 2], [2]]


@in_both_flavours
async def test_invalidating_counts_what_was_there(flavour: Flavour, backend: CacheBackend) -> None:
    shelf = Shelf(flavour.use(backend))
    await flavour.call(shelf.books, [1, 2])
    assert await flavour.call(shelf.books.invalidate, [1, 2, 3]) == 2
    await flavour.call(shelf.books, [1])
    assert shelf.asked == [[1, 2], [1]]


@in_both_flavours
async def test_the_function_is_given_so_many_at_most(flavour: Flavour, backend: CacheBackend) -> None:
    shelf = Shelf(flavour.use(backend), max_batch=2)
    assert set(await flavour.call(shelf.books, range(5))) == set(range(5))
    assert shelf.asked == [[0, 1], [2, 3], [4]]


@in_both_flavours
async def test_conditions_and_lifetimes_are_those_of_each_value(flavour: Flavour, backend: CacheBackend) -> None:
    def lifetime(value: Any, ids: int, language: str) -> float:
        assert value == [f"book {ids}"]
        return 0 if ids == 3 else LONG

    shelf = Shelf(flavour.use(backend), condition=lambda value: value != ["book 2"], expire=lifetime)
    for _ in range(2):
        await flavour.call(shelf.books, [1, 2, 3])
    assert shelf.asked == [[1, 2, 3], [2, 3]]


@in_both_flavours
async def test_a_function_that_waits_too_long_is_an_error(flavour: Flavour, backend: CacheBackend) -> None:
    store = flavour.use(backend)
    shelf, gate = Shelf(store, hard_timeout=SOON), flavour.gate()
    await flavour.call(shelf.books.refresh, [1])  # which has all the time it needs
    shelf.before = gate.passed
    with pytest.raises(LoadTimeout):
        await flavour.call(shelf.books, [1, 2, 3])
    gate.open()
    await store.drain()
    assert set(await flavour.call(shelf.books, [1, 2, 3])) == {1, 2, 3}
    assert shelf.asked == [[1], [2, 3]]


@in_both_flavours
async def test_what_has_no_key_runs_uncached_with_the_rest_cached(flavour: Flavour, backend: CacheBackend) -> None:
    store = flavour.use(backend)
    asked: list[int] = []

    class Opaque:
        pass

    opaque = Opaque()

    async def named(ids: list[Any]) -> dict[Any, str]:
        asked.extend(map(id, ids))
        return dict.fromkeys(ids, "found")

    cached = store.cached_many(expire=LONG)(named)
    for _ in range(2):
        assert await flavour.call(cached, [1, opaque]) == {1: "found", opaque: "found"}
    assert asked.count(id(1)) == 1
    assert asked.count(id(opaque)) == 2


@in_both_flavours
async def test_a_function_that_asks_itself_does_not_wait_for_itself(flavour: Flavour, backend: CacheBackend) -> None:
    store = flavour.use(backend)
    runs: list[list[int]] = []

    async def deep(ids: list[int]) -> dict[int, int]:
        runs.append(ids)
        if len(runs) == 1:
            await flavour.call(cached, [2, 3])
        return {number: number for number in ids}

    cached = store.cached_many(expire=LONG)(deep)
    assert await flavour.call(cached, [1, 2]) == {1: 1, 2: 2}
    assert runs[0] == [1, 2]
    assert sorted(number for run in runs[1:] for number in run) == [2, 3]


@in_both_flavours
async def test_skip_cache_reads_and_stores_nothing(flavour: Flavour, backend: CacheBackend) -> None:
    shelf = Shelf(flavour.use(backend))
    await flavour.call(shelf.books, [1], skip_cache=True)
    await flavour.call(shelf.books, [1])
    assert await flavour.call(shelf.books, (number for number in [1]), skip_cache=True) == {1: ["book 1"]}
    assert shelf.asked == [[1], [1], [1]]


@in_both_flavours
async def test_what_the_function_says_of_its_result_is_about_every_element(
    flavour: Flavour, backend: CacheBackend
) -> None:
    store = flavour.use(backend)
    asked: list[list[int]] = []

    async def fleeting(ids: list[int]) -> dict[int, int]:
        asked.append(ids)
        store._cache.current.skip()
        return {number: number for number in ids}

    cached = store.cached_many(expire=LONG)(fleeting)
    for _ in range(2):
        assert await flavour.call(cached, [1, 2]) == {1: 1, 2: 2}
    assert asked == [[1, 2], [1, 2]]


@in_both_flavours
async def test_a_caller_changes_nobody_elses_values(flavour: Flavour, redis_url: str) -> None:
    backend = RedisBackend(redis_url, namespace="apart")
    store = flavour.use(backend)
    shelf, gate = Shelf(store), flavour.gate()
    shelf.before = gate.passed
    callers = [flavour.start(shelf.books, [1])]
    await flavour.until(lambda: _is(bool(shelf.asked)), "it loads")
    callers += [flavour.start(shelf.books, [1]) for _ in range(2)]
    await store.followed(shelf.books.key(1), 2)
    gate.open()
    found = [await caller.result() for caller in callers]
    for books in found:
        books[1].append("mine")
    assert [books[1] for books in found] == [["book 1", "mine"]] * 3


# Over the wire.


@in_both_flavours
async def test_one_round_trip_for_all_reads(flavour: Flavour, redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    shelf = Shelf(flavour.use(RedisBackend(redis_url, namespace="packets")))
    packets: list[int] = []
    exchange = Link._exchange

    async def counted(self: Link, port: Any, packet: Any) -> Any:
        packets.append(len(packet))
        return await exchange(self, port, packet)

    monkeypatch.setattr(Link, "_exchange", counted)
    await flavour.call(shelf.books, range(50))
    assert len(packets) == 3, "reading, noting what the load depends on, writing"
    packets.clear()
    assert len(await flavour.call(shelf.books, range(50))) == 50
    assert len(packets) == 1
    await flavour.call(shelf.books.invalidate, range(50))
    assert len(packets) == 2


@in_both_flavours
async def test_a_thousand_large_values_fit(flavour: Flavour, redis_url: str) -> None:
    shelf = Shelf(flavour.use(RedisBackend(redis_url, namespace="large")))
    shelf.titles = dict.fromkeys(range(1000), "x" * 20000)
    for _ in range(2):
        assert await flavour.call(shelf.books, range(1000)) == shelf.titles
    assert shelf.asked == [list(range(1000))]


@in_both_flavours
async def test_without_redis_the_function_runs(flavour: Flavour) -> None:
    shelf = Shelf(flavour.use(RedisBackend("redis://127.0.0.1:1/0", namespace="away")))
    for _ in range(2):
        assert set(await flavour.call(shelf.books, [1, 2])) == {1, 2}
    assert shelf.asked == [[1, 2], [1, 2]]


# Cancellation: tasks only.


def test_a_cancelled_batch_hands_over() -> None:
    async def test() -> None:
        flavour = Suspending()
        store = flavour.use(InMemoryBackend())
        shelf, gate = Shelf(store), flavour.gate()
        shelf.before = gate.passed
        first = flavour.start(shelf.books, [1, 2])
        await flavour.until(lambda: _is(len(shelf.asked) == 1), "the first one loads")
        others = [flavour.start(shelf.books, [2, 3]), flavour.start(shelf.books, [1, 2])]
        await store.followed(shelf.books.key(2), 2)
        await store.followed(shelf.books.key(1), 1)
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first.result()
        gate.open()
        assert [set(await other.result()) for other in others] == [{2, 3}, {1, 2}]
        loaded = [number for asked in shelf.asked[1:] for number in asked]
        assert sorted(loaded) == [1, 2, 3]

    asyncio.run(test())


def test_a_batch_that_is_cancelled_while_it_waits_leaves_no_trace() -> None:
    async def test() -> None:
        flavour = Suspending()
        store = flavour.use(InMemoryBackend())
        shelf, gate = Shelf(store), flavour.gate()
        shelf.before = gate.passed
        first = flavour.start(shelf.books, [1, 2])
        await flavour.until(lambda: _is(len(shelf.asked) == 1), "the first one loads")
        second = flavour.start(shelf.books, [1, 2])
        await store.followed(shelf.books.key(1), 1)
        second.cancel()
        with pytest.raises(asyncio.CancelledError):
            await second.result()
        assert store.backend.engine_store().flights.waiting(shelf.books.key(1)) == 0
        gate.open()
        assert set(await first.result()) == {1, 2}
        assert len(store.backend.engine_store().flights) == 0

    asyncio.run(test())


def test_a_batch_that_is_cancelled_while_it_writes_is_stored(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async def test() -> None:
        flavour = Suspending()
        backend = RedisBackend(redis_url, namespace="late")
        store = flavour.use(backend)
        shelf = Shelf(store)
        writing, go_on = asyncio.Event(), asyncio.Event()
        exchange = Link._exchange

        async def slow(self: Link, port: Any, packet: Any) -> Any:
            if shelf.asked and not writing.is_set():
                writing.set()
                await go_on.wait()
            return await exchange(self, port, packet)

        monkeypatch.setattr(Link, "_exchange", slow)
        caller = flavour.start(shelf.books, [1, 2])
        await writing.wait()
        caller.cancel()
        with pytest.raises(asyncio.CancelledError):
            await caller.result()
        go_on.set()
        await flavour.until(lambda: backend.ahas(shelf.books.key(2)), "it is stored")
        assert set(await shelf.books([1, 2])) == {1, 2}
        assert shelf.asked == [[1, 2]]
        await backend.aclose()

    asyncio.run(test())


# Single calls in groups.


@in_both_flavours
async def test_single_calls_come_together_in_a_window(flavour: Flavour, backend: CacheBackend) -> None:
    shelf = Shelf(flavour.use(backend), window=LONG, max_batch=4)
    callers = [flavour.start(shelf.books.get, number) for number in (1, 2, 200, 3)]
    assert [await caller.result() for caller in callers] == [["book 1"], ["book 2"], None, ["book 3"]]
    assert [sorted(asked) for asked in shelf.asked] == [[1, 2, 3, 200]]


@in_both_flavours
async def test_a_window_passes(flavour: Flavour, backend: CacheBackend) -> None:
    shelf = Shelf(flavour.use(backend), window=SOON)
    assert await flavour.call(shelf.books.get, 1) == ["book 1"]
    assert await flavour.call(shelf.books.get, 1) == ["book 1"]
    assert shelf.asked == [[1]]


@in_both_flavours
async def test_only_calls_that_are_alike_come_together(flavour: Flavour) -> None:
    shelf = Shelf(flavour.use(InMemoryBackend()), window=LONG, max_batch=2)
    callers = [flavour.start(shelf.books.get, number, language) for language in ("en", "de") for number in (1, 2)]
    for caller in callers:
        await caller.result()
    assert sorted(map(sorted, shelf.asked)) == [[1, 2], [1, 2]]


@in_both_flavours
async def test_an_error_of_a_group_reaches_each(flavour: Flavour) -> None:
    shelf = Shelf(flavour.use(InMemoryBackend()), window=LONG, max_batch=2)

    async def fail() -> None:
        raise LookupError

    shelf.before = fail
    callers = [flavour.start(shelf.books.get, number) for number in (1, 2)]
    for caller in callers:
        with pytest.raises(LookupError):
            await caller.result()
    assert len(shelf.asked) == 1


def test_whoever_leaves_a_group_harms_nobody() -> None:
    async def test() -> None:
        flavour = Suspending()
        shelf = Shelf(flavour.use(InMemoryBackend()), window=LONG, max_batch=3)
        first = flavour.start(shelf.books.get, 1)
        second = flavour.start(shelf.books.get, 2)
        await asyncio.sleep(0)
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first.result()
        third = flavour.start(shelf.books.get, 3)
        assert [await second.result(), await third.result()] == [["book 2"], ["book 3"]]
        assert [sorted(asked) for asked in shelf.asked] == [[2, 3]]

    asyncio.run(test())


def test_types_that_are_equal_are_not_taken_for_each_other() -> None:
    cache = Cache()
    cache.init_app(FastAPI(), InMemoryBackend())

    @cache.cached_many(expire=LONG, window=SOON)
    async def kinds(ids: list[Any]) -> dict[Any, str]:
        return {one: type(one).__name__ for one in ids}

    async def both() -> list[str | None]:
        return list(await asyncio.gather(kinds.get(1), kinds.get(True), kinds.get(1.0)))

    assert asyncio.run(both()) == ["int", "bool", "float"]


def test_from_a_thread_whose_loop_runs_nobody_is_kept_waiting() -> None:
    cache = Cache()
    cache.init_app(FastAPI(), InMemoryBackend())
    threads: list[int] = []

    @cache.cached_many(expire=LONG, window=LONG)
    def numbers(ids: list[int]) -> dict[int, int]:
        threads.append(threading.get_ident())
        return {one: one for one in ids}

    async def inside() -> int | None:
        return numbers.get(1)

    assert asyncio.run(inside()) == 1
    assert threads == [threading.get_ident()]


# Where it stands.


def test_methods_have_the_operations_too() -> None:
    cache = Cache()
    cache.init_app(FastAPI(), InMemoryBackend())
    asked: list[tuple[str, list[int]]] = []

    class Library:
        def __init__(self, name: str) -> None:
            self.name = name

        def __cache_key__(self) -> str:
            return self.name

        @cache.cached_many(expire=LONG)
        def books(self, ids: list[int]) -> dict[int, str]:
            asked.append((self.name, list(ids)))
            return {number: f"{self.name} {number}" for number in ids}

        @cache.cached_many(expire=LONG)
        @classmethod
        def shared(cls, ids: list[int]) -> dict[int, str]:
            asked.append((cls.__name__, list(ids)))
            return dict.fromkeys(ids, cls.__name__)

        @cache.cached_many(expire=LONG)
        @staticmethod
        def plain(ids: list[int]) -> dict[int, str]:
            asked.append(("plain", list(ids)))
            return dict.fromkeys(ids, "plain")

    here, there = Library("here"), Library("there")
    untyped: Any = Library  # type checkers do not follow a class method through its class, nor an instance given first
    assert here.books([1, 2]) == {1: "here 1", 2: "here 2"}
    assert there.books([2]) == {2: "there 2"}
    assert here.books.get(2) == untyped.books.get(here, 2) == "here 2"
    assert here.books.key(1) == untyped.books.key(here, 1) != there.books.key(1)
    assert here.books.invalidate([1]) == 1
    assert here.books([1, 2]) == {1: "here 1", 2: "here 2"}
    assert untyped.shared([1]) == untyped("x").shared([1]) == {1: "Library"}
    assert untyped.plain([1]) == untyped("x").plain([1]) == {1: "plain"}
    assert asked == [("here", [1, 2]), ("there", [2]), ("here", [1]), ("Library", [1]), ("plain", [1])]


def test_before_init_app_it_runs_as_if_undecorated() -> None:
    cache = Cache()

    @cache.cached_many
    def books(ids: Iterable[int]) -> dict[int, int]:
        return {number: number for number in ids}

    assert books(number for number in [1]) == {1: 1}
    assert books.get(1) == 1
    assert books.refresh([1]) == {1: 1}
    assert books.invalidate([1]) == 0


def test_it_is_no_endpoint_and_no_dependency() -> None:
    cache, app = Cache(), FastAPI()

    @cache.cached_many(expire=LONG)
    async def books(ids: list[int]) -> dict[int, int]:
        return {}

    with pytest.raises(ConfigurationError, match="no endpoint and no dependency"):
        app.get("/")(books)
    with pytest.raises(ConfigurationError, match="no endpoint and no dependency"):

        @app.get("/dependent")
        async def endpoint(found: object = Depends(books)) -> None: ...


def test_handles_are_left_out_of_the_key() -> None:
    cache = Cache()
    cache.init_app(FastAPI(), InMemoryBackend())
    asked: list[list[int]] = []

    @cache.cached_many(expire=LONG)
    def books(ids: list[int], db: Annotated[object, NotKeyed]) -> dict[int, int]:
        asked.append(ids)
        return {number: number for number in ids}

    for _ in range(2):
        assert books([1, 2], object()) == {1: 1, 2: 2}
    assert asked == [[1, 2]]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_batch": 0}, "max_batch must be at least 1"),
        ({"max_batch": True}, "max_batch must be a whole number"),
        ({"window": 0}, "window"),
        ({"missing_expire": -1}, "missing_expire"),
        ({"stale_if_error": 5}, "stale_if_error needs expire="),
        ({"unknown": 5}, "there is no option unknown="),
    ],
)
def test_options_that_can_not_work_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):

        @Cache().cached_many(**options)
        def books(ids: list[int]) -> dict[int, int]:
            return {}


def test_functions_that_can_not_be_asked_for_many_are_refused() -> None:
    cache = Cache()

    def nothing() -> dict[int, int]:
        return {}

    def named(*, ids: list[int]) -> dict[int, int]:
        return {}

    def scattered(*ids: int) -> dict[int, int]:
        return {}

    for fn in (nothing, named, scattered):
        with pytest.raises(ConfigurationError, match="must take the elements as its first parameter"):
            cache.cached_many(fn)


@in_both_flavours
async def test_what_is_no_collection_of_elements_is_refused(flavour: Flavour) -> None:
    shelf = Shelf(flavour.use(InMemoryBackend()))
    for given in ("123", b"123", 5, [[1]], None):
        with pytest.raises(InvalidTypeError):
            await flavour.call(shelf.books, given)
    with pytest.raises(InvalidTypeError):
        await flavour.call(shelf.books.get, [1])
    assert shelf.asked == []


# Under keys of one's own.


@in_both_flavours
async def test_many_keys_are_loaded_together(flavour: Flavour, backend: CacheBackend) -> None:
    flavour.use(backend)
    cache = Cache()
    cache.init_app(FastAPI(), backend)
    asked: list[list[str]] = []

    async def load(keys: list[str]) -> dict[str, str]:
        asked.append(keys)
        return {key: key.upper() for key in keys if key != "nothing"}

    loader = flavour.function(load)

    async def many(keys: list[str], **options: Any) -> dict[str, str]:
        if isinstance(flavour, Suspending):
            return await cache.amany(keys, loader, LONG, **options)
        return cache.many(keys, loader, LONG, **options)

    assert await many(["a", "b", "nothing"]) == {"a": "A", "b": "B"}
    assert await many(["b", "c", "nothing"]) == {"b": "B", "c": "C"}
    assert asked == [["a", "b", "nothing"], ["c", "nothing"]]
    for _ in range(2):
        assert await many(["d", "nothing"], missing_expire=LONG) == {"d": "D"}
    assert asked[2:] == [["d", "nothing"]]
    assert await flavour.do(backend, "has", "a")
    with pytest.raises(InvalidTypeError):
        await many("abc")  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError):
        await many([""])
    with pytest.raises(InvalidTypeError):
        await many([1])  # type: ignore[list-item]
    with contextlib.ExitStack() as without:
        without.enter_context(cache.disabled())
        assert await many(["a"]) == {"a": "A"}
    assert asked[-1] == ["a"]


def test_a_blocking_call_takes_no_async_loader() -> None:
    async def load(keys: list[str]) -> dict[str, str]:
        return {}

    with pytest.raises(InvalidTypeError, match="await amany"):
        Cache().many(["a"], load)  # type: ignore[arg-type]


async def _is(value: bool) -> bool:
    return value


async def _is_stale(flavour: Flavour, shelf: Shelf, number: int) -> bool:
    explained = await flavour.call(shelf.books.explain, number)
    return explained.answer in ("stale", "spare")
