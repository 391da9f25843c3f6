"""What a cache says it did: exact under threads, by function and in total, and true to the store it was done on."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI

from examples.sqlite_backend import SQLiteBackend
from fast_cache import Cache, CacheBackend, InMemoryBackend, RedisBackend
from fast_cache.stats import Count, FunctionStats, Stats, Tally, total


@pytest.fixture
def backend() -> InMemoryBackend:
    return InMemoryBackend()


@pytest.fixture
def store(backend: InMemoryBackend) -> Cache:
    """A cache over ``backend``."""
    return cache_over(backend)


def cache_over(backend: CacheBackend) -> Cache:
    cache = Cache()
    cache.init_app(FastAPI(), backend)
    return cache


@pytest.fixture
def frequent_switches() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def in_threads(count: int, work: Callable[[int], None]) -> None:
    """Run ``work`` in so many threads that start together; the first exception of any is raised."""
    start = threading.Barrier(count)
    errors: list[BaseException] = []

    def run(number: int) -> None:
        start.wait()
        try:
            work(number)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


def counts(stats: Stats) -> tuple[int, int, int, int]:
    return stats.hits, stats.misses, stats.loads, stats.errors


class Clock:
    """A clock that moves when it is told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The clock that loads are timed by."""
    clock = Clock()
    monkeypatch.setattr("fast_cache.ports.monotonic", clock)
    return clock


class TestCount:
    def test_looking_does_not_count(self) -> None:
        count = Count()
        assert [count.value() for _ in range(3)] == [0, 0, 0]
        count.up()
        count.up()
        assert [count.value() for _ in range(3)] == [2, 2, 2]

    @pytest.mark.usefixtures("frequent_switches")
    def test_exact_under_threads_that_count_and_look(self) -> None:
        count = Count()

        def work(number: int) -> None:
            last = 0
            for turn in range(1000):
                count.up()
                if turn % 50 == number:
                    seen = count.value()
                    assert last < seen <= 32_000
                    last = seen

        in_threads(32, work)
        assert count.value() == 32_000

    @pytest.mark.usefixtures("frequent_switches")
    def test_a_function_is_counted_exactly_by_threads_that_call_it(self, store: Cache) -> None:
        @store.cached
        def fn(x: int) -> int:
            return x

        fn(0)

        def work(number: int) -> None:
            for _ in range(300):
                assert fn(0) == 0

        in_threads(32, work)
        assert counts(fn.stats()) == (9600, 1, 1, 0)
        assert counts(store.stats()) == (9600, 1, 1, 0)

    @pytest.mark.usefixtures("frequent_switches")
    def test_loads_are_counted_exactly_by_threads_that_load(self, store: Cache) -> None:
        @store.cached
        def fn(x: int, y: int) -> int:
            if y % 2:
                raise LookupError
            return x

        def work(number: int) -> None:
            for turn in range(100):
                try:
                    fn(number, turn)
                except LookupError:
                    assert turn % 2

        in_threads(32, work)
        assert counts(fn.stats()) == (0, 3200, 3200, 1600)


class TestLoadTimes:
    def test_mean_and_percentile_are_in_seconds(self, store: Cache, clock: Clock) -> None:
        @store.cached
        def fn(x: int) -> int:
            clock.now += x
            return x

        for x in range(1, 101):
            fn(x)
        fn(50)
        stats = fn.stats()
        assert stats.load_time_mean == 50.5
        assert stats.load_time_p95 == 95
        assert (store.stats().load_time_mean, store.stats().load_time_p95) == (50.5, 95)

    def test_async_loads_are_timed_too_and_those_that_raise(self, store: Cache, clock: Clock) -> None:
        @store.cached
        async def fn(x: int) -> int:
            clock.now += x
            await asyncio.sleep(0)
            clock.now += x
            if x == 3:
                raise LookupError
            return x

        async def main() -> None:
            await fn(1)
            with pytest.raises(LookupError):
                await fn(3)

        asyncio.run(main())
        assert counts(fn.stats()) == (0, 2, 2, 1)
        assert (fn.stats().load_time_mean, fn.stats().load_time_p95) == (4, 6)

    def test_the_percentile_is_that_of_the_last_256_and_the_mean_that_of_all(self) -> None:
        stats = FunctionStats()
        for _ in range(256):
            stats.loaded(1000, failed=False)
        for _ in range(256):
            stats.loaded(1, failed=False)
        assert stats.snapshot().load_time_p95 == 1
        assert stats.snapshot().load_time_mean == 500.5

    @pytest.mark.parametrize(("loads", "expected"), [(1, 1), (2, 2), (19, 19), (20, 19), (21, 20), (100, 95)])
    def test_the_percentile_is_the_least_that_95_of_100_do_not_exceed(self, loads: int, expected: int) -> None:
        stats = FunctionStats()
        for seconds in range(loads, 0, -1):
            stats.loaded(seconds, failed=False)
        assert stats.snapshot().load_time_p95 == expected

    def test_without_loads_they_are_zero(self, store: Cache) -> None:
        assert (store.stats().load_time_mean, store.stats().load_time_p95) == (0, 0)


class TestTally:
    def test_a_difference_has_the_load_times_that_came_since(self) -> None:
        stats = FunctionStats()
        stats.loaded(1, failed=False)
        before = stats.tally()
        stats.loaded(2, failed=True)
        stats.loaded(4, failed=False)
        since = stats.tally() - before
        assert (since.loads, since.errors, since.seconds, since.recent) == (2, 1, 6, (2, 4))
        assert (stats.tally() - stats.tally()).recent == ()

    def test_a_difference_of_more_loads_than_are_kept_has_those_that_are(self) -> None:
        stats = FunctionStats()
        before = stats.tally()
        for seconds in range(1000):
            stats.loaded(seconds, failed=False)
        since = stats.tally() - before
        assert since.loads == 1000
        assert since.recent == tuple(range(744, 1000))

    def test_sums_are_bounded(self) -> None:
        many = Tally(loads=256, recent=tuple(map(float, range(256))))
        assert len(total([many] * 10).recent) == 256
        assert total([many] * 10).loads == 2560
        assert total([]) == Tally()


class TestFunctions:
    def test_hits_misses_and_loads(self, store: Cache) -> None:
        @store.cached
        def fn(x: int) -> int:
            return x

        assert fn.stats() == Stats()
        for x in (1, 1, 2, 1, 2):
            fn(x)
        stats = fn.stats()
        assert counts(stats) == (3, 2, 2, 0)
        assert stats.hit_ratio == 0.6
        assert Stats().hit_ratio == 0

    def test_both_kinds_of_keys_and_of_functions_are_counted(self, store: Cache) -> None:
        @store.cached
        def blocking(x: Any) -> int:
            return 1

        @store.cached
        async def suspending(x: Any) -> int:
            return 1

        async def main() -> None:
            for x in (1, 1, [1], [1], [1]):
                blocking(x)
                await suspending(x)

        asyncio.run(main())
        assert counts(blocking.stats()) == counts(suspending.stats()) == (3, 2, 2, 0)
        assert counts(store.stats()) == (6, 4, 4, 0)

    def test_each_function_for_itself_and_all_in_total(self, store: Cache, backend: InMemoryBackend) -> None:
        @store.cached
        def once(x: int) -> int:
            return x

        @store.cached
        def twice(x: int) -> int:
            return 2 * x

        once(1)
        twice(1)
        twice(1)
        assert counts(once.stats()) == (0, 1, 1, 0)
        assert counts(twice.stats()) == (1, 1, 1, 0)
        assert counts(store.stats()) == counts(backend.stats()) == (1, 2, 2, 0)
        assert (once.stats().size, dict(once.stats().evictions)) == (0, {})
        assert store.stats().size == 2

    def test_errors_are_loads_that_raised_and_are_tried_again(self, store: Cache) -> None:
        @store.cached
        def fn(x: int) -> int:
            raise LookupError

        for _ in range(3):
            with pytest.raises(LookupError):
                fn(1)
        assert counts(fn.stats()) == (0, 3, 3, 3)

    def test_a_call_that_bypasses_is_not_counted(self, store: Cache) -> None:
        @store.cached
        def fn(x: int) -> int:
            return x

        fn(1, skip_cache=True)
        assert fn.stats() == Stats()
        fn(1)
        fn(1, skip_cache=True)
        assert counts(fn.stats()) == (0, 1, 1, 0)
        fn(1, skip_cache=False)
        assert counts(fn.stats()) == (1, 1, 1, 0)

    def test_calls_before_init_app_are_not_counted(self) -> None:
        cache = Cache()

        @cache.cached
        def fn(x: int) -> int:
            return x

        fn(1)
        assert fn.stats() == Stats()
        assert cache.stats() == Stats()

    def test_a_call_that_has_no_key_is_not_counted(self, store: Cache) -> None:
        @store.cached
        def fn(x: object) -> int:
            return 1

        fn(object())
        assert fn.stats() == Stats()

    def test_a_refresh_is_a_load_and_no_miss(self, store: Cache) -> None:
        @store.cached
        def fn(x: int) -> int:
            return x

        fn.refresh(1)
        assert counts(fn.stats()) == (0, 0, 1, 0)
        fn(1)
        assert counts(fn.stats()) == (1, 0, 1, 0)

    def test_keys_and_invalidations_are_neither_hits_nor_misses(self, store: Cache) -> None:
        @store.cached
        def fn(x: int) -> int:
            return x

        fn(1)
        fn.key(1)
        fn.invalidate(1)
        fn.invalidate(2)
        assert counts(fn.stats()) == (0, 1, 1, 0)
        fn(1)
        assert counts(fn.stats()) == (0, 2, 2, 0)

    def test_what_is_not_stored_is_a_load_all_the_same(self, store: Cache) -> None:
        @store.cached(condition=lambda value: value > 0)
        def fn(x: int) -> int:
            return x

        fn(0)
        fn(0)
        assert counts(fn.stats()) == (0, 2, 2, 0)

    def test_followers_are_misses_without_a_load(self, store: Cache) -> None:
        @store.cached
        async def fn(x: int) -> int:
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            return x

        async def main() -> list[int]:
            return await asyncio.gather(*(fn(1) for _ in range(10)))

        assert asyncio.run(main()) == [1] * 10
        assert counts(fn.stats()) == (0, 10, 1, 0)

    def test_followers_of_a_load_that_raises_are_no_errors_of_their_own(self, store: Cache) -> None:
        @store.cached
        async def fn(x: int) -> int:
            await asyncio.sleep(0)
            raise LookupError

        async def main() -> list[int | BaseException]:
            return await asyncio.gather(*(fn(1) for _ in range(10)), return_exceptions=True)

        assert [type(result) for result in asyncio.run(main())] == [LookupError] * 10
        assert counts(fn.stats()) == (0, 10, 1, 1)

    def test_followers_in_threads(self, store: Cache) -> None:
        asked, go = threading.Semaphore(0), threading.Event()

        @store.cached
        def fn(x: int) -> int:
            go.wait(20)
            return x

        def work(number: int) -> None:
            asked.release()
            assert fn(1) == 1

        def release() -> None:
            for _ in range(8):
                asked.acquire(timeout=20)
            while fn.stats().misses < 8 and not go.wait(0.001):
                pass
            go.set()

        releasing = threading.Thread(target=release)
        releasing.start()
        in_threads(8, work)
        releasing.join()
        assert counts(fn.stats()) == (0, 8, 1, 0)

    def test_what_a_function_counted_stays_in_the_total_when_it_is_gone(self, store: Cache) -> None:
        def use_one_that_goes() -> None:
            @store.cached
            def fn(x: int) -> int:
                return x

            fn(1)
            fn(1)

        use_one_that_goes()
        gc.collect()
        assert counts(store.stats()) == (1, 1, 1, 0)

    def test_a_snapshot_does_not_move(self, store: Cache) -> None:
        @store.cached
        def fn(x: int) -> int:
            return x

        fn(1)
        before = (fn.stats(), store.stats())
        fn(1)
        assert [counts(stats) for stats in before] == [(0, 1, 1, 0)] * 2
        assert before[1].evictions == store.stats().evictions
        assert before[1].evictions is not store.stats().evictions


class Shop:
    """Its methods are decorated in the tests, over the cache of the test."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __cache_key__(self) -> str:
        return self.name


