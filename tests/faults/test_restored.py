"""Redis comes back with what it held some time ago: from a snapshot, or because a replica has taken its place.

Whoever invalidated something in the last 30 seconds before tells it again, before anything is read.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Iterator

import pytest

from fast_cache import RedisBackend
from fast_cache.backends.redis.reclaim import Reclaimer
from fast_cache.backends.redis.watch import Watch
from fast_cache.testing import PATIENCE
from tests.faults.faults import Ground, caught_up, refused, replace, replica_of
from tests.faults.shop import CHANGING, LENIENT, STEADY, WAYS, Mode, Shop, Way, in_both_modes, until

QUICK = ("--repl-diskless-sync-delay", "0")

both_ways_to_invalidate = pytest.mark.parametrize("step", ["keys and tags", "everything"])


def invalidate(shop: Shop, step: str) -> None:
    if step == "everything":
        shop.clear()
    else:
        shop.change_all()


def holds_what_was_invalidated(url: str, mode: Mode) -> bool:
    """Whether a process that knows nothing of any invalidation is served from there, in every way."""
    places: list[tuple[Way, int]] = [(way, item) for way in WAYS for item in CHANGING]
    with Shop(url, mode, callers=0, changes=False) as other:
        for way, item in places:
            other.ask(way, item)
        return not other.asked


@both_ways_to_invalidate
@in_both_modes
def test_a_snapshot_that_revives_what_was_invalidated_before_the_crash(
    mode: Mode, step: str, ground: Ground, monkeypatch: pytest.MonkeyPatch
) -> None:
    # It is told by who asks, and not sooner: nobody looks after the server, and nothing is reclaimed.
    monkeypatch.setattr(Watch, "needed", lambda watch: False)
    monkeypatch.setattr(Reclaimer, "needed", lambda reclaimer: False)
    with ground.shop(mode, callers=0, changes=False, timeout=5) as shop:
        for way in WAYS:
            for item in CHANGING:
                shop.ask(way, item)
        ground.server.command("SAVE")
        invalidate(shop, step)
        ground.server.kill()
        ground.server.start()
        assert holds_what_was_invalidated(ground.url, mode), "the snapshot has it all"
        for way in WAYS:
            for item in CHANGING:
                shop.ask(way, item)
        assert shop.asked.total() == 2 * len(WAYS) * len(CHANGING)


@in_both_modes
def test_a_snapshot_that_revives_what_was_invalidated_under_load(mode: Mode, ground: Ground) -> None:
    with ground.shop(mode) as shop:
        for _ in range(2):
            shop.until_cached()
            shop.go_on()
            ground.server.command("SAVE")
            shop.change_all()
            shop.go_on(3)
            ground.server.kill()
            shop.until_away()
            ground.server.start()
            shop.until_back()
            shop.go_on()


@both_ways_to_invalidate
@in_both_modes
def test_a_replica_that_lacks_the_last_invalidations_takes_over_at_the_same_address(mode: Mode, step: str) -> None:
    """As behind a virtual address: connections break, and new ones lead to another server."""
    with Ground(*QUICK) as ground, replica_of(ground.server) as replica, ground.shop(mode) as shop:
        shop.until_cached()
        for way in WAYS:
            for item in CHANGING:
                shop.ask(way, item)
        caught_up(ground.server, replica)
        ground.server.cut_replicas()
        invalidate(shop, step)
        replace(ground, replica)
        shop.until_back()
        shop.go_on()
        assert replica.command("DBSIZE") > 0


@both_ways_to_invalidate
@in_both_modes
def test_a_master_that_steps_down_for_one_that_lacks_the_last_invalidations(mode: Mode, step: str) -> None:
    """It is the same run of the same server, with the data of another one; it is told as soon as it can be."""
    with (
        Ground(*QUICK) as ground,
        replica_of(ground.server) as other,
        ground.shop(mode, callers=0, changes=False) as shop,
    ):
        for way in WAYS:
            for item in CHANGING:
                shop.ask(way, item)
        caught_up(ground.server, other)
        ground.server.cut_replicas()
        invalidate(shop, step)
        other.command("REPLICAOF", "NO", "ONE")
        ground.server.command("REPLICAOF", "127.0.0.1", other.port)
        until(lambda: ground.server.command("ROLE")[3] == b"connected", "the former master follows")
        ground.server.command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")  # as a Sentinel does
        assert holds_what_was_invalidated(ground.url, mode), "it has been given what the other one held"
        for way in WAYS:
            for item in CHANGING:
                shop.ask(way, item)
        assert shop.away, "it takes no writes: it can't be told, and is not believed"
        ground.server.command("REPLICAOF", "NO", "ONE")
        shop.until_back()
        for way in WAYS:
            for item in CHANGING:
                shop.ask(way, item)


def test_an_invalidation_that_was_confirmed_just_before_the_crash_is_told_again(ground: Ground) -> None:
    """Its caller has not heard of that yet when a thread meets the server that was started in its place."""
    backend, another = (RedisBackend(ground.url, timeout=LENIENT) for _ in range(2))

    async def main() -> None:
        another.set("key", "old")
        assert await backend.aget("key") == "old"
        ground.server.command("SAVE")
        loop = asyncio.get_running_loop()
        lane = backend._link._fleet._loops[loop].to(None).lane_for([("PING",)])
        deletion = asyncio.create_task(backend.adelete("key"))

        def restart_once_it_is_answered() -> None:
            if lane.idle:  # and whoever waits is woken in this turn of the loop, after us
                assert not ground.server.command("KEYS", "*:v:*")
                ground.server.kill()
                ground.server.start()
                assert ground.server.command("KEYS", "*:v:*"), "the old value is revived"
                assert backend.get("another") is None
            else:
                loop.call_soon(restart_once_it_is_answered)

        while lane.idle:  # noqa: ASYNC110
            await asyncio.sleep(0)
        loop.call_soon(restart_once_it_is_answered)
        assert await deletion
        assert await backend.aget("key", "absent") == "absent"
        await backend.aclose()

    asyncio.run(main())
    backend.close()
    another.close()


@contextlib.contextmanager
def idle_loop() -> Iterator[asyncio.AbstractEventLoop]:
    """A loop that runs, and has nothing to do but what is given to it."""
    loop = asyncio.new_event_loop()
    runs = threading.Thread(target=loop.run_forever, daemon=True)
    runs.start()
    yield loop
    asyncio.run_coroutine_threadsafe(loop.shutdown_asyncgens(), loop).result(PATIENCE)
    loop.call_soon_threadsafe(loop.stop)
    runs.join(PATIENCE)
    loop.close()


@pytest.mark.parametrize("way", ["by a thread", "on a loop that goes on", "on a loop that ends"])
def test_a_process_that_asks_nothing_more_tells_again_too(way: str, ground: Ground) -> None:
    """Others must not be served what a snapshot revives, for longer than it takes to look."""
    before, idle = (RedisBackend(ground.url, timeout=LENIENT) for _ in range(2))
    other = RedisBackend(ground.server.url, timeout=LENIENT)
    before.set("key", "old")
    before.close()
    ground.server.command("SAVE")
    with contextlib.ExitStack() as stack:
        if way == "by a thread":
            assert idle.delete("key")
        elif way == "on a loop that ends":
            assert asyncio.run(idle.adelete("key"))
        else:
            assert asyncio.run_coroutine_threadsafe(idle.adelete("key"), stack.enter_context(idle_loop())).result()
        with refused(ground):
            ground.server.kill()
            ground.server.start()
            assert other.get("key") == "old", "the snapshot has it"
        until(lambda: other.get("key") is None, "the server has been told again")
        assert idle._link._invalidations.unsafe(), "for what it has confirmed is new"
        idle.close()
    other.close()


@in_both_modes
def test_what_was_deleted_by_its_prefix_is_told_again(mode: Mode, ground: Ground) -> None:
    before, backend = (RedisBackend(ground.url, timeout=LENIENT) for _ in range(2))
    before.set_many({"user:1": "old", "user:2": "old", "item:1": "kept"})
    before.close()
    ground.server.command("SAVE")
    if mode == "sync":
        assert backend.delete_match("user:") == 2
    else:
        assert asyncio.run(backend.adelete_match("user:")) == 2
    ground.server.kill()
    ground.server.start()
    assert backend.get_many("user:1", "user:2", "item:1") == (None, None, "kept")
    backend.close()


@in_both_modes
def test_an_outage_may_last_longer_than_invalidations_are_remembered(mode: Mode, ground: Ground) -> None:
    """As a failover does, where Sentinels wait for long before they believe that a master is away."""
    passed = 0.0
    with ground.shop(mode, callers=0, changes=False) as shop:
        invalidations = shop.redis._link._invalidations
        invalidations._clock = lambda: time.monotonic() + passed
        for way in WAYS:
            for item in CHANGING:
                shop.ask(way, item)
        ground.server.command("SAVE")
        shop.change_all()
        ground.server.kill()
        shop.ask(WAYS[0], STEADY[0])
        shop.until_away()
        passed += 600
        ground.server.start()
        shop.until_back()
        asked = shop.asked.copy()
        for way in WAYS:
            for item in CHANGING:
                shop.ask(way, item)
        assert (shop.asked - asked).total() == len(WAYS) * len(CHANGING)
