"""One load for many callers: who is cancelled, who fails, who calls itself, and how many connections it takes."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import threading
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import redis
from fastapi import FastAPI

from fast_cache import Cache, CacheBackend, InMemoryBackend, RedisBackend
from fast_cache.testing import PATIENCE, Flavour, Gate, Store, Suspending, in_both_flavours, only_suspending

BACKENDS = pytest.mark.parametrize("kind", ["memory", "redis"])


def make_backend(kind: str, redis_url: str) -> CacheBackend:
    return RedisBackend(redis_url, namespace="traps") if kind == "redis" else InMemoryBackend()


@pytest.fixture
def raw(redis_url: str) -> Iterator[Any]:
    with contextlib.closing(redis.Redis.from_url(redis_url)) as client:
        yield client


def failures(store: Store) -> int:
    """How many steps of the store have failed."""
    return store.backend.engine_store().health.failures


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


async def begun(flavour: Flavour, loads: list[Any], count: int) -> None:
    """Wait until this many loads have begun."""

    async def have_begun() -> bool:
        return len(loads) >= count

    await flavour.until(have_begun, f"{count} loads have begun")


@BACKENDS
@only_suspending
async def test_a_cancelled_leader_hands_over_to_one_follower_with_its_own_resources(
    flavour: Flavour, redis_url: str, kind: str
) -> None:
    store = flavour.use(make_backend(kind, redis_url))
    go = flavour.gate()
    loads: list[str] = []

    class Session:
        """Closed by the request that opened it, also where that request is cancelled."""

        def __init__(self, name: str) -> None:
            self.name = name
            self.is_open = True

    @store.cached(key="user:{user}")
    async def load(user: int, session: Session) -> str:
        loads.append(session.name)
        await go.passed()
        assert session.is_open
        return session.name

    async def request(name: str) -> str:
        session = Session(name)
        try:
            return str(await load(1, session))
        finally:
            session.is_open = False

    leader = flavour.start(request, "leader")
    await begun(flavour, loads, 1)
    followers = [flavour.start(request, f"follower {number}") for number in range(20)]
    await store.followed(load.key(1, None), 20)
    leader.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leader.result()
    await begun(flavour, loads, 2)
    go.open()
    assert len(loads) == 2
    assert loads[1].startswith("follower")
    assert [await follower.result() for follower in followers] == [loads[1]] * 20


@BACKENDS
@only_suspending
async def test_leaders_that_are_cancelled_one_after_the_other_hand_over_each_time(
    flavour: Flavour, redis_url: str, kind: str
) -> None:
    store = flavour.use(make_backend(kind, redis_url))
    go = flavour.gate()
    loads: list[int] = []

    @store.cached(key="item")
    async def load(caller: int) -> int:
        loads.append(caller)
        await go.passed()
        return caller

    callers = [flavour.start(load, number) for number in range(10)]
    await store.followed(load.key(0), 9)
    for number in range(9):
        await begun(flavour, loads, number + 1)
        callers[loads[-1]].cancel()
    await begun(flavour, loads, 10)
    go.open()
    survivor = loads[-1]
    assert sorted(loads) == list(range(10))
    assert await callers[survivor].result() == survivor
    for number in set(range(10)) - {survivor}:
        with pytest.raises(asyncio.CancelledError):
            await callers[number].result()
    assert await flavour.call(load, 99) == survivor


@BACKENDS
@only_suspending
async def test_a_cancelled_follower_harms_neither_leader_nor_followers(
    flavour: Flavour, redis_url: str, kind: str
) -> None:
    store = flavour.use(make_backend(kind, redis_url))
    go = flavour.gate()
    loads: list[None] = []

    @store.cached()
    async def load() -> str:
        loads.append(None)
        await go.passed()
        return "value"

    leader = flavour.start(load)
    await begun(flavour, loads, 1)
    followers = [flavour.start(load) for _ in range(10)]
    await store.followed(load.key(), 10)
    for follower in followers[::2]:
        follower.cancel()
    for follower in followers[::2]:
        with pytest.raises(asyncio.CancelledError):
            await follower.result()
    go.open()
    assert await leader.result() == "value"
    assert [await follower.result() for follower in followers[1::2]] == ["value"] * 5
    assert len(loads) == 1


class Stepwise(CacheBackend):
    """Ten methods over a dict; the first awaiting call of a step that has a gate stops there, if it is a leader's."""

    def __init__(self) -> None:
        self.entries: dict[str, Any] = {}
        self.gates: dict[str, Gate] = {}
        self.waiting: list[str] = []

    def get(self, key: str, default: Any = None) -> Any:
        return self.entries.get(key, default)

    def set(self, key: str, value: Any, expire: Any = None) -> None:
        self.entries[key] = value

    def delete(self, key: str) -> bool:
        return self.entries.pop(key, None) is not None

    def clear(self) -> None:
        self.entries.clear()

    def has(self, key: str) -> bool:
        return key in self.entries

    async def aget(self, key: str, default: Any = None) -> Any:
        await self._stop("get")
        return self.get(key, default)

    async def aset(self, key: str, value: Any, expire: Any = None) -> None:
        await self._stop("set")
        self.set(key, value)

    async def adelete(self, key: str) -> bool:
        return self.delete(key)

    async def aclear(self) -> None:
        self.clear()

    async def ahas(self, key: str) -> bool:
        return self.has(key)

    async def _stop(self, step: str) -> None:
        if step in self.gates and len(self.engine_store().flights) > 0:
            self.waiting.append(step)
            await self.gates.pop(step).passed()


