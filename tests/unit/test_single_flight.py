"""One load per key: who leads, who follows, and what happens when either goes away."""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Callable

import pytest

from fast_cache.outcome import Outcome
from fast_cache.ports import ASYNCIO, BLOCKING, run_blocking
from fast_cache.single_flight import Flight, Flights, Signal, leading


async def settled_ticks() -> None:
    """Let every task that can run, run."""
    for _ in range(20):
        await asyncio.sleep(0)


def test_first_caller_leads_and_the_second_follows() -> None:
    flights = Flights()
    first, leads = flights.board("k")
    second, also_leads = flights.board("k")
    assert leads
    assert not also_leads
    assert first is second


def test_followers_get_the_outcome_of_their_leader() -> None:
    async def main() -> list[Signal]:
        flights = Flights()
        flight, _ = flights.board("k")
        waits = [asyncio.create_task(ASYNCIO.wait(flights, flight)) for _ in range(3)]
        await settled_ticks()
        flights.settle(flight, Outcome(42))
        assert len(flights) == 0
        return await asyncio.gather(*waits)

    assert asyncio.run(main()) == [Signal.SETTLED] * 3


def test_a_follower_that_comes_too_late_is_not_left_waiting() -> None:
    flights = Flights()
    flight, _ = flights.board("k")
    flights.settle(flight, Outcome(1))
    assert run_blocking(BLOCKING.wait(flights, flight)) is Signal.SETTLED


def test_an_abandoned_flight_is_handed_to_exactly_one_follower() -> None:
    async def main() -> list[Signal | None]:
        flights = Flights()
        flight, _ = flights.board("k")
        waits = [asyncio.create_task(ASYNCIO.wait(flights, flight)) for _ in range(3)]
        await settled_ticks()
        flights.abandon(flight)
        await settled_ticks()
        seen = [task.result() if task.done() else None for task in waits]
        flights.settle(flight, Outcome(1))
        await asyncio.gather(*waits)
        return seen

    assert asyncio.run(main()) == [Signal.LEAD, None, None]


def test_a_follower_cancelled_as_it_is_handed_the_lead_passes_it_on() -> None:
    async def main() -> Signal:
        flights = Flights()
        flight, _ = flights.board("k")
        heir = asyncio.create_task(ASYNCIO.wait(flights, flight))
        other = asyncio.create_task(ASYNCIO.wait(flights, flight))
        await settled_ticks()
        flights.abandon(flight)
        heir.cancel()
        signal = await other
        assert heir.cancelled()
        return signal

    assert asyncio.run(main()) is Signal.LEAD


def test_a_follower_cancelled_just_before_the_hand_over_passes_it_on() -> None:
    async def main() -> Signal:
        flights = Flights()
        flight, _ = flights.board("k")
        heir = asyncio.create_task(ASYNCIO.wait(flights, flight))
        other = asyncio.create_task(ASYNCIO.wait(flights, flight))
        await settled_ticks()
        heir.cancel()
        flights.abandon(flight)
        return await other

    assert asyncio.run(main()) is Signal.LEAD


def test_a_cancelled_follower_harms_neither_leader_nor_followers() -> None:
    async def main() -> Signal:
        flights = Flights()
        flight, _ = flights.board("k")
        gone = asyncio.create_task(ASYNCIO.wait(flights, flight))
        stays = asyncio.create_task(ASYNCIO.wait(flights, flight))
        await settled_ticks()
        gone.cancel()
        await settled_ticks()
        flights.settle(flight, Outcome(1))
        return await stays

    assert asyncio.run(main()) is Signal.SETTLED


def test_an_abandoned_flight_without_followers_ends() -> None:
    flights = Flights()
    flight, _ = flights.board("k")
    flights.abandon(flight)
    assert len(flights) == 0
    _, leads = flights.board("k")
    assert leads


def test_followers_on_a_closed_loop_are_passed_over() -> None:
    flights = Flights()
    flight, _ = flights.board("k")
    loop = asyncio.new_event_loop()

    async def enqueue_only() -> None:
        from fast_cache.ports import _TaskWaiter

        flights.enqueue(flight, _TaskWaiter())

    loop.run_until_complete(enqueue_only())
    loop.close()
    got: list[Signal] = []
    thread = threading.Thread(target=lambda: got.append(run_blocking(BLOCKING.wait(flights, flight))))
    thread.start()
    while len(flight._waiters) < 2:
        threading.Event().wait(0.001)
    flights.abandon(flight)
    thread.join(10)
    assert got == [Signal.LEAD]


def test_an_invalidated_flight_takes_no_more_followers() -> None:
    flights = Flights()
    flight, _ = flights.board("k")
    assert flights.invalidate("k") is flight
    assert flight.moved
    fresh, leads = flights.board("k")
    assert leads
    assert fresh is not flight
    flights.settle(flight, Outcome("old"))
    assert flights.board("k") == (fresh, False)


def test_clearing_marks_every_flight() -> None:
    flights = Flights()
    first, _ = flights.board("a")
    second, _ = flights.board("b")
    flights.invalidate_all()
    assert first.moved
    assert second.moved
    assert len(flights) == 0


def test_superseding_fences_off_the_running_load() -> None:
    flights = Flights()
    old, _ = flights.board("k")
    new = flights.supersede("k")
    assert old.moved
    assert not new.moved
    assert flights.board("k") == (new, False)


def test_nobody_joins_a_lone_flight_and_it_joins_nobody() -> None:
    flights = Flights()
    first, second = flights.lone("k"), flights.lone("k")
    shared, leads = flights.board("k")
    assert leads
    assert len({first, second, shared}) == 3
    for flight in (first, second, shared):
        assert flights.loads("k")
        flights.settle(flight, Outcome(1))
    assert not flights.loads("k")
    assert len(flights) == 0


