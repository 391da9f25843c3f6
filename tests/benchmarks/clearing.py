"""What it takes to clear: the call itself, and what the server's other callers notice while the memory is freed."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from math import inf
from time import monotonic, sleep
from typing import Any, Final

import redis
from fastapi import FastAPI

from fast_cache import Cache, RedisBackend
from tests.benchmarks.report import Options, Skipped, Table
from tests.support.redis_server import RedisServer, RedisServerNotFound, find_redis_server

_SIZES: Final = (1_000, 1_000_000, 10_000_000)
_FEW: Final = (1_000, 20_000)
_STEP: Final = 50_000
"""Entries that are made by one script."""

_STEP_BY_STEP: Final = 1_000_000
"""More than that are not removed by one call: for each it takes as long."""

_CALLS: Final = 25
_BEFORE: Final = 1.0
_WATCHED: Final = 20.0
"""For how many seconds it is watched what others wait: before, and at most meanwhile."""

_PREFIX: Final = "article "

_FILL: Final = """
for number = tonumber(ARGV[1]), tonumber(ARGV[2]) do
    redis.call('SET', 'shop:v:{' .. ARGV[3] .. number .. '}', ARGV[4], 'PX', 86400000)
end
"""
# All hold the same bytes, which are those of another key to whoever reads them: what matters here is what they depend
# on, which is what the function that they are of does.


class NotCleared(RuntimeError):
    """Something that was to be gone was there still: nobody is quick by doing nothing."""


class Shop:
    """A function whose results are all that there is in Redis."""

    def __init__(self, backend: RedisBackend, raw: Any, size: int) -> None:
        self.backend = backend
        self.raw = raw
        self.size = size
        self.runs = 0
        self.cache = Cache()
        self.cache.init_app(FastAPI(), backend=backend)

        @self.cache.cached(expire=86_400, namespace="catalogue")
        def article(number: int) -> str:
            self.runs += 1
            return "x" * 100

        self.article = article

    def fill(self) -> None:
        self.article(0)
        (name,) = self.raw.scan_iter("shop:v:*")
        data = self.raw.get(name)
        for first in range(1, self.size + 1, _STEP):
            self.raw.eval(_FILL, 0, first, min(first + _STEP - 1, self.size), _PREFIX, data)


AT_ONCE: Final[Mapping[str, Callable[[Shop], None]]] = {
    "`backend.clear()`": lambda shop: shop.backend.clear(),
    "`cache.clear(namespace=…)`": lambda shop: shop.cache.clear(namespace="catalogue"),
    "`function.invalidate_all()`": lambda shop: shop.article.invalidate_all(),
}
"""What takes the same time however much there is: the memory is freed behind it."""

STEP_BY_STEP: Final = "`backend.delete_match(prefix)`"


def run(options: Options) -> Iterator[Table]:
    try:
        find_redis_server()
    except RedisServerNotFound as error:
        raise Skipped(str(error)) from None
    yield Table(
        title="Clearing a namespace in Redis",
        columns=(
            "",
            "entries",
            "the call, median",
            "at most",
            "a GET before, p99",
            "while they are removed, p99",
            "removed per s",
        ),
        rows=[row for size in sizes(options) for row in _measured(size)],
        notes=[
            f"Of {_CALLS} calls, of `delete_match` one: it returns when all are removed, the others at once. The "
            "entries are the results of one function.",
            f"What others wait is watched by GETs over a connection of their own, for {_WATCHED:g} s at most where the "
            "entries are removed behind the call. That is slower than it could be, so that they notice little.",
        ],
    )


def sizes(options: Options) -> list[int]:
    """How many entries there are to be: none are more than the options allow."""
    chosen = _FEW if options.quick else _SIZES
    if options.entries is None:
        return list(chosen)
    return [*(size for size in chosen if size < options.entries), options.entries]


def _measured(size: int) -> Iterator[tuple[str, ...]]:
    for name, clear in AT_ONCE.items():
        with _filled(size) as shop:
            yield name, f"{size:,}", *_at_once(shop, partial(clear, shop))
    if size > _STEP_BY_STEP:
        return
    with _filled(size) as shop:
        yield STEP_BY_STEP, f"{size:,}", *_step_by_step(shop)


@contextlib.contextmanager
def _filled(size: int) -> Iterator[Shop]:
    with (
        RedisServer() as server,
        contextlib.closing(redis.Redis.from_url(server.url, protocol=2, socket_timeout=60)) as raw,
        contextlib.closing(RedisBackend(server.url, namespace="shop", timeout=30)) as backend,
    ):
        shop = Shop(backend, raw, size)
        shop.fill()
        yield shop


def _at_once(shop: Shop, clear: Callable[[], None]) -> tuple[str, ...]:
    before = _waits(shop.raw, _BEFORE, lambda: True)
    reclaimer: Any = shop.backend._reclaimer
    # The first one leaves all to be reclaimed; those after it take as long.
    clears = [_timed(clear) for _ in range(_CALLS)]
    removed, began = reclaimer.removed, monotonic()
    meanwhile = _waits(shop.raw, _WATCHED, reclaimer.needed)
    rate = (reclaimer.removed - removed) / (monotonic() - began)
    shop.article(0)
    if shop.runs != 2:
        raise NotCleared("what was cleared is served")
    return _cells(clears, before, meanwhile, rate)


def _step_by_step(shop: Shop) -> tuple[str, ...]:
    before = _waits(shop.raw, _BEFORE, lambda: True)
    with ThreadPoolExecutor(1) as beside:
        began = monotonic()
        call = beside.submit(shop.backend.delete_match, _PREFIX)
        meanwhile = _waits(shop.raw, inf, lambda: not call.done())
        took = monotonic() - began
    if call.result() != shop.size:
        raise NotCleared(f"{call.result()} of {shop.size} entries were removed")
    return _cells([took], before, meanwhile, shop.size / took)


def _cells(calls: list[float], before: list[float], meanwhile: list[float], rate: float) -> tuple[str, ...]:
    calls = sorted(calls)
    return (
        f"{_ms(calls[len(calls) // 2])} ms",
        f"{_ms(calls[-1])} ms",
        f"{_ms(_p99(before))} ms",
        f"{_ms(_p99(meanwhile))} ms",
        f"{rate:,.0f}",
    )


def _waits(raw: Any, seconds: float, goes_on: Callable[[], bool]) -> list[float]:
    """What each of many small commands takes, for some time."""
    waits = []
    ends = monotonic() + seconds
    while monotonic() < ends and goes_on():
        waits.append(_timed(lambda: raw.get("other")))
        sleep(0.0005)
    return waits or [0.0]


def _timed(call: Callable[[], object]) -> float:
    began = monotonic()
    call()
    return monotonic() - began


def _p99(waits: list[float]) -> float:
    return sorted(waits)[int(0.99 * (len(waits) - 1))]


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:,.2f}"
