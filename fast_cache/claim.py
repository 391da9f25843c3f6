"""One load for several processes: a leader takes the lease of its key before it loads, or waits for whoever has it.

Waiting ends when there is a value, when the lease can be had, or when it has taken too long: then the load goes on
without a lease, since a lease saves work and guards nothing. A refresh that nobody waits for does not wait either.
"""

from __future__ import annotations

from typing import TypeGuard

from fast_cache.backends.store import Store, Terms
from fast_cache.entry import MISSING, MissingType
from fast_cache.errors import BackendError
from fast_cache.freshness import Found
from fast_cache.ports import Port
from fast_cache.single_flight import Flight


def is_newer(found: Found | MissingType, seen: Found | None) -> TypeGuard[Found]:
    """Whether ``found`` was stored by somebody else since ``seen`` was read, and spares the load."""
    return found is not MISSING and found.fresh_for > (0.0 if seen is None else max(seen.fresh_for, 0.0))


async def capture(
    port: Port,
    store: Store,
    flight: Flight,
    terms: Terms,
    seen: Found | None,
    *,
    replace: bool,
    within: float,
) -> tuple[Found | MissingType, object, bool]:
    """Look once more and capture the fence, as soon as the load may begin or need not.

    The third result is whether nobody else loads, as far as is known.
    """
    began = port.now()
    while True:
        found, ticket, busy = await store.claim(port, flight, terms, replace=replace)
        if busy is None or replace or is_newer(found, seen):
            return found, ticket, True
        left = began + within - port.now()
        if left <= 0 or not port.can_wait():
            return found, ticket, False
        there = await store.released(port, flight.key, terms, within=min(left, busy))
        if is_newer(there, seen):
            return there, None, True


async def release(port: Port, store: Store, flight: Flight) -> None:
    """Let other processes load, where the lease did not go with the value."""
    try:
        await store.release(port, flight)
    except BackendError as error:
        store.health.failed("write", error)
