"""What an attacker found in functions that load many: each test is one break that was possible once, or nearly was."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import random
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest
from fastapi import FastAPI

from fast_cache import Cache, CacheBackend, InMemoryBackend
from fast_cache.durations import Duration
from fast_cache.ports import ASYNCIO
from fast_cache.single_flight import led
from fast_cache.testing import Flavour, in_both_flavours

LONG = 60
SOON = 0.02
PATIENCE = 20


def cache_over(backend: CacheBackend | None = None) -> Cache:
    cache = Cache()
    cache.init_app(FastAPI(), backend)
    return cache


def flights_of(cache: Cache) -> int:
    return len(cache.get_cache().engine_store().flights)


async def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.001)


class Ten(CacheBackend):
    """Ten methods over a dict, each of which lets others run; ``getting`` and ``setting`` may hold them up."""

    def __init__(self) -> None:
        self.held: dict[str, Any] = {}
        self.getting: Callable[[str], Any] | None = None
        self.setting: Callable[[str], Any] | None = None

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
        await asyncio.sleep(0)
        if self.getting is not None:
            await self.getting(key)
        return self.held.get(key, default)

    async def aset(self, key: str, value: Any, expire: Duration | None = None) -> None:
        await asyncio.sleep(0)
        if self.setting is not None:
            await self.setting(key)
        self.held[key] = value

    async def adelete(self, key: str) -> bool:
        await asyncio.sleep(0)
        return self.delete(key)

    async def aclear(self) -> None:
        self.clear()

    async def ahas(self, key: str) -> bool:
        return self.has(key)


# Whoever is interrupted.


def test_an_interruption_between_the_elements_leaves_no_flight() -> None:
    cache = cache_over(Ten())
    seen: list[int] = []

    def condition(value: int) -> bool:
        seen.append(value)
        if len(seen) == 2:
            raise KeyboardInterrupt
        return True

    @cache.cached_many(condition=condition)
    def load(ids: list[int]) -> dict[int, int]:
        return {number: number for number in ids}

    with pytest.raises(KeyboardInterrupt):
        load([1, 2, 3])
    assert flights_of(cache) == 0
    assert load([1, 2, 3]) == {1: 1, 2: 2, 3: 3}


class Interruption(BaseException):
    """What no code catches by accident."""


def test_where_a_load_of_a_group_breaks_off_the_others_load_by_themselves() -> None:
    async def main() -> None:
        cache = cache_over()
        asked: list[list[int]] = []

        @cache.cached_many(expire=LONG, window=SOON)
        async def load(ids: list[int]) -> dict[int, int]:
            asked.append(ids)
            if len(asked) == 1:
                raise Interruption
            return {number: number for number in ids}

        answers = await asyncio.gather(*(load.get(number) for number in (1, 2, 3)), return_exceptions=True)
        assert type(answers[0]) is Interruption
        assert answers[1:] == [2, 3]
        assert flights_of(cache) == 0

    asyncio.run(main())


def test_where_all_of_a_group_go_away_their_load_ends() -> None:
    async def main() -> None:
        cache = cache_over()
        began, ended = asyncio.Event(), asyncio.Event()

        @cache.cached_many(expire=LONG, window=SOON)
        async def load(ids: list[int]) -> dict[int, int]:
            began.set()
            try:
                await asyncio.Event().wait()
            finally:
                ended.set()
            return {}

        callers = [asyncio.create_task(load.get(number)) for number in (1, 2)]
        await began.wait()
        for caller in callers:
            assert not ended.is_set()
            caller.cancel()
        await asyncio.gather(*callers, return_exceptions=True)
        await asyncio.wait_for(ended.wait(), PATIENCE)
        assert flights_of(cache) == 0

    asyncio.run(main())


def test_loops_that_end_with_open_groups_leave_nothing() -> None:
    cache = cache_over()

    @cache.cached_many(expire=LONG, window=LONG)
    async def load(ids: list[int]) -> dict[int, int]:
        return {}

    groups = vars(load)["_operations"]._task_groups

    async def main() -> None:
        asyncio.get_running_loop().call_soon(asyncio.create_task, load.get(1))
        await until(lambda: bool(groups._open))

    for _ in range(3):
        asyncio.run(main())
        assert not groups._open


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_a_forked_child_does_not_wait_for_a_group_of_its_parent() -> None:
    cache = cache_over()

    @cache.cached_many(expire=LONG, window=LONG, max_batch=2)
    def load(ids: list[int]) -> dict[int, int]:
        return {number: number for number in ids}

    groups = vars(load)["_operations"]._thread_groups
    thread = threading.Thread(target=load.get, args=(1,))
    thread.start()
    asyncio.run(until(lambda: bool(groups._open)))
    child = os.fork()
    if child == 0:
        groups._window = SOON
        os._exit(0 if load.get(2) == 2 else 1)
    deadline = time.monotonic() + PATIENCE
    while (done := os.waitpid(child, os.WNOHANG)) == (0, 0) and time.monotonic() < deadline:
        time.sleep(0.01)
    if done == (0, 0):
        os.kill(child, 9)
        os.waitpid(child, 0)
    assert load.get(2) == 2  # and so the group is full
    thread.join(PATIENCE)
    assert done == (child, 0)


class EndingTask(asyncio.Task[Any]):
    """A task that ends, on its own loop, at the very moment when another loop's asks about it."""

    asked = 0

    def get_loop(self) -> asyncio.AbstractEventLoop:
        self.asked += 1
        if self.asked > 1:  # the first time it is its own caller's
            ASYNCIO._finishing.discard(self)
        return super().get_loop()


