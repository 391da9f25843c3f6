"""What a hit costs, shown by its causes: what runs, what it waits for and what it keeps; and what a wrapper accepts."""

from __future__ import annotations

import asyncio
import gc
import itertools
import math
import sys
import threading
from collections.abc import Callable, Iterator
from types import CodeType, CoroutineType, FrameType
from typing import Any, Final, NamedTuple
from uuid import UUID

import pytest
from fastapi import FastAPI

from fast_cache import Cache, ConfigurationError, InMemoryBackend
from fast_cache.backends.memory import MemoryStore
from fast_cache.entry import MAX_VISITS, MISSING, Entry
from fast_cache.method import CachedMethod


@pytest.fixture
def backend() -> InMemoryBackend:
    return InMemoryBackend()


@pytest.fixture
def store(backend: InMemoryBackend) -> Cache:
    """A cache over ``backend``."""
    cache = Cache()
    cache.init_app(FastAPI(), backend)
    return cache


# The calls whose hits are looked at


class Hit(NamedTuple):
    """A call that is a hit from the second time on; each load returns another object."""

    call: Callable[[], Any]
    runs: list[CodeType]
    """The Python functions that run in a hit, in this order."""
    calls: list[str]
    """The C functions that they call, in this order. Neither a type nor a slot of one, as a counter's, is seen."""


AT_A_GLANCE: Final = ["function", "async", "nothing", "four", "uuid", "method", "async method", "class", "get", "aget"]
BY_TEXT: Final = ["text", "async text"]
LOOK_UP: Final = ["dict.get", "monotonic"]
LOOK_UP_OWNED: Final = ["id", "dict.get", *LOOK_UP]  # the shelf of the class first
UUIDS_OWN: Final = [UUID.__hash__.__code__, UUID.__eq__.__code__]


class Rates:
    """Can be imported, so the calls of its classmethods need no text."""

    rate: Any


def make_hits(store: Cache, backend: InMemoryBackend) -> dict[str, Hit]:
    cached: Callable[[Any], Any] = store.cached(expire=60)

    @cached
    def fn(x: Any) -> object:
        return object()

    @cached
    async def afn(x: Any) -> object:
        return object()

    @cached
    def nothing() -> object:
        return object()

    @cached
    def four(*, a: int, b: str, c: bool, d: Any = None) -> object:
        return object()

    class Shop:
        def __cache_key__(self) -> str:
            return "main"

        @cached
        def price(self, x: int) -> object:
            return object()

        @cached
        async def stock(self, x: int) -> object:
            return object()

    def rate(cls: type, x: int) -> object:
        return object()

    shop: Any = Shop()
    Rates.rate = cached(classmethod(rate))
    stored, uuid = (UUID(int=7) for _ in range(2))  # equal, and another object, as the next request brings it
    uuids = itertools.chain([stored], itertools.repeat(uuid))
    reached, key = CachedMethod.__get__.__code__, Shop.__cache_key__.__code__
    return {
        "function": Hit(lambda: fn(1), [fn.__code__], LOOK_UP),
        "async": Hit(lambda: afn(1), [afn.__code__], LOOK_UP),
        "nothing": Hit(lambda: nothing(), [nothing.__code__], LOOK_UP),
        "four": Hit(lambda: four(a=1, b="b", c=True, d=b"d"), [four.__code__], LOOK_UP),
        "uuid": Hit(lambda: fn(next(uuids)), [fn.__code__, *UUIDS_OWN], LOOK_UP),
        "method": Hit(lambda: shop.price(1), [reached, type(shop.price).__call__.__code__, key], LOOK_UP_OWNED),
        "async method": Hit(lambda: shop.stock(1), [reached, type(shop.stock).__call__.__code__, key], LOOK_UP_OWNED),
        "class": Hit(lambda: Rates.rate(1), [reached, type(Rates.rate).__call__.__code__], LOOK_UP_OWNED),
        "get": Hit(lambda: backend.get("key", "nothing"), [InMemoryBackend.get.__code__], LOOK_UP),
        "aget": Hit(lambda: backend.aget("key", "nothing"), [InMemoryBackend.aget.__code__], LOOK_UP),
        # What runs here is the business of the keys.
        "text": Hit(lambda: fn([1, {"a": 2.5}]), [], []),
        "async text": Hit(lambda: afn([1, {"a": 2.5}]), [], []),
    }


