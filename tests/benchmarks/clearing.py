"""What it takes to clear: the call itself, and what the server's other callers notice while the memory is freed."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from time import monotonic, sleep
from typing import Any, Final

import redis

from fast_cache import RedisBackend
from fast_cache.serializers import codec_for, encode_stored
from tests.benchmarks.report import Options, Skipped, Table
from tests.support.redis_server import RedisServer, RedisServerNotFound, find_redis_server

_SIZES: Final = (1_000, 1_000_000, 10_000_000)
_FEW: Final = (1_000, 20_000)
_STEP: Final = 50_000
"""Entries that are made by one script."""

_CALLS: Final = 25
_WATCHED: Final = 20.0
"""For how many seconds at most it is watched what others wait meanwhile."""

_FILL: Final = """
for number = tonumber(ARGV[1]), tonumber(ARGV[2]) do
    redis.call('SET', 'shop:v:{' .. number .. '}', ARGV[3], 'PX', 86400000)
end
"""
# All hold the same bytes, which are those of another key to whoever reads them: what matters here is their generation.


def run(options: Options) -> Iterator[Table]:
    try:
        find_redis_server()
    except RedisServerNotFound as error:
        raise Skipped(str(error)) from None
    rows = [_measured(size) for size in (_FEW if options.quick else _SIZES)]
    yield Table(
        title="Clearing a namespace in Redis",
        columns=(
            "entries",
            "clear(), median",
            "at most",
            "a GET before, p99",
            "while it is reclaimed, p99",
            "removed per s",
        ),
        rows=rows,
        notes=[
            f"Of {_CALLS} calls. What others wait is watched for {_WATCHED:g} s at most, by GETs over a connection of "
            "their own. Reclaiming is slower than it could be, so that they notice little.",
        ],
    )


def _measured(size: int) -> tuple[str, ...]:
    with (
        RedisServer() as server,
        contextlib.closing(redis.Redis.from_url(server.url, protocol=2, socket_timeout=60)) as raw,
        contextlib.closing(RedisBackend(server.url, namespace="shop", timeout=30)) as backend,
    ):
        backend.set("first", 1)
        _fill(raw, size)
        before = _waits(raw, 1.0, lambda: True)
        reclaimer: Any = backend._reclaimer
        # The first one leaves all to be reclaimed; those after it take as long.
        clears = [_timed(backend.clear) for _ in range(_CALLS)]
        removed, began = reclaimer.removed, monotonic()
        meanwhile = _waits(raw, _WATCHED, reclaimer.needed)
        rate = (reclaimer.removed - removed) / (monotonic() - began)
        return (
            f"{size:,}",
            f"{_ms(sorted(clears)[_CALLS // 2])} ms",
            f"{_ms(max(clears))} ms",
            f"{_ms(_p99(before))} ms",
            f"{_ms(_p99(meanwhile))} ms",
            f"{rate:,.0f}",
        )


def _fill(raw: Any, size: int) -> None:
    data = encode_stored("any", "x" * 100, codec_for(), 86_400.0, raw.get("shop:g:"))
    for first in range(1, size + 1, _STEP):
        raw.eval(_FILL, 0, first, min(first + _STEP - 1, size), data)


def _waits(raw: Any, seconds: float, goes_on: Any) -> list[float]:
    """What each of many small commands takes, for some time."""
    waits = []
    ends = monotonic() + seconds
    while monotonic() < ends and goes_on():
        waits.append(_timed(lambda: raw.get("other")))
        sleep(0.0005)
    return waits or [0.0]


def _timed(call: Any) -> float:
    began = monotonic()
    call()
    return monotonic() - began


def _p99(waits: list[float]) -> float:
    return sorted(waits)[int(0.99 * (len(waits) - 1))]


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.2f}"
