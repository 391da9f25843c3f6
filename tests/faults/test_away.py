"""Redis is gone, hangs, or can't be reached: requests succeed, and it is left alone until it is back.

Every scenario runs with ``def`` and with ``async def`` functions. That all requests succeed and that nothing stale was
served is judged by the shop when it closes.
"""

from __future__ import annotations

import contextlib
from functools import partial
from typing import Any

import pytest

from tests.faults.faults import Ground, frozen, killed, refused, silent, swallowed, unconnectable
from tests.faults.shop import CHANGING, LENIENT, WAYS, Mode, Shop, in_both_modes, until
from tests.faults.tearing import Tearing
from tests.support.proxy import Direction
from tests.support.redis_server import free_port


def outage(ground: Ground, shop: Shop, fault: contextlib.AbstractContextManager[None]) -> None:
    """Let Redis be away for a while, and see it come back."""
    shop.until_cached()
    with fault:
        shop.until_away()
        asked = shop.asked.total()
        with ground.only_probes():
            shop.change_all()
            shop.go_on()
        assert shop.away
        assert shop.owes, "what was changed meanwhile is remembered"
        assert shop.asked.total() > asked, "the source answers"
    shop.until_back()
    assert not shop.away
    until(lambda: not shop.owes, "what was remembered is delivered")
    shop.go_on()
    assert shop.turns >= 2


def lost(ground: Ground, replies: int) -> bool:
    return ground.proxy.lost_replies == replies


def returned(shop: Shop, times: int) -> bool:
    return shop.turns >= 2 * times


@in_both_modes
def test_a_server_that_was_never_there_costs_no_request_and_serves_when_it_comes(mode: Mode, ground: Ground) -> None:
    ground.proxy.refuse()
    with ground.shop(mode) as shop:
        shop.until_away()
        with ground.only_probes():
            shop.go_on()
        ground.proxy.accept()
        shop.until_back()


@in_both_modes
def test_a_server_that_is_killed_and_comes_back_empty(mode: Mode, ground: Ground) -> None:
    with ground.shop(mode) as shop:
        outage(ground, shop, killed(ground))


@in_both_modes
def test_a_server_that_is_frozen_and_thaws(mode: Mode, ground: Ground) -> None:
    with ground.shop(mode) as shop:
        outage(ground, shop, frozen(ground))


@in_both_modes
def test_a_server_that_is_frozen_again_and_again(mode: Mode, ground: Ground) -> None:
    with ground.shop(mode) as shop:
        for _ in range(3):
            outage(ground, shop, frozen(ground))


@in_both_modes
def test_a_server_that_can_not_be_reached(mode: Mode, ground: Ground) -> None:
    with ground.shop(mode) as shop:
        outage(ground, shop, refused(ground))


@in_both_modes
def test_a_black_hole_that_accepts_and_swallows(mode: Mode, ground: Ground) -> None:
    with ground.shop(mode) as shop:
        outage(ground, shop, swallowed(ground))


@pytest.mark.parametrize("direction", ["to_server", "to_client"])
@in_both_modes
def test_one_direction_is_silent(mode: Mode, direction: Direction, ground: Ground) -> None:
    """What the server was told, or answered, arrives when nobody waits for it any longer."""
    with ground.shop(mode) as shop:
        outage(ground, shop, silent(ground, direction))


@in_both_modes
def test_a_server_that_sleeps(mode: Mode, ground: Ground) -> None:
    """``DEBUG SLEEP``: it serves nobody, as while a slow command runs."""
    with ground.shop(mode) as shop:
        shop.until_cached()
        with contextlib.closing(ground.server.client(protocol=2)) as admin:
            connection: Any = admin.connection_pool.get_connection()
            connection.send_command("DEBUG", "SLEEP", "1.5")
            shop.until_away()
            shop.go_on(5)
            connection.read_response()  # when it wakes up
            connection.disconnect()
        shop.until_back()


@in_both_modes
def test_connecting_that_neither_succeeds_nor_fails(mode: Mode) -> None:
    with unconnectable() as url, Shop(url, mode, timeout=0.25, connect_timeout=0.5) as shop:
        shop.until_away()
        shop.change_all()
        shop.go_on()
        assert shop.away


@in_both_modes
def test_connections_that_are_cut_while_nobody_waits_are_made_anew_and_are_no_outage(
    mode: Mode, ground: Ground
) -> None:
    """As after the idle timeout of the server, or of something on the way."""
    with ground.shop(mode, callers=0, changes=False, timeout=LENIENT, connect_timeout=LENIENT) as shop:
        for reset in (True, False):
            for way in WAYS:
                shop.ask(way, CHANGING[0])
            until(lambda: ground.proxy.open > 0, "there is a connection")
            ground.proxy.cut(reset=reset)
            for way in WAYS:
                before = shop.asked.total()
                shop.ask(way, CHANGING[0])
                assert shop.asked.total() == before, "it was served from the cache"
        assert (shop.turns, shop.trouble) == (0, 0)


@pytest.mark.parametrize("reset", [True, False])
@in_both_modes
def test_connections_that_are_cut_before_the_answer_are_made_anew_and_are_no_outage(
    mode: Mode, reset: bool, ground: Ground
) -> None:
    """Nobody knows what the server has done: it is told again."""
    with ground.shop(mode, timeout=LENIENT, connect_timeout=LENIENT) as shop:
        shop.until_cached()
        for number in range(1, 11):
            ground.proxy.lose_reply(b"faults:", reset=reset)  # not one by which a connection begins
            ground.proxy.wait_until(partial(lost, ground, number))
            shop.go_on(2)
        assert (shop.turns, shop.trouble) == (0, 0)


@in_both_modes
def test_an_answer_that_is_cut_in_the_middle_costs_no_request(mode: Mode, ground: Ground) -> None:
    """What was heard of it is not taken for a reply, and the connection is not used again."""
    with Tearing(ground.server.port) as tearing, Shop(tearing.url, mode, timeout=LENIENT) as shop:
        shop.until_cached()
        for number in range(1, 4):
            tearing.tear()
            until(partial(returned, shop, number), "Redis is away for a moment, and back")
            shop.until_back()
        assert tearing.torn == 3


@in_both_modes
def test_where_nothing_listens_at_all(mode: Mode) -> None:
    with Shop(f"redis://127.0.0.1:{free_port()}/0", mode) as shop:
        shop.until_away()
        shop.change_all()
        shop.go_on()
        assert shop.away