class TestMethods:
    @pytest.fixture
    def shop(self, store: Cache) -> Any:
        class CachedShop(Shop):
            @store.cached
            def price(self, item: int) -> int:
                return item

            @store.cached
            async def stock(self, item: int) -> int:
                return item

            @store.cached
            @classmethod
            def branches(cls, item: int) -> int:
                return item

            @store.cached
            @staticmethod
            def rate(item: int) -> int:
                return item

        return CachedShop

    def test_of_all_instances_together_through_any_of_them(self, shop: Any) -> None:
        a, b = shop("a"), shop("b")
        a.price(1)
        a.price(1)
        b.price(1)
        assert counts(a.price.stats()) == counts(b.price.stats()) == counts(shop.price.stats()) == (1, 2, 2, 0)

    def test_of_every_kind(self, shop: Any, store: Cache) -> None:
        a = shop("a")

        async def main() -> None:
            for _ in range(2):
                await a.stock(1)

        asyncio.run(main())
        for _ in range(2):
            a.branches(1)
            shop.branches(1)
            a.rate(1)
            shop.rate(1)
        assert counts(a.stock.stats()) == (1, 1, 1, 0)
        assert counts(shop.branches.stats()) == counts(a.branches.stats()) == (3, 1, 1, 0)
        assert counts(shop.rate.stats()) == counts(a.rate.stats()) == (3, 1, 1, 0)
        assert counts(store.stats()) == (7, 3, 3, 0)


