"""What an attacker found in the engine: each test is one break that was possible once."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import copy
import gc
import os
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from sqlalchemy import create_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from examples.sqlite_backend import SQLiteBackend
from fast_cache import Cache, CacheBackend, InMemoryBackend, RedisBackend
from fast_cache.durations import Duration
from fast_cache.errors import ConfigurationError


def cache_over(backend: CacheBackend | None = None) -> Cache:
    cache = Cache()
    cache.init_app(FastAPI(), backend)
    return cache


def in_threads(*calls: Callable[[], Any]) -> list[Any]:
    results: list[Any] = [None] * len(calls)

    def run(number: int) -> None:
        results[number] = calls[number]()

    threads = [threading.Thread(target=run, args=(number,)) for number in range(len(calls))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
        assert not thread.is_alive(), "a caller hangs"
    return results


async def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.001)


def test_what_can_be_read_once_is_not_shared_with_followers() -> None:
    cache = cache_over()
    began, go = threading.Event(), threading.Event()

    @cache.cached
    def rows() -> Iterator[int]:
        if not began.is_set():
            began.set()
            assert go.wait(20)
        return iter([1, 2, 3])

    def follower() -> list[int]:
        assert began.wait(20)
        return list(rows())

    def release() -> None:
        flights = cache.get_cache().engine_store().flights
        assert began.wait(20)
        asyncio.run(until(lambda: sum(flights.waiting(key) for key in list(flights._table)) == 2))
        go.set()

    *lists, _ = in_threads(lambda: list(rows()), follower, follower, release)
    assert lists == [[1, 2, 3]] * 3


@pytest.mark.parametrize("kind", ["refused by the condition", "not encodable", "invalidated here as well"])
def test_who_comes_after_an_invalidation_elsewhere_never_gets_an_unstored_value_from_before(
    redis_url: str, kind: str
) -> None:
    async def main() -> None:
        here = RedisBackend(redis_url, namespace="attack")
        elsewhere = RedisBackend(redis_url, namespace="attack")
        cache = cache_over(here)
        source = ["old"]
        began, go = asyncio.Event(), asyncio.Event()

        class Odd(str):
            __slots__ = ()

        @cache.cached(condition=(lambda value: False) if kind == "refused by the condition" else None)
        async def load() -> str:
            value = source[0]
            began.set()
            await go.wait()
            return Odd(value) if kind == "not encodable" else value

        leader = asyncio.create_task(load())
        await began.wait()
        source[0] = "new"
        await elsewhere.adelete(load.key())
        late = asyncio.create_task(load())
        await until(lambda: here.engine_store().flights.waiting(load.key()) == 1)
        if kind == "invalidated here as well":
            await load.invalidate()
        go.set()
        assert await leader == "old"
        assert await late == "new"

    asyncio.run(main())


class SlowSet(CacheBackend):
    """Ten methods over a dict, whose ``aset`` can be held up before it acts."""

    def __init__(self) -> None:
        self.held: dict[str, Any] = {}
        self.entered = asyncio.Event()
        self.go = asyncio.Event()
        self.slow: Any = None

    def get(self, key: str, default: Any = None) -> Any:
        return self.held.get(key, default)

    def set(self, key: str, value: Any, expire: Duration | None = None) -> None:
        self.held[key] = value

    def delete(self, key: str) -> bool:
        return self.held.pop(key, None) is not None

    def clear(self) -> None:
        self.held.clear()

    def has(self, key: str) -> bool:
        return key in self.held

    async def aget(self, key: str, default: Any = None) -> Any:
        return self.held.get(key, default)

    async def aset(self, key: str, value: Any, expire: Duration | None = None) -> None:
        if value is self.slow:
            self.entered.set()
            await self.go.wait()
        self.held[key] = value

    async def adelete(self, key: str) -> bool:
        return self.held.pop(key, None) is not None

    async def aclear(self) -> None:
        self.held.clear()

    async def ahas(self, key: str) -> bool:
        return key in self.held


def test_a_load_that_began_during_a_slow_set_does_not_overwrite_it() -> None:
    async def main() -> None:
        backend = SlowSet()
        cache = cache_over(backend)
        loading, finish = asyncio.Event(), asyncio.Event()

        @cache.cached
        async def load() -> str:
            loading.set()
            await finish.wait()
            return "loaded before the set completed"

        backend.slow = b"user's"
        setting = asyncio.create_task(backend.aset(load.key(), b"user's"))
        await backend.entered.wait()
        caller = asyncio.create_task(load())
        await loading.wait()
        backend.go.set()
        await setting
        finish.set()
        await caller
        assert backend.get(load.key()) == b"user's"

    asyncio.run(main())


@pytest.mark.parametrize("store", ["copying memory", "redis"])
def test_those_who_share_a_load_do_not_see_what_another_does_to_the_value(store: str, redis_url: str) -> None:
    backend = InMemoryBackend(copy=True) if store == "copying memory" else RedisBackend(redis_url, namespace="attack")
    cache = cache_over(backend)
    flights = backend.engine_store().flights

    async def main() -> list[dict[str, str]]:
        @cache.cached
        async def page() -> dict[str, str]:
            await until(lambda: sum(flights.waiting(key) for key in list(flights._table)) == 2)
            return {}

        async def request(user: str) -> dict[str, str]:
            value = await page()
            value["seen by"] = value.get("seen by", "") + user
            return value

        return list(await asyncio.gather(request("ada"), request("bob"), request("cy")))

    assert [value["seen by"] for value in asyncio.run(main())] == ["ada", "bob", "cy"]


class Base(DeclarativeBase):
    pass


class Row(Base):
    __tablename__ = "rows"
    id: Mapped[int] = mapped_column(primary_key=True)


@pytest.mark.parametrize("wrapped", [False, True])
def test_rows_of_an_open_session_are_not_kept_and_those_of_a_closed_one_are(wrapped: bool) -> None:
    engine = create_engine("sqlite://")
    Base.metadata.create_all(engine)
    cache = cache_over()
    with Session(engine, expire_on_commit=False) as session:
        session.add(Row(id=1))
        session.commit()

        @cache.cached
        def attached() -> Any:
            row = session.get(Row, 1)
            return [row] if wrapped else row

        attached()
        assert cache.stats().size == 0
        rows = attached()
    engine.dispose()

    @cache.cached
    def detached() -> Any:
        return rows

    detached()
    assert cache.stats().size == 1


def test_a_result_that_can_not_be_looked_at_leaves_nobody_waiting() -> None:
    cache = cache_over()

    class Proxy:
        @property
        def __class__(self) -> Any:
            raise RuntimeError("not bound")

        @__class__.setter
        def __class__(self, value: Any) -> None: ...

    @cache.cached
    def load() -> Any:
        return Proxy()

    for _ in range(2):
        in_threads(load)


def test_a_condition_that_is_interrupted_leaves_nobody_waiting() -> None:
    cache = cache_over()
    interruptions = [KeyboardInterrupt()]

    def condition(value: int) -> bool:
        if interruptions:
            raise interruptions.pop()
        return True

    @cache.cached(condition=condition)
    def load() -> int:
        return 1

    with pytest.raises(KeyboardInterrupt):
        load()
    assert in_threads(load) == [1]


def test_a_dropped_value_may_ask_the_cache() -> None:
    backend = InMemoryBackend()
    deleted = []

    class Value:
        def __del__(self) -> None:
            deleted.append(backend.delete("other"))

    def use() -> None:
        backend.set("key", Value())
        backend.set("other", 1)
        backend.set("key", 2)

    in_threads(use)
    assert deleted == [True]
    assert not backend.has("other")


def test_a_leader_whose_loop_was_closed_is_succeeded() -> None:
    cache = cache_over()
    loads = []

    @cache.cached
    async def load() -> int:
        loads.append(1)
        if len(loads) == 1:
            await asyncio.Event().wait()
        return len(loads)

    loop = asyncio.new_event_loop()
    task = loop.create_task(load())
    loop.run_until_complete(asyncio.sleep(0))
    loop.run_until_complete(asyncio.sleep(0))
    assert loads == [1]
    task._log_destroy_pending = False  # type: ignore[attr-defined]  # nobody will ever finish it, which is the point
    loop.close()
    assert in_threads(lambda: asyncio.run(load())) == [2]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_a_forked_child_does_not_wait_for_loads_of_its_parent() -> None:
    cache = cache_over()
    began, go = threading.Event(), threading.Event()

    @cache.cached
    def load() -> int:
        if threading.current_thread() is not threading.main_thread():
            began.set()
            assert go.wait(20)
        return 1

    thread = threading.Thread(target=load)
    thread.start()
    assert began.wait(20)
    child = os.fork()
    if child == 0:
        os._exit(0 if load() == 1 else 1)
    deadline = time.monotonic() + 20
    while (done := os.waitpid(child, os.WNOHANG)) == (0, 0) and time.monotonic() < deadline:
        time.sleep(0.01)
    if done == (0, 0):
        os.kill(child, 9)
        os.waitpid(child, 0)
    go.set()
    thread.join(20)
    assert done == (child, 0)


def test_a_stored_value_that_can_no_longer_be_copied_is_a_miss() -> None:
    cache = cache_over(InMemoryBackend(copy=True))

    class Once:
        copied = False

        def __deepcopy__(self, memo: Any) -> Once:
            if self.copied:
                raise copy.Error("only once")
            twin = Once()
            twin.copied = True
            return twin

    @cache.cached
    def load() -> Once:
        return Once()

    assert isinstance(load(), Once)
    assert isinstance(load(), Once)


class Held:
    """Something that a function's frame refers to."""


