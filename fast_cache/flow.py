"""What happens when local memory has no answer: the one copy of the procedure, for every kind of caller.

Board the flight of the key; as its leader look in the store, capture the fence, call the function, and store the
result only if nothing it depends on was invalidated meanwhile; as a follower wait. Written over a port and a store,
it knows neither event loops nor threads nor drivers. Trouble in the store never reaches the caller: the function
runs, and the trouble is counted and logged once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fast_cache.backends.store import Address, Store
from fast_cache.entry import MISSING
from fast_cache.errors import BackendError, EncodeError
from fast_cache.once import warn_once
from fast_cache.outcome import Outcome
from fast_cache.policy import CachePolicy
from fast_cache.ports import Port
from fast_cache.single_flight import Flight, Signal, leading
from fast_cache.stats import FunctionStats

_LAPS = 3
"""How often a follower whose flight was overtaken asks again before it loads by itself, without storing."""


class Call:
    """One call to be answered: its key, the function with its arguments, and the function's policy."""

    __slots__ = ("args", "expire", "fn", "key", "kwargs", "policy", "stats")

    def __init__(
        self,
        key: Address,
        fn: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        policy: CachePolicy,
        expire: float | None,
        stats: FunctionStats,
    ) -> None:
        self.key = key
        self.fn = fn
        self.args = args
        self.kwargs = kwargs
        self.policy = policy
        self.expire = expire
        self.stats = stats

    def loaded(self, outcome: Outcome) -> Outcome:
        """Count a run of the function."""
        self.stats.loaded(outcome.seconds, failed=outcome.error is not None)
        return outcome


async def answer(port: Port, store: Store, call: Call) -> Outcome:
    """Answer ``call`` from the store, from a load that is under way, or by calling the function.

    Every caller reads for itself. Sharing one read would hand a value that was read before an invalidation
    elsewhere to callers who came after it; loads can be shared, because the fence tells when that happened.
    """
    flights = store.flights
    counted = False
    for _ in range(_LAPS):
        value = await _read(port, store, call)
        if value is not MISSING:
            if not counted:
                call.stats.hit()
            return Outcome(value)
        if not counted:
            counted = True
            call.stats.miss()
        flight, leads = flights.board(call.key)
        if leads:
            return await _lead(port, store, call, flight, replace=False)
        signal = await port.wait(flights, flight)
        if signal is Signal.SETTLED and flight.outcome is not None:
            return store.shared_out(flight.outcome)
        if signal is Signal.LEAD:
            return await _lead(port, store, call, flight, replace=False)
        if signal is Signal.ALONE:
            break
    return call.loaded(await port.call(call.fn, call.args, call.kwargs))


async def refresh(port: Port, store: Store, call: Call) -> Outcome:
    """Call the function whatever is stored, and store what it returns. Older loads in flight are fenced off."""
    return await _lead(port, store, call, store.flights.supersede(call.key), replace=True)


async def invalidate(port: Port, store: Store, key: Address) -> bool:
    """Remove what is stored under ``key`` and fence off its loads; true if something was removed.

    What the store could not be told does not raise: it keeps the invalidation for later, or counts as failing.
    """
    try:
        removed = await store.delete(port, key)
    except BackendError as error:
        store.health.failed("delete", error)
        return False
    store.health.works("delete")
    return removed


async def _read(port: Port, store: Store, call: Call) -> Any:
    try:
        value = await store.read(port, call.key, call.policy.codec)
    except BackendError as error:
        store.health.failed("read", error)
        return MISSING
    store.health.works("read")
    return value


async def _lead(port: Port, store: Store, call: Call, flight: Flight, *, replace: bool) -> Outcome:
    flights = store.flights
    try:
        ticket = None
        try:
            found, ticket = await store.capture(port, call.key, call.policy.codec, replace=replace)
        except BackendError as error:
            store.health.failed("capture", error)
        else:
            store.health.works("capture")
            if found is not MISSING:  # stored by somebody else since this caller looked
                outcome = Outcome(found)
                flights.settle(flight, outcome, overtaken=store.shared)
                return outcome
        with leading(flight):
            outcome = call.loaded(await port.call(call.fn, call.args, call.kwargs))
    except BaseException:
        flights.abandon(flight)
        raise
    if ticket is None or outcome.error is not None or not call.policy.may_store(outcome.value):
        flights.settle(flight, outcome)
    elif store.local:
        await _store(port, store, call, flight, ticket, outcome)
    else:
        # A leader that is cancelled from here on has its value already: the write and the followers must not suffer.
        await port.finish(
            _store(port, store, call, flight, ticket, outcome), at_end=lambda: flights.settle(flight, outcome)
        )
    return outcome


async def _store(port: Port, store: Store, call: Call, flight: Flight, ticket: object, outcome: Outcome) -> None:
    stored = True
    try:
        stored = await store.write(port, flight, ticket, outcome.value, call.policy.codec, call.expire)
        store.health.works("write")
    except BackendError as error:
        store.health.failed("write", error)
    except EncodeError as error:
        warn_once(f"the result of {call.policy.name} is not stored: {error}", "encode", call.policy.name)
    finally:
        # Those who joined before an invalidation of this process may have the value: they asked before it. Where the
        # store refused it, an invalidation elsewhere came at an unknown moment, and the followers ask again.
        store.flights.settle(flight, outcome, overtaken=not stored and not flight.moved)