def test_writes_of_other_loops_may_end_at_any_time() -> None:
    async def main() -> None:
        asyncio.get_running_loop().set_task_factory(lambda loop, step, **how: EndingTask(step, loop=loop, **how))
        cache = cache_over(Ten())

        @cache.cached
        async def load(number: int) -> int:
            return number

        assert list(await asyncio.gather(*map(load, range(5)))) == [0, 1, 2, 3, 4]

    asyncio.run(main())


# Who waits for whom.


def test_a_load_within_a_batch_carries_one_mark_about_for_all_of_it() -> None:
    cache = cache_over()
    carried: list[int] = []

    @cache.cached_many(expire=LONG)
    def inner(ids: Iterable[int]) -> dict[int, int]:
        carried.append(len(led()))
        return {number: number for number in ids}

    @cache.cached_many(expire=LONG)
    def outer(ids: Iterable[int]) -> dict[int, int]:
        return inner(ids)

    assert len(outer(range(500))) == 500
    assert carried == [2]  # what they carry is compared with each other's: a thousand would take minutes


def test_calls_that_different_loads_make_are_no_group() -> None:
    async def main() -> None:
        cache = cache_over()

        @cache.cached_many(expire=LONG, window=SOON)
        async def books(ids: list[int]) -> dict[int, int]:
            if 1 in ids:
                await second()
            return {number: number for number in ids}

        @cache.cached(expire=LONG)
        async def first() -> int | None:
            return await books.get(1)

        @cache.cached(expire=LONG)
        async def second() -> int | None:
            return await books.get(2)

        assert list(await asyncio.wait_for(asyncio.gather(first(), second()), PATIENCE)) == [1, 2]

    asyncio.run(main())


@in_both_flavours
async def test_batches_whose_loaders_need_each_other_do_not_wait_for_ever(flavour: Flavour) -> None:
    store = flavour.use(InMemoryBackend())
    gate = flavour.gate()
    began: list[str] = []

    async def left(ids: list[int]) -> dict[int, int]:
        began.append("left")
        if began.count("left") == 1:
            await gate.passed()
            await flavour.call(cached_right, ids)
        return {number: number for number in ids}

    async def right(ids: list[int]) -> dict[int, int]:
        began.append("right")
        if began.count("right") == 1:
            await gate.passed()
            await flavour.call(cached_left, ids)
        return {number: number for number in ids}

    cached_left, cached_right = store.cached_many(expire=LONG)(left), store.cached_many(expire=LONG)(right)
    callers = [flavour.start(cached, [1, 2, 3]) for cached in (cached_left, cached_right)]

    async def both() -> bool:
        return len(began) == 2

    await flavour.until(both, "both load")
    gate.open()
    for caller in callers:
        assert set(await caller.result()) == {1, 2, 3}
    assert len(store.backend.engine_store().flights) == 0


# What is whose.


def test_who_gets_hold_of_a_flight_that_ends_meanwhile_gets_an_object_of_its_own() -> None:
    async def main() -> None:
        backend = Ten()
        cache = cache_over(backend)
        loading, reading, go_on, finish = (asyncio.Event() for _ in range(4))

        async def slow(key: str) -> None:
            if key == "b":
                reading.set()
                await go_on.wait()

        async def load(keys: list[str]) -> dict[str, list[str]]:
            loading.set()
            await finish.wait()
            return {key: [key] for key in keys}

        first = asyncio.create_task(cache.amany(["a"], load))
        await loading.wait()
        backend.getting = slow
        second = asyncio.create_task(cache.amany(["a", "b"], load))
        await reading.wait()
        finish.set()
        found = await first
        go_on.set()
        assert (await second)["a"] is not found["a"]

    asyncio.run(main())


