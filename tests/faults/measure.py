"""``python -m tests.faults.measure``: what requests wait under each fault of Redis, and when service is normal again.

The same application, callers and faults as in the scenarios, which assert what this only measures: that every request
succeeds and none is served anything stale. With ``make bench ARGS="faults --write-readme"`` it goes into the README.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import random
import statistics
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from tests.benchmarks.report import Options, Table
from tests.faults import faults, residue
from tests.faults.faults import Ground
from tests.faults.shop import EACH, MODES, TIMEOUT, WAYS, Mode, Shop, until
from tests.faults.storm import DELAY, storm
from tests.faults.tearing import Tearing
from tests.support.redis_cluster import RedisCluster
from tests.support.redis_sentinel import RedisSentinel
from tests.support.redis_server import RedisServer

_BEFORE: Final = 1.0
_DURING: Final = 3.0
"""Seconds."""

_SETTLED: Final = 0.5
"""Seconds in which a service that was normal for a moment must stay so."""

_MUCH: Final = 30_000
"""Bytes that callers send in a moment."""

_DOWN_AFTER: Final = 1.0
"""Seconds: how long a master may be silent before it is replaced."""

_REQUESTS: Final = 100_000

LEFT_ALONE: Final = "run uncached; Redis is left alone but for one probe every 0.1 to 0.5 s"
SERVED: Final = "are served from the cache"
NOT_STORED: Final = "hits are served; what is loaded is not stored"
NOT_TOLD: Final = "hits are served until an invalidation is refused; then run uncached, until it can be told"
MISSED: Final = "what is gone is loaded and stored again"


@dataclass(frozen=True)
class Case:
    """One fault, and what becomes of requests.

    Args:
        ground: makes what is broken; it has a ``url``.
        failover: the fault ends as soon as it has begun: when another server has taken over.
    """

    title: str
    requests: str
    fault: Callable[[Any], contextlib.AbstractContextManager[None]]
    ground: Callable[[], contextlib.AbstractContextManager[Any]] = Ground
    failover: bool = False


@contextlib.contextmanager
def demoted(ground: Ground) -> Iterator[None]:
    with RedisServer("--repl-diskless-sync-delay", "0") as other, faults.demoted(ground, other):
        yield


@contextlib.contextmanager
def restored(ground: Ground) -> Iterator[None]:
    ground.server.command("SAVE")
    _let_ask(ground)
    ground.server.kill()
    yield
    ground.server.start()


@contextlib.contextmanager
def repeated(ground: Ground, step: Callable[[], object]) -> Iterator[None]:
    """Do something to the server, before and while others ask."""
    for _ in range(5):
        step()
        _let_ask(ground)
    yield
    step()


def told(*command: str) -> Callable[[Ground], contextlib.AbstractContextManager[None]]:
    """Give the server a command, again and again."""
    return lambda ground: repeated(ground, lambda: ground.server.command(*command))


def spoilt(ground: Ground) -> contextlib.AbstractContextManager[None]:
    dice = random.Random(7)
    return repeated(ground, lambda: faults.spoil(ground.server, dice))


@contextlib.contextmanager
def torn(tearing: Tearing) -> Iterator[None]:
    for _ in range(3):
        _tear(tearing)
    yield


@contextlib.contextmanager
def on_torn_ground() -> Iterator[Tearing]:
    with RedisServer() as server, Tearing(server.port) as tearing:
        yield tearing


@dataclass(frozen=True)
class Followed:
    """A Redis with a replica, and where to find it."""

    ground: Ground
    replica: RedisServer
    url: str


@contextlib.contextmanager
def on_followed_ground() -> Iterator[Followed]:
    with Ground("--repl-diskless-sync-delay", "0") as ground, faults.replica_of(ground.server) as replica:
        yield Followed(ground, replica, ground.url)


@contextlib.contextmanager
def replaced(followed: Followed) -> Iterator[None]:
    followed.ground.server.cut_replicas()
    faults.replace(followed.ground, followed.replica)
    yield


@contextlib.contextmanager
def failed_over(deployment: RedisSentinel | RedisCluster) -> Iterator[None]:
    if isinstance(deployment, RedisCluster):
        deployment.fail_over(deployment.masters[0], lossy=True)
    else:
        deployment.fail_over(lossy=True)
    yield


def _tear(tearing: Tearing) -> None:
    torn = tearing.torn
    tearing.tear()
    until(lambda: tearing.torn > torn, "an answer is cut")


def _let_ask(ground: Ground) -> None:
    """Wait until callers have asked, and invalidated, a good deal."""
    goal = ground.proxy.passed["to_server"] + _MUCH
    ground.proxy.wait_until(lambda: ground.proxy.passed["to_server"] >= goal)


CASES: Final = [
    Case("killed, restarted empty", LEFT_ALONE, faults.killed),
    Case("killed, restarted with an older snapshot", LEFT_ALONE, restored),
    Case("frozen", LEFT_ALONE, faults.frozen),
    Case("unreachable: connections are refused", LEFT_ALONE, faults.refused),
    Case("unreachable: whatever is sent is swallowed", LEFT_ALONE, faults.swallowed),
    Case("silent in one direction", LEFT_ALONE, lambda ground: faults.silent(ground, "to_client")),
    Case("slower than `timeout`", LEFT_ALONE, lambda ground: faults.slow(ground, 0.3)),
    Case(
        "the password is changed",
        LEFT_ALONE,
        lambda ground: faults.locked_out(ground, "first"),
        ground=lambda: Ground(requirepass="first"),
    ),
    Case("slow: 20 ms more", SERVED, lambda ground: faults.slow(ground, 0.01)),
    Case("connections are closed (`CLIENT KILL`)", SERVED, told("CLIENT", "KILL", "TYPE", "normal")),
    Case(
        "connections are cut when an answer is due",
        SERVED,
        lambda ground: repeated(ground, lambda: ground.proxy.lose_reply(b"faults:")),
    ),
    Case("answers are cut in the middle", LEFT_ALONE, torn, ground=on_torn_ground),
    Case("scripts are forgotten (`SCRIPT FLUSH`)", SERVED, told("SCRIPT", "FLUSH")),
    Case("`FLUSHALL`", MISSED, told("FLUSHALL")),
    Case("rubbish lies in the place of everything", MISSED, spoilt),
    Case("evicts everything", MISSED, faults.evicting),
    Case("full (`noeviction`)", NOT_STORED, faults.full),
    Case("a replica: takes no writes (`READONLY`)", NOT_TOLD, demoted),
    Case("can't save: takes no writes (`MISCONF`)", NOT_TOLD, faults.unable_to_save),
    Case("forbids every command (`NOPERM`)", LEFT_ALONE, faults.forbidden),
    Case(
        "killed, and a replica takes over at the same address",
        LEFT_ALONE,
        replaced,
        ground=on_followed_ground,
        failover=True,
    ),
    Case(
        "killed, and a replica takes over: Sentinels",
        LEFT_ALONE,
        failed_over,
        ground=lambda: RedisSentinel(down_after=_DOWN_AFTER),
        failover=True,
    ),
    Case(
        "killed, and a replica takes over: Cluster",
        LEFT_ALONE,
        failed_over,
        ground=lambda: RedisCluster(node_timeout=_DOWN_AFTER),
        failover=True,
    ),
]


@dataclass
class Figures:
    """What callers waited, in seconds, beyond the median of the time before."""

    waits: list[float] = field(default_factory=list)
    """Those whose requests met the fault."""
    later: list[float] = field(default_factory=list)
    """Those whose requests began when it had ended, until service was normal."""
    back: float = 0.0
    """Until service was normal, after the fault had ended; after the beginning of a failover."""

    def take(self, waits: Iterable[tuple[float, float]], began: float, ended: float, normal: float) -> None:
        """Sort out when requests began and how long they took, by the times of the fault and of normal service."""
        for at, took in waits:
            if at < ended and at + took >= began:
                self.waits.append(took)
            elif ended <= at < normal:
                self.later.append(took)

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
        later = max((wait for one in figures for wait in one.later), default=0.0)
        rows.append([case.title, case.requests, *map(milliseconds, [*worst, later, back])])
    yield Table(
        "What happens to requests when Redis fails",
        ["Redis is", "requests", "p50", "p99", "max", "max at return", "normal after"],
        rows,
        notes=[
            "Every request succeeded, and none was served anything older than what had been invalidated before it.",
            "p50, p99, max: how much longer requests took than the median before the fault; at return: those that "
            "began when it had ended, until service was normal. "
            f"`timeout` is {TIMEOUT:g} s, as is the default; {len(WAYS) * EACH} callers ask for results of functions, "
            "of functions with tags and of endpoints, while others are invalidated.",
            "Normal after: how long after the end of the fault everything was served from the cache again; of what "
            "is killed and replaced, after its death. Sentinels and nodes take it for dead after "
            f"{_DOWN_AFTER:g} s (`down-after-milliseconds`, `cluster-node-timeout`), and vote then. Its replicas had "
            "been cut off from it before.",
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
    with case.ground() as ground, Shop(ground.url, mode) as shop:
        shop.until_cached()
        time.sleep(_BEFORE)  # in which the callers go on
        began = time.monotonic()
        usual = statistics.median(took for at, took in shop.seen.waits[-1000:])
        with contextlib.ExitStack() as fault:
            fault.enter_context(case.fault(ground))
            if not case.failover:
                time.sleep(during)
            ended = time.monotonic()
            if not case.failover:
                fault.close()
            returned = began if case.failover else time.monotonic()
            normal = until_normal(shop)
        figures.back = normal - returned
    # Of all requests: nothing is under way any longer.
    figures.take(((at, max(0.0, took - usual)) for at, took in shop.seen.waits), began, ended, normal)
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
