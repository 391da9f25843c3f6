"""Requests that are cancelled at random moments: no reply reaches another caller, and no connection is lost for it."""

from __future__ import annotations

import asyncio

import pytest

from fast_cache.backends.redis.watch import Watch
from fast_cache.testing import PATIENCE
from tests.faults.faults import Ground
from tests.faults.storm import DELAY, storm

REQUESTS = 100_000


def test_a_storm_of_cancellations_confuses_no_replies_and_costs_no_connections(
    ground: Ground, monkeypatch: pytest.MonkeyPatch
) -> None:
    # To it, a loop that a busy machine holds up for long looks idle, and it asks by a connection of its own.
    monkeypatch.setattr(Watch, "needed", lambda watch: False)
    ground.proxy.delay(to_server=DELAY, to_client=DELAY)
    weather = asyncio.run(asyncio.wait_for(storm(ground.proxy, REQUESTS), 4 * PATIENCE))
    assert weather.answered + weather.cancelled == REQUESTS
    assert weather.cancelled > REQUESTS / 4
    assert weather.answered > REQUESTS / 4
    assert (weather.wrong, weather.failed) == (0, 0)
    assert weather.opened == 0, "all of it goes over the connection that there was"
    assert ground.proxy.accepted == 1