@only_suspending
async def test_a_leader_cancelled_while_it_looks_into_the_store_hands_over(flavour: Flavour) -> None:
    backend = Stepwise()
    store = flavour.use(backend)
    backend.gates["get"] = flavour.gate()
    loads: list[str] = []

    @store.cached(key="item")
    async def load(caller: str) -> str:
        loads.append(caller)
        return caller

    leader = flavour.start(load, "leader")
    await begun(flavour, backend.waiting, 1)
    followers = [flavour.start(load, f"follower {number}") for number in range(3)]
    await store.followed(load.key(""), 3)
    leader.cancel()
    results = [await follower.result() for follower in followers]
    assert len(loads) == 1
    assert results == loads * 3
    with pytest.raises(asyncio.CancelledError):
        await leader.result()


@only_suspending
async def test_a_leader_cancelled_while_its_result_is_written_still_leaves_it_to_everyone(flavour: Flavour) -> None:
    backend = Stepwise()
    store = flavour.use(backend)
    gate = backend.gates["set"] = flavour.gate()
    loads: list[str] = []

    @store.cached(key="item")
    async def load(caller: str) -> str:
        loads.append(caller)
        return caller

    leader = flavour.start(load, "leader")
    await begun(flavour, backend.waiting, 1)
    followers = [flavour.start(load, f"follower {number}") for number in range(3)]
    await store.followed(load.key(""), 3)
    leader.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leader.result()
    gate.open()
    assert [await follower.result() for follower in followers] == ["leader"] * 3
    assert await flavour.call(load, "late") == "leader"
    assert loads == ["leader"]


@BACKENDS
@in_both_flavours
async def test_a_load_that_raises_raises_for_everyone_is_not_stored_and_is_tried_again(
    flavour: Flavour, redis_url: str, kind: str
) -> None:
    store = flavour.use(make_backend(kind, redis_url))
    go = flavour.gate()
    loads: list[Exception] = []

    class NotNowError(Exception):
        pass

    @store.cached()
    async def load() -> str:
        if len(loads) < 2:
            loads.append(NotNowError("try again"))
            await go.passed()
            raise loads[-1]
        return "value"

    callers = [flavour.start(load) for _ in range(10)]
    await store.followed(load.key(), 9)
    go.open()
    for caller in callers:
        with pytest.raises(NotNowError) as caught:
            await caller.result()
        assert caught.value is loads[0]
    with pytest.raises(NotNowError) as caught:
        await flavour.call(load)
    assert caught.value is loads[1]
    assert [await flavour.call(load) for _ in range(2)] == ["value"] * 2
    assert len(loads) == 2


@BACKENDS
@in_both_flavours
async def test_an_exception_leads_to_the_line_that_raised_it(flavour: Flavour, redis_url: str, kind: str) -> None:
    store = flavour.use(make_backend(kind, redis_url))

    @store.cached()
    async def load() -> str:
        return deeper()

    def deeper() -> str:
        raise LookupError("here")

    with pytest.raises(LookupError, match="here") as caught:
        await flavour.call(load)
    frames = [frame.name for frame in traceback.extract_tb(caught.value.__traceback__)]
    assert frames[-2:] == ["load", "deeper"]
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None