def test_who_comes_while_a_value_is_written_gets_an_object_of_its_own() -> None:
    async def main() -> None:
        backend = Ten()
        cache = cache_over(backend)
        writing, go_on = asyncio.Event(), asyncio.Event()

        async def slow(key: str) -> None:
            writing.set()
            await go_on.wait()

        backend.setting = slow

        @cache.cached
        async def load() -> list[int]:
            return [1]

        first = asyncio.create_task(load())
        await writing.wait()
        second = asyncio.create_task(load())
        await until(lambda: backend.engine_store().flights.waiting(load.key()) == 1)
        go_on.set()
        assert await first is not await second

    asyncio.run(main())


@pytest.mark.parametrize("copying", [False, True])
def test_those_who_ask_for_one_element_in_a_window_get_objects_of_their_own(copying: bool) -> None:
    cache = cache_over(InMemoryBackend(copy=True) if copying else Ten())

    async def load(ids: list[int]) -> dict[int, list[str]]:
        return {number: [] for number in ids}

    def blocking(ids: list[int]) -> dict[int, list[str]]:
        return {number: [] for number in ids}

    window = cache.cached_many(expire=LONG, window=SOON)(load)
    threads = cache.cached_many(expire=LONG, window=LONG, max_batch=2)(blocking)

    async def request(name: str) -> list[str]:
        found = await window.get(1)
        assert found is not None
        found.append(name)
        return found

    async def main() -> list[list[str]]:
        return list(await asyncio.gather(*map(request, "abc")))

    assert asyncio.run(main()) == [["a"], ["b"], ["c"]]

    seen: list[list[str]] = []

    def visit(name: str) -> None:
        found = threads.get(1)
        assert found is not None
        found.append(name)
        seen.append(found)

    callers = [threading.Thread(target=visit, args=(name,)) for name in "abc"]
    for caller in callers:
        caller.start()
    group = vars(threads)["_operations"]._thread_groups
    asyncio.run(until(lambda: [sum(one.callers.values()) for one in group._open.values()] == [3]))
    threads.get(2)
    for caller in callers:
        caller.join(PATIENCE)
    assert sorted(seen) == [["a"], ["b"], ["c"]]


def test_what_a_part_says_of_its_result_is_not_about_the_next() -> None:
    cache = cache_over()
    backend = cache.get_cache()

    @cache.cached_many(expire=LONG, max_batch=1)
    def load(ids: list[int]) -> dict[int, int]:
        if ids == [1]:
            cache.current.skip()
        return {number: number for number in ids}

    assert load([1, 2]) == {1: 1, 2: 2}
    assert [backend.get(load.key(number)) for number in (1, 2)] == [None, 2]


def test_arguments_that_are_equal_but_not_the_same_key_make_two_groups() -> None:
    async def main() -> None:
        cache = cache_over()

        @cache.cached_many(expire=LONG, window=SOON)
        async def load(ids: list[int], factor: float) -> dict[int, str]:
            return {number: repr(factor) for number in ids}

        assert list(await asyncio.gather(load.get(1, 0.0), load.get(2, -0.0))) == ["0.0", "-0.0"]

    asyncio.run(main())


def test_who_does_without_the_cache_is_in_no_group_of_others() -> None:
    async def main() -> None:
        cache = cache_over()
        asked: list[list[int]] = []

        @cache.cached_many(expire=LONG, window=SOON)
        async def load(ids: list[int]) -> dict[int, int]:
            asked.append(ids)
            return {number: number for number in ids}

        async def without() -> int | None:
            with cache.disabled():
                return await load.get(1)

        assert list(await asyncio.gather(without(), load.get(2))) == [1, 2]
        assert sorted(asked) == [[1], [2]]
        assert await load.get(2) == 2
        assert len(asked) == 2

    asyncio.run(main())


def test_what_a_generator_of_elements_raises_is_raised() -> None:
    @cache_over().cached_many
    def load(ids: Iterable[int]) -> dict[int, int]:
        return {}

    with pytest.raises(TypeError, match="nothing to do with the cache"):
        load(_broken())


def _broken() -> Iterator[int]:
    yield 1
    raise TypeError("nothing to do with the cache")


# What is true.


@in_both_flavours
async def test_a_refresh_that_is_overtaken_by_one_that_fails_leaves_no_older_value(flavour: Flavour) -> None:
    store = flavour.use(InMemoryBackend())
    source, gates = ["old"], {"first": flavour.gate(), "second": flavour.gate()}
    runs: list[str] = []

    async def load(ids: list[int]) -> dict[int, str]:
        value = source[0]
        runs.append(value)
        if len(runs) == 2:
            await gates["first"].passed()
        if len(runs) == 3:
            await gates["second"].passed()
            raise LookupError
        return dict.fromkeys(ids, value)

    async def began(number: int) -> None:
        async def have() -> bool:
            return len(runs) == number

        await flavour.until(have, "it loads")

    cached = store.cached_many(expire=LONG)(load)
    await flavour.call(cached, [1])
    source[0] = "new"
    first = flavour.start(cached.refresh, [1])
    await began(2)
    second = flavour.start(cached.refresh, [1])
    await began(3)
    runs.append("from here on at once")
    gates["first"].open()
    assert await first.result() == {1: "new"}
    assert await flavour.call(cached, [1]) == {1: "new"}
    gates["second"].open()
    with contextlib.suppress(LookupError):
        await second.result()
    assert await flavour.call(cached, [1]) == {1: "new"}