@contextlib.contextmanager
def without_the_collector() -> Iterator[None]:
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


@pytest.mark.parametrize("refreshing", [False, True])
def test_an_error_leaves_no_cycle_of_references(refreshing: bool) -> None:
    cache = cache_over()
    seen: list[weakref.ref[Held]] = []

    @cache.cached
    def load() -> None:
        held = Held()
        seen.append(weakref.ref(held))
        raise ValueError

    with without_the_collector():
        for _ in range(3):
            with contextlib.suppress(ValueError):
                load.refresh() if refreshing else load()
        assert [reference() for reference in seen] == [None] * 3


@pytest.mark.parametrize("refreshing", [False, True])
@pytest.mark.parametrize("local", [False, True])
def test_an_error_of_an_async_function_leaves_no_cycle_of_references(
    tmp_path: Path, refreshing: bool, local: bool
) -> None:
    backend: CacheBackend = InMemoryBackend() if local else SQLiteBackend(tmp_path / "cache.db")
    cache = cache_over(backend)
    seen: list[weakref.ref[Held]] = []

    @cache.cached
    async def load() -> None:
        held = Held()
        seen.append(weakref.ref(held))
        raise ValueError

    async def main() -> None:
        for _ in range(3):
            with contextlib.suppress(ValueError):
                await (load.refresh() if refreshing else load())
        assert [reference() for reference in seen] == [None] * 3

    with contextlib.closing(backend), without_the_collector():
        asyncio.run(main())