class Clock:
    now = 1000.0


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The clock of the functions that are decorated from now on, and of memory."""
    clock = Clock()
    for module in ("fast_cache.wrapper", "fast_cache.backends.memory"):
        monkeypatch.setattr(f"{module}.monotonic", lambda: clock.now)
    return clock


@pytest.fixture(params=[*AT_A_GLANCE, *BY_TEXT])
def hit(request: pytest.FixtureRequest, store: Cache, backend: InMemoryBackend) -> Hit:
    """A call of every kind that can be a hit in local memory; the only one whose result will be stored."""
    if request.param in ("get", "aget"):
        backend.set("key", object(), expire=60)
    return make_hits(store, backend)[request.param]


at_a_glance = pytest.mark.parametrize("hit", AT_A_GLANCE, indirect=True)


def finished(result: Any) -> Any:
    """The result of a call; a coroutine runs to its end on an event loop."""
    return asyncio.run(result) if type(result) is CoroutineType else result


def finished_at_once(result: Any) -> Any:
    """The same without a loop, of a coroutine that must not suspend."""
    if type(result) is not CoroutineType:
        return result
    try:
        result.send(None)
    except StopIteration as end:
        return end.value
    raise AssertionError("the call suspended")


def only_entry(backend: InMemoryBackend) -> Entry:
    store = backend._store
    shelves = [store.lying, *store._shelves.values(), *store._shelves_of_texts.values()]
    [entry] = itertools.chain.from_iterable(shelf.table.values() for shelf in shelves)
    return entry


@pytest.fixture
def no_collections() -> Iterator[None]:
    """No garbage collection: it would run callbacks in the middle of a call, and free what a call leaves behind."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


# What runs in a hit


def watched(call: Callable[[], Any]) -> tuple[Any, list[CodeType], list[str]]:
    """What a call returned, the Python functions that ran in it, and the C functions that these called."""
    runs: list[CodeType] = []
    calls: list[str] = []
    of_the_test = (watched.__code__, finished_at_once.__code__, getattr(call, "__code__", None))

    def profile(frame: FrameType, event: str, arg: Any) -> None:
        if event == "call" and frame.f_code not in of_the_test:
            runs.append(frame.f_code)
        elif event == "c_call" and frame.f_code not in (*of_the_test, *UUIDS_OWN):
            calls.append(arg.__qualname__)

    before = sys.getprofile()
    sys.setprofile(profile)
    try:
        result = finished_at_once(call())
    finally:
        sys.setprofile(before)
    return result, runs, calls


@at_a_glance
@pytest.mark.usefixtures("no_collections")
def test_a_hit_is_a_lookup_and_a_look_at_the_clock(hit: Hit) -> None:
    """Nothing else runs: no key text, no flow, no logger, no generator."""
    stored = finished(hit.call())
    for _ in range(MAX_VISITS + 2):
        assert watched(hit.call) == (stored, hit.runs, hit.calls)


@pytest.mark.parametrize("hit", ["function"], indirect=True)
def test_what_a_hit_does_not_do_would_be_seen(hit: Hit) -> None:
    _, runs, calls = watched(hit.call)  # a miss
    assert len(runs) > 10
    assert len(calls) > 10


# What a hit waits for


def test_a_hit_never_suspends(hit: Hit) -> None:
    stored = finished(hit.call())
    assert [finished_at_once(hit.call()) for _ in range(5)] == [stored] * 5


