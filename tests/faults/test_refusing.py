"""Redis is there and says no: it is full, a replica, loading, locked, or forbids what it is asked.

Whatever it holds and may still be read is served; where it can't be told of an invalidation nothing of it is believed,
until it can.
"""

from __future__ import annotations

import contextlib
import secrets

import pytest

from fast_cache.testing import PATIENCE
from tests.faults.faults import (
    Ground,
    commands,
    demoted,
    evicting,
    forbidden,
    full,
    information,
    locked_out,
    unable_to_save,
    version,
)
from tests.faults.shop import CHANGING, LENIENT, STEADY, WAYS, Mode, Shop, in_both_modes, until
from tests.support.redis_server import RedisServer, free_port


def refusal(ground: Ground, shop: Shop, fault: contextlib.AbstractContextManager[None]) -> None:
    """Let Redis refuse for a while, invalidations too, and see it comply again."""
    shop.until_cached()
    with fault:
        shop.change_all()
        shop.until_away()
        with ground.only_probes():
            shop.go_on()
        assert shop.away
        assert shop.owes
    shop.until_back()
    until(lambda: not shop.owes, "what was remembered is delivered")
    shop.go_on()


@in_both_modes
def test_a_full_server_serves_what_it_holds_and_takes_every_invalidation(mode: Mode, ground: Ground) -> None:
    with ground.shop(mode, timeout=LENIENT) as shop:
        shop.until_cached()
        with full(ground):
            shop.go_on()
            shop.change_all()
            shop.go_on()
            asked = {(way, item): shop.asked[way, item] for way in WAYS for item in STEADY}
            for way, item in asked:
                shop.ask(way, item)
            assert asked == {place: shop.asked[place] for place in asked}, "they are served from the cache"
            assert shop.trouble > 0, "it is full"
            shop.clear()
            shop.go_on()
            assert shop.turns == 0
        shop.until_back()
        until(lambda: not shop.owes, "nothing is left to be told")
        assert shop.turns == 0


@in_both_modes
def test_a_server_that_evicts_everything_at_once(mode: Mode, ground: Ground) -> None:
    """Fences, generations and values may go at any moment, in any order."""
    with ground.shop(mode, timeout=LENIENT) as shop:
        shop.until_cached()
        with evicting(ground):
            shop.change_all()
            shop.go_on()
        shop.until_back()
        assert shop.turns == 0


@in_both_modes
def test_a_master_that_becomes_a_replica_and_is_made_master_again(mode: Mode, ground: Ground) -> None:
    with RedisServer("--repl-diskless-sync-delay", "0") as other, ground.shop(mode) as shop:
        refusal(ground, shop, demoted(ground, other))


@in_both_modes
def test_a_server_that_can_not_save_and_takes_no_writes(mode: Mode, ground: Ground) -> None:
    with ground.shop(mode) as shop:
        refusal(ground, shop, unable_to_save(ground))


@in_both_modes
def test_a_server_that_forbids_every_command(mode: Mode, ground: Ground) -> None:
    with ground.shop(mode) as shop:
        refusal(ground, shop, forbidden(ground))


@in_both_modes
def test_a_password_that_is_changed(mode: Mode) -> None:
    with Ground(requirepass="first") as ground, ground.shop(mode) as shop:
        refusal(ground, shop, locked_out(ground, "first"))


@pytest.mark.skipif(version() < (7,), reason="Redis 6.2 answers nobody while it loads so little")
@in_both_modes
def test_a_server_that_is_loading(mode: Mode) -> None:
    """It answers, and serves nobody until its snapshot is read. That holds what has been invalidated since, too."""
    slowly = ("--key-load-delay", "20000", "--loading-process-events-interval-bytes", "1024")
    with Ground(*slowly) as ground, ground.shop(mode) as shop:
        shop.until_cached()
        with contextlib.closing(ground.server.client()) as raw:
            ballast = {f"ballast:{number}": secrets.token_bytes(512) for number in range(int(2 * PATIENCE * 50))}
            raw.mset(ballast)  # at 20 ms each, it takes longer than anybody would wait
            raw.save()
        ground.server.kill()
        shop.until_away()
        ground.server.start()
        assert information(ground.server, "persistence")["loading"] == "1"
        with ground.only_probes():
            shop.change_all()
            shop.go_on()
        assert shop.away
        ground.server.command("CONFIG", "SET", "key-load-delay", "0")
        shop.until_back()
        shop.go_on()


@in_both_modes
def test_what_is_refused_for_a_moment_is_asked_in_the_same_way_again(mode: Mode, ground: Ground) -> None:
    """Many reads travel as one command: a replica that has lost its master, or a server that loads, forbids nothing."""
    with ground.shop(mode, callers=0, changes=False, timeout=LENIENT) as shop:
        shop.until_cached()
        ground.server.command("CONFIG", "SET", "replica-serve-stale-data", "no")
        ground.server.command("REPLICAOF", "127.0.0.1", str(free_port()))  # -MASTERDOWN, to reads
        before = shop.asked.total()
        for way in WAYS:
            shop.ask(way, STEADY[0])
        assert shop.asked.total() == before + len(WAYS)
        ground.server.command("REPLICAOF", "NO", "ONE")
        shop.until_back()
        merged = commands(ground.server, "mget")
        shop.ask("function", STEADY[0])
        assert commands(ground.server, "mget") > merged


@pytest.mark.parametrize("limit", [9_990, 10_050])
@in_both_modes
def test_more_invalidations_than_are_remembered_end_everything_there_is(mode: Mode, limit: int, ground: Ground) -> None:
    """Up to the bound others' entries survive an outage; beyond it the namespace is cleared, and nothing is stale."""
    with ground.shop(mode, callers=0, changes=False) as shop:
        shop.until_cached()
        for way in WAYS:
            shop.ask(way, CHANGING[0])
        ground.server.freeze()
        shop.change(CHANGING[0])
        shop.delete_others(limit)
        assert shop.away
        ground.server.thaw()
        until(lambda: shop.recovered("function"), "Redis is asked again")
        before = dict(shop.asked)
        for way in WAYS:
            shop.ask(way, STEADY[-1])
            shop.ask(way, CHANGING[0])
        survived = [way for way in WAYS if shop.asked[way, STEADY[-1]] == before[way, STEADY[-1]]]
        assert survived == (list(WAYS) if limit < 10_000 else [])