@BACKENDS
@only_suspending
async def test_an_exception_that_many_share_does_not_grow_with_their_number(
    flavour: Flavour, redis_url: str, kind: str
) -> None:
    store = flavour.use(make_backend(kind, redis_url))
    go = flavour.gate()

    @store.cached()
    async def load() -> str:
        await go.passed()
        raise LookupError

    async def frames() -> int:
        try:
            await load()
        except LookupError as error:
            return len(traceback.extract_tb(error.__traceback__))
        return 0

    callers = [flavour.start(frames) for _ in range(50)]
    await store.followed(load.key(), 49)
    go.open()
    lengths = [await caller.result() for caller in callers]
    assert min(lengths) > 0
    assert len(set(lengths)) == 1


@BACKENDS
def test_stop_iteration_of_a_plain_function_reaches_its_caller(redis_url: str, kind: str) -> None:
    """Raised through a coroutine it would end the coroutine instead, or turn into a RuntimeError."""
    cache = Cache()
    loads: list[None] = []

    @cache.cached
    def load() -> str:
        loads.append(None)
        return str(next(iter([])))

    @cache.cached
    def carrying() -> str:
        raise StopIteration("what a generator returned")

    with pytest.raises(StopIteration):
        load()
    backend = make_backend(kind, redis_url)
    cache.init_app(FastAPI(), backend=backend)
    for call in (load, load, load.refresh):
        with pytest.raises(StopIteration):
            call()
    with pytest.raises(StopIteration) as caught:
        carrying()
    assert caught.value.value == "what a generator returned"
    assert len(loads) == 4
    backend.close()


def test_stop_iteration_reaches_those_who_waited_too() -> None:
    cache = Cache()
    backend = InMemoryBackend()
    cache.init_app(FastAPI(), backend=backend)
    go = threading.Event()
    loads: list[None] = []

    @cache.cached
    def load() -> str:
        loads.append(None)
        assert go.wait(PATIENCE)
        raise StopIteration

    def visit() -> str:
        try:
            load()
        except StopIteration:
            return "stopped"
        return "returned"

    async def let_go() -> None:
        await Store(Suspending(), backend).followed(load.key(), 4)
        go.set()

    with ThreadPoolExecutor(5) as threads:
        visits = [threads.submit(visit) for _ in range(5)]
        asyncio.run(let_go())
        assert [visit.result(PATIENCE) for visit in visits] == ["stopped"] * 5
    assert len(loads) == 1


@BACKENDS
@in_both_flavours
async def test_a_function_that_calls_itself_with_the_same_key_ends(flavour: Flavour, redis_url: str, kind: str) -> None:
    store = flavour.use(make_backend(kind, redis_url))
    depth: list[None] = []

    @store.cached()
    async def load() -> str:
        depth.append(None)
        return "bottom" if len(depth) == 3 else str(await flavour.call(load))

    assert await flavour.start(load).result() == "bottom"
    assert len(depth) == 3
    assert await flavour.call(load) == "bottom"
    assert len(depth) == 3


@only_suspending
async def test_a_function_that_needs_itself_in_a_task_or_a_thread_ends(flavour: Flavour) -> None:
    store = flavour.use(InMemoryBackend())
    cache = Cache()
    cache.init_app(FastAPI(), backend=store.backend)
    depth: list[str] = []

    @store.cached(key="item")
    async def load() -> str:
        depth.append("load")
        if len(depth) > 2:
            return "bottom"
        return str((await asyncio.gather(load(), load()))[0])

    @cache.cached(key="other")
    def plain() -> str:
        depth.append("plain")
        return "bottom"

    @cache.cached(key="other")
    async def through_a_thread() -> str:
        return await asyncio.to_thread(same_key)

    def same_key() -> str:
        return "bottom" if len(depth) > 20 else str(plain())

    assert await flavour.start(load).result() == "bottom"
    assert await flavour.start(through_a_thread).result() == "bottom"


