"""Redis is slow, or its caller is: what is not silence is no outage."""

from __future__ import annotations

import asyncio
import time

import pytest

from fast_cache import RedisBackend
from fast_cache.backends.redis.batch import MOST
from tests.faults.faults import Ground, slow
from tests.faults.shop import LENIENT, Mode, in_both_modes
from tests.faults.test_away import outage


@in_both_modes
def test_a_server_that_is_slower_than_the_timeout_is_away(mode: Mode, ground: Ground) -> None:
    with ground.shop(mode) as shop:
        outage(ground, shop, slow(ground, 0.3))


@in_both_modes
def test_a_server_that_is_faster_than_the_timeout_is_used(mode: Mode, ground: Ground) -> None:
    with ground.shop(mode, timeout=LENIENT) as shop:
        with slow(ground, 0.02):
            shop.until_cached()
            shop.go_on(3)
        assert (shop.turns, shop.trouble) == (0, 0)


def test_silence_is_what_counts_and_not_how_long_the_queue_is(ground: Ground) -> None:
    """Together they wait for longer than the timeout, and each answer comes within it."""
    backend = RedisBackend(ground.url, timeout=2)

    async def main() -> None:
        await backend.aset("key", "value")
        with slow(ground, 0.25):
            began = time.monotonic()
            values = await asyncio.gather(*(backend.aget("key") for _ in range(6 * MOST)))
            assert time.monotonic() > began + 2.5, "there were several batches"
        assert set(values) == {"value"}
        assert backend._link._breaker.epoch == 0
        assert backend.engine_store().health.failures == 0
        await backend.aclose()

    asyncio.run(main())


@pytest.mark.parametrize("moment", ["connecting", "greeting", "reading"])
def test_an_event_loop_that_is_held_up_accuses_nobody(moment: str, ground: Ground) -> None:
    """The answer lies waiting all the while; a timer that is due before it is looked at must not be believed."""
    backend = RedisBackend(ground.url, timeout=0.5, connect_timeout=0.5)

    async def main() -> None:
        if moment == "reading":
            await backend.aset("key", "value")
        sent = ground.proxy.passed["to_server"]
        call = asyncio.create_task(backend.aget("key", "absent"))
        for _ in range(3):
            await asyncio.sleep(0)
        while moment != "connecting" and ground.proxy.passed["to_server"] == sent:  # noqa: ASYNC110
            await asyncio.sleep(0)
        time.sleep(1.5)  # noqa: ASYNC251  # somebody blocks the loop, for longer than any answer takes
        assert await call == ("value" if moment == "reading" else "absent")
        assert backend._link._breaker.epoch == 0
        assert backend.engine_store().health.failures == 0
        await backend.aclose()

    asyncio.run(main())
