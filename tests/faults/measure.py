"""``python -m tests.faults.measure``: what requests wait under each fault of Redis, and when service is normal again.

The same application, callers and faults as in the scenarios, which assert what this only measures: that every request
succeeds and none is served anything stale. With ``make bench ARGS="faults --write-readme"`` it goes into the README.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from tests.benchmarks.report import Options, Table
from tests.faults import faults, residue
from tests.faults.faults import Ground
from tests.faults.shop import EACH, MODES, TIMEOUT, WAYS, Mode, Shop
from tests.faults.storm import DELAY, storm
from tests.support.redis_server import RedisServer

_BEFORE: Final = 1.0
_DURING: Final = 3.0
"""Seconds."""

_SETTLED: Final = 0.5
"""Seconds in which a service that was normal for a moment must stay so."""

_REQUESTS: Final = 100_000

LEFT_ALONE: Final = "run uncached; Redis is left alone but for one probe every 0.1 to 0.5 s"
SERVED: Final = "are served from the cache"
NOT_STORED: Final = "hits are served; what is loaded is not stored"
NOT_TOLD: Final = "hits are served until an invalidation is refused; then run uncached, until it can be told"
MISSED: Final = "what is gone is loaded and stored again"


@dataclass(frozen=True)
class Case:
    """One fault, and what becomes of requests."""

    title: str
    requests: str
    fault: Callable[[Ground], contextlib.AbstractContextManager[None]]
    password: str | None = None


@contextlib.contextmanager
def demoted(ground: Ground) -> Iterator[None]:
    with RedisServer("--repl-diskless-sync-delay", "0") as other, faults.demoted(ground, other):
        yield


@contextlib.contextmanager
def restored(ground: Ground) -> Iterator[None]:
    ground.server.command("SAVE")
    time.sleep(0.5)  # in which much is invalidated
    ground.server.kill()
    yield
    ground.server.start()


@contextlib.contextmanager
def repeated(ground: Ground, *command: str) -> Iterator[None]:
    """Give the server a command, before and while others look."""
    for _ in range(5):
        ground.server.command(*command)
        time.sleep(0.1)  # in which requests are served
    yield
    ground.server.command(*command)


CASES: Final = [
    Case("killed, restarted empty", LEFT_ALONE, faults.killed),
    Case("killed, restarted with an older snapshot", LEFT_ALONE, restored),
    Case("frozen", LEFT_ALONE, faults.frozen),
    Case("unreachable: connections are refused", LEFT_ALONE, faults.refused),
    Case("unreachable: whatever is sent is swallowed", LEFT_ALONE, faults.swallowed),
    Case("silent in one direction", LEFT_ALONE, lambda ground: faults.silent(ground, "to_client")),
    Case("slower than `timeout`", LEFT_ALONE, lambda ground: faults.slow(ground, 0.3)),
    Case("the password is changed", LEFT_ALONE, lambda ground: faults.locked_out(ground, "first"), password="first"),
    Case("slow: 20 ms more", SERVED, lambda ground: faults.slow(ground, 0.01)),
    Case("connections are closed (`CLIENT KILL`)", SERVED, lambda g: repeated(g, "CLIENT", "KILL", "TYPE", "normal")),
    Case("scripts are forgotten (`SCRIPT FLUSH`)", SERVED, lambda ground: repeated(ground, "SCRIPT", "FLUSH")),
    Case("`FLUSHALL`", MISSED, lambda ground: repeated(ground, "FLUSHALL")),
    Case("evicts everything", MISSED, faults.evicting),
    Case("full (`noeviction`)", NOT_STORED, faults.full),
    Case("a replica: takes no writes (`READONLY`)", NOT_TOLD, demoted),
    Case("can't save: takes no writes (`MISCONF`)", NOT_TOLD, faults.unable_to_save),
    Case("forbids every command (`NOPERM`)", LEFT_ALONE, faults.forbidden),
]


@dataclass
class Figures:
    """What callers waited, in seconds, beyond the median of the time before."""

    waits: list[float] = field(default_factory=list)
    back: float = 0.0
    """Until service was normal, after the fault had ended."""

    def percentile(self, which: int) -> float:
        """What so many percent waited, at most."""
        waits = sorted(self.waits)
        return waits[max(0, math.ceil(len(waits) * which / 100) - 1)]


def run(options: Options) -> Iterator[Table]:
    """What each fault costs, what a failover loses, and a storm of cancellations.

    Raises:
        AssertionError: a request failed, or was served something stale.
    """
    cases = CASES[:1] if options.quick else CASES
    rows = []
    for case in cases:
        figures = [measured(case, mode, 0.5 if options.quick else _DURING) for mode in MODES]
        worst = [max(one.percentile(which) for one in figures) for which in (50, 99, 100)]
        back = max(one.back for one in figures)
        rows.append([case.title, case.requests, *map(milliseconds, worst), milliseconds(back)])
    yield Table(
        "What happens to requests when Redis fails",
        ["Redis is", "requests", "p50", "p99", "max", "normal after"],
        rows,
        notes=[
            "Every request succeeded, and none was served anything older than what had been invalidated before it.",
            "p50, p99, max: how much longer requests took than the median before the fault. "
            f"`timeout` is {TIMEOUT:g} s, as is the default; {len(WAYS) * EACH} callers ask for results of functions, "
            "of functions with tags and of endpoints, while others are invalidated.",
            "Normal after: how long after the end of the fault everything was served from the cache again.",
            "Measured with `def` and with `async def` functions; the worse of both is shown.",
        ],
        words=True,
    )
    yield residue.table(residue.CASES[1:2] if options.quick else residue.CASES)
    if not options.quick:
        with Ground() as ground:
            ground.proxy.delay(to_server=DELAY, to_client=DELAY)
            weather = asyncio.run(storm(ground.proxy, _REQUESTS))
            yield Table(
                "A storm of cancellations",
                ["requests", "cancelled", "replies of others", "connections", "seconds"],
                [
                    [
                        f"{_REQUESTS:,}",
                        f"{weather.cancelled:,}",
                        str(weather.wrong),
                        str(ground.proxy.accepted),
                        f"{weather.seconds:.1f}",
                    ]
                ],
            )


def measured(case: Case, mode: Mode, during: float) -> Figures:
    """Let one fault last for ``during`` seconds, under load."""
    figures = Figures()
    with Ground(requirepass=case.password) as ground, ground.shop(mode) as shop:
        shop.until_cached()
        time.sleep(_BEFORE)  # in which the callers go on
        began = time.monotonic()
        usual = statistics.median(took for at, took in shop.seen.waits[-1000:])
        with case.fault(ground):
            time.sleep(during)
            ended = time.monotonic()
        returned = time.monotonic()
        figures.back = until_normal(shop) - returned
        figures.waits = [max(0.0, took - usual) for at, took in shop.seen.waits if began <= at + took and at < ended]
    return figures


def until_normal(shop: Shop) -> float:
    """Wait until everything is served from the cache; return when that began."""
    while True:
        shop.until_cached()
        began = time.monotonic()
        turns = shop.turns
        while time.monotonic() < began + _SETTLED and shop.turns == turns:
            time.sleep(0.01)  # between two looks
        if shop.turns == turns:
            return began


def milliseconds(value: float) -> str:
    return f"{value * 1000:.1f} ms"


if __name__ == "__main__":
    for table in run(Options(quick=False, traces=Path())):
        print(table.as_text(), flush=True)