@BACKENDS
@in_both_flavours
async def test_functions_that_need_each_other_do_not_lock_each_other_out(
    flavour: Flavour, redis_url: str, kind: str
) -> None:
    store = flavour.use(make_backend(kind, redis_url))
    both = {"a": flavour.gate(), "b": flavour.gate()}

    @store.cached(key="a")
    async def a(depth: int) -> int:
        both["a"].open()
        await both["b"].passed()
        return 1 if depth == 0 else 1 + int(await flavour.call(b, depth - 1))

    @store.cached(key="b")
    async def b(depth: int) -> int:
        both["b"].open()
        await both["a"].passed()
        return 1 if depth == 0 else 1 + int(await flavour.call(a, depth - 1))

    callers = [flavour.start(a, 4), flavour.start(b, 4)]
    results = [await caller.result() for caller in callers]
    assert min(results) >= 2, "each of them needed the other"


@BACKENDS
@in_both_flavours
async def test_recursion_is_memoised(flavour: Flavour, redis_url: str, kind: str) -> None:
    backend: CacheBackend = InMemoryBackend()
    if kind == "redis":  # fewer connections than levels: none is held while a function runs
        backend = RedisBackend(redis_url, namespace="traps", pool_size=1, max_connections=1, timeout=PATIENCE)
    store = flavour.use(backend)
    loads: list[int] = []

    @store.cached()
    async def fib(n: int) -> int:
        loads.append(n)
        if n < 2:
            return n
        return int(await flavour.call(fib, n - 1)) + int(await flavour.call(fib, n - 2))

    assert await flavour.call(fib, 40) == 102334155
    assert sorted(loads) == list(range(41))
    assert await flavour.call(fib, 40) == 102334155
    assert len(loads) == 41


def test_recursion_of_a_plain_function_may_be_a_hundred_deep() -> None:
    cache = Cache()
    cache.init_app(FastAPI())

    @cache.cached
    def total(n: int) -> int:
        return n + total(n - 1) if n else 0

    assert total(100) == 5050


@in_both_flavours
async def test_two_hundred_calls_at_once_are_served_by_five_connections(
    flavour: Flavour, redis_url: str, raw: Any, caplog: pytest.LogCaptureFixture
) -> None:
    patient = RedisBackend(redis_url, namespace="traps", pool_size=5, max_connections=5, timeout=PATIENCE)
    store = flavour.use(patient)
    loads: list[int] = []

    @store.cached()
    async def load(number: int) -> int:
        loads.append(number)
        return number

    before = raw.info("stats")["total_connections_received"]
    for _ in range(2):
        callers = [flavour.start(load, number) for number in range(200)]
        assert [await caller.result() for caller in callers] == list(range(200))
    assert sorted(loads) == list(range(200))
    assert raw.info("stats")["total_connections_received"] - before <= 5
    assert failures(store) == 0
    assert warnings(caplog) == []


@in_both_flavours
async def test_of_the_connections_of_a_burst_only_pool_size_stay_open(
    flavour: Flavour, redis_url: str, raw: Any
) -> None:
    store = flavour.use(RedisBackend(redis_url, namespace="traps", pool_size=2, max_connections=30, timeout=PATIENCE))
    own = raw.info("clients")["connected_clients"]
    for _ in range(3):
        callers = [flavour.start(flavour.function(store.get), "key") for _ in range(60)]
        assert [await caller.result() for caller in callers] == [None] * 60

    async def closed() -> bool:
        return bool(raw.info("clients")["connected_clients"] - own <= 2)

    await flavour.until(closed, "at most two connections are left open")


