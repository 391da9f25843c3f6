"""A storm of cancellations: requests that are cancelled at random moments, over a way that delays both directions.

Each request has a key and a value of its own, so that a reply which reaches another caller is seen at once.
"""

from __future__ import annotations

import asyncio
import random
import time
from dataclasses import dataclass

from fast_cache import RedisBackend
from fast_cache.freshness import Life
from fast_cache.ports import ASYNCIO
from fast_cache.serializers import codec_for
from tests.faults.shop import LENIENT
from tests.support.proxy import Proxy

DELAY = 0.003
"""Seconds in each direction."""

_AT_ONCE = 400
"""Requests that are under way at any moment."""


@dataclass
class Weather:
    """What came of it."""

    answered: int = 0
    cancelled: int = 0
    wrong: int = 0
    """Replies that were another caller's."""
    absent: int = 0
    """Values that were not found."""
    failed: int = 0
    """Steps that Redis could not do, or was not asked for because it was taken to be away."""
    opened: int = 0
    """Connections that were made."""
    seconds: float = 0.0


async def storm(proxy: Proxy, requests: int, *, timeout: float | None = LENIENT) -> Weather:
    """Let so many requests rage: reads and writes, more than half of which are cancelled.

    By itself nothing is taken for silence, so that the connections are counted which cancellations alone would cost.
    """
    backend = RedisBackend(proxy.url, namespace="storm", timeout=timeout, connect_timeout=timeout)
    weather = Weather()
    dice = random.Random(requests)
    numbers = iter(range(requests))
    await seed(backend, requests)
    before, began = proxy.accepted, time.monotonic()

    async def ask(number: int) -> None:
        key, own = f"key:{number}", f"value of {number}"
        if number % 8 == 0:
            own = f"another {own}"
            await backend.aset(key, own)
        found = await backend.aget(key)
        weather.answered += 1
        weather.absent += found is None
        weather.wrong += found not in (own, None)

    async def one_after_the_other() -> None:
        for number in numbers:
            request = asyncio.create_task(ask(number))
            if dice.random() < 0.6:
                # Before it begins, while it waits for its turn, on its way, or when the answer has come.
                await asyncio.sleep(dice.choice([0, 0, dice.random() * 8 * DELAY]))
                request.cancel()
            try:
                await request
            except asyncio.CancelledError:
                weather.cancelled += 1

    async with asyncio.TaskGroup() as callers:
        for _ in range(_AT_ONCE):
            callers.create_task(one_after_the_other())
    weather.seconds = time.monotonic() - began
    weather.opened = proxy.accepted - before
    weather.failed = backend.engine_store().health.failures
    await backend.aclose()
    return weather


async def seed(backend: RedisBackend, requests: int) -> None:
    """Store the value of each key, past the methods that store one at a time."""
    await backend.aset("first", "value")  # so that there is a generation
    store, layout = backend._store, backend._store._layout
    link = backend._link
    (generation,) = await link.exchange(ASYNCIO, layout.read("first")[1:])
    for first in range(0, requests, _AT_ONCE):
        pairs: list[bytes] = []
        for number in range(first, min(first + _AT_ONCE, requests)):
            data, _ = store.encode(f"key:{number}", f"value of {number}", codec_for(), Life(None), generation)
            pairs += [layout.value_key(f"key:{number}"), data]
        await link.exchange(ASYNCIO, [("MSET", *pairs)])
