"""What an entry takes in memory: each contender in a process of its own, filled with small entries.

The entries have a lifetime. Two readings: what Python allocated (``tracemalloc``, blind to what libraries in C and Rust
allocate themselves), and what the process grew by (resident memory, blind to nothing). Both contain the key and the
value, which a plain dict shows.

``python -m tests.benchmarks.memory_use CONTENDER COUNT READING`` is such a process; it prints the bytes.
"""

from __future__ import annotations

import asyncio
import gc
import os
import resource
import subprocess
import sys
import tracemalloc
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

from fastapi import FastAPI

from fast_cache import Cache, InMemoryBackend
from tests.benchmarks.memory_hit import LIFETIME, afetch, fetch
from tests.benchmarks.peers import library
from tests.benchmarks.report import OURS, Options, Table

ROOT = Path(__file__).resolve().parents[2]
STATM = Path("/proc/self/statm")

Column = tuple[int, str]

STORE_COLUMNS: Sequence[Column] = ((100_000, "traced"), (100_000, "resident"), (1_000_000, "resident"))
DECORATED_COLUMNS: Sequence[Column] = ((20_000, "traced"), (100_000, "resident"))
QUICK_COLUMNS: Sequence[Column] = ((2_000, "traced"), (2_000, "resident"))
"""How many entries, and what is read. Tracing slows down everything: a million traced entries take minutes."""

Filling = Callable[[int], AsyncIterator[None]]
"""Yields once when the cache is there and empty, and once more when it is full."""


async def fill_dict(count: int) -> AsyncIterator[None]:
    cache = {}
    yield
    for number in range(count):
        cache[f"shop:item:{number}"] = number
    yield


async def fill_ours(count: int) -> AsyncIterator[None]:
    backend = InMemoryBackend(max_size=count)
    yield
    for number in range(count):
        backend.set(f"shop:item:{number}", number, LIFETIME)
    yield


async def fill_cachetools(count: int) -> AsyncIterator[None]:
    cache = library("cachetools").TTLCache(count, LIFETIME)
    yield
    for number in range(count):
        cache[f"shop:item:{number}"] = number
    yield


async def fill_cachebox(count: int) -> AsyncIterator[None]:
    cache = library("cachebox").TTLCache(count, LIFETIME)
    yield
    for number in range(count):
        cache[f"shop:item:{number}"] = number
    yield


async def fill_cashews(count: int) -> AsyncIterator[None]:
    cache = library("cashews").Cache()
    cache.setup(f"mem://?size={count}")
    await cache.init()
    yield
    for number in range(count):
        await cache.set(f"shop:item:{number}", number, LIFETIME)
    yield


async def fill_theine(count: int) -> AsyncIterator[None]:
    cache = library("theine").Cache(count)
    lifetime = timedelta(seconds=LIFETIME)
    yield
    for number in range(count):
        cache.set(f"shop:item:{number}", number, lifetime)
    yield


async def fill_decorated(count: int) -> AsyncIterator[None]:
    cache = Cache()
    cache.init_app(FastAPI(), backend=InMemoryBackend(max_size=count))
    cached = cache.cached(expire=LIFETIME)(fetch)
    yield
    for number in range(count):
        cached(number)
    yield


async def fill_decorated_cashews(count: int) -> AsyncIterator[None]:
    cache = library("cashews").Cache()
    cache.setup(f"mem://?size={count}")
    await cache.init()
    cached = cache(ttl=LIFETIME)(afetch)
    yield
    for number in range(count):
        await cached(number)
    yield


STORES: dict[str, Filling] = {
    "dict": fill_dict,
    OURS: fill_ours,
    "cachetools.TTLCache": fill_cachetools,
    "cachebox.TTLCache": fill_cachebox,
    "cashews mem://": fill_cashews,
    "theine": fill_theine,
}
DECORATED: dict[str, Filling] = {
    f"{OURS}, decorated": fill_decorated,
    "cashews mem://, decorated": fill_decorated_cashews,
}


def traced() -> int:
    """What Python has allocated since the tracing began."""
    gc.collect()
    return tracemalloc.get_traced_memory()[0]


def resident() -> int:
    """The memory of this process; where the system does not tell, its greatest extent so far."""
    gc.collect()
    if STATM.exists():
        return int(STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


READINGS: dict[str, Callable[[], int]] = {"traced": traced, "resident": resident}


async def growth(filling: Filling, count: int, reading: Callable[[], int]) -> int:
    """The bytes by which a reading grows while a cache is filled."""
    steps = aiter(filling(count))
    await anext(steps)
    before = reading()
    await anext(steps)
    return reading() - before


def run(options: Options) -> Iterator[Table]:
    key_and_value = "The key and the value are contained: a short text and an int."
    yield _table(
        "Bytes per entry of the bare store",
        STORES,
        QUICK_COLUMNS if options.quick else STORE_COLUMNS,
        [
            key_and_value,
            "Memory that a library in Rust allocates itself is in the resident size (RSS), not in Python's own figure.",
        ],
    )
    yield _table(
        "Bytes per entry of a decorated function",
        DECORATED,
        QUICK_COLUMNS if options.quick else DECORATED_COLUMNS,
        [f"The function takes one int and returns it; {OURS} is called as a sync function, cashews as an async one."],
    )


def _table(title: str, fillings: dict[str, Filling], columns: Sequence[Column], notes: Sequence[str]) -> Table:
    wanted = [(name, size, reading) for name in fillings for size, reading in columns]
    # Two at once: nothing here depends on time.
    with ThreadPoolExecutor(max_workers=2) as pool:
        found = dict(zip(wanted, pool.map(lambda task: _in_child(*task), wanted), strict=True))
    rows = []
    failures = []
    for name in fillings:
        cells = [found[name, size, reading] for size, reading in columns]
        missing = [cell for cell in cells if isinstance(cell, str)]
        if missing:
            failures.append(f"Left out: {missing[0]}.")
        else:
            rows.append([name, *(f"{cell:,.0f}" for cell in cells)])
    headings = {"traced": "Python's", "resident": "RSS"}
    return Table(
        title,
        ["", *(f"{headings[reading]}, {size:,} entries" for size, reading in columns)],
        rows,
        notes=[*notes, *dict.fromkeys(failures)],
    )


def _in_child(name: str, count: int, reading: str) -> float | str:
    """Bytes per entry, or why there are none."""
    command = [sys.executable, "-m", __spec__.name, name, str(count), reading]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        return (done.stderr.strip().splitlines() or [f"{name} ended with code {done.returncode}"])[-1]
    return int(done.stdout) / count


def main(name: str, count: str, reading: str) -> None:
    filling = (STORES | DECORATED)[name]
    if reading == "traced":
        tracemalloc.start()
    print(asyncio.run(growth(filling, int(count), READINGS[reading])))


if __name__ == "__main__":
    main(*sys.argv[1:])