class TestStores:
    def test_direct_gets_are_counted_and_the_other_methods_are_not(
        self, store: Cache, backend: InMemoryBackend
    ) -> None:
        backend.set("k", None)
        backend.get("k")
        backend.get("nothing")
        backend.get("nothing")
        backend.has("k")
        backend.has("nothing")
        backend.delete("nothing")
        assert counts(backend.stats()) == counts(store.stats()) == (1, 2, 0, 0)

        async def main() -> None:
            await backend.aset("k", 1)
            await backend.aget("k")
            await backend.aget("nothing")
            await backend.ahas("k")

        asyncio.run(main())
        assert counts(backend.stats()) == (2, 3, 0, 0)

    def test_a_copying_backend_counts_alike(self) -> None:
        backend = InMemoryBackend(copy=True)

        @cache_over(backend).cached
        def fn(x: int) -> list[int]:
            return [x]

        for _ in range(3):
            fn(1)
        backend.get(fn.key(1))
        backend.get("nothing")
        assert counts(fn.stats()) == (2, 1, 1, 0)
        assert counts(backend.stats()) == (3, 2, 1, 0)

    def test_a_direct_get_of_a_function_s_entry_is_no_hit_of_the_function(
        self, store: Cache, backend: InMemoryBackend
    ) -> None:
        @store.cached
        def fn(x: int) -> int:
            return x

        fn(1)
        assert backend.get(fn.key(1)) == 1
        assert counts(fn.stats()) == (0, 1, 1, 0)
        assert counts(backend.stats()) == (1, 1, 1, 0)

    def test_size_and_weight_are_what_is_there(self) -> None:
        backend = InMemoryBackend(max_weight=100, weigher=len)

        @cache_over(backend).cached
        def fn(x: str) -> str:
            return x

        fn("abc")
        backend.set("k", "1234567")
        assert (backend.stats().size, backend.stats().weight, len(backend)) == (2, 10, 2)
        backend.clear()
        assert (backend.stats().size, backend.stats().weight, len(backend)) == (0, 0, 0)

    def test_evictions_are_told_by_cause(self, monkeypatch: pytest.MonkeyPatch) -> None:
        clock = Clock()
        backend = InMemoryBackend(max_size=4, max_weight=10, weigher=lambda value: value)
        monkeypatch.setattr("fast_cache.backends.memory.monotonic", clock)
        monkeypatch.setattr(backend.engine_store().held, "_clock", clock)  # type: ignore[attr-defined]

        def causes() -> dict[str, int]:
            return {cause: count for cause, count in backend.stats().evictions.items() if count}

        assert set(backend.stats().evictions) == {"size", "weight", "expired", "deleted", "replaced", "cleared"}
        assert causes() == {}
        for key in "abcde":
            backend.set(key, 1)
        assert causes() == {"size": 1}
        backend.set("heavy", 11)
        backend.set("half", 8)
        assert causes()["weight"] >= 2
        backend.clear()
        assert causes()["cleared"] >= 1
        backend.set("k", 1)
        backend.set("k", 1)
        assert causes()["replaced"] == 1
        backend.delete("k")
        assert causes()["deleted"] == 1
        backend.set("k", 1, expire=1)
        clock.now += 2
        for _ in range(3):
            backend.delete("nothing")
        assert causes()["expired"] == 1
        assert all(type(cause) is str for cause in backend.stats().evictions)

    def test_every_entry_that_came_is_there_or_gone_for_a_cause(self) -> None:
        backend = InMemoryBackend(max_size=10)

        @cache_over(backend).cached
        def fn(x: int) -> int:
            return x

        for x in range(100):
            fn(x % 37)
        stats = backend.stats()
        assert stats.size == len(backend) == 10
        assert stats.loads == stats.size + sum(stats.evictions.values())

    def test_another_backend_starts_at_nothing_and_the_first_keeps_its_counts(self) -> None:
        first, second = InMemoryBackend(), InMemoryBackend()
        cache = cache_over(first)

        @cache.cached
        def fn(x: int) -> int:
            return x

        fn(1)
        fn(1)
        cache.init_app(FastAPI(), second)
        assert counts(cache.stats()) == (0, 0, 0, 0)
        assert cache.stats().load_time_p95 == 0
        fn(1)
        assert counts(first.stats()) == (1, 1, 1, 0)
        assert counts(second.stats()) == counts(cache.stats()) == (0, 1, 1, 0)
        assert counts(fn.stats()) == (1, 2, 2, 0)
        cache.init_app(FastAPI(), first)
        fn(1)
        assert counts(first.stats()) == counts(cache.stats()) == (2, 1, 1, 0)
        assert counts(second.stats()) == (0, 1, 1, 0)

    def test_the_same_backend_once_more_counts_on(self, store: Cache, backend: InMemoryBackend) -> None:
        @store.cached
        def fn(x: int) -> int:
            return x

        fn(1)
        for _ in range(3):
            store.init_app(FastAPI(), backend)
            fn(1)
        assert counts(store.stats()) == counts(backend.stats()) == (3, 1, 1, 0)

    def test_a_function_decorated_after_init_app_counts(self, store: Cache) -> None:
        assert counts(store.stats()) == (0, 0, 0, 0)

        @store.cached
        def late(x: int) -> int:
            return x

        late(1)
        assert counts(store.stats()) == (0, 1, 1, 0)

    def test_two_caches_over_one_backend_are_one_total_there(self) -> None:
        backend = InMemoryBackend()
        one, other = cache_over(backend), cache_over(backend)

        @one.cached
        def first(x: int) -> int:
            return x

        @other.cached
        def second(x: int) -> int:
            return -x

        first(1)
        second(1)
        second(1)
        assert counts(backend.stats()) == (1, 2, 2, 0)

    def test_two_caches_over_one_backend_both_tell_what_it_was_asked(self) -> None:
        backend = InMemoryBackend()
        one, other = cache_over(backend), cache_over(backend)

        @one.cached
        def first(x: int) -> int:
            return x

        @other.cached
        def second(x: int) -> int:
            return -x

        first(1)
        second(1)
        second(1)
        assert counts(one.stats()) == counts(other.stats()) == (1, 2, 2, 0)

    def test_what_a_cache_counted_outlives_it_in_its_backend(self, backend: InMemoryBackend) -> None:
        def use_one_that_goes() -> None:
            @cache_over(backend).cached
            def fn(x: int) -> int:
                return x

            fn(1)
            fn(1)

        use_one_that_goes()
        gc.collect()
        assert counts(backend.stats()) == (1, 1, 1, 0)