@pytest.mark.parametrize("how", ["invalidate", "invalidate_all", "supersede", "supersede_if"])
def test_lone_flights_are_fenced_off_like_others(how: str) -> None:
    flights = Flights()
    flight, other = flights.lone("k"), flights.lone("other")
    getattr(flights, how)(*{"invalidate_all": (), "supersede_if": (flight,)}.get(how, ("k",)))
    assert flight.moved
    assert other.moved is (how == "invalidate_all")
    flights.abandon(flight)
    assert flight.ended is Signal.OVERTAKEN


class Given:
    """A lease that knows whether it was given up."""

    def __init__(self) -> None:
        self.up = 0

    def give_up(self) -> None:
        self.up += 1


@pytest.mark.parametrize("how", ["settle", "abandon", "invalidate_all", "supersede_if"])
def test_a_lease_ends_with_its_flight(how: str) -> None:
    flights, lease = Flights(), Given()
    flight, _ = flights.board("k")
    flight.lease = lease
    arguments = {"settle": (flight, Outcome(1)), "invalidate_all": ()}.get(how, (flight,))
    getattr(flights, how)(*arguments)
    assert lease.up == 1
    assert flight.lease is None
    flights.settle(flight, Outcome(1))
    assert lease.up == 1


def test_an_heir_takes_over_the_lease() -> None:
    async def main() -> int:
        flights, lease = Flights(), Given()
        flight, _ = flights.board("k")
        flight.lease = lease
        heir = asyncio.create_task(ASYNCIO.wait(flights, flight))
        await settled_ticks()
        flights.abandon(flight)
        assert await heir is Signal.LEAD
        assert flight.lease is lease
        flights.abandon(flight)
        return lease.up

    assert asyncio.run(main()) == 1


def test_waiting_for_a_load_one_is_part_of_is_refused() -> None:
    flights = Flights()
    flight, _ = flights.board("k")
    with leading(flight):
        assert run_blocking(BLOCKING.wait(flights, flight)) is Signal.ALONE


def test_two_loads_that_would_wait_for_each_other_do_not() -> None:
    async def main() -> set[Signal]:
        flights = Flights()
        a, _ = flights.board("a")
        b, _ = flights.board("b")

        async def load(own: Flight, other: Flight) -> Signal:
            with leading(own):
                signal = await ASYNCIO.wait(flights, other)
            flights.settle(own, Outcome(own.key))
            return signal

        return set(await asyncio.gather(load(a, b), load(b, a)))

    assert asyncio.run(asyncio.wait_for(main(), 10)) == {Signal.ALONE, Signal.SETTLED}


def test_a_thread_that_runs_an_event_loop_never_blocks() -> None:
    flights = Flights()
    flight, _ = flights.board("k")

    async def main() -> Signal:
        return run_blocking(BLOCKING.wait(flights, flight))

    assert asyncio.run(main()) is Signal.ALONE


def test_threads_and_tasks_of_several_loops_share_one_flight() -> None:
    flights = Flights()
    flight, _ = flights.board("k")
    got: list[Signal] = []

    def in_thread() -> None:
        got.append(run_blocking(BLOCKING.wait(flights, flight)))

    def in_loop() -> None:
        got.append(asyncio.run(ASYNCIO.wait(flights, flight)))

    threads = [threading.Thread(target=target) for target in (in_thread, in_loop, in_thread, in_loop)]
    for thread in threads:
        thread.start()
    while len(flight._waiters) < 4:
        threading.Event().wait(0.001)
    flights.settle(flight, Outcome(1))
    for thread in threads:
        thread.join(10)
    assert got == [Signal.SETTLED] * 4


def test_a_step_that_suspends_in_the_blocking_port_fails_loudly() -> None:
    async def suspends() -> None:
        await asyncio.sleep(0)

    with pytest.raises(RuntimeError, match="suspended"):
        run_blocking(suspends())


@pytest.mark.parametrize("seed", range(40))
def test_random_cancellation_of_leaders_and_followers_leaves_nobody_waiting(seed: int) -> None:
    """Callers load by hand-over; some are cancelled at random moments. Whoever was not must get a value."""
    rng = random.Random(seed)

    async def main() -> None:
        flights = Flights()

        async def caller() -> str:
            flight, leads = flights.board("k")
            while True:
                if leads:
                    return await lead(flight)
                signal = await ASYNCIO.wait(flights, flight)
                if signal is Signal.SETTLED:
                    assert flight.outcome is not None
                    return str(flight.outcome.value)
                leads = signal is Signal.LEAD
                if not leads:
                    flight, leads = flights.board("k")

        async def lead(flight: Flight) -> str:
            try:
                for _ in range(rng.randrange(6)):
                    await asyncio.sleep(0)
            except BaseException:
                flights.abandon(flight)
                raise
            flights.settle(flight, Outcome("value"))
            return "value"

        tasks = [asyncio.create_task(caller()) for _ in range(30)]
        for _ in range(25):
            await asyncio.sleep(0)
            rng.choice(tasks).cancel()
        results = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 10)
        assert all(result == "value" or isinstance(result, asyncio.CancelledError) for result in results)
        assert len(flights) == 0

    asyncio.run(main())


def test_only_one_thread_leads_at_a_time() -> None:
    flights = Flights()
    barrier = threading.Barrier(16)
    leaders: list[int] = []

    def caller(number: int) -> None:
        barrier.wait()
        _, leads = flights.board("k")
        if leads:
            leaders.append(number)

    run_all([lambda n=n: caller(n) for n in range(16)])  # type: ignore[misc]
    assert len(leaders) == 1


def run_all(targets: list[Callable[[], None]]) -> None:
    threads = [threading.Thread(target=target) for target in targets]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
