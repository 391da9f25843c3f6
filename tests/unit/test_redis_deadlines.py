"""Deadlines by a clock of which no more is known than what its server has told, and when."""

from __future__ import annotations

import pytest
from redis.exceptions import ResponseError

from fast_cache.backends.redis import deadlines
from fast_cache.backends.redis.deadlines import Dated, Deadline, ServerClock, alike, time_left

AHEAD = 1_700_000_000.0
"""Seconds: what the server's clock shows when ours begins."""


class Ours:
    """Our clock."""

    now = 1000.0


@pytest.fixture
def ours(monkeypatch: pytest.MonkeyPatch) -> Ours:
    clock = Ours()
    monkeypatch.setattr(deadlines, "monotonic", lambda: clock.now)
    return clock


def test_a_server_is_taken_to_be_as_early_as_it_can_be() -> None:
    clock = ServerClock()
    assert clock.ahead(0.0) is None
    clock.told(AHEAD + 10.5, asked=10.0, heard=11.0)
    assert clock.ahead(11.0) == AHEAD - 0.5
    clock.told(AHEAD + 20.1, asked=20.0, heard=20.2)
    assert clock.ahead(20.2) == pytest.approx(AHEAD - 0.1, abs=1e-6)


@pytest.mark.parametrize("reply", [None, [], [b"1"], [b"x", b"1"], [None, None], b"1", ResponseError("NOPERM")])
def test_what_is_no_time_tells_nothing(reply: object) -> None:
    clock = ServerClock()
    clock.read(reply, asked=1.0, heard=1.0)
    assert clock.ahead(1.0) is None
    clock.read([b"10", b"500000"], asked=1.0, heard=1.0)
    assert clock.ahead(1.0) == 9.5


def test_what_is_known_better_stays_known_but_for_what_the_clocks_may_drift() -> None:
    clock = ServerClock()
    clock.told(AHEAD + 10.0, asked=10.0, heard=10.0)
    clock.told(AHEAD + 11.0, asked=10.5, heard=12.0)
    assert clock.ahead(12.0) == pytest.approx(AHEAD - 0.001, abs=1e-6)
    clock.told(AHEAD + 5000.0, asked=4999.9, heard=5000.1)
    assert clock.ahead(5000.1) == pytest.approx(AHEAD - 0.1, abs=1e-6)


@pytest.mark.parametrize("step", [-3600.0, -0.5, 3600.0])
def test_a_clock_that_was_set_is_noticed_with_the_next_answer(step: float) -> None:
    clock = ServerClock()
    clock.told(AHEAD + 10.0, asked=10.0, heard=10.0)
    clock.told(AHEAD + step + 20.0, asked=19.9, heard=20.1)
    assert clock.ahead(20.1) == pytest.approx(AHEAD + step - 0.1, abs=1e-6)


def test_a_deadline_is_made_anew_whenever_it_is_sent(ours: Ours) -> None:
    clock, deadline = ServerClock(), Deadline(0.25)
    assert deadline.made(clock) == b"0", "the server refuses, and tells its time"
    clock.told(AHEAD + 1000.0, asked=1000.0, heard=1000.0)
    assert int(deadline.made(clock)) == pytest.approx((AHEAD + 1000.25) * 1e6, abs=1)
    ours.now = 1001.0
    assert int(deadline.made(clock)) == pytest.approx((AHEAD + 1001.25 - 0.0005) * 1e6, abs=1)
    assert deadline.made(None) == b"0"


def test_what_was_sent_may_happen_until_the_deadline_as_the_slower_clock_has_it(ours: Ours) -> None:
    deadline = Deadline(2.0)
    packet = Dated([("EVAL", b"x", deadline), ("GET", b"y")])
    assert time_left(packet) == 0
    deadline.made(None)
    assert time_left(packet) == pytest.approx(2.001)
    ours.now += 1
    assert time_left(packet) == pytest.approx(1.001)
    assert deadline.told(5)
    assert time_left(packet) == 0
    assert time_left([]) == 0


def test_who_was_late_gets_twice_the_time_that_it_took(ours: Ours) -> None:
    clock, deadline = ServerClock(), Deadline(0.25)
    clock.told(AHEAD + 1000.0, asked=1000.0, heard=1000.0)
    first = int(deadline.made(clock))
    ours.now += 0.1
    assert not deadline.told(-first - 1)
    assert int(deadline.made(clock)) == pytest.approx(first + 0.25e6, abs=2), "nothing was slow; the clock was set"
    ours.now += 0.6
    assert not deadline.told(-first - 500_000)
    sent = ours.now
    deadline.made(clock)
    assert deadline.until == pytest.approx(sent + 1.2, abs=1e-3)


def test_a_part_of_what_has_deadlines_has_deadlines() -> None:
    assert type(alike(Dated([1, 2]), [1])) is Dated
    assert type(alike([1, 2], [1])) is list
