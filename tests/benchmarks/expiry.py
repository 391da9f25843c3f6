"""How long callers wait around the moment of expiry, under load.

Fifty tasks call one cached function, over and over, with short pauses of random length; the function takes a while, and
its result lives so short that it expires many times in a run. Each contender runs by itself for the same time, with the
same pauses. Latencies are of the calls alone; what else runs on the machine shows in the greatest ones.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from time import perf_counter_ns
from typing import Any

from fastapi import FastAPI

from fast_cache import Cache, InMemoryBackend
from tests.benchmarks.peers import library, made
from tests.benchmarks.report import OURS, Options, Table, duration

CALLERS = 50
LOAD = 0.05
LIFETIME = 0.5
AHEAD = 0.3
"""The part of the lifetime in which a result is refreshed ahead."""
PAUSE = (0.01, 0.03)
SECONDS = 6.0
QUICK_SECONDS = 1.2

Fetch = Callable[[int], Awaitable[int]]


@dataclass(frozen=True)
class Subject:
    """One way to cache the function."""

    name: str
    decorate: Callable[[Fetch], Fetch]


def ours(name: str, **options: Any) -> Subject:
    cache = Cache()
    cache.init_app(FastAPI(), backend=InMemoryBackend())
    decorate: Any = cache.cached(expire=LIFETIME, **options)
    return Subject(f"{OURS}, {name}", decorate)


def cashews(name: str, strategy: str, **options: Any) -> Subject:
    cache = library("cashews").Cache()
    cache.setup("mem://")
    return Subject(f"cashews, {name}", getattr(cache, strategy)(**options))


SUBJECTS: list[Callable[[], Subject]] = [
    lambda: ours("`expire`"),
    lambda: ours(f"`refresh_ahead={AHEAD}`", refresh_ahead=AHEAD),
    lambda: ours("`early=1.0`", early=1.0),
    lambda: ours("`stale_while_revalidate`", stale_while_revalidate=10),
    lambda: cashews("`ttl`", "cache", ttl=LIFETIME),
    lambda: cashews("`early`", "early", ttl=LIFETIME, early_ttl=LIFETIME * (1 - AHEAD)),
    lambda: cashews("`soft`", "soft", ttl=LIFETIME + 10, soft_ttl=LIFETIME),
]


async def latencies(subject: Subject, seconds: float) -> tuple[list[int], int]:
    """The nanoseconds of every call, in order of size, and how often the function ran."""
    loads = 0

    async def fetch(number: int) -> int:
        nonlocal loads
        loads += 1
        await asyncio.sleep(LOAD)
        return number

    cached = subject.decorate(fetch)
    taken: list[int] = []

    async def call_until(end: int, pauses: random.Random) -> None:
        while perf_counter_ns() < end:
            await asyncio.sleep(pauses.uniform(*PAUSE))
            began = perf_counter_ns()
            await cached(1)
            taken.append(perf_counter_ns() - began)

    await cached(1)
    end = perf_counter_ns() + int(seconds * 1e9)
    await asyncio.gather(*(call_until(end, random.Random(number)) for number in range(CALLERS)))
    return sorted(taken), loads


def percentile(ordered: list[int], share: float) -> int:
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


def run(options: Options) -> Iterator[Table]:
    seconds = QUICK_SECONDS if options.quick else SECONDS
    subjects, absent = made(SUBJECTS)
    rows = []
    for subject in subjects:
        taken, loads = asyncio.run(latencies(subject, seconds))
        waited = sum(one > LOAD * 1e9 / 2 for one in taken)
        rows.append(
            [
                subject.name,
                *(duration(percentile(taken, share)) for share in (0.5, 0.99, 0.999)),
                duration(taken[-1]),
                f"{waited:,} of {len(taken):,}",
                str(loads),
            ]
        )
    yield Table(
        "Latency of callers while results expire",
        ["", "p50", "p99", "p99.9", "max", "waited", "loads"],
        rows,
        notes=[
            f"{CALLERS} tasks call one async function for {seconds:g} s, with pauses of {PAUSE[0] * 1000:.0f} to "
            f"{PAUSE[1] * 1000:.0f} ms; it takes {LOAD * 1000:.0f} ms, and its result lives {LIFETIME * 1000:.0f} ms.",
            "Waited: calls that took more than half a load.",
            *dict.fromkeys(absent),
        ],
    )
