"""What a hit costs with two tiers, beside memory alone: the whole decorated call.

The copy lies in local memory before anything is measured. Whoever asks Redis during a slice, or runs the function, made
no hit: that ends the measurement.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

from fastapi import FastAPI

from fast_cache import Cache, CacheBackend, InMemoryBackend, LayeredBackend, RedisBackend
from tests.benchmarks import memory_hit
from tests.benchmarks.harness import Contender, Effort, Measurement, measure
from tests.benchmarks.report import Table, duration, ratio

STALENESS = 2
"""Seconds, where it is given."""

MEMORY, LAYERED, BOUNDED = "memory", "two tiers", f"two tiers, `max_staleness={STALENESS}`"

KEYWORDS = "category='books', page=3, size=50, in_stock=True"

WITHIN = 20.0
"""Seconds in which a copy has to lie in local memory."""

_asked = 0
"""How often the functions ran that are not those of ``memory_hit``, and stores were asked for more than a copy."""


class NotHeld(RuntimeError):
    """No copy lies in local memory."""


def loads() -> int:
    return memory_hit.loads() + _asked


async def asearch(category: str, page: int, size: int, in_stock: bool) -> int:
    count()
    return page


SHAPES: dict[str, tuple[str, Callable[..., Any]]] = {
    "sync, one int": ("fetch(7)", memory_hit.fetch),
    "sync, four keywords": (f"fetch({KEYWORDS})", memory_hit.search),
    "async, one int": ("await fetch(7)", memory_hit.afetch),
    "async, four keywords": (f"await fetch({KEYWORDS})", asearch),
}
"""For each kind of call its source, and the function behind it."""


def hits(url: str, effort: Effort) -> Table:
    """Every kind of call, with a Redis at ``url``."""
    rows = []
    for number, (shape, (statement, function)) in enumerate(SHAPES.items()):
        measurement = _measured(url, f"hits {number}", statement, function, effort)
        row = [shape, duration(measurement.per_call(MEMORY).median)]
        for name in (LAYERED, BOUNDED):
            row += [duration(measurement.per_call(name).median), ratio(measurement.ratio(name, MEMORY))]
        rows.append(row)
    return Table("A hit with two tiers", ["", MEMORY, LAYERED, "÷ memory", BOUNDED, "÷ memory"], rows)


def _measured(url: str, namespace: str, statement: str, function: Callable[..., Any], effort: Effort) -> Measurement:
    """One kind of call. Tiers of the same ``namespace`` share what is in Redis, as processes do."""
    far = partial(RedisBackend, url, namespace=namespace)
    backends: dict[str, CacheBackend] = {
        MEMORY: InMemoryBackend(),
        LAYERED: LayeredBackend(l2=far()),
        BOUNDED: LayeredBackend(l2=far(), max_staleness=STALENESS),
    }
    try:
        contenders = [contender(name, backend, statement, function) for name, backend in backends.items()]
        return measure(contenders, effort, loads=loads)
    finally:
        for backend in backends.values():
            backend.close()


def contender(name: str, backend: CacheBackend, statement: str, function: Callable[..., Any]) -> Contender:
    cache = Cache()
    cache.init_app(FastAPI(), backend=backend)
    cached = cache.cached(expire=memory_hit.LIFETIME)(function)
    names = {"fetch": cached}
    if not isinstance(backend, LayeredBackend):
        return Contender(name, statement, names)
    _watch(backend)
    call: Callable[[], Any] = eval(f"lambda: {statement.removeprefix('await ')}", names)
    return Contender(name, statement, names, prepare=partial(settle, call, statement.startswith("await ")))


async def settle(call: Callable[[], Any], awaits: bool) -> None:
    """Call until that is a hit of local memory, and stays one: whatever this wrote itself has been heard of then.

    It blocks meanwhile: what tells of changes has a thread of its own.
    """
    deadline = time.monotonic() + WITHIN
    steady = 0
    while steady < 10:
        if time.monotonic() > deadline:
            raise NotHeld(f"no copy lies in local memory after {WITHIN:g} s")
        before = loads()
        found = call()
        if awaits:
            await found
        time.sleep(0.01)  # noqa: ASYNC251
        steady = steady + 1 if loads() == before else 0


def _watch(backend: LayeredBackend) -> None:
    """Count what ``backend`` asks the store behind it."""
    store = backend.l2.engine_store()
    read = store.read

    def counted(*arguments: Any, **options: Any) -> Any:
        count()
        return read(*arguments, **options)

    store.read = counted  # type: ignore[method-assign]


def count() -> None:
    global _asked
    _asked += 1
