"""Attacks on tags and on locks across processes: what is evicted, late, concurrent, dead or cancelled at a bad time.

`test_tags.py` and `test_lock.py` say what the two do; here somebody tries to break it, also where they meet batches.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import redis
from fastapi import FastAPI

from examples.sqlite_backend import SQLiteBackend
from fast_cache import Cache, CacheBackend, InMemoryBackend, RedisBackend
from fast_cache.errors import BackendUnavailable, ConfigurationError
from fast_cache.testing import PATIENCE, Flavour, Store, Suspending, in_both_flavours, only_suspending
from tests.integration.test_lock import ROOT, Workers
from tests.support.redis_server import RedisServer

LONG = 60
SOON = 0.05


async def invalidate(store: Store, *tags: str) -> None:
    if isinstance(store._flavour, Suspending):
        await store._cache.ainvalidate_tags(*tags)
    else:
        store._cache.invalidate_tags(*tags)


async def until(flavour: Flavour, condition: Any, what: str) -> None:
    async def holds() -> bool:
        return bool(condition())

    await flavour.until(holds, what)


def names_of(url: str, pattern: str) -> list[bytes]:
    with contextlib.closing(redis.Redis.from_url(url)) as client:
        names: Any = client.keys(pattern)
        return list(names)


def delete_all(url: str, pattern: str) -> int:
    with contextlib.closing(redis.Redis.from_url(url)) as client:
        return sum(int(client.delete(name)) for name in names_of(url, pattern))


class Page:
    """A function that adds a tag to its result when the gate lets it; each run returns another number."""

    def __init__(self, store: Store, **options: Any) -> None:
        self.runs = 0
        self.gate: Any = None

        async def page() -> int:
            self.runs += 1
            run, gate = self.runs, self.gate
            if gate is not None:
                await gate.passed()
            store._cache.current.tags.add("late")
            return run

        self.page = store.cached(**{"expire": LONG, **options})(page)


@pytest.fixture
def two(redis_url: str) -> tuple[RedisBackend, RedisBackend]:
    return RedisBackend(redis_url, namespace="attack"), RedisBackend(redis_url, namespace="attack")


# Tags.


@in_both_flavours
@pytest.mark.parametrize("before", [[], ["other"], ["late"]])
@pytest.mark.parametrize("evicted", ["attack:t:*", "attack:q:*", "attack:[tq]:*"])
async def test_what_redis_evicts_after_an_invalidation_does_not_undo_it(
    flavour: Flavour, two: tuple[RedisBackend, RedisBackend], redis_url: str, before: list[str], evicted: str
) -> None:
    here, there = flavour.use(two[0]), flavour.use(two[1])
    for tag in before:
        await invalidate(there, tag)
    page = Page(here)
    page.gate = flavour.gate()
    loading = flavour.start(page.page)
    await until(flavour, lambda: page.runs, "it loads")
    await invalidate(there, "late")
    assert delete_all(redis_url, evicted)
    page.gate.open()
    page.gate = None
    assert await loading.result() == 1
    assert [await flavour.call(page.page) for _ in range(2)] == [2, 2]


@in_both_flavours
async def test_a_tag_that_is_seen_first_while_others_are_invalidated_is_stored(
    flavour: Flavour, two: tuple[RedisBackend, RedisBackend]
) -> None:
    here, there = flavour.use(two[0]), flavour.use(two[1])
    page = Page(here)
    page.gate = flavour.gate()
    loading = flavour.start(page.page)
    await until(flavour, lambda: page.runs, "it loads")
    await invalidate(there, "other")
    page.gate.open()
    await loading.result()
    assert await flavour.call(page.page) == 1


@in_both_flavours
@pytest.mark.parametrize("options", [{"condition": lambda result: False}, {"expire": lambda result: 0}])
async def test_who_joins_a_load_after_an_invalidation_elsewhere_is_not_given_what_is_not_stored_either(
    flavour: Flavour, two: tuple[RedisBackend, RedisBackend], options: dict[str, Any]
) -> None:
    here, there = flavour.use(two[0]), flavour.use(two[1])
    page = Page(here, **options)
    page.gate = flavour.gate()
    first = flavour.start(page.page)
    await until(flavour, lambda: page.runs, "it loads")
    await invalidate(there, "late")
    second = flavour.start(page.page)
    await here.followed(page.page.key(), 1)
    page.gate.open()
    assert [await first.result(), await second.result()] == [1, 2]


@in_both_flavours
@pytest.mark.parametrize("step", [1, 2])
async def test_an_invalidation_that_fails_half_way_is_owed(flavour: Flavour, redis_url: str, step: int) -> None:
    backend = RedisBackend(redis_url, namespace="attack")
    store = flavour.use(backend)
    page = Page(store, tags="declared")
    await flavour.call(page.page)
    link: Any = backend._link
    exchange, steps = link.exchange, 0

    async def lost_at(*args: Any) -> Any:
        nonlocal steps
        steps += 1
        if steps == step:
            raise BackendUnavailable("what was sent has not arrived")
        return await exchange(*args)

    link.exchange = lost_at
    await invalidate(store, "late")
    assert steps == step
    del link.exchange
    assert [await flavour.call(page.page) for _ in range(2)] == [2, 2]


class Slow(CacheBackend):
    """The ten methods over a dict; a write to a tag may be held up, and a removal may fail."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}
        self.holds: asyncio.Event | None = None
        self.writes = 0
        self.fails = 0

    async def aget(self, key: str, default: Any = None) -> Any:
        await asyncio.sleep(0)
        return self.values.get(key, default)

    async def aset(self, key: str, value: Any, expire: Any = None) -> None:
        self.writes += 1
        holds, self.holds = self.holds, None
        if holds is not None:
            await holds.wait()
        self.values[key] = value

    async def adelete(self, key: str) -> bool:
        if self.fails:
            self.fails -= 1
            raise OSError
        return self.values.pop(key, None) is not None

    async def aclear(self) -> None:
        self.values.clear()

    async def ahas(self, key: str) -> bool:
        return key in self.values

    def get(self, key: str, default: Any = None) -> Any:
        raise NotImplementedError

    def set(self, key: str, value: Any, expire: Any = None) -> None:
        raise NotImplementedError

    def delete(self, key: str) -> bool:
        raise NotImplementedError

    def clear(self) -> None:
        raise NotImplementedError

    def has(self, key: str) -> bool:
        raise NotImplementedError