def test_an_error_of_a_load_in_the_background_leaves_no_cycle_of_references() -> None:
    cache = cache_over()
    seen: list[weakref.ref[Held]] = []

    def load() -> None:
        held = Held()
        seen.append(weakref.ref(held))
        raise ValueError

    async def aload() -> None:
        load()

    blocking = cache.cached(expire=60, hard_timeout=20)(load)
    suspending = cache.cached(expire=60, hard_timeout=20)(aload)

    async def main() -> None:
        for _ in range(2):
            with contextlib.suppress(ValueError):
                await suspending()
            with contextlib.suppress(ValueError):
                await asyncio.to_thread(blocking)
        assert len(seen) == 4
        await until(lambda: [reference() for reference in seen] == [None] * 4)  # when threads and tasks have ended

    with without_the_collector():
        asyncio.run(main())


def test_what_a_load_starts_does_not_keep_its_value() -> None:
    cache = cache_over()
    contexts = []

    class Value:
        pass

    @cache.cached
    def load() -> Value:
        contexts.append(contextvars.copy_context())
        return Value()

    value = weakref.ref(load())
    load.invalidate()
    gc.collect()
    assert contexts
    assert value() is None


def test_closures_of_one_factory_that_live_side_by_side_are_kept_apart() -> None:
    cache = cache_over()

    def make(table: dict[int, str]) -> Callable[[int], str]:
        @cache.cached
        def read(number: int) -> str:
            return table[number]

        return read

    users, orders = make({1: "user"}), make({1: "order"})
    assert [users(1), orders(1), users(1), orders(1)] == ["user", "order", "user", "order"]


def test_a_closure_whose_twin_is_gone_has_its_keys() -> None:
    cache = Cache()

    def make(table: dict[int, str]) -> Any:
        def read(number: int) -> str:
            return table[number]

        return cache.cached(read)

    key = make({1: "a"}).key(1)
    gc.collect()
    assert make({1: "b"}).key(1) == key


def test_text_is_not_read_as_another_duration_than_it_says() -> None:
    cache = Cache()
    for text in ("1 0 m", "1 30", "m", "1 m s"):
        with pytest.raises(ConfigurationError):
            cache.cached(expire=text)
    cache.cached(expire=" 1h 30m ")


def test_an_endless_number_is_refused_in_words() -> None:
    with pytest.raises(ConfigurationError, match="century"):
        Cache().cached(expire=10**5000)
