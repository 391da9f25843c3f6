"""Redis loses what it holds, or holds something else in its place: no outage, no error, nothing stale."""

from __future__ import annotations

import contextlib
import random

import pytest

from tests.faults.faults import Ground, spoil
from tests.faults.shop import CHANGING, LENIENT, STEADY, WAYS, Mode, in_both_modes


@pytest.mark.parametrize(
    "command", [("SCRIPT", "FLUSH"), ("FLUSHALL",), ("FLUSHALL", "ASYNC")], ids=lambda command: " ".join(command)
)
@in_both_modes
def test_a_server_that_is_made_to_forget_under_load(mode: Mode, command: tuple[str, ...], ground: Ground) -> None:
    with ground.shop(mode, timeout=LENIENT) as shop:
        shop.until_cached()
        for _ in range(20):
            ground.server.command(*command)
            shop.go_on(1)
        shop.until_back()
        assert (shop.turns, shop.trouble) == (0, 0)


@in_both_modes
def test_connections_that_the_server_closes_under_load(mode: Mode, ground: Ground) -> None:
    """``CLIENT KILL``: the batch that is on its way is sent again."""
    with ground.shop(mode, timeout=LENIENT, connect_timeout=LENIENT) as shop:
        shop.until_cached()
        with contextlib.closing(ground.server.client(protocol=2)) as admin:
            for _ in range(20):
                admin.client_kill_filter(_type="normal", skipme=True)
                shop.go_on(2)  # so that the new connections have been used: one that never was is not made anew
        shop.until_back()
        assert (shop.turns, shop.trouble) == (0, 0)


@in_both_modes
def test_rubbish_in_the_place_of_everything(mode: Mode, ground: Ground) -> None:
    """Torn, swapped, of another type or simply rubbish: values, fences, generations, tags, the sequence."""
    dice = random.Random(7)
    with ground.shop(mode, timeout=LENIENT) as shop:
        for _ in range(15):
            shop.until_cached()
            spoil(ground.server, dice)
            shop.go_on(2)
        shop.until_back()
        assert shop.turns == 0


@pytest.mark.parametrize(
    "rubbish", [b"\xf0" * 24, b"\x00" * 8 + b"\xff" * 8, b"\xff" * 16, b"text of 16 bytes", b"short"]
)
@in_both_modes
def test_rubbish_in_the_place_of_the_last_number_stops_no_invalidation_of_tags(
    mode: Mode, rubbish: bytes, ground: Ground
) -> None:
    """Numbers must rise from invalidation to invalidation, whatever they begin with."""
    with ground.shop(mode, callers=0, changes=False, timeout=LENIENT) as shop:
        shop.ask("tagged", CHANGING[0])
        ground.server.command("SET", "faults:q:", rubbish)
        for _ in range(3):
            shop.change(CHANGING[0])
            shop.ask("tagged", CHANGING[0])
            assert shop.is_cached("tagged", CHANGING[0])


@in_both_modes
def test_values_that_are_torn_one_by_one(mode: Mode, ground: Ground) -> None:
    """Cut anywhere, with a bit turned, or another key's: the source is asked, and the value is replaced."""
    with (
        ground.shop(mode, callers=0, changes=False, timeout=LENIENT) as shop,
        contextlib.closing(ground.server.client(protocol=2)) as raw,
    ):
        shop.until_cached()
        values = {name: raw.get(name) for name in sorted(raw.scan_iter(match="faults:v:*"))}
        assert len(values) == len(WAYS) * len(STEADY)
        names = list(values)
        for name, value in values.items():
            assert isinstance(value, bytes)
            other = values[names[names.index(name) - 1]]
            flipped = bytearray(value)
            flipped[len(value) // 2] ^= 1
            for torn in [value[: len(value) // 2], value[1:], bytes(flipped), other, b""]:
                if torn == value:
                    continue
                raw.set(name, torn or b"")
                before = shop.asked.total()
                for way in WAYS:
                    for item in STEADY:
                        shop.ask(way, item)
                assert shop.asked.total() == before + 1
                assert raw.get(name) != torn, "the value is replaced"
        assert (shop.turns, shop.trouble) == (0, 0)