@only_suspending
async def test_a_slow_write_of_a_token_does_not_bring_back_what_was_invalidated(flavour: Flavour) -> None:
    backend = Slow()
    store = flavour.use(backend)
    runs: list[int] = []

    async def page(number: int) -> int:
        runs.append(number)
        return len(runs)

    cached = store.cached(expire=LONG, tags="all")(page)
    backend.holds = held = asyncio.Event()
    slow = flavour.start(cached, 1)
    quick = flavour.start(cached, 2)  # both find that the tag has no token
    assert await quick.result() == 1
    assert await flavour.call(cached, 2) == 1
    await invalidate(store, "all")
    held.set()
    assert await slow.result() == 2
    assert await flavour.call(cached, 2) == 3
    assert [await flavour.call(cached, 1), await flavour.call(cached, 2)] == [4, 3]
    ten: Any = backend.engine_store()
    assert not ten._candidates


@only_suspending
async def test_one_tag_that_can_not_be_removed_does_not_keep_the_others(flavour: Flavour) -> None:
    backend = Slow()
    store = flavour.use(backend)
    page = Page(store, tags="declared")
    await flavour.call(page.page)
    backend.fails = 1
    await invalidate(store, "unknown", "declared")
    assert await flavour.call(page.page) == 2


def test_threads_of_one_load_may_add_tags_at_once() -> None:
    cache = Cache()
    cache.init_app(FastAPI(), InMemoryBackend())

    class Meanwhile(str):
        """Text during whose checking another thread adds a tag."""

        def encode(self, *args: Any) -> bytes:
            cache.current.tags.add("another")
            return super().encode(*args)

    runs: list[int] = []

    @cache.cached(expire=LONG)
    def page() -> int:
        cache.current.tags.add(Meanwhile("one"))
        runs.append(1)
        return len(runs)

    for tag in ("another", "one"):
        page()
        cache.invalidate_tags(tag)
    assert page() == 3