def test_a_hit_asks_nothing_of_the_event_loop(hit: Hit) -> None:
    asked: list[str] = []

    def noting(name: str, do: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *args, **kwargs: (asked.append(name), do(*args, **kwargs))[1]  # type: ignore[func-returns-value]

    async def ask() -> Any:
        result = hit.call()
        return await result if type(result) is CoroutineType else result

    async def main() -> None:
        loop = asyncio.get_running_loop()
        for name in ("create_task", "create_future", "call_soon", "call_soon_threadsafe", "call_at"):
            setattr(loop, name, noting(name, getattr(loop, name)))
        stored = await asyncio.create_task(ask())
        assert set(asked) >= {"create_task", "call_soon"}
        asked.clear()
        assert [await ask() for _ in range(5)] == [stored] * 5
        assert asked == []

    asyncio.run(main())


class WatchedLock:
    """A lock that notes that it is taken."""

    def __init__(self, lock: Any, taken: list[Any]) -> None:
        self._lock = lock
        self._taken = taken

    def acquire(self, *args: Any, **kwargs: Any) -> bool:
        self._taken.append(self)
        got: bool = self._lock.acquire(*args, **kwargs)
        return got

    def release(self) -> None:
        self._lock.release()

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(self, *_: object) -> None:
        self.release()


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The locks that were taken, of those that the package's modules have and all that are made from now on."""
    taken: list[Any] = []
    makers = {"Lock": threading.Lock, "RLock": threading.RLock}
    kinds = tuple(type(make()) for make in makers.values())
    for module in [module for name, module in sys.modules.items() if name.startswith("fast_cache.")]:
        for name, value in list(vars(module).items()):
            if isinstance(value, kinds):
                monkeypatch.setattr(module, name, WatchedLock(value, taken))
    for name, make in makers.items():
        monkeypatch.setattr(threading, name, lambda make=make: WatchedLock(make(), taken))
    return taken


def test_a_hit_takes_no_lock(taken: list[Any], hit: Hit) -> None:
    stored = finished(hit.call())
    assert taken, "a load takes some"
    taken.clear()
    assert [finished_at_once(hit.call()) for _ in range(5)] == [stored] * 5
    assert taken == []


# What a hit leaves behind


@pytest.mark.usefixtures("no_collections")
def test_hits_keep_no_memory(hit: Hit) -> None:
    """Not even in cycles, which nothing collects here."""
    finished(hit.call())
    for turn in range(2500):
        if turn == 500:  # the interpreter has adapted to it, and the counter has outgrown the numbers that always exist
            before = sys.getallocatedblocks()
        finished_at_once(hit.call())
    assert sys.getallocatedblocks() - before < 1000  # half a block for each


def test_an_entry_that_is_read_all_the_time_is_written_to_no_more(hit: Hit, backend: InMemoryBackend) -> None:
    finished(hit.call())
    entry = only_entry(backend)
    entry.visits = 0
    visits = []
    for _ in range(MAX_VISITS + 2):
        finished_at_once(hit.call())
        visits.append(entry.visits)
    assert visits == [*range(1, MAX_VISITS + 1), MAX_VISITS, MAX_VISITS]


# What is no hit


class Vanishing(Entry):
    """Another thread retires it as soon as its value or its expiry has been read."""

    __slots__ = ()
    reads: list[str] = []

    def __getattribute__(self, name: str) -> Any:
        result = super().__getattribute__(name)
        if name in ("value", "expires"):
            Vanishing.reads.append(name)
            self.retire()
        return result


def test_an_entry_that_is_retired_while_it_is_read_is_no_cached_none(
    hit: Hit, backend: InMemoryBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored = finished(hit.call())
    monkeypatch.setattr(Vanishing, "reads", [])
    only_entry(backend).__class__ = Vanishing
    result = finished(hit.call())
    assert Vanishing.reads[:2] == ["value", "expires"]
    assert result is not None
    assert result is not stored


def test_nor_is_it_one_where_a_store_looks_for_itself(backend: InMemoryBackend) -> None:
    backend.set("key", "value")
    only_entry(backend).__class__ = Vanishing
    assert backend._store.look("key") is MISSING


def test_a_retired_entry_is_no_hit(hit: Hit, backend: InMemoryBackend) -> None:
    stored = finished(hit.call())
    only_entry(backend).retire()
    result = finished(hit.call())
    assert result is not None
    assert result is not stored


def test_the_moment_of_its_expiry_is_the_first_without_an_entry(
    clock: Clock, hit: Hit, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored = finished(hit.call())
    with monkeypatch.context() as patch:
        patch.delattr(MemoryStore, "look")  # what is found at a glance needs no second look
        clock.now = math.nextafter(1060.0, 0)
        assert finished(hit.call()) is stored
    clock.now = 1060.0
    assert finished(hit.call()) is not stored


# What a wrapper accepts

ODD = object()


def nothing() -> Any:
    return ()


def kinds(a: Any, /, b: Any, c: Any = 3, *args: Any, d: Any, e: Any = 5, **kwargs: Any) -> Any:
    return a, b, c, args, d, e, kwargs


def odd_default(a: Any = ODD, /, *, b: Any = ODD) -> Any:
    return a, b


def ours(self: Any, type: Any, key: Any, *, entry: Any = 1, monotonic: Any) -> Any:
    return self, type, key, entry, monotonic


def internals(_0: Any, _1: Any, __2: Any, _14: Any = 14, *, _23: Any = 23, id: Any = 0, frozenset: Any = 0) -> Any:
    return _0, _1, __2, _14, _23, id, frozenset


def foreign(größe: Any, naïveté: Any = 1, *, ключ: Any = 2) -> Any:
    return größe, naïveté, ключ


async def awaited(x: Any) -> None: ...


SIXTY: Final = [f"p{number}" for number in range(60)]
namespace: dict[str, Any] = {"__name__": __name__}
exec(f"def sixty({', '.join(SIXTY)}=59):\n    return ({', '.join(SIXTY)})", namespace)
sixty = namespace["sixty"]

CALLS: list[tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]] = [
    (nothing, (), {}),
    (nothing, (1,), {}),
    (kinds, (1, 2), {"d": 4}),
    (kinds, (1, 2, 3, 4, 5), {"d": 4, "e": 6, "a": 7, "x": 8, "self": 9}),
    (kinds, (1,), {"b": 2.5, "d": 4}),
    (kinds, (1,), {"d": 4, "a": 1}),
    (kinds, (1, 2), {}),
    (odd_default, (), {}),
    (odd_default, (1,), {"b": 2}),
    (odd_default, (), {"a": 1}),
    (odd_default, (1, 2), {"b": 2}),
    (ours, (1, 2, 3), {"monotonic": 4}),
    (ours, (1, 2), {"monotonic": 4, "entry": 5, "key": 6}),
    (internals, (1, 2, 3), {}),
    (internals, (1, 2, 3, 4), {"_23": 5, "id": 6, "frozenset": 7}),
    (internals, (1, 2, 3), {"id": 1.5}),
    (internals, (1, 2), {}),
    (foreign, (), {"größe": 1, "naïveté": 2, "ключ": 3}),
    (foreign, (), {}),
    (awaited, (), {}),  # at the call already, and not where it is awaited
    (sixty, tuple(range(59)), {}),
    (sixty, (), {name: number for number, name in enumerate(reversed(SIXTY))}),
    (sixty, tuple(range(58)), {}),
    (lambda a, /, *, b=1: (a, b), (1,), {}),
    (lambda a, /, *, b=1: (a, b), (), {"a": 1}),
]


def outcome(fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """What a call returns, or the words of its complaint."""
    try:
        return fn(*args, **kwargs)
    except TypeError as error:
        return str(error)


@pytest.mark.parametrize(("fn", "args", "kwargs"), CALLS)
def test_a_wrapper_binds_or_complains_as_the_function_does(
    store: Cache, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> None:
    expected = outcome(fn, *args, **kwargs)
    cached = store.cached(fn)
    assert [outcome(cached, *args, **kwargs) for _ in range(2)] == [expected] * 2
    assert outcome(Cache().cached(fn), *args, **kwargs) == expected, "before init_app"
    accepted = type(expected) is tuple
    assert cached.stats().hits == (accepted and ODD not in expected)
    if accepted:  # a complaint counts skip_cache among the arguments
        assert cached(*args, **kwargs, skip_cache=True) == expected


def test_a_default_is_the_object_itself(store: Cache) -> None:
    first, second = [1], {"b": [2]}

    @store.cached
    def fn(a: list[int] = first, *, b: Any = second) -> tuple[list[int], Any]:
        return a, b

    for a, b in (fn(), fn(), fn(skip_cache=True)):
        assert a is first
        assert b is second
    assert fn.stats().hits == 1


@pytest.mark.parametrize("name", ["fn", "afn"])
def test_the_parameter_of_requests_is_reserved(store: Cache, name: str) -> None:
    def fn(x: int, fast_cache_request__: Any = None) -> None: ...
    async def afn(x: int, *, fast_cache_request__: Any) -> None: ...

    functions: dict[str, Any] = {"fn": fn, "afn": afn}
    with pytest.raises(ConfigurationError, match=rf"{name} has a parameter named fast_cache_request__, which is res"):
        store.cached(functions[name])
