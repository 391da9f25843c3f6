"""The calls of a backend that has ten methods and nothing more.

Those that read and then write take turns within this process, and do it again where a key was changed in between by
other means; across processes nothing is promised. What ten methods can't tell is asked of those beyond them that the
backend defines, known of what this process stored, or refused: there are no guesses.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from time import monotonic, sleep
from typing import TYPE_CHECKING, Any, Final

from fast_cache.backends.calls import Calls
from fast_cache.backends.lifetimes import Lifetimes
from fast_cache.backends.locks import LocalLocks
from fast_cache.backends.steps import CallSteps, Page, added
from fast_cache.backends.store import Store
from fast_cache.backends.ten_methods import TenMethodStore
from fast_cache.backends.turns import Turns
from fast_cache.entry import MISSING, NEVER
from fast_cache.errors import BackendError, NotSupportedError
from fast_cache.outcome import Outcome
from fast_cache.ports import Port
from fast_cache.single_flight import Flight, Signal

if TYPE_CHECKING:
    from fast_cache.backends.base import CacheBackend

_LAPS: Final = 100
"""How often a change is tried again after somebody else changed the key."""

_BETWEEN: Final = 0.01
"""Seconds between two of them, where an older write has not ended."""

_BRIEFLY: Final = 0.001
"""The shortest lifetime that is given to what should have ended by now, in seconds."""

_Change = tuple[Any, float | None, Any]
"""What to store, for how long, and what to return."""


class TenCalls(CallSteps):
    """The calls of ``backend``, whose flights are those of ``store``."""

    def __init__(self, backend: CacheBackend, store: Store) -> None:
        self._backend = backend
        self._store = store
        self._ten = store if isinstance(store, TenMethodStore) else None
        self._lifetimes = self._ten.lifetimes if self._ten is not None else Lifetimes()
        self._turns = Turns()
        self.locks = LocalLocks()

    async def get_many(self, port: Port, keys: Sequence[str], default: Any) -> tuple[Any, ...]:
        return tuple([await self._do(port, "get", key, default) for key in keys])

    async def set_many(self, port: Port, values: Mapping[str, Any], lifetime: float | None) -> None:
        for key, value in values.items():
            await self._do(port, "set", key, value, lifetime)

    async def delete_many(self, port: Port, keys: Sequence[str]) -> int:
        return sum([bool(await self._do(port, "delete", key)) for key in keys])

    async def increment(self, port: Port, key: str, by: int, lifetime: float | None) -> int:
        async def change(value: Any) -> _Change:
            if value is MISSING:
                return by, lifetime, by
            number = added(value, by)
            left = await self._left(port, key, "incr")
            return number, None if left == NEVER else max(left, _BRIEFLY), number

        number: int = await self._change(port, key, change)
        return number

    async def add(self, port: Port, key: str, value: Any, lifetime: float | None) -> bool:
        async def change(there: Any) -> _Change | None:
            return (value, lifetime, True) if there is MISSING else None

        return bool(await self._change(port, key, change))

    async def expire(self, port: Port, key: str, lifetime: float | None) -> bool:
        async def change(value: Any) -> _Change | None:
            if value is MISSING:
                return None
            if lifetime is not None:
                return value, lifetime, True
            term = self._lifetimes.get(key)
            if term is None:
                raise self._unknown("touch", "it needs the lifetime that a value was stored with: give it expire=, or")
            return value, None if term.lifetime == NEVER else term.lifetime, True

        return bool(await self._change(port, key, change))

    async def ttl(self, port: Port, key: str) -> float | None:
        term = self._lifetimes.get(key)
        if not await self._do(port, "has", key):
            return None
        if term is None or term != self._lifetimes.get(key):
            raise self._unknown("ttl", "it is known only of what this process stored last;")
        return max(0.0, term.end - monotonic())

    async def ping(self, port: Port) -> bool:
        try:
            await self._do(port, "has", "ping")
        except Exception as error:
            trouble = BackendError(f"{self._store.health.name}.has failed")
            trouble.__cause__ = error
            self._store.health.failed("ping", trouble)
            return False
        self._store.health.works("ping")
        return True

    def first(self, prefix: str) -> Any:
        raise self._unknown("scan", "ten methods do not list keys;")

    async def page(self, port: Port, prefix: str, at: Any) -> Page:
        raise self._unknown("scan", "ten methods do not list keys;")

    async def delete_match(self, port: Port, prefix: str) -> int:
        if not self._defines("scan"):
            raise self._unknown("delete_match", "ten methods do not list keys;", define="scan")
        self._store.flights.invalidate_where(lambda key: isinstance(key, str) and key.startswith(prefix))
        keys = await port.do(self._scanned, self._ascanned, prefix)
        return await self.delete_many(port, keys)

    async def _left(self, port: Port, key: str, call: str) -> float:
        """How long a value that is there is still to live."""
        if self._defines("ttl"):
            told = await self._do(port, "ttl", key)
            return 0.0 if told is None else float(told)
        term = self._lifetimes.get(key)
        if term is None:
            raise self._unknown(call, "it leaves the lifetime alone, which is known only of what this process stored;")
        return term.end - monotonic()

    async def _change(self, port: Port, key: str, change: Callable[[Any], Awaitable[_Change | None]]) -> Any:
        """Store what ``change`` makes of what is there (or ``MISSING``) while nobody else changes the key."""
        turn = await self._turns.take(port, key)
        try:
            for _ in range(_LAPS):
                self._store.flights.invalidate(key)
                flight = self._store.flights.lone(key)  # moved by whoever changes the key meanwhile
                try:
                    there = await self._do(port, "get", key, MISSING)
                    wanted = await change(there)
                    if wanted is None:
                        return None
                    value, lifetime, result = wanted
                    term = self._lifetimes.get(key)
                    if not flight.moved and await self._stored(port, flight, key, value, lifetime):
                        if term is not None and there is not MISSING:
                            self._lifetimes.restore(key, term.lifetime)
                        return result
                finally:
                    self._store.flights.settle(flight, Outcome(), Signal.OVERTAKEN)
                await port.do(sleep, _suspended, _BETWEEN)
        finally:
            self._turns.give(turn)
        raise BackendError("others change this key all the time, by set or delete")

    async def _stored(self, port: Port, flight: Flight, key: str, value: Any, lifetime: float | None) -> bool:
        if self._ten is not None:
            return await self._ten.put(port, flight, key, value, lifetime)
        await self._do(port, "set", key, value, lifetime)
        return True

    def _scanned(self, prefix: str) -> list[str]:
        return list(self._backend.scan(prefix))

    async def _ascanned(self, prefix: str) -> list[str]:
        return [key async for key in self._backend.ascan(prefix)]

    def _defines(self, name: str) -> bool:
        """Whether the backend has a method of its own of this name."""
        return getattr(type(self._backend), name) is not getattr(Calls, name)

    def _unknown(self, call: str, why: str, define: str | None = None) -> NotSupportedError:
        define = define or ("ttl" if call == "incr" else call)
        cls = type(self._backend).__name__
        return NotSupportedError(f"{cls} can't do {call}: {why} define {define} and a{define} in {cls}")

    async def _do(self, port: Port, name: str, *args: Any) -> Any:
        return await port.do(getattr(self._backend, name), getattr(self._backend, f"a{name}"), *args)


async def _suspended(seconds: float) -> None:
    await asyncio.sleep(seconds)