@in_both_flavours
@pytest.mark.parametrize("lock", ["local", False])
async def test_what_is_invalidated_while_a_load_hangs_does_not_add_up(flavour: Flavour, lock: Any) -> None:
    backend = InMemoryBackend()
    store = flavour.use(backend)
    page = Page(store, lock=lock)
    page.gate = flavour.gate()
    first = flavour.start(page.page)
    await until(flavour, lambda: page.runs, "it loads")
    flights = backend.engine_store().flights
    (hanging,) = [*flights._table.values(), *(flight for lone in flights._lone.values() for flight in lone)]
    for number in range(2000):
        await invalidate(store, f"tag {number}")
    assert len(hanging.lost) < 500
    gate, page.gate = page.gate, None
    assert await flavour.call(page.page) == 2, "what came after them does not wait for it"
    gate.open()
    assert await first.result() == 1
    assert await flavour.call(page.page) == 2
    assert len(flights) == 0


KINDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "stale": {"expire": SOON, "stale_while_revalidate": LONG, "stale_if_error": LONG},
    "refreshed ahead": {"refresh_ahead": LONG - 1},
    "counted": {"hits": 5, "refresh_after": 1},
    "exception": {"cache_errors": {LookupError: LONG}},
}


@pytest.fixture(params=["memory", "copying memory", "ten methods", "redis"])
def backend(request: pytest.FixtureRequest, tmp_path: Path, redis_url: str) -> Iterator[CacheBackend]:
    made: CacheBackend
    if request.param == "redis":
        made = RedisBackend(redis_url, namespace="attack")
    elif request.param == "ten methods":
        made = SQLiteBackend(tmp_path / "cache.db")
    else:
        made = InMemoryBackend(copy=request.param == "copying memory")
    with contextlib.closing(made):
        yield made


@in_both_flavours
@pytest.mark.parametrize("kind", KINDS)
async def test_no_kind_of_entry_outlives_its_tag(flavour: Flavour, backend: CacheBackend, kind: str) -> None:
    store = flavour.use(backend)
    version = 0

    async def load() -> int:
        store._cache.current.tags.add("late")
        if kind == "exception":
            raise LookupError(version)
        return version

    async def load_many(ids: Iterable[int]) -> dict[int, int]:
        if kind == "exception":
            raise LookupError(version)
        store._cache.current.tags.add("late")
        return {one: version for one in ids if one > version}

    single = store.cached(**{"expire": LONG, "tags": "declared", **KINDS[kind]})(load)
    many = store.cached_many(**{"expire": LONG, "missing_expire": LONG, "tags": "declared", **KINDS[kind]})(load_many)

    async def result(fn: Any, *args: Any) -> Any:
        try:
            return await flavour.call(fn, *args)
        except LookupError as error:
            return error.args[0]

    for tag in ("late", "declared") * 2:
        expected: Any = version if kind == "exception" else {one: version for one in (1, 2, 3) if one > version}
        for _ in range(2):
            assert await result(single) == version
            assert await result(many, [1, 2, 3]) == expected
        await store.drain()
        version += 1
        await invalidate(store, tag)
        if not isinstance(backend, SQLiteBackend):
            assert not await store.has(single.key())
            assert await store.get(single.key()) is None
        if kind == "exception" and tag == "late":  # a batch that fails names no tag of its own
            await invalidate(store, "declared")