@pytest.mark.parametrize("seed", range(5))
@only_suspending
async def test_a_storm_of_cancellations_leaves_the_connection_usable(
    flavour: Flavour, redis_url: str, raw: Any, seed: int, caplog: pytest.LogCaptureFixture
) -> None:
    store = flavour.use(RedisBackend(redis_url, namespace="traps", pool_size=3, max_connections=3, timeout=PATIENCE))
    rng = random.Random(seed)

    @store.cached()
    async def load(number: int) -> int:
        await asyncio.sleep(0)
        return number

    await load(0)
    opened = raw.info("stats")["total_connections_received"]
    for _ in range(20):
        tasks = [asyncio.create_task(load(rng.randrange(40))) for _ in range(40)]
        tasks += [asyncio.create_task(load.invalidate(rng.randrange(40))) for _ in range(10)]
        tasks += [asyncio.create_task(store.set(str(number), number)) for number in range(10)]
        for _ in range(rng.randrange(1, 40)):
            await asyncio.sleep(0)
            rng.choice(tasks).cancel()
        for task in tasks:
            if rng.random() < 0.5:
                task.cancel()
        results = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), PATIENCE)
        unexpected = [
            result
            for result in results
            if isinstance(result, BaseException) and not isinstance(result, asyncio.CancelledError)
        ]
        assert unexpected == []
    # Were a reply left on the connection, or read by another caller, each of these would get that of somebody else.
    numbers = range(40)
    await asyncio.gather(*(store.set(f"own {number}", number) for number in numbers))
    assert await asyncio.gather(*(store.get(f"own {number}") for number in numbers)) == list(numbers)
    assert raw.info("stats")["total_connections_received"] == opened, "no connection is lost to a cancellation"
    assert failures(store) == 0
    assert warnings(caplog) == []


def test_one_redis_backend_serves_three_event_loops_in_turn(
    redis_url: str, raw: Any, caplog: pytest.LogCaptureFixture
) -> None:
    cache = Cache()
    backend = RedisBackend(redis_url, namespace="traps")
    cache.init_app(FastAPI(), backend=backend)
    own = raw.info("clients")["connected_clients"]
    loads: list[int] = []

    @cache.cached
    async def load(number: int) -> int:
        loads.append(number)
        return number

    async def visit() -> list[int]:
        return list(await asyncio.gather(*[load(number) for number in range(10)]))

    assert [asyncio.run(visit()) for _ in range(3)] == [list(range(10))] * 3
    assert sorted(loads) == list(range(10))
    assert raw.info("clients")["connected_clients"] == own, "a loop that ends closes its connections"
    assert warnings(caplog) == []


@BACKENDS
def test_threads_and_event_loops_share_loads_of_one_key(redis_url: str, kind: str) -> None:
    """A plain function called from threads, from a loop's worker threads, and from a loop itself."""
    cache = Cache()
    backend = make_backend(kind, redis_url)
    cache.init_app(FastAPI(), backend=backend)
    go = threading.Event()
    loads: list[str] = []

    @cache.cached(key="item")
    def load(caller: str) -> str:
        loads.append(caller)
        assert go.wait(PATIENCE)
        return caller

    async def in_workers() -> list[str]:
        return list(await asyncio.gather(*[asyncio.to_thread(load, "worker") for _ in range(3)]))

    async def in_loop() -> str:
        return load("loop")

    async def let_go() -> None:
        await Store(Suspending(), backend).followed(load.key(""), 5)
        go.set()

    calls: list[Callable[[], Any]] = [lambda: load("first"), lambda: asyncio.run(in_workers()), lambda: load("second")]
    with ThreadPoolExecutor(5) as threads:
        leader = threads.submit(load, "leader")
        asyncio.run(begun(Suspending(), loads, 1))
        running = [threads.submit(call) for call in calls]
        asyncio.run(let_go())
        results = [call.result(PATIENCE) for call in running]
        assert leader.result(PATIENCE) == "leader"
    assert results == ["leader", ["leader"] * 3, "leader"]
    assert asyncio.run(in_loop()) == "leader"
    assert loads == ["leader"]
    backend.close()


def test_a_plain_function_called_on_a_running_loop_never_waits_for_that_loop() -> None:
    """The leader may need the very loop that a waiting caller would block: it loads by itself instead."""
    cache = Cache()
    cache.init_app(FastAPI(), backend=InMemoryBackend())
    loads: list[str] = []

    @cache.cached(key="item")
    def load(caller: str, loop: asyncio.AbstractEventLoop | None) -> str:
        loads.append(caller)
        if loop is not None:  # the leader needs the loop
            asyncio.run_coroutine_threadsafe(asyncio.sleep(0), loop).result(PATIENCE)
        return caller

    async def main() -> list[str]:
        loop = asyncio.get_running_loop()
        leader = asyncio.create_task(asyncio.to_thread(load, "leader", loop))
        await begun(Suspending(), loads, 1)
        return [load("on the loop", None), await asyncio.wait_for(leader, PATIENCE)]

    assert asyncio.run(main())[1] == "leader"
