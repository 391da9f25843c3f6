"""Requests that are cancelled at random moments: no reply reaches another caller, and no connection is lost for it."""

from __future__ import annotations

import asyncio

import pytest

from fast_cache.backends.redis.watch import Watch
from fast_cache.testing import PATIENCE
from tests.faults.faults import Ground
from tests.faults.storm import DELAY, storm

REQUESTS = 100_000

WATCHED = 30_000
"""Those that rage while the server is looked after, and may be found silent, as by default."""

POOL = 10
"""Connections that are kept open, by default."""


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
    assert (weather.wrong, weather.absent, weather.failed) == (0, 0, 0)
    assert weather.opened == 0, "all of it goes over the connection that there was"
    assert ground.proxy.accepted == 1


def test_a_storm_with_the_options_as_they_are_by_default(ground: Ground) -> None:
    """On a busy machine the server may look silent for a moment: that costs answers, and brings nobody another's."""
    ground.proxy.delay(to_server=DELAY, to_client=DELAY)
    weather = asyncio.run(asyncio.wait_for(storm(ground.proxy, WATCHED, timeout=None), 4 * PATIENCE))
    assert weather.answered + weather.cancelled == WATCHED
    assert weather.cancelled > WATCHED / 4
    assert weather.answered > WATCHED / 4
    assert weather.wrong == 0
    assert ground.proxy.accepted <= POOL