# What is kept.


class Held:
    """Something that a loader's frame refers to."""


@pytest.mark.parametrize("local", [False, True])
@in_both_flavours
async def test_an_error_leaves_no_cycle_of_references(flavour: Flavour, local: bool) -> None:
    store = flavour.use(InMemoryBackend() if local else Ten())
    seen: list[weakref.ref[Held]] = []

    async def load(ids: list[int]) -> dict[int, int]:
        held = Held()
        seen.append(weakref.ref(held))
        raise ValueError

    plain, windowed = store.cached_many()(load), store.cached_many(window=0.001)(load)
    gc.disable()
    try:
        for call, ids in [(plain, [1, 2]), (plain.refresh, [1, 2]), (plain.get, 1), (windowed.get, 1)]:
            with contextlib.suppress(ValueError):
                await flavour.call(call, ids)
            await flavour.pause()  # a task that answered a group ends
            assert [reference() for reference in seen] == [None] * len(seen)
    finally:
        gc.enable()
    assert len(seen) == 4


# All of it at once.


@pytest.mark.parametrize("kind", ["memory", "copying memory", "ten methods"])
@pytest.mark.parametrize("seed", [1, 2])
def test_tasks_threads_invalidations_and_cancellations(kind: str, seed: int) -> None:
    makers: dict[str, Callable[[], CacheBackend]] = {"memory": InMemoryBackend, "ten methods": Ten}
    backend = makers[kind]() if kind in makers else InMemoryBackend(copy=True)
    cache, many, rounds = cache_over(backend), 10, 60
    source, settled = [0] * many, [0] * many
    changing = threading.Lock()
    wrong: list[Any] = []
    names = [str(number) for number in range(many)]

    def load(keys: list[str]) -> dict[str, list[int]]:
        found = {key: [source[int(key)]] for key in keys}
        if random.random() < 0.1:
            cache.many(random.sample(names, 2), load, LONG)
        time.sleep(random.random() * 0.001)
        return found

    async def aload(keys: list[str]) -> dict[str, list[int]]:
        found = {key: [source[int(key)]] for key in keys}
        if random.random() < 0.1:
            await cache.amany(random.sample(names, 2), aload, LONG)
        await asyncio.sleep(random.random() * 0.001)
        return found

    def check(before: list[int], keys: list[str], found: dict[str, list[int]]) -> None:
        for key in keys:
            value = list(found[key])
            if len(value) != 1 or value[0] < before[int(key)]:
                wrong.append((key, value, before))
            if kind != "memory":
                found[key].append(-1)

    def change(dice: random.Random) -> tuple[int, int]:
        number = dice.randrange(many)
        with changing:
            source[number] += 1
            return number, source[number]

    def changed(number: int, version: int) -> None:
        with changing:
            settled[number] = max(settled[number], version)

    async def ask(keys: list[str]) -> None:
        before = list(settled)
        check(before, keys, await cache.amany(keys, aload, LONG))

    async def task(dice: random.Random) -> None:
        for _ in range(rounds):
            keys = dice.sample(names, dice.randint(1, 7))
            draw = dice.random()
            if draw < 0.2:
                number, version = change(dice)
                await backend.adelete(names[number])
                changed(number, version)
            elif draw < 0.5:
                caller = asyncio.create_task(ask(keys))
                for _ in range(dice.randrange(12)):
                    await asyncio.sleep(0)
                caller.cancel()
                await asyncio.gather(caller, return_exceptions=True)
            else:
                await ask(keys)

    def loop(seed: int) -> None:
        async def main() -> None:
            await asyncio.gather(*(task(random.Random(seed + number)) for number in range(4)))

        asyncio.run(main())

    def thread(seed: int) -> None:
        dice = random.Random(seed)
        for _ in range(rounds):
            keys = dice.sample(names, dice.randint(1, 7))
            if dice.random() < 0.2:
                number, version = change(dice)
                backend.delete(names[number])
                changed(number, version)
            else:
                before = list(settled)
                check(before, keys, cache.many(keys, load, LONG))

    callers = [
        threading.Thread(target=target, args=(seed * 100 + number * 10,), daemon=True)
        for number, target in enumerate([loop, loop, thread, thread])
    ]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join(PATIENCE)
        assert not caller.is_alive(), "a caller hangs"
    assert not wrong
    asyncio.run(until(lambda: flights_of(cache) == 0))
