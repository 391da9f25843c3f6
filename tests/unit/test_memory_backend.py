"""Local memory under bad input, in bursts, and asked from all sides: what is wrong is refused and leaves nothing stale,
what is gone gives its room back, and the counts come out even."""

from __future__ import annotations

import asyncio
import functools
import gc
import itertools
import math
import random
import sys
import threading
import tracemalloc
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterator
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest
from fastapi import FastAPI

from fast_cache import Cache, InMemoryBackend
from fast_cache.backends.eviction import S3FIFO
from fast_cache.entry import Entry
from fast_cache.errors import ConfigurationError, EncodeError, InvalidTypeError
from fast_cache.keys import address_of
from fast_cache.testing import Flavour, in_both_flavours

PATIENCE = 20.0
SECRET = "hunter2"


class Clock:
    """Moves when it is told to, and by ``tick`` at each look."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.tick = 0.0
        self.look: Callable[[], object] = lambda: None
        self._ticks = itertools.count()

    def __call__(self) -> float:
        self.look()
        return self.now + next(self._ticks) * self.tick


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The clock of every backend and function that is made from now on."""
    clock = Clock()
    monkeypatch.setattr("fast_cache.backends.memory.monotonic", clock)
    monkeypatch.setattr("fast_cache.wrapper.monotonic", clock)
    defaults = S3FIFO.__init__.__kwdefaults__
    assert defaults is not None
    monkeypatch.setitem(defaults, "clock", clock)
    return clock


@pytest.fixture(autouse=True)
def _everything_is_news(monkeypatch: pytest.MonkeyPatch) -> None:
    """Warnings are given once: forget those of other tests."""
    monkeypatch.setattr("fast_cache.once._said", OrderedDict())


@pytest.fixture
def frequent_switches() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.fixture
def collecting() -> Iterator[None]:
    """Restores when garbage is collected, and hides what is there already from the collector: it is to be quick."""
    before = gc.get_threshold()
    gc.collect()
    gc.freeze()
    yield
    gc.set_threshold(*before)
    gc.unfreeze()


def cache_over(backend: InMemoryBackend) -> Cache:
    cache = Cache()
    cache.init_app(FastAPI(), backend)
    return cache


def in_threads(count: int, work: Callable[[int], object]) -> None:
    """Run ``work`` in so many threads that start together; the first exception of any is raised."""
    start = threading.Barrier(count)
    errors: list[BaseException] = []

    def run(number: int) -> None:
        try:
            start.wait(PATIENCE)
            work(number)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(number,), daemon=True) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    if errors:
        raise errors[0]
    assert not any(thread.is_alive() for thread in threads), "they wait for each other"


def gone(backend: InMemoryBackend) -> dict[str, int]:
    return {cause: count for cause, count in backend.stats().evictions.items() if count}


def count_puts(backend: InMemoryBackend, monkeypatch: pytest.MonkeyPatch) -> list[None]:
    """A list that grows by one with each entry that comes into the table."""
    put, came = backend._store.held.put, list[None]()

    def counting(*args: Any) -> Entry:
        came.append(None)
        return put(*args)

    monkeypatch.setattr(backend._store.held, "put", counting)
    return came


def assert_even(backend: InMemoryBackend, came: int | None = None) -> None:
    """Tables, queues, weight and counts tell the same, within the bounds; ``came`` entries are here or gone."""
    held, stats = backend._store.held, backend.stats()
    lying = [entry for shelf in held._shelves for entry in shelf.table.values()]
    assert len(backend) == stats.size == len(lying) <= backend.max_size
    assert held._queues.probation.size + held._queues.main.size == len(lying)
    if backend.max_weight is not None:
        assert stats.weight == pytest.approx(math.fsum(entry.weight for entry in lying))
        assert stats.weight <= backend.max_weight
    if came is not None:
        assert came == stats.size + sum(stats.evictions.values())


NUMBERS: list[Any] = [True, "10", [], 1j, Decimal(1)]


