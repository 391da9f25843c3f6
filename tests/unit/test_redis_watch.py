"""Who asks after a server that nobody asks: as long as there is something to lose, and no longer."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from fast_cache import RedisBackend
from fast_cache.backends.redis.invalidations import _REPLAYED, Invalidations
from fast_cache.backends.redis.watch import Watch
from fast_cache.ports import Port
from fast_cache.testing import PATIENCE
from tests.support.proxy import Proxy
from tests.support.redis_server import RedisServer, wait_until


class Looks:
    """What is called for each look; ``then`` is done in it."""

    def __init__(self, then: Callable[[], None]) -> None:
        self.count = 0
        self._then = then

    async def __call__(self, port: Port) -> None:
        self.count += 1
        self._then()


def watching() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "fast_cache watch"]


def until_none_is_left() -> None:
    for thread in watching():
        thread.join(PATIENCE)
        assert not thread.is_alive()


@pytest.fixture
def now() -> list[float]:
    return [100.0]


@pytest.fixture
def invalidations(now: list[float]) -> Invalidations:
    return Invalidations(1000, lambda: now[0])


def test_it_looks_until_nothing_can_be_lost_any_more(invalidations: Invalidations, now: list[float]) -> None:
    looks = Looks(lambda: now.__setitem__(0, now[0] + 0.4 * _REPLAYED))
    watch = Watch(invalidations, looks)
    watch.pause = watch._first_pause = 0.001
    invalidations.confirm("a")
    watch.awake()
    until_none_is_left()
    assert looks.count == 3
    watch.awake()
    until_none_is_left()
    assert looks.count == 3


def test_what_is_confirmed_while_it_ends_is_watched_too(invalidations: Invalidations, now: list[float]) -> None:
    class Ending(Watch):
        """At the moment at which nothing is to be done any more, something is."""

        def _ended(self, bell: object) -> None:
            if not invalidations.unsafe() and looks.count == 1:
                invalidations.confirm("b")
                self.awake()  # finds a thread still
            super()._ended(bell)  # type: ignore[arg-type]

    looks = Looks(lambda: now.__setitem__(0, now[0] + _REPLAYED))
    watch = Ending(invalidations, looks)
    watch.pause = watch._first_pause = 0.001
    invalidations.confirm("a")
    watch.awake()
    wait_until(lambda: looks.count == 2, "it looks again")
    until_none_is_left()


def test_no_connection_is_made_for_it_where_somebody_asks_anyway(own_redis: RedisServer) -> None:
    with Proxy(own_redis.port) as proxy:
        backend = RedisBackend(proxy.url, timeout=PATIENCE)
        backend.delete("key")
        link = backend._link
        assert not link._fleet.is_quiet(None, PATIENCE)
        assert link._fleet.is_quiet(("127.0.0.1", 1), PATIENCE)
        assert link._fleet.is_quiet(None, -1)
        assert watching()
        backend.close()
        until_none_is_left()
        assert proxy.accepted == 1
