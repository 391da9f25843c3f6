"""A process that is stopped itself serves nothing beyond the contract when it goes on: not even for a moment."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from typing import Any

import pytest

from tests.support.redis_server import RedisServer
from tests.support.tiers import ROOT, Worker

BOUND = 0.5
"""The max_staleness of the process that is stopped, in seconds."""

HOLDER = """
import asyncio, json, sys, time
from tests.support.tiers import Served, coherence

url, how, mode, bound = sys.argv[1:]
served = Served(url, coherence=how, max_staleness=float(bound))


def blocking(number: int) -> str:
    return served.truth(number)


async def suspending(number: int) -> str:
    return served.truth(number)


cached = served.cache.cached(expire=3600, tags="item:{number}")(suspending if mode == "async" else blocking)
values = {}


async def called() -> str:
    return await cached(1) if mode == "async" else cached(1)


async def main() -> None:
    while not coherence(served.backend).sure:
        await called()
        await asyncio.sleep(0.002)
    print("ready", flush=True)
    while "new" not in values:
        began = time.monotonic()
        values[await called()] = began
        await asyncio.sleep(0)
    print(json.dumps(values), flush=True)


asyncio.run(main())
served.backend.close()
served.raw.close()
"""


@pytest.mark.parametrize("mode", ["sync", "async"])
@pytest.mark.parametrize("how", ["tracking", "pubsub"])
def test_a_process_that_was_stopped_serves_nothing_that_it_may_no_longer_believe(
    own_redis: RedisServer, how: str, mode: str
) -> None:
    """It calls without a pause, so that its calls go on before the thread that hears of changes."""
    with Worker(own_redis.url, coherence="pubsub") as other:
        other.until_sure()
        for _ in range(2):
            other("raw_set", 1, "old")
            other("tag", "item:1")
            command = [sys.executable, "-c", HOLDER, own_redis.url, how, mode, str(BOUND)]
            holder = subprocess.Popen(
                command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE, text=True
            )
            with holder:
                assert holder.stdout is not None
                assert holder.stdout.readline() == "ready\n"
                holder.send_signal(signal.SIGSTOP)
                other("raw_set", 1, "new")
                other("tag", "item:1")
                told = time.monotonic()
                time.sleep(2 * BOUND)  # the contract is about time that passes
                holder.send_signal(signal.SIGCONT)
                values: dict[str, Any] = json.loads(holder.stdout.readline())
            assert values.get("old", told) - told <= BOUND
