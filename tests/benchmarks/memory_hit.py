"""What a hit in local memory costs: the whole decorated call, and the bare store.

Every value is fresh and has a lifetime, except where a library knows none. Decorators are used as their documentation
shows them, large enough to hold everything. The functions stand in this module, as an application's would, so that
keys have the length that they have in life.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from fastapi import FastAPI

from fast_cache import Cache, InMemoryBackend
from tests.benchmarks.harness import Contender, Effort, Measurement, measure
from tests.benchmarks.peers import library, made
from tests.benchmarks.report import OURS, Options, Table, duration, durations, ratio

LIFETIME = 300
SIZE = 100_000
DISTINCT = 20_000

Decorator = Callable[[Callable[..., Any]], Any]

_ran: Counter[str] = Counter()


def loads() -> int:
    """How often the functions below have run."""
    return _ran.total()


def fetch(number: int) -> int:
    _ran["fetch"] += 1
    return number


async def afetch(number: int) -> int:
    _ran["afetch"] += 1
    return number


def search(category: str, page: int, size: int, in_stock: bool) -> int:
    _ran["search"] += 1
    return page


def by_text(slug: str) -> str:
    _ran["by_text"] += 1
    return slug


def by_uuid(item_id: UUID) -> UUID:
    _ran["by_uuid"] += 1
    return item_id


def since(moment: datetime) -> datetime:
    _ran["since"] += 1
    return moment


class Shop:
    """What a cached method belongs to."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __cache_key__(self) -> str:
        return self.name

    def price(self, number: int) -> int:
        _ran["price"] += 1
        return number


SHAPES: dict[str, tuple[str, Callable[[Decorator], dict[str, Any]]]] = {
    "one int": ("fetch(7)", lambda cached: {"fetch": cached(fetch)}),
    "four keywords": (
        "search(category='books', page=3, size=50, in_stock=True)",
        lambda cached: {"search": cached(search)},
    ),
    "str": ("by_text(slug)", lambda cached: {"by_text": cached(by_text), "slug": "the-slug-of-an-article"}),
    "UUID": (
        "by_uuid(item_id)",
        lambda cached: {"by_uuid": cached(by_uuid), "item_id": UUID("12345678-1234-5678-1234-567812345678")},
    ),
    "datetime": (
        "since(moment)",
        lambda cached: {"since": cached(since), "moment": datetime(2026, 11, 20, 12, 30, tzinfo=UTC)},
    ),
    "method, one int": (
        "shop.price(7)",
        lambda cached: {"shop": type("CachedShop", (Shop,), {"price": cached(Shop.price)})("main")},
    ),
}
"""For each kind of call its source, and the objects in it, given a decorator. The first is what others compare with."""


def run(options: Options) -> Iterator[Table]:
    effort = Effort(rounds=4, calls=50) if options.quick else Effort()
    yield decorated(effort)
    yield decorated_async(effort)
    yield shapes(effort)
    yield many_keys(effort, 200 if options.quick else DISTINCT)
    yield store(effort)
    yield store_async(effort)


def decorated(effort: Effort) -> Table:
    """One ``int``, sync."""

    def lru_cache() -> Contender:
        return _call("functools.lru_cache", functools.lru_cache(SIZE)(fetch), "in C; knows no lifetime")

    def cachebox() -> Contender:
        return _call("cachebox", _by_cachebox(fetch), "in Rust")

    def cachetools() -> Contender:
        module = library("cachetools")
        cached = module.cached(module.TTLCache(SIZE, LIFETIME))(fetch)
        return _call("cachetools", cached, "without a lock, as is its default: not for threads")

    def theine() -> Contender:
        return _call("theine", _by_theine(fetch), "its policy is in Rust")

    peers = [lru_cache, cachebox, cachetools, theine]
    return _side_by_side("A hit of a sync function, one int", _call(OURS, _by_ours(fetch)), peers, effort)


def decorated_async(effort: Effort) -> Table:
    """One ``int``, async."""

    def cachebox() -> Contender:
        return _await("cachebox", _by_cachebox(afetch))

    def async_lru() -> Contender:
        return _await("async_lru", library("async_lru").alru_cache(maxsize=SIZE, ttl=LIFETIME)(afetch))

    def theine() -> Contender:
        return _await("theine", _by_theine(afetch))

    def cashews() -> Contender:
        cache = library("cashews").Cache()
        cache.setup(f"mem://?size={SIZE}")
        return _await("cashews mem://", cache(ttl=LIFETIME)(afetch))

    def aiocache() -> Contender:
        return _await("aiocache", library("aiocache").cached(ttl=LIFETIME)(afetch))

    peers = [cachebox, async_lru, theine, cashews, aiocache]
    return _side_by_side("A hit of an async function, one int", _await(OURS, _by_ours(afetch)), peers, effort)


def shapes(effort: Effort) -> Table:
    """Other arguments, beside the call with one ``int`` and beside cachebox."""
    ours = [_shaped(shape, shape, _by_ours) for shape in SHAPES]
    names = {shape: f"{shape}, cachebox" for shape in SHAPES}
    theirs, absent = made(functools.partial(_shaped, names[shape], shape, _by_cachebox) for shape in SHAPES)
    measurement = measure([*ours, *theirs], effort, loads=loads)
    first = ours[0].name
    rows = []
    for shape, name in names.items():
        row = [shape, duration(measurement.per_call(shape).median), ratio(measurement.ratio(shape, first))]
        if name in measurement.samples:
            row += [duration(measurement.per_call(name).median), ratio(measurement.ratio(shape, name))]
        else:
            row += ["-", "-"]
        rows.append(row)
    return Table(
        "A hit by the kind of argument, sync",
        ["", OURS, f"÷ {first}", "cachebox", f"{OURS} ÷ cachebox"],
        rows,
        notes=[
            "cachebox takes arguments as they are: 1, 1.0 and True are one key, the same keywords in another order are "
            "another key, and the instance of a method is known by its address.",
            *dict.fromkeys(absent),
        ],
    )