class TestRedis:
    def test_hits_misses_and_loads_of_functions(self, redis_url: str) -> None:
        backend = RedisBackend(redis_url, namespace="stats")
        cache = cache_over(backend)

        @cache.cached(expire=60)
        def fn(x: Any) -> int:
            return 1

        try:
            for x in (1, 1, [1], [1], [1]):
                fn(x)
        finally:
            backend.close()
        assert counts(fn.stats()) == counts(cache.stats()) == (3, 2, 2, 0)
        assert fn.stats().load_time_mean >= 0
        assert (cache.stats().size, dict(cache.stats().evictions)) == (0, {})

    def test_async_hits_and_errors(self, redis_url: str) -> None:
        backend = RedisBackend(redis_url, namespace="stats")
        cache = cache_over(backend)

        @cache.cached(expire=60)
        async def fn(x: int) -> int:
            if x < 0:
                raise LookupError
            return x

        async def main() -> None:
            try:
                await fn(1)
                await fn(1)
                with pytest.raises(LookupError):
                    await fn(-1)
            finally:
                await backend.aclose()

        asyncio.run(main())
        assert counts(fn.stats()) == counts(cache.stats()) == (1, 2, 2, 1)

    def test_from_memory_to_redis_the_counts_split(self, redis_url: str) -> None:
        memory, remote = InMemoryBackend(), RedisBackend(redis_url, namespace="stats")
        cache = cache_over(memory)

        @cache.cached(expire=60)
        def fn(x: int) -> int:
            return x

        fn(1)
        fn(1)
        cache.init_app(FastAPI(), remote)
        try:
            fn(1)
            fn(1)
            fn(1)
        finally:
            remote.close()
        assert counts(memory.stats()) == (1, 1, 1, 0)
        assert counts(cache.stats()) == (2, 1, 1, 0)
        assert counts(fn.stats()) == (3, 2, 2, 0)

    def test_reads_by_hand_are_counted(self, redis_url: str) -> None:
        backend = RedisBackend(redis_url, namespace="stats")
        backend.set("here", None)
        with contextlib.closing(backend):
            assert [backend.get("here", 1), backend.get("absent", 1)] == [None, 1]
            assert counts(backend.stats()) == (1, 1, 0, 0)


def test_a_backend_of_ten_methods_counts_what_functions_ask(tmp_path: Path) -> None:
    with contextlib.closing(SQLiteBackend(tmp_path / "cache.db")) as backend:
        cache = cache_over(backend)

        @cache.cached
        def fn(x: int) -> int:
            return x

        for x in (1, 1, 2):
            fn(x)
        assert counts(backend.stats()) == counts(cache.stats()) == (1, 2, 2, 0)
