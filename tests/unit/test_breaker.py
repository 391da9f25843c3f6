"""When Redis is asked, when it is left alone, and what it is told first on its return."""

from __future__ import annotations

import threading

import pytest

from fast_cache.backends.redis.breaker import Breaker


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def opened(clock: Clock) -> Breaker:
    breaker = Breaker(clock)
    lost = breaker.admit()
    assert lost is not None
    lost.failed()
    return breaker


def test_everybody_is_admitted_while_it_works() -> None:
    breaker = Breaker(Clock())
    admissions = [breaker.admit() for _ in range(3)]
    assert all(admission is not None and not admission.probe for admission in admissions)


def test_the_first_loss_stops_everybody() -> None:
    breaker = opened(Clock())
    assert breaker.is_open
    assert breaker.admit() is None


def test_one_probe_goes_after_the_pause() -> None:
    clock = Clock()
    breaker = opened(clock)
    clock.now += 0.1
    probe = breaker.admit()
    assert probe is not None
    assert probe.probe
    assert breaker.admit() is None, "while the probe is on its way nobody else goes"


def test_a_successful_probe_lets_everybody_in() -> None:
    clock = Clock()
    breaker = opened(clock)
    clock.now += 0.1
    probe = breaker.admit()
    assert probe is not None
    probe.succeeded()
    assert not breaker.is_open
    admitted = breaker.admit()
    assert admitted is not None
    assert not admitted.probe


def test_pauses_double_up_to_a_bound() -> None:
    clock = Clock()
    breaker = opened(clock)
    pauses = []
    for _ in range(5):
        start = clock.now
        while (probe := breaker.admit()) is None:
            clock.now += 0.05
        probe.failed()
        pauses.append(clock.now - start)
    assert pauses == pytest.approx([0.1, 0.2, 0.4, 0.8, 0.8], abs=0.06)


def test_exchanges_lost_together_open_it_once() -> None:
    clock = Clock()
    breaker = Breaker(clock)
    together = [breaker.admit() for _ in range(3)]
    for admission in together:
        assert admission is not None
        admission.failed()
    clock.now += 0.1
    assert breaker.admit() is not None, "a later loss of the same outage must not put off the probe"


def test_an_exchange_from_before_the_outage_does_not_reopen_it() -> None:
    clock = Clock()
    breaker = Breaker(clock)
    first, straggler = breaker.admit(), breaker.admit()
    assert first is not None
    assert straggler is not None
    first.failed()
    clock.now += 0.1
    probe = breaker.admit()
    assert probe is not None
    probe.succeeded()
    straggler.failed()
    assert not breaker.is_open


def test_a_cancelled_probe_makes_way_for_another() -> None:
    clock = Clock()
    breaker = opened(clock)
    clock.now += 0.1
    probe = breaker.admit()
    assert probe is not None
    probe.abandoned()
    assert breaker.admit() is not None


def test_what_is_owed_travels_with_the_probe() -> None:
    clock = Clock()
    breaker = opened(clock)
    breaker.owe("a")
    breaker.owe("b")
    breaker.owe("a")
    clock.now += 0.1
    probe = breaker.admit()
    assert probe is not None
    assert sorted(probe.owed.keys) == ["a", "b"]
    probe.succeeded()
    after = breaker.admit()
    assert after is not None
    assert not after.owed


def test_owing_closes_nobody_out_and_travels_with_every_exchange_until_one_is_answered() -> None:
    breaker = Breaker(Clock())
    breaker.owe("a")
    together = [breaker.admit() for _ in range(3)]
    for admission in together:
        assert admission is not None
        assert not admission.probe
        assert admission.owed.keys == ("a",)
    assert together[1] is not None
    together[1].succeeded()
    after = breaker.admit()
    assert after is not None
    assert not after.owed


def test_a_probe_that_never_comes_back_makes_way_for_another() -> None:
    clock = Clock()
    breaker = Breaker(clock, probe_within=3)
    first = breaker.admit()
    assert first is not None
    first.failed()
    clock.now += 0.1
    lost = breaker.admit()
    assert lost is not None
    clock.now += 2.9
    assert breaker.admit() is None
    clock.now += 0.1
    another = breaker.admit()
    assert another is not None
    assert another.probe
    lost.abandoned()  # it ends after all: that is no leave for a third
    lost.failed()
    assert breaker.admit() is None
    another.succeeded()
    assert not breaker.is_open


def test_what_came_to_be_owed_during_the_probe_is_delivered_next() -> None:
    clock = Clock()
    breaker = opened(clock)
    breaker.owe("a")
    clock.now += 0.1
    probe = breaker.admit()
    assert probe is not None
    breaker.owe("a")  # again, after the probe was sent: its delivery does not count for this one
    breaker.owe("b")
    probe.succeeded()
    following = breaker.admit()
    assert following is not None
    assert not following.probe
    assert sorted(following.owed.keys) == ["a", "b"]


def test_a_failed_probe_still_owes() -> None:
    clock = Clock()
    breaker = opened(clock)
    breaker.owe("a")
    clock.now += 0.1
    probe = breaker.admit()
    assert probe is not None
    probe.failed()
    clock.now += 1
    again = breaker.admit()
    assert again is not None
    assert again.owed.keys == ("a",)


def test_owing_everything_replaces_the_single_keys() -> None:
    breaker = Breaker(Clock())
    breaker.owe("a")
    breaker.owe(None)
    probe = breaker.admit()
    assert probe is not None
    assert probe.owed.everything
    assert probe.owed.keys == ()


def test_the_memory_of_what_is_owed_is_bounded() -> None:
    breaker = Breaker(Clock())
    for number in range(10_001):
        breaker.owe(str(number))
    probe = breaker.admit()
    assert probe is not None
    assert probe.owed.everything
    assert len(probe.owed.keys) <= 1


def test_only_one_thread_gets_the_probe() -> None:
    clock = Clock()
    breaker = opened(clock)
    clock.now += 0.1
    barrier = threading.Barrier(8)
    admitted = []

    def ask() -> None:
        barrier.wait()
        admitted.append(breaker.admit())

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(admission is not None for admission in admitted) == 1