@pytest.mark.parametrize(
    ("option", "values", "error", "words"),
    [
        ("max_size", [0, -1, -(10**30)], ConfigurationError, "must be at least 1"),
        ("max_size", [*NUMBERS, None, 1.0, math.nan, math.inf], InvalidTypeError, "must be a whole number .*, not "),
        ("max_weight", [0, -1, 0.0, -0.5, math.nan, math.inf, -math.inf], ConfigurationError, "must be positive and"),
        ("max_weight", NUMBERS, InvalidTypeError, "must be a number, not "),
        ("max_weight", [None], ConfigurationError, "and weigher belong together"),
        ("weigher", [None], ConfigurationError, "belong together"),
        ("weigher", [5, "len", True, [len]], InvalidTypeError, "must be a function of the value, not "),
    ],
)
def test_options_that_can_not_work_are_refused(option: str, values: list[Any], error: type, words: str) -> None:
    for value in values:
        options: dict[str, Any] = {"max_weight": 10, "weigher": len, option: value}
        kind = type(value).__name__ if error is InvalidTypeError else ""
        with pytest.raises(error, match=f"{option} {words}{kind}"):
            InMemoryBackend(**options)


class Unhashable(str):
    __hash__ = None  # type: ignore[assignment]


class TestKeys:
    @pytest.mark.parametrize(
        "key", [None, 1, b"k", ("k",), ["k"], {"k": 1}, object(), "", "k" * 4097, "\ud800", Unhashable("k")]
    )
    def test_what_can_not_be_a_key_is_the_callers_error_and_breaks_nothing(self, key: Any) -> None:
        backend = InMemoryBackend()
        backend.set("k", 1)
        for step in (backend.get, backend.has, backend.delete, lambda key: backend.set(key, 2)):
            with pytest.raises((TypeError, ConfigurationError), match=r"key|unhashable"):
                step(key)
        assert (backend.get("k"), backend.stats().hits, backend.stats().misses) == (1, 1, 0)
        backend.set("k", 3)
        assert_even(backend, came=2)

    def test_arguments_without_a_hash_are_kept_and_those_without_a_key_are_not(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        class Unkeyable:
            def __repr__(self) -> str:
                return SECRET

        backend = InMemoryBackend(max_weight=10, weigher=lambda value: 2)
        loads: list[object] = []

        @cache_over(backend).cached
        def load(x: Any) -> int:
            loads.append(x)
            return len(loads)

        assert [load([1, {2: {3}}]) for _ in range(3)] == [1, 1, 1]
        assert [load(Unkeyable()) for _ in range(3)] == [2, 3, 4]
        assert (backend.stats().size, backend.stats().weight) == (1, 2)
        assert (len(caplog.messages), SECRET in caplog.text) == (1, False)


class Unlike:
    """A weight that does not let itself be compared."""

    def __ge__(self, other: object) -> bool:
        raise RuntimeError(SECRET)

    __lt__ = __ge__


class Sly(float):
    """A number that is fine at the first comparison and not at the others."""

    def __lt__(self, other: object) -> bool:
        raise RuntimeError(SECRET)

    def __gt__(self, other: object) -> bool:
        raise RuntimeError(SECRET)


class Weighing:
    def __init__(self, weight: Any) -> None:
        self.weight = weight

    def __repr__(self) -> str:
        return SECRET

    def __deepcopy__(self, memo: object) -> object:
        raise RuntimeError(SECRET)


def weight_of(value: Any) -> Any:
    if isinstance(value, Exception):
        raise value
    return 1 if value == "good" else value.weight


WEIGHTS = [-1, -5e-324, math.nan, math.inf, -math.inf, "1", b"1", True, False, None, 1j, [1], Unlike()]
REFUSED: list[tuple[str, Callable[[], Any]]] = [
    *(("weighing", lambda weight=weight: Weighing(weight)) for weight in WEIGHTS),
    ("weighing", lambda: ValueError(SECRET)),
    ("weighing", lambda: RecursionError(SECRET)),
    ("copying", lambda: Weighing(1)),
    ("copying", lambda: {SECRET: threading.Lock()}),
    ("copying", lambda: [SECRET, (_ for _ in ())]),
    ("copying", lambda: functools.reduce(lambda inner, _: [inner], range(10_000), list[Any]([SECRET]))),
]
"""A backend, and what makes a value that it can't take."""


def refusing(kind: str) -> InMemoryBackend:
    return InMemoryBackend(copy=True) if kind == "copying" else InMemoryBackend(max_weight=10, weigher=weight_of)


@pytest.mark.parametrize(("kind", "make"), REFUSED)
class TestRefusedValues:
    @pytest.mark.parametrize("awaited", [False, True])
    def test_set_by_hand_they_raise_and_what_was_there_is_gone(
        self, kind: str, make: Callable[[], Any], awaited: bool
    ) -> None:
        backend = refusing(kind)
        load = cache_over(backend).cached(lambda: "good")
        for key in ("k", "other", load.key()):
            backend.set(key, "good")
        for key in ("k", load.key()):
            with pytest.raises(EncodeError) as caught:
                asyncio.run(backend.aset(key, make())) if awaited else backend.set(key, make())
            assert SECRET not in str(caught.value)
            assert caught.value.__suppress_context__ or caught.value.__context__ is None, "it may quote the value"
            assert (backend.get(key), backend.has(key)) == (None, False)
        assert load() == backend.get("other") == "good"
        assert (load.stats().loads, gone(backend)) == (1, {"deleted": 2})
        assert_even(backend, came=4)

    @in_both_flavours
    async def test_returned_they_reach_the_caller_and_are_not_stored(
        self, flavour: Flavour, clock: Clock, caplog: pytest.LogCaptureFixture, kind: str, make: Callable[[], Any]
    ) -> None:
        backend = refusing(kind)
        loads: list[Any] = []

        @flavour.use(backend).cached(expire=10)
        async def load(x: int) -> Any:
            loads.append(make() if loads else "good")
            return loads[-1]

        assert await flavour.call(load, 1) == "good"
        clock.now += 10
        for number in range(3):
            assert await flavour.call(load, 1) is loads[number + 1]
            assert not backend.has(load.key(1))
        assert len(loads) == 4, "each call loads"
        assert (len(caplog.messages), SECRET in caplog.text) == (1, False)
        assert_even(backend, came=1)


class TestUsersCode:
    """The weigher and the copying are the user's code: no lock is held meanwhile, and what it raises ends nothing."""

    def test_a_weigher_that_is_interrupted_interrupts_its_caller_and_nobody_else(self) -> None:
        interrupts = [KeyboardInterrupt()]

        def weigh(value: str) -> int:
            if interrupts:
                raise interrupts.pop()
            return len(value)

        backend = InMemoryBackend(max_weight=10, weigher=weigh)
        load = cache_over(backend).cached(lambda: "value")
        with pytest.raises(KeyboardInterrupt):
            load()
        assert len(backend._store.flights) == 0, "who comes next would wait for ever"
        in_threads(1, lambda _: load())
        assert (load.stats().loads, backend.stats().weight) == (2, 5)

    @pytest.mark.parametrize("kind", ["weighing", "copying"])
    def test_it_may_use_the_cache_and_so_may_other_threads_meanwhile(self, kind: str) -> None:
        class Value:
            @property
            def weight(self) -> int:
                backend.set("aside", "good")
                for step in (lambda _: backend.get("aside"), lambda _: backend.stats(), lambda _: backend.clear()):
                    in_threads(1, step)
                backend.set("aside", "good")
                return 1

            def __deepcopy__(self, memo: object) -> int:
                return self.weight

        backend = refusing(kind)
        in_threads(1, lambda _: backend.set("k", Value()))
        assert (backend.get("aside"), backend.has("k")) == ("good", True)
        assert_even(backend, came=3)


class TestFinalizers:
    """Values whose ``__del__`` asks the cache."""

    @pytest.mark.parametrize("how", ["replaced", "deleted", "expired", "size", "weight", "cleared", "too heavy"])
    def test_whatever_lets_a_value_go_it_may_change_the_cache(self, clock: Clock, how: str) -> None:
        seen: list[Any] = []
        size = 1 if how == "size" else 3

        def weigh(value: Any) -> int:
            return 2 if isinstance(value, Value) else value

        class Value:
            def __del__(self) -> None:
                backend.set("left", 0)
                seen.append((backend.get("left"), backend.delete("never"), len(backend) <= size))

        def use() -> None:
            backend.set("k", Value(), expire=10)
            clock.now += 10 if how == "expired" else 0
            if how == "cleared":
                backend.clear()
                assert seen == [], "clear frees nothing itself"
            elif how == "deleted":
                backend.delete("k")
            key, weight = {"replaced": ("k", 1), "too heavy": ("k", 11), "weight": ("a", 9)}.get(how, ("a", 1))
            for _ in range(4):
                backend.set(key, weight)

        backend = InMemoryBackend(max_size=size, max_weight=10, weigher=weigh)
        in_threads(1, lambda _: use())
        assert seen == [(0, False, True)]
        assert_even(backend)

    @pytest.mark.parametrize(
        ("inner", "there", "size"),
        [("set", "outer", 2), ("replace", "inner", 1), ("delete", None, 0), ("clear", None, 0), ("call", "outer", 2)],
    )
    def test_a_change_in_the_midst_of_another_is_made_after_it(
        self, clock: Clock, monkeypatch: pytest.MonkeyPatch, inner: str, there: str | None, size: int
    ) -> None:
        """As the garbage collector makes it. The clock, which a change looks at, plays its part."""
        backend = InMemoryBackend(max_size=10)
        came = count_puts(backend, monkeypatch)
        changes: dict[str, Callable[[], object]] = {
            "set": lambda: backend.set("new", "inner"),
            "replace": lambda: backend.set("k", "inner"),
            "delete": lambda: backend.delete("k"),
            "clear": backend.clear,
            "call": cache_over(backend).cached(lambda: "loaded"),
        }
        backend.set("k", "old", expire=10)
        done: list[object] = []

        def look() -> None:
            if backend._store._changing and not done:
                done.append(None)
                changes[inner]()

        clock.look = look
        in_threads(1, lambda _: backend.set("k", "outer"))
        assert done, "the clock was not looked at within the change"
        assert (backend.get("k"), len(backend)) == (there, size)
        assert_even(backend, came=len(came))

    @pytest.mark.usefixtures("collecting")
    @pytest.mark.parametrize("inner", ["set", "delete", "clear", "call"])
    def test_garbage_may_be_collected_at_any_moment(self, monkeypatch: pytest.MonkeyPatch, inner: str) -> None:
        """The threshold says after how many allocations: each time between other steps of the cache."""
        backend = InMemoryBackend(max_size=5)
        came = count_puts(backend, monkeypatch)
        collected: list[None] = []

        @cache_over(backend).cached
        def load(x: int) -> int:
            return x

        class Cycle:
            def __init__(self) -> None:
                self.itself = self

            def __del__(self) -> None:
                collected.append(None)
                step(inner, 100 + len(collected) % 7)

        def step(kind: str, number: int) -> None:
            if kind == "set":
                backend.set(f"k{number % 7}", number, expire=60)
            elif kind == "delete":
                backend.delete(f"k{number % 7}")
            elif kind == "call":
                assert load(number) == number
            else:
                backend.clear()

        def work(_: int) -> None:
            for allocations in range(1, 120):
                gc.set_threshold(1_000_000)
                gc.collect()  # counts from nothing again
                Cycle()
                gc.set_threshold(allocations)
                for kind in ("call", "set", "delete", "clear"):
                    step(kind, allocations % 7)

        in_threads(1, work)
        gc.collect()
        assert len(collected) == 119
        assert_even(backend, came=len(came))


class TestWeights:
    def test_whatever_is_done_the_weight_is_that_of_what_is_there_and_within_bounds(
        self, clock: Clock, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        rng = random.Random(7)
        backend = InMemoryBackend(max_size=6, max_weight=20, weigher=lambda value: value)
        came = count_puts(backend, monkeypatch)

        @cache_over(backend).cached(expire=3)
        def load(x: int) -> float:
            return weights[x]

        weights = [0, 1, 2.5, 5, 19.9, 20, 20.1]
        for _ in range(3000):
            key, kind, index = f"k{rng.randrange(15)}", rng.randrange(5), rng.randrange(7)
            clock.now += rng.random() / 3
            if kind == 0:
                backend.delete(key)
            elif kind == 1:
                load(index)
            elif kind == 2:
                load.refresh(index)
            else:
                backend.set(key, weights[index], expire=rng.choice([None, 1, 5]))
            assert_even(backend, came=len(came))
        assert set(gone(backend)) == {"size", "weight", "expired", "deleted", "replaced"}

    def test_one_heavier_than_all_is_not_stored_and_displaces_only_what_was_under_its_key(self) -> None:
        backend = InMemoryBackend(max_weight=10, weigher=len)
        load = cache_over(backend).cached(lambda: "x" * 11)
        backend.set("other", "12345")
        backend.set("k", "1")
        backend.set("k", "x" * 11)
        assert (backend.get("k"), backend.get("other"), backend.stats().weight) == (None, "12345", 5)
        assert [len(load()), len(load()), load.stats().loads] == [11, 11, 2]
        assert gone(backend) == {"replaced": 1, "weight": 3}
        backend.set("k", "x" * 10)  # as heavy as all
        assert (len(backend), backend.stats().weight, gone(backend)) == (1, 10, {"replaced": 1, "weight": 4})

    @pytest.mark.parametrize("how", ["deleted", "expired", "cleared"])
    def test_nothing_weighs_nothing_whatever_was_rounded(self, clock: Clock, how: str) -> None:
        backend = InMemoryBackend(max_weight=100, weigher=lambda value: value)
        for number in range(10):
            backend.set(f"k{number}", 0.1, expire=1)
        clock.now += 1 if how == "expired" else 0
        for number in range(10):
            backend.clear() if how == "cleared" else backend.delete(f"k{number}" if how == "deleted" else "never")
        assert (backend.stats().weight, len(backend), gone(backend)) == (0, 0, {how: 10})


class TestExpiry:
    def test_a_value_is_there_until_its_time_and_not_at_it(self, clock: Clock) -> None:
        backend = InMemoryBackend()
        loads: list[float] = []
        load = cache_over(backend).cached(expire=10)(lambda: loads.append(clock.now))

        def found() -> tuple[Any, ...]:
            seen = backend.get("k"), asyncio.run(backend.aget("k")), backend.has("k")
            load()  # last: it reclaims what has expired
            return *seen, len(loads)

        backend.set("k", 1, expire=10)
        load()
        clock.now = math.nextafter(1010.0, 0)
        assert found() == (1, 1, True, 1)
        clock.now = 1010.0
        assert found() == (None, None, False, 2)

    @pytest.mark.parametrize(("by", "burst"), [("set", 100_000), ("call", 20_000)])
    def test_a_burst_never_takes_more_than_its_share(self, by: str, burst: int) -> None:
        backend = InMemoryBackend(max_size=1000)
        load = cache_over(backend).cached(expire=60)(lambda x: x)
        most = 0
        for number in range(burst):
            backend.set(f"k{number}", number, expire=60) if by == "set" else load(number)
            most = max(most, len(backend))
        assert (most, gone(backend)) == (1000, {"size": burst - 1000})
        tables = sum(sys.getsizeof(shelf.table) for shelf in backend._store.held._shelves)
        assert tables < 4 * sys.getsizeof(dict.fromkeys(range(1000)))
        assert_even(backend, came=burst)

    @pytest.mark.parametrize(("by", "size"), [("set", 100_000), ("call", 20_000), ("set", 10_000)])
    def test_what_expired_unread_gives_its_memory_back_to_few_writes(
        self, clock: Clock, request: pytest.FixtureRequest, by: str, size: int
    ) -> None:
        backend = InMemoryBackend(max_size=size)
        load = cache_over(backend).cached(expire=1)(lambda x: [x])
        shelves = set(backend._store.held._shelves)
        freed, traced = [], []
        if size <= 10_000:  # it makes allocations many times slower; nothing is traced without it
            tracemalloc.start()
            request.addfinalizer(tracemalloc.stop)
        traced.append(tracemalloc.get_traced_memory()[0])
        for number in range(size):
            backend.set(f"k{number}", [number], expire=1) if by == "set" else load(number)
        traced.append(tracemalloc.get_traced_memory()[0])
        large, full = max(sys.getsizeof(shelf.table) for shelf in shelves), len(backend)
        clock.now += 1
        for number in range(400):
            earlier = gone(backend).get("expired", 0)
            backend.set(f"new{number % 10}", None)
            freed.append(gone(backend).get("expired", 0) - earlier)
        traced.append(tracemalloc.get_traced_memory()[0])
        assert (full, sum(freed), len(backend)) == (size, size, 10)
        assert max(freed) <= 512, "one write may not pay for all"
        assert sum(sys.getsizeof(shelf.table) for shelf in shelves) < large / 4
        assert sum(type(found) is Entry and found.shelf in shelves for found in gc.get_objects()) == 10
        assert traced[2] - traced[0] <= (traced[1] - traced[0]) / 10
        assert_even(backend, came=size + 400)


@pytest.mark.usefixtures("collecting")
@pytest.mark.parametrize("size", [10, 20_000])
def test_clear_does_the_same_whatever_there_is_and_leaves_the_rest_to_later_changes(size: int) -> None:
    backend = InMemoryBackend()
    done: list[str] = []
    hashed: list[None] = []
    freed: list[None] = []

    class Key(str):
        def __hash__(self) -> int:
            hashed.append(None)
            return super().__hash__()

    class Value:
        def __del__(self) -> None:
            freed.append(None)

    load = cache_over(backend).cached(lambda x: Value())
    for number in range(size // 2):
        backend.set(Key(number), Value())
        load(number)
    hashed.clear()
    gc.disable()
    sys.setprofile(lambda frame, event, argument: done.append(event))
    backend.clear()
    sys.setprofile(None)
    gc.enable()
    assert (len(hashed), len(freed), len(backend)) == (0, 0, 0)
    assert len(done) < 80, "its work grows with the number of entries"
    most = 0
    for _ in range(size // 64 + 3):
        earlier = len(freed)
        backend.delete("never")
        most = max(most, len(freed) - earlier)
    assert (len(freed), most) == (size, min(size // 2, 64))
    assert_even(backend, came=size)


@pytest.mark.usefixtures("frequent_switches")
@pytest.mark.parametrize("options", [{}, {"copy": True}, {"max_weight": 60, "weigher": lambda value: value[0] % 4}])
def test_threads_get_right_answers_and_the_counts_come_out_even(
    clock: Clock, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]
) -> None:
    """The clock ticks at each look, so that entries expire at every possible moment."""
    clock.tick = 1e-3
    backend = InMemoryBackend(max_size=30, **options)
    came = count_puts(backend, monkeypatch)
    asked, called = [0] * 32, [0] * 32

    @cache_over(backend).cached(expire=0.5)
    def load(x: int) -> list[int]:
        return [x]

    def work(number: int) -> None:
        rng = random.Random(number)
        for _ in range(600):
            x, kind = rng.randrange(60), rng.random()
            if kind < 0.3:
                called[number] += 1
                assert load(x) == [x]
            elif kind < 0.6:
                asked[number] += 1
                assert backend.get(f"k{x}", [x]) == [x]
            elif kind < 0.85:
                backend.set(f"k{x}", [x], expire=rng.choice([None, 0.05, 0.5]))
            elif kind < 0.95:
                rng.choice([backend.delete, backend.has])(f"k{x}")
            elif kind < 0.99:
                load.invalidate(x)
            else:
                backend.clear()
            assert len(backend) <= 30

    in_threads(32, work)
    own, stats = load.stats(), backend.stats()
    assert own.hits + own.misses == sum(called)
    assert stats.hits + stats.misses == sum(called) + sum(asked)
    assert min(own.hits, own.misses, stats.hits - own.hits) > 0
    assert own.loads <= own.misses
    assert len(backend._store.flights) == 0
    assert {"expired", "deleted", "replaced", "cleared"} <= set(gone(backend))
    assert_even(backend, came=len(came))


@pytest.mark.usefixtures("frequent_switches")
def test_a_change_is_made_when_its_caller_goes_on() -> None:
    backend = InMemoryBackend()

    def work(number: int) -> None:
        key = f"k{number}"
        for turn in range(200):
            backend.set(key, turn)
            assert backend.get(key) == turn
            assert backend.delete(key) is True
            assert backend.get(key) is None

    in_threads(32, work)
    assert gone(backend) == {"deleted": 32 * 200}
    assert_even(backend, came=32 * 200)


class TestLoops:
    def test_one_loop_after_the_other_shares_the_values_and_none_is_kept(self) -> None:
        backend = InMemoryBackend()
        loads: list[int] = []
        loops: list[weakref.ref[Any]] = []

        @cache_over(backend).cached
        async def load(x: int) -> list[int]:
            loads.append(x)
            await asyncio.sleep(0)
            return [x]

        async def visit(turn: int) -> list[Any]:
            loops.append(weakref.ref(asyncio.get_running_loop()))
            await backend.aset(f"k{turn}", turn)
            results = await asyncio.gather(*(load(x) for x in (9, turn) for _ in range(5)))
            return [results, [await backend.aget(f"k{earlier}") for earlier in range(turn + 1)]]

        for turn in range(3):
            assert asyncio.run(visit(turn)) == [[[9]] * 5 + [[turn]] * 5, list(range(turn + 1))]
        gc.collect()
        assert [loop() for loop in loops] == [None] * 3
        assert loads == [9, 0, 1, 2]
        assert (load.stats().hits, load.stats().misses, len(backend._store.flights)) == (10, 20, 0)

    def test_loops_in_several_threads_share_one_load(self) -> None:
        backend = InMemoryBackend()
        loads: list[int] = []
        results: list[list[int]] = []

        @cache_over(backend).cached
        async def load(x: int) -> list[int]:
            loads.append(x)
            async with asyncio.timeout(PATIENCE):
                while backend._store.flights.waiting(address_of(load.key(x))) < 4 * 5 - 1:  # noqa: ASYNC110
                    await asyncio.sleep(0.001)
            return [x]

        async def visit() -> None:
            results.extend(await asyncio.gather(*(load(1) for _ in range(5))))

        in_threads(4, lambda _: asyncio.run(visit()))
        assert results == [[1]] * 20
        assert len(set(map(id, results))) == 1
        assert loads == [1]
        assert (load.stats().misses, load.stats().loads, len(backend)) == (20, 1, 1)


# What was found by attacking it: each was possible once


@pytest.mark.parametrize("weight", [Sly(1), Decimal(1), Fraction(1)])
def test_what_derives_from_a_number_weighs_as_that_number(weight: Any) -> None:
    backend = InMemoryBackend(max_weight=10, weigher=lambda value: 0.5 if value == "light" else weight)
    load = cache_over(backend).cached(lambda value: value)
    assert [load("light"), load("heavy"), load.refresh("heavy")] == ["light", "heavy", "heavy"]
    assert backend.stats().weight == 1.5


@pytest.mark.parametrize("kind", ["weighing", "copying", "condition"])
def test_a_refresh_whose_result_is_not_stored_leaves_no_stale_value(kind: str) -> None:
    backend = refusing(kind)
    values: list[Any] = ["good", Weighing(-1), "newest"]
    cached = cache_over(backend).cached(condition=lambda value: kind != "condition" or value in ("good", "newest"))
    load = cached(lambda: values.pop(0))
    load()
    load.refresh()
    assert not backend.has(load.key())
    assert load() == "newest"


@pytest.mark.parametrize("kind", ["weigher", "copy", "condition"])
def test_users_code_that_runs_after_the_load_may_ask_for_the_same_key(kind: str) -> None:
    asked: list[int] = []

    def again(value: object) -> int:
        if not asked:
            asked.append(1)
            load()
        return 1

    class Value:
        def __deepcopy__(self, memo: object) -> Value:
            again(self)
            return self

    backend = InMemoryBackend(
        copy=kind == "copy",
        max_weight=5 if kind == "weigher" else None,
        weigher=again if kind == "weigher" else None,
    )
    load = cache_over(backend).cached(condition=again if kind == "condition" else None)(lambda: Value())
    in_threads(1, lambda _: load())
    assert asked == [1]


@pytest.mark.parametrize("inner", ["call", "stats"])
@pytest.mark.parametrize("outer", ["call", "stats"])
def test_garbage_that_is_collected_in_the_midst_of_the_cache_may_ask_the_cache(outer: str, inner: str) -> None:
    backend = InMemoryBackend(max_size=5)
    load = cache_over(backend).cached(lambda x: x)
    numbers = itertools.count()
    steps: dict[str, Callable[[], object]] = {
        "call": lambda: load(next(numbers)),
        "stats": lambda: (load.stats(), backend.stats()),
    }

    class Cycle:
        def __init__(self) -> None:
            self.itself = self

        def __del__(self) -> None:
            steps[inner]()

    def work(_: int) -> None:
        for allocations in range(1, 120):
            gc.set_threshold(1_000_000)
            Cycle()
            gc.set_threshold(allocations)
            steps[outer]()
            steps[outer]()

    before = gc.get_threshold()
    gc.collect()
    gc.freeze()  # or each collection would look at all that the tests have imported
    try:
        in_threads(1, work)
    finally:
        gc.set_threshold(*before)
        gc.unfreeze()


@pytest.mark.parametrize("last", ["set", "delete"])
def test_changes_that_waited_are_made_in_their_order(monkeypatch: pytest.MonkeyPatch, last: str) -> None:
    backend = InMemoryBackend()
    held = backend._store.held
    reclaim = held.reclaim

    def collecting() -> None:  # as garbage that is collected there does
        monkeypatch.setattr(held, "reclaim", reclaim)
        backend.set("k", 1)
        backend.set("k", 2) if last == "set" else backend.delete("k")

    monkeypatch.setattr(held, "reclaim", collecting)
    backend.set("other", 0)
    assert backend.get("k") == (2 if last == "set" else None)


def test_the_weight_is_within_its_bound_at_any_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    backend = InMemoryBackend(max_weight=10, weigher=lambda value: value)
    backend.set("a", 5)
    backend.set("b", 5)
    seen: list[float] = []
    queues = backend._store.held._queues
    evict = queues.evict

    def watched(queue: Any) -> Any:  # what another thread finds in stats() meanwhile
        seen.append(backend._store.weight())
        return evict(queue)

    monkeypatch.setattr(queues, "evict", watched)
    backend.set("a", 10)
    assert seen
    assert max(seen) <= 10
    assert backend.stats().weight in (0, 10)


@pytest.mark.parametrize("options", [{"max_size": 10**400}, {"max_weight": 10**400, "weigher": len}])
def test_bounds_beyond_all_numbers_of_the_machine_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        InMemoryBackend(**options)