@pytest.fixture
def hasty() -> Iterator[None]:
    """Threads take turns as often as they can."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize(
    "options",
    [{}, {"lock": False}, {"stale_while_revalidate": LONG, "hits": 5, "refresh_after": 2}, {"lock": "distributed"}],
    ids=["plain", "no lock", "soft", "distributed"],
)
def test_nothing_older_than_an_invalidation_among_threads(
    backend: CacheBackend, redis_url: str, options: dict[str, Any]
) -> None:
    if "distributed" in options.values() and not isinstance(backend, RedisBackend):
        pytest.skip("only Redis locks across processes")
    backends = [backend]
    if isinstance(backend, RedisBackend):
        backends.append(RedisBackend(redis_url, namespace="attack"))
    version = completed = 0
    wrong: list[object] = []
    ends = threading.Event()

    class Functions:
        def __init__(self, backend: CacheBackend) -> None:
            self.cache = cache = Cache()
            cache.init_app(FastAPI(), backend)

            def late(number: int) -> list[int]:
                seen = version
                cache.current.tags.add("late")
                return [seen]

            def declared(number: int) -> list[int]:
                return [version]

            def many(numbers: Iterable[int]) -> dict[int, list[int]]:
                seen = version
                cache.current.tags.add("late")
                return {number: [seen] for number in numbers if number % 2}

            for name, function in {"late": late, "declared": declared, "many": many}.items():
                function.__qualname__ = name  # the same keys in each
            self.late = cache.cached(expire=LONG, **options)(late)
            self.declared = cache.cached(expire=LONG, tags=("declared", "{number}"), **options)(declared)
            self.many = cache.cached_many(expire=LONG, tags="declared", missing_expire=LONG, **options)(many)

    everywhere = [Functions(each) for each in backends]

    def read(seed: int) -> None:
        draw = random.Random(seed)
        while not ends.is_set():
            here, number, least = draw.choice(everywhere), draw.randrange(3), completed
            kind = draw.choice(["late", "declared", "many", "refresh"])
            try:
                if kind == "many":
                    answers = [*here.many([number, number + 1]).values()]
                elif kind == "refresh":
                    answers = [here.late.refresh(number)]
                else:
                    answers = [here.late(number) if kind == "late" else here.declared(number)]
                wrong.extend((kind, answer, least) for answer in answers if answer[0] < least)
            except Exception as error:
                wrong.append(error)

    readers = [threading.Thread(target=read, args=(seed,)) for seed in range(4)]
    for reader in readers:
        reader.start()
    for _ in range(100):
        version += 1
        random.choice(everywhere).cache.invalidate_tags("late", "declared")
        completed = version
    ends.set()
    for reader in readers:
        reader.join()
    for functions in everywhere:
        asyncio.run(functions.cache._binding.background.drain(LONG))
    for each in backends:
        each.close()
    assert wrong == []


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_child_invalidates_and_is_invalidated(backend: CacheBackend) -> None:
    cache, runs = Cache(), list[int]()
    cache.init_app(FastAPI(), backend)

    @cache.cached(expire=LONG, tags="all")
    def page() -> int:
        cache.current.tags.add("late")
        runs.append(1)
        return len(runs)

    page()
    child = os.fork()
    if child == 0:
        first = page()
        cache.invalidate_tags("late")
        second = page()
        os._exit(10 * first + second)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 12
    assert page() == (1 if isinstance(backend, InMemoryBackend) else 2), "memory is the child's own, a store is not"
    assert len(runs) == 1
    cache.invalidate_tags("all")
    page()
    assert len(runs) == 2


# Locks.


@in_both_flavours
async def test_many_keys_refuse_a_lock_that_their_backend_can_not_give(flavour: Flavour) -> None:
    cache = flavour.use(InMemoryBackend())._cache
    many = cache.amany if isinstance(flavour, Suspending) else cache.many
    with pytest.raises(ConfigurationError, match="can't lock across processes"):
        await flavour.call(many, ["key"], lambda keys: dict.fromkeys(keys, 1), lock="distributed")


class Batches:
    """A cache on Redis, as a process has it, with a function of many; the ids of each load are noted."""

    def __init__(self, flavour: Flavour, url: str, **options: Any) -> None:
        self.backend = RedisBackend(url, namespace="attack", lease=options.pop("lease", 0.5), timeout=2)
        self.store = flavour.use(self.backend)
        self.asked: list[list[int]] = []
        self.gate: Any = None
        self.waits = 0
        link: Any = self.backend._link
        wait = link._wait

        async def counted(*args: Any) -> Any:
            self.waits += 1
            return await wait(*args)

        link._wait = counted

        async def load(ids: Iterable[int]) -> dict[int, int]:
            self.asked.append(list(ids))
            if self.gate is not None:
                await self.gate.passed()
            return {one: one for one in self.asked[-1]}

        load.__qualname__ = "load"
        self.load = self.store.cached_many(expire=LONG, lock="distributed", **options)(load)


@in_both_flavours
async def test_a_batch_waits_for_a_dead_holder_of_many_leases_once(
    flavour: Flavour, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    dead, alive = Batches(flavour, redis_url), Batches(flavour, redis_url)
    monkeypatch.setattr(dead.backend._keeper, "hold", lambda lease: None)  # as if its process were no more
    dead.gate = flavour.gate()
    loading = flavour.start(dead.load, range(20))
    await until(flavour, lambda: dead.asked, "it loads")
    assert len(await flavour.call(alive.load, range(20))) == 20
    assert alive.waits <= 3, "not one after the other for each element"
    assert sorted(one for part in alive.asked for one in part) == list(range(20))
    dead.gate.open()
    await loading.result()


@in_both_flavours
async def test_a_batch_is_woken_for_all_elements_at_once(flavour: Flavour, redis_url: str) -> None:
    holder, waiter = Batches(flavour, redis_url, lease=LONG), Batches(flavour, redis_url, lease=LONG)
    holder.gate = flavour.gate()
    loading = flavour.start(holder.load, range(20))
    await until(flavour, lambda: holder.asked, "it loads")
    waiting = flavour.start(waiter.load, range(30))
    await until(flavour, lambda: waiter.waits, "it waits")
    assert waiter.asked == [list(range(20, 30))], "what nobody has is loaded before anything is waited for"
    holder.gate.open()
    assert await loading.result() == {one: one for one in range(20)}
    assert await waiting.result() == {one: one for one in range(30)}
    assert len(waiter.asked) == 1
    assert waiter.waits <= 5


@in_both_flavours
@pytest.mark.parametrize("max_batch", [None, 3])
async def test_batches_in_opposite_order_load_each_element_once(
    flavour: Flavour, redis_url: str, max_batch: int | None
) -> None:
    nodes = [Batches(flavour, redis_url, lease=LONG, max_batch=max_batch) for _ in range(2)]
    for turn in range(10):
        ids = list(range(turn * 100, turn * 100 + 12))
        callers = [flavour.start(nodes[0].load, ids), flavour.start(nodes[1].load, ids[::-1])]
        for caller in callers:
            assert len(await caller.result()) == 12
    loaded = [one for node in nodes for part in node.asked for one in part]
    assert len(loaded) == len(set(loaded)) == 120
    assert [len(node.backend._keeper) for node in nodes] == [0, 0]
    # What was taken in vain is released by a thread, soon.
    await until(flavour, lambda: not names_of(redis_url, "attack:l:*"), "no lease is left")


@in_both_flavours
async def test_redis_dies_while_a_batch_waits(flavour: Flavour, own_redis: RedisServer) -> None:
    holder, waiter = Batches(flavour, own_redis.url, lease=LONG), Batches(flavour, own_redis.url, lease=LONG)
    holder.gate = flavour.gate()
    loading = flavour.start(holder.load, range(20))
    await until(flavour, lambda: holder.asked, "it loads")
    waiting = flavour.start(waiter.load, range(20))
    await until(flavour, lambda: waiter.waits, "it waits")
    own_redis.kill()
    assert len(await waiting.result()) == 20
    assert waiter.asked == [list(range(20))], "without a server it loads, all at once"
    holder.gate.open()
    assert len(await loading.result()) == 20
    assert [len(node.backend._keeper) for node in (holder, waiter)] == [0, 0]


def test_a_holder_that_was_stopped_harms_nobody_when_it_goes_on(tmp_path: Path, redis_url: str) -> None:
    with contextlib.closing(Workers(tmp_path, redis_url)) as workers:
        workers.start(2, lease=0.5, seconds=3 * PATIENCE, mode="gate")
        workers.until(lambda: workers.client.llen("loaders") == 1)
        stopped = int(workers.client.lindex("loaders", 0))
        os.kill(stopped, signal.SIGSTOP)
        try:
            workers.until(lambda: workers.client.llen("loaders") == 2)
            workers.client.set("go", 1)
            (other,) = [worker for worker in workers.running if worker.pid != stopped]
            assert workers.output(other) == "[2]"
            (name,) = workers.client.keys("lock:v:*")
            stored = workers.client.get(name)
        finally:
            os.kill(stopped, signal.SIGCONT)
        (resumed,) = [worker for worker in workers.running if worker.pid == stopped]
        workers.output(resumed)
        assert workers.client.get(name) == stored, "its late write is fenced off"
        assert workers.client.keys("lock:l:*") == []


@only_suspending
async def test_cancelled_anywhere_nothing_is_left_behind(flavour: Flavour, redis_url: str) -> None:
    nodes = []
    for _ in range(3):
        backend = RedisBackend(redis_url, namespace="attack", lease=LONG, max_connections=8)
        store = flavour.use(backend)

        async def one(number: int) -> int:
            await flavour.pause()
            return number

        async def many(numbers: Iterable[int]) -> dict[int, int]:
            await flavour.pause()
            return {number: number for number in numbers}

        one.__qualname__, many.__qualname__ = "one", "many"
        options: dict[str, Any] = {"expire": 0.01, "lock": "distributed"}
        cached = store.cached(tags="{number}", **options)(one), store.cached_many(tags="{numbers}", **options)(many)
        nodes.append((backend, store, *cached))
    draw = random.Random(0)

    async def callers() -> None:
        for _ in range(25):
            _, store, single, several = draw.choice(nodes)
            number = draw.randrange(4)
            calls: list[Any] = [
                partial(single, number),
                partial(single.refresh, number),
                partial(several, draw.sample(range(12), 6)),
                partial(store._cache.ainvalidate_tags, str(number)),
            ]
            task = asyncio.ensure_future(draw.choice(calls)())
            for _ in range(draw.randrange(40)):
                await asyncio.sleep(0)
            if draw.random() < 0.7:
                task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    await asyncio.gather(*(callers() for _ in range(12)))
    # No lease runs out here: each is released, behind those who were cancelled.
    await until(flavour, lambda: not any(len(backend._keeper) for backend, *_ in nodes), "nothing is held")
    with contextlib.closing(redis.Redis.from_url(redis_url)) as client:
        await until(flavour, lambda: not client.keys("attack:l:*"), "no lease is left")
    links: list[Any] = [backend._link for backend, *_ in nodes]
    lanes = [each for link in links for held in link._fleet._loops.values() for each in held._lanes.values()]
    assert len(lanes) == 3
    assert all(any(each._waiting.values()) is False for each in lanes), "nobody has a lane to wait on"
    await until(flavour, lambda: all(lane.idle for each in lanes for lane in each.all()), "no lane is busy")
    with contextlib.closing(redis.Redis.from_url(redis_url)) as client:
        opened = client.info("stats")["total_connections_received"]
        for _, _, single, several in nodes:
            await single(0)
            await several([0, 1])
        assert client.info("stats")["total_connections_received"] == opened, "all connections can still be used"
    assert [len(backend.engine_store().flights) for backend, *_ in nodes] == [0, 0, 0]


LEAVES = """
import sys, threading
from fastapi import FastAPI
from fast_cache import Cache, RedisBackend

cache, begun = Cache(), threading.Event()
cache.init_app(FastAPI(), RedisBackend(sys.argv[1], namespace="attack", lease=0.3))

@cache.cached(lock="distributed")
def hangs():
    begun.set()
    threading.Event().wait()

@cache.cached_many(lock="distributed")
def quick(ids):
    return {one: one for one in ids}

threading.Thread(target=hangs, daemon=True).start()
begun.wait()
print(quick([1, 2]))
"""


def test_a_lease_that_is_held_does_not_keep_the_interpreter(tmp_path: Path, redis_url: str) -> None:
    program = tmp_path / "leaves.py"
    program.write_text(textwrap.dedent(LEAVES))
    ended = subprocess.run(
        [sys.executable, str(program), redis_url],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=3 * PATIENCE,
        check=True,
    )
    assert (ended.stdout, ended.stderr) == ("{1: 1, 2: 2}\n", "")