def many_keys(effort: Effort, how_many: int) -> Table:
    """Every key in turn: a memo that is smaller than the keys in use would not survive it."""
    texts = [str(number) for number in range(how_many)]

    def items() -> list[int]:
        return [int(text) for text in texts]

    def cachebox() -> Contender:
        return Contender("cachebox", "fetch(item)", {"fetch": _by_cachebox(fetch)})

    ours = Contender(OURS, "fetch(item)", {"fetch": _by_ours(fetch)})
    title = f"A hit of a sync function, {how_many:,} distinct ints in turn"
    return _side_by_side(title, ours, [cachebox], Effort(rounds=max(4, effort.rounds // 16)), items=items)


def store(effort: Effort) -> Table:
    """The bare store, sync."""

    def dictionary() -> Contender:
        return _read("dict", {KEY: 7}, "the floor: no lifetime, no bound")

    def cachebox() -> Contender:
        return _read("cachebox.TTLCache", _filled(library("cachebox").TTLCache(SIZE, LIFETIME)))

    def cachetools() -> Contender:
        return _read("cachetools.TTLCache", _filled(library("cachetools").TTLCache(SIZE, LIFETIME)), "without a lock")

    def theine() -> Contender:
        cache = library("theine").Cache(SIZE)
        cache.set(KEY, 7, timedelta(seconds=LIFETIME))
        return _read("theine", cache)

    backend = InMemoryBackend(max_size=SIZE)
    backend.set(KEY, 7, LIFETIME)
    ours = _read(OURS, backend)
    return _side_by_side("A read of the bare store, sync", ours, [dictionary, cachebox, cachetools, theine], effort)


def store_async(effort: Effort) -> Table:
    """The bare store, async."""

    def cashews() -> Contender:
        cache = library("cashews").Cache()
        cache.setup(f"mem://?size={SIZE}")
        return Contender("cashews mem://", READ_ASYNC, {"cache": cache}, prepare=lambda: cache.set(KEY, 7, LIFETIME))

    def aiocache() -> Contender:
        cache = library("aiocache").SimpleMemoryCache()
        return Contender("aiocache", READ_ASYNC, {"cache": cache}, prepare=lambda: cache.set(KEY, 7, LIFETIME))

    backend = InMemoryBackend(max_size=SIZE)
    backend.set(KEY, 7, LIFETIME)
    ours = Contender(OURS, READ_ASYNC.replace("get", "aget"), {"cache": backend})
    return _side_by_side("A read of the bare store, async", ours, [cashews, aiocache], effort)


KEY = "shop:item:7"
READ = f"cache.get({KEY!r})"
READ_ASYNC = f"await {READ}"


def _by_ours(fn: Callable[..., Any]) -> Any:
    cache = Cache()
    cache.init_app(FastAPI(), backend=InMemoryBackend(max_size=SIZE))
    return cache.cached(expire=LIFETIME)(fn)


def _by_cachebox(fn: Callable[..., Any]) -> Any:
    cachebox = library("cachebox")
    return cachebox.cached(cachebox.TTLCache(SIZE, LIFETIME))(fn)


def _by_theine(fn: Callable[..., Any]) -> Any:
    return library("theine").Memoize(SIZE, timedelta(seconds=LIFETIME))(fn)


def _filled(cache: Any) -> Any:
    cache[KEY] = 7
    return cache


def _call(name: str, cached: Any, note: str = "") -> Contender:
    return Contender(name, "fetch(7)", {"fetch": cached}, note)


def _await(name: str, cached: Any, note: str = "") -> Contender:
    return Contender(name, "await fetch(7)", {"fetch": cached}, note)


def _read(name: str, cache: Any, note: str = "") -> Contender:
    return Contender(name, READ, {"cache": cache}, note)


def _shaped(name: str, shape: str, decorator: Decorator) -> Contender:
    statement, names = SHAPES[shape]
    return Contender(name, statement, names(decorator))


def _side_by_side(
    title: str,
    ours: Contender,
    peers: Sequence[Callable[[], Contender]],
    effort: Effort,
    *,
    items: Callable[[], Sequence[Any]] | None = None,
) -> Table:
    present, absent = made(peers)
    contenders = [ours, *present]
    measurement = measure(contenders, effort, items=items, loads=loads)
    return Table(
        title,
        ["", "per call", "quartiles", f"{OURS} ÷ it"],
        [_row(contender, ours, measurement) for contender in contenders],
        notes=[*(f"{c.name}: {c.note}." for c in contenders if c.note), *absent],
        bars=[(c.name, measurement.per_call(c.name).median / 1000) for c in contenders],
    )


def _row(contender: Contender, ours: Contender, measurement: Measurement) -> list[str]:
    taken = measurement.per_call(contender.name)
    compared = "1" if contender is ours else ratio(measurement.ratio(ours.name, contender.name))
    return [contender.name, duration(taken.median), durations(taken), compared]
