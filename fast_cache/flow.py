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
from fast_cache.policy import CachePolicy, Keeping
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
        flight, leads = flights.board(call.key, port.gone())
        if leads:
            return await _lead(port, store, call, flight, replace=False)
        signal = await port.wait(flights, flight)
        if signal is Signal.SETTLED and flight.outcome is not None:
            return flight.outcome.for_follower()
        if signal is Signal.LEAD:
            return await _lead(port, store, call, flight, replace=False)
        if signal is Signal.ALONE:
            break
    return call.loaded(await port.call(call.fn, call.args, call.kwargs))


async def refresh(port: Port, store: Store, call: Call) -> Outcome:
    """Call the function whatever is stored, and store what it returns. Older loads in flight are fenced off."""
    return await _lead(port, store, call, store.flights.supersede(call.key, port.gone()), replace=True)


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
                flights.settle(flight, outcome, Signal.OVERTAKEN if store.shared else Signal.SETTLED)
                return outcome
        with leading(flight):
            outcome = call.loaded(await port.call(call.fn, call.args, call.kwargs))
        keeping = Keeping.SHARE if outcome.error is not None else call.policy.keeping(outcome.value)
    except BaseException:
        flights.abandon(flight)
        raise
    if keeping is Keeping.ALONE:
        flights.settle(flight, outcome, Signal.ALONE)
    elif store.local:
        await _end(port, store, call, flight, ticket, outcome, keeping)
    else:
        # A leader that is cancelled from here on has its value already: the write and the followers must not suffer.
        await port.finish(
            _end(port, store, call, flight, ticket, outcome, keeping), at_end=lambda: flights.settle(flight, outcome)
        )
    return outcome


async def _end(
    port: Port, store: Store, call: Call, flight: Flight, ticket: object, outcome: Outcome, keeping: Keeping
) -> None:
    """Store what was loaded, if it is to be kept and the fence stands, and tell the followers."""
    flights = store.flights
    signal = Signal.SETTLED
    try:
        if outcome.error is None and flights.is_followed(flight):
            outcome.copies = store.copier(outcome.value, call.policy.codec)
        stored = None
        if ticket is not None and keeping is Keeping.STORE:
            stored = await _write(port, store, call, flight, ticket, outcome)
        if not stored and store.shared and flights.is_followed(flight):
            refused = stored is not None
            if refused or not await _stands(port, store, flight, ticket):
                signal = Signal.OVERTAKEN
    finally:
        flights.settle(flight, outcome, signal)


async def _write(port: Port, store: Store, call: Call, flight: Flight, ticket: object, outcome: Outcome) -> bool | None:
    """Whether the store took the value or refused it; ``None`` if that is not known."""
    try:
        stored = await store.write(port, flight, ticket, outcome.value, call.policy.codec, call.expire)
    except BackendError as error:
        store.health.failed("write", error)
        return None
    except EncodeError as error:
        warn_once(f"the result of {call.policy.name} is not stored: {error}", "encode", call.policy.name)
        return None
    store.health.works("write")
    return stored


async def _stands(port: Port, store: Store, flight: Flight, ticket: object) -> bool:
    """Whether the followers of a load that was not stored may have its value.

    They asked before any invalidation of this process that has moved the flight, but perhaps after one elsewhere: then
    they ask again. While the store can't be reached nobody can tell, and one load for all is what matters.
    """
    if ticket is None:
        return True
    try:
        return not flight.moved and await store.stands(port, flight.key, ticket)
    except BackendError as error:
        store.health.failed("read", error)
        return True
