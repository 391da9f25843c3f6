"""What an attacker found in the stores, their keys and the bindings: each test is one break that was possible once."""

from __future__ import annotations

import gc
import os
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
import redis
from fastapi import FastAPI

from fast_cache import Cache, CacheBackend, InMemoryBackend, RedisBackend
from fast_cache.backends import ten_methods
from fast_cache.backends.redis.layout import Layout
from fast_cache.backends.redis.store import RedisStore
from fast_cache.backends.ten_methods import TenMethodStore
from fast_cache.keys import slots
from fast_cache.keys.slots import Shape, address_of
from tests.support.redis_server import RedisServer

forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
unwarned = pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")


def cache_over(backend: CacheBackend) -> Cache:
    cache = Cache()
    cache.init_app(FastAPI(), backend)
    return cache


def ten(backend: CacheBackend) -> TenMethodStore:
    store = backend.engine_store()
    assert isinstance(store, TenMethodStore)
    return store


def layout_of(backend: CacheBackend) -> Layout:
    store = backend.engine_store()
    assert isinstance(store, RedisStore)
    return store._layout


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now = 1e9

    def __call__(self) -> float:
        return self.now


class Plain(CacheBackend):
    """The ten methods over a dictionary."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self.entries: dict[str, tuple[Any, float | None]] = {}

    def lifetime(self, expire: Any) -> float | None:
        """What the backend makes of a lifetime."""
        return None if expire is None else float(expire)

    def get(self, key: str, default: Any = None) -> Any:
        value, end = self.entries.get(key, (default, None))
        return value if end is None or self.clock() < end else default

    async def aget(self, key: str, default: Any = None) -> Any:
        return self.get(key, default)

    def set(self, key: str, value: Any, expire: Any = None) -> None:
        seconds = self.lifetime(expire)
        self.entries[key] = value, None if seconds is None else self.clock() + seconds

    async def aset(self, key: str, value: Any, expire: Any = None) -> None:
        self.set(key, value, expire)

    def delete(self, key: str) -> bool:
        return self.entries.pop(key, None) is not None

    async def adelete(self, key: str) -> bool:
        return self.delete(key)

    def clear(self) -> None:
        self.entries.clear()

    async def aclear(self) -> None:
        self.clear()

    def has(self, key: str) -> bool:
        return self.get(key) is not None

    async def ahas(self, key: str) -> bool:
        return self.has(key)


class InWholeSeconds(Plain):
    """It cuts fractions off, and 0 stands for never, as in memcached."""

    def lifetime(self, expire: Any) -> float | None:
        return int(expire or 0) or None


class FromOneSecond(Plain):
    """It refuses less than a second."""

    def lifetime(self, expire: Any) -> float | None:
        if expire is not None and expire < 1:
            raise ValueError("at least 1")
        return super().lifetime(expire)


class WithoutSigns(Plain):
    """It takes no keys with a certain character."""

    def set(self, key: str, value: Any, expire: Any = None) -> None:
        if "#" in key:
            raise ValueError("no such keys")
        super().set(key, value, expire)


def in_a_child(step: Callable[[], bool]) -> bool:
    """What ``step`` returns in a forked child; False if it raises or hangs."""
    child = os.fork()
    if child == 0:
        result: list[bool] = []
        try:
            thread = threading.Thread(target=lambda: result.append(step()), daemon=True)
            thread.start()
            thread.join(20)
        finally:
            os._exit(0 if result == [True] else 1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


class TestCountsInRedis:
    @pytest.fixture
    def plain(self, redis_url: str) -> Any:
        with redis.Redis.from_url(redis_url) as client:
            yield client

    @pytest.fixture
    def cache(self, redis_url: str) -> Any:
        backend = RedisBackend(redis_url, namespace="counts")
        yield cache_over(backend)
        backend.close()

    def test_a_count_ends_with_its_value(self, cache: Cache, plain: Any) -> None:
        @cache.cached(expire=50, hits=3)
        def found(x: int) -> int:
            return x

        found(1)
        found(1)
        (value,), (count,) = plain.keys("counts:v:*"), plain.keys("counts:h:*")
        assert 0 < plain.pttl(count) <= plain.pttl(value) + 1000 <= 51_000

    def test_what_is_not_there_is_not_counted(self, cache: Cache, plain: Any) -> None:
        @cache.cached(expire=50, hits=3, condition=lambda value: False)
        def never(x: int) -> int:
            return x

        never(1)
        never(1)
        assert plain.keys("counts:h:*") == []

    @pytest.mark.parametrize("change", ["set", "delete", "write"])
    def test_another_value_is_counted_anew(self, cache: Cache, plain: Any, change: str) -> None:
        @cache.cached(expire=50, hits=2)
        def found(x: int) -> Any:
            return "loaded"

        found(1)
        found(1)
        assert len(plain.keys("counts:h:*")) == 1
        backend = cache.get_cache()
        if change == "set":
            backend.set(found.key(1), "by hand", 50)
        else:
            backend.delete(found.key(1))
        if change == "write":
            assert cache.get_or_set(found.key(1), lambda: "by hand", 50) == "by hand"
        assert plain.keys("counts:h:*") == []
        assert found(1) == ("loaded" if change == "delete" else "by hand")

    def test_a_write_that_is_fenced_off_leaves_the_count_of_another_value(
        self, cache: Cache, plain: Any, redis_url: str
    ) -> None:
        backend, others = cache.get_cache(), RedisBackend(redis_url, namespace="counts")

        @cache.cached(expire=50, hits=5)
        def found(x: int) -> Any:
            others.set(found.key(1), "by hand", 50)
            plain.set(count, 2)  # and it was found
            return "loaded"

        count = layout_of(backend).counter_key(found.key(1))
        assert found(1) == "loaded"
        assert others.get(found.key(1)) == "by hand"
        assert plain.get(count) == b"2"
        others.close()

    @pytest.mark.parametrize("rubbish", ["a list", "no number", "too large", "below zero"])
    def test_rubbish_in_the_place_of_a_count_is_replaced(self, cache: Cache, plain: Any, rubbish: str) -> None:
        loads = []

        @cache.cached(expire=50, hits=3)
        def found(x: int) -> int:
            loads.append(x)
            return x

        found(1)
        found(1)
        (count,) = plain.keys("counts:h:*")
        plain.delete(count)
        if rubbish == "a list":
            plain.lpush(count, 1)
        else:
            plain.set(count, {"no number": "abc", "too large": 2**63 - 1, "below zero": -1000}[rubbish])
        assert [found(1) for _ in range(3)] == [1, 1, 1]
        assert len(loads) == 1
        assert plain.get(count) == b"3"
        assert cache.get_cache().engine_store().health.failures == 0
        found(1)
        assert len(loads) == 2

    def test_what_can_not_be_counted_is_served(self, own_redis: RedisServer) -> None:
        backend = RedisBackend(own_redis.url, namespace="counts")
        cache = cache_over(backend)
        loads = []

        @cache.cached(expire=50, hits=3)
        def found(x: int) -> int:
            loads.append(x)
            return x

        found(1)
        with redis.Redis.from_url(own_redis.url) as plain:
            plain.config_set("maxmemory", 1)  # nothing is evicted, and nothing more is taken in
        assert [found(1), found(1)] == [1, 1]
        assert len(loads) == 1
        assert backend.engine_store().health.failures == 0, "it is no outage"
        backend.close()

    def test_a_value_and_its_count_share_a_slot(self) -> None:
        from redis.crc import key_slot

        layout = layout_of(RedisBackend("redis://127.0.0.1:1", namespace="a{b}c"))
        assert key_slot(layout.value_key("a}b")) == key_slot(layout.counter_key("a}b"))


class TestTenMethods:
    def test_counts_are_bounded(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(ten_methods, "_COUNTED", 10)
        backend = Plain()
        cache = cache_over(backend)

        @cache.cached(expire=50, hits=3)
        def found(x: int) -> int:
            return x

        for number in range(50):
            found(number)
        assert len(ten(backend)._counts) <= 10

    def test_a_value_set_by_hand_is_counted_anew(self) -> None:
        backend = Plain()
        cache = cache_over(backend)

        @cache.cached(expire=50, hits=2)
        def found(x: int) -> str:
            return "loaded"

        for _ in range(3):
            found(1)
        stored = backend.entries[found.key(1)][0]
        backend.set(found.key(1), stored, 50)  # as another process of ours would
        assert ten(backend)._counts == {}

    @pytest.mark.parametrize("kind", [Plain, InWholeSeconds, FromOneSecond])
    def test_a_refresh_ahead_within_the_first_second_comes_in_time(
        self, kind: type[Plain], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        clock = Clock()
        monkeypatch.setattr(ten_methods, "time", clock)
        backend = kind(clock)
        cache = cache_over(backend)
        loaded = threading.Semaphore(0)

        @cache.cached(expire=60, refresh_ahead=59.5)
        def found(x: int) -> int:
            loaded.release()
            return x

        assert found(1) == 1
        assert loaded.acquire(timeout=20)
        clock.now += 0.25
        assert found(1) == 1
        assert not loaded.acquire(timeout=0.05), "it is not due"
        clock.now += 0.5
        assert found(1) == 1
        assert loaded.acquire(timeout=20), "it is due"

    @pytest.mark.parametrize("kind", [Plain, InWholeSeconds, FromOneSecond])
    def test_what_is_fresh_for_less_than_a_second_is_stale_afterwards(
        self, kind: type[Plain], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        clock = Clock()
        monkeypatch.setattr(ten_methods, "time", clock)
        cache = cache_over(kind(clock))
        loads = []

        @cache.cached(expire=0.5, stale_if_error=60)
        def found(x: int) -> int:
            loads.append(x)
            return x

        found(1)
        found(1)
        assert len(loads) == 1
        clock.now += 0.75
        found(1)
        assert len(loads) == 2

    def test_a_value_is_stored_though_its_signs_are_not(self) -> None:
        backend = WithoutSigns()
        cache = cache_over(backend)

        @cache.cached(expire=60, stale_if_error=60)
        def found(x: int) -> int:
            if failing:
                raise LookupError
            return x

        failing = False
        assert found(1) == 1
        failing = True
        assert found(1) == 1, "it looks stale, and is there"
        health = backend.engine_store().health
        assert health.failing
        assert health.failures == 2, "one for each sign"

    @pytest.mark.parametrize("sign", [b"", b"soon", b"nan", "1", 1, b"\xff"])
    def test_a_strange_sign_says_nothing(self, sign: Any) -> None:
        backend = Plain()
        cache = cache_over(backend)
        loads = []

        @cache.cached(expire=60, stale_if_error=60)
        def found(x: int) -> int:
            loads.append(x)
            return x

        found(1)
        for key in list(backend.entries):
            if "#fresh" in key:
                backend.entries[key] = sign, None
        assert found(1) == 1
        assert len(loads) == 2

    @forks
    @unwarned
    def test_a_forked_child_stores_what_its_parent_was_about_to_store(self) -> None:
        began, go = threading.Event(), threading.Event()

        class Slow(Plain):
            def set(self, key: str, value: Any, expire: Any = None) -> None:
                if threading.current_thread().name == "slow":
                    began.set()
                    go.wait(20)
                super().set(key, value, expire)

        backend = Slow()
        cache = cache_over(backend)
        loads = []

        @cache.cached(expire=60)
        def found(x: int) -> int:
            loads.append(x)
            return x

        writer = threading.Thread(target=found, args=(1,), name="slow")
        writer.start()
        assert began.wait(20)

        def thrice() -> bool:
            loads.clear()
            return [found(1) for _ in range(3)] == [1, 1, 1] and len(loads) == 1

        try:
            assert in_a_child(thrice)
        finally:
            go.set()
            writer.join()
        assert found(1) == 1
        assert len(loads) == 1

    @forks
    @unwarned
    def test_a_forked_child_counts_though_its_parent_did(self) -> None:
        backend = Plain()
        cache = cache_over(backend)

        @cache.cached(expire=60, hits=3)
        def found(x: int) -> int:
            return x

        found(1)
        with ten(backend)._counting:
            assert in_a_child(lambda: found(1) == 1)


class TestForkedBindings:
    @forks
    @unwarned
    def test_contexts_of_other_threads_end_with_them(self) -> None:
        cache = cache_over(InMemoryBackend())

        @cache.cached(expire=60)
        def found(x: int) -> int:
            return x

        found(1)
        opened, go = threading.Event(), threading.Event()

        def watch() -> None:
            with cache.detect():
                opened.set()
                go.wait(20)

        watcher = threading.Thread(target=watch)
        watcher.start()
        assert opened.wait(20)
        binding = cache._binding
        try:
            assert in_a_child(lambda: not binding.is_watched and binding.texts is binding.store.texts)
            assert binding.is_watched
            with cache.detect() as log:
                assert in_a_child(lambda: binding.is_watched and len(binding._watchers) == 1)
                found(1)
            assert [detection.source for detection in log] == ["memory"]
        finally:
            go.set()
            watcher.join()
        assert not binding.is_watched

    @forks
    @unwarned
    def test_the_context_of_the_thread_that_forks_ends_in_the_child_as_well(self) -> None:
        cache = cache_over(InMemoryBackend())
        binding = cache._binding
        child = -1
        with cache.detect():
            child = os.fork()
        if child == 0:
            os._exit(1 if binding.is_watched else 0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert not binding.is_watched

    @forks
    @unwarned
    def test_a_child_waits_for_no_lock_of_its_parent(self) -> None:
        cache = cache_over(InMemoryBackend())
        held, go = threading.Event(), threading.Event()

        def hold() -> None:
            with cache._binding._lock, slots._registering:
                held.set()
                go.wait(20)

        holder = threading.Thread(target=hold)
        holder.start()
        assert held.wait(20)

        def decorate() -> bool:
            @cache.cached(expire=60)
            def found(x: int) -> int:
                return x

            with cache.detect():
                return found(1) == 1

        try:
            assert in_a_child(decorate)
        finally:
            go.set()
            holder.join()


class TestShapes:
    def test_a_prefix_ends_with_the_last_of_its_functions(self) -> None:
        cache = cache_over(InMemoryBackend())
        gc.collect()
        before = len(slots._prefixes)

        def decorate(number: int) -> Any:
            @cache.cached(expire=60, namespace=f"n{number}")
            def found(x: int) -> int:
                return x + number

            found(1)
            return found

        functions = [decorate(number) for number in range(20)]
        assert len(slots._prefixes) == before + 20
        assert cache.get_cache().get(functions[3].key(1)) == 4
        functions.clear()
        cache.get_cache().clear()
        gc.collect()
        assert len(slots._prefixes) == before

    @pytest.mark.parametrize("of_classes", [False, True])
    def test_a_key_is_read_by_the_shapes_that_begin_as_it_does(
        self, of_classes: bool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        types = {"x": slots.RAW}
        after = None if of_classes else ")"
        shapes = [
            Shape.of("many:1:", types, slots.Owner(f"self=module.Class{number}(!", after)) for number in range(300)
        ]
        asked = []
        parse = Shape.parse

        def parsed(self: Shape, text: str) -> Any:
            asked.append(self)
            return parse(self, text)

        monkeypatch.setattr(Shape, "parse", parsed)
        for shape in shapes:
            slot = shape.slot((1,) if of_classes else (2, 1))
            assert slot is not None
            asked.clear()
            assert address_of(shape.text(slot)) == slot
            assert asked == [shape]
        asked.clear()
        text = "many:1:self=module.Class300(!2),x=1"
        assert address_of(text) == text
        assert asked == []

    def test_shapes_that_begin_alike_are_told_apart(self) -> None:
        raw = Shape.of("alike:1:", {"x": slots.RAW})
        flag = Shape.of("alike:1:", {"x": slots.FLAG})
        more = Shape.of("alike:1:", {"x": slots.RAW, "y": slots.RAW})
        none = Shape.of("alike:1:", {})
        for shape, values in ((raw, (1,)), (flag, (True,)), (more, (1, 2)), (none, ())):
            slot = shape.slot(values)
            assert slot is not None
            assert address_of(shape.text(slot)) == slot
        slot = raw.slot((1,))
        assert slot is not None
        text = raw.text(slot)
        del raw
        gc.collect()
        assert address_of(text) == text
